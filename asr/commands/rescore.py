"""`asr rescore`: scores of LMs join those of an n-best list."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import click

from asr.commands.options import File, Names, ScorerLMs, Text, Units, as_command
from asr.console import say
from asr.errors import InputError


@as_command
def command(
    nbest: Path,
    output: Annotated[Path, "The new n-best file.", "-o", "--output"],
    lm: ScorerLMs = (),
    lm_unit: Units = (),
    name: Names = (),
    lm_weight: Annotated[tuple[float, ...], "One for each --lm (default 0.5)."] = (),
    length_bonus: Annotated[float | None, "For each word (token, with token LMs only)."] = None,
    unk_penalty: Annotated[float | None, "For each letter of an unknown word."] = None,
    weights: Annotated[File, "File of `asr tune`, instead of single weights."] = None,
    ref: Annotated[File, "Manifest: print WER before, after and oracle."] = None,
    label: Annotated[Text, "Name of the new list in the tables of `asr score`."] = None,
) -> None:
    """Add language models' raw scores to every hypothesis of NBEST and sort by the new total.

    LMs that are in the list keep their scores and weights; bonus and cost of unknown words are the
    list's where none are given. With --weights and no --lm the list is only sorted anew.

    Example: asr rescore test.nbest.jsonl --lm big.lm --weights WEIGHTS.json -o new.nbest.jsonl
    """
    from asr.decoding import options, rescore, tune
    from asr.decoding.weights import calibration_from, check_lms, load_weights
    from asr.hypothesis import read_nbest, write_nbest

    if not lm and weights is None:
        raise InputError("nothing to do", "asr rescore", "Give --lm, --weights or both.")
    given, tuned_on, calibration, record = None, None, None, None
    if weights is not None:
        given, record = load_weights(weights, lm_weight, length_bonus, unk_penalty is not None)
        tuned_on, calibration = record.get("tuned_on"), calibration_from(record)
    scorers = rescore.open_scorers(lm, lm_unit, name)
    said = tune.references(ref)[0] if ref else {}
    meta, utterances = read_nbest(nbest)
    rescorer, new = rescore.plan(meta, scorers)
    if record:
        check_lms(record, new["lms"], weights)
    each = lm_weight if record else lm_weight or (options.DEFAULT_WEIGHT,) * len(scorers)
    old_length = meta.get("length")
    rescore.reweight(rescorer, new, old_length, given, each, length_bonus, unk_penalty)
    rescorer.calibration = calibration or rescorer.calibration
    new |= {"tuned_on": tuned_on, "label": label, "confidence": asdict(rescorer.calibration)}
    normalize = rescore.normalizer_of(meta)
    before = tune.tabulate(read_nbest(nbest)[1], said, normalize) if ref else None
    write_nbest(output, new, rescorer(utterances))
    for key, units in rescorer.units.items():
        known = 1 - rescorer.unknown[key] / max(units, 1)
        say(f"{key} knows {known:.1%} of the {scorers[key].unit}s of the best hypotheses")
    if all(len(utterance.nbest) < 2 for utterance in read_nbest(output)[1]):
        say("warning: lists of one hypothesis leave nothing to choose: decode with --nbest 100")
    if before:
        after = tune.tabulate(read_nbest(output)[1], said, normalize)
        rates = {"first-best": before.first, "rescored": after.first, "oracle": after.oracle}
        click.echo(tune.wer_report({name: n / max(after.words, 1) for name, n in rates.items()}))


command.in_place = "nbest"
