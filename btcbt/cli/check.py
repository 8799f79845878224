"""``btcbt check``: compare a run's metrics with a baseline.

Exit codes: 0 no metric is worse; 1 one is, or is missing; 2 bad usage, baseline, tolerances or run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from btcbt.cli.terminal import console, guarded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from btcbt.metrics.regression import Comparison

WORSE = 1
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def check_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or runs/NAME for its newest.")],
    baseline: Annotated[Path, typer.Option(help="JSON of metrics, or another run, to compare with.")],
    tolerances: Annotated[
        Path | None, typer.Option(help="YAML of how far each metric may move; by their intervals if left out.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Accept the run: write its metrics as the new baseline.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Also write the result as JUnit XML.")] = None,
) -> None:
    """Compare a run's metrics with a baseline, within tolerances."""
    with guarded(console(stderr=True), f"python -m btcbt check {run}", kept="nothing was changed"):
        from btcbt.metrics.regression import Tolerances, compare_metrics, read_tolerances, write_baseline
        from btcbt.report.check import OF_ACCOUNTS, about, check_table, numbers_of
        from btcbt.storage.panel_runs import load_any_run

        rules = Tolerances() if tolerances is None else read_tolerances(tolerances)
        found = load_any_run(run)
        measured = about(found)
        before, differing = _baseline(baseline, measured, run, update=update)
        now = numbers_of(found, before)
        comparisons = [
            one for one in compare_metrics(before, now, rules) if not (differing and one.metric.startswith(OF_ACCOUNTS))
        ]
        _write_reports(comparisons, f"{found.config.name} against {baseline.name}", junit)
        console().print(check_table(comparisons))
        if differing:
            console().print(f"accounts are not compared: {differing}", markup=False, highlight=False, soft_wrap=True)
        if update:
            kept = write_baseline(baseline, now, rules, measured)
            console().print(f"{baseline} now holds {kept:,} metrics", markup=False, highlight=False, soft_wrap=True)
            return
    if any(one.failed for one in comparisons):
        raise typer.Exit(WORSE)


def _baseline(baseline: Path, measured: Mapping[str, str], run: Path, *, update: bool) -> tuple[dict[str, float], str]:
    """Numbers to compare with, of a file or another run, none where they are about to be replaced; how costs differ.

    Raises
    ------
    ConfigError
        If there are none, or they were measured on something else.
    """
    from btcbt.errors import ConfigError
    from btcbt.metrics.regression import Baseline, incomparable, read_baseline
    from btcbt.report.check import about
    from btcbt.storage.panel_runs import load_any_run

    if baseline.is_dir():
        if update:
            raise ConfigError(f"{baseline}: --update writes a JSON file, and this is a folder; name a file")
        other = load_any_run(baseline)
        numbers, of = Baseline(dict(other.metrics), about(other))
    else:
        try:
            numbers, of = read_baseline(baseline)
        except ConfigError:
            if not update:
                raise
            return {}, ""
    differing = incomparable(of, measured)
    if differing and update:
        return {}, ""
    costs = differing.pop("costs", "")
    if differing:
        raise ConfigError(
            f"{run}: not comparable with {baseline}: {'; '.join(differing.values())}; compare common hours with "
            "'btcbt compare', or write a baseline of this run with --update"
        )
    return numbers, costs


def _write_reports(comparisons: Sequence[Comparison], title: str, junit: Path | None) -> None:
    """Write the JUnit file and the CI's step summary."""
    from btcbt.errors import ConfigError
    from btcbt.report.check import check_junit, check_markdown

    summary = os.environ.get(STEP_SUMMARY)
    try:
        if junit is not None:
            junit.parent.mkdir(parents=True, exist_ok=True)
            junit.write_bytes(check_junit(comparisons, title))
        if summary:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(check_markdown(comparisons, title))
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written ({error.strerror}); choose another path") from None
