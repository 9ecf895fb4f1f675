"""Checks of the options that stand beside the modules; a wrong one is the user's mistake."""

from __future__ import annotations

from collections.abc import Iterable

from asr.errors import InputError, nearest


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """InputError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise InputError(f"'{value}' is not known", option, nearest(value, choices))


def check_range(option: str, value: float, low: float, high: float = float("inf")) -> None:
    """InputError unless low <= value <= high (NaN is not)."""
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise InputError(f"{value:g} is impossible", option, f"It must be {bounds}.")
