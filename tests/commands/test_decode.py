"""decode, transcribe, align and info on a small model: files, statuses and errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from subprocess import CompletedProcess
from threading import Barrier
from time import sleep
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import asr
from asr.cli import cli
from asr.console import Stopwatch
from asr.data.manifest import Manifest, write_manifest
from asr.decoding import ctc_search
from asr.errors import AudioError, InputError
from asr.hypothesis import NBest, Weights, read_nbest
from asr.lm.lexicon import read_lexicon
from asr.lm.ngram import NGram
from asr.models.encoder import EncoderOptions
from asr.models.frontend import FrontendOptions
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.models.speller import SpellerOptions
from asr.outputs import Outputs
from asr.text.tokenizer import Tokenizer
from asr.transcriber import choose_head

Run = Callable[..., "CompletedProcess[str]"]
TEXTS = ["one two", "two", "one one two", "two one"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with both heads, four recordings of noise, one broken file, an ARPA file."""
    folder = tmp_path_factory.mktemp("decode")
    torch.manual_seed(1)
    tokenizer = Tokenizer.train("char", TEXTS)
    options = RecognizerOptions(
        sample_rate=8000,
        ctc_weight=0.5,
        frontend=FrontendOptions(channels=16),
        encoder=EncoderOptions(layers=1, size=8),
        speller=SpellerOptions(size=8, embedding=4, attention=8, filters=2, reach=2),
    )
    Recognizer(options, tokenizer.size).save(folder / "model")
    tokenizer.save(folder / "model")
    draw = np.random.default_rng(0)
    rows = []
    for i, text in enumerate(TEXTS):
        samples = 0.1 * draw.standard_normal(8000 + 1600 * i)
        soundfile.write(folder / f"{i}.wav", samples, 8000)
        rows.append({"id": f"u{i}", "audio": f"{i}.wav", "text": text, "speaker": "s"})
    (folder / "broken.wav").write_text("this is no audio")
    write_manifest(folder / "good.jsonl", rows)
    broken = {"id": "bad", "audio": "broken.wav", "text": "one"}
    write_manifest(folder / "mixed.jsonl", [rows[0], broken, *rows[1:]])
    write_manifest(folder / "bad.jsonl", [broken])
    (folder / "word.arpa").write_text(
        "\\data\\\nngram 1=5\n\n\\1-grams:\n-2 <unk>\n-99 <s>\n-1 </s>\n-0.5 one\n-0.7 two\n\n"
        "\\end\\\n"
    )
    return folder


def lists(path: Path) -> list[NBest]:
    return list(read_nbest(path)[1])


def test_every_utterance_in_order_and_totals(place: Path, tmp_path: Path, run_asr: Run) -> None:
    out = tmp_path / "out.jsonl"
    lm = ["--lm", str(place / "word.arpa"), "--lm-weight", "0.7", "--length-bonus", "0.3"]
    done = run_asr("decode", place / "model", place / "good.jsonl", "-o", out, "--head", "ctc",
                   "--nbest", 5, "--beam", 50, *lm)  # fmt: skip
    assert done.returncode == 0, done.stderr
    meta, found = read_nbest(out)
    assert meta["weights"] == asdict(Weights(ctc=1.0, lm={"word": 0.7}, bonus=0.3, unk=-0.5))
    assert meta["audio_seconds"] == pytest.approx(5.2, abs=0.01)
    reference = NGram.open(place / "word.arpa", "word")
    ids = []
    for utterance in found:
        ids.append(utterance.id)
        assert len({h.text for h in utterance.nbest}) == 5
        for h in utterance.nbest:
            lm_score = reference.score(h.text.split())
            assert h.scores["lm"]["word"] == pytest.approx(lm_score, abs=1e-4)
            letters = sum(len(word) for word in h.text.split() if not reference.id(word))
            total = h.scores["ctc"] + 0.7 * lm_score + 0.3 * len(h.text.split()) - 0.5 * letters
            assert h.total == pytest.approx(total, abs=1e-4)
    assert ids == ["u0", "u1", "u2", "u3"]


