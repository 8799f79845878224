"""How much faster than the reference, on the same weights and candles, in one process.

``make bench`` installs the reference (PyPI kronos-model-arch 0.1.0, upstream's code, MIT) into a folder of its own and
runs this file. Reference and engine alternate, so that a machine whose speed drifts slows both; the ratio is taken pair
by pair and its median quoted. Weights are random: speed does not depend on them.

    python benchmarks/forecast_speed.py                      # the table of docs/performance.md
    python benchmarks/forecast_speed.py --case mini:360:24:30 --rounds 5 --threads 1
    python benchmarks/forecast_speed.py --size nano --device cuda
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from btcbt.candles import read_candles
from btcbt.models.kronos import Kronos, KronosPredictor, KronosTokenizer
from btcbt.models.kronos.inference.calendar import stamps
from btcbt.models.kronos.inference.generate import PathGenerator
from btcbt.models.kronos.inference.linear import Linear
from btcbt.models.kronos.inference.sampling import Draw, Filter, KeyedDraw, MultinomialDraw
from btcbt.models.kronos.inference.scaling import Scaling
from btcbt.models.kronos.shapes import MAX_CONTEXT, MODELS, TOKENIZERS, ModelConfig, TokenizerConfig
from btcbt.randomness import uniforms
from btcbt.records import CHANNELS, FloatArray

REFERENCE = Path(__file__).resolve().parent.parent / ".bench" / "reference"
TABLE = ("mini:360:24:30", "mini:488:24:5", "small:360:24:30", "small:488:24:5", "small:400:1:1")
MODES = ("fp32, reference's stream", "fp32", "bf16 model", "anchored fp32", "predict_batch", "predict")
TOKENIZER_OF = {"nano": "nano", "mini": "2k"}
BLOCK = 24


class Case(NamedTuple):
    """What is forecast: context, horizon, paths, with a size of model."""

    size: str
    context: int
    horizon: int
    n_paths: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read ``size:context:horizon:paths``."""
        size, *numbers = text.split(":")
        if size not in MODELS or len(numbers) != 3:
            raise SystemExit(f"case '{text}': expected one of {', '.join(MODELS)}, then :context:horizon:paths")
        return cls(size, *(int(number) for number in numbers))

    @property
    def anchored_context(self) -> int:
        """Context that leaves room for a block of origins, as long as the case's at the block's end."""
        fits = min(self.context, MAX_CONTEXT[self.size] - self.horizon - BLOCK + 1)
        return fits if self.horizon > 1 else self.context


class Networks(NamedTuple):
    """One pair of networks, and the reference's pair with the same weights."""

    tokenizer: KronosTokenizer
    model: Kronos
    reference: tuple[Any, Any] | None


def build(size: str, with_reference: bool) -> Networks:
    """Random networks of a size, and the reference's with the same weights."""
    torch.manual_seed(0)
    tokenizer = KronosTokenizer(TOKENIZERS[TOKENIZER_OF.get(size, "base")]).eval()
    model = Kronos(MODELS[size]).eval()
    if not with_reference:
        return Networks(tokenizer, model, None)
    sys.path.insert(0, str(REFERENCE))
    from model.kronos import Kronos as TheirKronos  # type: ignore[import-not-found]
    from model.kronos import KronosTokenizer as TheirTokenizer

    theirs = TheirTokenizer(**tokenizer.config.to_dict()).eval(), TheirKronos(**model.config.to_dict()).eval()
    for their, our in zip(theirs, (tokenizer, model), strict=True):
        their.load_state_dict(our.state_dict())
    return Networks(tokenizer, model, theirs)


def contexts(case: Case, groups: int, length: int, history: FloatArray, times: np.ndarray) -> tuple[Any, Any]:
    """Scaled windows (G, T, 6) of real candles and their stamps (G, T + H, 5)."""
    starts = np.linspace(0, len(history) - length - case.horizon - 1, groups).astype(int)
    values = np.stack([history[i : i + length] for i in starts]).astype(np.float32)
    clock = np.stack([times[i : i + length + case.horizon] for i in starts])
    scaled = Scaling.fit(values[:, : case.context]).apply(values, 5.0)
    return torch.from_numpy(scaled), torch.from_numpy(stamps(clock))


