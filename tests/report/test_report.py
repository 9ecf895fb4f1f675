"""`asr report`: its figures against other programs', and the page in a browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import yaml
from matplotlib.image import imread

from asr.data.manifest import Manifest
from asr.hypothesis import Hypothesis, NBest, write_nbest
from asr.pictures import spectrogram

RATE = 8000
HOSTILE = "<script>document.title='run'</script>"
Tables = Callable[[Path], dict[str, list[list[str]]]]
Run = Callable[..., subprocess.CompletedProcess[str]]


def write_set(folder: Path, name: str, count: int) -> Path:
    """`count` utterances of noise by three speakers of two ages; the first one is hostile."""
    draw = np.random.default_rng(count)
    rows = []
    for i in range(count):
        file = f"{name}{i}.wav" if i else f"{name} ' \" <b> 中.wav"
        samples = draw.normal(0, 0.1, draw.integers(RATE // 2, 2 * RATE)).astype(np.float32)
        soundfile.write(folder / file, samples, RATE)
        text = " ".join(draw.choice(["one", "two", "six"], draw.integers(1, 6)))
        row = {"id": f"{name}-{i}", "audio": file, "text": text, "speaker": f"s{i % 3}"}
        rows.append({**row, "duration": len(samples) / RATE, "age": 6 + i % 2})
    rows[0] |= {"id": f"{name}-<img src=x onerror=alert(1)>", "text": f"one {HOSTILE} two"}
    path = folder / f"manifest.{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_list(path: Path, manifest: Path, wrong: int, lm: bool = False) -> list[str]:
    """An n-best file in which every `wrong`-th word is another one; the texts in it. With `lm` the
    right texts stand second, and a weight above 0.25 prefers them."""
    opened, number, texts, lists = Manifest.open(manifest), 0, [], []
    for utterance in opened:
        words = []
        for word in (utterance.text or "").split():
            number += 1
            words.append(word if number % wrong else "seven")
        texts.append(" ".join(words))
        nbest = [Hypothesis(texts[-1], scores={"ctc": -8.0, "lm": {"x": -9.0}, "length": 1})]
        if lm:
            scores = {"ctc": -10.0, "lm": {"x": -1.0}, "length": 1}
            nbest.append(Hypothesis(utterance.text or "", scores=scores))
        lists.append(NBest(utterance.id, nbest))
    meta: dict[str, Any] = {
        "manifest": {"path": manifest.name, "hash": opened.hash, "split": opened.split}
    }
    if lm:
        meta |= {"lms": {"x": {"path": "x.lm", "hash": "0123456789ab", "unit": "word"}}}
        meta |= {"weights": {"ctc": 1.0, "lm": {"x": 0.1}, "bonus": 0.0}, "length": "words"}
    write_nbest(path, meta, lists)
    return texts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run_asr: Run) -> Path:
    """A folder with an experiment, its list of the dev set, another with an LM, two lists of a test
    set, and the report about them."""
    folder = tmp_path_factory.mktemp("report")
    exp = folder / "exp"
    write_set(folder, "train", 10)
    dev, test = write_set(folder, "dev", 4), write_set(folder, "test", 24)
    model = {
        "sample_rate": RATE,
        "ctc_weight": 0.3,
        "frontend": {"type": "logmel", "channels": 12},
        "encoder": {"type": "pyramid", "layers": 2, "size": 8},
        "speller": {"size": 8, "embedding": 8, "attention": 8, "filters": 4, "reach": 3},
    }
    config = {
        "data": {"train": ["manifest.train.jsonl"], "dev": ["manifest.dev.jsonl"], "workers": 0},
        "tokenizer": {"normalizer": "none"},
        "model": model,
        "train": {"epochs": 2, "log_steps": 1, "threads": 1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    for command in (
        f"train tiny.yaml -o {exp}/las",
        f"decode {exp}/las {dev.name} -o {exp}/dev.jsonl --beam 2 --threads 1",
    ):
        done = run_asr(*command.split(), cwd=folder)
        assert done.returncode == 0, done.stderr
    write_list(exp / "lm.jsonl", dev, 2, lm=True)
    write_list(exp / "good.jsonl", test, 6)
    write_list(exp / "bad.jsonl", test, 3)
    done = run_asr("report", exp, "-o", folder / "report.html", "--threads", 1)
    assert done.returncode == 0, done.stderr
    return folder


def test_rates_are_jiwers(place: Path, tables: Tables, tmp_path: Path) -> None:
    manifest = Manifest.open(place / "manifest.test.jsonl")
    found = tables(place / "report.html")
    [title] = [title for title in found if title.endswith("manifest.test.jsonl: Systems")]
    rows = {row[0]: row for row in found[title][1:]}
    said = [utterance.text or "" for utterance in manifest]
    by_speaker = found[title.replace("Systems", "WER % by speaker")]
    by_age = found[title.replace("Systems", "WER % by age")]
    assert by_speaker[0] == ["speaker", "good", "bad", "utterances", "words"]
    for column, (name, wrong) in enumerate((("good", 6), ("bad", 3))):
        heard = write_list(tmp_path / "x.jsonl", place / "manifest.test.jsonl", wrong)
        assert rows[name][1].split()[0] == f"{100 * jiwer.wer(said, heard):.2f}"
        for part, key in ((by_speaker, "speaker"), (by_age, "age")):
            for group, *cells, utterances, _ in part[1:]:
                own = [
                    i
                    for i, utterance in enumerate(manifest)
                    if group == str({"speaker": utterance.speaker, **utterance.extra}[key])
                ]
                assert int(utterances) == len(own)
                rate = jiwer.wer([said[i] for i in own], [heard[i] for i in own])
                wer, low, high = re.findall(r"[\d.]+", cells[column])
                assert wer == f"{100 * rate:.2f}"
                assert float(low) <= float(wer) <= float(high)


def test_comparison_is_that_of_score(place: Path, tables: Tables, run_asr: Run) -> None:
    lists = [place / "exp" / f"{name}.jsonl" for name in ("bad", "good")]
    given = ["--compare", lists[1], "--json", place / "scores.json"]
    done = run_asr("score", place / "manifest.test.jsonl", lists[0], *given)
    assert done.returncode == 0, done.stderr
    [expected] = json.loads((place / "scores.json").read_text())["comparisons"]
    found = tables(place / "report.html")
    [title] = [t for t in found if t.endswith("manifest.test.jsonl: Comparison of the systems")]
    assert found[title][0][2] == "verdict"  # on a phone the last columns are out of sight
    a, b, _, difference, p = found[title][1]
    assert (a, b) == ("good", "bad")
    assert difference.split()[0] == f"{100 * expected['difference']:+.2f}"
    assert p == (f"{expected['p']:.3f}" if expected["p"] >= 0.001 else "< 0.001")


def test_the_parts_of_the_page(place: Path, tables: Tables) -> None:
    page = (place / "report.html").read_text()
    for name in ("loss in training", "WER on the dev set, %", "time spent waiting for data, %"):
        assert f'alt="{name} by step: las"' in page
    assert page.count("Network outputs") == 4  # of the dev set's utterances
    [weight] = re.findall(r"<figcaption>lm: best WER 0\.00% at x ([\d.]+), bonus", page)
    assert float(weight) > 0.25
    assert "are drawn of dev sets" not in page
    assert len(re.findall(r"<h4>(?:best|median|worst): ", page)) == 6 + 4
    found = tables(place / "report.html")
    options = dict(row for row in found["Configuration: Options"])
    assert options["model.encoder.size"] == "8"
    assert options["tokenizer.size"] == "null"
    assert options["data.noise.snr"] == "[5.0, 40.0]"
    assert options["data.dev"] == f"[{place}/manifest.dev.jsonl]"
    hashes = dict(row for row in found["Configuration: Hashes"])
    assert len(hashes["model"]) == 12
    [dev] = [value for key, value in hashes.items() if key.endswith("manifest.dev.jsonl")]
    assert dev.startswith(Manifest.open(place / "manifest.dev.jsonl").hash)
    hardware = dict(row for row in found["Configuration: Hardware"])
    assert hardware["cores"] == str(os.cpu_count())
    [confused] = [rows for title, rows in found.items() if "manifest.test.jsonl: Conf" in title]
    assert ["substitution", "one → seven"] in [row[:2] for row in confused]


def test_sound_is_the_recording(place: Path) -> None:
    page = (place / "report.html").read_text()
    shown = re.findall(r"<h4>\w+: (\S+).*?</h4>.*?src=\"data:audio/flac;base64,(.*?)\"", page, re.S)
    manifest = Manifest.open(place / "manifest.test.jsonl")
    known = {u.id: u for u in manifest}
    compared = 0
    for id, content in shown:
        if id not in known:
            continue
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        original, own_rate = soundfile.read(place / known[id].audio)
        assert len(samples) / rate == pytest.approx(len(original) / own_rate, abs=1e-3)
        assert rate == own_rate == 8000
        assert np.corrcoef(samples, original)[0, 1] > 0.95
        compared += 1
    assert compared >= 5
    assert "<small>0 to 4 kHz, " in page
    assert "Ordered by the errors of system <em>" in page


def test_nothing_of_the_data_is_run(place: Path, browse: Callable[..., Any], drive: Any) -> None:
    """Not by the browser as the page stands, nor without the page's policy against scripts."""
    document, console = browse(place / "report.html")
    assert console == []
    assert document.count("<script") == 1
    assert "&lt;script&gt;document.title='run'&lt;/script&gt;" in document
    assert re.search(r"<title>Report: las</title>", document)
    found = drive(
        place / "report.html",
        "return [document.title, document.querySelectorAll('[onerror], img[src=x], b').length]",
    )
    assert found == ["Report: las", 0]


