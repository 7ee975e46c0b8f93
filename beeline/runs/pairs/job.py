"""Pairs of a bundle as a planned job, which any number of processes share and an interruption does not spoil."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from beeline.config import build as config
from beeline.core.declared import traits_of
from beeline.core.errors import BeelineError, require
from beeline.core.files import PART, digest, write_tensors
from beeline.core.modes import AUTO, Device, device_of, moved, tensors_of
from beeline.core.protocols.flows import SplitSource
from beeline.core.protocols.training import PairFilter
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.modality import complete
from beeline.distillation.paired import check_guidance
from beeline.distillation.store.checks import teacher_digest
from beeline.distillation.store.conditions import Conditions
from beeline.distillation.store.making import Maker, absent, fill, pair_bytes, usual_shard
from beeline.distillation.store.manifest import DTYPES, MANIFEST, Manifest, read_manifest
from beeline.distillation.store.reading import CONDITIONS, PairStore, kept, opened, pair_key
from beeline.evaluation.evaluate import takes_conditions
from beeline.objectives.tables import RowMatching, columns_of
from beeline.runs.bundle import NUMBERS, Bundle, load
from beeline.runs.pairs.drift import ROWS, drift
from beeline.runs.pairs.planning import PairPlan
from beeline.runs.run_directory import flat
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.modalities import for_modality
from beeline.solvers.process import require_ode
from beeline.solvers.wrappers import complete as complete_solver
from beeline.training.feed.cache import waiting_lock
from beeline.training.memory import Tracker, size

LINES = 20  # of progress, about
SHORT = 2.0  # seconds of a trial, below which a larger one is made


@dataclass(frozen=True)
class Job:
    """A store that is to be filled: where, with what, and the data that the pairs are compared with."""

    folder: Path
    manifest: Manifest
    make: Maker
    sampler: Sampler
    data: Batch | None
    held: Batch | None

    def plan(self, trial: bool = True) -> PairPlan:
        """What is left to do, with the time of a short ``trial``; BeelineError where the disk is too small."""
        manifest, conditions = self.manifest, self.make.conditions
        missing = absent(self.folder, manifest)
        left = sum(len(manifest.rows(k)) for k in missing)
        whole = pair_bytes(manifest, conditions)
        disk = round(whole * left / manifest.count)
        free = shutil.disk_usage(_existing(self.folder)).free
        require(
            disk <= free,
            f"the pairs take {size(disk)} in {self.folder}, where {size(free)} are free; free some space, give another "
            "folder, a lower --dtype such as float16, or fewer pairs",
        )
        seconds, used = self._trial(left) if trial and left else (None, 0)
        one = torch.Size(manifest.shape).numel() * 4
        shard = manifest.shard_size * (3 * one + DTYPES[manifest.dtype].itemsize * one // 4)
        weights = sum(t.numel() * t.element_size() for t in self.make.flow.field.state_dict().values())
        steps = f"{self.sampler.steps} steps, {self.sampler.evaluations or 'adaptive'} evaluations"
        return PairPlan(left, len(missing), disk, free, weights + shard + used, seconds, steps)

    def _trial(self, left: int) -> tuple[float, int]:
        """(expected seconds, bytes of a batch), from two pairs, or from up to a full batch where that is short.

        Two pairs that take long are made again, since the first ones may include compilation and loading.
        """
        make, batch = self.make, min(left, self.make.batch_size)
        with Tracker() as tracker:
            make.trial(1)
        threads = torch.get_num_threads() if self._on_cpu else 1
        count = min(2, left)
        taken = make.trial(count)
        if taken >= SHORT:
            taken = min(taken, make.trial(count))
        while taken < SHORT and count < min(left, batch * threads):
            count = min(8 * count, left, batch * threads)
            taken = make.trial(count)
        return taken * left / count, tracker.peak * batch * threads

    @property
    def _on_cpu(self) -> bool:
        return (device_of(self.make.flow.field) or torch.device("cpu")).type == "cpu"

    def begin(self) -> None:
        """Write the manifest and the conditions, unless another process has; BeelineError for other files there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with waiting_lock(self.folder / ".begin.lock"):
            if free_for(self.folder, self.manifest):
                return
            for left in self.folder.glob(f".*{PART}"):
                left.unlink(missing_ok=True)
            if self.make.conditions is not None:
                write_tensors(self.folder / CONDITIONS, self.make.conditions.tensors())
            self.manifest.write(self.folder)

    def finish(self) -> PairStore:
        """The store; the first process that finds it complete records how far its data are from the real ones."""
        store = opened(self.folder, self.make.flow.source, self.sampler)
        with waiting_lock(self.folder / ".begin.lock"):
            now = read_manifest(self.folder)
            if "kept" not in now.notes:
                notes = {**now.notes, "kept": len(store), **self._drift(store)}
                replace(now, notes=notes).write(self.folder)
        return replace(store, manifest=read_manifest(self.folder))

    def _drift(self, store: PairStore) -> dict[str, Any]:
        if self.data is None or min(len(self.data.x1), len(store)) < 2:
            return {}
        held = None if self.held is None else self.held.x1
        return {"drift": drift(store.head(ROWS).x1, self.data.x1, held, Rng(0).fork("drift"))._asdict()}


