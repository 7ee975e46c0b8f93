"""The hidden features of a trained bundle."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.files import digest
from beeline.core.modes import eval_mode, graph_of
from beeline.core.ranges import dataclass
from beeline.fields.flow import Flow, evaluate_field
from beeline.networks.dense import dense_features
from beeline.networks.hooks import block_name, captured_outputs, latest_output
from beeline.objectives.losses.encoders import EncoderBase, tokens
from beeline.runs.bundle import Bundle, load


@dataclass(frozen=True)
class OfBundle(EncoderBase):
    """The hidden features of a trained flow on clean data.

    h_block(x1, t), with no condition;  feature maps as tokens, one for each place
    Assumes a bundle for data of the same shape, whose network needs no vectors as a condition.
    Source: Xiang et al. 2023, "Denoising Diffusion Autoencoders are Unified Self-supervised Learners"
    (arXiv 2303.09769).

    >>> OfBundle("runs/digits", t=0.9).block
    ''
    """

    path: str  # directory of the bundle, or hub:owner/name
    block: str = ""  # the module whose output is read, by its name there; empty is the middle block
    t: float = 0.9  # time at which the datum is shown; below 1, where most networks have least to say

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        require(0 <= self.t <= 1, f"OfBundle got t={self.t}; a time is between 0 and 1: 0.9 is usual")

    @property
    def name(self) -> str:
        return f"hidden features of {self.path} at time {self.t:g}"

    @property
    def hash(self) -> str:
        return digest({}, bundle_of(self.path).weights, self.block, repr(self.t))

    def __call__(self, x: Tensor) -> Tensor:
        bundle = self._bundle(x)
        field = bundle.flow.field.to(x.device)
        block = block_name(field, self.block)
        with eval_mode(field, grad=True), graph_of(x), captured_outputs(field, block) as seen:
            evaluate_field(field, x, torch.full((len(x),), self.t, device=x.device))
        return tokens(latest_output(seen, block)).to(x.dtype)

    def dense(self, x: Tensor, blocks: Sequence[str] = (), *, maps: bool = False, noises: int = 0) -> Tensor:
        """Features [B,d,H,W] of several blocks for every place of images [B,C,H,W], in one pass.

        The other arguments are those of ``networks.dense.dense_features``.
        """
        flow = self._bundle(x).flow
        return dense_features(flow.field.to(x.device), x, blocks, t=self.t, maps=maps, noises=noises, path=flow.path)

    def _bundle(self, x: Tensor) -> Bundle:
        """The bundle; ValueError for data of another shape than its own."""
        bundle = bundle_of(self.path)
        known = tuple(bundle.modality.shape) if bundle.modality is not None else tuple(x.shape[1:])
        require(
            tuple(x.shape[1:]) == known,
            f"{self.path} is a flow for data of shape {known}, but was given data of shape {tuple(x.shape[1:])}, for "
            "which it has no features; use a bundle for data of the same shape",
        )
        return bundle


@functools.lru_cache(maxsize=2)
def bundle_of(path: str) -> Bundle:
    """A bundle on the CPU, kept for the next time."""
    return load(path, device="cpu")


def bundled(path: str) -> Flow:
    """The frozen flow of a bundle, kept for the next time."""
    return bundle_of(path).flow
