"""Pictures as bytes: attention, CTC outputs, spectrograms, curves and histograms (matplotlib).

SVG keeps its letters as text, so that the reader's fonts show any script.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asr.decoding.tune import Table, Tuned, count_errors
from asr.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from asr.transcriber import Outputs, Transcriber

Floats = NDArray[np.float32]

STYLE: dict[Any, Any] = dict.fromkeys(("axes.spines.top", "axes.spines.right"), False)
STYLE |= {"svg.fonttype": "none", "svg.hashsalt": "asr", "font.size": 8}
STYLE |= {"axes.grid": True, "grid.alpha": 0.3}
STYLE |= {"text.parse_math": False}  # a `$` of a token or a file name is a `$`
BINS = 40  # of a histogram
FAINT = -30.0  # dB in a spectrogram: hardly heard
SIDE = 49  # points of a surface along an axis
LEFT, RIGHT = 0.09, 0.01  # share of the width beside a time axis: those of page.css


@contextmanager
def drawing(width: float, height: float, format: str = "svg") -> Iterator[tuple[Figure, BytesIO]]:
    """A figure to draw on, inches wide and high, and what holds its bytes when the block ends."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer, metadata = BytesIO(), {"Date": None} if format == "svg" else None
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the reader's fonts have it
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, buffer
        figure.savefig(buffer, format=format, dpi=100, metadata=metadata)


def monotonic_share(alignment: Floats) -> float:
    """alignment (U, T): the share of steps whose centre of attention is not before the last one's
    (by more than one frame: neighbouring letters share frames)."""
    centres = alignment @ np.arange(alignment.shape[1])
    return float(np.mean(np.diff(centres) >= -1.0)) if len(centres) > 1 else 1.0


def attention(transcriber: Transcriber, outputs: Outputs, tokens: Sequence[int]) -> Floats | None:
    """Where the speller looks for each of U - 1 given tokens and the end, (U, T), in the outputs of
    one waveform; None: no speller."""
    import torch

    speller = transcriber.recognizer.speller
    if speller is None:
        return None
    given = torch.tensor([list(tokens)], dtype=torch.long, device=outputs.states.device)
    with torch.inference_mode():
        alignments = speller.teach(outputs.states, outputs.lengths.to(given.device), given)[1]
    alignment: Floats = alignments[0].cpu().numpy()
    return alignment


def panels(figure: Figure, heights: Sequence[float]) -> Iterator[Axes]:
    """One below the other, inches high with title and marks, all between the same edges."""
    figure.set_layout_engine("none")
    below = total = sum(heights)
    for height in heights:
        below -= height
        place = (below + 0.45) / total, 1 - LEFT - RIGHT, (height - 0.7) / total
        yield figure.add_axes((LEFT, *place))


def draw(
    tokens: Sequence[int],
    pieces: Sequence[str],
    frame_shift: float,
    alignment: Floats | None,
    log_probs: Floats | None,
    format: str = "svg",
    seconds: float | None = None,
) -> bytes:
    """Attention for each of the tokens and the end (U, T), and CTC probabilities (T, V), if there
    are any, of the first `seconds` (default: all); pieces: names of the V tokens."""
    rows = 0 if alignment is None else len(alignment)
    heights = [1.0 + 0.09 * rows] * (rows > 0) + [2.6] * (log_probs is not None)  # inches
    with drawing(10, sum(heights), format) as (figure, buffer):
        axes = panels(figure, heights)
        if alignment is not None:
            axis, extent = next(axes), (0, alignment.shape[1] * frame_shift, -0.5, rows - 0.5)
            axis.grid(False)
            look: dict[str, Any] = {"aspect": "auto", "origin": "lower", "vmin": 0}
            look |= {"interpolation": "nearest", "extent": extent, "cmap": "magma_r"}
            axis.imshow(alignment, **look)
            axis.set_yticks(range(rows), [*(pieces[token] for token in tokens), "end"], fontsize=6)
            axis.tick_params("y", length=0)
            axis.set_title("attention of each token", loc="left")
            axis.set(xlabel="seconds", xlim=(0, seconds))
        if log_probs is not None:
            axis, probs = next(axes), np.exp(log_probs)
            time, best = (np.arange(len(probs)) + 0.5) * frame_shift, probs.argmax(1)
            axis.plot(time, probs[:, 0], color="0.8", label="blank")
            for token in np.flatnonzero(probs[:, 1:].max(0) > 0.2) + 1:
                axis.plot(time, probs[:, token])
            for frame in np.flatnonzero((best > 0) & (best != np.roll(best, 1))):
                axis.annotate(pieces[best[frame]], (time[frame], 1.03), ha="center", fontsize=6)
            end = seconds or len(probs) * frame_shift
            axis.set_title("CTC probability of each token", loc="left")
            axis.set(xlabel="seconds", xlim=(0, end), ylim=(0, 1.1))
    return buffer.getvalue()


