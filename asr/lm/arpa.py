"""ARPA files to the arrays of the n-gram automaton, by compiled loops.

N-grams are nodes, numbered by order, then by (context, last word): node i < V is the 1-gram of word
i. A node's children are the n-grams of one word more that begin with it. A node is the arc of its
last word, and a state too if it has children or a backoff weight.
"""

from __future__ import annotations

import gzip
import mmap
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import cannot_read
from asr.kernels import njit
from asr.lm.ngram import RESERVED, Bytes, Floats, Hashes, Ints, NGramArrays, hash_word, search

LN10 = float(np.log(10.0))
UNKNOWN_LOG10 = -100.0  # <unk> of a file that has none, as in KenLM
MOST = 6
REMEDY = "Make or copy the ARPA file again."

Longs = NDArray[np.int64]
OK, NUMBER, FIELDS, WORD, POSITIVE = range(5)  # what the reading loop finds
REASONS = (
    "",
    "a log probability is expected",
    "wrong number of words",
    "has a word that is not among the 1-grams",
    "a log probability above 0",
)


class _Words(NamedTuple):
    """The table of words: FNV-1a hash -> id, open addressing, key 0 empty; H a power of two."""

    keys: Hashes  # (H,)
    ids: Ints  # (H,)


class _Nodes(NamedTuple):
    """All n-grams, A of them; B those below the highest order."""

    word: Ints  # (A,)
    logprob: Floats  # (A,)
    backoff: Floats  # (A,)
    begin: Longs  # (B + 1,) first child


@njit
def _skip(text: Bytes, i: int) -> int:
    """The first byte from i on that is not a space, tab or carriage return."""
    while i < text.size and (text[i] == 32 or text[i] == 9 or text[i] == 13):
        i += 1
    return i


@njit
def _field_end(text: Bytes, i: int) -> int:
    while i < text.size and text[i] != 32 and not 9 <= text[i] <= 13:
        i += 1
    return i


@njit
def _number(text: Bytes, i: int) -> tuple[bool, float, int]:
    """Parse the field at i, [-+]digits[.digits][e[-+]digits]: (is it a number, value, its end)."""
    i = _skip(text, i)
    end = _field_end(text, i)
    sign = -1.0 if i < end and text[i] == 45 else 1.0
    if i < end and (text[i] == 45 or text[i] == 43):
        i += 1
    mantissa, scale, digits, fraction = 0.0, 0, 0, False
    while i < end:
        digit = int(text[i]) - 48
        if 0 <= digit <= 9:
            mantissa = mantissa * 10.0 + digit
            digits += 1
            scale -= 1 if fraction else 0
        elif text[i] == 46 and not fraction:
            fraction = True
        else:
            break
        i += 1
    if i < end - 1 and text[i] | 32 == 101:
        negative = text[i + 1] == 45
        i += 2 if negative or text[i + 1] == 43 else 1
        power, start = 0, i
        while i < end and 48 <= text[i] <= 57:
            power = min(power * 10 + int(text[i]) - 48, 1000)
            i += 1
        digits = 0 if i == start else digits
        scale += -power if negative else power
    value = mantissa / 10.0**-scale if scale < 0 else mantissa * 10.0**scale
    return digits > 0 and i == end, sign * value, end


@njit
def _read(
    text: Bytes, i: int, table: _Words, words: Ints, values: Floats, keys: Hashes, spans: Longs
) -> tuple[int, int, int]:
    """Read n lines from byte i on: (status, lines read, byte after them). words (n, k): ids by the
    table; for k = 1 keys (n,) and spans (n, 2) instead: hash and place of each word. values (n, 2):
    log probability and backoff, natural logs."""
    mask = np.uint64(table.keys.size - 1)
    n, order = words.shape
    for row in range(n):
        good, value, end = _number(text, i)
        if not good:
            return NUMBER, row, i
        if value > 0.0:
            return POSITIVE, row, i
        values[row, 0] = value * LN10
        for k in range(order):
            i = _skip(text, end)
            end = _field_end(text, i)
            h = hash_word(text[i:end])
            if i == end:
                return FIELDS, row, i
            if order == 1:
                keys[row], spans[row, 0], spans[row, 1] = h, i, end
                continue
            slot = h & mask
            while table.keys[slot] != h and table.keys[slot] != 0:
                slot = (slot + np.uint64(1)) & mask
            if table.keys[slot] == 0:
                return WORD, row, i
            words[row, k] = table.ids[slot]
        i = _skip(text, end)
        values[row, 1] = 0.0
        if i < text.size and text[i] != 10:
            good, value, end = _number(text, i)
            if not good:
                return FIELDS, row, i
            values[row, 1] = value * LN10
            i = _skip(text, end)
        if i >= text.size or text[i] != 10:
            return FIELDS, row, i
        i += 1
    return OK, n, i


