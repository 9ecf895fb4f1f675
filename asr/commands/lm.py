"""`asr lm train` and `asr lm score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from asr import console
from asr.commands.options import File, Files, Text, Unit, as_command
from asr.errors import InputError
from asr.text.normalize import check_same, get_normalizer

if TYPE_CHECKING:
    from asr.lm.train import Units

SHOWN = 10  # lines left out that are listed
MANY = 0.1  # share of unknown words that deserves a warning


def _units(unit: str, tokenizer: Path | None, normalizer: str | tuple[str, ...] | None) -> Units:
    """How text becomes units; a tokenizer brings its own normaliser."""
    from asr.lm.train import Units
    from asr.text.tokenizer import Tokenizer

    if (unit == "token") != bool(tokenizer):
        if tokenizer:
            raise InputError("words need no tokenizer", "--tokenizer", "Leave it away.")
        remedy = "Give the model or experiment whose tokens they are."
        raise InputError("tokens need a tokenizer", "--tokenizer", remedy)
    if tokenizer is None:
        return Units(get_normalizer("basic" if normalizer is None else normalizer))
    loaded = Tokenizer.load(tokenizer)
    if normalizer is not None:
        check_same(loaded.normalizer, get_normalizer(normalizer), str(tokenizer), "--normalizer")
    return Units(loaded.normalizer, loaded)


@as_command
def train(
    texts: Files,
    output: Annotated[Path, "The model, e.g. word.lm.", "-o", "--output"],
    order: Annotated[int, "Longest n-gram.", click.IntRange(1, 6)] = 4,
    unit: Annotated[Unit, "What is counted."] = "word",
    tokenizer: Annotated[File, "Its file, or a model or experiment (--unit token)."] = None,
    normalizer: Annotated[Text, "none, basic or english. [basic, or the tokenizer's]"] = None,
    prune: Annotated[Text, 'Drop n-grams seen so often or less: "0 0 1".'] = None,
    vocab: Annotated[File, "A file of words (or pieces); all others are unknown."] = None,
    memory: Annotated[str, "Sorting memory of lmplz."] = "1G",
) -> None:
    """Train a model on TEXTS (.txt[.gz], a sentence a line; .jsonl manifests) with KenLM's lmplz.

    The ARPA file is kept beside the model. A line with characters that the tokenizer lacks is left
    out and listed (exit status 3): their n-grams could never be output.

    Example: asr lm train novels.txt.gz -o char.lm --order 6 --unit token --tokenizer exp/ctc
    """
    from asr.commands.tokenizer import read_texts
    from asr.data.manifest import Manifest
    from asr.lm import train as lm

    for path in texts:
        if path.suffix == ".jsonl" and Manifest.open(path).split == "test":
            console.say(f"warning: {path} is a test set: error rates on it will look too good")
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


@as_command
def score(
    lm: Path,
    texts: Files,
    lm_unit: Annotated[Unit | None, "Unit of an ARPA file."] = None,
    tokenizer: Annotated[File, "Tokenizer of an LM of tokens."] = None,
    normalizer: Annotated[Text, "For an ARPA file: none, basic or english. [basic]"] = None,
) -> None:
    """Perplexity and unknown words of TEXTS (.txt[.gz], .jsonl manifests) under LM.

    Example: asr lm score word.lm data/manifest.dev.jsonl
    """
    import numpy as np

    from asr.commands.tokenizer import read_texts
    from asr.lm.ngram import UNK, NGram

    model = NGram.open(lm, lm_unit)
    own = model.normalizer.rules if model.normalizer else None
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
        if cut := units(text, where):
            scores = model.scores(cut)
            out = scores.word == UNK
            sentences, words = sentences + 1, words + len(cut)
            unknown += int(np.count_nonzero(out))
            total += float(scores.logprob.sum())
            total_unknown += float(scores.logprob[out].sum())
    if sentences == 0:
        raise InputError("there is no text to score", texts[0], "Give text that is not empty.")
    scored = words + sentences  # the sentence ends are scored too
    print(f"sentences             {sentences}")
    print(f"{model.unit + 's':<21} {words}")
    print(f"OOV                   {unknown} ({unknown / words:.2%})")
    if unknown > MANY * words:
        console.say("warning: so many unknown words: train on text that is nearer to this one")
    print(f"perplexity            {np.exp(-total / scored):.2f}")
    print(f"perplexity, no OOV    {np.exp(-(total - total_unknown) / (scored - unknown)):.2f}")


command = click.Group(
    commands=[train, score],
    help="Train an n-gram language model, or score text with one."
    "\n\n\b\nExample:\n  asr lm train novels.txt.gz data/manifest.train.jsonl -o word.lm",
)
