"""A run that fits into a given time: network and number of steps from a trial of a few steps."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from beeline.core.errors import BeelineError, require
from beeline.core.rng import Rng
from beeline.distillation.paired import PairMethod
from beeline.runs.networks import build_network
from beeline.runs.run import Distilled, Prepared, Run, prepare, prepare_distilled
from beeline.training.optim.learning_rate import WarmupConstantCooldown
from beeline.training.plan import step_seconds

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SHARE = 0.6  # of the budget for training steps; the rest is held-out losses, averages, samples and the report
LEAST_STEPS = 20
LEAST_BATCH = 8
NEARLY = 0.75  # of the steps of a smaller network are enough for a larger one
DISTILLED = (1000, 20_000)  # steps that a student has to get before smaller batches are taken, and the most

SIZES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "networks.UNet": (
        {"width": 64, "multipliers": [1, 2, 2, 2], "blocks": 2},
        {"width": 32, "multipliers": [1, 2, 2], "blocks": 2},
        {"width": 32, "multipliers": [1, 2], "blocks": 1},
        {"width": 16, "multipliers": [1, 2], "blocks": 1},
    ),
    "networks.MLP": ({"width": 512, "depth": 4}, {"width": 256, "depth": 4}, {"width": 128, "depth": 3}),
    "networks.TabularMLP": ({}, {"width": 256, "depth": 3}, {"width": 128, "depth": 2}),
}
"""Networks by size, the largest first; of other classes the recipe's own is taken."""

WANTED = {"networks.UNet": (2000, 50_000), "networks.MLP": (3000, 20_000), "networks.TabularMLP": (2000, 8000)}
"""Steps that a network has to get before it is preferred to a smaller one, and the most that are worth taking."""


@dataclass(frozen=True)
class Fitted:
    """A run fitted to a budget, and what was measured for it."""

    run: Any  # a Run, or a Distilled
    step_seconds: float
    parameters: int

    @property
    def seconds(self) -> float:
        """Expected time of the training steps."""
        return self.run.training.steps * self.step_seconds


def side_for(budget: str | None) -> int:
    """Pixels per side to which pictures are scaled: fewer where the time is short and no GPU is there."""
    return 32 if budget is not None and duration(budget) <= 900 and not torch.cuda.is_available() else 64


def duration(text: str) -> float:
    """Seconds of a duration such as 90s, 20m, 1.5h or 1h30m.

    >>> duration("1h30m"), duration("20m")
    (5400.0, 1200.0)
    """
    parts = re.fullmatch(r"(?:\d+(?:\.\d+)?[smhd])+", text.strip().lower())
    require(parts, f"the budget is {text!r}, which is no duration; give a number with a unit: 90s, 20m, 1.5h or 1h30m")
    total = sum(float(n) * UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.lower()))
    require(total > 0, f"the budget is {text!r}, which is no time at all; give one above 0, for example 20m")
    return float(total)


def fit_budget(
    run: Run,
    seconds: float,
    device: torch.device,
    *,
    network: bool = True,
    steps: bool = True,
    say: Callable[[str], None] = lambda text: None,
    measure: Callable[..., float] = step_seconds,
) -> Fitted:
    """The run with the largest network that gets enough steps within ``seconds``, all included.

    Networks are tried for a few steps each by ``measure``, the smallest first.  ``network`` and ``steps`` say which of
    the two may be chosen; what a user has set stays, and the network is then the largest with which all steps fit.

    Raises BeelineError for a budget that not even the smallest network can use, with the least that would do.
    """
    begun = time.perf_counter()
    work = prepare(run)
    rows = len(work.rows)
    batch_size = min(run.training.batch_size, max(1, rows))
    training = replace(
        run.training, batch_size=batch_size, microbatches=1 if batch_size % 2 else run.training.microbatches
    )
    cls = str(run.network["is"])
    least, most = WANTED.get(cls, (1000, 20_000)) if steps else (run.training.steps, run.training.steps)
    sizes = SIZES.get(cls, ({},)) if network else ({},)
    rng = Rng(run.seed).fork("budget")
    best: tuple[Run, float, int, Any] | None = None  # run, seconds of a step, steps that fit, networks

    def trial(nets: Any, training: Any) -> float:
        return measure(nets, work.objective, work.data, training, rng, 6, limit=0.03 * seconds)

    for size in reversed(sizes):  # a larger network only where the smaller one gets far more steps than it needs
        chosen = replace(run, network={**run.network, **size}, training=training)
        try:
            nets = work.networks if not size else _network(chosen, work)
        except BeelineError:  # too many levels for the size of the data
            continue
        say(f"trying {cls.partition('.')[2]} {', '.join(f'{k} {v}' for k, v in size.items())}".rstrip())
        nets.to(device)
        step = trial(nets, training)
        count = int((SHARE * seconds - (time.perf_counter() - begun)) / step)
        if best is not None and count < least and count < NEARLY * best[2]:
            break
        best = chosen, step, count, nets
        if count < 2 * least and device.type == "cpu":  # an accelerator may take a larger network as fast
            break
    assert best is not None
    chosen, step, count, nets = best
    if steps:
        training, step, count = _with_smaller_batches(training, step, count, least, partial(trial, nets))
    chosen = replace(chosen, training=training)
    require(
        count >= LEAST_STEPS or not steps,
        f"a budget of {seconds:.0f} s is too short: the smallest network takes {step:.2g} s a step, and loading and "
        f"trying took {time.perf_counter() - begun:.0f} s; give at least "
        f"{(LEAST_STEPS * step + time.perf_counter() - begun) / SHARE + 5:.0f} s, or fewer data",
    )
    if steps:
        training = _with_steps(training, max(1, min(most, count)))
    return Fitted(replace(chosen, training=training), step, _parameters(nets))


