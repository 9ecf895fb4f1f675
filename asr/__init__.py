"""End-to-end speech recognition: waveforms in, text out. `import asr` itself costs nothing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decoding.ctc_decoder import CTCDecoder
    from asr.hypothesis import Hypothesis, Word
    from asr.transcriber import Transcriber, load
    from asr.wer import wer

__version__ = "0.1.0"
__all__ = ["CTCDecoder", "Hypothesis", "Transcriber", "Word", "load", "wer"]

_HOME = {
    "CTCDecoder": "asr.decoding.ctc_decoder",
    "Hypothesis": "asr.hypothesis",
    "Transcriber": "asr.transcriber",
    "Word": "asr.hypothesis",
    "load": "asr.transcriber",
    "wer": "asr.wer",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value  # shadows the submodule of the same name
        return value
    raise AttributeError(f"module 'asr' has no attribute '{name}'")
