"""Bad input, command by command: one message (what, where, how to mend it), nothing half-written.

Commands run in this process; that a message becomes exit status 2 and one line is shown by a few
in processes of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import click
import numpy as np
import pytest
import soundfile
import torch
import yaml

from asr.cli import cli
from asr.decoding.weights import save_weights
from asr.errors import InputError
from asr.hypothesis import Hypothesis, NBest, Weights, read_nbest, write_nbest
from asr.lm.ngram import NGram
from asr.models.encoder import EncoderOptions
from asr.models.frontend import FrontendOptions
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.text.normalize import get_normalizer
from asr.text.tokenizer import Tokenizer

Run = Callable[..., "CompletedProcess[str]"]
TEXTS = ["one two", "two", "one one two", "two one"]
GOOD = [{"id": f"u{i}", "audio": "good.wav", "text": text} for i, text in enumerate(TEXTS)]
# name of the manifest: (its lines after two good ones, what is said)
BROKEN_MANIFESTS = {
    "line": ('{"id": "x", audio', r':3: not valid JSON .*: \{"id": "x", audio\. Mend'),
    "key": ('{"id": "x", "text": "one"}', r":3: no key 'audio': \{.*\}\. Mend"),
    "twice": (json.dumps(GOOD[0]), r":3: duplicate id 'u0' \(first in line 1\)\. Give every"),
    "negative": (
        '{"id": "x", "audio": "good.wav", "duration": -1}',
        r":3: 'duration' is negative: -1: \{.*\}\. Mend",
    ),
}
BAD_AUDIO = {
    "missing": r"cannot be opened \(No such file or directory\)\. Correct the path",
    "empty": r"empty file\. Remove",
    "truncated": r"truncated: breaks off at 0\.50 s\. Copy or convert",
    "text": r"not audio that soundfile .*(convert|Install)",
    "nan": r"has samples that are not numbers \(NaN or infinite\)\. Copy or convert",
}
ARPA = """\\data\\
ngram 1=5

\\1-grams:
-2 <unk>
-99 <s>
-1 </s>
-0.5 {}
-0.7 {}

