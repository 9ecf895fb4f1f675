"""`asr check --html` and `--lm`: what the page says of data that is known."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.data.check import Facts, Fit, examine_all
from asr.data.manifest import Manifest, Utterance, write_manifest
from asr.report.data import oddest

RATE = 8000
ARPA = """\\data\\
ngram 1=5

\\1-grams:
-1 <unk>
-99 <s>
-1 </s>
-0.5 one
-0.7 two

\\end\\
"""
Tables = Callable[[Path], dict[str, list[list[str]]]]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run_asr: Run) -> Path:
    """Two sets that share a speaker and two texts; one quiet and one hasty utterance, one broken
    file, one file and text that would be HTML."""
    folder = tmp_path_factory.mktemp("check")
    draw = np.random.default_rng(0)
    for name, count in (("train", 20), ("dev", 4)):
        rows = []
        for i in range(count):
            samples = draw.normal(0, 0.1, draw.integers(RATE, 2 * RATE))
            text = f"one two {'x' * (len(samples) // 1600)}{name}"
            file = f"{name}{i}.wav"
            if (name, i) == ("train", 3):
                samples /= 20
            if (name, i) == ("train", 5):
                text = "one two " * 20
            if i == 7:
                file, text = (
                    "<script>alert(1)<:script>.wav",
                    "<script>document.title='run'</script>",
                )
            if i < 2:
                text = ["one two", "two ж one"][i]
            soundfile.write(folder / file, samples.astype(np.float32), RATE)
            speaker = "both" if i == 0 else f"{name}-{i}"
            rows.append({"id": f"{name}-{i}", "audio": file, "text": text, "speaker": speaker})
        path = folder / f"manifest.{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train9.wav").write_bytes(b"no audio")
    (folder / "word.arpa").write_text(ARPA)
    return folder


@pytest.fixture(scope="module")
def said(place: Path, run_asr: Run) -> str:
    """Stdout of the command that writes page.html."""
    manifests = sorted(place.glob("manifest.*.jsonl"))
    done = run_asr("check", *manifests, "--lm", place / "word.arpa", "--html", place / "page.html")
    assert done.returncode == 3, done.stderr
    return done.stdout


def test_unknown_words(place: Path, said: str, tables: Tables) -> None:
    total, lacking = 2 + 3 + 3 + 3, 3  # the texts of the dev set, in its order
    dev = f"word.arpa lacks {lacking / total:.2%} of the {total} words of manifest.dev.jsonl"
    assert dev in said
    found = tables(place / "page.html")
    title = "Words that the language models lack"
    assert found[f"{title}: Unknown words"][1][:3] == ["word.arpa", "manifest.dev.jsonl", "3"]
    assert ["word.arpa", "manifest.dev.jsonl", "ж", "1"] in found[
        f"{title}: Most frequent unknown words"
    ]


def test_overlap_and_characters(place: Path, said: str, tables: Tables) -> None:
    found = tables(place / "page.html")
    assert found["Overlap of the sets: In two sets"][1:] == [
        ["manifest.dev.jsonl", "manifest.train.jsonl", "speakers", "1", "both"],
        ["manifest.dev.jsonl", "manifest.train.jsonl", "texts", "2", "one two; two ж one"],
    ]
    letters = {row[0]: row[1:] for row in found["Histograms: Characters"][1:]}
    assert letters["ж"] == ["U+0436 CYRILLIC SMALL LETTER ZHE", "1", "1"]
    [sets] = [rows for title, rows in found.items() if title == "Sets: Recordings and speakers"]
    assert sets[0][:3] == ["manifest", "problems", "utterances"]  # those are seen on a phone
    names = "manifest.dev.jsonl", "manifest.train.jsonl"
    assert [(row[0], row[2]) for row in sets[1:]] == [*zip(names, ("4", "20"), strict=True)]
    assert found["Findings: Findings"][1][:3] == [
        *("audio that cannot be used", "manifest.train.jsonl", "train-9")
    ]


def test_the_odd_ones_come_first(place: Path, said: str) -> None:
    page = (place / "page.html").read_text()
    odd = re.findall(r"<h4>(\S+) <small>.*?</h4>\n<p>(.*?)</p>", page)
    reasons = dict(odd)
    assert set(list(reasons)[:2]) == {"train-3", "train-5"}
    assert re.match(r"level -4\d\.\d, the median is -20\.\d dB", reasons["train-3"])
    assert re.match(r"speaking rate \d+\.\d, the median is", reasons["train-5"])
    assert "train-9" not in reasons  # there is nothing to hear
    for picture in ("duration", "level", "speaking rate"):
        assert f'alt="Histogram: {picture}, ' in page
    for picture in ("Sample rates", "Characters"):
        assert f'alt="{picture}"' in page


def test_findings_come_before_all_deviations(tmp_path: Path) -> None:
    """Half of the texts are longer, so that the median absolute deviation of the rate is 0."""
    rows = []
    for i in range(9):
        soundfile.write(tmp_path / f"{i}.wav", np.full(RATE, 1.0 if i == 4 else 0.998), RATE)
        rows.append(Utterance(str(i), f"{i}.wav", tmp_path, text="left" if i % 2 else "yes"))
    write_manifest(tmp_path / "m.jsonl", rows)
    manifest = Manifest.open(tmp_path / "m.jsonl")
    facts = Facts.gather(manifest, "m", examine_all(manifest, Fit()), Fit())
    first, second = islice(oddest({"m": facts}), 2)
    assert first["utterance"].id == "4"
    assert first["reasons"].startswith("clipped: 100.0% of the samples")
    assert second["utterance"].text == "left"


def test_files_of_one_name_are_told_apart(place: Path, run_asr: Run, tables: Tables) -> None:
    one, two = ([place / name / "m.jsonl", place / name / "word.arpa"] for name in ("one", "two"))
    for manifest, lm in (one, two):
        manifest.parent.mkdir()
        shutil.copy(place / "manifest.dev.jsonl", manifest)
        shutil.copy(place / "word.arpa", lm)
        for audio in place.glob("dev[0-3].wav"):
            shutil.copy(audio, manifest.parent)
    page = place / "one" / "page.html"
    done = run_asr("check", one[0], two[0], "--lm", one[1], "--lm", two[1], "--html", page)
    assert f"warning: {one[0]} and {two[0]} share 4 speakers" in done.stdout
    assert f"{two[1]} lacks 27.27% of the 11 words of {one[0]}: " in done.stdout
    found = tables(page)
    assert found["Overlap of the sets: In two sets"][1][:2] == [str(one[0]), str(two[0])]
    lacking = found["Words that the language models lack: Unknown words"][1:]
    both = [(str(lm), str(manifest)) for lm in (one[1], two[1]) for manifest in (one[0], two[0])]
    assert [(row[0], row[1]) for row in lacking] == both
    with (place / "one" / "m.jsonl").open("a") as file:
        file.write('{"id": "gone", "audio": "gone.wav"}\n')
    done = run_asr("check", one[0], two[0])
    assert f"no text (1)\n  {one[0]} gone: no text" in done.stdout


MENU = """
const links = [...document.querySelectorAll('nav a')];
const reached = links.map((one) => { one.focus(); return document.activeElement.hash.slice(1); });
const sections = [...document.querySelectorAll('main > section')].map((one) => one.id);
const [nav, page] = [document.querySelector('nav'), document.documentElement];
const wide = Math.max(page.scrollWidth, nav.scrollWidth);
return [document.title, reached, sections, innerWidth, wide];
"""


def test_the_page_in_a_browser(
    place: Path, said: str, browse: Callable[..., Any], drive: Callable[..., Any]
) -> None:
    document, console = browse(place / "page.html")
    assert console == []
    assert document.count("<script") == 1
    title, menu, sections, inner, wide = drive(place / "page.html", MENU, 390)
    assert title == "Data: manifest.dev.jsonl, manifest.train.jsonl"
    assert menu == sections
    assert (menu[1], menu[-1]) == ("findings", "listen")  # what is wrong, before 20 players
    assert wide <= inner == 390


def test_an_lm_of_tokens_has_every_word(place: Path, run_asr: Run) -> None:
    text = place / "t.txt"
    text.write_text("one two\ntwo one\n")
    tokenizer = place / "tokenizer.json"
    for command in (
        f"tokenizer {text} --type char -o {tokenizer}",
        f"lm train {text} -o {place}/char.lm --order 2 --unit token --tokenizer {tokenizer}",
    ):
        done = run_asr(*command.split())
        assert done.returncode == 0, done.stderr
    done = run_asr("check", place / "manifest.dev.jsonl", "--lm", place / "char.lm")
    assert (done.returncode, done.stdout) == (2, "")
    assert "char.lm: is a language model of tokens. Give one of words" in done.stderr
