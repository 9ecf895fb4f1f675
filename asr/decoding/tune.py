"""Tuning: LM weights, length bonus and cost of unknown words with the fewest word errors on a dev
set's n-best lists.

    errors(w) = Σ_u E[u, argmax_h S[u, h]·w]

S holds the raw scores of each hypothesis, E its word errors: a `Table`. The surface is a noisy
staircase: therefore the point chosen has the fewest errors on average over a box around it (± one
step of the coarse grid) and is the most central one of equals.

A search at other weights finds other hypotheses. Weights for one are therefore moved no further
from those that the list was made with than the set can justify; where they move far, the set is
decoded again with them, and they are tuned on all lists, until they stay (Och 2003).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from asr.confidence import Flags, matches
from asr.data.manifest import Manifest
from asr.decoding.options import DEFAULT_UNK, DEFAULT_WEIGHT, JOINT_WEIGHT
from asr.errors import InputError
from asr.hypothesis import NBest, Weights

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Normalize = Callable[[str], str]
Weightings = Sequence[Weights]

MAX_LM_WEIGHT = 2.0  # first range of the grid; grows while the best point lies at its upper end
MAX_RATIO = 0.9  # ctc / (ctc + att); the LAS search needs some of att
BONUS_RANGE = {"words": (-2.0, 6.0), "tokens": (-1.0, 3.0)}
UNK_RANGE = (-2.0, 0.0)  # a letter; unknown words are never rewarded
# by the number of axes: points on each in the coarse grid, parts of its step in refinement
GRIDS = ((41, 4), (25, 4), (25, 4), (13, 2), (8, 2))
EXTENSIONS = 4  # most times that the range grows by half
ROUNDS = 4  # most refinements
OWN_COLUMNS = ("ctc", "att", "length", "unknown", "bonuses")  # of a table; the others are LMs


@dataclass(slots=True)
class Table:
    """N-best lists as arrays: U utterances with at most H hypotheses each."""

    # ctc, att, the LMs' names, length, and if need be unknown (letters) and bonuses (of weight 1)
    columns: list[str]
    scores: Floats  # (U, H, K) raw
    errors: NDArray[np.int32]  # (U, H) word errors
    valid: NDArray[np.bool_]  # (U, H) False where an utterance has fewer hypotheses
    words: int  # of the references

    @property
    def lms(self) -> list[str]:
        return [name for name in self.columns if name not in OWN_COLUMNS]

    @property
    def oracle(self) -> int:
        """Errors if the best hypothesis of every list were chosen."""
        return int(np.where(self.valid, self.errors, np.iinfo(np.int32).max).min(axis=1).sum())

    @property
    def first(self) -> int:
        return int(self.errors[:, 0].sum())


def references(path: Path | str) -> tuple[dict[str, str], Manifest]:
    """{id: text} of a manifest. Raises InputError if an utterance has no text."""
    manifest = Manifest.open(path)
    texts = {}
    for utterance in manifest:
        if utterance.text is None:
            what = f"utterance '{utterance.id}' has no text"
            raise InputError(what, path, "Give a manifest with transcripts.")
        texts[utterance.id] = utterance.text
    return texts, manifest


def word_errors(reference: str, texts: Sequence[str]) -> NDArray[np.int32]:
    """Word errors of every text of an n-best list, (H,)."""
    said = reference.split()
    return np.array([Levenshtein.distance(said, text.split()) for text in texts], dtype=np.int32)


def tabulate(
    utterances: Iterable[NBest], references: Mapping[str, str], normalize: Normalize
) -> Table:
    """Scores and errors of the utterances that have a reference, both sides normalised; a failure
    (no hypothesis) counts as an empty text. Raises InputError if there is none, if some hypotheses
    lack a score that others have, and for an LM that is called as another score is."""
    lists = [utterance for utterance in utterances if utterance.id in references]
    hypotheses = [hypothesis for utterance in lists for hypothesis in utterance.nbest]
    if not lists:
        what = "no utterance of the n-best list is in the manifest"
        raise InputError(what, "--ref", "Give its own manifest.")
    if not hypotheses:
        raise InputError("the n-best list has no hypotheses", None, "Decode again.")
    kinds = {
        (*(key for key in ("ctc", "att") if key in h.scores), *sorted(h.scores.get("lm", {})))
        for h in hypotheses
    }
    if len(kinds) > 1:
        raise InputError("not all hypotheses have the same scores", None, "Decode again.")
    # the last two are axes of a Space
    for name in {*hypotheses[0].scores.get("lm", {})} & {*OWN_COLUMNS, "bonus", "ratio"}:
        what = f"a language model is called '{name}', as one of the other scores is"
        raise InputError(what, None, "Decode again with its file renamed (rescored: with --name).")
    columns = [*kinds.pop(), "length"]
    columns += ["unknown"] * any(h.scores.get("unknown") for h in hypotheses)
    columns += ["bonuses"] * any(h.bonuses for h in hypotheses)
    shape = len(lists), max(len(utterance.nbest) for utterance in lists)
    scores, errors = np.zeros((*shape, len(columns)), np.float32), np.zeros(shape, np.int32)
    table = Table(columns, scores, errors, np.zeros(shape, np.bool_), words=0)
    for u, utterance in enumerate(lists):
        said = normalize(references[utterance.id])
        texts = [normalize(hypothesis.text) for hypothesis in utterance.nbest] or [""]
        table.words += len(said.split())
        errors[u, : len(texts)], table.valid[u, : len(texts)] = word_errors(said, texts), True
        for n, h in enumerate(utterance.nbest):
            flat = {"unknown": 0, **h.scores, **h.scores.get("lm", {}), "bonuses": h.bonuses}
            scores[u, n] = [flat[column] for column in columns]
    return table


def word_lists(
    utterances: Iterable[NBest], references: Mapping[str, str], normalize: Normalize, totals: Floats
) -> list[tuple[Doubles, Flags, Flags]]:
    """What `confidence.fit` takes, of the same lists as `tabulate`; totals (U, H)."""
    lists, known = [], (utterance for utterance in utterances if utterance.id in references)
    for row, utterance in zip(totals, known, strict=True):
        if utterance.nbest:
            texts = [normalize(hypothesis.text) for hypothesis in utterance.nbest]
            scores = row[: len(texts)].astype(np.float64)
            words = texts[int(scores.argmax())].split()
            [correct] = matches(words, [normalize(references[utterance.id])])
            lists.append((scores, matches(words, texts), correct))
    return lists


def first_errors(table: Table, points: Floats) -> NDArray[np.int64]:
    """Word errors of each utterance's best hypothesis by each weight vector: (P, K) -> (P, U)."""
    totals = points @ table.scores.reshape(-1, table.scores.shape[2]).T
    blocked = np.where(table.valid, 0.0, -np.inf).astype(np.float32)  # (U, H)
    best = (totals.reshape(-1, *table.valid.shape) + blocked).argmax(axis=2)  # (P, U)
    errors: NDArray[np.int64] = table.errors[np.arange(len(table.errors)), best]
    return errors


