"""Weights files: a round trip, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr.decoding.weights import load_weights, save_weights
from asr.errors import InputError
from asr.hypothesis import Weights


def test_weights_file(tmp_path: Path) -> None:
    weights = Weights(ctc=0.3, att=0.7, lm={"a": 0.5, "ü": 0.25}, bonus=-1.5, unk=-0.25)
    save_weights(tmp_path / "W.json", weights, {"length": "tokens"})
    found, record = load_weights(tmp_path / "W.json")
    assert (found, record["length"]) == (weights, "tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["W.json"]
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(tmp_path / "missing")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weights": 3}',
        '{"weights": {"ctc": "much"}}',
        '{"weights": {"lm": [1]}}',
        '{"weights": {"ctc": NaN}}',
        '{"weights": {"ctc": 1, "unk": -Infinity}}',
        '{"weights": {"ctc": 1, "unk": 2}}',
        '{"weights": {"ctc": 1}, "tuned_on": "x"}',
        '{"weights": {"ctc": 1}, "lms": {"word": 5}}',
        '{"weights": {"ctc": 1}, "wer": {"tuned": "x"}}',
    ],
)
def test_broken_weights_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "W.json").write_text(content)
    with pytest.raises(InputError, match=r"W\.json"):
        load_weights(tmp_path / "W.json")
