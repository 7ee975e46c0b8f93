"""Formats around other formats: scaled inputs, corrections of low rank, zeros; and products of integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from beeline.core.ranges import Count, Share, dataclass
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.factors import split
from beeline.networks.compressing.formats import Format, Integers, nonzero, pack, unpack
from beeline.networks.compressing.rounding import damped, made_good


class ColumnScales(Protocol):
    """(weight [out,in], moments of the inputs, format) -> scales [in] of its columns, of which the best is taken."""

    def __call__(self, w: Tensor, moments: Moments, form: Format) -> list[Tensor]:
        """Candidates."""
        ...


@dataclass(frozen=True)
class Salient:
    """Larger scales for inputs that are larger on average.

    s_j = E|x_j|^a,  a of ``points`` from 0 (no change) to below 1
    Source: Lin et al. 2023, AWQ (arXiv 2306.00978).

    >>> Salient().points
    20
    """

    points: Count = 20

    def __call__(self, w: Tensor, moments: Moments, form: Format) -> list[Tensor]:
        size = nonzero(moments.size)
        return [_balanced(size ** (k / self.points)) for k in range(self.points)]


@dataclass(frozen=True)
class Smooth:
    """Sizes of inputs moved into the weight, so that inputs are rounded with less error.

    s_j = max|x_j|^a / max_i |w_ij|^(1-a)
    Source: Xiao et al. 2022, SmoothQuant (arXiv 2211.10438).

    >>> Smooth().exponent
    0.5
    """

    exponent: Share = 0.5

    def __call__(self, w: Tensor, moments: Moments, form: Format) -> list[Tensor]:
        x, size = nonzero(moments.largest), nonzero(w.abs().amax(0).double())
        return [_balanced(x**self.exponent / size ** (1 - self.exponent))]


def _balanced(s: Tensor) -> Tensor:
    return s / (s.amax() * s.amin()).sqrt()


@dataclass(frozen=True)
class Scaled(Format):
    """A format of the weight with scaled columns; the inputs are divided by the scales.

    W ~ decode(encode(W diag(s))) diag(1/s),  s of the candidates of ``scaling`` with the least error of the outputs
    Source: Lin et al. 2023, AWQ (arXiv 2306.00978); Xiao et al. 2022, SmoothQuant (arXiv 2211.10438).

    >>> Scaled(Integers(4)).calibrated
    True
    """

    form: Format = Integers(4)
    scaling: ColumnScales = Salient()

    @property
    def calibrated(self) -> bool:
        return True

    @property
    def timed(self) -> bool:
        return self.form.timed

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        if moments is None:
            return {**self.form.encode(w), "columns": w.new_ones(w.shape[1])}
        best, least = None, torch.inf
        for s in self.scaling(w, moments, self.form):
            scaled = s.to(w)
            stored = {**self.form.encode(w * scaled, moments.divided(s)), "columns": scaled}
            error = moments.error(self.decode(stored, *w.shape) - w)
            if best is None or error < least:
                best, least = stored, error
        assert best is not None
        return best

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        return self.form.decode(stored, out, into) / stored["columns"]

    def product(self, x: Tensor, stored: Mapping[str, Tensor], out: int) -> Tensor:
        return self.form.product(x / stored["columns"].to(x.dtype), stored, out)


@dataclass(frozen=True)
class Corrected(Format):
    """A format and a correction of its error of low rank, in 16 bits.

    W ~ decode(encode(W - U V)) + U V,  U V the nearest of its rank to the error of the outputs
    With ``rounds`` the weight is encoded again after the correction, which then also holds large numbers.
    Source: Yao et al. 2023, ZeroQuant-V2 (arXiv 2303.08302), low-rank compensation; rounds: Li et al. 2024, SVDQuant
    (arXiv 2411.05007), and Guo et al. 2023, LQ-LoRA (arXiv 2311.12023).

    >>> Corrected(Integers(4), rank=2).rank
    2
    """

    form: Format = Integers(4)
    rank: Count = 4
    rounds: Count = 1  # of which the best is kept

    @property
    def calibrated(self) -> bool:
        return True

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        best, least, branch = None, torch.inf, torch.zeros_like(w)
        for _ in range(self.rounds):
            stored = self.form.encode(w - branch, moments)
            up, down = split(w - self.form.decode(stored, *w.shape), min(self.rank, *w.shape), moments)
            stored |= {"up": up.half(), "down": down.half()}
            branch = (up.half() @ down.half()).to(w)
            error = w - self.decode(stored, *w.shape)
            size = float(error.square().sum()) if moments is None else moments.error(error)
            if best is None or size < least:
                best, least = stored, size
        assert best is not None
        return best

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        base = self.form.decode(stored, out, into)
        return torch.addmm(base, stored["up"].to(base), stored["down"].to(base))


@dataclass(frozen=True)
class Sparse(Format):
    """The largest numbers of every row, in place; the others are zero.

    kept: the largest |w_ij| E[x_j^2]^(1/2), or the largest |w_ij| without ``inputs``
    With ``settled`` each number that is removed is made good by the columns that come after.  A number takes a bit
    more than those that are kept.
    Source: Han et al. 2015 (arXiv 1506.02626); Sun et al. 2023, Wanda (arXiv 2306.11695); settled: Frantar and Alistarh
    2023, SparseGPT (arXiv 2301.00774).

    >>> form = Sparse(0.5)
    >>> form.decode(form.encode(torch.tensor([[3.0, 1.0, -2.0, 0.5]])), 1, 4)
    tensor([[ 3.,  0., -2.,  0.]])
    """

    share: Share = 0.5  # of the numbers of a row that are kept
    settled: bool = False
    damp: Share = 0.01
    inputs: bool = True  # whether the sizes of inputs count

    @property
    def calibrated(self) -> bool:
        return self.inputs

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        moments = moments if self.inputs else None
        count = max(1, round(self.share * w.shape[1]))
        score = w.abs() if moments is None else w.abs() * moments.second.diagonal().sqrt().to(w)
        if moments is not None and self.settled:
            score = w.abs() / torch.linalg.inv(damped(moments.second, self.damp)).diagonal().sqrt().to(w)
        mask = torch.zeros_like(w, dtype=torch.bool).scatter_(1, score.topk(count, 1).indices, True)
        if moments is not None and self.settled:
            w = made_good(w, moments.second, self.damp, lambda j, now: now[:, j] * mask[:, j]).to(w.dtype)
        return {"mask": pack(mask.to(torch.uint8), 1), "values": w[mask].view(len(w), count)}

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        mask, values = unpack(stored["mask"], 1, into).bool(), stored["values"]
        return values.new_zeros(out, into).masked_scatter(mask, values)


@dataclass(frozen=True)
class IntegerProducts(Format):
    """Integers of 8 bits with a scale for a row, and inputs that are rounded as well, so that integers are multiplied.

    y_i = (sum_j q_ij p_j) scale_i step,  p = round(x / step), step = max |x| / 127 of every token
    It is faster than float32 where the processor multiplies integers, in layers of some hundred channels and more.
    Source: Dettmers et al. 2022, LLM.int8() (arXiv 2208.07339); Yao et al. 2022, ZeroQuant (arXiv 2206.01861).

    >>> form = IntegerProducts()
    >>> form.product(torch.ones(1, 2), form.encode(torch.tensor([[1.0, 2.0]])), 1)
    tensor([[3.0079]])
    """

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        scale = w.abs().amax(1) / 127
        return {"codes": (w / nonzero(scale)[:, None]).round().clamp(-127, 127).to(torch.int8), "scale": scale}

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        return stored["codes"].to(stored["scale"].dtype) * stored["scale"][:, None]

    def product(self, x: Tensor, stored: Mapping[str, Tensor], out: int) -> Tensor:
        return multiplied(x, nonzero(x.abs().amax(-1, keepdim=True) / 127), stored, out)


def multiplied(x: Tensor, step: Tensor, stored: Mapping[str, Tensor], out: int) -> Tensor:
    """The product [...,out] of inputs [...,in], rounded to multiples of ``step``, with integers and their scales."""
    p, q = (x / step).round().clamp(-127, 127).flatten(0, -2), stored["codes"]
    if x.device.type == "cpu":
        sums = torch._int_mm(p.to(torch.int8), q.T).to(x.dtype)
    else:  # whose kernels take some sizes only; the sums of integers are exact in float32 up to 1,000 inputs
        sums = (p.float() @ q.T.float()).to(x.dtype)
    return sums.view(*x.shape[:-1], out) * step * stored["scale"].to(x.dtype)
