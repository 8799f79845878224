"""Forecasters beside the opponent in the terminal: a verdict in a sentence, and the table that it is read from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

from rich.table import Table
from rich.text import Text

from btcbt.config import time_text
from btcbt.metrics.score import comparison_steps
from btcbt.metrics.versus import MUCH_NOISE, OPPONENT
from btcbt.metrics.when import MONTH
from btcbt.report.cells import number, p_value, plain_table
from btcbt.report.figures import primary
from btcbt.storage.runs import Run

SIZE = 0.05
"""Of the tests, all comparisons of the table together."""
MOST_MONTHS = 6
"""Months that are listed; of more, the best and the worst are named."""
PATH = "energy_bps"
"""Place of the whole path, whose loss is the energy score."""


class Difference(NamedTuple):
    """What is known of one forecaster at one place, or of one step over symbols, in percent of the opponent's loss."""

    difference: float
    low: float
    high: float
    detectable: float
    adjusted_p: float
    path_noise: float

    @classmethod
    def of(cls, numbers: Mapping[str, float], prefix: str = "") -> Self:
        """From numbers under keys of a metric's statistics; NaN where one is not known."""
        names = ("difference_pct", "low_pct", "high_pct", "detectable_pct", "adjusted_p", "path_noise")
        return cls(*(numbers.get(prefix + name, math.nan) for name in names))

    @property
    def better(self) -> bool:
        """Whether it is better than the opponent, at `SIZE`."""
        return self.adjusted_p <= SIZE and self.difference < 0.0

    @property
    def worse(self) -> bool:
        """Whether its own 95 % interval lies above zero: an edge has to survive the adjustment, a warning has not."""
        return self.low > 0.0


def opponent_of(run: Run) -> str:
    """The forecaster that the others are compared with."""
    named: str | None = run.manifest.get("opponent")
    return named or next(iter(run.manifest["forecasters"]))


def versus_parts(run: Run) -> list[Text | Table]:
    """Verdict, table and what to know of it; only that nothing is compared where that is so."""
    table = {name: _places(run, name) for name in run.manifest["forecasters"] if name != opponent_of(run)}
    if not any(math.isfinite(one.difference) for places in table.values() for one in places.values()):
        why = "too few origins" if table else f"nothing is compared with {opponent_of(run)}; add a forecaster"
        return [Text(f"No verdict: {why}.", style="bold")]
    return [_verdict(run, table), _table(run, table), *_timing(run, table), *_noise(run, table)]


def estimators(run: Run) -> list[Text]:
    """Which forecasters are scored as ensembles, because their paths depend on each other."""
    plain = [name for name, entry in run.manifest["forecasters"].items() if entry.get("paths_are") == "dependent"]
    if not plain:
        return []
    which = ", ".join(plain)
    return [Text(f"Scored by the plain CRPS, as paths that depend on each other: {which}. All others: the fair CRPS.")]


def _places(run: Run, name: str) -> dict[str, Difference]:
    """By place in the keys: ``crps_bps.close.h1``, ..., ``energy_bps``."""
    steps = comparison_steps(run.config.windows.horizon)
    return {at: Difference.of(run.metrics, f"forecast.{name}.{OPPONENT}.{at}.") for at in [*map(_at, steps), PATH]}


def _at(step: int) -> str:
    return f"crps_bps.close.h{step}"


def _verdict(run: Run, table: Mapping[str, Mapping[str, Difference]]) -> Text:
    """Say what the table says: of the forecaster that the run is about, then of all others."""
    opponent, main, horizon = opponent_of(run), primary(run), run.config.windows.horizon
    sentences = []
    if main in table:
        places = table[main]
        sentences.append(_of_last(main, opponent, places[_at(horizon)], _when(run, _at(horizon))))
        known = [(at, one) for at, one in places.items() if at != _at(horizon) and (one.better or one.worse)]
        for at, one in known:
            word = "better" if one.better else "worse"
            sentences.append(f"{main} is {abs(one.difference):.1f} % {word} {_when(run, at)} ({_interval(one)}).")
    else:
        lows = [places[_at(horizon)].low for places in table.values() if math.isfinite(places[_at(horizon)].low)]
        if lows and not any(places[_at(horizon)].better for places in table.values()):
            edge = f"{max(-min(lows), 0):.1f} % {_when(run, _at(horizon))}"
            sentences.append(f"No edge larger than {edge}: no forecaster is better than {opponent} by more.")
    others = [
        f"{name} {_when(run, at)}"
        for name, places in table.items()
        if name != main
        for at, one in places.items()
        if one.better
    ]
    if others:
        sentences.append(f"Better than {opponent}: {', '.join(others)}.")
    elif main in table and len(table) > 1:
        sentences.append(f"No other forecaster beats {opponent}.")
    elif not sentences:
        sentences.append(f"No edge {_when(run, _at(horizon))}: no forecaster beats {opponent}.")
    return Text(" ".join(sentences), style="bold")


def _of_last(name: str, opponent: str, one: Difference, when: str) -> str:
    """The sentence on the last step."""
    if not math.isfinite(one.low):
        return f"No verdict {when}: too few origins to tell {name} from {opponent}."
    side = "below" if one.difference < 0.0 else "above"
    by = f"{abs(one.difference):.1f} % {side} that of {opponent} ({_interval(one)})"
    if one.better:
        return f"An edge {when}: the CRPS of {name} is {by}."
    edge = f"No edge larger than {-one.low:.1f} % {when}" if one.low < 0 else f"No edge {when}"
    return f"{edge}: the CRPS of {name} is {by}; one of {one.detectable:.1f} % would have shown (80 % power)."


