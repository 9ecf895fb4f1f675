"""Hypotheses and the n-best file, the one record that rescoring, tuning and scoring read.

An n-best file is JSON lines: first `{"meta": {...}}`, then `{"id": ..., "nbest": [...]}` for every
utterance of the manifest, best hypothesis first. A failure is an empty list with its `error`.
"""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from asr.errors import InputError
from asr.files import cannot_read, whole_file

# Han, kana and their punctuation: written without spaces.
UNSPACED = re.compile("[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_WORD = re.compile(f"{UNSPACED.pattern}|[^\\s{UNSPACED.pattern[1:]}+")


def split_words(text: str) -> list[str]:
    """Words between spaces; characters of scripts that have none count as words."""
    return _WORD.findall(text)


def join_words(words: Iterable[str]) -> str:
    """A text of words, with spaces but between characters of scripts that have none."""
    text = ""
    for word in words:
        close = UNSPACED.match(text[-1:]) and UNSPACED.match(word)
        text += word if close or not text else f" {word}"
    return text


@dataclass(slots=True)
class Word:
    """A word and when it was said (seconds from the start of the utterance)."""

    word: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(slots=True)
class Weights:
    """Weights of the raw scores; `total` is their sum (all natural logs).

    total = ctc·s_ctc + att·s_att + Σ_i lm[i]·s_lm[i] + bonus·length + unk·unknown
            + hotwords + coverage
    """

    ctc: float = 0.0
    att: float = 0.0
    lm: dict[str, float] = field(default_factory=dict)
    bonus: float = 0.0
    unk: float = 0.0  # at most 0


@dataclass(slots=True)
class Hypothesis:
    """One transcript of an utterance with its raw scores.

    scores: "ctc" and "att" natural logs, "lm" {name: natural log, sentence end included},
    "length" a count (of words; of tokens where every LM is of tokens), "unknown" where an LM is of
    words: the letters of words that it does not know; "hotwords" their bonuses where there are hot
    words, "coverage" its bonuses where it counts, "total" the weighted sum.
    frames: of each token; CTC: of its most probable emission, LAS: the one most attended to.
    """

    text: str
    tokens: list[int] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    words: list[Word] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)

    @property
    def total(self) -> float:
        return float(self.scores.get("total", 0.0))

    @property
    def bonuses(self) -> float:
        """What counts in the total as it is: hot words and coverage."""
        return float(sum(self.scores.get(name, 0.0) for name in ("hotwords", "coverage")))

    def rate(self, weights: Weights) -> float:
        """The weighted sum of the raw scores; a score that is absent counts zero."""
        get, lms = self.scores.get, self.scores.get("lm", {})
        total = weights.ctc * get("ctc", 0.0)
        total += weights.att * get("att", 0.0)
        for name, weight in weights.lm.items():
            total += weight * lms.get(name, 0.0)
        total += weights.bonus * get("length", 0)
        total += weights.unk * get("unknown", 0)
        return float(total + self.bonuses)


def hypothesis_from(record: Mapping[str, Any]) -> Hypothesis:
    """A Hypothesis from its JSON record. Raises KeyError, TypeError, ValueError, AttributeError."""
    words = [Word(**word) for word in record.get("words", [])]
    tokens, frames = list(record.get("tokens", [])), list(record.get("frames", []))
    found = Hypothesis(record["text"], tokens, dict(record.get("scores", {})), words, frames)
    if not isinstance(found.text, str):
        raise TypeError(f"'text' is {found.text!r}")
    if not {*map(type, tokens)} <= {int}:
        raise TypeError("'tokens' are no ids")
    check_numbers("scores", found.scores)
    for word in words:
        times = word.start, word.end, word.confidence or 0.0
        if not {*map(type, times)} <= {int, float}:
            raise TypeError(f"'words' has the numbers {times!r:.60}")
    return found


def check_numbers(key: str, record: Mapping[str, Any]) -> None:
    """Raises TypeError unless all values are numbers, or {name: number} under "lm"."""
    own = dict(record)
    for name, value in (*dict(own.pop("lm", {})).items(), *own.items()):
        if not isinstance(value, int | float):
            raise TypeError(f"'{name}' of '{key}' is {value!r:.40}")


def length_unit(units: Iterable[object]) -> str:
    """What `length` counts beside LMs of such units."""
    return "tokens" if {*units} == {"token"} else "words"


def check_finite(weights: Weights, where: object = None) -> None:
    """Raises InputError for NaN and infinity, and where unknown words would be rewarded."""
    numbers = {"weight of ctc": weights.ctc, "weight of att": weights.att}
    numbers |= {f"weight of the LM '{name}'": weight for name, weight in weights.lm.items()}
    numbers |= {"length bonus": weights.bonus, "penalty of unknown words": weights.unk}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise InputError(f"the {name} is {number}", where, "Give a finite number.")
    if weights.unk > 0:
        what = f"the penalty of unknown words is {weights.unk:g}, above 0"
        raise InputError(what, where, "It is added for each of their letters: give 0 or less.")


KINDS: tuple[tuple[str, Any], ...] = (  # of what is read of a meta record or a weights file
    ("weights lms confidence wer", dict),
    ("manifest tuned_on", dict | None),
    ("audio_seconds decode_seconds", int | float),
    ("length", str),
    ("beam", int),
    ("tokens", list),
    ("normalizer", dict | list | str | None),
)


def check_kinds(record: Mapping[str, Any]) -> None:
    """Raises TypeError where a meta record or a weights file holds a value of another type."""
    for key, kind in ((key, kind) for keys, kind in KINDS for key in keys.split()):
        if key in record and not isinstance(record[key], kind):
            raise TypeError(f"'{key}' is {record[key]!r:.40}")
    normalizer = record.get("normalizer")
    if isinstance(normalizer, dict) and not isinstance(normalizer.get("rules"), list):
        raise TypeError(f"'normalizer' without a list 'rules': {normalizer!r:.40}")
    for key in ("weights", "confidence", "wer"):
        check_numbers(key, record.get(key, {}))
    for name, lm in record.get("lms", {}).items():
        if not isinstance(lm, dict):
            raise TypeError(f"'{name}' of 'lms' is {lm!r:.40}")


@dataclass(slots=True)
class NBest:
    """The hypotheses of one utterance, best first; `error` says why there are none."""

    id: str
    nbest: list[Hypothesis]
    error: str | None = None

    @property
    def text(self) -> str:
        return self.nbest[0].text if self.nbest else ""


def write_nbest(path: Path | str, meta: Mapping[str, Any], utterances: Iterable[NBest]) -> None:
    """Write an n-best file; it appears under its name only when it is complete. `meta` is read
    after all utterances, so it may hold what is known only then."""
    path = Path(path)
    with (
        whole_file(path) as file,
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent) as body,
    ):
        for utterance in utterances:
            record = {"id": utterance.id, "nbest": [asdict(h) for h in utterance.nbest]}
            if utterance.error:
                record["error"] = utterance.error
            body.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.write(json.dumps({"meta": dict(meta)}, ensure_ascii=False) + "\n")
        body.seek(0)
        shutil.copyfileobj(body, file)


