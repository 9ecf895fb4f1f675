"""`search.py --tune`: our settings, found on the first half of the utterances only."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from search_work import LMS, OURS, Settings, Work, decoder, parse, written

from asr.decoding.tune import box_mean, count_errors, tabulate
from asr.hypothesis import Hypothesis, NBest
from asr.wer import wer

WIDEST_TUNING = {"beam": 200.0, "beam_threshold": 12.0, "token_threshold": 9.0}

# What `--tune` tries: all combinations of weights, on n-best lists; then of efforts, by decoding.
WEIGHTS: dict[str, list[float]] = {
    "word": [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6],
    "char": [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6],
    "bonus": [-0.5, 0.0, 0.4, 0.75, 1.1, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0],
    "unk": [-1.0, -0.7, -0.5, -0.4, -0.3, -0.2, -0.15, -0.1, -0.05, 0.0],
}
LISTS = {"beam": 100.0, "beam_threshold": 9.0, "token_threshold": 6.0}
EFFORT: dict[str, list[float]] = {
    "beam": [16, 24, 40, 60],
    "beam_threshold": [3.0, 3.5, 4.0, 5.0, 6.0],
    "token_threshold": [3.0, 4.0, 5.0],
    "blank_skip": [0.98, 0.9999],
}


class Trial(NamedTuple):
    """A setting on the tuning half."""

    wer: float  # percent
    total: float  # mean
    speed: float  # frames a second of processor time
    settings: Settings


class Tuning:
    """Settings tried on the tuning half."""

    def __init__(self, data: Path, name: str, kind: str) -> None:
        work = Work(data, name, "tune")
        self.data, self.kind = data, kind
        self.arrays, self.references = list(work.arrays().values()), work.references()

    def attempt(self, settings: Settings) -> Trial:
        ours = decoder(self.data, self.kind, settings)
        ours.decode(self.arrays[0])
        begin = time.process_time()
        found = [ours.decode(frames) for frames in self.arrays]
        speed = sum(map(len, self.arrays)) / (time.process_time() - begin)
        rate = wer(self.references, [h.text for h in found])
        return Trial(100 * rate, float(np.mean([h.total for h in found])), speed, settings)

    def weights(self, start: Settings) -> Settings:
        """Those of the fewest word errors, by lists of the 100 best texts that grow until they
        stay: on average over the point and its neighbours, as single ones differ by chance."""
        names = [*LMS[self.kind], "bonus"] + ["unk"] * (self.kind in ("word", "both"))
        axes = [WEIGHTS[name] for name in names]
        texts: list[dict[str, Hypothesis]] = [{} for _ in self.arrays]
        said = {str(n): reference for n, reference in enumerate(self.references)}
        chosen = {name: start.get(name, 0.0) for name in names}
        for _ in range(5):
            ours = decoder(self.data, self.kind, chosen | LISTS)
            for frames, found in zip(self.arrays, texts, strict=True):
                found |= {h.text: h for h in ours.decode_nbest(frames, 100)}
            lists = [
                NBest(name, [*found.values()]) for name, found in zip(said, texts, strict=True)
            ]
            table = tabulate(lists, said, str)
            points = [dict(zip(names, values, strict=True)) for values in itertools.product(*axes)]
            columns = [
                {"ctc": 1, "length": p["bonus"], "unknown": p.get("unk", 0.0)} | p for p in points
            ]
            rows = np.array([[c[name] for name in table.columns] for c in columns], np.float32)
            errors = count_errors(table, rows).reshape([*map(len, axes)])
            best = int(box_mean(errors.astype(np.float64), 1).argmin())
            if points[best] == chosen:
                break
            chosen = points[best]
        return chosen


def tune(data: Path, kinds: list[str], sets: list[str]) -> None:
    """Print, for the best weights, the fastest settings that are nearly as good as a wide search:
    within 0.1 % of its WER and 0.05 % of its mean total."""
    for kind, name in itertools.product(kinds, sets):
        tuning = Tuning(data, name, kind)
        weights = tuning.weights(parse(OURS[name, kind]))
        wide = tuning.attempt(weights | WIDEST_TUNING)
        print(f"{name} {kind}: WER {wide.wer:.2f} % {written(weights)}", flush=True)
        good = []
        for values in itertools.product(*EFFORT.values()):
            trial = tuning.attempt(weights | dict(zip(EFFORT, values, strict=True)))
            lost = 100 * (wide.total - trial.total) / abs(wide.total)
            if trial.wer <= wide.wer + 0.1 and lost <= 0.05:
                good.append((trial, lost))
        for trial, lost in sorted(good, key=lambda g: -g[0].speed)[:5]:
            what = f"{trial.speed:9,.0f} frames/s, WER {trial.wer:.2f} %, search error {lost:.3f} %"
            print(f"  {what}: {written(trial.settings)}", flush=True)
