"""The printed tables of `asr score`; rates are in per cent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from asr.scoring import References, System
from asr.wer import aligned

MOST_SPEAKERS = 30
WIDTH = 100  # columns of an alignment


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their heads, the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell + _pad(cell, width) if column == 0 else _pad(cell, width) + cell
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _pad(cell: str, width: int, character: str = " ") -> str:
    return character * (width - cell_len(cell))


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
        row += [*_counts(words), percent(figures["ser"]["rate"]), percent(figures["cer"]["rate"])]
        rows.append(row + ["-" if factor is None else f"{factor:.3f}"] * timed)
    return table(header + ["RTF"] * timed, rows)


def _counts(rates: dict[str, Any]) -> list[str]:
    return [f"{rates[kind]:,}" for kind in ("substitutions", "deletions", "insertions")]


def speakers_table(figures: dict[str, Any]) -> str:
    """The speakers with the highest rates, "" where none is known."""
    ranked = sorted(figures["speakers"].items(), key=lambda item: -item[1]["wer"]["rate"])
    rows = []
    for speaker, own in ranked[:MOST_SPEAKERS]:
        words = own["wer"]
        row = [speaker, f"{own['utterances']:,}", f"{words['words']:,}", percent(words["rate"])]
        rows.append([*row, *_counts(words), percent(own["cer"]["rate"])])
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
    nce = worth["normalised_cross_entropy"]
    rows = [
        [f"{said:.3f}", f"{right:.3f}", f"{words:,}"] for said, right, words in worth["reliability"]
    ]
    return (
        table(["confidence", "correct", "words"], rows)
        + "\nnormalised cross-entropy of the confidences: "
        + ("-" if nce is None else f"{nce:.3f} (1 perfect, 0 worthless)")
    )


def alignments(references: References, system: System, number: int, nist: bool) -> str:
    """The `number` utterances with most errors, reference above hypothesis."""
    worst = sorted(range(len(system.errors)), key=lambda row: -int(system.errors[row]))
    blocks = []
    for row in worst[:number]:
        if not system.errors[row]:
            break
        hits, s, d, i = system.words[row].tolist()
        speaker = references.speakers[row]
        title = references.ids[row] + (f"  (speaker {speaker})" if speaker else "")
        pairs = aligned(references.texts[row].split(), system.texts[row].split(), nist)
        blocks.append(f"{title}  S {s}  D {d}  I {i}  of {hits + s + d} words\n" + _view(pairs))
    return "\n\n".join(blocks)


def _view(pairs: Sequence[tuple[str | None, str | None]]) -> str:
    """Three rows, folded at WIDTH: reference, hypothesis, and S, D or I under each error."""
    folds = []
    rows = ["REF:", "HYP:", "    "]
    for said, heard in pairs:
        width = max(cell_len(said or ""), cell_len(heard or ""))
        if cell_len(rows[0]) + 1 + width > WIDTH and rows[0] != "REF:":
            folds.append("\n".join(f"  {row}".rstrip() for row in rows))
            rows = ["REF:", "HYP:", "    "]
        mark = " " if said == heard else "I" if said is None else "D" if heard is None else "S"
        cells = (_cell(said, width), _cell(heard, width), mark + _pad(mark, width))
        rows = [f"{row} {cell}" for row, cell in zip(rows, cells, strict=True)]
    folds.append("\n".join(f"  {row}".rstrip() for row in rows))
    return "\n".join(folds)


def _cell(word: str | None, width: int) -> str:
    return "*" * width if word is None else word + _pad(word, width)


def comparison_line(pair: dict[str, Any]) -> str:
    """A comparison's JSON record in one line."""
    low, high = (100 * bound for bound in pair["interval"])
    return (
        f"{pair['b']} against {pair['a']}: {pair['verdict']} (WER {100 * pair['difference']:+.2f}"
        f" points, 95 % interval [{low:+.2f}, {high:+.2f}])"
    )
