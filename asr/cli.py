"""The command line: `asr COMMAND`. Each command is a file in `asr/commands`, imported when called.

Exit status: 0 done; 2 a mistake of the user's, one message; 3 done, but single items were
skipped and listed; 130 interrupted.
"""

import errno
import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import click

from asr.errors import InputError
from asr.files import cannot_write

COMMANDS = {  # kept here so that --help imports nothing else
    "prepare": "Make manifests from a corpus or a folder of recordings.",
    "check": "Say what is wrong with the data, before any training.",
    "tokenizer": "Make a tokenizer from text or manifests.",
    "lm": "Train an n-gram language model, or score text with one.",
    "train": "Train a CTC or LAS model directly from waveforms.",
    "decode": "Decode a manifest, or saved outputs, into an n-best file.",
    "rescore": "Add a language model's scores to an n-best file.",
    "tune": "Choose LM weight and length bonus on a dev set.",
    "score": "Word and character error rate, with intervals and comparison.",
    "transcribe": "Turn audio files into text, subtitles or JSON.",
    "align": "Word times of known transcripts, as CTM.",
    "report": "Experiments and their test sets as one page of HTML.",
    "info": "Describe a model folder or a language model.",
    "doctor": "Say which optional parts are missing and how to get them.",
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return import_module(f"asr.commands.{name}").command if name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    commands=[click.Command(name) for name in COMMANDS],  # what click suggests for a wrong one
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="asr")
def cli() -> None:
    """Train a speech recogniser on your recordings, decode it with a language model, score it,
    and transcribe files.

    \b
    Examples:
      asr prepare folder recordings/ -o data/
      asr train conf/ctc.yaml -o exp/ctc
      asr transcribe exp/ctc talk.wav -f txt,srt
    """


@contextmanager
def written() -> Iterator[None]:
    """Raises InputError where stdout, or the disk of a file, is full or stdout lacks a character; a
    closed pipe ends quietly."""
    try:
        try:
            yield
        finally:
            if sys.stdout:  # not closed
                sys.stdout.flush()
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":  # of a file, or of what no encoding can write
            raise
        what = f"{error.encoding} has no {error.object[error.start : error.end]!a}"
        raise InputError(what, "stdout", "Set PYTHONIOENCODING=utf-8.") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        kind = os.fstat(1).st_mode  # a pipe or a terminal is never full: then it is a file's disk
        may_fill = stat.S_ISREG(kind) or (stat.S_ISCHR(kind) and not os.isatty(1))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python writes at its end
        if error.errno == errno.EPIPE:
            sys.exit(1)  # as click does
        raise cannot_write(Path("stdout" if may_fill else "a file"), error) from None


def main() -> None:
    """Entry point: user's mistakes become one message and exit status 2; SIGTERM ends as Ctrl-C
    does, with nothing half-written left."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with written():
            cli.main(standalone_mode=False)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
