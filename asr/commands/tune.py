"""`asr tune`: LM weight and length bonus from a dev set's n-best list."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from asr.commands.lazy import Command
from asr.commands.options import FILE, scorer_options
from asr.console import count, say, track
from asr.errors import InputError
from asr.files import whole_file


@click.command(cls=Command)
@click.argument("nbest", type=FILE, nargs=-1, required=True)
@click.option("--ref", type=FILE, required=True, help="Manifest of the dev set.")
@scorer_options
@click.option("--plot", type=FILE, help="Picture of the error surface (.png, .svg, .pdf).")
@click.option("-o", "--output", type=FILE, required=True, help="The weights file.")
def command(
    nbest: tuple[Path, ...],
    ref: Path,
    lm: tuple[Path, ...],
    lm_unit: tuple[str, ...],
    name: tuple[str, ...],
    plot: Path | None,
    output: Path,
) -> None:
    """Choose the LM weights, the length bonus and the cost of unknown words that give a dev set the
    fewest word errors.

    LMs given here join the list first, as in `asr rescore`. The weights file also keeps how the
    words' confidences are to be made from such lists.

    NBEST is decoded from the dev set with a wide beam, --nbest 100 and moderate weights. With
    shallow fusion the list itself depends on the weights it was made with; therefore the new ones
    stay as near to them as the errors allow. Decoded again with these, it shows what the first list
    lacked: give all lists, until the weights stay. They are those of one of the lists, where no
    others promise fewer errors than its search made.

    \b
    Examples:
      asr decode exp/ctc data/manifest.dev.jsonl --beam 100 --nbest 100 -o dev.nbest.jsonl
      asr tune dev.nbest.jsonl --ref data/manifest.dev.jsonl --lm big.lm -o WEIGHTS.json
      asr decode exp/ctc data/manifest.test.jsonl --lm big.lm --weights WEIGHTS.json -o test.jsonl
    \b
      asr tune 1.jsonl 2.jsonl --ref data/manifest.dev.jsonl -o WEIGHTS.json
    """
    from asr.confidence import fit
    from asr.decoding import tune
    from asr.decoding.options import SearchOptions
    from asr.decoding.rescore import normalizer_of, open_scorers, plan
    from asr.decoding.tune import errors_found, references, tabulate, wer_report, word_lists
    from asr.decoding.weights import save_weights, weights_from
    from asr.hypothesis import read_lists, read_nbest

    said, manifest = references(ref)
    tune.refuse_test([manifest.split, *(each.extra.get("split") for each in manifest)], ref)
    metas, utterances = read_lists(nbest)
    for path, each in zip(nbest, metas, strict=True):
        tune.refuse_test([(each.get("manifest") or {}).get("split")], path)
    rescorer, meta = plan(metas[0], open_scorers(lm, lm_unit, name))
    if plot and not meta["lms"]:
        raise InputError("without an LM there is no surface to draw", "--plot", "Give --lm.")
    # The order stays as it is: the first-best's errors are those of the list as decoded.
    normalize = normalizer_of(meta)
    table = tabulate(rescorer.score(track(utterances, "scoring", len(said))), said, normalize)
    # no bonus for another unit orders the list as it is
    same = metas[0].get("length") in (None, meta["length"])
    own = [weights_from(each.get("weights", {})) for each in metas]
    fused = bool(meta["lms"]) and not lm
    found = []
    if fused and len(nbest) > 1:
        found = [errors_found(read_nbest(path)[1], said, normalize) for path in nbest]
    own = [weights for weights in own if same or not weights.bonus]
    tuned = tune.tune(table, meta["length"], own, stay=fused, found=found)
    errors = {"first-best": table.first, "tuned": tuned.errors, "oracle": table.oracle}
    wer = {key: number / max(table.words, 1) for key, number in errors.items()}
    tuned_on = {"path": str(ref), "hash": manifest.hash, "split": manifest.split}
    totals = table.scores @ tuned.point
    calibration = fit(word_lists(read_lists(nbest)[1], said, normalize, totals))
    record = {"length": meta["length"], "lms": meta["lms"], "tuned_on": tuned_on, "wer": wer}
    record["confidence"] = asdict(calibration)
    save_weights(output, tuned.weights, record)
    if plot:
        from asr.pictures import surface

        with whole_file(plot, "wb") as file:
            file.write(surface(table, tuned, plot.suffix[1:] or "png"))
    if len(table.errors) < len(said):
        say(f"{count(len(said) - len(table.errors), 'utterance')} of {ref} not in the list")
    called = {"bonus": "length bonus", "ratio": "weight of ctc", "unknown": "cost of unknown words"}
    for axis in tuned.edges:
        what = called.get(axis, f"weight of LM {axis}")
        say(f"warning: the best {what} lies at the end of the range searched; the set may be small")
    if fused and tuned.far:
        moved = " and ".join(called.get(axis, f"weight of LM {axis}") for axis in tuned.far)
        say(
            f"warning: the {moved} moved far: decode the set with these weights and tune on all"
            " lists, until this is not said"
        )
    widest = max(int(each.get("beam", 0)) for each in metas)
    if fused and widest > SearchOptions().beam:
        say(f"these lists are of a beam of {widest}: decode with --beam {widest} at least")
    if table.words and table.first >= table.words:
        say(
            "warning: hardly a word of these lists is right, so these weights mean nothing: train"
            " longer, or decode with others (--lm-weight, --length-bonus) and tune again"
        )
    parts = [f"LM {key} {weight:g}" for key, weight in tuned.weights.lm.items()]
    if "ratio" in tuned.space.names:
        parts.insert(0, f"ctc {tuned.weights.ctc:g}, att {tuned.weights.att:g}")
    parts.append(f"bonus {tuned.weights.bonus:g} a {meta['length'][:-1]}")
    if "unknown" in tuned.space.names:
        parts.append(f"unknown words {tuned.weights.unk:g} a letter")
    click.echo(", ".join(parts))
    click.echo(wer_report(wer))
    click.echo(
        f"confidences of words: scores divided by {calibration.temperature:g}; words that the lists"
        f" may lack {1 - calibration.known:.1%}"
    )
