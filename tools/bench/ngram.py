"""The n-gram automaton measured: building, size, opening and look-ups, beside KenLM.

    ASR_DATA=... python tools/bench/ngram.py [--orders 3 5 6] [--arpa FILE]

Models are trained on $ASR_DATA/text (words), or --arpa gives one. CPU times of one thread.
Bars: 1 million n-grams a second built, 24 bytes an n-gram, 50 ms to open.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from asr.commands.tokenizer import read_texts
from asr.lm.ngram import NGram
from asr.lm.train import Units, train
from asr.text.normalize import get_normalizer


def timed(work: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """The least CPU and wall time of a few runs, seconds."""
    times = []
    for _ in range(repeats):
        begin = time.process_time(), time.perf_counter()
        work()
        times.append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
    cpu, wall = zip(*times, strict=True)
    return min(cpu), min(wall)


def measure(arpa: Path, sentences: list[list[str]], folder: Path) -> None:
    """Print a model's figures; the text has few or no words that it does not know."""
    text = arpa
    if arpa.suffix == ".gz":  # unpacking is not building
        import gzip

        text = folder / arpa.stem
        text.write_bytes(gzip.decompress(arpa.read_bytes()))
    model = NGram.from_arpa(text, "word")  # compiles
    grams = sum(model.counts)
    cpu, wall = timed(lambda: NGram.from_arpa(text, "word"))
    saved = folder / f"{text.stem}.lm"
    model.save(saved)
    print(f"{arpa.name}: order {model.order}, {grams:,} n-grams {model.counts}")
    print(f"  building       {grams / cpu / 1e6:8.2f} million n-grams/s ({wall:.2f} s wall)")
    print(f"  size           {saved.stat().st_size / grams:8.1f} bytes an n-gram")
    cpu, wall = timed(lambda: NGram.open(saved), 5)
    print(f"  opening        {1000 * wall:8.2f} ms wall")
    words = sum(len(sentence) + 1 for sentence in sentences)
    mine = NGram.open(saved)
    mine.score(sentences[0])
    cpu, _ = timed(lambda: [mine.scores(sentence) for sentence in sentences])
    print(f"  sentences      {words / cpu / 1e6:8.2f} million words/s")
    try:
        import kenlm
    except ImportError:
        print("  kenlm is not installed")
        return
    reference = kenlm.Model(str(text))
    lines = [" ".join(sentence) for sentence in sentences]
    cpu, _ = timed(lambda: [list(reference.full_scores(line)) for line in lines])
    print(f"  kenlm          {words / cpu / 1e6:8.2f} million words/s (full_scores, from Python)")
    word = length = 0.0
    for sentence, line in zip(sentences, lines, strict=True):
        scores = mine.scores(sentence)
        theirs = np.array([found[:2] for found in reference.full_scores(line)])
        word = max(word, float(abs(scores.logprob - theirs[:, 0] * math.log(10)).max()))
        length += float((scores.length != theirs[:, 1]).sum())
    print(f"  against kenlm  {word:8.1e} greatest difference of a word, {length:.0f} other lengths")


def main() -> None:
    parser = argparse.ArgumentParser(description="The n-gram automaton measured.")
    parser.add_argument("--orders", type=int, nargs="+", default=[3, 5, 6])
    parser.add_argument("--arpa", type=Path)
    given = parser.parse_args()
    texts = sorted((Path(os.environ["ASR_DATA"]) / "text").glob("*.txt.gz"))
    units = Units(get_normalizer("english"))
    lines = list(read_texts(texts))
    sentences = [units(text, where) for where, text in lines[::7]][:10_000]
    rng = np.random.default_rng(1)
    for sentence in sentences[::2]:  # shuffled ones back off at every order; some words are unknown
        rng.shuffle(sentence)
        sentence[:1] = ["unheardof"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for order in [] if given.arpa else given.orders:
            out = folder / f"order{order}.lm"
            measure(train(lines, out, order, units).arpa, sentences, folder)
        if given.arpa:
            measure(given.arpa, sentences, folder)


if __name__ == "__main__":
    main()
