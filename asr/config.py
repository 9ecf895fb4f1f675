"""The configuration of an experiment: one YAML file, checked; `--set KEY=VALUE` for anything.

`Experiment` is the modules' own options composed. Paths are relative to the YAML file, those of
`--set` to the current folder; `${oc.env:NAME}` is an environment variable.
"""

import inspect
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf, errors
from yaml import YAMLError  # type: ignore[import-untyped]

from asr.data.loader import DataOptions
from asr.errors import InputError, nearest
from asr.files import cannot_read, whole_file
from asr.models.recognizer import RecognizerOptions
from asr.training.mwer import MWEROptions
from asr.training.update import TrainOptions


@dataclass
class TokenizerOptions:
    """A tokenizer's file, or how to make one from the training texts."""

    # tokenizer.json or its folder (`asr tokenizer` makes it); the rest is then without effect
    path: str | None = None
    type: str = "char"  # "char", "bpe", "unigram" or "lexicon"
    size: int | None = None  # pieces of bpe and unigram
    normalizer: Any = "basic"  # "basic", "english", "none" or a list of rules
    lexicon: str | None = None  # pronunciations, for type lexicon

    def __post_init__(self) -> None:
        rules = self.normalizer if isinstance(self.normalizer, list) else [self.normalizer]
        if not all(isinstance(rule, str) for rule in rules):
            raise InputError(f"tokenizer.normalizer={self.normalizer} is no name or list of rules")


