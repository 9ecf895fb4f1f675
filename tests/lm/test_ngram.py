import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import kenlm
import numpy as np
import pytest

from asr.decoding.ctc_decoder import CTCDecoder
from asr.errors import InputError
from asr.lm import ngram
from asr.lm.ngram import BOS, EOS, NGram
from asr.text.normalize import get_normalizer
from asr.text.tokenizer import Tokenizer


def sentence(rng: np.random.Generator, words: list[str]) -> list[str]:
    """Up to eight words, some unknown."""
    chosen = [words[i] for i in rng.integers(3, len(words), rng.integers(0, 9))]
    return [word if rng.random() > 0.1 else "other" for word in chosen]


def assert_same(found: list, expected: list, lengths: bool = True) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a[0] == pytest.approx(b[0], abs=1e-5)
        assert a[2] == b[2]
        assert not lengths or a[1] == b[1]


@pytest.mark.parametrize("closed", [True, False])
def test_equals_the_definition_and_kenlm(
    tmp_path: Path, random_arpa: Callable, closed: bool
) -> None:
    """150 random models of order 1 to 6; those that KenLM can load are compared with it too.

    Where suffixes are missing KenLM fills them in and counts them as found: only scores agree.
    """
    rng = np.random.default_rng(1)
    path = tmp_path / "random.arpa"
    loaded = 0
    for _ in range(150):
        arpa = random_arpa(rng, int(rng.integers(1, 7)), closed)
        arpa.write(path)
        model = NGram.open(path, "word")
        assert model.order == len(arpa.grams)
        try:
            reference = kenlm.Model(str(path)) if model.order > 1 else None
        except OSError:
            assert not closed
            reference = None
        loaded += reference is not None
        for _ in range(10):
            words = sentence(rng, arpa.words)
            found = model.full_scores(words)
            assert_same(found, arpa.scores(words))
            if reference:
                log10 = list(reference.full_scores(" ".join(words)))
                assert_same(found, [(p * math.log(10), n, u) for p, n, u in log10], closed)
    assert loaded > 30


def test_step_by_step_equals_a_whole_sentence(tmp_path: Path, random_arpa: Callable) -> None:
    rng = np.random.default_rng(2)
    arpa = random_arpa(rng, 4, True)
    model = NGram.open(arpa.write(tmp_path / "small.arpa"), "word")
    for _ in range(20):
        words = sentence(rng, arpa.words)
        state, total = model.start(), 0.0
        for word in words:
            logprob, state = model.advance(state, word)
            total += logprob
        assert total + model.final(state) == pytest.approx(model.score(words), abs=1e-9)
    assert model.advance(model.start(), "w1") == model.advance(model.start(), model.id("w1"))


def test_words_of_one_string_are_several(tmp_path: Path, random_arpa: Callable) -> None:
    arpa = random_arpa(np.random.default_rng(2), 3, True)
    model = NGram.open(arpa.write(tmp_path / "small.arpa"), "word")
    words = ["w1", "w2", "other"] * 1000
    assert model.full_scores([" ".join(words)]) == model.full_scores(words)
    assert model.full_scores(["w1 w2", "", "other"]) == model.full_scores(["w1", "w2", "other"])
    assert model.full_scores([]) == model.full_scores([""])


def test_text_is_scored_by_rules_without_a_name(
    tmp_path: Path, random_arpa: Callable, run_asr: Callable
) -> None:
    path = random_arpa(np.random.default_rng(2), 2, True).write(tmp_path / "small.arpa")
    rules = get_normalizer(["nfc", "lower"])
    NGram.from_arpa(path, "word", rules).save(tmp_path / "x.lm")
    (tmp_path / "x.txt").write_text("W1 w1,\n")
    done = run_asr("lm", "score", tmp_path / "x.lm", tmp_path / "x.txt")
    assert done.returncode == 0, done.stderr
    assert "OOV                   1 (50.00%)" in done.stdout


