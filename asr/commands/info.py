"""`asr info`: what a model folder, a language model or a weights file is."""

from __future__ import annotations

from pathlib import Path

import click

from asr.commands.options import as_command
from asr.errors import InputError


@as_command
def command(path: Path) -> None:
    """Describe a model or experiment folder, a language model (its whole checksum is verified), or
    what `asr tune` has chosen.

    Example: asr info exp/ctc
    """
    if not path.exists():
        raise InputError("is not there", path, "Give a model or experiment folder, or an LM file.")
    describe = describe_weights if path.suffix == ".json" else describe_lm
    facts = describe_model(path) if path.is_dir() else describe(path)
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:{width}}  {value}")


def describe_model(path: Path) -> dict[str, object]:
    from asr.models.folder import model_folder, model_hash
    from asr.models.recognizer import Recognizer
    from asr.text.tokenizer import Tokenizer

    folder = model_folder(path)
    recognizer, tokenizer = Recognizer.load(folder), Tokenizer.load(folder)
    tokenizer.check_belongs(recognizer.vocabulary, recognizer.tokenizer_hash, folder)
    facts = recognizer.describe()
    shift, field, window = facts["frame_shift"], facts["receptive_field"], facts.pop("window")
    layers = "attention" if facts["encoder"] == "conformer" else "LSTM"
    facts |= {
        "heads": ", ".join(facts["heads"]),
        "parameters": f"{facts['parameters']:,}",
        "sample_rate": f"{facts['sample_rate']} Hz",
        "frame_shift": f"{1000 * shift:g} ms, {1 / shift:.4g} frames a second",
        "receptive_field": f"{1000 * field:g} ms below the first {layers} layer, then all",
    }
    if window is not None:
        facts["window"] = f"{window:.1f} s, of recordings above {2 * window:.1f} s"
    facts["tokenizer"] = f"{tokenizer.type}, {tokenizer.size} pieces"
    return {**facts, "normalizer": tokenizer.normalizer.name, "hash": model_hash(folder)}


def describe_lm(path: Path) -> dict[str, object]:
    from asr.lm.ngram import NGram, is_arpa

    lm = NGram.open(path, "word" if is_arpa(path) else None)
    lm.verify()
    return {
        "unit": "unknown" if is_arpa(path) else lm.unit,
        "order": lm.order,
        **{f"{n}-grams": f"{count:,}" for n, count in enumerate(lm.counts, start=1)},
        "normalizer": lm.normalizer.name if lm.normalizer else "unknown",
        "hash": lm.hash,
    }


def describe_weights(path: Path) -> dict[str, object]:
    from asr.decoding.weights import load_weights

    weights, record = load_weights(path)
    return {
        "tuned on": (record.get("tuned_on") or {}).get("path", "unknown"),
        "ctc": weights.ctc,
        "att": weights.att,
        **{f"LM {name}": weight for name, weight in weights.lm.items()},
        "bonus": f"{weights.bonus:g} a {str(record.get('length', 'words')).removesuffix('s')}",
        "unknown words": f"{weights.unk:g} a letter",
        "beam": record.get("beam", "unknown"),
        **{f"WER {name}": f"{rate:.2%}" for name, rate in record.get("wer", {}).items()},
    }
