"""The best, median and worst utterances of a set, and what the models make of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from asr.data.audio import load as load_audio
from asr.decoding import tune
from asr.decoding.rescore import normalizer_of
from asr.decoding.table import tabulate
from asr.decoding.weights import weights_from
from asr.errors import AudioError
from asr.hypothesis import read_nbest
from asr.loading import load
from asr.pictures import attention, draw
from asr.report.experiment import Experiment
from asr.report.page import Sound, alignment, data_uri, sound_of
from asr.report.systems import TestSet
from asr.transcriber import Transcriber


@dataclass(slots=True)
class Shown:
    """One utterance. alignments: (system, "2 of 7", both texts); pictures: (name, source)."""

    kind: str
    id: str
    speaker: str | None
    text: str
    sound: Sound
    alignments: list[tuple[str, str, Markup]]
    pictures: list[tuple[str, str]] = field(default_factory=list)


def choose(test: TestSet, number: int) -> dict[int, str]:
    """{row: "best", "median" or "worst"}, at most `number` of each by the leader's error rate; of
    equal ones the longest."""
    lengths, errors = test.leader.words[:, :3].sum(axis=1), test.leader.errors
    rates = errors / lengths.clip(1)
    order = sorted(range(len(rates)), key=lambda r: (rates[r], errors[r], -lengths[r]))
    middle = max(0, (len(order) - number) // 2)
    kinds = {
        "best": order[:number],
        "worst": order[: -number - 1 : -1],
        "median": order[middle : middle + number],
    }
    chosen: dict[int, str] = {}
    for kind, rows in kinds.items():
        for row in rows:
            chosen.setdefault(row, kind)
    return dict(sorted(chosen.items(), key=lambda item: order.index(item[0])))


def show(
    test: TestSet, number: int, models: Mapping[str, tuple[Experiment, Transcriber]]
) -> tuple[list[Shown], list[tuple[str, str]]]:
    """The chosen utterances, and those that cannot be heard with the reason.

    models: by their hashes; each draws pictures of what its best system heard.
    """
    shown: dict[int, Shown] = {}
    skipped: list[tuple[str, str]] = []
    for row, kind in choose(test, number).items():
        utterance, said = test.utterances[row], test.references.texts[row]
        try:
            sound = sound_of(utterance)
        except AudioError as error:
            skipped.append((utterance.id, str(error)))
            sound = Sound(error=str(error))
        alignments = [
            (
                system.label,
                f"{system.errors[row]} of {system.words[row, :3].sum()}",
                alignment(said, system.texts[row]),
            )
            for system in test.systems
        ]
        shown[row] = Shown(kind, utterance.id, utterance.speaker, said, sound, alignments)
    seen: set[str] = set()
    for found in test.lists:
        hash = found.meta.get("model_hash", "")
        if hash not in models or hash in seen:
            continue
        seen.add(hash)
        experiment, transcriber = models[hash]
        tokens = _tokens(found.path, {one.id for one in shown.values() if not one.sound.error})
        for row, one in shown.items():
            if one.id in tokens:
                samples = load_audio(test.utterances[row], transcriber.sample_rate)
                outputs = transcriber.outputs([samples])
                picture = draw(
                    tokens[one.id],
                    transcriber.tokenizer.pieces,
                    transcriber.frame_shift,
                    attention(transcriber, outputs, tokens[one.id]),
                    outputs.log_probs(0),
                )
                one.pictures.append((f"{experiment.name}, {found.path.stem}", data_uri(picture)))
    return list(shown.values()), skipped


def _tokens(path: Path, ids: set[str]) -> dict[str, list[int]]:
    """Of the best hypotheses."""
    found = (utterance for utterance in read_nbest(path)[1] if utterance.id in ids)
    return {utterance.id: utterance.nbest[0].tokens for utterance in found if utterance.nbest}


def load_models(
    experiments: Sequence[Experiment], threads: int | None
) -> dict[str, tuple[Experiment, Transcriber]]:
    """The finished ones, by the hash of the model."""
    return {one.hash: (one, load(one.folder, threads=threads)) for one in experiments if one.hash}


def surfaces(test: TestSet) -> Iterator[tuple[str, str]]:
    """(name, picture) of the errors over LM weight and bonus, for lists that have LM scores.

    None for test sets: weights are not chosen on them.
    """
    if test.manifest.split == "test":
        return
    texts = dict(zip(test.references.ids, test.references.texts, strict=True))
    for system, found in zip(test.systems, test.lists, strict=True):
        if not found.meta.get("lms"):
            continue
        table = tabulate(read_nbest(found.path)[1], texts, normalizer_of(found.meta))
        if table.valid.shape[1] < 2:
            continue
        length = found.meta["length"]
        tuned = tune.tune(table, length, [weights_from(found.meta["weights"])])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "surface.png"
            tune.plot(table, tuned, path)
            content = path.read_bytes()
        best = ", ".join(f"{name} {weight:g}" for name, weight in tuned.weights.lm.items())
        rate = tuned.errors / max(table.words, 1)
        name = f"{system.label}: WER {rate:.2%} at {best}, bonus {tuned.weights.bonus:g}"
        yield name, data_uri(content, "image/png")
