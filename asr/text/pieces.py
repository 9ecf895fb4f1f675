"""What tokens mean for words: boundaries and letters."""

BOUNDARIES = ("|", " ", "▁")  # tokens that are nothing but a word boundary
# never output, in whatever position; the fourth is ESPnet's
SPECIAL = ("<unk>", "<s>", "</s>", "<sos/eos>", "<pad>", "<blank>")


def is_boundary(token: str) -> bool:
    """Does the token end the word before it?"""
    return token in BOUNDARIES or token.startswith("▁")


def letters(token: str) -> str:
    """What the token adds to a word: nothing for boundaries and tokens that are never output."""
    return "" if token in BOUNDARIES or token in SPECIAL else token.removeprefix("▁")
