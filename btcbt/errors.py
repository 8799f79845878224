"""One exception tree. Each error says what, where, what was found, what was expected, and what to do.

`BtcbtError` and its children are the user's to fix: the command line prints the message and exits with
`exit_code`, without a traceback. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class BtcbtError(Exception):
    """Base of every error that a user can fix."""

    exit_code = 2


class ConfigError(BtcbtError):
    """An experiment file or an argument is wrong."""


class CandleError(BtcbtError):
    """Candle history breaks its contract, or does not reach where it is asked for."""


class CheckpointError(BtcbtError):
    """A checkpoint is missing, broken, or does not fit the network."""


class StrategyError(BtcbtError):
    """A strategy cannot be imported or built, or decides on something that is not a target."""


class ForecasterError(BtcbtError):
    """A forecaster cannot be imported or built, or returns something that is not a forecast."""


class StoreError(BtcbtError):
    """A stored forecast or run is missing, foreign or damaged."""


class LookAheadError(BtcbtError):
    """Something used a candle that was not known yet."""