\\end\\
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of characters with a CTC head, recordings, manifests, an n-best file, ARPA files."""
    folder = tmp_path_factory.mktemp("bad")
    torch.manual_seed(1)
    tokenizer = Tokenizer.train("char", TEXTS)
    options = RecognizerOptions(
        sample_rate=8000,
        frontend=FrontendOptions(channels=12),
        encoder=EncoderOptions(layers=1, size=8),
    )
    Recognizer(options, tokenizer.size).save(folder / "model")
    tokenizer.save(folder / "model")
    noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(folder / "good.wav", noise, 8000)
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    content = (folder / "good.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(content[: 44 + 8000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is no audio")
    bad = [{"id": name, "audio": f"{name}.wav", "text": "one"} for name in BAD_AUDIO]
    manifests: dict[str, list[Any]] = {"good": GOOD, "mixed": [*GOOD, *bad], "bad": bad}
    for name, (line, _) in BROKEN_MANIFESTS.items():
        manifests[name] = [*GOOD[:2], line]
    for name, lines in manifests.items():
        rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    for train, dev in product(manifests, repeat=2):
        config = {
            "data": {"train": [f"{train}.jsonl"], "dev": [f"{dev}.jsonl"], "workers": 0},
            "model": {"sample_rate": 8000, "encoder": {"layers": 1, "size": 8}},
            "train": {"epochs": 1, "threads": 1},
        }
        (folder / f"{train}-{dev}.yaml").write_text(yaml.safe_dump(config))
    meta = {"weights": {"ctc": 1.0}, "tokens": tokenizer.pieces, "length": "words"}
    meta["normalizer"] = tokenizer.normalizer.to_dict()
    hypothesis = Hypothesis("one two", tokenizer.encode("one two"), {"ctc": -1.0, "total": -1.0})
    write_nbest(folder / "list.jsonl", meta, (NBest(row["id"], [hypothesis]) for row in GOOD))
    (folder / "word.arpa").write_text(ARPA.format("one", "two"))
    (folder / "token.arpa").write_text(ARPA.format("o", "|").replace("=5", "=9").replace(
        "\n\n\\end", "\n-1 n\n-1 e\n-1 t\n-1 w\n\n\\end"))  # fmt: skip
    (folder / "cut.arpa").write_text((folder / "word.arpa").read_text()[:70])
    NGram.from_arpa(folder / "word.arpa", "word", get_normalizer("none")).save(folder / "none.lm")
    NGram.from_arpa(folder / "word.arpa", "word", tokenizer.normalizer).save(folder / "word.lm")
    return folder


@pytest.fixture
def said(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """said("decode model good.jsonl -o OUT/x"): the message of a command that a mistake ends;
    OUT is a folder that must stay empty."""
    monkeypatch.chdir(place)

    def run(command: str) -> str:
        with pytest.raises(InputError) as caught:
            cli.main(command.replace("OUT", str(tmp_path)).split(), standalone_mode=False)
        assert not list(tmp_path.rglob("*"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


def assert_matches(text: str, pattern: str) -> None:
    assert re.search(pattern, text), text


def status(command: Sequence[object]) -> int:
    """Exit status of a command that works, in this process."""
    try:
        cli.main([str(part) for part in command], standalone_mode=False)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


READERS = [
    "check {0}.jsonl",
    "tokenizer {0}.jsonl -o OUT/t.json",
    "lm train {0}.jsonl -o OUT/x.lm",
    "lm score word.lm {0}.jsonl",
    "train {0}-good.yaml -o OUT/exp",
    "train good-{0}.yaml -o OUT/exp",
    "decode model {0}.jsonl -o OUT/x.jsonl --save-outputs OUT/x.npz",
    "align model {0}.jsonl -o OUT/x.ctm",
    "score {0}.jsonl good.jsonl --json OUT/x.json",
    "score good.jsonl {0}.jsonl --json OUT/x.json",
    "rescore list.jsonl --lm word.lm --ref {0}.jsonl -o OUT/x.jsonl",
    "tune list.jsonl --lm word.lm --ref {0}.jsonl -o OUT/x.json",
]


@pytest.mark.parametrize("command", READERS)
def test_broken_manifests(command: str, said: Callable[[str], str]) -> None:
    for name, (_, message) in BROKEN_MANIFESTS.items():
        assert_matches(said(command.format(name)), rf"{name}\.jsonl{message}")


def test_files_of_another_kind(said: Callable[[str], str]) -> None:
    train = "train good-good.yaml -o OUT/exp --set data.dev=[{0}.jsonl]"
    for command in (READERS[0], *READERS[6:8], READERS[-1], train):
        assert_matches(said(command.format("list")), r"list\.jsonl: is an n-best file, not a man")
        given = command.format("model").replace("model.jsonl", "model")
        assert_matches(said(given), "model: is a folder, not a manifest")


@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("check PLACE/mixed.jsonl", 9),
        ("decode PLACE/model PLACE/mixed.jsonl -o OUT/x.jsonl --beam 1", 9),
        ("align PLACE/model PLACE/mixed.jsonl -o OUT/x.ctm", 9),
        ("train PLACE/mixed-mixed.yaml -o OUT/exp", 18),
    ],
)
def test_bad_audio_among_good(
    command: str, count: int, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command.replace("OUT", str(tmp_path)).replace("PLACE", str(place))
    assert status(given.split()) == 3
    shown = capsys.readouterr()
    for name, reason in BAD_AUDIO.items():
        assert_matches(shown.out + shown.err, rf"(?m)^  {name}: .*{name}\.wav: {reason}")
    if not given.startswith("check"):
        assert f" of {count} utterances" in shown.err
    if given.startswith("decode"):
        found = list(read_nbest(tmp_path / "x.jsonl")[1])
        assert [one.id for one in found if one.error] == list(BAD_AUDIO)
        assert [one.id for one in found if one.nbest] == [row["id"] for row in GOOD]


def test_transcribing_bad_files(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: Callable[[str], str]
) -> None:
    bad = [f"{name}.wav" for name in BAD_AUDIO]
    for name, reason in BAD_AUDIO.items():
        if name != "truncated":  # the beginning of which is transcribed
            message = said(f"transcribe model {name}.wav")
            assert_matches(message, rf"none .*: {name}\.wav: {reason}")
    assert status(["transcribe", "model", "good.wav", *bad, "-o", tmp_path]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.txt", "truncated.txt"]
    shown = capsys.readouterr().err
    for name, reason in BAD_AUDIO.items():
        assert_matches(shown, rf"(?m)^  {name}\.wav: {reason}")


@pytest.mark.parametrize("command", [READERS[0], *READERS[4:8]])
def test_no_usable_audio_at_all(command: str, said: Callable[[str], str]) -> None:
    assert_matches(said(command.format("bad")), r"bad\.jsonl: no (audio|utterance) can be")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.epoch=3", r"--set train\.epoch=3: unknown .*\. Did you mean 'train\.epochs'\?"),
        ("train.epochs=x", r"--set train\.epochs=x: option 'train\.epochs': .*--options` shows"),
        ("train.epochs=0", r"--set train\.epochs=0: train\.epochs=0 must be above 0"),
        ("train.learning_rate=1e400", r"learning_rate=inf must be above 0 and finite"),
        ("train.epochs", r"--set train\.epochs: is not KEY=VALUE"),
        ("train=3", r"--set train=3: option 'train' is a group of options, not 3"),
        ("data.speed=3", r"'data\.speed': must be a list, like"),
        ("data.speed=[1", r"--set data\.speed=\[1: is not YAML"),
        ("seed=-1", r"seed=-1 must be from 0"),
        ("tokenizer.normalizer=3", r"tokenizer\.normalizer=3 is no name or list"),
        ("model.encoder.dropout=7", r"model\.encoder\.dropout: 7 is impossible\. It must be"),
        ("model.encoder.type=lstm", r"model\.encoder\.type: .*\. Did you mean 'blstm'\?"),
        ("data.train=none.jsonl", r"none\.jsonl: cannot be opened .*\. Give a manifest"),
    ],
)
def test_impossible_changes(change: str, message: str, said: Callable[[str], str]) -> None:
    assert_matches(said(f"train good-good.yaml -o OUT/exp --set {change}"), message)


@pytest.mark.parametrize(
    "command",
    [
        "decode model good.jsonl -o OUT/x.jsonl",
        "transcribe model good.wav -o OUT",
        "rescore list.jsonl -o OUT/x.jsonl",
        "tune list.jsonl --ref good.jsonl -o OUT/x.json",
    ],
)
def test_wrong_language_models(command: str, said: Callable[[str], str]) -> None:
    wrong_unit = r"(is no language model of {0}s|knows 0 of the).*--lm-unit"
    for lm, message in (
        ("cut.arpa --lm-unit word", r"cut\.arpa:\d+: the file is cut off: .*\. Make or copy"),
        ("none.lm", r"none\.lm has the normaliser 'none', but .* has 'basic'\. Make one of them"),
        ("word.arpa --lm-unit token", wrong_unit.format("token")),
        ("token.arpa --lm-unit word", wrong_unit.format("word")),
        ("word.lm --lm-unit token", r"is a language model of words, not of tokens\. Give one"),
        ("word.lm --lm-unit word --lm-unit token", r"2 units for 1 language models\. Give one"),
    ):
        assert_matches(said(f"{command} --lm {lm}"), message)


@pytest.mark.parametrize("what", ["probability", "word", "header"])
def test_a_byte_of_a_language_model_that_changed(
    what: str, place: Path, said: Callable[[str], str], run_asr: Run
) -> None:
    content = bytearray((place / "word.lm").read_bytes())
    logprob = np.float32(-0.7 * np.log(10)).tobytes()
    changed = {"probability": logprob, "word": b"two", "header": b'"word"'}[what]
    content[content.index(changed) + 1] ^= 1
    file = place / f"changed-{what}.lm"
    file.write_bytes(content)
    message = f"{file.name}: is damaged (wrong checksum). Make it again."
    if what == "header":
        message = f"{file.name}: is damaged or cut off. Make or copy it again."
    else:  # other commands do not take the time to read all of it
        assert NGram.open(file).unit == "word"
    assert said(f"info {file.name}") == message
    done = run_asr("info", file.name, cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
    assert status(["info", "word.lm"]) == 0


@pytest.fixture(scope="module")
def saved(place: Path) -> str:
    """The outputs of a network, `saved.npz` among the others; how they are decoded."""
    pieces = Tokenizer.load(place / "model").pieces
    (place / "tokens.txt").write_text("\n".join(pieces) + "\n")
    uniform = np.log(np.full((5, len(pieces)), 1 / len(pieces), np.float32))
    np.savez(place / "saved.npz", u0=uniform)
    broken = dict.fromkeys(BAD_ARRAYS, uniform)
    broken |= {"text": np.array(["a"]), "complex": uniform.astype(complex), "nan": uniform * np.nan}
    np.savez_compressed(place / "broken.npz", u0=uniform, **broken, u1=uniform)
    content = bytearray((place / "broken.npz").read_bytes())
    name = content.index(b"damaged.npy") + len(b"damaged.npy")
    content[name + 40 : name + 60] = bytes(20)
    (place / "broken.npz").write_bytes(content)
    (place / "empty.npz").write_bytes(b"")
    with open(place / "single.npz", "wb") as file:
        np.save(file, uniform)
    return "decode {}.npz --tokens tokens.txt -o OUT/x.jsonl"


BAD_ARRAYS = {
    "damaged": r"broken\.npz: the array cannot be read \(.*\)\. Write the file again",
    "text": r"broken\.npz: holds no real numbers \(<U1\)\. Give natural logs",
    "complex": r"broken\.npz: holds no real numbers \(complex128\)\. Give natural logs",
    "nan": r"frame 0: the network's outputs hold NaN or infinity\. Train or export",
}


@pytest.mark.parametrize("name", ["empty", "single"])
def test_what_is_no_file_of_outputs(name: str, saved: str, said: Callable[[str], str]) -> None:
    message = rf"{name}\.npz: is not an \.npz file\. numpy\.savez writes them"
    assert_matches(said(saved.format(name)), message)


def test_bad_arrays_among_good(
    saved: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    given = saved.format("broken").replace("OUT", str(tmp_path))
    assert status([*given.split(), "--beam", "1"]) == 3
    shown = capsys.readouterr().err
    assert f"skipped {len(BAD_ARRAYS)} of {len(BAD_ARRAYS) + 2} utterances" in shown
    for name, reason in BAD_ARRAYS.items():
        assert_matches(shown, rf"(?m)^  {name}: {reason}")
    found = list(read_nbest(tmp_path / "x.jsonl")[1])
    assert [one.id for one in found] == ["u0", *BAD_ARRAYS, "u1"]
    assert [one.id for one in found if one.nbest] == ["u0", "u1"]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_impossible_frame_shifts(seconds: str, saved: str, said: Callable[[str], str]) -> None:
    message = said(f"{saved.format('saved')} --frame-shift {seconds}")
    assert_matches(message, r"--frame-shift: is \S+; it must be above 0 and finite\. Give")


@pytest.mark.parametrize("option", ["--device cuda", "--head las", "--head joint"])
def test_saved_outputs_have_neither_device_nor_head(option: str, saved: str) -> None:
    with pytest.raises(click.UsageError, match="leave out --head and --device"):
        status(f"{saved.format('saved')} {option}".split())


@pytest.mark.parametrize("ctc", [0.0, 0.3])
def test_weights_of_attention_beside_saved_outputs(
    ctc: float,
    saved: str,
    tmp_path_factory: pytest.TempPathFactory,
    said: Callable[[str], str],
) -> None:
    file = tmp_path_factory.mktemp("weights") / "W.json"
    save_weights(file, Weights(ctc, 1 - ctc), {})
    message = r"W\.json: has a weight for the score of attention \(att\), .*\. Tune on a list"
    assert_matches(said(f"{saved.format('saved')} --weights {file}"), message)


def test_lm_of_the_wrong_unit_beside_saved_outputs(saved: str, said: Callable[[str], str]) -> None:
    given = saved.format("saved")
    assert_matches(said(f"{given} --lm token.arpa"), "token.arpa: is no language model of words")


@pytest.mark.parametrize("command", ["lm train {} -o OUT/x.lm", "lm score word.lm {}"])
@pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>"])
def test_reserved_words(
    command: str, word: str, tmp_path_factory: pytest.TempPathFactory, said: Callable[[str], str]
) -> None:
    text = tmp_path_factory.mktemp("text") / "t.txt"
    text.write_text(f"one two\ntwo {word} one\n")
    message = rf"t\.txt:2: the text has the reserved word {word}\. Take it out"
    assert_matches(said(command.format(text)), message)


@pytest.mark.parametrize(
    "command",
    [
        "decode {} good.jsonl -o OUT/x.jsonl",
        "transcribe {} good.wav -o OUT",
        "align {} good.jsonl -o OUT/x.ctm",
        "check good.jsonl --model {}",
        "info {}",
    ],
)
def test_model_folders_that_cannot_be_used(
    command: str, place: Path, tmp_path_factory: pytest.TempPathFactory, said: Callable[[str], str]
) -> None:
    names = ("newer", "other", "cut", "none")
    newer, other, cut, none = (tmp_path_factory.mktemp("models") / name for name in names)
    for folder in (newer, other, cut, none):
        shutil.copytree(place / "model", folder)
    config = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps({**config, "format": config["format"] + 1}))
    (cut / "config.json").write_text(json.dumps(config)[:40])
    (none / "config.json").write_text("{}")
    assert_matches(said(command.format(cut)), r"config\.json: is not JSON \(.*\)\. Copy the model")
    assert_matches(said(command.format(none)), r"has no format number: .*\. `asr train` writes")
    Tokenizer.train("char", ["abc"]).save(other)
    assert_matches(said(command.format(newer)), r"config\.json: format 2 is newer.*\. Update asr")
    message = "the tokenizer does not belong to the model: .*\\. Put back the tokenizer"
    assert_matches(said(command.format(other)), message)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("score good.jsonl model/config.json --json OUT/x.json", r"config\.json: holds no trans"),
        ("report list.jsonl -o OUT/report.pdf", r"report\.pdf: is no name of a page.*\.html"),
        ("lm train good.jsonl --unit token -o OUT/x.lm", r"need a tokenizer\. Give the model"),
        ("transcribe model good.wav model/../good.wav -o OUT/new", r"would be written over the"),
        ("train none.yaml -o OUT/exp", r"none\.yaml: cannot be read \(No such file or dir"),
    ],
)
def test_what_a_newcomer_tried(command: str, message: str, said: Callable[[str], str]) -> None:
    assert_matches(said(command), message)


def test_no_id_in_common(
    tmp_path_factory: pytest.TempPathFactory, said: Callable[[str], str]
) -> None:
    trn = tmp_path_factory.mktemp("trn") / "other.trn"
    trn.write_text("one two (zz)\n")
    for given in (f"good.jsonl {trn}", f"{trn} list.jsonl"):
        message = "has no id in common .*'zz'.*\\. Give the hypotheses of the same set"
        assert_matches(said(f"score {given} --json OUT/x.json --trn OUT/trn"), message)


@pytest.mark.parametrize(
    "command",
    [
        "check line.jsonl",
        "tokenizer line.jsonl -o OUT/t.json",
        "lm score cut.arpa good.jsonl --lm-unit word",
        "rescore list.jsonl --lm none.lm -o OUT/x.jsonl",
        "tune list.jsonl --ref line.jsonl -o OUT/x.json",
        "align model line.jsonl -o OUT/x.ctm",
    ],
)
def test_status_and_one_line(command: str, place: Path, tmp_path: Path, run_asr: Run) -> None:
    done = run_asr(*command.replace("OUT", str(tmp_path)).split(), cwd=place)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


FULL = "error: stdout: cannot be written (No space left on device). Make room there"


def test_a_full_disk_is_not_told_as_that_of_stdout_which_is_a_pipe() -> None:
    code = "from asr.cli import written\nwith written(): raise OSError(28, 'No space left')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "a file: cannot be written (No space left). Make room there" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "output", "status", "message"),
    [
        ("score a a", "> /dev/full", 2, FULL),
        ("lm score one.arpa a.txt --lm-unit word", "> /dev/full", 2, FULL),
        ("score a b", "", 2, "error: stdout: latin-1 has no '\\u6587'. Set PYTHONIOENCODING=utf"),
        ("lm score one.arpa a.txt --lm-unit word", "| true", 1, ""),
        ("info none", "> /dev/full", 2, "error: none: is not there."),
    ],
)
def test_output_that_cannot_be_written(
    command: str, output: str, status: int, message: str, unbuffered: str, tmp_path: Path
) -> None:
    for name, text in (("a", "文"), ("b", "字")):
        (tmp_path / name).write_text(f"id {text}\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "one.arpa").write_text(ARPA.format("one", "two"))
    given = {"PYTHONIOENCODING": "latin-1", "PYTHONUNBUFFERED": unbuffered}
    script = f"{sys.executable} -m asr {command} {output}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=os.environ | given, capture_output=True, text=True
    )
    told = [line for line in done.stderr.splitlines() if "normaliser" not in line]
    assert done.returncode == status
    assert len(told) == (message != "")
    assert not told or told[0].startswith(message)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_decoding_is_interrupted(number: int, place: Path, tmp_path: Path) -> None:
    """While the n-best file and the outputs are being written."""
    rows = (
        json.dumps({**GOOD[0], "audio": str(place / "good.wav"), "id": f"v{i}"})
        for i in range(20_000)
    )
    (tmp_path / "many.jsonl").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "asr", "decode", place / "model", tmp_path / "many.jsonl"]
    command += ["-o", out / "x.jsonl", "--save-outputs", out / "x.npz"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(list(out.glob(".*.part"))) < 2:
        assert run.poll() is None, run.stderr and run.stderr.read()
        time.sleep(0.01)
    run.send_signal(number)
    shown = run.communicate()[1]
    assert run.returncode == 130
    assert shown.splitlines()[-1] == "interrupted"
    assert "Traceback" not in shown
    assert not out.exists()


SMALL_DISK = """
mount -t tmpfs -o size=40k tmpfs "$1" || exit 99
for where in "$1" "$2"; do
"$0" -m asr decode model many.jsonl -o "$1/x.jsonl" --save-outputs "$where/x.npz"; echo "status $?"
done
"$0" -m asr decode model many.jsonl -o "$2/x.jsonl" --save-outputs "$1/x.npz"; echo "status $?"
"$0" -m asr lm train text.txt -o "$1/x.lm"; echo "status $?"
find "$1" "$2" -type f
"""


def test_full_disk(
    place: Path, tmp_path: Path, need_tool: Callable[[str], str], namespace: list[str]
) -> None:
    """A tmpfs of 40 kB, for all or for one of the files that a command writes."""
    need_tool("lmplz")
    rows = (json.dumps({**GOOD[0], "id": f"v{i}"}) for i in range(300))
    (place / "many.jsonl").write_text("\n".join(rows) + "\n")
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefgh"), 5)) for _ in range(2000)]
    (place / "text.txt").write_text("\n".join(" ".join(draw.choice(words, 8)) for _ in range(2000)))
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    done = subprocess.run(
        [*namespace, "sh", "-c", SMALL_DISK, sys.executable, str(small), str(large)],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["status 2"] * 4, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    room = r"cannot be written \(No space left on device\)\. Make room there, or choose another"
    for line, name in zip(
        errors, (r"x\.(jsonl|npz)", r"x\.jsonl", r"x\.npz", r"x\.lm"), strict=True
    ):
        assert_matches(line, rf"{small}/{name}: {room}")
    assert "Traceback" not in done.stderr
