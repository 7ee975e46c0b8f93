"""Taps: read and change queries, keys, values and outputs of attention by the names of blocks, for one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.memory import free_memory
from beeline.core.types import Cond, map_cond
from beeline.fields.flow import bind
from beeline.networks.attending.blocks import Attending, blocks_with_attention, with_attention
from beeline.networks.attending.mode import AttentionMode, Evaluation, ImageAttention, Place
from beeline.networks.hub.calls.skips import IMAGE, RESULTS
from beeline.networks.skipping import check_names, with_forward

Blocks: TypeAlias = Sequence[str] | Callable[[Sequence[str]], Sequence[str]]
"""Names of blocks, or a function that chooses among those with attention."""


def chosen_blocks(field: Any, blocks: Blocks = (), depth: tuple[float, float] = (0.0, 1.0)) -> tuple[str, ...]:
    """Names of blocks of a field: given ones, those of a function, or those in an interval of the depth.

    ``depth`` (a, b) takes of N blocks with attention the numbers a N up to b N: (0.5, 1.0) is the last half; at least
    one block is taken.  Raises ValueError for an unknown name, an interval outside [0, 1], no block, and a field
    without attention.
    """
    known = blocks_with_attention(field)
    if callable(blocks) or blocks:
        names = tuple(blocks(known)) if callable(blocks) else tuple(blocks)
        check_names(field, names)
        require(names, f"no block was chosen of {', '.join(known)}; choose one or more")
        return names
    low, high = depth
    require(
        0 <= low < high <= 1,
        f"depth={depth} was given, which is no interval of depths: give (low, high) with 0 <= low < high <= 1, as "
        "(0.5, 1.0) for the last half of the blocks",
    )
    first = min(math.floor(low * len(known)), len(known) - 1)
    return known[first : max(first + 1, math.ceil(high * len(known)))]


def with_outputs(field: Any, names: Sequence[str], change: Callable[[BlockOutput], Tensor]) -> Attending:
    """A field with the same weights in whose named blocks the output for the picture is changed; ``field`` is not.

    Of blocks that return the tokens of a text as well, these stay.
    """
    mode = AttentionMode(lambda a: a.softmax())

    def changed(name: str, block: nn.Module) -> Callable[..., Any]:
        inner, streams = block.forward, RESULTS.get(type(block).__name__, (IMAGE,))

        def forward(*args: Any, **kwargs: Any) -> Any:
            out = inner(*args, **kwargs)
            if isinstance(out, Tensor):
                return change(BlockOutput(out, name, mode.evaluation))
            parts, at = list(out), streams.index(IMAGE)
            parts[at] = change(BlockOutput(parts[at], name, mode.evaluation))
            return tuple(parts)

        return forward

    return Attending(with_forward(field, names, changed), mode)


class BlockOutput(NamedTuple):
    """What a block gives for the tokens of a picture, and those of a text where it has one stream for both."""

    h: Tensor  # [B,...]
    block: str
    evaluation: Evaluation

    @property
    def place(self) -> Place:
        """Where it is in the network."""
        return self.block, OUTPUT

    @property
    def time(self) -> float:
        """The time at which the network is evaluated."""
        return self.evaluation.time


OUTPUT = -1  # the number of the output of a block, beside those of its attentions


class Store:
    """Tensors of attentions, by place and time of evaluation, for one run: they are dropped at the end of its context.

    Of evaluations at one time the first is kept, and of a batch the first ``rows`` rows: those of the strong prediction
    where guidance evaluates several as one batch.  ``nearest`` gives the entry of the nearest time, so that the stages
    of a step find those of the way back.

    >>> with Store(rows=1) as store:
    ...     len(store)
    0
    """

    def __init__(self, rows: int, cpu: bool = False):
        self.rows, self.cpu = rows, cpu
        self.entries: dict[Place, dict[float, dict[str, Tensor]]] = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.entries.clear()

    def __len__(self) -> int:
        """The number of entries: one for every attention and time."""
        return sum(len(times) for times in self.entries.values())

    @property
    def bytes(self) -> int:
        """Of the tensors that are held."""
        held = (x for times in self.entries.values() for parts in times.values() for x in parts.values())
        return sum(x.numel() * x.element_size() for x in held)

    def put(self, a: ImageAttention | BlockOutput, **parts: Tensor) -> None:
        """Keep tensors [B,...] of an attention or of the output of a block by name."""
        times = self.entries.setdefault(a.place, {})
        if a.time not in times:
            kept = {name: part[: self.rows].detach() for name, part in parts.items()}
            times[a.time] = {name: part.cpu() if self.cpu else part.clone() for name, part in kept.items()}

    def nearest(self, a: ImageAttention | BlockOutput) -> Mapping[str, Tensor] | None:
        """The tensors of the nearest time at the place of an attention, for all its rows; None without any.

        Rows are repeated for a batch of several predictions.
        """
        times = self.entries.get(a.place)
        if not times:
            return None
        found = times[min(times, key=lambda t: (abs(t - a.time), t))]
        like = a.h if isinstance(a, BlockOutput) else a.q
        more = len(like) // self.rows
        return {name: part.to(like).repeat(more, *(1 for _ in part.shape[1:])) for name, part in found.items()}

    def reserve(self, bytes_needed: int, device: torch.device) -> int:
        """The bytes that a run is going to hold; raises ValueError where more are needed than are free."""
        device = torch.device("cpu") if self.cpu else device
        free = free_memory(device)
        require(
            free is None or bytes_needed <= free,
            f"the attention of this run takes {bytes_needed / 2**20:,.0f} MiB on {device}, and "
            f"{(free or 0) / 2**20:,.0f} MiB are free: name fewer blocks, take fewer steps or rows, or keep it on the "
            "CPU with cpu=True",
        )
        return bytes_needed


def bytes_of_rows(
    field: Any,
    names: Sequence[str],
    x: Tensor,
    cond: Cond,
    parts: Callable[[ImageAttention], Mapping[str, Tensor]],
    outputs: Sequence[str] = (),
) -> int:
    """The bytes of some tensors of all attentions in the named blocks, and of the outputs of other blocks.

    They are those of one evaluation of data ``x`` [B,*S]; the network is evaluated once for one row.
    """
    found = [0]

    def count(a: ImageAttention) -> Tensor:
        found[0] += sum(part.numel() * part.element_size() for part in parts(a).values())
        return a.softmax()

    def count_output(out: BlockOutput) -> Tensor:
        found[0] += out.h.numel() * out.h.element_size()
        return out.h

    inner = with_outputs(field, outputs, count_output) if outputs else field
    with torch.no_grad():
        one = map_cond(lambda leaf: leaf[:1].to(x.device), cond)
        bind(with_attention(inner, names, count), one)(x[:1], torch.full((1,), 0.5, device=x.device))
    return found[0] * len(x)
