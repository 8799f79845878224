"""Figure of one forecast: price and volume, history and quantile bands of the paths."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, Float32Array, FloatArray, IntArray, Window
from btcbt.report.colours import COLOURS
from btcbt.report.figures import BANDS, DPI, INK, date_axis, dates, draw_fan, new_figure, style_axes

HISTORY_SPAN = 2
"""History shown, in horizons."""
HISTORY_RANGE = (48, 240)
"""Fewest and most candles of history shown."""
QUOTES = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USD", "EUR", "GBP", "JPY", "BTC", "ETH")
UP, DOWN = "#4C956C", "#BC4B51"


def draw_prediction(window: Window, paths: Float32Array, summary: Mapping[str, Any]) -> bytes:
    """Draw a forecast.

    Parameters
    ----------
    window : Window
        The known candles.
    paths : float32 (S, H, 6)
        Sampled candles.
    summary : mapping
        The summary of `btcbt.workflows.predict`.

    Returns
    -------
    bytes
        A PNG: candles and volumes of the newest history, then median and central 50, 80 and 95 % of the paths; on the
        right, the distribution of the last close.
    """
    n_paths, horizon = paths.shape[:2]
    shown = int(np.clip(HISTORY_SPAN * horizon, *HISTORY_RANGE))
    known, past = window.values[-shown:], window.open_time[-shown:]
    closes = window.future_open_time(horizon) + window.interval_ms  # a close is known when its candle ends
    base, quote = units(summary["symbol"])
    figure = new_figure(12.0, 7.0)
    grid = figure.add_gridspec(2, 2, width_ratios=[7, 1], height_ratios=[3, 1])
    price = figure.add_subplot(grid[0, 0])
    volume = figure.add_subplot(grid[1, 0], sharex=price)
    final = figure.add_subplot(grid[0, 1], sharey=price)

    _candles(price, past, known, window.interval_ms)
    draw_fan(price, closes, paths[:, :, CLOSE], window, window.last_close, COLOURS[0])
    _mark_last(price, window)
    style_axes(price, f"Price ({quote})")
    price.yaxis.set_major_formatter("{x:,.6g}")
    price.tick_params(labelbottom=False)
    _legend(price)

    _volumes(volume, past, known, window.interval_ms)
    # A volume belongs to the whole candle, so its band is centred on the candle, as the bars are.
    middles = closes - window.interval_ms // 2
    draw_fan(volume, middles, paths[:, :, VOLUME], window, float(known[-1, VOLUME]), COLOURS[0])
    style_axes(volume, f"Volume\n({base} per {summary['interval']})")
    volume.yaxis.set_major_formatter("{x:,.6g}")
    date_axis(volume)
    for axes in (price, volume):
        axes.axvline(dates(window.origin), color=INK, linewidth=0.8, linestyle=(0, (3, 2)), alpha=0.7)
        axes.set_xlim(dates(past[0] - window.interval_ms), dates(closes[-1] + window.interval_ms))
    top = max(float(known[:, VOLUME].max()), float(np.quantile(paths[:, :, VOLUME], 0.975, axis=0).max()))
    volume.set_ylim(0, 1.08 * top if top > 0 else 1.0)

    _final(final, paths[:, -1, CLOSE], window.last_close)
    figure.suptitle(_title(summary, n_paths, horizon), x=0.012, ha="left", fontsize=13)
    _footer(figure.add_subplot(grid[1, 1]), summary)
    buffer = io.BytesIO()
    # The version of matplotlib is left out, so that equal forecasts give equal files.
    figure.savefig(buffer, dpi=DPI, format="png", metadata={"Software": None})
    return buffer.getvalue()


def units(symbol: str) -> tuple[str, str]:
    """Base and quote unit that a symbol such as ``BTCUSDT`` names; generic words if it names none."""
    for quote in QUOTES:
        base = symbol.upper().removesuffix(quote).rstrip("_-")
        if base and base != symbol.upper() and base.isalnum():
            return base, quote
    return "base units", "quote currency"


def _title(summary: Mapping[str, Any], n_paths: int, horizon: int) -> str:
    origin = str(summary["origin"]).replace("T", " ").replace("Z", " UTC")
    return f"{summary['symbol']} {summary['interval']}: {n_paths} sampled paths of {horizon} candles from {origin}"


def _candles(axes: Axes, times: IntArray, values: FloatArray, interval: int) -> None:
    """Wicks and bodies, at the middle of each candle."""
    middles = dates(times + interval // 2)
    rising = values[:, CLOSE] >= values[:, OPEN]
    width = np.timedelta64(int(0.7 * interval), "ms")
    for rows, colour in ((rising, UP), (~rising, DOWN)):
        if not rows.any():  # matplotlib accepts a width in time only if there are bars
            continue
        axes.vlines(middles[rows], values[rows, LOW], values[rows, HIGH], color=colour, linewidth=0.7)
        axes.bar(
            middles[rows],
            values[rows, CLOSE] - values[rows, OPEN],
            width,
            bottom=values[rows, OPEN],
            color=colour,
            linewidth=0,
        )


def _volumes(axes: Axes, times: IntArray, values: FloatArray, interval: int) -> None:
    colours = np.where(values[:, CLOSE] >= values[:, OPEN], UP, DOWN)
    width = np.timedelta64(int(0.7 * interval), "ms")
    axes.bar(dates(times + interval // 2), values[:, VOLUME], width, color=list(colours), alpha=0.75, linewidth=0)


def _mark_last(axes: Axes, window: Window) -> None:
    axes.axhline(window.last_close, color=INK, linewidth=0.7, linestyle=(0, (1, 3)))


def _legend(axes: Axes) -> None:
    """Legend of the bands, in the colours of the overlapping areas."""
    handles: list[Any] = [Line2D([], [], color=COLOURS[0], linewidth=1.6, label="median of the paths")]
    clear, bands = 1.0, []
    for level, opacity in BANDS:
        clear *= 1 - opacity
        bands.append(Patch(color=COLOURS[0], alpha=1 - clear, linewidth=0, label=f"{100 * level:.0f} % of the paths"))
    handles += bands[::-1]
    candles = tuple(Line2D([], [], color=colour, linewidth=5) for colour in (UP, DOWN))
    labels = [str(handle.get_label()) for handle in handles]
    both = {tuple: HandlerTuple(ndivide=None)}
    axes.legend([candles, *handles], ["known candles", *labels], handler_map=both, fontsize=8.5, frameon=False)


def _final(axes: Axes, closes: Float32Array, last: float) -> None:
    """Histogram of the last close over the paths, beside the price axis."""
    values = np.asarray(closes, dtype=np.float64)
    bins = int(np.clip(np.sqrt(len(values)) * 1.5, 8, 40))
    low, high = (np.quantile(values, q) for q in ((1 - BANDS[0][0]) / 2, (1 + BANDS[0][0]) / 2))
    heights, edges = np.histogram(values, bins=bins)
    middles = (edges[1:] + edges[:-1]) / 2
    colours = [COLOURS[0] if low <= m <= high else "#A9C9E0" for m in middles]
    axes.barh(middles, heights, height=0.9 * np.diff(edges), color=colours, alpha=0.65, linewidth=0)
    axes.axhline(last, color=INK, linewidth=0.7, linestyle=(0, (1, 3)))
    style_axes(axes, "")
    axes.tick_params(labelleft=False)
    axes.set_xlabel("Paths", fontsize=9)
    axes.set_title("last close", fontsize=9, color=INK)


def _footer(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Probabilities from the paths, and the contamination label of the checkpoint."""
    axes.axis("off")
    volatile = summary["probability_of_higher_volatility"]
    lines = [
        ("of the paths rise", f"{100 * summary['probability_of_rise']['value']:.0f} %"),
        ("are more volatile\nthan the last day", "n/a" if volatile is None else f"{100 * volatile['value']:.0f} %"),
        ("contamination of the\ncheckpoint here", str(summary["contamination"]["label"])),
    ]
    for row, (name, value) in enumerate(lines):
        y = 1.0 - 0.37 * row
        axes.text(0.0, y, value, fontsize=11, color=INK, va="top", transform=axes.transAxes)
        axes.text(0.0, y - 0.12, name, fontsize=7.5, color="#666666", va="top", transform=axes.transAxes)
