"""Mappings and lists of a configuration, which refuse every change.

A frozen pydantic model refuses new values of its fields, but not changes inside of them. These subclasses of `dict` and
`list` do, so that a configuration stays what its digest says. They are read, compared, pickled and written as JSON like
their bases.
"""

from __future__ import annotations

from typing import Any, NoReturn


def _refuse(*_: object, **__: object) -> NoReturn:
    raise TypeError("a configuration is frozen; change the mapping or file that it is made of, and make a new one")


class FrozenDict(dict[str, Any]):
    """A `dict` that cannot be changed."""

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)  # by default it would be filled item by item


class FrozenList(list[Any]):
    """A `list` that cannot be changed."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __reduce__(self) -> tuple[type[FrozenList], tuple[list[Any]]]:
        return FrozenList, (list(self),)


def frozen(value: Any) -> Any:
    """A value whose mappings and lists, at any depth, cannot be changed; all else is returned as it is."""
    match value:
        case dict():
            return FrozenDict({key: frozen(item) for key, item in value.items()})
        case list():
            return FrozenList(map(frozen, value))
    return value
