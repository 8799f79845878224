"""The score table: the definition of every number that a run writes.

Scoring, ``btcbt check``, terminal tables and the documentation read it. Its entries are defined where the numbers are
computed, so that a new score touches one file (and its test):

- a score of forecasts: an entry in `btcbt.metrics.forecast_scores`, formula included;
- a score of accounts: `btcbt.metrics.returns`; a statistic of pairs of forecasters: `btcbt.metrics.pairs`;
- a statistic of forecasters beside the opponent: `btcbt.metrics.versus`; of a panel of symbols:
  `btcbt.metrics.pooled_versus` and `btcbt.metrics.cross_section_scores`;
- evidence on registered hypotheses: `btcbt.metrics.hypotheses`;
- a test over all configurations, or a score of placebo runs: here.

Dotted keys (``metrics.json``, baselines)::

    forecast.<forecaster>.<score>.<channel>.<step>       step h1 .. hH, or all (pooled)
    forecast.<forecaster>.<score>.<step>                 scores of the close's path
    forecast.<forecaster>.<score>                        scores of whole forecasts
    forecast.<forecaster>.<group>.<score>...             group by_month.2019-06, by_volatility.high, by_label.clean
    forecast.<forecaster>.against.<other>.<loss>.<channel>.<step>.<statistic>
    forecast.<forecaster>.versus. ...                    the same against the random walk, at more steps
    forecast.<forecaster>.opponent.<loss>.<channel>.<step>.<statistic>   against the opponent of the experiment
    forecast.<forecaster>.opponent.by_month.2019-06. ...    the same in one month
    forecast.<forecaster>.pooled.<loss>.<channel>.<step>.<statistic>     the same over all symbols of a panel
    forecast.<forecaster>.pooled.by_symbol.ETH. ...      on one of them
    forecast.<forecaster>.cross_section.<measure>.<step>.<statistic>     ic, rank_ic, spread_bps, hit_rate, ranked
    confidence_set.<loss>.<channel>.<step>.<forecaster>
    hypothesis.<hypothesis>.<score>
    strategy.<account>.<group>.<score>                   group by_month.2019-06, at_cost_bps.5, at_delay.1
    strategy.<account>.<score>, placebo.<account>.<score>, selection.<score>, origins.<score>

Headline numbers, those in ``metrics.json``, are the scores over all origins at the steps of `headline_steps`, of the
close or of every channel as the table says, and all scores of accounts except those of groups. ``scores.parquet`` holds
all scores.
"""

from __future__ import annotations

from collections.abc import Iterable

from btcbt.metrics.cross_section_scores import CROSS_SECTION, CROSS_SECTION_SCORES
from btcbt.metrics.forecast_scores import FORECAST_SCORES
from btcbt.metrics.hypotheses import HYPOTHESIS, HYPOTHESIS_SCORES
from btcbt.metrics.pairs import CONFIDENCE_SET, LOSSES, PAIR_SCORES
from btcbt.metrics.placebos import KINDS
from btcbt.metrics.pooled_versus import POOLED_SCORES, SYMBOL, SYMBOLS
from btcbt.metrics.returns import ACCOUNT_SCORES
from btcbt.metrics.score import ACCOUNT, ALL, POOLED, Family, Row, Score, comparison_steps
from btcbt.metrics.versus import OPPONENT, OPPONENT_SCORES
from btcbt.metrics.when import MONTH, WHEN_SCORES

