"""`asr lm train` and `asr lm score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr import console
from asr.commands.lazy import LazyGroup
from asr.commands.options import FILE
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.lm.train import Units

UNIT = click.Choice(["word", "token"])
SHOWN = 10  # lines left out that are listed


@click.group(cls=LazyGroup, lazy={})
def command() -> None:
    """Train an n-gram language model, or score text with one.

    \b
    Examples:
      asr lm train novels.txt.gz data/manifest.train.jsonl -o word.lm
      asr lm score word.lm data/manifest.dev.jsonl
    """


def _units(unit: str, tokenizer: Path | None, normalizer: str | None) -> Units:
    """How text becomes units; a tokenizer brings its own normaliser."""
    from asr.lm.train import Units
    from asr.text.normalize import check_same, get_normalizer
    from asr.text.tokenizer import Tokenizer

    if (unit == "token") != (tokenizer is not None):
        tokens = unit == "token"
        raise InputError(
            "tokens need a tokenizer" if tokens else "words need no tokenizer",
            "--tokenizer",
            "Give the model or experiment whose tokens they are." if tokens else "Leave it away.",
        )
    if tokenizer is None:
        return Units(get_normalizer(normalizer or "basic"))
    loaded = Tokenizer.load(tokenizer)
    if normalizer is not None:
        check_same(loaded.normalizer, get_normalizer(normalizer), str(tokenizer), "--normalizer")
    return Units(loaded.normalizer, loaded)


@command.command()
@click.argument("texts", type=FILE, nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, required=True, help="The model, e.g. word.lm.")
@click.option(
    "--order", type=click.IntRange(1, 6), default=4, show_default=True, help="Longest n-gram."
)
@click.option("--unit", type=UNIT, default="word", show_default=True, help="What is counted.")
@click.option("--tokenizer", type=FILE, help="Its file, or a model or experiment (--unit token).")
@click.option("--normalizer", help="none, basic or english. [basic, or the tokenizer's]")
@click.option(
    "--prune",
    metavar='"0 0 1"',
    help="Drop n-grams seen so often or less (a threshold each order).",
)
@click.option("--vocab", type=FILE, help="A file of words; all others are unknown.")
@click.option("--memory", default="1G", show_default=True, help="Sorting memory of lmplz.")
def train(
    texts: tuple[Path, ...],
    output: Path,
    order: int,
    unit: str,
    tokenizer: Path | None,
    normalizer: str | None,
    prune: str | None,
    vocab: Path | None,
    memory: str,
) -> None:
    """Train a model on TEXTS (.txt[.gz], a sentence a line; .jsonl manifests) with KenLM's lmplz.

    The ARPA file is kept beside the model. A line with characters that the tokenizer lacks is left
    out and listed (exit status 3): their n-grams could never be output.

    \b
    Examples:
      asr lm train novels.txt.gz data/manifest.train.jsonl -o word.lm --prune "0 0 1"
      asr lm train novels.txt.gz -o char.lm --order 6 --unit token --tokenizer exp/ctc
    """
    from asr.commands.tokenizer import read_texts
    from asr.lm import train as lm

    units = _units(unit, tokenizer, normalizer)
    lines = console.track(read_texts(texts), "reading")
    result = lm.train(lines, output, order, units, prune, vocab, memory)
    if result.fallback:
        console.say("the text is small: fixed discounts are used (lmplz --discount_fallback)")
    for n, count in enumerate(result.model.counts, start=1):
        print(f"{n}-grams  {count}")
    size = output.stat().st_size / 2**20
    print(f"{output}: {size:.1f} MB, {result.lines} sentences of {unit}s; {result.arpa}")
    skipped = [(where, f"the tokenizer lacks {' '.join(c)}") for where, c in result.left_out]
    console.end_with_skipped(skipped, result.lines + len(skipped), "line", SHOWN)


@command.command()
@click.argument("lm", type=FILE)
@click.argument("texts", type=FILE, nargs=-1, required=True)
@click.option("--lm-unit", type=UNIT, help="Unit of an ARPA file.")
@click.option("--tokenizer", type=FILE, help="Tokenizer of an LM of tokens.")
@click.option("--normalizer", help="For an ARPA file: none, basic or english. [basic]")
def score(
    lm: Path,
    texts: tuple[Path, ...],
    lm_unit: str | None,
    tokenizer: Path | None,
    normalizer: str | None,
) -> None:
    """Perplexity and unknown words of TEXTS (.txt[.gz], .jsonl manifests) under LM.

    \b
    Examples:
      asr lm score word.lm data/manifest.dev.jsonl
      asr lm score other.arpa.gz dev.txt --lm-unit word
    """
    import numpy as np

    from asr.commands.tokenizer import read_texts
    from asr.lm.ngram import UNK, NGram
    from asr.text.normalize import check_same

    model = NGram.open(lm, lm_unit)
    own = model.normalizer.name if model.normalizer else None
    units = _units(model.unit, tokenizer, normalizer or (None if tokenizer else own))
    if model.normalizer:
        check_same(model.normalizer, units.normalizer, str(lm), "the text")
    else:
        console.say(f"{lm} does not say its normaliser; the text gets '{units.normalizer.name}'")
    if units.tokenizer:
        model.check_fits(units.tokenizer)
    sentences = words = unknown = 0
    total = total_unknown = 0.0
    for where, text in console.track(read_texts(texts), "scoring"):
        if not (cut := units(text, where)):
            continue
        scores = model.scores(cut)
        out = scores.word == UNK
        sentences += 1
        words += len(cut)
        unknown += int(np.count_nonzero(out))
        total += float(scores.logprob.sum())
        total_unknown += float(scores.logprob[out].sum())
    if sentences == 0:
        raise InputError("there is no text to score", texts[0], "Give text that is not empty.")
    scored = words + sentences  # the sentence ends are scored too
    print(f"sentences             {sentences}")
    print(f"{model.unit + 's':<21} {words}")
    print(f"OOV                   {unknown} ({unknown / words:.2%})")
    print(f"perplexity            {np.exp(-total / scored):.2f}")
    print(f"perplexity, no OOV    {np.exp(-(total - total_unknown) / (scored - unknown)):.2f}")
