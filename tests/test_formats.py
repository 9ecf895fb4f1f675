"""Writers and readers: exact samples, limits of subtitles, and what sclite makes of a trn file."""

import json
import random
import re
import string
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from asr.errors import InputError
from asr.formats import PAUSE, SUBTITLES, WRITERS, cues, read_kaldi, read_trn, write_trn
from asr.hypothesis import Hypothesis, Word
from asr.wer import count_errors

HYPOTHESIS = Hypothesis(
    "good <morning> all",
    scores={"ctc": -1.5},
    words=[
        Word("good", 0.5, 0.75, 0.9),
        Word("<morning>", 0.75, 1.25, 1.0),
        Word("all", 3661.5, 3662.0),
    ],
)


def test_samples_of_every_format() -> None:
    written = {suffix: write(HYPOTHESIS, "talk") for suffix, write in WRITERS.items()}
    record = json.loads(written.pop("json"))
    assert record["text"] == "good <morning> all"
    assert record["words"][0] == {"word": "good", "start": 0.5, "end": 0.75, "confidence": 0.9}
    assert written == {
        "txt": "good <morning>\nall\n",
        "srt": "1\n00:00:00,500 --> 00:00:01,333\ngood <morning>\n\n"
        "2\n01:01:01,500 --> 01:01:02,333\nall\n",
        "vtt": "WEBVTT\n\n00:00:00.500 --> 00:00:01.333\ngood &lt;morning&gt;\n\n"
        "01:01:01.500 --> 01:01:02.333\nall\n",
        "tsv": "0.500000\t1.250000\tgood <morning>\n3661.500000\t3662.000000\tall\n",
        "ctm": "talk 1 0.500 0.250 good 0.900\ntalk 1 0.750 0.500 <morning> 1.000\n"
        "talk 1 3661.500 0.500 all\n",
        "trn": "good <morning> all (talk-)\n",
        "kaldi": "talk good <morning> all\n",
    }


def test_empty_hypothesis() -> None:
    written = {suffix: write(Hypothesis(""), "a-1") for suffix, write in WRITERS.items()}
    assert json.loads(written.pop("json"))["text"] == ""
    nothing = {"txt": "\n", "srt": "", "vtt": "WEBVTT\n", "ctm": "", "tsv": ""}
    assert written == {**nothing, "trn": " (a-1)\n", "kaldi": "a-1\n"}


@pytest.mark.parametrize("suffix", ["srt", "vtt", "ctm"])
def test_times_are_needed(suffix: str) -> None:
    with pytest.raises(InputError, match=r"talk: the hypothesis has no word times"):
        WRITERS[suffix](Hypothesis("a"), "talk")


@pytest.mark.parametrize("suffix", ["ctm", "kaldi"])
def test_white_space_in_an_id_is_refused(suffix: str) -> None:
    with pytest.raises(InputError, match="white space"):
        WRITERS[suffix](HYPOTHESIS, "my talk")


def test_cues_keep_their_limits() -> None:
    draw = random.Random(2)
    words, now = [], 0.0
    for _ in range(3000):
        now += draw.choice([0.0, 0.0, 0.0, 0.1, 0.4, 0.6, 3.0])
        letters = draw.choice([1, 3, 5, 8, 13, 42]) if draw.random() < 0.99 else 100
        end = now + draw.choice([0.0, 0.1, 0.3, 0.5])
        words.append(Word("".join(draw.choices("abc中", k=letters)), now, end))
        now = end
    found = list(cues(words))
    for start, end, text in found:
        lines = text.split("\n")
        assert len(lines) <= 2
        assert max(map(len, lines)) <= 42
        assert 0 < end - start <= 6.0
    for (_, end, _), (start, _, _) in pairwise(found):
        assert start >= end - 0.0011  # a word of no duration is shown for a millisecond
    assert re.sub(r"\s", "", "".join(t for _, _, t in found)) == "".join(w.word for w in words)
    starts = {round(start, 6) for start, _, _ in found}
    begun = [b for a, b in pairwise(words) if b.start - a.end > PAUSE]
    assert len(begun) > 300
    assert {round(word.start, 6) for word in begun} <= starts


def test_digits_of_a_number_stay_together() -> None:
    """Pauses of 0.4 s between digits, which CTC takes for up to 0.6 s."""
    words = [Word(digit, n * 0.9, n * 0.9 + 0.3) for n, digit in enumerate(["one", "two", "six"])]
    words += [Word("no", 4.0, 4.3)]  # two seconds later
    assert [text for _, _, text in cues(words)] == ["one two six", "no"]
    assert WRITERS["txt"](Hypothesis("one two six no", words=words), "a") == "one two six\nno\n"
    assert WRITERS["txt"](Hypothesis("one two six no"), "a") == "one two six no\n"


def test_long_cues_are_divided_in_their_pauses_without_orphans() -> None:
    said = "close beside him the two men walked, and then a third one came to see the tired lad"
    words, now = list[Word](), 0.0
    for word in said.split():
        words.append(Word(word, now, now + 0.25))
        now += 0.75 if word.endswith(",") else 0.35
    assert [text.replace("\n", " ") for _, _, text in cues(words)] == [
        "close beside him the two men walked,",
        "and then a third one came to see the tired lad",
    ]
    even = [Word("word", n * 0.3, n * 0.3 + 0.3) for n in range(1000)]  # five minutes without pause
    assert min(text.count("word") for _, _, text in cues(even)) > 4


