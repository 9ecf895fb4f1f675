"""End-to-end speech recognition: waveforms in, text out. `import asr` itself costs nothing.

load         a trained model, as a Transcriber: .transcribe, .align
CTCDecoder   beam search over the outputs of any toolkit
wer          word error rate
compare      the paired test of two systems
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decoding.ctc_decoder import CTCDecoder
    from asr.errors import AudioError, InputError
    from asr.hypothesis import Hypothesis, Word
    from asr.loading import load
    from asr.transcriber import Transcriber
    from asr.wer import Comparison, compare, wer

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "CTCDecoder",
    "Comparison",
    "Hypothesis",
    "InputError",
    "Transcriber",
    "Word",
    "compare",
    "load",
    "wer",
]

_HOME = {
    "AudioError": "asr.errors",
    "CTCDecoder": "asr.decoding.ctc_decoder",
    "Comparison": "asr.wer",
    "Hypothesis": "asr.hypothesis",
    "InputError": "asr.errors",
    "Transcriber": "asr.transcriber",
    "Word": "asr.hypothesis",
    "compare": "asr.wer",
    "load": "asr.loading",
    "wer": "asr.wer",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value  # shadows the submodule of the same name
        return value
    raise AttributeError(f"module 'asr' has no attribute '{name}'")
