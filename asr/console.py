"""What the commands say while they work: progress on stderr, skipped items, exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Timer
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")


@dataclass(slots=True)
class Stopwatch:
    """Seconds of audio that were decoded, and seconds that reading and decoding took."""

    audio_seconds: float = 0.0
    decode_seconds: float = 0.0


DONE, MISTAKE, SKIPPED, INTERRUPTED = 0, 2, 3, 130

stderr = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(message: str) -> None:
    """One line on stderr; results go to stdout."""
    stderr.print(message)


@contextmanager
def compiling(seconds: float = 2.0) -> Iterator[None]:
    """Say why it takes long, if this block does: a search is compiled at its first use."""
    later = Timer(seconds, say, ["preparing the search (its first use compiles it: half a minute)"])
    later.daemon = True
    later.start()
    try:
        yield
    finally:
        later.cancel()


def count(number: int, unit: str) -> str:
    """ "1 file", "12,000 files"."""
    return f"{number:,} {unit}" + "s" * (number != 1)


@contextmanager
def progress(counted: bool = True) -> Iterator[Progress]:
    """A rich Progress on stderr with count (or percentage), time and ETA; tasks may set the field
    `note`. Not shown where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn() if counted else TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
        yield bar


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items` behind a progress bar."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with progress() as bar:
        task = bar.add_task(what, total=total, note="")
        for item in items:
            yield item
            bar.advance(task)


def end_with_skipped(
    skipped: Sequence[tuple[str, str]], of: int, what: str = "utterance", most: int | None = None
) -> None:
    """List skipped items (`most` of them) with their reasons and exit with status 3; nothing
    skipped: return."""
    if not skipped:
        return
    say(f"skipped {len(skipped):,} of {count(of, what)}:")
    for name, reason in skipped[:most]:
        say(f"  {name}: {reason}")
    if most is not None and len(skipped) > most:
        say(f"  ... and {len(skipped) - most:,} more")
    leave(SKIPPED)


def leave(status: int) -> NoReturn:
    sys.exit(status)
