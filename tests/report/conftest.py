"""Pages opened in headless Chromium, as written and under a script that uses them."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

Browse = Callable[[Path], tuple[str, list[str]]]

FRAME = """<!DOCTYPE html><title>frame</title><pre id="said"></pre>
<iframe src="driven.html" width="{width}" height="800"></iframe>
<script>onmessage = (e) => document.getElementById("said").textContent = e.data</script>"""


@pytest.fixture
def browse(need_tool: Callable[[str], str], tmp_path: Path) -> Browse:
    """browse(page) -> the document after its scripts ran, and what stood in the console."""
    program = need_tool("chromium")

    def run(page: Path) -> tuple[str, list[str]]:
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
        ]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
        command += ["--dump-dom", page.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout, re.findall(r":CONSOLE[:(].*", done.stderr)

    return run


@pytest.fixture
def drive(browse: Browse, tmp_path: Path) -> Callable[..., Any]:
    """drive(page, script, width=1280) -> what the script returns at that width of the window.

    The page's policy, which forbids such scripts, is taken out of the copy."""

    def run(page: Path, script: str, width: int = 1280) -> Any:
        content = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
        added = f"<script>parent.postMessage(JSON.stringify((() => {{{script}}})()), '*')</script>"
        (tmp_path / "driven.html").write_text(content.replace("</body>", added + "</body>"))
        (tmp_path / "frame.html").write_text(FRAME.format(width=width))
        said = re.search(r'<pre id="said">(.*?)</pre>', browse(tmp_path / "frame.html")[0], re.S)
        assert said
        return json.loads(html.unescape(said[1]))

    return run


class Tables(HTMLParser):
    """{title of a table: rows of the cells' texts}, the head first."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._title = ""
        self._text: list[str] | None = None
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("h2", "h3", "th", "td"):
            self._text = []
        if tag == "tr":
            self.found.setdefault(self._title, []).append([])

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "h3", "th", "td") and self._text is not None:
            text, self._text = "".join(self._text), None
            if tag == "h2":
                self._section = text
            elif tag == "h3":
                self._title = f"{self._section}: {text}"
            else:
                self.found[self._title][-1].append(text)


@pytest.fixture
def tables() -> Callable[[Path], dict[str, list[list[str]]]]:
    """tables(page) -> {"section: title": rows}."""
    return lambda page: Tables(page).found
