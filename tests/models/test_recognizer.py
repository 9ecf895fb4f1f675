"""The whole network: padding never changes a result; saving, loading, and what can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr.errors import InputError
from asr.models.common import LockedDropout
from asr.models.ctc import min_frames
from asr.models.recognizer import Recognizer, RecognizerOptions

Make = Callable[..., Recognizer]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]

FRONTENDS = ("conv", "sinc", "logmel")
ENCODERS = [(kind, factor) for kind in ("blstm", "conformer") for factor in (2, 3, 4)]
ENCODERS += [("pyramid", factor) for factor in (2, 4, 8)]
KINDS = [(frontend, *encoder) for frontend in FRONTENDS for encoder in ENCODERS]


@pytest.mark.parametrize(("frontend", "encoder", "subsampling"), KINDS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_padding_never_changes_a_result(
    make_recognizer: Make,
    batch: Batch,
    frontend: str,
    encoder: str,
    subsampling: int,
    dtype: torch.dtype,
    bound: float,
) -> None:
    model = make_recognizer(frontend, encoder, subsampling, speller_layers=2).to(dtype)
    samples, lengths, tokens, token_lengths = batch
    # Padding may hold anything: noise behind the end, and more of it than the longest needs.
    noise = torch.randn(4, 10500) * (torch.arange(10500) >= lengths[:, None])
    together = (torch.nn.functional.pad(samples, (0, 1500)) + noise).to(dtype)
    with torch.no_grad():
        states, frames = model.encode(together, lengths)
        log_probs = model.ctc_log_probs(states)
        assert model.speller is not None
        spelled = model.speller(states, frames, tokens)
        losses = model.losses(together, lengths, tokens, token_lengths)
        for row in range(4):
            one = samples[row : row + 1, : lengths[row]].to(dtype)
            own, own_frames = model.encode(one, lengths[row : row + 1])
            count, words = int(own_frames), int(token_lengths[row])
            assert count == int(frames[row]) == model.output_lengths(int(lengths[row]))
            assert states[row, count:].abs().sum() == 0
            difference = log_probs[row, :count] - model.ctc_log_probs(own)[0, :count]
            assert difference.abs().max() < bound
            alone = model.speller(own, own_frames, tokens[row : row + 1, :words])
            assert (spelled[row, : words + 1] - alone[0]).abs().max() < bound
            single = model.losses(
                one,
                lengths[row : row + 1],
                tokens[row : row + 1, :words],
                token_lengths[row : row + 1],
            )
            for name in ("ctc", "att", "total"):
                torch.testing.assert_close(
                    single[name][0], losses[name][row], atol=100 * bound, rtol=0
                )


@pytest.mark.parametrize("encoder", ["blstm", "conformer", "pyramid"])
def test_long_utterances_are_encoded_in_windows(
    make_recognizer: Make, batch: Batch, encoder: str
) -> None:
    model = make_recognizer("logmel", encoder).double()
    samples, lengths = batch[0].double(), batch[1]  # 1.1, 0.9, 0.4 and 0.02 s
    with torch.no_grad():
        whole, frames = model.encode(samples, lengths)
        model.window = 0.25
        states, same = model.encode(samples, lengths)
        assert same.tolist() == frames.tolist()
        for row, count in enumerate(frames.tolist()):
            one = samples[row : row + 1, : lengths[row]]
            own, _ = model.encode(one, lengths[row : row + 1])
            assert (states[row, :count] - own[0]).abs().max() < 1e-9
            assert states[row, count:].abs().sum() == 0
            difference = (states[row] - whole[row]).abs().amax(1)
            if row > 1:  # not twice as long as a window
                assert difference.max() < 1e-12
            else:
                assert difference.max() > 1e-6
        model.window = 0.6
        torch.testing.assert_close(model.encode(samples, lengths)[0], whole, atol=0, rtol=0)
        model.window = 0.25
        model.train()  # training sees whole utterances
        for module in model.modules():
            if isinstance(module, LockedDropout):
                module.eval()
        torch.testing.assert_close(model.encode(samples, lengths)[0], whole, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("weight", "names"), [(1.0, {"ctc"}), (0.0, {"att"}), (0.3, {"ctc", "att"})]
)
def test_losses_of_the_heads(
    make_recognizer: Make, batch: Batch, weight: float, names: set[str]
) -> None:
    model = make_recognizer(ctc_weight=weight).train()
    losses = model.losses(*batch)
    assert set(losses) == names | {"total"}
    assert all(loss.shape == (4,) for loss in losses.values())
    expected = sum({"ctc": weight, "att": 1 - weight}[name] * losses[name] for name in names)
    torch.testing.assert_close(losses["total"], expected)
    assert (model.has_ctc, model.has_speller) == ("ctc" in names, "att" in names)
    losses["total"].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("encoder", ["blstm", "conformer", "pyramid"])
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_gradients_are_the_numerical_ones(
    make_recognizer: Make, batch: Batch, frontend: str, encoder: str
) -> None:
    model = make_recognizer(frontend, encoder).double()
    samples, others = batch[0].double(), batch[1:]
    names = [name for name, _ in model.named_parameters()]

    class Total(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return self.model.losses(samples, *others)["total"]

    def total(*values: Tensor) -> Tensor:
        weights = {f"model.{name}": value for name, value in zip(names, values, strict=True)}
        loss: Tensor = torch.func.functional_call(Total(), weights, ())
        return loss

    values = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradcheck(total, values, fast_mode=True)


def test_masks_reach_the_features(make_recognizer: Make, batch: Batch) -> None:
    model = make_recognizer()
    everything = torch.tensor([[[0.0, 9.0]]] * 4)
    with torch.no_grad():
        plain, _ = model.encode(*batch[:2])
        timeless, _ = model.encode(*batch[:2], time_masks=everything)
        colourless, _ = model.encode(*batch[:2], frequency_masks=everything)
    torch.testing.assert_close(timeless, colourless)
    assert (plain[0] - timeless[0]).abs().max() > 0.01


def test_frame_shift_and_description(make_recognizer: Make) -> None:
    model = make_recognizer("logmel", "blstm", 3)
    assert model.receptive_field == pytest.approx(0.025 + 10 * 0.01)  # kernels 5 and 3
    model = make_recognizer("logmel", "pyramid", 8)
    assert model.frame_shift == pytest.approx(0.08)
    facts = model.describe()
    assert facts["frame_shift"] == model.frame_shift
    assert facts["receptive_field"] == pytest.approx(0.035)  # two frames
    assert facts["heads"] == ["ctc", "las"]
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    json.dumps(facts)


def test_min_frames_asks_the_heads(make_recognizer: Make) -> None:
    assert make_recognizer(ctc_weight=1.0).min_frames([2, 2, 3]) == min_frames([2, 2, 3]) == 4
    assert make_recognizer(ctc_weight=0.0).min_frames([2, 2, 3]) == 1


def test_no_ctc_head_is_said(make_recognizer: Make) -> None:
    with pytest.raises(InputError, match="no CTC head"):
        make_recognizer(ctc_weight=0.0).ctc_log_probs(torch.zeros(1, 2, 24))


@pytest.mark.parametrize("weight", [1.0, 0.0, 0.3])
@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("encoder", ["conformer", "pyramid"])
def test_saved_and_loaded_is_the_same(
    make_recognizer: Make, batch: Batch, tmp_path: Path, weight: float, frontend: str, encoder: str
) -> None:
    model = make_recognizer(frontend, encoder, ctc_weight=weight)
    model.save(tmp_path / "new" / "model")
    loaded = Recognizer.load(tmp_path / "new" / "model")
    assert sorted(p.name for p in (tmp_path / "new" / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert loaded.options == model.options
    assert not loaded.training
    with torch.no_grad():
        for name, loss in model.losses(*batch).items():
            assert torch.equal(loss, loaded.losses(*batch)[name])


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_model_folders_that_cannot_be_used(make_recognizer: Make, tmp_path: Path) -> None:
    def refused(*words: str) -> None:
        with pytest.raises(InputError) as caught:
            Recognizer.load(tmp_path)
        for word in words:
            assert word in str(caught.value)

    refused("not a model folder", "config.json is missing", str(tmp_path))
    make_recognizer().save(tmp_path)
    options = json.loads((tmp_path / "config.json").read_text())["options"]
    edit(tmp_path, format=7)
    refused("format 7 is newer than 1", "config.json", "Update asr")
    edit(tmp_path, format=1, vocabulary=10)
    refused("does not fit config.json (size mismatch", "model.safetensors")
    edit(tmp_path, vocabulary=9, options={**options, "encoderr": 3})
    refused("unknown option 'encoderr'", "Did you mean 'encoder'?")
    edit(tmp_path, options={**options, "encoder": {**options["encoder"], "layers": 2}})
    refused("does not fit config.json (Unexpected key")
    edit(tmp_path, options={**options, "encoder": {**options["encoder"], "layers": 4}})
    refused("does not fit config.json (Missing key")
    edit(tmp_path, options={**options, "encoder": 3})
    refused("'encoder'")
    edit(tmp_path, options={**options, "encoder": {**options["encoder"], "layers": "many"}})
    refused("'layers'")
    for window in ("long", 0.0, -1.0, [], True):
        edit(tmp_path, options=options, window=window)
        refused("'window' is", "no number of seconds")
    edit(tmp_path, window=None)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    refused("not a whole safetensors file", "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    refused("model.safetensors", "cannot be read")
    (tmp_path / "config.json").write_text("{")
    refused("is not JSON")
    (tmp_path / "config.json").write_text("[]")
    refused("no format number")
    (tmp_path / "config.json").write_text('{"format": 1}')
    refused("'options' or 'vocabulary' is missing")


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99", "cuda:x", ""])
def test_devices_that_cannot_be_used(device: str, make_recognizer: Make, tmp_path: Path) -> None:
    make_recognizer().save(tmp_path)
    with pytest.raises(
        InputError, match=rf"^device '{device}' cannot be used.* cuda or cuda:N"
    ) as e:
        Recognizer.load(tmp_path, device)
    assert "vulkan" not in str(e.value)  # torch's list of back-ends


def test_a_failed_save_leaves_the_old_model(
    make_recognizer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_recognizer().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left"):
        make_recognizer("logmel").save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_weights_hold_no_code(make_recognizer: Make, tmp_path: Path) -> None:
    model = make_recognizer()
    model.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    save_file({**weights, "extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"does not fit.*Unexpected key.*extra"):
        Recognizer.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (RecognizerOptions(sample_rate=100), "model.sample_rate"),
        (RecognizerOptions(ctc_weight=1.5), "model.ctc_weight"),
    ],
)
def test_impossible_options(options: RecognizerOptions, where: str) -> None:
    with pytest.raises(InputError) as caught:
        Recognizer(options, 5)
    assert caught.value.where == where
