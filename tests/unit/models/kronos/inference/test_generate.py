"""The engine with shared prefixes against a plain loop that recomputes everything for every path and step."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from btcbt.errors import ConfigError
from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.inference.cache import AppendStep, SharedPrefixCache, attention, plain_attention
from btcbt.models.kronos.inference.calendar import stamps
from btcbt.models.kronos.inference.generate import PATH_BYTES, PathGenerator
from btcbt.models.kronos.inference.linear import Linear
from btcbt.models.kronos.inference.sampling import Filter, KeyedDraw, MultinomialDraw
from btcbt.randomness import systematic, uniforms

HOUR = 3_600_000


def problem(groups, context, horizon, n_paths, seed=0):
    rng = np.random.default_rng(seed)
    scaled = np.clip(np.cumsum(rng.normal(size=(groups, context, 6)), axis=1) / 4, -5, 5)
    times = 1_560_000_000_000 // HOUR * HOUR + HOUR * (np.arange(context + horizon) + 1000 * np.arange(groups)[:, None])
    numbers = torch.from_numpy(uniforms(7, np.arange(groups), n_paths, horizon))
    return torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(stamps(times)), numbers


@torch.no_grad()
def plain_loop(tokenizer, model, scaled, stamp, *, horizon, n_paths, draw, keep, max_context):
    """What the reference does: repeat each context for each path, recompute all of it at each step."""
    groups, context = scaled.shape[:2]
    s1, s2 = (ids.repeat_interleave(n_paths, 0) for ids in tokenizer.encode(scaled))
    stamp = stamp.repeat_interleave(n_paths, 0)
    for i in range(horizon):
        end = context + i
        start = max(0, end - max_context)
        logits, hidden = model.decode_s1(s1[:, start:], s2[:, start:], stamp[:, start:end])
        p = keep.probabilities(logits[:, -1]).view(groups, n_paths, -1)
        new1 = draw(p, i, 0).flatten()[:, None]
        p = keep.probabilities(model.decode_s2(hidden, new1)[:, -1]).view(groups, n_paths, -1)
        new2 = draw(p, i, 1).flatten()[:, None]
        s1, s2 = torch.cat((s1, new1), 1), torch.cat((s2, new2), 1)
    start = max(0, context + horizon - max_context)
    paths = tokenizer.decode([s1[:, start:], s2[:, start:]])[:, -horizon:]
    return paths.view(groups, n_paths, horizon, 6)


def engine(tokenizer, model, max_context=64, **options):
    return PathGenerator(tokenizer, model, max_context=max_context, device=torch.device("cpu"), **options)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("context", "horizon", "max_context"),
    [(20, 6, 64), (20, 6, 25), (20, 6, 26), (20, 6, 22), (40, 6, 24), (24, 1, 24), (3, 5, 8)],
)
def test_paths_equal_those_of_the_plain_loop(tokenizer, model, context, horizon, max_context, packed):
    scaled, stamp, numbers = problem(3, context, horizon, 4)
    task = {"horizon": horizon, "n_paths": 4, "draw": KeyedDraw(numbers), "keep": Filter(top_p=0.9)}
    fast = engine(tokenizer, model, max_context, packed=packed).generate(scaled, stamp, **task)
    slow = plain_loop(tokenizer, model, scaled, stamp, max_context=max_context, **task)
    assert fast.shape == (3, 1, 4, horizon, 6)
    torch.testing.assert_close(fast[:, 0], slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("s1_bits", "s2_bits", "learn_te"), [(6, 4, True), (3, 7, False)])
def test_other_numbers_of_bits_and_fixed_calendars_are_sampled_like_the_plain_loop(
    tokenizer_config, model_config, s1_bits, s2_bits, learn_te
):
    torch.manual_seed(4)
    bits = {"s1_bits": s1_bits, "s2_bits": s2_bits}
    coder = KronosTokenizer(dataclasses.replace(tokenizer_config, **bits)).eval()
    network = Kronos(dataclasses.replace(model_config, **bits, learn_te=learn_te)).eval()
    scaled, stamp, numbers = problem(2, 20, 5, 3)
    task = {"horizon": 5, "n_paths": 3, "draw": KeyedDraw(numbers), "keep": Filter(top_p=0.9)}
    fast = engine(coder, network).generate(scaled, stamp, **task)
    slow = plain_loop(coder, network, scaled, stamp, max_context=64, **task)
    torch.testing.assert_close(fast[:, 0], slow, rtol=1e-5, atol=1e-5)


def test_where_mps_lacks_an_operator_the_cpu_is_used_with_a_warning(tokenizer, model, monkeypatch, caplog):
    scaled, stamp, numbers = problem(2, 20, 4, 3)
    task = {"horizon": 4, "n_paths": 3, "draw": KeyedDraw(numbers), "keep": Filter()}
    generator = engine(tokenizer, model)
    expected = generator.generate(scaled, stamp, **task)

    sample = generator._generate

    def on_a_device_that_lacks_an_operator(*arguments):
        if generator.device.type != "cpu":
            raise NotImplementedError("The operator 'aten::x' is not currently implemented")
        return sample(*arguments)

    monkeypatch.setattr(generator, "_generate", on_a_device_that_lacks_an_operator)
    monkeypatch.setattr(generator, "device", torch.device("cuda"))
    with pytest.raises(NotImplementedError):  # elsewhere it is an error
        generator.generate(scaled, stamp, **task)
    monkeypatch.setattr(generator, "device", torch.device("mps"))
    torch.testing.assert_close(generator.generate(scaled, stamp, **task), expected)
    assert generator.device.type == "cpu"
    assert "aten::x" in caplog.text


def test_the_reference_s_sampling_stream_gives_the_same_paths(tokenizer, model):
    scaled, stamp, _ = problem(3, 24, 8, 5)
    task = {"horizon": 8, "n_paths": 5, "keep": Filter(0.8, 0, 0.9)}
    first, second = (MultinomialDraw(torch.Generator().manual_seed(3)) for _ in range(2))
    fast = engine(tokenizer, model).generate(scaled, stamp, draw=first, **task)[:, 0]
    slow = plain_loop(tokenizer, model, scaled, stamp, draw=second, max_context=64, **task)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_paths_do_not_depend_on_the_batch(tokenizer, model):
    scaled, stamp, numbers = problem(9, 20, 5, 3)
    generator = engine(tokenizer, model)

    def run(rows):
        draw = KeyedDraw(numbers[rows])
        return generator.generate(scaled[rows], stamp[rows], horizon=5, n_paths=3, draw=draw, keep=Filter())

    together = run(slice(None))
    torch.testing.assert_close(torch.cat([run(slice(i, i + 1)) for i in range(9)]), together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([run(slice(0, 7)), run(slice(7, 9))]), together, rtol=1e-5, atol=1e-5)


def test_a_longer_context_than_the_engine_takes_at_once_is_split_without_a_trace(tokenizer, model, monkeypatch):
    scaled, stamp, numbers = problem(5, 20, 4, 3)
    task = {"horizon": 4, "n_paths": 3, "draw": KeyedDraw(numbers), "keep": Filter()}
    whole = engine(tokenizer, model).generate(scaled, stamp, **task)
    monkeypatch.setattr("btcbt.models.kronos.inference.engines.PREFILL_TOKENS", 45)
    monkeypatch.setattr("btcbt.models.kronos.inference.cached_paths.PREFILL_TOKENS", 45)
    torch.testing.assert_close(engine(tokenizer, model).generate(scaled, stamp, **task), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling", [uniforms, systematic])
@pytest.mark.parametrize(("context", "max_context", "ends"), [(20, 64, None), (20, 22, None), (20, 64, [17, 20])])
def test_more_paths_than_memory_holds_are_sampled_in_parts(
    tokenizer, model, monkeypatch, sampling, context, max_context, ends
):
    n_paths, horizon, origins = 150, 5, len(ends or [context])
    scaled, stamp, _ = problem(3, context, horizon, n_paths)
    numbers = torch.from_numpy(sampling(7, np.arange(3 * origins), n_paths, horizon)).view(3, -1, horizon, 2)
    generator = engine(tokenizer, model, max_context)
    draw = KeyedDraw(numbers, generator.price_orders if sampling is systematic else None)
    task = {"horizon": horizon, "n_paths": n_paths, "draw": draw, "keep": Filter(top_p=0.9), "ends": ends}
    whole = generator.generate(scaled, stamp, **task)
    rows = []
    sample = generator._sample

    def counted(ids, stamps, steps, layout, draw, keep):
        rows.append((len(ids[0]), layout.n_paths))
        return sample(ids, stamps, steps, layout, draw, keep)

    monkeypatch.setattr(generator, "_sample", counted)
    monkeypatch.setattr("btcbt.models.kronos.inference.generate.PATH_BYTES", 1)
    parted = generator.generate(scaled, stamp, **task)
    assert rows == 3 * [(1, 64), (1, 64), (1, 22)]
    torch.testing.assert_close(parted, whole, rtol=1e-5, atol=1e-5)
    rows.clear()
    few = {"n_paths": 64, "draw": KeyedDraw(numbers[:, : 64 * origins])}
    generator.generate(scaled, stamp, **task | few)
    assert rows == [(3, 64)]


def test_the_memory_of_paths_does_not_grow_with_their_number(tokenizer, model):
    generator = engine(tokenizer, model)
    groups, paths = generator._parts(16, 100_000, 1, 20, 48)
    assert groups == 1
    assert PATH_BYTES // 2 < paths * max(generator._bytes_per_path(20, 48)) <= PATH_BYTES
    groups, paths = generator._parts(10_000, 100, 1, 20, 48)
    assert paths == 100
    assert groups * paths * generator._bytes_per_path(20, 48)[0] <= PATH_BYTES


def test_anchored_origins_equal_separate_contexts_of_one_scaling(tokenizer, model):
    context, block, horizon, n_paths = 16, 5, 4, 3
    scaled, stamp, _ = problem(2, context + block - 1, horizon, n_paths)
    ends = [context + j for j in range(block)]
    numbers = torch.from_numpy(uniforms(1, np.arange(2), block * n_paths, horizon))
    together = engine(tokenizer, model).generate(
        scaled, stamp, horizon=horizon, n_paths=n_paths, draw=KeyedDraw(numbers), keep=Filter(), ends=ends
    )
    assert together.shape == (2, block, n_paths, horizon, 6)
    for j, end in enumerate(ends):
        own = numbers[:, j * n_paths : (j + 1) * n_paths]
        slow = plain_loop(
            tokenizer, model, scaled[:, :end], stamp[:, : end + horizon], horizon=horizon, n_paths=n_paths,
            draw=KeyedDraw(own), keep=Filter(), max_context=64,
        )  # fmt: skip
        torch.testing.assert_close(together[:, j], slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_context", [64, 22])
def test_static_steps_sample_the_same_paths(tokenizer, model, monkeypatch, max_context):
    scaled, stamp, numbers = problem(3, 20, 6, 4)
    task = {"horizon": 6, "n_paths": 4, "draw": KeyedDraw(numbers), "keep": Filter(top_p=0.9)}
    dynamic = engine(tokenizer, model, max_context).generate(scaled, stamp, **task)
    monkeypatch.setattr("btcbt.models.kronos.inference.cache.fixed_shapes", lambda device: True)
    static = engine(tokenizer, model, max_context).generate(scaled, stamp, **task)
    torch.testing.assert_close(static, dynamic, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_fused_attention_equals_the_plain_one(masked):
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(2, 3, length, 8, generator=generator) for length in (5, 11, 11))
    hidden = torch.arange(11) > torch.tensor([[0], [4], [10], [7], [2]])
    mask = torch.zeros(5, 11).masked_fill_(hidden, -torch.inf) if masked else None
    fused, plain = (form(query, keys, values, mask) for form in (attention, plain_attention))
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


def test_what_memory_held_before_does_not_reach_a_path(tokenizer, model, monkeypatch):
    scaled, stamp, numbers = problem(2, 20, 5, 3)
    task = {"horizon": 5, "n_paths": 3, "draw": KeyedDraw(numbers), "keep": Filter()}
    expected = engine(tokenizer, model).generate(scaled, stamp, **task)
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *sizes, **kw: new_empty(*sizes, **kw).fill_(torch.nan))
    assert torch.equal(engine(tokenizer, model).generate(scaled, stamp, **task), expected)


def test_one_compiled_graph_serves_every_static_step(tokenizer, model, monkeypatch):
    monkeypatch.setattr("btcbt.models.kronos.inference.cache.fixed_shapes", lambda device: True)
    stack = engine(tokenizer, model, packed=False).model.stack
    x = torch.randn(2, 7, model.config.d_model)
    paths, capacity = 3, 4
    graphs = CompileCounter()

    def decode(caches, extend, step_of):
        out = []
        for i in range(capacity):
            new = torch.linspace(-1, 1, 2 * paths * x.shape[-1]).view(2, paths, 1, -1) * (i + 1)
            out.append(extend(new, caches, torch.tensor([7 + i]), step_of(i, 1, capacity, x)))
        return torch.stack(out)

    with torch.inference_mode():
        _, kept = stack.prefill(x)

        def caches():
            return [SharedPrefixCache(k, v, paths, capacity) for k, v in kept]

        plain = decode(caches(), stack.extend, AppendStep.dynamic)
        torch.compiler.reset()
        compiled = torch.compile(stack.extend, backend=graphs, fullgraph=True, dynamic=False)
        torch.testing.assert_close(decode(caches(), compiled, AppendStep.static), plain, rtol=1e-5, atol=1e-5)
    assert graphs.frame_count == 1


def test_what_does_not_fit_is_refused_and_dropped_candles_are_warned_of_once(tokenizer, model, caplog):
    scaled, stamp, numbers = problem(1, 20, 6, 2)
    task = {"n_paths": 2, "draw": KeyedDraw(numbers), "keep": Filter()}
    with pytest.raises(ConfigError, match="horizon 6 does not fit max_context 6"):
        engine(tokenizer, model, 6).generate(scaled, stamp, horizon=6, **task)
    with pytest.raises(
        ConfigError, match="anchored block of 20 candles and horizon 6 need 26 tokens, max_context is 25"
    ):
        engine(tokenizer, model, 25).generate(scaled, stamp, horizon=6, ends=[18, 20], **task)
    sliding = engine(tokenizer, model, 24)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            sliding.generate(scaled, stamp, horizon=6, **task)
    assert len(caplog.records) == 1
    assert "context <= 19 avoids the cost" in caplog.text


def test_bfloat16_changes_the_model_but_not_the_tokens_of_the_context(tokenizer, model):
    scaled, stamp, numbers = problem(2, 20, 4, 8)
    coarse = engine(tokenizer, model, dtype=torch.bfloat16)
    exact = engine(tokenizer, model)
    for a, b in zip(coarse.tokens.encode(scaled), exact.tokens.encode(scaled), strict=True):
        assert torch.equal(a, b)
    task = {"horizon": 4, "n_paths": 8, "draw": KeyedDraw(numbers), "keep": Filter()}
    paths = coarse.generate(scaled, stamp, **task)
    assert paths.dtype == torch.float32
    assert torch.isfinite(paths).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_linear_layers_equal_plain_ones(bias, dtype):
    generator = torch.Generator().manual_seed(0)
    weight, x, other = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((24, 16), (3, 7, 16), (3, 7, 24))
    )
    b = torch.randn(24, generator=generator).to(dtype) if bias else None
    packed, plain = Linear(weight, b), Linear(weight, b, packed=False)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 5e-2}
    for options in ({}, {"silu": True}, {"other": other}, {"other": other, "combine": "mul"}):
        torch.testing.assert_close(packed(x, **options), plain(x, **options), **tolerance)


@torch.no_grad()
def test_price_orders_sort_the_tokens_by_the_close_that_they_decode_to(tokenizer, model):
    coarse, fine = engine(tokenizer, model).price_orders
    for order in (coarse, fine):
        assert sorted(order.tolist()) == list(range(32))
    closes = tokenizer.decode([coarse[:, None], torch.full((32, 1), 16)])[:, 0, 3]
    assert (closes.diff() >= 0).all()
    closes = tokenizer.decode([coarse[16].expand(32, 1), fine[:, None]])[:, 0, 3]
    assert (closes.diff() >= 0).all()
