"""Flow matching loss, with fixed noise, of a small transformer of the digits from which parts are taken away: first
whole attentions and feeds, then heads.  A part is put back if the loss of one half of the held-out digits rises by more
than 1 percent without it; the other half is reported.  Against the same numbers of parts with the least losses of their
own removal; with no rise allowed, against the whole network; and with a head with noise in its output weights, so that
the loss is 20 percent higher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import beeline as bl
from benchmarks.claims.small_transformers import digits as pictures
from benchmarks.claims.storing import digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "AxFormer: parts are taken away while the loss allows it"
CLAIM = "Parts that do harm go, and the smaller network is no worse."
Part = tuple[str, slice]  # the last layer of a branch, and its inputs


def parts_of(net: nn.Module) -> tuple[list[Part], list[Part]]:
    """Branches and heads."""
    names = [f"block.{k}.{last}" for k in range(4) for last in ("mix.out", "mlp.3")]
    heads = [(f"block.{k}.mix.out", slice(8 * j, 8 * j + 8)) for k in range(4) for j in range(4)]
    return [(name, slice(None)) for name in names], heads


@torch.no_grad()
def without(net: nn.Module, parts: Sequence[Part]) -> nn.Module:
    made = copy.deepcopy(net)
    for name, inputs in parts:
        layer = made.get_submodule(name)
        layer.weight[:, inputs] = 0
        if inputs == slice(None):
            layer.bias.zero_()
    return made


def losses(rng: bl.Rng) -> tuple[Callable[[nn.Module], float], Callable[[nn.Module], float]]:
    """The losses of both halves of the held-out digits."""
    x1 = pictures()[1].x1
    x0, t = rng.fork("noise").normal(x1), rng.fork("t").uniform(len(x1), x1)
    x = x0 + t[:, None, None, None] * (x1 - x0)

    def of(rows: slice) -> Callable[[nn.Module], float]:
        def loss(net: nn.Module) -> float:
            with torch.no_grad():
                return float((net(x[rows], t[rows]) - (x1 - x0)[rows]).square().mean())

        return loss

    return of(slice(0, None, 2)), of(slice(1, None, 2))


def greedy(
    net: nn.Module, loss: Callable[[nn.Module], float], stages: Sequence[Sequence[Part]], tolerance: float = 0.0
) -> list[Part]:
    """The parts that are taken away, in each stage from that on whose removal alone costs least.

    ``tolerance`` is the rise of the loss that each of them may cost, relative to the loss at the start.
    """
    start = now = loss(net)
    out: list[Part] = []
    for stage in stages:
        whole = {name for name, inputs in out if inputs == slice(None)}
        left = [part for part in stage if part[0] not in whole]
        for part in sorted(left, key=lambda part: loss(without(net, [*out, part]))):
            new = loss(without(net, [*out, part]))
            if new <= now + tolerance * start:
                out, now = [*out, part], new
    return out


def measure(rng: bl.Rng) -> list[Finding]:
    net, _, _ = digits(rng.seed)
    look, report = losses(rng)
    branches, heads = parts_of(net)
    out, free_of_cost = greedy(net, look, (branches, heads), 0.01), greedy(net, look, (branches, heads))
    alone: list[Part] = []
    chance: list[Part] = []
    for stage in (branches, heads):
        n = sum(part in stage for part in out)
        free = [part for part in stage if (part[0], slice(None)) not in alone]
        alone += sorted(free, key=lambda part: look(without(net, [part])))[:n]
        chance += [stage[k] for k in rng.fork("chance", len(stage)).permutation(len(stage))[:n].tolist()]
    harmed, harm = copy.deepcopy(net), heads[int(rng.fork("head").integers(len(heads), 1))]
    with torch.no_grad():
        columns: Tensor = harmed.get_submodule(harm[0]).weight[:, harm[1]]
        harmful = columns.std() * rng.fork("harm").normal(columns)
        while look(harmed) < 1.2 * look(net):
            columns += harmful
    cured = greedy(harmed, look, (heads,))
    other = next(part for part in heads if part not in cured)
    return [
        finding("one after another (figure) against all by their own losses", report(without(net, alone)),
                report(without(net, out)), report(without(net, chance)), "parts by chance"),
        finding("no rise allowed (figure) against the whole network", report(net), report(without(net, free_of_cost)),
                report(without(net, chance)), "parts by chance"),
        finding("a head that does harm: taken away (figure) against kept", report(harmed),
                report(without(harmed, cured)), report(without(harmed, [other])), "another head"),
    ]  # fmt: skip
