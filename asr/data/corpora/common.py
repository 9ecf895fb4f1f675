"""What importers share: durations, reading lines, splits.

An importer yields utterances whose audio is relative to their `folder`; items it cannot use it
appends to `skipped` as (name, reason).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile
from numpy.typing import NDArray

from asr.data.audio import TOLERANCE, audio_info
from asr.data.manifest import Utterance, id_hash
from asr.errors import AudioError, InputError
from asr.files import cannot_read, whole_file

Skipped: TypeAlias = list[tuple[str, str]]
Sets: TypeAlias = dict[str, list[Utterance]]


def measured(utterances: Iterable[Utterance], skipped: Skipped) -> Iterator[Utterance]:
    """With durations from the files' headers; audio that cannot be opened or does not reach so
    far, or whose name no manifest can hold, is skipped."""
    for u in utterances:
        try:
            (u.id + u.audio).encode()
            rest = audio_info(u).seconds - u.start
        except (AudioError, UnicodeEncodeError) as error:
            wrong = str(error) if isinstance(error, AudioError) else "its name is not UTF-8"
            skipped.append((u.id, wrong))
            continue
        if rest <= 0 or (u.duration or 0.0) > rest + TOLERANCE:
            skipped.append((u.id, f"{u.audio} is empty or ends too early"))
        else:
            yield replace(u, duration=round(min(u.duration or rest, rest), 4))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of a text file. Raises InputError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from enumerate((line.rstrip("\r\n") for line in file), 1)
    except OSError as error:
        raise cannot_read(path, error) from None
    except UnicodeDecodeError:
        raise InputError("not UTF-8 text", path, "Convert it, e.g. with iconv") from None


def write_flac(path: Path, samples: NDArray[np.float32], rate: int) -> None:
    """16 bits. Raises InputError where it cannot be written."""
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="FLAC", subtype="PCM_16")
    with whole_file(path, "wb") as file:
        file.write(content.getbuffer())


def split_utterances(rows: Sequence[Utterance], fractions: dict[str, float], rest: str) -> Sets:
    """Sets of at least these fractions of the utterances, and the `rest`; each in its old order.
    Whole speakers where there are more speakers than sets, else single utterances. Drawn by hash of
    the name: the same every time, and a corpus that grows changes little."""
    speakers = {u.speaker for u in rows}
    by_speaker = None not in speakers and len(speakers) > len(fractions) + 1
    groups = [str(u.speaker) if by_speaker else u.id for u in rows]
    sizes = Counter(groups)
    left, place = sorted(sizes, key=id_hash), dict.fromkeys(sizes, rest)
    for name, fraction in fractions.items():
        wanted = fraction * len(rows)
        while wanted > 0 and left:
            wanted -= sizes[left[0]]
            place[left.pop(0)] = name
    sets: Sets = {name: [] for name in (rest, *fractions)}
    for u, group in zip(rows, groups, strict=True):
        sets[place[group]].append(u)
    if not sets[rest]:
        raise InputError(f"nothing is left for '{rest}'", None, "Lower --dev and --test")
    return {name: chosen for name, chosen in sets.items() if chosen}
