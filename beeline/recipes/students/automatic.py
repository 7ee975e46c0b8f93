"""Distillation by the method that is best after a tenth of the time."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from beeline.config import build as config
from beeline.config import catalogue
from beeline.config.translation import read_description
from beeline.core.errors import BeelineError, require
from beeline.core.files import read_json, write_json
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.core.protocols.training import Distillation
from beeline.core.rng import Rng
from beeline.evaluation.scores import Score
from beeline.runs.budget import duration, fit_distillation
from beeline.runs.bundle import Bundle, load, relabel
from beeline.runs.run import Distilled
from beeline.runs.run_directory import TRIALS, ready, unstarted
from beeline.runs.scoring import FEW, PLAIN, RealData, classifier_seconds, data_of, score
from beeline.training import extend
from beeline.training.checks import Interrupted
from beeline.training.plan import step_seconds

SHARE = 0.1  # of the budget for the trial of a method
TRAINED = 0.8  # of the remaining time for the steps of the best method; the rest is held-out losses and the report
SAMPLES = 500  # for the score of a trial
PAIRS = 2048  # of a trial, where a method generates them before the training
PAIRED = (0.3, 50_000)  # most of the remaining time for pairs of the best method, and most of them
MOST = 7  # methods, so that a part of the time remains for the best one


class Train(Protocol):
    """Trains one student: ``runs.run.train`` with what the caller adds, such as a progress bar."""

    def __call__(self, run: Distilled, out: Path, *, resume: bool, fork: Path | None) -> Bundle: ...


@dataclasses.dataclass(frozen=True)
class Trial:
    """The result of one method after its share of the time, or why it has none."""

    method: str
    steps: int = 0
    step_seconds: float = 0.0
    seconds: float = 0.0  # all of it
    quality: float | None = None
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether it has a result, or the reason why it has none."""
        return self.quality is not None or self.problem != ""

    def row(self, name: str) -> dict[str, Any]:
        """A row of the table, where the quality has the name of its metric."""
        return {
            "method": self.method,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            name: self.quality,
            "note": self.problem.partition(";")[0],
        }


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The student of the best method, the trials of all, and the row of the teacher."""

    bundle: Bundle
    trials: Sequence[Trial]
    metric: str
    teacher: float | None  # its quality by its own sampler

    def rows(self) -> list[dict[str, Any]]:
        """The table: one row per method and one of the teacher."""
        teacher = Trial("teacher", quality=self.teacher, problem="by its own sampler")
        return [trial.row(self.metric) for trial in (*self.trials, teacher)]


def candidates(evaluations: int) -> tuple[dict[str, Distillation], list[Trial]]:
    """The methods that are tried, for a number of evaluations, and those that cannot have it."""
    found: dict[str, Distillation] = {}
    others: list[Trial] = []
    for name in catalogue.CATALOGUE["distillations"]:
        cls: Any = config.lookup("distillations", name)
        own = not inspect.isfunction(cls) and Distillation in inspect.getmro(cls)  # not a preset
        if own and cls.automatic:
            try:
                found[name] = cls().for_evaluations(evaluations).with_pairs(PAIRS)
            except BeelineError as error:
                others.append(Trial(name, problem=str(error)))
    return dict(list(found.items())[:MOST]), others


def choose(
    run: Distilled,
    evaluations: int,
    budget: str,
    out: Path,
    train: Train,
    *,
    device: Device = AUTO,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
    measure: Callable[..., float] = step_seconds,
) -> Chosen:
    """Try methods for a tenth of ``budget`` each, and train the best of them for the rest of it.

    Every method that declares ``automatic`` is tried with its default settings in ``out/trials/NAME``; the best has the
    best first score (that of reports) on the same noise, conditions and held-out data.  The run in ``out`` continues
    its trial.  With ``resume`` trials that are complete are not repeated, and an interrupted one continues.
    ``run`` holds teacher, seed, data and the settings of the training beside its length.

    Raises BeelineError where no method can be used, with the reason of each.
    """
    begun, seconds, where = time.perf_counter(), duration(budget), resolve_device(device)
    settings = {"teacher": run.teacher, "evaluations": evaluations, "budget": budget, "seed": run.seed}
    methods, trials = candidates(evaluations)
    require(methods, f"no method gives a student of {evaluations} evaluations: {_reasons(trials)}")
    check_place(out, run, resume)
    notes = out / TRIALS / "trials.json"
    known = _known(notes, settings) if resume else {}
    teacher = load(run.teacher, device=where)
    real = RealData.of(data_of(teacher) if run.data is None else run.data)
    measured = metrics_for(teacher, real, seconds)
    base = quality(teacher, real, measured, run.seed)

    def store(trial: Trial) -> None:
        known[trial.method] = trial
        write_json(notes, {"settings": settings, "trials": {k: dataclasses.asdict(v) for k, v in known.items()}})

    for name, method in methods.items():
        folder = out / TRIALS / name
        if name not in known or not known[name].complete:
            say(f"{name}: a trial of {SHARE * seconds:.0f} s")
            tried = dataclasses.replace(run, method=method)
            trial = try_method(name, tried, folder, SHARE * seconds, train, where, measure, known.get(name), store)
            if not trial.problem:
                found = quality(load(folder, device=where), real, measured, run.seed)
                trial = dataclasses.replace(trial, quality=found.value)
            store(trial)
        trials.append(known[name])
        say(f"{name}: {known[name].problem or f'{base.name} {known[name].quality:.4g}'}")
    able = [(trial.quality, trial) for trial in trials if trial.quality is not None]
    if not able:
        forget(notes)
    require(able, f"no method could be tried within {budget}: {_reasons(trials)}")
    order = {"lower": min, "higher": max}[base.better]
    chosen = order(able, key=lambda pair: pair[0])[1]
    say(f"{chosen.method} continues")
    continued(chosen, out, seconds - _since(begun), train, resume)
    result = Chosen(load(out, device=where), trials, base.name, base.value)
    auto = {"chosen": chosen.method, "budget": budget, "trials": result.rows()}
    relabel(result.bundle, auto=auto).save(out / "bundle")
    return dataclasses.replace(result, bundle=load(out, device=where))


def check_place(out: Path, run: Distilled, resume: bool) -> None:
    """Refuse a directory that is not free, or a resume without trials."""
    begun = (out / TRIALS).is_dir()
    require(
        begun or not resume,
        f"--resume was given, but {out} holds no trials of methods; give the directory of the run, or start it without "
        "--resume",
    )
    if not resume:
        require(
            not begun,
            f"{out} holds trials of methods already; continue them with --resume, or choose another --out",
        )
        ready(out, run, resume=False)


def forget(notes: Path) -> None:
    """Remove the file of the trials and its folder, where no method was trained."""
    notes.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a run that failed is kept
        notes.parent.rmdir()
        notes.parent.parent.rmdir()


def metrics_for(teacher: Bundle, real: RealData, seconds: float) -> Sequence[Any]:
    """The usual metrics, or those of the space of the data where the classifier of the former takes too long."""
    return PLAIN if classifier_seconds(teacher, real, time.perf_counter) > SHARE * seconds else ()


def quality(bundle: Bundle, real: RealData, metrics: Sequence[Any], seed: int) -> Score:
    """The first score of samples by the sampler of a bundle, from the same noise in every call."""
    return score(bundle, real, SAMPLES, Rng(seed).fork("auto"), extras=FEW, metrics=metrics).scores[0]


def try_method(
    name: str,
    run: Distilled,
    folder: Path,
    seconds: float,
    train: Train,
    device: torch.device,
    measure: Callable[..., float],
    begun: Trial | None,
    store: Callable[[Trial], None],
) -> Trial:
    """Train a method for some seconds, or continue the trial ``begun``, which was stored when its training started."""
    start = time.perf_counter()
    started = begun is not None and (folder / "run.yaml").is_file() and not unstarted(folder)
    try:
        if started:
            run = config.build(read_description(folder / "run.yaml"))
        else:
            fitted = fit_distillation(run, seconds, device, measure=measure)
            run, begun = fitted.run, Trial(name, fitted.run.training.steps, fitted.step_seconds, _since(start))
            store(begun)
        assert begun is not None
        if not (folder / "bundle" / "flow.json").is_file():
            train(run, folder, resume=started, fork=None)
    except Interrupted as stop:
        raise Interrupted(f"{stop}; or go on with all trials: give the same command with --resume", stop.step) from stop
    except BeelineError as error:
        return Trial(name, problem=" ".join(str(error).split()))
    whole = 2 * begun.seconds + begun.steps * begun.step_seconds  # of a trial that was interrupted: no process saw it
    return dataclasses.replace(begun, seconds=max(whole, _since(start)) if started else _since(start))


def _since(start: float) -> float:
    return time.perf_counter() - start


def continued(chosen: Trial, out: Path, left: float, train: Train, resume: bool) -> None:
    """Train the run in ``out``, which continues the trial of the chosen method for ``left`` seconds."""
    if resume and (out / "run.yaml").is_file() and not unstarted(out):
        if not (out / "bundle" / "flow.json").is_file():
            train(config.build(read_description(out / "run.yaml")), out, resume=True, fork=None)
        return
    folder = out / TRIALS / chosen.method
    run = config.build(read_description(folder / "run.yaml"))
    training = run.training
    step = chosen.step_seconds
    before = max(0.0, chosen.seconds - training.steps * step)  # of the trial: pairs, held-out losses, loading
    most = max(PAIRS, min(PAIRED[1], int(PAIRS * PAIRED[0] * left / max(before, 1e-9))))
    larger = run.method.with_pairs(most)
    before *= 1.0 if larger == run.method else most / PAIRS
    total = max(training.steps + 1, int((TRAINED * left - before) / step))
    start = extend.start(folder / "checkpoints", training.lr_schedule, total)
    training = dataclasses.replace(training, steps=total, checkpoint_every=max(training.checkpoint_every, total // 10))
    train(dataclasses.replace(run, method=larger, training=training), out, resume=False, fork=start.path)


def _known(file: Path, settings: Mapping[str, Any]) -> dict[str, Trial]:
    """The trials that are complete; {} where there are none yet."""
    if not file.is_file():
        return {}
    found = read_json(file)
    changed = [
        f"{k} was {found['settings'].get(k)}, is now {v}" for k, v in settings.items() if found["settings"].get(k) != v
    ]
    require(
        not changed,
        f"the trials in {file.parent} were made with other settings ({'; '.join(changed)}): resume with the old ones, "
        "or choose another directory",
    )
    return {name: Trial(**trial) for name, trial in found["trials"].items()}


def _reasons(trials: Sequence[Trial]) -> str:
    return "; ".join(f"{trial.method}: {trial.problem}" for trial in trials)