def test_nothing_comes_from_elsewhere(place: Path) -> None:
    page = (place / "report.html").read_text()
    sources = re.findall(r"\b(?:src|href|action|data)=\"([^\"]{1,40})", page)
    assert len(sources) > 20
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "@import" not in page
    assert "url(" not in page


def test_console_is_read(tmp_path: Path, browse: Callable[..., Any]) -> None:
    (tmp_path / "wrong.html").write_text("<script>nothing.there()</script>")
    assert "ReferenceError" in browse(tmp_path / "wrong.html")[1][0]


SORT_AND_SEARCH = """
const region = document.querySelector('[aria-label="WER % by length, words"]');
const table = region.querySelector('table'), box = region.previousElementSibling;
const column = () => [...table.tBodies[0].rows].map((row) => row.cells[4].dataset.value * 1);
const head = table.tHead.rows[0].cells[4], button = head.querySelector('button');
button.click();
const up = column(), way = head.getAttribute('aria-sort');
button.click();
const input = box.querySelector('input');
input.value = 'more'; input.dispatchEvent(new Event('input'));
const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
return {up, way, down: column(), rows, said: box.querySelector('output').textContent};
"""


def test_tables_are_sorted_and_searched(place: Path, drive: Callable[..., Any]) -> None:
    found = drive(place / "report.html", SORT_AND_SEARCH)
    assert found["up"] == sorted(found["up"])
    assert found["way"] == "ascending"
    assert found["down"] == sorted(found["up"], reverse=True)
    assert len(set(found["up"])) > 1
    assert found["rows"] == 0
    assert found["said"] == f"rows: 0 of {len(found['up'])}"


