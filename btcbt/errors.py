"""One exception tree. Each error says what, where, what was found, what was expected, and what to do.

`BtcbtError` and its children are what a user can fix: the command line prints the message and exits with
`exit_code`, without a traceback. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BtcbtError(Exception):
    """Base of every error that a user can fix."""

    exit_code = 2
    key: tuple[str, ...] = ()
    """Keys of the experiment to the value at fault, outermost first, as far as they are known."""


@contextmanager
def at_key(*key: str) -> Iterator[None]:
    """Add the outer keys of an experiment to errors of the block, so that a message can name the line."""
    try:
        yield
    except BtcbtError as error:
        error.key = (*key, *error.key)
        raise


class ConfigError(BtcbtError):
    """An experiment file or an argument is wrong."""


class CandleError(BtcbtError):
    """Candle history breaks its contract, or does not cover the requested range."""


class CheckpointError(BtcbtError):
    """A checkpoint is missing, broken, or does not fit the network."""


class StrategyError(BtcbtError):
    """A strategy cannot be imported or built, or returns an invalid target."""


class ForecasterError(BtcbtError):
    """A forecaster cannot be imported or built, or returns something that is not a forecast."""


class StoreError(BtcbtError):
    """A stored forecast or run is missing, damaged, or not what its name says."""
