"""recipes/stages.sh: done stages are skipped; a changed one and all that follow run again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from asr.cli import cli

ROOT = Path(__file__).parents[1]


def run(recipe: Path) -> list[str]:
    """Names of the stages that ran."""
    done = subprocess.run(["bash", recipe / "run.sh"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 7), done.stderr
    return re.findall(r"== (\w+): doing", done.stderr)


def toy(root: Path) -> Path:
    """The folder of a recipe beside a set-up that does nothing."""
    recipe = root / "recipes" / "toy"
    recipe.mkdir(parents=True)
    (root / "tools").mkdir()
    (root / "tools" / "setup.sh").write_text("#!/bin/sh\n")
    (root / "tools" / "setup.sh").chmod(0o755)
    shutil.copy(ROOT / "recipes" / "stages.sh", root / "recipes")
    return recipe


def test_stages_run_once_and_again_when_changed(tmp_path: Path) -> None:
    recipe = toy(tmp_path)
    (recipe / "conf").mkdir()
    (recipe / "conf" / "a.yaml").write_text("x: 1\n")
    lines = [
        '. "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"',
        "stage one doing true",
        "stage two doing cp conf/a.yaml b.txt",
        "stage three doing test ! -e stop",
    ]
    (recipe / "run.sh").write_text("\n".join(lines))
    assert run(recipe) == ["one", "two", "three"]
    assert run(recipe) == []
    (recipe / "conf" / "a.yaml").write_text("x: 2\n")
    assert run(recipe) == ["two", "three"]
    lines[3] = "stage three doing sh -c 'exit 7'"
    (recipe / "run.sh").write_text("\n".join(lines))
    assert run(recipe) == ["three"]
    assert run(recipe) == ["three"]  # it failed, so it is not done


def test_stages_together_run_at_once_and_what_follows_depends_on_them(tmp_path: Path) -> None:
    recipe = toy(tmp_path)
    meet = "sh -c 'touch $0; until [ -e $1 ]; do sleep 0.05; done; test ! -e broken-$0'"
    lines = [
        '. "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"',
        "other() { [ $1 = a ] && echo b || echo a; }",
        f'both() {{ stage $1 doing {meet} "$1" "$(other $1)"; }}',
        "together both a b",
        "stage after doing true",
    ]
    (recipe / "run.sh").write_text("\n".join(lines))
    (recipe / "broken-b").touch()
    first = subprocess.run(["bash", recipe / "run.sh"], capture_output=True, text=True, timeout=60)
    assert first.returncode == 1
    assert re.search(r"a \| == a: \d+ s", first.stderr)  # goes on to its end
    assert "after" not in first.stderr
    (recipe / "broken-b").unlink()
    assert run(recipe) == ["b", "after"]
    assert run(recipe) == []
    (recipe / "run.sh").write_text("\n".join(lines).replace("stage $1 doing", "stage $1 doing env"))
    assert sorted(run(recipe)) == ["a", "after", "b"]


@pytest.mark.parametrize(
    "script", ["digits/run.sh", "sentences/run.sh", "sentences/search.sh", "sentences/mwer.sh"]
)
def test_folders_may_have_spaces_and_be_relative(script: str, tmp_path: Path) -> None:
    """The recipe is called with CDPATH set, and an `asr` that only tells its arguments."""
    root = tmp_path / "my clone"
    toy(root)
    shutil.copytree(ROOT / "recipes", root / "recipes", dirs_exist_ok=True)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "asr").write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{root}/said'\n"
    )
    (root / ".venv" / "bin" / "asr").chmod(0o755)
    exp = root / "recipes" / Path(script).parent / "exp"
    (exp / "las" / "model").mkdir(parents=True)
    (exp / "lexicon.txt").touch()
    given = os.environ | {"ASR_DATA": "my corpora", "CDPATH": f".:{tmp_path}"}
    called = ["bash", f"my clone/recipes/{script}"]
    done = subprocess.run(called, cwd=tmp_path, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = re.split(r"[\n,\[\]]", (root / "said").read_text())
    data = [part for part in said if "corpora/" in part]
    assert data
    assert {part[: part.index("corpora/")] for part in data} == {f"{tmp_path}/my "}, data


def test_set_up_with_cdpath_and_an_interpreter_in_a_folder_with_a_space(
    tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    need_tool("c++")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    python = tmp_path / "p y" / "python3"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\n[ $1 = --version ] && echo Python 2.7\n")
    python.chmod(0o755)
    given = os.environ | {"PYTHON": str(python), "CDPATH": f".:{tmp_path}"}
    done = subprocess.run(
        ["bash", "tools/setup.sh"], cwd=tmp_path, env=given, capture_output=True, text=True
    )
    assert f"and {python} is Python 2.7;" in done.stderr


@pytest.fixture
def set_up(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """set_up(name of a program=its script, ...): exit status and stderr of tools/setup.sh, copied
    to a folder, where nothing but these and what it needs to begin is on PATH."""
    clone, bin = tmp_path / "clone", tmp_path / "bin"
    shutil.copytree(ROOT / "tools", clone / "tools")
    bin.mkdir()
    for name in ("awk", "bash", "cat", "dirname", "flock", "grep", "rm", "sha256sum"):
        (bin / name).symlink_to(str(shutil.which(name)))

    def run(**programs: str) -> tuple[int, str]:
        for name, script in programs.items():
            (bin / name).write_text(f"#!/bin/sh\n{script}\n")
            (bin / name).chmod(0o755)
        done = subprocess.run(
            [str(bin / "bash"), str(clone / "tools" / "setup.sh")],
            env={"PATH": str(bin), "PYTHON": sys.executable},
            capture_output=True,
            text=True,
        )
        assert not (clone / ".venv").exists()
        return done.returncode, done.stderr

    return run


def test_set_up_without_a_compiler_says_so_in_one_sentence(set_up: Any) -> None:
    said = "error: no C++ compiler: {} is not on PATH (Debian: build-essential).\n"
    assert set_up() == (1, said.format("cc"))
    assert set_up(cc="") == (1, said.format("c++"))


def test_set_up_without_space_says_so_in_one_sentence(set_up: Any, tmp_path: Path) -> None:
    """2.9 GB are left where the clone is."""
    df = f'[ "$2" = {tmp_path}/clone ] && printf "name\\ndisk 9 9 {int(2.9 * 2**20)} 9%% /\\n"'
    said = f"error: no space: {tmp_path}/clone has 2 GB left, and set-up needs 3 GB.\n"
    assert set_up(**{"cc": "", "c++": "", "df": df}) == (1, said)


def test_recipes_are_short_and_name_only_real_commands_and_options() -> None:
    for script in sorted((ROOT / "recipes").glob("*/*.sh")):
        text = script.read_text().replace("\\\n", " ")
        assert len(text.splitlines()) < 80
        for call in re.findall(r"(?m)^.*\basr [a-z].*$", text):
            if call.lstrip().startswith("#"):
                continue
            words = call.split(" asr ", 1)[-1].removeprefix("asr ").lstrip().split()
            command: click.Command = cli
            context = click.Context(cli)
            while isinstance(command, click.Group):
                found = command.get_command(context, words.pop(0))
                assert found is not None, call
                command = found
            known = {name for p in command.params for name in p.opts}
            assert {w for w in words if re.match(r"--?[a-z]", w)} <= known, call
