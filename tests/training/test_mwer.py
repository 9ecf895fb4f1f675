"""MWER: loss and gradient against the enumeration of all texts, and training with it."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import kenlm
import numpy as np
import pytest
import torch
from enumeration import TOKEN_ARPA, WORD_ARPA, alignments
from torch import Tensor

from asr.commands.train import command
from asr.decoding.options import EXHAUSTIVE
from asr.decoding.weights import save_weights
from asr.errors import InputError
from asr.hypothesis import Weights
from asr.lm.ngram import NGram
from asr.models.encoder import EncoderOptions
from asr.models.frontend import FrontendOptions
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.models.speller import SpellerOptions
from asr.text.tokenizer import Tokenizer
from asr.training.mwer import MWER, MWEROptions

REFERENCES = ["a b", "ba"]
LENGTHS = [5, 4]  # states
NBEST, SCALE = 4, 0.7
TOKENIZER = Tokenizer.train("char", ["ab ba"])
LM = {"words": 0.6, "tokens": 0.5}
HEADS = {
    "ctc": Weights(ctc=0.9, lm=LM, bonus=0.4),
    "las": Weights(att=1.1, lm=LM, bonus=0.4),
    "joint": Weights(ctc=0.4, att=0.8, lm=LM, bonus=0.4),
}


def tiny(ctc_weight: float) -> Recognizer:
    """In double precision, with large random weights: varied distributions."""
    torch.manual_seed(3)
    options = RecognizerOptions(
        sample_rate=8000,
        ctc_weight=ctc_weight,
        frontend=FrontendOptions(channels=8),
        encoder=EncoderOptions(size=6, layers=1),
        speller=SpellerOptions(size=6, embedding=4, attention=5, filters=2, reach=2, dropout=0.5),
    )
    model = Recognizer(options, TOKENIZER.size).double()
    with torch.no_grad():
        for parameter in [p for p in model.parameters() if p.ndim > 1]:
            parameter.mul_(2.0)
    return model


@pytest.fixture(scope="module")
def lms(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, kenlm.Model]]:
    """Files of the language models, and what scores the same in KenLM."""
    folder = tmp_path_factory.mktemp("lm")
    paths, references = [], {}
    for name, arpa, unit in (("words", WORD_ARPA, "word"), ("tokens", TOKEN_ARPA, "token")):
        (folder / f"{name}.arpa").write_text(arpa)
        NGram.open(folder / f"{name}.arpa", unit).save(folder / f"{name}.lm")
        paths.append(str(folder / f"{name}.lm"))
        references[name] = kenlm.Model(str(folder / f"{name}.arpa"))
    return paths, references


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance, by its definition."""
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis)
    same = reference[0] == hypothesis[0]
    return min(
        word_errors(reference[1:], hypothesis[1:]) + (not same),
        word_errors(reference[1:], hypothesis) + 1,
        word_errors(reference, hypothesis[1:]) + 1,
    )


def text_of(tokens: Sequence[int]) -> str:
    spelling = "".join(TOKENIZER.pieces[t] for t in tokens).replace("|", " ")
    return " ".join(spelling.split())


def heads_scores(
    model: Recognizer, states: Tensor, weights: Weights
) -> dict[tuple[int, ...], float]:
    """The heads' weighted score of every text; states (T, D).

    With attention up to three quarters as many tokens as states.
    """
    frames = len(states)
    paths, sequences, place = alignments(frames, TOKENIZER.size)
    scores = dict.fromkeys(sequences, 0.0)
    if weights.ctc:
        log_probs = model.ctc_log_probs(states[None])[0].detach().numpy()
        sums = np.full(len(sequences), -np.inf)
        np.logaddexp.at(sums, place, log_probs[np.arange(frames), paths].sum(1))
        scores = {s: weights.ctc * v for s, v in zip(sequences, sums.tolist(), strict=True)}
    scores = {s: v for s, v in scores.items() if 1 not in s}
    if not weights.att:
        return scores
    assert model.speller is not None
    found = {}
    for length in range(math.ceil(0.75 * frames) + 1):
        for tokens in itertools.product(range(2, TOKENIZER.size), repeat=length):
            if weights.ctc and tokens not in scores:
                continue
            memory, state = model.speller.begin(states[None], torch.tensor([frames]))
            found[tokens] = scores.get(tokens, 0.0)
            for previous, token in itertools.pairwise([0, *tokens, 0]):
                probs, state, _ = model.speller.step(memory, state, torch.tensor([previous]))
                found[tokens] += weights.att * float(probs[0, token])
    return found


