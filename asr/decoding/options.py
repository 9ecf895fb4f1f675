"""Settings of the searches."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real

from asr.errors import InputError

DEFAULT_WEIGHT = 0.5  # of a language model
DEFAULT_BEAM = 20
JOINT_WEIGHT = 0.3  # of the CTC score beside attention's 0.7
DEFAULT_UNK = -0.5  # natural log for each letter of a word that the language model does not know


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How wide a search is. Scores are natural logs; nothing here changes a hypothesis' scores."""

    # hypotheses kept after each frame (CTC) or token (LAS); at least nbest are
    beam: int = DEFAULT_BEAM
    nbest: int = 1  # hypotheses returned, of distinct texts; CTC: with 1 a beam reaches further
    # a hypothesis this far below the best one's total is dropped; see Fusion.threshold
    beam_threshold: float = 12.0
    token_threshold: float = 8.0  # a token this far below the frame's most likely one is not tried
    tokens_per_frame: int = 40  # most tokens tried in a frame
    blank_skip: float = 0.9999  # a frame whose blank is more probable than this extends nothing
    end_margin: float = 1.0  # LAS: the end is tried at most this far below the best token
    length_ratio: float = 1.0  # LAS: most tokens for each state of the encoder
    coverage: float = 0.0  # LAS: bonus of every encoder state that was listened to, 0 or more
    attention_margin: float = 1.0  # joint: seconds attended to beyond where CTC awaits the token

    def __post_init__(self) -> None:
        for field in fields(self):
            value, must = getattr(self, field.name), "positive"
            number = isinstance(value, Real)
            right = number and value > 0
            if not number:
                must = "a number"
            elif field.name == "coverage":
                right, must = 0 <= value < math.inf, "0 or more"
            elif field.type == "int":
                right, must = hasattr(value, "__index__") and value >= 1, "a whole number from 1 on"
                if right:  # of numpy, too
                    object.__setattr__(self, field.name, int(value))
            if not right:
                name = field.name.replace("_", "-")
                raise InputError(f"is {value}; it must be {must}", name)


# Prunes nothing: finds the best of all texts wherever the beam can hold all prefixes.
EXHAUSTIVE = SearchOptions(100_000, 1, math.inf, math.inf, 1_000_000, 1.0, math.inf)
