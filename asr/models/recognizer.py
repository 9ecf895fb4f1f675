"""The recogniser: front-end, encoder, and a CTC head, a speller or both. Tensors only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from asr.errors import InputError, nearest
from asr.files import cannot_read, whole_file
from asr.models import ctc
from asr.models.common import Length, check_ranges
from asr.models.encoder import Encoder, EncoderOptions
from asr.models.frontend import Frontend, FrontendOptions
from asr.models.speller import Speller, SpellerOptions

FORMAT = 1  # of config.json; a newer one is refused
CONFIG, WEIGHTS = "config.json", "model.safetensors"
AGAIN, WRITES = "Copy the model again.", "`asr train` writes model folders."
Options = TypeVar("Options")


@dataclass
class RecognizerOptions:
    sample_rate: int = 16000  # Hz; audio is resampled to it
    ctc_weight: float = 1.0  # of the CTC loss; 1: CTC only, 0: LAS only, between: both heads
    frontend: FrontendOptions = field(default_factory=FrontendOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    speller: SpellerOptions = field(default_factory=SpellerOptions)


class Recognizer(nn.Module):
    """B utterances, N samples, T states, D numbers a state, U tokens, V vocabulary."""

    def __init__(self, options: RecognizerOptions, vocabulary: int) -> None:
        """Raises InputError, naming the option, for one that is unknown or impossible."""
        super().__init__()
        check_ranges("model", options, sample_rate=(4000, 96000), ctc_weight=(0, 1))
        self.options, self.vocabulary = options, vocabulary
        self.tokenizer_hash: str | None = None  # of the tokenizer it is trained with; saved
        self.window: float | None = None  # seconds; see `encode`; saved
        self.frontend = Frontend(options.frontend, options.sample_rate)
        self.encoder = Encoder(options.encoder, options.frontend.channels)
        size, weight = self.encoder.size, options.ctc_weight
        self.ctc = ctc.CTCHead(size, vocabulary) if weight > 0 else None
        self.speller = Speller(options.speller, size, vocabulary) if weight < 1 else None
        self.heads = ["ctc"] * (weight > 0) + ["las"] * (weight < 1)
        shift, frames = self.frontend.shift, self.encoder.receptive_frames
        # Seconds: between states; of samples at one, below the first layer that sees all of them.
        self.frame_shift = shift * self.encoder.subsampling / options.sample_rate
        samples = self.frontend.window + (frames - 1) * shift
        self.receptive_field = samples / options.sample_rate

    @property
    def has_ctc(self) -> bool:
        return self.ctc is not None

    @property
    def has_speller(self) -> bool:
        return self.speller is not None

    def output_lengths(self, samples: Length) -> Length:
        """States of so many samples (int or tensor)."""
        return self.encoder.output_lengths(self.frontend.output_lengths(samples))

    def min_frames(self, tokens: Sequence[int]) -> int:
        """States that CTC needs for the tokens; without a CTC head one is enough."""
        return ctc.min_frames(tokens) if self.has_ctc else 1

    def encode(self, samples: Tensor, lengths: Tensor, **masks: Tensor) -> tuple[Tensor, Tensor]:
        """samples (B, N) in [-1, 1], lengths (B,) -> states (B, T, D), lengths (B,). Masks: see
        Frontend. What is decoded and longer than twice `window` is encoded in such windows."""
        with torch.autocast(samples.device.type, enabled=False):  # energies span many magnitudes
            features, frames = self.frontend(samples, lengths, **masks)
        if self.training or self.window is None:
            return self.encoder.forward(features, frames)
        size = round(self.window * self.options.sample_rate / self.frontend.shift)
        return self.encoder.in_windows(features, frames, size)

    def ctc_log_probs(self, states: Tensor) -> Tensor:
        """states (B, T, D) -> natural log-probabilities (B, T, V)."""
        if self.ctc is None:
            raise InputError("the model has no CTC head (ctc_weight 0)", None, "Use --head las.")
        return self.ctc.forward(states)

    def losses(
        self,
        samples: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        **mask: Tensor,
    ) -> dict[str, Tensor]:
        """tokens (B, U), 0 behind the end -> see `losses_of`."""
        return self.losses_of(*self.encode(samples, lengths, **mask), tokens, token_lengths)

    def losses_of(
        self, states: Tensor, frames: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> dict[str, Tensor]:
        """states (B, T, D), frames (B,) -> "ctc", "att" (of the heads there are), and "total" =
        ctc_weight·ctc + (1 - ctc_weight)·att: (B,), sums over an utterance, natural logs."""
        weight, total = self.options.ctc_weight, states.new_zeros(len(states))
        losses: dict[str, Tensor] = {}
        if self.ctc is not None:
            losses["ctc"] = ctc.ctc_loss(self.ctc(states), frames, tokens, token_lengths)
            total = total + weight * losses["ctc"]
        if self.speller is not None:
            log_probs = self.speller(states, frames, tokens)
            losses["att"] = self.speller.loss(log_probs, tokens, token_lengths)
            total = total + (1 - weight) * losses["att"]
        return losses | {"total": total}

    def describe(self) -> dict[str, Any]:
        """What `asr info` shows."""
        options, size = self.options, sum(p.numel() for p in self.parameters())
        facts: dict[str, Any] = {"frontend": options.frontend.type, "encoder": options.encoder.type}
        facts |= {"heads": self.heads, "vocabulary": self.vocabulary, "parameters": size}
        facts |= {"sample_rate": options.sample_rate, "frame_shift": self.frame_shift}
        return facts | {"receptive_field": self.receptive_field, "window": self.window}

    def save(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors; each appears only when it is complete."""
        folder = Path(folder)
        config = {"format": FORMAT, "options": asdict(self.options), "vocabulary": self.vocabulary}
        config |= {"tokenizer_hash": self.tokenizer_hash, "window": self.window}
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        with whole_file(folder / WEIGHTS, "wb") as file:
            file.write(save(weights))
        with whole_file(folder / CONFIG) as file:
            file.write(json.dumps(config, indent=2) + "\n")

    @staticmethod
    def load(folder: Path | str, device: str | torch.device = "cpu") -> Recognizer:
        """A saved recogniser in eval mode. Raises InputError where files are missing, broken, of a
        newer format, or do not fit, and where the device cannot be used."""
        folder, device = Path(folder), usable_device(device)
        config, path = read_config(folder / CONFIG), folder / WEIGHTS
        options = options_from(RecognizerOptions, config["options"], folder / CONFIG)
        model = Recognizer(options, config["vocabulary"])
        try:
            model.load_state_dict(load_file(path))
        except OSError as error:
            raise cannot_read(path, error, AGAIN) from error
        except SafetensorError as error:
            raise InputError(f"is not a whole safetensors file ({error})", path, AGAIN) from error
        except RuntimeError as error:  # torch's: weights that are missing, surplus, of other shapes
            what = f"does not fit config.json ({str(error).splitlines()[-1].strip()})"
            raise InputError(what, path, AGAIN) from error
        model.tokenizer_hash, model.window = config.get("tokenizer_hash"), config["window"]
        return model.to(device).eval()


