"""Flow transformers: a step beside other libraries, and every part of the network beside the plain one.

    python -m benchmarks.networks speed [--rounds 9]     a forward and backward pass, of diffusers and of timm
    python -m benchmarks.networks table [--seeds 2] [--mnist FILE] [--world NAME]
    python -m benchmarks.networks --page                 write the tables of docs/networks.md, measure nothing

speed   our DiT over the DiTTransformer2DModel of diffusers, and our block over timm's; the two alternate, and each is
        first in every second round.  The figure is the median of the ratios of processor time, with lowest and highest.
        Libraries that are missing are left out by name.
table   every mixer, feed, positions, wiring and modulation of the catalogue in place of the plain one: the held-out
        loss after as many floating-point operations as the plain network has in its steps, on digits of 8 x 8 pixels
        (or MNIST) and on sequences of 64 tokens whose second half mirrors the first.  Operations are those of matrix
        products, convolutions and attention, forward and backward.  Memory is that of the tensors stored for the
        backward pass.  Every row is written as soon as it is done and skipped the next time.
"""

from __future__ import annotations

import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.image_files import Digits
from beeline.fields.flow import Network
from beeline.networks.dit import DiT
from beeline.networks.transformer.blocks import AdaLNZero, PreNorm, Sizes
from beeline.networks.transformer.feeds import FeedForward
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixers import Attention
from beeline.objectives.matching import FlowMatching
from benchmarks import report
from benchmarks.fewstep_parts.passes import Operations
from benchmarks.throughput import versus

SLOTS = {"mixer": "mixers", "feed": "feeds", "positions": "positions", "wiring": "wirings", "modulation": "modulations"}
PLAIN = {"mixer": "Attention", "feed": "FeedForward", "positions": "SinCos", "wiring": "PreNorm",
         "modulation": "AdaLNZero"}  # fmt: skip
SIZE = {"width": 48, "depth": 2, "heads": 4}
STEPS, BATCH, RATE = 100, 32, 2e-3
LABEL = {"label": {"classes": 10}}
TABLE, SPEED = report.RESULTS / "networks.json", report.RESULTS / "networks-speed.json"
PAGE = Path(__file__).parent.parent / "docs" / "networks.md"
BEGIN, END = "<!-- written by python -m benchmarks.networks --page -->", "<!-- end of what is written -->"

SPEEDS = {  # width, depth, heads, shape of a datum, batch size, steps of a round
    "digits": (96, 3, 4, (1, 8, 8), 128, 4),
    "S/2, latents of 16 x 16": (384, 4, 6, (4, 16, 16), 8, 2),
}


def backward(made: Callable[[], Tensor], net: nn.Module, steps: int) -> Callable[[], None]:
    """So many forward and backward passes."""

    def work() -> None:
        for _ in range(steps):
            made().square().mean().backward()
            net.zero_grad()

    return work


def diffusers_pairs(size: Any, rounds: int) -> dict[str, Any]:
    """Our DiT, as it is and with the parts of theirs, over that of diffusers."""
    from diffusers import DiTTransformer2DModel

    width, depth, heads, shape, batch, steps = size
    with Rng(0).ambient():
        theirs = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=shape[0],
            num_layers=depth,
            sample_size=shape[1],
            num_embeds_ada_norm=10,
        )
    x, t, label = torch.randn(batch, *shape), torch.rand(batch), torch.arange(batch) % 10
    other = backward(lambda: theirs(x, 1000 * (1 - t), label, return_dict=False)[0], theirs, steps)
    found = {}
    same = {"mixer": Attention(norm=False), "feed": FeedForward(tanh=True)}
    for name, slots in {"equal parts": same, "default parts": {}}.items():
        net = DiT(shape, width=width, depth=depth, heads=heads, conditions=LABEL, **slots)  # type: ignore[arg-type]
        mine = backward(lambda net=net: net(x, t, {"label": label}), net, steps)  # type: ignore[misc]
        found[f"DiT of diffusers, {name}"] = versus(mine, other, rounds)
    return found


