"""Pictures of what a model attends to and of its CTC outputs (matplotlib)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def monotonic_share(alignment: Floats) -> float:
    """alignment (U, T): the share of steps whose centre of attention is not before the last one's.

    One frame of going back is allowed: neighbouring letters share frames.
    """
    centres = alignment @ np.arange(alignment.shape[1])
    return float(np.mean(np.diff(centres) >= -1.0)) if len(centres) > 1 else 1.0


def draw(
    path: Path,
    pieces: list[str],
    frame_shift: float,
    alignment: Floats | None,
    log_probs: Floats | None,
    all_pieces: list[str],
) -> None:
    """One picture: attention of each of the U `pieces` (U, T), and CTC probabilities (T, V)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [p for p in (alignment, log_probs) if p is not None]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(10, 4.5 * len(panels)), squeeze=False, layout="constrained"
    )
    row = 0
    if alignment is not None:
        end = alignment.shape[1] * frame_shift
        axis = axes[row, 0]
        axis.imshow(
            alignment, aspect="auto", origin="lower", extent=(0, end, -0.5, len(pieces) - 0.5),
            cmap="magma_r", vmin=0,
        )  # fmt: skip
        axis.set_yticks(range(len(pieces)), pieces, fontsize=7)
        axis.set(title="attention", xlabel="seconds", ylabel="token")
        row += 1
    if log_probs is not None:
        axis = axes[row, 0]
        time = (np.arange(len(log_probs)) + 0.5) * frame_shift
        probs = np.exp(log_probs)
        axis.plot(time, probs[:, 0], color="0.8", label="blank")
        for token in np.flatnonzero(probs[:, 1:].max(0) > 0.2) + 1:
            axis.plot(time, probs[:, token])
            peak = int(probs[:, token].argmax())
            axis.annotate(all_pieces[token], (time[peak], probs[peak, token]))
        axis.set(title="CTC", xlabel="seconds", ylabel="probability", ylim=(0, 1.1))
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
