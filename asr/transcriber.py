"""From audio to hypotheses: a model, a search, and language models. What commands and Python use.

>>> transcriber = asr.load("exp/my", lm="data/word.lm")
>>> hypothesis = transcriber.transcribe("talk.wav")
>>> for word in transcriber.align("talk.wav", "what was said"):
...     assert word.start < word.end
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
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
from asr.data.segment import OVERLAP, Place, SileroVAD
from asr.decoding import ctc_search, las_search
from asr.decoding.align import Pauses, word_times
from asr.decoding.hotwords import Phrases
from asr.decoding.lexicon_search import LexiconFusion, make_fusion, place_words
from asr.decoding.options import JOINT_WEIGHT, SearchOptions
from asr.decoding.recording import Event, Recording, Transcript, stitched_outputs
from asr.decoding.recording import decode_recordings as decoded
from asr.decoding.weights import open_lms
from asr.errors import AudioError, InputError, nearest
from asr.hypothesis import Hypothesis, NBest, Weights, Word
from asr.lm.lexicon import Words
from asr.models.folder import model_folder
from asr.models.recognizer import Recognizer
from asr.text.tokenizer import Tokenizer

HEADS = ("ctc", "las", "joint")
WINDOW = 512  # utterances sorted by length and decoded together; bounds memory
BATCH_SECONDS = 60.0  # of audio a batch, padding included
LAS_SECONDS = 160.0  # with an LAS search, whose steps cost as much for few hypotheses as for many
AT_ONCE = 8  # most batches decoded at the same time; bounds memory

Samples = NDArray[np.float32]
Audio: TypeAlias = str | Path | Samples
AnyAudio = TypeVar("AnyAudio", bound=Audio)
Numbered: TypeAlias = tuple[int, Samples]
Result: TypeAlias = tuple[list[Hypothesis], Samples | None]  # n-best list, CTC outputs (T, V)


class Outputs(NamedTuple):
    """What the networks say about B waveforms: T states of D numbers, V tokens."""

    states: torch.Tensor  # (B, T, D)
    lengths: torch.Tensor  # (B,)
    ctc: torch.Tensor | None  # (B, T, V) natural logs, on the CPU; None without a CTC head
    pauses: list[Pauses]

    def log_probs(self, row: int) -> Samples | None:
        """The CTC outputs of one utterance, (T, V)."""
        return None if self.ctc is None else self.ctc[row, : int(self.lengths[row])].numpy()


class Transcriber:
    """A model or experiment folder, a search and language models; `asr.load` makes one.

    lm: files of `asr lm train`, or ARPA, whose lm_unit is "word" unless "token" is said; lm_weight
    one for each (default 0.5); length_bonus for each word; unk_penalty for each letter of a word
    that the LM does not know (default -0.5); weights: a file of `asr tune` instead of these.
    lexicon: the only words to output, a file or a list; hotwords: a file, a list, or
    {phrase: bonus}.
    vad: "silero" finds speech in long recordings by a network (package silero-vad), not by levels.
    Raises InputError where a file is missing, broken, or does not belong to the model.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        head: str | None = None,
        beam: int | None = None,
        nbest: int = 1,
        lm: Path | str | Sequence[Path | str] = (),
        lm_unit: str | Sequence[str] = (),
        lm_weight: float | Sequence[float] = (),
        length_bonus: float = 0.0,
        unk_penalty: float | None = None,
        weights: Path | str | None = None,
        lexicon: Words | None = None,
        hotwords: Phrases | None = None,
        vad: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        path = model_folder(folder)
        self.recognizer, self.tokenizer = Recognizer.load(path, device), Tokenizer.load(path)
        model, tokenizer = self.recognizer, self.tokenizer
        tokenizer.check_belongs(model.vocabulary, model.tokenizer_hash, path)
        self.lms = open_lms(
            [lm] if isinstance(lm, str | Path) else lm,
            units=[lm_unit] if isinstance(lm_unit, str) else lm_unit,
            lm_weights=[lm_weight] if isinstance(lm_weight, int | float) else lm_weight,
            bonus=length_bonus,
            unk_penalty=unk_penalty,
            weights_file=weights,
        )
        self.options = SearchOptions(self.lms.beam if beam is None else beam, nbest)
        if vad not in (None, "silero"):
            raise InputError(f"no detector '{vad}'", "vad", "There is 'silero'.")
        self.vad = SileroVAD() if vad else None
        if threads is not None and threads < 1:
            raise InputError(f"is {threads}, not 1 or more", "threads", "None is all cores.")
        self.threads = threads or torch.get_num_threads()  # torchrun's processes have one each
        self.has_ctc, self.frame_shift = model.has_ctc, model.frame_shift
        self.sample_rate = model.options.sample_rate
        self.head, own = choose_head(model, head, self.lms.weights), self.lms.weights
        if not own.ctc and not own.att:
            ctc = {"ctc": 1.0, "las": 0.0, "joint": JOINT_WEIGHT}[self.head]
            own = replace(own, ctc=ctc, att=1.0 - ctc)
        for one in self.lms.models.values():
            one.check_fits(tokenizer)
        for given, name in ((lexicon, "--lexicon"), (hotwords, "--hotwords")):
            if given and self.head != "ctc":
                what = f"the search of the head '{self.head}' does not take it"
                raise InputError(what, name, "Use --head ctc.")
        fusion = partial(make_fusion, tokenizer.pieces, self.lms.models, own)
        self.fusion = fusion(lexicon=lexicon, hotwords=hotwords, normalize=tokenizer.normalizer)

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
        """n-best hypotheses of each utterance, best first, with word times and confidences; none of
        one whose outputs are NaN."""
        beam, nbest, shift = self.options.beam, self.options.nbest, self.frame_shift
        options = replace(self.options, nbest=enough(nbest, beam))
        ctc = [outputs.log_probs(row) for row in range(len(outputs.lengths))]
        if self.head == "ctc":
            usable = {i: p for i, p in enumerate(ctc) if p is not None and not np.isnan(p).any()}
            waiting = usable.values(), self.fusion, options, threads or self.threads, shift
            lists = dict(zip(usable, ctc_search.search_batch(*waiting), strict=True))
            found = [lists.get(row, []) for row in range(len(ctc))]
        else:
            pieces, states, lengths = self.tokenizer.pieces, outputs.states, outputs.lengths
            found = las_search.search(
                self.recognizer, states, lengths, self.fusion, options, pieces, outputs.ctc
            )
        for ranked, log_probs, pauses in zip(found, ctc, outputs.pauses, strict=True):
            for hypothesis in ranked[:nbest]:
                if self.head != "ctc":
                    inventory = self.fusion.inventory
                    hypothesis.words = las_search.attended_words(hypothesis, inventory, shift)
                if log_probs is None:
                    continue
                if isinstance(self.fusion, LexiconFusion):
                    place_words(hypothesis, shift, pauses)
                    continue
                # CTC places words better than attention does, where it can align them at all
                with suppress(InputError):
                    hypothesis.words = self.word_times(hypothesis.tokens, log_probs, pauses)
            if beam > 1:
                annotate(ranked, self.lms.calibration)
            del ranked[nbest:]
        return found

    def word_times(self, tokens: Sequence[int], log_probs: Samples, pauses: Pauses) -> list[Word]:
        """Words of known tokens with their times, by the CTC outputs (T, V) and the pauses."""
        return word_times(tokens, self.fusion.inventory, log_probs, self.frame_shift, pauses)

    def decode(self, waveforms: Sequence[Samples]) -> list[list[Hypothesis]]:
        """n-best hypotheses of each waveform (N,), float32 in [-1, 1] at `sample_rate`."""
        return self.search(self.outputs(waveforms)) if waveforms else []

    def decode_many(self, waveforms: Sequence[Samples]) -> list[list[Hypothesis]]:
        """As `decode`, of any number of waveforms."""
        return [nbest for nbest, _ in self._in_batches(waveforms)]

    def _in_batches(self, waveforms: Sequence[Samples], search: bool = True) -> list[Result]:
        """n-best list (without `search` an empty one) and CTC outputs of each waveform.

        On a CPU several batches at once, on a share of the threads each: threads that divide a
        matrix product wait for each other, and a second program makes that a hundred times slower.
        """
        seconds = BATCH_SECONDS
        if self.head != "ctc":  # but a batch for each thread
            share = sum(map(len, waveforms)) / self.sample_rate / self.threads
            seconds = min(LAS_SECONDS, max(BATCH_SECONDS, share))
        groups = list(batches(list(enumerate(waveforms)), seconds * self.sample_rate))
        on_cpu = next(self.recognizer.parameters()).device.type == "cpu"
        workers = max(1, min(self.threads, AT_ONCE, len(groups))) if on_cpu else 1
        share, before = self.threads // workers, torch.get_num_threads()

        def work(batch: list[Numbered]) -> list[Result]:
            if on_cpu:
                torch.set_num_threads(share)  # of this thread, but MKL's of all
            outputs = self.outputs([samples for _, samples in batch])
            lists = self.search(outputs, share) if search else [[] for _ in batch]
            return [(nbest, outputs.log_probs(row)) for row, nbest in enumerate(lists)]

        results: dict[int, Result] = {}
        pool = ThreadPoolExecutor(workers, "decodes")
        try:
            for batch, found in zip(groups, pool.map(work, groups), strict=True):
                results |= zip((number for number, _ in batch), found, strict=True)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)
        return [results[number] for number in range(len(waveforms))]

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

    def align(self, source: Audio, text: str) -> list[Word]:
        """When each word of a known text was said, in seconds, by the CTC head.

        source: as in `transcribe`. Raises InputError where the model has no CTC head or cannot
        write the text, or the audio is too short for it; AudioError for unusable audio.
        """
        samples = np.concatenate([*self.recording(source).read(0)])
        return self.align_tokens(samples, self.spell(text))[0]

    def align_tokens(self, samples: Samples, tokens: Sequence[int]) -> tuple[list[Word], Samples]:
        """As `align`, for samples (N,) and tokens; the CTC outputs (T, V) too."""
        if not self.has_ctc:
            what = "a model without CTC head cannot align"
            raise InputError(what, None, "Train with model.ctc_weight above 0.")

        def network(waveforms: Sequence[Samples]) -> list[Samples]:
            found = self._in_batches(waveforms, search=False)
            return [log_probs for _, log_probs in found if log_probs is not None]

        rate = self.sample_rate
        hop = round(self.frame_shift * rate)
        log_probs = stitched_outputs(samples, rate, hop, network, self.vad)
        return self.word_times(tokens, log_probs, Pauses(samples, rate)), log_probs

    def spell(self, text: str | None) -> list[int]:
        """The tokens of a text. Raises InputError where there are none, or not for all of it."""
        if not isinstance(text, str | None):
            what = f"the text is {type(text).__name__}, no string"
            raise InputError(what, None, "Give what was said as one string.")
        if unknown := self.tokenizer.unknown(text or ""):
            kind = "words" if self.tokenizer.type == "lexicon" else "characters"
            what = f"the model's tokens lack {kind} of the text: {' '.join(unknown)}"
            remedy = "Write it without them, or take a model whose training texts had them."
            raise InputError(what, None, remedy)
        tokens = self.tokenizer.encode(text or "")
        if not tokens:
            raise InputError("has no text", None, "Give what was said.")
        return tokens

    def recording(self, source: Audio, place: Place | None = None) -> Recording:
        """A recording as `decode_recordings` takes it, from a place on. Raises AudioError."""
        place, rate = place or Place(), self.sample_rate
        if isinstance(source, str | Path):
            return Recording(partial(read_blocks, source, rate), place)
        if not isinstance(source, np.ndarray):
            what = f"{type(source).__name__} is neither a path nor a numpy array of samples (N,)"
            remedy = f"Give a path, an array at {rate} Hz, a list or a generator of these."
        elif not np.issubdtype(source.dtype, np.floating):
            what = f"samples of the type {source.dtype}, where full scale is 1.0"
            remedy = "Give floats (int16: samples / 32768)."
        elif source.ndim != 1:
            what = f"samples of the shape {source.shape}, not (N,)"
            remedy = "Give one channel, or the mean of all."
        elif not np.isfinite(samples := np.ascontiguousarray(source, np.float32)).all():
            what, remedy = "samples that are not numbers (NaN or infinite)", "Mend them."
        else:
            return Recording(lambda begin: [samples[begin:]], place)
        raise AudioError(what, None, remedy)

    def decode_recordings(self, recordings: Iterable[Recording]) -> Iterator[Event]:
        """The parts of recordings as they are decoded; see asr.decoding.recording."""
        overlap = OVERLAP if self.has_ctc else 0.0  # words are joined by their times
        return decoded(recordings, self.decode_many, self.sample_rate, overlap, self.vad)

    def warm_up(self) -> None:
        """Run everything once, so that compiling is not timed."""
        noise = np.random.default_rng(0).standard_normal(self.sample_rate, np.float32)
        self.decode([noise * 0.1])

    def read(self, audio: str | Path) -> Samples:
        return read_audio(audio, self.sample_rate)

    def decode_utterances(
        self, utterances: Sequence[Utterance], stopwatch: Stopwatch
    ) -> Iterator[tuple[NBest, Samples | None]]:
        """NBest of every utterance in order, with an error for unusable audio or outputs, and its
        CTC outputs where there are any. `stopwatch` adds up audio and decoding time."""
        rest = iter(utterances)
        while window := list(islice(rest, WINDOW)):
            started = time.perf_counter()
            loaded: list[Samples | AudioError] = []
            for utterance in window:
                try:
                    loaded.append(load_audio(utterance, self.sample_rate))
                except AudioError as error:
                    loaded.append(error)
            usable = [samples for samples in loaded if not isinstance(samples, AudioError)]
            found = iter(self._in_batches(usable))
            stopwatch.decode_seconds += time.perf_counter() - started
            stopwatch.audio_seconds += sum(map(len, usable)) / self.sample_rate
            for utterance, samples in zip(window, loaded, strict=True):
                if isinstance(samples, AudioError):
                    yield NBest(utterance.id, [], str(samples)), None
                    continue
                nbest, log_probs = next(found)
                wrong = None if nbest else "the network's outputs are not numbers"
                yield NBest(utterance.id, nbest, wrong), log_probs


def batches(waveforms: Sequence[Numbered], most: float) -> Iterator[list[Numbered]]:
    """Waveforms sorted by length in batches of at most `most` samples, padding included."""
    batch: list[Numbered] = []
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
        if not there[tuned]:
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


load = Transcriber  # what Python users begin with: asr.load(folder)
