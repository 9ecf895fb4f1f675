"""Counts against jiwer and sclite, alignment, bootstrap against theory."""

import importlib
import random
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jiwer
import numpy as np
import pytest
from scipy.stats import binomtest, chi2, norm

from asr.errors import InputError
from asr.formats import read_trn, write_trn
from asr.hypothesis import Hypothesis
from asr.wer import (
    RESAMPLES,
    Bootstrap,
    Counts,
    Edit,
    Unit,
    aligned,
    compare,
    count_errors,
    edits,
    wer,
)


def generated(number: int = 2000) -> tuple[list[str], list[str]]:
    """Pairs from small vocabularies: many ties, empty sides, Chinese, words of one letter."""
    draw = random.Random(1)
    words = ["a", "b", "c", "你", "好", "中国", "é", "word", "don't", "d"]
    references, hypotheses = [], []
    for _ in range(number):
        known = draw.sample(words, draw.randint(1, len(words)))
        longest = draw.choice([1, 4, 9, 15])
        for texts in (references, hypotheses):
            texts.append(" ".join(draw.choices(known, k=draw.randint(0, longest))))
    return references, hypotheses


def recognised() -> tuple[list[str], list[str]]:
    """The quickstart's test set and what its CTC model heard, without an LM."""
    said, heard = (
        dict(read_trn(Path(__file__).parent / "recognised" / f"{side}.trn"))
        for side in ("ref", "hyp")
    )
    return [*said.values()], [heard[id] for id in said]


PAIRS = {"generated": generated(), "recognised": recognised()}
REFERENCES, HYPOTHESES = PAIRS["generated"]


@pytest.mark.parametrize("source", PAIRS)
@pytest.mark.parametrize("unit", ["word", "char"])
def test_counts_equal_jiwer(unit: Unit, source: str) -> None:
    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    references, hypotheses = PAIRS[source]
    table = count_errors(references, hypotheses, unit)
    if source == "generated":
        assert sum(not text for text in references) > 100 < sum(not text for text in hypotheses)
    for row, reference, hypothesis in zip(table, references, hypotheses, strict=True):
        theirs = process(reference, hypothesis)
        expected = [theirs.hits, theirs.substitutions, theirs.deletions, theirs.insertions]
        assert row.tolist() == expected, (reference, hypothesis)
    total = process(references, hypotheses)
    assert Counts.of(table).rate == (total.wer if unit == "word" else total.cer)


@pytest.mark.parametrize("source", PAIRS)
def test_counts_equal_sclite(source: str, tmp_path: Path, need_tool: Callable[[str], str]) -> None:
    sctk = need_tool("sctk")
    references, hypotheses = PAIRS[source]
    for name, texts in (("ref", references), ("hyp", hypotheses)):
        lines = [write_trn(Hypothesis(text), f"s-{row}") for row, text in enumerate(texts)]
        (tmp_path / f"{name}.trn").write_text("".join(lines), encoding="utf-8")
    command = "sclite -s -e utf-8 -i swb -r ref.trn trn -h hyp.trn trn -o pra stdout"
    report = subprocess.run(
        [sctk, *command.split()], cwd=tmp_path, check=True, capture_output=True, encoding="utf-8"
    ).stdout
    found = re.findall(r"id: \(s-(\d+)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", report)
    theirs = {int(row): [int(count) for count in counts] for row, *counts in found}
    ours = count_errors(references, hypotheses, nist=True)
    assert theirs == dict(enumerate(ours.tolist()))
    if source == "generated":  # ties matter
        assert (ours != count_errors(references, hypotheses)).any(axis=1).sum() > 50


def cost(found: list[Edit], substitution: int, other: int) -> int:
    return sum(substitution if tag == "replace" else other for tag, _, _ in found)


@pytest.mark.parametrize(("nist", "substitution", "other"), [(False, 1, 1), (True, 4, 3)])
def test_edits_are_a_cheapest_path(nist: bool, substitution: int, other: int) -> None:
    for reference, hypothesis in list(zip(REFERENCES, HYPOTHESES, strict=True))[:300]:
        said, heard = reference.split(), hypothesis.split()

        @cache
        def cheapest(i: int, j: int, said: list[str] = said, heard: list[str] = heard) -> int:
            if i == 0 or j == 0:
                return other * (i + j)
            change = 0 if said[i - 1] == heard[j - 1] else substitution
            aside = min(cheapest(i - 1, j), cheapest(i, j - 1)) + other
            return min(cheapest(i - 1, j - 1) + change, aside)

        assert cost(edits(said, heard, nist), substitution, other) == cheapest(
            len(said), len(heard)
        )


