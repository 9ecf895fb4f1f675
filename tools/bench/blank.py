"""What skipping frames that are nearly all blank changes, and what it costs.

    python tools/bench/blank.py EXP MANIFEST [--lm word.lm --weights W.json]

1. The manifest decoded with `blank_skip` at its default and at 1 (no frame is skipped): the share
   of frames skipped, texts and lists that differ (bar: no best text), the largest difference of a
   best total. Weights as for `asr decode`.
2. Nanoseconds for each of a million frames that are all blank, after a second of speech (bar: the
   same at every beam).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from asr.data.audio import load as load_audio
from asr.data.manifest import Manifest
from asr.decoding.ctc_search import search
from asr.decoding.options import SearchOptions
from asr.transcriber import load

FRAMES = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--lm", type=Path, action="append", default=[])
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    transcriber = load(
        arguments.model, head="ctc", lm=arguments.lm, weights=arguments.weights, threads=1
    )
    outputs = [
        transcriber.outputs([load_audio(utterance, transcriber.sample_rate)]).log_probs(0)
        for utterance in Manifest.open(arguments.manifest)
    ]
    said = [log_probs for log_probs in outputs if log_probs is not None]
    default, shift = SearchOptions(), transcriber.frame_shift
    blank = np.exp(np.concatenate([log_probs[:, 0] for log_probs in said]))
    print(f"{len(said)} utterances, {(blank > default.blank_skip).mean():.1%} of frames skipped")
    for beam, nbest in ((20, 1), (100, 1), (100, 100)):
        options = SearchOptions(beam, nbest)
        some = [search(one, transcriber.fusion, options, shift) for one in said]
        never = replace(options, blank_skip=1.0)
        all_ = [search(one, transcriber.fusion, never, shift) for one in said]
        pairs = [*zip(some, all_, strict=True)]
        texts = sum(a[0].text != b[0].text for a, b in pairs)
        lists = sum([h.text for h in a] != [h.text for h in b] for a, b in pairs)
        most = max(abs(a[0].total - b[0].total) for a, b in pairs)
        print(
            f"beam {beam}, n-best {nbest}: {texts} texts and {lists} lists differ,"
            f" best totals by up to {most:.1e}"
        )
    silence = np.full((FRAMES, said[0].shape[1]), -20.0, np.float32)
    silence[:, 0] = 0.0
    speech = said[0][: round(1 / shift)]
    for beam in (20, 100, 1000):
        taken = []
        for part in (speech, np.concatenate([speech, silence])):
            started = time.perf_counter()
            search(part, transcriber.fusion, SearchOptions(beam), shift)
            taken.append(time.perf_counter() - started)
        print(f"beam {beam}: {1e9 * (taken[1] - taken[0]) / FRAMES:.0f} ns a frame of blank")


if __name__ == "__main__":
    main()