def usable_device(name: str | torch.device) -> torch.device:
    """cpu, cuda (for each of torchrun's processes a GPU of its own) or cuda:N; raises InputError
    where nothing can be computed there."""
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.zeros(1, device=device).item()  # "meta" has tensors, but no numbers in them
    except (RuntimeError, AssertionError) as error:
        known = str(name).startswith("cuda")  # of other names torch lists all its back-ends
        what = f"device '{name}' cannot be used"
        what += f" ({str(error).splitlines()[0]})" if known else ""
        raise InputError(what, None, "Use cpu, or with a GPU cuda or cuda:N.") from error
    return device


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a model folder; raises InputError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is not a model folder: config.json is missing"
        raise InputError(what, path.parent, WRITES) from error
    except OSError as error:
        raise cannot_read(path, error, WRITES) from error
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", path, AGAIN) from error
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise InputError("has no format number: not the configuration of a model", path, WRITES)
    if config["format"] > FORMAT:
        what = f"format {config['format']} is newer than {FORMAT}, the newest known here"
        raise InputError(what, path, "Update asr.")
    size, window = config.get("vocabulary"), config.setdefault("window", None)
    if not isinstance(config.get("options"), dict) or type(size) is not int or size < 2:
        raise InputError("'options' or 'vocabulary' is missing or wrong", path, AGAIN)
    if window is not None and not (type(window) in (int, float) and 0.1 <= window < math.inf):
        raise InputError(f"'window' is {window!r}, no number of seconds", path, AGAIN)
    return config


def options_from(kind: type[Options], record: Mapping[str, Any], where: Path) -> Options:
    """The options dataclass `kind` from its JSON record; InputError for a wrong name or type."""
    options = kind()
    for name, value in record.items():
        if not hasattr(options, name):
            raise InputError(f"unknown option '{name}'", where, nearest(name, vars(options)))
        wanted = type(getattr(options, name))
        if is_dataclass(wanted) and isinstance(value, dict):
            value = options_from(wanted, value, where)
        elif type(value) is not wanted and (wanted, type(value)) != (float, int):
            what = f"option '{name}' is {value!r}, no {wanted.__name__}"
            raise InputError(what, where, AGAIN)
        setattr(options, name, value)
    return options
