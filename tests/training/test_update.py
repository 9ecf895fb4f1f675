"""One step: gradients in parts, what is not finite, mixed precision, the moving average, memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.data.loader import Batch, pad
from asr.errors import InputError
from asr.models.encoder import EncoderOptions
from asr.models.frontend import FrontendOptions
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.models.speller import SpellerOptions
from asr.training.distributed import Group
from asr.training.update import TrainOptions, Updater, cpu_has_bfloat16

NAMES = ("total", "ctc", "att")
Losses = Callable[..., dict[str, Tensor]]


def make_model() -> Recognizer:
    torch.manual_seed(3)
    options = RecognizerOptions(
        sample_rate=8000,
        ctc_weight=0.4,
        frontend=FrontendOptions(channels=12),
        encoder=EncoderOptions(type="pyramid", layers=2, size=8, dropout=0.0),
        speller=SpellerOptions(size=8, embedding=4, attention=8, filters=2, reach=2, dropout=0.0),
    )
    return Recognizer(options, 7)


def make_batch(rows: int = 5, seconds: float = 1.0) -> Batch:
    random = np.random.default_rng(5)
    waves = [
        random.normal(0, 0.1, int(8000 * seconds * (1 + i / 10))).astype(np.float32)
        for i in range(rows)
    ]
    samples, lengths = pad(waves, np.float32)
    tokens, counts = pad([random.integers(2, 7, 3 + i % 2) for i in range(rows)], np.int64)
    total = float(lengths.sum()) / 8000
    ids = [f"u{i}" for i in range(rows)]
    return Batch(ids, samples, lengths, tokens, counts, None, None, total, [])


def make_updater(losses: Callable[[Recognizer], Losses], **options: object) -> Updater:
    model = make_model()
    if options.get("precision") == "float64":
        model.double()
    return Updater(model, losses(model), NAMES, Group(), TrainOptions(**options), seed=1)  # type: ignore[arg-type]


def plain(model: Recognizer) -> Losses:
    return model.losses


def weights(updater: Updater) -> list[Tensor]:
    return [p.detach().clone() for p in updater.parameters]


def test_a_batch_that_does_not_fit_is_split() -> None:
    """The same update as in one piece. A CPU's memory cannot be made to end at a certain batch, so
    the error is raised here, in the words of CUDA, in the middle of the second part too."""

    def small(model: Recognizer) -> Losses:
        def losses(**tensors: Tensor) -> dict[str, Tensor]:
            if len(tensors["samples"]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return model.losses(**tensors)

        return losses

    whole = make_updater(plain, precision="float64")
    split = make_updater(small, precision="float64")
    outcomes = [u.update(make_batch(), 0, 1e-3, False) for u in (whole, split)]
    assert (whole.splits, split.splits) == (0, 1)
    assert outcomes[1].sums == pytest.approx(outcomes[0].sums, rel=1e-12)
    for one, other in zip(weights(whole), weights(split), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)

    def none(model: Recognizer) -> Losses:
        def losses(**tensors: Tensor) -> dict[str, Tensor]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        return losses

    with pytest.raises(InputError, match=r"data\.max_seconds: memory for training on an utterance"):
        make_updater(none).update(make_batch(), 0, 1e-3, False)


def test_parts_at_once_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that have a part of the batch each: the same update, and with dropout and scheduled
    sampling the same one every time."""
    whole, parted = (make_updater(plain, precision="float64") for _ in range(2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    batch = make_batch(14)
    assert parted._threads(batch) == 3
    monkeypatch.setattr(whole, "_threads", lambda _: 1)
    outcomes = [u.update(batch, 0, 1e-3, False) for u in (whole, parted)]
    assert outcomes[1].sums == pytest.approx(outcomes[0].sums, rel=1e-12)
    for one, other in zip(weights(whole), weights(parted), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)

    whole, parted = (make_updater(plain) for _ in range(2))  # float32: the LSTM of oneDNN
    for updater, parts in ((whole, 1), (parted, 3)):
        updater._backward(batch, 0, parts, at_once=True)
    for one, other in zip(whole.parameters, parted.parameters, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-3 * float(one.grad.norm()))

    def varied() -> list[Tensor]:
        updater = make_updater(plain)
        updater.model.encoder.dropout.rate = 0.3
        updater.model.speller.sampling = 0.4  # type: ignore[union-attr]
        for step in range(3):
            updater.update(batch, step, 1e-3, False)
        return weights(updater)

    runs = [varied() for _ in range(4)]
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))
    monkeypatch.setattr(Updater, "_threads", lambda *_: 1)
    assert not any(map(torch.equal, varied(), runs[0]))


MEMORY = """
import resource, sys
sys.path.insert(0, {folder!r})
from test_update import make_batch, make_updater, plain

updater = make_updater(plain)
batch = make_batch(64, 20.0)
updater.check_memory(batch.rows(slice(2)), 120)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, -1))
updater.check_memory(batch, 120)
"""