@pytest.mark.parametrize("nist", [False, True])
def test_alignment_holds_both_texts_and_the_counts(nist: bool) -> None:
    table = count_errors(REFERENCES, HYPOTHESES, nist=nist)
    for row, reference, hypothesis in zip(table, REFERENCES, HYPOTHESES, strict=True):
        pairs = aligned(reference.split(), hypothesis.split(), nist)
        assert [said for said, _ in pairs if said is not None] == reference.split()
        assert [heard for _, heard in pairs if heard is not None] == hypothesis.split()
        hits = sum(said == heard for said, heard in pairs)
        deletions = sum(heard is None for _, heard in pairs)
        insertions = sum(said is None for said, _ in pairs)
        substitutions = len(pairs) - hits - deletions - insertions
        assert row.tolist() == [hits, substitutions, deletions, insertions]


def test_wer_for_python_users() -> None:
    assert wer("a b c d", "a x c") == 0.5
    assert wer(["a b", ""], ["a b", "c"]) == 0.5
    assert wer("", "") == 0.0
    assert wer("", "a b") == 2 == jiwer.wer("", "a b")
    import asr

    importlib.import_module("asr.wer")
    assert asr.wer("a b", "a") == 0.5  # also when the module of that name was imported first
    with pytest.raises(InputError, match="2 references but 1"):
        wer(["a", "b"], ["a"])


def test_what_is_no_list_of_transcripts() -> None:
    assert wer((text for text in ["a b", "c"]), ["a", "c"]) == wer(["a b", "c"], ["a", "c"])
    assert compare("a b", "a c", "a b") == compare(["a b"], ["a c"], ["a b"])
    for wrong in ({"u1": "a"}, {"a"}, None, 3):
        with pytest.raises(InputError, match="is neither a transcript nor a list"):
            wer(["a"], wrong)
    with pytest.raises(InputError, match="transcript 1 is NoneType, no string"):
        compare(["a", "b"], ["a", None], ["a", "b"])  # type: ignore[list-item]


def test_interval_agrees_with_theory() -> None:
    rng = np.random.default_rng(3)
    lengths = np.full(4000, 10)
    errors = rng.poisson(0.5, 4000)
    low, high = Bootstrap([None] * 4000).interval(errors, lengths) or (0.0, 0.0)
    centre, half = errors.mean() / 10, norm.ppf(0.975) * errors.std() / np.sqrt(4000) / 10
    assert low == pytest.approx(centre - half, rel=0.01)
    assert high == pytest.approx(centre + half, rel=0.01)


def test_interval_equals_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(4)
    lengths = rng.integers(0, 12, 40)
    errors = rng.binomial(lengths, 0.3)
    rows = rng.integers(0, 40, (40_000, 40))
    rates = errors[rows].sum(axis=1) / lengths[rows].sum(axis=1)
    expected = np.percentile(rates, [2.5, 97.5])
    assert Bootstrap([None] * 40).interval(errors, lengths) == pytest.approx(expected, abs=0.006)


def test_speakers_are_drawn_as_wholes() -> None:
    errors = np.repeat([0, 4], 60)  # half of the speakers make all errors
    lengths = np.full(120, 10)
    many = Bootstrap([f"s{row // 10}" for row in range(120)])
    few = Bootstrap([f"s{row // 20}" for row in range(120)])
    unknown = Bootstrap([None, *(f"s{row // 10}" for row in range(1, 120))])
    assert many.units == "12 speakers (120 utterances)"
    assert few.units == unknown.units == "120 utterances"
    wide, narrow = many.interval(errors, lengths), few.interval(errors, lengths)
    assert wide
    assert narrow
    expected = (120 / 12) ** 0.5  # utterances of a speaker tell nothing new
    assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(expected, rel=0.15)


def test_many_utterances_are_drawn_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 20, 3000)
    errors = rng.binomial(lengths, 0.2)
    each = Bootstrap([None] * 3000).interval(errors, lengths)
    monkeypatch.setattr(importlib.import_module("asr.wer"), "MOST_UNITS", 500)
    pooled = Bootstrap([None] * 3000)
    assert pooled.units == "3,000 utterances, in 500 random groups"
    assert pooled.draws.shape == (RESAMPLES, 500)
    assert pooled.interval(errors, lengths) == pytest.approx(each, abs=0.001)


