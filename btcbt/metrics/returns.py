"""Return, risk and significance of an equity curve.

Returns are simple, per candle, net of everything that the equity is net of. A year has 365.25 days of trading;
the risk-free rate is zero. Equity may not be NaN (a `ValueError`). Equity of zero or less is ruin: the
return is -100 % there and zero afterwards. Undefined scores (the Sharpe ratio of an account that never traded)
are NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from btcbt.metrics import power, sharpe
from btcbt.metrics.accuracy import nan_mean
from btcbt.metrics.inference import mean_test
from btcbt.metrics.score import Better, Score
from btcbt.records import IN_BPS, YEAR_MS, FloatArray, IntArray

MIN_ROUND_TRIPS = 10.0
"""A year; an account that trades less has no break-even cost: almost all of its result is that of holding."""
MAX_SHARE, CAPACITY_QUANTILE = 0.01, 0.95
"""Of the amount traded in a candle, and the share of orders that stay below it; see `capacity`."""
_NAN = float("nan")


def _account(
    name: str, unit: str, better: Better, formula: str, source: str = "", relative: float = 1e-9, label: str = ""
) -> Score:
    per = {"total_return": ("month", "cost_bps", "delay"), "sharpe": ("cost_bps", "delay")}.get(name, ())
    return Score(
        name=name,
        family="strategy",
        label=label,
        unit=unit,
        better=better,
        formula=formula,
        source=source,
        per=per,  # type: ignore[arg-type]
        relative=relative,
    )


_SIMULATED = "from the simulation"
_BOOTSTRAP = "Politis and Romano (1994), JASA 89"
SIMULATED: tuple[Score, ...] = (
    _account("fees", "quote", "lower", "fees paid", _SIMULATED),
    _account("slippage", "quote", "lower", "slippage paid", _SIMULATED),
    _account("funding", "quote", "lower", "funding paid", _SIMULATED),
    _account("borrow", "quote", "lower", "interest paid on short positions", _SIMULATED),
    _account("exposure", "share", "neither", "mean share of equity held, long or short", _SIMULATED),
    _account("ruined", "", "lower", "1 if equity fell to zero", _SIMULATED),
)
"""Scores that are fields of a simulation, of the same name."""
ACCOUNT_SCORES: tuple[Score, ...] = (
    _account("candles", "count", "neither", "returns in the series"),
    _account("total_return", "share", "higher", "prod (1 + r) - 1", label="return"),
    _account("annual_return", "share", "higher", "(1 + total return)^(candles a year / candles) - 1"),
    _account("annual_volatility", "share", "neither", "std(r) sqrt(candles a year)"),
    _account(
        "sharpe",
        "",
        "higher",
        "mean(r) / std(r) sqrt(candles a year)",
        "Sharpe (1994)",
        label="Sharpe",
    ),
    _account("sharpe_per_candle", "", "higher", "mean(r) / std(r)", "Sharpe (1994)"),
    _account(
        "sortino",
        "",
        "higher",
        "mean(r) / sqrt(mean min(r, 0)^2) sqrt(candles a year)",
        "Sortino and van der Meer (1991)",
    ),
    _account("max_drawdown", "share", "lower", "largest loss from an earlier high", label="max DD"),
    _account("max_drawdown_candles", "candles", "lower", "longest time below an earlier high"),
    _account("calmar", "", "higher", "annual return / largest drawdown"),
    _account("hit_rate", "share", "higher", "share of positive returns among those that are not zero"),
    _account("active", "share", "neither", "share of returns that are not zero"),
    _account("undecided", "candles", "neither", "candles without a decision, after gaps"),
    _account("decided_return", "share", "higher", "prod (1 + r) - 1 over the candles with a decision"),
    _account("best_candle", "share", "higher", "max r"),
    _account("worst_candle", "share", "higher", "min r"),
    _account("sharpe_low", "", "higher", "lower end of the Sharpe ratio's 95 % bootstrap interval", _BOOTSTRAP, 1e-6),
    _account("sharpe_high", "", "higher", "upper end of it", _BOOTSTRAP, 1e-6),
    _account("total_return_low", "share", "higher", "lower end of the total return's 95 % interval", _BOOTSTRAP, 1e-6),
    _account("total_return_high", "share", "higher", "upper end of it", _BOOTSTRAP, 1e-6),
    _account("p_value", "p-value", "lower", "one-sided: mean return above zero", relative=1e-6),
    _account(
        "probabilistic_sharpe",
        "probability",
        "higher",
        "probability that the true Sharpe ratio is above zero",
        "Bailey and Lopez de Prado (2012), J. Risk 15",
    ),
    _account(
        "min_track_record_candles",
        "candles",
        "lower",
        "candles that a Sharpe ratio of this size needs to be significant at 5 %",
        "Bailey and Lopez de Prado (2012), J. Risk 15",
    ),
    _account("more_candles_needed", "candles", "lower", "further candles until the mean return is significant at 5 %"),
    _account(
        "deflated_sharpe",
        "probability",
        "higher",
        "probability that the true Sharpe ratio is above the expected best of all trials without skill",
        "Bailey and Lopez de Prado (2014), JPM 40",
    ),
    _account(
        "sharpe_hurdle",
        "",
        "neither",
        "Sharpe ratio that the luckiest of all trials without skill would show",
        "Bailey and Lopez de Prado (2014), JPM 40",
    ),
    _account("trials", "count", "neither", "configurations ever tried on these candles"),
    _account(
        "turnover", "multiples of equity a year", "neither", "value traded / equity, per year", label="turnover/yr"
    ),
    _account("costs", "multiples of equity", "lower", "sum of fees and slippage / equity"),
    _account(
        "break_even_bps",
        "bps",
        "higher",
        "break-even cost a side (none below ten round trips a year)",
        label="break-even bps",
    ),
    _account("cost_bps", "bps", "lower", "costs / value traded"),
    _account("trades", "count", "neither", "closed trades"),
    _account("trade_hit_rate", "share", "higher", "share of closed trades with a gain"),
    _account("trade_mean_bps", "bps", "higher", "mean return of closed trades"),
    _account("profit_factor", "", "higher", "sum of gains / sum of losses"),
    _account("benchmark.total_return", "share", "neither", "total return of buy and hold"),
    _account("benchmark.sharpe", "", "neither", "its Sharpe ratio"),
    _account("benchmark.max_drawdown", "share", "neither", "its largest drawdown"),
    _account("excess.total_return", "share", "higher", "total return minus that of buy and hold"),
    _account("excess.information_ratio", "", "higher", "mean(r - b) / std(r - b) sqrt(candles a year)"),
    _account("excess.p_value", "p-value", "lower", "one-sided: mean(r - b) above zero", relative=1e-6),
    _account(
        "excess.more_candles_needed", "candles", "lower", "further candles until mean(r - b) is significant at 5 %"
    ),
    _account("beta", "", "neither", "cov(r, b) / var(b)"),
    _account("alpha", "share a year", "higher", "(mean(r) - beta mean(b)) candles a year"),
    _account(
        "capacity",
        "quote",
        "higher",
        "initial cash up to which 95 % of orders are at most 1 % of the amount traded in the candle of their fill",
    ),
    *SIMULATED,
)
"""The scores of an account: r its net returns per candle, b those of buy and hold."""


def equity_returns(equity: ArrayLike, initial: float | None = None) -> FloatArray:
    """Simple returns per candle of an equity curve.

    Parameters
    ----------
    equity : float (N,)
        Value of the account at each candle's close.
    initial : float, optional
        Value before the first candle; without it the first candle has no return.

    Returns
    -------
    float64 (N,) or (N - 1,)
    """
    e = np.asarray(equity, dtype=np.float64)
    if e.ndim != 1 or not np.all(np.isfinite(e)):
        raise ValueError(f"equity {e.shape} is not one finite series")
    if initial is not None:
        e = np.concatenate([[initial], e])
    if len(e) and e[0] <= 0.0:
        raise ValueError(f"equity starts at {e[0]}, not above zero")
    alive = np.minimum.accumulate(e > 0.0)
    e = np.where(alive, e, 0.0)
    before = np.where(e[:-1] > 0.0, e[:-1], 1.0)
    return np.asarray(np.where(e[:-1] > 0.0, e[1:] / before - 1.0, 0.0))


def share_of_equity(amounts: ArrayLike, equity: ArrayLike, initial: float | None = None) -> FloatArray:
    """Amounts per candle (N,), say costs, over the equity before the candle; 0 where that is lost.

    Parameters
    ----------
    amounts, equity : float (N,)
        Quote units.
    initial : float, optional
        Equity before the first candle, which is left out without it: (N - 1,).
    """
    value = np.asarray(equity, dtype=np.float64)
    before = value[:-1] if initial is None else np.concatenate([[initial], value[:-1]])
    before = np.where(before > 0.0, before, np.nan)
    return np.nan_to_num(np.asarray(amounts, dtype=np.float64)[len(value) - len(before) :] / before)


def capacity(values: ArrayLike, amounts: ArrayLike, initial: float) -> float:
    """Initial cash up to which 95 % of orders are at most 1 % of what the market trades in the candle of their fill.

    Orders grow in proportion to the initial cash, as targets are fractions of equity. Not the largest order: one quiet
    hour among thousands would decide. NaN without an order; 0 if more than 5 % fall into candles without any trade.

    Parameters
    ----------
    values : float (n,)
        Values of the orders, quote units.
    amounts : float (n,)
        Amounts of the candles that they are filled in, quote units.
    initial : float
        Initial cash of the account that sent them.
    """
    value, amount = np.asarray(values, dtype=np.float64), np.asarray(amounts, dtype=np.float64)
    if not len(value):
        return _NAN
    share = np.divide(value, amount, out=np.full_like(value, np.inf), where=amount > 0.0)
    return float(initial * MAX_SHARE / np.quantile(share, CAPACITY_QUANTILE, method="higher"))


def monthly_returns(equity: ArrayLike, open_time: IntArray, initial: float | None = None) -> dict[str, float]:
    """Total return in each calendar month (UTC, of the candle's open), by its name, such as ``2019-06``.

    Parameters
    ----------
    equity : float (N,)
        Value of the account at each candle's close, net.
    open_time : int64 (N,)
        Open times, ms UTC.
    initial : float, optional
        Value before the first candle; without it the first candle has no return.
    """
    returns = equity_returns(equity, initial)
    times = np.asarray(open_time)[len(open_time) - len(returns) :]
    months = times.astype("datetime64[ms]").astype("datetime64[M]").astype(str)
    return {str(month): sharpe.compound(returns[months == month]) for month in np.unique(months)}


def drawdown(returns: ArrayLike) -> FloatArray:
    """Loss from the highest equity so far, as a share of it, at each candle, (n,)."""
    value = np.concatenate([[1.0], np.cumprod(1.0 + np.asarray(returns, dtype=np.float64))])
    return np.asarray(1.0 - value / np.maximum.accumulate(value))[1:]


def longest_drawdown(returns: ArrayLike) -> int:
    """Most candles in a row below an earlier high."""
    under = np.concatenate([[0], (drawdown(returns) > 0.0).astype(np.int64), [0]])
    edges = np.flatnonzero(np.diff(under))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def sortino_ratio(returns: ArrayLike) -> float:
    """Mean return over the root mean square of losses, per candle (Sortino and van der Meer, 1991); target 0.

    NaN without any loss.
    """
    r = np.asarray(returns, dtype=np.float64)
    downside = float(np.sqrt(np.mean(np.minimum(r, 0.0) ** 2))) if len(r) else 0.0
    return float(r.mean() / downside) if downside > 0.0 else _NAN


def summarise_returns(
    equity: ArrayLike,
    benchmark: ArrayLike | None = None,
    *,
    interval_ms: int = 3_600_000,
    horizon: int = 24,
    initial: float | None = None,
    traded: ArrayLike | None = None,
    costs: ArrayLike | None = None,
    trade_returns: ArrayLike | None = None,
    trial_sharpes: ArrayLike | None = None,
    decided: ArrayLike | None = None,
    reps: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """All scores of one equity curve, as a flat dictionary.

    Parameters
    ----------
    equity : float (N,)
        Value of the account at each candle's close, net.
    benchmark : float (N,), optional
        The same for the benchmark (buy and hold), from the same initial value.
    interval_ms, horizon : int
        Candle length; shortest bootstrap block in candles.
    initial : float, optional
        Value of both accounts before the first candle.
    traded, costs : float (N,), optional
        Value bought and sold, and fees and slippage paid, in each candle, in quote units. They add turnover
        and, if both are given, the break-even cost.
    trade_returns : float (M,), optional
        Net return of each closed trade.
    trial_sharpes : float, optional
        Sharpe ratios per candle of every configuration ever tried, for the deflated Sharpe ratio.
    decided : bool (N,), optional
        Whether each candle has a decision.
    reps, seed : int
        Of the bootstrap.

    Returns
    -------
    dict of str to float
        Ratios and volatilities are annualised, intervals are 95 %, durations in candles. ``p_value`` and
        ``excess.p_value`` are one-sided (mean return above 0, above the benchmark's) with a long-run
        variance.
    """
    returns = equity_returns(equity, initial)
    if len(returns) == 0:
        raise ValueError("an equity curve needs two values, or an initial one, to have a return")
    out = _performance(returns, interval_ms)
    out.update(_luck(returns, interval_ms, horizon, trial_sharpes, reps, seed))
    if traded is not None:
        out.update(_trading(equity, returns, initial, traded, costs, interval_ms))
    if decided is not None:
        with_one = np.asarray(decided, dtype=np.bool_)[-len(returns) :]
        out["undecided"] = float(np.count_nonzero(~with_one))
        out["decided_return"] = sharpe.compound(returns[with_one])
    if trade_returns is not None:
        out.update(_trades(np.asarray(trade_returns, dtype=np.float64)))
    if benchmark is not None:
        out.update(_against(returns, equity_returns(benchmark, initial), interval_ms))
    return {key: float(value) for key, value in out.items()}


def total_and_sharpe(equity: ArrayLike, initial: float, interval_ms: int) -> dict[str, float]:
    """``total_return`` and ``sharpe`` of an equity curve (N,), as `summarise_returns` gives them."""
    returns = equity_returns(equity, initial)
    annual = float(np.sqrt(YEAR_MS / interval_ms))
    return {"total_return": sharpe.compound(returns), "sharpe": sharpe.sharpe_ratio(returns) * annual}


def _performance(returns: FloatArray, interval_ms: int) -> dict[str, float]:
    per_year = YEAR_MS / interval_ms
    total, deepest = sharpe.compound(returns), float(drawdown(returns).max())
    with np.errstate(over="ignore"):
        annual = float(np.expm1(np.log1p(total) * per_year / len(returns))) if total > -1.0 else -1.0
    moved = returns[returns != 0.0]
    return {
        "candles": float(len(returns)),
        "total_return": total,
        "annual_return": annual,
        "annual_volatility": float(returns.std(ddof=1) * np.sqrt(per_year)) if len(returns) > 1 else _NAN,
        "sharpe": sharpe.sharpe_ratio(returns) * np.sqrt(per_year),
        "sharpe_per_candle": sharpe.sharpe_ratio(returns),
        "sortino": sortino_ratio(returns) * np.sqrt(per_year),
        "max_drawdown": deepest,
        "max_drawdown_candles": float(longest_drawdown(returns)),
        "calmar": annual / deepest if deepest > 0.0 else _NAN,
        "hit_rate": float(nan_mean(moved > 0.0)),
        "active": float(len(moved) / len(returns)),
        "best_candle": float(returns.max()),
        "worst_candle": float(returns.min()),
    }


def _luck(
    returns: FloatArray, interval_ms: int, horizon: int, trials: ArrayLike | None, reps: int, seed: int
) -> dict[str, float]:
    annual = float(np.sqrt(YEAR_MS / interval_ms))
    interval = sharpe.bootstrap_interval(returns, horizon, reps=reps, seed=seed)
    out = {
        "sharpe_low": interval["sharpe"][0] * annual,
        "sharpe_high": interval["sharpe"][1] * annual,
        "total_return_low": interval["total_return"][0],
        "total_return_high": interval["total_return"][1],
        "p_value": mean_test(returns, 1).p_greater,
        "probabilistic_sharpe": sharpe.probabilistic_sharpe(returns),
        "min_track_record_candles": sharpe.minimum_track_record(returns),
        "more_candles_needed": power.candles_to_significance(returns),
    }
    if trials is not None:
        out["deflated_sharpe"] = sharpe.deflated_sharpe(returns, trials)
        out["sharpe_hurdle"] = sharpe.expected_best_sharpe(trials) * annual
        out["trials"] = float(len(np.asarray(trials)))
    return out


def _trading(
    equity: ArrayLike,
    returns: FloatArray,
    initial: float | None,
    traded: ArrayLike,
    costs: ArrayLike | None,
    interval_ms: int,
) -> dict[str, float]:
    share = share_of_equity(traded, equity, initial)
    turnover = float(share.sum() / len(returns) * YEAR_MS / interval_ms)
    out = {"turnover": turnover}
    if costs is not None:
        paid = share_of_equity(costs, equity, initial)
        out["costs"] = float(paid.sum())
        enough = turnover >= 2.0 * MIN_ROUND_TRIPS
        out["break_even_bps"] = power.break_even_cost_bps(returns + paid, share) if enough else _NAN
        out["cost_bps"] = IN_BPS * float(paid.sum() / share.sum()) if share.sum() > 0.0 else _NAN
    return out


def _trades(trades: FloatArray) -> dict[str, float]:
    gains, losses = float(trades[trades > 0.0].sum()), float(-trades[trades < 0.0].sum())
    return {
        "trades": float(len(trades)),
        "trade_hit_rate": float(nan_mean(trades > 0.0)),
        "trade_mean_bps": IN_BPS * float(nan_mean(trades)),
        "profit_factor": gains / losses if losses > 0.0 else _NAN,
    }


def _against(returns: FloatArray, benchmark: FloatArray, interval_ms: int) -> dict[str, float]:
    if benchmark.shape != returns.shape:
        raise ValueError(f"benchmark has {len(benchmark)} returns, not {len(returns)}")
    per_year = YEAR_MS / interval_ms
    excess = returns - benchmark
    variance = float(benchmark.var())
    beta = float(np.mean((returns - returns.mean()) * (benchmark - benchmark.mean())) / variance) if variance else _NAN
    return {
        "benchmark.total_return": sharpe.compound(benchmark),
        "benchmark.sharpe": sharpe.sharpe_ratio(benchmark) * np.sqrt(per_year),
        "benchmark.max_drawdown": float(drawdown(benchmark).max()),
        "excess.total_return": sharpe.compound(returns) - sharpe.compound(benchmark),
        "excess.information_ratio": sharpe.sharpe_ratio(excess) * np.sqrt(per_year),
        "excess.p_value": mean_test(excess, 1).p_greater,
        "excess.more_candles_needed": power.candles_to_significance(excess),
        "beta": beta,
        "alpha": float((returns.mean() - beta * benchmark.mean()) * per_year),
    }
