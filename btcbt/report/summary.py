"""Summary of a stored run for the terminal: forecast errors, accounts, and their significance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from btcbt.config import BUY_AND_HOLD, interval_ms
from btcbt.metrics.comparison import MIN_SUMS
from btcbt.metrics.sharpe import MISS_RATE
from btcbt.metrics.table import score
from btcbt.records import HOUR_MS
from btcbt.report.cells import NONE, number, plain_table, signed
from btcbt.report.figures import primary
from btcbt.report.refits import refit_table
from btcbt.report.registration import registration_parts
from btcbt.report.sensitivity import sensitivity_lines
from btcbt.report.versus import estimators, versus_parts
from btcbt.storage.runs import Run

LEAST_DAYS = 30
"""Figures of fewer days are not shown as if they were those of a year."""
CONFIDENCE = 0.9
"""Confidence of the model confidence set."""


def summary(run: Run, *, explain: bool = False, experiment: str = "EXPERIMENT.yaml") -> RenderableType:
    """Summary of a stored run, for a rich console: the verdict first, what to do next last.

    Parameters
    ----------
    run : Run
    explain : bool
        Whether every table is followed by what its columns mean.
    experiment : str
        File of the experiment, for the commands of the next steps.
    """
    forecasts = forecast_parts(run) or [Text("No verdict: no origin has a known outcome yet.", style="bold")]
    parts: list[RenderableType] = [_shout(forecasts[0]), "", _head(run), ""]
    for part in [*forecasts[1:], *_remarks(run), _labels(run), *registration_parts(run), *account_parts(run)]:
        if isinstance(part, Table):
            part.caption = part.caption if explain else None
            parts += ["", part, ""]
        else:
            parts += [part]
    parts += [_audit(run), "", _foot(run), _next_steps(run, experiment, explain)]
    return Group(*(part for part, after in zip(parts, [*parts[1:], None], strict=True) if part or part != after))


def _shout(verdict: Text | Table) -> Text:
    """The verdict with its first clause in capitals."""
    text = Text() if isinstance(verdict, Table) else verdict.copy()
    clause, colon, rest = text.plain.partition(":")
    return Text(clause.upper() + colon + rest, style=text.style)


def _next_steps(run: Run, experiment: str, explain: bool) -> Text:
    """The page to look at and the commands that tell more."""
    steps = [("see it", str(run.directory / "report.html"))]
    audit = run.manifest["audit"]
    if audit is None or audit.get("stale"):
        steps.append(("does anything look ahead?", f"btcbt audit {experiment}"))
    if not explain:
        steps.append(("what does a column mean?", f"btcbt run {experiment} --explain"))
    text = Text("Next", style="bold", overflow="fold")
    for why, what in steps:
        text.append(f"\n  {why:<26}", style="not bold")
        text.append(what, style="not bold cyan")
    return text


def forecast_parts(run: Run) -> list[Text | Table]:
    """What the summary says of forecasts, the verdict first; nothing where no origin is scored."""
    if not _scored(run):
        return []
    verdict, *versus = versus_parts(run)
    tables = [*versus, _forecast_table(run), *refit_table(run)]
    return [verdict, *tables, *_confidence_set(run), *estimators(run)]


def account_parts(run: Run) -> list[Text | Table]:
    """What the summary says of accounts; nothing where no strategy trades."""
    if not run.manifest["strategies"]:
        return []
    parts: list[Text | Table] = [_account_table(run)]
    if len(run.config.forecasters) > 1:
        parts += [_return_matrix(run)]
    parts += [*_open_positions(run), *_decided(run), _luck(run), *_selection(run), *sensitivity_lines(run)]
    return [*parts, _placebos(run)] if run.config.placebos else parts


def standing_parts(run: Run) -> list[Text]:
    """What the summary says of the run as a whole: origins, contamination labels, registration and audit."""
    return [_head(run), *_remarks(run), _labels(run), *registration_parts(run), _audit(run)]


def _scored(run: Run) -> int:
    return int(run.manifest["origins"]["scored"])


def _head(run: Run) -> Text:
    origins, candles, windows = run.manifest["origins"], run.manifest["candles"], run.config.windows
    skipped = origins["skipped"]
    text = Text()
    text.append(f"{run.config.name}", style="bold")
    text.append(f"  {candles['path']} {candles['interval']}, {origins['first']} .. {origins['last']}\n")
    text.append(f"{origins['eligible']:,} origins forecast, {origins['scored']:,} with a known outcome; ")
    if skipped:
        why = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        text.append(f"{sum(skipped.values()):,} skipped ({why})\n")
    else:
        text.append("all of the range\n")
    if candles.get("filled"):
        count = run.config.candles.fill_gaps
        text.append(f"{candles['filled']:,} missing candles filled (gaps of at most {count}); none of them is scored\n")
    text.append(
        f"context {windows.context}, horizon {windows.horizon} candles; decided at the close, filled at the next open"
    )
    return text


def _forecast_table(run: Run) -> Table:
    horizon = run.config.windows.horizon
    last = f"h{horizon}"
    crps, mae, sign, inside = (score("forecast", name) for name in ("crps_bps", "mae_bps", "direction", "coverage90"))
    table = plain_table(
        f"Forecast errors of the close, 1 and {horizon} candles ahead, in {crps.unit}: {crps.direction}"
    )
    table.add_column("forecaster", no_wrap=True)
    headings = (f"{crps.heading} 1", f"{crps.heading} {horizon}", "vs RW")
    for column in (*headings, f"{mae.heading} {horizon}", sign.heading, inside.heading):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("data")
    for name, entry in run.manifest["forecasters"].items():
        get = _getter(run.metrics, f"forecast.{name}")
        reference = f"versus.crps_bps.close.{last}"
        table.add_row(
            name,
            number(get("crps_bps.close.h1"), ".1f"),
            number(get(f"crps_bps.close.{last}"), ".1f"),
            number(0.0 - 100 * get(f"{reference}.skill"), "+.1f", "%"),
            number(get(f"mae_bps.close.{last}"), ".1f"),
            _rate(get, "direction", last, 100.0),
            _rate(get, "coverage90", last, 1.0),
            _label(entry["labels"]),
            style="bold" if name == primary(run) else "",
        )
    table.caption = (
        f"vs RW: {crps.heading} at step {horizon} relative to the random walk's; {sign.heading}: share of right signs, "
        f"%; {inside.heading}: share of outcomes inside the 90 % interval ({inside.direction}), both with 95 % "
        "intervals that allow for overlap; data: contamination label of the origins"
    )
    return table


def _confidence_set(run: Run) -> list[Text]:
    """The forecasters that are statistically indistinguishable from the best."""
    prefix = f"confidence_set.crps_bps.close.h{run.config.windows.horizon}."
    p_values = {name: run.metrics.get(prefix + name, math.nan) for name in run.manifest["forecasters"]}
    inside = [name for name, p in p_values.items() if p > 1 - CONFIDENCE]
    horizon, scored = run.config.windows.horizon, _scored(run)
    if not inside and len(p_values) > 1 and scored < MIN_SUMS * horizon:
        return [
            Text(
                f"No model confidence set: {scored:,} origins cover {scored / horizon:.1f} times the horizon of "
                f"{horizon} candles, and it takes {MIN_SUMS}."
            )
        ]
    if not inside:
        return []
    which = ", ".join(inside) if len(inside) < len(p_values) else "all forecasters"
    return [Text(f"May be the best at step {horizon} ({CONFIDENCE:.0%} model confidence set): {which}.")]


def _remarks(run: Run) -> list[Text]:
    """Remarks on single forecasters."""
    return [Text(f"{name}: {one.remark}") for name, one in run.config.forecasters.items() if one.remark]


def _label(labels: Mapping[str, int]) -> str:
    if len(labels) == 1:
        return next(iter(labels))
    return ", ".join(f"{count:,} {label}" for label, count in sorted(labels.items()))


def _labels(run: Run) -> Text:
    """Contamination labels; only clean origins are called out-of-sample."""
    text = Text()
    for name, entry in run.manifest["forecasters"].items():
        unclean = {label: count for label, count in entry["labels"].items() if label != "clean"}
        if not unclean:
            continue
        what = ", ".join(f"{count:,} {label}" for label, count in sorted(unclean.items()))
        text.append(f"{name}: {what} origins, which are evidence on known data only\n", style="yellow")
    if not text.plain:
        text.append("Every forecast is out-of-sample: all fitted parts used only candles before its origin.")
    text.rstrip()
    return text


def _account_table(run: Run) -> Table:
    main = primary(run)
    fees, slippage = run.config.portfolio.fee_bps, run.config.portfolio.slippage_bps
    table = plain_table(f"Net results on '{main}', fees {fees:g} bps and slippage {slippage:g} bps a side")
    table.add_column("strategy", no_wrap=True)
    of = {name: score("strategy", name) for name in ("total_return", "sharpe", "max_drawdown", "turnover", "trades")}
    even = score("strategy", "break_even_bps")
    for column in (of["total_return"].heading, of["sharpe"].heading, "95% interval", of["max_drawdown"].heading):
        table.add_column(column, justify="right", no_wrap=True)
    for column in (of["turnover"].heading.replace("/", "\n/"), even.heading.replace(" ", "\n"), of["trades"].heading):
        table.add_column(column, justify="right", no_wrap=True)
    yearly, table.padding = not _too_short(run), (0, 0)  # one blank between columns, to fit 80
    table.caption = (
        f"Sharpe: annualised, with its bootstrap interval; {of['max_drawdown'].heading}: {of['max_drawdown'].formula}; "
        f"{of['turnover'].heading}: {of['turnover'].formula}; {even.heading}: {even.formula}, against "
        f"{fees + slippage:g} paid"
    )
    for account in _accounts(run):
        name, _, forecaster = account.partition("@")
        if forecaster not in ("", main):
            continue
        get = _getter(run.metrics, f"strategy.{account}")
        low, high = (number(get(key), "+.1f") for key in ("sharpe_low", "sharpe_high"))
        table.add_row(
            name,
            signed(number(100 * get("total_return"), "+.1f", "%"), get("total_return")),
            number(get("sharpe"), "+.2f") if yearly else NONE,
            signed(f"{low}..{high}", _significant(get)) if yearly and NONE not in (low, high) else NONE,
            number(100 * get("max_drawdown"), ".1f", "%"),
            number(get("turnover"), ",.0f") if yearly else NONE,
            number(get("break_even_bps"), ".1f"),
            number(get("trades"), ",.0f"),
            style="bold" if name == BUY_AND_HOLD else "",
        )
    return table


def _return_matrix(run: Run) -> Table:
    columns = list(run.config.forecasters)
    table = plain_table("Net return by forecaster")
    table.add_column("strategy", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    rows = dict.fromkeys(account.partition("@")[0] for account in _accounts(run) if "@" in account)
    for name in rows:
        values = [run.metrics.get(f"strategy.{name}@{column}.total_return", math.nan) for column in columns]
        table.add_row(name, *(signed(number(100 * value, "+.1f", "%"), value) for value in values))
    return table


def _significant(get: Any) -> float:
    """1 or -1 where the interval of a Sharpe ratio lies above or below zero, 0 where it does not."""
    return float(get("sharpe_low") > 0.0) - float(get("sharpe_high") < 0.0)


def _days(run: Run) -> float:
    """Days in which accounts traded; NaN in runs of older versions."""
    candles = run.metrics.get(f"strategy.{BUY_AND_HOLD}.candles", math.nan)
    return candles * interval_ms(run.config.candles.interval) / (24 * HOUR_MS)


def _too_short(run: Run) -> bool:
    return _days(run) < LEAST_DAYS


def _open_positions(run: Run) -> list[Text]:
    """What a reader may wonder about in the table of accounts: figures left out, and positions without a trade."""
    lines = []
    if _too_short(run):
        days = f"are shown from {LEAST_DAYS} days on; these are {_days(run):.0f}."
        lines.append(Text(f"Annualised figures (Sharpe, turnover) {days}"))
    if run.metrics.get(f"strategy.{BUY_AND_HOLD}.trades") == 0.0:
        lines.append(Text(f"Trades are closed positions: the one of {BUY_AND_HOLD} is open until the end."))
    return lines


def _decided(run: Run) -> list[Text]:
    """For how long accounts stood without a decision, and what they made in the hours with one."""
    main, hours = primary(run), interval_ms(run.config.candles.interval) / HOUR_MS
    made: dict[float, list[str]] = {}
    for account in _accounts(run):
        name, _, forecaster = account.partition("@")
        get = _getter(run.metrics, f"strategy.{account}")
        if forecaster in ("", main) and math.isfinite(get("undecided")):
            made.setdefault(get("undecided"), []).append(f"{name} {100 * get('decided_return'):+.1f}%")
    total = hours * run.metrics.get(f"strategy.{BUY_AND_HOLD}.candles", math.nan)
    if not made:
        return []
    if not any(made):
        return [Text(f"Every account had a decision in each of its {total:,.0f} hours.")]
    parts = [f"{hours * count:,.0f} ({', '.join(names)})" for count, names in sorted(made.items())]
    return [Text(f"Hours of {total:,.0f} without a decision (and the return in those with one): {', '.join(parts)}.")]


def _luck(run: Run) -> Text:
    """Number of significant Sharpe ratios, and the deflated Sharpe ratio of the best account."""
    names = [account for account in _accounts(run) if account != BUY_AND_HOLD]
    lows = [run.metrics.get(f"strategy.{account}.sharpe_low", math.nan) for account in names]
    tried = sum(math.isfinite(low) for low in lows)
    good = sum(low > 0 for low in lows)
    text = Text(f"{good} of {len(names)} accounts have a Sharpe interval above zero")
    if tried < len(names):
        text.append(f" ({len(names) - tried} have no interval, as they hardly trade)")
    text.append(f"; {MISS_RATE / 2 * tried:.1f} expected by chance.")
    sharpes = {account: run.metrics.get(f"strategy.{account}.sharpe", math.nan) for account in names}
    best = max((account for account in sharpes if math.isfinite(sharpes[account])), key=sharpes.__getitem__, default="")
    get = _getter(run.metrics, f"strategy.{best}")
    if math.isfinite(get("deflated_sharpe")):
        text.append(f" Deflated Sharpe of the best, {best}: {get('deflated_sharpe'):.2f} ({get('trials'):,.0f} trials)")
        if get("sharpe_hurdle") > 0 and not _too_short(run):
            text.append(
                f"; the best of {get('trials'):,.0f} lucky ones would show {get('sharpe_hurdle'):+.1f}, "
                f"{best} shows {get('sharpe'):+.1f}"
            )
        text.append(".")
    if get("more_candles_needed") > 0:
        text.append(
            f" If its mean return is real, it is significant at 5 % after {get('more_candles_needed'):,.0f} more "
            "candles."
        )
    return text


def _selection(run: Run) -> list[Text]:
    """SPA over every configuration ever tried, and the probability of backtest overfitting."""
    get = _getter(run.metrics, "selection")
    if not math.isfinite(get("flat.p_value")):
        known = math.isfinite(get("configurations"))
        why = "too few candles" if "selection.flat.p_value" in run.metrics else "no configuration traded"
        return [Text(f"No test over all configurations (SPA, PBO): {why}.")] if known else []
    text = Text(
        f"Best of all {get('configurations'):,.0f} configurations: SPA p {get('flat.p_value'):.3f} against a flat "
        f"account, {get('buy_and_hold.p_value'):.3f} against buy and hold"
    )
    if math.isfinite(get("overfitting.probability")):
        text.append(
            f"; probability of backtest overfitting (PBO) {get('overfitting.probability'):.2f}, that the chosen one "
            f"loses {get('overfitting.loss_probability'):.2f}"
        )
    elif "selection.overfitting.probability" in run.metrics:
        text.append("; too few candles for the probability of backtest overfitting (PBO)")
    else:
        text.append("; the probability of backtest overfitting (PBO) takes two configurations that trade differently")
    return [text.append(".")]


def _audit(run: Run) -> Text:
    """The verdict of the newest audit of this experiment, unless it is stale."""
    verdict = run.manifest["audit"]
    if verdict is None:
        return Text("Look-ahead: not audited; run 'btcbt audit'.", style="dim")
    when = f"{verdict['origins']:,} origins, {verdict['finished'][:10]}"
    if verdict.get("stale"):
        return Text(f"Look-ahead: not audited as it ran ({when}: {verdict['stale']}); run 'btcbt audit'.", style="dim")
    if verdict["verdict"] == "clean":
        return Text(f"Look-ahead: none found by the audit ({when})")
    count = verdict["findings"]
    findings = f"{count:,} finding" + "s" * (count != 1) if count else "no findings"
    return Text(f"Look-ahead: {findings} by the audit, verdict '{verdict['verdict']}' ({when})", style="bold red")


def _placebos(run: Run) -> Text:
    """Placebo p-values of the strategies on the main forecaster."""
    ranks = []
    for account in _accounts(run):
        get = _getter(run.metrics, f"placebo.{account}")
        if account.endswith(f"@{primary(run)}") and math.isfinite(get("p_value")):
            ranks.append(f"{account.partition('@')[0]} {get('p_value'):.3f}")
    if not ranks:
        return Text("No placebo runs.")
    return Text(
        f"Placebo p ({run.config.placebos:,} runs on forecasts without information), on '{primary(run)}': "
        + ", ".join(ranks)
        + "."
    )


def _foot(run: Run) -> Text:
    seconds = run.manifest["seconds"]
    stages = sorted(((value, key) for key, value in seconds.items() if key != "total"), reverse=True)[:4]
    return Text(f"{seconds['total']:.0f} s (" + ", ".join(f"{key} {value:.1f} s" for value, key in stages) + ")")


def _accounts(run: Run) -> list[str]:
    """Every account of a run, buy and hold last."""
    names = [name for name in run.manifest["strategies"] if name != BUY_AND_HOLD]
    return [*names, BUY_AND_HOLD]


def _getter(metrics: Mapping[str, float], prefix: str) -> Any:
    return lambda key: metrics.get(f"{prefix}.{key}", math.nan)


def _rate(get: Any, name: str, step: str, unit: float) -> str:
    """A share with its interval, percent."""
    low, high = (number(unit * get(f"{name}_{end}.{step}"), ".0f") for end in ("low", "high"))
    share = unit * get(f"{name}.close.{step}")
    return number(share, ".1f") if NONE in (low, high) else f"{share:.0f} ({low}-{high})"
