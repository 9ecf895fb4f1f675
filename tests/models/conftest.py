"""Small recognisers and random batches for the tests of the models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from asr.models.encoder import EncoderOptions
from asr.models.frontend import FrontendOptions
from asr.models.recognizer import Recognizer, RecognizerOptions
from asr.models.speller import SpellerOptions

VOCABULARY = 9


@pytest.fixture
def make_recognizer() -> Callable[..., Recognizer]:
    """make_recognizer(frontend="conv", encoder="blstm", subsampling=4, ctc_weight=0.4), tiny."""

    def make(
        frontend: str = "conv",
        encoder: str = "blstm",
        subsampling: int = 4,
        ctc_weight: float = 0.4,
        layers: int = 3,
        speller_layers: int = 1,
    ) -> Recognizer:
        torch.manual_seed(3)
        options = RecognizerOptions(
            sample_rate=8000,
            ctc_weight=ctc_weight,
            frontend=FrontendOptions(type=frontend, channels=24),
            encoder=EncoderOptions(encoder, layers, 12, subsampling=subsampling, heads=2, kernel=5),
            speller=SpellerOptions(speller_layers, size=14, embedding=6, attention=10, reach=3),
        )
        model = Recognizer(options, VOCABULARY).eval()
        for parameter in model.speller.parameters() if model.speller else ():
            # Large weights: attention and outputs far from uniform.
            torch.nn.init.normal_(parameter, std=0.5)
        return model

    return make


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """samples (4, N), lengths, tokens (4, U), token_lengths: from long to shorter than a window."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([9000, 7311, 3001, 150])
    tokens = torch.tensor([[2, 2, 5, 3], [7, 8, 2, 0], [4, 0, 0, 0], [0, 0, 0, 0]])
    samples = (
        torch.randn(4, 9000, generator=generator) * torch.tensor([0.3, 0.01, 0.1, 0.1])[:, None]
    )
    samples = samples * (torch.arange(9000) < lengths[:, None])
    return samples, lengths, tokens, torch.tensor([4, 3, 1, 0])
