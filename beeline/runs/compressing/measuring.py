"""What a link of a chain of compressions costs, and how good it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.networks.adapters.inside import backbone_of
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Probe
from beeline.runs.bundle import Bundle
from beeline.runs.scoring import FEW, PLAIN, RealData, score

STATES = 64  # samples of which the drift is measured, and the batch whose evaluations are timed
TIMED = 20  # evaluations of which the median is taken
BINS = 5  # of time


@dataclass(frozen=True)
class Link:
    """A bundle of a chain of compressions, with its cost and its quality."""

    method: str
    bytes: int  # of the weights
    seconds: float  # of one evaluation of a batch of STATES data
    evaluations: float  # for one sample
    drift: float  # root mean square of the change of samples from the same noise, in encoded units
    errors: tuple[float | None, ...] | None  # of velocities, by bins of time; None where there is nothing to compare
    distance: float | None  # of samples to held-out data, sliced Wasserstein; None without data
    floor: float | None  # the distance of other real data to held-out data

    @property
    def seconds_each(self) -> float:
        """The seconds of the evaluations for one sample."""
        return self.seconds * self.evaluations / STATES

    @property
    def error(self) -> float:
        """The largest relative error of velocities of all bins; 0 where there is nothing to compare."""
        return max((e for e in self.errors or () if e is not None), default=0.0)


def link_of(
    name: str,
    bundle: Bundle,
    first: Bundle,
    x0: Tensor,
    cond: Cond,
    rng: Rng,
    *,
    real: RealData | None = None,
    samples: int = 500,
    compared: tuple[Probe, nn.Module] | None = None,
) -> Link:
    """A link, with the drift from the samples of ``first`` and the errors beside the network of ``compared``."""
    made, wanted = (b.draw(x0, cond, batch_size=STATES) for b in (bundle, first))
    found = None
    if real is not None:
        found = score(bundle, real, samples, rng.fork("score"), extras=FEW, metrics=PLAIN).scores[0]
    return Link(
        name,
        stored_bytes(bundle.flow.field),
        seconds_of(bundle.flow.field, x0, cond),
        float(bundle.sampler.evaluations or 0),
        float((made - wanted).square().mean().sqrt()),
        None if compared is None else errors_of(compared[0], backbone_of(bundle.flow.field), compared[1]),
        None if found is None else float(found.value),
        None if found is None or found.baseline is None else float(found.baseline),
    )


@torch.no_grad()
def errors_of(probe: Probe, network: nn.Module, wanted: nn.Module) -> tuple[float | None, ...]:
    """The size of the difference of two networks beside that of the second, by bins of time; None for empty bins."""
    sums = torch.zeros(2, BINS, dtype=torch.float64)
    for call in probe.calls:
        v = wanted(*call.inputs).double()
        change = (network(*call.inputs).double() - v).flatten(1).square().sum(1).cpu()
        size = v.flatten(1).square().sum(1).cpu()
        bins = (call.t.detach().cpu().expand(len(size)) * BINS).long().clamp(0, BINS - 1)
        sums[0].index_add_(0, bins, change)
        sums[1].index_add_(0, bins, size)
    return tuple(float((c / s).sqrt()) if s > 0 else None for c, s in sums.T.unbind())


@torch.no_grad()
def seconds_of(field: nn.Module, x: Tensor, cond: Cond) -> float:
    """The median time of one evaluation of a batch, after one that is not measured."""
    t, times = torch.full((len(x),), 0.5, device=x.device), []
    for _ in range(TIMED + 1):
        begin = time.perf_counter()
        field(x, t, cond)
        if x.device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[TIMED // 2]


def rows_of(links: Sequence[Link]) -> list[dict[str, str]]:
    """Links as rows of a table, each beside the first."""
    size = links[0].bytes
    return [
        {
            "bundle": link.method or "as it was",
            "bytes": f"{link.bytes:,}",
            "share": f"{link.bytes / size:.3f}",
            "NFE": f"{link.evaluations:g}",
            "s/sample": f"{link.seconds_each:.3g}",
            "drift": f"{link.drift:.3g}",
            "error": "" if link.errors is None else f"{link.error:.3g}",
            "distance": "" if link.distance is None else f"{link.distance:.3g}",
            "floor": "" if link.floor is None else f"{link.floor:.3g}",
        }
        for link in links
    ]
