"""`asr train`: from a configuration and manifests to a model folder."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from asr.commands.options import File, Text, as_command
from asr.console import Skipped, count, end_with_skipped, say, some, track
from asr.errors import InputError
from asr.files import cannot_write, locked, whole_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from asr.config import Experiment
    from asr.data.loader import DevSet, TrainingSet
    from asr.models.recognizer import Recognizer
    from asr.text.tokenizer import Tokenizer
    from asr.training.distributed import Group
    from asr.training.loop import Trainer

# a row a token
TOKEN_WEIGHTS = {
    *("ctc.linear.weight", "ctc.linear.bias"),
    *("speller.embedding.weight", "speller.output.weight", "speller.output.bias"),
}
USUAL = 0.9  # of the utterances trained on are no longer than a model's window
SHORTEST_WINDOW = 2.0  # seconds
RATES = 20  # recordings at most whose rates are looked at
FEW = 5  # times the warm-up; fewer steps than that deserve a warning


def show_options(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from asr.config import all_options

        click.echo(all_options())
        context.exit()


EAGER = {"is_eager": True, "callback": show_options}


@as_command
def command(
    config: Path,
    output: Annotated[Path, "The experiment folder.", "-o", "--output"],
    changes: Annotated[tuple[str, ...], "KEY=VALUE: change an option.", "--set"] = (),
    init: Annotated[File, "Start from the weights of this model or experiment."] = None,
    device: Annotated[Text, "Same as --set train.device: cpu, cuda or cuda:N."] = None,
    threads: Annotated[int | None, "Same as --set train.threads. Default: all cores."] = None,
    options: Annotated[bool, "Print all options and their defaults, as YAML.", EAGER] = False,
) -> None:
    """Train the model that the YAML file CONFIG describes; ends with OUTPUT/model.

    A run that was stopped, however it was, continues when the same command is given again; with
    --set train.epochs=N it ends sooner or later. One that has ended goes on in another folder with
    --init. Paths in CONFIG are relative to it. By torchrun several processes share each batch.

    Examples:
      asr train conf/ctc.yaml -o exp/ctc
      asr train conf/las.yaml -o exp/las --set model.encoder.layers=4 --set train.epochs=20
      torchrun --nproc-per-node=4 --max-restarts=3 -m asr train conf/ctc.yaml -o exp/ctc
      asr train --options > conf/new.yaml
    """
    from asr.config import load_experiment
    from asr.training.distributed import joined

    shortcuts = {"train.init": init, "train.device": device, "train.threads": threads}
    given = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    with joined() as group:
        experiment = load_experiment(config, (*changes, *given))
        with locked(output) if group.leader else nullcontext():
            finished = group.share(check_folder(output, experiment) if group.leader else None)
            if finished:
                say(f"{output} is finished: its model is {finished}")
                return
            trainer = prepare(experiment, output, group)
            trainer.run()
            if group.leader:
                unreadable = [*trainer.unreadable.items()]
                write_left_out(output, trainer.train.left_out + unreadable)
                total = len(trainer.train.utterances) + len(trainer.dev.utterances)
                end_with_skipped(unreadable, total)


def check_folder(folder: Path, experiment: Experiment) -> Path | None:
    """The model of a finished experiment. Raises InputError where `folder` holds another one, but
    for the number of epochs of one that is not finished."""
    from asr.config import differences

    saved, model = folder / "config.yaml", folder / "model"
    if saved.exists():
        changed, finished = differences(saved, experiment), model.exists()
        if [*changed] == ["train.epochs"] and not finished:
            say(f"train.epochs: {changed['train.epochs']}; the learning rate falls to its new end")
        elif changed:
            told = "; ".join(f"{key}: {values}" for key, values in changed.items())
            remedy = "Choose another folder with -o, or undo the change to continue."
            if [*changed] == ["train.epochs"]:
                remedy = f"It is finished: go on in another folder, with --init {folder}."
            raise InputError(f"was begun with another configuration ({told})", folder, remedy)
        return model if finished else None
    left = folder.iterdir() if folder.exists() else ()
    if any(path.suffix != ".part" for path in left):  # those a killed run leaves
        what, remedy = "is neither empty nor an experiment", "Choose another folder with -o."
        raise InputError(what, folder, remedy)
    return None


def prepare(experiment: Experiment, folder: Path, group: Group) -> Trainer:
    """All parts of a run, checked; the experiment folder is made last."""
    import torch

    from asr.machine import use_machine
    from asr.models.recognizer import Recognizer, usable_device
    from asr.training.loop import Trainer
    from asr.training.mwer import MWER

    options = experiment.train
    device = usable_device(options.device)
    if group.size > 1 and device.index is not None:
        what = f"'{device}' is one GPU for all processes"
        raise InputError(what, "train.device", "Use cuda: each process takes its own.")
    use_machine(options.threads)
    tokenizer = group.share(find_tokenizer(experiment, folder) if group.leader else None)
    assert tokenizer is not None
    torch.manual_seed(experiment.seed)
    model = Recognizer(experiment.model, tokenizer.size)
    begun = group.share(any((folder / "checkpoints").glob("step-*.pt")) if group.leader else None)
    if options.init and not begun:
        initialise(model, tokenizer, Path(options.init))
    train, dev, sets = open_sets(experiment, tokenizer, model)
    model.window = window_of(train.sampler.durations, model.window)
    say(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {tokenizer.size}"
        f" tokens; training on {count(len(train.kept), 'utterance')}, {train.seconds / 3600:.2f} h,"
        f" in batches of {train.sampler.batch_seconds:.0f} s"
    )
    rate = rate_of(train)
    if rate < model.options.sample_rate and not options.init:  # which settles the rate
        say(f"hint: the recordings are of {rate} Hz: model.sample_rate: {rate} is faster")
    if options.precision == "float64":
        model.double()
    model.to(device)
    mwer = MWER(model, tokenizer, experiment.mwer) if experiment.mwer.nbest else None
    trainer = Trainer(model, train, dev, options, folder, group, mwer)
    if changed := [path for path, hash in sets.items() if trainer.sets.get(path, hash) != hash]:
        say(f"warning: {some(changed)} changed since: epochs before and after cannot be compared")
    trainer.sets = sets
    if not trainer.step:
        steps = options.epochs * len(train.sampler.batches(0))
        if steps < FEW * options.warmup and not options.init:
            say(
                f"warning: {count(steps, 'step')} in all, the first {options.warmup} to warm up,"
                " are few: raise train.epochs, or lower data.batch_seconds and train.warmup"
            )
        for batch in train.largest(trainer.share):
            trainer.updater.check_memory(batch, train.sampler.batch_seconds)
    if group.leader:
        write_folder(folder, experiment, trainer)
    if mwer and not trainer.step:
        mwer.introduce(train, [*dev.texts.values()])
    return trainer


def rate_of(train: TrainingSet) -> int:
    """The highest, in Hz, of some recordings that can be opened."""
    from asr.data.audio import audio_info
    from asr.errors import AudioError

    rates = [0]
    for index in train.kept[:: len(train.kept) // RATES + 1]:
        with suppress(AudioError):
            rates.append(audio_info(train.utterances[int(index)]).sample_rate)
    return max(rates) or sys.maxsize


def window_of(durations: NDArray[np.float32], before: float | None) -> float:
    """The window (seconds) of a model trained on utterances of these durations; no shorter than
    that of the model it starts from."""
    import numpy as np

    return max(float(np.quantile(durations, USUAL)), before or SHORTEST_WINDOW)


def write_folder(folder: Path, experiment: Experiment, trainer: Trainer) -> None:
    from asr.config import save_experiment
    from asr.machine import write_machine

    left_out = trainer.train.left_out
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_experiment(experiment, folder / "config.yaml")  # first: it marks the folder as ours
        trainer.tokenizer.save(folder / "tokenizer")
        write_left_out(folder, left_out + trainer.train.unreadable)
        write_machine(folder / "machine.json", experiment.train.device)
    except OSError as error:
        raise cannot_write(folder, error) from error
    if left_out:
        say(f"left out {count(len(left_out), 'utterance')}, listed in {folder / 'skipped.jsonl'}")


def write_left_out(folder: Path, left_out: Skipped) -> None:
    lines = [json.dumps({"id": i, "reason": r}, ensure_ascii=False) + "\n" for i, r in left_out]
    with whole_file(folder / "skipped.jsonl") as file:
        file.writelines(lines)


def find_tokenizer(experiment: Experiment, folder: Path | None = None) -> Tokenizer:
    """That of the experiment in `folder`, the given one, or one made from the training texts."""
    from asr.data.manifest import open_manifests
    from asr.lm.lexicon import read_lexicon
    from asr.text.normalize import get_normalizer
    from asr.text.tokenizer import Tokenizer

    options = experiment.tokenizer
    if folder and (folder / "tokenizer" / "tokenizer.json").exists():
        return Tokenizer.load(folder / "tokenizer")
    if options.path:
        return Tokenizer.load(options.path)
    rules = get_normalizer(options.normalizer)
    lexicon = read_lexicon(Path(options.lexicon)) if options.lexicon else None
    utterances = open_manifests(experiment.data.train)
    texts = (u.text for u in track(utterances, "tokens", len(utterances)) if u.text)
    return Tokenizer.train(options.type, texts, options.size, rules, lexicon)


def open_sets(
    experiment: Experiment, tokenizer: Tokenizer, model: Recognizer
) -> tuple[TrainingSet, DevSet, dict[str, str]]:
    """The training set, filtered, and the dev set, complete; the hashes of their manifests."""
    from asr.data.cache import AudioCache
    from asr.data.loader import BatchMaker, DevSet, Fit, TrainingSet
    from asr.data.manifest import open_manifests

    data, seed, longest = experiment.data, experiment.seed, experiment.train.max_dev_seconds
    train, dev = open_manifests(data.train), open_manifests(data.dev)
    for part in train.parts:
        if part.split == "test":
            say(f"warning: {part.path} is marked as a test set, and trained on")
        if any(part.hash == other.hash for other in dev.parts):
            say(f"warning: {part.path} is in data.dev too: its WER there will say nothing")
    fit = Fit(model.output_lengths, model.min_frames)
    audio = AudioCache(experiment.model.sample_rate, data.cache_mb)
    varied, plain = (BatchMaker(tokenizer, audio, seed, fit, options) for options in (data, None))
    return (
        TrainingSet(train, varied, train.durations),
        DevSet(dev, plain, dev.durations, data, longest),
        {str(part.path): part.hash for part in (*train.parts, *dev.parts)},
    )


def initialise(model: Recognizer, tokenizer: Tokenizer, source: Path) -> None:
    """Copy the weights of the same name and shape from a model folder; say which were left. Of what
    belongs to tokens, those are taken that both tokenizers have.

    Raises InputError where that is less than half of both models.
    """
    import torch

    from asr.models.folder import model_folder

    source = model_folder(source)
    saved, pieces = model.load(source), tokenizer.load(source).pieces
    if saved.options.sample_rate != model.options.sample_rate:
        what = f"its sample rate is {saved.options.sample_rate} Hz, not {model.options.sample_rate}"
        raise InputError(what, source, "Set model.sample_rate to it; audio is converted.")
    weights, own = saved.state_dict(), model.state_dict()
    if pieces != tokenizer.pieces:
        place = {piece: i for i, piece in enumerate(pieces)}
        known = [(i, place[p]) for i, p in enumerate(tokenizer.pieces) if p in place]
        say(f"{len(known)} of {tokenizer.size} tokens are known to {source}")
        here, there = map(list, zip(*known, strict=True))
        for name in TOKEN_WEIGHTS & own.keys() & weights.keys():
            if own[name].shape[1:] == weights[name].shape[1:]:
                weights[name] = own[name].index_copy(0, torch.tensor(here), weights[name][there])
    left = [n for n, w in own.items() if n not in weights or weights[n].shape != w.shape]
    taken = {n: w for n, w in weights.items() if n in own and n not in left}
    sizes = [sum(w.numel() for w in those.values()) for those in (taken, weights, own)]
    if 2 * sizes[0] < min(sizes[1:]):
        what = f"is another model: {len(taken)} of its {len(weights)} weights would be taken"
        raise InputError(what, source, "Copy `model:` from its config.yaml into the configuration.")
    model.load_state_dict(taken, False)
    model.window = saved.window
    say(f"weights from {source}" + (f"; new ones: {', '.join(left)}" if left else ""))