def pairs(
    bundle: Bundle | str | Path,
    n: int,
    out: str | Path,
    *,
    cond: Any = None,
    sampler: Sampler | None = None,
    seed: int = 0,
    shard_size: int | None = None,
    dtype: str = "float32",
    balanced: bool = False,
    filters: Sequence[PairFilter] = (),
    data: Any = None,
    batch_size: int | None = None,
    name: str = "",
    device: Device = AUTO,
    trial: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> PairStore:
    """Generate ``n`` pairs of noise and data of a flow in the folder ``out``, and return them as a data source.

    Any number of processes may make the same call at the same time; they share the work.  After an interruption the
    same call continues.  Noise is not stored: it is regenerated from the seed and the number of a pair.
    ``cond``: a condition in the user's own form, for all pairs, or lists of values that the pairs take in turn; by
    default those of the flow's training data.  ``balanced``: every different condition equally often.
    ``sampler``: by default that of the bundle; its guidance becomes part of the pairs.
    ``shard_size``: pairs of a file, by default about 64 MiB.  ``dtype``: of the stored data, "float32", "bfloat16",
    "float16" or "float64".
    ``filters``: components of ``beeline list pair-filters``; ``n`` counts the pairs before they are filtered.
    ``data``: a data set in the place of the flow's training data.
    ``name``: of the bundle, for the manifest.  ``trial``: whether the time is measured first.  ``say`` is called with
    lines of text: the plan and the progress.

    Raises BeelineError before any work for a disk that is too small, for other files or pairs in ``out``, for guidance
    without conditions, for a sampler with noise, and for conditions that are not known.
    """
    job = prepared(
        bundle,
        n,
        out,
        cond=cond,
        sampler=sampler,
        seed=seed,
        shard_size=shard_size,
        dtype=dtype,
        balanced=balanced,
        filters=filters,
        data=data,
        batch_size=batch_size,
        name=name,
        device=device,
    )
    for line in job.plan(trial).lines():
        say(line)
    job.begin()
    total = job.manifest.shards

    def progress(done: int) -> None:
        if done == total or done % max(1, total // LINES) == 0:
            say(f"{done:,} of {total:,} shards")

    fill(job.folder, job.manifest, job.make, progress)
    return job.finish()


def prepared(
    bundle: Bundle | str | Path,
    n: int,
    out: str | Path,
    *,
    cond: Any = None,
    sampler: Sampler | None = None,
    seed: int = 0,
    shard_size: int | None = None,
    dtype: str = "float32",
    balanced: bool = False,
    filters: Sequence[PairFilter] = (),
    data: Any = None,
    batch_size: int | None = None,
    name: str = "",
    device: Device = AUTO,
) -> Job:
    """The job of ``pairs`` with the same arguments, before anything is written."""
    name = name or ("" if isinstance(bundle, Bundle) else str(bundle))
    bundle = bundle if isinstance(bundle, Bundle) else load(bundle, device=device)
    require(n >= 1, f"n={n} pairs were requested, which is no count; give a whole number from 1")
    require(dtype in DTYPES, f"the dtype of pairs is one of {', '.join(DTYPES)}, and {dtype!r} was given; give one")
    require(
        shard_size is None or shard_size >= 1, f"shard_size={shard_size} was given; a shard holds pairs: give 1 or more"
    )
    flow, folder = bundle.flow, Path(out)
    if isinstance(flow.source, SplitSource):
        flow = replace(flow, source=flow.source.training())
    how = sampler or bundle.sampler
    _check_sampler(how, bundle)
    shape: Any = bundle.modality.shape if bundle.modality is not None else bundle.lineage.get("shape")
    require(shape is not None, "the bundle does not know the shape of a datum; save it with a modality")
    train, held = _data(bundle, data, needed=cond is None and takes_conditions(flow))
    conditions = _conditions(bundle, cond, train, balanced, Rng(seed).fork("conditions"))
    known = None if conditions is None else conditions.table
    check_guidance(how, flow, Batch(torch.empty(1, *shape), cond=known))
    chosen_filters = tuple(moved(chosen.fit(train), bundle.device) for chosen in filters)
    numel = torch.Size(shape).numel()
    batch = batch_size or min(n, 2048, max(256, NUMBERS // max(1, numel)))
    manifest = Manifest(
        teacher=teacher_digest(flow),
        path=repr(flow.path),
        source_name=type(flow.source).__name__,
        source=config.describe(flow.source),
        sampler=config.describe(how),
        seed=seed,
        count=n,
        shard_size=shard_size
        or usual_shard(numel, DTYPES[dtype].itemsize, n, min(n, 2048, max(256, NUMBERS // numel))),
        shape=tuple(int(s) for s in shape),
        dtype=dtype,
        conditions={}
        if conditions is None
        else {"different": len(conditions), "balanced": balanced, "digest": conditions.digest()},
        filters=tuple(_described(chosen) for chosen in chosen_filters),
        notes={"bundle": name} if name else {},
    )
    like = torch.empty(0, *manifest.shape, dtype=DTYPES[dtype] if dtype == "float64" else torch.float32)
    make = Maker(
        flow, for_modality(how, bundle.modality), pair_key(seed), like, conditions, chosen_filters, min(n, batch)
    )
    if folder.exists():
        free_for(folder, manifest)
    return Job(folder, manifest, make, how, train, held)


def free_for(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder holds pairs with these settings; BeelineError for other pairs, and for other files."""
    require(not folder.is_file(), f"{folder} is a file; pairs need a directory: choose another one")
    if (folder / MANIFEST).is_file():
        old, new = flat(read_manifest(folder).settings()), flat(manifest.settings())
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        require(
            not changed,
            f"{folder} holds pairs with other settings: "
            + "; ".join(f"{name} was {_short(old.get(name))}, is now {_short(new.get(name))}" for name in changed[:4])
            + "; nothing is overwritten: give the settings that it was begun with, or another folder",
        )
        for shard in set(range(manifest.shards)) - set(absent(folder, manifest)):
            kept(folder / manifest.file(shard), manifest.shape)
        return True
    own = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name != CONDITIONS)
    require(not own, f"{folder} holds other files ({', '.join(own[:3])}); give an empty or a new folder")
    return False


def _described(chosen: PairFilter) -> Any:
    """A filter as plain data: by its settings, or by its name and weights where it holds a network."""
    try:
        return config.describe(chosen)
    except BeelineError:
        tensors = {str(i): tensor for i, tensor in enumerate(tensors_of(chosen))}
        return {"is": type(chosen).__name__, "tensors": digest(tensors)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_sampler(sampler: Sampler, bundle: Bundle) -> None:
    """BeelineError for a sampler whose ends are no function of the noise."""
    require_ode(bundle.flow, "pairs")
    require(
        not complete_solver(sampler.solver).traits.stochastic,
        f"pairs got the solver {type(sampler.solver).__name__}, which adds noise, so that a datum is no function "
        "of its source point; give one of an ODE, such as --set sampler.solver=HEUN",
    )


def _data(bundle: Bundle, data: Any, needed: bool) -> tuple[Batch | None, Batch | None]:
    """Training and held-out data of a bundle, encoded; (None, None) where they are not known or not there."""
    modality = bundle.modality
    if modality is None or (data is None and "data" not in bundle.lineage):
        require(
            not needed or modality is None or not modality.conditions,
            "the bundle does not record the data that it was trained on, whose conditions the pairs would take; give "
            "one by --condition, or the data",
        )
        return None, None
    try:
        source = complete(config.build(bundle.lineage["data"]) if data is None else data)
        raw, held = source.load()
    except (BeelineError, OSError) as error:
        require(
            not needed,
            f"the data of the bundle, whose conditions the pairs would take, could not be loaded ({error}); give a "
            "condition by --condition, or the data",
        )
        return None, None
    train, other = (modality.encode(modality.subset(part)) for part in (raw, held))
    return train, other


def _conditions(bundle: Bundle, cond: Any, data: Batch | None, balanced: bool, rng: Rng) -> Conditions | None:
    """The conditions that pairs take: those that are given, or those of the data."""
    flow = bundle.flow
    if cond is not None:
        given = bundle.condition(cond, most(cond))
        require(given is not None, f"the condition {cond!r} names nothing; give NAME=VALUE, or leave it out")
        return Conditions.of(given, rng, balanced)
    groups = columns_of(flow.field)
    if data is not None and groups is not None and data.cond is None and traits_of(flow.field).cells:
        data = RowMatching().reveal(data, groups, rng.fork("known"))
    if data is None or data.cond is None or not takes_conditions(flow):
        require(
            not balanced,
            "balanced conditions were requested of pairs without conditions, so that there is nothing to balance; "
            "leave it out",
        )
        return None
    return Conditions.of(data.cond, rng, balanced)


def most(cond: Any) -> int:
    """How many conditions lists of values name: the length of the longest, or 1."""
    values = cond.values() if isinstance(cond, dict) else (cond,)
    return max((len(value) for value in values if isinstance(value, list | tuple)), default=1)


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.resolve().parents) if p.exists())
