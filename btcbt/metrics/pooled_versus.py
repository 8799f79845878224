"""Every forecaster against the opponent on a panel of symbols: one row for all symbols, and one for each.

The counterpart of `versus` for a panel. P-values of the pooled rows are adjusted for every comparison of the table,
those of a symbol's row for the number of symbols.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from btcbt.metrics.accuracy import nan_mean
from btcbt.metrics.ensembles import path_noise_share
from btcbt.metrics.intervals import LossDifference
from btcbt.metrics.multiplicity import adjusted_tests
from btcbt.metrics.pooled import PooledComparison, pooled_comparison
from btcbt.metrics.score import ALL, POOLED, Row, Score
from btcbt.metrics.versus import Losses
from btcbt.records import CHANNELS, CLOSE

SYMBOLS = "pooled"
"""Family of the scores, part of their dotted key, and of their rows' group, ``pooled=OPPONENT``."""
SYMBOL = ",symbol="
"""Between opponent and symbol in the group of a row, ``pooled=har,symbol=ETH``."""

_DRISCOLL = "Driscoll and Kraay (1998), REStat 80; Lazarus, Lewis, Stock and Watson (2018), JBES 36"
_AKGUN = "Akgun, Pirotte, Urga and Yang (2024), IJF 40"
_ROMANO = "Romano and Wolf (2005), Econometrica 73; (2016), SPL 113; Holm (1979) where rows are not shared"


def _entry(name: str, unit: str, formula: str, source: str = "", **about: object) -> Score:
    fields = {"family": "pooled", "absolute": 1e-9, "relative": 1e-6} | about
    return Score(name=name, unit=unit, formula=formula, source=source, **fields)  # type: ignore[arg-type]


POOLED_SCORES: tuple[Score, ...] = (
    _entry(
        "difference_pct",
        "%",
        "mean loss minus the opponent's, in percent of the opponent's mean loss on each symbol; the mean of the "
        "symbols at each origin, then of the origins",
        better="lower",
    ),
    _entry("low_pct", "%", "lower end of the difference's 95 % interval", _DRISCOLL),
    _entry("high_pct", "%", "upper end of the difference's 95 % interval", _DRISCOLL),
    _entry(
        "detectable_pct",
        "%",
        "smallest difference that would have been found with a probability of 80 % by a test at 5 %",
        _DRISCOLL,
    ),
    _entry(
        "p_value",
        "p-value",
        "two-sided, of no difference on average; overlap, regimes and dependence between symbols allowed for",
        f"{_DRISCOLL}; {_AKGUN}",
    ),
    _entry(
        "adjusted_p",
        "p-value",
        "the same, adjusted for all comparisons of the table; of one symbol, for the number of symbols",
        _ROMANO,
        label="adj. p",
    ),
    _entry("joint_p", "p-value", "of no difference on any symbol: the smallest adjusted p of a symbol", _ROMANO),
    _entry(
        "path_noise",
        "share",
        "share of the difference's variance that comes from few paths",
        "jackknife over paths: Efron and Stein (1981), Annals of Statistics 9",
        better="lower",
    ),
    _entry(
        "effective_symbols",
        "count",
        "independent symbols that would know the difference as well: mean long-run variance of the symbols' "
        "differences over that of their mean",
        _AKGUN,
    ),
    _entry("symbols", "count", "symbols compared: with enough origins and a positive mean loss of the opponent"),
    _entry("origins", "count", "origins where any symbol, or this one, is compared"),
    _entry("comparisons", "count", "pooled comparisons that p is adjusted for"),
    _entry("romano_wolf", "", "1 if p is adjusted by Romano and Wolf, 0 if by Holm"),
)
"""What is said of each forecaster and loss beside the opponent, over all symbols and on each."""


def pooled_versus(
    losses: Mapping[str, Mapping[tuple[str, int], Losses]], opponent: str, symbols: Sequence[str], overlap: int
) -> Iterator[tuple[str, Row]]:
    """Compare every forecaster with the opponent on a panel.

    Two-sided. Dependence and NaN: see `pooled.pooled_comparison` and `multiplicity.adjusted_tests`.

    Parameters
    ----------
    losses : mapping
        By forecaster, then by loss and step; both fields of `Losses` are (B, K) here: by origin, in time order, and
        symbol, NaN where a symbol was not eligible or not scored.
    opponent : str
        One of the forecasters.
    symbols : sequence of str (K,)
        Their names.
    overlap : int
        Origins whose outcomes overlap at the last step, itself included.

    Yields
    ------
    str, Row
        The forecaster, and a row of the group ``pooled=OPPONENT`` or ``pooled=OPPONENT,symbol=NAME``. Rows of the close
        for each loss and step, and ``comparisons`` and ``romano_wolf`` of all.

    Raises
    ------
    ValueError
        If the losses have not one column for each symbol.
    """
    pairs = [(name, at) for name in losses if name != opponent for at in losses[name]]
    for _, at in pairs:
        if losses[opponent][at].loss.shape[1:] != (len(symbols),):
            raise ValueError(f"losses {losses[opponent][at].loss.shape} have not one column for each of {symbols}")
    if not pairs:
        return
    theirs, group = losses[opponent], f"{SYMBOLS}={opponent}"
    found = [pooled_comparison(losses[name][at].loss, theirs[at].loss, overlap) for name, at in pairs]
    tests = adjusted_tests(np.column_stack([one.series for one in found]), overlap)
    for name in dict.fromkeys(name for name, _ in pairs):
        yield name, Row(ALL, POOLED, group, "comparisons", float(np.count_nonzero(np.isfinite(tests.adjusted))))
        yield name, Row(ALL, POOLED, group, "romano_wolf", float(tests.method == "romano-wolf"))
    for (name, at), one, p, adjusted in zip(pairs, found, tests.p_value, tests.adjusted, strict=True):
        numbers = _numbers(one.pooled, p, adjusted) | _of_panel(one, losses[name][at], theirs[at])
        yield from ((name, row) for row in _rows(at, group, numbers))
        for symbol, own, p, adjusted in zip(symbols, one.symbols, one.tests.p_value, one.tests.adjusted, strict=True):
            yield from ((name, row) for row in _rows(at, f"{group}{SYMBOL}{symbol}", _numbers(own, p, adjusted)))


def _rows(at: tuple[str, int], group: str, numbers: Mapping[str, float]) -> Iterator[Row]:
    loss, step = at
    for statistic, value in numbers.items():
        yield Row(CHANNELS[CLOSE], step, group, f"{loss}.{statistic}", float(value))


def _numbers(found: LossDifference, p_value: float, adjusted: float) -> dict[str, float]:
    return {
        "difference_pct": found.difference,
        "low_pct": found.low,
        "high_pct": found.high,
        "detectable_pct": found.smallest_detectable,
        "p_value": p_value,
        "adjusted_p": adjusted,
        "origins": float(found.n),
    }


def _of_panel(found: PooledComparison, ours: Losses, theirs: Losses) -> dict[str, float]:
    # Paths of different symbols are drawn independently, so that their noise averages out as the losses do.
    noise = [nan_mean(found.percent * one.noise, 1) for one in (ours, theirs)]
    return {
        "joint_p": found.joint_p,
        "effective_symbols": found.effective_symbols,
        "symbols": float(np.count_nonzero(np.isfinite(found.percent))),
        "path_noise": path_noise_share(noise[0], noise[1], found.pooled.standard_error),
    }
