"""Two threads, the first call and memory: the second table of search.py.

    python search_further.py first|memory|threads DATA KIND SET     one measurement, by itself

Each is a process of its own: what was decoded before would be compiled, or memory at its peak.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from search_work import LMS, OURS, SETS, Work, decoder, parse, run

WARMING = 20  # frames


def further(data: Path, kinds: Sequence[str], sets: Sequence[str], core: int, repeats: int) -> None:
    """Print the table."""

    def one(what: str, kind: str, name: str, on: int | str = core, **environment: str) -> float:
        command = [sys.executable, __file__, what, str(data), kind, name, str(repeats)]
        return run(command, on, **environment)[what]

    print("\n| further | measured | bar |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as cache:
        for label, bar in (("first call, fresh cache", 15), ("first call, cached", 1)):
            took = one("first", "both", "hard", XDG_CACHE_HOME=cache)
            print(f"| {label} | {took:.2f} s | ≤ {bar} s |", flush=True)
    ratio = one("threads", "char", "hard", ",".join(map(str, sorted(os.sched_getaffinity(0)))))
    print(f"| two threads, times as fast as one | {ratio:.2f} | ≥ 1.8 |", flush=True)
    for kind, name in itertools.product(kinds, sets):
        grown = one("memory", kind, name)
        label = f"peak memory, beam and n-best 100: {kind}, {name}"
        print(f"| {label} | {grown:+.1f} MB | ≤ 50 MB |", flush=True)


def first(work: Work, kind: str) -> float:
    """Seconds of the first call."""
    frames = next(iter(work.arrays().values()))
    ours = decoder(work.data, kind, parse(OURS[work.set, kind]))
    begin = time.perf_counter()
    ours.decode(frames)
    return time.perf_counter() - begin


def memory(work: Work, kind: str) -> float:
    """MB by which the peak grows at beam 100 and n-best 100: over a process that has the automaton
    open and loops loaded, by a beam of 2 over a few frames."""
    arrays = list(work.arrays().values())
    settings = parse(OURS[work.set, kind])
    decoder(work.data, kind, settings | {"beam": 2}).decode_nbest(arrays[0][:WARMING], 2)
    big = decoder(work.data, kind, settings | {"beam": 100})
    before = forget_peak()
    for frames in arrays:
        big.decode_nbest(frames, 100)
    return peak() - before


def forget_peak() -> float:
    """The peak is from now on what is held now, MB (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """The most memory that this program had so far, MB. Not ru_maxrss: that is at least what the
    process that started this one held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def threads(work: Work, kind: str, repeats: int) -> float:
    """How many times as fast two threads are as one."""
    arrays = list(work.arrays().values())
    ours = decoder(work.data, kind, parse(OURS[work.set, kind]))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    ours.decode_batch(arrays, 2)
    for _ in range(repeats):
        for number, times in seconds.items():
            begin = time.perf_counter()
            ours.decode_batch(arrays * 20, number)
            times.append(time.perf_counter() - begin)
    return statistics.median(seconds[1]) / statistics.median(seconds[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("first", "memory", "threads"))
    parser.add_argument("data", type=Path)
    parser.add_argument("kind", choices=LMS)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("repeats", type=int, nargs="?", default=5)
    args = parser.parse_args()
    work = Work(args.data, args.set, "report")
    if args.what == "threads":
        value = threads(work, args.kind, args.repeats)
    else:
        value = {"first": first, "memory": memory}[args.what](work, args.kind)
    print(args.what, value)


if __name__ == "__main__":
    main()