def test_interval_is_never_of_zero_width() -> None:
    one = Bootstrap([None])
    low, high = one.interval([0], [30]) or (1.0, 0.0)
    assert low == 0.0
    assert (1 - high) ** 30 == pytest.approx(0.025)  # exact binomial
    for errors in (1, 3, 10, 45):  # also more errors than words
        exact = chi2.ppf([0.025, 0.975], [2 * errors, 2 * errors + 2]) / 2 / 30
        assert one.interval([errors], [30]) == pytest.approx(list(exact), rel=0.03, abs=5e-4)
    same = Bootstrap([None] * 50).interval(np.full(50, 1), np.full(50, 2))
    assert same
    assert same[0] < 0.5 < same[1]
    assert one.interval([2], [0]) is None
    for wrong in (1, 2, 30):  # of as many sentences
        exact = binomtest(wrong, wrong).proportion_ci(0.95, "exact")
        found = Bootstrap([None] * wrong).interval([1] * wrong, [1] * wrong, most=1.0)
        assert found == pytest.approx((exact.low, exact.high))


def test_paired_test_keeps_its_level_and_finds_differences() -> None:
    rng = np.random.default_rng(6)
    bootstrap = Bootstrap([None] * 150)
    lengths = rng.integers(5, 15, 150)
    hard = rng.beta(1, 4, 150)  # the same utterances are hard for both
    p = [
        bootstrap.compare(rng.binomial(lengths, hard), rng.binomial(lengths, hard), lengths).p
        for _ in range(300)
    ]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.09
    a, b = rng.binomial(lengths, hard), rng.binomial(lengths, hard * 0.6)
    there, back = bootstrap.compare(a, b, lengths), bootstrap.compare(b, a, lengths)
    assert there.p < 0.01
    assert there.p == back.p
    assert there.difference == (b.sum() - a.sum()) / lengths.sum() == -back.difference
    assert there.interval[0] < there.difference < there.interval[1] < 0
    assert there.verdict("A", "B", "150 utterances").startswith("B is better, p")
    assert back.verdict("A", "B", "150 utterances").startswith("A is better, p")


def test_comparison_of_texts() -> None:
    """The errors are jiwer's, the test is that of the bootstrap over the speakers given."""
    references, a = (texts[:300] for texts in generated())
    b = [
        said if row % 7 == 0 else heard
        for row, (said, heard) in enumerate(zip(references, a, strict=True))
    ]
    kept = [row for row, said in enumerate(references) if said.split()]
    references, a, b = ([texts[row] for row in kept] for texts in (references, a, b))
    speakers = [f"s{row % 20}" for row in kept]
    result = compare(references, a, b, speakers)
    assert result.difference == pytest.approx(jiwer.wer(references, b) - jiwer.wer(references, a))
    assert result.interval[0] < result.difference < result.interval[1] < 0
    alone = compare(references, a, b)
    assert alone.difference == result.difference
    assert alone.interval != result.interval
    assert compare(references, a, b, np.array(speakers)) == result
    assert compare(references, a, b, iter(speakers)) == result
    assert compare(references, a, a).p == 1.0
    with pytest.raises(InputError, match="nothing to compare"):
        compare([], [], [])
    with pytest.raises(InputError, match=f"{len(kept)} references but 1 speakers"):
        compare(references, a, b, ["x"])


def test_few_units_prove_nothing() -> None:
    lengths = np.full(3, 10)
    result = Bootstrap([None] * 3).compare([5, 6, 7], [1, 1, 1], lengths)
    assert result.p == 0.25  # three signs: 2 / 2^3
    verdict = f"no difference can be shown on 3 utterances, p = {result.p:.3f}"
    assert result.verdict("A", "B", "3 utterances") == verdict
    assert Bootstrap([None] * 3).compare([5, 6, 7], [5, 6, 7], lengths).p == 1.0


def test_interval_where_all_resamples_agree() -> None:
    """It leaves zero out from as many errors on as a sign test (scipy) shows a difference."""
    for errors in range(12):
        result = compare(["x " * 100], ["x " * 100], ["x " * (100 - errors)])
        low, high = result.interval
        assert low < result.difference == errors / 100 < high
        assert (low > 0) == (errors > 0 and binomtest(errors, errors).pvalue < 0.05)
        back = compare(["x " * 100], ["x " * (100 - errors)], ["x " * 100])
        assert back.interval == (-high, -low)
    assert high == pytest.approx(chi2.ppf(0.975, 2 * 12) / 2 / 100, rel=0.01)
