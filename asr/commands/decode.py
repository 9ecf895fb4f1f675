"""`asr decode`: a manifest, or saved outputs of any toolkit, into an n-best file."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import click

from asr.commands.lazy import Command
from asr.commands.options import (
    FILE,
    SearchArguments,
    machine_options,
    open_transcriber,
    search_options,
)
from asr.console import Stopwatch, compiling, end_with_skipped, say, track
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.data.manifest import Manifest
    from asr.decoding.fusion import Fusion
    from asr.decoding.options import SearchOptions
    from asr.decoding.weights import LanguageModels
    from asr.hypothesis import NBest
    from asr.training.distributed import Group
    from asr.transcriber import Transcriber

Result = TypeVar("Result")


@click.command(cls=Command)
@click.argument("model", type=FILE)
@click.argument("manifest", type=FILE, required=False)
@click.option("-o", "--output", type=FILE, required=True, help="The n-best file.")
@click.option("--nbest", default=1, show_default=True, help="Hypotheses an utterance.")
@search_options
@click.option("--save-outputs", type=FILE, help="Also write the CTC log-probabilities, as .npz.")
@click.option("--tokens", type=FILE, help="Of an OUTPUTS.npz: one a line, line 0 the blank.")
@click.option("--frame-shift", default=0.04, help="Seconds between frames of an OUTPUTS.npz.")
@machine_options
def command(
    model: Path,
    manifest: Path | None,
    output: Path,
    nbest: int,
    save_outputs: Path | None,
    tokens: Path | None,
    frame_shift: float,
    device: str,
    threads: int | None,
    **arguments: Unpack[SearchArguments],
) -> None:
    """Decode MANIFEST with a model or experiment folder MODEL.

    In place of MODEL and MANIFEST stands an OUTPUTS.npz, arrays (T, V) of natural
    log-probabilities under their utterance ids, with --tokens.

    \b
    Examples:
      asr decode exp/ctc data/manifest.test.jsonl -o greedy.jsonl --beam 1
      asr decode exp/las data/manifest.dev.jsonl -o dev.jsonl --lm word.lm --nbest 100
      asr decode exp/ctc data/manifest.test.jsonl -o test.jsonl --lm word.lm --weights W.json
      asr decode exp/phones data/manifest.test.jsonl -o test.jsonl --lexicon cmudict.dict
      torchrun --nproc-per-node=4 -m asr decode exp/ctc data/manifest.test.jsonl -o test.jsonl
      asr decode outputs.npz --tokens tokens.txt -o test.jsonl --lm word.arpa --lm-weight 0.8
    """
    if model.suffix == ".npz":
        if manifest is not None or save_outputs is not None:
            raise click.UsageError("an OUTPUTS.npz takes neither MANIFEST nor --save-outputs")
        if tokens is None:
            raise click.UsageError("an OUTPUTS.npz needs --tokens tokens.txt")
        if device != "cpu" or arguments["head"] not in (None, "ctc"):
            what = "an OUTPUTS.npz is of a CTC head and decoded on the CPU"
            raise click.UsageError(f"{what}: leave out --head and --device")
        decode_file(model, tokens, output, nbest, frame_shift, threads, arguments)
        return
    if manifest is None:
        raise click.UsageError("Missing argument 'MANIFEST'")
    if tokens is not None:
        raise click.UsageError("--tokens goes with an OUTPUTS.npz")
    from asr.data.manifest import Manifest
    from asr.training.distributed import joined

    with joined() as group:
        if group.size > 1 and save_outputs is not None:
            raise click.UsageError("--save-outputs is for one process only")
        utterances = Manifest.open(manifest)
        transcriber = open_transcriber(model, device, threads, nbest, arguments)
        decode_manifest(transcriber, model, utterances, output, save_outputs, group)


def decode_manifest(
    transcriber: Transcriber,
    model: Path,
    utterances: Manifest,
    output: Path,
    save_outputs: Path | None,
    group: Group,
) -> None:
    """Decode this process's share; the leader merges the shares in the order of the manifest."""
    from asr.hypothesis import merge_nbest, write_nbest
    from asr.models.folder import model_folder, model_hash
    from asr.outputs import OutputsWriter, write_tokens

    share = utterances.share(group.rank, group.size)
    if save_outputs and not transcriber.recognizer.has_ctc:
        what = "the model has no CTC head, so there are no outputs"
        raise InputError(what, "--save-outputs", "Leave the option away.")
    with compiling():
        transcriber.warm_up()
    skipped: list[tuple[str, str]] = []
    stopwatch = Stopwatch()
    meta: dict[str, Any] = {
        "model": str(model),
        "model_hash": model_hash(model_folder(model)),
        "head": transcriber.head,
        "manifest": describe_manifest(utterances),
        "normalizer": transcriber.tokenizer.normalizer.to_dict(),
        "tokenizer_hash": transcriber.tokenizer.hash,
        **describe_search(transcriber.fusion, transcriber.lms),
        "beam": transcriber.options.beam,
        "threads": transcriber.threads,
    }

    def results() -> Iterator[NBest]:
        decoded = transcriber.decode_utterances(share, stopwatch)
        with OutputsWriter(save_outputs) as outputs:
            for result, log_probs in track(decoded, "decoding", total=len(share)):
                if result.error:
                    skipped.append((result.id, result.error))
                elif log_probs is not None:
                    outputs.add(result.id, log_probs)
                yield result
            meta.update(asdict(stopwatch))
            check_any(skipped, utterances)

    if group.size == 1:
        write_nbest(output, meta, results())
    else:
        part = output.with_name(f".{output.name}.{group.rank}.part")
        write_nbest(part, meta, results())
        skipped = group.union(skipped)
        check_any(skipped, utterances)
        watches = group.gather(stopwatch)
        stopwatch.audio_seconds = sum(watch.audio_seconds for watch in watches)
        stopwatch.decode_seconds = max(watch.decode_seconds for watch in watches)
        parts = group.gather(part)
        if not group.leader:
            return
        merge_nbest(output, meta | asdict(stopwatch), parts)
    if save_outputs:
        write_tokens(save_outputs.with_suffix(".tokens.txt"), transcriber.tokenizer.pieces)
    tell(len(utterances), output, stopwatch)
    end_with_skipped(skipped, len(utterances))