KEYBOARD = """
const wanted = 'a[href], audio[controls], input, th button, summary, .scroll, .outputs, .wide';
const all = [...document.querySelectorAll(wanted)];
const reached = all.filter((one) => { one.focus(); return document.activeElement === one; });
const closed = all.filter((one) => !one.checkVisibility());
const measured = [document.documentElement, document.querySelector('nav')];
const wide = measured.map((one) => one.scrollWidth);
const pictures = [...document.querySelectorAll('.wide img')];
const sizes = pictures.map((one) => one.width / one.naturalWidth);
return [all.length, reached.length + closed.length, innerWidth, Math.max(...wide), sizes];
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_a_phone_and_a_keyboard(place: Path, drive: Callable[..., Any], width: int) -> None:
    """Nothing is wider than the window, and all that one uses can be focused."""
    every, reached, inner, wide, sizes = drive(place / "report.html", KEYBOARD, width)
    assert every == reached > 30
    assert wide <= inner == width
    assert sizes == [1]  # of the picture of weights


TIMES = """
const player = document.querySelector('.player:has(details)');
player.querySelector('details').open = true;
const edges = (one) => { const {left, right} = one.getBoundingClientRect(); return [left, right]; };
const found = [edges(player.querySelector('.spectrogram img'))];
for (const picture of player.querySelectorAll('figure img')) {
  const shadow = document.createElement('div'), {left, width} = picture.getBoundingClientRect();
  shadow.style = `position: absolute; left: ${left}px; width: ${width}px`;
  shadow.innerHTML = atob(picture.src.split(',')[1]).replace(/.*?<svg/s, '<svg');
  document.body.append(shadow);
  shadow.firstChild.style = 'width: 100%; height: auto';
  found.push(...[...shadow.querySelectorAll('[id^=axes] > [id^=patch]:nth-child(1)')].map(edges));
}
const marks = [...document.querySelectorAll('[id^=xtick] text')].map((one) =>
  [parseFloat(one.textContent), one.getBoundingClientRect()]).map(([seconds, {left, right}]) =>
  [seconds, (left + right) / 2]);
