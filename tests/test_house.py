"""The house rules: imports go downward only, and the command line costs nothing to start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest

from asr.cli import COMMANDS, cli

PACKAGE = Path(__file__).resolve().parent.parent / "asr"

# Files and folders of the package from below to above. Each imports from lower layers only; those
# that stand in one layer are siblings and never import each other.
LAYERS = (
    "errors",
    "console files kernels",
    "hypothesis nist text",
    "data formats lm models outputs pictures wer",
    "decoding scoring",
    "scoring_report training transcriber",
    "config",
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


def modules_after(code: str) -> set[str]:
    """The names of all modules that an interpreter has loaded after running `code`."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    run = "import sys; sys.argv[1:] = ['--help']\ntry: import asr.__main__\nexcept SystemExit: pass"
    names = modules_after(run)
    assert "asr.cli" in names
    assert not names & {"torch", "numpy", "numba", "soundfile", "rapidfuzz", "rich", "yaml"}
    assert {name for name in names if name.startswith("asr.commands.")} <= {"asr.commands.lazy"}


WITHOUT_TORCH = (
    *("wer", "scoring", "scoring_report", "data.sampler", "data.manifest", "data.audio"),
    *("lm.ngram", "lm.train", "decoding.ctc_decoder", "decoding.align"),
    *("decoding.rescore", "decoding.tune"),
)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_needs_no_torch(module: str) -> None:
    assert "torch" not in modules_after(f"import asr.{module}")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_examples(name: str) -> None:
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    assert "Example" in command.get_help(click.Context(command, parent=context, info_name=name))
