"""What all commands have in common: what they read is not written over, and nothing twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asr.cli import cli
from asr.errors import InputError

FILES = ("m.jsonl", "list.jsonl", "text.txt", "word.lm", "model")


@pytest.mark.parametrize(
    "command",
    [
        "decode model m.jsonl -o x.jsonl --save-outputs ./x.jsonl",
        "tune list.jsonl --ref m.jsonl -o x.png --plot x.png",
    ],
)
def test_two_outputs_of_one_name_are_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"x\.\w+: would be written twice\. Give each output"):
        cli.main(command.split(), standalone_mode=False)


@pytest.mark.parametrize(
    "command",
    [
        "check m.jsonl --html m.jsonl",
        "tokenizer m.jsonl -o m.jsonl",
        "lm train text.txt m.jsonl -o ./text.txt",
        "decode model m.jsonl -o m.jsonl",
        "decode model m.jsonl -o x.jsonl --lm word.lm --save-outputs word.lm",
        "align model m.jsonl -o link.jsonl",
        "score m.jsonl list.jsonl --json list.jsonl",
        "rescore list.jsonl --lm word.lm -o word.lm",
        "rescore list.jsonl --lm word.lm --ref m.jsonl -o m.jsonl",
        "tune list.jsonl --lm word.lm --ref m.jsonl -o m.jsonl",
        "report model list.jsonl -o list.jsonl",
        "prepare lexicon text.txt -o text.txt",
    ],
)
def test_what_is_read_is_not_written_over(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).write_text(name)
    Path("link.jsonl").symlink_to("m.jsonl")
    with pytest.raises(InputError) as caught:
        cli.main(command.split(), standalone_mode=False)
    message = r": is read by this command, and would be written over\. Give the output another name"
    assert re.search(command.split()[-1].removeprefix("./") + message, str(caught.value))
    assert {name: Path(name).read_text() for name in FILES} == {name: name for name in FILES}
