"""End-to-end speech recognition: waveforms in, text out. `import asr` itself costs nothing.

load         a trained model, as a Transcriber: .transcribe, .align
CTCDecoder   beam search over the outputs of any toolkit
wer          word error rate
compare      the paired test of two systems
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decoding.ctc_decoder import CTCDecoder
    from asr.errors import AudioError, InputError
    from asr.hypothesis import Hypothesis, Word
    from asr.transcriber import Transcriber, load
    from asr.wer import Comparison, compare, wer

__version__ = "0.1.0"
__all__ = ["AudioError", "CTCDecoder", "Comparison", "Hypothesis", "InputError"]
__all__ += ["Transcriber", "Word", "compare", "load", "wer"]
_HOMES = {
    "asr.decoding.ctc_decoder": ["CTCDecoder"],
    "asr.errors": ["AudioError", "InputError"],
    "asr.hypothesis": ["Hypothesis", "Word"],
    "asr.transcriber": ["Transcriber", "load"],
    "asr.wer": ["Comparison", "compare", "wer"],
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:  # shadows the submodule of the same name
            value = globals()[name] = getattr(importlib.import_module(home), name)
            return value
    raise AttributeError(f"module 'asr' has no attribute '{name}'")
