"""Scales of columns that are trained on the errors of outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import Count, Positive, dataclass
from beeline.networks.compressing.around import ColumnScales, Salient
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.formats import Format, Gridded, nonzero


@dataclass(frozen=True)
class TrainedScales:
    """Scales that are trained so that outputs have the least error; the weight stays as it is.

    min over u of E |(W' - W) x|^2,  W' = decode(encode(W diag(s))) diag(1/s),  s = exp(u),  by Adam
    Codes are rounded with gradients as if they were not, and the scales of groups have their own: without these the
    gradient for s would be zero.  The error is a quadratic form of E[x x^T], so that no network is evaluated.  The best
    scales of all steps are taken, which are never worse than those of ``start``.
    Source: Cheng et al. 2023, "TEQ: Trainable Equivalent Transformation for Quantization of LLMs" (arXiv 2310.10944).
    Raises ValueError for formats that have no scales of groups.

    >>> TrainedScales(steps=100).rate
    0.01
    """

    steps: Count = 300
    rate: Positive = 0.01  # of Adam
    start: ColumnScales = Salient()

    def __call__(self, w: Tensor, moments: Moments, form: Format) -> list[Tensor]:
        require(
            isinstance(form, Gridded),
            f"TrainedScales was to scale the columns of a weight for {form}, whose numbers have no scales of groups: "
            "use it with Integers, OffsetIntegers or Levels, or take Salient() or Smooth()",
        )
        assert isinstance(form, Gridded)
        starts = self.start(w, moments, form)
        second = moments.second.to(w.device, torch.float32)
        second, w = second / second.diagonal().mean(), w.float()

        def error(s: Tensor) -> Tensor:
            change = rounded(form, w * s) / s - w
            return ((change @ second) * change).sum()

        first = [s.to(w) for s in starts]
        losses = [float(error(s)) for s in first]
        least = min(losses)
        best = first[losses.index(least)]
        with torch.enable_grad():
            u = best.log().requires_grad_()
            adam = torch.optim.Adam([u], self.rate)
            for _ in range(self.steps):
                loss = error(u.exp())
                adam.zero_grad()
                loss.backward()
                if float(loss.detach()) < least:
                    least, best = float(loss.detach()), u.detach().exp()
                adam.step()
        return [*starts, best.double()]


def rounded(form: Gridded, w: Tensor) -> Tensor:
    """The weight [out,in] that is stored, with gradients for the scales of groups, and for codes as if not rounded."""
    groups = form.grouped(w)
    fitted = form.fit(groups)
    with torch.no_grad():
        codes = form.nearest(groups, fitted)
    scale, low = nonzero(fitted["scale"])[..., None], fitted.get("low")
    z = (groups if low is None else groups - low[..., None]) / scale
    return (form.value(codes, fitted) + scale.detach() * (z - z.detach())).flatten(1)[:, : w.shape[1]]
