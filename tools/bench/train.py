"""Training throughput: how near to the limit of the model on this machine, and beside the peers.

    export ASR_DATA=... PEERS=.../peers PEERS_PYTHON=.../bin/python ESPNET_PYTHON=.../bin/python
    python tools/bench/train.py

Twenty minutes of real recordings (speechocean762) in batches of a minute, models of 3.1 million
parameters, two threads, a process a row. For CTC and LAS, `logmel` and `conv`, without and with
augmentation: seconds of audio trained on a second

    first        end to end, the first epoch: files decoded (and varied) by threads, meanwhile or in
                 turns with training
    later        end to end, a later epoch: what was decoded is in memory (`data.cache_mb`)
    limit        the same steps, batches in memory
    ratio        of the two to it; bar 95 %
    left         a later epoch by what the limit leaves when the threads' own processor time is
                 taken off: with augmentation the bar of 95 % is this one's
    waiting      share of a later epoch that steps waited for their batches

After a warm-up of the shapes both take turns. PEERS is the folder with train_step.py, PEERS_PYTHON
an interpreter that has SpeechBrain; they train on the same recordings in their own batches, and our
rows stand in the same table, one epoch each. Without PEERS only our table. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from asr.data.audio import audio_path
from asr.data.augment import Noise, Reverb
from asr.data.cache import AudioCache
from asr.data.loader import Batch, BatchMaker, DataOptions, Fit, read_batches
from asr.data.manifest import Manifest, Utterance
from asr.data.sampler import Sampler
from asr.machine import use_machine
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.text.tokenizer import Tokenizer
from asr.training.distributed import Group
from asr.training.update import TrainOptions, Updater

RATE = 16000
SECONDS = 60.0  # of audio in a batch
# LSTM units a direction that make 3.1 million parameters
SIZES = {("ctc", "logmel"): 212, ("ctc", "conv"): 208, ("las", "logmel"): 168, ("las", "conv"): 164}
BARS = {"speechbrain-lstm": 1.1, "speechbrain-crdnn": 5.0, "espnet-vggblstm": 8.0}
Plan = list[tuple[int, list[Utterance]]]


class Row:
    """A model, its batches, and what training on them takes."""

    def __init__(self, args: argparse.Namespace) -> None:
        use_machine(args.threads)
        torch.manual_seed(0)
        rows = json.loads(Path(args.batches).read_text(encoding="utf-8"))
        self.plan: Plan = [
            (0, [utterance_of(row, f"{b}-{i}") for i, row in enumerate(batch)])
            for b, batch in enumerate(rows)
        ]
        self.audio = sum(u.duration or 0.0 for _, batch in self.plan for u in batch)
        texts = (u.text or "" for _, batch in self.plan for u in batch)
        tokenizer = Tokenizer.train("char", texts)
        options = RecognizerOptions(ctc_weight=1.0 if args.head == "ctc" else 0.3)
        options.frontend.type = args.frontend
        options.encoder.type = "blstm" if args.head == "ctc" else "pyramid"
        options.encoder.size = SIZES[args.head, args.frontend]
        self.model = Recognizer(options, tokenizer.size)
        names = ["total", "ctc"] + (["att"] if self.model.has_speller else [])
        train = TrainOptions(learning_rate=1e-3)
        self.updater = Updater(self.model, self.model.losses, names, Group(), train, 0)
        fit = Fit(self.model.output_lengths, self.model.min_frames)
        varied = DataOptions(["-"], ["-"], channel=6.0, noise=Noise(0.5), reverb=Reverb(0.3))
        self.maker = BatchMaker(
            tokenizer, AudioCache(RATE, 0), 0, fit, varied if args.augment else None
        )
        self.step, self.loss = 0, 0.0

    def read(self) -> Iterator[Batch]:
        return read_batches(self.maker, self.plan, 1)

    def train(self, batches: Iterable[Batch]) -> tuple[float, float]:
        """Seconds on all batches, and those of them in which the next one was waited for."""
        self.loss = waited = 0.0
        following = iter(batches)
        begin = before = time.perf_counter()
        while batch := next(following, None):
            waited += time.perf_counter() - before
            outcome = self.updater.update(batch, self.step, 1e-3, False)
            self.loss += outcome.sums["total"] / outcome.sums["utterances"] / len(self.plan)
            self.step += 1
            before = time.perf_counter()
        return time.perf_counter() - begin, waited

    def measure(self, repeats: int) -> dict[str, float]:
        """Means over `repeats` of all ways, in turns; the processor time that reading takes."""
        first, later = self.maker.audio, AudioCache(RATE, DataOptions.cache_mb)
        self.maker.audio = later
        held = [self.maker.make(item) for item in self.plan]
        begin = time.process_time()
        for item in self.plan:
            self.maker.make(item)
        worker = time.process_time() - begin
        self.train(held)
        found = dict.fromkeys(("first", "later", "waited", "limit"), 0.0)
        for repeat in range(repeats):
            for way in ("first", "later", "limit")[:: -1 if repeat % 2 else 1]:
                self.maker.audio = first if way == "first" else later
                seconds, waited = self.train(held if way == "limit" else self.read())
                found[way] += seconds / repeats
                found["waited"] += waited / repeats if way == "later" else 0.0
        return found | {"worker": worker}

    def once(self) -> dict[str, float]:
        """The peers' way: one batch to warm up, then an epoch with the reading of files."""
        plan, self.plan = self.plan, self.plan[:1]
        self.train(self.read())
        self.plan = plan
        begin = time.perf_counter()
        self.train(self.read())
        return {"seconds": time.perf_counter() - begin}


