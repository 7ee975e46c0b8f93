"""A block that predicts the features of the next evaluation, so that only the last blocks are computed for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Stages, Wrapping, stacks_of, unwrapped
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.protocols.training import Distillation
from beeline.core.ranges import Count, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss, expand_time
from beeline.distillation.students import copied
from beeline.fields.flow import Flow, Network
from beeline.objectives.matching import FlowMatching, ObjectiveBase
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER


class InnerLoop(Wrapping):
    """A network with a trained block that predicts its features after block b at the time of the next evaluation.

    v(x, t) = out(B_L ... B_(b+1) h),  h = B_b ... B_1 x;  inside a run every second evaluation takes
    h(t') = h(t) + gate f(h(t), t')  from the evaluation before, and computes the blocks b+1 to L only
    The block f is a copy of block b+1, and the gate starts at zero, where features are reused as they are.  Evaluations
    from the time ``until`` are in full.  The network itself is not trained.
    Assumes a Network whose backbone declares its stages, such as MLP and DiT, and a solver that evaluates in the order
    of time.
    Source: Gwilliam et al. 2025, "Inner Loop Feedback" (arXiv 2501.13107); where the block starts and enters is chosen
    here.

    >>> from beeline.networks.mlp import MLP
    >>> net = InnerLoop(Network(MLP(2, width=8, depth=4)), after=3)
    >>> net(torch.zeros(4, 2), torch.zeros(4)).shape
    torch.Size([4, 2])
    """

    is_flow_map = False

    def __init__(self, field: nn.Module, after: int, until: float = 0.95):
        super().__init__()
        blocks = [block for stack in stacks_of(field).values() for block in stack]
        require(
            isinstance(field, Network) and len(stacks_of(field)) == 1,
            f"InnerLoop got a {type(field).__name__} without one sequence of repeated blocks; give a Network of an MLP "
            "or a DiT",
        )
        require(
            1 <= after < len(blocks),
            f"InnerLoop got after={after} and a network of {len(blocks)} blocks; the feedback comes after a block and "
            f"before another: give a number from 1 to {len(blocks) - 1}",
        )
        self.field, self.after, self.until = field, after, until
        for p in field.parameters():
            p.requires_grad_(False)
        self.feedback = copy.deepcopy(blocks[after]).requires_grad_(True)
        self.gate = nn.Parameter(torch.zeros(()))

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "after": self.after, "until": self.until}

    def for_branch(self) -> nn.Module:
        """The field for one condition of one run, whose evaluations alternate."""
        return InnerLoopRun(self)

    def forward(
        self, x: Tensor, t: Tensor, cond: Cond = None, *, known: Tensor | None = None, features: bool = False
    ) -> Any:
        """The velocity; with ``features`` also those after block b, from ``known`` ones of the evaluation before."""
        network: Any = self.field
        dtype = next(network.backbone.parameters()).dtype
        stages: Stages = network.backbone.stages(x.to(dtype), t, cond)
        blocks = [block for stack in stacks_of(network).values() for block in stack]
        h = stages.h
        if known is None:
            for block, told in zip(blocks[: self.after], stages.told, strict=False):
                h = block(h, *told)
        else:
            # the block gives its input and a change, of which the change is fed back
            h = known + self.gate * (self.feedback(known, *stages.told[self.after]) - known)
        after = h
        for block, told in zip(blocks[self.after :], stages.told[self.after :], strict=False):
            h = block(h, *told)
        output = stages.out(h, *stages.told[-1]).to(x.dtype)
        v = network.prediction.velocity(output, x, t, network.path)
        return (v, after) if features else v


class InnerLoopRun(nn.Module):
    """The evaluations of one run, full and from the features of the one before in turn."""

    def __init__(self, net: InnerLoop):
        super().__init__()
        self.net = net
        self.known: Tensor | None = None
        self.full, self.inner = 0, 0  # evaluations so far

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        late = float(host_times(t).max()) >= self.net.until - 1e-6
        known = None if late or self.known is None or len(self.known) != len(x) else self.known
        out, features = self.net(x, t, cond, known=known, features=True)
        v: Tensor = out
        self.known = features if known is None and not late else None
        self.full, self.inner = self.full + (known is None), self.inner + (known is not None)
        return v


@dataclass(frozen=True)
class InnerLoopMatching(ObjectiveBase):
    """Agreement of an inner evaluation with the full one after an Euler step.

    mean |v_inner(x', t') - v(x', t')|^2 + mean |h_inner - h'|^2,  x' = x + (t' - t) v(x, t),  t' = t + 1 / steps
    States x are those of the path between source and data.
    Source: Gwilliam et al. 2025 (arXiv 2501.13107).

    >>> InnerLoopMatching(20).steps
    20
    """

    steps: Count = 20  # of the sampler

    @property
    def spec(self) -> ObjectiveSpec:
        """Its losses compare with no loss of data."""
        return replace(super().spec, baselines=False)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        inner = unwrapped(field)
        require(
            isinstance(inner, InnerLoop),
            f"InnerLoopMatching got a {type(inner).__name__}; it trains the block of an InnerLoop beside its teacher: "
            "use beeline distill BUNDLE InnerLoopFeedback",
        )
        network: Network = inner.field
        batch = FlowMatching(network.path).pairs(batch, rng, field)
        assert batch.x0 is not None
        last = max(1, self.steps - 1)
        t = (rng.fork("times").uniform(len(batch.x1), batch.x1) * last).floor().clamp(max=last - 1) / self.steps
        x, _ = network.path.point(batch.x0, batch.x1, t, rng.fork("path"))
        s = t + 1 / self.steps
        with torch.no_grad():
            v, known = field(x, t, batch.cond, features=True)
            x = x + expand_time(s - t, x) * v
            wanted, features = field(x, s, batch.cond, features=True)
        found, predicted = field(x, s, batch.cond, known=known, features=True)
        error = (found - wanted).square().flatten(1).mean(1)
        deviation = (predicted - features).square().flatten(1).mean(1)
        value = (error + deviation).mean()
        terms = {"loss": value.detach(), "error": error.detach().mean(), "features": deviation.detach().mean()}
        return Loss(value, terms, (error + deviation).detach(), t)


@dataclass(frozen=True)
class InnerLoopFeedback(Distillation):
    """A block beside the frozen teacher, with which every second evaluation computes the last blocks only.

    the objective InnerLoopMatching;  sampled with Euler steps of the network InnerLoop
    Source: Gwilliam et al. 2025, "Inner Loop Feedback" (arXiv 2501.13107).

    >>> from beeline.networks.mlp import MLP
    >>> method = InnerLoopFeedback(after=3, steps=10)
    >>> method.student(Flow(None), {"student": nn.Identity()})[1].steps
    10
    """

    after: Count = 2  # blocks before the feedback; about three quarters of them
    steps: Count = 20  # of the sampler
    until: Share = 0.95  # time from which evaluations are in full

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        return {"student": InnerLoop(copied(teacher), self.after, self.until)}

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        return batch

    def objective(self, teacher: Flow) -> InnerLoopMatching:
        return InnerLoopMatching(self.steps)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return replace(teacher, field=networks["student"]), Sampler(self.steps, solver=EULER)

    def for_evaluations(self, evaluations: int) -> InnerLoopFeedback:
        return replace(self, steps=evaluations)
