"""Where a Kronos checkpoint puts the last known close, and where its paths go from there.

Runs an experiment (or resumes it), compares the stored paths of an as-decoded forecaster with the tokenizer's
reconstruction of the last close, and draws both. With ``--prior`` it also writes what the outcomes of these hours say
about the location (``location.json``), from which a ``located`` forecaster of that checkpoint starts.

    python benchmarks/location.py experiments/location_2024.yaml --figure docs/images/location.png
    python benchmarks/location.py experiments/location_prior.yaml --prior btcbt/models/kronos/nano
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from btcbt import run
from btcbt.config import RunConfig, load_config, time_text
from btcbt.forecasters import Forecaster, create_forecaster
from btcbt.forecasters.located import LocationRegression
from btcbt.models.kronos.checkpoints.location_prior import LocationPrior
from btcbt.models.kronos.inference.location import reconstruction_error
from btcbt.records import CLOSE, FloatArray
from btcbt.report.figures import new_figure, style_axes
from btcbt.walkforward.stages import Stages
from btcbt.windows import Windows

STEPS = (1, 2, 3, 6, 12, 24)
SHOWN = 60.0
"""Shown are moves, errors and offsets below this many basis points times two."""


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Basis points of the close before the last, and of the last close.

    Attributes
    ----------
    move : float64 (B,)
        The last candle's return.
    decoded : float64 (B,)
        Where the decoder puts its close, from the same close before it.
    error : float64 (B,)
        The difference of the two: the reconstruction error.
    offset : float64 (B, H)
        The median of the paths from the last close.
    """

    move: FloatArray
    decoded: FloatArray
    error: FloatArray
    offset: FloatArray


def place(config: RunConfig, name: str) -> tuple[Placed, LocationRegression]:
    """Run the experiment, and place the decoded closes and the stored paths of a forecaster."""
    stored = run(config).forecasts(name)
    stages = Stages()
    candles = stages.history(config.candles)
    forecaster = create_forecaster(config.forecasters[name], config.windows, config.seed)
    windows = stages.windows(candles, config.windows, forecaster.context).with_context(forecaster.context)
    if windows.origins.tolist() != stored.origins.tolist():
        raise SystemExit(f"{name}: another forecaster of {config.name} has a longer context; leave it out")
    online = LocationRegression(config.windows.horizon)
    parts, at = [], 0
    for batch in stored.batches(64):
        parts.append(_place(windows, slice(at, at + len(batch)), batch.paths[..., CLOSE], forecaster, online))
        at += len(batch)
    return Placed(*(np.concatenate(one) for one in zip(*parts, strict=True))), online


def _place(
    windows: Windows, rows: slice, closes: FloatArray, forecaster: Forecaster, online: LocationRegression
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    asked = windows[rows]
    decoded = forecaster.reconstruct(asked)
    if decoded is None:
        raise SystemExit("the forecaster has no tokenizer; name one of kind 'kronos'")
    last, before = (np.array([window.values[-age, CLOSE] for window in asked]) for age in (1, 2))
    error = reconstruction_error(decoded, last)
    online.moves(asked, closes.astype(np.float32), error, np.ones(len(asked), dtype=bool))
    offset = np.log(np.median(closes.astype(np.float64), axis=1) / last[:, None])
    return tuple(1e4 * x for x in (np.log(last / before), np.log(decoded / before), error, offset))  # type: ignore[return-value]


def draw(placed: Placed, file: Path, title: str) -> None:
    """Draw decoded against true last close, and median offset against reconstruction error."""
    figure = new_figure(11.5, 5.2)
    left, right = figure.subplots(1, 2)
    reach = 2.0 * SHOWN
    first = placed.offset[:, 0]
    move, error = "last close, from the one before", "error of the decoded last close"
    panels = (
        (left, placed.move, placed.decoded, move, "the same as decoded from its tokens", "no error"),
        (
            right,
            placed.error,
            placed.offset[:, 0],
            error,
            "median of the paths at 1 h, from the last close",
            "all of it",
        ),
    )
    for axes, x, y, across, up, line in panels:
        style_axes(axes, f"{up} (bps)")
        axes.plot((-reach, reach), (-reach, reach), color="0.35", linewidth=1.0, zorder=3)
        axes.text(-0.9 * reach, -0.78 * reach, line, fontsize=9, color="0.25", rotation=45, ha="left", va="bottom")
        axes.scatter(x, y, s=5, alpha=0.3, linewidths=0, color="#1f6f8b", zorder=2)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.set_xlabel(f"{across} (bps)", fontsize=9)
    spread = placed.error.std()
    left.set_title(f"The tokenizer misses the known close by {spread:.0f} bps (sd)", fontsize=10.5, loc="left")
    correlation = np.corrcoef(placed.error, first)[0, 1]
    right.set_title(f"The paths continue from there (correlation {correlation:.2f})", fontsize=10.5, loc="left")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(file, dpi=90)


def report(placed: Placed) -> None:
    """Print the spreads and how much of the error the paths keep."""
    error = placed.error
    print(f"{len(error):,} origins; reconstruction error of the last close: {error.std():.1f} bps")
    print(f"autocorrelation {np.corrcoef(error[1:], error[:-1])[0, 1]:.2f}")
    print(f"{'step':>5s}{'median offset':>15s}{'correlation':>13s}{'slope':>8s}")
    for step in STEPS:
        if step <= placed.offset.shape[1]:
            offset = placed.offset[:, step - 1]
            slope = float(error @ offset / (error @ error))
            print(f"{step:5d}{offset.std():15.1f}{np.corrcoef(error, offset)[0, 1]:13.2f}{slope:8.2f}")


def main() -> None:
    """Parse, run, print, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment")
    parser.add_argument("--forecaster", default="kronos_as_decoded")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--prior", type=Path, help="folder of the checkpoint")
    options = parser.parse_args()
    config = load_config(options.experiment)
    placed, online = place(config, options.forecaster)
    report(placed)
    span = f"{time_text(config.windows.start)[:10]} .. {time_text(config.windows.end)[:10]}"
    if options.figure:
        title = f"{options.forecaster} on {Path(config.candles.path).stem}, {span}, {len(placed.error):,} origins"
        draw(placed, options.figure, title)
    if options.prior:
        note = f"'{options.forecaster}' of {options.experiment}: {config.candles.path}, {span}"
        LocationPrior(online.gram, online.moment).write(options.prior, note)


if __name__ == "__main__":
    main()
