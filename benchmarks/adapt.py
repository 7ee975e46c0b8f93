"""One flow, a new style, and every delta at about the same number of trained weights.

    python -m benchmarks.adapt --mnist FILE [--style inverted] [--only NAME ...]     measure the rows that are missing
    python -m benchmarks.adapt --mnist FILE --long           train the best ones for two minutes, and all weights
    python -m benchmarks.adapt --page                        write the table of docs/guides/small.md, measure nothing

A flow of MNIST digits is moved to digits of another style.  The settings and layers of every delta are those with which
the number of its weights comes nearest to --share of those of the network.  Every row has the best of four learning
rates, judged by the loss of short trainings; then it is trained for --steps steps, and with --long some again for
--seconds of processor time.  Styles can be undone, so that the Frechet distance to the new style is that of samples
whose style is undone to the test digits, in the features of the classifier of the old style: it means the same as that
of the flow before.
"""

from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.config import build as config
from beeline.core.errors import require
from beeline.core.modes import device_of
from beeline.core.types import take, to
from beeline.distillation.adapting import Adaptation
from beeline.distillation.students import copied
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.inside import backbone_of, with_backbone
from beeline.solvers.runge_kutta import EULER
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks import chart, report
from benchmarks.fewstep_parts import worlds
from benchmarks.fewstep_parts.worlds import World

FILE = report.RESULTS / "adapt.json"
PICTURE = report.DOCS / "figures" / "adapt-digits.svg"
FULL, BEFORE = "full finetuning", "before"
PLACES = (
    ("inp", "mix.qkv", "out", "mlp.3"), ("inp", "mix.qkv", "mlp.3"), ("inp", "mix.qkv", "out"), ("inp", "mix.qkv"),
    ("inp", "out"), ("inp",),
)  # fmt: skip
"""Ends of names of layers: all that hold 1 % of the weights where each has one column and one row, and fewer."""
RATES = (1e-3, 4e-3, 1.6e-2, 5e-2)
LONG = ", long"  # after the names of rows that are trained for --seconds
AGAIN = 3  # rows within --share that are trained so, the nearest ones, beside full finetuning
PROBED, BATCH, SAMPLED = 20, 64, 16  # steps of a probe of a learning rate, data of a step, steps of sampling
STYLES: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "inverted": (torch.neg, torch.neg),
    "rotated": (lambda x: x.rot90(1, (-2, -1)), lambda x: x.rot90(-1, (-2, -1))),
}
"""A style -> the function that gives data this style, and its inverse."""


@dataclass(frozen=True)
class Row:
    """A delta with a setting and layers that are searched for a number of weights."""

    delta: str  # with {} at the place of the setting
    settings: Sequence[Any] = (1,)
    places: Sequence[tuple[str, ...]] = PLACES  # ends of names of layers; none: all layers of the blocks

    def chosen(self, teacher: bl.Flow, wanted: float) -> tuple[str, Adaptation]:
        """Name and method: those with most weights of those with at most ``wanted``, else those with fewest."""
        found: list[tuple[int, str, Adaptation]] = []
        for layers, setting in itertools.product(self.places, self.settings):
            text = self.delta.format(setting)
            method = Adaptation(config.parse(text, "deltas"), layers)
            with bl.Rng(0).ambient():
                count = trained(method.networks(teacher)["student"])
            where = "" if layers == PLACES[0] else f" in {', '.join(layers) or 'all layers'}"
            found.append((count, text + where, method))
        within = [one for one in found if one[0] <= wanted]
        return (max(within, key=lambda one: one[0]) if within else min(found, key=lambda one: one[0]))[1:]


