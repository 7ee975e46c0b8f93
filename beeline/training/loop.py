"""The training loop: one step, checkpoints, resume, recovery and early stopping."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from beeline.core.declared import counting, settle
from beeline.core.errors import require
from beeline.core.modes import deferred, narrow_weights, refuse
from beeline.core.old_names import FORMAT
from beeline.core.progress import at_progress
from beeline.core.protocols.objectives import Player, spec_of
from beeline.core.protocols.training import Callback, Feed, Log, Parallel
from beeline.core.rng import Rng
from beeline.core.types import Batch, to
from beeline.training import checkpoint, compare
from beeline.training.checks import Diverged, check_state, check_step, check_synchronized, describe_bad_data
from beeline.training.distributed.parallel import local, local_device
from beeline.training.distributed.teachers import frozen_bytes
from beeline.training.distributed.writer import Writer
from beeline.training.extend import planned, start
from beeline.training.feed.sources import as_microbatches
from beeline.training.feed.workers import Prefetched, microbatch_numbers
from beeline.training.memory import Peak
from beeline.training.optim.ema import Average, averaged, averaged_view, replaced
from beeline.training.optim.optimizers import in_use as switch
from beeline.training.optim.parameter_groups import matrices
from beeline.training.players import moving, players
from beeline.training.state import State

if TYPE_CHECKING:
    from beeline.training.config import Training


class Loop:
    """One call of ``fit``: its components, its state, and the training step."""

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
        self.writer = Writer(engine)
        self.log: Log = log if engine.rank == 0 else lambda entry: None
        require(
            training.microbatches % engine.world == 0,
            f"{training.microbatches} microbatches cannot be divided evenly among {engine.world} processes; "
            f"set training.microbatches to a multiple of {engine.world}",
        )
        require(
            training.early_stopping is None
            or (checkpoint_dir is not None and any(callback.scores for callback in callbacks)),
            "training.early_stopping needs a held-out loss and a directory for checkpoints, but one of them is "
            "missing; give fit a HeldOut in callbacks= and checkpoint_dir=, or set training.early_stopping=none",
        )
        self.data = as_microbatches(data, rng.fork("data"))
        self.feed: Feed = self.data if training.data_pruning is None else training.data_pruning.feed(self.data)
        if training.workers and not self.data.sequential:
            order = microbatch_numbers(training.microbatches, engine.rank, engine.world)
            self.feed = Prefetched(self.data, training.microbatch_size, training.workers, order)
        weights = [p for net in networks.values() for p in net.parameters()]
        self.device = device
        held = sum(p.numel() * p.element_size() for p in weights) + frozen_bytes(objective, networks)
        self.peak = Peak(device, held)
        training.compute.place(networks)
        # a sharded network cannot be copied, so its unsharded structure is stored for the results
        self._full = (
            {name: replaced(net, lambda t: t.to("meta")) for name, net in networks.items()}
            if engine.shards
            else networks
        )
        nets = {name: engine.wrap(net, device, training.compute.dtype) for name, net in networks.items()}
        all_players = players(objective, nets)
        lr, decayed = training.lr_schedule(0, training.steps), matrices(nets)
        optimizers = {p.name: training.optimizer.build(p.parameters, lr, decayed) for p in all_players}
        averages = {name: [Average(net, profile) for profile in training.profiles] for name, net in nets.items()}
        self.state = State(nets, all_players, optimizers, averages)
        self.work = {p.name: engine.work(p, nets) for p in all_players}
        # FSDP2 does not unshard a root anew, so that a change of the flags of its parameters would not reach it
        self.alone = () if engine.shards else all_players  # whose parameters take gradients in their own turn only
        self.evolves = spec_of(objective).evolves
        self._parts = {"training": training, "objective": objective, "seed": rng}
        self.branch = training.lr_schedule.branch(training.steps)  # a longer run continues from this step
        for net in nets.values():
            net.train()
        self.in_use(False)
        self.predicted: int | None = None  # estimated peak memory in bytes, for the log
        self.progress: Callable[[int], None] = lambda step: None  # called before every microbatch
        self.stop_early = False  # set by early stopping
        self._clock, self._speed = time.perf_counter(), 0.0

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Settings and fingerprints that have to be the same when the run is resumed, as plain data."""
        settings: dict[str, Any] = compare.settings(self._parts)
        return settings | {"data": compare.data(self.data)}

    @property
    def steps(self) -> int:
        """Number of steps of the run, which early stopping may have reduced."""
        return int(self.state.notes.get("steps", self.training.steps))

    @property
    def best(self) -> int:
        """The step with the best held-out loss, to which early stopping may return; 0 if there is none."""
        return int(self.state.notes.get("early_stopping", {}).get("step", 0))

    def step(self, stop: bool = False) -> bool:
        """One step of every player that is due, the averages, callbacks and log; whether to stop after it."""
        n, training = self.state.step, self.training
        lr = training.lr_schedule(n, self.steps) * 0.5 ** self.state.notes.get("recoveries", 0)
        entry: dict[str, Any] = {"step": n + 1, "loss": 0.0, "lr": lr, "grad_norm": 0.0, "samples_per_second": 0.0}
        terms: dict[str, float] = {}
        self.feed.begin(n, training)
        for i, player in enumerate(self.state.players):
            if n % player.every:
                entry.update(self.state.notes.get("last", {}) if i == 0 else {})
                continue
            values, own_terms = self._update(player, n, lr, stop)
            stop = values.pop("stop") > 0
            entry.update(values if i == 0 else {})
            if i == 0 and player.every > 1:  # logged again in the steps that it skips
                self.state.notes["last"] = {k: values[k] for k in ("loss", "grad_norm")}
            terms |= own_terms if i == 0 else {f"{player.name}.{k}": v for k, v in own_terms.items()}
        for name, network in self.state.networks.items():
            with at_progress((n + 1) / training.steps):
                settle(network, self.engine.total)
            for average in self.state.averages[name]:
                average.update(n + 1)
        self.state.step = n + 1  # last: a state with this number is complete
        entry["terms"] = terms
        now = time.perf_counter()
        if now > self._clock:  # else the clock stands still or runs backwards: the last speed is logged
            self._speed = training.batch_size / (now - self._clock)
        entry["samples_per_second"], self._clock = self._speed, now
        self._call_back(entry)
        if n + 1 == self.steps:
            entry["peak_bytes"] = self.peak.bytes()
            entry |= {} if self.predicted is None else {"predicted_bytes": self.predicted}
        self.log(entry)
        return stop

    def microbatch(self, n: int, k: int) -> Batch:
        """Microbatch k of step n, on the device and in the memory format of the networks."""
        batch = self.feed.load(n * self.training.microbatches + k, self.training.microbatch_size)
        if batch.x1.device != self.device:
            batch = to(batch, self.device, non_blocking=True)
        batch = self.feed.encode(batch)
        if self.training.compute.channels_last:
            batch = replace(batch, x1=self.training.compute.layout(batch.x1))
        return batch

    def key(self, n: int, k: int) -> Rng:
        """The random key of microbatch k of step n; a different one after a recovery, so that the step differs."""
        return self.step_key(n).fork(k)

    def step_key(self, n: int) -> Rng:
        """The part of the random keys of step n that its microbatches share."""
        recoveries = self.state.notes.get("recoveries", 0)
        return (self.rng.fork("retreat", recoveries) if recoveries else self.rng).fork(n)

    def _update(self, player: Player, n: int, lr: float, stop: bool) -> tuple[dict[str, float], dict[str, float]]:
        """One update of the parameters of a player: its entries and its terms for the log."""
        training, engine = self.training, self.engine
        optimizer = self.state.optimizers[player.name]
        for network in self.state.networks.values():  # other players leave gradients too
            network.zero_grad(set_to_none=True)
        mine = range(engine.rank, training.microbatches, engine.world)
        terms: dict[str, Tensor] = {}  # the loss under "", and its terms
        errors: dict[int, tuple[Tensor, Tensor]] = {}  # by microbatch: losses and times of its data
        with deferred() as checks, moving(player, self.alone):
            for k in mine:
                key = self.key(n, k)
                if len(self.state.players) > 1:
                    key = key.fork(player.name)
                batch = self.microbatch(n, k)
                self.progress(n)
                share = at_progress(n / self.training.steps, self.step_key(n).fork("common"))
                narrow = narrow_weights(engine.shards and training.compute.bf16)
                with key.fork("ambient").ambient(), share, narrow, counting(), training.compute.autocast(self.device):
                    loss = self.work[player.name](batch, key, 1 / training.microbatches, k == mine[-1])
                for name, value in {"": loss.value.detach(), **loss.terms}.items():
                    terms[name] = terms[name] + value if name in terms else value
                errors[k] = loss.per_sample, loss.t
            gradients = [local(p.grad) for p in player.parameters if p.grad is not None]
            norm = engine.norm(gradients)
            failed = torch.stack([~passed for passed, _ in checks]).sum() if checks else torch.zeros_like(norm)
            flags = [torch.full_like(norm, float(flag)) for flag in (stop, self.writer.failed())]
            sums = torch.stack([v.detach().float() for v in (*terms.values(), *flags)])
            # the only synchronisation with the device in a step
            *values, stops, unwritten, grad_norm, failures = torch.cat(
                [engine.total(sums), norm.float()[None], failed[None]]
            ).tolist()
            if failures:
                refuse(checks)
            checks.clear()
        if unwritten:
            self.writer.wait()  # raises the error
        values = [v / training.microbatches for v in values]
        check_step(
            values[0], grad_norm, n + 1, self.state.networks, lambda: describe_bad_data(self.feed, n, training, mine)
        )
        watched = (n + 1) % training.watch_every == 0
        if n == 0 or watched:
            check_synchronized(engine, norm, n + 1)
        if training.clip is not None and grad_norm > training.clip:
            torch._foreach_mul_(gradients, training.clip / (grad_norm + 1e-6))
        before = [local(p.detach()).clone() for p in player.parameters] if watched else []
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        optimizer.step()
        self.feed.observe(n, training, errors, engine.total)
        entry = {"loss": values[0], "grad_norm": grad_norm, "stop": stops}
        if watched:
            now = [local(p.detach()) for p in player.parameters]
            entry["update_norm"] = float(engine.norm(torch._foreach_sub(now, before)))
            entry["param_norm"] = float(engine.norm(now))
        return entry, dict(zip(list(terms)[1:], values[1:], strict=True))

    def _call_back(self, entry: dict[str, Any]) -> None:
        """Call the callbacks that are due with the raw and the averaged network; update early stopping."""
        due = [callback for callback in self.callbacks if callback.due(entry["step"], self.steps)]
        self.stop_early = False
        if not due:
            return
        self.peak.pause()
        name, raw = next(iter(self.state.networks.items()))
        ema = self.averaged(name, view=True)
        self.in_use(True)
        for callback in due:
            found = callback.evaluate(raw, ema, entry["step"])
            if "note" in found:
                self.log({"step": entry["step"], "note": found["note"]})
            scores = {k: v["value"] for k, v in found.items() if isinstance(v, Mapping) and "value" in v}
            for kind, value in scores.items():
                self.state.best[kind] = min(value, self.state.best.get(kind, float("inf")))
            entry[callback.name] = found | ({"best": dict(self.state.best)} if scores else {})
            stopping = self.training.early_stopping if callback.scores and "steps" not in self.state.notes else None
            if stopping is not None:
                loss = torch.tensor(callback.score(found) if self.engine.rank == 0 else 0.0, dtype=torch.float64)
                loss = self.engine.total(loss.to(local_device()))  # the loss of rank 0, on all processes
                best = self.state.notes.setdefault("early_stopping", {})
                self.stop_early = stopping.update(best, entry["step"], float(loss)) and entry["step"] < self.steps
        self.in_use(False)
        self.peak.resume()
        self._clock = time.perf_counter()  # the speed excludes callbacks

    def in_use(self, use: bool) -> None:
        """Switch optimizers that average their weights between evaluation and training."""
        for optimizer in self.state.optimizers.values() if self.training.optimizer.averages else ():
            switch(optimizer, use)

    def averaged(self, name: str, view: bool = False) -> nn.Module | None:
        """A full copy of a network with averaged weights and current buffers; None if there is no average.

        A ``view``, of networks that are not sharded, does not copy the average.
        """
        if not self.state.averages[name]:
            return None
        state, network = self.state.averages[name][0].state(), self.state.networks[name]
        return averaged_view(network, state) if view and not self.engine.shards else self._copy(name, state)

    def _copy(self, name: str, state: Mapping[str, Tensor]) -> nn.Module:
        return averaged(self._full[name], state, self.device, live=self.state.networks[name])

    def result(self) -> dict[str, nn.Module]:
        """The return value of ``fit``: networks with averaged weights, unsharded."""
        self.in_use(True)
        result: dict[str, nn.Module] = {}
        for name, net in self.state.networks.items():
            average = self.averaged(name)
            if average is None and self.engine.shards:
                average = self._copy(name, {})
            result[name] = (average or net).eval()
        return result

    def save(self) -> None:
        """Write a checkpoint, after a check that all values are finite."""
        check_state(self.state.step, self.state.networks, self.state.averages, self.engine)
        if self.checkpoint_dir is None:
            return
        self.state.notes["feed"], self.state.extras = self.feed.state()
        more = {"permanent": self.state.step == self.branch < self.training.steps, "world": self.engine.world}
        more["profiles"] = compare.settings(self.training.profiles)
        saved = self.state.save(self.settings, more)
        self.writer.submit(self.checkpoint_dir, saved, self.training.checkpoint_keep, protect=self.best)

    def snapshot(self) -> None:
        """Store the averages and buffers permanently, for post-hoc EMA."""
        if self.checkpoint_dir is None:
            return
        state = {"format": FORMAT, "step": self.state.step, "profiles": compare.settings(self.training.profiles)}
        stored = checkpoint.Checkpoint(self.state.step, self.state.averaged() | self.state.buffers(), state)
        self.writer.submit(self.checkpoint_dir / "snapshots", stored, 10**9)

    def resume(self, root: Path, fork: bool = False) -> None:
        """Continue from the newest valid checkpoint; refuse if other settings than those of ``compare.CHANGEABLE``
        changed, unless ``fork``.

        If the number of steps was raised, the newest checkpoint is used up to which both runs have the same learning
        rates, so the result is identical to an uninterrupted run of that length; if there is none, a note is logged.
        """

        def note(text: str) -> None:
            self.log({"step": 0, "note": text})

        path = checkpoint.newest(root, note)
        saved = checkpoint.state(path)
        steps, old = self.training.steps, planned(saved)
        changed = compare.check_resumable(root, saved, self.settings, fork)
        extended = not fork and steps != int(saved["settings"]["training"]["steps"])
        if extended:
            path, exact = start(root, self.training.lr_schedule, steps)
            if self.evolves:
                note(
                    f"training.steps={steps} instead of {old} changes the objective of completed steps, which depends "
                    "on their share of the run; the result will differ from an uninterrupted run of that length"
                )
            if not exact:
                note(
                    f"training.steps={steps} instead of {old} changes the learning rates of completed steps, and no "
                    "checkpoint is early enough; the result will differ from an uninterrupted run of that length"
                )
        self.load(path, changed)
        if fork:
            for name in ("recoveries", "steps", "early_stopping"):
                self.state.notes.pop(name, None)
            note(f"forked from {path}" + (f" with {'; '.join(changed)}" if changed else ""))
            self.save()  # a run that dies before its next checkpoint can be resumed
        else:
            note(f"resumed from {path}")
        if extended:
            for name in ("steps", "early_stopping"):
                self.state.notes.pop(name, None)
            if self.engine.rank == 0:
                checkpoint.remove_later(root, self.state.step)

    def load(self, path: Path, changed: Sequence[str] = ()) -> None:
        """Load a checkpoint; components whose settings were ``changed`` in a fork start from their initial state."""
        new_optimizer = any(line.startswith("training.optimizer") for line in changed)
        self.state.load(path, optimizers=not new_optimizer, averages=not changed)
        feed = self.state.notes.pop("feed", None)
        new_feed = any(
            line.startswith(("training.data_pruning", "training.batch_size", "training.microbatches", "data."))
            for line in changed
        )
        if feed and not new_feed:
            self.feed.load_state(feed, self.state.extras)
        self.state.extras = {}
        if new_optimizer:
            self.log({"step": self.state.step, "note": "the optimizer has other settings and starts without state"})

    def recover(self, error: Diverged) -> bool:
        """Return to the last checkpoint with half the learning rate; False if ``max_recoveries`` is used up."""
        self.writer.wait()
        count = self.state.notes.get("recoveries", 0) + 1
        if (
            self.checkpoint_dir is None
            or count > self.training.max_recoveries
            or not checkpoint.steps(self.checkpoint_dir)
        ):
            return False
        self.load(checkpoint.newest(self.checkpoint_dir, lambda text: None))
        self.state.notes["recoveries"] = count
        step = self.state.step
        note = f"{error}; returned to step {step}, the learning rate is now {0.5**count:g} times its schedule"
        self.log({"step": step, "note": note})
        return True

    def return_to_best(self) -> None:
        """Early stopping: return to the best step, delete later checkpoints, and cool down from there."""
        assert self.checkpoint_dir is not None and self.training.early_stopping is not None
        best, self.stop_early = self.best, False
        self.writer.wait()
        self.load(self.checkpoint_dir / f"step-{best:08d}")
        end = self.training.early_stopping.shortened(best, self.training.steps, self.training.lr_schedule)
        self.state.notes["steps"] = end
        if self.engine.rank == 0:
            checkpoint.remove_later(self.checkpoint_dir, best)
        self.save()
        note = f"early stopping: the held-out loss is lowest after step {best}; continuing from there to step {end}"
        self.log({"step": best, "steps": end, "note": note})
