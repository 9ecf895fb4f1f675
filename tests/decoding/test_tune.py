"""Tuning finds planted weights; what is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest

from asr.commands.tune import command
from asr.confidence import TEMPERATURES, matches
from asr.data.manifest import Manifest
from asr.decoding import tune
from asr.decoding.rescore import sort_nbest
from asr.decoding.tune import count_errors, tabulate, word_errors
from asr.decoding.weights import load_weights
from asr.errors import InputError
from asr.hypothesis import Hypothesis, NBest, Weights, read_lists, read_nbest, write_nbest

Run = Callable[..., subprocess.CompletedProcess[str]]

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def generate(
    count: int, size: int, truth: dict[str, float], seed: int = 0
) -> tuple[list[NBest], dict[str, str]]:
    """Lists in which `truth`, weights of ctc, att, lm, bonus and unk, ranks by errors but for
    noise."""
    rng = np.random.default_rng(seed)
    lists, references = [], {}
    for u in range(count):
        said = rng.choice(WORDS, 8).tolist()
        references[f"u{u}"] = " ".join(said)
        hypotheses = []
        for _ in range(size):
            heard = list(said)
            for _ in range(rng.integers(0, 4)):
                place = rng.integers(0, len(heard))
                heard[place : place + 1] = rng.choice(WORDS, rng.integers(0, 3)).tolist()
            text = " ".join(heard)
            errors = word_errors(references[f"u{u}"], [text])[0]
            scores: dict[str, Any] = {
                name: float(rng.normal(-60, 15)) for name in ("ctc", "att") if name in truth
            }
            # the LM's score is what makes the planted total equal -errors (+ noise)
            rest = sum(truth[name] * scores[name] for name in scores)
            rest += truth["bonus"] * len(heard)
            if "unk" in truth:
                scores["unknown"] = int(rng.integers(0, 20))
                rest += truth["unk"] * scores["unknown"]
            total = -errors + rng.normal(0, 0.2)
            scores |= {"lm": {"big": (total - rest) / truth["lm"]}, "length": len(heard)}
            hypotheses.append(Hypothesis(text, [], scores))
        lists.append(NBest(f"u{u}", hypotheses))
    return lists, references


def write_files(
    folder: Path, lists: list[NBest], references: dict[str, str], split: str = "dev"
) -> tuple[str, str]:
    """An n-best file and its manifest."""
    lms = {"big": {"path": "big.lm", "hash": "77", "unit": "word"}}
    meta = {"weights": {"ctc": 1.0}, "length": "words", "lms": lms, "beam": 30}
    write_nbest(folder / "n.jsonl", meta, lists)
    rows = [json.dumps({"id": i, "audio": "a.wav", "text": t}) for i, t in references.items()]
    (folder / f"manifest.{split}.jsonl").write_text("\n".join(rows) + "\n")
    return str(folder / "n.jsonl"), str(folder / f"manifest.{split}.jsonl")


def test_planted_weights_are_found(tmp_path: Path, run_asr: Run) -> None:
    lists, references = generate(60, 30, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    lists.append(NBest("lost", [], "audio is empty"))
    references["lost"] = "one two"
    references["absent"] = "three"
    nbest, manifest = write_files(tmp_path, lists, references)
    out, picture = tmp_path / "W.json", tmp_path / "surface.png"
    done = run_asr("tune", nbest, "--ref", manifest, "-o", out, "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert f"1 utterance of {manifest} not in the list" in done.stderr
    assert "confidences of words: scores divided by " in done.stdout
    weights, record = load_weights(out)
    assert (weights.ctc, weights.unk) == (1.0, 0.0)
    assert weights.lm["big"] == pytest.approx(0.8, abs=0.1)
    assert weights.bonus == pytest.approx(1.7, abs=0.6)
    dev = {"path": manifest, "hash": Manifest.open(manifest).hash, "split": "dev"}
    assert (record["length"], record["tuned_on"]) == ("words", dev)
    assert (record["lms"]["big"]["hash"], record["beam"]) == ("77", 30)
    # the figures are those of jiwer on the lists sorted by these weights
    del references["absent"]
    said = list(references.values())
    best = [max(u.nbest, key=lambda h: h.rate(weights)).text if u.nbest else "" for u in lists]
    firsts = [u.text for u in lists]
    assert record["wer"]["first-best"] == pytest.approx(jiwer.wer(said, firsts))
    assert record["wer"]["tuned"] == pytest.approx(jiwer.wer(said, best))
    nearest = [
        min((h.text for h in u.nbest), key=lambda t, r=r: jiwer.wer(r, t), default="")
        for r, u in zip(said, lists, strict=True)
    ]
    assert record["wer"]["oracle"] == pytest.approx(jiwer.wer(said, nearest))
    assert f"tuned {record['wer']['tuned']:.2%}" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = [line.split(maxsplit=2) for line in run_asr("info", out).stdout.splitlines()]
    assert ["tuned", "on", manifest] in told
    assert ["LM", "big", str(weights.lm["big"])] in told
    # the calibration is the best of a few others, by the formula, for the lists so sorted
    totals = [np.array([h.rate(weights) for h in u.nbest]) for u in lists if u.nbest]
    texts = [[h.text for h in u.nbest] for u in lists if u.nbest]

    def cost(temperature: float, known: float) -> float:
        bits = 0.0
        for values, heard, reference in zip(totals, texts, said, strict=False):
            best = heard[int(values.argmax())].split()
            right = matches(best, [reference])[0]
            shares = np.exp((values - values.max()) / temperature)
            said_of = known * shares @ matches(best, heard) / shares.sum()
            bits -= np.log2(np.where(right, said_of, 1 - said_of)).sum()
        return bits

    chosen = record["confidence"]["temperature"], record["confidence"]["known"]
    for temperature in (max(chosen[0] / 1.3, TEMPERATURES[0]), chosen[0], chosen[0] * 1.3):
        for known in (chosen[1] - 0.05, chosen[1]):
            assert cost(*chosen) <= cost(temperature, known) + 1e-3


def test_the_cost_of_unknown_words_is_found(tmp_path: Path, run_asr: Run) -> None:
    lists, references = generate(60, 30, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7, "unk": -0.6})
    nbest, manifest = write_files(tmp_path, lists, references)
    done = run_asr("tune", nbest, "--ref", manifest, "-o", tmp_path / "W.json")
    assert done.returncode == 0, done.stderr
    weights, _ = load_weights(tmp_path / "W.json")
    assert weights.unk == pytest.approx(-0.6, abs=0.1)
    assert f"unknown words {weights.unk:g} a letter" in done.stdout
    # where knowing the word is no gain, what is unknown is not rewarded
    lists, references = generate(60, 30, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7, "unk": 0.6})
    table = tabulate(lists, references, str)
    assert table.columns == ["ctc", "big", "length", "unknown"]
    tuned = tune.tune(table, "words")
    assert (tuned.weights.unk, "unknown" in tuned.edges) == (0.0, False)


def test_ratio_of_ctc_and_att_is_found() -> None:
    lists, references = generate(60, 30, {"ctc": 0.3, "att": 0.7, "lm": 0.5, "bonus": 1.0})
    table = tabulate(lists, references, str)
    tuned = tune.tune(table, "words")
    assert tuned.weights.ctc == pytest.approx(0.3, abs=0.1)
    assert tuned.weights.att == pytest.approx(1 - tuned.weights.ctc)
    assert tuned.weights.lm["big"] == pytest.approx(0.5, abs=0.1)
    assert tuned.edges == []
    assert tuned.errors < table.first / 2


def test_weights_stay_near_those_of_the_search_where_errors_cannot_tell() -> None:
    """Random errors justify no move; planted ones nearly the whole way, at no loss but noise."""
    lists, references = generate(60, 30, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    others = np.random.default_rng(0).permutation(list(references.values()))
    mixed = dict(zip(references, others.tolist(), strict=True))
    noise = tabulate(lists, mixed, str)
    for start in (Weights(1.0, lm={"big": 0.5}, bonus=1.0), Weights(2.0, lm={"big": 1.0})):
        free, held = tune.tune(noise, "words"), tune.tune(noise, "words", [start])
        assert held.errors >= free.errors
        space = free.space
        gone = np.abs(held.value - space.value(start)).sum()
        assert gone <= 0.5 * np.abs(free.value - space.value(start)).sum()
    table = tabulate(lists, references, str)
    held = tune.tune(table, "words", [Weights(ctc=1.0, lm={"big": 0.1}, bonus=0.0)])
    assert held.weights.lm["big"] == pytest.approx(0.8, abs=0.15)
    assert held.errors < table.first / 2


def test_what_searches_fall_short_of_is_counted() -> None:
    lists, references = generate(60, 30, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    table = tabulate(lists, references, str)
    space = tune.Space.of(table, "words")
    value, near, away = (np.array(v) for v in ([0.8, 1.7], [0.7, 1.5], [0.2, 0.0]))
    starts = np.stack([away, near])
    promised = [int(count_errors(table, space.points(table, p[None]))[0]) for p in starts]
    best = int(count_errors(table, space.points(table, value[None]))[0])

    def chosen(*found: int) -> tuple[list[float], int]:
        point, errors = tune.settled(table, space, value, starts, found)
        return point.tolist(), errors

    # both searches find what is promised, or the one that is not near does not
    assert chosen(*promised) == (value.tolist(), best)
    assert chosen(promised[0] + 50, promised[1]) == (value.tolist(), best)
    # the near one falls short, by less and by more than the other makes errors
    assert chosen(best + 6, promised[1] + 5) == (value.tolist(), best + 5)
    assert chosen(best + 5, promised[1] + 5) == (away.tolist(), best + 5)
    # the search at the very weights has the last word
    point, errors = tune.settled(table, space, near, starts, (promised[0], promised[1] + 9))
    least = min(promised[0], promised[1] + 9)
    assert errors == least
    assert point.tolist() == (near if least == promised[1] + 9 else away).tolist()


def test_a_list_whose_search_found_less_than_promised_is_not_followed(
    tmp_path: Path, run_asr: Run
) -> None:
    lists, references = generate(60, 30, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    own = Weights(ctc=1.0, lm={"big": 0.6}, bonus=1.0)
    lists = [NBest(u.id, sort_nbest(u.nbest, own)) for u in lists]
    _, manifest = write_files(tmp_path, lists, references)
    paths = []
    worst = {
        u.id: max(u.nbest, key=lambda h: word_errors(references[u.id], [h.text])[0]) for u in lists
    }
    for name, weights, found in (
        ("first", own, lists),
        ("second", Weights(ctc=1.0, lm={"big": 0.8}, bonus=1.7),
         [NBest(u.id, [worst[u.id]]) for u in lists]),
    ):  # fmt: skip
        meta = {"weights": asdict(weights), "length": "words", "beam": 20}
        meta["lms"] = {"big": {"path": "big.lm", "hash": "77", "unit": "word"}}
        paths.append(tmp_path / f"{name}.jsonl")
        write_nbest(paths[-1], meta, found)
    done = run_asr("tune", *paths, "--ref", manifest, "-o", tmp_path / "W.json")
    assert done.returncode == 0, done.stderr
    weights, record = load_weights(tmp_path / "W.json")
    assert (weights.lm["big"], weights.bonus) == (0.6, 1.0)
    said = list(references.values())
    assert record["wer"]["tuned"] == pytest.approx(jiwer.wer(said, [u.text for u in lists]))
    # a list without weights of a model tells nothing
    table = tabulate(lists, references, str)
    own_too = [Weights(lm={"big": 0.6}), own, Weights(ctc=1.0, lm={"big": 0.8}, bonus=1.7)]
    tuned = tune.tune(table, "words", own_too, found=[0, 5, 400])
    assert (tuned.weights.lm["big"], tuned.errors) == (0.6, 5)
    done = run_asr("tune", paths[0], "--ref", manifest, "-o", tmp_path / "W.json")
    assert load_weights(tmp_path / "W.json")[0].lm["big"] > 0.6


def test_far_is_judged_by_the_nearest_list() -> None:
    """A quarter of the first range: 0.5 of an LM's, 2 of the bonus (a word)."""
    lists, references = generate(60, 30, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    table = tabulate(lists, references, str)
    found = tune.tune(table, "words").weights
    lm, bonus = found.lm["big"], found.bonus

    def far(*starts: tuple[float, float]) -> list[str]:
        own = [Weights(ctc=1.0, lm={"big": lm + by}, bonus=bonus + more) for by, more in starts]
        return tune.tune(table, "words", own, stay=False).far

    assert far((0.1, 0.5)) == []
    assert far((0.9, 0.0)) == ["big"]
    assert far((0.0, 4.0)) == ["bonus"]
    # each is near on one axis, neither on both
    assert far((0.9, 0.0), (0.0, 4.0)) != []
    assert far((0.9, 4.0), (0.1, 0.5)) == []


def test_a_second_list_keeps_weights_from_what_the_first_lacks(
    tmp_path: Path, run_asr: Run
) -> None:
    """By the first list no word too many is a gain; the search then finds texts of one word."""
    rng = np.random.default_rng(3)
    first, second, references = [], [], {}
    for u in range(40):
        said = rng.choice(WORDS, 8).tolist()
        references[f"u{u}"] = " ".join(said)
        texts = {"good": said, "long": [*said, "oh"], "short": said[:1]}
        scores = {"good": -20 - 3 * rng.random(), "long": -18.5, "short": -45.0}
        h = {
            key: Hypothesis(
                " ".join(text),
                [],
                {"ctc": scores[key], "lm": {"big": -2.0 * len(text)}, "length": len(text)},
            )
            for key, text in texts.items()
        }
        first.append(NBest(f"u{u}", [h["long"], h["good"]]))
        second.append(NBest(f"u{u}", [h["short"], h["good"]]))
    lists = []
    for name, bonus, utterances in (("a", 2.0, first), ("b", -4.0, second)):
        (tmp_path / name).mkdir()
        nbest, manifest = write_files(tmp_path / name, utterances, references)
        meta = read_nbest(nbest)[0]
        meta["weights"] = asdict(Weights(ctc=1.0, lm={"big": 0.5}, bonus=bonus))
        write_nbest(nbest, meta, utterances)
        lists.append(nbest)
    out = tmp_path / "W.json"
    done = run_asr("tune", lists[0], "--ref", manifest, "-o", out)
    assert "length bonus moved far: decode the set with these weights" in done.stderr
    alone, both = load_weights(out)[0], run_tune(lists, manifest, out)
    chosen = [max(u.nbest, key=lambda h: h.rate(alone)).text.split() for u in second]
    assert [*map(len, chosen)].count(1) > 20
    assert both["wer"]["tuned"] < both["wer"]["first-best"] == 1 / 8
    # every text once, whichever list it came from
    _, joined = read_lists([*map(Path, lists)])
    for utterance, one in zip(joined, first, strict=True):
        assert [h.text for h in utterance.nbest[:2]] == [h.text for h in one.nbest]
        assert len(utterance.nbest) == 3
    meta = read_nbest(lists[0])[0]  # an LM that took no part in the search cannot move it
    meta["lms"]["big"]["rescored"] = True
    write_nbest(lists[0], meta, first)
    assert "moved far" not in run_asr("tune", lists[0], "--ref", manifest, "-o", out).stderr


def test_lists_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    lists, references = generate(3, 3, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    nbest, manifest = write_files(tmp_path, lists, references)
    other = tmp_path / "other.jsonl"
    write_nbest(other, read_nbest(nbest)[0], lists[1:])
    with pytest.raises(InputError, match=r"other\.jsonl: holds other utterances than .*n\.jsonl"):
        run_tune([nbest, nbest, str(other)], manifest, tmp_path / "W.json")
    meta = read_nbest(nbest)[0]
    meta["lms"]["big"]["path"] = "elsewhere.lm"
    write_nbest(other, meta, lists)
    assert run_tune([nbest, str(other)], manifest, tmp_path / "W.json")["wer"]["tuned"] >= 0
    meta["lms"]["big"]["hash"] = "78"
    write_nbest(other, meta, lists)
    with pytest.raises(InputError, match=r"other\.jsonl: differs from .*n\.jsonl in its lms"):
        run_tune([nbest, str(other)], manifest, tmp_path / "W.json")


@pytest.mark.parametrize("hot", [False, True])
def test_errors_of_a_point_equal_those_of_the_sorted_lists(hot: bool) -> None:
    rng = np.random.default_rng(1)
    lists, references = generate(20, 12, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    lists[3].nbest.clear()
    del lists[4].nbest[5:]
    for hypothesis in (h for utterance in lists if hot for h in utterance.nbest):
        hypothesis.scores["hotwords"] = float(rng.normal(0, 40))
    table = tabulate(lists, references, str)
    points = rng.normal(0, 1, (50, 3 + hot)).astype(np.float32)
    points[:, 3:] = 1
    assert table.columns == ["ctc", "big", "length", "bonuses"][: 3 + hot]
    assert tune.Space.of(table, "words").names == ["big", "bonus"]
    for point, errors in zip(points, count_errors(table, points), strict=True):
        weights = Weights(ctc=point[0], lm={"big": point[1]}, bonus=point[2])
        expected = 0
        for utterance in lists:
            ranked = sorted(utterance.nbest, key=lambda h, w=weights: -h.rate(w))
            texts = [h.text for h in ranked[:1]] or [""]
            expected += int(word_errors(references[utterance.id], texts)[0])
        assert errors == expected


def run_tune(nbest: Path | str | list[str], manifest: Path | str, out: Path) -> dict[str, Any]:
    """The record that `asr tune` writes, in this process."""
    given = [*(nbest if isinstance(nbest, list) else [nbest]), "--ref", manifest, "-o", out]
    command.main([*map(str, given)], standalone_mode=False)
    record: dict[str, Any] = json.loads(out.read_text())
    return record


def thresholds(above: list[float], below: list[float]) -> tuple[list[NBest], dict[str, str]]:
    """Lists of two hypotheses, right where lm > each of `above`, lm < each of `below`."""
    lists = []
    for sign, ctc in [(1, x) for x in above] + [(-1, x) for x in below]:
        texts = ("bad", "good") if sign > 0 else ("good", "bad")
        doubtful = Hypothesis(texts[0], [], {"ctc": ctc, "lm": {"big": -1.0}, "length": 1})
        plain = Hypothesis(texts[1], [], {"ctc": 0.0, "lm": {"big": 0.0}, "length": 1})
        lists.append(NBest(f"u{len(lists)}", [doubtful, plain]))
    return lists, {utterance.id: "good" for utterance in lists}


def tune_thresholds(above: list[float], below: list[float]) -> tune.Tuned:
    return tune.tune(tabulate(*thresholds(above, below), str), "words")


def test_of_equal_points_the_most_central_is_chosen() -> None:
    tuned = tune_thresholds([0.6], [1.4])
    assert tuned.errors == 0
    assert tuned.weights.lm["big"] == pytest.approx(1.0, abs=0.05)
    assert tuned.weights.bonus == 0.0  # has no effect: the smallest


def test_a_plateau_is_preferred_to_a_lucky_hole() -> None:
    """One error fewer in a narrow hole at 0.4 than on the plateau from 1.0 to 1.8."""
    tuned = tune_thresholds([0.38, 0.9, 1.0, 1.0], [0.42, 0.42, 0.42, 1.8])
    assert tuned.weights.lm["big"] == pytest.approx(1.4, abs=0.15)


def test_never_worse_than_the_list_as_it_is(tmp_path: Path) -> None:
    """Its own weights lie in a lucky hole. Rescoring, not search: they need not stay near."""
    lists, references = thresholds([0.38, 0.9, 1.0], [0.42, 0.42, 0.42, 1.8])
    own = Weights(ctc=2.0, lm={"big": 0.8})
    for utterance in lists:
        utterance.nbest = sort_nbest(utterance.nbest, own)
    meta = {"weights": asdict(own), "length": "words", "lms": {}}
    write_nbest(tmp_path / "n.jsonl", meta, lists)
    (tmp_path / "dev").mkdir()
    _, manifest = write_files(tmp_path / "dev", lists, references)
    record = run_tune(tmp_path / "n.jsonl", manifest, tmp_path / "W.json")
    assert record["wer"]["tuned"] == record["wer"]["first-best"] == 2 / 7
    assert record["weights"] == asdict(Weights(ctc=1.0, lm={"big": 0.4}))


@pytest.mark.parametrize(("above", "default"), [(0.3, 1), (0.6, 2)])
def test_defaults_that_are_as_good_are_told(
    above: float, default: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An LM weight of 0.5, and what it makes of the lists; one list is wrong at any weight."""
    lists, references = thresholds([above, 0.2], [0.9, 0.1])
    run_tune(*write_files(tmp_path, lists, references), tmp_path / "W.json")
    said = "the default weights make as few errors here: 1 (tuned: 1)"
    assert (said in capsys.readouterr().out) == (default == 1)
    point = np.array([[1.0, 0.5, 0.0]], np.float32)  # ctc, big, length
    assert tune.count_errors(tabulate(lists, references, str), point) == [default]


def test_range_grows_to_an_optimum_beyond_it() -> None:
    steps = [0.25 * step for step in range(1, 17)]
    tuned = tune_thresholds(steps, [10 - step for step in steps])
    assert tuned.errors == 0
    assert tuned.weights.lm["big"] == pytest.approx(5.0, abs=0.3)
    assert tuned.edges == []


def test_an_optimum_out_of_reach_is_told() -> None:
    above = [float(step) for step in range(1, 40)]
    free = tune_thresholds(above, [])
    assert free.edges == ["big"]
    # where the weights stay near to a list's own, the optimum beyond them is no news
    table = tabulate(*thresholds(above, []), str)
    near = tune.tune(table, "words", [Weights(ctc=1.0, lm={"big": 0.5})])
    assert near.weights.lm["big"] < free.weights.lm["big"]
    assert near.edges == []


def test_box_mean_equals_loops() -> None:
    surface = np.random.default_rng(2).random((5, 4, 3))
    for radius in (1, 2):
        means = tune.box_mean(surface, radius)
        for index in product(*map(range, surface.shape)):
            box = tuple(slice(max(i - radius, 0), i + radius + 1) for i in index)
            assert means[index] == pytest.approx(surface[box].mean())


def test_lm_is_added_before_tuning(
    tmp_path: Path, run_asr: Run, need_tool: Callable[[str], str]
) -> None:
    lists, references = generate(20, 10, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    nbest, manifest = write_files(tmp_path, lists, references)
    text = "\n".join(references.values())
    lmplz = [need_tool("lmplz"), "-o", "2", "--discount_fallback"]
    arpa = subprocess.run(lmplz, input=text, capture_output=True, text=True, check=True).stdout
    (tmp_path / "small.arpa").write_text(arpa)
    out = tmp_path / "W.json"
    added = ("--lm", tmp_path / "small.arpa", "--lm-unit", "word")
    done = run_asr("tune", nbest, "--ref", manifest, *added, "-o", out)
    assert done.returncode == 0, done.stderr
    weights, record = load_weights(out)
    assert set(weights.lm) == set(record["lms"]) == {"big", "small"}
    rescored = tmp_path / "new.jsonl"
    done = run_asr("rescore", nbest, *added, "--weights", out, "--ref", manifest, "-o", rescored)
    assert f"rescored {record['wer']['tuned']:.2%}" in done.stdout, done.stderr
    assert read_nbest(rescored)[0]["tuned_on"] == record["tuned_on"]


def test_a_test_set_is_refused(tmp_path: Path, run_asr: Run) -> None:
    lists, references = generate(3, 3, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    nbest, manifest = write_files(tmp_path, lists, references, split="test")
    done = run_asr("tune", nbest, "--ref", manifest, "-o", tmp_path / "W.json")
    assert done.returncode == 2
    assert done.stderr == f"error: {manifest}: holds a test set. Tune on a dev set.\n"
    assert not (tmp_path / "W.json").exists()
    _, manifest = write_files(tmp_path, lists, references)
    rows = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    rows[2]["split"] = "test"
    Path(manifest).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"manifest\.dev\.jsonl: holds a test set"):
        run_tune(nbest, manifest, tmp_path / "W.json")


def test_lists_that_cannot_be_tuned_are_refused() -> None:
    lists, references = generate(3, 3, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    with pytest.raises(InputError, match="no utterance of the n-best list is in the manifest"):
        tabulate(lists, {"other": "one"}, str)
    with pytest.raises(InputError, match="has no hypotheses"):
        tabulate([NBest("u0", [])], references, str)
    del lists[1].nbest[0].scores["lm"]
    with pytest.raises(InputError, match="not all hypotheses have the same scores"):
        tabulate(lists, references, str)


@pytest.mark.parametrize("name", ["ctc", "length", "unknown", "bonuses", "bonus", "ratio"])
def test_a_language_model_called_as_another_score_is_refused(name: str) -> None:
    lists, references = generate(3, 2, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    for utterance in lists:
        for hypothesis in utterance.nbest:
            hypothesis.scores["lm"] = {name: -1.0}
    with pytest.raises(InputError, match=f"a language model is called '{name}'"):
        tabulate(lists, references, str)


def test_a_list_of_single_hypotheses_is_refused(tmp_path: Path, run_asr: Run) -> None:
    lists, references = generate(3, 1, {"ctc": 1.0, "lm": 0.8, "bonus": 1.7})
    nbest, manifest = write_files(tmp_path, lists, references)
    done = run_asr("tune", nbest, "--ref", manifest, "-o", tmp_path / "W.json")
    assert done.returncode == 2
    assert "each list has one hypothesis, so weights change nothing. Decode" in done.stderr
    assert not (tmp_path / "W.json").exists()
