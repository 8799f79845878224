"""The keys of a schema at a location of a failed validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag


def known_keys(schema: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys that a schema has beside the last one of a location.

    Parameters
    ----------
    schema : type of BaseModel
        The model that was validated.
    loc : sequence of int or str
        Location of a pydantic error, with the branches of unions that pydantic names.

    Returns
    -------
    list of str
        As written in a file; empty where the schema does not say.
    """
    node: Any = schema
    for key in loc[:-1]:
        node = _inside(node, key)
    found = next((one for one, _ in _branches(node) if _is_model(one)), None)
    return [] if found is None else [field.alias or name for name, field in found.model_fields.items()]


def _inside(node: Any, key: int | str) -> Any:
    """The type of the value at a key, or of the branch of a union of that name."""
    branches = list(_branches(node))
    for one, names in branches:
        if len(branches) > 1 and key in names:
            return one
    for one, _ in branches:
        if _is_model(one):
            for name, field in one.model_fields.items():
                if key in (name, field.alias):
                    return field.annotation
        elif get_origin(one) in (dict, Mapping):
            return get_args(one)[1]
        elif get_origin(one) in (list, tuple):
            return get_args(one)[0]
    return None


def _branches(node: Any) -> Iterator[tuple[Any, set[str]]]:
    """The members of a union, or the type itself, each with the names that pydantic may give it in a location."""
    tags: set[str] = set()
    if get_origin(node) is Annotated:
        node, *notes = get_args(node)
        tags = {note.tag for note in notes if isinstance(note, Tag)}
    if get_origin(node) in (Union, UnionType):
        if tags:  # a union inside of a union
            yield node, tags
            return
        for one in get_args(node):
            if one is not NoneType:
                yield from _branches(one)
        return
    if _is_model(node):
        tags |= {node.__name__}
        kind = node.model_fields.get("kind")
        if kind is not None and get_origin(kind.annotation) is Literal:
            tags |= set(map(str, get_args(kind.annotation)))
    yield node, tags


def _is_model(node: Any) -> bool:
    return isinstance(node, type) and issubclass(node, BaseModel)
