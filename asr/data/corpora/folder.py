"""A folder of recordings with a text file beside each: `x.wav` + `x.txt`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from asr.data.corpora.common import Skipped, read_lines
from asr.data.manifest import Utterance
from asr.errors import InputError

SUFFIXES = {
    *".wav .flac .ogg .opus .mp3 .aiff .aif .au .sph .m4a .aac .mp4 .wma .webm .amr".split()  # noqa: SIM905
}


def import_folder(folder: Path, skipped: Skipped) -> Iterator[Utterance]:
    """All recordings below `folder`, sorted; id = path without suffix, speaker = first subfolder.

    Skips recordings without a text file or with an empty one, and text files without a recording.
    Raises InputError where there is no recording at all.
    """
    if not folder.is_dir():
        raise InputError("not a folder", folder, "Give the folder with the recordings")
    found: dict[str, str] = {}
    texts: set[str] = set()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(place, name).relative_to(folder)
            if file.suffix == ".txt":
                texts.add(str(file))
            if file.suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            id = file.with_suffix("").as_posix()
            text = folder / f"{id}.txt"
            if id in found:
                skipped.append((str(file), f"{found[id]} has the same name"))
            elif not text.is_file():
                skipped.append((str(file), f"no {text.name} beside it"))
            else:
                found[id] = str(file)
                try:
                    said = " ".join(" ".join(line for _, line in read_lines(text)).split())
                except InputError as error:
                    skipped.append((str(file), str(error)))
                    continue
                if not said:
                    skipped.append((str(file), f"{text.name} is empty"))
                    continue
                speaker = file.parts[0] if len(file.parts) > 1 else None
                yield Utterance(id, str(file), folder, text=said, speaker=speaker)
    if not found:
        raise InputError(
            "no recording with a text file", folder, "Put x.txt beside each x.wav (or .flac, ...)"
        )
    alone = sorted(texts - {f"{id}.txt" for id in found})
    skipped += [(name, "no recording beside it") for name in alone]