SELECTION_SCORES: tuple[Score, ...] = (
    Score(name="configurations", family="selection", unit="count", formula="configurations tested together"),
    *(
        score
        for benchmark in ("flat", "buy_and_hold")
        for score in (
            Score(
                name=f"{benchmark}.p_value",
                family="selection",
                label="SPA p",
                unit="p-value",
                formula=f"no configuration has a higher mean return than {benchmark}, one-sided",
                source="Hansen (2005), JBES 23",
                relative=1e-6,
            ),
            Score(
                name=f"{benchmark}.superior",
                family="selection",
                unit="count",
                formula=f"configurations that beat {benchmark} at a familywise error of 5 %",
                source="Romano and Wolf (2005), Econometrica 73",
            ),
        )
    ),
    Score(
        name="overfitting.probability",
        family="selection",
        label="PBO",
        unit="probability",
        better="lower",
        formula="share of splits in which the best of one half is at or below the median in the other",
        source="Bailey, Borwein, Lopez de Prado and Zhu (2017), JCF 20",
    ),
    Score(
        name="overfitting.p_value",
        family="selection",
        unit="p-value",
        formula="probability of a PBO as small if all configurations were equally good",
        source="Monte Carlo, same correlations",
        relative=1e-6,
    ),
    Score(
        name="overfitting.loss_probability",
        family="selection",
        unit="probability",
        better="lower",
        formula="share of splits in which the best of one half loses money in the other",
        source="Bailey, Borwein, Lopez de Prado and Zhu (2017), JCF 20",
    ),
)
PLACEBO_SCORES: tuple[Score, ...] = (
    Score(
        name="p_value",
        family="placebo",
        unit="p-value",
        better="lower",
        formula="(1 + placebo runs with at least the net Sharpe ratio) / (1 + runs)",
        source="Phipson and Smyth (2010), SAGMB 9",
    ),
    Score(name="runs", family="placebo", unit="count", formula="placebo runs"),
    Score(name="mean", family="placebo", formula="mean net Sharpe ratio per candle of the placebo runs"),
    Score(name="q95", family="placebo", formula="its 95 % quantile"),
    Score(name="max", family="placebo", formula="its maximum"),
    *(
        Score(
            name=f"{kind}.p_value",
            family="placebo",
            unit="p-value",
            better="lower",
            formula=f"p_value among runs of the kind {kind}",
        )
        for kind in KINDS
    ),
)
ORIGIN_SCORES: tuple[Score, ...] = (
    Score(name="eligible", family="origins", unit="count", formula="origins that were forecast"),
    Score(name="scored", family="origins", unit="count", formula="origins with a known outcome"),
    Score(name="skipped", family="origins", unit="count", formula="origins without the candles that they need"),
)
TABLE: tuple[Score, ...] = (
    *ORIGIN_SCORES,
    *FORECAST_SCORES,
    *PAIR_SCORES,
    *OPPONENT_SCORES,
    *WHEN_SCORES,
    *POOLED_SCORES,
    *CROSS_SECTION_SCORES,
    *ACCOUNT_SCORES,
    *SELECTION_SCORES,
    *PLACEBO_SCORES,
    *HYPOTHESIS_SCORES,
)
_BY_NAME: dict[tuple[str, str], Score] = {(score.family, score.name): score for score in TABLE}
_GROUPS = {
    "month": "by_month",
    "regime": "by_volatility",
    "label": "by_label",
    "cost_bps": "at_cost_bps",
    "delay": "at_delay",
}
_AGAINST, _HYPOTHESIS = "against=", f"{HYPOTHESIS}="
_COMPARED = (_AGAINST, f"{OPPONENT}=", f"{SYMBOLS}=")


def score(family: Family, name: str) -> Score:
    """A row of the table.

    Raises
    ------
    KeyError
        If there is no such score.
    """
    return _BY_NAME[family, name]


def headline_steps(horizon: int) -> list[int]:
    """The steps whose scores are headline numbers: 1, 6, the last, and all pooled."""
    return [POOLED, *comparison_steps(horizon)]


def is_headline(row: Row, horizon: int) -> bool:
    """Whether a row of a forecaster or an account is a headline number, in a run with this horizon."""
    if row.group.startswith(_HYPOTHESIS):
        return True
    if row.channel == ACCOUNT:
        return row.group == ALL
    if row.step not in headline_steps(horizon) or MONTH in row.group or SYMBOL in row.group:
        return False
    if row.group.startswith(_COMPARED):
        return row.channel in ("close", ALL)
    if row.group == CROSS_SECTION:
        return True
    if row.group != ALL:
        return False
    if row.metric.endswith(f".{CONFIDENCE_SET}"):
        return True
    channels = score("forecast", row.metric).headline
    return channels == ALL or (channels == "close" and row.channel == "close")


