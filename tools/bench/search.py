"""The CTC search beside flashlight-text and pyctcdecode: speed, word errors, search error.

    export PEERS=.../peers PEERS_PYTHON=.../bin/python PEERS_WORK=.../emissions
    python tools/bench/search.py                        both tables
    python tools/bench/search.py --only char --set hard
    python tools/bench/search.py --tune --set hard      finds OURS on the first 100 utterances

PEERS is the folder with make_emissions.py and peers_ctc.py, PEERS_PYTHON an interpreter that has
the peers, PEERS_WORK what make_emissions.py wrote (made if it is missing). Without the first two
only our rows are printed. Every row is a process of its own, one thread on one core; rows take
turns and the median of --repeats runs counts. Settings were frozen on the first 100 utterances (but
for one, see OURS in search_work.py); the table is of the second 100. Nothing else should run.

`search error` is what of the mean total a beam of 1000 without thresholds finds more, with the same
weights and utterances: at the tuned settings, and at the defaults of SearchOptions.

Bars: frames/s relative to the peer, at most max(3, 10 %) more word errors and no significant
difference; search error at most 0.1 % of the mean total.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from search_further import further
from search_tune import tune
from search_work import EFFORT, LMS, OURS, SETS, Settings, Work, decoder, parse, run, written

from asr.decoding.options import SearchOptions
from asr.wer import Bootstrap, count_errors

BARS = {"lexicon": (3, 5), "char": (4, 8), "word": (10, 20)}
PEER = {"lexicon": "flashlight-lexicon", "char": "flashlight-free", "word": "pyctcdecode"}

PEERS = {
    ("easy", "lexicon"): [
        "beam=50 token_beam=10 threshold=7 lm_weight=1.1 word_score=1",
        "beam=100 token_beam=15 threshold=8 lm_weight=1.1 word_score=1",
    ],
    ("hard", "lexicon"): [
        "beam=30 token_beam=10 threshold=8 lm_weight=0.75 word_score=3",
        "beam=150 token_beam=10 threshold=8 lm_weight=0.6 word_score=3",
    ],
    ("easy", "char"): [
        "beam=20 token_beam=12 threshold=4 lm_weight=1.1 space_score=1",
        "beam=20 token_beam=15 threshold=4 space_score=1",
    ],
    ("hard", "char"): ["beam=20 token_beam=15 threshold=3 lm_weight=0.6 space_score=1"],
    ("easy", "word"): [
        "beam=12 prune_logp=-4 token_min_logp=-4 alpha=0.35 beta=1.1 unk_score_offset=-7",
        "beam=12 prune_logp=-4 alpha=0.3 beta=1.1 unk_score_offset=-7 drop_blank=0.98",
    ],
    ("hard", "word"): [
        "beam=50 prune_logp=-4 token_min_logp=-4 prune_history=1 alpha=0.3 unk_score_offset=-5 "
        "drop_blank=0.99",
        "beam=50 prune_logp=-4 token_min_logp=-4 alpha=0.3 beta=2.5 unk_score_offset=-3 "
        "drop_blank=0.99",
    ],
}
FILES = {  # the peers' arguments
    "tokens": "tokens.txt",
    "words": "words.txt",
    "word-bin": "word.bin",
    "char-bin": "char.bin",
}
WIDE = {"beam": 1000.0, "beam_threshold": 1e9, "token_threshold": 1e9, "blank_skip": 1.0}


def decode(args: argparse.Namespace) -> None:
    """One row of ours: the peers' protocol."""
    ours = decoder(args.data, args.work, parse(args.settings))
    with np.load(args.emissions) as archive:
        arrays = {name: archive[name] for name in archive.files}
    begin = time.perf_counter()
    for frames in arrays.values():  # a second of warming up, as the peers do
        ours.decode(frames)
        if time.perf_counter() - begin > 1:
            break
    begin = time.perf_counter()
    found = [ours.decode(frames) for frames in arrays.values()]
    print(f"decode_seconds {time.perf_counter() - begin:.6f}")
    print(f"mean_score {np.mean([h.total for h in found]):.6f}")
    lines = [f"{name}\t{h.text}\n" for name, h in zip(arrays, found, strict=True)]
    args.out.write_text("".join(lines))


class Row(NamedTuple):
    """A command to measure, and where it writes its texts."""

    label: str
    command: list[str]
    out: Path


class Result(NamedTuple):
    """Of one row."""

    label: str
    speed: float  # frames a second
    errors: list[int]  # of each utterance
    score: float


def measure(rows: list[Row], work: Work, repeats: int, core: int) -> list[Result]:
    """Rows in turn; the median of their times."""
    arrays, references = work.arrays(), work.references()
    frames = sum(map(len, arrays.values()))
    printed: list[list[dict[str, float]]] = [[] for _ in rows]
    for _ in range(repeats):
        for row, numbers in zip(rows, printed, strict=True):
            numbers.append(run(row.command, core))
    results = []
    for row, numbers in zip(rows, printed, strict=True):
        texts = dict(line.split("\t", 1) for line in row.out.read_text().split("\n")[:-1])
        hypotheses = [texts.get(name, "") for name in arrays]
        errors = count_errors(references, hypotheses)[:, 1:].sum(1).tolist()
        seconds = statistics.median(n["decode_seconds"] for n in numbers)
        results.append(Result(row.label, frames / seconds, errors, numbers[0]["mean_score"]))
    return results


