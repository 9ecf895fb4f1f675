"""The n-gram automaton: a backoff language model as flat arrays, read by compiled loops.

A state is a context w₁…wₙ of the ARPA file that is extended by some word or has a backoff weight;
state 0 is the empty context. Its arcs are the words seen after it, sorted. Where a word has no arc,

    log p(w | s) = backoff(s) + log p(w | backoff_state(s))

The file is mapped into memory: a JSON header with a checksum, then the arrays. The loops check the
indices that they read there: a damaged file gives an error or a wrong score, never a crash. Scores
equal KenLM's (K. Heafield, "KenLM: Faster and Smaller Language Model Queries", WMT 2011).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import cannot_read, whole_file
from asr.kernels import njit_lean
from asr.text.normalize import Normalizer, check_same, get_normalizer
from asr.text.tokenizer import Tokenizer

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]

UNK, BOS, EOS = 0, 1, 2
RESERVED = ("<unk>", "<s>", "</s>")
UNITS = ("word", "token")
FNV_START = np.uint64(14695981039346656037)
FNV_PRIME = np.uint64(1099511628211)

MAGIC = b"asrngram"
FORMAT = 1
ALIGN = 64
DTYPES = ("<i4", "<f4", "<i4", "<i4", "<f4", "<i4", "<u8", "<i4", "<i4", "|u1")  # arrays, words


class NGramArrays(NamedTuple):
    """S states, A arcs, V words, H (a power of two) slots of the word table; order N."""

    word: Ints  # (A,) word of the arc; sorted within a state
    logprob: Floats  # (A,) natural log
    next: Ints  # (A,) state after the arc
    begin: Ints  # (S + 1,) first arc of each state; arc i < V is word i after state 0
    backoff: Floats  # (S,) natural log
    backoff_state: Ints  # (S,) a shorter context, of a smaller number
    hash_keys: Hashes  # (H,) FNV-1a of the word, open addressing; 0 is an empty slot
    hash_ids: Ints  # (H,)
    level: Ints  # (N,) the states of n words begin at level[n]


@njit_lean
def fnv(h: np.uint64, byte: int) -> np.uint64:
    """One step of the FNV-1a hash; begin with FNV_START."""
    return (np.uint64(h) ^ np.uint64(byte)) * FNV_PRIME


@njit_lean
def hash_word(word: Bytes) -> np.uint64:
    """The FNV-1a hash of a word's UTF-8 bytes."""
    h = FNV_START
    for i in range(word.size):
        h = fnv(h, word[i])
    return h


@njit_lean
def lookup(a: NGramArrays, key: np.uint64) -> int:
    """The id of the word whose hash is `key`, or 0 (<unk>)."""
    mask = np.uint64(a.hash_keys.size - 1)
    slot = key & mask
    for _ in range(a.hash_keys.size):
        if a.hash_keys[slot] == key:
            word = int(a.hash_ids[slot])
            return word if 0 <= word < a.begin[1] else UNK
        if a.hash_keys[slot] == 0:
            return UNK
        slot = (slot + np.uint64(1)) & mask
    return UNK


@njit_lean
def search(words: Ints, low: int, high: int, word: int) -> int:
    """Where `word` stands in the sorted words[low:high], or -1."""
    low, high = max(low, 0), min(high, words.size)
    end = high
    while low < high:
        middle = (low + high) >> 1
        if words[middle] < word:
            low = middle + 1
        else:
            high = middle
    return low if low < end and words[low] == word else -1


@njit_lean
def advance(a: NGramArrays, state: int, word: int) -> tuple[float, int, int]:
    """(natural log probability of the word, next state, length of the n-gram found)."""
    states = a.backoff.size
    if not 0 <= word < a.begin[1]:
        word = UNK
    if not 0 <= state < states:
        state = 0
    logprob, arc, length = 0.0, -1, 1
    while state > 0:
        arc = search(a.word, a.begin[state], a.begin[state + 1], word)
        if arc >= 0:
            break
        logprob += a.backoff[state]
        shorter = a.backoff_state[state]
        state = shorter if 0 <= shorter < state else 0
    if state == 0:
        arc = word
    while length < a.level.size and state >= a.level[length]:
        length += 1
    following = a.next[arc]
    if not 0 <= following < states:
        following = 0
    return logprob + a.logprob[arc], following, length


@njit_lean
def _score(
    a: NGramArrays, text: Bytes, logprob: NDArray[np.float64], length: Ints, word: Ints
) -> int:
    """Score a sentence (UTF-8, words divided by single spaces); the words scored, with the end."""
    state, h, count = a.next[BOS], FNV_START, 0
    for i in range(text.size + 1):
        if i < text.size and text[i] != 32:
            h = fnv(h, text[i])
        elif h != FNV_START:
            word[count] = lookup(a, h)
            logprob[count], state, length[count] = advance(a, state, word[count])
            count, h = count + 1, FNV_START
    word[count] = EOS
    logprob[count], state, length[count] = advance(a, state, EOS)
    return count + 1


