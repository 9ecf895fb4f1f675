"""Time of tuning from saved lists: 200 utterances of 100 hypotheses each, one to three weights.

    python tools/bench/tune.py

The lists are random words with planted scores; the time is that of `asr tune` after reading.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np

from asr.confidence import fit
from asr.decoding import tune
from asr.decoding.tune import tabulate, word_lists
from asr.hypothesis import Hypothesis, NBest

UTTERANCES, HYPOTHESES, WORDS = 200, 100, 15


def lists(lms: int, rng: np.random.Generator) -> tuple[list[NBest], dict[str, str]]:
    """Texts with up to five errors; every score is a noisy count of them."""
    vocabulary = [f"w{i}" for i in range(500)]
    references: dict[str, str] = {}
    found = []
    for u in range(UTTERANCES):
        said = rng.choice(vocabulary, WORDS)
        references[f"u{u}"] = " ".join(said)
        hypotheses = []
        for _ in range(HYPOTHESES):
            heard, wrong = said.copy(), int(rng.integers(0, 6))
            heard[rng.integers(0, WORDS, wrong)] = rng.choice(vocabulary, wrong)
            noise = rng.normal(0, 3, lms + 1) - wrong
            scores = {"ctc": noise[0], "lm": {f"lm{i}": noise[i + 1] for i in range(lms)}}
            hypotheses.append(Hypothesis(" ".join(heard), [], {**scores, "length": WORDS}))
        found.append(NBest(f"u{u}", hypotheses))
    return found, references


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{UTTERANCES} utterances, {HYPOTHESES} hypotheses each (seconds of wall time, of CPU)")
    for lms in (1, 2, 3):
        nbest, references = lists(lms, rng)
        marks = [(time.perf_counter(), time.process_time())]

        def mark(marks: list[tuple[float, float]] = marks) -> None:
            marks.append((time.perf_counter(), time.process_time()))

        table = tabulate(nbest, references, str)
        mark()
        tuned = tune.tune(table, "words")
        mark()
        fit(word_lists(nbest, references, str, table.scores @ tuned.point))
        mark()
        steps = ("errors", "search", "confidence")
        spent = [f"{b[0] - a[0]:.2f} {b[1] - a[1]:.2f}" for a, b in pairwise(marks)]
        parts = ", ".join(f"{step} {cell}" for step, cell in zip(steps, spent, strict=True))
        total = marks[-1][0] - marks[0][0]
        print(f"{lms} LMs and bonus: {parts}; together {total:.2f} s")


if __name__ == "__main__":
    main()
