import pickle
import unicodedata

import pytest

from asr.errors import InputError
from asr.text.normalize import Normalizer, check_same, get_normalizer


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none", "  Don't\t STOP!  ", "Don't STOP!"),
        ("none", "e\u0301", "é"),
        ("basic", "Don’t -- STOP, 'tis dogs' well-known (5%)", "don't stop tis dogs well known 5"),
        ("basic", "你好，世界。", "你好 世界"),
        ("basic", "STRASSE Straße ÉCOLE", "strasse straße école"),
        ("english", "Café déjà-vu, 3 o'clock 你好", "cafe deja vu o'clock"),
        ("english", "?!", ""),
    ],
)
def test_named(name: str, text: str, expected: str) -> None:
    normalizer = get_normalizer(name)
    assert normalizer(text) == expected
    assert normalizer(expected) == expected  # normalised text stays as it is
    assert normalizer(unicodedata.normalize("NFD", text)) == expected


def test_round_trip_and_identity() -> None:
    own = get_normalizer(["nfc", "keep:abc "])
    assert own("abcd cab") == "abc cab"
    for normalizer in (own, get_normalizer("english")):
        assert Normalizer.from_dict(normalizer.to_dict()) == normalizer
        again = pickle.loads(pickle.dumps(normalizer))
        assert again("A b") == normalizer("A b")
        assert again.hash == normalizer.hash
    assert get_normalizer("english").name == "english"
    assert own.hash != get_normalizer("none").hash


def test_mistakes_name_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'english'"):
        get_normalizer("englisch")
    with pytest.raises(InputError, match="Did you mean 'lower'"):
        get_normalizer(["nfc", "lowr"])
    with pytest.raises(InputError, match="the LM has the normaliser 'none', but the model has"):
        check_same(get_normalizer("none"), get_normalizer("basic"), "the LM", "the model")
    check_same(get_normalizer("basic"), get_normalizer("basic"), "a", "b")
