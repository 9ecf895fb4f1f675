"""Recordings decoded once: from the second epoch on, training does not wait for FLAC or MP3."""

from __future__ import annotations

from threading import Lock

import numpy as np
from numpy.typing import NDArray

from asr.data.audio import Samples, audio_path, load
from asr.data.manifest import Utterance

Key = tuple[str, float, float | None]  # file, start and duration (seconds)
ENTRY = 400  # bytes that an utterance takes beside its samples


class AudioCache:
    """`load` that keeps the first `megabytes` of what it has read, whatever the corpus's size.

    Samples are kept in 16 bits where they are of 16 bits, so that what comes back is the same to
    the bit. Files must not change meanwhile. Several threads may read at once.
    """

    def __init__(self, sample_rate: int, megabytes: float) -> None:
        self.sample_rate, self.left = sample_rate, int(megabytes * 2**20)
        self.held: dict[Key, NDArray[np.int16] | Samples] = {}
        self.lock = Lock()

    def load(self, utterance: Utterance) -> Samples:
        """Samples (N,), which are the caller's own. Raises AudioError as `load`, every time."""
        u = utterance
        key = audio_path(u.audio, u.folder), u.start, u.duration
        held = self.held.get(key)
        if held is not None:
            scale = 32768 if held.dtype == np.int16 else 1
            return np.divide(held, scale, dtype=np.float32)
        samples = load(utterance, self.sample_rate)
        if 2 * len(samples) + ENTRY <= self.left:
            self._keep(key, samples)
        return samples

    def _keep(self, key: Key, samples: Samples) -> None:
        scaled = np.clip(samples * 32768, -32768, 32767).astype(np.int16)
        exact = np.array_equal(np.divide(scaled, 32768, dtype=np.float32), samples)
        kept = scaled if exact else samples.copy()
        with self.lock:
            if key not in self.held and kept.nbytes + ENTRY <= self.left:
                self.left -= kept.nbytes + ENTRY
                self.held[key] = kept