def utterance_of(row: dict[str, Any], name: str) -> Utterance:
    return Utterance(name, row["path"], Path(), row.get("start", 0.0), row["duration"], row["text"])


def show_row(args: argparse.Namespace) -> None:
    """One JSON line with the figures of one row."""
    row = Row(args)
    found = row.once() if args.once else row.measure(args.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parameters = sum(p.numel() for p in row.model.parameters())
    found |= {"audio": row.audio, "parameters": parameters, "peak_mb": peak, "loss": row.loss}
    print(json.dumps(found))


def write_batches(manifest: Path, minutes: float, path: Path) -> None:
    """The first minutes of a manifest in batches of random order, for `Row`."""
    chosen: list[Utterance] = []
    for utterance in Manifest.open(manifest):
        if sum(u.duration or 0.0 for u in chosen) >= 60 * minutes:
            break
        chosen.append(utterance)
    sampler = Sampler(Manifest.open(manifest).durations[: len(chosen)], SECONDS, 0, 0)
    rows = [
        {
            "path": audio_path(u.audio, u.folder),
            "start": u.start,
            "duration": u.duration,
            "text": u.text,
        }
        for u in chosen
    ]
    batches = [[rows[i] for i in batch.tolist()] for batch in sampler.batches(0)]
    path.write_text(json.dumps(batches), encoding="utf-8")


def command(args: argparse.Namespace, head: str, frontend: str, batches: str) -> list[str]:
    """The command of one row."""
    given = {"head": head, "frontend": frontend, "batches": batches, "threads": args.threads}
    given["repeats"] = args.repeats
    return [sys.executable, __file__, *(f"--{name}={value}" for name, value in given.items())]


def table(args: argparse.Namespace, batches: Path) -> None:
    """Ours, end to end and in memory."""
    columns = ["parameters", "first", "later", "limit", "ratio: first", "later", "left"]
    columns += ["waiting", "peak MB", "loss"]
    print(f"| model | augmented | {' | '.join(columns)} |\n|---|---|{'---:|' * len(columns)}")
    for head, frontend in SIZES:
        for augment in (False, True):
            words = command(args, head, frontend, str(batches)) + ["--augment"] * augment
            r = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
            speeds = (f"{r['audio'] / r[way]:.1f}" for way in ("first", "later", "limit"))
            ratios = [r["limit"] / r["first"], r["limit"] / r["later"]]
            ratios.append((r["limit"] + r["worker"] / args.threads) / r["later"])
            shares = (f"{share:.1%}" for share in (*ratios, r["waited"] / r["later"]))
            cells = [f"{head} {frontend}", "yes" if augment else "no", f"{r['parameters']:,}"]
            cells += [*speeds, *shares, f"{r['peak_mb']:.0f}", f"{r['loss']:.1f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def beside_peers(args: argparse.Namespace, manifest: Path, folder: Path) -> None:
    """The table of train_step.py with our rows in it, and how much faster we are."""
    words = [args.peers_python, str(Path(args.peers) / "train_step.py"), "--manifest", manifest]
    words += ["--minutes", args.minutes, "--seconds", SECONDS, "--threads", args.threads]
    words += ["--systems", *args.systems, "--json", folder / "peers.jsonl"]
    if args.espnet_python:
        words += ["--espnet", args.espnet_python]
    for frontend in ("logmel", "conv"):
        ours = [*command(args, "ctc", frontend, "{batches}"), "--once"]
        words += ["--also", f"ours-{frontend}={' '.join(ours)}"]
    print(flush=True)
    environment = os.environ | {"PEERS_WORK": str(folder)}
    subprocess.run([str(word) for word in words], check=True, env=environment)
    lines = (folder / "peers.jsonl").read_text(encoding="utf-8").splitlines()
    speed = {r["system"]: r["audio"] / r["seconds"] for r in map(json.loads, lines)}
    print("\n| ours with logmel, times as fast as | measured | bar |\n|---|---:|---:|")
    for name, bar in BARS.items():
        if name in speed:
            print(f"| {name} | {speed['ours-logmel'] / speed[name]:.2f} | >= {bar} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    env = os.environ.get
    parser.add_argument("--data", type=Path, default=env("ASR_DATA"))
    parser.add_argument("--peers", default=env("PEERS"))
    parser.add_argument("--peers-python", default=env("PEERS_PYTHON"))
    parser.add_argument("--espnet-python", default=env("ESPNET_PYTHON"))
    parser.add_argument("--systems", nargs="*", default=["plain-reversed", *list(BARS)[:2]])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    for name in ("head", "frontend", "batches"):  # one row
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ("augment", "once"):
        parser.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.batches:
        return show_row(args)
    if args.data is None:
        parser.error("give --data (or ASR_DATA), the folder of the recordings")
    manifest = Path(args.data) / "speechocean762" / "manifest.train.jsonl"
    with tempfile.TemporaryDirectory() as place:
        write_batches(manifest, args.minutes, Path(place) / "batches.json")
        table(args, Path(place) / "batches.json")
        if args.peers and args.peers_python:
            beside_peers(args, manifest, Path(place))


if __name__ == "__main__":
    main()