class Scores(NamedTuple):
    """What each word of a sentence of n words got; the last is the sentence end."""

    logprob: NDArray[np.float64]  # (n + 1,) natural log
    length: Ints  # (n + 1,) words of the n-gram found
    word: Ints  # (n + 1,) word id; 0 is unknown


def is_arpa(path: Path | str) -> bool:
    """By its name; such a file does not tell its unit."""
    return Path(path).name.endswith((".arpa", ".arpa.gz"))


class NGram:
    """A language model; `open` reads ours or an ARPA file. normalizer and tokenizer_hash are None
    where the file does not tell (ARPA)."""

    def __init__(
        self, arrays: NGramArrays, words: Bytes, header: dict[str, Any], path: Path
    ) -> None:
        self.arrays, self.path, self._words, self._header = arrays, path, words, header
        self.name = Path(path.name.removesuffix(".gz")).stem
        self.order: int = header["order"]
        self.unit: str = header["unit"]
        self.tokenizer_hash: str | None = header["tokenizer_hash"]
        self.hash: str = header["hash"]
        self.counts: list[int] = header["counts"]
        rules = header["normalizer"]
        self.normalizer = None if rules is None else Normalizer.from_dict(rules)

    @classmethod
    def open(cls, path: Path | str, unit: str | None = None) -> NGram:
        """Map our file into memory, or convert an ARPA file in memory (then `unit` is needed).
        Raises InputError: missing, not a language model, damaged, of another unit."""
        path = Path(path)
        if is_arpa(path) and unit is not None:
            return cls.from_arpa(path, unit)
        if is_arpa(path):
            what = "an ARPA file does not say what its units are"
            raise InputError(what, path, "Give --lm-unit word or --lm-unit token.")
        model = _open(path)
        if unit not in (None, model.unit):
            what = f"is a language model of {model.unit}s, not of {unit}s"
            remedy = f"Give one of {unit}s, or leave --lm-unit away: this file tells its unit."
            raise InputError(what, path, remedy)
        return model

    @classmethod
    def from_arpa(
        cls,
        path: Path | str,
        unit: str,
        normalizer: Normalizer | None = None,
        tokenizer_hash: str | None = None,
    ) -> NGram:
        """Convert an ARPA file (gz too); InputError names the line of what is wrong in it."""
        from asr.lm.arpa import read_arpa

        if unit not in UNITS:
            raise InputError(f"no unit '{unit}'", path, "It is word or token.")
        arrays, words, counts = read_arpa(Path(path))
        rules = normalizer and normalizer.to_dict()
        header: dict[str, Any] = {"order": len(counts), "unit": unit, "normalizer": rules}
        header |= {"tokenizer_hash": tokenizer_hash, "counts": counts}
        header["hash"] = _content_hash(arrays, words)
        return cls(arrays, words, header, Path(path))

    def save(self, path: Path | str) -> None:
        """Write the file; it appears under its name only when it is complete."""
        named = {**self.arrays._asdict(), "words": self._words}
        sections, offset = {}, 0  # name: (dtype, items, offset)
        for name, array in named.items():
            sections[name] = array.dtype.str, array.size, offset
            offset += -(-array.nbytes // ALIGN) * ALIGN
        header = json.dumps({**self._header, "sections": sections, "size": offset}).encode()
        prefix = MAGIC + np.array([FORMAT, len(header), zlib.crc32(header)], "<u4").tobytes()
        with whole_file(Path(path), "wb") as file:
            for content in (prefix + header, *(array.data for array in named.values())):
                file.write(content)
                file.write(bytes(-file.tell() % ALIGN))

    def verify(self) -> None:
        """Read the whole model and compare its checksum; InputError where it is damaged."""
        if _content_hash(self.arrays, self._words) != self.hash:
            raise InputError("is damaged (wrong checksum)", self.path, "Make it again.")

    def check_fits(self, tokenizer: Tokenizer) -> None:
        """Raise InputError unless this model can be used beside a model with that tokenizer; of an
        ARPA file, which does not tell its normaliser, only the unit is checked."""
        if self.unit == "token" and self.tokenizer_hash not in (None, tokenizer.hash):
            what = "is a language model of another tokenizer's tokens"
            remedy = "Train it by `asr lm train --unit token --tokenizer MODEL`."
            raise InputError(what, self.path, remedy)
        self.check_unit(tokenizer.pieces)
        if self.normalizer is not None:
            check_same(self.normalizer, tokenizer.normalizer, str(self.path), "the tokenizer")

    def check_unit(self, pieces: Sequence[str]) -> None:
        """Raise InputError where the words are evidently not of `unit`, which for an ARPA file is
        what the user said: tokens of which hardly any is a piece, words that all are pieces."""
        known, size = {id for id in map(self.id, pieces) if id > EOS}, self.arrays.begin[1] - 3
        marks = [piece for piece in pieces if piece == "|" or piece.startswith("▁")]
        what, other = None, "word"
        if self.unit == "token" and 10 * len(known) <= size:
            what = f"{len(known) or 'none'} of its {size} words are tokens of the model"
        elif self.unit == "word" and len(known) == size and any(map(self.id, marks)):
            what, other = "all of its words are tokens of the model", "token"
        if what:
            remedy = f"Give --lm-unit {other}, or another language model."
            raise InputError(f"is no language model of {self.unit}s: {what}", self.path, remedy)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The words in the order of their ids: <unk>, <s>, </s>, then the others."""
        words = self._words.tobytes().decode("utf-8", "replace").split("\n")
        if len(words) != self.arrays.begin[1]:
            raise InputError("is damaged (list of words)", self.path, "Make it again.")
        return words

    def id(self, word: str) -> int:
        """The id of a word; 0 where it is unknown."""
        key = hash_word(np.frombuffer(word.encode(), np.uint8))
        return int(lookup(self.arrays, np.uint64(key)))

    def start(self) -> int:
        """The state at the beginning of a sentence."""
        return int(self.arrays.next[BOS])

    def advance(self, state: int, word: str | int) -> tuple[float, int]:
        """(natural log probability of the word, next state)."""
        word = self.id(word) if isinstance(word, str) else word
        logprob, state, _ = advance(self.arrays, state, word)
        return float(logprob), int(state)

    def final(self, state: int) -> float:
        """The natural log probability of the sentence end."""
        return self.advance(state, EOS)[0]

    def scores(self, words: Sequence[str]) -> Scores:
        """Scores of a whole sentence, its end included."""
        joined = " ".join(words)  # a string of several words counts as those
        text, most = np.frombuffer(joined.encode(), np.uint8), joined.count(" ") + 2
        logprob, (length, word) = np.empty(most), np.empty((2, most), np.int32)
        n = _score(self.arrays, text, logprob, length, word)
        return Scores(logprob[:n], length[:n], word[:n])

    def score(self, words: Sequence[str]) -> float:
        """The natural log probability of a sentence, its end included."""
        return float(self.scores(words).logprob.sum())

    def full_scores(self, words: Sequence[str]) -> list[tuple[float, int, bool]]:
        """(natural log probability, n-gram length, is it unknown) of each word and of the end."""
        logprob, length, word = self.scores(words)
        return list(zip(logprob.tolist(), length.tolist(), (word == UNK).tolist(), strict=True))


def _content_hash(arrays: NGramArrays, words: Bytes) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for array in (*arrays, words):
        digest.update(array.data)
    return digest.hexdigest()


def _open(path: Path) -> NGram:
    """Map a file of ours; checked are the header's checksum, the sizes and what loops rely on."""
    remedy, start = "`asr lm train` makes language models.", len(MAGIC) + 12
    try:
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise InputError("cannot be read (it is empty)", path, remedy) from error
    except OSError as error:
        raise cannot_read(path, error, remedy) from error
    if content[: len(MAGIC)] != MAGIC or len(content) < start:
        remedy = "Give what `asr lm train` wrote, or an .arpa[.gz]."
        raise InputError("is not a language model", path, remedy)
    version, size, checksum = np.frombuffer(content, "<u4", 3, len(MAGIC)).tolist()
    if version > FORMAT:
        raise InputError("is a language model of a newer format", path, "Update asr.")
    raw = content[start : start + size]
    base = -(-(start + size) // ALIGN) * ALIGN
    try:
        header = json.loads(raw)
        places = [header["sections"][name] for name in (*NGramArrays._fields, "words")]
        *arrays, words = (
            np.frombuffer(content, kind, items, base + offset)
            for kind, (_, items, offset) in zip(DTYPES, places, strict=True)
        )
        a = NGramArrays(*arrays)
        model = NGram(a, words, header, path)
        whole = (
            zlib.crc32(raw) == checksum
            and len(content) == base + header["size"]
            and a.word.size == a.logprob.size == a.next.size
            and a.begin.size - 1 == a.backoff.size == a.backoff_state.size > 0
            and a.hash_keys.size == a.hash_ids.size > 0 == a.hash_ids.size & (a.hash_ids.size - 1)
            and a.begin[0] == 0
            and EOS < a.begin[1] <= a.word.size
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise InputError("is damaged or cut off", path, "Make or copy it again.")
    return model


class Unknown(NamedTuple):
    """The words of a text that a model lacks, with their counts, of so many running words."""

    lm: str
    text: str
    words: Counter[str]
    total: int

    @property
    def share(self) -> float:
        return self.words.total() / max(self.total, 1)

    def __str__(self) -> str:
        return f"{self.lm} lacks {self.share:.2%} of the {self.total:,} words of {self.text}"


def open_word_lm(path: Path) -> NGram:
    """Raises InputError for a model of tokens: it has every word."""
    lm = NGram.open(path, "word" if is_arpa(path) else None)
    if lm.unit != "word":
        raise InputError("is a language model of tokens", path, "Give one of words.")
    return lm


def unknown_words(text: str, words: Mapping[str, int], lm: NGram, name: str) -> Unknown:
    """Of words as written, {word: count}, after the model's own normaliser ("basic" for ARPA)."""
    normalize, counts = lm.normalizer or get_normalizer("basic"), Counter[str]()
    for word, count in words.items():
        for part in normalize(word).split():
            counts[part] += count
    lacking = Counter({word: count for word, count in counts.items() if lm.id(word) == 0})
    return Unknown(name, text, lacking, counts.total())
