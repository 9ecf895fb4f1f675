"""Transcripts as other programs read them: one small writer a format, and readers for scoring.

    WRITERS["srt"](hypothesis, name) -> the file's text

`name` is the recording or utterance id. Formats with times need `hypothesis.words`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from html import escape
from itertools import pairwise, zip_longest
from pathlib import Path

from asr.errors import InputError
from asr.files import cannot_read
from asr.hypothesis import UNSPACED, Hypothesis, Word, join_words

# Subtitles, as Netflix's timed text guides ask (general requirements, English, Chinese).
LINE_WIDTH, LINE_WIDTH_WIDE = 42, 16  # characters a line, two lines a cue; Chinese, Japanese
READING_SPEED, READING_SPEED_WIDE = 17.0, 9.0  # characters a second
CUE_SHORTEST, CUE_SECONDS = 5 / 6, 6.0  # seconds shown
CUE_GAP = 0.083  # seconds between cues (two frames)
# Seconds of silence at which a new cue begins (guides leave it open), and a new line of txt: more
# than between the digits of a number.
PAUSE = 1.0
EVEN = 1.0  # seconds of pause that a division is worth which leaves both parts long

# What sclite reads as something else in a trn file: `{` opens an alternation, `;` and `\` make
# tags, a final `*` is dropped, `@` is the empty word; in ids also parentheses and spaces. They
# are written as %XX, and so is a `%` that would look like one of these.
_CODES = {f"{ord(character):02X}": character for character in "{;\\*@%() "}
_CODE = re.compile("%(" + "|".join(_CODES) + ")")
_SPECIAL_IN_WORD = re.compile(rf"[{{;\\*]|^@$|%(?={'|'.join(_CODES)})")
_SPECIAL_IN_ID = re.compile(rf"[{{;\\*() ]|%(?={'|'.join(_CODES)})")
_NO_SPEAKER = re.compile(r"[^-_]+-*")  # sclite's swb ids: the speaker ends at the first - or _
_UNIT = re.compile(f"{UNSPACED.pattern} *|[^ {UNSPACED.pattern[1:]}+ *| +")  # lines may break after
_LONGEST_WORD = 9_999  # bytes; sclite never returns from a longer one


def _times(hypothesis: Hypothesis, name: str) -> list[Word]:
    if hypothesis.text and not hypothesis.words:
        raise InputError("the hypothesis has no word times", name, "Write txt, json or trn.")
    return hypothesis.words


def _field(name: str) -> str:
    if name.split() != [name]:
        raise InputError(f"the id {name!r} has white space", None, "Rename the utterance.")
    return name


def write_txt(hypothesis: Hypothesis, name: str) -> str:
    """A line from pause to pause; one line where there are no word times."""
    groups = from_pause_to_pause(hypothesis.words)
    lines = [join_words(word.word for word in group) for group in groups]
    return ("\n".join(lines) or hypothesis.text) + "\n"


def write_json(hypothesis: Hypothesis, name: str) -> str:
    words = [asdict(word) for word in hypothesis.words]
    record = {"id": name, "text": hypothesis.text, "words": words, "scores": hypothesis.scores}
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_ctm(hypothesis: Hypothesis, name: str) -> str:
    """`name channel start duration word [confidence]`, seconds."""
    lines = []
    for word in _times(hypothesis, name):
        line = f"{_field(name)} 1 {word.start:.3f} {word.end - word.start:.3f} {word.word}"
        lines.append(line + ("\n" if word.confidence is None else f" {word.confidence:.3f}\n"))
    return "".join(lines)


def write_kaldi(hypothesis: Hypothesis, name: str) -> str:
    """A line of Kaldi's `text`: id, then the words."""
    return " ".join([_field(name), *hypothesis.text.split()]) + "\n"


def write_trn(hypothesis: Hypothesis, name: str) -> str:
    """A line that sclite (`-i swb`) reads as exactly these words; read_trn reads it back.

    Raises InputError for what no escape can save: control characters, words of 10 kB.
    """
    words = [_SPECIAL_IN_WORD.sub(_escape, word) for word in hypothesis.text.split()]
    for word in words:
        if "\0" in word or len(word.encode()) > _LONGEST_WORD:
            raise InputError(f"sclite cannot read the word {word[:40]!r}", name, "Leave it out.")
    id = _SPECIAL_IN_ID.sub(_escape, name)
    if id.split() != [id] or "\0" in id:
        raise InputError(f"sclite cannot read the id {name!r}", None, "Rename the utterance.")
    return f"{' '.join(words)} ({id}{'-' if _NO_SPEAKER.fullmatch(id) else ''})\n"


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _unescape(text: str) -> str:
    return _CODE.sub(lambda match: _CODES[match[1]], text)


def cues(words: list[Word], length: float | None = None) -> Iterator[tuple[float, float, str]]:
    """Subtitles (start, end, text) as guides ask: at most two lines, no long pause inside, shown
    for long enough to be read where the next one, or the end of the recording (`length` seconds,
    if known), leaves the time for it."""
    groups = list(phrases(words))
    for group, after in zip_longest(groups, groups[1:]):
        limit = after[0].start - CUE_GAP if after else length or float("inf")
        start, text = group[0].start, join_words(word.word for word in group)
        wide = len(UNSPACED.findall(text))
        reading = wide / READING_SPEED_WIDE + (len(text) - wide) / READING_SPEED
        end = max(group[-1].end, min(limit, start + max(CUE_SHORTEST, reading)))
        yield start, min(max(end, start + 0.001), start + CUE_SECONDS), "\n".join(_lines(text))


