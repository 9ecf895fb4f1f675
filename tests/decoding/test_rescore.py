"""Rescoring against kenlm, and what it refuses."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kenlm
import pytest

from asr.commands.rescore import command
from asr.decoding.rescore import open_scorer
from asr.decoding.weights import open_lms, save_weights
from asr.errors import InputError
from asr.hypothesis import Hypothesis, NBest, Weights, Word, read_nbest, write_nbest
from asr.lm.ngram import NGram
from asr.text.normalize import get_normalizer

Run = Callable[..., subprocess.CompletedProcess[str]]

SENTENCES = ["the cat sat", "the cat ran", "a cat sat down", "the dog sat", "a dog ran down"]
TEXTS = {
    "u1": ["the cat sad", "the cat sat", "a cat sat"],
    "u2": ["a dog run", "dog ran", "a dog ran", ""],
    "u3": ["sat"],
}
TOKENS = ["<blank>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
UNK = -3.0


def nbest_meta(**more: Any) -> dict[str, Any]:
    return {
        "weights": {"ctc": 1.0, "att": 0.0, "lm": {}, "bonus": 0.25, "unk": -0.5},
        "length": "words",
        "lms": {},
        "normalizer": get_normalizer("basic").to_dict(),
        "tokenizer_hash": "1234",
        "tokens": TOKENS,
        **more,
    }


def write_list(path: Path, **more: Any) -> Path:
    lists = []
    for id, texts in TEXTS.items():
        hypotheses = []
        for rank, text in enumerate(texts):
            tokens = [TOKENS.index("|" if c == " " else c) for c in text]
            scores = {"ctc": -1.0 - rank, "lm": {}, "length": len(text.split())}
            hypotheses.append(Hypothesis(text, tokens, {**scores, "total": -1.0 - rank}))
        lists.append(NBest(id, hypotheses))
    lists.append(NBest("u4", [], "audio is empty"))
    write_nbest(path, nbest_meta(**more), lists)
    return path


def make_arpa(lmplz: str, path: Path, sentences: Sequence[str]) -> Path:
    done = subprocess.run(
        [lmplz, "-o", "3", "--discount_fallback"],
        input="\n".join(sentences),
        capture_output=True,
        text=True,
        check=True,
    )
    path.write_text(done.stdout)
    return path


@pytest.fixture(scope="module")
def lms(tmp_path_factory: pytest.TempPathFactory, need_tool: Callable[[str], str]) -> Path:
    folder = tmp_path_factory.mktemp("lms")
    make_arpa(need_tool("lmplz"), folder / "words.arpa", SENTENCES)
    spelt = [" ".join(s.replace(" ", "|")) for s in SENTENCES]
    make_arpa(need_tool("lmplz"), folder / "letters.arpa", spelt)
    basic = get_normalizer("basic")
    NGram.from_arpa(folder / "words.arpa", "word", basic).save(folder / "words.lm")
    NGram.from_arpa(folder / "letters.arpa", "token", basic, "1234").save(folder / "letters.lm")
    NGram.from_arpa(folder / "letters.arpa", "token", basic, "99").save(folder / "other.lm")
    english = get_normalizer("english")
    NGram.from_arpa(folder / "words.arpa", "word", english).save(folder / "english.lm")
    return folder


def by_kenlm(arpa: Path, words: Sequence[str]) -> float:
    return kenlm.Model(str(arpa)).score(" ".join(words)) * math.log(10)


def test_scores_equal_kenlm_and_order_follows_the_total(
    tmp_path: Path, lms: Path, run_asr: Run
) -> None:
    source = write_list(tmp_path / "n.jsonl")
    done = run_asr(
        *("rescore", source, "--lm", lms / "words.lm", "--lm-weight", 0.5, "--length-bonus", 1.5),
        *("--unk-penalty", UNK, "--name", "big", "-o", tmp_path / "out.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    assert "big knows" in done.stderr
    meta, utterances = read_nbest(tmp_path / "out.jsonl")
    weights = {"ctc": 1.0, "att": 0.0, "lm": {"big": 0.5}, "bonus": 1.5, "unk": UNK}
    assert (meta["weights"], meta["length"]) == (weights, "words")
    entry = meta["lms"]["big"]
    assert (entry["hash"], entry["rescored"]) == (NGram.open(lms / "words.lm").hash, True)
    rescored = list(utterances)
    assert [utterance.id for utterance in rescored] == ["u1", "u2", "u3", "u4"]
    assert rescored[3].error == "audio is empty"
    assert [utterance.text for utterance in rescored[:3]] == ["the cat sat", "a dog ran", "sat"]
    for utterance in rescored[:3]:
        assert sorted(h.text for h in utterance.nbest) == sorted(TEXTS[utterance.id])
        totals = [h.total for h in utterance.nbest]
        assert totals == sorted(totals, reverse=True)
        for h in utterance.nbest:
            lm = by_kenlm(lms / "words.arpa", h.text.split())
            assert h.scores["lm"]["big"] == pytest.approx(lm, rel=1e-5)
            letters = sum(map(len, {*h.text.split()} - {*" ".join(SENTENCES).split()}))
            assert h.scores["unknown"] == letters
            total = h.scores["ctc"] + 0.5 * lm + 1.5 * len(h.text.split()) + UNK * letters
            assert h.total == pytest.approx(total, rel=1e-5)


def test_a_second_lm_joins_and_the_first_keeps_its_weight(
    tmp_path: Path, lms: Path, run_asr: Run
) -> None:
    source = write_list(tmp_path / "n.jsonl")
    first = ("--lm", lms / "words.arpa", "--lm-unit", "word", "--lm-weight", 0.7)
    assert run_asr("rescore", source, *first, "-o", tmp_path / "1.jsonl").returncode == 0
    # in place: the list is read while the new one is written beside it
    done = run_asr(
        *("rescore", tmp_path / "1.jsonl", "--lm", lms / "letters.lm", "--lm-weight", 0.2),
        *("-o", tmp_path / "1.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    meta, utterances = read_nbest(tmp_path / "1.jsonl")
    assert meta["weights"]["lm"] == {"words": 0.7, "letters": 0.2}
    assert meta["length"] == "words"
    for utterance in utterances:
        for h in utterance.nbest:
            spelt = h.text.replace(" ", "|")
            assert h.scores["lm"]["letters"] == pytest.approx(
                by_kenlm(lms / "letters.arpa", spelt), rel=1e-5
            )
            lm = 0.7 * h.scores["lm"]["words"] + 0.2 * h.scores["lm"]["letters"]
            total = h.scores["ctc"] + lm + 0.25 * len(h.text.split())
            total -= 0.5 * h.scores["unknown"]  # the list's
            assert h.total == pytest.approx(total, rel=1e-6)


def test_several_lms_at_once_equal_one_after_the_other(
    tmp_path: Path, lms: Path, need_tool: Callable[[str], str], run_asr: Run
) -> None:
    source, binary = write_list(tmp_path / "n.jsonl"), tmp_path / "letters.bin"
    subprocess.run(
        [need_tool("build_binary"), lms / "letters.arpa", binary], check=True, capture_output=True
    )
    both = ("--lm", lms / "words.lm", "--lm", binary, "--lm-unit", "word", "--lm-unit", "token")
    names, weights = ("--name", "w", "--name", "c"), ("--lm-weight", 0.7, "--lm-weight", 0.2)
    out, at_once = tmp_path / "out.jsonl", tmp_path / "once.jsonl"
    done = run_asr("rescore", source, *both, *names, *weights, "-o", at_once)
    assert done.returncode == 0, done.stderr
    assert "w knows" in done.stderr
    assert "c knows" in done.stderr
    first = ("--lm", lms / "words.lm", "--name", "w", "--lm-weight", 0.7)
    second = ("--lm", binary, "--lm-unit", "token", "--name", "c", "--lm-weight", 0.2)
    assert run_asr("rescore", source, *first, "-o", out).returncode == 0
    assert run_asr("rescore", out, *second, "-o", out).returncode == 0
    assert list(read_nbest(at_once)[1]) == list(read_nbest(out)[1])
    for wrong in (weights[:2], names[:2], ("--name", "w", "--name", "w")):
        refused = run_asr("rescore", source, *both, *wrong, "-o", out)
        assert refused.returncode == 2, wrong
    assert "two LMs are called 'w'" in refused.stderr


def test_confidences_are_those_of_the_new_order(tmp_path: Path, lms: Path, run_asr: Run) -> None:
    source = write_list(tmp_path / "n.jsonl")
    meta, utterances = read_nbest(source)
    lists = list(utterances)
    for utterance in lists:
        for h in utterance.nbest:
            h.words = [Word(word, 0.0, 1.0) for word in h.text.split()]
    write_nbest(source, meta, lists)
    calibration = {"temperature": 2.0, "known": 0.8}
    weights = Weights(ctc=1.0, lm={"words": 0.5}, bonus=1.5, unk=UNK)
    save_weights(tmp_path / "W.json", weights, {"confidence": calibration})
    out = tmp_path / "out.jsonl"
    arguments = ("--lm", lms / "words.lm", "--weights", tmp_path / "W.json", "-o", out)
    done = run_asr("rescore", source, *arguments)
    assert done.returncode == 0, done.stderr
    new, utterances = read_nbest(out)
    assert new["confidence"] == calibration
    best, *others = next(utterances).nbest
    assert best.text == "the cat sat"
    mass = {h.text: math.exp(h.total / 2) for h in (best, *others)}
    expected = [  # of "the cat sad", "the cat sat", "a cat sat"
        mass["the cat sad"] + mass["the cat sat"],
        sum(mass.values()),
        mass["a cat sat"] + mass["the cat sat"],
    ]
    found = [word.confidence for word in best.words]
    assert found == pytest.approx([0.8 * m / sum(mass.values()) for m in expected], abs=1e-4)
    assert all(word.confidence is None for h in others for word in h.words)


def test_length_counts_tokens_where_all_lms_are_of_tokens(
    tmp_path: Path, lms: Path, run_asr: Run
) -> None:
    source = write_list(tmp_path / "n.jsonl")
    out = tmp_path / "out.jsonl"
    refused = run_asr("rescore", source, "--lm", lms / "letters.lm", "-o", out)
    assert refused.returncode == 2
    assert "counts words, but with this LM it counts tokens" in refused.stderr
    assert not out.exists()
    arguments = ("rescore", source, "--lm", lms / "letters.lm", "--length-bonus", 0.5, "-o", out)
    assert run_asr(*arguments).returncode == 0
    meta, utterances = read_nbest(out)
    assert meta["length"] == "tokens"
    assert all(h.scores["length"] == len(h.text) for u in utterances for h in u.nbest)


def test_kenlm_binary(tmp_path: Path, lms: Path, need_tool: Callable[[str], str]) -> None:
    binary = tmp_path / "words.bin"
    subprocess.run(
        [need_tool("build_binary"), lms / "words.arpa", binary], check=True, capture_output=True
    )
    with pytest.raises(InputError, match="does not say its unit"):
        open_scorer(binary)
    scorer, ours = open_scorer(binary, "word"), open_scorer(lms / "words.lm")
    for text in ("the cat sat", "a bird", ""):
        for a, b in zip(
            scorer.full_scores(text.split()), ours.full_scores(text.split()), strict=True
        ):
            assert a == (pytest.approx(b[0], abs=1e-5), b[1], b[2])
    binary.write_bytes(binary.read_bytes()[:200])
    with pytest.raises(InputError, match="KenLM cannot read"):
        open_scorer(binary, "word")


def test_weights_file_sorts_anew(tmp_path: Path, lms: Path, run_asr: Run) -> None:
    source = write_list(tmp_path / "n.jsonl")
    weights = Weights(ctc=1.0, lm={"words": 0.9}, bonus=2.0, unk=UNK)
    tuned_on = {"path": "dev.jsonl", "hash": "77", "split": "dev"}
    save_weights(tmp_path / "W.json", weights, {"length": "words", "tuned_on": tuned_on})
    out = tmp_path / "out.jsonl"
    arguments = ("rescore", source, "--weights", tmp_path / "W.json", "-o", out)
    refused = run_asr(*arguments)
    assert refused.returncode == 2
    assert "has a weight for the LM 'words'" in refused.stderr
    assert run_asr(*arguments, "--lm", lms / "words.lm").returncode == 0
    meta, utterances = read_nbest(out)
    assert (meta["tuned_on"], meta["weights"]["unk"]) == (tuned_on, UNK)
    assert all(h.total == pytest.approx(h.rate(weights)) for u in utterances for h in u.nbest)
    # once the LM's scores are there, another file only changes the order
    save_weights(tmp_path / "W.json", Weights(ctc=1.0, lm={"words": 0.0}), {})
    again = run_asr("rescore", out, "--weights", tmp_path / "W.json", "-o", out)
    assert again.returncode == 0, again.stderr
    assert [u.text for u in read_nbest(out)[1]] == [*(t[0] for t in TEXTS.values()), ""]
    few = "warning: lists of one hypothesis leave nothing to choose"
    assert few not in again.stderr
    meta, utterances = read_nbest(out)
    write_nbest(source, meta, (NBest(u.id, u.nbest[:1]) for u in utterances))
    assert few in run_asr("rescore", source, *arguments[2:]).stderr


def test_oracle_and_share_of_the_gap(tmp_path: Path, lms: Path, run_asr: Run) -> None:
    source = write_list(tmp_path / "n.jsonl")
    said = {"u1": "The cat sat!", "u2": "a dog ran", "u3": "sat down", "u4": "no"}
    rows = [f'{{"id": "{i}", "audio": "a.wav", "text": "{text}"}}\n' for i, text in said.items()]
    (tmp_path / "manifest.test.jsonl").write_text("".join(rows))
    done = run_asr(
        *("rescore", source, "--lm", lms / "words.lm", "--lm-weight", 0.5, "--length-bonus", 1.5),
        *(
            "--unk-penalty",
            UNK,
            "--ref",
            tmp_path / "manifest.test.jsonl",
            "-o",
            tmp_path / "out.jsonl",
        ),
    )
    # errors of 9 words: sad, run, down, no -> down, no; nothing in the lists has these two
    expected = "WER first-best 44.44% -> rescored 22.22%, oracle 22.22%: 100% of the gap"
    assert expected in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("lm", "more", "arguments", "message"),
    [
        ("english.lm", {}, [], "normaliser 'english', but the n-best list has 'basic'"),
        ("other.lm", {}, ["--length-bonus", "0"], "another tokenizer"),
        ("letters.lm", {"tokens": []}, [], "has no tokens"),
        ("letters.lm", {"tokens": TOKENS[:5]}, ["--length-bonus", "0"], "none of the list's 5"),
        ("words.arpa", {}, [], "--lm-unit"),
        ("words.arpa", {}, ["--lm-unit", "token", "--length-bonus", "0"], "tokens of the best hyp"),
        ("letters.arpa", {}, ["--lm-unit", "word"], "words of the best hyp"),
        ("words.lm", {}, ["--lm-unit", "token"], "of words"),
        ("missing.lm", {}, [], "cannot be read"),
        (
            "words.lm",
            {"lms": {"words": {"path": "x", "hash": "y", "unit": "word"}}},
            [],
            "already has an LM called 'words'",
        ),
        ("words.lm", {}, ["--lm-weight", "nan"], "the weight of the LM 'words' is nan"),
        ("words.lm", {}, ["--length-bonus", "inf"], "the length bonus is inf"),
        ("words.lm", {}, ["--unk-penalty", "-inf"], "the penalty of unknown words is -inf"),
        ("words.lm", {}, ["--unk-penalty", "1"], "the penalty of unknown words is 1, above 0"),
        ("words.lm", {"weights": {"ctc": math.nan}}, [], "the weight of ctc is nan"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, lms: Path, lm: str, more: dict[str, Any], arguments: list[str], message: str
) -> None:
    source = write_list(tmp_path / "n.jsonl", **more)
    whole = [str(source), "--lm", str(lms / lm), *arguments, "-o", str(tmp_path / "out.jsonl")]
    with pytest.raises(InputError) as error:
        command.main(whole, standalone_mode=False)
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["n.jsonl"]


def test_weights_for_other_lms_of_the_same_name(
    tmp_path: Path, lms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another file is told of; where the bonus counts another unit, it is refused."""
    source, file = write_list(tmp_path / "n.jsonl"), tmp_path / "W.json"
    hash = NGram.open(lms / "words.lm").hash
    given = [str(source), "--lm", str(lms / "words.lm"), "--weights", str(file)]
    given += ["-o", str(tmp_path / "out.jsonl")]
    weights = Weights(ctc=1.0, lm={"words": 0.5}, bonus=0.4)
    for tuned, unit in ((hash, "words"), ("another", "words"), (hash, "tokens")):
        entry = {"path": "words.lm", "hash": tuned, "unit": "word"}
        save_weights(file, weights, {"length": unit, "lms": {"words": entry}})
        for use in (
            lambda: open_lms([lms / "words.lm"], weights_file=file),
            lambda: command.main(given, standalone_mode=False),
        ):
            if unit == "tokens":
                with pytest.raises(InputError, match=r"counts tokens, but with these LMs .* words"):
                    use()
            else:
                use()
            warned = "was tuned with another LM than this 'words'" in capsys.readouterr().err
            assert warned == (tuned == "another")
    for use in (
        lambda: open_lms([lms / "words.lm"], weights_file=file, bonus=1.0),
        lambda: command.main([*given, "--lm-weight", "1"], standalone_mode=False),
    ):
        with pytest.raises(InputError, match=r"W\.json: sets all weights\. Leave the single ones"):
            use()
