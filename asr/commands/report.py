"""`asr report`: experiments and what was decoded with them, as one page of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from asr.commands.options import Files, Threads, as_command
from asr.console import count, end_with_skipped, say, track
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.report.content import TestSet


@as_command
def command(
    exp: Files,
    output: Annotated[Path, "The page (.html).", "-o", "--output"],
    ref: Annotated[Files, "Manifest of n-best files that moved."] = (),
    utterances: Annotated[int, "Best, median and worst: so many each.", click.IntRange(0)] = 2,
    threads: Threads = None,
) -> None:
    """One HTML file, without network, about experiments: learning curves, error rates by speaker,
    length and group, comparisons, confusions, utterances to hear, configuration.

    EXP is an experiment folder, a folder of them, or an n-best file. n-best files in these folders
    are taken too, and those beside an experiment if its model made them.

    Example: asr report exp/ctc exp/las test.*.jsonl -o report.html
    """
    from asr.data.manifest import Manifest
    from asr.machine import use_machine
    from asr.report import content, page

    if output.suffix not in (".html", ".htm"):
        raise InputError("is no name of a page", output, "Give one that ends in .html.")
    use_machine(threads)
    folders = [path for path in exp if path.suffix != ".jsonl"]
    experiments = content.find_experiments(folders)
    given = [path for path in exp if path.suffix == ".jsonl"]
    given += content.find_lists(folders, [one.hash for one in experiments])
    lists = list({path.resolve(): path for path in given}.values())
    manifests = [Manifest.open(path) for path in ref]
    tests, skipped = content.group_by_set(track(lists, "reading"), manifests)
    models = content.load_models(experiments, threads)
    sections = []
    for test in tests:
        shown, unheard = content.show(test, utterances, models)
        sections.append(describe(test) | {"shown": shown})
        skipped += unheard
    anchors = [(f"set-{number}", one["title"]) for number, one in enumerate(sections, 1)]
    page.write_page(
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


def describe(test: TestSet) -> dict[str, Any]:
    """The part of the page about one set."""
    from asr.report import content

    words = int(test.lengths.sum())
    size = count(len(test.utterances), "utterance")
    comparison = [content.comparison_table(test)] if len(test.systems) > 1 else []
    path = test.manifest.path
    return {
        "title": f"{path.resolve().parent.name}/{path.name}",
        "about": f"{size}, {words:,} words; hash {test.manifest.hash}",
        "systems": [system.figures for system in test.systems],
        "summary": [content.systems_table(test), *comparison],
        "surfaces": list(content.surfaces(test)),
        "details": [*content.group_tables(test), content.confusion_table(test)],
        "leader": test.leader.label,
        "utterances": content.utterance_table(test),
    }
