"""Options that several commands share, and the transcriber that they describe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from asr.console import say

if TYPE_CHECKING:
    from asr.transcriber import Transcriber

Function = TypeVar("Function", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


class SearchArguments(TypedDict):
    """What `search_options` hand to a command."""

    head: str | None
    beam: int | None
    lm: tuple[Path, ...]
    lm_unit: tuple[str, ...]
    lm_weight: tuple[float, ...]
    length_bonus: float
    unk_penalty: float | None
    weights: Path | None
    lexicon: Path | None
    hotwords: Path | None


def options(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Several options as one decorator, shown by --help in the order given."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def lm_unit_option(files: str) -> Callable[[Function], Function]:
    text = f"Unit of {files}: one for all, or one for each --lm."
    kinds = click.Choice(["word", "token"])
    return click.option("--lm-unit", type=kinds, multiple=True, help=text)


search_options = options(
    click.option(
        "--head",
        type=click.Choice(["ctc", "las", "joint"]),
        help="joint: attention guided by CTC. Default: las if there is one; what --weights says.",
    ),
    click.option("--beam", type=int, help="Hypotheses kept; 1 without an LM is greedy. [20]"),
    click.option("--lm", type=FILE, multiple=True, help="LM file or .arpa[.gz]; may be repeated."),
    lm_unit_option("ARPA files [word]"),
    click.option("--lm-weight", type=float, multiple=True, help="One for each --lm. [0.5]"),
    click.option("--length-bonus", default=0.0, help="For each word (token, with token LMs). [0]"),
    click.option("--unk-penalty", type=float, help="For each letter of an unknown word. [-0.5]"),
    click.option("--weights", type=FILE, help="File of `asr tune`, instead of the numbers above."),
    click.option(
        "--lexicon", type=FILE, help="The only words to output: lines `word [[0.7] unit ...]`."
    ),
    click.option("--hotwords", type=FILE, help="Phrases to favour, one a line [TAB bonus, 5]."),
)

scorer_options = options(
    click.option("--lm", type=FILE, multiple=True, help="LM: ours, .arpa[.gz], KenLM; repeatable."),
    lm_unit_option("ARPA and KenLM files"),
    click.option("--name", multiple=True, help="One for each --lm (default: that of its file)."),
)

machine_options = options(
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
    click.option("--threads", type=click.IntRange(min=1), help="Default: all cores."),
)


def open_transcriber(
    model: Path,
    device: str,
    threads: int | None,
    nbest: int,
    arguments: SearchArguments,
    vad: str | None = None,
) -> Transcriber:
    """The transcriber for a model folder and the shared options."""
    from asr.loading import load
    from asr.machine import use_machine

    use_machine(threads)
    transcriber = load(model, nbest=nbest, vad=vad, device=device, threads=threads, **arguments)
    if transcriber.tokenizer.type == "lexicon" and not arguments["lexicon"]:
        say("warning: this model writes pronunciations, not words: give --lexicon")
    return transcriber
