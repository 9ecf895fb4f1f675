"""Speech found by a network: Silero VAD, in its own package (github.com/snakers4/silero-vad)."""

from __future__ import annotations

import warnings

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from asr.data.segment import FRAME, Samples
from asr.errors import InputError

WINDOWS = {8000: 256, 16000: 512}  # samples that the network judges at once
PROBABLE = 0.5  # a window is speech above it


class SileroVAD:
    """Which frames of a recording are speech; in the place of `segment.find_speech`, where noise is
    as loud as speech. Raises InputError where the package silero-vad is not installed."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # how it loads its weights is its own business
                import silero_vad

                self.network = silero_vad.load_silero_vad()
        except ImportError as error:
            what = "the package silero-vad is not installed"
            raise InputError(what, "--vad", "Install it: pip install silero-vad.") from error
        torch.set_num_threads(threads)  # importing it sets 1

    @torch.inference_mode()
    def __call__(self, samples: Samples, rate: int) -> NDArray[np.bool_]:
        """(T,) for the frames of 10 ms of samples (N,)."""
        frames = -(-len(samples) // round(FRAME * rate))
        if rate not in WINDOWS:
            samples, rate = soxr.resample(samples, rate, 16000), 16000
        size = WINDOWS[rate]
        windows = torch.from_numpy(np.pad(samples, (0, -len(samples) % size)).reshape(-1, size))
        self.network.reset_states()
        judged = np.array([float(self.network(window, rate)) > PROBABLE for window in windows])
        place = (np.arange(frames) * (FRAME * rate / size)).astype(int)
        speech: NDArray[np.bool_] = judged[np.minimum(place, len(judged) - 1)]
        return speech
