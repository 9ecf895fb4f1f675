"""Errors of recordings that were joined into one, beside those of the same recordings one by one.

    python tools/bench/long.py MODEL MANIFEST [--lm word.lm --weights word.json] [--orders 3]

In random order, with pauses of 0.2 to 2 s: digital silence, or noise of --noise dB below full
scale. A word of the long transcript is counted for the recording in whose time its middle lies
(pauses are shared), so that no word can make up for one elsewhere.

Bar: at most 1.03 times the errors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import asr
from asr.data.audio import load
from asr.data.manifest import Manifest
from asr.transcriber import Samples, Transcriber
from asr.wer import count_errors


def join(
    recordings: list[Samples], rate: int, seed: int, noise: float
) -> tuple[Samples, list[int], list[float]]:
    """The joined samples, the order, and the middles (seconds) of the pauses after each."""
    draw = np.random.default_rng(seed)
    order, parts, middles, now = draw.permutation(len(recordings)), [], [], 0
    for index in order:
        pause = noise * draw.standard_normal(int(draw.uniform(0.2, 2) * rate), np.float32)
        parts += [recordings[index], pause]
        now += len(recordings[index]) + len(pause)
        middles.append((now - len(pause) / 2) / rate)
    return np.concatenate(parts), order.tolist(), middles


def texts(
    transcriber: Transcriber, samples: Samples, order: list[int], middles: list[float]
) -> list[str]:
    """What the long transcript has for each recording."""
    found: list[list[str]] = [[] for _ in order]
    for word in transcriber.transcribe(samples).words:
        place = int(np.searchsorted(middles[:-1], (word.start + word.end) / 2))
        found[order[place]].append(word.word)
    return [" ".join(words) for words in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--lm", type=Path, action="append", default=[])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--beam", type=int)
    parser.add_argument("--head")
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--noise", type=float, default=-np.inf, help="dB")
    given = parser.parse_args()
    transcriber = asr.load(
        given.model, head=given.head, lm=given.lm, weights=given.weights, beam=given.beam
    )
    rate = transcriber.sample_rate
    utterances = list(Manifest.open(given.manifest))
    references = [utterance.text or "" for utterance in utterances]
    recordings = [load(utterance, rate) for utterance in utterances]
    alone = [found[0].text for found in transcriber.decode_many(recordings)]
    base = count_errors(references, alone).sum(0)
    errors = int(base[1:].sum())
    print(f"{'':12} errors    S    D    I  ratio")
    show("one by one", base, errors)
    for seed in range(1, given.orders + 1):
        long = join(recordings, rate, seed, 10 ** (given.noise / 20))
        show(f"order {seed}", count_errors(references, texts(transcriber, *long)).sum(0), errors)


def show(label: str, table: NDArray[np.int64], errors: int) -> None:
    """Print a row."""
    counts = " ".join(f"{n:4d}" for n in table[1:])
    found = int(table[1:].sum())
    print(f"{label:12} {found:6d} {counts}  {found / errors:.3f}", flush=True)


if __name__ == "__main__":
    main()
