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
from itertools import compress, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr.decoding.table import Floats, Table, count_errors, first_errors
from asr.errors import InputError
from asr.hypothesis import Weights

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
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    hard: list[tuple[float, float]]

    @classmethod
    def of(cls, table: Table, length_unit: str) -> Space:
        axes = (
            [("ratio", 0.0, MAX_RATIO, (0.0, MAX_RATIO))]
            if {"ctc", "att"} <= {*table.columns}
            else []
        )
        axes += [(name, 0.0, MAX_LM_WEIGHT, (0.0, np.inf)) for name in table.lms]
        if "unknown" in table.columns:
            axes += [("unknown", *UNK_RANGE, (-np.inf, 0.0))]
        axes += [("bonus", *BONUS_RANGE[length_unit], (-np.inf, np.inf))]
        names, lows, highs, hard = zip(*axes, strict=True)
        return cls(list(names), np.array(lows), np.array(highs), list(hard))

    def points(self, table: Table, values: NDArray[np.float64]) -> Floats:
        """Weight vectors in the table's columns (P, K) from values of the axes (P, A)."""
        axis = {name: values[:, a] for a, name in enumerate(self.names)}
        one = np.ones(len(values))
        ratio = axis.get("ratio")
        known = {
            **axis,
            "ctc": one if ratio is None else ratio,
            "att": one if ratio is None else 1 - ratio,
            "length": axis["bonus"],
            "bonuses": one,
        }
        return np.stack([known[column] for column in table.columns], axis=1).astype(np.float32)

    def value(self, weights: Weights) -> NDArray[np.float64]:
        """Values of the axes (A,) that order hypotheses as `weights` do; inverse of `points`."""
        scale = weights.ctc + weights.att
        known = {"ratio": weights.ctc, "bonus": weights.bonus, "unknown": weights.unk}
        known |= weights.lm
        return np.array([known.get(name, 0.0) for name in self.names]) / scale

    def weights(self, table: Table, value: NDArray[np.float64]) -> Weights:
        point = dict(zip(table.columns, self.points(table, value[None])[0].tolist(), strict=True))
        point = {name: round(weight, 4) for name, weight in point.items()}
        return Weights(
            ctc=point.get("ctc", 0.0),
            att=point.get("att", 0.0),
            lm={name: point[name] for name in table.lms},
            bonus=point["length"],
            unk=point.get("unknown", 0.0),
        )


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
    value: NDArray[np.float64]
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
        raise InputError(
            "each list has one hypothesis, so weights change nothing",
            None,
            "Decode the dev set again with --beam 100 --nbest 100.",
        )
    space = Space.of(table, length_unit)
    quarter = (space.highs - space.lows) / 4
    count = COARSE[min(len(space.names), max(COARSE))]
    parts = PARTS[min(len(space.names), max(PARTS))]
    for extension in range(EXTENSIONS + 1):
        axes = [np.linspace(*span, count) for span in zip(space.lows, space.highs, strict=True)]
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
        fine = [
            np.unique((v + step * offsets).clip(*hard))
            for v, step, hard in zip(value, steps, space.hard, strict=True)
        ]
        value, _ = best_point(table, space, fine, parts, before)
        if np.allclose(value, before):
            break
    far = np.zeros(len(space.names), np.bool_)
    errors = None
    usable = [weights.ctc + weights.att > 0 for weights in own]
    starts = [space.value(weights) for weights in compress(own, usable)]
    found = [*compress(found, usable)]
    if starts:
        start = starts[count_errors(table, space.points(table, np.stack(starts))).argmin()]
        if stay:
            value = towards(table, space, value, start)
            if found:
                value, errors = settled(table, space, value, np.stack(starts), found)
        else:
            ends = np.stack([value, start])
            value = ends[count_errors(table, space.points(table, ends)).argmin()]
        away = np.abs(np.stack(starts) - value) / quarter
        far = away[away.max(axis=1).argmin()] > 1  # from the nearest of them
    weights = space.weights(table, value)
    point = space.points(table, value[None])
    if errors is None:
        errors = int(count_errors(table, point)[0])
    at_end, moved = ([space.names[a] for a in axes] for axes in (edges, np.flatnonzero(far)))
    return Tuned(weights, errors, at_end, moved, space, value, point[0])


