"""Hot words: phrases whose every occurrence in a text, as whole words, earns a bonus.

An automaton reads the text letter by letter, a space before and after each word (Aho and Corasick
1975). A state knows what is earned on entering it and, for pruning only, the largest share of the
bonus of a phrase begun: a search counts it in advance, and gives it back if nothing comes of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import cannot_read
from asr.kernels import njit_lean

DEFAULT_BONUS = 5.0  # natural log
SPACE = 32

Phrases: TypeAlias = Path | str | Mapping[str, float] | Sequence[str]  # see HotWords


class HotArrays(NamedTuple):
    """S states, C classes of bytes."""

    column: NDArray[np.int32]  # (256,) byte -> its class; 0 is all that occur in no phrase
    next: NDArray[np.int32]  # (S, C)
    earned: NDArray[np.float64]  # (S,) natural log, on entering the state
    ahead: NDArray[np.float64]  # (S,) share of a phrase's bonus that is begun
    start: int  # the state before the first word


@njit_lean
def read_word(a: Any, state: Any, letters: Any, begin: Any, end: Any) -> Any:
    """(bonus earned, next state) after the bytes letters[begin:end] and a space."""
    earned = 0.0
    for i in range(begin, end):
        state = a.next[state, a.column[letters[i]]]
        earned += a.earned[state]
    state = a.next[state, a.column[SPACE]]
    return earned + a.earned[state], state


class HotWords:
    """Phrases and their bonuses (natural logs): of a mapping, of a list without bonuses, or of a
    file with one phrase a line, optionally followed by a TAB and its bonus. Of equal phrases, once
    they are normalised, the last counts."""

    def __init__(self, source: Phrases, normalize: Callable[[str], str] = str) -> None:
        self.where = str(source) if isinstance(source, (str, Path)) else "hotwords"
        self.phrases: dict[str, float] = {}
        for phrase, bonus in _lines_of(source):
            if not (text := " ".join(normalize(phrase).split())):
                what = f"'{phrase}' has no words that the normaliser leaves"
                raise InputError(what, self.where, "Leave it out.")
            if not math.isfinite(bonus):
                what = f"the bonus of '{phrase}' is {bonus}"
                raise InputError(what, self.where, "It must be a finite number.")
            self.phrases[text] = float(bonus)
        self.arrays = _automaton(self.phrases)
        content = repr(sorted(self.phrases.items())).encode()
        self.hash = hashlib.sha256(content).hexdigest()[:12]

    def check(self, spellable: Callable[[str], bool]) -> None:
        """Raise InputError, with a list, where words of phrases cannot be spelt."""
        wrong = [p for p in self.phrases if not all(spellable(word) for word in p.split())]
        if wrong:
            shown = ", ".join(f"'{phrase}'" for phrase in wrong[:5])
            what = f"{len(wrong)} of {len(self.phrases)} hot words can never be output ({shown})"
            remedy = (
                "Write them in the letters of the tokens (words of the lexicon), or leave them out."
            )
            raise InputError(what, self.where, remedy)

    def gains(self) -> dict[str, float]:
        """What each word may bring at most where it continues a phrase."""
        found: dict[str, float] = {}
        for phrase in self.phrases:
            state = self.arrays.start
            for word in phrase.split():
                text = np.frombuffer(word.encode(), np.uint8)
                earned, after = read_word(self.arrays, state, text, 0, len(text))
                gain = earned + self.arrays.ahead[after] - self.arrays.ahead[state]
                found[word], state = max(found.get(word, 0.0), float(gain)), after
        return found


def _lines_of(source: Phrases) -> Iterable[tuple[str, float]]:
    if isinstance(source, Mapping):
        return source.items()
    if not isinstance(source, (str, Path)):
        return [(phrase, DEFAULT_BONUS) for phrase in source]
    try:
        lines = Path(source).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_read(source, error, "One phrase a line.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        phrase, tab, bonus = line.partition("\t")
        try:
            found += [(phrase, float(bonus) if tab else DEFAULT_BONUS)] if line.strip() else []
        except ValueError:
            what = f"'{bonus}' is no number"
            where, remedy = f"{source}:{number}", "A line is `phrase [TAB bonus]`."
            raise InputError(what, where, remedy) from None
    if not found:
        raise InputError("has no phrases", source, "One phrase a line.")
    return found


def _automaton(phrases: Mapping[str, float]) -> HotArrays:
    texts = {f" {phrase} ".encode(): bonus for phrase, bonus in phrases.items()}
    used = sorted({SPACE, *b"".join(texts)})
    column = np.zeros(256, np.int32)
    column[used] = np.arange(1, len(used) + 1)
    children: list[dict[int, int]] = [{}]
    most = 1 + sum(map(len, texts))
    earned, ahead = [0.0] * most, [0.0] * most
    for text, bonus in texts.items():
        state = 0
        for i, byte in enumerate(text):
            if byte not in children[state]:
                children[state][byte] = len(children)
                children.append({})
            state = children[state][byte]
            if i + 1 < len(text):  # none for the first space
                ahead[state] = max(ahead[state], bonus * i / (len(text) - 1))
        earned[state] += bonus
    following = np.zeros((len(children), len(used) + 1), np.int32)
    queue, fallback = [0], [0] * len(children)
    for state in queue:  # by length: what a state falls back to is done before it
        if state:
            following[state] = following[fallback[state]]
            earned[state] += earned[fallback[state]]
            ahead[state] = max(ahead[state], ahead[fallback[state]])
        for byte, child in children[state].items():
            fallback[child] = int(following[state, column[byte]]) if state else 0
            following[state, column[byte]] = child
            queue.append(child)
    start, count = int(following[0, column[SPACE]]), len(children)
    return HotArrays(column, following, np.array(earned[:count]), np.array(ahead[:count]), start)


NO_HOT_WORDS = _automaton({})