def check_any(skipped: list[tuple[str, str]], utterances: Manifest) -> None:
    """InputError where all are skipped."""
    if len(skipped) == len(utterances):
        what = f"no utterance can be decoded; first: {skipped[0][1]}"
        raise InputError(what, utterances.path)


def tell(count: int, output: Path, stopwatch: Stopwatch) -> None:
    seconds, audio = stopwatch.decode_seconds, stopwatch.audio_seconds
    factor = f", real-time factor {seconds / audio:.4f}" if audio else ""
    say(f"{count} utterances decoded in {seconds:.1f} s{factor} -> {output}")


def describe_manifest(manifest: Any) -> dict[str, Any]:
    return {"path": str(manifest.path), "hash": manifest.hash, "split": manifest.split}


def describe_search(fusion: Fusion, lms: LanguageModels) -> dict[str, Any]:
    """The part of the meta record that every n-best file has."""
    from asr.decoding.lexicon_search import LexiconFusion

    lists: dict[str, Any] = {}
    if isinstance(fusion, LexiconFusion):
        lexicon, missing = fusion.lexicon, fusion.missing()
        lists["lexicon"] = {"path": lexicon.path, "hash": lexicon.hash, "lm_words": missing[:1000]}
        if missing:
            shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            say(f"{len(missing)} words of the LM are not in {lexicon.path}, so never said: {shown}")
    if fusion.hotwords:
        lists["hotwords"] = {"path": fusion.hotwords.where, "hash": fusion.hotwords.hash}
    return {
        **lists,
        "weights": asdict(fusion.weights),
        "length": fusion.length_unit,
        "lms": {
            name: {"path": str(lm.path), "hash": lm.hash, "unit": lm.unit}
            for name, lm in lms.models.items()
        },
        "tuned_on": lms.tuned_on,
        "confidence": asdict(lms.calibration),
        "tokens": fusion.tokens,
    }


