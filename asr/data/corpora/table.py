"""CSV and TSV files with a line of column names, those of Common Voice included."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from asr.data.corpora.common import Skipped, read_lines
from asr.data.manifest import KEYS, LONGEST, Utterance
from asr.errors import InputError, nearest

NAMES = {  # key of a manifest: columns that hold it, where the user names none
    "audio": ("audio", "path", "file", "filename", "wav", "wav_filename"),
    "text": ("text", "sentence", "transcript", "transcription"),
    "speaker": ("speaker", "client_id", "speaker_id"),
    "id": ("id", "utterance_id"),
    "lang": ("lang", "locale", "language"),
    "start": ("start",),
    "duration": ("duration",),
    "end": ("end",),
}
# columns that are not kept: the set's name tells the split, `nbest` marks another kind of file
LEFT_OUT = {*KEYS, "split", "nbest"}


def import_table(
    path: Path, skipped: Skipped, columns: dict[str, str], audio_folder: Path | None = None
) -> Iterator[Utterance]:
    """One a row; `columns`: key of a manifest -> the column the user names for it, others are kept
    (not LEFT_OUT). Audio is relative to `audio_folder`, else to the table's folder or its `clips`
    (Common Voice). Skips rows without audio. Raises InputError: no such column, a name or an id
    twice, more cells than columns, times that are no seconds."""
    clips = path.parent / "clips"
    folder = audio_folder or (clips if clips.is_dir() else path.parent)
    chosen: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, row in _rows(path):
        chosen = chosen or _choose(path, columns, list(row))
        values = {key: row[column].strip() for key, column in chosen.items()}
        where, audio = f"{path}:{number}", values["audio"]
        if not audio:
            skipped.append((where, "no audio named"))
            continue
        id = values.get("id") or str(Path(audio).with_suffix(""))
        if lines.setdefault(id, number) != number:
            what = f"duplicate id '{id}' (first in line {lines[id]})"
            raise InputError(what, where, "Name a column of different ids: --id-column")
        start, duration = (_seconds(values.get(key), where) for key in ("start", "duration"))
        if duration is None and (end := _seconds(values.get("end"), where)) is not None:
            duration = end - (start or 0.0)
            if duration <= 0:
                what = f"the end {values['end']} is not after the start"
                raise InputError(what, where, "Correct this line")
        speaker, lang = values.get("speaker") or None, values.get("lang") or None
        known = LEFT_OUT.union(chosen.values())
        extra = {name: cell for name, cell in row.items() if cell and name not in known}
        text = values["text"]
        yield Utterance(id, audio, folder, start or 0.0, duration, text, speaker, lang, extra)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, column -> cell). TSV has no quoting that one could rely on: a quote in a
    sentence of Common Voice is just a quote, unless the cell is quoted as a whole."""
    lines = (line for _, line in read_lines(path))
    head = next(lines, "")
    delimiter = max("\t,;", key=head.count)
    tabs = delimiter == "\t"
    style: dict[str, Any] = {"delimiter": delimiter, "strict": not tabs}
    style["quoting"] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    names = [name.strip() for name in next(csv.reader([head], **style), [])]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two columns '{twice.pop()}'", path, "Rename one of them")
    reader = csv.reader((line + "\n" for line in lines), **style)
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num + 1}"
            if len(cells) > len(names):
                what = f"{len(cells)} cells in a table of {len(names)} columns"
                raise InputError(what, where, "Quote cells that hold commas")
            if any(cells := [_unquoted(cell) for cell in cells] if tabs else cells):
                yield reader.line_num + 1, dict(zip_longest(names, cells, fillvalue=""))
    except csv.Error as error:
        where = f"{path}:{reader.line_num + 1}"
        raise InputError(f"broken CSV ({error})", where, "Correct this line") from None


def _choose(path: Path, columns: dict[str, str], names: list[str]) -> dict[str, str]:
    """key of a manifest -> the column that holds it."""
    chosen, alike = {}, {name.lower(): name for name in names}
    for key, usual in NAMES.items():
        wanted = columns.get(key)
        if wanted is not None and wanted not in names:
            raise InputError(f"no column '{wanted}'", path, nearest(wanted, names))
        if found := wanted or next((alike[name] for name in usual if name in alike), None):
            chosen[key] = found
        elif key in ("audio", "text"):
            remedy = f"Name it: --{key}-column. Columns: {', '.join(names)}"
            raise InputError(f"no column for {key}", path, remedy)
    if "start" not in chosen:
        for key in ("duration", "end"):  # of the whole file, which knows it better
            chosen.pop(key, None)
    return chosen


def _seconds(cell: str | None, where: str) -> float | None:
    if not cell:
        return None
    with suppress(ValueError):
        if 0 <= float(cell) <= LONGEST:
            return float(cell)
    raise InputError(f"'{cell}' is no number of seconds", where, "Correct this line")


def _unquoted(cell: str) -> str:
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if whole else cell
