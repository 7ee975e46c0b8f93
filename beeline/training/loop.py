"""The loop of training: what one step does, and how a run is saved, resumed and turned back."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring
from beeline.core.errors import require
from beeline.core.modes import deferred, refuse
from beeline.core.protocols.objectives import Player
from beeline.core.protocols.training import Parallel
from beeline.core.rng import Rng
from beeline.core.types import Batch, to
from beeline.training import checkpoint, compare
from beeline.training.checks import Diverged, blame, check_alike, check_state, check_step
from beeline.training.distributed.parallel import here, local
from beeline.training.feed.microbatches import as_microbatches
from beeline.training.feed.workers import Fetched, order_of
from beeline.training.memory import Peak
from beeline.training.optim import parameter_groups as kinds
from beeline.training.optim.ema import Average, averaged
from beeline.training.optim.optimizers import in_use
from beeline.training.players import players
from beeline.training.state import State

if TYPE_CHECKING:
    from beeline.training.config import Training
from beeline.core.protocols.training import Callback, Feed, Log

FREE = tuple(
    f"training.{name}:"
    for name in ("steps", "checkpoint_every", "checkpoint_keep", "watch_every", "max_recoveries", "workers")
)
"""Settings that may change when a run goes on."""


class Loop:
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
        checkpoint_dir: Path | None,
        callbacks: Sequence[Callback],
        device: torch.device,
    ):
        self.training, self.engine, self.rng = training, engine, rng
        self.checkpoint_dir, self.callbacks = checkpoint_dir, callbacks
        self.log: Log = log if engine.rank == 0 else lambda entry: None
        require(
            training.microbatches % engine.world == 0,
            f"{training.microbatches} microbatches cannot be shared evenly by {engine.world} processes; "
            f"set training.microbatches to a multiple of {engine.world}",
        )
        require(
            training.early_stopping is None
            or (checkpoint_dir is not None and any(callback.scores for callback in callbacks)),
            "training.early_stopping ends a run by its held-out loss and goes back to its best checkpoint; give fit "
            "both, a HeldOut in callbacks= and checkpoint_dir=, or set training.early_stopping=none",
        )
        self.data = as_microbatches(data, rng.fork("data"))
        self.feed: Feed = self.data if training.data_pruning is None else training.data_pruning.feed(self.data)
        if training.workers:
            order = order_of(training.microbatches, engine.rank, engine.world)
            self.feed = Fetched(self.data, training.microbatch_size, training.workers, order)
        weights = [p for net in networks.values() for p in net.parameters()]
        self.device = device
        self.peak = Peak(device, sum(p.numel() * p.element_size() for p in weights))
        training.compute.place(networks)
        # a divided network cannot be copied, so a whole one is kept aside to be filled
        self._whole = {name: copy.deepcopy(net).cpu() for name, net in networks.items()} if engine.shards else networks
        nets = {name: engine.wrap(net, device) for name, net in networks.items()}
        every = players(objective, nets)
        lr, self.matrices = training.lr_schedule(0, training.steps), kinds.matrices(nets)
        optimizers = {p.name: training.optimizer.build(p.parameters, lr, self.matrices) for p in every}
        averages = {name: [Average(net, profile) for profile in training.profiles] for name, net in nets.items()}
        self.state = State(nets, every, optimizers, averages)
        self.work = {p.name: engine.work(p, nets) for p in every}
        self._parts = {"training": training, "objective": objective, "seed": rng}
        self.branch = training.lr_schedule.branch(training.steps)  # where a longer run would leave this one
        for net in nets.values():
            net.train()
        self._in_use(False)
        self.predicted: int | None = None  # bytes of memory, to be logged beside what was taken
        self.tell: Callable[[int], None] = lambda step: None  # hears of every microbatch before it is worked
        self.enough = False  # whether patience is over
        self._clock, self._speed = time.perf_counter(), 0.0

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What a run has to have in common with the one that it goes on from, as plain data."""
        found: dict[str, Any] = compare.settings(self._parts)
        return found | {"data": compare.data(self.data)}

    @property
    def steps(self) -> int:
        """Steps of the run: as planned, or fewer since patience was over."""
        return int(self.state.notes.get("steps", self.training.steps))

    @property
    def best(self) -> int:
        """The step of the best look so far, to which patience may lead back; 0 without."""
        return int(self.state.notes.get("patience", {}).get("step", 0))

    def step(self, stop: bool = False) -> bool:
        """One step of every player whose turn it is, then the averages, then the log; whether to stop after it."""
        n, training = self.state.step, self.training
        lr = training.lr_schedule(n, self.steps) * 0.5 ** self.state.notes.get("retreats", 0)
        entry: dict[str, Any] = {"step": n + 1, "loss": 0.0, "lr": lr, "grad_norm": 0.0, "samples_per_second": 0.0}
        terms: dict[str, float] = {}
        self.feed.begin(n, training)
        for i, player in enumerate(self.state.players):
            if n % player.every:
                entry.update(self.state.notes.get("last", {}) if i == 0 else {})
                continue
            seen, its = self._move(player, n, lr, stop)
            stop = seen.pop("stop") > 0
            entry.update(seen if i == 0 else {})
            if i == 0 and player.every > 1:  # logged again in the steps that it skips
                self.state.notes["last"] = {k: seen[k] for k in ("loss", "grad_norm")}
            terms |= its if i == 0 else {f"{player.name}.{k}": v for k, v in its.items()}
        self.state.step = n + 1
        for name, network in self.state.networks.items():
            if isinstance(network, Declaring):
                network.settle(self.engine.total)
            for average in self.state.averages[name]:
                average.update(n + 1)
        entry["terms"] = terms
        now = time.perf_counter()
        if now > self._clock:  # a clock that stands still or runs backwards gives no lr: the last one stays
            self._speed = training.batch_size / (now - self._clock)
        entry["samples_per_second"], self._clock = self._speed, now
        self._call_back(entry)
        if n + 1 == self.steps:
            entry["peak_bytes"] = self.peak.bytes()
            entry |= {} if self.predicted is None else {"predicted_bytes": self.predicted}
        self.log(entry)
        return stop

    def microbatch(self, n: int, k: int) -> Batch:
        """Microbatch k of step n, on the device and in the layout of the networks."""
        batch = self.feed.microbatch(n * self.training.microbatches + k, self.training.microbatch_size)
        if batch.x1.device != self.device:
            batch = to(batch, self.device, non_blocking=True)
        if self.training.compute.channels_last:
            batch = replace(batch, x1=self.training.compute.layout(batch.x1))
        return batch

    def key(self, n: int, k: int) -> Rng:
        """The random numbers of microbatch k of step n; others after a recovery, so that the step differs."""
        again = self.state.notes.get("retreats", 0)
        return (self.rng.fork("retreat", again) if again else self.rng).fork(n, k)

    def _move(self, player: Player, n: int, lr: float, stop: bool) -> tuple[dict[str, float], dict[str, float]]:
        """One step of one player: what to log of it, and its terms."""
        training, engine = self.training, self.engine
        optimizer = self.state.optimizers[player.name]
        for network in self.state.networks.values():  # losses of other players leave gradients too
            network.zero_grad(set_to_none=True)
        mine = range(engine.rank, training.microbatches, engine.world)
        parts: dict[str, Tensor] = {}
        errors: dict[int, tuple[Tensor, Tensor]] = {}  # by microbatch: losses and times of its data
        with deferred() as checks:
            for k in mine:
                key = self.key(n, k)
                if len(self.state.players) > 1:
                    key = key.fork(player.name)
                batch = self.microbatch(n, k)
                self.tell(n)
                with key.fork("ambient").ambient(), training.compute.autocast(self.device):
                    loss = self.work[player.name](batch, key, 1 / training.microbatches, k == mine[-1])
                for name, value in {"": loss.value.detach(), **loss.terms}.items():
                    parts[name] = parts[name] + value if name in parts else value
                errors[k] = loss.per_sample, loss.t
            slopes = [local(p.grad) for p in player.parameters if p.grad is not None]
            norm = engine.norm(slopes)
            bad = torch.stack([~good for good, _ in checks]).sum() if checks else torch.zeros_like(norm)
            asked_for = torch.full_like(norm, float(stop))
            sums = torch.stack([*(v.detach().float() for v in parts.values()), asked_for.float()])
            # the one wait for the device in a step
            *values, asked, length, wrong = torch.cat([engine.total(sums), norm.float()[None], bad[None]]).tolist()
            if wrong:
                refuse(checks)
            checks.clear()
        values = [v / training.microbatches for v in values]
        check_step(values[0], length, n + 1, self.state.networks, lambda: blame(self.feed, n, training, mine))
        watched = (n + 1) % training.watch_every == 0
        if n == 0 or watched:
            check_alike(engine, norm, n + 1)
        if training.clip is not None and length > training.clip:
            torch._foreach_mul_(slopes, training.clip / (length + 1e-6))
        before = [local(p.detach()).clone() for p in player.parameters] if watched else []
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        optimizer.step()
        self.feed.observe(n, training, errors, engine.total)
        entry = {"loss": values[0], "grad_norm": length, "stop": asked}
        if watched:
            now = [local(p.detach()) for p in player.parameters]
            entry["update_norm"] = float(engine.norm(torch._foreach_sub(now, before)))
            entry["param_norm"] = float(engine.norm(now))
        return entry, dict(zip(list(parts)[1:], values[1:], strict=True))

    def _call_back(self, entry: dict[str, Any]) -> None:
        """Call the callbacks that are due with the raw and the averaged network."""
        due = [callback for callback in self.callbacks if callback.due(entry["step"], self.steps)]
        self.enough = False
        if not due:
            return
        self.peak.pause()
        name, raw = next(iter(self.state.networks.items()))
        ema = self.averaged(name)
        self._in_use(True)
        for callback in due:
            found = callback.evaluate(raw, ema, entry["step"])
            scores = {k: v["value"] for k, v in found.items() if isinstance(v, Mapping) and "value" in v}
            for kind, value in scores.items():
                self.state.best[kind] = min(value, self.state.best.get(kind, float("inf")))
            entry[callback.name] = found | ({"best": dict(self.state.best)} if scores else {})
            patience = self.training.early_stopping if callback.scores and "steps" not in self.state.notes else None
            if patience is not None:
                loss = torch.tensor(callback.score(found) if self.engine.rank == 0 else 0.0, dtype=torch.float64)
                loss = self.engine.total(loss.to(here()))  # that of rank 0 decides for all
                over = patience.over(self.state.notes.setdefault("patience", {}), entry["step"], float(loss))
                self.enough = over and entry["step"] < self.steps
        self._in_use(False)
        self.peak.go()
        self._clock = time.perf_counter()  # looking is not learning

    def _in_use(self, use: bool) -> None:
        """Tell optimizers that average by themselves whether the weights are used or learn."""
        for optimizer in self.state.optimizers.values() if self.training.optimizer.averages else ():
            in_use(optimizer, use)

    def averaged(self, name: str, which: int = 0) -> nn.Module | None:
        """A whole network with averaged weights and the buffers of now, or None where there is no average."""
        averages = self.state.averages[name]
        return self._copy(name, averages[which].state()) if averages else None

    def _copy(self, name: str, state: Mapping[str, Tensor]) -> nn.Module:
        return averaged(self._whole[name], state, self.device, live=self.state.networks[name])

    def result(self) -> dict[str, nn.Module]:
        """What fit gives back: networks with averaged weights, whole ones where they were divided."""
        self._in_use(True)
        made: dict[str, nn.Module] = {}
        for name, net in self.state.networks.items():
            average = self.averaged(name)
            if average is None and self.engine.shards:
                average = self._copy(name, {})
            made[name] = (average or net).eval()
        return made

    def save(self) -> None:
        """A checkpoint of the state, unless it is spoilt."""
        check_state(self.state.step, self.state.networks, self.state.averages, self.engine)
        if self.checkpoint_dir is None:
            return
        self.state.notes["feed"], self.state.extras = self.feed.state()
        more = {"stays": self.state.step == self.branch < self.training.steps, "world": self.engine.world}
        more["profiles"] = compare.settings(self.training.profiles)
        saved = self.state.save(self.settings, more)
        checkpoint.write(self.checkpoint_dir, saved, self.training.checkpoint_keep, self.engine, spare=self.best)

    def snapshot(self) -> None:
        """Store the averages alone, to stay."""
        if self.checkpoint_dir is None:
            return
        state = {"step": self.state.step, "profiles": compare.settings(self.training.profiles)}
        stored = checkpoint.Checkpoint(self.state.step, self.state.averaged() | self.state.buffers(), state)
        checkpoint.write(self.checkpoint_dir / "snapshots", stored, 10**9, self.engine)

    def resume(self, root: Path, fork: bool = False) -> None:
        """Go on from the newest whole checkpoint; refuse when settings other than the number of steps changed.

        When the number of steps was raised, the newest checkpoint is taken up to which both runs have the same rates,
        so that the longer run is the one that would have been made at once; where there is none, this is said.
        """

        def note(text: str) -> None:
            self.log({"step": 0, "note": text})

        path = checkpoint.newest(root, note)
        saved = checkpoint.state(path)
        changed = compare.difference(saved["settings"], self.settings)
        changed = [line for line in changed if not line.startswith(FREE)]
        others = [line for line in changed if line.startswith("data.")]
        require(
            fork or not others,
            f"the data are not those that the run in {root} has learned from ({'; '.join(others)}); going on would mix "
            "two data sets in one run: give the data as they were, or fork a new run from its state",
        )
        require(
            fork or not changed,
            f"the run in {root} was made with other settings ({'; '.join(changed)}); going on would be neither run: "
            "resume with the settings it has, or fork a new run from its state",
        )
        steps, old = self.training.steps, int(saved["settings"]["training"]["steps"])
        require(
            steps >= saved["step"],
            f"the run in {root} has {saved['step']} steps already, training.steps is {steps}; "
            "raise training.steps to go on",
        )
        if not fork and steps != old and not self._same_lr(saved["step"], old):
            try:
                path = checkpoint.newest(root, lambda text: None, lambda step: self._same_lr(step, old))
                saved = checkpoint.state(path)
            except ValueError:
                note(
                    f"with training.steps={steps} instead of {old} the rates of the steps already made would have been "
                    "others, and no checkpoint is early enough; this run goes on, but is not the one made at once"
                )
        self._return(path, changed)
        if fork:
            for name in ("retreats", "steps", "patience"):
                self.state.notes.pop(name, None)
            note(f"forked from {path}" + (f" with {'; '.join(changed)}" if changed else ""))
            self.save()  # a run that dies before its next checkpoint goes on from here
        else:
            note(f"resumed from {path}")

    def _return(self, path: Path, changed: Sequence[str] = ()) -> None:
        """Become the state of a checkpoint; a part of it whose settings changed in a fork starts anew."""
        others = any(line.startswith("training.optimizer") for line in changed)
        self.state.load(path, optimizers=not others, averages=not changed)
        feed = self.state.notes.pop("feed", None)
        pruned = any(
            line.startswith(("training.data_pruning", "training.batch_size", "training.microbatches", "data."))
            for line in changed
        )
        if feed and not pruned:
            self.feed.load_state(feed, self.state.extras)
        self.state.extras = {}
        if others:
            self.log({"step": self.state.step, "note": "the optimizer has other settings and starts without memory"})

    def _same_lr(self, step: int, old: int) -> bool:
        lr, new = self.training.lr_schedule, self.training.steps
        return all(lr(n, old) == lr(n, new) for n in range(step))

    def recover(self, error: Diverged) -> bool:
        """After a divergence: back to the last good checkpoint with half the lr, as often as that is allowed."""
        times = self.state.notes.get("retreats", 0) + 1
        if (
            self.checkpoint_dir is None
            or times > self.training.max_recoveries
            or not checkpoint.steps(self.checkpoint_dir)
        ):
            return False
        self._return(checkpoint.newest(self.checkpoint_dir, lambda text: None))
        self.state.notes["retreats"] = times
        here = self.state.step
        self.log({"step": here, "note": f"{error}; went back to step {here}, the lr is now {0.5**times:g} of its plan"})
        return True

    def shorten(self) -> None:
        """EarlyStopping is over: back to the best step, and a cooldown from there.  What came after it is forgotten."""
        assert self.checkpoint_dir is not None and self.training.early_stopping is not None
        best, self.enough = self.best, False
        self._return(self.checkpoint_dir / f"step-{best:08d}")
        end = self.training.early_stopping.shorter(best, self.training.steps, self.training.lr_schedule)
        self.state.notes["steps"] = end
        if self.engine.rank == 0:
            for path in (*checkpoint.steps(self.checkpoint_dir), *checkpoint.steps(self.checkpoint_dir / "snapshots")):
                if checkpoint.number(path) > best:
                    checkpoint.remove(path)
        self.save()
        note = f"the held-out loss is lowest after step {best}; the run goes on from there to step {end}"
        self.log({"step": best, "steps": end, "note": note})

    def farewell(self, kept: bool = True) -> str:
        """What to tell somebody who stopped the run; ``kept`` says whether the directory of checkpoints stays."""
        if self.checkpoint_dir is None or not kept:
            return f"stopped after step {self.state.step}; nothing was saved, because no checkpoint_dir was given"
        return f"stopped after step {self.state.step} and saved it to {self.checkpoint_dir}; resume from there to go on"