def decode_file(
    path: Path,
    tokens: Path,
    output: Path,
    nbest: int,
    frame_shift: float,
    threads: int | None,
    arguments: SearchArguments,
) -> None:
    """Decode saved CTC outputs; needs no torch."""
    import numpy as np

    from asr.confidence import annotate
    from asr.decoding.ctc_search import search
    from asr.hypothesis import NBest, write_nbest
    from asr.outputs import Outputs

    if not 0 < frame_shift < math.inf:
        what = f"is {frame_shift}; it must be above 0 and finite"
        raise InputError(what, "--frame-shift", "Give the seconds between two frames.")
    fusion, lms, options = open_search(tokens, nbest, arguments)
    outputs = Outputs(path)
    threads = threads or os.cpu_count() or 1
    meta: dict[str, Any] = {
        "outputs": str(path),
        "head": "ctc",
        **describe_search(fusion, lms),
        "beam": options.beam,
        "threads": threads,
    }
    with compiling():
        size = len(fusion.tokens)
        search(np.full((10, size), -math.log(size)), fusion, options, frame_shift)
    skipped: list[tuple[str, str]] = []
    stopwatch = Stopwatch()

    def decode(name: str) -> tuple[NBest, float]:
        """Of one utterance, and its seconds of audio."""
        try:
            log_probs = outputs.read(name)
            found = search(log_probs, fusion, options, frame_shift)
        except InputError as error:
            return NBest(name, [], str(error)), 0.0
        if options.beam > 1:
            annotate(found, lms.calibration)
        return NBest(name, found[:nbest]), len(log_probs) * frame_shift

    def results() -> Iterator[NBest]:
        started = time.perf_counter()
        decoded = in_threads(decode, outputs.ids, threads)
        for result, seconds in track(decoded, "decoding", total=len(outputs)):
            if result.error:
                skipped.append((result.id, result.error))
            stopwatch.audio_seconds += seconds
            yield result
        stopwatch.decode_seconds = time.perf_counter() - started
        meta.update(asdict(stopwatch))
        if len(skipped) == len(outputs):
            raise InputError(f"no utterance can be decoded; first: {skipped[0][1]}", path)

    write_nbest(output, meta, results())
    tell(len(outputs), output, stopwatch)
    end_with_skipped(skipped, len(outputs))


def open_search(
    tokens: Path, nbest: int, arguments: SearchArguments
) -> tuple[Fusion, LanguageModels, SearchOptions]:
    """What the shared options say of a search over saved outputs."""
    from asr.confidence import enough
    from asr.decoding.ctc_decoder import read_tokens
    from asr.decoding.lexicon_search import make_fusion
    from asr.decoding.options import SearchOptions
    from asr.decoding.weights import open_lms

    lms = open_lms(
        arguments["lm"],
        units=arguments["lm_unit"],
        lm_weights=arguments["lm_weight"],
        bonus=arguments["length_bonus"],
        unk_penalty=arguments["unk_penalty"],
        weights_file=arguments["weights"],
    )
    if lms.weights.att:
        what = "has a weight for the score of attention (att), which saved outputs lack"
        raise InputError(what, arguments["weights"], "Tune on a list decoded from such outputs.")
    fusion = make_fusion(
        read_tokens(tokens),
        lms.models,
        replace(lms.weights, ctc=lms.weights.ctc or 1.0),
        lexicon=arguments["lexicon"],
        hotwords=arguments["hotwords"],
    )
    beam = arguments["beam"]
    options = SearchOptions(nbest=nbest) if beam is None else SearchOptions(beam, nbest)
    return fusion, lms, replace(options, nbest=enough(nbest, options.beam))


def in_threads(
    work: Callable[[str], Result], names: Iterable[str], threads: int
) -> Iterator[Result]:
    """`work` of each name, in order; at most a few results a thread wait to be taken."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for name in names:
            waiting.append(pool.submit(work, name))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
