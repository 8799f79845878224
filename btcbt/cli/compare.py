"""``btcbt compare``: finished runs side by side on the origins that they share.

Exit codes: 0 done; 2 fewer than two runs, runs that cannot be compared, or one that is damaged or of an older version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import console, guarded


def compare_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Folders of runs, the first the baseline.")],
    against: Annotated[
        str | None, typer.Option(help="Forecaster of the first run to compare all with; namesakes by default.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write; comparisons/NAME_NAME.html by default.")] = None,
) -> None:
    """Compare finished runs on common origins: losses, accounts, settings."""
    with guarded(console(stderr=True), "python -m btcbt compare ...", kept="nothing was written"):
        from btcbt.report.compare import compare_summary
        from btcbt.report.compare_page import write_comparison
        from btcbt.workflows.compare import compare

        found = compare(*runs, against=against)
        names = "_".join(dict.fromkeys(run.config.name for run in found.runs.values()))
        file = write_comparison(found, html or Path("comparisons") / f"{names}.html")
    console().print(compare_summary(found))
    console().print(f"page in {file}", markup=False, highlight=False, soft_wrap=True)