def reference_run(case: Case, networks: Networks, x: Any, stamp: Any, device: str) -> Callable[[], np.ndarray]:
    """The reference's loop on some windows."""
    from model.kronos import auto_regressive_inference

    tokenizer, model = (network.to(device) for network in networks.reference or ())
    past, future = stamp[:, : case.context].float().to(device), stamp[:, case.context :].float().to(device)

    def run() -> np.ndarray:
        candles: np.ndarray = auto_regressive_inference(
            tokenizer, model, x.to(device), past, future, MAX_CONTEXT[case.size], case.horizon,
            5, 1.0, 0, 0.9, case.n_paths, False,
        )  # fmt: skip
        return candles[:, -case.horizon :]

    return run


def difference(case: Case, networks: Networks, x: Any, stamp: Any, reference: Callable[[], np.ndarray]) -> float:
    """Largest difference of the mean paths, in scaled units, on one sampling stream: a token that parts shows."""
    generator = PathGenerator(
        networks.tokenizer, networks.model, max_context=MAX_CONTEXT[case.size], device=torch.device("cpu")
    )
    torch.manual_seed(1)
    paths = generator.generate(
        x, stamp, horizon=case.horizon, n_paths=case.n_paths, draw=MultinomialDraw(), keep=Filter(top_p=0.9)
    )
    torch.manual_seed(1)
    return float(np.abs(paths[:, 0].mean(1).numpy() - reference()).max())


def engine_run(case: Case, networks: Networks, mode: str, batch: int, history: Any, device: str) -> tuple[Any, int]:
    """The engine in a mode: what to call, and how many origins a call forecasts."""
    if mode.startswith("predict"):
        return predictor_run(case, networks, batch if mode == "predict_batch" else 1, history, device)
    dtype = torch.bfloat16 if mode.startswith("bf16") else torch.float32
    generator = PathGenerator(
        networks.tokenizer, networks.model, max_context=MAX_CONTEXT[case.size], device=torch.device(device), dtype=dtype
    )
    anchored = mode.startswith("anchored")
    case = case._replace(context=case.anchored_context) if anchored else case
    ends = [case.context + j for j in range(BLOCK)] if anchored else None
    x, stamp = contexts(case, batch, ends[-1] if ends else case.context, *history)
    rows = case.n_paths * (BLOCK if anchored else 1)
    draw: Draw = MultinomialDraw()
    if "stream" not in mode:
        draw = KeyedDraw(torch.from_numpy(uniforms(0, range(batch), rows, case.horizon)).to(device))
    keep = Filter(top_p=0.9)

    def run() -> None:
        generator.generate(x, stamp, horizon=case.horizon, n_paths=case.n_paths, draw=draw, keep=keep, ends=ends)

    return run, batch * (BLOCK if anchored else 1)


def predictor_run(case: Case, networks: Networks, batch: int, history: Any, device: str) -> tuple[Any, int]:
    """The drop-in predictor on data frames, all of them in a call: what to call, and how many origins it forecasts."""
    predictor = KronosPredictor(networks.model, networks.tokenizer, device, MAX_CONTEXT[case.size])
    values, times = history
    frame = pd.DataFrame(values, columns=list(CHANNELS))
    clock = pd.Series(pd.to_datetime(times, unit="ms"))
    starts = np.linspace(0, len(frame) - case.context - case.horizon - 1, batch).astype(int)
    past = [slice(i, i + case.context) for i in starts]
    future = [slice(one.stop, one.stop + case.horizon) for one in past]
    series = ([frame[one] for one in past], [clock[one] for one in past], [clock[one] for one in future])

    def run() -> None:
        predictor.predict_batch(*series, case.horizon, sample_count=case.n_paths, verbose=False)

    return run, batch


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall seconds of a call."""
    began = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def gemm_peak(device: str) -> float:
    """Best float32 GFLOP/s of this machine's matrix products, packed or not."""
    x, w = torch.randn(1024, 1024, device=device), torch.randn(1024, 1024, device=device)
    best = 0.0
    with torch.inference_mode():
        for linear in (Linear(w), Linear(w, packed=False)):
            linear(x)
            best = max(best, 2 * 1024**3 / min(seconds(lambda call=linear: call(x), device) for _ in range(10)) / 1e9)  # type: ignore[misc]
    return best


