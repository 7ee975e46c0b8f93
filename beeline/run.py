"""A run: from a complete recipe to a directory that holds everything about it.

    run.yaml        the fully resolved recipe, from which the identical run can be started
    bundle/         the flow with averaged weights, loadable by ``load``
    checkpoints/    exact resume
    log.jsonl       one object a step
    samples/        what it draws
    report.html     what to look at
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from beeline import config
from beeline.bundle import Bundle, find, load
from beeline.core.field import Flow, MapNetwork, Network
from beeline.core.rng import Rng
from beeline.core.types import Batch, BeelineError, nearest, require
from beeline.files import write_text
from beeline.learn.heldout import HeldOut
from beeline.learn.objective import FlowMatching
from beeline.learn.trainer import Training, fit
from beeline.use.sampler import Sampler

Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Run:
    """Data, network, objective, training and sampler: a complete run as one value.

    ``network`` is plain data (``{"is": "networks.DiT", "width": 96}``): shape and conditions come from the data.
    """

    data: Any  # a data set
    network: Mapping[str, Any]
    objective: Any = field(default_factory=FlowMatching)
    training: Training = field(default_factory=Training)
    sampler: Sampler = field(default_factory=Sampler)
    seed: int = 0

    def __post_init__(self) -> None:
        name = self.network.get("is")
        require(
            isinstance(name, str),
            f"the network is {dict(self.network)}, which names no class; give 'is', for example networks.DiT",
        )
        known = set(inspect.signature(config.lookup("networks", name)).parameters) - {"shape", "conditions"}
        for setting in set(self.network) - {"is"}:
            require(setting in known, f"{name} has no setting {setting!r}; {nearest(setting, known)}")


@dataclass(frozen=True)
class Distilled:
    """A run whose data come from a trained flow: reflow, or distillation to few steps."""

    teacher: str  # directory or hub id of a bundle
    method: Any  # a Distillation
    training: Training = field(default_factory=Training)
    seed: int = 0


def build_network(run: Run, modality: Any) -> Network:
    """The network of a run, initialised under the run's seed."""
    cls = config.lookup("networks", run.network["is"])
    settings = {k: v for k, v in run.network.items() if k != "is"}
    known = inspect.signature(cls).parameters
    offered = {"shape": tuple(modality.shape), "conditions": getattr(modality, "conditions", {})}
    settings.update({k: v for k, v in offered.items() if k in known})
    with Rng(run.seed).fork("network").ambient():
        backbone = cls(**settings)
    wrap = MapNetwork if settings.get("span") else Network
    return wrap(backbone, run.objective.path, run.objective.prediction)


def train(
    run: Run,
    out: str | Path,
    *,
    resume: bool = False,
    parallel: Any = None,
    log: Log | None = None,
) -> Bundle:
    """Train a run into the directory ``out`` and give its bundle.

    ValueError before any work, with nothing written, when the data, the settings or the directory do not do.
    """
    out = Path(out)
    ready(out, run, resume)
    raw, held = run.data.load()
    modality = run.data.modality().fit(raw)
    batch, other = modality.encode(raw), modality.encode(held)
    net = build_network(run, modality)
    drop = getattr(run.objective, "drop", None)
    start(out, run)
    heldout = HeldOut(run.objective, other, train=batch, rng=Rng(run.seed).fork("heldout"))
    trained = _fit(net, run.objective, batch, run, out, resume, parallel, log, heldout)
    bundle = Bundle(
        flow=Flow(trained, run.objective.path, run.objective.coupling.source, run.objective.coupling.independent),
        sampler=run.sampler,
        modality=modality,
        lineage={"data": config.describe(run.data), "seed": run.seed, "steps": run.training.steps},
        null=None if drop is None else drop.null,
    )
    bundle.save(out / "bundle")
    return bundle