def test_the_last_cue_ends_with_the_recording() -> None:
    words = [Word("so", 0.0, 0.2), Word("yes", 9.0, 9.2)]
    assert [end for _, end, _ in cues(words)] == pytest.approx([5 / 6, 9.0 + 5 / 6])
    assert [end for _, end, _ in cues(words, 9.5)] == pytest.approx([5 / 6, 9.5])
    assert [end for _, end, _ in cues(words, 9.1)][-1] == 9.2  # no shorter than its words
    for write in SUBTITLES.values():
        shown = write(Hypothesis("so yes", words=words), "a", 9.5)
        assert re.search(r"--> 00:00:09[.,]500\n", shown)


def nasty_texts(number: int) -> list[str]:
    draw = random.Random(3)
    characters = string.punctuation + "ab%2中é"
    special = ["@", "{ a / b }", "(uh)", "%hesitation", "<b>", "**", ";;", "%7B", "x*", "\\@", "-"]
    texts = []
    for _ in range(number):
        words = ["".join(draw.choices(characters, k=draw.randint(1, 4))) for _ in range(3)]
        words += draw.sample(special, 2)
        draw.shuffle(words)
        texts.append(" ".join(words[: draw.randint(0, 5)]))
    return texts


IDS = ["s-1", "talk", "talk-", "a(1)", "my talk_2", "50%28", "中", "x;y\\z", "-s", "_"]


def test_trn_is_read_back(tmp_path: Path) -> None:
    texts = nasty_texts(2000)
    ids = [*IDS, *(f"utt_{row}" for row in range(len(texts) - len(IDS)))]
    path = tmp_path / "a.trn"
    lines = [write_trn(Hypothesis(text), id) for id, text in zip(ids, texts, strict=True)]
    path.write_text(";; a comment\n\n" + "".join(lines), encoding="utf-8")
    assert list(read_trn(path)) == list(zip(ids, texts, strict=True))


def test_sclite_reads_every_word_as_it_is(tmp_path: Path, need_tool: Callable[[str], str]) -> None:
    """Also where it has a meaning of its own: each id found, each word counted and distinct."""
    sctk = need_tool("sctk")
    references = nasty_texts(1500)
    hypotheses = references[:500] + nasty_texts(2500)[1500:]
    ids = [*IDS, *(f"u-{row}" for row in range(len(references) - len(IDS)))]
    for name, texts in (("ref", references), ("hyp", hypotheses)):
        lines = [write_trn(Hypothesis(text), id) for id, text in zip(ids, texts, strict=True)]
        (tmp_path / f"{name}.trn").write_text("".join(lines), encoding="utf-8")
    command = "sclite -s -e utf-8 -i swb -r ref.trn trn -h hyp.trn trn -o pra stdout"
    report = subprocess.run(
        [sctk, *command.split()], cwd=tmp_path, check=True, capture_output=True, encoding="utf-8"
    ).stdout
    found = re.findall(r"id: \((.*)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", report)
    theirs = {id: [int(count) for count in counts] for id, *counts in found}
    ours = count_errors(references, hypotheses, nist=True).tolist()
    written = [line.rpartition("(")[2][:-2] for line in lines]
    assert theirs == dict(zip(written, ours, strict=True))


@pytest.mark.parametrize(
    ("text", "id"), [("a\0b", "s-1"), ("x" * 10_000, "s-1"), ("a", "s\t1"), ("a", "")]
)
def test_what_no_escape_can_save_is_refused(text: str, id: str) -> None:
    with pytest.raises(InputError, match="sclite cannot read"):
        write_trn(Hypothesis(text), id)


def test_words_of_a_foreign_trn_are_read_as_sclite_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.trn"
    path.write_text("﻿uh* a\\;b c;tag (hm) d:e (spk-1)\n  (spk-2)\n", encoding="utf-8")
    assert list(read_trn(path)) == [("spk-1", "uh a;b c (hm) d:e"), ("spk-2", "")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a b\n", r"a\.trn:1: no \(id\) at the end: 'a b'"),
        (b"a (s-1)\nb { c / d } (s-2)\n", r"a\.trn:2: alternations .*'\{'.* Score such a file"),
        (b"a @ (s-1)\n", r"a\.trn:1: alternations and the empty word \('@'\)"),
        (b"\xff (s-1)\n", r"a\.trn: is not UTF-8 \(byte 0\)"),
    ],
)
def test_broken_trn(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.trn"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_trn(path))


def test_kaldi_text_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "text"
    texts = ["a b", "", "中 é"]
    lines = [WRITERS["kaldi"](Hypothesis(text), f"u{row}") for row, text in enumerate(texts)]
    path.write_text("".join(lines), encoding="utf-8")
    assert list(read_kaldi(path)) == [("u0", "a b"), ("u1", ""), ("u2", "中 é")]
    with pytest.raises(InputError, match="cannot be read"):
        list(read_kaldi(tmp_path / "missing"))
