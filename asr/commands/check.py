"""`asr check`: what is wrong with the data, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.commands.lazy import Command
from asr.console import SKIPPED, leave, say, track
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.data.check import Facts, Fit
    from asr.lm.unknown import Unknown

PATH = click.Path(path_type=Path)
SHOWN = 10


@click.command(cls=Command)
@click.argument("manifests", nargs=-1, required=True, type=PATH)
@click.option("--model", type=PATH, help="Also: what its tokenizer lacks, what CTC cannot align.")
@click.option("--config", type=PATH, help="The same for a model that `asr train` would make of it.")
@click.option("--tokenizer", type=PATH, help="Also: characters that it lacks.")
@click.option("--lm", type=PATH, multiple=True, help="Also: words it lacks; may be repeated.")
@click.option("--html", type=PATH, help="Also write a page with histograms and audio.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores.")
@click.option("--all", "show_all", is_flag=True, help=f"Show all findings, not {SHOWN} of a kind.")
def command(
    manifests: tuple[Path, ...],
    model: Path | None,
    config: Path | None,
    tokenizer: Path | None,
    lm: tuple[Path, ...],
    html: Path | None,
    threads: int | None,
    show_all: bool,
) -> None:
    """Read all of MANIFESTS and their audio, and say what is wrong.

    Exit status: 0 nothing is wrong (there may be warnings), 3 some utterances are, 2 a manifest
    is broken or no audio can be used.

    \b
    Examples:
      asr check data/manifest.train.jsonl data/manifest.test.jsonl
      asr check data/manifest.train.jsonl --config my.yaml
      asr check data/manifest.train.jsonl --model exp/ctc --all
      asr check data/manifest.*.jsonl --lm word.lm --html check.html
    """
    from asr.data.check import Facts, examine_all, shared
    from asr.data.manifest import Manifest
    from asr.lm.unknown import open_word_lm, unknown_words

    opened = [Manifest.open(path) for path in manifests]
    fit, lms = load_fit(model, config, tokenizer), [open_word_lm(path) for path in lm]
    if html:
        from asr.report.data import write_check  # needs jinja2 and matplotlib
    gathered = [
        Facts.gather(m, track(examine_all(m, fit, threads), m.path.name, total=len(m)), fit)
        for m in opened
    ]
    limit = None if show_all else SHOWN
    print_table(gathered)
    print_findings(gathered, limit)
    for both in shared(gathered):
        more = "; ..." if len(both.examples) > (limit or len(both.examples)) else ""
        click.echo(f"\nwarning: {both}: {'; '.join(both.examples[:limit])}{more}")
    unknown = [unknown_words(f.manifest.path.name, f.words, lm) for lm in lms for f in gathered]
    print_unknown(unknown, limit)
    if html:
        write_check(html, gathered, unknown)
        say(f"-> {html}")
    if not any(facts.usable for facts in gathered):
        raise InputError("no audio can be used", manifests[0], "Correct the key 'audio'")
    if any(facts.bad for facts in gathered):
        leave(SKIPPED)


def load_fit(model: Path | None, config: Path | None, tokenizer: Path | None) -> Fit:
    """What the model, or the one of a configuration, and the tokenizer ask of utterances."""
    from asr.data.check import Fit

    if model is None and config is None and tokenizer is None:
        return Fit()
    from asr.text.tokenizer import Tokenizer

    if model is None and config is None:
        assert tokenizer is not None
        pieces = Tokenizer.load(tokenizer)
        return Fit(pieces.normalizer, pieces.unknown)
    from asr.data.audio import seconds_to_samples
    from asr.models.folder import model_folder
    from asr.models.recognizer import Recognizer

    if config is not None:
        from asr.commands.train import new_tokenizer
        from asr.config import load_experiment

        if model is not None:
            raise InputError("--model and --config exclude each other", None, "Leave one away.")
        experiment = load_experiment(config)
        pieces = Tokenizer.load(tokenizer) if tokenizer else new_tokenizer(experiment)
        recognizer = Recognizer(experiment.model, pieces.size)
    else:
        assert model is not None
        folder = model_folder(model)
        recognizer = Recognizer.load(folder)
        pieces = Tokenizer.load(tokenizer or folder)
        pieces.check_belongs(recognizer.vocabulary, recognizer.tokenizer_hash, tokenizer or folder)
    return Fit(
        pieces.normalizer,
        pieces.unknown,
        needed=lambda text: recognizer.min_frames(pieces.encode(text)),
        frames=lambda seconds: recognizer.output_lengths(
            seconds_to_samples(seconds, recognizer.options.sample_rate)
        ),
    )


def print_unknown(found: Sequence[Unknown], limit: int | None) -> None:
    for one in found:
        words = [f"{word} {times}×" for word, times in one.words.most_common()]
        more = ", ..." if len(words) > (limit or len(words)) else ""
        click.echo(f"\n{one}" + (f": {', '.join(words[:limit])}{more}" if words else ""))


def print_table(gathered: Sequence[Facts]) -> None:
    width = max(len(str(facts.manifest.path)) for facts in gathered)
    click.echo(f"{'manifest':{width}}  utterances  hours  speakers  problems  audio")
    for facts in gathered:
        size, hours = len(facts.manifest), facts.seconds / 3600
        click.echo(
            f"{facts.manifest.path!s:{width}}  {size:10}  {hours:5.2f}"
            f"  {len(facts.speakers):8}  {len(facts.bad):8}  {facts.audio}"
        )


def print_findings(gathered: Sequence[Facts], limit: int | None) -> None:
    from asr.data.check import KINDS, WARNINGS

    for kind, title in KINDS.items():
        found = [
            f"{facts.manifest.path.name} {id}: {message}"
            if len(gathered) > 1
            else f"{id}: {message}"
            for facts in gathered
            for its_kind, id, message in facts.findings
            if its_kind == kind
        ]
        if found:
            what = f"warning: {title}" if kind in WARNINGS else title
            print_list(f"{what} ({len(found)})", found, limit)


def print_list(title: str, rows: Sequence[str], limit: int | None) -> None:
    click.echo(f"\n{title}")
    for row in rows[:limit]:
        click.echo(f"  {row}")
    if limit is not None and len(rows) > limit:
        click.echo(f"  ... and {len(rows) - limit} more (--all shows them)")
