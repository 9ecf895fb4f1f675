import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import kenlm
import numpy as np
import pytest

from asr.cli import cli
from asr.errors import InputError
from asr.lm.lexicon import read_lexicon
from asr.lm.ngram import NGram
from asr.lm.train import Units, find_lmplz, train
from asr.text.normalize import get_normalizer
from asr.text.tokenizer import Tokenizer

BASIC = get_normalizer()


@pytest.fixture(autouse=True, scope="module")
def _lmplz(need_tool: Callable[[str], str]) -> None:
    need_tool("lmplz")


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """3,000 sentences in which frequent words follow one another more often than by chance."""
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(300)]
    lines = []
    for _ in range(3000):
        ids = np.minimum(rng.zipf(1.4, rng.integers(1, 12)), 300) - 1
        ids[1::2] = (ids[: len(ids) // 2 * 2 : 2] * 7 + rng.integers(0, 3)) % 300
        lines.append(" ".join(words[i] for i in ids))
    return lines


def numbered(lines: list[str]) -> list[tuple[str, str]]:
    return [(f"text:{i}", line) for i, line in enumerate(lines, start=1)]


@pytest.mark.parametrize(("order", "prune"), [(1, None), (2, None), (4, None), (6, "0 0 1 1 2 2")])
def test_scores_equal_kenlm(
    tmp_path: Path, corpus: list[str], order: int, prune: str | None
) -> None:
    """Sentences of the corpus with words exchanged, so that it backs off at every order."""
    result = train(numbered(corpus), tmp_path / "word.lm", order, Units(BASIC), prune)
    model = result.model
    assert result.lines == 3000
    assert (model.order, model.unit, model.normalizer) == (order, "word", BASIC)
    arpa = tmp_path / "reference.arpa"
    arpa.write_bytes(gzip.decompress((tmp_path / "word.arpa.gz").read_bytes()))
    if order == 1:  # KenLM's scorer begins with order 2
        line = arpa.read_text().splitlines()[8].split("\t")
        expected = float(line[0]) * math.log(10)
        assert model.full_scores([line[1]])[0][0] == pytest.approx(expected, abs=1e-5)
        return
    reference = kenlm.Model(str(arpa))
    rng = np.random.default_rng(1)
    lengths = set()
    for line in (4 * corpus)[: 10_000 if order == 6 else 1000]:
        words = [w if rng.random() > 0.1 else f"w{rng.integers(330)}" for w in line.split()]
        expected = list(reference.full_scores(" ".join(words)))
        found = model.full_scores(words)
        assert [(n, unknown) for _, n, unknown in found] == [(n, u) for _, n, u in expected]
        log10 = np.array([p for p, _, _ in expected])
        np.testing.assert_allclose([p for p, _, _ in found], log10 * math.log(10), atol=1e-5)
        total = reference.score(" ".join(words)) * math.log(10)
        assert model.score(words) == pytest.approx(total, rel=1e-6, abs=1e-4)
        lengths |= {n for _, n, _ in found}
    assert lengths == set(range(1, order + 1))


def test_vocabulary_makes_other_words_unknown(tmp_path: Path, corpus: list[str]) -> None:
    (tmp_path / "words").write_text("W0 w1\nw7,  never\n", "utf-8-sig")
    result = train(
        numbered(corpus), tmp_path / "small.lm", 2, Units(BASIC), vocabulary=tmp_path / "words"
    )
    assert sorted(result.model.vocabulary[3:]) == ["w0", "w1", "w7"]  # "never" is not in the text
    assert {path.name for path in tmp_path.iterdir()} == {"words", "small.lm", "small.arpa.gz"}


def test_tokens(tmp_path: Path) -> None:
    lines = ["the cat sat", "the dog sat", "ça va", "a cat ran"]
    tokenizer = Tokenizer.train("char", ["the cat sat dog ran"])
    result = train(numbered(lines), tmp_path / "char.lm", 3, Units(BASIC, tokenizer))
    assert result.fallback
    assert (result.lines, result.left_out) == (3, [("text:3", ["v", "ç"])])
    assert result.model.tokenizer_hash == tokenizer.hash
    assert set(result.model.vocabulary[3:]) == set("thecasdogrn|")
    assert result.model.score(list("the|cat")) > result.model.score(list("tac|eht"))
    result.model.check_fits(tokenizer)
    (tmp_path / "pieces").write_text("| t e\n")
    units, pieces = Units(BASIC, tokenizer), tmp_path / "pieces"
    result = train(numbered(lines), tmp_path / "few.lm", 2, units, vocabulary=pieces)
    assert set(result.model.vocabulary[3:]) == set("|te")


def test_fixed_discounts_of_a_small_text_are_told(
    tmp_path: Path, corpus: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, lines in (("small", ["a good line", "more"]), ("large", corpus)):
        text = tmp_path / f"{name}.txt"
        text.write_text("\n".join(lines))
        given = ["lm", "train", str(text), "-o", str(tmp_path / f"{name}.lm"), "--order", "2"]
        cli.main(given, standalone_mode=False)
        said = "the text is small: fixed discounts are used (lmplz --discount_fallback)\n"
        assert capsys.readouterr().err == (said if name == "small" else "")


def test_models_whose_names_differ_by_the_suffix(tmp_path: Path) -> None:
    """Each keeps its own ARPA file."""
    made = [train(numbered(["a b"]), tmp_path / f"lm.{n}gram", n, Units(BASIC)) for n in (1, 2)]
    sizes = [gzip.decompress(one.arpa.read_bytes()).count(b"-grams:") for one in made]
    assert sizes == [1, 2]


def test_commands_on_real_text(tmp_path: Path, run_asr: Callable, asr_data: Path) -> None:
    """Manifests and gz text to a word LM; perplexity as KenLM has it; tokens with a tokenizer."""
    manifest = asr_data / "arctic-kathleen" / "manifest.train.jsonl"
    dev = asr_data / "arctic-kathleen" / "manifest.dev.jsonl"
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"One more line.\n\n"))
    made = run_asr("lm", "train", manifest, "more.txt.gz", "-o", "word.lm", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "warning" not in made.stderr
    assert "1-grams" in made.stdout
    assert "4-grams" in made.stdout
    scored = run_asr("lm", "score", "word.lm", dev, cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    figures = {line[:21].strip(): line[21:].split()[0] for line in scored.stdout.splitlines()}
    (tmp_path / "ref.arpa").write_bytes(gzip.decompress((tmp_path / "word.arpa.gz").read_bytes()))
    reference = kenlm.Model(str(tmp_path / "ref.arpa"))
    texts = [BASIC(json.loads(line)["text"]) for line in dev.read_text().splitlines()]
    words = [w for text in texts for w in reference.full_scores(text)]
    known = [p for p, _, unknown in words if not unknown]
    assert int(figures["sentences"]) == len(texts)
    assert int(figures["OOV"]) == len(words) - len(known) > 0.1 * len(words)
    assert "warning: so many unknown words" in scored.stderr
    perplexity = 10 ** (-sum(p for p, _, _ in words) / len(words))
    assert float(figures["perplexity"]) == pytest.approx(perplexity, rel=1e-4)
    assert float(figures["perplexity, no OOV"]) == pytest.approx(
        10 ** (-sum(known) / len(known)), rel=1e-4
    )
    arguments = ["--type", "bpe", "--size", "100", "-o", "bpe.json"]
    assert run_asr("tokenizer", manifest, *arguments, cwd=tmp_path).returncode == 0
    test = asr_data / "arctic-kathleen" / "manifest.test.jsonl"
    leaky = run_asr("lm", "train", manifest, test, "-o", "leaky.lm", cwd=tmp_path)
    assert f"warning: {test} is a test set" in leaky.stderr
    arguments = ["-o", "bpe.lm", "--unit", "token", "--tokenizer", "bpe.json"]
    made = run_asr("lm", "train", manifest, *arguments, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    scored = run_asr("lm", "score", "bpe.lm", dev, "--tokenizer", "bpe.json", cwd=tmp_path)
    assert scored.returncode in (0, 3), scored.stderr
    assert "warning" not in scored.stderr
    assert NGram.open(tmp_path / "bpe.lm").unit == "token"
    pieces = Tokenizer.load(tmp_path / "bpe.json").pieces
    assert set(NGram.open(tmp_path / "bpe.lm").vocabulary[3:]) <= set(pieces)


@pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>"])
def test_reserved_words_in_the_text(tmp_path: Path, run_asr: Callable, word: str) -> None:
    (tmp_path / "text.txt").write_text(f"a good line\nbad {word} line\n")
    result = run_asr("lm", "train", "text.txt", "-o", "x.lm", cwd=tmp_path)
    assert result.returncode == 2
    assert f"text.txt:2: the text has the reserved word {word}. Take it out" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.txt", "-o", "x.lm"], "none.txt: cannot be read"),
        (["train", "empty.txt", "-o", "x.lm"], "there is no text"),
        (["train", "latin.txt", "-o", "x.lm"], "latin.txt:2: is not UTF-8 text"),
        (["train", "text.txt", "-o", "x.arpa"], "another suffix"),
        (["train", "text.txt", "-o", "x.arpa.gz"], "another suffix"),
        (["train", "m.jsonl.gz", "-o", "x.lm"], "m.jsonl.gz: manifests are not read compressed"),
        (["train", "text.txt", "-o", "new/er/x.lm", "--prune", "1 0"], "non-decreasing"),
        (["train", "empty.txt", "-o", "new/x.lm"], "there is no text"),
        (["train", "text.txt", "-o", "x.lm", "--unit", "token"], "tokens need a tokenizer"),
        (["train", "text.txt", "-o", "x.lm", "--vocab", "none"], "none: cannot be read"),
        (["train", "text.txt", "-o", "text.txt/x.lm"], "text.txt/x.lm: cannot be written"),
        (["score", "text.txt", "text.txt"], "text.txt: is not a language model"),
        (["score", "good.lm", "text.txt", "--normalizer", "none"], "but the text has 'none'"),
        (["score", "good.lm", "text.txt", "--lm-unit", "token"], "is a language model of words"),
        (["score", "good.arpa.gz", "text.txt"], "--lm-unit"),
        (["score", "cut.arpa.gz", "text.txt", "--lm-unit", "word"], "cut off or damaged"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    (tmp_path / "text.txt").write_text("a good line\nmore\n")
    (tmp_path / "empty.txt").write_text("\n ?\n")
    (tmp_path / "latin.txt").write_bytes("a\né\n".encode("latin-1"))
    train([("x", "a good line")], tmp_path / "good.lm", 2, Units(BASIC))
    cut = (tmp_path / "good.arpa.gz").read_bytes()[:-20]
    (tmp_path / "cut.arpa.gz").write_bytes(cut)
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        cli.main(["lm", *arguments], standalone_mode=False)
    assert sorted(tmp_path.iterdir()) == before


def test_lmplz_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("LMPLZ", raising=False)
    with pytest.raises(InputError, match=r"tools/build_lmplz.sh"):
        find_lmplz()


def test_lexicon(tmp_path: Path, run_asr: Callable) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text(
        ";;; a comment\nread R EH1 D\nread(2)\tR IY1 D # a comment\n"
        "the 0.2 DH AH0\nthe 0.3 DH IY0\none w 1 .n\nthe 0.7 DH AH0\n"
    )
    lexicon = read_lexicon(path)
    assert lexicon["read"] == [(0.5, ("R", "EH1", "D")), (0.5, ("R", "IY1", "D"))]
    assert lexicon["the"] == [(0.7, ("DH", "AH0")), (0.3, ("DH", "IY0"))]
    assert lexicon["one"] == [(1.0, ("w", "1", ".n"))]
    made = run_asr("tokenizer", path, "--type", "lexicon", "-o", tmp_path / "phones.json")
    assert made.returncode == 0, made.stderr
    tokenizer = Tokenizer.load(tmp_path / "phones.json")
    assert tokenizer.decode(tokenizer.encode("Read THE")) == "R EH1 D DH AH0"
    for line, message in (("word", "has no units"), ("word 1.5 A", "not in")):
        path.write_text(f"good A\n{line}\n")
        with pytest.raises(InputError, match=message) as error:
            read_lexicon(path)
        assert error.value.where == f"{path}:2"
