"""Controls of a flow of MNIST: how well samples follow hints, and what that costs in quality.

Every control is trained with the same number of steps on hints of the training digits.  Hints of held-out digits are
given with their labels.  A row has the mean distance of the hints of samples from those that were given, the share of
samples of the right class, and the Frechet distance of the samples to the held-out digits.

    python -m benchmarks.controls --mnist FILE [--only NAME ...]     measure the rows that are missing
    python -m benchmarks.controls --page                             write the table of docs/guides/control.md
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.config import build as config
from beeline.core.errors import require
from beeline.core.modes import device_of
from beeline.distillation.controls.training import ControlTraining
from beeline.networks.controls.control import Control
from beeline.networks.controls.hints import Hint
from beeline.solvers.runge_kutta import EULER
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks import report
from benchmarks.adapt import silent, trained
from benchmarks.fewstep_parts import worlds
from benchmarks.fewstep_parts.worlds import Pictures, World, ends_of

FILE = report.RESULTS / "controls.json"
NONE = "no control"
CONTROLS = ("ControlBranch()", "RelaCtrl()", "T2IAdapter()", "ControlNeXt()", "EasyControl()")
HINTS = ("Edges()", "Blur()")
BATCH, RATE, SAMPLED = 64, 2e-3, 16  # rows of a step, peak of the learning rate, steps of a sampler


def figures(world: World, flow: bl.Flow, given: Tensor | None, hint: Hint, wanted: Tensor) -> dict[str, Any]:
    """The figures of samples at the fixed noise, for hints and labels of held-out digits."""
    cond: Any = world.cond
    if given is not None:
        cond = {**cond, "control": given}
    sampler = bl.Sampler(SAMPLED, solver=EULER)
    begin = time.process_time()
    made = ends_of(sampler, flow, world.x0, cond)
    seconds = time.process_time() - begin
    found = world.score(made)
    return {
        "error": round(float((hint(made.clamp(-1, 1)) - wanted).abs().mean()), 4),
        "agreement": round(found["agreement"], 4),
        "distance": round(found["distance"], 3),
        "seconds_a_sample": round(seconds / len(made), 6),
    }


def controlled(world: World, control: Control, hint: Hint, steps: int) -> tuple[bl.Flow, float]:
    """The flow with a control that is trained on hints of its data, and the seconds of a step."""
    method, rng = ControlTraining(control, hint), bl.Rng(0).fork("controls")
    with rng.fork("start").ambient():
        networks = method.networks(world.teacher)
    training = bl.Training(steps=steps, batch_size=BATCH, lr=WarmupCosine(RATE, max(1, steps // 20)), ema=None)
    data = method.data(world.teacher, world.data, rng.fork("hints"))
    begin = time.process_time()
    made = bl.fit(networks, method.objective(world.teacher), data, training, rng=rng.fork("fit"), log=silent,
                  device=device_of(world.teacher))  # fmt: skip
    return method.student(world.teacher, made)[0], (time.process_time() - begin) / steps


def with_classes(pictures: Pictures, label: Tensor) -> Tensor:
    """Held-out digits of these classes, each the next one of its class."""
    rows = torch.empty_like(label)
    for k in label.unique():
        own, here = (pictures.test_label == k).nonzero()[:, 0], (label == k).nonzero()[:, 0]
        rows[here] = own[torch.arange(len(here)) % len(own)]
    return pictures.test[rows]


def measure(options: Namespace) -> None:
    """Measure the rows that are missing, and write each as soon as it is known."""
    require(options.mnist is not None, "the digits were not named; give --mnist FILE, an .npz file of MNIST")
    name = report.named("controls", options.device)
    out = options.output or FILE.with_stem(name)
    settings = {"steps": options.steps, "batch": BATCH, "rate": RATE, "evaluations": SAMPLED,
                "samples": options.samples}  # fmt: skip
    before = report.read(out).get("settings", settings)
    require(before == settings, f"the rows of {out.name} were measured with {before}, and these would be with "
            f"{settings}; give the same --steps and --samples, or another file with --output")  # fmt: skip
    pictures = worlds.mnist(options.mnist)
    size = replace(worlds.MNIST, samples=options.samples)
    world = worlds.images("mnist", pictures, 0, options.models / "mnist", size, options.device)
    assert isinstance(world.cond, Mapping)
    held = with_classes(pictures, world.cond["label"])

    def add(text: str, row: str, found: Mapping[str, Any]) -> None:
        with report.alone(out):
            every = report.read(out).get("figures", {})
            every.setdefault(text, {})[row] = {**found, "device": options.device, "machine": report.machine()}
            report.write(name, every, [0], out, device=options.device, **settings)
        print(text, row, found, flush=True)

    for text in HINTS:
        hint = config.parse(text, "hints")
        wanted, known = hint(held), report.read(out).get("figures", {}).get(text, {})
        if NONE not in known:
            add(text, NONE, figures(world, world.teacher, None, hint, wanted))
        for row in CONTROLS:
            if row not in known and (not options.only or any(row.startswith(start) for start in options.only)):
                flow, seconds = controlled(world, config.parse(row, "controls"), hint, options.steps)
                own = {"weights": trained(flow.field), "seconds_a_step": round(seconds, 4)}
                add(text, row, own | figures(world, flow, wanted, hint, wanted))


def page(results: Path) -> None:
    """Write the table of the page."""
    content = report.read(results)
    head = ("hint", "control", "weights", "error of hints", "right class", "distance", "ms a sample")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for text, rows in content["figures"].items():
        for row, f in rows.items():
            cells = (f"{f.get('weights', 0):,}", f"{f['error']:.3f}", f"{f['agreement']:.1%}", f"{f['distance']:.2f}",
                     f"{1000 * f['seconds_a_sample']:.1f}")  # fmt: skip
            lines.append(f"| `{text}` | {row if row == NONE else f'`{row}`'} | {' | '.join(cells)} |")
    report.fill(report.DOCS / "guides" / "control.md", "controls", "\n".join(lines))


def parser() -> ArgumentParser:
    made = report.digits_parser("controls", __doc__)
    made.add_argument("--steps", type=int, default=1000, help="of every training")
    made.add_argument("--only", nargs="*", metavar="NAME", help="rows whose name begins so")
    return made


def main() -> None:
    report.run(parser().parse_args(), measure, page, FILE)


if __name__ == "__main__":
    main()
