"""The tokens of a network as text: what a sequence of them says, and when each word was said."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.hypothesis import UNSPACED, Word, split_words
from asr.kernels import njit_short
from asr.text.pieces import is_boundary, letters

Ints = NDArray[np.integer[Any]]


class Inventory:
    """Tokens by id; `|`, " " or a leading "▁" is the word boundary."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._text = [" " if token == "|" else token.replace("▁", " ") for token in tokens]
        spelt = [letters(token) for token in tokens]
        self._parts = [  # the words of each token, or its part of one
            split_words(text) if UNSPACED.search(text) else [text] * bool(text) for text in spelt
        ]
        self._count = np.array([len(parts) for parts in self._parts])
        self._ends_word = np.array([UNSPACED.search(text) is not None for text in spelt])
        self._begins_word = self._ends_word | [is_boundary(token) for token in tokens]

    def text(self, ids: Sequence[int]) -> str:
        """The words that token ids spell, separated by single spaces."""
        return " ".join("".join([self._text[i] for i in ids]).split())

    def words(self, ids: Sequence[int], start: Ints, end: Ints, frame_shift: float) -> list[Word]:
        """Words from a text's tokens and the first and last + 1 frame of each, (U,); in scripts
        without spaces each character is one, and shares the time of its token equally."""
        tokens = np.asarray(ids, np.int32)
        assert len(tokens) == len(start) == len(end)  # the loop does not check its indices
        parts = [part for i in ids for part in self._parts[i]]
        times, first = np.empty((2, len(parts))), np.empty(len(parts) + 1, np.int32)
        count = _spans(
            tokens, self._count, self._begins_word, self._ends_word, start, end, times, first
        )
        bounds = itertools.pairwise(first[: count + 1].tolist())
        texts = ["".join(parts[a:b]) for a, b in bounds]
        return list(map(Word, texts, *np.round(times[:, :count] * frame_shift, 4).tolist()))


@njit_short
def _spans(
    tokens: Any, count: Any, begins: Any, ends: Any, start: Any, end: Any, times: Any, first: Any
) -> Any:
    """How many words; their frames in times (2, P), and the first of the P parts of each, and P
    after the last, in first (P + 1,).

    A part begins a word unless it goes on with the one before. Of each token of the inventory (V,):
    its parts, and whether it begins and ends a word; of each of the text (U,): start and end frame.
    """
    words, parts, new = 0, 0, True
    for u in range(len(tokens)):
        new = new or begins[tokens[u]]
        step = (end[u] - start[u]) / max(count[tokens[u]], 1)
        for n in range(count[tokens[u]]):
            if new or n > 0:
                times[0, words], first[words] = start[u] + n * step, parts
                words += 1
            times[1, words - 1] = start[u] + (n + 1) * step
            new, parts = False, parts + 1
        new = new or ends[tokens[u]]
    first[words] = parts
    return words