RANKS, ENDS, ALL = (1, 2, 3), ((".inp", ".out"),), ((),)
ROWS = (
    Row("LoRA({})", RANKS), Row("DoRA({})", RANKS), Row("AdapterBias()"), Row("Hydra({}, 1)", RANKS),
    Row("Principal({})", RANKS), Row("Principal({}, largest=False)", RANKS), Row("Hadamard({})", RANKS),
    Row("Sparse({})", (0.022, 0.023, 0.024)), Row("Sparse({}, columns=True)", (0.01, 0.03, 0.05)),
    Row("Fourier({})", (220, 225, 227, 230), PLACES[:1]), Row("SVFT({})", (0, 1, 2)),
    Row("Ether({}, both=False)", (4,)),
    Row("Reflections({})", (4,)), Row("MiSS({})", (1, 2, 4)), Row("PHM({})", (2, 4, 8)),
    Row("Gated(LoRA({}))", RANKS), Row("NullSpace({})", RANKS), Row("Peft('HRA', {{'r': {}}})", (2, 4)),
    Row("Peft('OFT', {{'r': 0, 'oft_block_size': {}}})", (2, 4, 8)),
    Row("Peft('Vera', {{'r': {}}})", (8, 64)), Row("Peft('FourierFT', {{'n_frequency': {}}})", (225, 250), PLACES[:1]),
    Row("Peft('Miss', {{'r': {}}})", (2, 4)), Row("Peft('LoHa', {{'r': {}}})", RANKS),
    Row("Peft('LoKr', {{'r': {}}})", (2, 4)), Row("Peft('RandLora', {{'r': {}}})", (8, 16)),
    Row("Peft('IA3', {{'feedforward_modules': []}})"),
    Row("Peft('VBLoRA', {{'r': 1, 'num_vectors': {}, 'vector_length': 4, 'topk': 2}})", (2, 3)),
    Row("LoRA({})", (16,), ENDS), Row("Difference()", (1,), ENDS),
    Row("LoRA({})", (4,), ALL),
    Row("Difference()", (1,), ALL),
)  # fmt: skip
"""What is measured; the last two are not at the wanted number of weights."""


@dataclass(frozen=True)
class Everything(Adaptation):
    """The training of an adaptation with all weights: full finetuning."""

    def networks(self, teacher: bl.Flow) -> dict[str, nn.Module]:
        return {"student": copied(teacher)}


