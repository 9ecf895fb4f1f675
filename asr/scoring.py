"""Reading transcripts of any format, pairing them by id, the scores of a system, and their tables.

Rates and bounds of intervals are fractions of 1 in the figures of --json, per cent in the tables.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len

from asr.confidence import matches, normalised_cross_entropy, reliability
from asr.data.manifest import Manifest
from asr.errors import InputError
from asr.files import cannot_read
from asr.formats import read_kaldi, read_trn
from asr.hypothesis import read_nbest
from asr.text.normalize import Normalizer, get_normalizer
from asr.wer import Bootstrap, Counts, Table, aligned, count_errors, edits

MOST_CONFUSIONS = 10
MOST_SPEAKERS = 30
WIDTH = 100  # columns of an alignment
KINDS = ("substitutions", "deletions", "insertions")
# no Kaldi text, as which they would be read where nothing else is said
OTHERS = {".json", ".ctm", ".srt", ".vtt", ".tsv", ".csv", ".html", ".npz", ".lm", ".gz", ".yaml"}


@dataclass(slots=True)
class Transcripts:
    """The texts of a file by id; of an n-best file each utterance's best."""

    path: Path
    texts: dict[str, str] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # id and why it has no text
    failed: int = 0  # utterances whose decoding failed, empty texts
    meta: dict[str, Any] = field(default_factory=dict)  # of an n-best file
    hash: str | None = None  # of a manifest
    confidences: dict[str, list[float]] = field(default_factory=dict)  # of an n-best file's words


def read_transcripts(path: Path, format: str | None = None) -> Transcripts:
    """Read trn, kaldi, manifest or nbest; the suffixes .trn and .jsonl decide for themselves.

    Raises InputError for a file that cannot be read or is none, and for an id that comes twice.
    """
    if format is None and path.suffix in OTHERS:
        what = "holds no transcripts by id"
        raise InputError(what, path, "Give .jsonl, .trn or a Kaldi text file.")
    if path.suffix == ".trn":
        format = "trn"
    elif path.suffix == ".jsonl":
        try:
            with open(path, "rb") as file:
                format = "nbest" if b'"meta"' in file.readline(1000)[:20] else "manifest"
        except OSError as error:
            raise cannot_read(path, error) from None
    found = Transcripts(path)
    for id, text in _pairs(found, format or "kaldi"):
        if id in found.texts:
            raise InputError(f"the id '{id}' comes twice", path, "Keep one of the two lines.")
        found.texts[id] = text
    return found


def _pairs(found: Transcripts, format: str) -> Iterator[tuple[str, str]]:
    """(id, text) of the file of `found`, the other fields of which are filled in."""
    if format == "manifest":
        manifest = Manifest.open(found.path)
        found.hash = manifest.hash
        for utterance in manifest:
            if utterance.speaker is not None:
                found.speakers[utterance.id] = utterance.speaker
            if utterance.text is None:
                found.skipped.append((utterance.id, "no text in the manifest"))
            else:
                yield utterance.id, utterance.text
    elif format == "nbest":
        found.meta, lists = read_nbest(found.path)
        for one in lists:
            found.failed += one.error is not None
            words = one.nbest[0].words if one.nbest else []
            known = [word.confidence for word in words if word.confidence is not None]
            if words and len(known) == len(words):
                found.confidences[one.id] = known
            yield one.id, one.text
    else:
        yield from (read_trn if format == "trn" else read_kaldi)(found.path)


def choose_normalizer(name: str | None, hypotheses: Sequence[Transcripts]) -> Normalizer:
    """The one of `name`, else the one that the n-best files name, else "none".

    Raises InputError where n-best files name different ones.
    """
    if name is not None:
        return get_normalizer(name)
    chosen: dict[tuple[str, ...], Path] = {}
    for transcripts in hypotheses:
        if (named := transcripts.meta.get("normalizer")) is not None:
            rules = named["rules"] if isinstance(named, dict) else named
            chosen[get_normalizer(rules).rules] = transcripts.path
    if len(chosen) > 1:
        what = f"{' and '.join(map(str, chosen.values()))} name different normalisers"
        raise InputError(what, remedy="Choose the one for all with --normalizer NAME.")
    return get_normalizer(next(iter(chosen), "none"))


class References:
    """The reference side, normalised, in the order of its file."""

    def __init__(self, found: Transcripts, normalizer: Normalizer) -> None:
        if not found.texts:
            raise InputError("has no transcripts", found.path, "Give references with text.")
        self.ids, self.hash = [*found.texts], found.hash
        self.known = {*found.texts, *dict(found.skipped)}  # those without text too
        self.texts = [*map(normalizer, found.texts.values())]
        self.speakers = [found.speakers.get(id) for id in self.ids]
        self.bootstrap = Bootstrap(self.speakers)


