"""CSV and TSV files with a line of column names, those of Common Voice included."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
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
}


@dataclass(frozen=True)
class Table:
    """A file; `columns`: key of a manifest -> the column the user names for it."""

    path: Path
    columns: dict[str, str]
    audio_folder: Path

    def utterances(self, skipped: Skipped) -> Iterator[Utterance]:
        """One a row; unknown columns are kept. Skips rows without audio. Raises InputError: no
        such column, a name or an id twice, more cells than columns, times that are no seconds."""
        columns: dict[str, str] | None = None
        lines: dict[str, int] = {}
        for number, row in self._rows():
            columns = columns or self._choose(list(row))
            values = {key: row.pop(column).strip() for key, column in columns.items()}
            where = f"{self.path}:{number}"
            if not values["audio"]:
                skipped.append((where, "no audio named"))
                continue
            id = values.get("id") or str(Path(values["audio"]).with_suffix(""))
            if id in lines:
                what = f"duplicate id '{id}' (first in line {lines[id]})"
                raise InputError(what, where, "Name a column of different ids: --id-column")
            lines[id] = number
            yield Utterance(
                id=id,
                folder=self.audio_folder,
                audio=values["audio"],
                text=values["text"],
                start=_seconds(values.get("start"), where) or 0.0,
                duration=_seconds(values.get("duration"), where),
                speaker=values.get("speaker") or None,
                lang=values.get("lang") or None,
                extra={name: cell for name, cell in row.items() if cell and name not in KEYS},
            )

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, column -> cell). TSV has no quoting that one could rely on: a quote in a
        sentence of Common Voice is just a quote, unless the cell is quoted as a whole."""
        lines = (line for _, line in read_lines(self.path))
        head = next(lines, "")
        delimiter = max("\t,;", key=head.count)
        tabs = delimiter == "\t"
        style: dict[str, Any] = {"delimiter": delimiter, "strict": not tabs}
        style["quoting"] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
        names = [name.strip() for name in next(csv.reader([head], **style), [])]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"two columns '{twice.pop()}'", self.path, "Rename one of them")
        reader = csv.reader((line + "\n" for line in lines), **style)
        try:
            for cells in reader:
                number = reader.line_num + 1
                if len(cells) > len(names):
                    what = f"{len(cells)} cells in a table of {len(names)} columns"
                    raise InputError(what, f"{self.path}:{number}", "Quote cells that hold commas")
                if tabs:
                    cells = [_unquoted(cell) for cell in cells]
                if any(cells):
                    cells += [""] * (len(names) - len(cells))
                    yield number, dict(zip(names, cells, strict=True))
        except csv.Error as error:
            raise InputError(
                f"broken CSV ({error})", f"{self.path}:{reader.line_num + 1}", "Correct this line"
            ) from None

    def _choose(self, names: list[str]) -> dict[str, str]:
        chosen = {}
        for key, usual in NAMES.items():
            wanted = self.columns.get(key)
            if wanted is not None and wanted not in names:
                raise InputError(f"no column '{wanted}'", self.path, nearest(wanted, names))
            alike = {name.lower(): name for name in names}
            found = wanted or next((alike[name] for name in usual if name in alike), None)
            if found:
                chosen[key] = found
            elif key in ("audio", "text"):
                remedy = f"Name it: --{key}-column. Columns: {', '.join(names)}"
                raise InputError(f"no column for {key}", self.path, remedy)
        if "start" not in chosen:
            chosen.pop("duration", None)  # of the whole file, which knows it better
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


def import_table(
    path: Path, skipped: Skipped, columns: dict[str, str], audio_folder: Path | None = None
) -> Iterator[Utterance]:
    """Audio is relative to `audio_folder`, else to the table's folder or its `clips` (Common
    Voice). Raises InputError; see Table."""
    clips = path.parent / "clips"
    folder = audio_folder or (clips if clips.is_dir() else path.parent)
    return Table(path, columns, folder).utterances(skipped)
