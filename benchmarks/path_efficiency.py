"""How many independent paths one systematically sampled path is worth, on kronos-nano.

For some origins the forecast is repeated over many seeds, once with independent and once with systematic uniform
numbers. The efficiency factor of a statistic is the ratio of its variances over the seeds, averaged over the origins.

    python benchmarks/path_efficiency.py --origins 24 --seeds 40
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

import numpy as np
from scoringrules import crps_ensemble

from btcbt.candles import read_candles
from btcbt.config import KronosConfig, WindowsConfig
from btcbt.forecasters import create_forecaster
from btcbt.records import CLOSE, FloatArray, Window
from btcbt.windows import make_windows

STEPS = (1, 6, 24)


def statistics(returns: FloatArray, outcome: FloatArray) -> dict[str, FloatArray]:
    """Statistics (B, steps) of sampled returns (B, S, steps)."""
    low, high = np.quantile(returns, (0.1, 0.9), axis=1)
    return {
        "mean": returns.mean(axis=1),
        "10 % quantile": low,
        "90 % quantile": high,
        "CRPS": crps_ensemble(outcome, returns, m_axis=1),
    }


def main() -> None:
    """Parse, sample, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--origins", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--paths", type=int, nargs="+", default=[8, 16, 32])
    options = parser.parse_args()
    span = {"start": datetime(2019, 6, 1, tzinfo=UTC), "end": datetime(2019, 9, 29, tzinfo=UTC)}
    config = WindowsConfig(context=240, horizon=max(STEPS), **span)
    windows = make_windows(read_candles("bundled:BTCUSD_1h"), config)
    rows = np.flatnonzero(windows.scored)
    rows = rows[np.linspace(0, len(rows) - 1, options.origins).astype(int)]
    chosen: list[Window] = [windows[int(row)] for row in rows]
    last = np.array([window.last_close for window in chosen])
    steps = np.array(STEPS) - 1
    outcome = windows.outcomes(rows)[:, steps, CLOSE] / last[:, None] - 1
    print(f"{options.origins} origins, {options.seeds} seeds; variance of independent over systematic, by step")
    print(
        f"{'paths':>6s} {'statistic':16s}" + "".join(f"{f'step {step}':>10s}" for step in STEPS) + "   largest bias, z"
    )
    for n_paths in options.paths:
        kept: dict[str, dict[str, list[FloatArray]]] = {}
        for sampling in ("independent", "systematic"):
            part = KronosConfig(n_paths=n_paths, sampling=sampling, device="cpu")
            for seed in range(options.seeds):
                paths = create_forecaster(part, config, seed).forecast(chosen).paths
                returns = paths[:, :, steps, CLOSE].astype(np.float64) / last[:, None, None] - 1
                for name, values in statistics(returns, outcome).items():
                    kept.setdefault(name, {}).setdefault(sampling, []).append(values)
        for name, by_sampling in kept.items():
            plain, spread = (np.stack(by_sampling[s]) for s in ("independent", "systematic"))
            factor = plain.var(axis=0, ddof=1).mean(axis=0) / spread.var(axis=0, ddof=1).mean(axis=0)
            error = np.sqrt((plain.var(axis=0, ddof=1) + spread.var(axis=0, ddof=1)) / options.seeds)
            z = ((plain.mean(axis=0) - spread.mean(axis=0)) / error).mean(axis=0) * np.sqrt(options.origins)
            print(f"{n_paths:6d} {name:16s}" + "".join(f"{f:10.2f}" for f in factor) + f"   {np.abs(z).max():.1f}")


if __name__ == "__main__":
    main()
