"""Training on data of a small change of a flow, or of a flow that was made smaller."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from torch import Tensor, nn

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.protocols.training import Microbatches
from beeline.core.ranges import Count, Inside, NonNegative, Share, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, map_cond
from beeline.distillation.feeds import Mixed
from beeline.distillation.finetune import OnData
from beeline.distillation.pairs import reflow_pairs
from beeline.distillation.personal.responses import Kept, Responses, Taught, classes_of, drawn_classes
from beeline.distillation.students import copied, error_space
from beeline.fields.flow import Flow
from beeline.networks.adapters.adapted import Adapted, adapted
from beeline.networks.adapters.delta import Delta, LoRA
from beeline.networks.adapters.inside import with_backbone
from beeline.networks.branches.bottlenecks import Bottleneck
from beeline.networks.branches.branch import Branch
from beeline.networks.branches.branched import branched
from beeline.networks.compressing.removal.slimming import Slimmed
from beeline.networks.hooks import block_paths
from beeline.networks.side.reading import DepthReader
from beeline.objectives.alignment import Noted
from beeline.objectives.games.adversarial import channels_of
from beeline.objectives.matching import Drop, FlowMatching
from beeline.sampling.sampler import Sampler
from beeline.training.feed.microbatches import InMemory


class ByFlowMatching(OnData):
    """Base of methods that train a part beside the weights of a flow, or all of them, by flow matching on data."""

    drop: float
    sampler: Sampler

    @abstractmethod
    def changed(self, teacher: Flow) -> nn.Module:
        """A copy of the network, in which what is trained requires gradients."""

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        require(
            not is_map(teacher.field),
            "a flow map was to be adapted, whose jumps are not learned by flow matching on data; adapt the flow "
            "that it was distilled from, and distil the result",
        )
        return {"student": self.changed(teacher)}

    def objective(self, teacher: Flow) -> Any:
        return self.matching(teacher)

    def matching(self, teacher: Flow) -> FlowMatching:
        """Flow matching as the teacher was trained."""
        drop = Drop(self.drop, teacher.null) if teacher.null else None
        return FlowMatching(teacher.path, prediction=error_space(teacher), drop=drop)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return replace(teacher, field=networks["student"]), self.sampler


@dataclass(frozen=True)
class Adaptation(ByFlowMatching):
    """Flow matching on data in which only a delta of the weights is trained.

    the objective FlowMatching on the path of the flow, with W' = delta(W) in its layers
    Conditions are dropped as often as ``drop`` says where the flow has a null.  With ``prior`` half of every batch are
    samples of the flow before its change, drawn once, of all classes: loss = mean over data + prior mean over samples.
    Data without labels then have the null of the classes.  A flow map is refused: adapt the flow from which it was
    distilled, and distil again.
    Source: Hu et al. 2021 (arXiv 2106.09685); the prior: Ruiz et al. 2022, "DreamBooth" (arXiv 2208.12242); ``keep``:
    Li and Hoiem 2016, "Learning without Forgetting" (arXiv 1606.09282).

    >>> Adaptation().delta.rank
    4
    """

    delta: Delta = field(default_factory=LoRA)
    layers: tuple[str, ...] = ()  # ends of names of layers; none: all layers of the blocks
    drop: Share = 0.1  # of conditions
    sampler: Sampler = field(default_factory=Sampler)  # of the adapted flow, and of the samples before its change
    prior: NonNegative = 0.0  # weight of samples of the flow before its change
    drawn: Count = 256  # such samples
    keep: NonNegative = 0.0  # weight of its velocities for other classes on the noisy data

    def changed(self, teacher: Flow) -> nn.Module:
        return adapted(copied(teacher), self.delta, self.layers)

    def objective(self, teacher: Flow) -> Any:
        plain = self.matching(teacher)
        return Kept(copied(teacher).requires_grad_(False), plain, self.keep) if self.keep else plain

    def supply(self, teacher: Flow, data: Any, batch: Batch, rng: Rng) -> Batch | Microbatches:
        if not self.prior:
            return self.feed(teacher, data, rng)
        require(
            isinstance(data, Batch),
            f"prior={self.prior:g} was given with data that are read in parts ({type(data).__name__}), to which no "
            "samples are added; leave prior at 0, or give data that fit into memory",
        )
        cond: Any = drawn_classes(teacher.field, self.drawn, batch.x1, rng.fork("classes"))
        own: Batch = data
        if cond is None:  # those of the data
            some = rng.fork("conditions").integers(len(batch.x1), self.drawn).to(batch.x1.device)
            cond = map_cond(lambda leaf: leaf[some], batch.cond)
        elif batch.cond is None:
            n = len(own.x1)
            own = replace(own, cond={k: v.new_full((n,), classes_of(teacher.field, k)) for k, v in cond.items()})
        elif isinstance(batch.cond, Tensor):
            cond = next(iter(cond.values()))
        wanted = self.drawn if cond is None else cond
        made = reflow_pairs(teacher, self.sampler, wanted, rng.fork("prior"), like=batch.x1)
        drawn = InMemory(Batch(made.x1, cond=made.cond, weight=_weights(made, 2 * self.prior)), rng.fork("prior order"))
        weighted = InMemory(replace(own, weight=_weights(own, 2.0)), rng.fork("data order"))
        return Mixed(weighted, drawn, 0.5)


@dataclass(frozen=True)
class BranchTraining(ByFlowMatching):
    """Flow matching on data in which modules beside the blocks of a flow are trained, and the flow is not.

    the objective FlowMatching on the path of the flow, with the terms that the branch asks for
    Source: Houlsby et al. 2019 (arXiv 1902.00751); each branch names its own.

    >>> BranchTraining().branch.rank
    16
    """

    branch: Branch = field(default_factory=Bottleneck)
    drop: Share = 0.1  # of conditions
    sampler: Sampler = field(default_factory=Sampler)  # of the flow with the branch

    def changed(self, teacher: Flow) -> nn.Module:
        return branched(copied(teacher), self.branch)

    def objective(self, teacher: Flow) -> Any:
        plain, terms = self.matching(teacher), self.branch.terms
        return Noted(plain, dict(terms)) if terms else plain


@dataclass(frozen=True)
class Slimming(ByFlowMatching):
    """Flow matching on data while heads and hidden channels fade, after which they are taken away.

    the objective FlowMatching on the path of the flow, with the network Slimmed;  the student is its ``slim``
    Without a delta all weights are trained.  With one the numbers of the delta alone are, and merged at the end.
    Source: Chen et al. 2024, HESSO (arXiv 2409.09085); with a delta: Hedegaard et al. 2022, structured adapters (arXiv
    2211.10155).

    >>> Slimming(0.5).delta is None
    True
    """

    share: Inside = 0.5  # of the heads and hidden channels of every block that stays
    periods: Count = 3  # in each of which some of the others fade
    start: Share = 0.05  # of the training, before any fade
    end: Share = 0.5  # of the training, after which those that are left learn on
    delta: Delta | None = None  # that is trained in place of all weights
    layers: tuple[str, ...] = ()  # of the delta, ends of names; none: all layers of the blocks
    drop: Share = 0.1  # of conditions
    sampler: Sampler = field(default_factory=Sampler)  # of the smaller flow

    def changed(self, teacher: Flow) -> nn.Module:
        def slimmed(net: nn.Module) -> nn.Module:
            inner = net.requires_grad_(True) if self.delta is None else Adapted(net, self.delta, self.layers)
            return Slimmed(inner, self.share, self.periods, self.start, self.end)

        return with_backbone(copied(teacher), slimmed)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        def slim(net: Any) -> nn.Module:
            made: nn.Module = net.slim()
            return made

        return replace(teacher, field=with_backbone(networks["student"], slim)), self.sampler


@dataclass(frozen=True)
class Continued(ByFlowMatching):
    """Flow matching on the data of the teacher in which all weights are trained, for networks that were made smaller.

    E |v(x_t, t, c) - (x1 - x0)|^2 + teach E |v(x_t, t, c) - v_teacher(x_t, t, c)|^2
    The student is a copy of the teacher, or the smaller network that is given as the start of the run.  With teach = 0
    no teacher is evaluated, and a step takes less time; its velocities help where data are few.
    Source: Jha et al. 2023, "Large Language Model Distillation Doesn't Need a Teacher" (arXiv 2305.14864); with teach:
    Kim et al. 2023, BK-SDM (arXiv 2305.15798).

    >>> Continued().teach
    0.0
    """

    teach: NonNegative = 0.0  # weight of the velocities of the teacher
    drop: Share = 0.1  # of conditions
    sampler: Sampler = field(default_factory=Sampler)  # of the student

    def changed(self, teacher: Flow) -> nn.Module:
        return copied(teacher)

    def objective(self, teacher: Flow) -> Any:
        plain = self.matching(teacher)
        return Taught(copied(teacher).requires_grad_(False), plain, self.teach) if self.teach else plain


@dataclass(frozen=True)
class SideTuned(ByFlowMatching):
    """Flow matching on data in which a recurrent network over the depth of the flow is trained, and the flow is not.

    DepthReader beside the backbone: no gradient runs through the flow, and none of its activations is kept.
    Source: Nguyen et al. 2023, "READ: Recurrent Adaptation of Large Transformers" (arXiv 2305.15348).

    >>> SideTuned().rank
    16
    """

    rank: Count = 16  # of the recurrent network
    drop: Share = 0.1  # of conditions
    sampler: Sampler = field(default_factory=Sampler)  # of the flow with it

    def changed(self, teacher: Flow) -> nn.Module:
        net = copied(teacher)
        channels = channels_of(net, block_paths(net)[-1])
        return with_backbone(net, lambda inner: DepthReader(inner, channels, self.rank))


@dataclass(frozen=True)
class Unlearning(ByFlowMatching):
    """A delta of the weights after which classes are drawn as another one, or as samples without a class.

    the objective Responses on the data: v(x_t, t, c) = v_base(x_t, t, c) for the classes that stay
    Assumes data of the classes with their labels.  Samples without a class may still be of a class that was taken away.
    Source: Kumari et al. 2023 (arXiv 2303.13516); Gandikota et al. 2023 (arXiv 2303.07345), with ``push``.

    >>> Unlearning(classes=(3,)).push
    0.0
    """

    delta: Delta = field(default_factory=LoRA)
    classes: tuple[int, ...] = ()  # to be taken away
    towards: Whole | None = None  # the class that is drawn in their place; None is the null
    push: NonNegative = 0.0  # away from the velocity of the class itself; 1 is usual with the null
    layers: tuple[str, ...] = ()  # ends of names of layers; none: all layers of the blocks
    drop: Share = 0.1  # of conditions
    sampler: Sampler = field(default_factory=Sampler)  # of the changed flow

    def changed(self, teacher: Flow) -> nn.Module:
        return adapted(copied(teacher), self.delta, self.layers)

    def objective(self, teacher: Flow) -> Responses:
        count = classes_of(teacher.field, "label")
        named = (*self.classes, *(() if self.towards is None else (self.towards,)))
        require(
            bool(self.classes) and all(0 <= c < count for c in named) and self.towards not in self.classes,
            f"Unlearning got classes={self.classes} and towards={self.towards} for a flow of {count} classes; give the "
            f"classes that are taken away, from 0 to {count - 1}, and another one or none that is drawn in their place",
        )
        require(
            self.towards is not None or bool(teacher.null),
            "Unlearning got no class that is drawn in place of others, and the flow was trained without dropout of "
            "labels, so that it has no samples without a class; give towards=",
        )
        become = dict.fromkeys(self.classes, count if self.towards is None else self.towards)
        return Responses(copied(teacher).requires_grad_(False), self.matching(teacher), become, self.push)


def _weights(batch: Batch, factor: float) -> Tensor:
    """The weights of data times a factor."""
    own = batch.x1.new_ones(len(batch.x1)) if batch.weight is None else batch.weight
    return factor * own