def phrases(words: list[Word]) -> Iterator[list[Word]]:
    """The words in groups that fit into a subtitle: from pause to pause, and what is too long
    divided where pauses are longest, rather in the middle than near an end."""
    waiting = from_pause_to_pause(_pieces(words))[::-1]
    while waiting:
        group = waiting.pop()
        begin, end = group[0].start, group[-1].end
        fits = end - begin <= CUE_SECONDS and len(_lines(join_words(w.word for w in group))) <= 2
        if fits or len(group) == 1:
            yield group
            continue
        worth = []
        for before, after in pairwise(group):
            shorter = min(before.end - begin, end - after.start)
            pause = after.start - before.end
            worth.append((pause + EVEN * min(shorter / CUE_SECONDS, 1), shorter))
        middle = worth.index(max(worth)) + 1
        waiting += [group[middle:], group[:middle]]


def from_pause_to_pause(words: Iterable[Word]) -> list[list[Word]]:
    groups: list[list[Word]] = []
    for word in words:
        if not groups or word.start - groups[-1][-1].end > PAUSE:
            groups.append([])
        groups[-1].append(word)
    return groups


def _pieces(words: list[Word]) -> Iterator[Word]:
    """The words; one longer than a line, or of a script without spaces, in parts of equal time."""
    for word in words:
        units = _UNIT.findall(word.word)
        parts = [u[i : i + LINE_WIDTH] for u in units for i in range(0, len(u), LINE_WIDTH)]
        step = (word.end - word.start) / len(parts)
        for index, part in enumerate(parts):
            start = word.start + index * step
            yield Word(part, start, start + step)


def _lines(text: str) -> list[str]:
    """Lines of LINE_WIDTH, broken at spaces and between characters of scripts without them."""
    lines, width = [""], 0.0
    for unit in _UNIT.findall(text):
        wide = len(UNSPACED.findall(unit))
        size = wide * LINE_WIDTH / LINE_WIDTH_WIDE + len(unit) - wide
        if width and width + len(unit.rstrip()) - len(unit) + size > LINE_WIDTH:
            lines.append("")
            width = 0.0
        lines[-1] += unit
        width += size
    return [line.strip() for line in lines]


def _span(start: float, end: float, point: str) -> str:
    """`00:00:01.500 --> 00:00:02.000`"""
    shown = []
    for seconds in (start, end):
        minutes, rest = divmod(round(seconds * 1000), 60_000)
        clock = f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}"
        shown.append(f"{clock}{point}{rest % 1000:03d}")
    return " --> ".join(shown)


def write_srt(hypothesis: Hypothesis, name: str, length: float | None = None) -> str:
    shown = enumerate(cues(_times(hypothesis, name), length), start=1)
    return "\n".join(f"{n}\n{_span(start, end, ',')}\n{text}\n" for n, (start, end, text) in shown)


def write_vtt(hypothesis: Hypothesis, name: str, length: float | None = None) -> str:
    shown = cues(_times(hypothesis, name), length)
    blocks = [f"{_span(start, end, '.')}\n{escape(text, False)}\n" for start, end, text in shown]
    return "\n".join(["WEBVTT\n", *blocks])


def write_tsv(hypothesis: Hypothesis, name: str) -> str:
    """A label track for Audacity: start, end (seconds) and text of each phrase."""
    return "".join(
        f"{group[0].start:.6f}\t{group[-1].end:.6f}\t{join_words(word.word for word in group)}\n"
        for group in phrases(_times(hypothesis, name))
    )


# These also take the seconds of the recording, or None.
SUBTITLES: dict[str, Callable[[Hypothesis, str, float | None], str]]
SUBTITLES = {"srt": write_srt, "vtt": write_vtt}
WRITERS: dict[str, Callable[[Hypothesis, str], str]]
WRITERS = {"txt": write_txt, "json": write_json, "srt": write_srt, "vtt": write_vtt}
WRITERS |= {"tsv": write_tsv, "ctm": write_ctm, "trn": write_trn, "kaldi": write_kaldi}


def read_kaldi(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each line of Kaldi's `text`; an id alone has an empty text."""
    for _, line in _read_lines(path):
        id, *words = line.split()
        yield id, " ".join(words)


def read_trn(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each line `words (id)`, words as sclite reads them, %XX as written here.

    Raises InputError for a line without id, and for alternations `{a / b}` and `@`.
    """
    for number, line in _read_lines(path):
        if line.startswith((";;", "**")):  # comments
            continue
        text, opening, id = line.rpartition("(")
        if not (opening and id.endswith(")")):
            what = f"no (id) at the end: {line[:80]!r}"
            raise InputError(what, f"{path}:{number}", "A line of trn is `words (id)`.")
        words = text.split()
        if re.search(r"[{@;\\*%]", text):
            words = [_trn_word(word, f"{path}:{number}") for word in words]
        id = id[:-1].removesuffix("-") if _NO_SPEAKER.fullmatch(id[:-1]) else id[:-1]
        yield _unescape(id), " ".join(words)


def _trn_word(word: str, where: str) -> str:
    word = re.split(r"(?<!\\);", word)[0].replace("\\", "")
    word = word[:-1] if word.endswith("*") and len(word) > 1 else word
    if "{" in word or word == "@":
        what = f"alternations and the empty word ({word[:40]!r}) are not known here"
        raise InputError(what, where, "Score such a file with sclite itself.")
    return _unescape(word)


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that are not blank. Raises InputError."""
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        raise cannot_read(path, error) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 (byte {error.start})", path, "Convert it.") from None
