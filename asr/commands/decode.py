"""`asr decode`: a manifest, or saved outputs of any toolkit, into an n-best file."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import click

from asr.commands.options import File, SearchArguments, as_command, open_transcriber
from asr.console import Skipped, Stopwatch, compiling, end_with_skipped, say, some, track
from asr.errors import InputError
from asr.hypothesis import NBest, merge_nbest, write_nbest

if TYPE_CHECKING:
    from asr.data.manifest import Manifest
    from asr.decoding.fusion import Fusion
    from asr.decoding.options import SearchOptions
    from asr.decoding.weights import LanguageModels
    from asr.outputs import Outputs
    from asr.training.distributed import Group
    from asr.transcriber import Transcriber

TOGETHER = 64  # saved outputs a thread that are handed to the threads at once


@as_command
def command(
    model: Path,
    output: Annotated[Path, "The n-best file.", "-o", "--output"],
    manifest: Path | None = None,
    nbest: Annotated[int, "Hypotheses an utterance."] = 1,
    save_outputs: Annotated[File, "Also write the CTC log-probabilities, as .npz."] = None,
    tokens: Annotated[File, "Of an OUTPUTS.npz: one a line, line 0 the blank."] = None,
    frame_shift: Annotated[float, "Seconds between frames of an OUTPUTS.npz."] = 0.04,
    **arguments: Unpack[SearchArguments],
) -> None:
    """Decode MANIFEST with a model or experiment folder MODEL.

    In place of MODEL and MANIFEST stands an OUTPUTS.npz, arrays (T, V) of natural
    log-probabilities under their utterance ids, with --tokens.

    Examples:
      asr decode exp/ctc data/manifest.test.jsonl -o test.jsonl --lm word.lm --weights W.json
      torchrun --nproc-per-node=4 -m asr decode exp/ctc data/manifest.test.jsonl -o test.jsonl
      asr decode outputs.npz --tokens tokens.txt -o test.jsonl --lm word.arpa --lm-weight 0.8
    """
    if model.suffix == ".npz":
        if manifest or save_outputs or not tokens:
            what = "an OUTPUTS.npz needs --tokens, and takes neither MANIFEST nor --save-outputs"
            raise click.UsageError(what)
        if arguments["device"] != "cpu" or arguments["head"] not in (None, "ctc"):
            what = "an OUTPUTS.npz is of a CTC head and decoded on the CPU"
            raise click.UsageError(f"{what}: leave out --head and --device")
        decode_file(model, tokens, output, nbest, frame_shift, arguments)
        return
    if manifest is None or tokens is not None:
        raise click.UsageError("a model needs a MANIFEST, an OUTPUTS.npz needs --tokens")
    from asr.data.manifest import Manifest
    from asr.training.distributed import joined

    with joined() as group:
        if group.size > 1 and save_outputs is not None:
            raise click.UsageError("--save-outputs is for one process only")
        utterances = Manifest.open(manifest)
        transcriber = open_transcriber(model, arguments, nbest)
        decode_manifest(transcriber, model, utterances, output, save_outputs, group)


def decode_manifest(
    transcriber: Transcriber, model: Path, whole: Manifest, output: Path, save: File, group: Group
) -> None:
    """Decode this process's share; the leader merges the shares in the order of the manifest."""
    from asr.models.folder import model_folder, model_hash
    from asr.outputs import write_tokens, written_outputs

    if save and not transcriber.recognizer.has_ctc:
        what = "the model has no CTC head, so there are no outputs"
        raise InputError(what, "--save-outputs", "Leave the option away.")
    if save and (save.suffix != ".npz" or save.with_suffix(".tokens.txt") == output):
        what = "is no name for outputs, or that of their tokens is the n-best file's"
        raise InputError(what, save, "Give another name that ends in .npz.")
    with compiling():
        transcriber.warm_up()
    share, watch = whole.share(group.rank, group.size), Stopwatch()
    meta: dict[str, Any] = {
        "model": str(model),
        "model_hash": model_hash(model_folder(model)),
        "head": transcriber.head,
        "manifest": {"path": str(whole.path), "hash": whole.hash, "split": whole.split},
        "normalizer": transcriber.tokenizer.normalizer.to_dict(),
        "tokenizer_hash": transcriber.tokenizer.hash,
        **describe_search(transcriber.fusion, transcriber.lms),
        "beam": transcriber.options.beam,
        "threads": transcriber.threads,
    }

    def results() -> Iterator[NBest]:
        decoded = transcriber.decode_utterances(share, watch)
        for result, log_probs in track(decoded, "decoding", total=len(share)):
            if log_probs is not None and not result.error:
                add(result.id, log_probs)
            yield result

    with written_outputs(save) as add:
        skipped = write_list(output, meta, results(), watch, whole, group)
    if save:
        write_tokens(save.with_suffix(".tokens.txt"), transcriber.tokenizer.pieces)
    if group.leader:
        end(len(whole), output, watch, skipped)


