"""Commands made of functions, the options that several share, and the transcriber they describe."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import click

from asr.errors import InputError

if TYPE_CHECKING:
    from asr.transcriber import Transcriber

# parameters that name what is written
OUTPUTS = {"output", "html", "plot", "json_file", "save_outputs"}

File = Path | None
Files = tuple[Path, ...]
Text = str | None
Device = Annotated[str, "cpu, cuda or cuda:N.", {"default": "cpu"}]
Threads = Annotated[int | None, "Default: all cores.", click.IntRange(min=1)]
Normalizer = Annotated[str, "none, basic or english."]
Unit = Literal["word", "token"]
Units = Annotated[tuple[Unit, ...], "Unit of ARPA and KenLM files: one for all or one each."]
ScorerLMs = Annotated[Files, "LM: ours, .arpa[.gz], KenLM; repeatable."]
Names = Annotated[tuple[str, ...], "One for each --lm (default: that of its file)."]
Head = Literal["ctc", "las", "joint"] | None


class SearchArguments(TypedDict):
    head: Annotated[Head, "joint: attention guided by CTC. [what --weights says, else las, ctc]"]
    beam: Annotated[int | None, "Hypotheses kept; 1 without an LM is greedy. [20, or as tuned]"]
    lm: Annotated[Files, "LM file or .arpa[.gz]; may be repeated."]
    lm_unit: Units
    lm_weight: Annotated[tuple[float, ...], "One for each --lm. [0.5]"]
    length_bonus: Annotated[float, "For each word (token, with token LMs).", {"default": 0.0}]
    unk_penalty: Annotated[float | None, "For each letter of an unknown word. [-0.5]"]
    weights: Annotated[File, "File of `asr tune`, instead of the numbers above."]
    lexicon: Annotated[File, "The only words to output: lines `word [[0.7] unit ...]`."]
    hotwords: Annotated[File, "Phrases to favour, one a line [TAB bonus, 5]."]
    device: Device
    threads: Threads


class Command(click.Command):
    """Refuses to write over a file that it reads, or two outputs over each other."""

    in_place = ""  # the parameter whose file may be replaced by what is made of it

    def invoke(self, ctx: click.Context) -> Any:
        given = {key: v if isinstance(v, tuple) else (v,) for key, v in ctx.params.items()}
        files = {k: [p for p in v if isinstance(p, Path) and p.is_file()] for k, v in given.items()}
        read = [path for key in files.keys() - OUTPUTS - {self.in_place} for path in files[key]]
        keep_inputs(read, [path for key in files.keys() & OUTPUTS for path in files[key]])
        written = [p.absolute() for key in given.keys() & OUTPUTS for p in given[key] if p]
        for path in (path for path in written if written.count(path) > 1):
            raise InputError("would be written twice", path, "Give each output its own name.")
        return super().invoke(ctx)


def keep_inputs(read: Sequence[Path], written: Iterable[Path]) -> None:
    """Raises InputError where one of the files `read` would be written over."""
    for path in written:
        if path.is_file() and any(path.samefile(other) for other in read):
            what = "is read by this command, and would be written over"
            raise InputError(what, path, "Give the output another name.")


def as_command(function: Callable[..., None]) -> Command:
    """A command whose parameters are those of a function: an option where the type is annotated
    (help, names beside its own, a click type, a dictionary of more for click), else an argument."""
    text = (function.__doc__ or "").replace("    Example", "    \b\n    Example")  # not wrapped
    text = text.replace("Example: ", "Example:\n      ")
    name, parameters = function.__name__, [*_parameters(function)]
    return Command(name, callback=function, params=parameters, help=text)


def _parameters(function: Callable[..., None]) -> Iterator[click.Parameter]:
    hints = typing.get_type_hints(function, include_extras=True)
    for name, one in inspect.signature(function).parameters.items():
        if one.kind is one.VAR_KEYWORD:  # Unpack[a TypedDict]
            shared = typing.get_type_hints(typing.get_args(hints[name])[0], include_extras=True)
            yield from (_parameter(key, hint, None) for key, hint in shared.items())
        else:
            yield _parameter(name, hints[name], one.default)


def _parameter(name: str, hint: Any, default: Any) -> click.Parameter:
    kind, *notes = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    several, required = typing.get_origin(kind) is tuple, default is inspect.Parameter.empty
    if typing.get_origin(kind) in (tuple, typing.Union, UnionType):
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        kind = click.Choice(typing.get_args(kind))
    kind = click.Path(path_type=Path) if kind is Path else kind
    more: dict[str, Any] = {"type": kind, "required": required}
    if not notes:
        return click.Argument([name], nargs=-1 if several else 1, **more)
    if not (required or default is None or default is False or default == ()):
        more["default"] = default
    more |= {"is_flag": True} if kind is bool else {"multiple": several}
    text, *names = [note for note in notes if isinstance(note, str)]
    if not any(each.startswith("--") for each in names):
        names.append("--" + name.replace("_", "-"))
    for note in notes:
        if not isinstance(note, str):
            more |= note if isinstance(note, dict) else {"type": note}
    return click.Option([name, *names], help=text, show_default=True, **more)


def open_transcriber(
    model: Path, arguments: SearchArguments, nbest: int = 1, vad: str | None = None
) -> Transcriber:
    """The transcriber for a model folder and the shared options."""
    from asr import console, machine
    from asr.transcriber import load

    machine.use_machine(arguments["threads"])
    transcriber = load(model, nbest=nbest, vad=vad, **arguments)
    if transcriber.tokenizer.type == "lexicon" and not arguments["lexicon"]:
        console.say("warning: this model writes pronunciations, not words: give --lexicon")
    return transcriber