def flops(case: Case, model: ModelConfig, tokenizer: TokenizerConfig) -> float:
    """Arithmetic that one origin needs when prefixes are shared (a multiply and an add are two)."""

    def stack(layers: int, d: int, ff: int, tokens: float, seen: float) -> float:
        return layers * tokens * (2 * (4 * d * d + 3 * d * ff) + 4 * seen * d)

    t, new = case.context, case.n_paths * case.horizon
    d, td = model.d_model, tokenizer.d_model
    vocabulary = 2**model.s1_bits + 2**model.s2_bits
    trunk = stack(model.n_layers, d, model.ff_dim, t, t / 2) + stack(
        model.n_layers, d, model.ff_dim, new - case.n_paths, t + case.horizon / 2
    )
    dependency = 2 * 2 * d * d * (t + new) + new * (2 * d * d + 4 * (t + case.horizon / 2) * d)
    heads = new * 2 * d * vocabulary
    coder = stack(tokenizer.n_enc_layers - 1, td, tokenizer.ff_dim, t, t / 2)
    coder += stack(tokenizer.n_dec_layers - 1, td, tokenizer.ff_dim, t, t / 2)
    coder += stack(tokenizer.n_dec_layers - 1, td, tokenizer.ff_dim, new, t + case.horizon / 2)
    return trunk + dependency + heads + coder


def measure(case: Case, options: argparse.Namespace, history: Any, peak: float) -> None:
    """Print a case's rows."""
    networks = build(case.size, with_reference=not options.alone)
    work = flops(case, networks.model.config, networks.tokenizer.config) / 1e9
    size, context, horizon, n_paths = case
    print(f"\n{size} {context}/{horizon}/{n_paths}: {work:.1f} GFLOP per origin with shared prefixes")
    batch = options.batch or (8 if context * n_paths > 400 else 32)
    theirs_batch = 1 if n_paths * horizon >= 100 else 8
    runs = {mode: engine_run(case, networks, mode, batch, history, options.device) for mode in options.modes}
    for run, _ in runs.values():
        run()
    x, stamp = contexts(case, theirs_batch, context, *history)
    if networks.reference and options.device == "cpu":
        few = case._replace(n_paths=2)
        apart = difference(few, networks, x, stamp, reference_run(few, networks, x, stamp, "cpu"))
        print(f"  on the reference's stream, mean paths differ by at most {apart:.1e} standard deviations", flush=True)
    reference = reference_run(case, networks, x, stamp, options.device) if networks.reference else None
    ours: dict[str, list[float]] = {mode: [] for mode in runs}
    theirs: list[float] = []
    for _ in range(options.rounds):
        for mode, (run, origins) in runs.items():
            ours[mode].append(min(seconds(run, options.device) for _ in range(2)) / origins)
        if reference:
            theirs.append(seconds(reference, options.device) / theirs_batch)
    if theirs:
        print(f"  {'reference':26s} {1e3 * statistics.median(theirs):9.1f} ms/origin")
    for mode, times in ours.items():
        mine = statistics.median(times)
        text = f"  {mode:26s} {1e3 * mine:9.2f} ms/origin  {n_paths * horizon / mine:10,.0f} candles/s"
        if not mode.startswith("anchored"):
            text += f"  {work / mine / peak:5.1%} of GEMM peak"
        if theirs:
            ratios = sorted(t / o for t, o in zip(theirs, times, strict=True))
            text += f"  ratio {statistics.median(ratios):6.1f} x ({ratios[0]:.1f} .. {ratios[-1]:.1f})"
        print(text, flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", help="size:context:horizon:paths; the documented table if left out")
    parser.add_argument("--size", choices=sorted(MODELS), help="only the cases of this size, or 360/24/30 of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, help="origins (or blocks) of a call")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--alone", action="store_true", help="without the reference")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.alone = options.alone or not REFERENCE.is_dir()
    if options.alone:
        print(f"no reference in {REFERENCE} ('make bench' installs it): times only")
    candles = read_candles("bundled:BTCUSD_1h")
    history = candles.values[-4000:], candles.open_time[-4000:]
    peak = gemm_peak(options.device)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.device}, GEMM peak {peak:,.0f} GFLOP/s")
    texts = options.case or [t for t in TABLE if not options.size or t.startswith(options.size)]
    for text in texts or [f"{options.size}:360:24:30"]:
        measure(Case.parse(text), options, history, peak)
    print(f"\npeak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
