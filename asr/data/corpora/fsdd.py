"""Free Spoken Digit Dataset (Jackson et al., DOI 10.5281/zenodo.1342401): English digits, 8 kHz.

Single digits, and strings of digits joined from one speaker's recordings. Sets: of the four
training speakers indices 10-49 train, 5-9 dev, 0-4 test; `unseen` is another speaker, all of him.
"""

from __future__ import annotations

import functools
import re
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from asr.data.audio import Samples, read_native
from asr.data.corpora.common import Sets, write_flac
from asr.data.manifest import Manifest, Utterance
from asr.errors import InputError

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/heads/master.zip"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS, UNSEEN = ("jackson", "lucas", "nicolas", "theo"), "yweweler"
COMPLETE = ".complete"  # marks a finished download
PAUSE = (0.05, 0.5)  # seconds, before, between and after the digits of a string
FLOOR_FRAME = 0.02  # seconds; a recording's noise is measured in its quietest such frames
NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")


def import_fsdd(source: Path) -> Sets:
    """set -> recordings, from a clone of the repository or from manifests with a key `index`.
    Raises InputError where `source` is neither, or a set has no recording."""
    sets: Sets = {name: [] for name in ("train", "dev", "test", "unseen")}
    for u in _recordings(source):
        index = int(u.extra["index"])
        if u.speaker in SPEAKERS:
            sets["test" if index < 5 else "dev" if index < 10 else "train"].append(u)
        elif u.speaker == UNSEEN:  # a test set too, and marked as one
            sets["unseen"].append(replace(u, extra=u.extra | {"split": "test"}))
    for name, utterances in sets.items():
        if not utterances:
            raise InputError(f"no recording for '{name}'", source, "Download the corpus again")
    return sets


def _recordings(source: Path) -> Iterator[Utterance]:
    for path in sorted(source.glob("manifest.*.jsonl")):
        for utterance in Manifest.open(path):
            if not isinstance(utterance.extra.get("index"), int):
                raise InputError(f"'{utterance.id}' has no key 'index'", path, "Use FSDD's own")
            yield utterance
    for path in sorted((source / "recordings").glob("*.wav")):
        if name := NAME.fullmatch(path.name):
            audio, word = f"recordings/{path.name}", WORDS[int(name[1])]
            extra = {"index": int(name[3])}
            yield Utterance(path.stem, audio, source, 0.0, None, word, name[2], "en", extra)


def join_strings(
    recordings: Sequence[Utterance], count: int, lengths: tuple[int, int], folder: Path, seed: int
) -> Iterator[Utterance]:
    """`count` strings of lengths[0] to lengths[1] digits, written as FLAC to `folder`. Speakers
    take turns; digits, recordings and pauses are drawn from `seed` and the folder's name. There
    are pauses at both ends too, of noise as loud as the quietest frames of the digit beside.
    `extra["parts"]` = [{word, start, end}] in seconds. Raises AudioError."""
    split = recordings[0].extra.get("split", folder.name)
    rng = np.random.default_rng([seed, zlib.crc32(folder.name.encode())])
    voices: dict[str, dict[str, list[Utterance]]] = {}
    for r in recordings:
        voices.setdefault(str(r.speaker), {}).setdefault(str(r.text), []).append(r)

    @functools.cache
    def read(speaker: str, word: str, number: int) -> tuple[Samples, int]:
        samples, rate, _ = read_native(voices[speaker][word][number])
        return samples.mean(axis=1), rate

    for number in range(count):
        speaker = sorted(voices)[number % len(voices)]
        words = rng.choice(sorted(voices[speaker]), rng.integers(lengths[0], lengths[1] + 1))
        takes = [int(rng.integers(len(voices[speaker][word]))) for word in words]
        chosen = [read(speaker, word, take) for word, take in zip(words, takes, strict=True)]
        rate, pieces, size = chosen[0][1], [], 0
        parts: list[dict[str, Any]] = []
        for word, (digit, _) in zip([*words, ""], [*chosen, chosen[-1]], strict=True):
            pause = rng.standard_normal(round(rng.uniform(*PAUSE) * rate))
            pieces += [(pause * _noise_level(digit, rate)).astype(np.float32), digit]
            begin, end = size + len(pause), size + len(pause) + len(digit)
            size = end
            times = {"start": round(begin / rate, 4), "end": round(end / rate, 4)}
            parts.append({"word": str(word), **times})
        joined = np.clip(np.concatenate(pieces[:-1]), -1, 1)
        id = f"{folder.name}-{speaker}-{number:05d}"
        write_flac(folder / f"{id}.flac", joined, rate)
        seconds, extra = round(len(joined) / rate, 4), {"parts": parts[:-1], "split": split}
        text = " ".join(words)
        yield Utterance(id, f"{id}.flac", folder, 0.0, seconds, text, speaker, "en", extra)


def _noise_level(samples: Samples, rate: int) -> float:
    """RMS of the quietest tenth of the frames."""
    size = round(FLOOR_FRAME * rate)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return float(np.quantile(np.sqrt((frames**2).mean(axis=1)), 0.1)) if len(frames) else 0.0


def download(url: str, folder: Path, report: Callable[[int, int], None]) -> None:
    """The archive's recordings into `folder`, nothing if they are there. `report(bytes so far,
    bytes or 0)` while it loads. Raises InputError."""
    if (folder / COMPLETE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as archive:
            with urllib.request.urlopen(url, timeout=60) as source:
                size = int(source.headers.get("Content-Length") or 0)
                while block := source.read(1 << 18):
                    archive.write(block)
                    report(archive.tell(), size)
            (folder / "recordings").mkdir(exist_ok=True)
            with zipfile.ZipFile(archive) as members:
                for member in members.namelist():
                    name = Path(member).name  # nothing else of the path is used
                    if NAME.fullmatch(name) and member.endswith(f"recordings/{name}"):
                        (folder / "recordings" / name).write_bytes(members.read(member))
        (folder / COMPLETE).touch()
    except (OSError, ValueError) as error:
        raise InputError(f"download failed ({error})", url, "Try again, or give --url") from None
    except zipfile.BadZipFile:
        raise InputError("not a zip archive", url, "Try again, or give another --url") from None