def dotted_key(name: str, row: Row, *, reference: bool = False) -> str:
    """The dotted key of a row.

    Parameters
    ----------
    name : str
        The forecaster or account.
    row : Row
        Its row.
    reference : bool
        Whether a comparison is one with the random walk, whose key has ``versus``.
    """
    kind, _, value = row.group.partition("=")
    if kind == HYPOTHESIS:
        return f"{HYPOTHESIS}.{value}.{row.metric}"
    if row.channel == ACCOUNT:
        return f"strategy.{name}." + (row.metric if row.group == ALL else f"{_GROUPS[kind]}.{value}.{row.metric}")
    loss, _, statistic = row.metric.rpartition(".")
    if statistic == CONFIDENCE_SET:
        return f"{CONFIDENCE_SET}.{_scope(loss, row)}.{name}"
    if row.group.startswith(_COMPARED):
        where = f"{_scope(loss, row)}.{statistic}" if loss else row.metric
        return f"forecast.{name}.{'versus' if reference else _whom(kind, value)}.{where}"
    if kind == CROSS_SECTION:
        return f"forecast.{name}.{CROSS_SECTION}.{loss}.h{row.step}.{statistic}"
    if row.metric == "up_to_bps":
        return f"forecast.{name}.{_GROUPS[kind]}.{value}_{row.metric}"
    group = "" if row.group == ALL else f"{_GROUPS[kind]}.{value}."
    return f"forecast.{name}.{group}{_scope(row.metric, row)}"


def find_score(key: str) -> Score | None:
    """The score of a dotted key; None if it is not in the table."""
    family, _, rest = key.partition(".")
    if family in ("selection", "origins"):
        return _BY_NAME.get((family, rest))
    if family == CONFIDENCE_SET:
        return _BY_NAME[CONFIDENCE_SET, CONFIDENCE_SET]
    parts = rest.split(".")
    # Names of forecasters and accounts may contain dots.
    found = (_find(family, parts[start:]) for start in range(1, len(parts)))
    return next((score for score in found if score is not None), None)


def every_key(rows: Iterable[tuple[str, Row]], reference: str) -> Iterable[tuple[str, float]]:
    """Dotted keys and numbers of rows by forecaster or account, comparisons with `reference` under both names."""
    for name, row in rows:
        yield dotted_key(name, row), row.value
        if row.group == f"{_AGAINST}{reference}":
            yield dotted_key(name, row, reference=True), row.value


def _whom(kind: str, value: str) -> str:
    """The part of a key that names what a forecaster is compared with, and where, from its group ``kind=value``."""
    if kind == "against":
        return f"against.{value}"
    for field, group in ((MONTH, "by_month"), (SYMBOL, "by_symbol")):
        where = value.partition(field)[2]
        if where:
            return f"{kind}.{group}.{where}"
    return kind


def _find(family: str, parts: list[str]) -> Score | None:
    """The score of the part of a key after the name."""
    if family == "forecast" and parts[0] in ("versus", "against"):
        return _BY_NAME.get(("against", parts[-1]))
    if family == "forecast" and parts[0] in (OPPONENT, SYMBOLS):
        return _BY_NAME.get((parts[0], parts[-1]))
    if family == "forecast" and parts[0] == CROSS_SECTION:
        return _BY_NAME.get((CROSS_SECTION, f"{parts[min(1, len(parts) - 1)]}.{parts[-1]}"))
    if parts[0] in _GROUPS.values():
        parts = parts[1:] if parts[-1].endswith("_up_to_bps") else parts[2:]
    if family == "forecast" and parts:
        return _BY_NAME.get(("forecast", parts[0].removeprefix("low_").removeprefix("middle_")))
    return _BY_NAME.get((family, ".".join(parts)))


def _scope(metric: str, row: Row) -> str:
    """Score or loss with its channel and step, if it has them."""
    per = score("forecast", LOSSES.get(metric, metric)).per
    parts = [metric]
    if "channel" in per:
        parts.append(row.channel)
    if "step" in per:
        parts.append(f"h{row.step}" if row.step else "all")
    return ".".join(parts)