def test_the_largest_batch_is_tried_in_real_memory() -> None:
    """In a process of its own, which may have another 256 MB at most."""
    folder = str(__file__).rpartition("/")[0]
    code = MEMORY.format(folder=folder)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1].endswith(
        "data.batch_seconds=120: the largest batch (64 utterances, 9344 s of audio with padding) "
        "does not fit into the memory of cpu. Lower it."
    ), run.stderr


def test_a_loss_that_is_not_finite_is_named_and_changes_nothing() -> None:
    def broken(model: Recognizer) -> Losses:
        def losses(**tensors: Tensor) -> dict[str, Tensor]:
            found = model.losses(**tensors)
            spoilt = torch.tensor([1.0, torch.nan, 1.0, torch.inf, 1.0])
            return found | {"total": found["total"] * spoilt}

        return losses

    updater = make_updater(broken, ema=0.9)
    before = weights(updater)
    outcome = updater.update(make_batch(), 0, 1e-3, False)
    assert outcome.bad == ["u1", "u3"]
    assert all(map(torch.equal, before, weights(updater)))
    assert all(map(torch.equal, before, updater.average.weights.values()))  # type: ignore[union-attr]
    updater.losses = updater.model.losses
    assert not updater.update(make_batch(), 1, 1e-3, False).bad
    assert not any(map(torch.equal, before, weights(updater)))


def test_mixed_precision_is_close() -> None:
    """bfloat16 has 8 bits; the front-end, whose logarithm would magnify that, stays in float32."""
    if not cpu_has_bfloat16():
        with pytest.raises(InputError, match="this processor cannot train in bfloat16"):
            make_updater(plain, precision="bfloat16")
        return
    sums = [
        make_updater(plain, precision=precision).update(make_batch(), 0, 1e-3, False).sums
        for precision in ("float32", "bfloat16")
    ]
    assert sums[1] == pytest.approx(sums[0], rel=0.02)
    assert sums[1] != sums[0]


def test_moving_average() -> None:
    updater = make_updater(plain, ema=0.5)
    average = updater.average
    assert average is not None
    expected = weights(updater)
    for step, decay in enumerate((1 / 10, 2 / 11, 3 / 12)):
        updater.update(make_batch(), step, 1e-3, False)
        new = weights(updater)
        expected = [decay * a + (1 - decay) * w for a, w in zip(expected, new, strict=True)]
    for a, b in zip(expected, average.weights.values(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    own, averaged = weights(updater), [w.clone() for w in average.weights.values()]
    with updater.best_weights():
        assert all(map(torch.equal, averaged, weights(updater)))
    assert all(map(torch.equal, own, weights(updater)))
    state = updater.state()
    other = make_updater(plain, ema=0.5)
    other.load_state(state)
    assert all(map(torch.equal, averaged, other.average.weights.values()))  # type: ignore[union-attr]


def test_a_gradient_that_is_too_long_is_cut_to_length_and_no_other() -> None:
    """Against torch's AdamW on the gradient of the mean loss. Of its first step the length means
    nothing, of a sum with shorter ones it does."""
    batches = [make_batch(5, 0.5), make_batch(5, 3.0), make_batch(3, 0.5)]

    def gradient(model: Recognizer, batch: Batch) -> Tensor:
        model.train()
        loss = model.losses(**batch.tensors(torch.device("cpu"), torch.float64))["total"].mean()
        parts = torch.autograd.grad(loss, list(model.parameters()))
        return torch.cat([part.flatten() for part in parts])

    norms = [float(gradient(make_model().double(), batch).norm()) for batch in batches]
    clip = (max(norms) * sorted(norms)[1]) ** 0.5
    options = {"precision": "float64", "weight_decay": 0.0}
    cut, never = (make_updater(plain, clip=c, **options) for c in (clip, 1e30))
    reference = make_model().double()
    weight = torch.nn.utils.parameters_to_vector(reference.parameters()).detach()
    optimizer = torch.optim.AdamW([weight], weight_decay=0.0)
    longer = []
    for step, batch in enumerate(batches):
        weight.grad = gradient(reference, batch)
        norm = float(weight.grad.norm())
        longer.append(norm > clip)
        weight.grad *= min(1.0, clip / norm)
        optimizer.param_groups[0]["lr"] = 1e-3
        optimizer.step()
        torch.nn.utils.vector_to_parameters(weight, reference.parameters())
        found = cut.update(batch, step, 1e-3, False)
        assert found.sums["norm"] == pytest.approx(norm, rel=1e-5)  # as it was
        never.update(batch, step, 1e-3, False)
    assert longer == [False, True, False]
    got, other = (torch.cat([w.flatten() for w in weights(u)]) for u in (cut, never))
    torch.testing.assert_close(got, weight, rtol=1e-6, atol=1e-7)
    assert float((other - weight).abs().max()) > 1e-4
