"""Text to token ids and back: characters, sentencepiece (bpe, unigram), units of a lexicon.

Id 0 is the blank of CTC and the start and end of the speller, 1 is unknown (never output). The word
boundary is the piece `|` (char) or a leading `▁` (sentencepiece); units of a lexicon have none.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from asr.errors import InputError, nearest
from asr.files import cannot_read, whole_file
from asr.text.normalize import Normalizer, get_normalizer

BLANK, UNKNOWN = 0, 1
SPECIAL = ("<blank>", "<unk>")
BOUNDARY = "|"
SENTENCEPIECE = ("bpe", "unigram")
TYPES = ("char", *SENTENCEPIECE, "lexicon")
FORMAT = 1
LONGEST = 1 << 18  # characters of a line that sentencepiece takes: of four bytes each 1 MiB

Pronunciations = Mapping[str, Sequence[tuple[float, tuple[str, ...]]]]


@dataclass(frozen=True)
class Tokenizer:
    """Pieces and how a normalised text is cut into them. pieces: "<blank>", "<unk>", then what can
    be output. model: the serialised sentencepiece model. spellings: the units of each word, its
    most probable pronunciation (type lexicon)."""

    type: str
    pieces: list[str]
    normalizer: Normalizer
    model: bytes = field(default=b"", repr=False)
    spellings: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        return len(self.pieces)

    @cached_property
    def hash(self) -> str:
        parts = [self.type, self.pieces, self.normalizer.rules, sorted(self.spellings.items())]
        return hashlib.sha256(json.dumps(parts).encode() + self.model).hexdigest()[:12]

    @cached_property
    def ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.pieces)}

    @cached_property
    def _characters(self) -> dict[str, int]:
        return self.ids | {" ": self.ids[BOUNDARY], BOUNDARY: UNKNOWN}

    @cached_property
    def _sentencepiece(self) -> Any:
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_proto=self.model)

    def _cut(self, text: str) -> Iterable[tuple[int, str]]:
        """(id, piece) of the normalised text; an unknown piece comes as the text itself."""
        text = self.normalizer(text)
        if self.type == "lexicon":
            words = ((word, self.spellings.get(word)) for word in text.split())
            return [
                (self.ids[unit] if units else UNKNOWN, unit)
                for word, units in words
                for unit in units or (word,)
            ]
        if self.type == "char":
            return [(self._characters.get(c, UNKNOWN), c) for c in text]
        cut = self._sentencepiece.encode
        return zip((i + 1 for i in cut(text)), cut(text, out_type=str), strict=True)

    def encode(self, text: str) -> list[int]:
        """Ids of the text, normalised first; what cannot be encoded becomes 1."""
        return [i for i, _ in self._cut(text)]

    def unknown(self, text: str) -> list[str]:
        """The different characters (words for type lexicon) that cannot be encoded."""
        pieces = {piece.strip("▁") for i, piece in self._cut(text) if i == UNKNOWN}
        return sorted(pieces if self.type == "lexicon" else set("".join(pieces)))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; 0 and 1 are left out. Units of a lexicon are joined by spaces."""
        pieces = [self.pieces[i] for i in ids if i > UNKNOWN]
        if self.type == "lexicon":
            return " ".join(pieces)
        text = "".join(pieces).replace(BOUNDARY if self.type == "char" else "▁", " ")
        return " ".join(text.split())

    def check_belongs(self, vocabulary: int, hash: str | None, where: object) -> None:
        """Raise InputError unless this is the tokenizer of a model with `vocabulary` outputs; hash:
        of the model's tokenizer, None where the model does not tell."""
        if vocabulary != self.size or hash not in (None, self.hash):
            own = f"it has {self.size} pieces ({self.hash})"
            other = f"the model {vocabulary} outputs ({hash or 'hash unknown'})"
            what = f"the tokenizer does not belong to the model: {own}, {other}"
            raise InputError(what, where, "Put back the tokenizer that the model was trained with.")

    def save(self, path: Path | str) -> None:
        """Write FOLDER/tokenizer.json, or the given .json file, and the .model file beside it."""
        file = _file(path)
        record = {"format": FORMAT, "type": self.type, "normalizer": self.normalizer.to_dict()}
        record |= {"pieces": self.pieces, "hash": self.hash}
        if self.spellings:
            record["spellings"] = {word: " ".join(units) for word, units in self.spellings.items()}
        text = json.dumps(record, ensure_ascii=False, indent=1)
        if self.model:
            with whole_file(file.with_suffix(".model"), "wb") as stream:
                stream.write(self.model)
        with whole_file(file) as stream:
            stream.write(text)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read what `save` wrote, or the tokenizer of a model or experiment folder. Raises
        InputError: missing, broken, newer, or another's .model file."""
        inner = [Path(path, name, "tokenizer.json") for name in ("model", "tokenizer")]
        file = next((one for one in (_file(path), *inner) if one.is_file()), _file(path))
        try:
            record = json.loads(file.read_text("utf-8"))
            if record["format"] > FORMAT:
                raise InputError("is a tokenizer of a newer format", file, "Update asr.")
            type, rules = record["type"], Normalizer.from_dict(record["normalizer"])
            model = file.with_suffix(".model").read_bytes() if type in SENTENCEPIECE else b""
            spellings = {w: tuple(u.split()) for w, u in record.get("spellings", {}).items()}
            tokenizer = cls(type, record["pieces"], rules, model, spellings)
            if tokenizer.hash != record["hash"]:
                what = "the tokenizer and its files do not belong together"
                remedy = "Copy tokenizer.json and tokenizer.model from the same folder."
                raise InputError(what, file, remedy)
        except OSError as error:
            raise cannot_read(error.filename, error, "`asr tokenizer` makes it.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "`asr tokenizer` makes them."
            raise InputError("is not a tokenizer file", file, remedy) from error
        return tokenizer

    @classmethod
    def train(
        cls,
        type: str,
        texts: Iterable[str] = (),
        size: int | None = None,
        normalizer: Normalizer | None = None,
        lexicon: Pronunciations | None = None,
    ) -> Tokenizer:
        """Make a tokenizer from texts, or from a lexicon (type lexicon). size: pieces altogether,
        for bpe and unigram; fewer where the texts yield fewer."""
        if type not in TYPES:
            raise InputError(f"no type '{type}'", "tokenizer", nearest(type, TYPES))
        if (size is None) == (type in SENTENCEPIECE):
            what = "types bpe and unigram need a size, char and lexicon have one of their own"
            raise InputError(what, "tokenizer", "Give it for bpe and unigram only.")
        normalizer = normalizer or get_normalizer()
        if type == "lexicon":
            return _from_lexicon(lexicon or {}, normalizer)
        lines = filter(None, map(normalizer, texts))
        first = next(lines, None)
        if first is None:
            what = "there is no text to make a tokenizer from"
            raise InputError(what, "tokenizer", "Give text with words.")
        if type == "char":
            characters = sorted(set(first).union(*lines) - {" ", BOUNDARY})
            return cls("char", [*SPECIAL, BOUNDARY, *characters], normalizer)
        return _from_sentencepiece(type, chain([first], lines), size or 0, normalizer)


def _file(path: Path | str) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / "tokenizer.json"


def _from_lexicon(lexicon: Pronunciations, normalizer: Normalizer) -> Tokenizer:
    if not lexicon:
        what = "a tokenizer of type lexicon needs a lexicon with words"
        remedy = "Give it by tokenizer.lexicon or --lexicon: lines `word unit unit ...`."
        raise InputError(what, "tokenizer", remedy)
    spellings: dict[str, tuple[str, ...]] = {}
    for word, pronunciations in lexicon.items():
        spellings.setdefault(normalizer(word), max(pronunciations, key=lambda entry: entry[0])[1])
    units = sorted({u for entries in lexicon.values() for _, units in entries for u in units})
    return Tokenizer("lexicon", [*SPECIAL, *units], normalizer, spellings=spellings)


def _from_sentencepiece(type: str, lines: Iterable[str], size: int, rules: Normalizer) -> Tokenizer:
    """Identity normalisation: the normaliser is ours alone. Ids are sentencepiece's plus one."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    options: dict[str, Any] = {"model_type": type, "vocab_size": size - 1}
    options |= {"hard_vocab_limit": False, "num_threads": 1}  # the same pieces every time
    options |= {"normalization_rule_name": "identity", "add_dummy_prefix": True}
    options |= {"character_coverage": 1.0, "max_sentence_length": 4 * LONGEST, "minloglevel": 2}
    options |= {"unk_id": 0, "bos_id": -1, "eos_id": -1, "pad_id": -1}
    some = f".{{1,{LONGEST}}}"  # longer lines it would pass over without a word
    shorter = re.compile(rf"(?s){some}(?= |$)|{some}")
    cut = (part for line in lines for part in shorter.findall(line))
    try:
        SentencePieceTrainer.train(sentence_iterator=cut, model_writer=model, **options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).rsplit("] ", 1)[-1].split(". ")[0].rstrip(".")
        what = f"sentencepiece cannot make {size} pieces ({reason})"
        raise InputError(what, "tokenizer", "Change --size.") from error
    processor = SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(1, len(processor))]
    return Tokenizer(type, [*SPECIAL, *pieces], rules, model.getvalue())
