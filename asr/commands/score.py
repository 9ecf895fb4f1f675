"""`asr score`: error rates with intervals, comparison, confusions and alignments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asr import console
from asr.commands.lazy import Command
from asr.commands.options import FILE
from asr.errors import InputError, nearest

if TYPE_CHECKING:
    from asr.scoring import References, System, Transcripts


@click.command(cls=Command)
@click.argument("ref", type=FILE)
@click.argument("hyp", type=FILE, nargs=-1, required=True)
@click.option(
    "--compare",
    type=FILE,
    metavar="FILE|LABEL",
    help="Test each HYP against this system, on the same units.",
)
@click.option("--labels", help="Names of the systems, separated by commas.")
@click.option("--sclite", is_flag=True, help="Word counts as `sctk sclite -s` gives them.")
@click.option(
    "--normalizer",
    metavar="NAME",
    help="Normalise both sides; default: the one that the n-best file names, else none.",
)
@click.option(
    "--alignments",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Show the N with most errors.",
)
@click.option(
    "--format",
    type=click.Choice(["trn", "kaldi", "manifest", "nbest"]),
    help="Of files whose suffix is neither .trn nor .jsonl; default: Kaldi text.",
)
@click.option("--json", "json_file", type=FILE, help="Write all figures to this file.")
@click.option("--trn", "trn_folder", type=FILE, help="Write ref.trn and hyp.trn for sclite here.")
def command(
    ref: Path,
    hyp: tuple[Path, ...],
    compare: Path | None,
    labels: str | None,
    sclite: bool,
    normalizer: str | None,
    alignments: int,
    format: str | None,
    json_file: Path | None,
    trn_folder: Path | None,
) -> None:
    """Word and character error rates of HYP against REF, paired by id.

    REF and HYP are manifests, n-best files, trn or Kaldi text. A missing hypothesis counts as
    deletions; ids that REF lacks are listed and not scored (exit status 3).

    \b
    Examples:
      asr score data/manifest.test.jsonl test.nbest.jsonl --alignments 5
      asr score data/manifest.test.jsonl 1.jsonl 2.jsonl --labels greedy,beam --compare greedy
      asr score ref.trn hyp.trn --sclite --json score.json
    """
    import json

    from asr.files import whole_file
    from asr.scoring import References, choose_normalizer, read_transcripts, score_system

    paths = [*hyp, compare] if compare and compare not in hyp and compare.exists() else list(hyp)
    source = read_transcripts(ref, format)
    hypotheses = [read_transcripts(path, format) for path in paths]
    if source.meta and not any(one.meta for one in hypotheses):
        console.say(f"warning: {ref} is an n-best file; the references come first, then HYP.")
    chosen = choose_normalizer(normalizer, hypotheses)
    references = References.of(source, chosen)
    names = _labels(labels, hypotheses)
    compared = None if compare is None else _find(compare, paths, names)
    systems = [
        score_system(label, transcripts, references, chosen, sclite)
        for label, transcripts in zip(names, hypotheses, strict=True)
    ]
    base = None if compared is None else systems[compared]
    result = _figures(references, systems, base)
    result |= {"normalizer": chosen.name, "alignment": "sclite" if sclite else "minimal"}
    if trn_folder:
        _write_trn(trn_folder, references, systems)
    if json_file:
        with whole_file(json_file) as file:
            file.write(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    _print_report(references, systems, result, sclite, alignments)
    skipped = list(source.skipped)
    for system in systems:
        skipped += [(id, f"not in {ref} ({system.label})") for id in system.figures["surplus"]]
    console.end_with_skipped(skipped, len(skipped) + len(references.ids))


def _labels(labels: str | None, hypotheses: list[Transcripts]) -> list[str]:
    """Given by --labels, else by the n-best files or the files' names."""
    if labels is not None:
        names = [name.strip() for name in labels.split(",")]
        if len(names) != len(hypotheses):
            what = f"{len(names)} labels for {len(hypotheses)} systems"
            raise InputError(what, "--labels", "Give one for each system, --compare last.")
    else:
        names = [str(one.meta.get("label") or one.path.stem) for one in hypotheses]
        if len({*names}) < len(names):
            names = [str(one.path) for one in hypotheses]
    if len({*names}) < len(names):
        what = f"two systems have one name: {', '.join(names)}"
        raise InputError(what, "--labels", "Give each a name of its own.")
    return names


