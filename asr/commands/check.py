"""`asr check`: what is wrong with the data, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from asr.commands.options import File, Files, Threads, as_command
from asr.console import SKIPPED, distinct, leave, say, some, track
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.data.check import Facts, Fit

SHOWN = 10


@as_command
def command(
    manifests: Files,
    model: Annotated[File, "Also: what its tokenizer lacks, what CTC cannot align."] = None,
    config: Annotated[File, "The same for the model that it describes."] = None,
    lm: Annotated[Files, "Also: words it lacks; may be repeated."] = (),
    html: Annotated[File, "Also write a page with histograms and audio."] = None,
    threads: Threads = None,
    show_all: Annotated[bool, f"Show all findings, not {SHOWN} of a kind.", "--all"] = False,
) -> None:
    """Read all of MANIFESTS and their audio, and say what is wrong.

    Exit status: 0 nothing is wrong (there may be warnings), 3 some utterances are.

    Examples:
      asr check data/manifest.train.jsonl --config my.yaml
      asr check data/manifest.*.jsonl --lm word.lm --html check.html
    """
    from asr.data.check import Facts, examine_all, shared
    from asr.data.manifest import Manifest
    from asr.lm.ngram import open_word_lm, unknown_words

    opened = [Manifest.open(path) for path in manifests]
    fit, lms = load_fit(model, config), [open_word_lm(path) for path in lm]
    if html:
        from asr.report.data import write_check  # needs jinja2 and matplotlib
    gathered = [
        Facts.gather(m, name, track(examine_all(m, fit, threads), name, total=len(m)), fit)
        for m, name in zip(opened, distinct([m.path.name for m in opened], manifests), strict=True)
    ]
    limit = None if show_all else SHOWN
    print_findings(gathered, limit)
    for both in shared(gathered):
        click.echo(f"\nwarning: {both}: {some(both.examples, limit, '; ')}")
    unknown = [
        unknown_words(f.name, f.words, model, name)
        for model, name in zip(lms, distinct([path.name for path in lm], lm), strict=True)
        for f in gathered
    ]
    for one in unknown:
        words = [f"{word} {times}×" for word, times in one.words.most_common()]
        click.echo(f"\n{one}" + (f": {some(words, limit)}" if words else ""))
    if html:
        write_check(html, gathered, unknown)
        say(f"-> {html}")
    if not any(facts.usable for facts in gathered):
        raise InputError("no audio can be used", manifests[0], "Correct the key 'audio'")
    if any(facts.bad for facts in gathered):
        leave(SKIPPED)


def load_fit(model: Path | None, config: Path | None) -> Fit:
    """What the model, or the one of a configuration, and its tokenizer ask of utterances."""
    from asr.data.check import Fit

    if model is None and config is None:
        return Fit()
    from asr.commands.train import find_tokenizer
    from asr.config import load_experiment
    from asr.data.audio import seconds_to_samples
    from asr.models.folder import model_folder
    from asr.models.recognizer import Recognizer
    from asr.text.tokenizer import Tokenizer

    if config is None:
        assert model is not None
        folder = model_folder(model)
        recognizer, pieces = Recognizer.load(folder), Tokenizer.load(folder)
        pieces.check_belongs(recognizer.vocabulary, recognizer.tokenizer_hash, folder)
    elif model is not None:
        raise InputError("--model and --config exclude each other", None, "Leave one away.")
    else:
        experiment = load_experiment(config)
        pieces = find_tokenizer(experiment)
        recognizer = Recognizer(experiment.model, pieces.size)
    rate = recognizer.options.sample_rate
    return Fit(
        pieces.normalizer,
        pieces.unknown,
        needed=lambda text: recognizer.min_frames(pieces.encode(text)),
        frames=lambda seconds: recognizer.output_lengths(seconds_to_samples(seconds, rate)),
    )


def print_findings(gathered: Sequence[Facts], limit: int | None) -> None:
    from asr.data.check import KINDS, WARNINGS

    width = max(len(str(facts.manifest.path)) for facts in gathered)
    click.echo(f"{'manifest':{width}}  utterances  hours  speakers  problems  audio")
    for facts in gathered:
        size, hours, speakers = len(facts.manifest), facts.seconds / 3600, len(facts.speakers)
        counts = f"{size:10}  {hours:5.2f}  {speakers:8}  {len(facts.bad):8}"
        click.echo(f"{facts.manifest.path!s:{width}}  {counts}  {facts.audio}")
    for kind, title in KINDS.items():
        found = [
            f"{facts.name} " * (len(gathered) > 1) + f"{id}: {message}"
            for facts in gathered
            for its_kind, id, message in facts.findings
            if its_kind == kind
        ]
        if found:
            click.echo("\n" + "warning: " * (kind in WARNINGS) + f"{title} ({len(found)})")
            click.echo("\n".join(f"  {line}" for line in found[:limit]))
            if limit is not None and len(found) > limit:
                click.echo(f"  ... and {len(found) - limit} more (--all shows them)")