def test_saved_outputs_decode_to_the_same(place: Path, tmp_path: Path, run_asr: Run) -> None:
    direct, saved, again = tmp_path / "a.jsonl", tmp_path / "o.npz", tmp_path / "b.jsonl"
    options = ["--beam", "30", "--nbest", "3", "--lm", str(place / "word.arpa")]
    done = run_asr("decode", place / "model", place / "good.jsonl", "-o", direct, "--head", "ctc",
                   "--save-outputs", saved, *options)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(saved) as arrays:
        assert list(arrays) == ["u0", "u1", "u2", "u3"]
        assert np.allclose(np.exp(arrays["u0"]).sum(1), 1, atol=1e-4)
    done = run_asr("decode", saved, "--tokens", tmp_path / "o.tokens.txt", "-o", again, *options)
    assert done.returncode == 0, done.stderr
    for one, two in zip(lists(direct), lists(again), strict=True):
        assert [h.text for h in one.nbest] == [h.text for h in two.nbest]
        assert [h.total for h in one.nbest] == pytest.approx([h.total for h in two.nbest])


def test_names_of_saved_outputs(place: Path, tmp_path: Path) -> None:
    for output, saved in (("a.jsonl", "outputs"), ("o.tokens.txt", "o.npz")):
        names = ["-o", str(tmp_path / output), "--save-outputs", str(tmp_path / saved)]
        with pytest.raises(InputError, match=r"Give another name that ends in \.npz"):
            cli.main(
                ["decode", str(place / "model"), str(place / "good.jsonl"), *names],
                standalone_mode=False,
            )
    np.savez(tmp_path / "two.npz", **{"a": np.zeros((1, 2)), "a.npy": np.ones((2, 2))})
    outputs = Outputs(tmp_path / "two.npz")
    assert [outputs.read(name).shape for name in ("a", "a.npy")] == [(1, 2), (2, 2)]
    np.savez(tmp_path / "far.npz", far=np.array([[-1e308, 0.0]]))
    assert Outputs(tmp_path / "far.npz").read("far").tolist() == [[-np.inf, 0.0]]


