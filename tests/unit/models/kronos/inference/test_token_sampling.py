from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from btcbt.errors import ConfigError
from btcbt.models.kronos.inference.sampling import Filter, KeyedDraw, MultinomialDraw
from btcbt.randomness import uniforms


def filtered_by_definition(logits, temperature, top_k, top_p):
    """Row by row, with Python's own sort."""
    out = []
    for row in np.asarray(logits, dtype=np.float64) / temperature:
        p = np.exp(row - row.max())
        p /= p.sum()
        order = sorted(range(len(p)), key=lambda i, p=p: -p[i])
        if top_k > 0:
            keep = [i for i in order if p[i] >= p[order[min(top_k, len(p)) - 1]]]
        else:
            keep, mass = [], 0.0
            for i in order:
                if mass > top_p:
                    break
                keep.append(i)
                mass += p[i]
        out.append([p[i] if i in keep else 0.0 for i in range(len(p))])
    return np.array(out)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (0, 0.9), (0, 0.3), (0, 1e-9), (1, 1.0), (3, 0.1), (50, 1.0), (64, 1.0)]
)
def test_filters_keep_what_the_definition_keeps(rng, temperature, top_k, top_p):
    logits = torch.from_numpy(rng.normal(0, 2, (20, 50)).astype(np.float32))
    p = Filter(temperature, top_k, top_p).probabilities(logits)
    np.testing.assert_allclose(p, filtered_by_definition(logits, temperature, top_k, top_p), atol=1e-6)


def test_top_k_keeps_ties_and_ignores_top_p():
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    kept = Filter(1.0, 1, 0.01).probabilities(logits) > 0
    assert kept.tolist() == [[False, True, True, False]]


def test_the_nucleus_keeps_the_token_that_crosses_the_threshold():
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    kept = Filter(1.0, 0, 0.6).probabilities(p.log()) > 0
    assert kept.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_impossible_sampling_parameters_are_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        Filter(**bad)


def test_a_keyed_draw_is_the_inverse_cdf(rng):
    p = rng.random((3, 4, 10)).astype(np.float32)
    p[..., ::3] = 0
    u = rng.random((3, 4, 5, 2))
    draw = KeyedDraw(torch.from_numpy(u))
    for step, lane in ((0, 0), (4, 1)):
        ids = draw(torch.from_numpy(p), step, lane)
        for b in range(3):
            for s in range(4):
                cdf = np.cumsum(p[b, s] / p[b, s].sum(dtype=np.float64))
                assert ids[b, s] == np.searchsorted(cdf, u[b, s, step, lane], side="right")


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_a_token_of_no_weight_is_never_drawn(u):
    p = torch.zeros(1, 1, 1024)
    p[..., 100:900] = torch.rand(800, generator=torch.Generator().manual_seed(0))
    chosen = int(KeyedDraw(torch.full((1, 1, 1, 2), u, dtype=torch.float64))(p, 0, 0))
    assert chosen == (100 if u == 0 else 899)


def test_keyed_draws_follow_the_distribution():
    p = torch.softmax(torch.linspace(-2, 2, 12), 0)
    numbers = torch.from_numpy(uniforms(3, [5], 20_000, 1))
    ids = KeyedDraw(numbers)(p.expand(1, 20_000, 12), 0, 0)
    observed = np.bincount(ids.flatten(), minlength=12)
    assert stats.chisquare(observed, 20_000 * p.double().numpy() / p.double().sum().item()).pvalue > 1e-3


def test_the_reference_s_stream_is_torch_multinomial_row_by_row(rng):
    p = torch.from_numpy(rng.random((2, 3, 6)).astype(np.float32))
    p = p / p.sum(-1, keepdim=True)
    ours = MultinomialDraw(torch.Generator().manual_seed(1))(p, 0, 0)
    theirs = torch.multinomial(p.view(6, 6), 1, generator=torch.Generator().manual_seed(1)).view(2, 3)
    assert torch.equal(ours, theirs)


def test_an_order_of_the_tokens_changes_no_probability(rng):
    p = rng.random((1, 3, 10)).astype(np.float32)
    u = rng.random((1, 3, 1, 2))
    orders = tuple(torch.from_numpy(rng.permutation(10)) for _ in range(2))
    draw = KeyedDraw(torch.from_numpy(u), orders)
    for lane, order in enumerate(orders):
        ids = draw(torch.from_numpy(p), 0, lane)
        for s in range(3):
            cdf = np.cumsum(p[0, s][order] / p[0, s].sum(dtype=np.float64))
            assert ids[0, s] == order[np.searchsorted(cdf, u[0, s, 0, lane], side="right")]