def read_nbest(path: Path | str) -> tuple[dict[str, Any], Iterator[NBest]]:
    """The meta record and an iterator over the utterances, read as they are asked for.

    Raises InputError, with the line, for what is broken or of the wrong type.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:  # JSON decodes; bytes that are not UTF-8 are a broken line
            meta = dict(json.loads(file.readline())["meta"])
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("is not an n-best file", path, "`asr decode` writes them.") from error
    try:
        check_kinds(meta)
    except (TypeError, ValueError) as error:
        raise InputError(f"broken meta record: {error}", f"{path}:1", "Decode again.") from error
    return meta, _utterances(path)


def _utterances(path: Path) -> Iterator[NBest]:
    with open(path, "rb") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            try:
                record = json.loads(line)
                nbest = [hypothesis_from(h) for h in record["nbest"]]
                if not isinstance(record["id"], str):
                    raise TypeError(f"'id' is {record['id']!r}")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                what = f"broken line ({error}): {line[:80].decode(errors='replace')!r}"
                raise InputError(what, f"{path}:{number}", "Decode again.") from error
            yield NBest(record["id"], nbest, record.get("error"))


SAME = ("model_hash", "tokens", "lms", "lexicon", "hotwords")  # of lists that join


def read_lists(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], Iterator[NBest]]:
    """Lists of the same utterances, decoded by several weights, as one. A list adds the texts that
    those before it lack. Returns their meta records, and the utterances.

    Raises InputError if they are of other utterances, or of another model or LM.
    """
    metas, streams = zip(*map(read_nbest, paths), strict=True)
    for path, meta in zip(paths, metas, strict=True):
        for key in SAME:
            if without_paths(meta.get(key)) != without_paths(metas[0].get(key)):
                what = f"differs from {paths[0]} in its {key}: their scores cannot be compared"
                raise InputError(what, path, "Decode again; only weights and beam may differ.")

    def utterances() -> Iterator[NBest]:
        for row in zip_longest(*streams):
            ids = [one and one.id for one in row]
            for path, id in zip(paths, ids, strict=True):
                if id != ids[0]:
                    what = f"holds other utterances than {paths[0]}, or in another order"
                    raise InputError(what, path, "Decode the same manifest.")
            joined: list[Hypothesis] = []
            for one in row:
                known = {hypothesis.text for hypothesis in joined}
                joined += [h for h in one.nbest if h.text not in known]
            yield NBest(row[0].id, joined, row[0].error)

    return list(metas), utterances()


def without_paths(entry: Any) -> Any:
    """An entry of a meta record without what may differ for the same file, known by its hash."""
    if not isinstance(entry, dict):
        return entry
    kept = (key for key in entry if key not in ("path", "lm_words"))
    return {key: without_paths(entry[key]) for key in kept}


def merge_nbest(path: Path | str, meta: Mapping[str, Any], parts: Sequence[Path]) -> None:
    """Write one n-best file of the i-th utterance of every part for i = 0, 1, ...; parts go."""
    rows = zip_longest(*(read_nbest(part)[1] for part in parts))
    write_nbest(path, meta, (result for row in rows for result in row if result is not None))
    for part in parts:
        part.unlink()
