"""The n-gram automaton in torch: many states and words at once, on any device.

>>> lm = BatchedNGram(NGram.open("data/word.lm"), "cpu")
>>> states = torch.full((5,), lm.start)
>>> logprob, following = lm.advance(states[:, None], torch.arange(lm.words))  # both (N, V)

The same sums of the same arrays as in asr/lm/ngram.py; nothing else in asr.lm imports torch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from asr.lm.ngram import EOS, UNK, NGram


class BatchedNGram:
    """A language model whose arrays are tensors on `device`; see NGramArrays."""

    def __init__(self, lm: NGram, device: str | torch.device = "cpu") -> None:
        self.word, self.logprob, self.next, self.begin, self.backoff, self.backoff_state = (
            torch.from_numpy(np.array(array)).to(device) for array in lm.arrays[:6]
        )
        self.words, self.start = int(lm.arrays.begin[1]), lm.start()  # V, a state
        # of the arcs of a state other than the empty one
        self._halvings = int(np.diff(lm.arrays.begin[1:]).max(initial=0)).bit_length()

    def advance(self, states: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Integer tensors of shapes that broadcast -> natural log probabilities (float64) and the
        next states (int64), of the common shape."""
        shape = (states.long() + words.long()).shape
        states, words = states.long().expand(shape), words.long().expand(shape)
        words = torch.where((words >= 0) & (words < self.words), words, UNK)
        states = torch.where((states >= 0) & (states < len(self.backoff)), states, 0)
        logprob = torch.zeros(states.shape, dtype=torch.float64, device=states.device)
        arc = torch.where(states == 0, words, self._find(states, words))
        while bool((missing := arc < 0).any()):
            logprob += torch.where(missing, self.backoff[states].double(), 0.0)
            shorter = self.backoff_state[states].long()
            shorter = torch.where((shorter >= 0) & (shorter < states), shorter, 0)
            states = torch.where(missing, shorter, states)
            found = torch.where(states == 0, words, self._find(states, words))
            arc = torch.where(missing, found, arc)
        following = self.next[arc].long()
        following = torch.where((following >= 0) & (following < len(self.backoff)), following, 0)
        return logprob + self.logprob[arc].double(), following

    def final(self, states: Tensor) -> Tensor:
        """Natural log probabilities (float64) of the sentence end."""
        return self.advance(states, torch.tensor(EOS, device=states.device))[0]

    def _find(self, states: Tensor, words: Tensor) -> Tensor:
        """The arcs of `words` by binary search; -1 where a state has none."""
        arcs = len(self.word)
        low = self.begin[states].long().clamp(0, arcs)
        end = self.begin[states + 1].long().clamp(0, arcs)
        high = end
        for _ in range(self._halvings):
            middle = (low + high) >> 1
            right = (low < high) & (self.word[middle.clamp(max=arcs - 1)] < words)
            low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
        found = (low < end) & (self.word[low.clamp(max=arcs - 1)] == words)
        return torch.where(found, low, -1)
