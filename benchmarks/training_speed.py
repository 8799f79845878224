"""Training steps against the reference's own loop, on the same shapes and weights, in one process.

``make bench`` installs the reference (PyPI kronos-model-arch 0.1.0, upstream's code, MIT) into a folder of its own.
Its loop here is what upstream's fine-tuning does in a step: tokenise under no_grad, forward with a sampled coarse
token, cross-entropy at every position, backward, clip, AdamW. Ours does the same work (the loss at every position,
too) with the true coarse token. Both alternate, so that a machine whose speed drifts slows both; the ratio is taken
round by round, in wall time and in this process's own CPU time, which other work on the machine disturbs less.

    python benchmarks/training_speed.py --threads 1                  # the table of docs/finetuning.md
    python benchmarks/training_speed.py --size nano --window 360 --batch 16
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from btcbt.candles import read_candles
from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.shapes import MODELS, TOKENIZERS
from btcbt.models.kronos.training.batches import Batch, make_batch
from btcbt.models.kronos.training.kernels import use_training_kernels
from btcbt.models.kronos.training.losses import Encoder, model_losses
from btcbt.models.kronos.training.memory import keep_freed_memory
from btcbt.models.kronos.training.recipe import Optimizer
from btcbt.models.kronos.training.schedule import make_optimizer

REFERENCE = Path(__file__).resolve().parent.parent / ".bench" / "reference"
TOKENIZER_OF = {"nano": "nano", "mini": "2k"}
BATCHES = 4
Step = Callable[[int], float]


def make_batches(options: argparse.Namespace, *, leaky: bool = True) -> list[Batch]:
    """Different batches of real windows; the reference's scaling and positions unless told otherwise."""
    candles = read_candles("bundled:BTCUSD_1h")
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(BATCHES):
        starts = rng.integers(len(candles) - options.window, size=options.batch)
        rows = starts[:, None] + np.arange(options.window)
        values, times = candles.values[rows].astype(np.float32), candles.open_time[rows]
        keys = tuple(("bench", int(start), False) for start in starts)
        batches.append(make_batch(values, times, options.window * 3 // 4, 5.0, leaky=leaky)._replace(keys=keys))
    return batches


def our_step(tokenizer: KronosTokenizer, model: Kronos, batches: list[Batch], *, known: bool, half: bool) -> Step:
    """A step as `btcbt.models.kronos.training.loop.Fit` takes it; with `known`, windows have been tokenised before."""
    optimizer = make_optimizer(model, Optimizer(steps=1, learning_rate=1e-5))
    encode = Encoder(tokenizer, torch.device("cpu"))
    if not known:
        batches = [batch._replace(keys=None) for batch in batches]
    for batch in batches:
        encode(batch)

    def step(number: int) -> float:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model_losses(model, encode, batches[number % BATCHES])["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        return float(loss.detach())

    return step


def reference_step(tokenizer: Any, model: Any, batches: list[Batch]) -> Step:
    """A step of the reference's loop on its own classes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1)
    stamps = [batch.stamps.float() for batch in batches]

    def step(number: int) -> float:
        batch, stamp = batches[number % BATCHES], stamps[number % BATCHES]
        model.train()
        with torch.no_grad():
            s1, s2 = tokenizer.encode(batch.candles, half=True)
        s1_logits, s2_logits = model(s1[:, :-1], s2[:, :-1], stamp[:, :-1, :])
        loss, _, _ = model.head.compute_loss(s1_logits, s2_logits, s1[:, 1:], s2[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=3.0)
        optimizer.step()
        return float(loss.detach())

    return step


def build(options: argparse.Namespace) -> dict[str, Step]:
    """Every loop, on networks with the same first weights."""
    torch.manual_seed(0)
    tokenizer = KronosTokenizer(TOKENIZERS[TOKENIZER_OF.get(options.size, "base")]).eval()
    model = Kronos(MODELS[options.size])
    first = {key: value.clone() for key, value in model.state_dict().items()}
    batches = make_batches(options)

    def ours(*, known: bool = False, half: bool = False, counted: list[Batch] = batches) -> Step:
        mine = use_training_kernels(Kronos(MODELS[options.size]))
        mine.load_state_dict(first)
        return our_step(tokenizer, mine, counted, known=known, half=half)

    steps = {"fp32": ours(), "fp32, windows tokenised before": ours(known=True)}
    steps["fp32, loss behind the context only"] = ours(known=True, counted=make_batches(options, leaky=False))
    steps["bf16, windows tokenised before"] = ours(known=True, half=True)
    if REFERENCE.is_dir():
        sys.path.insert(0, str(REFERENCE))
        from model.kronos import Kronos as TheirKronos  # type: ignore[import-not-found]
        from model.kronos import KronosTokenizer as TheirTokenizer

        theirs = TheirTokenizer(**tokenizer.config.to_dict()).eval(), TheirKronos(**model.config.to_dict())
        theirs[0].load_state_dict(tokenizer.state_dict())
        theirs[1].load_state_dict(first)
        steps["reference"] = reference_step(*theirs, batches)
    return steps


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(MODELS), default="mini")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps of each loop in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep-memory", action="store_true", help="have both loops keep freed memory, as a fit does")
    parser.add_argument("--only", nargs="+", help="these loops alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = options.keep_memory and keep_freed_memory()
    steps = build(options)
    if options.only:
        steps = {name: steps[name] for name in options.only}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for step in steps.values():
        step(0)
    for _ in range(options.rounds):
        for name, step in steps.items():
            began = time.perf_counter(), time.process_time()
            for number in range(options.steps):
                step(number)
            ended = time.perf_counter(), time.process_time()
            times[name].append(((ended[0] - began[0]) / options.steps, (ended[1] - began[1]) / options.steps))
    print(
        f"{options.size}, {options.batch} windows of {options.window}, {options.threads} threads, torch "
        f"{torch.__version__}, freed memory {'kept' if kept else 'given back'}, {options.rounds} rounds"
    )
    for part, clock in enumerate(("wall", "CPU")):
        print_table(clock, {name: [pair[part] for pair in pairs] for name, pairs in times.items()}, options)


def print_table(clock: str, times: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Median time of a step by one clock, and the ratio to the reference with its range over the rounds."""
    for name, seconds in times.items():
        median = statistics.median(seconds)
        line = (
            f"  {clock:4s}  {name:36s} {1e3 * median:8.1f} ms  {options.batch * options.window / median:8,.0f} tokens/s"
        )
        if "reference" in times and name != "reference":
            ratios = sorted(theirs / mine for theirs, mine in zip(times["reference"], seconds, strict=True))
            line += f"  ratio {statistics.median(ratios):.2f} x ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
        print(line)


if __name__ == "__main__":
    main()
