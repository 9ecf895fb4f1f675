"""Generated ARPA files, and the definition of a backoff model as the plainest Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@dataclass
class Arpa:
    """grams[n - 1]: n-gram -> (log10 probability, log10 backoff)."""

    words: list[str]
    grams: list[dict[tuple[str, ...], tuple[float, float]]]

    def write(self, path: Path) -> Path:
        with open(path, "w", encoding="utf-8") as file:
            file.write("\\data\\\n")
            for n, grams in enumerate(self.grams, start=1):
                file.write(f"ngram {n}={len(grams)}\n")
            for n, grams in enumerate(self.grams, start=1):
                file.write(f"\n\\{n}-grams:\n")
                for gram, (logprob, backoff) in grams.items():
                    last = f"\t{backoff!r}" if backoff else ""
                    file.write(f"{logprob!r}\t{' '.join(gram)}{last}\n")
            file.write("\n\\end\\\n")
        return path

    def scores(self, words: Sequence[str]) -> list[tuple[float, int, bool]]:
        """(natural log, n-gram length, unknown) by the definition of backing off."""
        known = [word if (word,) in self.grams[0] else "<unk>" for word in words]
        result = []
        history: list[str] = ["<s>"]
        for word in [*known, "</s>"]:
            context = tuple(history[max(0, len(history) - len(self.grams) + 1) :])
            total = 0.0
            while context and (*context, word) not in self.grams[len(context)]:
                total += self.grams[len(context) - 1].get(context, (0.0, 0.0))[1]
                context = context[1:]
            total += self.grams[len(context)][(*context, word)][0]
            result.append((total * math.log(10), len(context) + 1, word == "<unk>"))
            history.append(word)
        return result


@pytest.fixture(scope="session")
def random_arpa() -> Callable[[np.random.Generator, int, bool], Arpa]:
    """random_arpa(rng, order, closed): closed if every suffix of an n-gram is an n-gram too."""

    def make(rng: np.random.Generator, order: int, closed: bool) -> Arpa:
        words = ["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(rng.integers(2, 6))]
        levels: list[set[tuple[str, ...]]] = [{(word,) for word in words}]
        for n in range(2, order + 1):
            contexts = sorted(gram for gram in levels[-1] if "</s>" not in gram)
            level = set()
            for _ in range(int(rng.integers(1, 40))):
                gram = (
                    *contexts[rng.integers(len(contexts))],
                    words[rng.integers(2, len(words))],
                )
                if not closed or gram[1:] in levels[n - 2]:
                    level.add(gram)
            if not any("</s>" not in gram for gram in level):
                break
            levels.append(level)
        grams = []
        for level in levels:
            rows = sorted(level)
            rng.shuffle(rows)
            top = level is levels[-1]
            number = rng.random
            grams.append(
                {
                    tuple(row): (
                        -round(number() * 5, 6),
                        0.0 if top or number() < 0.3 else -round(number() * 2, 6),
                    )
                    for row in rows
                }
            )
        return Arpa(words, grams)

    return make
