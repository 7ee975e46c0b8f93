"""Edits by features of one noisy state of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from beeline.core.modes import deferred, eval_mode
from beeline.core.protocols.editing import Inversion
from beeline.core.ranges import Count, Early, Inside, NonNegative, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, leaves
from beeline.fields.flow import Flow, bind
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.mode import ImageAttention
from beeline.networks.attending.taps import BlockOutput, Store, bytes_of_rows, chosen_blocks, with_outputs
from beeline.sampling.editing.attention.parts import EARLIER, Trajectory, differing, end_of_steps
from beeline.sampling.editing.dynamics import to_device
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class ReFlex:
    """Samples from the inverted noise with the attention and features of one state of the source (ReFlex).

    p'_ij = p_source_ij for tokens of the picture, for the ``kept`` largest of them c_i p_ij with their sum unchanged;
    for a text p_source_ij, and ``text_scale`` p_ij where the embedding differs between both conditions
    The source is evaluated once, at t = ``middle``.  This is the attention of tokens of the picture in the first steps,
    in which some blocks also give the source's output.  Rows keep no sum of 1 where ``text_scale`` is not 1, as
    intended.  Numbers of steps are shares of all; rows with equal conditions are not changed.
    Assumes a network that declares the tokens of an image.
    Source: Kim et al. 2025, "ReFlex: Text-Guided Editing of Real Images in Rectified Flow via Mid-Step Feature
    Extraction and Attention Adaptation" (arXiv 2507.01496); blending by a mask is that of ``Within``.

    >>> ReFlex(kept=4).middle
    0.5
    """

    middle: Inside = 0.5  # time of the state whose features are used
    image: Share = 0.25  # of the steps with the source's attention to the picture
    text: Share = 0.36  # of the steps with the source's attention to a text
    features: Share = 0.18  # of the steps with the source's outputs of blocks
    whole: Share = 0.07  # of the steps with all of the source's attention to the picture
    kept: Count = 20  # keys of every query that the target decides itself
    text_scale: NonNegative = 4.0  # of the attention to new tokens of the text
    label: str = "text"  # the name of the condition with the embeddings [B,L,D]
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none are those of ``depth``
    depth: tuple[float, float] = (0.35, 0.8)  # interval of the depth of blocks with another attention
    depth_features: tuple[float, float] = (0.23, 0.35)  # and of those that give the source's output
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time at which the target starts

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        names = chosen_blocks(flow.field, self.blocks, self.depth)
        shallow = chosen_blocks(flow.field, (), self.depth_features)
        shares = (self.image, self.text, self.features, self.whole)
        if max(shares) == 0:
            return InvertAndSample(self.inversion, self.start)(flow, x, cond, new_cond, sampler, rng)
        cond, new_cond = to_device(cond, x), to_device(new_cond, x)
        changed, words = differing(cond, new_cond, x), new_words(cond, new_cond, self.label)
        ends = (end_of_steps(sampler, self.start, round(share * sampler.steps)) - EARLIER for share in shares)
        until = Ends(*ends)
        source = Trajectory(self.inversion, flow, x, cond, sampler, rng, self.start)
        with Store(len(x)) as store:
            store.reserve(bytes_of_rows(flow.field, names, x, cond, _used, shallow), x.device)
            look(flow, names, shallow, store, source(self.middle), self.middle, cond)

            def attend(a: ImageAttention) -> Tensor:
                found = store.nearest(a)
                if found is None or a.time >= max(until.image, until.text):
                    return a.softmax()
                p = self.weights(a, replace(a, q=found["q"], k=found["k"]), until, words)
                return torch.where(for_rows(changed, a.q), p.to(a.v.dtype) @ a.v, a.softmax())

            def given(out: BlockOutput) -> Tensor:
                found = store.nearest(out)
                if found is None or out.time >= until.features:
                    return out.h
                return torch.where(for_rows(changed, out.h), found["h"], out.h)

            adapted = with_attention(with_outputs(flow.field, shallow, given), names, attend)
            return sampler(replace(flow, field=adapted), source.state.x, new_cond, start=source.state.t)

    def weights(self, a: ImageAttention, source: ImageAttention, until: Ends, words: Tensor | None) -> Tensor:
        """The weights [B,H,L,L] of attention at one time."""
        p, old = a.weights(), source.weights()
        made, picture = p.clone(), (slice(None), slice(None), a.image, a.image)
        if a.time < until.image:
            kept = 0 if a.time < until.whole else self.kept
            made[picture] = recombined(p[picture], old[picture], kept)
        if a.time < until.text and a.text.stop > a.text.start:
            text = (slice(None), slice(None), a.image, a.text)
            own = self.text_scale * p[text]
            fits = words is not None and words.shape[1] == own.shape[3]
            new = for_rows(words, own) if fits and words is not None else torch.ones_like(own, dtype=torch.bool)
            made[text] = torch.where(new, own, old[text])
        return made


class Ends(NamedTuple):
    """The times up to which the source is seen."""

    image: float
    text: float
    features: float
    whole: float


def look(
    flow: Flow, names: Sequence[str], shallow: Sequence[str], store: Store, x: Tensor, time: float, cond: Cond
) -> None:
    """Store queries and keys of named blocks, and the outputs of others, at a state [B,*S]."""

    def see(a: ImageAttention) -> Tensor:
        store.put(a, **_used(a))
        return a.softmax()

    def seen(out: BlockOutput) -> Tensor:
        store.put(out, h=out.h)
        return out.h

    field = with_attention(with_outputs(flow.field, shallow, seen), names, see)
    with eval_mode(flow), deferred():
        bind(field, cond)(x, torch.full((len(x),), time, device=x.device))


def recombined(p: Tensor, source: Tensor, kept: int) -> Tensor:
    """The weights of a source, of which the ``kept`` largest of every row are p, scaled to the same sum.

    >>> recombined(torch.tensor([0.4, 0.1, 0.5]), torch.tensor([0.5, 0.3, 0.2]), 2)
    tensor([0.6400, 0.1600, 0.2000])
    """
    if kept == 0:
        return source
    largest = source.topk(min(kept, source.shape[-1]), -1).indices
    own, theirs = p.gather(-1, largest), source.gather(-1, largest)
    scale = theirs.sum(-1, keepdim=True) / own.sum(-1, keepdim=True).clamp(min=1e-12)
    return source.scatter(-1, largest, own * scale)


def new_words(cond: Cond, new_cond: Cond, label: str) -> Tensor | None:
    """Which tokens [B,L] of a text have another embedding in the new condition; None where this is not known."""
    old, new = dict(leaves(cond)).get(label), dict(leaves(new_cond)).get(label)
    if old is None or new is None or old.shape != new.shape or old.ndim != 3:
        return None
    return (old != new).any(-1)


def for_rows(of_data: Tensor, like: Tensor) -> Tensor:
    """Values [B] or [B,L] of data for a batch [G B,...]: [G B,1,...] or [G B,1,...,L]."""
    found = of_data.repeat(len(like) // len(of_data), *(1 for _ in of_data.shape[1:]))
    return found.reshape(len(like), *(1 for _ in like.shape[of_data.ndim :]), *of_data.shape[1:])


def _used(a: ImageAttention) -> Mapping[str, Tensor]:
    return {"q": a.q, "k": a.k}