def test_vocabulary_and_hash_of_words(tmp_path: Path, random_arpa: Callable) -> None:
    arpa = random_arpa(np.random.default_rng(3), 2, True)
    for word in ("naïve", "你好", "▁the", "|"):
        arpa.grams[0][(word,)] = (-1.5, 0.0)
    model = NGram.open(arpa.write(tmp_path / "words.arpa"), "token")
    assert model.vocabulary[:3] == ["<unk>", "<s>", "</s>"]
    assert sorted(model.vocabulary) == sorted(word for (word,) in arpa.grams[0])
    assert [model.id(word) for word in model.vocabulary] == list(range(len(model.vocabulary)))
    assert model.id("nothing") == 0
    key = 14695981039346656037
    for byte in "naïve".encode():  # FNV-1a by its definition
        key = (key ^ byte) * 1099511628211 % 2**64
    assert ngram.lookup(model.arrays, np.uint64(key)) == model.id("naïve")


def test_saved_and_opened(tmp_path: Path, random_arpa: Callable) -> None:
    rng = np.random.default_rng(4)
    arpa = random_arpa(rng, 3, True)
    text = arpa.write(tmp_path / "a.arpa").read_bytes()
    (tmp_path / "b.arpa.gz").write_bytes(gzip.compress(text.replace(b"\n", b"\r\n")))
    normalizer = get_normalizer("english")
    made = NGram.from_arpa(tmp_path / "b.arpa.gz", "token", normalizer, "abc")
    made.save(tmp_path / "own.lm")
    opened = NGram.open(tmp_path / "own.lm")
    opened.verify()
    assert (opened.name, opened.unit, opened.order) == ("own", "token", made.order)
    assert (opened.normalizer, opened.tokenizer_hash) == (normalizer, "abc")
    assert opened.counts == [len(grams) for grams in arpa.grams]
    assert opened.hash == made.hash == NGram.open(tmp_path / "a.arpa", "word").hash
    assert opened.vocabulary == made.vocabulary
    for _ in range(20):
        words = sentence(rng, arpa.words)
        assert opened.full_scores(words) == made.full_scores(words)
    for a, b in zip(opened.arrays, made.arrays, strict=True):
        assert (a.dtype, a.flags.writeable, a.flags.aligned) == (b.dtype, False, True)
    assert {path.name for path in tmp_path.iterdir()} == {"a.arpa", "b.arpa.gz", "own.lm"}


def test_files_without_unknown_word_or_with_empty_orders(tmp_path: Path) -> None:
    """KenLM gives a missing <unk> 10^-100; lmplz writes empty orders for very short sentences."""
    path = tmp_path / "short.arpa"
    path.write_text(
        "\\data\\\nngram 1=3\nngram 2=1\nngram 3=0\n\n"
        "\\1-grams:\n0 <s> -0.5\n-1 </s>\n-0.25\tyes\t-0.125\n\n"
        "\\2-grams:\n-1e-1\t<s> yes\n\n\\3-grams:\n\n\\end\\\n"
    )
    model = NGram.open(path, "word")
    scores = model.full_scores(["yes", "maybe"])
    expected = [(-0.1, 2, False), (-100.125, 1, True), (-1.0, 1, False)]
    assert_same(scores, [(p * math.log(10), n, u) for p, n, u in expected])


