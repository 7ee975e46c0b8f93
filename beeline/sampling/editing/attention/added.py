"""Insertion of objects: attention extended by the picture, with a balance between both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

import torch
from torch import Tensor

from beeline.core.host_times import host_times
from beeline.core.modes import eval_mode
from beeline.core.protocols.editing import EditRegion, Inversion
from beeline.core.ranges import Early, Inside, Positive, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow, bind
from beeline.networks.attending.functions import added_mask, extended_attention
from beeline.networks.attending.mode import ImageAttention
from beeline.sampling.editing.attention.paired import Mix, Paired
from beeline.sampling.editing.attention.parts import EARLIER, Trajectory
from beeline.sampling.editing.dynamics import to_device
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.steering.controller import affine_path


@dataclass(frozen=True)
class AddIt(Paired):
    """Attention of the edited picture also sees the tokens of the source's picture, with a balance (Add-it).

    p_ij ~ g exp(z_ij) for the own tokens, exp(z_ij) for those of the source's picture;  g = ``weight``, or such that
    the weights of both have the ratio ``balance`` in the first attention, a mean over the queries of the text (or
    without one of the picture) for every row
    At t = ``blend``: x <- m x + (1 - m) x_source, with m the ``region`` of the predicted datum under both conditions.
    ``start`` is the step of structure transfer.  The factor is that of weights, where the release scales keys: large
    ones are then no extension, and equal tokens cancel.  Rows with equal conditions are not extended.
    Assumes a network that declares the tokens of an image; ``blend`` an affine path.
    Source: Tewel et al. 2024, "Add-it: Training-Free Object Insertion in Images With Pretrained Diffusion Models"
    (arXiv 2411.07232).

    >>> AddIt(weight=2.0).balance
    1.05
    """

    balance: Positive = 1.05  # of the attention to the own tokens to that of the source's
    weight: Positive | None = None  # of the own tokens; none is found from the balance
    region: EditRegion | None = None  # of the object, such as AttentionRegion((4,), of_new=True); none does not blend
    blend: Inside = 0.5  # time at which source and target are blended
    share: Share = 0.6  # of the steps, from the noise
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none are those of ``depth``
    depth: tuple[float, float] = (0.0, 1.0)  # interval of the depth: all blocks
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.1  # time at which the edit begins

    def mix(self, source: ImageAttention, target: ImageAttention) -> Tensor:
        return self._extended(source, target, self._factor(source, target))

    def mixer(self, changed: Tensor) -> Mix:
        known: dict[int, Tensor] = {}  # by rows: guidance may evaluate predictions in several batches

        def mix(source: ImageAttention, target: ImageAttention) -> Tensor:
            rows = len(target.q)
            if rows not in known:
                known[rows] = self._factor(source, target)
            made = self._extended(source, target, known[rows])
            return torch.where(changed.repeat(rows // len(changed))[:, None, None, None], made, target.softmax())

        return mix

    def _extended(self, source: ImageAttention, target: ImageAttention, weight: Tensor) -> Tensor:
        image = source.image
        mask = None if source.mask is None else source.mask[..., image]
        return extended_attention(target, source.k[:, :, image], source.v[:, :, image], weight, mask)

    def _factor(self, source: ImageAttention, target: ImageAttention) -> Tensor:
        """The factor [B,1,1,1] of the weights of the own tokens."""
        if self.weight is not None:
            return target.q.new_full((len(target.q), 1, 1, 1), self.weight, dtype=torch.float32)
        rows = target.text if target.text.stop > target.text.start else target.image
        own = target.logits()[:, :, rows].logsumexp(-1)
        z = target.q[:, :, rows].float() @ source.k[:, :, source.image].float().mT * target.scale
        if source.mask is not None:
            mask = added_mask(source.mask, source.k)[..., source.image].float()
            z = z + (mask[:, :, rows] if mask.shape[2] > 1 else mask)
        return balanced((own - z.logsumexp(-1)).flatten(1), self.balance)[:, None, None, None]

    def correction(
        self, source: Trajectory, flow: Flow, cond: Cond, new_cond: Cond, rng: Rng
    ) -> Callable[[Tensor, Tensor], Tensor] | None:
        region = self.region
        if region is None:
            return None
        path, done = affine_path(flow, "AddIt"), [False]

        def blended(x: Tensor, t: Tensor) -> Tensor:
            time = float(host_times(t).flatten()[0])
            if done[0] or time < self.blend - EARLIER or time >= 1:
                return x
            done[0] = True
            at = t.flatten()[:1].to(x).expand(len(x))
            with eval_mode(flow):
                predicted = path.data(x, bind(flow.field, to_device(new_cond, x))(x, at), at)
            m = region(flow, predicted, cond, new_cond, rng.fork("blend")).to(x).expand(x.shape)
            return m * x + (1 - m) * source(time)

        return blended


def balanced(gaps: Tensor, balance: float) -> Tensor:
    """The factors g [B] with mean sigmoid(gaps + log g) = balance / (1 + balance), for gaps [B,N], by bisection.

    >>> balanced(torch.zeros(1, 3), 2.0)
    tensor([2.0000])
    """
    low, high = -gaps.amax(1) - 30, 30 - gaps.amin(1)
    for _ in range(50):
        middle = (low + high) / 2
        much = torch.sigmoid(gaps + middle[:, None]).mean(1) > balance / (1 + balance)
        low, high = torch.where(much, low, middle), torch.where(much, middle, high)
    return ((low + high) / 2).exp()
