"""`asr prepare CORPUS SOURCE -o DIR`: manifests from a corpus or a folder of recordings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asr.commands.lazy import LazyGroup
from asr.console import count, end_with_skipped, progress, say, track
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.data.manifest import Utterance

PATH = click.Path(path_type=Path)
OUTPUT = click.option("-o", "--output", type=PATH, required=True, help="Folder of the manifests.")
FRACTION = click.FloatRange(0, 1, max_open=True)


@click.group(
    cls=LazyGroup,
    lazy={
        "espeak": ("prepare_espeak", "Synthesise a corpus with eSpeak NG."),
        "lexicon": ("prepare_lexicon", "The pronunciations of the words of texts."),
    },
)
def command() -> None:
    """Make manifests from a corpus or a folder of recordings. The audio stays where it is.

    \b
    Examples:
      asr prepare folder recordings/ -o data/ --dev 0.1 --test 0.1
      asr prepare csv cv/train.tsv -o data/ --name train
    """


def split_options(function: Callable[..., None]) -> Callable[..., None]:
    for name in ("test", "dev"):
        text = f"Share for manifest.{name}.jsonl: whole speakers where there are enough."
        function = click.option(f"--{name}", type=FRACTION, default=0.0, help=text)(function)
    name_option = click.option(
        "--name", default="train", show_default=True, help="The set (or what --dev, --test leave)."
    )
    return OUTPUT(name_option(function))


def write_sets(
    source: Path,
    utterances: Iterable[Utterance],
    skipped: list[tuple[str, str]],
    output: Path,
    name: str,
    dev: float,
    test: float,
) -> None:
    """Measure, split and write; end with status 3 if anything was skipped."""
    from asr.data.corpora.common import measured, split_utterances

    fractions = {key: value for key, value in (("dev", dev), ("test", test)) if value}
    if not re.fullmatch(r"\w[\w.-]*", name) or name in fractions:
        what = f"'{name}' is no name of a set beside {', '.join(fractions) or 'others'}"
        raise InputError(what, "--name", "Give another one.")
    good = list(track(measured(utterances, skipped), "reading"))
    if not good:
        reason = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise InputError(f"no usable utterance{reason}", source, "Nothing was written.")
    sets = split_utterances(good, fractions, name)
    write(sets, output)
    for key, fraction in fractions.items():
        if (got := len(sets[key]) / len(good)) > 1.5 * fraction + 1 / len(good):
            say(f"warning: {key} got {got:.0%}, not {fraction:.0%}: it takes whole speakers")
    end_with_skipped(skipped, len(good) + len(skipped))


def write(sets: dict[str, list[Utterance]], output: Path) -> None:
    from asr.data.manifest import Manifest, write_manifest

    written = {output / f"manifest.{name}.jsonl" for name in sets}
    ids = {u.id for utterances in sets.values() for u in utterances}
    for old in sorted({*output.glob("manifest.*.jsonl")} - written):
        with suppress(InputError):  # a broken one is no hindrance
            if both := sum(u.id in ids for u in Manifest.open(old)):
                say(f"warning: {old}, from before, holds {both} of these utterances: remove it")
    for name, utterances in sets.items():
        path = output / f"manifest.{name}.jsonl"
        write_manifest(path, utterances)
        hours = sum(u.duration or 0 for u in utterances) / 3600
        speakers = len({u.speaker for u in utterances} - {None})
        said = count(speakers, "speaker") if speakers else "speakers unknown"
        click.echo(f"{path}: {count(len(utterances), 'utterance')}, {said}, {hours:.2f} hours")
    if len(sets) > 1 and not all(u.speaker for utterances in sets.values() for u in utterances):
        say("warning: without speakers they may be in several sets: error rates will look too good")


@command.command()
@click.argument("folder", type=PATH)
@split_options
def folder(folder: Path, output: Path, name: str, dev: float, test: float) -> None:
    """Recordings (x.wav, .flac, ...) with the text in x.txt beside each.

    The first subfolder is the speaker. Recordings without text and texts without a recording are
    skipped and listed.

    \b
    Example:
      asr prepare folder recordings/ -o data/ --dev 0.1 --test 0.1
    """
    from asr.data.corpora.folder import import_folder

    skipped: list[tuple[str, str]] = []
    write_sets(folder, import_folder(folder, skipped), skipped, output, name, dev, test)


@command.command()
@click.argument("file", type=PATH)
@click.option("--audio-column", help="Column with the audio file.")
@click.option("--text-column", help="Column with the transcript.")
@click.option("--speaker-column", help="Column with the speaker.")
@click.option("--id-column", help="Column with the id (default: the audio file's name).")
@click.option("--audio-folder", type=PATH, help="Folder of the audio (default: FILE's, or clips).")
@split_options
def csv(
    file: Path,
    audio_folder: Path | None,
    output: Path,
    name: str,
    dev: float,
    test: float,
    **columns: str | None,
) -> None:
    """A CSV or TSV file with a line of column names, as Common Voice has.

    \b
    Examples:
      asr prepare csv cv-corpus/de/train.tsv -o data/ --name train
      asr prepare csv all.csv -o data/ --audio-column wav --text-column said --dev 0.05
    """
    from asr.data.corpora.table import import_table

    named = {key.removesuffix("_column"): value for key, value in columns.items() if value}
    skipped: list[tuple[str, str]] = []
    utterances = import_table(file, skipped, named, audio_folder)
    write_sets(file, utterances, skipped, output, name, dev, test)


@command.command()
@click.argument("folder", type=PATH)
@split_options
def kaldi(folder: Path, output: Path, name: str, dev: float, test: float) -> None:
    """A Kaldi data folder: wav.scp and, if there, segments, text, utt2spk.

    \b
    Example:
      asr prepare kaldi egs/data/train -o data/ --name train
    """
    from asr.data.corpora.kaldi import import_kaldi

    skipped: list[tuple[str, str]] = []
    write_sets(folder, import_kaldi(folder, skipped), skipped, output, name, dev, test)


def parse_range(ctx: click.Context, option: click.Parameter, value: str | None) -> Any:
    """`3-7` or `5` -> (3, 7) or (5, 5)."""
    first, _, last = (value or "").partition("-")
    if value is None:
        return None
    if not first.isdecimal() or not (last or first).isdecimal():
        raise click.BadParameter("give a range, as in 3-7")
    lengths = int(first), int(last or first)
    if not 1 <= lengths[0] <= lengths[1]:
        raise click.BadParameter("give a range of at least one digit, the smaller number first")
    return lengths


def parse_counts(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> Any:
    """`train=3000` ... over the defaults."""
    counts = {"train": 3000, "dev": 150, "test": 150, "unseen": 200}
    for value in values:
        name, _, number = value.partition("=")
        if name not in counts or not number.isdecimal():
            raise click.BadParameter(f"give SET=NUMBER, SET one of {', '.join(counts)}: {value}")
        counts[name] = int(number)
    return counts


@command.command()
@click.argument("source", type=PATH)
@OUTPUT
@click.option("--strings", callback=parse_range, help="Also strings of so many digits, as 3-7.")
@click.option(
    "--count",
    multiple=True,
    callback=parse_counts,
    help="SET=NUMBER of strings (default: train=3000 dev=150 test=150 unseen=200).",
)
@click.option("--seed", default=1, show_default=True, help="Draws the strings.")
@click.option("--download", is_flag=True, help="First download the corpus to SOURCE.")
@click.option("--url", help="Where to download it from (default: its GitHub archive).")
def fsdd(
    source: Path,
    output: Path,
    strings: tuple[int, int] | None,
    count: dict[str, int],
    seed: int,
    download: bool,
    url: str | None,
) -> None:
    """The Free Spoken Digit Dataset: single digits and, with --strings, strings of them.

    SOURCE is a clone of the repository, or a folder of manifests with a key `index`. Sets: train,
    dev, test of four speakers (indices 10-49, 5-9, 0-4), unseen (another speaker).

    \b
    Example:
      asr prepare fsdd free-spoken-digit-dataset/ --download -o data/ --strings 3-7
    """
    from asr.data.corpora import fsdd
    from asr.data.corpora.common import measured

    if download:
        with progress() as bar:
            task = bar.add_task("downloading", total=None, note="bytes")
            fsdd.download(
                url or fsdd.URL,
                source,
                lambda done, size: bar.update(task, completed=done, total=size or None),
            )
    elif not source.is_dir():
        raise InputError("no such folder", source, "--download fetches the corpus to it")
    skipped: list[tuple[str, str]] = []
    sets = {name: list(measured(us, skipped)) for name, us in fsdd.import_fsdd(source).items()}
    write(sets, output)
    if strings:
        for name, recordings in sets.items():
            folder = output / "strings" / name
            joined = fsdd.join_strings(recordings, count[name], strings, folder, seed)
            rows = list(track(joined, f"joining {name}", total=count[name]))
            write({f"{name}-strings": rows}, output)
    end_with_skipped(skipped, sum(map(len, sets.values())) + len(skipped))
