"""What the commands say while they work: progress on stderr, skipped items, exit status."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, NoReturn, TypeVar

from rich import progress as rich
from rich.console import Console
from rich.table import Column

Item = TypeVar("Item")
Skipped = list[tuple[str, str]]  # what was skipped, and why
MISTAKE, SKIPPED, INTERRUPTED = 2, 3, 130

stderr = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


@dataclass(slots=True)
class Stopwatch:
    """Seconds of audio that were decoded, and seconds that reading and decoding took."""

    audio_seconds: float = 0.0
    decode_seconds: float = 0.0


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


def distinct(names: Sequence[str], paths: Sequence[Path]) -> Sequence[str]:
    """The names, or the paths where a name comes twice."""
    return names if len(set(names)) == len(names) else [*map(str, paths)]


def some(names: Sequence[str], most: int | None = 10, by: str = ", ") -> str:
    """The first of them, and whether there are more."""
    return by.join([*names[:most], *["..."] * (most is not None and len(names) > most)])


def progress(counted: bool = True) -> rich.Progress:
    """A rich Progress on stderr with count (or percentage), time and ETA; tasks have the field
    `note`. Not shown where stderr is no terminal."""
    whole: Any = {"table_column": Column(no_wrap=True)}  # in a narrow terminal the note is wrapped
    done = rich.MofNCompleteColumn(**whole) if counted else rich.TaskProgressColumn(**whole)
    bar, elapsed = rich.BarColumn(bar_width=10, **whole), rich.TimeElapsedColumn(**whole)
    left = rich.TimeRemainingColumn(**whole)
    note = rich.TextColumn("{task.fields[note]}", table_column=Column())
    columns = "{task.description}", bar, done, elapsed, "ETA", left, note
    return rich.Progress(*columns, console=stderr, disable=not stderr.is_terminal)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items` behind a progress bar."""
    with progress() as bar:
        size = len(items) if total is None and isinstance(items, Sequence) else total
        task = bar.add_task(what, total=size, note="")
        for item in items:
            yield item
            bar.advance(task)


def end_with_skipped(
    skipped: Skipped, of: int, what: str = "utterance", most: int | None = None
) -> None:
    """List skipped items (`most` of them) with their reasons and exit with status 3; nothing
    skipped: return."""
    if skipped:
        say(f"skipped {len(skipped):,} of {count(of, what)}:")
        for name, reason in skipped[:most]:
            say(f"  {name}: {reason}")
        if most is not None and len(skipped) > most:
            say(f"  ... and {len(skipped) - most:,} more")
        leave(SKIPPED)


def leave(status: int) -> NoReturn:
    sys.exit(status)
