"""From audio to hypotheses: a model, a search, and language models. What commands and Python use.

>>> transcriber = asr.load("exp/my", lm="data/word.lm")
>>> hypothesis = transcriber.transcribe("talk.wav")
>>> for word in transcriber.align("talk.wav", "what was said"):
...     assert word.start < word.end
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from asr.confidence import annotate, enough
from asr.console import Stopwatch
from asr.data.audio import load as load_audio
from asr.data.audio import read_audio, read_blocks
from asr.data.manifest import Utterance
from asr.data.segment import OVERLAP, VAD, Place
from asr.decoding import ctc_search, las_search
from asr.decoding.align import Pauses, word_times
from asr.decoding.hotwords import Phrases
from asr.decoding.lexicon_search import LexiconFusion, make_fusion, place_words
from asr.decoding.options import SearchOptions
from asr.decoding.recording import (
    Event,
    Recording,
    Transcript,
    decode_recordings,
    stitched_outputs,
)
from asr.decoding.weights import LanguageModels
from asr.errors import AudioError, InputError, nearest
from asr.hypothesis import Hypothesis, NBest, Weights, Word
from asr.lm.lexicon import Words
from asr.models.recognizer import Recognizer
from asr.text.tokenizer import Tokenizer

HEADS = ("ctc", "las", "joint")
JOINT_WEIGHT = 0.3  # of the CTC score beside attention's 0.7, where no weights file says otherwise
WINDOW = 512  # utterances sorted by length and decoded together; bounds memory
BATCH_SECONDS = 60.0  # of audio a batch, padding included
AT_ONCE = 8  # most batches decoded at the same time; bounds memory

Samples = NDArray[np.float32]
Audio: TypeAlias = str | Path | Samples
AnyAudio = TypeVar("AnyAudio", bound=Audio)
Result = TypeVar("Result")


class Outputs(NamedTuple):
    """What the networks say about B waveforms: T states of D numbers, V tokens."""

    states: torch.Tensor  # (B, T, D)
    lengths: torch.Tensor  # (B,)
    ctc: torch.Tensor | None  # (B, T, V) natural logs, on the CPU; None without a CTC head
    pauses: list[Pauses]

    def log_probs(self, row: int) -> Samples | None:
        """The CTC outputs of one utterance, (T, V)."""
        if self.ctc is None:
            return None
        probs: Samples = self.ctc[row, : int(self.lengths[row])].numpy()
        return probs


class Transcriber:
    """Decodes waveforms with one head of a model; see `load`."""

    def __init__(
        self,
        recognizer: Recognizer,
        tokenizer: Tokenizer,
        *,
        head: str | None = None,
        options: SearchOptions | None = None,
        lms: LanguageModels | None = None,
        lexicon: Words | None = None,
        hotwords: Phrases | None = None,
        vad: VAD | None = None,
        threads: int | None = None,
    ) -> None:
        self.vad = vad
        self.recognizer, self.tokenizer = recognizer, tokenizer
        self.options = options or SearchOptions()
        self.threads = threads or torch.get_num_threads()  # torchrun's processes have one each
        self.lms = lms or LanguageModels({}, Weights())
        weights = self.lms.weights
        self.head = choose_head(recognizer, head, weights)
        if not weights.ctc and not weights.att:
            ctc = {"ctc": 1.0, "las": 0.0, "joint": JOINT_WEIGHT}[self.head]
            weights = replace(weights, ctc=ctc, att=1.0 - ctc)
        self.weights = weights
        for lm in self.lms.models.values():
            lm.check_fits(tokenizer)
        for given, name in ((lexicon, "--lexicon"), (hotwords, "--hotwords")):
            if given and self.head != "ctc":
                what = f"the search of the head '{self.head}' does not take it"
                raise InputError(what, name, "Use --head ctc.")
        self.fusion = make_fusion(
            tokenizer.pieces,
            self.lms.models,
            weights,
            lexicon=lexicon,
            hotwords=hotwords,
            normalize=tokenizer.normalizer,
        )

    @property
    def sample_rate(self) -> int:
        return self.recognizer.options.sample_rate

    @torch.inference_mode()
    def outputs(self, waveforms: Sequence[Samples]) -> Outputs:
        """Run the networks over a batch of waveforms (N,) at the model's sample rate."""
        device = next(self.recognizer.parameters()).device
        lengths = torch.tensor([len(w) for w in waveforms])
        samples = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in zip(samples, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        states, frames = self.recognizer.encode(samples.to(device), lengths.to(device))
        ctc = self.recognizer.ctc_log_probs(states).float().cpu() if self.has_ctc else None
        pauses = [Pauses(waveform, self.sample_rate) for waveform in waveforms]
        return Outputs(states, frames.cpu(), ctc, pauses)

    @torch.inference_mode()
    def search(self, outputs: Outputs, threads: int | None = None) -> list[list[Hypothesis]]:
        """n-best hypotheses of each utterance, best first, with word times and confidences.

        The list of an utterance whose outputs are NaN is empty.
        """
        rows, beam, nbest = range(len(outputs.lengths)), self.options.beam, self.options.nbest
        options = replace(self.options, nbest=enough(nbest, beam))
        if self.head == "ctc":
            every = {row: p for row in rows if (p := outputs.log_probs(row)) is not None}
            usable = {row: p for row, p in every.items() if not np.isnan(p).any()}
            lists = ctc_search.search_batch(
                usable.values(), self.fusion, options, threads or self.threads, self.frame_shift
            )
            by_row = dict(zip(usable, lists, strict=True))
            found = [by_row.get(row, []) for row in rows]
        else:
            found = las_search.search(
                self.recognizer,
                outputs.states,
                outputs.lengths,
                self.fusion,
                options,
                self.tokenizer.pieces,
                outputs.ctc,
            )
        for row in rows:
            log_probs = outputs.log_probs(row)
            for hypothesis in found[row][:nbest]:
                if log_probs is None:
                    break
                if isinstance(self.fusion, LexiconFusion):
                    place_words(hypothesis, self.frame_shift, outputs.pauses[row])
                    continue
                # CTC places words better than attention does, where it can align them at all
                with suppress(InputError):
                    hypothesis.words = self.word_times(
                        hypothesis.tokens, log_probs, outputs.pauses[row]
                    )
            if beam > 1:
                annotate(found[row], self.lms.calibration)
            del found[row][nbest:]
        return found

    def word_times(self, tokens: Sequence[int], log_probs: Samples, pauses: Pauses) -> list[Word]:
        """Words of known tokens with their times, by the CTC outputs (T, V) and the pauses."""
        return word_times(tokens, self.fusion.inventory, log_probs, self.frame_shift, pauses)

    @property
    def has_ctc(self) -> bool:
        return self.recognizer.has_ctc

    @property
    def frame_shift(self) -> float:
        """Seconds between states."""
        return self.recognizer.frame_shift

    def decode(self, waveforms: Sequence[Samples]) -> list[list[Hypothesis]]:
        """n-best hypotheses of each waveform (N,), float32 in [-1, 1] at `sample_rate`."""
        return self.search(self.outputs(waveforms)) if waveforms else []

    def decode_many(self, waveforms: Sequence[Samples]) -> list[list[Hypothesis]]:
        """As `decode`, of any number of waveforms."""
        found = self._in_batches(self._decode, enumerate(waveforms))
        return [nbest for _, (nbest, _) in sorted(found, key=lambda item: item[0])]

    def _decode(
        self, waveforms: Sequence[Samples], threads: int
    ) -> list[tuple[list[Hypothesis], Samples | None]]:
        """The n-best list and the CTC outputs of each waveform."""
        outputs = self.outputs(waveforms)
        found = self.search(outputs, threads)
        return [(nbest, outputs.log_probs(row)) for row, nbest in enumerate(found)]

    def _in_batches(
        self,
        function: Callable[[Sequence[Samples], int], list[Result]],
        waveforms: Iterable[tuple[int, Samples]],
    ) -> Iterator[tuple[int, Result]]:
        """What `function` makes of each (number, waveform), in batches of similar lengths.

        On a CPU several batches at once, on a share of the threads each: threads that divide a
        matrix product wait for each other at its end, and then a second program, which keeps one of
        them waiting, makes decoding a hundred times as slow.
        """
        groups = list(batches(list(waveforms), BATCH_SECONDS * self.sample_rate))
        on_cpu = next(self.recognizer.parameters()).device.type == "cpu"
        workers = max(1, min(self.threads, AT_ONCE, len(groups))) if on_cpu else 1
        share, before = self.threads // workers, torch.get_num_threads()

        def work(batch: list[tuple[int, Samples]]) -> list[Result]:
            if on_cpu:
                torch.set_num_threads(share)  # of this thread, but MKL's of all
            return function([samples for _, samples in batch], share)

        pool = ThreadPoolExecutor(workers, "decodes")
        try:
            for batch, found in zip(groups, pool.map(work, groups), strict=True):
                yield from zip((number for number, _ in batch), found, strict=True)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)

    @overload
    def transcribe(self, source: Audio) -> Hypothesis: ...
    @overload
    def transcribe(self, source: list[AnyAudio]) -> list[Hypothesis]: ...
    @overload
    def transcribe(self, source: Iterator[AnyAudio]) -> Iterator[Hypothesis]: ...
    def transcribe(
        self, source: Audio | list[AnyAudio] | Iterator[AnyAudio]
    ) -> Hypothesis | list[Hypothesis] | Iterator[Hypothesis]:
        """The transcript of a recording of any length, with the words' times.

        source: an audio or video file, or samples (N,) at the model's `sample_rate`; a list of
        these gives a list, a generator a generator. Raises AudioError for audio that is unusable.
        """
        if isinstance(source, list):
            return list(self._transcripts(source))
        if isinstance(source, Iterator):
            return self._transcripts(source)
        return next(self._transcripts([source]))

    def align(self, source: Audio, text: str) -> list[Word]:
        """When each word of a known text was said, in seconds, by the CTC head.

        source: as in `transcribe`. Raises InputError where the model has no CTC head or cannot
        write the text, or where the audio is too short for it; AudioError for audio that is
        unusable.
        """
        samples = np.concatenate([*self.recording(source).read(0)])
        return self.align_tokens(samples, self.spell(text))[0]

    def align_tokens(self, samples: Samples, tokens: Sequence[int]) -> tuple[list[Word], Samples]:
        """As `align`, for samples (N,) and tokens; the CTC outputs (T, V) too."""
        if not self.has_ctc:
            what = "a model without CTC head cannot align"
            raise InputError(what, None, "Train with model.ctc_weight above 0.")
        rate = self.sample_rate
        log_probs = stitched_outputs(
            samples, rate, round(self.frame_shift * rate), self._ctc_outputs, self.vad
        )
        return self.word_times(tokens, log_probs, Pauses(samples, rate)), log_probs

    def _ctc_outputs(self, waveforms: Sequence[Samples]) -> list[Samples]:
        def network(batch: Sequence[Samples], threads: int) -> list[Samples | None]:
            outputs = self.outputs(batch)
            return [outputs.log_probs(row) for row in range(len(batch))]

        found = sorted(self._in_batches(network, enumerate(waveforms)), key=lambda item: item[0])
        return [log_probs for _, log_probs in found if log_probs is not None]

    def spell(self, text: str | None) -> list[int]:
        """The tokens of a text. Raises InputError where there are none, or not for all of it."""
        if not isinstance(text, str | None):
            what = f"the text is {type(text).__name__}, no string"
            raise InputError(what, None, "Give what was said as one string.")
        if unknown := self.tokenizer.unknown(text or ""):
            what = f"cannot be written with the model's tokens: {' '.join(unknown)}"
            raise InputError(what, None, "Leave these out, or write them in other characters.")
        tokens = self.tokenizer.encode(text or "")
        if not tokens:
            raise InputError("has no text", None, "Give what was said.")
        return tokens

    def _transcripts(self, sources: Iterable[Audio]) -> Iterator[Hypothesis]:
        transcript = Transcript()
        for event in self.decode_recordings(map(self.recording, sources)):
            if event.error is not None:
                raise event.error
            if event.part is not None:
                transcript.parts.append(event.part)
            else:
                yield transcript.hypothesis()
                transcript = Transcript()

    def recording(self, source: Audio, place: Place | None = None) -> Recording:
        """A recording as `decode_recordings` takes it, from a place on."""
        if isinstance(source, np.ndarray):
            if not np.issubdtype(source.dtype, np.floating):
                what = f"samples of the type {source.dtype}, where full scale is 1.0"
                raise AudioError(what, None, "Give floats (int16: samples / 32768).")
            if source.ndim != 1:
                what = f"samples of the shape {source.shape}, not (N,)"
                raise AudioError(what, None, "Give one channel, or the mean of all.")
            samples = np.ascontiguousarray(source, np.float32)
            if not np.isfinite(samples).all():
                raise AudioError(
                    "samples that are not numbers (NaN or infinite)", None, "Mend them."
                )
            return Recording(lambda begin: [samples[begin:]], place or Place())
        if not isinstance(source, str | Path):
            what = f"{type(source).__name__} is neither a path nor a numpy array of samples (N,)"
            remedy = (
                f"Give a path, an array at {self.sample_rate} Hz, a list or a generator of these."
            )
            raise AudioError(what, None, remedy)
        return Recording(partial(read_blocks, source, self.sample_rate), place or Place())

    def decode_recordings(self, recordings: Iterable[Recording]) -> Iterator[Event]:
        """The parts of recordings as they are decoded; see asr.decoding.recording."""
        overlap = OVERLAP if self.has_ctc else 0.0  # words are joined by their times
        return decode_recordings(recordings, self.decode_many, self.sample_rate, overlap, self.vad)

    def warm_up(self) -> None:
        """Run everything once, so that compiling is not part of what is timed next."""
        noise = np.random.default_rng(0).standard_normal(self.sample_rate, np.float32)
        self.decode([noise * 0.1])

    def read(self, audio: str | Path) -> Samples:
        return read_audio(audio, self.sample_rate)

    def decode_utterances(
        self, utterances: Sequence[Utterance], stopwatch: Stopwatch
    ) -> Iterator[tuple[NBest, Samples | None]]:
        """NBest of every utterance in the order given, and its CTC outputs where there are any.

        Unusable audio or outputs give an NBest with an error. `stopwatch` adds up audio and
        decoding time.
        """
        for begin in range(0, len(utterances), WINDOW):
            window = [utterances[i] for i in range(begin, min(begin + WINDOW, len(utterances)))]
            results: dict[int, tuple[NBest, Samples | None]] = {}
            readable: list[tuple[int, Samples]] = []
            started = time.perf_counter()
            for index, utterance in enumerate(window):
                try:
                    readable.append((index, load_audio(utterance, self.sample_rate)))
                except AudioError as error:
                    results[index] = NBest(utterance.id, [], str(error)), None
            for index, (found, log_probs) in self._in_batches(self._decode, readable):
                wrong = None if found else "the network's outputs are not numbers"
                results[index] = NBest(window[index].id, found, wrong), log_probs
            stopwatch.decode_seconds += time.perf_counter() - started
            stopwatch.audio_seconds += sum(len(s) for _, s in readable) / self.sample_rate
            for index in range(len(window)):
                yield results[index]