@dataclass(slots=True)
class System:
    """One system's hypotheses in the order of the references, and its `figures` as in --json.

    Ids that are `missing` count as deletions of all their words; those that are `surplus` are not
    scored.
    """

    label: str
    texts: list[str]
    words: Table
    figures: dict[str, Any]

    @property
    def errors(self) -> NDArray[np.int64]:
        """Word errors of each utterance, (N,)."""
        errors: NDArray[np.int64] = self.words[:, 1:].sum(axis=1)
        return errors


def score_system(
    label: str, found: Transcripts, references: References, normalizer: Normalizer, nist: bool
) -> System:
    """Pair by id and count. Raises InputError where no id is common."""
    known, meta, ids = found.texts, found.meta, references.ids
    missing = [id for id in ids if id not in known]
    if len(missing) == len(ids):
        example = f"(theirs: '{ids[0]}', here: {next(iter(known), None)!r})"
        what = f"has no id in common with the references {example}"
        raise InputError(what, found.path, "Give the hypotheses of the same set.")
    texts = [normalizer(known.get(id, "")) for id in ids]
    words = count_errors(references.texts, texts, nist=nist)
    characters = count_errors(references.texts, texts, "char")
    wrong, bootstrap = words[:, 0] < words.sum(axis=1), references.bootstrap
    audio, seconds = meta.get("audio_seconds"), meta.get("decode_seconds")
    rows: dict[str, list[int]] = {}
    for row, speaker in enumerate(references.speakers):
        if speaker is not None:
            rows.setdefault(speaker, []).append(row)
    tuned = (meta.get("tuned_on") or {}).get("hash")
    hashes = references.hash, (meta.get("manifest") or {}).get("hash")
    figures = {
        "label": label,
        "wer": _rates(words, "words", bootstrap),
        "cer": _rates(characters, "characters", bootstrap),
        "ser": {
            "utterances": len(wrong),
            "wrong": int(wrong.sum()),
            "rate": float(wrong.mean()),
            "interval": bootstrap.interval(wrong, np.ones(len(wrong)), most=1.0),
        },
        "real_time_factor": seconds / audio if audio and seconds is not None else None,
        "missing": missing,
        "surplus": [id for id in known if id not in references.known],
        "failed": found.failed,
        "tuned_on_this_set": tuned is not None and tuned in hashes,
        "speakers": {
            speaker: {
                "utterances": len(own),
                "wer": _rates(words[own], "words"),
                "cer": _rates(characters[own], "characters"),
            }
            for speaker, own in rows.items()
        },
        "confusions": confusions(references.texts, texts, nist),
        "confidence": _confidence(references, texts, found.confidences),
    }
    return System(label, texts, words, figures)


def normalised_rate(references: References, system: System) -> float:
    """WER where neither case nor punctuation counts."""
    basic = get_normalizer("basic")
    said, heard = ([*map(basic, texts)] for texts in (references.texts, system.texts))
    return Counts.of(count_errors(said, heard)).rate


def _confidence(
    references: References, texts: Sequence[str], known: Mapping[str, list[float]]
) -> dict[str, Any] | None:
    """What the confidences of the words are worth; None where there are none. Utterances whose
    number of words the normaliser changes are left out."""
    said: list[float] = []
    right: list[bool] = []
    for id, reference, text in zip(references.ids, references.texts, texts, strict=True):
        words = text.split()
        if words and len(known.get(id, [])) == len(words):
            said += known[id]
            right += matches(words, [reference])[0].tolist()
    if not said:
        return None
    confidences, correct = np.array(said), np.array(right)
    return {
        "words": len(said),
        "normalised_cross_entropy": normalised_cross_entropy(confidences, correct),
        "reliability": reliability(confidences, correct),
    }