return {found, marks, seconds: parseFloat(player.dataset.seconds)};
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_sound_and_outputs_share_the_time_axis(
    place: Path, drive: Callable[..., Any], width: int
) -> None:
    page = drive(place / "report.html", TIMES, width)
    (left, right), *others = page["found"]
    assert right - left > 700
    assert len(others) == 2  # attention and CTC
    assert np.abs(np.array(others) - [left, right]).max() < 1.5
    for seconds, x in page["marks"]:
        assert x == pytest.approx(left + (right - left) * seconds / page["seconds"], abs=2)
    assert len(page["marks"]) > 6


def test_a_click_stands_at_its_time_in_the_spectrogram() -> None:
    samples = np.zeros(round(1.234 * RATE), np.float32)
    samples[round(1.2 * RATE)] = 1
    light = imread(io.BytesIO(spectrogram(samples, RATE)))[:, :, :3].mean((0, 2))
    assert (light.argmin() + 0.5) / len(light) * 1.234 == pytest.approx(1.2, abs=0.012)


def test_lists_without_their_manifest_are_skipped(
    place: Path, run_asr: Run, tmp_path: Path
) -> None:
    write_set(tmp_path, "test", 5)
    write_list(tmp_path / "own.jsonl", tmp_path / "manifest.test.jsonl", 2)
    manifest = (tmp_path / "manifest.test.jsonl").rename(tmp_path / "moved.jsonl")
    page = tmp_path / "page.html"
    given = ["report", tmp_path / "own.jsonl", place / "exp" / "good.jsonl", "-o", page]
    done = run_asr(*given)
    assert done.returncode == 3
    assert "own.jsonl: its manifest manifest.test.jsonl is not there, or has changed" in done.stderr
    assert run_asr(*given, "--ref", manifest).returncode == 0
    assert "moved.jsonl" in page.read_text()
    assert "Errors by the weight of the language model are drawn of dev sets" in page.read_text()


def test_mistakes(place: Path, run_asr: Run, tmp_path: Path) -> None:
    shutil.copytree(place / "exp", tmp_path / "broken")
    next((tmp_path / "broken").rglob("config.yaml")).write_text("data: [unclosed")
    (tmp_path / "empty").mkdir()
    for given, message in (
        ([tmp_path / "broken"], "cannot be read (while parsing"),
        ([tmp_path / "empty"], "holds no experiment. `asr train` makes them"),
        ([tmp_path / "none"], "is not a folder. Give one of `asr train`"),
        ([tmp_path / "none.jsonl"], "cannot be read"),
        ([place / "exp", "--utterances", -1], "-1 is not in the range x>=0"),
    ):
        done = run_asr("report", *given, "-o", tmp_path / "x.html")
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
        assert not (tmp_path / "x.html").exists()