def brute_force(
    model: Recognizer, states: Tensor, weights: Weights, references: dict[str, kenlm.Model]
) -> list[float]:
    """Expected errors less their mean over the n best of all texts; states (B, T, D)."""
    risks = []
    for row, length, reference in zip(states, LENGTHS, REFERENCES, strict=True):
        best: dict[str, float] = {}
        for tokens, score in heads_scores(model, row[:length], weights).items():
            words = text_of(tokens).split()
            units = {"words": words, "tokens": [TOKENIZER.pieces[t] for t in tokens]}
            total = score + weights.bonus * len(words)
            for name, lm in references.items():
                total += weights.lm[name] * lm.score(" ".join(units[name])) * math.log(10)
            best[" ".join(words)] = max(total, best.get(" ".join(words), -math.inf))
        nbest = sorted(best, key=best.__getitem__, reverse=True)[:NBEST]
        errors = [word_errors(reference.split(), text.split()) for text in nbest]
        posteriors = np.exp(SCALE * np.array([best[text] for text in nbest]))
        mean = sum(errors) / len(errors)
        assert len(set(errors)) > 1, "nothing to test"
        risks.append(float(posteriors @ np.array([e - mean for e in errors]) / posteriors.sum()))
    return risks


def make_mwer(model: Recognizer, weights: Weights, paths: list[str], folder: Path) -> MWER:
    """With a search that prunes nothing."""
    save_weights(folder / "weights.json", weights, {})
    options = MWEROptions(NBEST, paths, str(folder / "weights.json"), SCALE)
    mwer = MWER(model, TOKENIZER, options)
    mwer.search_options = replace(EXHAUSTIVE, beam=300, nbest=NBEST, length_ratio=0.75)
    return mwer


@pytest.mark.parametrize("head", HEADS)
def test_loss_and_gradient_are_those_of_all_texts(
    head: str, lms: tuple[list[str], dict[str, kenlm.Model]], tmp_path: Path
) -> None:
    weights = HEADS[head]
    paths, references = lms
    model = tiny({"ctc": 1.0, "las": 0.0, "joint": 0.3}[head])
    mwer = make_mwer(model, weights, paths, tmp_path)
    states = torch.randn(2, max(LENGTHS), model.encoder.size, dtype=torch.float64)
    frames = torch.tensor(LENGTHS)

    learnt = [states.requires_grad_()]
    learnt += [p for n, p in model.named_parameters() if n.startswith(("ctc.", "speller."))]
    risk = mwer.risk(states, frames, mwer.search(states, frames), REFERENCES)
    gradients = torch.autograd.grad(risk.sum(), learnt)
    states.requires_grad_(False)
    model.requires_grad_(False)
    # the search's scores of language models are of single precision
    assert risk.tolist() == pytest.approx(brute_force(model, states, weights, references), abs=1e-5)

    torch.manual_seed(5)
    for chosen in ([0], range(1, len(learnt))):  # along random directions: of states, of weights
        directions = {i: torch.randn_like(learnt[i]) for i in chosen}
        steps = []
        for sign in (1, -1):
            for i, direction in directions.items():
                learnt[i] += sign * 1e-4 * direction
            steps.append(sum(brute_force(model, states, weights, references)))
            for i, direction in directions.items():
                learnt[i] -= sign * 1e-4 * direction
        along = sum(float((gradients[i] * d).sum()) for i, d in directions.items())
        assert abs(along) > 1e-3
        assert along == pytest.approx((steps[0] - steps[1]) / 2e-4, rel=1e-4)


def test_total_is_the_interpolation_and_dropout_does_not_tell_hypotheses_apart(
    lms: tuple[list[str], dict[str, kenlm.Model]], tmp_path: Path
) -> None:
    model = tiny(0.3)
    mwer = make_mwer(model, HEADS["joint"], lms[0], tmp_path)
    rows = [TOKENIZER.encode(text) for text in REFERENCES]
    batch = {
        "samples": torch.randn(2, 2000, dtype=torch.float64) * 0.1,
        "lengths": torch.tensor([2000, 1600]),
        "tokens": torch.tensor([rows[0], [*rows[1], 0]]),
        "token_lengths": torch.tensor([3, 2]),
    }
    model.eval()
    losses, original = mwer.losses(**batch), model.losses(**batch)
    assert set(losses) == {"ctc", "att", "mwer", "total"}
    expected = 0.99 * losses["mwer"] + 0.01 * original["total"]
    assert torch.allclose(losses["total"], expected)
    states, frames = model.encode(batch["samples"], batch["lengths"])
    lists = mwer.search(states, frames)
    still = mwer.risk(states, frames, lists, REFERENCES)
    model.train()
    assert torch.equal(mwer.risk(states, frames, lists, REFERENCES), still)
    assert model.speller is not None
    assert model.speller.dropout.training


def test_utterances_with_nothing_to_compare_count_nothing(
    lms: tuple[list[str], dict[str, kenlm.Model]], tmp_path: Path
) -> None:
    model = tiny(1.0)
    mwer = make_mwer(model, HEADS["ctc"], lms[0], tmp_path)
    states, frames = torch.randn(2, 5, 12, dtype=torch.float64), torch.tensor(LENGTHS)
    lists = mwer.search(states, frames)
    alone = mwer.risk(states, frames, [lists[0], []], REFERENCES).tolist()
    both = mwer.risk(states, frames, lists, REFERENCES).tolist()
    assert alone == [pytest.approx(both[0]), 0.0]
    assert both[1] != 0.0
    assert mwer.risk(states, frames, [lists[0][:1], []], REFERENCES).tolist() == [0.0, 0.0]
    assert mwer.search(states * math.nan, frames) == [[], []]
    assert model.ctc is not None
    torch.nn.init.constant_(next(model.ctc.parameters()), math.nan)
    assert mwer.search(states, frames) == [[], []]


