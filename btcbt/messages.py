"""Parts of one-line error messages: values, errors of user code, and validation errors."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError

_LONGEST = 60
_OWN = str(Path(__file__).parent)


class Problem(NamedTuple):
    """The problem of a failed validation that is reported.

    Attributes
    ----------
    loc : tuple of str and int
        Keys of the value.
    kind : str
        ``unknown`` for a key that the schema does not have, ``missing``, or ``wrong``.
    text : str
        The expectation, without the value.
    value : object
        The value found.
    missing : tuple of str
        Keys that are missing beside an unknown one: it may be one of them, misspelt.
    more : str
        Number of further problems, in parentheses; empty if none.
    """

    loc: tuple[int | str, ...]
    kind: Literal["unknown", "missing", "wrong"]
    text: str
    value: object
    missing: tuple[str, ...]
    more: str


def first_problem(error: ValidationError) -> Problem:
    """The problem to report: an unknown key first, since it is the most likely cause of a missing one."""
    problems = error.errors(include_url=False)
    first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    kinds: dict[str, Literal["unknown", "missing"]] = {"extra_forbidden": "unknown", "missing": "missing"}
    kind: Literal["unknown", "missing", "wrong"] = kinds.get(first["type"], "wrong")
    text = first["msg"].removeprefix("Value error, ")
    beside = [one["loc"] for one in problems if one["type"] == "missing" and one["loc"][:-1] == first["loc"][:-1]]
    missing = tuple(str(loc[-1]) for loc in beside) if kind == "unknown" else ()
    left = len(problems) - 1 - len(missing)
    more = f" (and {left} more)" if left else ""
    return Problem(first["loc"], kind, text[0].lower() + text[1:], first["input"], missing, more)


def unknown_key(noun: str, key: str, problem: Problem, known: Iterable[str]) -> str:
    """An unknown key in one line: the key that may be meant, or all that there are, and those that are missing.

    Parameters
    ----------
    noun : str
        Word for a key, such as ``parameter``.
    key : str
        The key in messages.
    problem : Problem
    known : iterable of str
        Keys of the schema at that place.
    """
    keys = list(known)
    near = did_you_mean(str(problem.loc[-1]), [*problem.missing, *keys])
    has = "" if near else f"; the {noun}s here are {', '.join(keys)}" if keys else f"; there are no {noun}s here"
    lacks = " and ".join(f"'{name}'" for name in problem.missing)
    lacks = f", and {lacks} {'is' if len(problem.missing) == 1 else 'are'} missing" if lacks else ""
    return f"unknown {noun} '{key}'{near}{lacks}{has}; remove it or correct its spelling{problem.more}"


def explain_invalid(error: ValidationError, noun: str, known: Iterable[str] = ()) -> str:
    """A failed validation in one line: key, expectation, value found, and remedy.

    Parameters
    ----------
    error : ValidationError
    noun : str
        Word for a key, such as ``parameter``.
    known : iterable of str
        Keys of the schema.
    """
    problem = first_problem(error)
    key = ".".join(str(part) for part in problem.loc)
    if problem.kind == "unknown":
        return unknown_key(noun, key, problem, known)
    if problem.kind == "missing":
        return f"{noun} '{key}' is missing; add it{problem.more}"
    where = f"{noun} '{key}': " if key else ""
    return f"{where}{problem.text}, got {short(problem.value)}{problem.more}"


def explain(error: BaseException) -> str:
    """An error of user code in one line, with the file and line that raised it."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    text = " ".join(f"{type(error).__name__}: {_shown(error, str)}".split())
    # The innermost line that is neither of this package, nor of the import system, nor of an installed package.
    skip = ("<", _OWN, str(Path(importlib.__file__).parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(skip) and "site-packages" not in frame.filename
    ]
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text


@contextmanager
def user_code(error: Callable[[str], Exception], passing: type[Exception] | None = None) -> Iterator[None]:
    """Turn whatever code of the user raises in the block into an error of one line; Ctrl-C passes.

    Also what is no `Exception`: ``sys.exit`` in a strategy would end the command as if it had succeeded.

    Parameters
    ----------
    error : callable
        Makes the error from the explanation.
    passing : type, optional
        Errors that are raised unchanged.
    """
    try:
        yield
    except BaseException as raised:
        if isinstance(raised, (KeyboardInterrupt, *([passing] if passing else []))):
            raise
        raise error(explain(raised)) from raised


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name closest to a wrong one; empty if none is close."""
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def printable(text: str) -> str:
    """Text without control characters, which could move a terminal's cursor or set its title; line ends remain."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def describe(value: object) -> str:
    """A value and its type."""
    return "None" if value is None else f"{short(value)} ({type(value).__name__})"


def short(value: object) -> str:
    """A value in at most 60 characters of one line."""
    if isinstance(value, date):
        return value.isoformat()
    text = " ".join(_shown(value, repr).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _shown(value: object, how: Callable[[object], str]) -> str:
    """``repr`` or ``str`` of a value that may be the user's, or too long a number to be written out."""
    try:
        return how(value)
    except Exception as error:  # noqa: BLE001 - anything may come from the user's method
        return f"<{type(value).__name__}, whose {how.__name__}() raises {type(error).__name__}>"
