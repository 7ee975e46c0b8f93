"""Videos of four frames of scenes whose distribution is known: an object that moves by one pixel a frame, before one of
four backgrounds; it is removed, frame by frame, with the exact velocity and 20 Heun steps. The metrics are those of
FiVE: the background outside of the object, and a judge that names the nearest mean of all scenes. The diffusion editor
is DDIM inversion, which is inversion by the ODE of the same flow; SDEdit is the editor by noise. Sensitivity is the
deviation of the background's ratio of signal to noise over the start times 0.1, 0.3, 0.5 and 0.7. Videos of models of
that size, prompts, and a vision-language model as the judge are not measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.evaluation.edits.benchmark import accuracy, scores
from beeline.sampling.editing.flow_edit import FlowEdit
from beeline.sampling.editing.resampled import InvertAndSample, SDEdit
from benchmarks.claims import scenes
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FiVE: metrics of edited videos"
CLAIM = "Editors by the flow itself keep the background better than those by noise, and depend less on their settings."
VIDEOS, FRAMES = 12, 4
STARTS = (0.1, 0.3, 0.5, 0.7)


class Nearest:
    """A judge that sees an object where the nearest scene has one, in most of the frames."""

    def object_seen(self, video: Tensor) -> bool:
        return bool((scenes.nearest(video) >= len(scenes.EMPTY)).float().mean() > 0.5)

    def sees(self, datum: Any, name: str) -> bool:
        return self.object_seen(datum) == (name in "object")

    def choose(self, datum: Any, names: Sequence[str]) -> int:
        return next(i for i, name in enumerate(names) if self.sees(datum, name))


def measure(rng: bl.Rng) -> list[Finding]:
    x = torch.stack([torch.stack([scenes.scene(v % 4, 2, 1 + f) for f in range(FRAMES)]) for v in range(VIDEOS)])
    x = x + scenes.STD * rng.fork("given").normal(x)
    region = torch.stack([scenes.mask(2, 1 + f) for f in range(FRAMES)])[:, None].expand(x.shape)
    flat = x.flatten(0, 1)
    one, none = torch.ones(len(flat)), torch.zeros(len(flat))

    def measured(edit: Any) -> dict[str, float]:
        made = edit(scenes.flow(), flat, one, none, bl.Sampler(20), rng.fork("edit")).view_as(x)
        found = scores(x, made, region, span=3.0)
        answers = accuracy(list(made), [("object", "nothing")] * VIDEOS, Nearest())
        return {**{k: float(v) for k, v in found.items() if v is not None}, "accuracy": answers.mean}

    flows, noisy, inverted = ([measured(m(start=s)) for s in STARTS] for m in (FlowEdit, SDEdit, InvertAndSample))
    nothing = {**scores(x, x, region), "accuracy": accuracy(list(x), [("object", "nothing")] * VIDEOS, Nearest()).mean}

    def mean(rows: list[dict[str, float]], name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    def deviation(rows: list[dict[str, float]], name: str) -> float:
        return float(torch.tensor([row[name] for row in rows]).std())

    other = measured(lambda flow, x, *rest: x.roll(FRAMES, 0))
    trivial = "another video"
    name = "background_psnr"
    return [
        finding("background PSNR: FlowEdit (figure) against SDEdit", mean(noisy, name), mean(flows, name), other[name],
                trivial, "higher"),
        finding("background PSNR: FlowEdit (figure) against inversion", mean(inverted, name), mean(flows, name),
                other[name], trivial, "higher"),
        finding("deviation of the PSNR over start times: FlowEdit (figure) against SDEdit", deviation(noisy, name),
                deviation(flows, name), deviation(noisy, name), "SDEdit"),
        finding("answers of the judge (FiVE-Acc): FlowEdit (figure) against SDEdit", mean(noisy, "accuracy"),
                mean(flows, "accuracy"), float(nothing["accuracy"] or 0), "unedited video", "higher"),
        finding("frame consistency: FlowEdit (figure) against SDEdit", mean(noisy, "frame_consistency"),
                mean(flows, "frame_consistency"), float(measured(lambda flow, x, *rest: x.roll(1, 0))[
                    "frame_consistency"]), "frames in another order", "higher"),
    ]  # fmt: skip
