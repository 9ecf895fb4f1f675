"""A folder of recordings with a text file beside each: `x.wav` + `x.txt`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from asr.data.corpora.common import Skipped, read_lines
from asr.data.manifest import Utterance
from asr.errors import InputError
from asr.hypothesis import join_words

# of recordings of the same name the first kind is taken
SUFFIXES = ".wav .flac .aiff .aif .au .sph .ogg .opus .mp3 .m4a .aac .mp4 .wma .webm .amr".split()  # noqa: SIM905


def import_folder(folder: Path, skipped: Skipped) -> Iterator[Utterance]:
    """All recordings below `folder`, sorted; id = path without suffix, speaker = first subfolder.
    Skips recordings without a text file or with an empty one, and text files without a recording.
    Raises InputError where there is no recording at all."""
    if not folder.is_dir():
        raise InputError("not a folder", folder, "Give the folder with the recordings")
    found: dict[str, str] = {}
    texts: dict[str, str] = {}  # by id
    for place, folders, names in os.walk(folder):
        folders.sort()
        files = [Path(place, name).relative_to(folder) for name in sorted(names)]
        texts |= {id_of(file): str(file) for file in files if file.suffix.lower() == ".txt"}
        audio = [f for f in files if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
        for file in sorted(audio, key=lambda f: (id_of(f), SUFFIXES.index(f.suffix.lower()))):
            id, reason, said = id_of(file), None, ""
            if id in found:
                reason = f"{found[id]} has the same name"
            elif id not in texts:
                reason = f"no {file.stem}.txt beside it"
            else:
                found[id] = str(file)
                try:
                    lines = read_lines(folder / texts[id])
                    said = join_words(filter(None, (" ".join(text.split()) for _, text in lines)))
                    reason = None if said else f"{Path(texts[id]).name} is empty"
                except InputError as error:
                    reason = str(error)
            if reason:
                skipped.append((str(file), reason))
            else:
                speaker = file.parts[0] if len(file.parts) > 1 else None
                yield Utterance(id, str(file), folder, text=said, speaker=speaker)
    if not found:
        remedy = "Put x.txt beside each x.wav (or .flac, ...)"
        raise InputError("no recording with a text file", folder, remedy)
    skipped += [(texts[id], "no recording beside it") for id in sorted(texts.keys() - found.keys())]


def id_of(file: Path) -> str:
    return file.with_suffix("").as_posix()
