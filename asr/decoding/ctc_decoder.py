"""`asr.CTCDecoder`: decode the CTC outputs of any toolkit. Needs numpy and numba only.

>>> decoder = asr.CTCDecoder("tokens.txt", lm="words.arpa.gz", lm_weight=0.5, length_bonus=1.0)
>>> text = decoder.decode(log_probs).text
"""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import ctc_search
from asr.decoding.hotwords import Phrases
from asr.decoding.lexicon_search import make_fusion
from asr.decoding.options import DEFAULT_UNK, DEFAULT_WEIGHT, SearchOptions
from asr.errors import InputError, nearest
from asr.files import cannot_read
from asr.hypothesis import Hypothesis, Weights
from asr.lm.lexicon import Words
from asr.lm.ngram import NGram, is_arpa
from asr.text.pieces import is_boundary

BLANKS = ("<blank>", "<blk>", "<eps>", "")  # how other toolkits name the blank
PADDING = ("<pad>", "[PAD]")  # is the blank where token 0 is an ordinary one

LogProbs = NDArray[np.floating[Any]]  # (T, V) natural logs of one utterance


def read_tokens(path: Path | str) -> list[str]:
    """The tokens of a tokens.txt, one a line in the network's order, the blank first.

    As k2, icefall and WeNet write it, a line is `token number`; #0, #1, ... at the end, which
    networks do not output, are left out. Raises InputError as `check_tokens`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_read(path, error, "One token a line.") from error
    tokens = text.removesuffix("\n").replace("\r\n", "\n").split("\n")
    pairs = [line.split() for line in tokens]
    by_number = {int(p[1]): p[0] for p in pairs if len(p) == 2 and p[1].isdecimal()}
    if sorted(by_number) == list(range(len(tokens))):
        tokens = [by_number[number] for number in range(len(tokens))]
        while tokens and re.fullmatch(r"#\d+", tokens[-1]):
            tokens.pop()
    check_tokens(tokens, path)
    return tokens


def check_tokens(tokens: Sequence[str], where: object) -> None:
    """Raise InputError unless tokens differ and the first may be the blank."""
    if len(tokens) < 2:
        raise InputError("holds no tokens besides the blank", where, "One token a line.")
    token, times = Counter(tokens).most_common(1)[0]
    if times > 1:
        what = f"has the token '{token}' {times} times"
        raise InputError(what, where, "Each output of the network has a token of its own.")
    ordinary = is_boundary(tokens[0]) or tokens[0].isalnum()
    blanks = BLANKS + PADDING if ordinary else BLANKS
    place = next((i for i, token in enumerate(tokens) if token in blanks), 0)
    if place:
        what = f"'{tokens[place]}' is token {place}, but the blank must be token 0"
        remedy = "Move it to the front, and its column of the network's outputs too."
        raise InputError(what, where, remedy)


def check_frame_shift(seconds: float, where: str) -> None:
    """Raise InputError unless it can be the time between two frames."""
    if not 0 < seconds < math.inf:
        what = f"is {seconds}; it must be above 0 and finite"
        raise InputError(what, where, "Give the seconds between two frames.")


class CTCDecoder:
    """Beam search over CTC outputs with n-gram language models.

    tokens: a list or the path of a tokens.txt; token 0 is the blank; `|`, " " or a leading "▁" is
    the word boundary; <unk>, <s>, </s> and <pad> are never output.
    lm: a language model (file of `asr lm train`, .arpa, .arpa.gz or NGram), or several in a list or
    under their names in a dict: at most one of words and one of tokens.
    lm_unit: "word" (of ARPA files the default) or "token". lm_weight: of natural logs; for several
    a list, or a dict by their names.
    length_bonus: for every word (for every token where all LMs are of tokens).
    unk_penalty: natural log added for each letter of an unknown word, 0 or less.
    lexicon: the only words that are output: a file (see asr.lm.lexicon.read_lexicon; a word alone
    is spelt by its letters), a list of words, or {word: [(probability, units)]}.
    hotwords: phrases: {phrase: bonus (natural log)}, a list, or a file with one a line, optionally
    TAB and bonus; without bonus each has 5.
    frame_shift: seconds a frame; without it times are in frames.
    options: how wide the search is; `beam` and other fields of SearchOptions may be given singly.
    """

    def __init__(
        self,
        tokens: Sequence[str] | Path | str,
        lm: NGram | Path | str | Sequence[NGram | Path | str] | Mapping[str, Any] | None = None,
        *,
        lm_unit: str | None = None,
        lm_weight: float | Sequence[float] | Mapping[str, float] = DEFAULT_WEIGHT,
        length_bonus: float = 0.0,
        unk_penalty: float = DEFAULT_UNK,
        lexicon: Words | None = None,
        hotwords: Phrases | None = None,
        frame_shift: float = 1.0,
        options: SearchOptions | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(tokens, (str, Path)):
            self.tokens = read_tokens(tokens)
        else:
            self.tokens = list(tokens)
            check_tokens(self.tokens, "tokens")
        lms = _open(lm, lm_unit)
        self.fusion = make_fusion(
            self.tokens,
            lms,
            Weights(ctc=1.0, lm=_weigh(lms, lm_weight), bonus=length_bonus, unk=unk_penalty),
            lexicon=lexicon,
            hotwords=hotwords,
        )
        known = [field.name for field in fields(SearchOptions)]
        for name in settings.keys() - known:
            arguments = [*list(inspect.signature(CTCDecoder).parameters)[1:-1], *known]
            raise InputError(f"no setting '{name}'", "CTCDecoder", nearest(name, arguments))
        self.options = replace(options or SearchOptions(), **settings)
        check_frame_shift(frame_shift, "frame_shift")
        self.frame_shift = frame_shift

    def decode(self, log_probs: LogProbs) -> Hypothesis:
        """The best hypothesis of one utterance, (T, V); the empty text where T is 0.

        The beam reaches further than that of `decode_nbest`, whose best may be another text.
        """
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


def _weigh(
    lms: Mapping[str, NGram], given: float | Sequence[float] | Mapping[str, float]
) -> dict[str, float]:
    """The weight of each language model by its name."""
    if isinstance(given, Mapping):
        if given.keys() != lms.keys():
            what = f"weights for {', '.join(given)}; the language models: {', '.join(lms)}"
            raise InputError(what, "lm_weight", "Give one for each, under its name.")
        return {name: given[name] for name in lms}
    weights = [given] * len(lms) if isinstance(given, (int, float, np.number)) else list(given)
    if len(weights) != len(lms):
        what = f"{len(weights)} weights for {len(lms)} language models"
        raise InputError(what, "lm_weight", "Give one number, or a list with one for each.")
    return dict(zip(lms, weights, strict=True))


def _open_one(lm: NGram | Path | str, unit: str | None) -> NGram:
    if isinstance(lm, NGram):
        return lm
    return NGram.open(lm, unit or ("word" if is_arpa(lm) else None))
