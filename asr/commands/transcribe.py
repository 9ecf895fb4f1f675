"""`asr transcribe`: audio files to text, subtitles or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from asr.commands.options import (
    FILE,
    SearchArguments,
    machine_options,
    open_transcriber,
    search_options,
)
from asr.console import end_with_skipped, say, track
from asr.errors import AudioError, InputError, nearest


@click.command()
@click.argument("model", type=FILE)
@click.argument("files", type=FILE, nargs=-1, required=True)
@click.option(
    "-f",
    "--format",
    "formats",
    default="txt",
    show_default=True,
    help="One or more of txt,json,srt,vtt,ctm,trn,kaldi.",
)
@click.option("-o", "--output", type=FILE, help="Folder for the files; without it txt is printed.")
@search_options
@machine_options
def command(
    model: Path,
    files: tuple[Path, ...],
    formats: str,
    output: Path | None,
    device: str,
    threads: int | None,
    **arguments: Unpack[SearchArguments],
) -> None:
    """Transcribe FILES (up to half a minute each) with a model or experiment folder MODEL.

    With -o, each file x.wav gives x.txt, x.srt, ... in that folder. A file that cannot be read is
    skipped and listed, and the exit status is 3.

    \b
    Examples:
      asr transcribe exp/ctc talk.wav
      asr transcribe exp/ctc *.flac -f txt,srt,json -o out/ --lm word.lm --weights WEIGHTS.json
    """
    from asr.files import whole_file
    from asr.formats import WRITERS

    names = [name.strip().lstrip(".") for name in formats.split(",")]
    for name in names:
        if name not in WRITERS:
            raise InputError(f"no format '{name}'", "--format", nearest(name, WRITERS))
    if output is None and len(names) > 1:
        raise InputError("several formats need a folder", "--format", "Give it by -o FOLDER.")
    targets = target_files(files, output, names)
    transcriber = open_transcriber(model, device, threads, 1, arguments)
    skipped: list[tuple[str, str]] = []
    for file in track(files, "transcribing"):
        try:
            hypothesis = transcriber.transcribe(file)
        except AudioError as error:
            skipped.append((str(file), str(error).removeprefix(f"{file}: ")))
            continue
        for name in names:
            content = WRITERS[name](hypothesis, file.stem)
            if output is None:
                click.echo(f"{file}\t{hypothesis.text}" if name == "txt" else content)
            else:
                with whole_file(targets[file, name]) as stream:
                    stream.write(content)
    if len(skipped) == len(files):
        what = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise InputError(f"none of the files can be used: {what}")
    if output is not None:
        say(f"{len(files) - len(skipped)} files transcribed into {output}")
    end_with_skipped(skipped, len(files), "files")


def target_files(
    files: tuple[Path, ...], output: Path | None, names: list[str]
) -> dict[tuple[Path, str], Path]:
    """Where each file's outputs go; InputError where two would get the same name."""
    from asr.files import cannot_write

    if output is None:
        return {}
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(output, error) from error
    targets: dict[tuple[Path, str], Path] = {}
    taken: dict[str, Path] = {}
    for file in files:
        if taken.setdefault(file.stem, file) != file:
            raise InputError(
                f"would be written over the outputs of {taken[file.stem]}",
                file,
                "Transcribe files of the same name into different folders.",
            )
        for name in names:
            targets[file, name] = output / f"{file.stem}.{name}"
    return targets
