"""`asr rescore`: an LM's scores join those of an n-best list."""

from __future__ import annotations

from pathlib import Path

import click

from asr.commands.options import FILE, check_weights
from asr.console import say
from asr.errors import InputError


@click.command()
@click.argument("nbest", type=FILE)
@click.option("--lm", type=FILE, help="Our LM file, .arpa[.gz] or a KenLM binary.")
@click.option("--lm-unit", type=click.Choice(["word", "token"]), help="Unit of an ARPA or KenLM.")
@click.option("--lm-weight", type=float, help="Weight of this LM (default 0.5).")
@click.option("--length-bonus", type=float, help="Bonus a word (a token, with token LMs only).")
@click.option("--unk-penalty", type=float, help="Natural log added for every unknown word.")
@click.option("--weights", type=FILE, help="Weights file of `asr tune`, instead of single weights.")
@click.option("--name", help="Name of the LM in the list (default: that of its file).")
@click.option("--ref", type=FILE, help="Manifest: print WER before, after and oracle.")
@click.option("--label", help="Name of the new list in the tables of `asr score`.")
@click.option("-o", "--output", type=FILE, required=True, help="The new n-best file.")
def command(
    nbest: Path,
    lm: Path | None,
    lm_unit: str | None,
    lm_weight: float | None,
    length_bonus: float | None,
    unk_penalty: float | None,
    weights: Path | None,
    name: str | None,
    ref: Path | None,
    label: str | None,
    output: Path,
) -> None:
    """Add a language model's raw score to every hypothesis of NBEST and sort by the new total.

    LMs that are in the list keep their scores and weights. With --weights and no --lm the list is
    only sorted anew.

    \b
    Examples:
      asr rescore test.nbest.jsonl --lm big.lm --lm-weight 0.8 --length-bonus 1 -o new.nbest.jsonl
      asr rescore test.nbest.jsonl --lm big.lm --weights WEIGHTS.json -o new.nbest.jsonl
    """
    from asr.decoding.language_models import DEFAULT_WEIGHT
    from asr.decoding.rescore import normalizer_of, open_scorer, plan, reweight
    from asr.decoding.tune import references, tabulate, wer_report
    from asr.decoding.weights import load_weights
    from asr.hypothesis import read_nbest, write_nbest

    if lm is None and weights is None:
        raise InputError("nothing to do", "asr rescore", "Give --lm, --weights or both.")
    check_weights(
        weights, [lm_weight] if lm_weight else [], length_bonus or 0.0, unk_penalty or 0.0
    )
    given, tuned_on = None, None
    if weights is not None:
        given, unk_penalty, record = load_weights(weights)
        tuned_on = record.get("tuned_on")
    elif lm_weight is None:
        lm_weight = DEFAULT_WEIGHT
    scorer = None if lm is None else open_scorer(lm, lm_unit)
    said = references(ref)[0] if ref else {}
    meta, utterances = read_nbest(nbest)
    rescorer, new = plan(meta, scorer, name=name, path=lm, unk_penalty=unk_penalty)
    reweight(
        rescorer, new, meta.get("length"), given=given, lm_weight=lm_weight, bonus=length_bonus
    )
    new |= {"tuned_on": tuned_on, "label": label}
    normalize = normalizer_of(meta)
    before = tabulate(read_nbest(nbest)[1], said, normalize) if ref else None
    write_nbest(output, new, rescorer(utterances))
    if scorer and rescorer.units:
        known = 1 - rescorer.unknown / rescorer.units
        say(f"{rescorer.name} knows {known:.1%} of the {scorer.unit}s of the best hypotheses")
    if before:
        after = tabulate(read_nbest(output)[1], said, normalize)
        rates = {"first-best": before.first, "rescored": after.first, "oracle": after.oracle}
        click.echo(wer_report({name: n / max(after.words, 1) for name, n in rates.items()}))
