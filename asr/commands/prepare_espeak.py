"""`asr prepare espeak`: a corpus synthesised from a grammar."""

from __future__ import annotations

from pathlib import Path

import click

from asr.commands.lazy import Command
from asr.console import say, track


@click.command("espeak", cls=Command)
@click.argument("grammar", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder.")
@click.option("--train", default=2000, show_default=True, help="Training sentences.")
@click.option("--dev", default=120, show_default=True, help="Sentences to choose settings on.")
@click.option("--test", default=250, show_default=True, help="Test sentences.")
@click.option("--lm-text", default=40000, show_default=True, help="Sentences of text for the LM.")
@click.option("--sample-rate", default=16000, show_default=True, help="Hertz.")
@click.option("--seed", default=1, show_default=True, help="Draws sentences and voices.")
def command(
    grammar: Path,
    output: Path,
    train: int,
    dev: int,
    test: int,
    lm_text: int,
    sample_rate: int,
    seed: int,
) -> None:
    """Speak sentences of GRAMMAR with eSpeak NG: manifests, audio, and text for an LM.

    Voices and sentences of the test and dev sets are in no other set, nor in the LM text.

    \b
    Example:
      asr prepare espeak recipes/quickstart/conf/grammar.txt -o data/
    """
    from asr.data.corpora.espeak import Grammar, other_sentences, synthesise
    from asr.data.manifest import write_manifest

    rules = Grammar(grammar)
    counts = {"train": train, "dev": dev, "test": test}
    records: dict[str, list[dict[str, object]]] = {split: [] for split in counts}
    spoken = synthesise(rules, counts, output, seed, sample_rate)
    for split, record in track(spoken, "speaking", total=sum(counts.values())):
        records[split].append(record)
    held_out = {str(r["text"]) for split in ("dev", "test") for r in records[split]}
    text = "\n".join(other_sentences(rules, lm_text, seed, held_out)) + "\n"
    (output / "lm.txt").write_text(text, encoding="utf-8")
    for split, rows in records.items():
        write_manifest(output / f"manifest.{split}.jsonl", rows)
        hours = sum(float(str(row["duration"])) for row in rows) / 3600
        voices = len({row["speaker"] for row in rows})
        words = sum(len(str(row["text"]).split()) for row in rows)
        say(f"{split}: {len(rows)} utterances, {words} words, {voices} voices, {hours:.2f} hours")