@pytest.mark.parametrize("files", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damage_gives_an_error_or_a_score(
    tmp_path: Path, random_arpa: Callable, files: int
) -> None:
    """Files with changed bytes, in the header (half of them with a checksum that is right
    again) or in the arrays: no crash, no endless loop; what opens can be scored, decoded with and
    verified."""
    rng = np.random.default_rng(5)
    arpa = random_arpa(rng, 4, True)
    path = tmp_path / "model.lm"
    NGram.open(arpa.write(tmp_path / "a.arpa"), "word").save(path)
    content = path.read_bytes()
    size = int.from_bytes(content[12:16], "little")
    log_probs = np.log(rng.dirichlet(np.ones(4), 6))
    refused = [0, 0, 0]
    changed = decoded = 0
    for i in range(files):
        data = bytearray(content)
        low, high = ((0, 20 + size), (20, 20 + size), (1024, len(data)))[i % 3]
        for _ in range(int(rng.integers(1, 30 if i % 3 == 2 else 4))):
            data[rng.integers(low, high)] = rng.integers(256)
        if i % 3 == 1:
            data[16:20] = zlib.crc32(data[20 : 20 + size]).to_bytes(4, "little")
        path.write_bytes(data)
        try:
            model = NGram.open(path)
        except InputError:
            refused[i % 3] += 1
            continue
        words = sentence(rng, arpa.words)
        assert len(model.full_scores(words)) == len(words) + 1
        try:
            model.verify()
        except InputError:
            changed += 1
        if i % 10 == 0:
            try:
                CTCDecoder(["", "w", "1", "|"], model).decode(log_probs)
                decoded += 1
            except InputError:
                continue
    assert refused[0] > 0.3 * files
    assert refused[1] > 0.1 * files
    assert changed > 0.2 * files
    assert decoded > 0.01 * files
    states = NGram.open(tmp_path / "a.arpa", "word").arrays
    for state, word in ((-1, 0), (10**9, EOS), (0, -5), (0, 10**9), (-(10**9), BOS)):
        assert ngram.advance(states, state, word)[0] <= 0.0


def test_opening_mistakes(tmp_path: Path, random_arpa: Callable) -> None:
    arpa = random_arpa(np.random.default_rng(6), 3, True).write(tmp_path / "a.arpa")
    own = tmp_path / "own.lm"
    NGram.from_arpa(arpa, "word", get_normalizer("none")).save(own)
    with pytest.raises(InputError, match="--lm-unit"):
        NGram.open(arpa)
    with pytest.raises(InputError, match="is a language model of words, not of tokens"):
        NGram.open(own, "token")
    with pytest.raises(InputError, match="no unit 'letter'"):
        NGram.open(arpa, "letter")
    content = own.read_bytes()
    cases = {
        b"": "it is empty",
        b"asrngram": "is not a language model",
        b"a text file\n" * 10: "is not a language model",
        content[: len(content) // 2]: "damaged or cut off",
        content + b"x": "damaged or cut off",
        content[:8] + b"\x63" + content[9:]: "newer format",
        content[:30] + b"?" + content[31:]: "damaged or cut off",
    }
    for data, message in cases.items():
        (tmp_path / "bad.lm").write_bytes(data)
        with pytest.raises(InputError, match=message):
            NGram.open(tmp_path / "bad.lm")
    with pytest.raises(InputError, match="cannot be read"):
        NGram.open(tmp_path / "nothing.lm")


def test_parts_that_do_not_belong_together(tmp_path: Path, random_arpa: Callable) -> None:
    arpa = random_arpa(np.random.default_rng(7), 2, True).write(tmp_path / "a.arpa")
    tokenizer = Tokenizer.train("lexicon", lexicon={"a": [(1.0, ("w0", "w1"))]})
    other = Tokenizer.train("lexicon", lexicon={"a": [(1.0, ("w0", "b"))]})
    NGram.open(arpa, "token").check_fits(tokenizer)  # an ARPA file does not tell whose tokens
    mine = NGram.from_arpa(arpa, "token", tokenizer.normalizer, tokenizer.hash)
    mine.check_fits(tokenizer)
    foreign = Tokenizer.train("char", ["b"])
    with pytest.raises(InputError, match="another tokenizer's tokens"):  # no piece in common
        mine.check_fits(foreign)
    with pytest.raises(InputError, match="another tokenizer's tokens"):
        mine.check_fits(other)
    with pytest.raises(InputError, match="normaliser 'none', but the tokenizer has 'basic'"):
        NGram.from_arpa(arpa, "word", get_normalizer("none")).check_fits(tokenizer)
