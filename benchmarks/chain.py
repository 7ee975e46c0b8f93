"""From a teacher to a student of one step, a narrower one, and its integers: what every link costs.

    python -m benchmarks.chain --mnist FILE [--pairs 12000] [--steps 1500]       train what is missing, and measure all
    python -m benchmarks.chain --page                        write the table of docs/guides/small.md, measure nothing

The teacher is that of the few-step benchmark.  Students are trained by OneStep on the same pairs of its noise and its
ends.  The narrower student starts from the parts of the first one that Narrow keeps.  Seconds are those of all
evaluations of a sample, in batches of --batch; all links are timed in turn, and the median of ratios is taken.
"""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import beeline as bl
from beeline.config import build as config
from beeline.core.errors import require
from beeline.core.types import take, to
from beeline.data.images import Image
from beeline.distillation.students import OneStep
from beeline.networks.adapters.inside import backbone_of
from beeline.networks.compressing.compressed import stored_bytes
from beeline.runs.compressing.job import made_by, probe_of
from beeline.runs.compressing.measuring import STATES
from beeline.solvers.runge_kutta import EULER
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks import chart, report
from benchmarks.fewstep_parts import worlds
from benchmarks.fewstep_parts.worlds import World

FILE = report.RESULTS / "chain.json"
PICTURE = report.DOCS / "figures" / "chain-digits.svg"
TEACHER, ONE, NARROW = "teacher, 32 evaluations", "one step", "one step, narrow"
LINKS = {  # name -> (the link that it is made from, compressor, whether it is trained again)
    "teacher, int8": (TEACHER, "int8(kept=True)", False),
    "teacher, MixedBits(0.25)": (TEACHER, "MixedBits(0.25)", False),
    "teacher, GPTQ(4)": (TEACHER, "GPTQ(4)", False),
    ONE: (TEACHER, None, True),
    "one step, int8": (ONE, "int8(kept=True)", False),
    NARROW: (ONE, "Narrow(0.4)", True),
    "one step, narrow, int8": (NARROW, "int8(kept=True)", False),
    "one step, narrow, int8 decoded anew": (NARROW, "int8()", False),
    "one step, narrow, untrained": (ONE, "Narrow(0.4)", False),
    "one step, narrow, recovered": (ONE, "Recovered(Narrow(0.4))", False),
}
CHAIN = (TEACHER, ONE, NARROW, "one step, narrow, int8")  # that is drawn as a line
METHOD, ROUNDS = OneStep(bl.Sampler(8)), 9


def compressed(bundle: bl.Bundle, text: str, world: World) -> bl.Bundle:
    """A bundle after a compressor."""
    rng, cond = bl.Rng(0).fork("probe"), take(bl.Batch(world.x0, cond=world.cond), torch.arange(STATES)).cond
    probe, method = probe_of(bundle, rng, cond), config.parse(text, "compressors")
    return made_by(bundle, method, method.plan(backbone_of(bundle.flow.field), probe), probe, rng)


def student(initial: bl.Flow, world: World, pairs: bl.Batch, options: Namespace) -> bl.Bundle:
    """A student of one step whose network starts from that of ``initial``."""
    rng, lr = bl.Rng(0).fork("student"), WarmupCosine(options.rate, 100)
    training = bl.Training(steps=options.steps, batch_size=world.size.batch, lr=lr, ema=EMA())
    feed = METHOD.feed(world.teacher, pairs, rng.fork("feed"))
    made = bl.fit(METHOD.networks(initial), METHOD.objective(world.teacher), feed, training, rng=rng.fork("training"),
                  device=options.device)  # fmt: skip
    return bl.Bundle(*METHOD.student(world.teacher, made))


def links(world: World, options: Namespace) -> dict[str, bl.Bundle]:
    """Every link, from its folder if it is there."""
    like = Image(tuple(world.x0.shape[1:]), classes=10)
    found = {TEACHER: bl.Bundle(world.teacher, bl.Sampler(32, solver=EULER), like)}
    pairs: bl.Batch | None = None
    for name, (before, compressor, again) in LINKS.items():
        folder = options.models / f"chain-{options.pairs}-{options.steps}" / name.replace(", ", "-").replace(" ", "-")
        if not (folder / "flow.json").exists():
            made = found[before] if compressor is None else compressed(found[before], compressor, world)
            if again and pairs is None:
                rng = bl.Rng(0).fork("pairs")
                rows = rng.fork("rows").permutation(len(world.data.x1))[: options.pairs]
                pairs = METHOD.data(world.teacher, take(world.data, rows), rng)
            if again:
                assert pairs is not None
                made = student(made.flow, world, pairs, options)
            made.save(folder)
        found[name] = replace(bl.load(folder, device=options.device), modality=like)
    return found