@njit
def _fill(table: _Words, keys: Hashes) -> int:
    """Put word i under keys[i]; a word that is there already, or -1."""
    mask = np.uint64(table.keys.size - 1)
    for word in range(keys.size):
        slot = keys[word] & mask
        while table.keys[slot] != 0:
            if table.keys[slot] == keys[word]:
                return word
            slot = (slot + np.uint64(1)) & mask
        table.keys[slot], table.ids[slot] = keys[word], word
    return -1


@njit
def _parents(nodes: _Nodes, words: Ints, parent: Longs) -> int:
    """Find the node of each n-gram's context; a row that has none, or -1."""
    for row in range(words.shape[0]):
        node = int(words[row, 0])
        for k in range(1, words.shape[1] - 1):
            node = search(nodes.word, nodes.begin[node], nodes.begin[node + 1], words[row, k])
            if node < 0:
                return int(row)
        parent[row] = node
    return -1


@njit
def _link(a: NGramArrays, states: Ints) -> None:
    """Fill next and backoff_state; states: of the nodes below the highest order, 0 for none."""
    for state in range(a.backoff.size):
        for arc in range(a.begin[state], a.begin[state + 1]):
            suffix = 0  # the longest state that is a proper suffix of this n-gram
            shorter = int(a.backoff_state[state])
            while state > 0:
                same = search(a.word, a.begin[shorter], a.begin[shorter + 1], a.word[arc])
                if same >= 0:
                    suffix = a.next[same]
                    break
                shorter = a.backoff_state[shorter]
            a.next[arc] = suffix
            if arc < states.size and states[arc] > 0:
                a.next[arc], a.backoff_state[states[arc]] = states[arc], suffix


class _Reader:
    """One ARPA file; every mistake in it is raised with its line."""

    def __init__(self, path: Path) -> None:
        self.path, self.content = path, _content(path)
        self.text = np.frombuffer(self.content, np.uint8)
        head = re.compile(rb"^\\data\\\s*\n((?:\s*ngram\s+\d+\s*=\s*\d+[ \t\r]*\n)+)", re.MULTILINE)
        match = head.search(self.content)
        if match is None:
            what = "is not an ARPA file (no \\data\\ section)"
            raise InputError(what, path, "lmplz and `asr lm train` write such files.")
        self.counts = counts = [int(n) for n in re.findall(rb"=\s*(\d+)", match[1])]
        self.start = self.position = match.end()
        if len(counts) > MOST or counts[0] == 0 or sum(counts) >= 1 << 31:
            what = f"announces {counts} n-grams; orders 1 to {MOST} can be used"
            raise InputError(what, path, "Train it with a lower order, or prune it.")

    def wrong(self, what: str, position: int, row: int = 0) -> InputError:
        """The mistake at a byte, or so many lines later."""
        if re.compile(rb"\s*\Z").match(self.content, position):
            what = f"the file is cut off: {what}"
        line = self.content[:position].count(b"\n") + 1 + row
        return InputError(what, f"{self.path}:{line}", REMEDY)

    def expect(self, title: str) -> None:
        """Go past a section's title."""
        match = re.compile(rb"\s*(\S*)[ \t\r]*\n?").match(self.content, self.position)
        if match is None or match[1].decode("utf-8", "replace") != title:
            raise self.wrong(f"'{title}' is expected", self.position)
        self.position = match.end()

    def section(self, order: int, table: _Words) -> tuple[Ints, Floats, Hashes, Longs]:
        """words (n, order), values (n, 2); for order 1 the words' keys (n,) and spans (n, 2)."""
        self.expect(f"\\{order}-grams:")
        self.start, n = self.position, self.counts[order - 1]
        words, values = np.empty((n, order), np.int32), np.empty((n, 2), np.float32)
        size = n if order == 1 else 0
        keys, spans = np.empty(size, np.uint64), np.empty((size, 2), np.int64)
        status, rows, end = _read(self.text, self.position, table, words, values, keys, spans)
        if status == NUMBER and re.compile(rb"\s*(\\|$)").match(self.content, end):
            raise self.wrong(f"{n} {order}-grams are announced, {rows} are there", end)
        if status != OK:
            raise self.wrong(f"{order}-gram: {REASONS[status]}", end)
        self.position = end
        return words, values, keys, spans


