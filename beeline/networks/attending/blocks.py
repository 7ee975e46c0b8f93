"""Networks with another attention in some of their blocks, on copies that share all weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from beeline.core.declared import traits_of, unwrapped
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.fields.flow import bind
from beeline.networks.attending.mode import Attention, AttentionMode, Evaluation
from beeline.networks.attention import SelfAttention
from beeline.networks.hooks import named_blocks
from beeline.networks.skipping import ChangedBlocks, Shortens, block_names, kind_of, with_forward


def with_attention(field: Any, blocks: Sequence[str], attention: Attention) -> Attending:
    """A field with the same weights in whose named blocks ``attention`` is called; ``field`` is not changed.

    Without names it is the middle one of the blocks with ``SelfAttention``, or of all blocks where none has it.  Raises
    ValueError for a field that does not declare the tokens of an image, for an unknown name, and in an evaluation for
    a block without such attention.
    """
    known = blocks_with_attention(field)
    mode = AttentionMode(attention)
    names = tuple(blocks) or known[(len(known) - 1) // 2 :][:1]
    return Attending(with_forward(field, names, lambda name, block: attending(name, block, mode)), mode)


def blocks_with_attention(field: Any) -> tuple[str, ...]:
    """The names of the blocks of a field with ``SelfAttention``, or of all blocks where none has it.

    Raises ValueError for a field that does not declare the tokens of an image.
    """
    known = block_names(field)
    require(
        traits_of(field).tokens is not None,
        f"attention of {kind_of(field)} was to be changed, and it does not declare which tokens are those "
        "of an image; use networks.DiT, networks.UNet with attention, or a bundle such as of FLUX or Stable Diffusion "
        "3",
    )
    inner = unwrapped(field)
    if isinstance(inner, Shortens):
        return known
    parts = named_blocks(inner)
    return tuple(k for k in known if any(isinstance(m, SelfAttention) for m in parts[k].modules())) or known


def attending(name: str, block: nn.Module, mode: AttentionMode) -> Callable[..., Any]:
    """The function ``forward`` of a block inside a mode; raises ValueError for a call without attention."""
    inner = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        before = mode.count
        mode.enter(name)
        with mode:
            out = inner(*args, **kwargs)
        require(
            mode.count > before,
            f"attention of the block {name!r} was to be changed, and no attention among the tokens of an image took "
            "place in it; name blocks with attention, and use the attention backend of PyTorch",
        )
        return out

    return forward


class Attending(ChangedBlocks):
    """A field with another attention in some of its blocks."""

    def __init__(self, field: Any, mode: AttentionMode):
        super().__init__(field)
        self.mode = mode

    def around(self, field: Any) -> Attending:
        return Attending(field, self.mode)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, *s: Tensor) -> Tensor:
        tokens = traits_of(self.field).tokens
        assert tokens is not None
        self.mode.grid, self.mode.evaluation = tokens(tuple(x.shape[1:])), Evaluation(t)
        return bind(self.field, cond)(x, t, *s)
