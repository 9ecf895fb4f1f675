from pathlib import Path

import pytest

import asr
from asr.commands.info import describe_lm
from asr.decoding.weights import open_lms
from asr.errors import InputError
from asr.lm.ngram import NGram, is_arpa, open_word_lm

GOOD = """\\data\\
ngram 1=4
ngram 2=2
ngram 3=1

\\1-grams:
-1.5	<unk>	0
0	<s>	-0.5
-1	</s>	0
-0.5	a	-0.25

\\2-grams:
-0.3	<s> a	-0.1
-0.4	a </s>

\\3-grams:
-0.2	<s> a </s>

\\end\\
"""


def test_the_good_file(tmp_path: Path) -> None:
    path = tmp_path / "good.arpa"
    path.write_text(GOOD)
    assert NGram.open(path, "word").counts == [4, 2, 1]


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("\\data\\", "", "", "is not an ARPA file"),
        ("\n\\end\\\n", "", ":18", "cut off: '\\\\end\\\\' is expected"),
        ("-0.2	<s> a </s>\n\n\\end\\\n", "", ":17", "cut off: 1 3-grams are announced, 0"),
        ("-0.2	<s> a </s>\n\n\\end\\\n", "-0.2	<s> a", ":17", "wrong number of words"),
        ("\n\\3-grams:\n-0.2	<s> a </s>\n\n\\end\\\n", "", ":15", "cut off: '\\\\3-grams:'"),
        ("ngram 2=2", "ngram 2=3", ":15", "3 2-grams are announced, 2 are there"),
        ("ngram 2=2", "ngram 2=1", ":14", "'\\\\3-grams:' is expected"),
        ("-0.4	a", "x	a", ":14", "2-gram: a log probability is expected"),
        ("-0.5	a", "-O.5	a", ":10", "1-gram: a log probability is expected"),
        ("-0.4	a </s>", "-0.4	a", ":14", "wrong number of words"),
        ("-0.4	a </s>", "-0.4	a </s> a a", ":14", "wrong number of words"),
        ("-0.4	a </s>", "-0.4	b </s>", ":14", "not among the 1-grams"),
        ("-0.4	a </s>", "0.4	a </s>", ":14", "above 0"),
        ("-0.4	a </s>", "-0.4	<s> a", ":14", "this 2-gram is there twice"),
        ("-0.5	a", "-0.5	</s>", ":10", "this 1-gram is there twice"),
        ("-0.2	<s> a", "-0.2	a a", ":17", "the context of this 3-gram is no 2-gram"),
        ("-1	</s>", "-1	b", "", "has no </s>"),
        ("ngram 3=1", "ngram 3=1\nngram 4=1\nngram 5=1\nngram 6=1\nngram 7=1", "", "orders 1 to 6"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, old: str, new: str, where: str, what: str) -> None:
    path = tmp_path / "bad.arpa"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError, match=what) as error:
        NGram.open(path, "word")
    assert error.value.where == f"{path}{where}"


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.arpa").touch()
    with pytest.raises(InputError, match=r"empty\.arpa: is empty\. Make or copy"):
        NGram.open(tmp_path / "empty.arpa", "word")


def test_a_name_with_arpa_in_it_may_be_of_our_format(tmp_path: Path) -> None:
    """Every command that opens LMs takes it, whatever its unit, and a pruned ARPA by any stem."""
    (tmp_path / "small.2.arpa").write_text(GOOD)
    ours = tmp_path / "small.arpa.lm"
    NGram.from_arpa(tmp_path / "small.2.arpa", "token").save(ours)
    assert is_arpa(tmp_path / "small.2.arpa")
    assert is_arpa("small.arpa.gz")
    assert open_lms([ours, tmp_path / "small.2.arpa"]).models["small.arpa"].unit == "token"
    assert asr.CTCDecoder(["_", "a"], lm=ours).fusion.length_unit == "tokens"
    assert describe_lm(ours)["unit"] == "token"
    with pytest.raises(InputError, match="is a language model of tokens"):
        open_word_lm(ours)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path = tmp_path / "cut.arpa"
    for length in range(len(GOOD) - 1):
        path.write_text(GOOD[:length])
        with pytest.raises(InputError):
            NGram.open(path, "word")
