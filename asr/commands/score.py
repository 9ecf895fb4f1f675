"""`asr score`: error rates with intervals, comparison, confusions and alignments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from asr.commands.options import File, Files, Text, as_command, keep_inputs
from asr.console import count, end_with_skipped, say, some
from asr.errors import InputError, nearest
from asr.files import whole_file
from asr.formats import write_trn
from asr.hypothesis import Hypothesis

if TYPE_CHECKING:
    from asr.scoring import References, System, Transcripts

SUSPICIOUS = 0.2  # WER above which the texts of the two sides may be written in two ways

Format = Literal["trn", "kaldi", "manifest", "nbest"] | None


@as_command
def command(
    ref: Path,
    hyp: Files,
    compare: Annotated[File, "Test each HYP against this system (a file, or its label)."] = None,
    labels: Annotated[Text, "Names of the systems, separated by commas."] = None,
    sclite: Annotated[bool, "Word counts as `sctk sclite -s` gives them."] = False,
    normalizer: Annotated[Text, "Of both sides. [that of the n-best file, or none]"] = None,
    alignments: Annotated[int, "Show so many, with most errors.", click.IntRange(0)] = 0,
    format: Annotated[Format, "Of files of another suffix than .trn and .jsonl. [kaldi]"] = None,
    json_file: Annotated[File, "Write all figures to this file.", "--json"] = None,
    trn_folder: Annotated[File, "Write ref.trn and hyp.trn for sclite here.", "--trn"] = None,
) -> None:
    """Word and character error rates of HYP against REF, paired by id.

    REF and HYP are manifests, n-best files, trn or Kaldi text. A missing hypothesis counts as
    deletions; ids that REF lacks are listed and not scored (exit status 3).

    Examples:
      asr score data/manifest.test.jsonl 1.jsonl 2.jsonl --labels greedy,beam --compare greedy
      asr score ref.trn hyp.trn --sclite --json score.json
    """
    from asr import scoring

    same = (path for path in hyp if compare and path.resolve() == compare.resolve())
    compare = next(same, compare)
    paths = [*hyp, compare] if compare and compare not in hyp and compare.exists() else list(hyp)
    source = scoring.read_transcripts(ref, format)
    hypotheses = [scoring.read_transcripts(path, format) for path in paths]
    if source.meta and not any(one.meta for one in hypotheses):
        say(f"warning: {ref} is an n-best file; the references come first, then HYP.")
    chosen = scoring.choose_normalizer(normalizer, hypotheses)
    references = scoring.References(source, chosen)
    names = _labels(labels, hypotheses)
    compared = None if compare is None else _find(compare, paths, names)
    systems = [
        scoring.score_system(label, transcripts, references, chosen, sclite)
        for label, transcripts in zip(names, hypotheses, strict=True)
    ]
    result = _figures(references, systems, None if compared is None else systems[compared])
    result |= {"normalizer": chosen.name, "alignment": "sclite" if sclite else "minimal"}
    if trn_folder:
        _write_trn(trn_folder, references, systems, [ref, *paths])
    if json_file:
        with whole_file(json_file) as file:
            file.write(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    _print_report(references, systems, result, alignments)
    surplus: dict[str, list[str]] = {}
    for system in systems:
        for id in system.figures["surplus"]:
            surplus.setdefault(id, []).append(system.label)
    skipped = source.skipped + [
        (id, f"not in {ref} ({', '.join(names)})") for id, names in surplus.items()
    ]
    end_with_skipped(skipped, len(skipped) + len(references.ids))


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
    """The place of a system that is named by its file or its label."""
    if system not in paths and str(system) not in names:
        what = f"'{system}' is neither a file nor the label of a system"
        raise InputError(what, "--compare", nearest(str(system), names))
    if len(names) == 1:
        raise InputError("there is but one system", "--compare", "Give another HYP.")
    return paths.index(system) if system in paths else names.index(str(system))


def _figures(references: References, systems: list[System], base: System | None) -> dict[str, Any]:
    """What --json writes: the first system's figures, all `systems` and their `comparisons`."""
    bootstrap = references.bootstrap
    result: dict[str, Any] = {**systems[0].figures, "units": bootstrap.units}
    if len(systems) > 1:
        result["systems"] = [system.figures for system in systems]
    if base is not None:
        result["comparisons"] = []
        for system in systems:
            if system is not base:
                pair = bootstrap.compare(base.errors, system.errors, base.words[:, :3].sum(axis=1))
                verdict = pair.verdict(base.label, system.label, bootstrap.units)
                one = {"a": base.label, "b": system.label, **pair._asdict(), "verdict": verdict}
                result["comparisons"].append(one)
    return result


def _print_report(
    references: References, systems: list[System], result: dict[str, Any], alignments: int
) -> None:
    from asr import scoring

    for system in systems:
        _warn(system.figures)
        if result["normalizer"] == "none" and system.figures["wer"]["rate"] > SUSPICIOUS:
            rate = scoring.normalised_rate(references, system)
            if rate < system.figures["wer"]["rate"] / 2:
                what = "case and punctuation count; with --normalizer basic its WER is"
                say(f"warning: {system.label}: {what} {rate:.2%}")
    sclite = result["alignment"] == "sclite"
    weights = "sclite's weights" if sclite else "minimal edit distance"
    size = count(len(references.ids), "utterance"), count(result["wer"]["words"], "word")
    parts = [
        f"{', '.join(size)}; normaliser {result['normalizer']}; {weights}",
        scoring.systems_table(result.get("systems", [result]))
        + f"\n95 % intervals: bootstrap over {result['units']}, 10,000 resamples",
        "\n".join(scoring.comparison_line(pair) for pair in result.get("comparisons", [])),
    ]
    if len(systems) == 1:
        tables = scoring.speakers_table, scoring.confusions_table, scoring.confidence_table
        parts += [table(result) for table in tables]
    for system in systems if alignments else []:
        heading = f"{system.label}\n" if len(systems) > 1 else ""
        parts.append(heading + scoring.alignments(references, system, alignments, sclite))
    click.echo("\n\n".join(part for part in parts if part))


def _warn(figures: dict[str, Any]) -> None:
    """What a reader of the figures must know."""
    label, missing, failed = figures["label"], figures["missing"], figures["failed"]
    if figures["tuned_on_this_set"]:
        say(
            f"warning: {label}: the LM weights were tuned on this very set; its error rate says"
            " nothing about other recordings. Score a test set."
        )
    if missing:
        of = f"{len(missing)} of {figures['ser']['utterances']} utterances"
        what = f"no hypothesis for {of}; all their words are deletions"
        say(f"warning: {label}: {what}: {some(missing)}")
    if failed:
        say(f"warning: {label}: {failed} utterances failed in decoding")


def _write_trn(
    folder: Path, references: References, systems: list[System], read: list[Path]
) -> None:
    """ref.trn and hyp.trn, of several systems hyp.LABEL.trn; every id in each."""
    files = {"ref.trn": references.texts}
    for system in systems:
        label = "." + system.label.replace("/", "_") if len(systems) > 1 else ""
        if (name := f"hyp{label}.trn") in files:
            raise InputError(f"two systems would be {name}", "--trn", "Name them by --labels.")
        files[name] = system.texts
    keep_inputs(read, [folder / name for name in files])
    for name, texts in files.items():
        with whole_file(folder / name) as file:
            for id, text in zip(references.ids, texts, strict=True):
                file.write(write_trn(Hypothesis(text), id))