def towards(
    table: Table, space: Space, value: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The point nearest to `start` on the way from `value` whose errors are as few, but for noise.

    Noise is half a standard error of the paired difference between the two ends, over utterances.
    """
    way = value + np.linspace(1, 0, 21)[:, None] * (start - value)
    errors = first_errors(table, space.points(table, way))  # (P, U)
    noise = np.std(errors[0] - errors[-1]) * np.sqrt(errors.shape[1])
    near: NDArray[np.float64] = way[(errors.sum(1) <= errors[-1].sum() + noise / 2).argmax()]
    return near


def settled(
    table: Table,
    space: Space,
    value: NDArray[np.float64],
    starts: NDArray[np.float64],
    found: Sequence[int],
) -> tuple[NDArray[np.float64], int]:
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
    table: Table,
    space: Space,
    axes: Sequence[NDArray[np.float64]],
    radius: int,
    near: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], dict[int, int]]:
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
    for a, axis in enumerate(axes):
        at_low = ties[:, a].min() <= axis[: radius + 1].max()
        at_high = ties[:, a].max() >= axis[-radius - 1 :].min()
        low, high = space.hard[a]
        if at_low and at_high:
            centre[a] = np.clip(0.0, axis[0], axis[-1])
        elif at_low and axis[0] > low:
            edges[a] = -1
        elif at_high and axis[-1] < high:
            edges[a] = 1
    widths = np.array([max(np.ptp(axis), 1e-9) for axis in axes])
    distances = (((ties - (centre if near is None else near)) / widths) ** 2).sum(axis=1)
    best: NDArray[np.float64] = ties[distances.argmin()]
    return best, edges


def box_mean(surface: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Mean over ± `radius` points along every axis; at the ends over what there is."""
    for axis in range(surface.ndim):
        n = surface.shape[axis]
        first = np.maximum(np.arange(n) - radius, 0)
        last = np.minimum(np.arange(n) + radius + 1, n)
        zero = np.zeros_like(surface.take([0], axis))
        sums = np.concatenate([zero, surface.cumsum(axis)], axis)
        widths = (last - first).reshape([-1 if a == axis else 1 for a in range(surface.ndim)])
        surface = (sums.take(last, axis) - sums.take(first, axis)) / widths
    return surface


def plot(table: Table, tuned: Tuned, path: Path) -> None:
    """WER over each axis and the bonus, the others at their chosen values; one panel an axis.

    Raises InputError if the picture cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, space = tuned.space.names, tuned.space
    axes = [np.linspace(*span, 49) for span in zip(space.lows, space.highs, strict=True)]
    others = names[:-1] or names
    figure, panels = plt.subplots(
        1, len(others), figsize=(5 * len(others), 4), squeeze=False, layout="constrained"
    )
    for a, panel in enumerate(panels[0]):
        values = np.tile(tuned.value, (49 * 49, 1))
        values[:, a], values[:, -1] = np.array(list(product(axes[a], axes[-1]))).T
        errors = count_errors(table, space.points(table, values)).reshape(49, 49)
        image = panel.pcolormesh(axes[-1], axes[a], 100 * errors / max(table.words, 1))
        panel.plot(tuned.value[-1], tuned.value[a], "r+", markersize=12)
        called = {"ratio": "ctc / (ctc + att)", "unknown": "a letter of an unknown word"}
        panel.set(xlabel="length bonus", ylabel=called.get(names[a], names[a]))
        figure.colorbar(image, ax=panel, label="WER %")
    partial = path.with_name(path.name + ".part")
    try:
        figure.savefig(partial, format=path.suffix.lstrip(".") or "png", bbox_inches="tight")
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the picture cannot be written ({error})", path, "Give a .png, .svg or .pdf elsewhere."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
        plt.close(figure)
