"""A page of HTML in one file without network: jinja2 templates, tables, sound, pictures.

Everything that is not Markup is escaped, and the page's policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import soundfile
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from asr.data.audio import audio_info, load
from asr.data.manifest import Utterance
from asr.errors import AudioError
from asr.files import whole_file
from asr.pictures import spectrogram

FOLDER = Path(__file__).parent
MOST = 16000  # Hz, of the sound in a page
LONGEST = 30  # seconds of an utterance that are kept


class Number(NamedTuple):
    """A cell that is sorted by its value."""

    value: float
    text: str


Rows: TypeAlias = list[list[str | Number | None]]


class Table(NamedTuple):
    """Rows under a header, sorted and searched by the reader."""

    title: str
    header: Sequence[str]
    rows: Rows
    note: str = ""


class Sound(NamedTuple):
    """An utterance to listen to, with its spectrogram; or why it cannot be heard."""

    seconds: float = 0.0
    audio: str = ""
    spectrogram: str = ""
    rate: int = 0  # Hz
    error: str | None = None


def count(number: int) -> Number:
    return Number(number, f"{number:,}")


def data_uri(content: bytes, kind: str = "image/svg+xml") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sound_of(utterance: Utterance) -> Sound:
    """FLAC of the first LONGEST seconds."""
    try:
        rate = min(audio_info(utterance).sample_rate, MOST)
        samples = load(utterance, rate)[: LONGEST * rate]
    except AudioError as error:
        return Sound(error=str(error))
    buffer, picture = io.BytesIO(), data_uri(spectrogram(samples, rate), "image/png")
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    return Sound(len(samples) / rate, data_uri(buffer.getvalue(), "audio/flac"), picture, rate)


def write_page(path: Path, template: str, **context: Any) -> None:
    """Fill a template of this folder. Raises InputError where `path` cannot be written."""
    options: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined}
    options |= {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(FOLDER), **options)
    script, style = (Markup((FOLDER / f"page.{kind}").read_text("utf-8")) for kind in ("js", "css"))
    context |= {"script": script, "style": style, "version": version("asr")}
    context["script_hash"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    context["made"] = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    page = environment.get_template(template).render(context)
    with whole_file(path) as file:
        file.write(page)