def trained(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@dataclass(frozen=True, eq=False)
class Task:
    """A flow, the data of the new style, and how long it is trained."""

    world: World
    styled: bl.Batch  # in the new style
    undo: Callable[[Tensor], Tensor]  # the style
    steps: int
    clock: Callable[[], float]

    def train(self, method: Adaptation, steps: int, rate: float) -> tuple[bl.Flow, float]:
        """The adapted flow, and the seconds of its training."""
        teacher, rng = self.world.teacher, bl.Rng(0).fork("adapt")
        with rng.fork("start").ambient():
            networks = method.networks(teacher)
        lr = WarmupCosine(rate, max(1, min(20, steps // 2)))
        training = bl.Training(steps=steps, batch_size=BATCH, lr=lr, ema=None)
        begin = self.clock()
        made = bl.fit(networks, method.objective(teacher), self.styled, training, rng=rng.fork("fit"), log=silent,
                      device=device_of(teacher))  # fmt: skip
        return method.student(teacher, made)[0], self.clock() - begin

    def loss(self, method: Adaptation, flow: bl.Flow) -> float:
        """The loss of the training on fixed batches."""
        objective, where = method.objective(self.world.teacher), device_of(flow.field)
        rows = bl.Rng(1).fork("rows").permutation(len(self.styled.x1)).split(500)[:4]
        with torch.no_grad():
            each = [objective(flow.field, to(take(self.styled, r), where), bl.Rng(k)).value for k, r in enumerate(rows)]
        return float(torch.stack(each).mean())

    def rate(self, method: Adaptation) -> float:
        """The learning rate of RATES with which a short training ends lowest."""
        losses = {rate: self.loss(method, self.train(method, PROBED, rate)[0]) for rate in RATES}
        return min(losses, key=lambda rate: losses[rate] if losses[rate] == losses[rate] else float("inf"))

    def figures(self, method: Adaptation, steps: int, rate: float) -> dict[str, Any]:
        """The figures of an adaptation of so many steps."""
        flow, seconds = self.train(method, steps, rate)
        made = self.sample(flow)
        new, old = self.world.score(self.undo(made)), self.world.score(made)
        return {
            "weights": trained(flow.field),
            "share": round(trained(flow.field) / trained(copied(self.world.teacher)), 5),
            "rate": rate,
            "steps": steps,
            "seconds_a_step": round(seconds / steps, 5),
            "seconds": round(seconds, 1),
            "distance": round(new["distance"], 3),
            "agreement": round(new["agreement"], 4),
            "old_active": round(old["distance"], 3),
            "old_inactive_change": self.change(flow),
        }

    def sample(self, flow: bl.Flow) -> Tensor:
        return self.world.sample(bl.Sampler(SAMPLED, solver=EULER), flow)

    def change(self, flow: bl.Flow) -> float | None:
        """The largest change of velocities with the delta inactive; None where there is none that can be."""
        if not isinstance(backbone_of(flow.field), Adapted):
            return None
        off = with_backbone(flow.field, lambda net: net.at(0.0))
        where, n = device_of(off), 64
        x, t = self.world.x0[:n].to(where), torch.linspace(0, 1, n).to(where)
        cond = to(take(bl.Batch(self.world.x0, cond=self.world.cond), torch.arange(n)), where).cond
        with torch.no_grad():
            return float((off(x, t, cond) - self.world.teacher.field(x, t, cond)).abs().max())


def silent(entry: Any) -> None:
    return None


def accelerated() -> float:
    torch.accelerator.synchronize()
    return time.perf_counter()


def measure(options: Namespace) -> None:
    """Measure the rows that are missing, and write each as soon as it is known."""
    require(options.mnist is not None, "the digits were not named; give --mnist FILE, an .npz file of MNIST")
    size = replace(worlds.MNIST, samples=options.samples)
    world = worlds.images("mnist", worlds.mnist(options.mnist), 0, options.models / "mnist", size, options.device)
    do, undo = STYLES[options.style]
    clock = time.process_time if torch.device(options.device).type == "cpu" else accelerated
    task = Task(world, replace(world.data, x1=do(world.data.x1)), undo, options.steps, clock)
    name_of_result = report.named("adapt", options.device)
    out = options.output or FILE.with_stem(name_of_result)
    count = trained(copied(world.teacher))
    settings = {"parameters": count, "share": options.share, "batch": BATCH, "evaluations": SAMPLED,
                "samples": options.samples, "layers": PLACES[0], "rates": RATES, "probed": PROBED,
                "seconds": options.seconds}  # fmt: skip

    def known() -> dict[str, Any]:
        return dict(report.read(out).get("figures", {}).get(options.style, {}))

    def add(name: str, found: Mapping[str, Any]) -> None:
        with report.alone(out):  # several processes may measure parts
            every = report.read(out).get("figures", {})
            every.setdefault(options.style, {})[name] = {**found, "device": options.device, "machine": report.machine()}
            report.write(name_of_result, every, [0], out, device=options.device, **settings)
        print(name, found, flush=True)

    methods: dict[str, Adaptation] = {FULL: Everything()}
    methods |= dict(row.chosen(world.teacher, options.share * count) for row in ROWS)
    part, parts = map(int, options.part.split("/"))
    if options.long:
        found = known()
        require(FULL in found, "no row is known that could be trained for longer; measure without --long first")
        small = [name for name in methods if found.get(name, {}).get("share", 1) <= options.share]
        best = sorted(small, key=lambda name: found[name]["distance"])[:AGAIN]
        for name in [FULL, *best][part::parts]:
            if f"{name}{LONG}" not in found:
                steps = round(options.seconds / found[name]["seconds_a_step"])
                add(f"{name}{LONG}", task.figures(methods[name], steps, found[name]["rate"]))
        return
    if part == 0 and BEFORE not in known():
        made = task.sample(world.teacher)
        own, other = world.score(made), world.score(undo(made))
        add(BEFORE, {"distance": round(other["distance"], 3), "old_active": round(own["distance"], 3),
                     "agreement": round(other["agreement"], 4)})  # fmt: skip
    for name, method in list(methods.items())[part::parts]:
        if name not in known() and (not options.only or any(name.startswith(text) for text in options.only)):
            add(name, task.figures(method, task.steps, task.rate(method)))


def table(figures: Mapping[str, Any]) -> str:
    """The rows of a style, from the nearest on; those of the same processor time come after those of the same steps."""
    head = (
        "delta",
        "weights",
        "share",
        "steps",
        "seconds a step",
        "new style",
        "over full",
        "old style",
        "if inactive",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for ending in ("", LONG):
        rows = {n: f for n, f in figures.items() if n != BEFORE and n.endswith(LONG) == bool(ending)}
        for name, f in sorted(rows.items(), key=lambda item: item[1]["distance"]):
            full = figures[FULL + ending]["distance"]
            shown = name.removesuffix(LONG)
            off = "" if f["old_inactive_change"] is None else f"{f['old_inactive_change']:g}"
            cells = (f"{f['weights']:,}", f"{f['share']:.2%}", f"{f['steps']}", f"{f['seconds_a_step']:.3f}",
                     f"{f['distance']:.2f}", f"{f['distance'] / full:.2f} x",
                     f"{f['old_active']:.0f}", off)  # fmt: skip
            lines.append(f"| {shown if shown == FULL else f'`{shown}`'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(results: Path) -> None:
    """Write the tables and the picture of the page."""
    content, elsewhere = report.read(results), report.read(results.with_stem(f"{results.stem}-cuda"))
    sections = [(style, "", figures) for style, figures in content["figures"].items()]
    where = f" on {elsewhere.get('machine', {}).get('accelerator')}"
    sections += [(style, where, figures) for style, figures in elsewhere.get("figures", {}).items()]
    parts = []
    for style, where, figures in sections:
        before = figures[BEFORE]
        parts += [f"Style: {style}{where}. The flow before has {before['old_active']:.2f} to its own style, and "
                  f"{before['distance']:.0f} to the new one.", "", table(figures), ""]  # fmt: skip
    report.fill(report.DOCS / "guides" / "small.md", "adapt", "\n".join(parts).rstrip())
    style, figures = next(iter(content["figures"].items()))
    points = [chart.Point(name, f["weights"], f["distance"], "firebrick" if name == FULL else "steelblue")
              for name, f in figures.items() if name != BEFORE and not name.endswith(LONG)]  # fmt: skip
    front = [i for i, p in enumerate(points) if not any(q.x <= p.x and q.y < p.y for q in points)]
    line = sorted(front, key=lambda i: points[i].x)
    chart.write(PICTURE, points, "trained weights", f"distance to the new style ({style})", [line])


def parser() -> ArgumentParser:
    made = report.digits_parser("adapt", __doc__)
    made.add_argument("--style", choices=list(STYLES), default="rotated", help="the new style")
    made.add_argument("--share", type=float, default=0.01, help="of the weights, that every delta trains")
    made.add_argument("--steps", type=int, default=200, help="of every training")
    made.add_argument("--long", action="store_true", help="train the best rows for --seconds, when all are measured")
    made.add_argument("--seconds", type=float, default=120.0, help="of these trainings")
    made.add_argument("--part", default="0/1", metavar="K/N", help="every N-th row from the K-th on, for N processes")
    made.add_argument("--only", nargs="*", metavar="NAME", help="rows whose name begins so")
    return made


def main() -> None:
    report.run(parser().parse_args(), measure, page, FILE)


if __name__ == "__main__":
    main()
