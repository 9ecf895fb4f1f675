"""What commands say while they work."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from asr.console import compiling, progress, say


def test_compiling_is_said_only_where_it_takes_time(capsys: pytest.CaptureFixture[str]) -> None:
    with compiling(seconds=60):
        pass
    with pytest.raises(KeyError), compiling(seconds=0.05):
        raise KeyError
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
    with compiling(seconds=0.01):
        time.sleep(0.3)
    assert capsys.readouterr().err.startswith("preparing the search (its first use compiles it")


def test_progress_keeps_its_numbers_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (80, 120):
        shown = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        monkeypatch.setattr("asr.console.stderr", shown)
        with progress() as bar:
            note = "loss 114.19, 102 s audio/s, 0% waiting for data"
            bar.advance(bar.add_task("epoch 6/30", total=6390, note=note), 1680)
        assert isinstance(shown.file, io.StringIO)
        lines = shown.file.getvalue().replace("\r", "\n").splitlines()
        assert any("epoch 6/30" in one and "1680/6390 0:00:0" in one for one in lines)
        assert any("ETA -:--:-- loss 114.19, 102 s audio/s," in one for one in lines)


def test_names_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("novels.txt:100: x", "a/x:smile:1:100:.wav", "[bold]x[/bold].wav"):
        say(name)
        assert capsys.readouterr().err == f"{name}\n"
