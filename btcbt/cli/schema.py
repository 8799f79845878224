"""``btcbt schema``: the JSON Schema of experiments, for editors.

Exit codes: 0 done; 2 no such kind of file.
"""

from __future__ import annotations

from typing import Annotated

import typer

from btcbt.cli.terminal import console, guarded


def schema_command(
    kind: Annotated[str, typer.Argument(metavar="[KIND]", help="experiment, panel, sweep or recipe.")] = "experiment",
) -> None:
    """Print the JSON Schema of experiments, panels, sweeps or recipes.

    Editors with yaml-language-server read it from a first line such as: # yaml-language-server: $schema=experiment.json
    """
    with guarded(console(stderr=True), "python -m btcbt schema"):
        import json

        from btcbt.workflows.schema import json_schema

        text = json.dumps(json_schema(kind), indent=1)
    typer.echo(text)