def _find(system: Path, paths: list[Path], names: list[str]) -> int:
    """The place of a system that is named by its file or its label, beside at least one other."""
    if system not in paths and str(system) not in names:
        what = f"'{system}' is neither a file nor the label of a system"
        raise InputError(what, "--compare", nearest(str(system), names))
    if len(names) == 1:
        raise InputError("there is but one system", "--compare", "Give another HYP.")
    return paths.index(system) if system in paths else names.index(str(system))


def _figures(references: References, systems: list[System], base: System | None) -> dict[str, Any]:
    """What --json writes: the first system's figures, all `systems` and their `comparisons`."""
    result: dict[str, Any] = {**systems[0].figures, "units": references.bootstrap.units}
    if len(systems) > 1:
        result["systems"] = [system.figures for system in systems]
    if base is not None:
        lengths = base.words[:, :3].sum(axis=1)
        result["comparisons"] = []
        for system in systems:
            if system is not base:
                pair = references.bootstrap.compare(base.errors, system.errors, lengths)
                verdict = pair.verdict(base.label, system.label, references.bootstrap.units)
                result["comparisons"].append(
                    {"a": base.label, "b": system.label, **pair._asdict(), "verdict": verdict}
                )
    return result


def _print_report(
    references: References,
    systems: list[System],
    result: dict[str, Any],
    sclite: bool,
    alignments: int,
) -> None:
    from asr import scoring_report as report

    for system in systems:
        _warn(system.figures)
    words = result["wer"]["words"]
    weights = "sclite's weights" if sclite else "minimal edit distance"
    parts = [
        f"{console.count(len(references.ids), 'utterance')}, {console.count(words, 'word')};"
        f" normaliser {result['normalizer']}; {weights}",
        report.systems_table(result.get("systems", [result]))
        + f"\n95 % intervals: bootstrap over {result['units']}, 10,000 resamples",
        "\n".join(report.comparison_line(pair) for pair in result.get("comparisons", [])),
    ]
    if len(systems) == 1:
        parts.append(report.speakers_table(result))
        parts.append(report.confusions_table(result))
        parts.append(report.confidence_table(result))
    for system in systems if alignments else []:
        heading = f"{system.label}\n" if len(systems) > 1 else ""
        parts.append(heading + report.alignments(references, system, alignments, sclite))
    click.echo("\n\n".join(part for part in parts if part))


def _warn(figures: dict[str, Any]) -> None:
    """What a reader of the figures must know."""
    label, missing = figures["label"], figures["missing"]
    if figures["tuned_on_this_set"]:
        console.say(
            f"warning: {label}: the LM weights were tuned on this very set; its error rate says"
            " nothing about other recordings. Score a test set."
        )
    if missing:
        shown = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
        console.say(
            f"warning: {label}: no hypothesis for {len(missing)} of"
            f" {figures['ser']['utterances']} utterances; all their words are deletions: {shown}"
        )
    if figures["failed"]:
        console.say(f"warning: {label}: {figures['failed']} utterances failed in decoding")


def _write_trn(folder: Path, references: References, systems: list[System]) -> None:
    """ref.trn and hyp.trn, of several systems hyp.LABEL.trn; every id in each."""
    from asr.files import whole_file
    from asr.formats import write_trn
    from asr.hypothesis import Hypothesis

    files = {"ref.trn": references.texts}
    for system in systems:
        label = system.label.replace("/", "_")
        name = "hyp.trn" if len(systems) == 1 else f"hyp.{label}.trn"
        if name in files:
            raise InputError(f"two systems would be {name}", "--trn", "Name them by --labels.")
        files[name] = system.texts
    for name, texts in files.items():
        pairs = zip(references.ids, texts, strict=True)
        with whole_file(folder / name) as file:
            file.writelines(write_trn(Hypothesis(text), id) for id, text in pairs)
