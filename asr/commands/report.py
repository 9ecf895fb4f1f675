"""`asr report`: experiments and what was decoded with them, as one page of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asr.commands.lazy import Command
from asr.commands.options import FILE
from asr.console import count, end_with_skipped, say, track
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.report.content import Models, TestSet


@click.command(cls=Command)
@click.argument("paths", metavar="EXP...", type=FILE, nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, required=True, help="The page (.html).")
@click.option("--ref", type=FILE, multiple=True, help="Manifest of n-best files that moved.")
@click.option(
    "--utterances", default=2, show_default=True, help="Best, median and worst ones, of each kind."
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores.")
def command(
    paths: tuple[Path, ...],
    output: Path,
    ref: tuple[Path, ...],
    utterances: int,
    threads: int | None,
) -> None:
    """One HTML file, without network, about experiments: learning curves, error rates by speaker,
    length and group, comparisons, confusions, utterances to hear, configuration.

    EXP is an experiment folder, a folder of them, or an n-best file. n-best files in these folders
    are taken too, and those beside an experiment if its model made them. References come from the
    manifests that the n-best files name.

    \b
    Examples:
      asr report exp/ctc -o report.html
      asr report exp/ctc exp/las test.*.jsonl -o report.html
      asr report recipes/quickstart/exp -o report.html --utterances 5
    """
    from asr.data.manifest import Manifest
    from asr.machine import use_machine
    from asr.report import content
    from asr.report.page import write_page

    if output.suffix not in (".html", ".htm"):
        raise InputError("is no name of a page", output, "Give one that ends in .html.")
    use_machine(threads)
    folders = [path for path in paths if path.suffix != ".jsonl"]
    given = [path for path in paths if path.suffix == ".jsonl"]
    experiments = content.find_experiments(folders)
    found = content.find_lists(folders, [one.hash for one in experiments])
    lists = list({path.resolve(): path for path in [*given, *found]}.values())
    tests, skipped = content.group_by_set(lists, [Manifest.open(path) for path in ref])
    models = content.load_models(experiments, threads)
    sections = []
    for test in track(tests, "sets"):
        section, unheard = describe(test, utterances, models)
        sections.append(section)
        skipped += unheard
    anchors = [(f"set-{number}", one["title"]) for number, one in enumerate(sections, 1)]
    write_page(
        output,
        "report.html",
        title=f"Report: {', '.join(one.name for one in experiments) or 'n-best files'}",
        sections=[("training", "Training"), *anchors, ("configuration", "Configuration")],
        sets=sections,
        curves=list(content.draw_curves(experiments)),
        **content.tables(experiments),
    )
    if not lists:
        say("no n-best file was found: `asr decode` writes them; give them beside the experiments")
    made = f"{count(len(experiments), 'experiment')}, {count(len(lists), 'n-best file')}"
    say(f"{made} -> {output}")
    end_with_skipped(skipped, len(lists) + sum(len(one["shown"]) for one in sections), "item")


def describe(
    test: TestSet, number: int, models: Models
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The part of the page about one set, and utterances that cannot be heard."""
    from asr.report import content

    shown, unheard = content.show(test, number, models)
    words = int(test.lengths.sum())
    size = count(len(test.utterances), "utterance")
    path, several = test.manifest.path, len(test.systems) > 1
    section = {
        "title": f"{path.resolve().parent.name}/{path.name}",
        "about": f"{size}, {words:,} words; hash {test.manifest.hash}",
        "systems": [system.figures for system in test.systems],
        "summary": [
            content.systems_table(test),
            *([content.comparison_table(test)] if several else []),
        ],
        "surfaces": list(content.surfaces(test)),
        "details": [*content.group_tables(test), content.confusion_table(test)],
        "leader": test.leader.label,
        "shown": shown,
    }
    return section, unheard
