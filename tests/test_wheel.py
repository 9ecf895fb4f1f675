"""The wheel alone, with numpy and numba and nothing else, decodes another toolkit's outputs."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import json, sys
import numpy as np
import asr

outputs = np.load(sys.argv[1])
decoder = asr.CTCDecoder(["<blank>", "<unk>", *"abc", "|"], beam=8)
texts = {name: decoder.decode(outputs[name]).text for name in outputs.files}
roots = {name.split(".")[0] for name in sys.modules}
print(json.dumps({"texts": texts, "file": asr.__file__, "modules": sorted(roots)}))
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with numpy, numba and the wheel, freshly built."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "asr", source / "asr", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("asr-*.whl")

    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for name in ("numpy", "numba", "llvmlite"):  # links, so that nothing is downloaded
        package = Path(str(importlib.import_module(name).__file__)).parent
        for part in [package, *package.parent.glob(f"{name}[.-]*")]:
            (site / part.name).symlink_to(part)
    install = ["--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    return python


def peaked(path: list[int], size: int) -> np.ndarray:
    """Log-probabilities (T, V) whose best alignment is `path`, one id a frame."""
    scores = np.full((len(path), size), 0.02)
    scores[np.arange(len(path)), path] = 1 - 0.02 * (size - 1)
    return np.log(scores).astype(np.float32)


def test_wheel_decodes_with_numpy_and_numba_only(bare_python: Path, tmp_path: Path) -> None:
    # ids: 0 blank, 1 unknown, 2 a, 3 b, 4 c, 5 the word boundary
    outputs = {"one": peaked([2, 2, 0, 2, 3, 5, 4, 0], 6), "two": peaked([0, 4, 4, 5, 2], 6)}
    np.savez(tmp_path / "outputs.npz", **outputs)
    result = subprocess.run(
        [str(bare_python), "-c", SCRIPT, str(tmp_path / "outputs.npz")],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},  # compiled for this test only
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["texts"] == {"one": "aab c", "two": "c a"}
    assert Path(found["file"]).is_relative_to(bare_python.parent.parent)
    assert not {"torch", "kenlm", "rich", "rapidfuzz", "soundfile"} & set(found["modules"])


def test_wheel_holds_all_that_pages_are_made_of(bare_python: Path) -> None:
    [installed] = bare_python.parent.parent.glob("lib/python*/site-packages/asr/report")
    parts = {path.name for path in (ROOT / "asr" / "report").glob("*.[hcj]*")}
    assert {"page.html", "page.css", "page.js"} < parts
    assert parts <= {path.name for path in installed.iterdir()}


def test_environment_is_bare(bare_python: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [str(bare_python), "-c", "import torch"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "ModuleNotFoundError" in result.stderr  # or the test above would prove nothing
