"""A Kaldi data folder: wav.scp, and if there, segments, text, utt2spk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from asr.data.corpora.common import Skipped, read_lines
from asr.data.manifest import Utterance
from asr.errors import InputError


def import_kaldi(folder: Path, skipped: Skipped) -> Iterator[Utterance]:
    """Utterances in the order of segments, or of wav.scp. Skips those without a recording, or
    without a line in `text` where there is one. Raises InputError with file and line."""
    recordings = _table(folder / "wav.scp")
    texts = _table(folder / "text") if (folder / "text").is_file() else None
    speakers = _table(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    cut = (folder / "segments").is_file()
    segments = _table(folder / "segments") if cut else recordings
    for id, (number, value) in segments.items():
        recording, start, end = id, 0.0, -1.0
        if cut:
            recording, start, end = _segment(value, f"{folder / 'segments'}:{number}")
        if recording not in recordings:
            skipped.append((id, f"recording '{recording}' is not in wav.scp"))
        elif texts is not None and id not in texts:
            skipped.append((id, "not in text"))
        else:
            line, file = recordings[recording]
            yield Utterance(
                id=id,
                audio=_file(file, folder, f"{folder / 'wav.scp'}:{line}"),
                folder=folder,
                start=start,
                duration=None if end < 0 else end - start,
                text=None if texts is None else texts[id][1],
                speaker=speakers.get(id, (0, None))[1],
            )
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


def _segment(value: str, where: str) -> tuple[str, float, float]:
    """`recording start end`; an end of -1 is that of the recording."""
    try:
        recording, start, end = value.split()[:3]
        if 0 <= float(start) < float(end) or float(end) == -1:
            return recording, float(start), float(end)
    except ValueError:
        pass
    what = f"not 'recording start end' in seconds: {value}"
    raise InputError(what, where, "Correct this line")


def _file(value: str, folder: Path, where: str) -> str:
    """The file of a line of wav.scp. Commands are never run; that of LibriSpeech's recipe only
    unpacks FLAC, which we read directly."""
    unpack = re.fullmatch(r"flac( -\w+)* (?P<file>\S+) \|", value)
    if value.endswith("|") and unpack is None:
        raise InputError(
            f"is a command, which is not run: {value}", where, "Run it once and name its output"
        )
    file = unpack["file"] if unpack else value
    return file if (folder / file).exists() else str(Path(file).absolute())
