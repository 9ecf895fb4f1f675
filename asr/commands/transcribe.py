"""`asr transcribe`: recordings of any length to text, subtitles and tables."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Unpack

import click

from asr.commands.options import File, Files, SearchArguments, as_command, open_transcriber
from asr.console import Skipped, compiling, count, end_with_skipped, progress, say
from asr.errors import InputError, nearest
from asr.files import cannot_write, whole_file
from asr.formats import SUBTITLES, WRITERS
from asr.hypothesis import Hypothesis

if TYPE_CHECKING:
    from rich.progress import Progress

    from asr.decoding.recording import Event, Journal
    from asr.transcriber import Transcriber

VAD = Literal["silero"] | None
STDIN = Path("-")
MACHINE = {"device", "threads"}  # arguments with which a run may be continued by others
LONGEST_STEM = 255 - len(".kaldi")  # bytes
PARTLY = ". What comes before is transcribed"


@as_command
def command(
    model: Path,
    files: Files,
    formats: Annotated[str, "txt,srt,vtt,json,ctm,trn,tsv,kaldi.", "-f", "--format"] = "txt",
    output: Annotated[File, "Folder; without it all is printed.", "-o", "--output"] = None,
    vad: Annotated[VAD, "Find speech by a network: slower; for loud noise."] = None,
    **arguments: Unpack[SearchArguments],
) -> None:
    """Transcribe FILES of any length with a model or experiment folder MODEL.

    Audio and video of any kind that soundfile or ffmpeg reads; `-` is standard input. With -o,
    each file x.wav gives x.txt, x.srt, ... in that folder (nothing beside the audio itself is
    written over), and after Ctrl-C the same command continues where it was. By torchrun several
    processes share the files.

    Examples:
      asr transcribe exp/ctc lecture.mp4 -f srt,json -o out/ --lm word.lm --weights WEIGHTS.json
      curl -s https://example.org/talk.mp3 | asr transcribe exp/ctc -
    """
    from asr.commands.decode import describe_search
    from asr.decoding.recording import Journal
    from asr.models.folder import model_folder, model_hash
    from asr.training.distributed import joined

    names = [name.strip().lstrip(".") for name in formats.split(",")]
    for name in names:
        if name not in WRITERS:
            raise InputError(f"no format '{name}'", "--format", nearest(name, WRITERS))
    if output is None and len(names) > 1:
        raise InputError("several formats need a folder", "--format", "Give it by -o FOLDER.")
    files = tuple(dict.fromkeys(files))
    with joined() as group:
        if group.size > 1 and (output is None or STDIN in files):
            raise click.UsageError("several processes need -o FOLDER, and no standard input")
        check_output(files, output)
        check_usable(missing(files), files)
        transcriber = open_transcriber(model, arguments, vad=vad)
        with compiling():
            transcriber.warm_up()
        search = describe_search(transcriber.fusion, transcriber.lms)
        # whatever the files are: the same command with one more of them continues, too
        process = [group.rank, group.size]
        asked = {key: value for key, value in arguments.items() if key not in MACHINE}
        task = [model_hash(model_folder(model)), search, asked, names, process, vad]
        share = files[group.rank :: group.size]
        with standard_input(share) as paths, Journal(output, task, share) as journal:
            skipped = group.union(transcribe(transcriber, paths, names, output, journal))
        check_usable([item for item in skipped if not item[1].endswith(PARTLY)], files)
        if group.leader:
            order = {str(file): number for number, file in enumerate(files)}
            skipped.sort(key=lambda item: order[item[0]])
            end_with_skipped(skipped, len(files), "file")


def missing(files: Sequence[Path]) -> Skipped:
    """The files that are not there, each with the reason: known before a model is loaded."""
    from asr.data.manifest import split_audio

    found: Skipped = []
    for file in files:
        try:
            if file != STDIN:
                os.stat(split_audio(str(file))[0])
        except OSError as error:
            found.append((str(file), f"cannot be opened ({error.strerror}). Correct the path"))
    return found


def check_usable(unusable: Skipped, files: Sequence[Path]) -> None:
    """InputError where there is nothing of any file."""
    if len(unusable) == len(files):
        what = "; ".join(f"{name}: {reason}" for name, reason in unusable[:3])
        raise InputError(f"none of the files can be used: {what}")


def check_output(files: Sequence[Path], output: Path | None) -> None:
    """InputError where the folder cannot be written, or a name is too long or would come twice."""
    if output is None:
        return
    taken: dict[str, Path] = {}
    for file in files:
        if (other := taken.setdefault(stem(file), file)) != file:
            what = f"would be written over the outputs of {other}"
            remedy = "Transcribe files of the same name into different folders."
            raise InputError(what, file, remedy)
        if len(os.fsencode(stem(file))) > LONGEST_STEM:
            raise InputError("its name is too long for its outputs", file, "Rename it.")
    if output.exists() and not output.is_dir():
        raise InputError("is not a folder", output, "-o takes the folder for the files.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise cannot_write(output, error) from error


def stem(file: Path) -> str:
    """What the outputs of a file are named by."""
    return "stdin" if file == STDIN else file.stem


@contextmanager
def standard_input(files: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """Each file given and the one to read: a copy of standard input, since most formats of audio
    cannot be read without going back, and that only once."""
    with tempfile.NamedTemporaryFile(suffix=".audio") as copy:
        if STDIN in files:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
        yield {file: Path(copy.name) if file == STDIN else file for file in files}


def transcribe(
    model: Transcriber, paths: dict[Path, Path], names: list[str], output: File, journal: Journal
) -> Skipped:
    """Transcribe the files that are not done; those that cannot be used, or break off, with why.

    paths: what was given and the file to read.
    """
    made = {name: [output / f"{stem(name)}.{n}" for n in names] for name in paths if output}
    todo = [n for n in paths if not (journal.is_done(n) and all(p.exists() for p in made[n]))]
    keep_others(todo, made)
    places = [journal[name].place for name in todo]
    if len(todo) < len(paths) or any(place.sample for place in places):
        say(f"continuing: {len(paths) - len(todo):,} of {count(len(paths), 'file')} done already")
    skipped: Skipped = []
    with progress(counted=False) as bar:
        begun = [place.sample / model.sample_rate for place in places]
        meter = Meter(bar, [paths[name] for name in todo], begun)
        recordings = map(model.recording, meter.paths, places)
        stopped: Path | None = None  # where Ctrl-C would stop
        try:
            for event in model.decode_recordings(recordings):
                name = todo[event.number]
                stopped = name if event.part else None
                meter.advance(event)
                transcript = journal[name]
                if event.part is None and (event.error is None or transcript.parts):
                    write(transcript.hypothesis(), name, paths[name], names, output)
                if event.error is None:
                    journal.add(name, event.part)
                    continue
                reason = str(event.error).removeprefix(f"{paths[name]}: ")
                skipped.append((str(name), reason + PARTLY * bool(transcript.parts)))
        except KeyboardInterrupt:
            if not meter.audio:
                say("nothing is decoded yet")
            elif output is not None:
                say(f"{meter} are kept: the same command continues")
            elif stopped:
                write(journal[stopped].hypothesis(), stopped, paths[stopped], names, output)
            raise
    if meter.audio or len(skipped) < len(paths):
        done = len(paths) - len(skipped)
        say(f"{done:,} of {count(len(paths), 'file')} transcribed; {meter}")
    return skipped


def keep_others(files: Sequence[Path], made: dict[Path, list[Path]]) -> None:
    """InputError where a file that lies beside its audio would be written over: a transcript made
    by hand, or audio."""
    for file in files:
        for path in made.get(file, ()):
            if path.exists() and path.parent.samefile(file.parent) and file != STDIN:
                what = f"lies beside {file} and would be written over"
                raise InputError(what, path, "Choose another folder with -o, or move it away.")


def write(hypothesis: Hypothesis, file: Path, source: Path, names: list[str], output: File) -> None:
    """Write a file's results into the folder, or print them; `source` is what was read for it."""
    from asr.data.audio import duration

    # A file name may hold bytes that are no text, and white space that ends an id in most formats.
    shown = os.fsencode(file).decode(errors="replace")
    id = "_".join(stem(Path(shown)).split())
    if not hypothesis.text:
        say(f"{shown}: no speech found")
    for name in names:
        if name in SUBTITLES:
            content = SUBTITLES[name](hypothesis, id, duration(source))
        else:
            content = WRITERS[name](hypothesis, id)
        if output:
            with whole_file(output / f"{stem(file)}.{name}") as stream:
                stream.write(content)
        else:
            line = shown.translate({9: r"\t", 10: r"\n", 13: r"\r"})
            one = f"{line}\t{hypothesis.text}\n"
            click.echo(one if name == "txt" else content, nl=False)


class Meter:
    """Progress in files and, where its length is known, in parts of one."""

    def __init__(self, bar: Progress, paths: Sequence[Path], begun: list[float]) -> None:
        from asr.data.audio import duration

        self.bar, self.paths, self.length = bar, paths, cache(duration)
        self.reached = begun  # seconds of each file
        self.audio, self.started = 0.0, time.perf_counter()  # seconds done in this run
        self.task = bar.add_task("transcribing", total=len(paths), note="")

    def advance(self, event: Event) -> None:
        number, part, done = event.number, event.part, 1.0
        if part:
            self.audio += part.end - self.reached[number]
            self.reached[number] = part.end
            length = None if self.bar.disable else self.length(self.paths[number])
            done = min(part.end / length, 1.0) if length else 0.0
        self.bar.update(self.task, completed=number + done, note=str(self))

    def __str__(self) -> str:
        speed = self.audio / (time.perf_counter() - self.started)
        return f"{timedelta(seconds=round(self.audio))} of speech, {speed:.0f} x real time"
