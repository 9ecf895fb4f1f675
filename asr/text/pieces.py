"""What tokens mean for words: boundaries and letters."""

BOUNDARIES = ("|", " ", "▁")  # tokens that are nothing but a word boundary
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<blank>")  # never output, in whatever position


def is_boundary(token: str) -> bool:
    """Does the token end the word before it?"""
    return token in BOUNDARIES or token.startswith("▁")


def letters(token: str) -> str:
    """What the token adds to a word: nothing for boundaries and tokens that are never output."""
    return "" if token in BOUNDARIES or token in SPECIAL else token.removeprefix("▁")
