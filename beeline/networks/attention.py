"""Self-attention with normalised queries and keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from beeline.core.errors import require
from beeline.networks.fp32 import rms_norm


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(D)) v for [B,H,N,D], with support for forward-mode differentiation.

    ``mask`` [N,M] is true where a query may see a key.

    The fused kernels have no forward derivative, so the math backend is used inside forward-mode differentiation.  For
    second derivatives in reverse mode, call the network inside ``sdpa_kernel(SDPBackend.MATH)``.
    """
    # check the level, not the tangents of q, k and v, which are not visible inside a gradient
    if forward_ad._current_level >= 0:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, mask)


class SelfAttention(nn.Module):
    """Multi-head self-attention, with RMS-normalised queries and keys unless ``norm`` is false.

    y = W softmax(norm(q) norm(k)' / sqrt(D)) v, with q, k, v from one linear layer
    Assumes tokens [B,N,width] with width a multiple of heads.  The normalisation in float32 bounds the logits and
    stabilises training in half precision.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); QK-norm: Henry et al. 2020 (arXiv 2010.04245).

    >>> SelfAttention(8, heads=2)(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, norm: bool = True):
        super().__init__()
        require(
            heads >= 1 and width % heads == 0,
            f"SelfAttention got width={width} and heads={heads}; the width is divided equally among the heads: set a "
            "width that is a multiple of heads",
        )
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.gain = nn.Parameter(torch.ones(2, 1, width // heads)) if norm else None
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.joined(attend(*self.divided(x)))

    def divided(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B,H,N,D] of tokens."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [B,N,3,H,D]
        both = qkv[:, :, :2] if self.gain is None else rms_norm(qkv[:, :, :2], self.gain)
        q, k = both.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, qkv[:, :, 2].transpose(1, 2)

    def joined(self, mixed: Tensor) -> Tensor:
        """The tokens of all heads [B,H,N,D] together."""
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class CausalAttention(SelfAttention):
    """Self-attention in which a token sees itself and the tokens before it, which may have been computed earlier.

    y_i = W softmax over j <= i of (norm(q_i) norm(k_j)' / sqrt(D)) v_j
    Returns the output and the keys and values so far [B,H,M,D]; ``past`` are those of the tokens before.
    Source: Vaswani et al. 2017 (arXiv 1706.03762).

    >>> y, (keys, values) = CausalAttention(8, heads=2)(torch.zeros(1, 3, 8))
    >>> keys.shape
    torch.Size([1, 2, 3, 4])
    """

    def forward(  # type: ignore[override]
        self, x: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = self.divided(x)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        known = k.shape[2] - q.shape[2]
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(known)
        return self.joined(attend(q, k, v, mask)), (k, v)