def _content(path: Path) -> bytes | mmap.mmap:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                return stream.read()
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError("the gz file is cut off or damaged", path, "Copy it again.") from error
    except ValueError as error:  # mmap's
        raise InputError("is empty", path, REMEDY) from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _key(word: str) -> np.uint64:
    return np.uint64(hash_word(np.frombuffer(word.encode(), np.uint8)))


def _vocabulary(reader: _Reader) -> tuple[_Words, _Nodes, Bytes]:
    """Read the 1-grams: the table of words, the nodes with the first order filled, the words."""
    nothing = _Words(np.zeros(1, np.uint64), np.zeros(1, np.int32))
    _, values, keys, spans = reader.section(1, nothing)
    keys[keys == _key("<UNK>")] = _key("<unk>")
    if _key("<unk>") not in keys:
        reader.counts[0] += 1
        keys, spans = np.append(keys, _key("<unk>")), np.append(spans, [[0, 0]], axis=0)
        values = np.append(values, np.array([[UNKNOWN_LOG10 * LN10, 0]], np.float32), axis=0)
    first = []
    for name in RESERVED:
        found = np.flatnonzero(keys == _key(name))
        if found.size == 0:
            remedy = "Train it on sentences, with their ends."
            raise InputError(f"has no {name} among its 1-grams", reader.path, remedy)
        first.append(found[0])
    order = np.concatenate([first, np.setdiff1d(np.arange(keys.size), first)])
    size = 1 << (3 * keys.size // 2).bit_length()
    table = _Words(np.zeros(size, np.uint64), np.zeros(size, np.int32))
    if (twice := _fill(table, keys[order])) >= 0:
        raise reader.wrong("this 1-gram is there twice", reader.start, int(order[twice]))
    spelt = [bytes(reader.content[i:j]) for i, j in spans[order[len(RESERVED) :]].tolist()]
    words = b"\n".join([*(name.encode() for name in RESERVED), *spelt])
    total, v = sum(reader.counts), order.size
    word, begin = np.empty(total, np.int32), np.full(sum(reader.counts[:-1]) + 1, v, np.int64)
    logprob, backoff = np.empty(total, np.float32), np.empty(total, np.float32)
    word[:v], logprob[:v], backoff[:v] = np.arange(v), values[order, 0], values[order, 1]
    return table, _Nodes(word, logprob, backoff, begin), np.frombuffer(words, np.uint8)


def read_arpa(path: Path) -> tuple[NGramArrays, Bytes, list[int]]:
    """The automaton, the words (UTF-8, divided by newlines) and the n-grams of each order. Raises
    InputError, with the line, for whatever is wrong in the file."""
    reader = _Reader(path)
    table, nodes, words = _vocabulary(reader)
    firsts = np.cumsum([0, *reader.counts])  # node of each order
    for order in range(2, len(reader.counts) + 1):
        grams, values, _, _ = reader.section(order, table)
        below, first, past = firsts[order - 2 : order + 1]
        parent = np.empty(len(grams), np.int64)
        if (row := _parents(nodes, grams, parent)) >= 0:
            what = f"the context of this {order}-gram is no {order - 1}-gram"
            raise reader.wrong(what, reader.start, row)
        key = parent << 32 | grams[:, -1]
        rows = np.argsort(key)
        if (twice := np.flatnonzero(np.diff(key[rows]) == 0)).size:
            row = int(rows[twice[0] : twice[0] + 2].max())
            raise reader.wrong(f"this {order}-gram is there twice", reader.start, row)
        children = np.bincount(parent - below, minlength=first - below)
        nodes.begin[below + 1 : first + 1] = first + np.cumsum(children)
        nodes.word[first:past] = grams[rows, -1]
        nodes.logprob[first:past], nodes.backoff[first:past] = values[rows].T
    reader.expect("\\end\\")
    is_state = (np.diff(nodes.begin) > 0) | (nodes.backoff[: nodes.begin.size - 1] != 0)
    states = np.where(is_state, np.cumsum(is_state), 0).astype(np.int32)
    begin = np.r_[0, nodes.begin[:-1][is_state], nodes.word.size].astype(np.int32)
    backoff = np.r_[0, nodes.backoff[: is_state.size][is_state]].astype(np.float32)
    level = np.array([0, *(1 + np.count_nonzero(is_state[:n]) for n in firsts[:-2])], np.int32)
    after, shorter = np.zeros(nodes.word.size, np.int32), np.zeros(backoff.size, np.int32)
    arrays = NGramArrays(
        *(nodes.word, nodes.logprob, after, begin, backoff, shorter), table.keys, table.ids, level
    )
    _link(arrays, states)
    for array in arrays:
        array.flags.writeable = False  # as when mapped from a file: one type for the loops
    return arrays, words, reader.counts
