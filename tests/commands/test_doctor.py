"""`asr doctor` tells what is there, missing and broken, on the machine as it is."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def doctor(folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "asr", "doctor"]
    environment = {**os.environ, "PYTHONPATH": path, "PATH": os.environ["PATH"]}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_what_is_there(tmp_path: Path) -> None:
    run = doctor(tmp_path)
    assert run.returncode == 0, run.stderr
    for name in ("numpy", "torch", "torchaudio"):
        assert f"  ok       {name} {version(name)}\n" in run.stdout
    assert f"\n  cores    {os.cpu_count()}; threads" in run.stdout


def test_broken_libraries_are_told_from_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "torchaudio.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
    (tmp_path / "soxr.py").write_text("import absent\n")
    run = doctor(tmp_path)
    assert "  broken   torchaudio: gives the `logmel` front-end\n" in run.stdout
    assert "           OSError: libcudart.so.13: cannot open\n" in run.stdout
    assert "           ModuleNotFoundError: No module named 'absent'\n" in run.stdout
    assert run.returncode == 2
    assert run.stderr == "error: the core is incomplete: soxr. Run `pip install asr` again.\n"