def our_rows(work: Work, kind: str, emissions: Path) -> tuple[Row, Row, Row]:
    """As tuned; at the defaults of SearchOptions; so wide that hardly a search error is left."""
    tuned = parse(OURS[work.set, kind])
    weights = {name: value for name, value in tuned.items() if name not in EFFORT}
    default = {name: float(getattr(SearchOptions(), name)) for name in EFFORT}

    def row(label: str, settings: Settings) -> Row:
        out = emissions.with_name(f"{label}.tsv")
        command = [sys.executable, __file__, "--data", str(work.data), "--decode", kind]
        command += ["--settings", written(settings)]
        command += ["--emissions", str(emissions), "--out", str(out)]
        return Row(f"{label}: {written(settings)}", command, out)

    return (
        row("ours", tuned),
        row("ours, defaults", default | weights),
        row("ours, widest", tuned | WIDE),
    )


def peer_rows(work: Work, kind: str, emissions: Path, args: argparse.Namespace) -> list[Row]:
    """The peer's; none where it is not installed, or none can do it."""
    if not (args.peers and args.peers_python and kind in PEER):
        return []
    places = [f"--{name}={work.data / file}" for name, file in FILES.items()]
    script = [args.peers_python, str(args.peers / "peers_ctc.py"), PEER[kind]]
    rows = []
    for number, text in enumerate(PEERS[work.set, kind]):
        out = emissions.with_name(f"peer{number}.tsv")
        common = ["--emissions", str(emissions), "--out", str(out)]
        command = [*script, *common, *places, "--set", *text.split()]
        rows.append(Row(f"{PEER[kind]}: {text}", command, out))
    return rows


def table(args: argparse.Namespace, kinds: list[str], sets: list[str]) -> None:
    """Ours and the peers' on the second half; both LMs beside our own with one."""
    print(f"{processor()}; load before: {os.getloadavg()[0]:.1f} (of others; 0 is best)\n")
    print("| work, set | decoder | frames/s | WER % | search error % | ours, times as fast", end="")
    print(" | ours, word errors | p |\n|---|---|---:|---:|---:|---:|---:|---:|")
    with_one: dict[str, list[Result]] = {name: [] for name in sets}
    for kind, name in itertools.product(kinds, sets):
        work = Work(args.data, name, "report")
        words = [len(reference.split()) for reference in work.references()]
        with tempfile.TemporaryDirectory() as folder:
            emissions = Path(folder, f"{name}.npz")
            np.savez(emissions, **work.arrays())
            *own, widest = our_rows(work, kind, emissions)
            (wide,) = measure([widest], work, 1, args.core)
            rows = [*own, *peer_rows(work, kind, emissions, args)]
            ours, default, *others = measure(rows, work, args.repeats, args.core)
        if kind == "both":
            others += with_one[name]
        else:
            with_one[name].append(ours._replace(label=f"ours, {kind} alone"))
        for result in (ours, default, *others):
            wer = 100 * sum(result.errors) / sum(words)
            line = f"| {kind}, {name} | {result.label} | {result.speed:,.0f} | {wer:.2f} |"
            if result in (ours, default):
                lost = 100 * (wide.score - result.score) / abs(wide.score)
                line += f" {lost:.3f} | | {sum(result.errors)} | |"
            else:
                test = Bootstrap([None] * len(words)).compare(result.errors, ours.errors, words)
                more = sum(ours.errors) - sum(result.errors)
                line += f" | {ours.speed / result.speed:.1f} | {more:+d} | {test.p:.2f} |"
            print(line, flush=True)
        bar, aim = BARS.get(kind, ("none", "lowest WER"))
        print(f"| | bar | | | ≤ 0.1 | {bar} (aim {aim}) | ≤ max(3, 10 %) | > 0.05 |", flush=True)


def processor() -> str:
    """Its name, cores and widest vectors."""
    lines = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines())
    known = {pair[0].strip(): pair[-1].strip() for pair in lines}
    flags = known.get("flags", "").split()
    vectors = next((name for name in ("avx512f", "avx2") if name in flags), "no AVX2")
    cores = len(os.sched_getaffinity(0))
    return f"{known.get('model name', 'processor')}, {cores} cores, {vectors}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    env = os.environ.get
    parser.add_argument("--peers", type=Path, default=env("PEERS"))
    parser.add_argument("--peers-python", default=env("PEERS_PYTHON"))
    parser.add_argument("--data", type=Path, default=env("PEERS_WORK"))
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--only", action="append", choices=LMS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--tune", action="store_true")
    for name in ("decode", "settings", "emissions", "out"):  # one row, for measure()
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS, type=str)
    args = parser.parse_args()
    if args.decode:
        args.work, args.out = args.decode, Path(args.out)
        return decode(args)
    if args.data is None:
        parser.error("give --data (or PEERS_WORK), the folder that make_emissions.py writes")
    if args.peers_python is None or not shutil.which(args.peers_python) or not args.peers:
        print("peers are not installed (--peers, --peers-python): only our rows")
        args.peers = None
    if not (args.data / "hard" / "emissions.npz").exists():
        if not args.peers:
            parser.error(f"{args.data}: no emissions; make_emissions.py of the peers makes them")
        subprocess.run(
            [args.peers_python, str(Path(args.peers) / "make_emissions.py"), "--out", args.data],
            check=True,
        )
    kinds, sets = args.only or list(LMS), args.set or list(SETS)
    if args.tune:
        return tune(args.data, kinds, sets)
    table(args, kinds, sets)
    return further(args.data, kinds, sets, args.core, args.repeats)


if __name__ == "__main__":
    main()
