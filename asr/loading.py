"""A transcriber from a folder and options: what commands and Python begin with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asr.data.segment import VAD
from asr.decoding.hotwords import Phrases
from asr.decoding.options import SearchOptions
from asr.decoding.weights import open_lms
from asr.errors import InputError
from asr.lm.lexicon import Words
from asr.models.folder import model_folder
from asr.models.recognizer import Recognizer
from asr.text.tokenizer import Tokenizer
from asr.transcriber import Transcriber


def load(
    folder: Path | str,
    *,
    head: str | None = None,
    beam: int | None = None,
    nbest: int = 1,
    lm: Path | str | Sequence[Path | str] = (),
    lm_unit: str | Sequence[str] = (),
    lm_weight: float | Sequence[float] = (),
    length_bonus: float = 0.0,
    unk_penalty: float | None = None,
    weights: Path | str | None = None,
    lexicon: Words | None = None,
    hotwords: Phrases | None = None,
    vad: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Transcriber:
    """A Transcriber from a model or experiment folder.

    lm: files of `asr lm train`, or ARPA, whose lm_unit is "word" unless "token" is said; lm_weight
    one for each (default 0.5); length_bonus for each word; unk_penalty for each letter of a word
    that the LM does not know (default -0.5); weights: a file of `asr tune` instead of these.
    lexicon: the only words to output, a file or a list; hotwords: a file, a list, or
    {phrase: bonus}.
    vad: "silero" finds speech in long recordings by a network (package silero-vad), not by levels.
    Raises InputError where a file is missing, broken, or does not belong to the model.
    """
    path = model_folder(folder)
    recognizer = Recognizer.load(path, device)
    tokenizer = Tokenizer.load(path)
    tokenizer.check_belongs(recognizer.vocabulary, recognizer.tokenizer_hash, path)
    lms = open_lms(
        [lm] if isinstance(lm, (str, Path)) else lm,
        units=[lm_unit] if isinstance(lm_unit, str) else lm_unit,
        lm_weights=[lm_weight] if isinstance(lm_weight, (int, float)) else lm_weight,
        bonus=length_bonus,
        unk_penalty=unk_penalty,
        weights_file=weights,
    )
    options = SearchOptions(nbest=nbest) if beam is None else SearchOptions(beam, nbest)
    return Transcriber(
        recognizer,
        tokenizer,
        head=head,
        options=options,
        lms=lms,
        lexicon=lexicon,
        hotwords=hotwords,
        vad=None if vad is None else open_vad(vad),
        threads=threads,
    )


def open_vad(name: str) -> VAD:
    """A voice activity detector by its name."""
    if name != "silero":
        raise InputError(f"no detector '{name}'", "vad", "There is 'silero'.")
    from asr.data.segment import SileroVAD

    return SileroVAD()
