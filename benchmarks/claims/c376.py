"""Digits of 8 x 8 pixels: mean distance of the hints of 128 samples from those of held-out digits, of which one control
was trained on edges and another one on the blurred picture."""

from __future__ import annotations

import beeline as bl
from beeline.networks.controls.features import T2IAdapter
from beeline.networks.controls.hints import Blur, Edges, Hint
from beeline.networks.controls.with_control import WithControl, controls_of
from benchmarks.claims.controls import base, errors, taught
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "T2I-Adapter: small encoders of hints"
CLAIM = "Small encoders control a frozen flow, and encoders that were trained apart act together."
HINTS: dict[str, Hint] = {"edges": Edges(), "blur": Blur()}


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    alone = {name: taught(seed, T2IAdapter(32), hint, name) for name, hint in HINTS.items()}
    both = bl.Network(WithControl(alone["edges"].backbone, T2IAdapter(32), name="blur"))
    own, known = (controls_of(f)["blur"].control for f in (both, alone["blur"]))
    own.load_state_dict(known.state_dict())
    none, together = errors(base(seed), seed, HINTS), errors(both, seed, HINTS)
    one = {name: errors(field, seed, HINTS) for name, field in alone.items()}
    return [
        finding("error of edges: control by edges (figure) against none",
                none[0], one["edges"][0], none[0], "no control"),
        finding("error of the blurred picture: both controls (figure) against that by edges alone",
                one["edges"][1], together[1], none[1], "no control"),
        finding("error of edges: both controls (figure) against that by edges alone, 10% worse",
                1.1 * one["edges"][0], together[0], none[0], "no control"),
    ]  # fmt: skip
