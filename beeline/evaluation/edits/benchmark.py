"""The metrics of FiVE: background, structure, condition, motion and answers of a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import require
from beeline.evaluation.edits.preservation import mean_defined, mean_square, psnr, ssim, structure

Agreement = Callable[[Tensor], Tensor]
"""Pictures [B,C,H,W] -> how well each fits the new condition [B], such as a similarity to a text."""


def scores(
    x: Tensor,
    made: Tensor,
    region: Tensor | None = None,
    *,
    span: float = 2.0,
    agreement: Agreement | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float | None]:
    """The metrics of edits of pictures [B,C,H,W] or videos [B,F,C,H,W], means over data.

    A video has the mean of its frames, so that every video counts alike.  ``region`` marks the edited object.  What is
    not defined is None: the background of a region that covers everything, the object of an empty one.
    Source: Li et al. 2025, "FiVE" (arXiv 2503.13684).
    """
    require(
        x.shape == made.shape and x.ndim in (4, 5),
        f"data of shape {tuple(x.shape)} and edits of shape {tuple(made.shape)} were to be compared; give both as "
        "pictures [B,C,H,W] or videos [B,F,C,H,W]",
    )
    where = None if region is None else region.to(x).expand(x.shape)
    flat, edited = (part.flatten(0, -4) for part in (x, made))
    mask = None if where is None else where.flatten(0, -4)

    def mean(values: Tensor) -> float | None:
        return mean_defined(values.reshape(len(x), -1).nanmean(1))

    found = {
        "structure_distance": mean(structure(flat, edited, features)),
        "background_mse": mean(mean_square(flat, edited, mask)),
        "background_psnr": mean(psnr(flat, edited, mask, span=span)),
        "background_ssim": mean(ssim(flat, edited, mask, span=span)),
    }
    if agreement is not None:
        found["agreement"] = mean(agreement(edited))
        if mask is not None:
            inside = agreement(cropped(edited, mask)).to(flat)
            found["agreement_inside"] = mean(torch.where(mask.flatten(1).amax(1) > 0, inside, torch.nan))
    if x.ndim == 5:
        found["frame_consistency"] = mean(frame_consistency(made, features))
        found["motion_fidelity"] = mean(motion_fidelity(block_tracks(x), block_tracks(made)))
    return found


def cropped(x: Tensor, region: Tensor) -> Tensor:
    """The box of a region, enlarged to the size of the picture [B,C,H,W]; the whole where the region is empty."""
    made = []
    for picture, m in zip(x, region.amax(1) > 0, strict=True):
        rows, columns = m.any(1).nonzero()[:, 0].tolist(), m.any(0).nonzero()[:, 0].tolist()
        box = picture[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows else picture
        made.append(F.interpolate(box[None], size=x.shape[2:], mode="bilinear", align_corners=False)[0])
    return torch.stack(made)


def frame_consistency(video: Tensor, features: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Mean cosine of the features of a frame and the next one [B], of videos [B,F,C,H,W]; pixels by default."""
    flat = video.flatten(0, 1)
    found = (flat if features is None else features(flat)).flatten(1).unflatten(0, video.shape[:2])
    return F.cosine_similarity(found[:, :-1].float(), found[:, 1:].float(), dim=2).mean(1)


def motion_fidelity(tracks: Tensor, made: Tensor) -> Tensor:
    """How much the trajectories [B,P,F,2] of points of a video and of its edit move alike [B], at most 1.

    (mean_p max_q corr(p, q) + mean_q max_p corr(p, q)) / 2,  corr the mean over frames of the cosine of both steps
    Two steps that do not move have the cosine 1, one of them 0.
    Source: Yatim et al. 2023, "Space-Time Diffusion Features for Zero-Shot Text-Driven Motion Transfer" (arXiv
    2311.17009).
    """
    a, b = (part.diff(dim=2)[:, :, None] for part in (tracks.float(), made.float()))
    b = b.transpose(1, 2)
    both = (a.norm(dim=-1) < 1e-6) & (b.norm(dim=-1) < 1e-6)
    corr = torch.where(both, 1.0, F.cosine_similarity(a, b, dim=-1)).mean(-1)
    return (corr.amax(2).mean(1) + corr.amax(1).mean(1)) / 2


def block_tracks(video: Tensor, block: int = 3, reach: int = 2) -> Tensor:
    """Trajectories [B,P,F,2] of every second place of the first frame, by the blocks that differ least between frames.

    A block moves at most ``reach`` pixels in a frame.  It is a small tracker for tests and simple videos; give the
    trajectories of a better one to ``motion_fidelity``.
    """
    count, frames, _, high, wide = video.shape
    half, edge = block // 2, block // 2 + reach
    grid = torch.cartesian_prod(torch.arange(0, high, 2), torch.arange(0, wide, 2)).to(video.device)
    at = grid.expand(count, *grid.shape)
    steps = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 2).to(video.device)
    steps = steps[steps.square().sum(1).argsort(stable=True)]  # of equal blocks the nearest
    padded = F.pad(video.flatten(0, 1), (edge,) * 4, mode="replicate").unflatten(0, (count, frames))
    offsets = torch.cartesian_prod(*[torch.arange(-half, half + 1)] * 2).to(video.device)
    rows = torch.arange(count, device=video.device)[:, None, None]
    limit = torch.tensor([high - 1, wide - 1], device=video.device)

    def blocks(frame: int, places: Tensor) -> Tensor:
        index = places[:, :, None] + offsets + edge
        return padded[rows, frame, :, index[..., 0], index[..., 1]].flatten(2)

    found = [at]
    for frame in range(1, frames):
        old = blocks(frame - 1, at)
        gaps = torch.stack([(blocks(frame, at + step) - old).square().sum(2) for step in steps])
        at = (at + steps[gaps.argmin(0)]).clamp(min=0).minimum(limit)
        found.append(at)
    return torch.stack(found, 2)


class Judge(Protocol):
    """What answers questions about an edited datum, such as a vision-language model."""

    def sees(self, datum: Any, name: str) -> bool:
        """Whether the datum shows what is named."""
        ...

    def choose(self, datum: Any, names: Sequence[str]) -> int:
        """The index of the name that fits the datum best."""
        ...


class Accuracy(NamedTuple):
    """Shares of edits that a judge finds right."""

    yes_no: float  # it does not see the old object, and sees the new one
    multiple_choice: float  # of both it chooses the new one
    either: float
    both: float

    @property
    def mean(self) -> float:
        """The mean of the four (FiVE-Acc)."""
        return sum(self) / 4


def accuracy(data: Sequence[Any], names: Sequence[tuple[str, str]], judge: Judge) -> Accuracy:
    """The answers of a judge for edits of the first into the second of two ``names`` for every datum.

    Source: Li et al. 2025, "FiVE" (arXiv 2503.13684).
    """
    require(
        len(data) == len(names) > 0,
        f"{len(data)} edits and {len(names)} pairs of names were given to a judge; give (old, new) for every edit",
    )
    pairs = [
        (
            not judge.sees(datum, old) and judge.sees(datum, new),
            judge.choose(datum, (old, new)) == 1,
        )
        for datum, (old, new) in zip(data, names, strict=True)
    ]
    count = len(pairs)
    shares = (
        sum(a for a, _ in pairs),
        sum(b for _, b in pairs),
        sum(a or b for a, b in pairs),
        sum(a and b for a, b in pairs),
    )
    return Accuracy(*(share / count for share in shares))
