"""The LAS search: long utterances with and without CTC as a guide, and speed in batches.

    python tools/bench/las.py EXP MANIFEST [--lm word.lm --weights joint.json]

1. Utterances of a speaker joined by 1, 2, 5 and 10: WER, and of all hypotheses' lengths, in words
   and relative to the reference's, the 1st and 99th percentile. Bars, by ten and with CTC: WER at
   most 1.3 times that of single ones, lengths 0.7 to 1.3.
2. The manifest at beam 8, in batches and one by one: seconds, real-time factor (bar 0.1), ratio
   (bar 5). Network and search; reading the audio is not counted.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from asr.data.audio import load as load_audio
from asr.data.manifest import Manifest
from asr.machine import use_machine
from asr.transcriber import Samples, Transcriber, load
from asr.wer import Counts, count_errors

JOINS = (1, 2, 5, 10)


def decode(transcriber: Transcriber, waveforms: list[Samples], together: bool = True) -> list[str]:
    """The best text of each waveform, in batches as `asr decode` does it, or one by one."""
    one_by_one = (transcriber.decode([waveform])[0] for waveform in waveforms)
    found = transcriber.decode_many(waveforms) if together else one_by_one
    return [nbest[0].text if nbest else "" for nbest in found]


def joined(
    speakers: dict[str, list[tuple[str, Samples]]], count: int
) -> tuple[list[str], list[Samples]]:
    """References and waveforms of `count` successive utterances of a speaker."""
    texts, waveforms = [], []
    for said in speakers.values():
        for i in range(0, len(said) - count + 1, count):
            texts.append(" ".join(text for text, _ in said[i : i + count]))
            waveforms.append(np.concatenate([samples for _, samples in said[i : i + count]]))
    return texts, waveforms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--lm", type=Path, action="append", default=[])
    parser.add_argument("--weights", type=Path, help="of joint decoding; else LM 0.5, bonus 0.5")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    use_machine(arguments.threads)
    given: dict[str, Any] = {"length_bonus": 0.5} if arguments.lm else {}
    tuned = {"weights": arguments.weights} if arguments.weights else given
    searches = {
        head: load(
            arguments.model,
            head=head,
            beam=8,
            lm=arguments.lm,
            threads=arguments.threads,
            **(tuned if head == "joint" else given),
        )
        for head in ("las", "joint")
    }
    joint = searches["joint"]
    searches["joint, no window"] = load(arguments.model, head="joint", threads=arguments.threads)
    searches["joint, no window"].fusion = joint.fusion
    searches["joint, no window"].options = replace(joint.options, attention_margin=1e6)
    speakers: dict[str, list[tuple[str, Samples]]] = defaultdict(list)
    for utterance in Manifest.open(arguments.manifest):
        text = joint.tokenizer.normalizer(utterance.text or "")
        samples = load_audio(utterance, joint.sample_rate)
        speakers[utterance.speaker or ""].append((text, samples))

    print(f"{'search':18}{'joined':>8}{'utterances':>12}{'WER %':>8}{'shortest':>10}{'longest':>9}")
    for name, transcriber in searches.items():
        for count in JOINS:
            references, waveforms = joined(speakers, count)
            texts = decode(transcriber, waveforms)
            counts = Counts.of(count_errors(references, texts))
            lengths = [
                len(t.split()) / len(r.split()) for t, r in zip(texts, references, strict=True)
            ]
            low, high = np.quantile(lengths, [0.01, 0.99])
            print(
                f"{name:18}{count:8}{len(texts):12}{counts.rate:8.2%}{low:10.2f}{high:9.2f}",
                flush=True,
            )

    _, waveforms = joined(speakers, 1)
    audio = sum(map(len, waveforms)) / joint.sample_rate
    for name in ("las", "joint"):
        taken = []
        for together in (True, False):
            decode(searches[name], waveforms[:20], together)
            started = time.perf_counter()
            decode(searches[name], waveforms, together)
            taken.append(time.perf_counter() - started)
        print(
            f"{name}: in batches {taken[0]:.1f} s, real-time factor {taken[0] / audio:.3f}; "
            f"one by one {taken[1]:.1f} s, {taken[1] / taken[0]:.1f} times as long"
        )


if __name__ == "__main__":
    main()
