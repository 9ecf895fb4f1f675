"""The best, median and worst utterances of a set, and what the models make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from asr.data.audio import load as load_audio
from asr.decoding import tune
from asr.decoding.rescore import normalizer_of
from asr.decoding.table import tabulate
from asr.decoding.weights import weights_from
from asr.hypothesis import read_nbest
from asr.loading import load
from asr.pictures import attention, draw, surface
from asr.report.experiment import Experiment
from asr.report.page import alignment, data_uri, sound_of
from asr.report.systems import TestSet
from asr.scoring import Transcripts
from asr.transcriber import Transcriber

Models: TypeAlias = Mapping[str, tuple[Experiment, Transcriber]]  # by their hashes


def choose(test: TestSet, number: int) -> dict[int, str]:
    """{row: "best", "median" or "worst"}, at most `number` of each by the leader's error rate; of
    equal ones the longest."""
    lengths, errors = test.lengths, test.leader.errors
    rates = errors / lengths.clip(1)
    order = sorted(range(len(rates)), key=lambda r: (rates[r], errors[r], -lengths[r]))
    middle = max(0, (len(order) - number) // 2)
    chosen = dict.fromkeys(order[middle : middle + number], "median")
    chosen |= dict.fromkeys(order[: -number - 1 : -1], "worst")
    chosen |= dict.fromkeys(order[:number], "best")
    return {row: chosen[row] for row in order if row in chosen}


def show(
    test: TestSet, number: int, models: Models
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The chosen utterances, and those that cannot be heard with the reason.

    Each of the models draws pictures of what its best system heard.
    """
    shown: dict[int, dict[str, Any]] = {}
    for row, kind in choose(test, number).items():
        utterance, said = test.utterances[row], test.references.texts[row]
        one = {"kind": kind, "id": utterance.id, "speaker": utterance.speaker, "text": said}
        alignments = [
            (
                system.label,
                f"{system.errors[row]} of {test.lengths[row]}",
                alignment(said, system.texts[row]),
            )
            for system in test.systems
        ]
        shown[row] = {**one, "sound": sound_of(utterance), "alignments": alignments, "pictures": []}
    heard = {one["id"]: row for row, one in shown.items() if not one["sound"].error}
    best: dict[str, Transcripts] = {}  # list of each model
    for found in test.lists:
        best.setdefault(found.meta.get("model_hash", ""), found)
    for hash in (hash for hash in best if hash in models):
        experiment, transcriber = models[hash]
        utterances = read_nbest(best[hash].path)[1]
        tokens = {u.id: u.nbest[0].tokens for u in utterances if u.id in heard and u.nbest}
        for id, row in heard.items():
            if id in tokens:
                samples = load_audio(test.utterances[row], transcriber.sample_rate)
                outputs = transcriber.outputs([samples])
                picture = draw(
                    tokens[id],
                    transcriber.tokenizer.pieces,
                    transcriber.frame_shift,
                    attention(transcriber, outputs, tokens[id]),
                    outputs.log_probs(0),
                )
                name = f"{experiment.name}, {best[hash].path.stem}"
                shown[row]["pictures"].append((name, data_uri(picture)))
    unheard = [(one["id"], one["sound"].error) for one in shown.values() if one["sound"].error]
    return list(shown.values()), unheard


def load_models(experiments: Sequence[Experiment], threads: int | None) -> Models:
    """The finished ones."""
    return {one.hash: (one, load(one.folder, threads=threads)) for one in experiments if one.hash}


def surfaces(test: TestSet) -> Iterator[tuple[str, str]]:
    """(name, picture) of the errors over LM weight and bonus, for lists that have LM scores.

    None for test sets: weights are not chosen on them.
    """
    texts = dict(zip(test.references.ids, test.references.texts, strict=True))
    for system, found in zip(test.systems, test.lists, strict=True):
        meta = found.meta
        if test.manifest.split == "test" or not meta.get("lms"):
            continue
        table = tabulate(read_nbest(found.path)[1], texts, normalizer_of(meta))
        if table.valid.shape[1] < 2:
            continue
        tuned = tune.tune(table, meta["length"], [weights_from(meta["weights"])])
        best = ", ".join(f"{name} {weight:g}" for name, weight in tuned.weights.lm.items())
        rate = tuned.errors / max(table.words, 1)
        name = f"{system.label}: WER {rate:.2%} at {best}, bonus {tuned.weights.bonus:g}"
        yield name, data_uri(surface(table, tuned, "png"), "image/png")
