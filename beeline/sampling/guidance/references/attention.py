"""Weak predictions by another attention in some blocks of the same network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any

from torch import Tensor

from beeline.core.ranges import Range, dataclass
from beeline.core.types import Cond
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.functions import identity_attention, smoothed_attention, sparse_attention
from beeline.networks.attending.mode import ImageAttention


class ChangedAttention(ABC):
    """Base of references with another attention among the tokens of an image, in some blocks; all else is equal."""

    blocks: tuple[str, ...]

    @abstractmethod
    def attend(self, a: ImageAttention) -> Tensor:
        """The output [B,H,L,D] of an attention."""

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        return with_attention(field, self.blocks, self.attend), cond


@dataclass(frozen=True)
class PerturbedAttention(ChangedAttention):
    """The same field with the identity in place of the attention map of an image, in some blocks (PAG).

    y_i = v_i for the tokens of the image;  with a text: softmax over token i and those of the text
    It needs no condition.  The text's own tokens are unchanged.
    Assumes a network that declares the tokens of an image (``Traits.tokens``), and no cache.
    Source: Ahn et al. 2024, "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance" (arXiv 2403.17377),
    which has no tokens of a text in self-attention.

    >>> from beeline.sampling.guidance.guide import Extrapolate, Guide
    >>> Guide(PerturbedAttention(("block.1",)), Extrapolate(3.0)).calls(0.5)
    2
    """

    blocks: tuple[str, ...] = ()  # names, as "block.1"; none is the middle one with attention

    def attend(self, a: ImageAttention) -> Tensor:
        return identity_attention(a)


@dataclass(frozen=True)
class SmoothedAttention(ChangedAttention):
    """The same field with the queries of an image blurred over its grid of tokens, in some blocks (SEG).

    q_i <- sum_j w_ij q_j,  w_ij ~ exp(-|i - j|^2 / (2 sigma^2)) with sum 1 over the grid
    The logits are blurred alike, as they are linear in the queries, and rotary positions are part of these.
    Assumes a network that declares the tokens of an image (``Traits.tokens``), and no cache.
    Source: Hong 2024, "Smoothed Energy Guidance" (arXiv 2408.00760), where the border is reflected.

    >>> SmoothedAttention(sigma=2.0, blocks=("block.1",)).sigma
    2.0
    """

    sigma: Annotated[float, Range(above=0, inf=True)] = math.inf  # of the blur, in tokens; infinite is the mean
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none is the middle one with attention

    def attend(self, a: ImageAttention) -> Tensor:
        return smoothed_attention(a, self.sigma)


@dataclass(frozen=True)
class SparseAttention(ChangedAttention):
    """The same field with the attention of an image moved towards sparse weights or beyond them, in some blocks.

    y_i = softmax attention + scale m_i sum_j (entmax(z_i) - softmax(z_i))_j v_j,  z_ij = q_i k_j' / sqrt(D)
    j runs over the tokens of the text, to which token i gives the weight m_i in all; without a text, over all tokens,
    and m_i = 1.  It is the stronger of both attentions: ``Substituted(SparseAttention(scale=2.0), CFG(3.0))`` samples
    with it at no further cost (PLADIS); as a reference it goes with a scale below 1.
    Assumes a network that declares the tokens of an image (``Traits.tokens``), and no cache.
    Source: Kim and Sim 2025, "PLADIS: Pushing the Limits of Attention in Diffusion Models at Inference Time by
    Leveraging Sparsity" (arXiv 2503.07677), in attention to a text.

    >>> SparseAttention(alpha=2.0).scale
    1.0
    """

    alpha: Annotated[float, Range(least=1, most=2)] = 1.5  # of entmax: 1 is softmax, 2 the sparsest
    scale: Annotated[float, Range(least=0)] = 1.0  # 0 is softmax, 1 entmax; 2 is usual for sampling with it
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none is the middle one with attention

    def attend(self, a: ImageAttention) -> Tensor:
        return sparse_attention(a, self.alpha, self.scale)
