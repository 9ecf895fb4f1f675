"""Every example is run: shell and Python blocks of README.md and docs/, and those of docstrings.

All pages share one folder of toy recordings, and what README.md makes of them. Commands of `asr`
run in this process; training is made short by options. Of ```bash blocks (several machines) and of
the examples in --help only the options are checked, ```yaml blocks are read as configurations.
"""

from __future__ import annotations

import contextlib
import doctest
import glob
import gzip
import importlib
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile

import asr
from asr.cli import cli
from asr.config import load_experiment
from asr.decoding.rescore import MOST_UNKNOWN

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("tools/", "source ", "./recipes/", "./tools/", "pip ", "cd ", "torchrun ")
SMALL = {
    "model.encoder.size": 16,
    "model.encoder.layers": 2,
    "model.frontend.channels": 16,
    "model.speller.size": 16,
    "train.epochs": 1,
    "train.average": 1,
    "data.workers": 0,
}
TEXTS = ["one two", "two three", "what was said", "it is three"]
ARPA = """\\data\\
ngram 1=6

\\1-grams:
-2 <unk>
-99 <s>
-1 </s>
-0.5 one
-0.7 two
-0.9 three

\\end\\
"""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, need_tool: Callable[[str], str]
) -> Iterator[Path]:
    """The folder in which all examples run: recordings of noise with texts, the files that examples
    name but do not make, and those that README.md makes."""
    need_tool("lmplz")
    folder = tmp_path_factory.mktemp("examples")
    draw = np.random.default_rng(0)
    for speaker in range(6):
        for number, text in enumerate(TEXTS):
            name = folder / "recordings" / f"s{speaker}" / f"{number}.wav"
            name.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(name, 0.1 * draw.standard_normal(14_000), 16_000)
            name.with_suffix(".txt").write_text(text + "\n")
    shutil.copytree(folder / "recordings" / "s0", folder / "new" / "s0")
    for name in ("talk.wav", "lecture.wav"):
        soundfile.write(folder / name, 0.1 * draw.standard_normal(40_000), 16_000)
    (folder / "talk.m4a").symlink_to("talk.wav")
    (folder / "novels.txt").write_text("\n".join(TEXTS * 5) + "\n")
    (folder / "hot.txt").write_text("three one\n")
    (folder / "words.txt").write_text("one\ntwo\nthree\n")
    letters = sorted({*"".join(TEXTS)} - {" "})
    (folder / "tokens.txt").write_text("\n".join(["<blank>", "|", *letters]) + "\n")
    with gzip.open(folder / "words.arpa.gz", "wt") as file:
        file.write(ARPA)
    outputs = np.log(draw.dirichlet(np.ones(len(letters) + 2), 50))
    np.savez(folder / "outputs.npz", u0=outputs.astype(np.float32))
    with contextlib.chdir(folder):
        run_shell(PAGES[0])
        yield folder


def run_command(line: str) -> None:
    """A line of a shell block: `asr ... [> FILE]` in this process, the rest by the shell."""
    if line.startswith(ELSEWHERE) or not line.strip() or line.startswith("#"):
        return
    words = shlex.split(line, comments=True)
    if words[0] != "asr":
        subprocess.run(["bash", "-ec", line], check=True)
        return
    words, target = (words[:-2], words[-1]) if ">" in words else (words, None)
    arguments = [name for word in words[1:] for name in (sorted(glob.glob(word)) or [word])]
    if arguments[0] == "train" and "--options" not in arguments:
        arguments += [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        status = cli.main(arguments, standalone_mode=False)
    assert not status, f"{line}: exit status {status}"
    if target:
        Path(target).write_text(shown.getvalue(), encoding="utf-8")


def statements(block: str) -> Iterator[str]:
    """Lines of a shell block; a here-document and a line that goes on are one."""
    lines = iter(block.replace("\\\n", " ").splitlines())
    for line in lines:
        if marker := re.search(r"<<'(\w+)'", line):
            for more in lines:
                line += "\n" + more
                if more == marker[1]:
                    break
        yield line


def run_shell(page: Path) -> None:
    for block in blocks(page, "sh"):
        for line in statements(block):
            run_command(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST_UNKNOWN, "word", 1.0)  # a model of one epoch on noise knows no words
    if page != PAGES[0]:
        run_shell(page)
    log_probs = np.load(place / "outputs.npz")["u0"]
    for block in blocks(page, "python"):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(block, {"log_probs": log_probs})
    for number, block in enumerate(blocks(page, "yaml")):
        file = place / f"{page.stem}-{number}.yaml"
        file.write_text(block, encoding="utf-8")
        sets = [f"data.{name}=[data/manifest.{name}.jsonl]" for name in ("train", "dev")]
        load_experiment(file, sets)
    for block in blocks(page, "bash"):
        for line in statements(block):
            check_options(line)


def check_options(line: str) -> None:
    """Raise click's error unless the `asr` command in a line exists and takes these options."""
    call = re.search(r"(?:^|[\s(])asr ([a-z].*)", line.split(" #")[0].strip())
    if not call or line.startswith("#"):
        return
    words = shlex.split(call[1].split(" | ")[0].split(" > ")[0])
    command: click.Command = cli
    context = click.Context(cli, info_name="asr")
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, line
        command, context = found, click.Context(found, parent=context, info_name=name)
    if "--options" not in words:
        command.make_context(context.info_name, words, parent=context.parent)


def all_commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from all_commands(below, click.Context(below, parent=context, info_name=name))


def test_examples_of_help() -> None:
    with contextlib.chdir(ROOT):
        for context in all_commands(cli, click.Context(cli, info_name="asr")):
            text = context.command.get_help(context)
            for line in re.findall(r"(?m)^ +(.*\basr [a-z].*)$", text.split("Example", 1)[1]):
                check_options(line)


@pytest.mark.parametrize("module", ["transcriber", "wer", "decoding.ctc_decoder", "lm.batched"])
def test_docstrings(module: str, place: Path) -> None:
    loaded = importlib.import_module(f"asr.{module}")
    log_probs = np.load(place / "outputs.npz")["u0"]
    result = doctest.testmod(loaded, extraglobs={"asr": asr, "log_probs": log_probs})
    assert result.attempted > 0
    assert not result.failed


def test_every_page_is_linked_and_no_link_is_dead() -> None:
    linked = set()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                linked.add((page.parent / target).resolve())
    assert set(PAGES[1:]) <= linked
