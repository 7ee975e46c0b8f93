"""Fewer tokens of conditions, such as of long texts."""

from __future__ import annotations

import copy
from typing import Annotated, Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.declared import Stages
from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.ranges import Range, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.networks.adapters.inside import Reparametrized
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Plan, Probe
from beeline.networks.fp32 import layer_norm
from beeline.networks.transformer.layout import After, Layout, asked, controlling
from beeline.networks.transformer.plans.elastic import transformer_in

LeftOut = Annotated[float, Range(least=0, below=1)]


def condensed(h: Tensor, layout: Layout, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [B,N,D] with fewer of conditions; the tokens that are kept [B,M] of these, and how many each stands for.

    Padding is left out first, then the tokens that are most similar to an earlier one, which join the nearest kept one.
    """
    n, text = layout.tokens, h[:, layout.tokens :]
    count = text.shape[1]
    real = text.new_ones(text.shape[:2], dtype=torch.bool) if layout.keep is None else layout.keep[:, n:]
    u = F.normalize(wide(layer_norm(text)), dim=-1)
    similar = (u @ u.mT).masked_fill(~real[:, None], -torch.inf)
    earlier = similar.masked_fill(~torch.ones_like(similar[0], dtype=torch.bool).tril(-1), -torch.inf).amax(-1)
    order = earlier.masked_fill(~real, torch.inf).argsort(dim=1, stable=True)
    few = max(1, count - round(share * count))
    kept = order[:, :few].sort(1).values
    to = similar.gather(2, kept[:, None].expand(-1, count, -1)).argmax(-1)  # [B,count]
    to = to.scatter(1, kept, torch.arange(few, device=h.device).expand(len(h), -1))
    weight = F.one_hot(to, few).to(h.dtype) * real[..., None]
    sizes = weight.sum(1)
    joined = weight.mT @ text / sizes.clamp(min=1)[..., None]  # [B,M,D]
    return torch.cat([h[:, :n], joined], 1), kept, sizes.clamp(min=1)


def reduced(stages: Stages, share: float) -> Stages:
    """A forward pass that was begun, with fewer tokens of conditions."""
    layout: Layout = stages.told[-1][-1]
    if round(share * (stages.h.shape[1] - layout.tokens)) == 0:
        return stages
    h, kept, sizes = condensed(stages.h, layout, share)

    def of(own: Layout) -> Layout:
        n = own.tokens
        keep = None if own.keep is None else torch.cat([own.keep[:, :n], own.keep[:, n:].gather(1, kept)], 1)
        own_sizes = sizes.new_ones(len(h), n) if own.sizes is None else own.sizes
        return own._replace(keep=keep, sizes=torch.cat([own_sizes, sizes], 1))

    return Stages(h, [(*rest, of(own)) for *rest, own in stages.told], stages.out)


class FewerConditionTokens(Reparametrized):
    """A flow transformer whose blocks see fewer tokens of conditions: similar ones are merged, padding is left out.

    h_j <- mean of the tokens of its group, with ln(size) added to logits of softmax
    Equal tokens, which every block changes equally, are merged without an error.  Source: Bolya et al. 2022, "Token
    Merging" (arXiv 2210.09461), for tokens of pictures.

    >>> from beeline.networks.dit import MMDiT
    >>> text = {"text": {"length": 8, "size": 4}}
    >>> net = FewerConditionTokens(MMDiT((1, 8, 8), width=16, depth=2, heads=2, conditions=text))
    >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2), {"text": torch.ones(2, 8, 4)}).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        field: nn.Module,
        share: LeftOut = 0.5,  # of the tokens of conditions that are left out
    ):
        super().__init__()
        net = transformer_in(field, type(self).__name__)
        require(
            net.text is not None,
            f"FewerConditionTokens was given a {type(net).__name__}, whose blocks read no tokens of conditions; use a "
            "network with sequences among its tokens, such as MMDiT with a condition of a length, or leave it out",
        )
        self.field, self.share = field, share

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        before = asked().control

        def change(stages: Stages) -> tuple[Stages, After]:
            stages, after = before(stages)
            return reduced(stages, self.share), after

        with controlling(change):
            return super().forward(x, t, cond, s)

    def stages(self, x: Tensor, t: Tensor, cond: Any = None) -> Stages | None:
        found = super().stages(x, t, cond)
        return None if found is None else reduced(found, self.share)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "share": self.share}


@dataclass(frozen=True)
class ReduceConditions:
    """Blocks see fewer tokens of conditions, such as of long texts: padding is left out, similar tokens are merged.

    h_j <- mean of the tokens of its group, with ln(size) added to logits of softmax
    Bytes stay as they are, operations do not.  Mixers other than Attention do not see the sizes.
    Source: Bolya et al. 2022, "Token Merging" (arXiv 2210.09461).

    >>> ReduceConditions(0.25).share
    0.25
    """

    share: LeftOut = 0.5  # of the tokens of conditions that are left out

    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        FewerConditionTokens(network, self.share)
        size = stored_bytes(network)
        return Plan({"tokens of conditions": f"{self.share:.0%} merged into others"}, size, size)

    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        return FewerConditionTokens(copy.deepcopy(network), self.share)