def timm_pairs(size: Any, rounds: int) -> dict[str, Any]:
    """Our block with its modulation over that of timm, which has none."""
    from timm.models.vision_transformer import Block

    width, _, heads, shape, batch, steps = size
    with Rng(0).ambient():
        theirs = Block(width, heads, qkv_bias=True)
        mine = PreNorm().build(Sizes(width, heads, 4 * width, 0.0), Attention(norm=False), FeedForward(), AdaLNZero())
    h, e = torch.randn(batch, (shape[1] // 2) ** 2, width, requires_grad=True), torch.randn(batch, width)
    layout = Layout((h.shape[1],))
    ours, other = (
        backward(made, net, 4 * steps)
        for made, net in ((lambda: mine(h, e, layout), mine), (lambda: theirs(h), theirs))
    )
    return {"block of timm": versus(ours, other, rounds)}


def speed(options: Namespace) -> None:
    figures: dict[str, Any] = {}
    for name, size in SPEEDS.items():
        for peer, pairs in {"diffusers": diffusers_pairs, "timm": timm_pairs}.items():
            try:
                found = pairs(size, options.rounds)
            except (ImportError, RuntimeError) as error:
                found = {peer: {"left out": str(error)}}
            figures |= {f"{name}: {what}": value for what, value in found.items()}
            print({what: value.get("cpu", value) for what, value in found.items()}, flush=True)
    report.write("networks-speed", figures, [0], options.output, packages=("diffusers", "timm"), rounds=options.rounds)


def digits() -> tuple[tuple[int, ...], Tensor, Tensor | None]:
    both = Digits().load()
    x = torch.cat([torch.as_tensor(part.pixels).float().movedim(-1, 1) for part in both]) / 127.5 - 1
    return (1, 8, 8), x, torch.cat([torch.as_tensor(part.labels) for part in both]).long()


def mnist(file: Path) -> tuple[tuple[int, ...], Tensor, Tensor | None]:
    stored = np.load(file)
    x = torch.as_tensor(stored["x_train"][:6000]).float()[:, None] / 127.5 - 1
    return (1, 28, 28), x, torch.as_tensor(stored["y_train"][:6000]).long()


def mirrored() -> tuple[tuple[int, ...], Tensor, Tensor | None]:
    """Sums of 64 steps, then the same backwards: the ends of a sequence belong together."""
    steps = Rng(5).normal(torch.empty(4000, 1, 64))
    line = steps.cumsum(-1)
    line = (line - line.mean(-1, keepdim=True)) / 4
    return (1, 128), torch.cat([line, line.flip(-1)], -1), None


def network(shape: tuple[int, ...], label: Tensor | None, slots: dict[str, Any], seed: int) -> DiT:
    conditions = {"label": {"classes": 10}} if label is not None else {"none": {"classes": 1}}
    with Rng(seed).ambient():
        return DiT(shape, 4 if shape[-1] == 28 else 2, **SIZE, conditions=conditions, **slots)


def stored(work: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that are kept for the backward pass."""
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = work()
        total = sum(seen.values())
    del kept
    return total


def row(world: Any, slots: dict[str, Any], budget: float | None, seeds: int) -> dict[str, Any]:
    """The figures of one network; ``budget``: operations in all, or None for those of the plain number of steps."""
    shape, x, label = world
    label = torch.zeros(len(x), dtype=torch.long) if label is None else label
    name = "label" if world[2] is not None else "none"
    half = len(x) * 4 // 5
    losses, seconds = [], []
    for seed in range(seeds):
        net = Network(network(shape, world[2], slots, seed))
        rows = torch.arange(BATCH)
        batch = Batch(x[rows], cond={name: label[rows]})
        with Operations() as counted:
            FlowMatching()(net, batch, Rng(0)).value.backward()
        steps = STEPS if budget is None else max(1, round(budget / counted.count))
        memory = stored(lambda net=net, batch=batch: FlowMatching()(net, batch, Rng(0)).value)  # type: ignore[misc]
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.99))
        rng = Rng(seed, ("train",))
        for step in range(steps):
            key = rng.fork(step)
            rows = key.fork("rows").permutation(half)[:BATCH]
            start = time.process_time()
            loss = FlowMatching()(net, Batch(x[rows], cond={name: label[rows]}), key).value
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, 2 * (1 - step / steps))
            optimizer.step()
            seconds.append(time.process_time() - start)
        net.eval()
        held = Batch(x[half:], cond={name: label[half:]})
        with torch.no_grad():
            losses.append(statistics.mean(float(FlowMatching()(net, held, Rng(100 + k)).value) for k in range(4)))
    return {
        "loss": [round(v, 5) for v in losses],
        "steps": steps,
        "seconds": round(statistics.median(seconds), 5),
        "stored": memory,
        "parameters": sum(p.numel() for p in net.parameters()),
        "operations": counted.count,
    }


def table(options: Namespace) -> None:
    torch.set_num_threads(1)
    worlds = {"digits": digits()} if options.mnist is None else {"mnist": mnist(options.mnist)}
    worlds["sequences"] = mirrored()
    worlds = {name: world for name, world in worlds.items() if options.world in (None, name)}
    target = options.output or TABLE
    figures: dict[str, Any] = report.read(target).get("figures", {})
    for where, world in worlds.items():
        found = figures.setdefault(where, {})
        if "plain" not in found:
            found["plain"] = row(world, {}, None, options.seeds)
        budget = found["plain"]["operations"] * found["plain"]["steps"]
        for slot, kind in SLOTS.items():
            for name in CATALOGUE[kind]:
                full = f"{slot}.{name}"
                if full in found or name == PLAIN[slot]:
                    continue
                try:
                    found[full] = row(world, {slot: config.parse(f"{kind}.{name}")}, budget, options.seeds)
                except BeelineError as error:
                    found[full] = {"refused": str(error)}
                print(where, full, found[full], flush=True)
                settings = {**SIZE, "steps": STEPS, "batch_size": BATCH, "lr": RATE}
                report.write("networks", figures, range(options.seeds), target, **settings)


def page() -> None:
    """Write the tables into the page, between their marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [*speed_lines(report.read(SPEED)), *table_lines(report.read(TABLE))]
    PAGE.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + "\n" + END + after, encoding="utf-8")


def speed_lines(content: dict[str, Any]) -> list[str]:
    if not content:
        return []
    lines = ["Processor time of a forward and backward pass, ours over theirs; at most 1 is as fast or faster.", "",
             "| network | compared with | ratio | lowest | highest |", "|---|---|---|---|---|"]  # fmt: skip
    for name, found in content["figures"].items():
        what, _, peer = name.partition(": ")
        numbers = found.get("cpu")
        cells = [f"{numbers[k]:.2f}" for k in ("ratio", "low", "high")] if numbers else ["left out", "", ""]
        lines.append(f"| {what} | {peer} | {' | '.join(cells)} |")
    return [*lines, ""]


def table_lines(content: dict[str, Any]) -> list[str]:
    lines = []
    for where, found in content.get("figures", {}).items():
        plain = found["plain"]
        lines += [
            f"On {where}: held-out loss after the operations of {plain['steps']} plain steps (mean of "
            f"{len(plain['loss'])} seed(s), and the difference between them), and seconds a step, stored memory and "
            "parameters, each over those of the plain network.", "",
            "| part | loss | difference | steps | seconds | memory | parameters |", "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for name, row in found.items():
            if "refused" in row:
                lines.append(f"| `{name}` | refused | | | | | |")
                continue
            loss, spread = statistics.mean(row["loss"]), max(row["loss"]) - min(row["loss"])
            ratios = [f"{row[k] / plain[k]:.2f}" for k in ("seconds", "stored", "parameters")]
            lines.append(f"| `{name}` | {loss:.4f} | {spread:.4f} | {row['steps']} | {' | '.join(ratios)} |")
        lines.append("")
    return lines


def parser() -> ArgumentParser:
    created = report.parser("networks", __doc__)
    created.add_argument("what", nargs="?", choices=["speed", "table"], help="what to measure")
    created.add_argument("--rounds", type=int, default=9, help="of the two programs in turn")
    created.add_argument("--seeds", type=int, default=2, help="of every row of the table")
    created.add_argument("--mnist", type=Path, metavar="FILE", help="MNIST as .npz, in place of the digits")
    created.add_argument("--world", choices=["digits", "mnist", "sequences"], help="one part of the table")
    created.add_argument("--page", action="store_true", help="write the tables of docs/networks.md")
    return created


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    if options.page:
        return page()
    if options.what is None:
        sys.exit("error: nothing was named to measure; give speed, table or --page")
    {"speed": speed, "table": table}[options.what](options)


if __name__ == "__main__":
    main()
