"""`asr rescore`: an LM's scores join those of an n-best list."""

from __future__ import annotations

from pathlib import Path

import click

from asr.console import say
from asr.errors import InputError

FILE = click.Path(path_type=Path)


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
    from asr.decoding.rescore import open_scorer, plan, reweight
    from asr.decoding.tune import references, tabulate, wer_report
    from asr.decoding.weights import load_weights
    from asr.hypothesis import read_nbest, write_nbest

    if lm is None and weights is None:
        raise InputError("nothing to do", "asr rescore", "Give --lm, --weights or both.")
    given, tuned_on = None, None
    if weights is not None:
        if lm_weight is not None or length_bonus is not None:
            raise InputError("--weights sets all weights", "--lm-weight", "Give one or the other.")
        given, penalty, record = load_weights(weights)
        unk_penalty, tuned_on = (
            penalty if unk_penalty is None else unk_penalty,
            record.get("tuned_on"),
        )
    scorer = None if lm is None else open_scorer(lm, lm_unit)
    said = references(ref)[0] if ref else {}
    meta, utterances = read_nbest(nbest)
    rescorer, new = plan(meta, scorer, name=name, path=lm, unk_penalty=unk_penalty)
    lm_weight = 0.5 if lm_weight is None and lm is not None else lm_weight
    reweight(
        rescorer, new, meta.get("length"), given=given, lm_weight=lm_weight, bonus=length_bonus
    )
    new["tuned_on"] = tuned_on
    before = tabulate(read_nbest(nbest)[1], said) if ref else None
    write_nbest(output, new, rescorer(utterances))
    if scorer and rescorer.units:
        known = 1 - rescorer.unknown / rescorer.units
        say(f"{rescorer.name} knows {known:.1%} of the {scorer.unit}s of the hypotheses")
    if before:
        after = tabulate(read_nbest(output)[1], said)
        rates = {"first-best": before.first, "rescored": after.first, "oracle": after.oracle}
        click.echo(wer_report({name: n / max(after.words, 1) for name, n in rates.items()}))
