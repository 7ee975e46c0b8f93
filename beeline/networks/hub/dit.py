"""A diffusion transformer of diffusers as a backbone, which other programs can load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring, Traits, nulls_of_labels
from beeline.core.errors import require
from beeline.core.modes import check_values, needs_check
from beeline.core.types import Cond
from beeline.networks.checks import check_image, check_sizes
from beeline.networks.embed import ConditionEmbedding, Conditions, check_state
from beeline.networks.fp32 import zeroed
from beeline.networks.hub.imports import diffusers


class DiffusersDiT(Declaring):
    """The ``DiTTransformer2DModel`` of diffusers as a backbone; ``beeline export`` writes it as a component.

    v(x, t, label) = -net(x, 1000 (1 - t), label),  so that the component predicts noise - data at times from 1000 to 0
    Assumes square images whose side is a multiple of the patch, at most one condition, a label, and the extra ``hub``.
    Source: Peebles and Xie 2022 (arXiv 2212.09748).

    >>> DiffusersDiT((1, 8, 8), width=16, depth=1, heads=2)(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        shape: Sequence[int],  # (channels, side, side) of one image
        patch: int = 2,  # side of a patch in pixels; the cost falls with at most its fourth power
        width: int = 128,  # channels of a token; a multiple of 4 and of heads
        depth: int = 3,  # blocks
        heads: int = 4,  # 32 to 64 channels per head are usual
        conditions: Conditions | None = None,
    ):
        super().__init__()
        self.shape = check_image("DiffusersDiT", shape)
        check_sizes("DiffusersDiT", patch=patch, width=width, depth=depth, heads=heads)
        self.labels = ConditionEmbedding(4, conditions).conditions  # checked there
        channels, height, length = self.shape
        side = min(height, length)
        near = sorted({max(patch, side // patch * patch), -(-side // patch) * patch})
        require(
            height == length and height % patch == 0,
            f"DiffusersDiT got images of {height}x{length} and patch={patch}; it takes square images whose side is a "
            f"multiple of the patch: set data.resize to {' or '.join(map(str, near))}, another patch, or network=DiT",
        )
        require(
            width % heads == 0 and width % 4 == 0,
            f"DiffusersDiT got width={width} and heads={heads}; the width is divided equally among the heads, and its "
            "quarter among position embeddings: set a multiple of heads and of 4",
        )
        kinds = [next(iter(spec)) for spec in self.labels.values()]
        require(
            len(kinds) <= 1 and all("classes" in spec for spec in self.labels.values()),
            f"DiffusersDiT got the conditions {self.labels}; it has an embedding of one label and no other: set "
            "network=DiT",
        )
        self.settings: dict[str, Any] = {"shape": list(self.shape), "patch": patch, "width": width, "depth": depth}
        self.settings |= {"heads": heads}
        self.classes = next((spec["classes"] for spec in self.labels.values()), 0)
        self.net: Any = diffusers("the network DiffusersDiT").DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=channels,
            num_layers=depth,
            sample_size=height,
            patch_size=patch,
            num_embeds_ada_norm=self.classes or 1,
        )
        for block in self.net.transformer_blocks:
            zeroed(block.norm1.linear)
            block.norm1.emb.class_embedder.dropout_prob = 0.0  # conditions are dropped by the objective
        zeroed(self.net.proj_out_1)
        zeroed(self.net.proj_out_2)

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"transformer_blocks": self.net.transformer_blocks}

    @property
    def traits(self) -> Traits:
        return Traits(nulls=nulls_of_labels(self.labels))

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self.settings, "conditions": self.labels}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        check_state(self, x, t, self.shape)
        label = self._label(cond, x)
        out: Tensor = self.net(x, timestep=1000 * (1 - t), class_labels=label, return_dict=False)[0]
        return -out

    def _label(self, cond: Cond, like: Tensor) -> Tensor:
        """The labels [B] of a condition; the null label without one."""
        if cond is None:
            return torch.full((like.shape[0],), self.classes, dtype=torch.int64, device=like.device)
        given = dict(cond) if isinstance(cond, Mapping) else dict.fromkeys(self.labels, cond)
        require(
            bool(self.labels) and set(given) == set(self.labels),
            f"DiffusersDiT got the conditions {sorted(given)}, and was built for {sorted(self.labels)}; pass these, or "
            "None for the null label",
        )
        label = next(iter(given.values()))
        require(
            isinstance(label, Tensor) and label.shape == (like.shape[0],) and not label.is_floating_point(),
            f"the label is {list(label.shape) if isinstance(label, Tensor) else type(label).__name__} for a batch of "
            f"{like.shape[0]}; pass integers [{like.shape[0]}]",
        )
        assert isinstance(label, Tensor)
        if needs_check(label, self.classes):
            low, high = torch.aminmax(label)
            check_values(
                (low >= 0) & (high <= self.classes),
                lambda: (
                    f"the labels range from {int(low)} to {int(high)}; this network has 0 to {self.classes - 1} and "
                    f"the null {self.classes}: check the data"
                ),
            )
        return label.clamp(0, self.classes).long()
