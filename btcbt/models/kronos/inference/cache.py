"""Attention with a cache whose prefix is shared: many continuations of one context.

The S sample paths of an origin share its context. Its keys and values are computed once and stored once; each path
stores only those of the tokens that it generated. A query attends to both apart, and the log-sum-exps of the scores say
how the two mixtures are weighed against each other: together they are one softmax (Dao et al., 2022, section 3.1).
The prefix is read by one fused product for each origin and head, with the paths folded into its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def fixed_shapes(device: torch.device) -> bool:
    """Whether all steps of a generation have the same shapes, so that a step can be compiled: not on a CPU."""
    return device.type != "cpu"


@dataclass(frozen=True)
class AppendStep:
    """Cache slots of the newest L tokens of each path, and the path's own tokens that they may attend to.

    Attributes
    ----------
    slots : slice, or int64 (L,)
        Slots of the new tokens among the path's own.
    visible : int
        Number of slots that enter the attention: the filled ones, or all of them if the step is static.
    mask : (L, visible), or None
        Minus infinity where a new token must not attend; None if it may attend everywhere.
    """

    slots: slice | Tensor
    visible: int
    mask: Tensor | None

    @classmethod
    def new(cls, length: int, n_new: int, capacity: int, like: Tensor) -> AppendStep:
        """The step that appends `n_new` tokens to `length`, with fixed shapes or not."""
        return (cls.static if fixed_shapes(like.device) else cls.dynamic)(length, n_new, capacity, like)

    @classmethod
    def dynamic(cls, length: int, n_new: int, capacity: int, like: Tensor) -> AppendStep:
        """Attends to the filled slots alone."""
        visible = min(length + n_new, capacity)
        mask = _causal_mask(torch.arange(length, visible, device=like.device), visible, like) if n_new > 1 else None
        return cls(slice(length, visible), visible, mask)

    @classmethod
    def static(cls, length: int, n_new: int, capacity: int, like: Tensor) -> AppendStep:
        """Attends to all slots, the empty ones masked: every step has the same shapes, and one graph serves them."""
        slots = torch.arange(length, length + n_new, device=like.device)
        return cls(slots, capacity, _causal_mask(slots, capacity, like))


def _causal_mask(slots: Tensor, visible: int, like: Tensor) -> Tensor:
    """Minus infinity after each slot, (L, visible)."""
    later = torch.arange(visible, device=slots.device) > slots[:, None]
    return torch.zeros(later.shape, dtype=like.dtype, device=slots.device).masked_fill_(later, -torch.inf)


def attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mix values, and say by how much the scores weigh in all.

    Parameters
    ----------
    query : (B, heads, L, head_dim)
        Scaled.
    keys, values : (B, heads, T, head_dim)
    mask : (L, T), optional
        Added to the scores.

    Returns
    -------
    (B, heads, L, head_dim), and the log-sum-exp of the scores, float32 (B, heads, L)
    """
    if query.device.type == "cpu":
        mixed, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, attn_mask=mask, scale=1.0
        )
        return mixed, weight
    return plain_attention(query, keys, values, mask)


def plain_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`attention` in products that every device has."""
    scores = (query @ keys.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores + mask
    weight = torch.logsumexp(scores, dim=-1)
    return torch.exp(scores - weight.unsqueeze(-1)).type_as(values) @ values, weight


class SharedPrefixCache:
    """Keys and values of one attention layer: the prefix of each origin, and each path's own tokens.

    Parameters
    ----------
    keys, values : (B, heads, T, head_dim)
        Of the prefix.
    n_paths, capacity : int
        S, and how many tokens a path may append.
    hidden_keys : (S, T) bool, optional
        Prefix columns hidden from a path (anchored contexts end at different candles).
    """

    def __init__(
        self, keys: Tensor, values: Tensor, n_paths: int, capacity: int, hidden_keys: Tensor | None = None
    ) -> None:
        b, h, _, d = keys.shape
        self.keys, self.values = keys, values
        # Masked slots are read with weight 0, which only a number takes away.
        allocate = keys.new_zeros if fixed_shapes(keys.device) else keys.new_empty
        self.own_keys, self.own_values = (allocate(capacity, b, n_paths, h, d) for _ in range(2))
        self.mask = None
        if hidden_keys is not None:
            self.mask = keys.new_zeros(hidden_keys.shape).masked_fill_(hidden_keys, -torch.inf)

    def append(self, keys: Tensor, values: Tensor, step: AppendStep) -> None:
        """Add the keys and values (B, S, L, heads, head_dim) of the new tokens of each path."""
        self.own_keys[step.slots] = keys.movedim(2, 0)
        self.own_values[step.slots] = values.movedim(2, 0)

    def attend(self, query: Tensor, step: AppendStep | None) -> Tensor:
        """Attention of the newest L tokens to the prefix and to their path up to themselves.

        Parameters
        ----------
        query : (B, S, L, heads, head_dim)
            Scaled and rotated.
        step : AppendStep, or None
            The newest one; None while paths have no tokens of their own.

        Returns
        -------
        (B, S, L, heads * head_dim)
        """
        length = query.shape[2]
        mask = self.mask if self.mask is None or length == 1 else self.mask.repeat_interleave(length, dim=0)
        mixed, weight = attention(query.flatten(1, 2).transpose(1, 2), self.keys, self.values, mask)
        mixed, weight = (part.transpose(1, 2).unflatten(1, (-1, length)) for part in (mixed, weight))
        if step is not None:
            add = self._add_token_by_token if step.mask is None else self._add_fused
            mixed = add(query, mixed, weight, step)
        return mixed.flatten(3)

    def _add_fused(self, query: Tensor, prefix: Tensor, weight: Tensor, step: AppendStep) -> Tensor:
        """Add the path's own tokens to what the prefix gave: (B, S, L, heads, head_dim), (B, S, L, heads)."""
        keys, values = (own[: step.visible].permute(1, 2, 3, 0, 4) for own in (self.own_keys, self.own_values))
        own, own_weight = attention(query.transpose(2, 3).flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1),
                                    step.mask)  # fmt: skip
        own, own_weight = (part.transpose(1, 2).view(prefix.shape[: part.dim() + 1]) for part in (own, own_weight))
        return torch.lerp(prefix, own, torch.sigmoid(own_weight - weight).unsqueeze(-1).type_as(own))

    def _add_token_by_token(self, query: Tensor, prefix: Tensor, weight: Tensor, step: AppendStep) -> Tensor:
        """As `_add_fused` for one new token; products this small are faster as sums over all paths at once.

        The prefix counts as one more token: its score is its log-sum-exp, its value what it gave.
        """
        scores = weight.new_empty(step.visible + 1, *weight.shape)
        scores[0] = weight
        query = query.float()
        product = torch.empty(query.shape)
        for key, score in zip(self.own_keys[: step.visible, :, :, None], scores[1:], strict=True):
            torch.sum(torch.mul(key, query, out=product), -1, out=score)
        shares = torch.softmax(scores, dim=0).unsqueeze(-1)
        mixed = torch.mul(prefix, shares[0], out=product)
        for value, share in zip(self.own_values[: step.visible, :, :, None], shares[1:], strict=True):
            mixed.addcmul_(value, share)
        return mixed.type_as(prefix)
