"""What the accounts of a run would have made at other costs and one candle late, and how large they may be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from btcbt.config import PortfolioConfig
from btcbt.metrics.returns import capacity, total_and_sharpe
from btcbt.metrics.score import ACCOUNT, ALL, POOLED, Row
from btcbt.metrics.table import dotted_key
from btcbt.portfolio import Fills, Simulation, fill_times, simulate_variants
from btcbt.progress import Progress
from btcbt.records import AMOUNT, Candles, FloatArray, FundingRates
from btcbt.storage.runs import score_table
from btcbt.walkforward.scoring import Scores
from btcbt.windows import Windows

COSTS_BPS = (0.0, 2.0, 5.0, 10.0, 20.0)
"""Total costs a side, taken as a fee without slippage; 0 is before costs. Funding and borrowing stay."""
DELAYS = (1,)
"""Candles by which every fill is late, at the costs of the configuration."""
CELLS = 1 << 20
"""Accounts x candles that are simulated together; each takes some 150 bytes."""


def score_sensitivity(
    real: Simulation,
    windows: Windows,
    targets: FloatArray,
    config: PortfolioConfig,
    funding: FundingRates | None,
    progress: Progress,
) -> Scores:
    """Total return and Sharpe ratio of every account at other costs and with late fills, and its capacity.

    Parameters
    ----------
    real : Simulation
        The K accounts of the run.
    windows : Windows
        M origins.
    targets : float64 (M, K)
        What the accounts were given.
    config : PortfolioConfig
        Costs and limits of the run.
    funding : FundingRates, optional
        The series that accounts pay.
    progress : Progress
        Receives the progress.

    Returns
    -------
    Scores
        Headline numbers ``strategy.<account>.capacity``; the tables have the groups ``cost_bps=0`` .. ``cost_bps=20``
        and ``delay=1``, too.
    """
    variants = {f"cost_bps={bps:g}": Fills(bps, 0.0) for bps in COSTS_BPS}
    variants |= {f"delay={late}": Fills(config.fee_bps, config.slippage_bps, late) for late in DELAYS}
    count = len(real.names)
    at_once = max(1, CELLS // (len(variants) * len(real.open_time)))
    rows: dict[str, list[Row]] = {}
    with progress.stage("sensitivity", count, unit="accounts") as advance:
        for first in range(0, count, at_once):
            part = slice(first, first + at_once)
            equity = simulate_variants(
                windows.candles, windows.origins, targets[:, part], list(variants.values()), config, funding=funding
            )
            for k, name in enumerate(real.names[part]):
                rows[name] = list(_rows(real, dict(zip(variants, equity[:, :, k], strict=True))))
            advance(len(real.names[part]))
    sizes = _capacities(real, windows.candles)
    for name, row in sizes.items():
        rows[name].append(row)
    headline = {dotted_key(name, row): row.value for name, row in sizes.items()}
    return Scores(headline, tuple(score_table(name, windows.candles.source, own) for name, own in rows.items()))


def _rows(real: Simulation, equity: dict[str, FloatArray]) -> Iterator[Row]:
    for group, curve in equity.items():
        for metric, value in total_and_sharpe(curve, real.initial_cash, real.interval_ms).items():
            yield Row(ACCOUNT, POOLED, group, metric, value)


def _capacities(real: Simulation, candles: Candles) -> dict[str, Row]:
    orders = real.orders
    amount = candles.values[np.searchsorted(candles.open_time, fill_times(orders)), AMOUNT]
    value = (orders["size"] * orders["price"]).to_numpy(dtype=np.float64)
    owner = orders["strategy"].to_numpy()
    own = {name: owner == name for name in real.names}
    return {
        name: Row(ACCOUNT, POOLED, ALL, "capacity", capacity(value[mine], amount[mine], real.initial_cash))
        for name, mine in own.items()
    }