@dataclass
class Experiment:
    """All options of `asr train`."""

    seed: int = 1  # of everything that is drawn at random
    data: DataOptions = field(default_factory=DataOptions)
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    model: RecognizerOptions = field(default_factory=RecognizerOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    mwer: MWEROptions = field(default_factory=MWEROptions)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed={self.seed} must be from 0 to 2^63 - 1")


LISTS = ("data.train", "data.dev", "mwer.lm")
PATHS = [*LISTS, "data.noise.folder", "data.reverb.folder", "train.init", "mwer.weights"]
PATHS += ["tokenizer.path", "tokenizer.lexicon"]
# a run may be continued on another machine with these changed
OF_THE_MACHINE = {"train.device", "train.threads", "data.workers", "data.cache_mb"}
OF_THE_MACHINE |= {"train.checkpoint_minutes"}
SHOWS = "`asr train --options` shows"


def load_experiment(path: Path | str, changes: Sequence[str] = ()) -> Experiment:
    """Read a configuration and apply `changes` ("train.epochs=5", values in YAML).

    Raises InputError naming the file and the key: unknown (with the nearest known), of a wrong
    type, missing, impossible.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise cannot_read(path, error, "Give a YAML file.") from error
    where: object = path
    try:
        read = _resolved(OmegaConf.create(text), path.parent)
        config = OmegaConf.merge(OmegaConf.structured(Experiment), read)
        for change in changes:
            where = f"--set {change}"
            if "=" not in change:
                raise InputError("is not KEY=VALUE", where, "Write --set train.epochs=20.")
            config = OmegaConf.merge(config, _resolved(OmegaConf.from_dotlist([change]), Path()))
        where = path
        for name, value in flat(OmegaConf.to_container(config)):
            given = value if isinstance(value, list) else [value]
            if any(isinstance(number, float) and math.isnan(number) for number in given):
                raise InputError(f"{name}={value} is no number")
        experiment: Experiment = OmegaConf.to_object(config)  # type: ignore[assignment]
    except YAMLError as error:
        what = " ".join(str(error).split())
        raise InputError(f"is not YAML ({what})", where, "Correct its syntax.") from error
    except errors.OmegaConfBaseException as error:
        raise _told(error, where) from error
    except InputError as error:  # an option's own check
        if error.where is None:
            blamed = (f"--set {c}" for c in reversed(changes) if c.partition("=")[0] in error.what)
            raise InputError(error.what, next(blamed, where), error.remedy) from error
        raise
    return experiment


def _resolved(config: Any, folder: Path) -> DictConfig:
    """With environment variables put in, and paths made absolute by `folder`."""
    if not isinstance(config, DictConfig):
        raise InputError("is not a mapping of options", None, f"{SHOWS} one.")
    OmegaConf.resolve(config)
    dots = ((name, dot.start()) for name in option_names() for dot in re.finditer(r"\.", name))
    for group in dict.fromkeys(name[:dot] for name, dot in dots):
        value = OmegaConf.select(config, group, default={})
        if not isinstance(value, Mapping):
            what = f"option '{group}' is a group of options, not {value}"
            raise InputError(what, None, f"{SHOWS} what it holds.")
    for key in PATHS:
        value = OmegaConf.select(config, key)
        if isinstance(value, str | ListConfig):
            given = [value] if isinstance(value, str) else value
            paths = [os.path.abspath(folder / v) if isinstance(v, str) else v for v in given]
            listed = key in LISTS or not isinstance(value, str)
            OmegaConf.update(config, key, paths if listed else paths[0])
    return config


def _told(error: errors.OmegaConfBaseException, where: object) -> InputError:
    """omegaconf's error in a sentence of ours."""
    key = error.full_key or ""
    reason = str(error.msg or error).splitlines()[0]
    if isinstance(error, errors.ConfigKeyError):
        return InputError(f"unknown option '{key}'", where, nearest_option(key))
    if isinstance(error, errors.MissingMandatoryValue):
        return InputError(f"option '{key}' is missing", where, "Give it there, or by --set.")
    if isinstance(error, errors.InterpolationResolutionError):
        reason = reason.removeprefix("KeyError raised while resolving interpolation: ").strip('"')
        return InputError(reason, where, "Set it, or write the path.")
    if "is not a ListConfig" in reason:
        reason = "must be a list, like [1, 2]"
    told = f"option '{key}': {reason}" if key else reason
    return InputError(told, where, f"{SHOWS} all options with their defaults.")


def option_names() -> list[str]:
    """ "seed", "data.train", ..."""
    return [name for name, _ in flat(OmegaConf.to_container(OmegaConf.structured(Experiment)))]


def nearest_option(key: str) -> str:
    """The known option most like `key`: by its whole name, or else by its last part."""
    names = option_names()
    names += {name.rpartition(".")[0] for name in names} - {""}
    for name in names:
        if name.rpartition(".")[2] == key.rpartition(".")[2]:
            return f"Did you mean '{name}'?"
    hint = nearest(key, names)
    return hint if not hint.startswith("Known") else "`asr train --options` lists them."


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Write the configuration as it runs; it appears only when it is complete."""
    with whole_file(path) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.structured(experiment)))


def differences(path: Path, experiment: Experiment) -> dict[str, str]:
    """Options that a saved configuration has otherwise, {key: "old -> new"}; not the machine's."""
    try:
        old = dict(flat(OmegaConf.to_container(OmegaConf.load(path))))
        if not old:
            raise ValueError("no option in it")
    except (OSError, ValueError, YAMLError, AttributeError) as error:
        remedy = "Remove the folder, or put the file back."
        raise InputError("is damaged", path, remedy) from error
    new = dict(flat(OmegaConf.to_container(OmegaConf.structured(experiment))))
    keys = sorted((old.keys() | new.keys()) - OF_THE_MACHINE)
    return {k: f"{old.get(k)} -> {new.get(k)}" for k in keys if old.get(k) != new.get(k)}


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("train.epochs", 30), ... of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def all_options() -> str:
    """All options with their defaults and comments, as YAML."""
    values = OmegaConf.to_container(OmegaConf.structured(Experiment))
    return "\n".join(_described(Experiment, values))


def _described(kind: type, values: Any, indent: str = "") -> Iterator[str]:
    kinds = get_type_hints(kind)
    for name, comment in _comments(kind).items():
        if is_dataclass(kinds[name]):
            yield f"{indent}{name}:"
            yield from _described(kinds[name], values[name], indent + "  ")
        else:
            shown = "null" if values[name] is None else json.dumps(values[name]).strip('"')
            yield f"{indent}{name}: {shown}".ljust(36) + f"  # {comment}"


def _comments(kind: type) -> dict[str, str]:
    """The comment of each field of a dataclass, behind it or in the lines above it."""
    comments: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(kind).splitlines():
        if match := re.match(r"    # (.*)", line):
            above.append(match[1])
        elif match := re.match(r"    (\w+): [^#]*?(?:  # (.*))?$", line):
            comments[match[1]] = match[2] or " ".join(above)
            above = []
    return {f.name: comments[f.name] for f in fields(kind)}
