"""Pronunciation lexicons and spellings: the units of each word, and the trie that a search walks.

A node of the trie is a beginning of words with its last token; tokens lead from node to node. Words
without a spelling of their own are spelt by the letters of the tokens in every possible way ("ab"
by `a b`, `▁a b`, `▁ab`): ways that end in the same letter and token share their node, which so may
have several parents. Where a token is a word boundary (`|`, " ", "▁..."), one or more of them
divide words, and may stand before the first and after the last.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import cannot_read
from asr.text.pieces import BOUNDARIES, SPECIAL, is_boundary, letters

Ints = NDArray[np.int32]
Units: TypeAlias = tuple[str, ...]
Pronunciations = Mapping[str, Sequence[tuple[float, Units]]]
Words: TypeAlias = Path | str | Pronunciations | Sequence[str]  # see Lexicon

# Nodes: nothing said yet; a word is complete (only its arcs are used). njit loops hold them, too.
START, AFTER = 0, 1

_variant = re.compile(r"\(\d+\)$")
_probability = re.compile(r"\d*\.\d+(e-?\d+)?")


class Entry(NamedTuple):
    """A line of a lexicon; no units where the letters of the word spell it."""

    word: str
    units: Units
    probability: float | None
    where: str  # file:line


def _read(path: Path | str) -> Iterator[Entry]:
    """The `word[(n)] [probability] [unit...]` lines of a file; see read_lexicon."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                word, *units = line.split(" #")[0].split() or [""]
                if word and not line.startswith(";;;"):
                    told = len(units) > 1 and _probability.fullmatch(units[0])
                    probability = float(units.pop(0)) if told else None
                    word = _variant.sub("", word)
                    yield Entry(word, tuple(units), probability, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_read(path, error, "Lines are `word [[0.7] unit ...]`.") from error


def _entries(source: Words) -> Iterator[Entry]:
    if isinstance(source, (str, Path)):
        yield from _read(source)
        return
    if not isinstance(source, Mapping):
        source = {word: [(1.0, ())] for word in source}
    for word, spellings in source.items():
        for probability, units in spellings:
            yield Entry(word, tuple(units), probability, "lexicon")


def _gather(source: Words, normalize: Callable[[str], str] = str) -> dict[str, dict[Units, Entry]]:
    """The spellings of each word; of equal ones the most probable counts."""
    found: dict[str, dict[Units, Entry]] = {}
    for entry in _entries(source):
        probability = entry.probability
        if probability is not None and not 0 < probability <= 1:
            what = f"'{entry.word}': probability {probability:g} is not in (0, 1]"
            raise InputError(what, entry.where, "Write what share of the times it is said so.")
        words = normalize(entry.word).split()
        if len(words) == 1:
            spellings = found.setdefault(words[0], {})
            known = spellings.setdefault(entry.units, entry)
            if (probability or 0.0) > (known.probability or 0.0):
                spellings[entry.units] = entry
    if not found:
        where = source if isinstance(source, (str, Path)) else "lexicon"
        raise InputError("has no words", where, "A line is `word [unit ...]`.")
    return found


def read_lexicon(path: Path | str) -> dict[str, list[tuple[float, Units]]]:
    """Read `word[(n)] [probability] unit...` lines: word -> [(probability, units)].

    `(n)` marks a further pronunciation (as cmudict). A probability has a decimal point and lies in
    (0, 1]; without any each pronunciation gets the same; of equal lines the largest counts. `;;;`
    at the start and ` #` begin comments. Raises InputError with file and line.
    """
    found = _gather(path)
    for word, spellings in found.items():
        if () in spellings:
            what = f"'{word}' has no units"
            raise InputError(what, spellings[()].where, "A line is `word unit unit ...`.")
    return {
        word: [(entry.probability or 1 / len(lines), units) for units, entry in lines.items()]
        for word, lines in found.items()
    }


class Trie(NamedTuple):
    """N nodes, A arcs, E ends of words, W words."""

    token: Ints  # (N,) the last token; 0 where nothing is said yet
    arcs: Ints  # (N + 1,) the arcs of node n are arcs[n] .. arcs[n + 1] - 1, sorted by token
    arc: Ints  # (A,) the node that it leads to
    arc_token: Ints  # (A,) the token of that node
    between: NDArray[np.bool_]  # (N,) is no word under way?
    boundaries: Ints  # nodes of tokens that are nothing but a boundary
    opens: NDArray[np.bool_]  # (2, N) does an arc of START, of AFTER lead there?
    ends: Ints  # (N + 1,) the words that may be complete in node n: ends[n] .. ends[n + 1] - 1
    word: Ints  # (E,)
    prob: NDArray[np.float64]  # (E,) of that spelling
    paths: Ints  # (W + 1,) the nodes of word w: path[paths[w] : paths[w + 1]]
    path: Ints  # parents first


class Lexicon:
    """The words of a closed vocabulary and the trie of their spellings in `tokens` (0: blank).

    source: a file (see read_lexicon; a line may also be a mere word, spelt by its letters),
    word -> [(probability, units)], `()` for letters, or a list of words. Words of which normalize
    leaves none or several are left out. InputError, with file and line, for what cannot be spelt.
    """

    def __init__(
        self, source: Words, tokens: Sequence[str], normalize: Callable[[str], str] = str
    ) -> None:
        self.path = str(source) if isinstance(source, (str, Path)) else "lexicon"
        given = _gather(source, normalize)
        self.words, self.known = list(given), set(given)
        builder = _Builder(tokens)
        wrong: list[Entry] = []
        for number, (word, spellings) in enumerate(given.items()):
            for units, entry in spellings.items():
                probability = entry.probability or 1 / len(spellings)
                if not builder.add(number, word, units, probability):
                    wrong.append(entry)
        if wrong:
            shown = "; ".join(f"{e.where}: {' '.join((e.word, *e.units))}" for e in wrong[:5])
            what = f"{len(wrong)} of its spellings cannot be made of the tokens ({shown})"
            raise InputError(what, self.path, "Mend or leave out those, or give other tokens.")
        self.trie = builder.trie()
        content = [
            (word, units, entry.probability)
            for word, spellings in given.items()
            for units, entry in spellings.items()
        ]
        self.hash = hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def spelling_by_letters(tokens: Sequence[str]) -> Callable[[str], bool]:
    """Can a word be written with the letters of the tokens?"""
    builder = _Builder(tokens)
    alphabet = set().union(*builder.by_letters)
    return lambda word: alphabet.issuperset(word) and bool(builder.by_letters_of(word, {}))


class _Builder:
    """Collects nodes; a trie's arrays are made of them at the end."""

    def __init__(self, tokens: Sequence[str]) -> None:
        usable = [i for i, piece in enumerate(tokens) if i and piece not in SPECIAL]
        self.ids = {tokens[i]: i for i in usable}
        self.boundary = {i for i in usable if is_boundary(tokens[i])}
        self.pure = {i for i in usable if tokens[i] in BOUNDARIES}
        self.by_letters: dict[str, list[int]] = {}
        for i in usable:
            self.by_letters.setdefault(letters(tokens[i]), []).append(i)
        self.by_letters.pop("", None)
        self.inner = {
            text: [i for i in ids if i not in self.boundary]
            for text, ids in self.by_letters.items()
        }
        self.longest = max(map(len, self.by_letters), default=0)
        self.token = [0, 0]
        self.arcs: list[dict[tuple[int, bool], int]] = [{}, {}]  # (token, spelt by letters?)
        self.ends: list[list[tuple[int, float]]] = [[], []]
        self.paths: list[dict[int, None]] = []  # of each word, in order
        self.spelt: dict[tuple[str, int], int] = {}  # (letters, last token) -> node

    def add(self, word: int, text: str, units: Units, probability: float) -> bool:
        """Add a spelling of the word of that number; False where it is none."""
        if word == len(self.paths):
            self.paths.append({})
        path = self.paths[word]
        last = self._units(units, path) if units else self.by_letters_of(text, path)
        for node in last:
            self.ends[node].append((word, probability))
        return bool(last)

    def _node(self, token: int, known: dict[Any, int], key: Any) -> int:
        if key not in known:
            known[key] = len(self.token)
            self.token.append(token)
            self.arcs.append({})
            self.ends.append([])
        return known[key]

    def _units(self, units: Units, path: dict[int, None]) -> list[int]:
        ids = [self.ids.get(unit, 0) for unit in units]
        while ids and ids[-1] in self.pure:  # other tools' lexicons write boundaries too
            ids.pop()
        while ids and ids[0] in self.pure:
            ids.pop(0)
        if 0 in ids or not ids or self.boundary.intersection(ids[1:]):
            return []
        if self.boundary and not self.pure and ids[0] not in self.boundary:
            return []  # nothing could stand before it
        node = START
        for token in ids:
            node = self._node(token, self.arcs[node], (token, False))
            path[node] = None
        return [node]

    def by_letters_of(self, text: str, path: dict[int, None]) -> list[int]:
        """All ways to cut the text into tokens; none but the first may be a boundary."""

        def pieces(start: int) -> Iterator[tuple[int, list[int]]]:
            for end in range(start + 1, min(len(text), start + self.longest) + 1):
                yield end, (self.inner if start else self.by_letters).get(text[start:end], [])

        leads = [False] * len(text) + [True]  # from each place: to the end?
        for start in range(len(text) - 1, -1, -1):
            leads[start] = any(leads[end] and ids for end, ids in pieces(start))
        nodes: list[dict[int, None]] = [{START: None}, *({} for _ in text)]
        for start in range(len(text)):
            for end, ids in pieces(start):
                for token in ids if leads[end] and nodes[start] else ():
                    child = self._node(token, self.spelt, (text[:end], token))
                    for node in nodes[start]:
                        self.arcs[node][token, True] = child
                    nodes[end][child] = None
        for at in nodes[1:]:
            path.update(at)
        return list(nodes[-1])

    def trie(self) -> Trie:
        """The arrays."""
        starts, boundary = self.arcs[START], self.boundary
        boundaries = sorted(self._node(token, starts, (token, False)) for token in self.pure)
        for node in boundaries:
            self.arcs[node] = starts
        self.arcs[AFTER] = {k: n for k, n in starts.items() if k[0] in boundary or not boundary}
        arcs = [sorted((token, node) for (token, _), node in a.items()) for a in self.arcs]
        flat = np.array([pair for a in arcs for pair in a], np.int32).reshape(-1, 2)
        between = np.zeros(len(arcs), bool)
        between[[START, *boundaries]] = True
        opens = np.zeros((2, len(arcs)), bool)
        for node in (START, AFTER):
            opens[node, [after for _, after in arcs[node]]] = True
        ends = [pair for e in self.ends for pair in e]
        return Trie(
            token=np.array(self.token, np.int32),
            arcs=_bounds(arcs),
            arc=flat[:, 1].copy(),
            arc_token=flat[:, 0].copy(),
            between=between,
            boundaries=np.array(boundaries, np.int32),
            opens=opens,
            ends=_bounds(self.ends),
            word=np.array([word for word, _ in ends], np.int32),
            prob=np.array([prob for _, prob in ends], np.float64),
            paths=_bounds(self.paths),
            path=np.array([node for path in self.paths for node in path], np.int32),
        )


def _bounds(groups: Sequence[Sized]) -> Ints:
    return np.cumsum([0, *map(len, groups)]).astype(np.int32)
