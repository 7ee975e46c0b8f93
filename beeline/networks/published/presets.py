"""Published flow transformers as settings of the backbone, and the sizes in which they come."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from beeline.core.errors import nearest, require
from beeline.networks.dit import MMDiT
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.feeds import FeedForward, SwiGLU
from beeline.networks.transformer.mixers import Attention
from beeline.networks.transformer.modulations import AdaLNLoRA, AdaLNSingle
from beeline.networks.transformer.positions import Learned, Rotary
from beeline.networks.transformer.reading import Cross

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
"""Width, depth and heads of DiT and SiT by name."""

PLAIN = {"mixer": Attention(norm=False), "feed": FeedForward(tanh=True)}


def sizes(name: str, patch: int = 2) -> dict[str, int]:
    """The settings of a size of DiT and SiT: "S", "B", "L" or "XL".

    Source: Peebles and Xie 2022 (arXiv 2212.09748), table 1.

    >>> sizes("S", patch=4)
    {'width': 384, 'depth': 12, 'heads': 6, 'patch': 4}
    """
    require(name in SIZES, f"sizes got {name!r}; {nearest(name, SIZES)}")
    return dict(zip(("width", "depth", "heads"), SIZES[name], strict=True)) | {"patch": patch}


def preset(parent: type, **values: Any) -> Callable[..., None]:
    """The constructor of a class with other defaults."""
    made: Callable[..., None] = parent.__init__  # type: ignore[misc]
    known = inspect.signature(made)
    changed = [p.replace(default=values.get(p.name, p.default)) for p in known.parameters.values()]
    signature = known.replace(parameters=changed)

    @functools.wraps(made)
    def init(*given: Any, **more: Any) -> None:
        bound = signature.bind(*given, **more)
        bound.apply_defaults()
        made(*bound.args, **bound.kwargs)

    init.__signature__ = signature  # type: ignore[attr-defined]
    return init


class FiT(FlowTransformer):
    """The transformer of FiTv2, for images of any size: rotary positions, gated feeds, modulation of low rank.

    (shift, scale, gate) = W e + b + B_l A_l e + b_l;  y = W2 (silu(W1 u) * W3 u);  queries and keys are turned
    Assumes [B,C,*sides] of any sides.
    Source: Lu et al. 2024, "FiT" (arXiv 2402.12376); Wang et al. 2024, "FiTv2" (arXiv 2410.13925).

    >>> import torch
    >>> FiT((1, 8, 8), width=32, depth=1)(torch.zeros(2, 1, 6, 10), torch.zeros(2)).shape
    torch.Size([2, 1, 6, 10])
    """

    __init__ = preset(FlowTransformer, any_size=True, feed=SwiGLU(), positions=Rotary(), modulation=AdaLNLoRA())


class SiTS(FlowTransformer):
    """SiT-S: 384 channels, 12 blocks, 6 heads, queries and keys as they are.

    (width, depth, heads) = (384, 12, 6);  h <- h + gate mix(u), h <- h + gate feed(u), as DiT
    Assumes [B,C,*sides]; images of latents have C=4 and sides of 32 in the paper.
    Source: Ma et al. 2024, "SiT" (arXiv 2401.08740).

    >>> SiTS((4, 32, 32), depth=1).settings["width"]
    384
    """

    __init__ = preset(FlowTransformer, **sizes("S"), **PLAIN)


class SiTB(FlowTransformer):
    """SiT-B: 768 channels, 12 blocks, 12 heads, queries and keys as they are.

    (width, depth, heads) = (768, 12, 12);  h <- h + gate mix(u), h <- h + gate feed(u), as DiT
    Assumes [B,C,*sides]; images of latents have C=4 and sides of 32 in the paper.
    Source: Ma et al. 2024, "SiT" (arXiv 2401.08740).

    >>> SiTB((4, 32, 32), depth=1).settings["heads"]
    12
    """

    __init__ = preset(FlowTransformer, **sizes("B"), **PLAIN)


class SiTL(FlowTransformer):
    """SiT-L: 1024 channels, 24 blocks, 16 heads, queries and keys as they are.

    (width, depth, heads) = (1024, 24, 16);  h <- h + gate mix(u), h <- h + gate feed(u), as DiT
    Assumes [B,C,*sides]; images of latents have C=4 and sides of 32 in the paper.
    Source: Ma et al. 2024, "SiT" (arXiv 2401.08740).

    >>> SiTL((4, 32, 32), depth=1).settings["width"]
    1024
    """

    __init__ = preset(FlowTransformer, **sizes("L"), **PLAIN)


class SiTXL(FlowTransformer):
    """SiT-XL: 1152 channels, 28 blocks, 16 heads, queries and keys as they are.

    (width, depth, heads) = (1152, 28, 16);  h <- h + gate mix(u), h <- h + gate feed(u), as DiT
    Assumes [B,C,*sides]; images of latents have C=4 and sides of 32 in the paper.
    Source: Ma et al. 2024, "SiT" (arXiv 2401.08740).

    >>> SiTXL((4, 32, 32), depth=1).settings["width"]
    1152
    """

    __init__ = preset(FlowTransformer, **sizes("XL"), **PLAIN)


class PixArt(FlowTransformer):
    """The transformer of PixArt: cross-attention to the tokens of conditions, and one modulation for all blocks.

    (shift, scale, gate) = W e + b + table_l;  h <- h + W softmax(q(h) k(c)' / sqrt(d)) v(c) between the branches
    Assumes conditions: the sequences among them are read, or one token of each where there are none.
    Source: Chen et al. 2023, "PixArt-alpha" (arXiv 2310.00426).

    >>> import torch
    >>> net = PixArt((1, 8, 8), width=32, depth=1, conditions={"text": {"length": 5, "size": 3}})
    >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.ones(2, 5, 3)).shape
    torch.Size([2, 1, 8, 8])
    """

    __init__ = preset(FlowTransformer, **PLAIN, wiring=Cross(), modulation=AdaLNSingle())


class SD3(MMDiT):
    """The transformer of Stable Diffusion 3: joint blocks, the last of which changes the datum alone.

    as MMDiT, with queries and keys as they are, and learned positions
    Assumes conditions, as MMDiT.
    SD3.5 normalises queries and keys, mixer=Attention(), and medium has a second attention in ``dual`` blocks.
    Source: Esser et al. 2024, "Scaling Rectified Flow Transformers" (arXiv 2403.03206).

    >>> import torch
    >>> net = SD3((1, 8, 8), width=32, depth=2, conditions={"text": {"length": 5, "size": 3}})
    >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.ones(2, 5, 3)).shape
    torch.Size([2, 1, 8, 8])
    """

    __init__ = preset(MMDiT, **PLAIN, positions=Learned(), closed=True)


class Flux(MMDiT):
    """The transformer of FLUX.1: joint blocks, then single ones with parallel branches, and rotary positions.

    as MMDiT;  single blocks: h <- h + gate (mix(u) + feed(u)),  u = norm(h) (1 + scale) + shift
    An eighth of the channels of a head has no position, as the text; FLUX.1 has 19 joint and 38 single blocks of 3072
    channels and 24 heads.
    Assumes conditions, as MMDiT, and images [B,C,H,W] of any sides.
    Source: Black Forest Labs 2024, FLUX.1.

    >>> net = Flux((1, 8, 8), width=32, depth=1, conditions={"text": {"length": 5, "size": 3}})
    >>> len(net.single)
    6
    """

    __init__ = preset(MMDiT, single=6, feed=FeedForward(tanh=True), positions=Rotary(shares=(2, 7, 7)), any_size=True)
