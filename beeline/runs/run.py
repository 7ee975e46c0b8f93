"""A run: from a complete recipe to its directory.

run.yaml        the fully resolved recipe, from which the identical run can be started
bundle/         the flow with averaged weights, loadable by ``load``
checkpoints/    exact resume
log.jsonl       one object a step
live.html       progress of the training
samples/        what it draws
report.html     what to look at
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from beeline.config import build as config
from beeline.config.translation import versioned
from beeline.core.declared import missing
from beeline.core.errors import require
from beeline.core.files import locked, sweep, write_text
from beeline.core.modes import AUTO, Device
from beeline.core.protocols.data import DataSet
from beeline.core.protocols.flows import SplitSource, StoredCoupling, source_of
from beeline.core.protocols.objectives import Objective, spec_of
from beeline.core.protocols.training import Callback, Distillation, Parallel
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import take
from beeline.couplings.basic import Independent, check_coupling
from beeline.couplings.sources import Gaussian
from beeline.data.images import Image
from beeline.data.latents.hints import with_hints
from beeline.data.latents.modality import LatentImage
from beeline.data.modality import check_modality, complete, same_modality
from beeline.distillation.games.monitor import monitors
from beeline.evaluation.heldout import HeldOut
from beeline.fields.flow import Flow
from beeline.fields.trained import Trained
from beeline.networks.compressing.recover import finished, trainable
from beeline.networks.controls.with_control import hint_channels
from beeline.objectives.heads import run_sampler
from beeline.objectives.matching import FlowMatching, check_objective
from beeline.paths.affine import Linear
from beeline.runs.bundle import Bundle, load
from beeline.runs.live.page import LivePage
from beeline.runs.networks import build_network, check_network
from beeline.runs.pairs.opening import of_method
from beeline.runs.pairs.rounds import after_rounds, in_words, measured_round
from beeline.runs.previews import predicted_peak, previews
from beeline.runs.run_directory import how_to_continue, ready, unstarted
from beeline.runs.teachers import HELDOUT, check_teacher, heldout_of_student
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.guidance.null import check_null, learned_null
from beeline.sampling.sampler import Sampler
from beeline.training.config import Training
from beeline.training.distributed.parallel import SingleDevice, on_rank_zero
from beeline.training.fit import fit
from beeline.training.logs.run_log import JsonLines

Log = Callable[[dict[str, Any]], None]
COMPARED = 2**24  # encoded numbers of held-out data, and of training data for baselines, where these are many


@dataclass(frozen=True)
class Run:
    """A complete run as one value: data, network, objective, training and sampler.

    ``network`` is plain data; its shape and conditions come from the data.  Path, coupling and prediction are those of
    the objective's spec.

    >>> from beeline.data.image_files import Digits
    >>> Run(Digits(), {"is": "networks.MLP", "width": 64}).seed
    0
    """

    data: DataSet
    network: Mapping[str, Any]  # {"is": "networks.NAME", ...} without shape and conditions
    objective: Objective = field(default_factory=FlowMatching)
    training: Training = field(default_factory=Training)
    sampler: Sampler = field(default_factory=Sampler)
    seed: int = 0  # of all random numbers
    modality: Any = None  # a fitted Modality, of a run that continues on other data; None is fitted to the data

    def __post_init__(self) -> None:
        check_network(self.network)
        if self.modality is not None:
            check_modality(self.modality)


@dataclass(frozen=True)
class Distilled:
    """A run whose data come from a trained flow: reflow, or distillation to few steps.

    Assumes that the data of the teacher can be loaded again, or that ``data`` replaces them.

    >>> from beeline.distillation.students import OneStep
    >>> Distilled("runs/digits", OneStep()).seed
    0
    """

    teacher: str  # directory of a bundle, or hub:owner/name
    method: Distillation
    training: Training = field(default_factory=Training)
    seed: int = 0
    data: DataSet | None = None  # None is that of the teacher
    network: Mapping[str, Any] | None = None  # of the student, as in Run; None is a copy of that of the teacher
    start: str | None = None  # a bundle from which the network is copied instead: an earlier student of this teacher
    by_samples: bool | None = None  # judge by the distance of samples in place of a loss; None is that of the method

    def __post_init__(self) -> None:
        require(
            self.network is None or self.start is None,
            f"the student got the new network {self.network} and the trained one of {self.start}; it has one network: "
            "give network= or start=",
        )
        if self.network is not None:
            check_network(self.network)


@dataclass(frozen=True)
class Prepared:
    """A run before its first step."""

    networks: Any  # one network, or a mapping of them
    objective: Any
    data: Any  # a Batch, or microbatches
    heldout: HeldOut | None
    finish: Callable[[Any], Bundle]  # trained networks -> bundle
    rows: torch.Tensor  # training data [N,*S], or some of them
    measure: Callable[[Bundle], dict[str, Any]] = lambda bundle: {}  # trained bundle -> what its lineage records
    monitors: Sequence[Callback] = ()  # checks of the training beside the held-out loss, in one process


def prepare(run: Run) -> Prepared:
    """Load, fit and encode the data of a run and build its network; ValueError where they do not fit together."""
    check_objective(run.objective)
    source_data = complete(run.data)
    own = check_modality(source_data.modality())
    if isinstance(own, Image | LatentImage):
        dict(own.conditions)  # an encoder of texts that is missing is refused before any data are read
    raw, held = source_data.load()
    modality = own.fit(raw) if run.modality is None else same_modality(run.modality, own)
    objective, spec = run.objective, spec_of(run.objective)
    coupling = spec.coupling or Independent()
    check_null(spec.drop, modality.conditions)
    rng = Rng(run.seed).fork("rows")
    streamed = source_data.microbatches(modality, rng)  # data larger than memory, or encoded anew for every microbatch
    in_memory = source_data.paired or isinstance(coupling, StoredCoupling)
    if in_memory:
        modality.check_unchanging(raw)
    elif streamed is None:
        streamed = modality.microbatches(raw, rng)
    some = raw if streamed is None else modality.subset(raw, COMPARED)
    partial = len(some) < len(raw)
    batch, other = modality.encode(some), modality.encode(modality.subset(held, COMPARED))
    source: Any = None
    feed: Any = None
    ends = source_data.endpoints(batch, other, rng)
    if ends is not None:
        source, batch, other, feed = ends.source, ends.batch, ends.held, ends.feed
        check_coupling(coupling, batch, rng)
    if isinstance(coupling, StoredCoupling):
        batch, other = (
            coupling.stored(part, Rng(run.seed).fork("stored", name)) for name, part in (("", batch), ("held", other))
        )
        feed = None

    def finish(net: Any) -> Bundle:
        flow = Flow(
            net,
            spec.path or Linear(),
            source or source_of(coupling) or Gaussian(),
            coupling.independent and spec.path is not None,  # without a path there is no score
            learned_null(spec.drop, modality.conditions),
        )
        return Bundle(
            flow=flow,
            sampler=run_sampler(objective, run.sampler, flow),
            modality=modality,
            lineage={"made_by": "train", "data": config.describe(run.data), "seed": run.seed},
        )

    stopping = run.training.early_stopping
    every = min(500, run.training.checkpoint_every) if stopping is None else stopping.every
    heldout = HeldOut(objective, other, train=batch, rng=Rng(run.seed).fork("heldout"), every=every)
    if partial:  # the posterior of some of the data is no baseline
        heldout = dataclasses.replace(heldout, max_train=0)
    data = next(found for found in (streamed, feed, batch) if found is not None)
    return Prepared(
        build_network(run.network, run.objective, run.seed, modality, batch), objective, data, heldout, finish, batch.x1
    )


def prepare_distilled(run: Distilled, device: Device = AUTO) -> Prepared:
    """Load the teacher to a device, and compute the training data of its student there."""
    teacher = load(run.teacher, device=device)
    source = run.data
    if source is None:
        require(
            "data" in teacher.lineage,
            f"the bundle {run.teacher} does not record the data that it was trained on; name them: --set "
            "data='Digits()'",
        )
        source = config.build(teacher.lineage["data"])
    raw, held = source.load()
    assert teacher.modality is not None
    batch, other = (teacher.modality.encode(teacher.modality.subset(part)) for part in (raw, held))
    rng = Rng(run.seed)
    require(
        isinstance(run.method, Distillation),
        f"{type(run.method).__name__} was given as a distillation, but lacks "
        f"{', '.join(missing(run.method, Distillation))}; inherit beeline.core.protocols.training.Distillation, and "
        "write ``networks``, ``data``, ``objective`` and ``student``",
    )
    check_teacher(teacher, run.method, other, str(run.teacher))
    source_points = teacher.flow.source
    if isinstance(source_points, SplitSource):
        source_points = source_points.training()
    learned = dataclasses.replace(teacher.flow, source=source_points)
    store, method = of_method(run.method, learned)
    method = method.fitted(learned, batch, rng.fork("fitted"))
    objective = method.objective(teacher.flow)
    initial = teacher.flow  # methods copy the network of the flow that they are given
    if run.network is not None:
        made = build_network(run.network, objective, run.seed, teacher.modality, batch)
        initial = dataclasses.replace(initial, field=made)
    elif run.start is not None:
        first = load(run.start, device=device)
        described = [config.describe((b.flow.path, b.flow.source, b.modality)) for b in (first, teacher)]
        require(
            described[0] == described[1],
            f"start={run.start} has another path, source or data than the teacher {run.teacher}; its network is for "
            "another flow: give a student of this teacher",
        )
        initial = dataclasses.replace(initial, field=first.flow.field)
    with rng.fork("student").ambient():  # new weights, such as those of a second time
        networks = trainable(method.networks(initial))  # refused before any data are computed
    unseen = method.heldout(teacher.flow, take(other, torch.arange(min(len(other.x1), HELDOUT))), rng.fork("unseen"))
    pairs = method.data(learned, batch, rng.fork("pairs")) if store is None else store.head(SHOWN)

    def finish(networks: Any) -> Bundle:
        flow, sampler = method.student(teacher.flow, networks)
        trained = trained_for(method, sampler, teacher.flow.trained)
        flow = dataclasses.replace(flow, field=finished(flow.field), trained=trained)
        lineage = {
            "made_by": config.describe(run.method)["is"],
            "method": config.describe(run.method),
            "data": config.describe(source),
            "seed": run.seed,
            "parent": str(run.teacher),
            "parent_weights": teacher.weights,
            "evaluations": sampler.evaluations,
            "grid": sampler.times().tolist(),
            "guidance": config.describe(run.method.taught(teacher.sampler).guidance),  # that the student has learned
        }
        if run.start is not None:
            lineage["start"] = str(run.start)
        modality = with_hints(teacher.modality, hint_channels(flow.field))
        return dataclasses.replace(teacher, flow=flow, sampler=sampler, modality=modality, lineage=lineage)

    def measure(bundle: Bundle) -> dict[str, Any]:
        return measured_round(teacher, bundle, pairs, batch, other, rng.fork("measure"))

    parts = (teacher, objective, unseen, other, pairs)
    heldout = heldout_of_student(run, method, networks, parts, rng.fork("heldout"))
    stored = pairs if store is None else store.ordered(rng.fork("stored"))
    feed = method.supply(learned, stored, batch, rng.fork("feed"))
    return Prepared(networks, objective, feed, heldout, finish, pairs.x1, measure, monitors(objective, unseen, rng))


def trained_for(method: Distillation, sampler: Sampler, teacher: Trained | None = None) -> Trained | None:
    """What a method fixes about the sampling of its student, with the guidance that it or its teacher has learned."""
    found, guided = method.trained(sampler), not isinstance(method.taught(Sampler()).guidance, Plain)
    guided = guided or (teacher is not None and teacher.guided)
    return dataclasses.replace(found or Trained(), guided=True) if guided else found


SHOWN = 4096  # stored pairs with which a student's samples are compared


def train(
    run: Run | Distilled,
    out: str | Path,
    *,
    resume: bool = False,
    fork: str | Path | None = None,
    device: Device = AUTO,
    parallel: Parallel | None = None,
    log: Log | None = None,
    callbacks: Sequence[Callback] = (),
    live: bool = True,
) -> Bundle:
    """Train a run in the directory ``out`` and return its bundle.

    ``fork`` is a directory of checkpoints, or one checkpoint: the initial state of a new run with other settings.
    ``device`` "auto" is CUDA where it is available, else the CPU.
    ``callbacks`` are called beside the held-out loss and the previews.  ``live`` writes live.html, a page that shows
    the progress and refreshes itself.
    With several processes all of them call this function, and the first one writes.
    Raises ValueError, with nothing written, for data, settings or a directory that cannot work; Interrupted after
    Ctrl-C, when the state has been saved.
    """
    out, engine = Path(out), parallel or SingleDevice()
    where = engine.place(device, {})
    with contextlib.ExitStack() as held:

        def enter() -> None:
            ready(out, run, resume)
            held.enter_context(locked(out))
            sweep(out)

        on_rank_zero(engine, enter)
        page = (LivePage(out, where),) if live and engine.rank == 0 else ()
        for one in page:
            held.enter_context(one.until_the_end())
        held.enter_context(how_to_continue(out))
        return _train(run, out, engine, where, resume and not unstarted(out), fork, log, (*callbacks, *page))


def _train(
    run: Run | Distilled,
    out: Path,
    engine: Parallel,
    where: torch.device,
    resume: bool,
    fork: str | Path | None,
    log: Log | None,
    callbacks: Sequence[Callback],
) -> Bundle:
    """Train a run in a locked directory, to which nothing is written before the first step has succeeded."""
    recipe = to_yaml(run)
    if isinstance(run, Distilled):
        run = after_rounds(run, out, recipe, partial(train, device=where, parallel=engine, log=log, live=False))
    work = prepare(run) if isinstance(run, Run) else prepare_distilled(run, where)
    if not engine.shards:  # a sharded network need not fit on one device
        for net in work.networks.values() if isinstance(work.networks, Mapping) else (work.networks,):
            net.to(where)
    rng = Rng(run.seed).fork("training")
    lines = JsonLines(out / "log.jsonl")
    started = False

    def both(entry: dict[str, Any]) -> None:
        nonlocal started
        if not started and "loss" in entry:
            (out / "samples").mkdir(parents=True, exist_ok=True)
            write_text(out / "run.yaml", recipe)
            started = True
        lines(entry)
        if log is not None:
            log(entry)

    predicted = None if engine.world > 1 else predicted_peak(work, run.training, rng)
    trained = fit(
        work.networks,
        work.objective,
        work.data,
        run.training,
        device=where,
        parallel=engine,
        rng=rng,
        log=both,
        checkpoint_dir=out / "checkpoints",
        resume=out / "checkpoints" if resume else fork,
        fork=fork is not None and not resume,
        callbacks=(
            *(() if work.heldout is None else (work.heldout,)),
            *previews(work, out / "samples", run.training.checkpoint_every, engine.rank == 0, engine.world == 1),
            *(work.monitors if engine.world == 1 else ()),
            *callbacks,
        ),
        predicted=predicted,
    )
    bundle = work.finish(trained)
    flow = bundle.flow
    if bundle.modality is not None:
        flow = bundle.modality.finalize(flow, bundle.sampler, work.rows, rng.fork("settle"))
    profiles = run.training.profiles
    average = config.describe(profiles[0]) if profiles else None  # of the weights in the bundle
    bundle = dataclasses.replace(bundle, flow=flow, lineage={**bundle.lineage, "average": average})
    found = work.measure(bundle)
    bundle = dataclasses.replace(bundle, lineage={**bundle.lineage, **found})
    if found and engine.rank == 0:
        both({"step": run.training.steps, "note": in_words(found)})
    if engine.rank == 0:
        bundle.save(out / "bundle")
    engine.total(torch.zeros(1))  # no process loads the bundle before it is written
    return load(out, device=where)


def to_yaml(run: Any) -> str:
    return yaml.safe_dump(versioned(config.describe(run)), sort_keys=False, width=110)
