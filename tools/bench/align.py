"""Accuracy of word times on strings joined from single recordings, whose boundaries are known.

    asr prepare fsdd SOURCE -o data --strings 3-7
    python tools/bench/align.py data/manifest.test-strings.jsonl MODEL... [--lm word.lm]

Known words (as `asr align`) and decoded ones (as `asr decode`; those that are correct) are
measured, with the times of CTC alone beside them. Errors are estimate minus truth: median of their
size, median, 90th percentile of their size. A recording's own silence counts as part of the word,
so that ends come out early. Bars: starts 40 ms, ends 80 ms in the median.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from asr.data.audio import load as load_audio
from asr.data.manifest import Manifest
from asr.decoding.align import word_times
from asr.hypothesis import Word
from asr.transcriber import load
from asr.wer import edits

Truth = Sequence[dict[str, Any]]


def errors(words: Sequence[Word], truth: Truth) -> Iterable[tuple[float, float]]:
    """(start, end) errors in seconds of the words that are right."""
    said, heard = [part["word"] for part in truth], [word.word for word in words]
    wrong = edits(said, heard)
    if any(tag != "replace" for tag, _, _ in wrong):
        return  # rare; which word is which would be a guess
    for i in {*range(len(said))} - {i for _, i, _ in wrong}:
        yield words[i].start - truth[i]["start"], words[i].end - truth[i]["end"]


def row(name: str, found: list[tuple[float, float]]) -> str:
    cells = f"{name:38}{len(found):6}"
    for values in 1000 * np.array(found).T:
        size = np.abs(values)
        figures = np.median(size), np.median(values), np.quantile(size, 0.9)
        cells += "".join(f"{figure:8.0f}" for figure in figures)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", help="with a key `parts`: word, start, end of each")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--lm", action="append", default=[])
    arguments = parser.parse_args()
    utterances = list(Manifest.open(arguments.manifest))
    columns = "".join(f"{name:>8}" for name in ("start", "bias", "90 %", "end", "bias", "90 %"))
    print(f"{'errors in ms':38} words{columns}")
    for model in arguments.models:
        aligner = load(model, head="ctc", threads=1)
        decoder = load(model, lm=arguments.lm, threads=1)
        rows: dict[str, list[tuple[float, float]]] = {"CTC alone": [], "align": [], "decode": []}
        inventory, shift = aligner.fusion.inventory, aligner.frame_shift
        for utterance in utterances:
            samples = load_audio(utterance, aligner.sample_rate)
            tokens, truth = aligner.spell(utterance.text), utterance.extra["parts"]
            words, log_probs = aligner.align_tokens(samples, tokens)
            rows["CTC alone"] += errors(word_times(tokens, inventory, log_probs, shift), truth)
            rows["align"] += errors(words, truth)
            rows["decode"] += errors(decoder.transcribe(samples).words, truth)
        print(f"{model}, frame shift {1000 * shift:g} ms")
        for name, found in rows.items():
            print(row(f"  {name}", found))


if __name__ == "__main__":
    main()
