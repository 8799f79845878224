"""``btcbt register``: freeze a study before its hours exist or are looked at.

Exit codes: 0 registered, now or before; 2 bad usage, configuration or data, or hours that were already scored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btcbt.cli.terminal import Changes, again, console, guarded


def register_command(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="YAML file with 'hypotheses'.")],
    changes: Changes = None,
) -> None:
    """Freeze a study before its hours exist or are looked at.

    Configuration, weights, code and hypotheses are stored under their digest; runs of the study then say whether they
    are what was registered, and carry evidence that may be looked at after every hour.
    """
    with guarded(console(stderr=True), again("register", experiment, changes), kept="nothing was registered"):
        from btcbt.walkforward.experiments import read_run

        config = read_run(experiment, changes or ())
        from btcbt.report.registration import registered_text
        from btcbt.workflows.register import register

        outcome = register(config)
    text = registered_text(outcome.registration, outcome.others, new=outcome.new)
    console().print(text, markup=False, highlight=False, soft_wrap=True)