def test_steps_lower_the_expected_errors(
    lms: tuple[list[str], dict[str, kenlm.Model]], tmp_path: Path
) -> None:
    model = tiny(1.0)
    mwer = make_mwer(model, HEADS["ctc"], lms[0], tmp_path)
    states, frames = torch.randn(2, 5, 12, dtype=torch.float64), torch.tensor(LENGTHS)
    assert model.ctc is not None
    optimizer = torch.optim.SGD(model.ctc.parameters(), 0.1)
    errors = []
    for _ in range(30):
        lists = mwer.search(states, frames)
        best = [mwer.word_errors(nbest, r)[0] for nbest, r in zip(lists, REFERENCES, strict=True)]
        errors.append(sum(best))
        torch.autograd.backward(mwer.risk(states, frames, lists, REFERENCES).sum())
        optimizer.step()
        optimizer.zero_grad()
    assert errors[-1] < errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nbest": 1}, r"mwer\.nbest=1 must be 0 or at least 2"),
        ({"scale": 0.0}, r"mwer\.scale=0\.0 must be above 0"),
        ({"interpolation": 1.0}, r"mwer\.interpolation=1\.0 is outside 0 to 1"),
    ],
)
def test_impossible_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MWEROptions(**options)  # type: ignore[arg-type]


def test_weights_of_another_model(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.json", Weights(ctc=0.3, att=0.7), {})
    with pytest.raises(InputError, match="'att', which this model lacks"):
        MWER(tiny(1.0), TOKENIZER, MWEROptions(4, [], str(tmp_path / "w.json")))


def test_language_models_that_know_the_training_texts_are_told(
    lms: tuple[list[str], dict[str, kenlm.Model]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mwer = make_mwer(tiny(1.0), HEADS["ctc"], lms[0], tmp_path)
    for lm in mwer.fusion.lms.values():
        mwer.warn_if_seen(lm, ["a ab", "b"], ["a ab", "b"])
    words = mwer.fusion.lms["words"]
    mwer.warn_if_seen(words, ["a ab"], ["a ab ba ba", "ba"])  # what it does not know does not count
    mwer.warn_if_seen(words, ["a ab"], ["<unk> a", "<s>"])  # nor does what is no text
    assert not capsys.readouterr().err
    mwer.warn_if_seen(words, ["a ab", "<unk>"], ["ab a"])
    said = capsys.readouterr().err
    perplexity = 10 ** ((0.2 + 0.6 + 0.8) / 3)  # by the ARPA file
    assert f"words seems to have seen the training texts (perplexity {perplexity:.0f}; of" in said


def test_introduction_with_broken_audio_in_float64(
    experiment: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, manifest = experiment("ctc", epochs=1), tmp_path / "manifest.train.jsonl"
    (tmp_path / "broken.wav").write_text("no audio")
    line = '{{"id": "b{}", "audio": "broken.wav", "duration": 1, "text": "ab"}}\n'
    with open(manifest, "a") as file:
        file.writelines(line.format(i) for i in range(40))
    more = ["data.workers=0", "mwer.nbest=3", "train.precision=float64"]
    given = [str(config), "-o", str(tmp_path / "exp"), *(a for m in more for a in ("--set", m))]
    with pytest.raises(SystemExit) as left:
        command.main(given, standalone_mode=False)
    assert left.value.code == 3
    assert "MWER: WER " in capsys.readouterr().err


def test_training_with_it(
    experiment: Callable[..., Path],
    lms: tuple[list[str], dict[str, kenlm.Model]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`asr train` says what there is to learn, records the loss, and does not say so again."""
    config, folder = experiment("ctc", epochs=2), tmp_path / "exp"
    save_weights(tmp_path / "w.json", Weights(ctc=1.0, lm={"words": 0.5}), {})
    more = ["data.workers=0", f"mwer={{nbest: 3, lm: [{lms[0][0]}], weights: {tmp_path}/w.json}}"]
    given = [str(config), "-o", str(folder), *(a for m in more for a in ("--set", m))]
    assert command.main(given, standalone_mode=False) is None
    assert "MWER: WER " in capsys.readouterr().err
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert all({"loss", "loss_ctc", "loss_mwer"} <= set(record) for record in epochs)
    for record in epochs:
        mixed = 0.99 * record["loss_mwer"] + 0.01 * record["loss_ctc"]
        assert record["loss"] == pytest.approx(mixed, rel=1e-4)
    shutil.rmtree(folder / "model")
    assert command.main(given, standalone_mode=False) is None
    assert "MWER" not in capsys.readouterr().err