def count_errors(table: Table, points: Floats) -> NDArray[np.int64]:
    """Word errors of the set by each weight vector: points (P, K) -> (P,); in bounded memory."""
    size = max(1, 4_000_000 // max(table.valid.size, 1))
    blocks = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return np.concatenate([first_errors(table, block).sum(axis=1) for block in blocks])


def wer_report(rates: Mapping[str, float]) -> str:
    """ "WER first-best 20.00% -> rescored 15.00%, oracle 10.00%: 50% of the gap ..." """
    before, after, oracle = rates.values()
    first, second, third = (f"{name} {rate:.2%}" for name, rate in rates.items())
    closed = "the lists hold nothing better"
    if before > oracle:
        closed = f"{(before - after) / (before - oracle):.0%} of the gap to the oracle closed"
    return f"WER {first} -> {second}, {third}: {closed}"


def refuse_test(splits: Iterable[object], where: Path | str) -> None:
    """Raises InputError where a part is of a test set: its WER would mean nothing."""
    if "test" in splits:
        raise InputError("holds a test set", where, "Tune on a dev set.")


@dataclass(slots=True)
class Space:
    """The axes searched: `ratio` of ctc to att where a list has both, the LMs, `unknown` where some
    words are, the bonus."""

    names: list[str]
    lows: Doubles  # range of every axis
    highs: Doubles
    hard: list[tuple[float, float]]  # lowest and highest value that an axis can have at all

    @classmethod
    def of(cls, table: Table, length_unit: str) -> Space:
        axes = dict.fromkeys(table.lms, (0.0, MAX_LM_WEIGHT, (0.0, np.inf)))
        if {"ctc", "att"} <= {*table.columns}:
            axes = {"ratio": (0.0, MAX_RATIO, (0.0, MAX_RATIO)), **axes}
        if "unknown" in table.columns:
            axes["unknown"] = (*UNK_RANGE, (-np.inf, 0.0))
        axes["bonus"] = (*BONUS_RANGE[length_unit], (-np.inf, np.inf))
        lows, highs, hard = zip(*axes.values(), strict=True)
        return cls(list(axes), np.array(lows), np.array(highs), list(hard))

    def points(self, table: Table, values: Doubles) -> Floats:
        """Weight vectors in the table's columns (P, K) from values of the axes (P, A)."""
        one, axes = np.ones(len(values)), dict(zip(self.names, values.T, strict=True))
        known = {"ctc": one, "att": one, "bonuses": one, "length": axes["bonus"], **axes}
        if "ratio" in axes:
            known |= {"ctc": axes["ratio"], "att": 1 - axes["ratio"]}
        return np.stack([known[column] for column in table.columns], axis=1).astype(np.float32)

    def errors(self, table: Table, values: Doubles) -> NDArray[np.int64]:
        """Word errors of the set by each value of the axes, (P, A) -> (P,)."""
        return count_errors(table, self.points(table, values))

    def value(self, weights: Weights) -> Doubles:
        """Values of the axes (A,) that order hypotheses as `weights` do; inverse of `points`."""
        known = {"ratio": weights.ctc, "bonus": weights.bonus, "unknown": weights.unk, **weights.lm}
        scale = weights.ctc + weights.att
        return np.array([known.get(name, 0.0) for name in self.names]) / scale

    def default(self, own: Weightings) -> Doubles:
        """Values of the axes (A,) where no weights are given, of the search of lists of `own`."""
        ratio = JOINT_WEIGHT if not own or own[0].ctc else 0.0  # joint, or LAS
        usual = {"ratio": ratio, "bonus": 0.0, "unknown": DEFAULT_UNK}
        return np.array([usual.get(name, DEFAULT_WEIGHT) for name in self.names])

    def weights(self, table: Table, value: Doubles) -> Weights:
        numbers = self.points(table, value[None])[0].tolist()
        point = {n: round(w, 4) for n, w in zip(table.columns, numbers, strict=True)}
        ctc, att, unk = (point.get(name, 0.0) for name in ("ctc", "att", "unknown"))
        return Weights(ctc, att, {name: point[name] for name in table.lms}, point["length"], unk)


@dataclass(slots=True)
class Tuned:
    """The weights chosen."""

    weights: Weights
    errors: int  # on the set
    default: int  # errors by the default weights
    edges: list[str]  # axes at whose end they lie
    far: list[str]  # on which they lie over a quarter of the first range from the nearest list's
    space: Space
    value: Doubles  # (A,) of the axes
    point: Floats  # (K,): the weights of the table's columns


def tune(
    table: Table, unit: str, own: Weightings = (), stay: bool = True, found: Sequence[int] = ()
) -> Tuned:
    """The weights of fewest errors.

    own: weights by which the lists were made; no result makes more errors than the best of them.
    stay: it is near that, as it is for a search. found: errors of each one's search; see `settled`.
    Raises InputError where no list has two hypotheses to choose from.
    """
    if table.valid.shape[1] < 2:
        what = "each list has one hypothesis, so weights change nothing"
        raise InputError(what, None, "Decode the dev set again with --beam 100 --nbest 100.")
    space = Space.of(table, unit)
    quarter = (space.highs - space.lows) / 4
    value, edges = search(table, space)
    searched = value
    errors, far = None, np.zeros(len(space.names), np.bool_)
    usable = [weights.ctc + weights.att > 0 for weights in own]
    if any(usable):
        starts = np.stack([space.value(weights) for weights in compress(own, usable)])
        made = space.errors(table, starts)
        if stay:
            value = towards(table, space, value, starts[made.argmin()])
        elif made.min() < space.errors(table, value[None])[0]:
            value = starts[made.argmin()]
        if stay and found:
            value, errors = settled(table, space, value, starts, [*compress(found, usable)])
        away = np.abs(starts - value) / quarter
        far = away[away.max(axis=1).argmin()] > 1  # from the nearest of them
    errors = int(space.errors(table, value[None])[0]) if errors is None else errors
    at_end = [space.names[a] for a in edges if abs(value - searched)[a] < quarter[a] / 4]
    moved = [*compress(space.names, far)]
    point = space.points(table, value[None])[0]
    default = int(space.errors(table, space.default(own)[None])[0])
    return Tuned(space.weights(table, value), errors, default, at_end, moved, space, value, point)


def search(table: Table, space: Space) -> tuple[Doubles, dict[int, int]]:
    """The `best_point` of both grids, and the edges of the coarse one, which widens `space`."""
    count, parts = GRIDS[min(len(space.names), len(GRIDS)) - 1]
    for extension in range(EXTENSIONS + 1):
        axes = [*np.linspace(space.lows, space.highs, count, axis=1)]
        value, edges = best_point(table, space, axes, 1)
        if not edges or extension == EXTENSIONS:
            break
        for a, end in edges.items():
            width = space.highs[a] - space.lows[a]
            space.lows[a] -= width / 2 if end < 0 else 0
            space.highs[a] += width / 2 if end > 0 else 0
    steps = (space.highs - space.lows) / (count - 1)
    offsets = np.arange(-2 * parts, 2 * parts + 1) / parts
    for _ in range(ROUNDS):  # follows a valley beyond the first window
        before = value
        windows = zip(before[:, None] + steps[:, None] * offsets, space.hard, strict=True)
        fine = [np.unique(window.clip(*hard)) for window, hard in windows]
        value, _ = best_point(table, space, fine, parts, before)
        if np.allclose(value, before):
            break
    return value, edges


def towards(table: Table, space: Space, value: Doubles, start: Doubles) -> Doubles:
    """The point nearest to `start` on the way from `value` whose errors are as few, but for noise:
    half a standard error of the paired difference of both ends, over utterances."""
    way = value + np.linspace(1, 0, 21)[:, None] * (start - value)
    errors = first_errors(table, space.points(table, way))  # (P, U)
    noise = np.std(errors[0] - errors[-1]) * np.sqrt(errors.shape[1])
    return np.asarray(way[(errors.sum(1) <= errors[-1].sum() + noise / 2).argmax()])


def settled(
    table: Table, space: Space, value: Doubles, starts: Doubles, found: Sequence[int]
) -> tuple[Doubles, int]:
    """The point `value` or that of one of the lists (L, A), and the errors to expect there: by as
    much as the nearest list's search (errors `found`) fell short of what all lists together promise
    at its weights, so will that at `value`."""
    short = np.array(found) - space.errors(table, starts)
    nearest = (np.abs(starts - value) / (space.highs - space.lows)).max(axis=1).argmin()
    expected = int(space.errors(table, value[None])[0] + short[nearest])
    best = int(np.argmin(found))
    return (starts[best], found[best]) if found[best] <= expected else (value, expected)


def best_point(
    table: Table, space: Space, axes: Sequence[Doubles], radius: int, near: Doubles | None = None
) -> tuple[Doubles, dict[int, int]]:
    """The grid point with the fewest errors averaged over a box of ± `radius` points, and the axes
    where such points reach one end that can be moved: {axis: -1 or +1}. Of equal points the one
    nearest to `near`; without it the most central one, on an axis of no effect (they reach both of
    its ends) the smallest weight."""
    values = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # (n_1, ..., n_A, A)
    errors = space.errors(table, values.reshape(-1, len(axes))).astype(np.float64)
    smooth = box_mean(errors.reshape(values.shape[:-1]), radius)
    ties = values[smooth <= smooth.min() + 1e-9]  # (n, A)
    centre, edges = ties.mean(axis=0), {}
    for a, (axis, (low, high)) in enumerate(zip(axes, space.hard, strict=True)):
        at_low = ties[:, a].min() <= axis[: radius + 1].max()
        at_high = ties[:, a].max() >= axis[-radius - 1 :].min()
        if at_low and at_high:
            centre[a] = np.clip(0.0, axis[0], axis[-1])
        elif at_low and axis[0] > low:
            edges[a] = -1
        elif at_high and axis[-1] < high:
            edges[a] = 1
    widths = np.array([max(np.ptp(axis), 1e-9) for axis in axes])
    distances = (((ties - (centre if near is None else near)) / widths) ** 2).sum(axis=1)
    return np.asarray(ties[distances.argmin()]), edges


def box_mean(surface: Doubles, radius: int) -> Doubles:
    """Mean over ± `radius` points along every axis; at the ends over what there is."""
    for axis, n in enumerate(surface.shape):
        near = abs(np.subtract.outer(np.arange(n), np.arange(n))) <= radius
        means = np.tensordot(near / near.sum(1, keepdims=True), surface, (1, axis))
        surface = np.moveaxis(means, 0, axis)
    return surface
