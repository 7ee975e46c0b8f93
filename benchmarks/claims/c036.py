"""Sounds of 16 frames with two impacts, in place of videos and mel spectra: the condition is the track of impacts, and
the sound a decaying pulse of random loudness and sign at each. Alignment is the number of impacts with an onset in
their frame, divided by that of all impacts and false onsets. The teacher is guided with scale 3 in 25 Euler steps; its
pairs train a reflow, and pairs of this a one-step student."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from benchmarks.claims.toys import finding, learn, network, noise
from benchmarks.claims.verdict import Finding

METHOD = "Frieren: guided reflow for sound of video"
CLAIM = "After guided reflow and distillation one step keeps the alignment of sound and video."
SEEDS = 3
FRAMES, SCALE, STEPS = 16, 3.0, 25
TRACK = {"impacts": {"size": FRAMES}}
NULL = {"impacts": 0.0}


def tracks(rng: bl.Rng, n: int) -> Tensor:
    """[n,16] with two impacts, which are at least three frames apart and leave room to sound."""
    first = rng.fork("first").integers(8, n)
    second = first + 3 + rng.fork("second").integers(4, n)
    track = torch.zeros(n, FRAMES)
    return track.scatter_(1, torch.stack([first, second], 1), 1.0)


def sounds(rng: bl.Rng, n: int) -> bl.Batch:
    """Sounds with their tracks: pulses that halve in every frame, of loudness 1.5 to 3, and noise."""
    track = tracks(rng, n)
    loud = 1.5 + 1.5 * rng.fork("loud").uniform(n * FRAMES, track).view(n, FRAMES)
    sign = 1.0 - 2.0 * rng.fork("sign").integers(2, n * FRAMES).view(n, FRAMES)
    sound = torch.zeros(n, FRAMES)
    for frame in range(FRAMES):
        before = sound[:, frame - 1] / 2 if frame else torch.zeros(n)
        hit = track[:, frame] > 0
        sound[:, frame] = torch.where(hit, loud[:, frame] * sign[:, frame], before)
    return bl.Batch(sound + 0.1 * rng.fork("noise").normal(sound), cond={"impacts": track})


def alignment(sound: Tensor, track: Tensor) -> float:
    """Impacts with an onset, divided by impacts and false onsets; an onset is a frame that is far from the decay."""
    before = torch.cat([torch.zeros(len(sound), 1), sound[:, :-1]], 1)
    onset, hit = (sound - before / 2).abs() > 0.9, track > 0
    return float((onset & hit).sum() / (onset | hit).sum())


def measure(rng: bl.Rng) -> list[Finding]:
    data, track = sounds(rng, 4000), tracks(rng.fork("test"), 1000)
    x0, cond = noise(rng, 1000, FRAMES), {"impacts": track}
    drop = bl.objectives.Drop(0.1, NULL)
    first = network(rng, FRAMES, width=128, conditions=TRACK)
    untrained = network(rng, FRAMES, width=128, conditions=TRACK)
    teacher = bl.Flow(learn(first, bl.objectives.FlowMatching(drop=drop), data, rng.fork("net"), 900), null=NULL)
    guided = bl.Sampler(STEPS, solver=bl.solvers.EULER, guidance=bl.CFG(SCALE))

    def student(method: Any, flow: bl.Flow, name: str) -> bl.Flow:
        pairs = method.data(flow, data, rng.fork(name))
        net = learn(method.networks(flow)["student"], method.objective(flow), pairs, rng.fork(name), 400, peak=1e-3)
        return method.student(flow, {"student": net})[0]

    plain = bl.Sampler(STEPS, solver=bl.solvers.EULER)
    straight = student(bl.Reflow(guided), teacher, "reflow")
    one = student(bl.OneStep(plain), straight, "distilled")
    unguided = student(bl.OneStep(plain), student(bl.Reflow(plain), teacher, "plain reflow"), "plain distilled")

    def aligned(flow: bl.Flow, how: bl.Sampler) -> float:
        with torch.no_grad():
            return alignment(how(flow, x0, cond), track)

    single = bl.Sampler(1, solver=bl.solvers.EULER)
    made, raw = aligned(one, single), aligned(bl.Flow(untrained), single)
    return [
        finding("alignment: one step after guided reflow (figure) against one guided step of the teacher",
                aligned(teacher, bl.Sampler(1, solver=bl.solvers.EULER, guidance=bl.CFG(SCALE))), made, raw,
                better="higher"),
        finding("alignment: one step after guided reflow (figure) against the guided teacher in 25 steps, 5% worse",
                0.95 * aligned(teacher, guided), made, raw, better="higher"),
        finding("alignment: one step after guided reflow (figure) against reflow without guidance",
                aligned(unguided, single), made, raw, better="higher"),
    ]  # fmt: skip
