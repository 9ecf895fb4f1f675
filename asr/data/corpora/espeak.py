"""Sentences from a grammar, spoken by eSpeak NG in many voices: a corpus that needs no download.

The grammar file has lines `name: choice | choice`; `<name>` in a choice stands for one of that
name's choices, `#` begins a comment, an indented line continues the one above. eSpeak NG comes as
the pip wheel `espeakng-loader` (library and voices) and is called in this process.
"""

from __future__ import annotations

import ctypes
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from asr.data.corpora.common import read_lines, write_flac
from asr.errors import InputError

Samples = NDArray[np.float32]

# Variants of eSpeak NG that sound like people; whispering and robots are left out.
_NAMES = (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario "
    "Michael Mike Nguyen Reed adam anika antonio aunty belinda benjamin boris caleb david ed "
    "edward edward2 f1 f2 f3 f4 f5 grandma grandpa gustave ian iven iven2 iven3 iven4 john "
    "kaukovalta klatt klatt2 klatt3 klatt4 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel "
    "miguel mike2 norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 steph3 "
    "travis victor zac"
)
VARIANTS = _NAMES.split()
PITCHES = (35, 50, 65)  # eSpeak's scale 0-100
RATES = (140, 160, 180)  # words a minute


class Grammar:
    """Random sentences of a context-free grammar whose start symbol is `sentence`. Raises
    InputError with file and line for a rule that cannot be read or a name without a rule."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rules: dict[str, list[list[str]]] = {}
        lines: dict[int, str] = {}
        for number, line in read_lines(path):
            line = line.split("#")[0].rstrip()
            if line[:1].isspace() and lines:
                lines[max(lines)] += line
            elif line:
                lines[number] = line
        for number, line in lines.items():
            name, _, choices = line.partition(":")
            if not choices.strip():
                raise InputError(f"not a rule: {line!r}", f"{path}:{number}", "Write `name: a | b`")
            self.rules[name.strip()] = [choice.split() for choice in choices.split("|")]
        for number, line in lines.items():
            for part in re.findall(r"[^\s|]*[<>][^\s|]*", line.partition(":")[2]):
                name = part[1:-1]
                if not re.fullmatch("<[^<>]+>", part):
                    remedy = "Write <name>, with spaces before and after it"
                    raise InputError(f"not a name: {part}", f"{path}:{number}", remedy)
                if name not in self.rules:
                    what = f"<{name}> has no rule"
                    raise InputError(what, f"{path}:{number}", f"Write a line `{name}: ...`")
        if "sentence" not in self.rules:
            raise InputError("has no rule `sentence`", path, "Sentences begin with it")

    def words(self, draw: random.Random, name: str = "sentence") -> Iterator[str]:
        for part in draw.choice(self.rules[name]):
            yield from self.words(draw, part[1:-1]) if part.startswith("<") else (part,)

    def sentences(self, seed: str) -> Iterator[str]:
        """Different sentences without end; stops when the grammar yields nothing new."""
        draw, misses = random.Random(seed), 0
        seen = {""}
        while misses < 10_000:
            try:
                sentence = " ".join(self.words(draw))
            except RecursionError:
                remedy = "Rules that call themselves need more choices that do not"
                raise InputError("a sentence without end", self.path, remedy) from None
            misses = misses + 1 if sentence in seen else 0
            if not misses:
                seen.add(sentence)
                yield sentence


class Voice(NamedTuple):
    variant: str
    pitch: int
    rate: int


def split_voices(seed: int, dev: int = 6, test: int = 10) -> dict[str, list[str]]:
    """The variants of each set; none is in two sets."""
    order = random.Random(f"voices {seed}").sample(VARIANTS, len(VARIANTS))
    return {"test": order[:test], "dev": order[test : test + dev], "train": order[test + dev :]}


class Espeak:
    """eSpeak NG in this process; `speak` gives samples at `sample_rate` in [-1, 1]. Raises
    InputError when the wheel `espeakng-loader` is not installed."""

    _SYNCHRONOUS, _RATE, _PITCH, _CHARACTERS, _UTF8 = 2, 1, 3, 1, 1

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            remedy = "Run `pip install espeakng-loader`"
            raise InputError("eSpeak NG is not installed", None, remedy) from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        folder = str(Path(espeakng_loader.get_data_path()).parent)
        rate = self._library.espeak_Initialize(self._SYNCHRONOUS, 500, folder.encode(), 0)
        if rate <= 0:
            remedy = "Install the pip package espeakng-loader again"
            raise InputError("eSpeak NG does not start", folder, remedy)
        self.sample_rate = int(rate)
        self._chunks: list[NDArray[np.int16]] = []
        pointer = ctypes.POINTER(ctypes.c_short)
        signature = ctypes.CFUNCTYPE(ctypes.c_int, pointer, ctypes.c_int, ctypes.c_void_p)
        self._callback = signature(self._collect)  # kept: C holds only the address
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _: int) -> int:
        if samples and count:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: Voice) -> Samples:
        name = f"en-us+{voice.variant}".encode()
        if self._library.espeak_SetVoiceByName(name) != 0:
            raise InputError(f"eSpeak NG has no voice {name.decode()!r}")
        self._library.espeak_SetParameter(self._RATE, voice.rate, 0)
        self._library.espeak_SetParameter(self._PITCH, voice.pitch, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else by the clock
        data = text.encode() + b"\0"
        self._chunks.clear()
        self._library.espeak_Synth(data, len(data), 0, self._CHARACTERS, 0, self._UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._chunks).astype(np.float32) / np.float32(32768)


def synthesise(
    grammar: Grammar, counts: dict[str, int], folder: Path, seed: int, sample_rate: int
) -> Iterator[tuple[str, dict[str, object]]]:
    """Speak `counts[split]` sentences a set into `folder/audio`: (split, manifest record) each. A
    little white noise, 30 to 45 dB below the speech, stands in for a room."""
    espeak, voices = Espeak(), split_voices(seed)
    sentences = grammar.sentences(f"sentences {seed}")
    with ThreadPoolExecutor(1) as pool:  # writes one while the next is spoken
        written = pool.submit(lambda: None)
        # the test set first: its sentences do not depend on how many are trained on
        for split in ("test", "dev", "train"):
            draw = random.Random(f"{split} {seed}")
            noise = np.random.default_rng([seed, len(split)])
            for i in range(counts[split]):
                text = next(sentences, None)
                if text is None:
                    what = f"the grammar has fewer than {sum(counts.values())} sentences"
                    remedy = "Ask for fewer with --train, --dev and --test, or add choices to it"
                    raise InputError(what, remedy=remedy)
                variant = voices[split][i % len(voices[split])]
                voice = Voice(variant, draw.choice(PITCHES), draw.choice(RATES))
                samples = soxr.resample(espeak.speak(text, voice), espeak.sample_rate, sample_rate)
                level = float(np.sqrt(np.mean(samples**2))) * 10 ** (-draw.uniform(30, 45) / 20)
                samples = samples + level * noise.standard_normal(len(samples)).astype(np.float32)
                samples *= 0.9 / max(0.9, float(np.abs(samples).max()))
                name = f"{split}-{i:05d}"
                audio, seconds = f"audio/{name}.flac", round(len(samples) / sample_rate, 4)
                written.result()  # raises what went wrong
                written = pool.submit(write_flac, folder / audio, samples, sample_rate)
                record = {"id": name, "audio": audio, "duration": seconds, "text": text}
                record |= {"speaker": variant, "lang": "en"}
                yield split, record | {"pitch": voice.pitch, "rate": voice.rate}
        written.result()


def other_sentences(grammar: Grammar, count: int, seed: int, without: set[str]) -> Iterator[str]:
    """`count` sentences for a language model; none of `without` (the dev and test sets)."""
    sentences = grammar.sentences(f"language model {seed}")
    return islice((sentence for sentence in sentences if sentence not in without), count)
