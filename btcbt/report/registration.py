"""Registered studies in the terminal: whether a run is the registered one, and the evidence on each hypothesis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from btcbt.config import AccountHypothesis, ForecastHypothesis
from btcbt.metrics.hypotheses import HYPOTHESIS, SIZE
from btcbt.storage.registrations import Registration
from btcbt.storage.runs import Run

SHOWN = 6
"""Differences that are named; the manifest has all."""


def registered_text(registration: Registration, others: Sequence[Registration], *, new: bool) -> str:
    """What `btcbt register` says."""
    name, windows = registration.study["name"], registration.study["configuration"]["windows"]
    count = len(registration.study["hypotheses"])
    lines = [
        f"{name}: {'registered' if new else 'already registered'} {_day(registration.registered)}, "
        f"{registration.digest}; {count} {'hypothesis' if count == 1 else 'hypotheses'}, window "
        f"{windows['start']} .. {windows['end']}"
    ]
    if others:
        listed = ", ".join(f"{one.digest} ({_day(one.registered)})" for one in others)
        lines.append(f"{len(others) + 1} registrations of this name; the others: {listed}")
    return "\n".join(lines)


def registration_parts(run: Run) -> list[Text]:
    """Whether the run is as registered, and a line for each hypothesis; nothing for other experiments."""
    standing = run.manifest.get("registration")
    if standing is None and not run.config.hypotheses:
        return []
    return [_standing(run), *(Text(line) for line in _evidence(run))]


def _standing(run: Run) -> Text:
    known = run.manifest.get("registration")
    if known is None:
        return Text("Not registered: the hypotheses are no evidence; run 'btcbt register' beforehand.", style="yellow")
    several = f"; {known['registrations']} registrations of this name" if known["registrations"] > 1 else ""
    when = f"{_day(known['registered'])}, {known['digest']}"
    if not known["differs"]:
        return Text(f"Study: registered {when}, when candles ended {known['candles_until']}{several}.", style="bold")
    names, more = known["differs"][:SHOWN], len(known["differs"]) - SHOWN
    differs = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    return Text(f"Study: not as registered {when}: {differs} differ{several}.", style="yellow")


def _evidence(run: Run) -> list[str]:
    known, count = run.manifest.get("registration"), len(run.config.hypotheses)
    as_registered = known is not None and not known["differs"]
    lines = []
    for name, one in run.config.hypotheses.items():
        numbers = {
            key: run.metrics.get(f"{HYPOTHESIS}.{name}.{key}", math.nan)
            for key in ("e_value", "highest_e_value", "rejects", "difference", "low", "high", "hours")
        }
        if not numbers["hours"] > 0:
            lines.append(f"{name} ({claim(run, one)}): no hours yet")
            continue
        verdict = ("yes" if numbers["rejects"] else "no") if as_registered else "does not count"
        interval = "none yet"
        if math.isfinite(numbers["low"]):
            interval = f"{numbers['low']:+.3g} .. {numbers['high']:+.3g} bps"
        value = ""
        if math.isfinite(numbers["e_value"]):
            value = f"e-value {numbers['e_value']:.3g} (highest {numbers['highest_e_value']:.3g} of {count / SIZE:g}), "
        lines.append(
            f"{name} ({claim(run, one)}): {value}rejects at {SIZE:.0%}: {verdict}; difference "
            f"{numbers['difference']:+.3g} bps, confidence sequence {interval}; {numbers['hours']:,.0f} hours so far"
        )
    return lines


def claim(run: Run, one: ForecastHypothesis | AccountHypothesis) -> str:
    """A hypothesis in words."""
    by = f" by more than {one.threshold_bps:g} bps" if one.threshold_bps else ""
    if isinstance(one, AccountHypothesis):
        return f"{one.account} earns more than {one.benchmark}{by}"
    opponent = one.opponent or run.manifest["opponent"]
    at = "whole path" if one.metric == "energy_bps" else f"step {one.step or run.config.windows.horizon}"
    return f"{one.forecaster} beats {opponent}{by}, {one.metric}, {at}"


def _day(time: str) -> str:
    return time[:10]