def _rates(table: Table, unit: str, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    counts = Counts.of(table)
    kinds = {kind: getattr(counts, kind) for kind in KINDS}
    rates: dict[str, Any] = {unit: counts.length, **kinds, "rate": counts.rate}
    if bootstrap is not None:
        rates["interval"] = bootstrap.interval(table[:, 1:].sum(axis=1), table[:, :3].sum(axis=1))
    return rates


def confusions(
    references: Sequence[str],
    hypotheses: Sequence[str],
    nist: bool = False,
    most: int | None = MOST_CONFUSIONS,
) -> dict[str, list[tuple[str, int]]]:
    """The most frequent substitutions ("a → b"), deletions and insertions with their counts."""
    counters: dict[str, Counter[str]] = {tag: Counter() for tag in ("replace", "delete", "insert")}
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        if reference == hypothesis:
            continue
        said, heard = reference.split(), hypothesis.split()
        for tag, i, j in edits(said, heard, nist):
            named = heard[j] if tag == "insert" else said[i]
            counters[tag][f"{named} → {heard[j]}" if tag == "replace" else named] += 1
    return {
        kind: sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:most]
        for kind, counter in zip(KINDS, counters.values(), strict=True)
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their heads, the first to the left, the others to the right."""
    columns = []
    for number, cells in enumerate(zip(header, *rows, strict=True)):
        width = max(map(cell_len, cells))
        pads = [" " * (width - cell_len(cell)) for cell in cells]
        pairs = zip(cells, pads, strict=True)
        columns.append([pad + cell if number else cell + pad for cell, pad in pairs])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def percent(rate: float) -> str:
    return f"{100 * rate:.2f}"


def interval(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"


def systems_table(systems: Sequence[dict[str, Any]]) -> str:
    """A row a system, from the figures of each."""
    header = ["system", "WER %", "95 % interval", "S", "D", "I", "SER %", "CER %"]
    timed = any(figures["real_time_factor"] is not None for figures in systems)
    rows = []
    for figures in systems:
        words, factor = figures["wer"], figures["real_time_factor"]
        row = [figures["label"], percent(words["rate"]), interval(words["interval"])]
        row += [f"{words[kind]:,}" for kind in KINDS]
        row += [percent(figures[unit]["rate"]) for unit in ("ser", "cer")]
        rows.append(row + ["-" if factor is None else f"{factor:.3f}"] * timed)
    return table(header + ["RTF"] * timed, rows)


def speakers_table(figures: dict[str, Any]) -> str:
    """The speakers with the highest rates, "" where none is known."""
    ranked = sorted(figures["speakers"].items(), key=lambda item: -item[1]["wer"]["rate"])
    rows = []
    for speaker, own in ranked[:MOST_SPEAKERS]:
        words = own["wer"]
        row = [speaker, f"{own['utterances']:,}", f"{words['words']:,}", percent(words["rate"])]
        rows.append(row + [f"{words[kind]:,}" for kind in KINDS] + [percent(own["cer"]["rate"])])
    if not rows:
        return ""
    header = ["speaker", "utterances", "words", "WER %", "S", "D", "I", "CER %"]
    rest = len(ranked) - len(rows)
    return table(header, rows) + (f"\nand {rest:,} speakers with lower rates" if rest else "")


def confusions_table(figures: dict[str, Any]) -> str:
    """The most frequent substitutions, deletions and insertions, "" without errors."""
    return "\n".join(
        f"{kind}: " + ", ".join(f"{what} {count}×" for what, count in ranked)
        for kind, ranked in figures["confusions"].items()
        if ranked
    )


def confidence_table(figures: dict[str, Any]) -> str:
    """How often words are correct by their confidence, "" where words have none."""
    worth = figures["confidence"]
    if worth is None:
        return ""
    rows = [[f"{said:.3f}", f"{right:.3f}", f"{n:,}"] for said, right, n in worth["reliability"]]
    nce = worth["normalised_cross_entropy"]
    told = "-" if nce is None else f"{nce:.3f} (1 perfect, 0 worthless, below 0 misleading)"
    shown = table(["confidence", "correct", "words"], rows)
    return f"{shown}\nnormalised cross-entropy of the confidences: {told}"


def alignments(references: References, system: System, number: int, nist: bool) -> str:
    """The `number` utterances with most errors, reference above hypothesis."""
    blocks = []
    for row in np.argsort(-system.errors, kind="stable")[:number].tolist():
        hits, s, d, i = system.words[row].tolist()
        if s + d + i:
            speaker = references.speakers[row]
            title = references.ids[row] + (f"  (speaker {speaker})" if speaker else "")
            pairs = aligned(references.texts[row].split(), system.texts[row].split(), nist)
            blocks.append(f"{title}  S {s}  D {d}  I {i}  of {hits + s + d} words\n{_view(pairs)}")
    return "\n\n".join(blocks)


def _view(pairs: Sequence[tuple[str | None, str | None]]) -> str:
    """Three rows, folded at WIDTH: reference, hypothesis, and S, D or I under each error."""
    folds = [["  REF:", "  HYP:", "      "]]
    for said, heard in pairs:
        width = max(cell_len(said or ""), cell_len(heard or ""))
        if cell_len(folds[-1][0]) - 1 + width > WIDTH and folds[-1][0] != "  REF:":
            folds.append(["  REF:", "  HYP:", "      "])
        mark = " " if said == heard else "I" if said is None else "D" if heard is None else "S"
        for row, word in enumerate((said, heard, mark)):
            cell = "*" * width if word is None else word + " " * (width - cell_len(word))
            folds[-1][row] += f" {cell}"
    return "\n".join(row.rstrip() for fold in folds for row in fold)


def comparison_line(pair: dict[str, Any]) -> str:
    """A comparison's JSON record in one line."""
    low, high = (100 * bound for bound in pair["interval"])
    return (
        f"{pair['b']} against {pair['a']}: {pair['verdict']} (WER {100 * pair['difference']:+.2f}"
        f" points, 95 % interval [{low:+.2f}, {high:+.2f}])"
    )
