"""The LAS search against the enumeration of all token sequences, and against teacher forcing."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from enumeration import TOKEN_ARPA, WORD_ARPA
from torch import Tensor

from asr.decoding.fusion import Fusion
from asr.decoding.inventory import Inventory
from asr.decoding.las_search import Search, attended_words, search
from asr.decoding.options import SearchOptions
from asr.errors import InputError
from asr.hypothesis import Hypothesis, Weights
from asr.lm.ngram import NGram
from asr.models.encoder import EncoderOptions
from asr.models.frontend import FrontendOptions
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.models.speller import SpellerOptions

PIECES = ["<blank>", "<unk>", "a", "b", "|"]
PRUNE_NOTHING = SearchOptions(
    beam=300, nbest=300, beam_threshold=math.inf, end_margin=math.inf, length_ratio=0.75
)


@pytest.fixture(scope="module")
def lms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NGram]:
    folder = tmp_path_factory.mktemp("lm")
    (folder / "word.arpa").write_text(WORD_ARPA)
    (folder / "token.arpa").write_text(TOKEN_ARPA)
    return {unit: NGram.open(folder / f"{unit}.arpa", unit) for unit in ("word", "token")}


def tiny(seed: int, ctc_weight: float = 0.3, layers: int = 1) -> Recognizer:
    """A recogniser with large random weights: sharp, varied distributions."""
    torch.manual_seed(seed)
    options = RecognizerOptions(
        sample_rate=8000,
        ctc_weight=ctc_weight,
        frontend=FrontendOptions(channels=8),
        encoder=EncoderOptions(size=8, layers=1),
        speller=SpellerOptions(layers=layers, size=6, embedding=4, attention=5, filters=2, reach=2),
    )
    model = Recognizer(options, len(PIECES)).eval()
    with torch.no_grad():
        for parameter in model.speller.parameters() if model.speller else ():
            parameter.mul_(3.0)
    return model


def inputs(model: Recognizer, lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), model.encoder.size), torch.tensor(lengths)


@torch.no_grad()
def attention_scores(model: Recognizer, states: Tensor, rows: list[list[int]]) -> list[float]:
    """log p(tokens, end | x) by teacher forcing; states (T, D), rows of equal length."""
    assert model.speller is not None
    tokens = torch.tensor(rows, dtype=torch.long).reshape(len(rows), -1)
    repeated = states.expand(len(rows), -1, -1)
    lengths = torch.full((len(rows),), len(states))
    log_probs = model.speller(repeated, lengths, tokens).double()
    log_probs[..., 1] = -torch.inf
    targets = torch.cat([tokens, torch.zeros(len(rows), 1, dtype=torch.long)], 1)
    scores: list[float] = log_probs.gather(2, targets[:, :, None]).sum((1, 2)).tolist()
    return scores


def ctc_score(log_probs: Tensor, tokens: tuple[int, ...]) -> float:
    """log Σ over all alignments by enumeration; log_probs (T, V)."""
    total = -math.inf
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        merged = [token for token, _ in itertools.groupby(path)]
        if tuple(token for token in merged if token) == tokens:
            score = float(sum(log_probs[t, token] for t, token in enumerate(path)))
            total = float(np.logaddexp(total, score))
    return total


def all_texts(
    model: Recognizer,
    states: Tensor,
    most: int,
    weights: Weights,
    lms: dict[str, NGram],
    ctc_log_probs: Tensor | None = None,
) -> dict[str, Hypothesis]:
    """The best hypothesis of every text over all token sequences of at most `most` tokens."""
    best: dict[str, Hypothesis] = {}
    for size in range(most + 1):
        rows = [list(tokens) for tokens in itertools.product(range(2, len(PIECES)), repeat=size)]
        for tokens, att in zip(rows, attention_scores(model, states, rows), strict=True):
            text = " ".join("".join(PIECES[t] for t in tokens).replace("|", " ").split())
            scores: dict[str, Any] = {"att": att, "lm": {}}
            for name, lm in lms.items():
                units = text.split() if lm.unit == "word" else [PIECES[t] for t in tokens]
                entries = lm.full_scores(units)
                scores["lm"][name] = sum(logp for logp, _, _ in entries)
                if lm.unit == "word":
                    scores["unknown"] = sum(len(w) for w in units if lm.id(w) == 0)
            per_token = bool(lms) and all(lm.unit == "token" for lm in lms.values())
            scores["length"] = size if per_token else len(text.split())
            if ctc_log_probs is not None:
                scores["ctc"] = ctc_score(ctc_log_probs, tuple(tokens))
            hypothesis = Hypothesis(text, tokens, scores)
            scores["total"] = hypothesis.rate(weights)
            if text not in best or best[text].total < hypothesis.total:
                best[text] = hypothesis
    return best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("names", "bonus", "layers"),
    [([], 0.0, 1), (["word"], 1.5, 2), (["token"], -0.5, 1), (["word", "token"], 0.7, 1)],
)
def test_equals_exhaustive_enumeration(
    lms: dict[str, NGram], names: list[str], bonus: float, layers: int, seed: int
) -> None:
    model = tiny(seed, layers=layers)
    states, lengths = inputs(model, [5, 4], seed)
    used = {name: lms[name] for name in names}
    weights = Weights(att=0.8, lm=dict.fromkeys(names, 0.6), bonus=bonus, unk=-0.7)
    fusion = Fusion(PIECES, used, weights)
    found = search(model, states, lengths, fusion, PRUNE_NOTHING, PIECES)
    for b, most in enumerate((4, 3)):
        row = states[b, : lengths[b]]
        expected = all_texts(model, row, most, weights, used)
        assert len(found[b]) == len(expected) > 10
        assert [h.total for h in found[b]] == sorted((h.total for h in found[b]), reverse=True)
        for hypothesis in found[b]:
            same = expected[hypothesis.text]
            assert hypothesis.tokens == same.tokens
            assert hypothesis.total == pytest.approx(same.total, abs=1e-4)
            assert hypothesis.scores["att"] == pytest.approx(same.scores["att"], abs=1e-4)
            assert hypothesis.scores["lm"] == pytest.approx(same.scores["lm"], abs=1e-4)
            assert hypothesis.scores["length"] == same.scores["length"]
            assert hypothesis.scores.get("unknown") == same.scores.get("unknown")


def test_early_stop_loses_nothing(lms: dict[str, NGram]) -> None:
    """With nbest 1 utterances leave as soon as nothing can win: the same best as at the end."""
    for seed in range(10):
        model = tiny(seed)
        states, lengths = inputs(model, [8, 6, 7], seed)
        weights = Weights(att=1.0, lm={"word": 0.5}, bonus=1.0)
        fusion = Fusion(PIECES, {"word": lms["word"]}, weights)
        options = replace(PRUNE_NOTHING, length_ratio=0.5)
        full = search(model, states, lengths, fusion, options, PIECES)
        early = search(model, states, lengths, fusion, replace(options, nbest=1), PIECES)
        for many, one in zip(full, early, strict=True):
            assert [one[0].text, one[0].total] == [many[0].text, pytest.approx(many[0].total)]


def test_coverage_pays_once_for_every_state_listened_to(lms: dict[str, NGram]) -> None:
    changed = 0
    for seed in range(6):
        model = tiny(seed)
        assert model.speller is not None
        states, lengths = inputs(model, [5, 4], seed)
        weights = Weights(att=1.0, lm={"word": 0.5}, bonus=0.5)
        fusion = Fusion(PIECES, {"word": lms["word"]}, weights)
        options = replace(PRUNE_NOTHING, coverage=1.5)
        found = search(model, states, lengths, fusion, options, PIECES)
        early = search(model, states, lengths, fusion, replace(options, nbest=1), PIECES)
        plain = search(model, states, lengths, fusion, replace(options, coverage=0.0), PIECES)
        for b, length in enumerate(lengths.tolist()):
            without = {h.text: h.total for h in plain[b]}
            for h in found[b]:
                tokens = torch.tensor([h.tokens], dtype=torch.long)
                with torch.no_grad():
                    _, attention = model.speller.teach(
                        states[b : b + 1, :length], lengths[b : b + 1], tokens
                    )
                covered = int((attention[0].sum(0) > 0.5).sum())
                assert h.scores["coverage"] == pytest.approx(1.5 * covered)
                assert h.total == pytest.approx(h.rate(weights), abs=1e-4)
                assert h.total >= without[h.text]
            assert len(found[b]) == len(plain[b])
            assert early[b][0].total == pytest.approx(found[b][0].total)
            changed += found[b][0].text != plain[b][0].text
    assert changed > 2


def test_ctc_score_joins_in(lms: dict[str, NGram]) -> None:
    model = tiny(5)
    states, lengths = inputs(model, [4, 3])
    log_probs = model.ctc_log_probs(states).detach()
    weights = Weights(ctc=0.7, att=0.3, lm={"word": 0.5}, bonus=0.2)
    fusion = Fusion(PIECES, {"word": lms["word"]}, weights)
    found = search(model, states, lengths, fusion, PRUNE_NOTHING, PIECES, log_probs)
    for b, length in enumerate(lengths.tolist()):
        rows = states[b, :length], log_probs[b, :length]
        most = math.ceil(0.75 * length)
        expected = all_texts(model, rows[0], most, weights, {"word": lms["word"]}, rows[1])
        best = max(expected.values(), key=lambda h: h.total)
        assert (found[b][0].text, found[b][0].total) == (best.text, pytest.approx(best.total, 1e-4))
        assert found[b][0].scores["ctc"] == pytest.approx(best.scores["ctc"], abs=1e-3)
        for hypothesis in found[b]:
            if hypothesis.scores["ctc"] > -1e4:
                exact = ctc_score(rows[1], tuple(hypothesis.tokens))
                assert hypothesis.scores["ctc"] == pytest.approx(exact, abs=1e-3)


MARGINS = [math.inf, SearchOptions().attention_margin, 0.2]  # seconds


@pytest.mark.parametrize(("ctc", "margin"), [(0.0, math.inf), *((0.4, m) for m in MARGINS)])
@pytest.mark.parametrize("beam", [1, 3, 8])
def test_batch_equals_single(lms: dict[str, NGram], beam: int, ctc: float, margin: float) -> None:
    model = tiny(2)
    states, lengths = inputs(model, [9, 70, 17, 1, 50])
    log_probs = model.ctc_log_probs(states).detach()
    weights = Weights(ctc=ctc, att=1.0, lm={"word": 0.4, "token": 0.3}, bonus=0.5)
    fusion = Fusion(PIECES, lms, weights)
    options = SearchOptions(beam=beam, nbest=beam, attention_margin=margin)
    batch = search(model, states, lengths, fusion, options, PIECES, log_probs)
    away = 0.0  # from what attention to all states gives
    for b, length in enumerate(lengths.tolist()):
        row = slice(b, b + 1), slice(length)
        alone = search(
            model, states[row], lengths[b : b + 1], fusion, options, PIECES, log_probs[row]
        )[0]
        assert [h.text for h in alone] == [h.text for h in batch[b]]
        assert [h.total for h in alone] == pytest.approx([h.total for h in batch[b]], abs=1e-4)
        for hypothesis in alone:
            exact = attention_scores(model, states[b, :length], [hypothesis.tokens])
            away = max(away, abs(hypothesis.scores["att"] - exact[0]))
    assert (away > 1e-3) == (margin < math.inf)


def test_ctc_guides_the_search_not_only_the_choice_among_its_results() -> None:
    """A narrow beam with prefix scores finds better totals than one that adds CTC at the end."""
    gains = []
    for seed in range(20):
        model = tiny(seed)
        states, lengths = inputs(model, [20], seed)
        log_probs = model.ctc_log_probs(states).detach() * 3
        log_probs -= log_probs.logsumexp(2, keepdim=True)
        weights = Weights(ctc=0.7, att=0.3)
        options = SearchOptions(beam=3, end_margin=math.inf)
        guided = search(
            model, states, lengths, Fusion(PIECES, {}, weights), options, PIECES, log_probs
        )[0]
        plain = Fusion(PIECES, {}, Weights(att=1.0))
        added = search(model, states, lengths, plain, replace(options, nbest=3), PIECES, log_probs)[
            0
        ]
        gains.append(guided[0].total - max(h.rate(weights) for h in added))
    assert np.mean(gains) > 0.5
    assert np.mean(np.array(gains) < -1e-3) < 0.2


def test_a_text_that_fills_all_frames_ends() -> None:
    model = tiny(0)
    assert model.speller is not None
    with torch.no_grad():
        model.speller.output.bias[0] = -50.0  # a speller that never wants to end
    states, lengths = inputs(model, [6, 3])
    log_probs = model.ctc_log_probs(states).detach()
    fusion = Fusion(PIECES, {}, Weights(ctc=0.01, att=1.0))
    options = SearchOptions(attention_margin=model.frame_shift)
    found = search(model, states, lengths, fusion, options, PIECES, log_probs)
    for nbest, most in zip(found, lengths.tolist(), strict=True):
        assert math.isfinite(nbest[0].total)
        assert 0 < len(nbest[0].tokens) <= most


def test_attention_stays_near_where_ctc_awaits_the_token() -> None:
    """CTC says a, b, a in three places; random attention looks there, within the margin."""
    model = tiny(3)
    states, lengths = inputs(model, [60])
    probs = torch.full((1, 60, len(PIECES)), 1e-5)
    probs[..., 0] = 1.0
    for frame, token in ((10, 2), (30, 3), (50, 2)):
        probs[0, frame] = 1e-5
        probs[0, frame, token] = 1.0
    log_probs = (probs / probs.sum(2, keepdim=True)).log()
    fusion = Fusion(PIECES, {}, Weights(ctc=0.9, att=0.1))
    margin = 5
    options = SearchOptions(attention_margin=margin * model.frame_shift)
    best = search(model, states, lengths, fusion, options, PIECES, log_probs)[0][0]
    assert best.tokens == [2, 3, 2]
    reach = [(0, 10), (11, 30), (31, 50)]
    for frame, (low, high) in zip(best.frames, reach, strict=True):
        assert low - margin <= frame <= high + margin


NEAR = [[40, 41], [42, 47], [45, 48], [30, 32], [0, 0], [34, 36]]
ENDS = [[0, 1], [0, 3], [2, 2], [66, 69], [0, 0], [69, 69]]
LAST = [[88, 89], [80, 84], [89, 89], [0, 1], [0, 0], [3, 9]]


@pytest.mark.parametrize("reach", [NEAR, ENDS, LAST])
@pytest.mark.parametrize("margin", [1, 2.5, 4, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_within_its_reach_attention_is_shared_out_as_everywhere(reach, margin, dtype) -> None:
    rng = np.random.default_rng(0)
    model = tiny(1).to(dtype)
    assert model.speller is not None
    states, lengths = inputs(model, [90, 70])
    options = SearchOptions(beam=3, attention_margin=margin * model.frame_shift)
    run = Search(model, Fusion(PIECES, {}, Weights(att=1.0)), options, lengths, None)
    beams = run.begin(states.to(dtype))
    beams.total = torch.from_numpy(rng.normal(size=6))
    beams.total[4] = -torch.inf  # no hypothesis: its reach, at the beginning, is nobody's
    attended = torch.from_numpy(rng.dirichlet(np.ones(90), 6)).to(dtype)
    beams.state = beams.state._replace(attended=attended)
    previous = torch.from_numpy(rng.integers(2, len(PIECES), 6))
    with torch.no_grad():
        everywhere = model.speller.step(beams.memory, beams.state, previous)[2]
        alignment = run.step_within(beams, previous, torch.tensor(reach).double())[2]
    for row, ((first, last), length) in enumerate(zip(reach, [90] * 3 + [70] * 3, strict=True)):
        near = everywhere[row].clone()  # of the probability there, each state has the same share
        if row != 4:
            near[: max(0, math.ceil(max(first - margin, 0)))] = 0
            near[min(length, math.floor(min(last + margin, length - 1)) + 1) :] = 0
        torch.testing.assert_close(alignment[row], near / near.sum(), atol=1e-6, rtol=1e-4)


def test_beam_one_is_greedy() -> None:
    for seed in range(5):
        model = tiny(seed)
        assert model.speller is not None
        states, lengths = inputs(model, [12], seed)
        memory, state = model.speller.begin(states, lengths)
        tokens: list[int] = []
        with torch.no_grad():
            while len(tokens) < 12:
                previous = torch.tensor([tokens[-1] if tokens else 0])
                log_probs, state, _ = model.speller.step(memory, state, previous)
                if int(log_probs.argmax()) == 0:
                    break
                tokens.append(int(log_probs.argmax()))
        found = search(model, states, lengths, None, SearchOptions(beam=1), PIECES)
        assert found[0][0].tokens == tokens


def test_never_longer_than_the_bound_and_no_special_tokens() -> None:
    model = tiny(0)
    assert model.speller is not None
    with torch.no_grad():
        model.speller.output.bias[0] = -50.0  # a speller that never wants to end
    states, lengths = inputs(model, [10, 4])
    options = SearchOptions(beam=4, nbest=4, length_ratio=0.5)
    for nbest, most in zip(
        search(model, states, lengths, None, options, PIECES), (5, 2), strict=True
    ):
        assert len(nbest) >= 1
        for hypothesis in nbest:
            assert len(hypothesis.tokens) == most
            assert not {0, 1} & set(hypothesis.tokens)


def test_end_margin_keeps_an_unlikely_end_out() -> None:
    """Every end of the finished hypotheses lies within the margin of the best token there."""
    model = tiny(7)
    assert model.speller is not None
    with torch.no_grad():
        model.speller.output.bias[0] -= 4.0
    states, lengths = inputs(model, [12])
    margins = {}
    for margin in (0.5, 50.0):
        options = SearchOptions(beam=20, nbest=20, end_margin=margin, beam_threshold=100.0)
        worst = 0.0
        for hypothesis in search(model, states, lengths, None, options, PIECES)[0]:
            if len(hypothesis.tokens) < 12:
                given = torch.tensor([hypothesis.tokens], dtype=torch.long).reshape(1, -1)
                last = model.speller(states, lengths, given)[0, -1]
                worst = max(worst, float((last[2:].max() - last[0]).detach()))
        margins[margin] = worst
    assert margins[0.5] <= 0.5 < margins[50.0]


def test_words_have_times_where_the_attention_was() -> None:
    model = tiny(2)
    assert model.speller is not None
    with torch.no_grad():
        model.speller.output.bias[2:4] += 3.0  # letters rather than boundaries or the end
    states, lengths = inputs(model, [20])
    nbest = search(model, states, lengths, None, SearchOptions(beam=10, nbest=10), PIECES)[0]
    assert any(hypothesis.text for hypothesis in nbest)
    for hypothesis in nbest:
        words = attended_words(hypothesis, Inventory(PIECES), model.frame_shift)
        assert [word.word for word in words] == hypothesis.text.split()
        for word in words:
            assert 0 <= word.start < word.end <= 20 * model.frame_shift + 1e-9


def test_utterance_with_nan_outputs_has_no_hypothesis_and_spoils_no_other() -> None:
    model = tiny(4)
    states, lengths = inputs(model, [6, 8])
    alone = search(model, states[:1], lengths[:1], None, SearchOptions(), PIECES)
    states[1] = torch.nan
    found = search(model, states, lengths, None, SearchOptions(), PIECES)
    assert found[1] == []
    assert found[0][0].text == alone[0][0].text


def test_a_model_without_speller_is_refused() -> None:
    model = tiny(0, ctc_weight=1.0)
    states, lengths = inputs(model, [4])
    with pytest.raises(InputError, match="no speller"):
        search(model, states, lengths, None, SearchOptions(), PIECES)
    model = tiny(0)
    fusion = Fusion(PIECES, weights=Weights(ctc=1.0))
    with pytest.raises(InputError, match="att"):
        search(model, states, lengths, fusion, SearchOptions(), PIECES)
