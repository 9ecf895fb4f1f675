"""`asr.CTCDecoder`: decode the CTC outputs of any toolkit. Needs numpy and numba only.

>>> decoder = asr.CTCDecoder("tokens.txt", lm="words.arpa.gz", lm_weight=0.5, length_bonus=1.0)
>>> text = decoder.decode(log_probs).text
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import ctc_search
from asr.decoding.lexicon_search import make_fusion
from asr.decoding.options import SearchOptions
from asr.errors import InputError, nearest
from asr.hypothesis import Hypothesis, Weights
from asr.lm.lexicon import Pronunciations
from asr.lm.ngram import NGram

LogProbs = NDArray[np.floating[Any]]  # (T, V) natural logs of one utterance


def read_tokens(path: Path | str) -> list[str]:
    """The tokens of a tokens.txt, one a line in the network's order, the blank first."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"cannot be read ({reason})", path, "One token a line.") from error
    return text.removesuffix("\n").replace("\r\n", "\n").split("\n")


class CTCDecoder:
    """Beam search over CTC outputs with n-gram language models.

    tokens: a list or the path of a tokens.txt; token 0 is the blank; `|`, " " or a leading "▁" is
    the word boundary; <unk>, <s>, </s> and <pad> are never output.
    lm: a language model (file of `asr lm train`, .arpa, .arpa.gz or NGram), or several in a list or
    under their names in a dict: at most one of words and one of tokens.
    lm_unit: "word" (of ARPA files the default) or "token". lm_weight: natural logs; a list for
    several.
    length_bonus: for every word (for every token where all LMs are of tokens).
    unk_penalty: natural log added to the score of an unknown word.
    lexicon: the only words that are output: a file (see asr.lm.lexicon.read_lexicon; a word alone
    is spelt by its letters) or {word: [(probability, units)]}.
    hotwords: phrases and their bonuses (natural logs), {phrase: bonus}, or a file with one a line.
    frame_shift: seconds a frame; without it times are in frames.
    options: how wide the search is; `beam` and other fields of SearchOptions may be given singly.
    """

    def __init__(
        self,
        tokens: Sequence[str] | Path | str,
        lm: NGram | Path | str | Sequence[NGram | Path | str] | Mapping[str, Any] | None = None,
        *,
        lm_unit: str | None = None,
        lm_weight: float | Sequence[float] = 0.5,
        length_bonus: float = 0.0,
        unk_penalty: float = 0.0,
        lexicon: Path | str | Pronunciations | None = None,
        hotwords: Path | str | Mapping[str, float] | None = None,
        frame_shift: float = 1.0,
        options: SearchOptions | None = None,
        **settings: Any,
    ) -> None:
        where = tokens if isinstance(tokens, (str, Path)) else "tokens"
        self.tokens = read_tokens(tokens) if isinstance(tokens, (str, Path)) else list(tokens)
        if len(self.tokens) < 2:
            raise InputError("holds no tokens besides the blank", where, "One token a line.")
        lms = _open(lm, lm_unit)
        if isinstance(lm_weight, (int, float)):
            weights = [float(lm_weight)] * len(lms)
        else:
            weights = list(lm_weight)
        if len(weights) != len(lms):
            what = f"{len(weights)} weights for {len(lms)} language models"
            raise InputError(what, "lm_weight", "Give one number, or a list with one for each.")
        by_name = dict(zip(lms, weights, strict=True))
        self.fusion = make_fusion(
            self.tokens,
            lms,
            Weights(ctc=1.0, lm=by_name, bonus=length_bonus),
            unk_penalty,
            lexicon=lexicon,
            hotwords=hotwords,
        )
        known = [field.name for field in fields(SearchOptions)]
        for name in settings.keys() - known:
            arguments = [*list(inspect.signature(CTCDecoder).parameters)[1:-1], *known]
            raise InputError(f"no setting '{name}'", "CTCDecoder", nearest(name, arguments))
        self.options = replace(options or SearchOptions(), **settings)
        self.frame_shift = frame_shift

    def decode(self, log_probs: LogProbs) -> Hypothesis:
        """The best hypothesis of one utterance, (T, V); the empty text where T is 0."""
        return self._search(log_probs, replace(self.options, nbest=1))[0]

    def decode_nbest(self, log_probs: LogProbs, nbest: int = 10) -> list[Hypothesis]:
        """Up to `nbest` hypotheses of distinct texts, best first."""
        return self._search(log_probs, replace(self.options, nbest=nbest))

    def decode_batch(
        self, batch: Iterable[LogProbs], threads: int | None = None
    ) -> list[Hypothesis]:
        """The best hypothesis of each utterance, decoded in `threads` threads (default: cores)."""
        options = replace(self.options, nbest=1)
        found = ctc_search.search_batch(batch, self.fusion, options, threads, self.frame_shift)
        return [nbest[0] for nbest in found]

    def greedy(self, log_probs: LogProbs) -> Hypothesis:
        """The most probable token of each frame, without search or language model."""
        return ctc_search.greedy(log_probs, self.fusion, self.frame_shift)

    def _search(self, log_probs: LogProbs, options: SearchOptions) -> list[Hypothesis]:
        return ctc_search.search(log_probs, self.fusion, options, self.frame_shift)


def _open(lm: Any, unit: str | None) -> dict[str, NGram]:
    """Language models under their names."""
    if lm is None:
        return {}
    if isinstance(lm, (NGram, str, Path)):
        lm = [lm]
    if isinstance(lm, Mapping):
        return {name: _open_one(item, unit) for name, item in lm.items()}
    opened = [_open_one(item, unit) for item in lm]
    names = {model.name: model for model in opened}
    if len(names) < len(opened):
        raise InputError("two language models have one name", "lm", "Give a dict with names.")
    return names


def _open_one(lm: NGram | Path | str, unit: str | None) -> NGram:
    if isinstance(lm, NGram):
        return lm
    return NGram.open(lm, unit or ("word" if ".arpa" in Path(lm).suffixes else None))
