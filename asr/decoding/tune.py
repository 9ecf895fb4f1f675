"""Tuning: LM weights, length bonus and cost of unknown words with the fewest word errors on a dev
set's n-best lists.

    errors(w) = Σ_u E[u, argmax_h S[u, h]·w]

S holds the raw scores of each hypothesis, E its word errors, both computed once; a point w is then
a matrix product. The surface is a staircase, noisy in w. Therefore the point chosen is the one with
the fewest errors on average over a box around it (± one step of the coarse grid), the most
central one of equals; it lies on a plateau rather than in a lucky hole.

Weights for a search are not moved further from those that the list was made with than the set can
justify: a search at other weights finds other hypotheses, those that the list lacks for a reason.
Where they move far, the set is decoded again with them, and they are tuned on all lists, until they
stay (Och 2003).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr.decoding.table import Floats, Table, count_errors, first_errors
from asr.errors import InputError
from asr.hypothesis import Weights

Doubles = NDArray[np.float64]

MAX_LM_WEIGHT = 2.0  # first range of the grid; grows while the best point lies at its upper end
MAX_RATIO = 0.9  # ctc / (ctc + att); the LAS search needs some of att
BONUS_RANGE = {"words": (-2.0, 6.0), "tokens": (-1.0, 3.0)}
UNK_RANGE = (-2.0, 0.0)  # a letter; unknown words are never rewarded
# points an axis of the coarse grid, and parts of its step in refinement, by the number of axes
COARSE = {1: 41, 2: 25, 3: 25, 4: 13, 5: 8}
PARTS = {1: 4, 2: 4, 3: 4, 4: 2, 5: 2}
EXTENSIONS = 4  # most times that the range grows by half
ROUNDS = 4  # most refinements


def refuse_test(splits: Iterable[object], where: Path | str) -> None:
    """Raises InputError where a part is of a test set: weights tuned on it would make its WER
    meaningless."""
    if "test" in splits:
        raise InputError("holds a test set", where, "Tune on a dev set.")


@dataclass(slots=True)
class Space:
    """The axes searched: `ratio` of ctc to att where a list has both, the LMs, `unknown` where some
    words are, the bonus.

    lows, highs: range of every axis; hard: (lowest, highest) values that an axis can have at all.
    """

    names: list[str]
    lows: Doubles
    highs: Doubles
    hard: list[tuple[float, float]]

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
        known = dict(zip(self.names, values.T, strict=True))
        ratio, one = known.get("ratio"), np.ones(len(values))
        known |= {"ctc": one, "att": one, "length": known["bonus"], "bonuses": one}
        if ratio is not None:
            known |= {"ctc": ratio, "att": 1 - ratio}
        return np.stack([known[column] for column in table.columns], axis=1).astype(np.float32)

    def value(self, weights: Weights) -> Doubles:
        """Values of the axes (A,) that order hypotheses as `weights` do; inverse of `points`."""
        known = {"ratio": weights.ctc, "bonus": weights.bonus, "unknown": weights.unk, **weights.lm}
        scale = weights.ctc + weights.att
        return np.array([known.get(name, 0.0) for name in self.names]) / scale

    def weights(self, table: Table, value: Doubles) -> Weights:
        numbers = self.points(table, value[None])[0].tolist()
        point = {n: round(w, 4) for n, w in zip(table.columns, numbers, strict=True)}
        lm = {name: point[name] for name in table.lms}
        heads = point.get("ctc", 0.0), point.get("att", 0.0)
        return Weights(*heads, lm, point["length"], point.get("unknown", 0.0))


@dataclass(slots=True)
class Tuned:
    """The weights chosen, their errors on the set, and two kinds of axes: edges, at whose end they
    lie, and far, on which they lie over a quarter of the first range from the nearest list's.
    """

    weights: Weights
    errors: int
    edges: list[str]
    far: list[str]
    space: Space
    value: Doubles
    point: Floats  # (K,): the weights of the table's columns


def tune(
    table: Table,
    length_unit: str,
    own: Sequence[Weights] = (),
    stay: bool = True,
    found: Sequence[int] = (),
) -> Tuned:
    """Coarse grid (its range grows while the best point lies at an end), then a finer one.

    own: weights by which the lists were made; no result makes more errors than the best of them.
    stay: it is near that, as it is for a search.
    found: for each of `own` the errors that its search made; see `settled`.
    Raises InputError where no list has two hypotheses to choose from.
    """
    if table.valid.shape[1] < 2:
        what = "each list has one hypothesis, so weights change nothing"
        raise InputError(what, None, "Decode the dev set again with --beam 100 --nbest 100.")
    space = Space.of(table, length_unit)
    quarter = (space.highs - space.lows) / 4
    value, edges = search(table, space)
    errors, far = None, np.zeros(len(space.names), np.bool_)
    usable = [weights.ctc + weights.att > 0 for weights in own]
    if any(usable):
        starts = np.stack([space.value(weights) for weights in compress(own, usable)])
        start = starts[count_errors(table, space.points(table, starts)).argmin()]
        if stay:
            value = towards(table, space, value, start)
        else:
            ends = np.stack([value, start])
            value = ends[count_errors(table, space.points(table, ends)).argmin()]
        if stay and found:
            value, errors = settled(table, space, value, starts, [*compress(found, usable)])
        away = np.abs(starts - value) / quarter
        far = away[away.max(axis=1).argmin()] > 1  # from the nearest of them
    point = space.points(table, value[None])
    errors = int(count_errors(table, point)[0]) if errors is None else errors
    at_end, moved = ([space.names[a] for a in axes] for axes in (edges, np.flatnonzero(far)))
    weights = space.weights(table, value)
    return Tuned(weights, errors, at_end, moved, space, value, point[0])


def search(table: Table, space: Space) -> tuple[Doubles, dict[int, int]]:
    """The `best_point` of both grids, and the edges of the coarse one, which widens `space`."""
    count = COARSE[min(len(space.names), max(COARSE))]
    parts = PARTS[min(len(space.names), max(PARTS))]
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
    """The point nearest to `start` on the way from `value` whose errors are as few, but for noise.

    Noise is half a standard error of the paired difference between the two ends, over utterances.
    """
    way = value + np.linspace(1, 0, 21)[:, None] * (start - value)
    errors = first_errors(table, space.points(table, way))  # (P, U)
    noise = np.std(errors[0] - errors[-1]) * np.sqrt(errors.shape[1])
    near: Doubles = way[(errors.sum(1) <= errors[-1].sum() + noise / 2).argmax()]
    return near


def settled(
    table: Table, space: Space, value: Doubles, starts: Doubles, found: Sequence[int]
) -> tuple[Doubles, int]:
    """The point `value` or that of one of the lists (L, A), and the errors to expect there.

    All lists together promise hypotheses that a search need not find. By as much as the nearest
    list's search fell short of what they promise at its weights, by so much will that at `value`.
    found: errors of each search.
    """
    short = np.array(found) - count_errors(table, space.points(table, starts))
    nearest = (np.abs(starts - value) / (space.highs - space.lows)).max(axis=1).argmin()
    expected = int(count_errors(table, space.points(table, value[None]))[0] + short[nearest])
    best = int(np.argmin(found))
    return (starts[best], found[best]) if found[best] <= expected else (value, expected)


def best_point(
    table: Table, space: Space, axes: Sequence[Doubles], radius: int, near: Doubles | None = None
) -> tuple[Doubles, dict[int, int]]:
    """The grid point with the fewest errors averaged over a box of ± `radius` points.

    Of equal points the one nearest to `near`; without it the most central one, or on an axis that
    has no effect (they reach both of its ends) the smallest weight.
    Also the axes where they reach one end that can be moved: {axis: -1 or +1}.
    """
    values = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # (n_1, ..., n_A, A)
    points = space.points(table, values.reshape(-1, len(axes)))
    surface = count_errors(table, points).reshape(values.shape[:-1]).astype(np.float64)
    smooth = box_mean(surface, radius)
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
    best: Doubles = ties[distances.argmin()]
    return best, edges


def box_mean(surface: Doubles, radius: int) -> Doubles:
    """Mean over ± `radius` points along every axis; at the ends over what there is."""
    for axis, n in enumerate(surface.shape):
        first = np.maximum(np.arange(n) - radius, 0)
        last = np.minimum(np.arange(n) + radius + 1, n)
        zero = np.zeros_like(surface.take([0], axis))
        sums = np.concatenate([zero, surface.cumsum(axis)], axis)
        widths = (last - first).reshape([-1 if a == axis else 1 for a in range(surface.ndim)])
        surface = (sums.take(last, axis) - sums.take(first, axis)) / widths
    return surface
