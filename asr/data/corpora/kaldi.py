"""A Kaldi data folder: wav.scp, and if there, segments, text, utt2spk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from asr.data.corpora.common import Skipped, read_lines
from asr.data.manifest import Utterance
from asr.errors import InputError


def import_kaldi(folder: Path, skipped: Skipped) -> Iterator[Utterance]:
    """Utterances in the order of segments, or of wav.scp. Skips those without a recording, or
    without a line in `text` where there is one. Raises InputError with file and line."""
    recordings, names = _table(folder / "wav.scp"), ("text", "utt2spk", "segments")
    there = {name: _table(folder / name) for name in names if (folder / name).is_file()}
    texts, segments = there.get("text"), there.get("segments", recordings)
    for id, (number, value) in segments.items():
        recording, start, duration = id, 0.0, None
        if "segments" in there:
            recording, start, duration = _segment(value, f"{folder / 'segments'}:{number}")
        if recording not in recordings:
            skipped.append((id, f"recording '{recording}' is not in wav.scp"))
        elif texts is not None and id not in texts:
            skipped.append((id, "not in text"))
        else:
            line, value = recordings[recording]
            audio = _file(value, folder, f"{folder / 'wav.scp'}:{line}")
            text = None if texts is None else texts[id][1]
            speaker = there.get("utt2spk", {}).get(id, (0, None))[1]
            yield Utterance(id, audio, folder, start, duration, text, speaker)
    alone = texts.keys() - segments.keys() if texts else ()
    skipped += [(id, "a text without a recording") for id in sorted(alone)]


def _table(path: Path) -> dict[str, tuple[int, str]]:
    """first word -> (line number, the rest). Raises InputError for a word that comes twice."""
    table: dict[str, tuple[int, str]] = {}
    for number, line in read_lines(path):
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        if key in table:
            what = f"'{key}' was in line {table[key][0]} already"
            raise InputError(what, f"{path}:{number}", "Remove one of the two lines")
        if key:
            table[key] = (number, rest.strip())
    if not table:
        raise InputError("empty", path, "Make the data folder again")
    return table


def _segment(value: str, where: str) -> tuple[str, float, float | None]:
    """`recording start end` -> recording, start, duration; an end of -1 is the recording's."""
    with suppress(ValueError):
        recording, start, end = value.split()[:3]
        if 0 <= float(start) < float(end) or float(end) == -1:
            return recording, float(start), None if float(end) < 0 else float(end) - float(start)
    what = f"not 'recording start end' in seconds: {value}"
    raise InputError(what, where, "Correct this line")


def _file(value: str, folder: Path, where: str) -> str:
    """The file of a line of wav.scp. Commands are never run; that of LibriSpeech's recipe only
    unpacks FLAC, which we read directly. Files are relative to the data folder, to where we are, or
    to the folder above, as in speechocean762."""
    if unpack := re.fullmatch(r"flac( -\w+)* (?P<file>\S+) \|", value):
        value = unpack["file"]
    elif value.endswith("|"):
        what = f"is a command, which is not run: {value}"
        raise InputError(what, where, "Run it once and name its output")
    places = ("", Path.cwd(), "..")
    found = (os.path.join(p, value) for p in places if (folder / p / value).exists())
    return next(found, str(Path(value).absolute()))
