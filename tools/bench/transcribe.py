"""`asr transcribe` of a recording of hours: wall time, CPU time and peak memory.

    python tools/bench/transcribe.py MODEL MANIFEST [--hours 3] [-- OPTIONS OF asr transcribe]

The recording is made of the manifest's, with pauses of half a second; --as mp4 makes a video of it.
Bars: three hours below 1.5 GB, and 20 times faster than real time on two free cores with an LM.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile

from asr.data.audio import load
from asr.data.manifest import Manifest


def make(path: Path, manifest: Path, hours: float, rate: int = 16_000) -> None:
    """A WAV of so many hours; path with another suffix: a video with that sound."""
    sound = path.with_suffix(".wav")
    with soundfile.SoundFile(sound, "w", rate, 1) as file:
        for utterance in cycle(Manifest.open(manifest)):
            file.write(np.concatenate([load(utterance, rate), np.zeros(rate // 2)]))
            if file.tell() > hours * 3600 * rate:
                break
    if path != sound:
        command = [
            "ffmpeg",
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            f"color=s=64x64:r=1:d={3600 * hours}",
        ]
        subprocess.run([*command, "-i", sound, path], check=True)
        sound.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--as", dest="suffix", default="wav")
    given, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"long.{given.suffix}"
        make(path, given.manifest, given.hours)
        command = [sys.executable, "-m", "asr", "transcribe", given.model, path, "-o", folder]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        subprocess.run([*command, *(o for o in options if o != "--")], check=True)
        wall = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        text = Path(folder, "long.txt")
        words = len(text.read_text().split()) if text.exists() else 0
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{given.hours} h as {given.suffix}, {words} words: wall {wall:.0f} s "
          f"({given.hours * 3600 / wall:.0f} x real time), CPU {cpu:.0f} s, "
          f"largest process {after.ru_maxrss / 1e6:.2f} GB")  # fmt: skip


if __name__ == "__main__":
    main()
