import json
import pickle
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece

from asr.errors import InputError
from asr.text.normalize import get_normalizer
from asr.text.tokenizer import Tokenizer

LINES = ["The cat sat on the mat.", "Don't do that!", "the dog barked at the cats", "a plan"] * 5
LEXICON = {
    "read": [(0.4, ("R", "EH1", "D")), (0.6, ("R", "IY1", "D"))],
    "red": [(1.0, ("R", "EH1", "D"))],
}


def make(kind: str) -> Tokenizer:
    if kind == "lexicon":
        return Tokenizer.train(kind, lexicon=LEXICON)
    return Tokenizer.train(kind, LINES, None if kind == "char" else 30)


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
def test_decode_of_encode_is_the_normalised_text(kind: str) -> None:
    tokenizer = make(kind)
    assert tokenizer.pieces[:2] == ["<blank>", "<unk>"]
    assert len(set(tokenizer.pieces)) == tokenizer.size
    for line in [*LINES, "  cat   THAT "]:
        ids = tokenizer.encode(line)
        assert tokenizer.decode(ids) == get_normalizer()(line)
        assert min(ids) > 1
        assert max(ids) < tokenizer.size
    assert tokenizer.encode("") == []
    assert tokenizer.decode([0, 1]) == ""


def test_characters() -> None:
    tokenizer = make("char")
    assert tokenizer.pieces[2] == "|"
    assert [tokenizer.pieces[i] for i in tokenizer.encode("a cat")] == list("a|cat")


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
def test_unknown_characters(kind: str) -> None:
    tokenizer = make(kind)
    assert tokenizer.encode("ñ")[-1] == 1
    assert tokenizer.unknown("the ñ cat 好") == ["ñ", "好"]
    assert tokenizer.unknown("the cat") == []
    assert tokenizer.decode(tokenizer.encode("the ñ cat")) == "the cat"


def test_boundary_character_in_the_text_is_unknown() -> None:
    tokenizer = Tokenizer.train("char", ["a|b c"], normalizer=get_normalizer("none"))
    assert tokenizer.encode("a|b c") == [3, 1, 4, 2, 5]
    assert tokenizer.unknown("a|b") == ["|"]


def test_chinese() -> None:
    tokenizer = Tokenizer.train("char", ["你好，世界。", "今天"])
    assert tokenizer.decode(tokenizer.encode("今天好")) == "今天好"
    pieces = Tokenizer.train("unigram", ["你好世界", "今天好", "你好今天"] * 4, 30)
    assert pieces.decode(pieces.encode("今天你好")) == "今天你好"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_ids_are_those_of_sentencepiece_plus_one(kind: str, tmp_path: Path) -> None:
    tokenizer = make(kind)
    tokenizer.save(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    text = get_normalizer()(LINES[0])
    assert tokenizer.encode(text) == [i + 1 for i in reference.encode(text)]
    assert [tokenizer.pieces[i] for i in tokenizer.encode(text)] == reference.encode(
        text, out_type=str
    )
    assert tokenizer.pieces[tokenizer.encode(text)[0]].startswith("▁")


def test_lexicon_units() -> None:
    tokenizer = make("lexicon")
    assert tokenizer.pieces == ["<blank>", "<unk>", "D", "EH1", "IY1", "R"]
    assert tokenizer.decode(tokenizer.encode("read Red")) == "R IY1 D R EH1 D"
    assert tokenizer.encode("blue red") == [1, 5, 3, 2]
    assert tokenizer.unknown("blue red") == ["blue"]


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram", "lexicon"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    tokenizer = make(kind)
    for path in (tmp_path / "folder", tmp_path / "own.json"):
        tokenizer.save(path)
        loaded = Tokenizer.load(path)
        assert loaded == tokenizer
        assert loaded.hash == tokenizer.hash
        assert loaded.encode("the red cat") == tokenizer.encode("the red cat")
    assert pickle.loads(pickle.dumps(tokenizer)).encode("cat") == tokenizer.encode("cat")
    assert not list(tmp_path.rglob("*.part"))


def test_hash_tells_tokenizers_apart() -> None:
    other = Tokenizer.train("char", LINES, normalizer=get_normalizer("none"))
    hashes = {make(kind).hash for kind in ("char", "bpe", "unigram", "lexicon")} | {other.hash}
    assert len(hashes) == 5


@pytest.mark.parametrize("inner", ["", "model", "tokenizer"])
def test_loaded_from_a_model_or_experiment_folder(inner: str, tmp_path: Path) -> None:
    make("bpe").save(tmp_path / inner)
    assert Tokenizer.load(tmp_path).hash == make("bpe").hash


def test_loading_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="not a tokenizer file"):
        Tokenizer.load(tmp_path)
    make("bpe").save(tmp_path)
    Tokenizer.train("bpe", LINES[:1], 25).save(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.model").replace(tmp_path / "tokenizer.model")
    with pytest.raises(InputError, match="do not belong together"):
        Tokenizer.load(tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(InputError, match="newer format"):
        Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match=r"it has 20 pieces \(\w+\), the model 9 outputs"):
        make("char").check_belongs(9, None, "exp/model")
    with pytest.raises(InputError, match="does not belong to the model"):
        make("char").check_belongs(20, make("bpe").hash, "exp/model")
    make("char").check_belongs(20, make("char").hash, "exp/model")


def test_training_mistakes() -> None:
    with pytest.raises(InputError, match="Did you mean 'char'"):
        Tokenizer.train("chars", LINES)
    with pytest.raises(InputError, match="need a size"):
        Tokenizer.train("bpe", LINES)
    with pytest.raises(InputError, match="have one of their own"):
        Tokenizer.train("char", LINES, 30)
    for kind, size in (("char", None), ("bpe", 30)):
        with pytest.raises(InputError, match="no text"):
            Tokenizer.train(kind, ["", " ?"], size)
    with pytest.raises(InputError, match="cannot make 5 pieces"):
        Tokenizer.train("bpe", LINES, 5)


@pytest.mark.parametrize(("kind", "gap"), [("bpe", " "), ("unigram", " "), ("bpe", "")])
def test_a_text_on_one_line(kind: str, gap: str) -> None:
    """sentencepiece alone passes over what is longer than 1 MiB."""
    draw = random.Random(0)
    text = gap.join("".join(draw.choices("aeinorst", k=4)) for _ in range(270_000))
    assert len(text) > 1 << 20
    assert {*"".join(Tokenizer.train(kind, [text, "q"], 40).pieces[2:])} == {*"▁qaeinorst"}


def test_a_byte_order_mark_is_no_text(
    tmp_path: Path, run_asr: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "t.txt").write_text("one two\n", "utf-8-sig")
    assert run_asr("tokenizer", "t.txt", "-o", "t.json", cwd=tmp_path).returncode == 0
    assert set(Tokenizer.load(tmp_path / "t.json").pieces[2:]) == set("|onetw")


def test_fewer_pieces_than_asked_for_are_told(
    tmp_path: Path, run_asr: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "t.txt").write_text("a cat\na mat\n")
    options = ["--type", "bpe", "--size", 50, "-o", tmp_path / "t.json"]
    done = run_asr("tokenizer", tmp_path / "t.txt", *options)
    made = Tokenizer.load(tmp_path / "t.json").size
    assert done.stderr == f"warning: the text yields {made} pieces, fewer than --size 50\n"
    assert 2 < made < 50