def batches(
    waveforms: Sequence[tuple[int, Samples]], most: float
) -> Iterator[list[tuple[int, Samples]]]:
    """Waveforms sorted by length in batches of at most `most` samples, padding included."""
    batch: list[tuple[int, Samples]] = []
    for item in sorted(waveforms, key=lambda item: len(item[1])):
        if batch and len(item[1]) * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def choose_head(recognizer: Recognizer, head: str | None, weights: Weights) -> str:
    """The head to decode with: the one asked for, that of tuned weights, else the speller first."""
    there = {"ctc": recognizer.has_ctc, "las": recognizer.has_speller}
    there["joint"] = all(there.values())
    tuned = None
    if weights.ctc or weights.att:
        tuned = "joint" if weights.ctc and weights.att else "las" if weights.att else "ctc"
    if tuned and not there[tuned]:
        what = f"the weights are for the head '{tuned}', which the model lacks"
        raise InputError(what, "--weights", "Tune with n-best lists of this model.")
    if head is None:
        return tuned or ("las" if there["las"] else "ctc")
    if head not in HEADS:
        raise InputError(f"no head '{head}'", "--head", nearest(head, HEADS))
    if not there[head]:
        other = next(name for name in HEADS if there[name])
        missing = "not both heads" if head == "joint" else f"no {head} head"
        raise InputError(f"the model has {missing}", "--head", f"Use --head {other}.")
    if head != "joint" and tuned not in (None, head):
        raise InputError(f"the weights are for the head '{tuned}'", "--head", "Leave it out.")
    return head
