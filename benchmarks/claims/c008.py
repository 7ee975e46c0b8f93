"""The ring: a teacher after 500 steps, then 250 steps of PeRFlow with four windows against one window (reflow with
pairs generated during training). W2 distance in four Euler steps. A fine-tune of the teacher is moved to a wider
ring; the weight difference of PeRFlow is added to it and must not change its samples."""

from __future__ import annotations

import copy
from typing import Any

import beeline as bl
from beeline.data.distributions.mixtures import GaussianMixture
from benchmarks.claims.toys import LINE, RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "PeRFlow: piecewise rectified flow"
CLAIM = "Piecewise straightening gives quality in few steps, and the weight difference transfers to other fine-tunes."
SEEDS, STEPS = 4, 4
WIDE = GaussianMixture.ring(radius=5.0)


def added(base: Any, student: Any, teacher: Any) -> Any:
    """``base`` with what training changed from teacher to student."""
    made, (a, b) = copy.deepcopy(base), (student.state_dict(), teacher.state_dict())
    made.load_state_dict({name: part + a[name] - b[name] for name, part in made.state_dict().items()})
    return made


def measure(rng: bl.Rng) -> list[Finding]:
    plain, data, x0 = bl.objectives.FlowMatching(), points(rng), noise(rng)
    real, other = even(RING, rng)[0], even(WIDE, rng)[0]
    teacher = learn(network(rng), plain, data, rng.fork("net"), steps=500)
    more: dict[str, Any] = {"steps": 250, "peak": 1e-3}
    longer = learn(copy.deepcopy(teacher), plain, data, rng.fork("more"), **more)
    tuned = learn(copy.deepcopy(teacher), plain, points(rng, WIDE), rng.fork("tuned"), **more)
    flow = bl.Flow(teacher, LINE)
    four, one = (
        learn(copy.deepcopy(teacher), bl.objectives.Windowed(flow, k, 4 // k), data, rng.fork("windows"), **more)
        for k in (4, 1)
    )
    merged = added(tuned, four, teacher)
    gone = lambda net, n: sample(net, x0, n)  # noqa: E731
    raw = gone(network(rng), STEPS)
    return [
        finding("4 steps: after PeRFlow (figure) against as much further training", w2(gone(longer, STEPS), real),
                w2(gone(four, STEPS), real), w2(raw, real)),
        finding("4 steps: four windows (figure) against one", w2(gone(one, STEPS), real), w2(gone(four, STEPS), real),
                w2(raw, real)),
        finding("4 steps of the fine-tune: with the change of PeRFlow (figure) against without",
                w2(gone(tuned, STEPS), other), w2(gone(merged, STEPS), other), w2(gone(four, STEPS), other),
                "the student itself"),
    ]  # fmt: skip
