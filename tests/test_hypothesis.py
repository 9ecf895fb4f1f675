"""The n-best file: what is written is read again, and broken files are named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asr.errors import InputError
from asr.hypothesis import Hypothesis, NBest, Weights, Word, read_nbest, write_nbest

META = {"weights": {"ctc": 1.0}, "length": "words"}
LISTS = [
    NBest(
        "a-1",
        [
            Hypothesis(
                "grüß gott",
                [5, 6, 7],
                {"ctc": -1.5, "lm": {"word": -7.25}, "length": 2, "total": -3.0},
                [Word("grüß", 0.1, 0.5), Word("gott", 0.5, 0.9, 0.75)],
            ),
            Hypothesis("gott", [7], {"ctc": -2.5, "lm": {"word": -3.0}, "length": 1}),
        ],
    ),
    NBest("b-2", [], "audio is empty"),
    NBest("c-3", [Hypothesis("")]),
]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_nbest(tmp_path / "n.jsonl", META, LISTS)
    meta, utterances = read_nbest(tmp_path / "n.jsonl")
    assert meta == META
    assert list(utterances) == LISTS
    assert [path.name for path in tmp_path.iterdir()] == ["n.jsonl"]


def test_total_is_the_weighted_sum() -> None:
    hypothesis = Hypothesis(
        "x y",
        [2, 3],
        {"ctc": -2.0, "att": -3.0, "lm": {"a": -5.0, "b": -7.0}, "length": 2, "unknown": 4},
    )
    weights = Weights(ctc=0.3, att=0.7, lm={"a": 0.5, "b": 0.1}, bonus=1.5, unk=-0.2)
    assert hypothesis.rate(weights) == pytest.approx(-0.6 - 2.1 - 2.5 - 0.7 + 3.0 - 0.8)
    assert Hypothesis("x", [2], {"ctc": -2.0}).rate(weights) == pytest.approx(-0.6)


def test_nothing_is_left_where_writing_stops(tmp_path: Path) -> None:
    (tmp_path / "n.jsonl").write_text("old")

    def failing() -> Iterator[NBest]:
        yield LISTS[0]
        raise InputError("decoding stopped")

    with pytest.raises(InputError, match="decoding stopped"):
        write_nbest(tmp_path / "n.jsonl", META, failing())
    assert (tmp_path / "n.jsonl").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="cannot be written"):
        write_nbest(tmp_path / "n.jsonl" / "n.jsonl", META, [])


@pytest.mark.parametrize("first", ["", "hello\n", "[1]\n", '{"id": "a"}\n', '{"meta": 3}\n'])
def test_other_files_are_not_nbest_files(tmp_path: Path, first: str) -> None:
    (tmp_path / "x").write_text(first)
    with pytest.raises(InputError, match="not an n-best file"):
        read_nbest(tmp_path / "x")
    with pytest.raises(InputError, match="cannot be read"):
        read_nbest(tmp_path / "missing")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", 5),
        ("weights", {"ctc": "x"}),
        ("weights", {"lm": {"word": None}}),
        ("lms", {"word": 5}),
        ("audio_seconds", "x"),
        ("tuned_on", "x"),
        ("manifest", "x"),
        ("confidence", {"temperature": "x"}),
        ("length", 5),
        ("tokens", 5),
        ("normalizer", 5),
    ],
)
def test_wrong_types_in_the_meta_record_are_named(tmp_path: Path, key: str, value: Any) -> None:
    write_nbest(tmp_path / "n.jsonl", {**META, key: value}, LISTS)
    with pytest.raises(InputError, match=rf"n\.jsonl:1: broken meta record: .*'{key}'.* is "):
        read_nbest(tmp_path / "n.jsonl")


def test_an_lm_may_be_called_lm(tmp_path: Path) -> None:
    lists = [NBest("a", [Hypothesis("x", [2], {"ctc": -1, "lm": {"lm": -5.0}})])]
    write_nbest(tmp_path / "n.jsonl", {"weights": {"lm": {"lm": 0.5}}, "tuned_on": None}, lists)
    assert list(read_nbest(tmp_path / "n.jsonl")[1]) == lists


@pytest.mark.parametrize(
    "line",
    [
        *(b"{", b'{"id": "a"}', b"[]", b'{"id": "a", "nbest": [{}]}', b'{"id": "\xff"}', b"7"),
        *(b'{"id": 5, "nbest": []}', b'{"id": "a", "nbest": 5}', b'{"id": "a", "nbest": [5]}'),
        b'{"id": "a", "nbest": [{"text": 5}]}',
        b'{"id": "a", "nbest": [{"text": "", "tokens": ["x"]}]}',
        b'{"id": "a", "nbest": [{"text": "", "scores": {"ctc": null}}]}',
        b'{"id": "a", "nbest": [{"text": "", "scores": {"lm": {"word": "x"}}}]}',
        b'{"id": "a", "nbest": [{"text": "", "scores": {"lm": "x"}}]}',
        b'{"id": "a", "nbest": [{"text": "", "words": [{"word": "x", "start": "x", "end": 1}]}]}',
    ],
)
def test_broken_line_is_named_with_its_number(tmp_path: Path, line: bytes) -> None:
    good = json.dumps({"id": "a", "nbest": []}).encode()
    path = tmp_path / "n.jsonl"
    path.write_bytes(b'{"meta": {}}\n' + good + b"\n" + line + b"\n")
    _, utterances = read_nbest(path)
    assert next(utterances).id == "a"
    with pytest.raises(InputError, match=r"n\.jsonl:3: broken line"):
        next(utterances)
