"""What commands say while they work."""

from __future__ import annotations

import time

import pytest

from asr.console import compiling, say


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


def test_names_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("novels.txt:100: x", "a/x:smile:1:100:.wav", "[bold]x[/bold].wav"):
        say(name)
        assert capsys.readouterr().err == f"{name}\n"