def surface(table: Table, tuned: Tuned, format: str) -> bytes:
    """WER over each axis and the bonus, the others at their chosen values; one panel an axis.
    Raises InputError for an unknown format."""
    names, space = tuned.space.names, tuned.space
    axes = [np.linspace(*span, SIDE) for span in zip(space.lows, space.highs, strict=True)]
    called = {"ratio": "ctc / (ctc + att)", "unknown": "a letter of an unknown word"}
    others = names[:-1] or names
    try:
        with drawing(5 * len(others), 4, format) as (figure, buffer):
            for a, panel in enumerate(figure.subplots(1, len(others), squeeze=False)[0]):
                values = np.tile(tuned.value, (SIDE * SIDE, 1))
                values[:, a], values[:, -1] = np.array(list(product(axes[a], axes[-1]))).T
                errors = count_errors(table, space.points(table, values)).reshape(SIDE, SIDE)
                panel.grid(False)
                image = panel.pcolormesh(axes[-1], axes[a], 100 * errors / max(table.words, 1))
                panel.plot(tuned.value[-1], tuned.value[a], "r+", markersize=12)
                panel.set(xlabel="length bonus", ylabel=called.get(names[a], names[a]))
                figure.colorbar(image, ax=panel, label="WER %")
    except ValueError as error:
        what = f"the picture cannot be drawn ({error})"
        raise InputError(what, None, "Give a .png, .svg or .pdf.") from error
    return buffer.getvalue()


def curves(
    title: str, lines: Mapping[str, tuple[ArrayLike, ArrayLike]], xlabel: str, scale: str
) -> bytes:
    """SVG of one line a name, given as (x, y), with marks where its points are few; `scale` of y is
    "linear" or "log" (linear, too, within a decade: it would have no marks)."""
    every = np.concatenate([np.asarray(y, np.float64) for _, y in lines.values()])
    every = every[np.isfinite(every) & (every > 0)]
    if every.size and every.max() < 10 * every.min():
        scale = "linear"
    with drawing(3.6, 2.6) as (figure, buffer):
        axis = figure.subplots()
        for x, y in lines.values():
            axis.plot(x, y, linewidth=1, marker="o" if np.size(x) <= BINS else "", markersize=3)
        axis.legend(axis.lines, list(lines))
        axis.set(title=title, xlabel=xlabel, yscale=scale)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    return buffer.getvalue()


def histogram(title: str, values: Mapping[str, Floats], xlabel: str) -> bytes:
    """SVG of the share of each set's values in common bins; the ends hold what lies beyond the
    middle 99.8 %."""
    every = np.concatenate(list(values.values()))
    low, high = np.quantile(every, [0.001, 0.999]).tolist() if every.size else (0, 1)
    edges = np.linspace(low, max(high, low + 1e-3), BINS + 1)
    with drawing(3.6, 2.6) as (figure, buffer):
        axis = figure.subplots()
        for own in values.values():
            counts, _ = np.histogram(np.clip(own, edges[0], edges[-1]), edges)
            axis.stairs(100 * counts / max(own.size, 1), edges)
        figure.legend(axis.patches, list(values), loc="outside lower center")
        axis.set(title=title, xlabel=xlabel, ylabel="% of utterances")
    return buffer.getvalue()


def bars(title: str, values: Mapping[str, Sequence[float]], names: Sequence[str]) -> bytes:
    """SVG of bars under `names`, one group of them a set; values in per cent."""
    with drawing(3.6, 2.6) as (figure, buffer):
        axis, places = figure.subplots(), np.arange(len(names))
        width = 0.8 / len(values)
        drawn = [axis.bar(places + n * width, own, width) for n, own in enumerate(values.values())]
        if names:
            figure.legend([bar[0] for bar in drawn], list(values), loc="outside lower center")
        axis.set_xticks(places + 0.4 - 0.4 / len(values), names)
        axis.set(title=title, ylabel="%")
    return buffer.getvalue()


def spectrogram(samples: Floats, sample_rate: int) -> bytes:
    """PNG without margins: 25 ms Hann windows around the middles of every 10 ms, 0 Hz to half the
    rate, 70 dB of range below the loudest, or below what is hardly heard: silence stays light.

    samples (N,) in [-1, 1]."""
    from matplotlib.image import imsave

    size, shift = round(0.025 * sample_rate), round(0.01 * sample_rate)
    padded = np.pad(samples, ((size - shift) // 2, size - 1))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[: max(1, len(samples)) : shift]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    decibels = 10 * np.log10(power + 1e-10).T
    buffer, top = BytesIO(), max(float(decibels.max()), FAINT)
    imsave(buffer, decibels, vmin=top - 70, vmax=top, cmap="magma_r", origin="lower", format="png")
    return buffer.getvalue()