def distill(
    run: Distilled,
    out: str | Path,
    *,
    resume: bool = False,
    parallel: Any = None,
    log: Log | None = None,
) -> Bundle:
    """Straighten or distil a trained flow into the directory ``out`` and give the student's bundle."""
    out = Path(out)
    ready(out, run, resume)
    teacher = load(run.teacher)
    data = config.build(teacher.lineage["data"]) if "data" in teacher.lineage else None
    raise NotImplementedError(data)


def _fit(net: Any, objective: Any, data: Any, run: Any, out: Path, resume: bool, parallel: Any, log: Log | None, heldout: Any) -> Any:
    lines = JsonLines(out / "log.jsonl")

    def both(entry: dict[str, Any]) -> None:
        lines(entry)
        if log is not None:
            log(entry)

    more = {} if parallel is None else {"parallel": parallel}
    return fit(
        net,
        objective,
        data,
        run.training,
        rng=Rng(run.seed).fork("training"),
        log=both,
        keep=out / "checkpoints",
        resume=str(out / "checkpoints") if resume else None,
        heldout=heldout,
        **more,
    )


def ready(out: Path, run: Any, resume: bool) -> None:
    """Refuse an output directory that is not free, or a resume that is not the same run."""
    recipe = out / "run.yaml"
    if resume:
        require(
            recipe.is_file(),
            f"--resume was asked for, but {out} is not a run (it has no run.yaml); give the directory of the run, "
            "or start it without --resume",
        )
        old, new = flat(read_plain(recipe)), flat(config.describe(run))
        changed = [k for k in sorted(set(old) | set(new)) if old.get(k) != new.get(k) and k != "training.steps"]
        require(
            not changed,
            "the run was started with other settings: "
            + "; ".join(f"{k} was {old.get(k)!r}, is now {new.get(k)!r}" for k in changed[:5])
            + "; only training.steps may be raised: resume with the old settings, or start a new run in another --out",
        )
        return
    require(not out.exists() or out.is_dir(), f"{out} is a file; a run needs a directory: choose another --out")
    if out.is_dir() and any(out.iterdir()):
        what = "already holds a run" if recipe.is_file() else "exists and is not a run"
        mend = "continue it with --resume, or choose another --out" if recipe.is_file() else "choose another --out"
        raise BeelineError(f"{out} {what}, and nothing is overwritten; {mend}")


def start(out: Path, run: Any) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "samples").mkdir(exist_ok=True)
    write_text(out / "run.yaml", to_yaml(run))


def to_yaml(run: Any) -> str:
    return yaml.safe_dump(config.describe(run), sort_keys=False, width=110)


def read_plain(path: Path) -> Any:
    """The plain data of a YAML file; refused with its line when it is not YAML."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(getattr(error, "problem_mark", None), "line", None)
        at = "" if where is None else f", line {where + 1}"
        raise BeelineError(f"{path}{at} is not YAML; write one with 'beeline show digits --yaml' and edit it") from None
    require(isinstance(data, dict), f"{path} holds {type(data).__name__}, not settings by name; see 'beeline show digits --yaml'")
    return data


def flat(data: Any, name: str = "") -> dict[str, Any]:
    """Nested plain data as dotted names, for comparing two recipes."""
    if isinstance(data, dict):
        return {k: v for key, part in data.items() for k, v in flat(part, f"{name}.{key}" if name else str(key)).items()}
    return {name: data}


class JsonLines:
    """An append-only log, one JSON object a line; after a resume, lines of steps that are run again go first."""

    def __init__(self, path: Path):
        self.path = path
        self.open = False

    def __call__(self, entry: dict[str, Any]) -> None:
        if not self.open and self.path.exists():
            self._cut(entry.get("step", 0))
        self.open = True
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({k: _plain(v) for k, v in entry.items()}) + "\n")

    def _cut(self, step: int) -> None:
        kept = [e for e in read_log(self.path) if e.get("step", -1) < step]
        write_text(self.path, "".join(json.dumps(e) + "\n" for e in kept))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log; a last line that was cut by a crash is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item() if value.ndim == 0 else value.tolist()
    return value


__all__ = ["Batch", "Distilled", "JsonLines", "Run", "build_network", "distill", "find", "read_log", "train"]
