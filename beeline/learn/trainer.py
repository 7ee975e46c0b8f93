"""The training engine: it calls objective(networks, batch, rng) and knows nothing of flows."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.rng import Rng
from beeline.core.types import require, to
from beeline.learn import checkpoint
from beeline.learn.belts import Interrupted, check_state, check_step
from beeline.learn.ema import EMA, Average, Profile, averaged
from beeline.learn.feed import as_lots
from beeline.learn.game import Player, players
from beeline.learn.heldout import HeldOut
from beeline.learn.optim import AdamW, Optimiser
from beeline.learn.parallel import Alone, Parallel
from beeline.learn.rate import Rate, WarmupConstantCooldown
from beeline.learn.state import State

Log = Callable[[dict[str, Any]], None]
"""Takes one dict a step; a dict with ``note`` instead of ``loss`` is a message."""


@dataclass(frozen=True)
class Training:
    """How long, in what portions and with what steps a network learns.

    one step: gradient = mean over ``lots`` lots of ``lot`` data each, clipped; optimiser; averages
    Assumes nothing of the objective.  Lot k of step n has the key rng.fork(n, k), whoever works it.
    Source: none.

    >>> Training(steps=10, lot=32).batch
    32
    """

    steps: int = 2000
    lots: int = 1  # portions of a step; more of them save memory and are shared among processes
    lot: int = 128  # data in a portion
    optimiser: Optimiser = field(default_factory=AdamW)
    rate: Rate = field(default_factory=WarmupConstantCooldown)
    ema: Profile | tuple[Profile, ...] | None = field(default_factory=EMA)  # the first one is given back
    clip: float | None = 1.0  # largest gradient norm; None is no limit
    keep_every: int = 500  # steps between checkpoints
    keep_last: int = 3  # checkpoints that stay on disk
    watch_every: int = 50  # steps between update and parameter norms

    def __post_init__(self) -> None:
        if isinstance(self.ema, list):
            object.__setattr__(self, "ema", tuple(self.ema))
        for name in ("steps", "lots", "lot", "keep_every", "keep_last", "watch_every"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                f"training.{name} is {value!r}; it is a count: give a whole number from 1",
            )
        require(
            self.clip is None or self.clip > 0,
            f"training.clip is {self.clip}; it is the largest gradient norm: give a number above 0, or none",
        )

    @property
    def batch(self) -> int:
        """Data in one step."""
        return self.lots * self.lot

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The averages to keep, as a tuple."""
        return () if self.ema is None else self.ema if isinstance(self.ema, tuple) else (self.ema,)


def console(entry: dict[str, Any]) -> None:
    """The default log: a line on stderr now and then."""
    if "note" in entry:
        print(f"step {entry.get('step', 0)}: {entry['note']}", file=sys.stderr)
    elif entry["step"] % 100 == 0:
        words = f"loss {entry['loss']:.4f}  rate {entry['rate']:.2e}  {entry['samples_per_second']:.0f} data/s"
        print(f"step {entry['step']}: {words}", file=sys.stderr)


def fit(
    networks: nn.Module | Mapping[str, nn.Module],
    objective: Any,
    data: Any,
    training: Training,
    *,
    parallel: Parallel | None = None,
    rng: Rng,
    log: Log = console,
    resume: str | Path | None = None,
    keep: str | Path | None = None,
    heldout: HeldOut | None = None,
) -> Any:
    """Train ``networks`` (in place) on ``data``; one network in, a copy with its averaged weights out.

    ``data`` is a tensor [N,*S], a Batch, a law, or anything with ``lot(number, size)``.  ``keep`` is the directory
    for checkpoints (none are written without it); ``resume`` is such a directory, or one checkpoint in it.
    A mapping of networks gives a mapping; without an EMA the networks themselves come back.

    Raises Diverged (which names the first bad tensor) when numbers become non-finite, and Interrupted after Ctrl-C
    or SIGTERM, when the state has been saved.
    """
    engine = parallel or Alone()
    single = isinstance(networks, nn.Module)
    nets = {"network": networks} if isinstance(networks, nn.Module) else dict(networks)
    run = _Run(nets, objective, data, training, engine, rng, log, None if keep is None else Path(keep), heldout)
    if resume is not None:
        run.resume(Path(resume))
    with _stoppable() as stopped:
        while run.state.step < training.steps:
            run.step()
            if stopped or run.state.step % training.keep_every == 0 or run.state.step == training.steps:
                run.save()
            if stopped and run.state.step < training.steps:
                raise Interrupted(run.farewell(), run.state.step)
    made = {
        name: averaged(net, run.state.averages[name][0].state()) if run.state.averages[name] else net
        for name, net in run.state.networks.items()
    }
    return made["network"] if single else made


