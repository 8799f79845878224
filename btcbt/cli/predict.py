"""``btcbt predict``: the next candles from the newest data.

Exit codes: 0 done; 2 bad usage, data or checkpoint; 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from btcbt.cli.terminal import LogJson, console, guarded

if TYPE_CHECKING:
    from rich.table import Table

    from btcbt.workflows.predict import Prediction


def predict_command(
    candles: Annotated[str, typer.Argument(metavar="CANDLES", help="Parquet or CSV file, or bundled:NAME.")],
    interval: Annotated[
        str | None, typer.Option(help="Interval of the candles, such as 1h; inferred by default.")
    ] = None,
    horizon: Annotated[int, typer.Option(help="H, candles to forecast.")] = 48,
    context: Annotated[
        int | None, typer.Option(help="T, candles of the context; by default what the checkpoint was fitted with.")
    ] = None,
    paths: Annotated[int, typer.Option(help="S, sampled paths.")] = 100,
    checkpoint: Annotated[str, typer.Option(help="kronos-nano, a checkpoint's folder, or a hub id.")] = "kronos-nano",
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id of the tokenizer, if not with the checkpoint.")
    ] = None,
    forecaster: Annotated[
        str | None,
        typer.Option(help="Another one: a kind such as garch, module:Class, FILE.py:Class, or EXPERIMENT.yaml:NAME."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random numbers.")] = 0,
    temperature: Annotated[float, typer.Option(help="Above 1 widens the paths, below 1 narrows them.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from the k most likely tokens; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample from the most likely tokens with this total probability.")] = 1.0,
    sampling: Annotated[str, typer.Option(help="independent, or systematic across the paths.")] = "independent",
    max_context: Annotated[int | None, typer.Option(help="Tokens that the model attends to.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    output: Annotated[
        Path | None, typer.Option(help="Folder to create; predictions/SYMBOL_INTERVAL_ORIGIN by default.")
    ] = None,
    log_json: LogJson = False,
) -> None:
    """Forecast the next candles: CSV, JSON and a figure."""
    out, errors = console(), console(stderr=True, log_json=log_json)
    with guarded(errors, f"python -m btcbt predict {candles}", "no partial file is left"):
        from btcbt.workflows.predict import kronos_config, named_forecaster, predict

        config = kronos_config(
            n_paths=paths,
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            sampling=sampling,
            max_context=max_context,
            device=device,
        )
        made = predict(
            candles,
            interval=interval,
            context=context,
            horizon=horizon,
            seed=seed,
            forecaster=config if forecaster is None else named_forecaster(forecaster, paths),
            output=output,
        )
    out.print(_table(made))
    label = made.summary["contamination"]
    for line in (f"{label['label']}: {label['meaning']}.", f"Written to {made.folder}"):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(made: Prediction) -> Table:
    """Summary of the paths."""
    from btcbt.report.cells import plain_table

    said: Any = made.summary
    levels = said["quantiles"]["levels"]
    final = dict(zip(levels, said["quantiles"]["close"][-1], strict=True))
    rise, volatile = said["probability_of_rise"], said["probability_of_higher_volatility"]
    rows = [
        ("last close", f"{said['last_close']:,.6g}"),
        ("close at the end, median", f"{final[0.5]:,.6g} ({100 * (final[0.5] / said['last_close'] - 1):+.2f} %)"),
        ("80 % of the paths", f"{final[0.1]:,.6g} .. {final[0.9]:,.6g}"),
        ("95 % of the paths", f"{final[0.025]:,.6g} .. {final[0.975]:,.6g}"),
        ("share of paths that rise", _share(rise)),
        ("more volatile than the last day", "window shorter than a day" if volatile is None else _share(volatile)),
    ]
    n_paths, horizon = made.paths.shape[:2]
    title = f"{said['symbol']} {said['interval']}, {horizon} candles after {said['origin']}, {n_paths} sampled paths"
    table = plain_table(title)
    table.show_header = False
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _share(part: dict[str, float]) -> str:
    return f"{100 * part['value']:.0f} % (sampling error {100 * part['low95']:.0f} .. {100 * part['high95']:.0f} %)"