def test_threads_decode_saved_outputs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two searches must be under way together; the warm-up, not timed, comes before all."""
    (tmp_path / "tokens.txt").write_text("_\na\n")
    draw = np.random.default_rng(0)
    rows = {f"u{i}": np.log(draw.dirichlet([1, 1], 3 + i)) for i in range(30)}
    np.savez(tmp_path / "o.npz", **rows)
    together, search = Barrier(2, timeout=60), ctc_search.search
    lengths: list[int] = []

    def slow(log_probs: Any, *arguments: Any) -> Any:
        if lengths:
            together.wait()
        else:
            sleep(1)
        lengths.append(len(log_probs))
        return search(log_probs, *arguments)

    monkeypatch.setattr(ctc_search, "search", slow)
    given = ["decode", tmp_path / "o.npz", "--tokens", tmp_path / "tokens.txt", "--threads", 2]
    given += ["-o", tmp_path / "x.jsonl", "--frame-shift", 0.5]
    cli.main([*map(str, given)], standalone_mode=False)
    meta, found = read_nbest(tmp_path / "x.jsonl")
    assert sorted(lengths[1:]) == [*range(3, 33)]
    assert [one.id for one in found] == [*rows]
    assert meta["threads"] == 2
    assert meta["decode_seconds"] < 1
    assert meta["audio_seconds"] == sum(range(3, 33)) / 2


@pytest.mark.parametrize("head", ["ctc", "las", "joint"])
def test_batches_at_once_give_what_one_after_the_other_does(
    place: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.transcriber.BATCH_SECONDS", 2.0)  # nine batches or more
    draw, before = np.random.default_rng(1), torch.get_num_threads()
    waveforms = [
        0.1 * draw.standard_normal(n, np.float32) for n in draw.integers(4000, 16000, 16).tolist()
    ]
    one, three = (
        asr.load(place / "model", head=head, threads=threads).decode_many(waveforms)
        for threads in (1, 3)
    )
    assert [nbest[0].text for nbest in one] == [nbest[0].text for nbest in three]
    assert len({nbest[0].total for nbest in one}) == len(one)
    for ours, theirs in zip(one, three, strict=True):
        assert ours[0].total == pytest.approx(theirs[0].total, abs=1e-3)
    assert asr.load(place / "model", head=head).decode_many([]) == []
    assert torch.get_num_threads() == before
    try:  # as torchrun and OMP_NUM_THREADS set it
        torch.set_num_threads(1)
        assert asr.load(place / "model").threads == 1
    finally:
        torch.set_num_threads(before)


def test_lexicon_and_hot_words(place: Path, tmp_path: Path, run_asr: Run) -> None:
    lexicon, hot, out = tmp_path / "lex.txt", tmp_path / "hot.txt", tmp_path / "out.jsonl"
    lexicon.write_text("one\nONE o n\ntoo 0.5 t w o\n")  # normalised as the model's texts
    hot.write_text("Too one\t3.5\n")
    arguments = ["decode", place / "model", place / "good.jsonl", "-o", out, "--nbest", 3,
                 "--lm", place / "word.arpa", "--lexicon", lexicon, "--hotwords", hot]  # fmt: skip
    done = run_asr(*arguments, "--head", "ctc")
    assert done.returncode == 0, done.stderr
    assert "1 words of the LM are not in" in done.stderr
    meta, found = read_nbest(out)
    assert meta["lexicon"]["path"] == str(lexicon)
    assert meta["lexicon"]["lm_words"] == ["two"]
    assert meta["hotwords"]["path"] == str(hot)
    for utterance in found:
        for h in utterance.nbest:
            assert set(h.text.split()) <= {"one", "too"}
            assert [w.word for w in h.words] == h.text.split()
            assert h.scores["hotwords"] == 3.5 * h.text.count("too one")
    done = run_asr(*arguments, "--head", "las")
    assert done.returncode == 2
    assert "--lexicon: the search of the head 'las' does not take it" in done.stderr


def test_a_model_of_phones_wants_a_lexicon(place: Path, tmp_path: Path, run_asr: Run) -> None:
    (tmp_path / "lexicon.txt").write_text("one W AH N\ntwo T UW\n")
    lexicon = read_lexicon(tmp_path / "lexicon.txt")
    tokenizer = Tokenizer.train("lexicon", TEXTS, lexicon=lexicon)
    options = RecognizerOptions(8000, encoder=EncoderOptions(layers=1, size=8))
    Recognizer(options, tokenizer.size).save(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    arguments = "decode", tmp_path / "model", place / "good.jsonl", "-o", tmp_path / "out.jsonl"
    done = run_asr(*arguments)
    assert done.returncode == 0, done.stderr
    assert "warning: this model writes pronunciations, not words: give --lexicon" in done.stderr
    done = run_asr(*arguments, "--lexicon", tmp_path / "lexicon.txt")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


def test_a_head_that_the_weights_are_not_for(place: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps({"weights": {"ctc": 0.4, "att": 0.6, "lm": {}, "bonus": 0.0}}))
    assert asr.load(place / "model", weights=weights).head == "joint"
    assert asr.load(place / "model", weights=weights, head="joint").head == "joint"
    for head in ("ctc", "las"):
        with pytest.raises(InputError, match="the weights are for the head 'joint'"):
            asr.load(place / "model", weights=weights, head=head)


@pytest.mark.parametrize(
    ("tuned", "given", "used"), [(50, None, 50), (50, 7, 7), (1, None, 20), (None, None, 20)]
)
def test_weights_bring_the_beam_of_the_lists_they_were_tuned_on(
    tuned: int | None, given: int | None, used: int, place: Path, tmp_path: Path, run_asr: Run
) -> None:
    record = {"weights": {"ctc": 1.0}, "length": "words"} | ({"beam": tuned} if tuned else {})
    (tmp_path / "weights.json").write_text(json.dumps(record))
    options = {"head": "ctc", "weights": tmp_path / "weights.json", "beam": given}
    assert asr.load(place / "model", **options).options.beam == used
    np.savez(tmp_path / "outputs.npz", u=np.log(np.full((4, 3), 1 / 3)))
    (tmp_path / "tokens.txt").write_text("<blank>\na\nb\n")
    more = ["--beam", given] if given else []
    run_asr(
        *("decode", tmp_path / "outputs.npz", "--tokens", tmp_path / "tokens.txt", *more),
        *("--weights", tmp_path / "weights.json", "-o", tmp_path / "out.jsonl"),
    )
    assert read_nbest(tmp_path / "out.jsonl")[0]["beam"] == used


def test_weights_for_a_head_that_the_model_lacks(place: Path, tmp_path: Path) -> None:
    transcriber = asr.load(place / "model")
    transcriber.recognizer.speller = None
    weights = Weights(ctc=0.4, att=0.6)
    for head in (None, "ctc"):
        with pytest.raises(InputError, match=r"'joint', which the model lacks\. Tune with n-best"):
            choose_head(transcriber.recognizer, head, weights)


def test_batch_equals_single_with_both_heads(place: Path) -> None:
    for head in ("ctc", "las"):
        transcriber = asr.load(place / "model", head=head, beam=5)
        waves = [transcriber.read(place / f"{i}.wav") for i in range(4)]
        together = [found[0] for found in transcriber.decode(waves)]
        alone = [transcriber.transcribe(wave) for wave in waves]
        assert [h.text for h in together] == [h.text for h in alone]
        totals = [h.total for h in together]
        assert totals == pytest.approx([h.total for h in alone], abs=1e-3)


def test_broken_audio_is_listed_and_the_rest_decoded(
    place: Path, tmp_path: Path, run_asr: Run
) -> None:
    out = tmp_path / "out.jsonl"
    done = run_asr("decode", place / "model", place / "mixed.jsonl", "-o", out, "--beam", 1)
    assert done.returncode == 3
    assert "skipped 1 of 5 utterances" in done.stderr
    assert "broken.wav" in done.stderr
    found = lists(out)
    assert [u.id for u in found] == ["u0", "bad", "u1", "u2", "u3"]
    assert found[1].nbest == []
    assert found[1].error
    done = run_asr("decode", place / "model", place / "bad.jsonl", "-o", tmp_path / "none.jsonl")
    assert done.returncode == 2
    assert not (tmp_path / "none.jsonl").exists()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("head", ["ctc", "las"])
def test_outputs_that_are_no_numbers_are_one_utterance_less(
    place: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcriber = asr.load(place / "model", head=head)
    utterances = Manifest.open(place / "good.jsonl")
    before = [result for result, _ in transcriber.decode_utterances(utterances, Stopwatch())]
    encode = transcriber.recognizer.encode

    def broken(samples: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, frames = encode(samples, lengths)
        states[1] = torch.nan  # batches are sorted by length
        return states, frames

    monkeypatch.setattr(transcriber.recognizer, "encode", broken)
    found = [result for result, _ in transcriber.decode_utterances(utterances, Stopwatch())]
    assert (found[1].nbest, found[1].error) == ([], "the network's outputs are not numbers")
    assert [found[i].text for i in (0, 2, 3)] == [before[i].text for i in (0, 2, 3)]


def test_transcribe_writes_files_and_lists_the_broken(
    place: Path, tmp_path: Path, run_asr: Run
) -> None:
    files = [place / "0.wav", place / "broken.wav", place / "1.wav"]
    done = run_asr("transcribe", place / "model", *files, "-f", "txt,srt,json", "-o", tmp_path)
    assert done.returncode == 3
    assert "skipped 1 of 3 files" in done.stderr
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"0.txt", "0.srt", "0.json", "1.txt", "1.srt", "1.json"}
    text = (tmp_path / "1.txt").read_text().strip()
    assert json.loads((tmp_path / "1.json").read_text())["text"] == text
    assert asr.load(place / "model").transcribe(place / "1.wav").text == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "MODEL", "good.jsonl", "--beam", "0"], "beam"),
        (["decode", "MODEL", "none.jsonl"], "none.jsonl"),
        (["decode", "nowhere", "good.jsonl"], "no such model"),
        (["decode", "good.jsonl", "good.jsonl"], "is a file, and models are folders"),
        (["decode", "MODEL", "good.jsonl", "--lm", "missing.lm"], "missing.lm"),
        (["decode", "MODEL", "good.jsonl", "--lm-weight", "1"], "1 weights for 0 language"),
        (["decode", "MODEL", "good.jsonl", "--weights", "good.jsonl"], "not a weights file"),
        (["transcribe", "MODEL", "0.wav", "-f", "text"], "Did you mean 'txt'?"),
        (["transcribe", "MODEL", "broken.wav"], "none of the files"),
        (["info", "good.jsonl"], "is not a language model"),
    ],
)
def test_mistakes_are_one_message(
    place: Path, tmp_path: Path, run_asr: Run, arguments: list[str], message: str
) -> None:
    arguments = ["model" if a == "MODEL" else a for a in arguments]
    if arguments[0] == "decode":
        arguments += ["-o", str(tmp_path / "out.jsonl")]
    done = run_asr(*arguments, cwd=place)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_another_tokenizer_or_normaliser_is_refused(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    Recognizer.load(place / "model").save(folder)
    Tokenizer.train("char", ["abc"]).save(folder)
    with pytest.raises(InputError, match="does not belong to the model"):
        asr.load(folder)
    recognizer, size = Recognizer.load(place / "model"), len(set("".join(TEXTS))) - 1
    recognizer.tokenizer_hash = Tokenizer.load(place / "model").hash
    recognizer.save(folder)
    Tokenizer.train("char", ["abcdefghijklmnop"[:size]]).save(folder)  # as many pieces, others
    with pytest.raises(InputError, match="does not belong to the model"):
        asr.load(folder)
    Tokenizer.load(place / "model").save(folder)
    assert asr.load(folder).recognizer.tokenizer_hash


def test_align_and_info(place: Path, tmp_path: Path, run_asr: Run) -> None:
    out = tmp_path / "out.ctm"
    done = run_asr("align", place / "model", place / "mixed.jsonl", "-o", out)
    assert done.returncode == 3
    words = [line.split()[4] for line in out.read_text().splitlines()]
    assert words == " ".join(TEXTS).split()
    row = json.loads((place / "mixed.jsonl").read_text().splitlines()[0])
    (place / "spaced.jsonl").write_text(json.dumps(row | {"id": "my recording 1"}) + "\n")
    done = run_asr("align", place / "model", place / "spaced.jsonl", "-o", out)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in out.read_text().splitlines()} == {"my_recording_1"}
    done = run_asr("info", place / "gone")
    assert "gone: is not there. Give a model or experiment folder" in done.stderr
    done = run_asr("info", place / "model")
    assert "ctc, las" in done.stdout
    assert " frames a second" in done.stdout
    assert " ms below the first LSTM layer" in done.stdout
    assert "window" not in done.stdout
    windowed = shutil.copytree(place / "model", place / "windowed")
    config = json.loads((windowed / "config.json").read_text())
    (windowed / "config.json").write_text(json.dumps(config | {"window": 6.0}))
    done = run_asr("info", windowed)
    assert "  6.0 s, of recordings above 12.0 s" in done.stdout
    done = run_asr("info", place / "word.arpa")
    assert done.returncode == 0, done.stderr
    assert "1-grams" in done.stdout


def test_arrays_and_unusable_audio(place: Path) -> None:
    transcriber = asr.load(place / "model", head="ctc")
    with pytest.raises(AudioError, match=r"broken\.wav"):
        transcriber.transcribe(place / "broken.wav")
    silence = transcriber.transcribe(np.zeros(3, np.float32))
    assert isinstance(silence.text, str)