class _Run:
    """One call of fit: the parts, the state, and what one step does."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        objective: Any,
        data: Any,
        training: Training,
        engine: Parallel,
        rng: Rng,
        log: Log,
        keep: Path | None,
        heldout: HeldOut | None,
    ):
        self.training, self.engine, self.rng, self.log, self.keep = training, engine, rng, log, keep
        self.objective, self.heldout = objective, heldout
        require(
            training.lots >= engine.world,
            f"{training.lots} lots cannot be shared by {engine.world} processes, some would have nothing to do; "
            f"set training.lots={engine.world} or more (and a smaller training.lot)",
        )
        self.feed = as_lots(data, rng.fork("data"))
        nets = {name: engine.wrap(net) for name, net in networks.items()}
        self.device = next((p.device for net in nets.values() for p in net.parameters()), torch.device("cpu"))
        every = players(objective, nets)
        optimisers = {p.name: training.optimiser.build(p.parameters, training.rate(0, training.steps)) for p in every}
        averages = {name: [Average(net, profile) for profile in training.profiles] for name, net in nets.items()}
        self.state = State(nets, every, optimisers, averages)
        self.settings = checkpoint.settings({"training": training, "objective": objective, "seed": rng})
        for net in nets.values():
            net.train()
        self._clock = time.perf_counter()

    def step(self) -> None:
        """One step of every player whose turn it is, then the averages, then the log."""
        n, training = self.state.step, self.training
        rate = training.rate(n, training.steps)
        watched = (n + 1) % training.watch_every == 0
        entry: dict[str, Any] = {"step": n + 1, "loss": 0.0, "rate": rate, "grad_norm": 0.0, "samples_per_second": 0.0}
        terms: dict[str, float] = {}
        for player in self.state.players:
            if n % player.every:
                continue
            seen = self._move(player, n, rate, watched)
            first = player is self.state.players[0]
            entry.update(seen.pop("entry") if first else {})
            prefix = "" if first else f"{player.name}."
            terms.update({prefix + k: v for k, v in seen["terms"].items()})
        self.state.step = n + 1
        for averages in self.state.averages.values():
            for average in averages:
                average.update(n + 1)
        entry["terms"] = terms
        now = time.perf_counter()
        entry["samples_per_second"], self._clock = training.batch / (now - self._clock), now
        if self.heldout is not None and self.heldout.due(n + 1, training.steps):
            entry["heldout"] = self._heldout()
            self._clock = time.perf_counter()  # looking is not learning
        self.log(entry)

    def _move(self, player: Player, n: int, rate: float, watched: bool) -> dict[str, Any]:
        """One step of one player."""
        training, engine = self.training, self.engine
        optimiser = self.state.optimisers[player.name]
        for other in self.state.optimisers.values():  # losses of other players leave gradients too
            other.zero_grad(set_to_none=True)
        parts: dict[str, Tensor] = {}
        for k in range(engine.rank, training.lots, engine.world):
            key = self.rng.fork(n, k)
            batch = self.feed.lot(n * training.lots + k, training.lot)
            if batch.x1.device != self.device:
                batch = to(batch, self.device, non_blocking=True)
            if len(self.state.players) > 1:
                key = key.fork(player.name)
            with key.fork("ambient").ambient():
                loss = player.loss(batch, key)
                engine.backward(loss.value / training.lots)
            for name, value in {"": loss.value.detach(), **loss.terms}.items():
                parts[name] = parts[name] + value if name in parts else value
        engine.gather(player.parameters)
        slopes = [p.grad for p in player.parameters if p.grad is not None]
        norm = engine.norm(slopes) if slopes else torch.zeros((), device=self.device)
        sums = torch.stack([v.float() for v in parts.values()])
        # the one wait for the device in a step
        *values, length = torch.cat([engine.total(sums) / training.lots, norm.float()[None]]).tolist()
        loss_value = values[0]
        check_step(loss_value, length, n + 1, self.state.networks)
        if training.clip is not None and length > training.clip:
            torch._foreach_mul_(slopes, training.clip / (length + 1e-6))
        before = [p.detach().clone() for p in player.parameters] if watched else []
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        entry: dict[str, Any] = {"loss": loss_value, "grad_norm": length}
        if watched:
            entry |= self._norms(player, before)
        return {"entry": entry, "terms": dict(zip(list(parts)[1:], values[1:], strict=True))}

    @torch.no_grad()
    def _norms(self, player: Player, before: list[Tensor]) -> dict[str, float]:
        now = [p.detach() for p in player.parameters]
        update = self.engine.norm(torch._foreach_sub(now, before))
        return {"update_norm": float(update), "param_norm": float(self.engine.norm(now))}

    def _heldout(self) -> dict[str, Any]:
        """The held-out loss of the raw and of the averaged weights."""
        assert self.heldout is not None
        name, net = next(iter(self.state.networks.items()))
        found = {"raw": self.heldout(net)}
        if self.state.averages[name]:
            made = averaged(net, self.state.averages[name][0].state())
            found["ema"] = self.heldout(made)
        for kind, value in found.items():
            self.state.best[kind] = min(value.value, self.state.best.get(kind, float("inf")))
        return {kind: value.plain() for kind, value in found.items()} | {"best": dict(self.state.best)}

    def save(self) -> None:
        """A checkpoint of the state, unless it is spoilt."""
        check_state(self.state.step, self.state.networks, self.state.averages)
        if self.keep is not None and self.engine.rank == 0:
            checkpoint.write(self.keep, self.state.save(self.settings), self.training.keep_last)

    def resume(self, root: Path) -> None:
        """Go on from the newest whole checkpoint; refuse when settings other than the number of steps changed."""
        path = checkpoint.newest(root, lambda text: self.log({"step": 0, "note": text}))
        saved = checkpoint.read(path)
        changed = checkpoint.difference(saved.state["settings"], self.settings)
        allowed = ("training.steps:", "training.keep_every:", "training.keep_last:", "training.watch_every:")
        changed = [line for line in changed if not line.startswith(allowed)]
        require(
            not changed,
            f"the run in {root} was made with other settings ({'; '.join(changed)}); going on would be neither run: "
            "resume with the settings it has, or start a new run",
        )
        require(
            self.training.steps >= saved.step,
            f"the run in {root} has {saved.step} steps already, training.steps is {self.training.steps}; "
            "raise training.steps to go on",
        )
        self.state.load(saved)
        self.log({"step": saved.step, "note": f"resumed from {path}"})

    def farewell(self) -> str:
        """What to tell somebody who stopped the run."""
        if self.keep is None:
            return f"stopped after step {self.state.step}; nothing was saved, because no directory to keep was given"
        return f"stopped after step {self.state.step} and saved it to {self.keep}; resume from there to go on"


@contextlib.contextmanager
def _stoppable() -> Iterator[list[int]]:
    """A list that fills when the user asks to stop; the second request stops at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
