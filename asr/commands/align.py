"""`asr align`: when each word of known transcripts was said."""

from __future__ import annotations

from pathlib import Path

import click

from asr.commands.options import FILE, machine_options
from asr.console import end_with_skipped, say, track
from asr.errors import InputError


@click.command()
@click.argument("model", type=FILE)
@click.argument("manifest", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The CTM file.")
@machine_options
def command(model: Path, manifest: Path, output: Path, device: str, threads: int | None) -> None:
    """Align the transcripts of MANIFEST with a CTC model: word times in seconds, as CTM.

    \b
    Example:
      asr align exp/ctc data/manifest.test.jsonl -o test.ctm
    """
    import torch

    from asr.data.audio import load as load_audio
    from asr.data.manifest import Manifest
    from asr.decoding.align import word_times
    from asr.files import whole_file
    from asr.formats import WRITERS
    from asr.hypothesis import Hypothesis
    from asr.transcriber import load

    if threads:
        torch.set_num_threads(threads)
    utterances = Manifest.open(manifest)
    transcriber = load(model, head="ctc", device=device, threads=threads)
    tokenizer = transcriber.tokenizer
    skipped: list[tuple[str, str]] = []
    with whole_file(output) as file:
        for utterance in track(utterances, "aligning"):
            try:
                if not utterance.text:
                    raise InputError("has no text")
                if unknown := tokenizer.unknown(utterance.text):
                    raise InputError(f"cannot be written with the model's tokens: {unknown}")
                outputs = transcriber.outputs([load_audio(utterance, transcriber.sample_rate)])
                log_probs = outputs.log_probs(0)
                assert log_probs is not None, "a CTC head was asked for"
                tokens = tokenizer.encode(utterance.text)
                words = word_times(tokens, tokenizer.pieces, log_probs, transcriber.frame_shift)
            except InputError as error:
                skipped.append((utterance.id, str(error)))
                continue
            hypothesis = Hypothesis(utterance.text, tokens, words=words)
            file.write(WRITERS["ctm"](hypothesis, utterance.id))
    say(f"{len(utterances) - len(skipped)} utterances aligned -> {output}")
    end_with_skipped(skipped, len(utterances))
