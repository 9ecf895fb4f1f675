"""The tokens of a network as text: what a sequence of them says, and when each word was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.hypothesis import UNSPACED, Word, split_words
from asr.text.pieces import is_boundary, letters

Ints = NDArray[np.integer[Any]]


class Inventory:
    """Tokens by id; `|`, " " or a leading "▁" is the word boundary."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._text = [" " if token == "|" else token.replace("▁", " ") for token in tokens]
        self._boundary = [is_boundary(token) for token in tokens]
        spelt = [letters(token) for token in tokens]
        self._unspaced = [UNSPACED.search(text) is not None for text in spelt]
        self._parts = [  # the words of each token, or its part of one
            split_words(text) if unspaced else [text] * bool(text)
            for text, unspaced in zip(spelt, self._unspaced, strict=True)
        ]

    def text(self, ids: Sequence[int]) -> str:
        """The words that token ids spell, separated by single spaces."""
        return " ".join("".join([self._text[i] for i in ids]).split())

    def words(self, ids: Sequence[int], start: Ints, end: Ints, frame_shift: float) -> list[Word]:
        """Words from a text's tokens and the first and last + 1 frame of each, (U,); in scripts
        without spaces each character is one, and shares the time of its token equally."""
        words: list[str] = []
        begins: list[float] = []
        ends: list[float] = []
        inside = False  # is a word under way, which more letters make longer?
        for i, first, last in zip(ids, start.tolist(), end.tolist(), strict=True):
            parts = self._parts[i]
            if self._boundary[i] or self._unspaced[i]:
                inside = False
            if inside and parts:
                words[-1] += parts[0]
                ends[-1] = last
            elif parts:
                step = (last - first) / len(parts)
                for n, part in enumerate(parts):
                    words.append(part)
                    begins.append(first + n * step)
                    ends.append(first + (n + 1) * step)
                inside = not self._unspaced[i]
        times = np.round(np.array([begins, ends]) * frame_shift, 4).tolist()
        return list(map(Word, words, *times))
