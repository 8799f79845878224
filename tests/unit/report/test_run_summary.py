"""The summary: which numbers it shows, and that a narrow terminal does not cut them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from btcbt.config import AnchoredKronosConfig, RunConfig
from btcbt.report.summary import summary
from btcbt.storage.runs import Run

FORECASTERS = ("random_walk", "ewma_volatility", "kronos")
STRATEGIES = ("threshold", "volatility_target")


def make_run(**changes: Any) -> Run:
    """A run as it is read from disk, with numbers that can be told apart."""
    config = RunConfig.model_validate_json(
        json.dumps(
            {
                "name": "main",
                "candles": {"path": "bundled:BTCUSD_1h"},
                "windows": {"context": 360, "horizon": 24, "start": "2019-06-01", "end": "2019-10-01"},
                "forecasters": {name: {"kind": name} for name in FORECASTERS},
            }
        )
    )
    metrics = {}
    for k, name in enumerate(FORECASTERS):
        metrics |= {
            f"forecast.{name}.crps_bps.close.h1": 31.5 + k,
            f"forecast.{name}.crps_bps.close.h24": 181.5 + k,
            f"forecast.{name}.mae_bps.close.h24": 251.5 + k,
            f"forecast.{name}.direction.close.h24": 0.515 + k / 100,
            f"forecast.{name}.coverage90.close.h24": 88.5 + k,
            f"forecast.{name}.versus.crps_bps.close.h24.skill": 0.0123 * k,
            f"forecast.{name}.versus.crps_bps.close.h24.dm_p": 0.041 * k,
        }
    accounts = [f"{strategy}@{name}" for strategy in STRATEGIES for name in FORECASTERS]
    for k, account in enumerate([*accounts, "buy_and_hold"]):
        metrics |= {
            f"strategy.{account}.total_return": -0.631 + k / 10,
            f"strategy.{account}.sharpe": -8.02 + k,
            f"strategy.{account}.sharpe_low": -12.25 + 2 * k,
            f"strategy.{account}.sharpe_high": -4.65 + k,
            f"strategy.{account}.max_drawdown": 0.642,
            f"strategy.{account}.turnover": 2631.0,
            f"strategy.{account}.break_even_bps": 10.53,
            f"strategy.{account}.trades": 439.0,
        }
    manifest = {
        "candles": {"path": "bundled:BTCUSD_1h", "interval": "1h"},
        "origins": {
            "eligible": 2204,
            "scored": 2157,
            "skipped": {"gap in the window": 718, "candle missing at the origin": 6},
            "first": "2019-06-01T00:00Z",
            "last": "2019-09-30T23:00Z",
        },
        "forecasters": {name: {"kind": name, "labels": {"clean": 2204}} for name in FORECASTERS},
        "strategies": {account: {} for account in accounts},
        "audit": None,
        "seconds": {"forecast kronos": 101.26, "score": 12.7, "total": 151.4},
    }
    return Run(Path("runs/main/abc"), config, manifest | changes, metrics)


def text(run: Run, width: int = 120, *, explain: bool = False) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary(run, explain=explain, experiment="main.yaml"))
    return console.export_text()


def row(of: str, name: str) -> list[str]:
    return next(line for line in of.splitlines() if line.strip().startswith(f"{name} ")).split()


def test_forecast_errors_stand_beside_the_random_walk() -> None:
    shown = text(make_run())
    assert row(shown, "random_walk") == [
        "random_walk",
        "31.5",
        "181.5",
        "+0.0%",
        "251.5",
        "51.5",
        "88.5",
        "clean",
    ]
    assert row(shown, "kronos") == ["kronos", "33.5", "183.5", "-2.5%", "253.5", "53.5", "90.5", "clean"]


def test_results_stand_beside_buy_and_hold_on_the_forecaster_that_matters() -> None:
    shown = text(make_run())
    assert "Net results on 'kronos', fees 10 bps and slippage 2 bps a side" in shown
    assert row(shown, "threshold") == [
        "threshold",
        "-43.1%",
        "-6.02",
        "-8.2..-2.7",
        "64.2%",
        "2,631",
        "10.5",
        "439",
    ]
    assert row(shown, "buy_and_hold")[1:3] == ["-3.1%", "-2.02"]
    matrix = shown[shown.index("Net return by forecaster") :]
    assert row(matrix, "volatility_target") == ["volatility_target", "-33.1%", "-23.1%", "-13.1%"]


def test_luck_is_counted_over_all_accounts() -> None:
    run = make_run()
    assert "0 of 6 accounts have a Sharpe interval above zero; 0.2 expected by chance." in text(run)
    more = [f"more{k}" for k in range(33)]
    run.manifest["strategies"] |= {name: {} for name in more}
    run.metrics.update({f"strategy.{name}.sharpe_low": 1.0 for name in more})
    # A nominal 95 % interval misses in 7 %, half of that above.
    assert "33 of 39 accounts have a Sharpe interval above zero; 1.4 expected by chance." in text(run)


def test_forecasters_indistinguishable_from_the_best_are_named() -> None:
    run = make_run()
    assert "model confidence set" not in text(run)
    names = "confidence_set.crps_bps.close.h24"
    run.metrics.update({f"{names}.random_walk": 1.0, f"{names}.ewma_volatility": 0.101, f"{names}.kronos": 0.099})
    said = "May be the best at step 24 (90% model confidence set): "
    assert f"{said}random_walk, ewma_volatility." in " ".join(text(run).split())
    run.metrics[f"{names}.kronos"] = 0.2
    assert f"{said}all forecasters." in " ".join(text(run).split())


def test_tests_over_all_configurations_are_shown() -> None:
    run = make_run()
    assert "SPA" not in text(run)
    run.metrics.update(
        {
            "selection.configurations": 7.0,
            "selection.flat.p_value": 0.9,
            "selection.buy_and_hold.p_value": 0.8,
        }
    )
    said = "Best of all 7 configurations: SPA p 0.900 against a flat account, 0.800 against buy and hold"
    assert said in text(run)
    run.metrics["selection.overfitting.probability"] = 0.75
    run.metrics["selection.overfitting.loss_probability"] = 0.9
    probabilities = "probability of backtest overfitting (PBO) 0.75, that the chosen one loses 0.90."
    assert f"{said}; {probabilities}" in " ".join(text(run).split())


def test_an_edge_that_would_take_longer_to_show_says_how_long() -> None:
    run = make_run()
    best = {"deflated_sharpe": 0.4, "trials": 7.0, "more_candles_needed": 12_345.0}
    run.metrics.update({f"strategy.volatility_target@kronos.{key}": value for key, value in best.items()})
    shown = " ".join(text(run).split())
    assert "Deflated Sharpe of the best, volatility_target@kronos: 0.40 (7 trials)." in shown
    run.metrics["strategy.volatility_target@kronos.sharpe_hurdle"] = 5.43
    hurdle = "0.40 (7 trials); the best of 7 lucky ones would show +5.4, volatility_target@kronos shows -3.0."
    assert hurdle in " ".join(text(run).split())
    assert "If its mean return is real, it is significant at 5 % after 12,345 more candles." in shown


def test_the_verdict_of_the_audit_is_shown() -> None:
    assert "Look-ahead: not audited; run 'btcbt audit'." in text(make_run())
    verdict = {"verdict": "clean", "findings": 0, "origins": 40, "finished": "2026-01-02T03:04:05+00:00"}
    assert "Look-ahead: none found by the audit (40 origins, 2026-01-02)" in text(make_run(audit=verdict))
    found = text(make_run(audit={**verdict, "verdict": "looks ahead", "findings": 3}))
    assert "Look-ahead: 3 findings by the audit, verdict 'looks ahead' (40 origins, 2026-01-02)" in found
    undeclared = text(make_run(audit={**verdict, "verdict": "undeclared"}))
    assert "Look-ahead: no findings by the audit, verdict 'undeclared' (40 origins, 2026-01-02)" in undeclared
    stale = text(make_run(audit={**verdict, "stale": "mine.py has changed"}))
    assert (
        "Look-ahead: not audited as it ran (40 origins, 2026-01-02: mine.py has changed); run 'btcbt audit'." in stale
    )


def test_a_forecast_with_an_anchored_context_is_named_so() -> None:
    run = make_run()
    assert "anchored" not in text(run)
    anchored = {**run.config.forecasters, "kronos": AnchoredKronosConfig(kind="kronos_anchored", block=12)}
    run = replace(run, config=run.config.model_copy(update={"forecasters": anchored}))
    assert "kronos: anchored context, one scaling for blocks of 12 origins; not the per-origin forecast" in text(run)


def test_skipped_origins_and_the_time_are_told() -> None:
    shown = text(make_run())
    assert "2,204 origins forecast, 2,157 with a known outcome" in shown
    assert "724 skipped (718 gap in the window, 6 candle missing at the origin)" in shown
    assert "151 s (forecast kronos 101.3 s, score 12.7 s)" in shown
    assert "runs/main/abc" in shown


def test_out_of_sample_is_said_of_clean_origins_alone() -> None:
    assert "Every forecast is out-of-sample" in text(make_run())
    labels = {name: {"kind": name, "labels": {"clean": 2204}} for name in FORECASTERS}
    labels["kronos"] = {"kind": "kronos", "labels": {"clean": 1000, "seen": 1204}}
    shown = text(make_run(forecasters=labels))
    assert "out-of-sample" not in shown
    assert "kronos: 1,204 seen origins, which are evidence on known data only" in shown
    assert "1,000 clean, 1,204 seen" in shown


def test_numbers_that_do_not_exist_are_dashes() -> None:
    run = make_run()
    run.metrics["strategy.threshold@kronos.sharpe"] = float("nan")  # type: ignore[index]
    run.metrics["strategy.threshold@kronos.sharpe_low"] = float("nan")  # type: ignore[index]
    assert row(text(run), "threshold")[1:4] == ["-43.1%", "–", "–"]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_terminal_cuts_a_number(width: int) -> None:
    assert "…" not in text(make_run(), width)


def compared(**of_kronos: dict[str, float]) -> Run:
    """A run with the table beside the opponent, in which places of kronos have other numbers than no difference."""
    run = make_run(opponent="ewma_volatility")
    for name in ("random_walk", "kronos"):
        for at in ("crps_bps.close.h1", "crps_bps.close.h6", "crps_bps.close.h24", "energy_bps"):
            nothing = {
                "difference_pct": 0.4,
                "low_pct": -3.5,
                "high_pct": 4.3,
                "detectable_pct": 5.1,
                "adjusted_p": 0.9,
            }
            changed = of_kronos.get(at.rpartition(".")[2], {}) if name == "kronos" else {}
            numbers = nothing | {"path_noise": 0.02} | changed
            run.metrics.update({f"forecast.{name}.opponent.{at}.{key}": value for key, value in numbers.items()})
        run.metrics.update(
            {f"forecast.{name}.opponent.{key}": n for key, n in (("comparisons", 8), ("romano_wolf", 1))}
        )
    return run


def test_without_an_edge_the_verdict_says_how_large_one_could_be_and_names_what_is_worse() -> None:
    worse = {"difference_pct": 18.5, "low_pct": 14.0, "high_pct": 23.0, "adjusted_p": 0.0002}
    shown = " ".join(text(compared(h1=worse)).split())
    assert (
        "NO EDGE LARGER THAN 3.5 % AT 24 H: the CRPS of kronos is 0.4 % above that of ewma_volatility (95 % interval "
        "-3.5 .. +4.3 %, adjusted p 0.900); one of 5.1 % would have shown (80 % power). kronos is 18.5 % worse at 1 h "
        "(95 % interval +14.0 .. +23.0 %, adjusted p < 0.001). No other forecaster beats ewma_volatility."
    ) in shown
    assert "kronos +18.5 .000 5.1 +0.4 .900 5.1 +0.4 .900 5.1 +0.4 .900" in shown
    assert "adjusted for 8 comparisons" not in shown
    explained = " ".join(text(compared(h1=worse), explain=True).split())
    assert "adjusted for 8 comparisons (Romano-Wolf)" in explained


def test_an_edge_is_called_one_only_after_adjusting() -> None:
    better = {"difference_pct": -4.0, "low_pct": -6.0, "high_pct": -2.0, "adjusted_p": 0.01}
    assert "AN EDGE AT 24 H: the CRPS of kronos is 4.0 % below" in " ".join(text(compared(h24=better)).split())
    unsure = better | {"adjusted_p": 0.06}
    assert "NO EDGE LARGER THAN 6.0 % AT 24 H: the CRPS of kronos" in " ".join(text(compared(h24=unsure)).split())


def test_much_path_noise_is_warned_of() -> None:
    assert "Path noise" not in text(compared(h6={"path_noise": 0.09}))
    shown = " ".join(text(compared(h6={"path_noise": 0.34}, energy_bps={"path_noise": 0.2})).split())
    assert (
        "Path noise is more than 10% of a difference's variance in 2 comparisons, most (34%) of kronos at 6 h" in shown
    )


def test_forecasters_scored_as_ensembles_are_named() -> None:
    run = make_run()
    assert "plain CRPS" not in text(run)
    run.manifest["forecasters"]["kronos"]["paths_are"] = "dependent"
    assert "Scored by the plain CRPS, as paths that depend on each other: kronos." in " ".join(text(run).split())


def test_the_table_beside_the_opponent_fits_eighty_columns() -> None:
    shown = text(compared(h1={"difference_pct": -18.5, "detectable_pct": 11.6}), 80)
    assert "…" not in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    line = next(line for line in shown.splitlines() if line.startswith("kronos") and "-18.5" in line)
    assert " ".join(line.split()) == "kronos -18.5 .900 12 +0.4 .900 5.1 +0.4 .900 5.1 +0.4 .900"


def test_a_forecaster_that_is_worse_is_named_even_if_the_adjusted_test_is_unsure() -> None:
    worse = {"difference_pct": 19.3, "low_pct": 8.0, "high_pct": 30.6, "adjusted_p": 0.118}
    shown = " ".join(text(compared(h1=worse)).split())
    assert "kronos is 19.3 % worse at 1 h (95 % interval +8.0 .. +30.6 %, adjusted p 0.118)." in shown


def test_the_verdict_comes_first_and_the_next_steps_last() -> None:
    lines = text(compared()).splitlines()
    assert lines[0].startswith("NO EDGE LARGER THAN 3.5 % AT 24 H: the CRPS of kronos")
    assert [line.split()[-1] for line in lines[-3:-1]] == ["runs/main/abc/report.html", "main.yaml"]
    assert lines[-1].split()[-4:] == ["btcbt", "run", "main.yaml", "--explain"]
    assert "--explain" not in text(compared(), explain=True)
    assert text(make_run()).splitlines()[0] == "NO VERDICT: too few origins."
    unscored = make_run()
    unscored.manifest["origins"]["scored"] = 0
    assert text(unscored).splitlines()[0] == "NO VERDICT: no origin has a known outcome yet."


@pytest.mark.parametrize(("days", "shown"), [(14, False), (30, True)])
def test_figures_of_a_year_are_shown_from_thirty_days_on(days: int, shown: bool) -> None:
    run = make_run()
    run.metrics["strategy.buy_and_hold.candles"] = 24.0 * days  # type: ignore[index]
    said = text(run)
    assert row(said, "threshold")[2] == ("-6.02" if shown else "–")
    assert ("2,631" in said) == shown
    assert ("Annualised figures (Sharpe, turnover) are shown from 30 days on; these are 14." in said) != shown


def test_what_is_left_out_for_want_of_origins_says_why() -> None:
    run = make_run()
    run.manifest["origins"]["scored"] = 100
    assert "No model confidence set: 100 origins cover 4.2 times the horizon of 24 candles, and it takes 8." in text(
        run
    )
    run.metrics["selection.configurations"] = 3.0  # type: ignore[index]
    assert "No test over all configurations (SPA, PBO): no configuration traded." in text(run)
    run.metrics["selection.flat.p_value"] = float("nan")  # type: ignore[index]
    assert "No test over all configurations (SPA, PBO): too few candles." in text(run)
    run.metrics.update({"selection.flat.p_value": 0.5, "selection.buy_and_hold.p_value": 0.5})  # type: ignore[attr-defined]
    assert "(PBO) takes two configurations that trade differently." in " ".join(text(run).split())


def test_zero_trades_of_buy_and_hold_and_accounts_without_an_interval_are_explained() -> None:
    run = make_run()
    assert "open until the end" not in text(run)
    run.metrics["strategy.buy_and_hold.trades"] = 0.0  # type: ignore[index]
    assert "Trades are closed positions: the one of buy_and_hold is open until the end." in text(run)
    run.metrics["strategy.threshold@kronos.sharpe_low"] = float("nan")  # type: ignore[index]
    assert "0 of 6 accounts have a Sharpe interval above zero (1 have no interval, as they hardly trade)" in text(run)


def test_gains_are_green_and_losses_red_where_the_terminal_has_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    run = make_run()
    run.metrics["strategy.volatility_target@kronos.total_return"] = 0.25  # type: ignore[index]

    def printed() -> str:
        console = Console(width=100, force_terminal=True, color_system="standard", file=io.StringIO())
        console.print(summary(run))
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    assert "\x1b[32m+25.0%" in printed().replace(" ", "")
    assert "\x1b[31m-43.1%" in printed().replace(" ", "")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in printed()
