"""Fixtures of all tests, and the package's line count in the summary of a run.

A test whose tool or data is missing is skipped; with ASR_NO_SKIP=1 (as in CI, where everything
must be there) such a skip is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def missing(what: str) -> None:
    """Skip the test that runs, or fail it where ASR_NO_SKIP=1."""
    if os.environ.get("ASR_NO_SKIP") == "1":
        pytest.fail(f"{what} (ASR_NO_SKIP=1)", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def asr_data() -> Path:
    """The folder of real recordings, named by the environment variable ASR_DATA."""
    folder = os.environ.get("ASR_DATA")
    if not folder:
        missing("ASR_DATA is not set")
    elif not Path(folder).is_dir():
        missing(f"ASR_DATA={folder} is not a folder")
    return Path(str(folder)).resolve()


@pytest.fixture(scope="session")
def need_tool() -> Callable[[str], str]:
    """need_tool(name) -> path of a program; skips where it is not on PATH (or beside python)."""

    def need(name: str) -> str:
        path = shutil.which(name) or shutil.which(name, path=os.path.dirname(sys.executable))
        if path is None:
            missing(f"{name} is not installed")
        return str(path)

    return need


@pytest.fixture(scope="session")
def namespace(need_tool: Callable[[str], str]) -> list[str]:
    """The beginning of a command that may mount file systems, seen by nobody else; skips where
    user namespaces are not allowed."""
    command = [need_tool("unshare"), "--user", "--map-root-user", "--mount"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        missing("user namespaces are not allowed here")
    return command


@pytest.fixture(scope="session")
def run_asr() -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_asr(*args, cwd=None, env=None): `python -m asr ...`; `env` adds to the environment."""

    def run(
        *args: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "asr", *map(str, args)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    files = sorted((ROOT / "asr").rglob("*.py"))
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    terminalreporter.write_line(f"asr/: {lines} lines in {len(files)} files")
