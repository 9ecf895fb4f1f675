"""`asr tune`: LM weight and length bonus from a dev set's n-best list."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from asr.commands.options import File, Files, Names, ScorerLMs, Units, as_command
from asr.console import count, say, track
from asr.errors import InputError
from asr.files import whole_file

if TYPE_CHECKING:
    from asr.decoding.tune import Tuned


@as_command
def command(
    nbest: Files,
    ref: Annotated[Path, "Manifest of the dev set."],
    output: Annotated[Path, "The weights file.", "-o", "--output"],
    lm: ScorerLMs = (),
    lm_unit: Units = (),
    name: Names = (),
    plot: Annotated[File, "Picture of the error surface (.png, .svg, .pdf)."] = None,
) -> None:
    """Choose the LM weights, the length bonus and the cost of unknown words that give a dev set the
    fewest word errors.

    LMs given here join the list first, as in `asr rescore`.
    NBEST is decoded from the dev set with a wide beam, --nbest 100 and moderate weights. With
    shallow fusion the list depends on the weights it was made with: the new ones stay near to them.
    Decode again with these, and give all lists, until the weights stay.

    Example: asr tune dev.nbest.jsonl --ref data/manifest.dev.jsonl --lm big.lm -o WEIGHTS.json
    """
    from asr import confidence
    from asr.decoding import rescore, tune
    from asr.decoding.tune import references, tabulate, wer_report, word_lists
    from asr.decoding.weights import save_weights, weights_from
    from asr.hypothesis import NBest, read_lists, read_nbest

    said, manifest = references(ref)
    tune.refuse_test([manifest.split, *(each.extra.get("split") for each in manifest)], ref)
    metas, utterances = read_lists(nbest)
    for path, each in zip(nbest, metas, strict=True):
        tune.refuse_test([(each.get("manifest") or {}).get("split")], path)
    rescorer, meta = rescore.plan(metas[0], rescore.open_scorers(lm, lm_unit, name))
    if plot and not meta["lms"]:
        raise InputError("without an LM there is no surface to draw", "--plot", "Give --lm.")
    # The order stays as it is: the first-best's errors are those of the list as decoded.
    normalize, length = rescore.normalizer_of(meta), meta["length"]
    table = tabulate(rescorer.score(track(utterances, "scoring", len(said))), said, normalize)
    own = [weights_from(each.get("weights", {})) for each in metas]
    if metas[0].get("length") not in (None, length):
        # no bonus for another unit orders the list as it is
        own = [weights for weights in own if not weights.bonus]
    searched = [entry for entry in metas[0].get("lms", {}).values() if not entry.get("rescored")]
    fused = bool(searched) and not lm
    lists = nbest if fused and len(nbest) > 1 else ()
    bests = ([NBest(u.id, u.nbest[:1]) for u in read_nbest(path)[1]] for path in lists)
    found = [tabulate(best, said, normalize).first for best in bests]
    tuned = tune.tune(table, length, own, stay=fused, found=found)
    errors = {"first-best": table.first, "tuned": tuned.errors, "oracle": table.oracle}
    wer = {key: number / max(table.words, 1) for key, number in errors.items()}
    calibration = confidence.fit(
        word_lists(read_lists(nbest)[1], said, normalize, table.scores @ tuned.point)
    )
    tuned_on = {"path": str(ref), "hash": manifest.hash, "split": manifest.split}
    record = {"length": length, "lms": meta["lms"], "tuned_on": tuned_on, "wer": wer}
    record |= {"beam": max(each.get("beam", 0) for each in metas)}
    save_weights(output, tuned.weights, record | {"confidence": asdict(calibration)})
    if plot:
        from asr.pictures import surface

        with whole_file(plot, "wb") as file:
            file.write(surface(table, tuned, plot.suffix[1:] or "png"))
    if len(table.errors) < len(said):
        say(f"{count(len(said) - len(table.errors), 'utterance')} of {ref} not in the list")
    tell(tuned, fused, length[:-1])
    click.echo(wer_report(wer))
    known, temperature = calibration.known, calibration.temperature
    may_lack = f"words that the lists may lack {1 - known:.1%}"
    click.echo(f"confidences of words: scores divided by {temperature:g}; {may_lack}")


def tell(tuned: Tuned, fused: bool, unit: str) -> None:
    """The weights, and what is doubtful about them."""
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
    weights, names = tuned.weights, tuned.space.names
    parts = [f"ctc {weights.ctc:g}, att {weights.att:g}"] * ("ratio" in names)
    parts += [f"LM {key} {weight:g}" for key, weight in weights.lm.items()]
    parts += [f"bonus {weights.bonus:g} a {unit}"]
    parts += [f"unknown words {weights.unk:g} a letter"] * ("unknown" in names)
    click.echo(", ".join(parts))
    if (usual := tuned.default) <= tuned.errors:
        click.echo(f"the default weights make as few errors here: {usual} (tuned: {tuned.errors})")