def write_list(
    output: Path,
    meta: dict[str, Any],
    results: Iterator[NBest],
    watch: Stopwatch,
    whole: Manifest | Outputs,
    group: Group | None = None,
) -> Skipped:
    """Write the n-best file of all processes; the utterances that are skipped, each with the
    reason. Raises InputError where these are all there are, and writes nothing."""
    skipped: Skipped = []

    def check_any() -> None:
        if len(skipped) == len(whole):
            raise InputError(f"no utterance can be decoded; first: {skipped[0][1]}", whole.path)

    def checked() -> Iterator[NBest]:
        for result in results:
            if result.error:
                skipped.append((result.id, result.error))
            yield result
        meta.update(asdict(watch))
        check_any()

    if group is None or group.size == 1:
        write_nbest(output, meta, checked())
        return skipped
    part = output.with_name(f".{output.name}.{group.rank}.part")
    write_nbest(part, meta, checked())
    skipped = group.union(skipped)
    check_any()
    watches, parts = group.gather(watch), group.gather(part)
    watch.audio_seconds = sum(each.audio_seconds for each in watches)
    watch.decode_seconds = max(each.decode_seconds for each in watches)
    if group.leader:
        merge_nbest(output, meta | asdict(watch), parts)
    return skipped


def end(number: int, output: Path, watch: Stopwatch, skipped: Skipped) -> None:
    took, audio = watch.decode_seconds, watch.audio_seconds
    factor = f", real-time factor {took / audio:.4f}" if audio else ""
    say(f"{number} utterances decoded in {took:.1f} s{factor} -> {output}")
    end_with_skipped(skipped, number)


def describe_search(fusion: Fusion, lms: LanguageModels) -> dict[str, Any]:
    """The part of the meta record that every n-best file has."""
    from asr.decoding.lexicon_search import LexiconFusion

    models, lists = lms.models.items(), {}
    if isinstance(fusion, LexiconFusion):
        lexicon, missing = fusion.lexicon, fusion.missing()
        lists["lexicon"] = {"path": lexicon.path, "hash": lexicon.hash, "lm_words": missing[:1000]}
        if missing:
            what = f"{len(missing)} words of the LM are not in {lexicon.path}, so never said"
            say(f"{what}: {some(missing)}")
    if hot := fusion.hotwords:
        lists["hotwords"] = {"path": hot.where, "hash": hot.hash}
    return {
        **lists,
        "weights": asdict(fusion.weights),
        "length": fusion.length_unit,
        "lms": {n: {"path": str(lm.path), "hash": lm.hash, "unit": lm.unit} for n, lm in models},
        "tuned_on": lms.tuned_on,
        "confidence": asdict(lms.calibration),
        "tokens": fusion.tokens,
    }


def decode_file(
    path: Path, tokens: Path, output: Path, nbest: int, shift: float, arguments: SearchArguments
) -> None:
    """Decode saved CTC outputs; needs no torch."""
    import numpy as np

    from asr.confidence import annotate
    from asr.decoding.ctc_decoder import check_frame_shift
    from asr.decoding.ctc_search import search
    from asr.outputs import Outputs

    check_frame_shift(shift, "--frame-shift")
    fusion, lms, options = open_search(tokens, nbest, arguments)
    outputs, watch = Outputs(path), Stopwatch()
    threads = arguments["threads"] or os.cpu_count() or 1
    meta: dict[str, Any] = {"outputs": str(path), "head": "ctc", **describe_search(fusion, lms)}
    meta |= {"beam": options.beam, "threads": threads}
    with compiling():
        size = len(fusion.tokens)
        search(np.full((10, size), -math.log(size)), fusion, options, shift)

    def decode(name: str) -> tuple[NBest, float]:
        """Of one utterance, and its seconds of audio."""
        try:
            log_probs = outputs.read(name)
            found = search(log_probs, fusion, options, shift)
        except InputError as error:
            return NBest(name, [], str(error)), 0.0
        if options.beam > 1:
            annotate(found, lms.calibration)
        return NBest(name, found[:nbest]), len(log_probs) * shift

    def in_threads() -> Iterator[tuple[NBest, float]]:
        with ThreadPoolExecutor(threads) as pool:
            for begin in range(0, len(outputs), TOGETHER * threads):
                yield from pool.map(decode, outputs.ids[begin : begin + TOGETHER * threads])

    def results() -> Iterator[NBest]:
        started = time.perf_counter()
        for result, seconds in track(in_threads(), "decoding", total=len(outputs)):
            watch.audio_seconds += seconds
            yield result
        watch.decode_seconds = time.perf_counter() - started

    skipped = write_list(output, meta, results(), watch, outputs)
    end(len(outputs), output, watch, skipped)


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
    weights = replace(lms.weights, ctc=lms.weights.ctc or 1.0)
    fusion = make_fusion(
        read_tokens(tokens),
        lms.models,
        weights,
        lexicon=arguments["lexicon"],
        hotwords=arguments["hotwords"],
    )
    beam = lms.beam if arguments["beam"] is None else arguments["beam"]
    options = SearchOptions(beam, nbest)
    return fusion, lms, replace(options, nbest=enough(nbest, beam))
