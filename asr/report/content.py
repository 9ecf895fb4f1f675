"""What `asr report` shows: experiments (curves, configuration, hashes, hardware), and what n-best
files of the same test set are worth (error rates of all, of parts, of pairs; utterances)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml  # type: ignore[import-untyped]
from markupsafe import Markup
from numpy.typing import NDArray
from omegaconf import OmegaConf

from asr import scoring
from asr.config import flat
from asr.console import distinct, track
from asr.data.audio import load as load_audio
from asr.data.manifest import Manifest
from asr.decoding import tune
from asr.decoding.rescore import normalizer_of
from asr.decoding.weights import weights_from
from asr.errors import InputError
from asr.files import cannot_read
from asr.hypothesis import read_nbest
from asr.models.folder import model_hash
from asr.models.recognizer import read_config
from asr.pictures import attention, curves, draw, surface
from asr.report.page import Number, Rows, Table, count, data_uri, sound_of
from asr.scoring import interval, percent
from asr.transcriber import Transcriber, load
from asr.wer import Bootstrap, Counts, aligned

# title, kind of record and key in metrics.jsonl, factor, scale of the axis
CURVES = (
    ("loss in training", "train", "loss", 1, "log"),
    ("loss on the dev set", "epoch", "dev_loss", 1, "linear"),
    ("WER on the dev set, %", "epoch", "dev_wer", 100, "linear"),
    ("time spent waiting for data, %", "train", "waiting", 100, "linear"),
    ("seconds of audio a second", "train", "audio_per_second", 1, "log"),
    ("gradient norm", "train", "gradient_norm", 1, "log"),
    ("learning rate", "train", "learning_rate", 1, "linear"),
)
LENGTHS = (0, 1, 3, 5, 8, 12, 20, 40)  # words
MOST_GROUPS = 12  # values of a key that makes groups
MOST_CONFUSIONS = 100
MOST_UTTERANCES = 1000


class Experiment:
    """config: options by name; records: the lines of metrics.jsonl; hash: the model's, if any."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError where a file is missing or damaged."""
        self.folder, self.name, model = folder, folder.name, folder / "model"
        machine = folder / "machine.json"  # absent in experiments of earlier versions
        try:
            config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
            whole_lines = (folder / "metrics.jsonl").read_text("utf-8").rpartition("\n")[0]
            self.records = [json.loads(line) for line in whole_lines.splitlines()]
            self.machine = json.loads(machine.read_text("utf-8")) if machine.exists() else {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise cannot_read(folder, error, "Give a folder of `asr train`.") from error
        self.config: dict[str, Any] = dict(flat(config))
        self.hash = model_hash(model) if (model / "model.safetensors").exists() else None

    def hashes(self) -> dict[str, str]:
        hashes = {"model": self.hash or "none yet"}
        if self.hash:
            config = read_config(self.folder / "model" / "config.json")
            hashes["tokenizer"] = config["tokenizer_hash"]
        for key in ("data.train", "data.dev"):
            for path in self.config.get(key) or []:
                try:
                    hashes[f"{key}: {path}"] = f"{Manifest.open(path).hash} (as it is now)"
                except InputError as error:
                    hashes[f"{key}: {path}"] = error.what
        return hashes


def find_experiments(folders: Sequence[Path]) -> list[Experiment]:
    """Those that the folders are, or hold one level down. Raises InputError where there is none."""
    found: list[Experiment] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError("is not a folder", folder, "Give one of `asr train`.")
        places = [folder, *sorted(folder.iterdir())]
        own = [place for place in places if (place / "metrics.jsonl").exists()]
        if not own:
            raise InputError("holds no experiment", folder, "`asr train` makes them.")
        found += [Experiment(place) for place in own]
    names = distinct([one.name for one in found], [one.folder for one in found])
    for one, name in zip(found, names, strict=True):
        one.name = name
    return found


def draw_curves(experiments: Sequence[Experiment]) -> Iterator[tuple[str, str]]:
    """(title, picture) of each quantity that was recorded, a line an experiment."""
    for title, kind, key, factor, scale in CURVES:
        lines, most = {}, 1.0 if key == "waiting" else math.inf  # a clock may say more at first
        for one in experiments:
            own = [r for r in one.records if r["kind"] == kind and r.get(key) is not None]
            if own := [r for r in own if math.isfinite(r[key])]:
                values = [factor * min(r[key], most) for r in own]
                lines[one.name] = [r["step"] for r in own], values
        if lines:
            svg = curves(title, lines, "step", scale)
            yield f"{title} by step: {', '.join(lines)}", data_uri(svg)


def as_yaml(value: Any) -> str:
    """On one line: "null", "[5.0, 40.0]"."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return str(text).removesuffix("...\n").strip()


def tables(experiments: Sequence[Experiment]) -> dict[str, Table]:
    """The options of the trainings, the hashes of what they read, their machines."""
    found, header = {}, ["name", *(one.name for one in experiments)]
    options = [{key: as_yaml(value) for key, value in one.config.items()} for one in experiments]
    for part, title, columns in (
        ("configuration", "Options", options),
        ("hashes", "Hashes", [one.hashes() for one in experiments]),
        ("hardware", "Hardware", [one.machine for one in experiments]),
    ):
        rows: Rows = []
        for key in dict.fromkeys(key for column in columns for key in column):
            rows.append([key, *(str(own[key]) if key in own else None for own in columns)])
        found[part] = Table(title, header, rows)
    return found


Models: TypeAlias = Mapping[str, tuple[Experiment, Transcriber]]  # by their hashes


class TestSet:
    """A manifest, the systems that decoded it, that with the fewest errors first, and their lists;
    utterances: those with a reference, as in `references`; lengths: the words of each."""

    def __init__(self, manifest: Manifest, lists: Sequence[scoring.Transcripts]) -> None:
        normalizer, paths = scoring.choose_normalizer(None, lists), [found.path for found in lists]
        self.manifest = manifest
        self.utterances = [utterance for utterance in manifest if utterance.text is not None]
        transcripts = scoring.read_transcripts(manifest.path, "manifest")
        self.references = scoring.References(transcripts, normalizer)
        named = zip(distinct([path.stem for path in paths], paths), lists, strict=True)
        given = self.references, normalizer, False  # of minimal edit distance
        scored = [(scoring.score_system(name, one, *given), one) for name, one in named]
        scored.sort(key=lambda pair: int(pair[0].errors.sum()))
        self.systems, self.lists = [one for one, _ in scored], [found for _, found in scored]
        self.leader = self.systems[0]
        self.lengths: NDArray[np.int64] = self.leader.words[:, :3].sum(axis=1)


def find_lists(folders: Sequence[Path], hashes: Sequence[str | None]) -> Iterator[Path]:
    """The n-best files in the folders, and those beside an experiment that are of its model."""
    for folder in folders:
        around = sorted(folder.resolve().parent.glob("*.jsonl"))
        for path in [*sorted(folder.glob("*.jsonl")), *around]:
            try:
                meta, _ = read_nbest(path)
            except InputError:  # another file
                continue
            if path not in around or meta.get("model_hash", "") in hashes:
                yield path


def group_by_set(
    paths: Iterable[Path], manifests: Sequence[Manifest]
) -> tuple[list[TestSet], list[tuple[str, str]]]:
    """One TestSet a manifest, test sets before others, and the files that have none with why."""
    skipped: list[tuple[str, str]] = []
    sets: dict[str, tuple[Manifest, list[scoring.Transcripts]]] = {}
    for path in paths:
        found = scoring.read_transcripts(path, "nbest")
        try:
            manifest = find_manifest(found, manifests)
            sets.setdefault(manifest.hash, (manifest, []))[1].append(found)
        except InputError as error:
            skipped.append((str(path), str(error).removeprefix(f"{path}: ")))
    scored = [TestSet(*one) for one in sets.values()]
    return sorted(scored, key=lambda one: one.manifest.split != "test"), skipped


def find_manifest(found: scoring.Transcripts, given: Sequence[Manifest]) -> Manifest:
    """That of an n-best file: among the given ones, or where it was when the file was made, from
    here or from any folder above the file. Raises InputError."""
    named = found.meta.get("manifest") or {}
    for manifest in given:
        if manifest.hash == named.get("hash") or (not named and len(given) == 1):
            return manifest
    if not named:
        raise InputError("does not say its manifest", found.path, "Give the one with --ref.")
    for folder in (Path(), *found.path.resolve().parents):
        path = folder / named["path"]
        if path.is_file() and (manifest := Manifest.open(path)).hash == named["hash"]:
            return manifest
    what = f"its manifest {named['path']} is not there, or has changed"
    raise InputError(what, found.path, "Give the right one with --ref.")


def rate_cell(words: NDArray[np.int64], bootstrap: Bootstrap) -> Number | None:
    """WER in per cent and its interval, from the counts (N, 4)."""
    counts = Counts.of(words)
    if not counts.length:
        return None
    bounds = bootstrap.interval(words[:, 1:].sum(axis=1), words[:, :3].sum(axis=1))
    text = Markup("{} <small>{}</small>").format(percent(counts.rate), interval(bounds))
    return Number(counts.rate, text)


def systems_table(test: TestSet) -> Table:
    header = ["system", "WER %, 95 % interval", "S", "D", "I", "SER %", "CER %", "RTF"]
    header += ["model", "head", "language models"]
    rows: Rows = []
    for system, found in zip(test.systems, test.lists, strict=True):
        figures, factor, meta = system.figures, system.figures["real_time_factor"], found.meta
        rates = [figures[key]["rate"] for key in ("ser", "cer")]
        rows.append([system.label, rate_cell(system.words, test.references.bootstrap)])
        rows[-1] += [count(figures["wer"][k]) for k in ("substitutions", "deletions", "insertions")]
        rows[-1] += [Number(rate, percent(rate)) for rate in rates]
        rows[-1] += [None if factor is None else Number(factor, f"{factor:.3f}")]
        model = f"{meta.get('model', 'outputs')} {meta.get('model_hash', '')}".strip()
        rows[-1] += [model, meta.get("head", ""), _lms(meta)]
    note = f"Intervals: bootstrap over {test.references.bootstrap.units}, 10,000 resamples."
    return Table("Systems", header, rows, note)


def _lms(meta: dict[str, Any]) -> str:
    """ "word 0.8 (82410ecf031e), bonus 1.3 a word, unknown words -0.5 a letter"; "none"."""
    weights, lms = meta.get("weights") or {}, meta.get("lms") or {}
    given = weights.get("lm", {})
    parts = [f"{name} {given.get(name, 0):g} ({lm['hash']})" for name, lm in lms.items()]
    if lms:
        parts.append(f"bonus {weights.get('bonus', 0):g} a {str(meta.get('length', 's'))[:-1]}")
    if any(lm.get("unit") == "word" for lm in lms.values()):
        parts.append(f"unknown words {weights.get('unk', 0):g} a letter")
    return ", ".join(parts) or "none"


def comparison_table(test: TestSet) -> Table:
    """The paired test of all pairs."""
    rows: Rows = []
    for better, worse in itertools.combinations(test.systems, 2):
        pair = test.references.bootstrap.compare(better.errors, worse.errors, test.lengths)
        low, high = (100 * bound for bound in pair.interval)
        change = f"{100 * pair.difference:+.2f} [{low:+.2f}, {high:+.2f}]"
        p = "< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}"
        verdict = pair.verdict(better.label, worse.label, "this set")
        rows.append([better.label, worse.label, verdict])
        rows[-1] += [Number(pair.difference, change), Number(pair.p, p)]
    note = "Paired bootstrap on the same resamples; two-sided p."
    header = ["A", "B", "verdict", "WER of B - A, points", "p"]
    return Table("Comparison of the systems", header, rows, note)


def group_tables(test: TestSet) -> Iterator[Table]:
    """WER of the parts of the set: by speaker, length, and every key that makes groups."""
    header = [*(system.label for system in test.systems), "utterances", "words"]
    for title, groups in groupings(test):
        rows: Rows = []
        for group in sorted(set(groups)):
            members = [row for row, own in enumerate(groups) if own == group]
            bootstrap = Bootstrap([test.references.speakers[row] for row in members])
            rates = [rate_cell(system.words[members], bootstrap) for system in test.systems]
            sizes = count(len(members)), count(int(test.lengths[members].sum()))
            rows.append([group[1], *rates, *sizes])
        if len(rows) > 1:
            yield Table(f"WER % by {title}", [title, *header], rows, "With 95 % intervals.")


def groupings(test: TestSet) -> Iterator[tuple[str, list[tuple[float, str]]]]:
    """What, and the group of each utterance, as (place in the order, name)."""
    if None not in test.references.speakers:
        yield "speaker", [(0.0, str(speaker)) for speaker in test.references.speakers]
    ranges = [(low, high - 1) for low, high in itertools.pairwise(LENGTHS)]
    names = [f"{low} to {high}" if low < high else f"{low}" for low, high in ranges]
    names.append(f"{LENGTHS[-1]} and more")
    places = np.searchsorted(LENGTHS, test.lengths, side="right") - 1
    yield "length, words", [(float(place), names[place]) for place in places.tolist()]
    records = [{"lang": utterance.lang} | utterance.extra for utterance in test.utterances]
    for key in dict.fromkeys(key for record in records for key in record):
        values = [record.get(key) for record in records]
        if len({str(value) for value in values}) <= MOST_GROUPS:
            numbers = [float(v) if isinstance(v, int | float) else 0.0 for v in values]
            named = ["none" if v is None else str(v) for v in values]
            yield key, list(zip(numbers, named, strict=True))


def confusion_table(test: TestSet) -> Table:
    """The most frequent of all systems together, with the count in each."""
    counts: dict[tuple[str, str], list[int]] = {}
    for number, system in enumerate(test.systems):
        confusions = scoring.confusions(test.references.texts, system.texts, most=None)
        for kind, found in confusions.items():
            for what, times in found:
                counts.setdefault((kind[:-1], what), [0] * len(test.systems))[number] = times
    ranked = sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0]))
    rows: Rows = [[*key, *map(count, row)] for key, row in ranked[:MOST_CONFUSIONS]]
    header = ["kind", "word", *(system.label for system in test.systems)]
    rest = len(ranked) - len(rows)
    return Table("Confusions", header, rows, f"And {rest:,} rarer ones." if rest else "")


def utterance_table(test: TestSet) -> Table:
    """Every utterance as the leader heard it, those with most errors first."""
    said, leader = test.references, test.leader
    rows: Rows = []
    for row in np.argsort(-leader.errors, kind="stable")[:MOST_UTTERANCES].tolist():
        numbers = count(int(leader.errors[row])), count(int(test.lengths[row]))
        rows.append([said.ids[row], said.speakers[row], *numbers, said.texts[row]])
        rows[-1].append(leader.texts[row])
    note = f"As heard by {leader.label}, at most {MOST_UTTERANCES:,}, those with most errors first."
    return Table("Utterances", ["id", "speaker", "errors", "words", "said", "heard"], rows, note)


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
    """The chosen utterances, with pictures of what each model's best system heard; and those that
    cannot be heard with the reason."""
    shown: dict[int, dict[str, Any]] = {}
    for row, kind in choose(test, number).items():
        utterance, said = test.utterances[row], test.references.texts[row]
        shown[row] = {"kind": kind, "id": utterance.id, "speaker": utterance.speaker, "text": said}
        shown[row] |= {"sound": sound_of(utterance), "alignments": [], "pictures": []}
        for system in test.systems:
            errors = f"{system.errors[row]} of {test.lengths[row]}"
            pairs = aligned(said.split(), system.texts[row].split())
            shown[row]["alignments"].append((system.label, errors, pairs))
    heard = {one["id"]: row for row, one in shown.items() if not one["sound"].error}
    best: dict[str, Path] = {}  # list of each model
    for found in test.lists:
        best.setdefault(found.meta.get("model_hash", ""), found.path)
    for hash, path in best.items():
        if hash not in models:
            continue
        experiment, model = models[hash]
        utterances = read_nbest(path)[1]
        tokens = {u.id: u.nbest[0].tokens for u in utterances if u.id in heard and u.nbest}
        for id in track([id for id in heard if id in tokens], f"drawing {path.stem}"):
            samples = load_audio(test.utterances[heard[id]], model.sample_rate)
            outputs = model.outputs([samples])
            looked, log_probs = attention(model, outputs, tokens[id]), outputs.log_probs(0)
            pieces, shift = model.tokenizer.pieces, model.frame_shift
            end = shown[heard[id]]["sound"].seconds
            picture = data_uri(draw(tokens[id], pieces, shift, looked, log_probs, seconds=end))
            shown[heard[id]]["pictures"].append((f"{experiment.name}, {path.stem}", picture))
    unheard = [(one["id"], one["sound"].error) for one in shown.values() if one["sound"].error]
    return list(shown.values()), unheard


def load_models(experiments: Sequence[Experiment], threads: int | None) -> Models:
    """The finished ones."""
    return {one.hash: (one, load(one.folder, threads=threads)) for one in experiments if one.hash}


def surfaces(test: TestSet) -> Iterator[tuple[str, str]]:
    """(name, picture) of the errors over LM weight and bonus, for lists that have LM scores; not of
    test sets: weights are not chosen on them."""
    texts = dict(zip(test.references.ids, test.references.texts, strict=True))
    for system, found in zip(test.systems, test.lists, strict=True):
        meta = found.meta
        if test.manifest.split == "test" or not meta.get("lms"):
            continue
        table = tune.tabulate(read_nbest(found.path)[1], texts, normalizer_of(meta))
        if table.valid.shape[1] < 2:
            continue
        tuned = tune.tune(table, meta["length"], [weights_from(meta["weights"])])
        best = ", ".join(f"{name} {weight:g}" for name, weight in tuned.weights.lm.items())
        rate = tuned.errors / max(table.words, 1)
        name = f"{system.label}: best WER {rate:.2%} at {best}, bonus {tuned.weights.bonus:g}"
        yield name, data_uri(surface(table, tuned, "png"), "image/png")
