"""`asr rescore`: scores of LMs join those of an n-best list."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from asr.commands.lazy import Command
from asr.commands.options import FILE, scorer_options
from asr.console import say
from asr.errors import InputError


@click.command(cls=Command, in_place="nbest")
@click.argument("nbest", type=FILE)
@scorer_options
@click.option("--lm-weight", type=float, multiple=True, help="One for each --lm (default 0.5).")
@click.option("--length-bonus", type=float, help="Bonus a word (a token, with token LMs only).")
@click.option("--unk-penalty", type=float, help="For each letter of an unknown word.")
@click.option("--weights", type=FILE, help="Weights file of `asr tune`, instead of single weights.")
@click.option("--ref", type=FILE, help="Manifest: print WER before, after and oracle.")
@click.option("--label", help="Name of the new list in the tables of `asr score`.")
@click.option("-o", "--output", type=FILE, required=True, help="The new n-best file.")
def command(
    nbest: Path,
    lm: tuple[Path, ...],
    lm_unit: tuple[str, ...],
    name: tuple[str, ...],
    lm_weight: tuple[float, ...],
    length_bonus: float | None,
    unk_penalty: float | None,
    weights: Path | None,
    ref: Path | None,
    label: str | None,
    output: Path,
) -> None:
    """Add language models' raw scores to every hypothesis of NBEST and sort by the new total.

    LMs that are in the list keep their scores and weights; bonus and cost of unknown words are the
    list's where none are given. With --weights and no --lm the list is only sorted anew.

    \b
    Examples:
      asr rescore test.nbest.jsonl --lm big.lm --lm-weight 0.8 --length-bonus 1 -o new.nbest.jsonl
      asr rescore test.nbest.jsonl --lm big.lm --weights WEIGHTS.json -o new.nbest.jsonl
      asr rescore n.jsonl --lm word.lm --lm char.bin --lm-unit word --lm-unit token -o new.jsonl
    """
    from asr.decoding.options import DEFAULT_WEIGHT
    from asr.decoding.rescore import normalizer_of, open_scorers, plan, reweight
    from asr.decoding.tune import references, tabulate, wer_report
    from asr.decoding.weights import calibration_from, check_lms, load_weights
    from asr.hypothesis import read_nbest, write_nbest

    if not lm and weights is None:
        raise InputError("nothing to do", "asr rescore", "Give --lm, --weights or both.")
    given, tuned_on, calibration, record = None, None, None, None
    if weights is not None:
        given, record = load_weights(weights, lm_weight, length_bonus, unk_penalty is not None)
        tuned_on, calibration = record.get("tuned_on"), calibration_from(record)
    scorers = open_scorers(lm, lm_unit, name)
    said = references(ref)[0] if ref else {}
    meta, utterances = read_nbest(nbest)
    rescorer, new = plan(meta, scorers)
    if record:
        check_lms(record, new["lms"], weights)
    else:
        lm_weight = lm_weight or (DEFAULT_WEIGHT,) * len(scorers)
    reweight(
        rescorer,
        new,
        meta.get("length"),
        given=given,
        lm_weights=lm_weight,
        bonus=length_bonus,
        unk_penalty=unk_penalty,
    )
    rescorer.calibration = calibration or rescorer.calibration
    new |= {"tuned_on": tuned_on, "label": label, "confidence": asdict(rescorer.calibration)}
    normalize = normalizer_of(meta)
    before = tabulate(read_nbest(nbest)[1], said, normalize) if ref else None
    write_nbest(output, new, rescorer(utterances))
    for key, units in rescorer.units.items():
        known = 1 - rescorer.unknown[key] / max(units, 1)
        say(f"{key} knows {known:.1%} of the {scorers[key].unit}s of the best hypotheses")
    if before:
        after = tabulate(read_nbest(output)[1], said, normalize)
        rates = {"first-best": before.first, "rescored": after.first, "oracle": after.oracle}
        click.echo(wer_report({name: n / max(after.words, 1) for name, n in rates.items()}))
