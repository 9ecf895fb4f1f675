"""`asr tokenizer`: text, manifests or a lexicon to a tokenizer file."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import click

from asr import console
from asr.commands.options import Files, Normalizer, as_command
from asr.errors import InputError
from asr.files import cannot_read


def read_texts(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """(where, text) of every line of .txt[.gz] files and every utterance of .jsonl manifests."""
    from asr.data.manifest import Manifest

    for path in paths:
        if path.suffix == ".jsonl":
            yield from (
                (f"{path} ({u.id})", u.text) for u in Manifest.open(path) if u.text is not None
            )
            continue
        if path.name.endswith(".jsonl.gz"):
            raise InputError("manifests are not read compressed", path, "Unpack it: gunzip.")
        number = 0
        try:
            with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    yield f"{path}:{number}", line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError("is not UTF-8 text", f"{path}:{number}", "Convert it.") from error
        except (OSError, EOFError) as error:
            raise cannot_read(path, error) from error


@as_command
def command(
    texts: Files,
    output: Annotated[Path, "A .json file, or a folder.", "-o", "--output"],
    kind: Annotated[str, "char, bpe, unigram (sentencepiece), lexicon (units).", "--type"] = "char",
    size: Annotated[int | None, "Pieces altogether (bpe and unigram).", click.IntRange(4)] = None,
    normalizer: Normalizer = "basic",
) -> None:
    """Make a tokenizer from TEXTS: .txt[.gz], .jsonl manifests; with --type lexicon a lexicon.

    Normalisers: none leaves the text as it is, basic makes it lower case without punctuation,
    english keeps a to z and the apostrophe only.

    Example: asr tokenizer data/manifest.train.jsonl more.txt --type bpe --size 500 -o bpe.json
    """
    from asr.lm.lexicon import read_lexicon
    from asr.text.normalize import get_normalizer
    from asr.text.tokenizer import Tokenizer

    rules = get_normalizer(normalizer)
    if kind == "lexicon":
        if len(texts) > 1:
            raise InputError("--type lexicon takes one lexicon", texts[1], "Join the files.")
        words = read_lexicon(texts[0])
        tokenizer = Tokenizer.train(kind, size=size, normalizer=rules, lexicon=words)
    else:
        lines = (text for _, text in console.track(read_texts(texts), "reading"))
        tokenizer = Tokenizer.train(kind, lines, size, rules)
    tokenizer.save(output)
    if size and tokenizer.size < size:
        console.say(f"warning: the text yields {tokenizer.size} pieces, fewer than --size {size}")
    print(f"{output}: {tokenizer.size} {kind} pieces, normaliser {rules.name}")
