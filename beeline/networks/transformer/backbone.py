"""The flow transformer: one loop over blocks, in which every part is a slot."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.declared import Declaring, Stages, TokenGrid, Traits, nulls_of_labels
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.networks.checks import check_dropout, check_sizes
from beeline.networks.embed import Conditions, Embedding, check_state, dtype_of
from beeline.networks.fp32 import layer_norm, zeroed
from beeline.networks.inference.joins import Join
from beeline.networks.patches import from_patches, to_patches
from beeline.networks.transformer.blocks import AdaLNZero, Modulation, OfTime, PreNorm, Sizes, Wiring
from beeline.networks.transformer.feeds import Feed, FeedForward
from beeline.networks.transformer.layout import NO_CHANGE, After, Asked, Layout, ReadsNull, asked
from beeline.networks.transformer.mixers import Attention, CoreMixer, Mixer
from beeline.networks.transformer.plans.plan import Plain, Plan
from beeline.networks.transformer.positions import Positions, SinCos


class Tokenizer(Protocol):
    """What makes tokens of data, and data of tokens."""

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, ...], Tensor | None]:
        """The tokens [B,N,D] of data, their grid, and the table of rotary positions."""
        ...

    def data(self, h: Tensor, shape: Sequence[int]) -> Tensor:
        """Data [B,*shape] of normalised and modulated tokens [B,N,D]."""
        ...


class FlowTransformer(Declaring):
    """A transformer over the patches of data with one to three axes, modulated by time and condition.

    tokens = W patches + positions;  the blocks of the plan;  output = unpatch(W (norm(tokens) (1 + scale) + shift))
    A block mixes the tokens (``mixer``) and feeds each of them (``feed``); ``wiring`` says how both meet the stream,
    ``modulation`` where shifts, scales and gates come from.  With gates that start at zero a network starts as
    the same function, whatever its mixer and feed.
    Assumes [B,C,*sides] of the configured size, or of any with ``any_size``; a side that is no multiple of the patch is
    padded with zeros and cropped again.
    """

    skips: ClassVar[bool] = False  # whether block i also reads the output of block depth - 1 - i
    sequences: ClassVar[bool] = True  # whether sequences among the conditions modulate, by their means

    def __init__(
        self,
        shape: Sequence[int],  # (channels, length), (channels, height, width) or (channels, frames, height, width)
        patch: int = 2,  # side of a patch; the cost of attention falls with its fourth power for images
        width: int = 128,  # channels of a token; a multiple of 4 and of heads
        depth: int = 3,  # blocks
        heads: int = 4,  # 32 to 64 channels per head are usual
        conditions: Conditions | None = None,
        span: bool = False,  # take the end of a jump as a second time, for flow maps
        dropout: float = 0.0,  # 0 to 0.5
        *,
        ratio: float = 4.0,  # hidden channels of the feed in a block, relative to width
        any_size: bool = False,  # take other sides, with positions of their own
        scale: float = 1000.0,  # highest frequency of the time embedding, radians per unit of time
        features: int = 64,  # its sines and cosines
        steps: int | None = None,  # 0 or 1: those of 1000 (1 - t), as in checkpoints of diffusers
        mixer: Mixer = Attention(),
        feed: Feed = FeedForward(),
        positions: Positions = SinCos(),
        wiring: Wiring = PreNorm(),
        modulation: Modulation = AdaLNZero(),
        plan: Plan = Plain(),
    ):
        super().__init__()
        name = type(self).__name__
        self.shape = tuple(int(n) for n in shape)
        require(
            2 <= len(self.shape) <= 4 and all(n >= 1 for n in self.shape),
            f"{name} got shape={tuple(shape)}; it is a network for data with one to three axes: pass (channels, "
            "height, width) for images",
        )
        check_sizes(name, patch=patch, width=width, depth=depth, heads=heads)
        check_dropout(name, dropout)
        self.settings: dict[str, Any] = {
            "shape": list(self.shape), "patch": patch, "width": width, "depth": depth, "heads": heads, "span": span,
            "dropout": dropout, "ratio": ratio, "scale": scale, "features": features, "steps": steps,
            "any_size": any_size, "mixer": mixer, "feed": feed, "positions": positions, "wiring": wiring,
            "modulation": modulation, "plan": plan,
        }  # fmt: skip
        self.any_size, self.patch, self.plan = any_size, patch, plan
        self.grid = self.grid_of(self.shape[1:])
        self.text = wiring.context(width, conditions or {})
        seen = self.sequences and self.text is None
        self.embed = Embedding(width, conditions, span, 0, features, scale, seen, steps)
        self.inp = nn.Linear(self.shape[0] * patch ** len(self.grid), width)
        self.place = positions.build(width, heads, self.grid)
        self.root = modulation.root(width)
        self.parts(Sizes(width, heads, int(width * ratio), dropout, self.grid), depth, mixer, feed, wiring, modulation)
        self.visiting()
        self.tell = modulation.last(width)
        self.out = zeroed(nn.Linear(width, self.shape[0] * patch ** len(self.grid)))

    def parts(self, sizes: Sizes, depth: int, mixer: Mixer, feed: Feed, wiring: Wiring, modulation: Modulation) -> None:
        """Create the blocks."""
        self.block = nn.ModuleList(wiring.build(sizes, mixer, feed, modulation) for _ in range(depth))
        if self.skips:
            self.skip = nn.ModuleList(
                _first_half(nn.Linear(2 * sizes.width, sizes.width)) for _ in range(len(self.plan.visits(depth)) // 2)
            )

    def visiting(self) -> None:
        """Create what the plan does around visits."""
        plan, mixer = self.plan, self.settings["mixer"]
        self.visit = plan.build(self.settings["width"], len(self.visits))
        require(
            not self.visit.scattered or isinstance(mixer, CoreMixer),
            f"{type(self).__name__} got plan={type(plan).__name__} with mixer={type(mixer).__name__}; the plan gives "
            "blocks some of the tokens, which are no grid: use a mixer of tokens anywhere, such as Attention or "
            "LinearAttention",
        )

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"block": self.block}

    @property
    def joins(self) -> list[Join]:
        return [Join(layer, self.settings["width"], -1) for layer in self.skip] if self.skips else []

    @property
    def last_layer(self) -> nn.Module:
        return self.out

    @property
    def traits(self) -> Traits:
        return Traits(
            nulls=nulls_of_labels(self.embed.cond.conditions),
            any_size=self.any_size,
            tokens=self.token_grid if len(self.grid) == 2 else None,
        )

    @functools.cached_property
    def reads_null(self) -> bool:
        """Whether a block asks which rows have the null condition."""
        return any(isinstance(module, ReadsNull) for module in self.modules())

    def token_grid(self, shape: Sequence[int]) -> TokenGrid:
        """The tokens of an image [C,H,W]."""
        rows, columns = self.grid_of(shape[-2:])
        return TokenGrid(rows, columns)

    def grid_of(self, sides: Sequence[int]) -> tuple[int, ...]:
        """The patches along every axis."""
        return tuple(-(-int(side) // self.patch) for side in sides)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self.settings, "conditions": self.embed.cond.conditions}

    @property
    def visits(self) -> list[tuple[str, nn.Module]]:
        """The blocks in the order of their visits; a visit is named by its stack and its number there."""
        return [
            (f"{name}.{number}", stack[i])
            for name, stack in self.stacks.items()
            for number, i in enumerate(self.plan.visits(len(stack)))
        ]

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        what = asked()
        stages, after = what.control(self.begun(x, t, cond, s, what))
        return self.run(stages, what, after)

    def run(self, stages: Stages, what: Asked, after: After = NO_CHANGE) -> Tensor:
        """The output of a forward pass that was begun: the one loop over blocks."""
        (h, told, out), made = stages, what.part.visits
        notes: dict[str, Tensor] = {}  # of all visits by "stack.number.name"
        saved: list[Tensor] = []
        visits = self.visits
        half = len(visits) // 2 if self.skips else 0
        for k, (name, block) in enumerate(visits):
            if half and k >= len(visits) - half:
                h = self.skip[k - len(visits) + half](torch.cat([h, saved.pop()], -1))
            if made is None or k in made:
                h = self.visit(k, block, h, *told[k])
                if what.notes is not None:
                    h, found = h
                    notes |= {f"{name}.{key}": value for key, value in found.items()}
                if k in after:
                    h = after[k](h, told[-1][1].tokens)
            if k < half:
                saved.append(h)
        if what.notes is not None:
            what.notes.append(notes)
        output: Tensor = out(h, *told[-1])
        return output

    def in_order(self, what: Asked) -> bool:
        """Whether blocks are evaluated one after the other, each once, and nothing else is."""
        return self.visit.plain and not self.skips and what.part.visits is None

    def stages(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Stages | None:
        what = asked()._replace(notes=None)
        return self.begun(x, t, cond, s, what) if self.in_order(what) else None

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, ...], Tensor | None]:
        """The tokens [B,N,D] of data, their grid, and the table of rotary positions."""
        grid, h = self.grid_of(x.shape[2:]), self.inp(to_patches(x, self.patch))
        added = self.place.added(grid, h)
        return h if added is None else h + added.to(h.dtype), grid, self.place.turn(grid, h)

    def data(self, h: Tensor, shape: Sequence[int]) -> Tensor:
        """Data [B,*shape] of normalised and modulated tokens [B,N,D]."""
        return from_patches(self.out(h), shape, self.patch)

    def begun(
        self, x: Tensor, t: Tensor, cond: Cond, s: Tensor | None, what: Asked, tokenizer: Tokenizer | None = None
    ) -> Stages:
        """The parts of a forward pass, with the patches of the network or those of another tokenizer."""
        check_state(self, x, t, (self.shape[0], *[None] * len(self.grid)) if self.any_size else self.shape)
        cut: Tokenizer = self if tokenizer is None else tokenizer
        z = self.embed.total(t, cond, s)
        e = F.silu(z).to(x.dtype)
        h, grid, turn = cut.tokens(x)
        h, keep = self.joined(h, cond)
        null = self.embed.cond.nulls(cond, t) if self.reads_null else None
        layout = Layout(grid, turn, what.notes is not None, keep, null, what.part)

        def out(h: Tensor, z: Tensor, layout: Layout) -> Tensor:
            shift, scale = layout.spread(self.tell(z, h)).chunk(2, -1)
            return cut.data(torch.addcmul(shift, layer_norm(h[:, : layout.tokens]), 1 + scale), x.shape[1:])

        return Stages(h, [*self.told(e, t, layout), (z, layout)], out)

    def told(self, e: Tensor, t: Tensor, layout: Layout) -> list[tuple[Tensor, Layout]]:
        """What the blocks are given in every visit."""
        count, shared = len(self.visits), self.rooted(e, t)
        own = [self.visit.told(k, e) for k in range(count)]
        return [
            (shared if here is e else self.rooted(here, t), self.visit.layout(k, here, layout.at(k)))
            for k, here in enumerate(own)
        ]

    def rooted(self, e: Tensor, t: Tensor) -> Tensor:
        """The part of the modulation that all blocks share."""
        shared: Tensor = self.root(e, t) if isinstance(self.root, OfTime) else self.root(e)
        return shared

    def joined(self, h: Tensor, cond: Cond) -> tuple[Tensor, Tensor | None]:
        """The tokens of the datum [B,N,D] with those of other streams after them, and which of all others may see."""
        if self.text is None:
            return h, None
        text, keep = self.text.tokens(cond, h)
        if keep is not None:
            keep = torch.cat([torch.ones_like(h[..., 0], dtype=torch.bool), keep], 1)
        return torch.cat([h, text.to(h.dtype)], 1), keep

    def modulation(self, t: Tensor, cond: Cond = None) -> list[tuple[Tensor, ...]] | None:
        e = self.embed(t, cond)
        e = e.to(dtype_of(self.inp, e))
        return [(self.rooted(e, t),)] * len(self.visits) if self.in_order(asked()) else None


def _first_half(layer: nn.Linear) -> nn.Linear:
    """A layer that starts as the identity of the first half of its input."""
    with torch.no_grad():
        nn.init.eye_(layer.weight)
        layer.bias.zero_()
    return layer