def _interval(one: Difference) -> str:
    p = "p < 0.001" if one.adjusted_p < 0.001 else f"p {one.adjusted_p:.3f}"
    return f"95 % interval {one.low:+.1f} .. {one.high:+.1f} %, adjusted {p}"


def _when(run: Run, at: str) -> str:
    if at == PATH:
        return "over the whole path"
    step = at.rpartition(".h")[2]
    return f"at {step} h" if run.config.candles.interval == "1h" else f"at step {step}"


def _table(run: Run, table: Mapping[str, Mapping[str, Difference]]) -> Table:
    steps = comparison_steps(run.config.windows.horizon)
    ahead = f"{', '.join(map(str, steps))} candles ahead and over the whole path"
    shown = plain_table(f"CRPS beside {opponent_of(run)}, {ahead}")
    shown.add_column("forecaster", no_wrap=True)
    for step in steps:
        for heading in (f"{step} %", "p", "min"):
            shown.add_column(heading, justify="right", no_wrap=True)
    for heading in ("path", "p"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, places in table.items():
        cells: list[str | Text] = []
        for at, one in places.items():
            cells += [coloured(one), p_value(one.adjusted_p)]
            if at != PATH:
                cells.append(number(one.detectable, ".1f" if one.detectable < 9.95 else ".0f"))
        shown.add_row(name, *cells, style="bold" if name == primary(run) else "")
    shown.caption = _caption(run, table)
    return shown


def _caption(run: Run, table: Mapping[str, Mapping[str, Difference]]) -> str:
    get = f"forecast.{next(iter(table))}.{OPPONENT}"
    count = run.metrics.get(f"{get}.comparisons", math.nan)
    method = "Romano-Wolf" if run.metrics.get(f"{get}.romano_wolf") else "Holm"
    return (
        f"%: loss relative to the opponent's, negative is better; p: two-sided, adjusted for {number(count, ',.0f')} "
        f"comparisons ({method}); min: smallest difference, in %, that these origins would have shown (80 % power at "
        f"{SIZE:.0%}); path: energy score of all closes"
    )


def coloured(one: Difference) -> Text:
    """The difference in percent: green where it is better, red where it is worse."""
    style = "green" if one.better else "red" if one.worse else ""
    return Text(number(one.difference, "+.1f"), style=style)


def _timing(run: Run, table: Mapping[str, Mapping[str, Difference]]) -> Iterator[Text]:
    """When the run's main forecaster is better at the last step: by month, conditionally, and in its extreme window."""
    name, opponent, horizon = primary(run), opponent_of(run), run.config.windows.horizon
    prefix = f"forecast.{name}.{OPPONENT}.{_at(horizon)}"
    if name not in table or f"{prefix}.conditional_p" not in run.metrics:
        return
    months = list(_months(run, name, opponent, horizon))
    if len(months) > MOST_MONTHS:
        low, high = (end(months, key=lambda month: month[1]) for end in (min, max))
        shown = f"from {low[1]:+.1f} % ({low[0]}) to {high[1]:+.1f} % ({high[0]}) in {len(months)} months"
    else:
        shown = ", ".join(f"{month} {value:+.1f} %" for month, value in months)
    text = f"{name} beside {opponent} {_when(run, _at(horizon))}"
    yield Text(f"By month, {text}: {shown}." if months else "No month has enough origins for itself.")
    get = {key: run.metrics[f"{prefix}.{key}"] for key in ("conditional_p", "fluctuation_p", "fluctuation_start")}
    if math.isfinite(get["fluctuation_p"]):
        since = time_text(int(get["fluctuation_start"]))[:10]
        yield Text(
            f"Given the newest known difference and volatility: p {p_value(get['conditional_p'])}; largest in a window "
            f"of 30 % of the origins, from {since}: p {p_value(get['fluctuation_p'])} (neither is adjusted)."
        )


def _months(run: Run, name: str, opponent: str, step: int) -> Iterator[tuple[str, float]]:
    """Months, and the difference in percent of the opponent's loss in each."""
    scores = run.scores()
    own = scores[(scores["forecaster"] == name) & (scores["metric"] == "crps_bps.difference_pct")]
    own = own[(own["step"] == step) & own["group"].str.startswith(f"{OPPONENT}={opponent}{MONTH}")]
    for group, value in sorted(zip(own["group"], own["value"], strict=True)):
        if math.isfinite(value):
            yield group.partition(MONTH)[2], float(value)


def _noise(run: Run, table: Mapping[str, Mapping[str, Difference]]) -> Iterator[Text]:
    """Warn where few paths blur a comparison."""
    noisy = {
        (name, at): one.path_noise
        for name, places in table.items()
        for at, one in places.items()
        if one.path_noise > MUCH_NOISE
    }
    if noisy:
        name, at = max(noisy, key=noisy.__getitem__)
        yield Text(
            f"Path noise is more than {MUCH_NOISE:.0%} of a difference's variance in {len(noisy)} comparisons, most "
            f"({min(noisy[name, at], 1.0):.0%}) of {name} {_when(run, at)}: raise n_paths.",
            style="yellow",
        )
