"""Text to an n-gram language model by KenLM's `lmplz` (modified Kneser-Ney smoothing).

K. Heafield et al., "Scalable Modified Kneser-Ney Language Model Estimation", ACL 2013.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from asr.errors import InputError
from asr.files import cannot_read, cannot_write, made_folder, whole_file
from asr.lm.ngram import RESERVED, UNITS, NGram
from asr.text.normalize import Normalizer
from asr.text.tokenizer import UNKNOWN, Tokenizer


@dataclass
class Units:
    """How a text becomes the units of a language model: words, or a tokenizer's pieces."""

    normalizer: Normalizer
    tokenizer: Tokenizer | None = None

    def __call__(self, text: str, where: object) -> list[str]:
        """The units; an unknown piece is <unk>. InputError for reserved words in the text."""
        for word in text.split():
            if word in (*RESERVED, "<UNK>"):
                remedy = "Take it out: the sentence's ends are added by themselves, one line each."
                raise InputError(f"the text has the reserved word {word}", where, remedy)
        if self.tokenizer is None:
            return self.normalizer(text).split()
        return [self.tokenizer.pieces[i] for i in self.tokenizer.encode(text)]


@dataclass
class Training:
    """What `train` made, and what the user should know about it."""

    model: NGram
    arpa: Path
    lines: int
    left_out: list[tuple[str, list[str]]]  # lines with characters that the tokenizer lacks: these
    fallback: bool  # the text was too small for Kneser-Ney's discounts


def train(
    texts: Iterable[tuple[str, str]],
    out: Path,
    order: int,
    units: Units,
    prune: str | None = None,
    vocabulary: Path | None = None,
    memory: str = "1G",
) -> Training:
    """Train on (where, text) lines; writes `out` and beside it `out`.arpa.gz (of x.lm: x.arpa.gz).

    prune: lmplz's thresholds, e.g. "0 0 1". vocabulary: a file of words (of pieces with a
    tokenizer); others become <unk>.
    memory: lmplz's sorting memory; beyond it, temporary files beside `out`.
    Raises InputError: reserved words in the text, no text, no lmplz, what lmplz refuses.
    """
    arpa = out.with_name(out.name.removesuffix(".lm") + ".arpa.gz")
    tokenizer = units.tokenizer
    if out.name.endswith((".arpa", ".arpa.gz")):
        raise InputError("the ARPA file is kept beside the model", out, "Give it another suffix.")
    lmplz = find_lmplz()
    with _work_folder(out) as work:
        lines, left_out = _write_text(work / "text", texts, units)
        command = [lmplz, "-o", str(order), "-S", memory, "-T", f"{work}/"]
        command += ["--text", f"{work}/text", "--arpa", f"{work}/lm.arpa"]
        if prune:
            command += ["--prune", *prune.split()]
        if vocabulary:
            try:
                text = vocabulary.read_text("utf-8-sig")
                words = (text if tokenizer else units.normalizer(text)).split()
            except (OSError, UnicodeDecodeError) as error:
                raise cannot_read(vocabulary, error) from error
            (work / "words").write_text(" ".join(words), "utf-8")
            command += ["--limit_vocab_file", f"{work}/words"]
        fallback = _run(command)
        unit, hash = UNITS[tokenizer is not None], tokenizer.hash if tokenizer else None
        model = NGram.from_arpa(work / "lm.arpa", unit, units.normalizer, hash)
        with whole_file(arpa, "wb") as file:  # both files or none
            target = gzip.GzipFile("", "wb", 3, file, mtime=0)
            with open(work / "lm.arpa", "rb") as source, target:
                shutil.copyfileobj(source, target, 1 << 20)
            model.save(out)
    return Training(NGram.open(out), arpa, lines, left_out, fallback)


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is gone afterwards; a full or read-only disk is an InputError."""
    try:
        with made_folder(out.parent), TemporaryDirectory("", f".{out.name}.", out.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise cannot_write(out, error) from error


def find_lmplz() -> str:
    """$LMPLZ, else beside this Python, else on the PATH."""
    beside = Path(sys.executable).with_name("lmplz")
    for candidate in (os.environ.get("LMPLZ", ""), str(beside), "lmplz"):
        if found := shutil.which(candidate):
            return found
    remedy = "tools/build_lmplz.sh builds it, or set LMPLZ."
    raise InputError("KenLM's lmplz is not there", None, remedy)


def _write_text(
    path: Path, texts: Iterable[tuple[str, str]], units: Units
) -> tuple[int, list[tuple[str, list[str]]]]:
    """Write the units line by line: (lines written, where lines were left out, and for what)."""
    lines, left_out = 0, []
    with open(path, "w", encoding="utf-8") as file:
        for where, text in texts:
            cut = units(text, where)
            if units.tokenizer and units.tokenizer.pieces[UNKNOWN] in cut:
                left_out.append((where, units.tokenizer.unknown(text)))
            elif cut:
                file.write(" ".join(cut) + "\n")
                lines += 1
    if lines == 0:
        what = "there is no text to train a language model on"
        raise InputError(what, "lm train", "Give text that is not empty once it is normalised.")
    return lines, left_out


def _run(command: Sequence[str]) -> bool:
    """Run lmplz; on text too small for its discounts again with fixed ones, then True. Raises
    OSError where the disk is full, InputError for anything else that lmplz says."""
    for more in ([], ["--discount_fallback"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, errors="replace")
        if done.returncode == 0:
            return bool(more)
        if "discount_fallback" not in done.stderr:
            break
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reason = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1].rstrip(".")
    raise InputError(f"lmplz failed: {reason}", "lm train", "Change --order, --prune or --memory.")
