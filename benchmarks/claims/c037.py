"""Colours of one picture given to another: two clouds of Gaussian colours, clipped to the cube, and a flow of 1500
steps of training for each.  Distances of distributions are W2 between 512 colours.  The encoder of the authors, which
predicts the weights of a flow from its picture, is not measured: every flow is trained, in a few seconds."""

from __future__ import annotations

import torch
from torch import Tensor

import beeline as bl
from beeline.runs.editing.colours import fit_colours, transfer_colours
from benchmarks.claims.toys import finding, w2
from benchmarks.claims.verdict import Finding

METHOD = "ModFlows: colours through two flows"
CLAIM = "State-of-the-art similarity of content and colours, by a bijection of colours."


def picture(mean: tuple[float, ...], spread: Tensor, rng: bl.Rng) -> Tensor:
    """A picture [3,64,64] of Gaussian colours."""
    z = rng.normal(torch.empty(3, 64 * 64))
    return (torch.tensor(mean)[:, None] + spread @ z).clamp(0, 1).reshape(3, 64, 64)


def colours(one: Tensor, n: int = 512) -> Tensor:
    return one.flatten(1).T[:n].double()


def matched(content: Tensor, style: Tensor) -> Tensor:
    """The content with the means and deviations of the colours of the style, channel by channel (Reinhard et al.)."""
    a, b = content.flatten(1), style.flatten(1)
    made = (a - a.mean(1, keepdim=True)) / a.std(1, keepdim=True) * b.std(1, keepdim=True) + b.mean(1, keepdim=True)
    return made.clamp(0, 1).reshape(content.shape)


def measure(rng: bl.Rng) -> list[Finding]:
    first = torch.tensor([[0.08, 0.0, 0.0], [0.06, 0.05, 0.0], [0.0, 0.03, 0.06]])
    second = torch.tensor([[0.05, 0.0, 0.0], [-0.08, 0.06, 0.0], [0.05, -0.05, 0.04]])
    content = picture((0.35, 0.4, 0.3), first, rng.fork("content"))
    style = picture((0.6, 0.5, 0.65), second, rng.fork("style"))
    other = picture((0.6, 0.5, 0.65), second, rng.fork("other"))
    flows = fit_colours(content, seed=1), fit_colours(style, seed=2)
    made = transfer_colours(content, flows[1], flow=flows[0])
    euler = bl.Sampler(8, solver=bl.solvers.EULER)
    back = {
        name: float((transfer_colours(content, flows[0], flow=flows[0], sampler=how) - content).abs().mean())
        for name, how in (("euler", euler), ("midpoint", None), ("exact", bl.Sampler(8, solver=bl.solvers.Symmetric())))
    }
    target = colours(style)
    gaps = {name: w2(colours(one), target) for name, one in
            (("content", content), ("made", made), ("matched", matched(content, style)), ("same", other))}  # fmt: skip
    half = w2(colours(transfer_colours(content, flows[1], flow=flows[0], strength=0.5)), target)
    still = (gaps["content"], "no transfer")
    blurred = float((content.mean((1, 2), keepdim=True) - content).abs().mean())
    return [
        finding("W2 to the colours of the style: two flows (figure) against matched means and deviations",
                gaps["matched"], gaps["made"], *still),
        finding("W2 to the colours of the style: two flows (figure) against other pixels of the style", gaps["same"],
                gaps["made"], *still),
        finding("W2 to the colours of the style: strength 1 (figure) against 0.5", half, gaps["made"], *still),
        finding("round trip of colours: 16 midpoint steps (figure) against 8 Euler steps", back["euler"],
                back["midpoint"], blurred, "one colour"),
        finding("round trip of colours: a symmetric solver (figure) against 8 Euler steps", back["euler"],
                back["exact"], blurred, "one colour"),
    ]  # fmt: skip
