"""asr.CTCDecoder, as users of other toolkits call it."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

import asr
from asr.errors import InputError
from asr.lm.ngram import NGram

TOKENS = ["<blank>", "|", "a", "b", "c"]


@pytest.fixture
def log_probs() -> np.ndarray:
    rows = np.random.default_rng(0).normal(scale=3, size=(30, 5))
    return rows - np.logaddexp.reduce(rows, 1, keepdims=True)


@pytest.fixture
def arpa(random_lm):
    return random_lm(["a", "b", "ab", "c"], "word", np.random.default_rng(0)).lm.path


def test_ways_to_give_tokens_and_lm_agree(tmp_path, log_probs, arpa) -> None:
    (tmp_path / "tokens.txt").write_text("\r\n".join(TOKENS) + "\r\n", encoding="utf-8")
    lm = NGram.open(arpa, "word")
    decoders = [
        asr.CTCDecoder(TOKENS, arpa, lm_weight=0.7),
        asr.CTCDecoder(tmp_path / "tokens.txt", lm, lm_weight=[0.7]),
        asr.CTCDecoder(str(tmp_path / "tokens.txt"), {lm.name: str(arpa)}, lm_weight=0.7, beam=20),
    ]
    first = decoders[0].decode(log_probs)
    assert first.scores["lm"][lm.name] == pytest.approx(lm.score(first.text.split()))
    assert all(decoder.decode(log_probs) == first for decoder in decoders)


def test_tokens_files_of_other_toolkits(tmp_path, log_probs) -> None:
    path = tmp_path / "tokens.txt"
    lines = [f"{token} {number}" for number, token in enumerate(TOKENS)]
    for text in (
        "\n".join([*lines[2:], *lines[:2], "#0 5", "#1 6", ""]),
        "\r\n".join(lines).replace(" ", "\t"),
        "\ufeff" + "\n".join(TOKENS),
    ):
        path.write_text(text, encoding="utf-8")
        assert asr.CTCDecoder(path).tokens == TOKENS
    for text, message in (
        ("-\na\nb\na\n", "the token 'a' 2 times"),
        ("a\nb\n<blk>\n", "'<blk>' is token 2, but the blank must be token 0"),
        ("|\na\n[PAD]\n", r"'\[PAD\]' is token 2"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=rf"{path}: .*{message}"):
            asr.CTCDecoder(path)
        with pytest.raises(InputError, match=f"tokens: .*{message}"):
            asr.CTCDecoder(text.split())
    for tokens in (["<s>", "<pad>", "a"], ["-", "<pad>", "a"], ["<pad>", "a", "|"]):
        assert asr.CTCDecoder(tokens).tokens == tokens
    for never in ("<unk>", "<s>", "</s>", "<sos/eos>", "<pad>"):
        assert 4 not in asr.CTCDecoder([*TOKENS[:4], never]).decode(log_probs).tokens
    assert 4 in asr.CTCDecoder(TOKENS).decode(log_probs).tokens


def test_lists_are_words_and_phrases_and_weights_have_names(log_probs, arpa, random_lm) -> None:
    token = random_lm(TOKENS[1:], "token", np.random.default_rng(1)).lm
    word = NGram.open(arpa, "word")
    spelt = {w: [(1.0, ())] for w in ("a", "bc")}
    lms = {"w": word, "t": token}
    for one, two in (
        (asr.CTCDecoder(TOKENS, lexicon=["a", "bc"]), asr.CTCDecoder(TOKENS, lexicon=spelt)),
        (
            asr.CTCDecoder(TOKENS, hotwords=["ab", "c a"]),
            asr.CTCDecoder(TOKENS, hotwords={"ab": 5.0, "c a": 5.0}),
        ),
        (
            asr.CTCDecoder(TOKENS, lms, lm_weight={"t": 0.2, "w": 0.9}),
            asr.CTCDecoder(TOKENS, lms, lm_weight=[0.9, 0.2]),
        ),
    ):
        assert one.decode(log_probs) == two.decode(log_probs)
    with pytest.raises(InputError, match="weights for x; the language models: w, t"):
        asr.CTCDecoder(TOKENS, lms, lm_weight={"x": 0.2})


def test_nbest_and_batch(log_probs, arpa) -> None:
    decoder = asr.CTCDecoder(TOKENS, arpa, lm_weight=0.7, length_bonus=0.5, unk_penalty=-1.0)
    nbest = decoder.decode_nbest(log_probs, 8)
    assert len({h.text for h in nbest}) == 8
    assert [h.total for h in nbest] == sorted((h.total for h in nbest), reverse=True)
    batch = [log_probs, log_probs[:0], log_probs[:11]]
    assert decoder.decode_batch(batch, threads=2) == [decoder.decode(item) for item in batch]
    assert decoder.decode(log_probs[:0]).text == ""


@pytest.mark.parametrize("item", [None, "abc", [[0.0], [0.0, 1.0]]], ids=str)
def test_what_is_no_array_is_named_by_its_place(log_probs, item) -> None:
    with pytest.raises(InputError, match="utterance 1, log_probs: "):
        asr.CTCDecoder(TOKENS).decode_batch([log_probs, item, log_probs], threads=1)


def test_times_are_frames_unless_the_frame_shift_is_given(log_probs) -> None:
    frames = asr.CTCDecoder(TOKENS).decode(log_probs)
    seconds = asr.CTCDecoder(TOKENS, frame_shift=0.02).decode(log_probs)
    assert frames.text == seconds.text == " ".join(w.word for w in seconds.words)
    assert [w.start * 0.02 for w in frames.words] == pytest.approx([w.start for w in seconds.words])
    assert all(a.end <= b.start for a, b in pairwise(frames.words))
    assert len(frames.frames) == len(frames.tokens)


def test_settings_of_another_type() -> None:
    with pytest.raises(InputError, match="beam: is 5; it must be a number"):
        asr.CTCDecoder(TOKENS, beam="5")


@pytest.mark.parametrize("seconds", [0.0, -0.02, math.nan, math.inf])
def test_impossible_frame_shifts(seconds: float) -> None:
    with pytest.raises(InputError, match=r"frame_shift: is .*; it must be above 0 and finite"):
        asr.CTCDecoder(TOKENS, frame_shift=seconds)


def test_greedy_is_the_best_path(log_probs) -> None:
    hypothesis = asr.CTCDecoder(TOKENS).greedy(log_probs)
    best = [0, *log_probs.argmax(1).tolist()]
    assert hypothesis.tokens == [b for a, b in pairwise(best) if b not in (0, a)]


def test_words_of_which_few_are_tokens_are_no_tokens(random_lm) -> None:
    words = ["a", *(f"w{n}" for n in range(10))]
    arpa = random_lm(words, "word", np.random.default_rng(0)).lm.path
    with pytest.raises(InputError, match=r"1 of its 11 words are tokens .*--lm-unit word"):
        asr.CTCDecoder(TOKENS, arpa, lm_unit="token")


def test_mistakes_are_named(tmp_path, arpa) -> None:
    with pytest.raises(InputError, match=r"nowhere.txt: cannot be read"):
        asr.CTCDecoder(tmp_path / "nowhere.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        asr.CTCDecoder(tmp_path / "bad.txt")
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(InputError, match="no tokens"):
        asr.CTCDecoder(tmp_path / "empty.txt")
    with pytest.raises(InputError, match="2 weights for 1"):
        asr.CTCDecoder(TOKENS, arpa, lm_weight=[1, 2])
    with pytest.raises(InputError, match="one name"):
        asr.CTCDecoder(TOKENS, [arpa, arpa])
    with pytest.raises(InputError, match=r"no language model of tokens: .*--lm-unit word"):
        asr.CTCDecoder(["-", "x", "y"], arpa, lm_unit="token")
    with pytest.raises(InputError, match="beam"):
        asr.CTCDecoder(TOKENS, beam=0)
    with pytest.raises(InputError, match=r"Did you mean 'beam'\?"):
        asr.CTCDecoder(TOKENS, beeam=3)
    with pytest.raises(InputError, match=r"Did you mean 'lm_weight'\?"):
        asr.CTCDecoder(TOKENS, lm_weigth=3)
    NGram.open(arpa, "word").save(tmp_path / "own.lm")
    with pytest.raises(InputError, match=r"own.lm: is a language model of words, not of tokens"):
        asr.CTCDecoder(TOKENS, tmp_path / "own.lm", lm_unit="token")


def test_needs_numpy_and_numba_only() -> None:
    code = """
import sys
for name in ("torch", "rich", "click", "kenlm", "sentencepiece", "soundfile", "rapidfuzz"):
    sys.modules[name] = None  # an import of it raises
import asr, numpy
print(asr.CTCDecoder(["-", "a"]).decode(numpy.log([[0.1, 0.9]])).text)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a\n", "")
