"""Mistakes of the user's, told in one sentence each: exit status 2, no traceback."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave is wrong: what, where (a file, `file:line`, an option or an utterance
    id) and how to mend it."""

    def __init__(self, what: str, where: object = None, remedy: str | None = None) -> None:
        super().__init__(what, where, remedy)
        self.what, self.remedy = what, remedy
        self.where = None if where is None else str(where)

    def __str__(self) -> str:
        message = f"{self.where}: {self.what}" if self.where else self.what
        return f"{message}. {self.remedy}" if self.remedy else message


class AudioError(InputError):
    """The audio of one utterance is missing, broken or empty; skipped where it is one of many."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ "Did you mean 'x'?" for a misspelt `name`, else the list of what is known."""
    choices = list(known)
    if close := difflib.get_close_matches(name, choices, n=1):
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(choices)}"
