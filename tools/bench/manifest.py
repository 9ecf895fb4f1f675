"""Manifests of many millions of lines: time to open, first batch, memory an utterance.

    ASR_DATA=... python tools/bench/manifest.py [--lines 10000000]

Writes a manifest of real recordings (arctic-kathleen, over and over, each line an id of its own)
into a temporary folder, 2 GB for ten million lines, builds its index, and then, in a process each:
opens it, and makes the first training batch. Bars: open in 1 s, first batch in 10 s, 16 bytes an
utterance. Memory is the most that was the process's own at any moment (Linux: RssAnon, looked at a
hundred times a second), less that of the same with a manifest of 1000 lines; mapped pages of the
index belong to the file and are given back when memory is short.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from asr.data.audio import audio_path
from asr.data.cache import AudioCache
from asr.data.loader import BatchMaker, DataOptions, Fit, TrainingSet
from asr.data.manifest import Manifest, open_manifests
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.text.tokenizer import Tokenizer


def write(source: Path, path: Path, lines: int) -> None:
    """The lines of `source` again and again."""
    rows = []
    for utterance in Manifest.open(source):
        row = utterance.to_dict() | {"audio": audio_path(utterance.audio, utterance.folder)}
        del row["id"]
        rows.append(", " + json.dumps(row, ensure_ascii=False)[1:] + "\n")
    with open(path, "w", encoding="utf-8") as file:
        for number in range(lines):
            file.write(f'{{"id": "utterance-{number}"{rows[number % len(rows)]}')


def own_memory() -> int:
    """Bytes of this process that no file holds."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


class Peak(threading.Thread):
    """The most memory that was this process's own while the thread ran."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.most = max(self.most, own_memory())

    def stop(self) -> int:
        self.done.set()
        self.join()
        return max(self.most, own_memory())


def stage(what: str, path: Path) -> dict[str, float]:
    """Seconds and bytes of one stage, in this process."""
    peak = Peak()
    peak.start()
    begin = time.perf_counter()
    manifest = open_manifests([path])
    if what == "batch":
        tokenizer = Tokenizer.train("char", [manifest[i].text or "" for i in range(600)])
        model = Recognizer(RecognizerOptions(), tokenizer.size)
        begin = time.perf_counter()
        manifest = open_manifests([path])
        fit = Fit(model.output_lengths, model.min_frames)
        options = DataOptions([str(path)], ["-"], batch_seconds=120, workers=0)  # of each size
        train = TrainingSet(
            manifest,
            BatchMaker(tokenizer, AudioCache(16000, options.cache_mb), 0, fit, options),
            manifest.durations,
        )
        batch = next(train.batches(0, 0, 1))
        assert len(batch.ids) > 1
        assert not batch.unreadable
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "bytes": peak.stop(), "lines": len(manifest)}


def measure(what: str, path: Path) -> dict[str, float]:
    words = [sys.executable, __file__, "--stage", what, "--manifest", str(path)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("ASR_DATA"))
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--stage", choices=("open", "batch"), help=argparse.SUPPRESS)
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(stage(args.stage, args.manifest)))
        return
    if args.data is None:
        parser.error("give --data (or ASR_DATA), the folder of the recordings")
    source = Path(args.data) / "arctic-kathleen" / "manifest.train.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few.jsonl", Path(folder) / "many.jsonl"
        write(source, few, 1000)
        write(source, many, args.lines)
        index = measure("open", many)
        print(f"index of {args.lines:,} lines built in {index['seconds']:.0f} s")
        print("| stage | seconds | bar | bytes an utterance | bar |\n|---|---:|---:|---:|---:|")
        for what, bar in (("open", 1), ("batch", 10)):
            small, large = measure(what, few), measure(what, many)
            grown = (large["bytes"] - small["bytes"]) / (large["lines"] - small["lines"])
            print(f"| {what} | {large['seconds']:.2f} | {bar} | {grown:.1f} | 16 |", flush=True)


if __name__ == "__main__":
    main()
