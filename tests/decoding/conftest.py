"""Random language models, with KenLM as the reference of their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import kenlm
import numpy as np
import pytest

from asr.lm.ngram import NGram


class RandomLM(NamedTuple):
    """The same n-grams as our automaton and in KenLM."""

    lm: NGram
    reference: kenlm.Model

    def score(self, words: Sequence[str]) -> float:
        """Natural log of the sentence, its end included, by KenLM."""
        return self.reference.score(" ".join(words)) * math.log(10)

    def unknown(self, words: Sequence[str]) -> int:
        """Letters of the words that KenLM does not know."""
        return sum(len(word) for word in words if word not in self.reference)


def write_arpa(path: Path, words: Sequence[str], order: int, rng: np.random.Generator) -> None:
    """The n-grams of random sentences, with random probabilities and backoff weights."""
    grams: list[set[tuple[str, ...]]] = [set() for _ in range(order)]
    grams[0] = {(w,) for w in ("<unk>", "<s>", "</s>", *words)}
    for _ in range(3):
        sentence = ["<s>", *rng.choice(list(words), rng.integers(1, 5)), "</s>"]
        for n in range(1, order + 1):
            grams[n - 1] |= {tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1)}
    lines = ["\\data\\", *(f"ngram {n}={len(g)}" for n, g in enumerate(grams, 1))]
    for n, group in enumerate(grams, 1):
        lines += ["", f"\\{n}-grams:"]
        for gram in sorted(group):
            logp = "-99" if gram == ("<s>",) else f"{-rng.uniform(0.05, 2):.5f}"
            backoff = f"\t{-rng.uniform(0, 1):.5f}" if n < order and gram[-1] != "</s>" else ""
            lines.append(f"{logp}\t{' '.join(gram)}{backoff}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")


@pytest.fixture
def random_lm(tmp_path: Path) -> Callable[..., RandomLM]:
    """random_lm(words, unit, rng, order=3): a language model over `words`."""
    made = 0

    def make(words: Sequence[str], unit: str, rng: np.random.Generator, order: int = 3) -> RandomLM:
        nonlocal made
        made += 1
        path = tmp_path / f"{unit}{made}.arpa"
        write_arpa(path, words, order, rng)
        return RandomLM(NGram.open(path, unit), kenlm.Model(str(path)))

    return make
