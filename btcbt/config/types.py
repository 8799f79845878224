"""Types of configuration values: names, paths, times, durations, and the base of every section."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError, to_jsonable_python

from btcbt.config.frozen import frozen

URL_OPTIONS = {"s3": ("region", "scheme", "endpoint_override"), "gs": ("scheme", "endpoint_override")}
"""Supported URL schemes of stores, and the options allowed after ``?``."""
_LONGEST_PART = 240
"""Systems allow names of 255 bytes; ours for unfinished files are longer than the file's."""
_DURATION = re.compile(r"0[mhd]|[1-9]\d{0,6}[mhd]")
_USE = re.compile(r"[A-Za-z_]\w*|[A-Za-z_][\w.]*:[A-Za-z_]\w*|.+\.py:[A-Za-z_]\w*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _parse_name(value: str) -> str:
    """Names become folder names, so path separators are not allowed."""
    if not _NAME.fullmatch(value):
        raise ValueError("a name has 1 to 64 letters, digits, '_', '-' or '.', the first a letter or digit")
    return value


def _parse_time(value: object) -> object:
    """Read a date or a time; UTC if it has no offset."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("not a date; write it as 2019-06-01 or 2019-06-01T13:00:00Z") from None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        try:
            value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        except OverflowError:
            raise ValueError("a date out of range; write it as 2019-06-01") from None
    return value


def _parse_duration(value: str) -> str:
    """A number of minutes, hours or days, a century at most."""
    if not _DURATION.fullmatch(value):
        raise ValueError("a duration such as 720h or 30d is expected")
    if interval_ms(value) > _CENTURY_MS:
        raise ValueError("a duration of at most 100 years (36525d) is expected")
    return value


def _parse_place(value: str) -> str:
    """Paths of files and folders may not contain control characters; ``~`` stands for a home folder, as in a shell."""
    if not value.isprintable():
        raise ValueError("a path of printable characters is expected")
    _check_parts(value)
    return os.path.expanduser(value)


def _check_parts(path: str) -> None:
    if any(len(part.encode()) > _LONGEST_PART for part in path.split("/")):
        raise ValueError(f"a path is expected, whose parts have at most {_LONGEST_PART} bytes each")


def _at_a_known_home(folder: str) -> str:
    if folder.startswith("~"):  # it would be made, under that very name
        raise ValueError("a folder is expected, this is in the home of somebody unknown; write it out")
    return folder


def is_url(place: str) -> bool:
    """Whether a place is the URL of a service; anything else is a local path."""
    return "://" in place


def parse_shared_folder(value: str) -> str:
    """A folder; a URL is refused without repeating it."""
    if is_url(value):
        raise PydanticCustomError(
            "folder",
            "a folder is expected, not a URL: lines are appended under a lock, which no object store offers; "
            "name a folder that all machines mount",
        )
    return _at_a_known_home(value)


def parse_root(value: str) -> str:
    """A folder, or a URL without credentials, since it is written into every manifest.

    Errors do not repeat the URL, since messages end up in logs.
    """
    if not is_url(value):
        return _at_a_known_home(value)
    try:
        parts = urlsplit(value)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        parts.port  # noqa: B018 - the property validates the port
    except ValueError:
        raise PydanticCustomError("url", "not a URL; write it as s3://BUCKET/PREFIX") from None
    known = URL_OPTIONS.get(parts.scheme)
    if known is None:
        raise PydanticCustomError("url", "a folder, or a URL that starts with s3:// or gs://, is expected")
    if "@" in parts.netloc or {name for name, _ in options} - set(known) or parts.fragment:
        raise PydanticCustomError(
            "url",
            "a URL without user, password or key is expected, and nothing but {allowed} after '?'; "
            "credentials are taken from the environment or a profile, as {scheme} tools do",
            {"allowed": ", ".join(known), "scheme": parts.scheme},
        )
    if not parts.netloc or ".." in parts.path.split("/"):
        raise PydanticCustomError("url", "a URL such as s3://BUCKET/PREFIX, without '..', is expected")
    if dict(options).get("scheme", "https") not in ("http", "https"):
        raise PydanticCustomError("url", "scheme=http or scheme=https is expected after '?'")
    return value


def _parse_use(value: str) -> str:
    if not _USE.fullmatch(value):
        raise ValueError(
            "a built-in name such as threshold is expected, or a file and its class, such as 'my_strategies.py:Mine', "
            "or 'module:Class'"
        )
    _check_parts(value)
    return value


def _parse_params(values: dict[str, Any]) -> dict[str, Any]:
    """Parameters become part of digests and manifests, which are JSON."""
    try:
        json.dumps(to_jsonable_python(values))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"values that JSON can hold are expected ({error})") from None
    return values


Name = Annotated[str, AfterValidator(_parse_name)]
ParamValues = Annotated[dict[str, Any], AfterValidator(_parse_params)]
Place = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_parse_place)]
Use = Annotated[Place, AfterValidator(_parse_use)]
"""Names a strategy or a forecaster; see `btcbt.loading`."""
Time = Annotated[
    datetime,
    BeforeValidator(_parse_time),
    WithJsonSchema({"type": "string", "description": "A date or a time, UTC: 2019-06-01 or 2019-06-01T13:00:00Z"}),
]
Duration = Annotated[str, AfterValidator(_parse_duration)]
Location = Literal["as_decoded", "reconstruction", "driftless"]
"""Where the paths of Kronos lie, as far as it follows from the window alone."""
LEARNED: Literal["learned"] = "learned"
"""The location that is fitted on the outcomes of earlier forecasts."""
Interval = Literal["1m", "5m", "15m", "30m", "1h", "2h", "4h", "12h", "1d"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_CENTURY_MS = 36_525 * _UNIT_MS["d"]


def interval_ms(interval: str) -> int:
    """Length of an interval or a duration such as ``1h`` in milliseconds."""
    return int(interval[:-1]) * _UNIT_MS[interval[-1]]


def time_ms(time: datetime) -> int:
    """Milliseconds since the epoch, UTC."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def time_text(time: datetime | int) -> str:
    """A time (or milliseconds since the epoch) as messages show it: ``2019-06-01T13:00Z``.

    Times outside the calendar are shown as ``before year 1`` or ``after year 9999``.
    """
    if not isinstance(time, datetime):
        milliseconds = int(time)
        try:
            time = _EPOCH + timedelta(milliseconds=milliseconds)
        except OverflowError:
            return "before year 1" if milliseconds < 0 else "after year 9999"
    exact = "auto" if time.second or time.microsecond else "minutes"
    text = time.astimezone(UTC).isoformat(timespec=exact)
    return text.replace("+00:00", "Z")


class Section(BaseModel):
    """Base of every section of an experiment: closed, frozen, finite numbers only."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="after")
    def _freeze(self) -> Self:
        """Freeze what is inside of the fields, too: pydantic's `frozen` is about the fields alone."""
        self.__dict__.update({name: frozen(value) for name, value in self.__dict__.items()})
        return self