def timed(made: Mapping[str, bl.Bundle], world: World, batch: int, device: str) -> dict[str, list[float]]:
    """Seconds of the sampling of a batch by every link, in turn; processor seconds on a processor."""
    few = to(take(bl.Batch(world.x0, cond=world.cond), torch.arange(batch)), device)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    with torch.no_grad():
        for _ in range(ROUNDS + 1):
            for name, bundle in made.items():
                begin = now(device)
                bundle.sampler(bundle.flow, few.x1, few.cond)
                seconds[name].append(now(device) - begin)
    return {name: each[1:] for name, each in seconds.items()}  # the first one is a warm-up


def now(device: str) -> float:
    if torch.device(device).type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def measure(options: Namespace) -> None:
    require(options.mnist is not None, "the digits were not named; give --mnist FILE, an .npz file of MNIST")
    size = replace(worlds.MNIST, samples=options.samples)
    world = worlds.images("mnist", worlds.mnist(options.mnist), 0, options.models / "mnist", size, options.device)
    made = links(world, options)
    seconds = timed(made, world, options.batch, options.device)
    figures: dict[str, Any] = {}
    for name, bundle in made.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[TEACHER], seconds[name], strict=True))
        figures[name] = {
            "bytes": stored_bytes(bundle.flow.field),
            "seconds": float(f"{statistics.median(seconds[name]) / options.batch:.4g}"),  # of a sample
            "speed": round(ratio, 1),
            **{key: round(value, 3) for key, value in world.score(world.sample(bundle.sampler, bundle.flow)).items()},
        }
        print(name, figures[name], flush=True)
    settings = {"pairs": options.pairs, "steps": options.steps, "rate": options.rate, "batch": options.batch,
                "samples": options.samples, "method": config.describe(METHOD)}  # fmt: skip
    report.write(report.named("chain", options.device), figures, [0], options.output, device=options.device, **settings)


def table(figures: Mapping[str, Any], elsewhere: Mapping[str, Any]) -> str:
    first = figures[TEACHER]
    head = ("link", "bytes", "share", "milliseconds a sample", "faster", "on a GPU", "distance", "over the teacher")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, f in figures.items():
        cells = (f"{f['bytes']:,}", f"{f['bytes'] / first['bytes']:.3f}", f"{1000 * f['seconds']:.3g}",
                 f"{f['speed']:.2g} x", f"{elsewhere[name]['speed']:.2g} x" if name in elsewhere else "",
                 f"{f['distance']:.2f}",
                 f"{f['distance'] / first['distance']:.2f} x")  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(results: Path) -> None:
    """Write the table and the picture of the page."""
    figures = report.read(results)["figures"]
    elsewhere = report.read(results.with_stem(f"{results.stem}-cuda")).get("figures", {})
    report.fill(report.DOCS / "guides" / "small.md", "chain", table(figures, elsewhere))
    points = [chart.Point(f"{name} ({f['bytes'] / 1024:.0f} KiB)", 1000 * f["seconds"], f["distance"])
              for name, f in figures.items()]  # fmt: skip
    line = [list(figures).index(name) for name in CHAIN]
    chart.write(PICTURE, points, "milliseconds a sample", "Frechet distance", [line])


def parser() -> ArgumentParser:
    made = report.digits_parser("chain", __doc__)
    made.add_argument("--pairs", type=int, default=12_000, help="of the teacher")
    made.add_argument("--steps", type=int, default=1500, help="of the training of a student")
    made.add_argument("--rate", type=float, default=1e-3, help="the largest learning rate")
    made.add_argument("--batch", type=int, default=64, help="samples that are timed at once")
    return made


def main() -> None:
    report.run(parser().parse_args(), measure, page, FILE)


if __name__ == "__main__":
    main()
