"""`asr score` on a large synthetic set: wall time, CPU time and peak memory, beside its peers.

    python tools/bench/score.py [--utterances 100000]

References are a manifest, hypotheses an n-best file: sentences of 5 to 25 words drawn from Zipf's
law, with about 10 % errors; 200 speakers. jiwer and sclite (which gets a tenth) are skipped where
they are missing.
Bars: 10 s (30 s with --sclite) and 1 GB on two free cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

JIWER = """
import json, jiwer
read = lambda name, text: [text(json.loads(line)) for line in open(name) if '"id"' in line]
ref = read("ref.jsonl", lambda row: row["text"])
hyp = read("hyp.jsonl", lambda row: row["nbest"][0]["text"])
print(jiwer.process_words(ref, hyp).wer, jiwer.process_characters(ref, hyp).cer)
"""


def make(folder: Path, utterances: int) -> None:
    """ref.jsonl and hyp.jsonl."""
    rng = np.random.default_rng(1)
    letters = np.array(list("etaoinshrdlu"))
    words = ["".join(rng.choice(letters, rng.integers(1, 10))) for _ in range(20_000)]
    with open(folder / "ref.jsonl", "w") as ref, open(folder / "hyp.jsonl", "w") as hyp:
        hyp.write(json.dumps({"meta": {"weights": {"ctc": 1.0}, "length": "words"}}) + "\n")
        for i in range(utterances):
            said = [words[k % len(words)] for k in rng.zipf(1.3, rng.integers(5, 26))]
            heard: list[str] = []
            for word, chance in zip(said, rng.random(len(said)), strict=True):
                if chance > 0.02:  # 2 % deleted, 6 % substituted, 2 % inserted behind
                    heard.append(words[int(chance * 1e6) % 99] if chance < 0.08 else word)
                if chance > 0.98:
                    heard.append(words[int(chance * 1e6) % 99])
            row = {"id": f"u{i}", "audio": f"{i}.wav", "speaker": f"s{i % 200}"}
            ref.write(json.dumps({**row, "text": " ".join(said)}) + "\n")
            scores = {"ctc": -12.5, "lm": {}, "length": len(heard), "total": -12.5}
            best = {"text": " ".join(heard), "tokens": [5] * 40, "scores": scores}
            best |= {"words": [{"word": w, "start": 0.5, "end": 0.75} for w in heard]}
            hyp.write(json.dumps({"id": f"u{i}", "nbest": [best]}) + "\n")


def measure(label: str, command: list[str], folder: Path) -> None:
    """Run and print what it took; its output goes to `folder`/output."""
    begin = time.perf_counter()
    with open(folder / "output", "w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    wall, cpu = time.perf_counter() - begin, usage.ru_utime + usage.ru_stime
    failed = "" if status == 0 else f"  FAILED: {(folder / 'output').read_text()[-200:]}"
    print(f"{label:<24}{wall:8.1f}{cpu:8.1f}{usage.ru_maxrss / 1024:10.0f}{failed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--utterances", type=int, default=100_000)
    asr = [sys.executable, "-m", "asr", "score"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, parser.parse_args().utterances)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
        print(f"{'':<24}{'wall s':>8}{'CPU s':>8}{'peak MB':>10}")
        files = ["ref.jsonl", "hyp.jsonl"]
        measure("asr score, first time", [*asr, *files], folder)
        measure("asr score", [*asr, *files], folder)
        measure("asr score --sclite", [*asr, *files, "--sclite", "--trn", "trn"], folder)
        measure("jiwer (no intervals)", [sys.executable, "-c", JIWER], folder)
        tool = shutil.which("sctk") or shutil.which("sclite")
        if tool is None:
            print("sclite is not installed")
            return
        command = [tool, "sclite"] if Path(tool).name == "sctk" else [tool]
        for side in ("ref", "hyp"):  # of 100,000 utterances it takes minutes and 15 GB
            lines = (folder / f"trn/{side}.trn").read_text().splitlines(keepends=True)
            (folder / f"{side}.trn").write_text("".join(lines[: len(lines) // 10]))
        command += ["-s", "-e", "utf-8", "-i", "swb", "-r", "ref.trn", "-h", "hyp.trn"]
        measure("sclite on a tenth", command, folder)


if __name__ == "__main__":
    main()
