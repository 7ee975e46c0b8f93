"""Functions in place of attention: fewer or further keys, smoothed queries, sparse or changed weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beeline.networks.attending.mode import ImageAttention


def identity_attention(a: ImageAttention) -> Tensor:
    """Attention in which a token of the image sees itself and the text, and no other token of the image.

    y_i = v_i without a text;  y_i = softmax over j in {i} and the text of (q_i k_j' / sqrt(D)) v_j with one
    Tokens of the text are unchanged.
    """
    length, image = a.q.shape[2], a.image
    if image.stop - image.start == length:
        return a.v
    allowed = torch.ones(length, length, dtype=torch.bool, device=a.q.device)
    allowed[image, image] = torch.eye(image.stop - image.start, dtype=torch.bool, device=a.q.device)
    if a.mask is None or a.mask.dtype == torch.bool:
        return a.softmax(mask=allowed if a.mask is None else a.mask & allowed)
    return a.softmax(mask=a.mask.masked_fill(~allowed, -torch.inf))


def smoothed_attention(a: ImageAttention, sigma: float) -> Tensor:
    """Attention with the queries of the image blurred over its grid of tokens by a Gaussian.

    q_i <- sum_j w_ij q_j,  w_ij ~ exp(-|i - j|^2 / (2 sigma^2)) with sum 1 over the grid
    As logits are linear in the queries, they are blurred over the places of the queries.
    """
    rows, columns = (gaussian(n, sigma, a.q) for n in (a.grid.rows, a.grid.columns))
    q = a.q[:, :, a.image].unflatten(2, (a.grid.rows, a.grid.columns))
    q = torch.einsum("ri,bhijd,cj->bhrcd", rows, q, columns).flatten(2, 3)
    return a.softmax(q=torch.cat([a.q[:, :, : a.image.start], q, a.q[:, :, a.image.stop :]], 2))


def gaussian(n: int, sigma: float, like: Tensor) -> Tensor:
    """Weights [n,n] of a blur of n places, whose rows have the sum 1; the mean for an infinite ``sigma``."""
    at = torch.arange(n, dtype=torch.float32, device=like.device) / sigma
    return torch.softmax(-(at[:, None] - at).square() / 2, 1).to(like.dtype)


def sparse_attention(a: ImageAttention, alpha: float, scale: float) -> Tensor:
    """Attention whose weights for tokens of the image are moved towards sparse ones, or beyond them.

    y_i = softmax attention + scale m_i sum_j (entmax(z_i)_j - softmax(z_i)_j) v_j,  z_ij = q_i k_j' / sqrt(D)
    j runs over the text, and m_i is the weight that token i gives to all of it; without a text, over all tokens, m = 1.
    """
    image, text = a.image, a.text
    dense = a.softmax()
    alone = text.start == text.stop
    columns = image if alone else text
    z = (a.q[:, :, image] @ a.k[:, :, columns].mT).float() * a.scale
    if a.mask is not None:
        mask = a.mask[..., image if a.mask.shape[-2] > 1 else slice(None), columns]
        z = z.masked_fill(~mask, LOWEST) if mask.dtype == torch.bool else (z + mask).clamp(min=LOWEST)
    change = (entmax(z, alpha) - torch.softmax(z, -1)).to(a.v.dtype) @ a.v[:, :, columns]
    if not alone:
        change = change * attended(a, columns)[:, :, image]
    moved = dense[:, :, image] + scale * change
    return torch.cat([dense[:, :, : image.start], moved, dense[:, :, image.stop :]], 2)


def extended_attention(
    a: ImageAttention, k: Tensor, v: Tensor, weight: float | Tensor = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Attention to further keys [B,H,M,D] beside the own ones, whose weights have a factor.

    p_ij ~ weight exp(z_ij) for the own keys,  exp(z_ij) for the further ones
    The weight is a number or a tensor [B,1,1,1].  With k and v equal to the own ones it is plain attention for every
    weight; an infinite weight also is.  ``mask`` is that of the further keys.
    """
    if not isinstance(weight, Tensor) and weight == math.inf:
        return a.softmax()
    both = torch.cat([a.k, k], 2), torch.cat([a.v, v], 2)
    if a.mask is None and mask is None and not isinstance(weight, Tensor) and weight == 1:
        return a.softmax(k=both[0], v=both[1])
    own = added_mask(a.mask, a.k) + (weight.log().to(a.k) if isinstance(weight, Tensor) else math.log(weight))
    more = added_mask(mask, k)
    shape = torch.broadcast_shapes(own.shape[:-1], more.shape[:-1])
    bias = torch.cat([own.expand(*shape, -1), more.expand(*shape, -1)], -1)
    return a.softmax(k=both[0], v=both[1], mask=bias)


def added_mask(mask: Tensor | None, k: Tensor) -> Tensor:
    """A mask of keys [B,H,M,D] as numbers that are added to logits, broadcast to [B,H,L,M]."""
    if mask is None:
        return k.new_zeros(1, 1, 1, k.shape[2])
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=k.dtype).masked_fill(~mask, -torch.inf)
    return mask.reshape((1,) * (4 - mask.ndim) + mask.shape)


def reweighted_attention(a: ImageAttention, gain: Tensor) -> Tensor:
    """Attention whose weights are multiplied by ``gain``, broadcast to [B,H,L,L]; its rows keep no sum of 1.

    y_i = sum_j g_ij p_ij v_j
    """
    return (a.weights() * gain).to(a.v.dtype) @ a.v


LOWEST = -1e4  # logit of a masked key


def attended(a: ImageAttention, columns: slice) -> Tensor:
    """The sum of the weights [B,H,L,1] of some keys."""
    ones = torch.zeros_like(a.v)
    ones[:, :, columns] = 1
    return a.softmax(v=ones)[..., :1]


def entmax(z: Tensor, alpha: float, steps: int = 30) -> Tensor:
    """Sparse weights over the last dimension: softmax at alpha 1, sparsemax at 2.

    p_i = max(0, (alpha - 1) z_i - tau)^(1 / (alpha - 1)),  with tau such that their sum is 1
    tau is found by bisection and one Newton step, which also carries its gradient.
    Source: Peters, Niculae and Martins 2019, "Sparse Sequence-to-Sequence Models" (arXiv 1905.05702).

    >>> entmax(torch.tensor([2.0, 1.9, 0.0]), 2.0)
    tensor([0.5500, 0.4500, 0.0000])
    """
    if alpha == 1:
        return torch.softmax(z, -1)
    z = (alpha - 1) * (z - z.amax(-1, keepdim=True).detach())
    power = 1 / (alpha - 1)
    known = z.detach()
    low = torch.full_like(known[..., :1], -1.0)
    high = torch.full_like(low, -((1 / z.shape[-1]) ** (alpha - 1)))
    for _ in range(steps):
        middle = (low + high) / 2
        much = ((known - middle).clamp(min=0) ** power).sum(-1, keepdim=True) >= 1
        low, high = torch.where(much, middle, low), torch.where(much, high, middle)
    away = known - low
    slope = torch.where(away > 0, power * away.clamp(min=1e-30) ** (power - 1), 0).sum(-1, keepdim=True)
    excess = ((z - low).clamp(min=0) ** power).sum(-1, keepdim=True) - 1
    return (z - low - excess / slope).clamp(min=0) ** power
