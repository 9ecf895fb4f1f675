"""The house rules: imports go downward only, and the command line costs nothing to start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from asr.cli import COMMANDS

PACKAGE = Path(__file__).resolve().parent.parent / "asr"

# Files and folders of the package from below to above. Each imports from lower layers only; those
# that stand in one layer are siblings and never import each other.
LAYERS = (
    "errors",
    "console files kernels",
    "hypothesis machine nist text",
    "data formats lm models outputs wer",
    "confidence",
    "decoding scoring",
    "training transcriber",
    "config pictures",
    "report",
    "commands",
    "cli",
    "__main__ __init__",
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer.split()}


def imported(tree: ast.AST) -> set[str]:
    """The parts of asr that a file imports anywhere, within functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("asr.")}


def test_every_part_has_a_layer() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__pycache__"} == set(HEIGHT)


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: f"{f.stem}")
def test_imports_go_downward(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    upward = {
        other
        for other in imported(ast.parse(file.read_text(encoding="utf-8")))
        if other != part and HEIGHT[other] >= HEIGHT[part]
    }
    assert not upward, f"{part} stands no higher than {upward}"


def run_code(code: str) -> tuple[list[str], set[str]]:
    """What `code` prints, line by line, and the names of all modules that are loaded after it."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, modules = result.stdout.splitlines()
    return lines, set(modules.split())


def modules_after(code: str) -> set[str]:
    return run_code(code)[1]


def test_help_imports_nothing_heavy() -> None:
    run = "import sys; sys.argv[1:] = ['--help']\ntry: import asr.__main__\nexcept SystemExit: pass"
    names = modules_after(run)
    assert "asr.cli" in names
    assert not names & {"torch", "numpy", "numba", "soundfile", "rapidfuzz", "rich", "yaml"}
    assert {name for name in names if name.startswith("asr.commands.")} <= {"asr.commands.lazy"}


WITHOUT_TORCH = (
    *("wer", "scoring", "data.sampler", "data.manifest", "data.audio"),
    *("lm.ngram", "lm.train", "decoding.ctc_decoder", "decoding.align"),
    *("decoding.rescore", "decoding.tune"),
)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_needs_no_torch(module: str) -> None:
    assert "torch" not in modules_after(f"import asr.{module}")


HELP = """
import click
from asr.cli import cli

def show(command, context):
    print("Example" in command.get_help(context), context.command_path)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            show(below, click.Context(below, parent=context, info_name=name))

show(cli, click.Context(cli, info_name="asr"))
"""


def test_help_of_every_command_shows_examples_and_imports_nothing_heavy() -> None:
    shown, names = run_code(HELP)
    assert {f"True asr {name}" for name in (*COMMANDS, "lm train", "prepare espeak")} <= {*shown}
    assert all(line.startswith("True asr") for line in shown)
    assert not names & {"torch", "numpy", "numba", "soundfile", "yaml"}


def test_the_readme_comes_to_the_first_command_at_once() -> None:
    before, fence, _ = (PACKAGE.parent / "README.md").read_text("utf-8").partition("```sh\n")
    assert fence
    assert len(before.split()) < 80
