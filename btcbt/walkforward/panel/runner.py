"""The walk-forward on several symbols: a run of each, and then what only all of them together say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from btcbt.config import PanelConfig, RunConfig, time_text
from btcbt.errors import BtcbtError, CandleError
from btcbt.files import refusals_explained
from btcbt.loading import source_sha256
from btcbt.portfolio import Simulation
from btcbt.progress import Progress
from btcbt.records import Candles
from btcbt.report.page import write_page
from btcbt.report.panel_figures import draw_panel_figures
from btcbt.report.run.panel import PanelRun, panel_run
from btcbt.storage import runs as store
from btcbt.storage.forecasts import NUMERICAL_VERSION
from btcbt.storage.panel_runs import load_panel_run
from btcbt.storage.runs import Run
from btcbt.trees import tree_digest
from btcbt.walkforward.forecasted import Clock
from btcbt.walkforward.manifest import DIGEST_LENGTH, wall_seconds
from btcbt.walkforward.panel.accounts import Books, decide_books, score_books
from btcbt.walkforward.panel.scores import Rankings, score_panel
from btcbt.walkforward.panel.traders import PanelTrader, make_panel_traders, on_one_symbol
from btcbt.walkforward.provenance import code_version, git_commit, package_versions
from btcbt.walkforward.runner import walk
from btcbt.walkforward.scoring import Scores
from btcbt.walkforward.stages import Stages


def run_panel(config: PanelConfig, progress: Progress, *, force: bool = False) -> PanelRun:
    """Run an experiment on several symbols, or resume it.

    Symbols are walked one after the other, so that memory does not grow with their number; each leaves a run of its
    own, ``runs/<name>-<symbol>``, whose forecasts are those of an experiment on that symbol alone.

    Parameters
    ----------
    config : PanelConfig
    progress : Progress
        Receives the progress.
    force : bool
        Whether finished runs of the symbols are scored again.

    Raises
    ------
    BtcbtError
        As `btcbt.walkforward.runner.run`, naming the symbol.
    """
    with refusals_explained(config.store.folder):
        stages, clock = Stages(), Clock()
        traders = make_panel_traders(config)
        with clock("read candles"):
            candles = read_panel(config, stages)
            parts = each_symbol(config, candles)
        runs = {}
        for symbol, part in parts.items():
            progress.note(f"{symbol}: {list(parts).index(symbol) + 1} of {len(parts)} symbols")
            with clock(f"walk {symbol}"), _named(symbol):
                runs[symbol] = walk(part, stages, progress, force=force)
        _require_common(runs)
        with clock("score the panel"):
            scores, rankings = score_panel(config, runs, progress)
        with clock("trade the panel"):
            books = decide_books(config, runs, candles, traders, progress)
            simulation, accounts = score_books(config, books, candles, progress)
        numbers = Scores({**scores.headline, **accounts.headline}, (*scores.tables, *accounts.tables))
        return _write(config, runs, traders, books, simulation, numbers, rankings, clock)


def read_panel(config: PanelConfig, stages: Stages) -> dict[str, Candles]:
    """The history of every symbol.

    Raises
    ------
    CandleError
        If one cannot be read, or two are the same.
    """
    found: dict[str, Candles] = {}
    for symbol in config.symbols:
        with _named(symbol):
            found[symbol] = stages.history(config.candles.of(symbol))
    by_digest: dict[str, str] = {}
    for symbol, candles in found.items():
        other = by_digest.setdefault(candles.sha256, symbol)
        if other != symbol:
            raise CandleError(f"candles.symbols: '{other}' and '{symbol}' have the same candles; remove one")
    return found


def each_symbol(config: PanelConfig, candles: Mapping[str, Candles]) -> dict[str, RunConfig]:
    """The experiment on each symbol alone, over the part of the range in which it is listed.

    Raises
    ------
    CandleError
        If a symbol has no candles in the range.
    """
    found, single = {}, on_one_symbol(config)
    for symbol, history in candles.items():
        first, last = (_utc(int(history.open_time[row])) for row in (0, -1))
        start = max(config.windows.start, first)
        end = min(config.windows.end, last + timedelta(milliseconds=2 * history.interval_ms))
        if start >= end:
            raise CandleError(
                f"candles.symbols.{symbol}: history spans {time_text(first)} .. {time_text(last)}, outside of "
                f"windows.start .. windows.end {time_text(config.windows.start)} .. {time_text(config.windows.end)}; "
                "remove the symbol or change the range"
            )
        found[symbol] = config.of(symbol, single, start, end)
    return found


def _require_common(runs: Mapping[str, Run]) -> None:
    """Raise if no moment has two symbols."""
    origins = [run.origins().index for run in runs.values()]
    every = origins[0].append(origins[1:])
    if not every.duplicated().any():
        raise CandleError("candles.symbols: no two symbols have an eligible origin in common; choose another range")


@contextmanager
def _named(symbol: str) -> Iterator[None]:
    """Begin messages of errors with the symbol that they concern."""
    try:
        yield
    except BtcbtError as error:
        error.args = (f"candles.symbols.{symbol}: {error}",)
        raise


def _write(
    config: PanelConfig,
    runs: Mapping[str, Run],
    traders: list[PanelTrader],
    books: Books,
    simulation: Simulation,
    scores: Scores,
    rankings: Rankings,
    clock: Clock,
) -> PanelRun:
    """Write the run directory, completely or not at all."""
    digest = panel_digest(config, runs, traders)
    target = config.store.folder / config.name / digest
    with store.new_directory(target) as folder:
        columns = {
            f"{name}/{symbol}": books.targets[:, a, k]
            for a, name in enumerate(books.names)
            for k, symbol in enumerate(runs)
        }
        store.write_columns(folder / "targets.parquet", "origin", books.origins, columns)
        store.write_columns(folder / "rankings.parquet", "origin", rankings.origins, rankings.columns)
        equity = dict(zip(simulation.names, simulation.equity.T, strict=True))
        store.write_columns(folder / "equity.parquet", "open_time", simulation.open_time, equity)
        simulation.trades.to_parquet(folder / "trades.parquet", index=False)
        simulation.orders.to_parquet(folder / "orders.parquet", index=False)
        store.write_json(folder / "metrics.json", scores.headline)
        store.write_scores(folder / "scores.parquet", scores.tables)
        manifest = _manifest(config, digest, runs, traders, books, scores, clock)
        store.write_json(folder / "manifest.json", manifest)
        with clock("draw"):
            written = load_panel_run(folder)
            draw_panel_figures(written)
            write_page(written)
        # Again, with the time of the figures.
        manifest["seconds"] = wall_seconds(clock.seconds, clock.started)
        store.write_json(folder / "manifest.json", manifest)
    store.point_latest(target)
    return panel_run(load_panel_run(target))


def panel_digest(config: PanelConfig, runs: Mapping[str, Run], traders: list[PanelTrader]) -> str:
    """Digest of all inputs of a run on several symbols."""
    content = {
        "config": config.digest(),
        "symbols": {symbol: run.manifest["digest"] for symbol, run in runs.items()},
        "strategies": {trader.name: source_sha256(type(trader.strategy)) for trader in traders},
        "code": code_version(),
        "numerical_version": NUMERICAL_VERSION,
    }
    return tree_digest(content)[:DIGEST_LENGTH]


def _manifest(
    config: PanelConfig,
    digest: str,
    runs: Mapping[str, Run],
    traders: list[PanelTrader],
    books: Books,
    scores: Scores,
    clock: Clock,
) -> dict[str, Any]:
    first = next(iter(runs.values())).manifest
    return {
        "name": config.name,
        "digest": digest,
        "config_digest": config.digest(),
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "symbols": {symbol: _of_symbol(run) for symbol, run in runs.items()},
        "origins": {
            "eligible": int(scores.headline["origins.eligible"]),
            "scored": int(scores.headline["origins.scored"]),
            "first": time_text(int(books.origins[0])),
            "last": time_text(int(books.origins[-1])),
        },
        "forecasters": {
            name: {key: entry[key] for key in ("kind", "n_paths", "paths_are", "scored_by", "identity")}
            | {"labels": _labels(runs, name)}
            for name, entry in first["forecasters"].items()
        },
        "opponent": first["opponent"],
        "strategies": {
            **{name: {"book_of": name} for name in books.names if name not in {one.name for one in traders}},
            **{
                trader.name: {
                    "use": trader.use,
                    "params": dict(trader.params),
                    "forecaster": trader.forecaster,
                    "source_sha256": source_sha256(type(trader.strategy)),
                }
                for trader in traders
            },
        },
        "code": {"version": code_version(), "commit": git_commit(), "numerical_version": NUMERICAL_VERSION},
        "packages": package_versions(),
        "started": clock.started.isoformat(timespec="seconds"),
        "seconds": wall_seconds(clock.seconds, clock.started),
    }


def _of_symbol(run: Run) -> dict[str, Any]:
    return {"name": run.config.name, "digest": run.manifest["digest"]} | {
        key: run.manifest[key] for key in ("candles", "origins", "audit")
    }


def _labels(runs: Mapping[str, Run], name: str) -> dict[str, int]:
    """Contamination labels of the forecasts of all symbols, counted."""
    found: dict[str, int] = {}
    for run in runs.values():
        for label, count in run.manifest["forecasters"][name]["labels"].items():
            found[label] = found.get(label, 0) + count
    return found


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
