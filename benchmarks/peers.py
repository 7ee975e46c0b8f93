"""Training steps and sampling beside other libraries, with the same network, batch size, optimizer and steps.

    python -m benchmarks.peers [--rounds 7] [--output FILE]

Needs lightning, torchcfm, flow_matching and diffusers; those that are missing are left out by name.  Training includes
the set-up of a run of 40 steps on both sides: ``fit`` against a Trainer of lightning and against the example loop of
torchcfm (both with an average of the weights).  Sampling is 20 Euler steps: ``Sampler`` against ODESolver of
flow_matching and against the loop of FlowMatchEulerDiscreteScheduler of diffusers.  The two programs alternate; the
figure is the median of the ratio of our time over theirs, with the lowest and the highest.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from beeline.core.types import Batch
from beeline.fields.flow import Flow
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER
from benchmarks import report, rivals
from benchmarks.throughput import SEED, SMALL, engine, versus

STEPS, EVALUATIONS = 40, 20


def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)


def loader(batch: Batch, size: int) -> DataLoader[Any]:
    assert isinstance(batch.cond, dict)
    return DataLoader(TensorDataset(batch.x1, batch.cond["label"]), size, shuffle=True, drop_last=True)


def lightning(net: nn.Module, batch: Batch, size: int) -> None:
    """A LightningModule with the loss of rectified flow, and an average in a hook."""
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.average = [p.detach().clone() for p in net.parameters()]

        def training_step(self, item: Any, index: int) -> Tensor:
            x1, label = item
            x0, t = torch.randn_like(x1), torch.rand(len(x1))
            x = torch.lerp(x0, x1, t[:, None, None, None])
            return (self.net(x, t, {"label": label}) - (x1 - x0)).square().mean()

        def on_train_batch_end(self, *given: Any) -> None:
            torch._foreach_lerp_(self.average, [p.detach() for p in self.net.parameters()], 0.001)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(self.net)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_steps=STEPS, accelerator="cpu", gradient_clip_val=1.0, enable_model_summary=False, **quiet
    )  # fmt: skip
    trainer.fit(Module(), loader(batch, size))


def torchcfm(net: nn.Module, batch: Batch, size: int) -> None:
    """The loop of the image examples: sampled locations and velocities, clipping, an average."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    matcher, optimizer = ConditionalFlowMatcher(sigma=0.0), optimizer_of(net)
    average, step = copy.deepcopy(net), 0
    while step < STEPS:
        for x1, label in loader(batch, size):
            if step == STEPS:
                break
            optimizer.zero_grad()
            t, x, u = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
            loss = (net(x, t, {"label": label}) - u).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                for mean, weight in zip(average.parameters(), net.parameters(), strict=True):
                    mean.lerp_(weight, 0.001)
            step += 1


TRAINING: dict[str, Callable[[nn.Module, Batch, int], None]] = {"lightning": lightning, "torchcfm": torchcfm}
SAMPLING = {
    "flow_matching": rivals.flow_matching("euler", 1),
    "diffusers": rivals.diffusers_flow("FlowMatchEulerDiscreteScheduler", 1),
}


def training(name: str, backbone: str, rounds: int, size: int) -> dict[str, Any]:
    """``fit`` beside the loop of a library."""
    setup = replace(SMALL[backbone], batch_size=size)
    batch, net = setup.data(), setup.network()
    ours, theirs = copy.deepcopy(net), copy.deepcopy(net)
    return versus(lambda: engine(ours, batch, setup, STEPS), lambda: TRAINING[name](theirs, batch, size), rounds)


def sampling(name: str, rounds: int, size: int) -> dict[str, Any]:
    """The sampler beside that of a library, with the difference of the samples."""
    net, batch = SMALL["DiT"].network().eval(), SMALL["DiT"].data(size)
    label = batch.cond["label"] if isinstance(batch.cond, dict) else None
    field = lambda x, t: net(x, t, {"label": label})  # noqa: E731
    sampler, flow = Sampler(EVALUATIONS, solver=EULER), Flow(net)

    @torch.no_grad()
    def theirs() -> Tensor:
        return SAMPLING[name](field, batch.x1, EVALUATIONS)

    def ours() -> Tensor:
        return sampler(flow, batch.x1, batch.cond)

    return {"largest_difference": float((ours() - theirs()).abs().max()), **versus(ours, theirs, rounds)}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    parser = report.parser("peers", __doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each program")
    parser.add_argument("--batch-size", type=int, default=64)
    given = parser.parse_args()
    figures: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    for name in (*TRAINING, *SAMPLING):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: pip install {name}")
        elif name in TRAINING:
            for backbone in SMALL:
                figures[f"training {backbone}, {name}"] = training(name, backbone, given.rounds, given.batch_size)
        else:
            figures[f"sampling DiT, {name}"] = sampling(name, given.rounds, given.batch_size)
    for what, row in figures.items():
        if what != "load_average":
            for clock in ("wall", "cpu"):
                r = row[clock]
                print(f"{what:28} {clock:5} ratio {r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f})")
    print(report.write("peers", figures, [SEED], given.output, rounds=given.rounds, batch_size=given.batch_size))


if __name__ == "__main__":
    main()
