"""Editors that follow instructions: the picture, a reference and the operation are conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss
from beeline.fields.flow import Network, bind
from beeline.objectives.editing.pairs import PairOperation
from beeline.objectives.heads import Beside, settings_of
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper

OPERATION, STATES = "operation", ("source", "reference")


class EditingField(Beside):
    """A velocity field of edited data, conditioned on the data before the edit, on a reference and on an operation.

    v(x_t, t, cond) = the first third of network([x_t, source, reference], t, cond)
    What is not given is blank (zeros), and the operation null: without a source it generates data.
    Assumes a network for data whose first dimension is three times as long.
    Source: Brooks et al. 2023, "InstructPix2Pix" (arXiv 2211.09800); Tian et al. 2025, "MIGE" (arXiv 2502.21291), the
    blank canvas.

    >>> EditingField(lambda x, t: x, "source")(torch.ones(1, 2), torch.zeros(1))
    tensor([[1., 1.]])
    """

    def forward(self, y: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        given: dict[str, Any] = dict(cond) if isinstance(cond, Mapping) else {} if cond is None else {"cond": cond}
        states = [given.pop(name, torch.zeros_like(y)) for name in STATES]
        for name, state in zip(STATES, states, strict=True):
            require(
                state.shape == y.shape,
                f"an editor got the {name} of shape {tuple(state.shape)} for data of shape {tuple(y.shape)}; they are "
                "concatenated: give one of the same shape",
            )
        output: Tensor = bind(self.network, self._rest(given, len(y), y.device))(torch.cat([y, *states], 1), t)
        return output[:, : y.shape[1]]


@dataclass(frozen=True)
class Instructed(ObjectiveWrapper):
    """Flow matching of edited data, with pairs made from the data by known operations.

    E over k of the loss of op_k(x, reference) under {source: x, reference, operation: k, ...}
    The reference is another datum of the batch, and blank for an operation that does not use it.  With the probability
    ``blank`` source and reference are blank, the operation is null and the target is the datum itself: one network
    generates and edits.
    Assumes data whose other conditions stay true after every operation.  Edit by TrainedEditor(k).
    Source: Brooks et al. 2023, "InstructPix2Pix" (arXiv 2211.09800); Tian et al. 2025, "MIGE" (arXiv 2502.21291).

    >>> from beeline.objectives.editing.pairs import Inverted
    >>> loss = Instructed((Inverted(),))(lambda x, t, cond: 0 * x, Batch(torch.ones(4, 2)), Rng(0))
    >>> loss.per_sample.shape
    torch.Size([4])
    """

    operations: tuple[PairOperation, ...]  # an operation is named by its index
    blank: Share = 0.2  # probability of generation without a source
    objective: FlowMatching = field(default_factory=FlowMatching)

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        require(self.operations, "Instructed got no operations; give some, as (Inverted(), Shifted(right=2))")

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, wrap=self.wrap, baselines=False)  # baselines take no source

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """A network like that of the run, for a state, a source and a reference, and with the operations as labels."""
        given = settings_of(network)
        require(
            bool(given.get("shape")),
            f"{type(network).__name__} was to be conditioned on a source, and does not describe the shape of its data, "
            "along which the source is concatenated: use networks.MLP, UNet or DiT",
        )
        known = given.get("conditions") or {}
        taken = {OPERATION, "cond", *STATES} & set(known)
        require(
            not taken,
            f"the data have the conditions {sorted(taken)}, names that an editor uses for other inputs; rename them",
        )
        given |= {"shape": [3 * given["shape"][0], *given["shape"][1:]]}
        given |= {"conditions": {**known, OPERATION: {"classes": len(self.operations)}}}
        given |= {"size": None} if "size" in given else {}
        with rng.ambient():
            backbone = type(network.backbone)(**given)
        return EditingField(Network(backbone), STATES[0])

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        return self.objective(field, self.pairs(batch, rng.fork("pairs")), rng)

    def pairs(self, batch: Batch, rng: Rng) -> Batch:
        """The edited data of a batch, with source, reference and operation among their conditions."""
        x, n = batch.x1, len(batch.x1)
        k = rng.fork("operation").integers(len(self.operations), n).to(x.device)
        k = torch.where(rng.fork("blank").uniform(n, x) < self.blank, len(self.operations), k)
        reference = x[(torch.arange(n, device=x.device) + 1) % n]

        def where(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return torch.where(chosen.view(-1, *(1 for _ in x.shape[1:])), a, b)

        nothing = torch.zeros_like(x)
        target, shown = x, nothing
        for number, operation in enumerate(self.operations):
            made, without = operation(x, reference), operation(x, nothing)
            used = (made != without).flatten(1).any(1)  # an operation that needs no reference is given none
            target = where(k == number, made, target)
            shown = where((k == number) & used, reference, shown)
        states = dict(zip(STATES, (where(k < len(self.operations), x, nothing), shown), strict=True))
        cond = batch.cond
        named = dict(cond) if isinstance(cond, Mapping) else {} if cond is None else {"cond": cond}
        return replace(batch, x1=target, cond={**named, **states, OPERATION: k})