def fit_distillation(
    run: Distilled,
    seconds: float,
    device: torch.device,
    *,
    measure: Callable[..., float] = step_seconds,
) -> Fitted:
    """The distillation with as many steps as fit into ``seconds``, all included.

    The data of the method, such as pairs of the teacher, are made for the trial and again for the run, which takes from
    the time of the steps.

    Raises BeelineError for a budget without time for ``LEAST_STEPS`` steps, with the least that would do.
    """
    begun, seconds = time.perf_counter(), seconds / run.method.rounds  # of one round
    work = prepare_distilled(run, device)
    taken = time.perf_counter() - begun
    nets = work.networks if isinstance(work.networks, Mapping) else {"network": work.networks}
    for net in nets.values():
        net.to(device)
    batch_size = min(run.training.batch_size, max(1, len(work.rows)))
    training = replace(run.training, batch_size=batch_size, microbatches=1)
    rng = Rng(run.seed).fork("budget")

    def trial(training: Any) -> float:
        return measure(work.networks, work.objective, work.data, training, rng, 6, limit=0.03 * seconds)

    step = trial(training)
    spent = time.perf_counter() - begun
    count = max(0, int((SHARE * seconds - spent - taken) / step))
    training, step, count = _with_smaller_batches(training, step, count, DISTILLED[0], trial)
    method = run.method
    counted = isinstance(method, PairMethod) and not (method.store or method.online)
    require(
        count >= LEAST_STEPS,
        f"a budget of {seconds:.0f} s is too short: a step takes {step:.2g} s, and "
        f"{'the pairs of the teacher take' if counted else 'loading and the data of the method take'} {taken:.0f} s, "
        "once for the trial and once for the run; give at least "
        f"{(LEAST_STEPS * step + spent + taken) / SHARE + 5:.0f} s"
        f"{', or fewer pairs by the setting count of the method' if counted else ''}",
    )
    training = _with_steps(training, min(DISTILLED[1], count))
    return Fitted(replace(run, training=training), step, sum(map(_parameters, nets.values())))


def _with_smaller_batches(
    training: Any, step: float, count: int, least: int, trial: Callable[[Any], float]
) -> tuple[Any, float, int]:
    """The training, seconds of a step and number of steps with batches small enough for ``least`` steps.

    A step takes fixed + slope * batch_size seconds.  A batch is halved while that saves more than a tenth of the
    time: on an accelerator small batches take as long as larger ones.
    """
    size = training.batch_size
    if count >= least or size <= LEAST_BATCH:
        return training, step, count
    low = trial(replace(training, batch_size=LEAST_BATCH, microbatches=1))
    slope = max(0.0, step - low) / (size - LEAST_BATCH)
    fixed = max(0.0, low - slope * LEAST_BATCH)
    while size > LEAST_BATCH and count * step < least * (fixed + slope * size) and slope * size > fixed / 4:
        size = max(LEAST_BATCH, size // 2)
    if size == training.batch_size:
        return training, step, count
    training = replace(training, batch_size=size, microbatches=1)
    faster = trial(training)
    return training, faster, int(count * step / faster)


def _parameters(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())


def _network(run: Run, work: Prepared) -> Any:
    few = work.heldout.data if work.heldout is not None else None
    require(few is not None, "a budget needs held-out data, on which the networks are tried")
    assert few is not None
    return build_network(run.network, run.objective, run.seed, work.finish(work.networks).modality, few)


def _with_steps(training: Any, steps: int) -> Any:
    """A training of so many steps, with at most a tenth of them for warm-up, and at least four checkpoints."""
    lr = training.lr
    if isinstance(lr, WarmupConstantCooldown):
        lr = replace(lr, warmup=min(lr.warmup, max(1, steps // 10)))
    every = min(training.checkpoint_every, max(50, steps // 4))
    return replace(training, steps=steps, lr=lr, checkpoint_every=every)
