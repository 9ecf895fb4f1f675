"""`asr align`: when each word of known transcripts was said, and how the model attends to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from asr.commands.options import Device, File, Threads, as_command
from asr.console import Skipped, count, end_with_skipped, say, track
from asr.errors import InputError

PICTURES = 10


@as_command
def command(
    model: Path,
    manifest: Path,
    output: Annotated[Path, "The CTM file.", "-o", "--output"],
    pictures: Annotated[File, f"Folder: attention and CTC of the first {PICTURES}."] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Align the transcripts of MANIFEST with a CTC head: word times in seconds, as CTM.

    White space in an id becomes `_`. With --pictures also says how monotonic the attention of a
    speller is, over all utterances.

    Example: asr align exp/las data/manifest.dev.jsonl -o dev.ctm --pictures exp/pictures
    """
    from asr import files, formats, machine
    from asr.data import audio
    from asr.data.manifest import Manifest
    from asr.hypothesis import Hypothesis
    from asr.pictures import attention, draw, monotonic_share
    from asr.transcriber import load

    machine.use_machine(threads)
    utterances = Manifest.open(manifest)
    transcriber = load(model, head="ctc", device=device, threads=threads)
    skipped: Skipped = []
    shares: list[float] = []  # of steps forward, an utterance
    with files.whole_file(output) as file:
        for utterance in track(utterances, "aligning"):
            try:
                tokens = transcriber.spell(utterance.text)
                samples = audio.load(utterance, transcriber.sample_rate)
                words, log_probs = transcriber.align_tokens(samples, tokens)
            except InputError as error:
                skipped.append((utterance.id, str(error)))
                continue
            if pictures:
                alignment = None
                if transcriber.recognizer.has_speller:
                    alignment = attention(transcriber, transcriber.outputs([samples]), tokens)
                if len(shares) < PICTURES:
                    pieces, shift = transcriber.tokenizer.pieces, transcriber.frame_shift
                    shown = utterance.id.replace("/", "_")[:60]  # a file's name, of 255 bytes
                    with files.whole_file(pictures / f"{shown}.png", "wb") as png:
                        png.write(draw(tokens, pieces, shift, alignment, log_probs, "png"))
                shares.append(1.0 if alignment is None else monotonic_share(alignment))
            name = "_".join(utterance.id.split())
            file.write(formats.WRITERS["ctm"](Hypothesis("", tokens, words=words), name))
        if len(skipped) == len(utterances):
            first = ": ".join(skipped[0])
            raise InputError(f"no utterance can be aligned; first: {first}", manifest)
    say(f"{count(len(utterances) - len(skipped), 'utterance')} aligned -> {output}")
    if shares and transcriber.recognizer.has_speller:
        say(f"attention goes forward in {sum(shares) / len(shares):.1%} of the steps")
    end_with_skipped(skipped, len(utterances))
