"""The functions behind the commands; they print results, and raise BeelineError for a mistake of the user."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beeline.cli import tuning
from beeline.cli.conditions import condition
from beeline.cli.console import progress, working, write_traceback
from beeline.cli.verbs.steering import steered
from beeline.config import build as config
from beeline.config import catalogue
from beeline.config.translation import read_description
from beeline.core.errors import nearest, require
from beeline.core.modes import AUTO, Device
from beeline.core.protocols.objectives import spec_of
from beeline.data.modality import complete
from beeline.data.translation import DatasetSource
from beeline.hub.loading import load
from beeline.objectives.matching import ObjectiveWrapper
from beeline.recipes.automatic import recipe_for
from beeline.recipes.distilling import method_of
from beeline.runs.adapters.controls import with_control
from beeline.runs.averaging import export_averages
from beeline.runs.budget import duration, fit_distillation, side_for
from beeline.runs.bundle import Bundle
from beeline.runs.live.tracking import tracked
from beeline.runs.networks import architecture_of
from beeline.runs.publishing import push as publish
from beeline.runs.run import Distilled, Run
from beeline.runs.run import train as train_run
from beeline.runs.run_directory import ready
from beeline.training.checks import Interrupted

if TYPE_CHECKING:  # for annotations alone
    import torch


def settings(pairs: Sequence[str]) -> dict[str, str]:
    """The settings of ``--set NAME=VALUE`` options by name."""
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        require(sign and name, f"--set got {pair!r}; give NAME=VALUE, for example --set training.steps=2000")
        found[name.strip()] = value.strip()
    return found


def recipe(name: str, pairs: Sequence[str] = (), resumed: Path | None = None, budget: str | None = None) -> Any:
    """The run of a recipe, data file or folder, YAML file or run directory, with settings changed.

    ``resumed`` is the directory of a run to resume: a run on a data file is then read from there, because a time
    budget may give another run at another time.
    """
    path = Path(name)
    if is_data(name) and resumed is not None and (resumed / "run.yaml").is_file():
        path = resumed
    if path.suffix in (".yaml", ".yml") or (path / "run.yaml").is_file():
        file = path / "run.yaml" if path.is_dir() else path
        require(
            file.is_file(),
            f"there is no file {file}; write one with 'beeline describe digits --yaml > {shlex.quote(str(file))}'",
        )
        run = config.build(read_description(file))
        require(isinstance(run, Run | Distilled), f"{file} describes a {type(run).__name__}, not a run")
    elif is_data(name):
        run = recipe_for(name, side_for(budget))
    else:
        run = config.lookup("recipes", name)()
    return changed(run, settings(pairs))


def is_data(name: str) -> bool:
    """Whether a word names data rather than a recipe, a YAML file or a run."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or (path / "run.yaml").is_file():
        return False
    recipes = {known.replace("_", "-") for known in catalogue.CATALOGUE["recipes"]}
    return name.replace("_", "-") not in recipes and (path.exists() or bool(path.suffix) or "/" in name)


def changed(run: Any, changes: dict[str, str]) -> Any:
    """A run with settings changed; ``network=NAME`` replaces the network."""
    network = changes.pop("network", None)
    if network is not None:
        cls = config.lookup("networks", network)
        run = dataclasses.replace(run, network={"is": f"networks.{cls.__name__}"})
    new = config.change(run, changes) if changes else run
    replaced = "objective" in changes and not any(name.endswith(".drop") for name in changes)
    return with_drop(new, run.objective) if replaced else new


def with_drop(run: Any, before: Any) -> Any:
    """A run with a new objective, which takes over the condition dropout of the objective ``before`` if it has none."""
    name, objective = "objective", run.objective
    while isinstance(objective, ObjectiveWrapper):
        name, objective = f"{name}.objective", objective.objective
    drop, own = spec_of(before).drop, spec_of(objective).drop
    unset = own is None and any(f.name == "drop" for f in dataclasses.fields(objective))
    return config.change(run, {f"{name}.drop": drop}) if unset and drop is not None else run


def default_out(name: str) -> Path:
    """The default output directory: the run directory itself, or runs/NAME for a recipe."""
    path = Path(name)
    return path if (path / "run.yaml").is_file() else Path("runs") / path.stem


def distillation(bundle: str, method: str, pairs: Sequence[str], evaluations: int | None = None) -> Distilled:
    """A distillation run with settings of the method, the training or the seed changed."""
    teacher = load(bundle, device="cpu")  # refused before any work
    names = {name.partition(".")[0] for name in settings(pairs) if "." in name}
    own = architecture_of(teacher.flow.field) if "network" in names else None  # with some settings changed
    run = Distilled(str(bundle), method_of(method), network=own)
    run = config.change(run, settings(pairs)) if pairs else run
    return run if evaluations is None else dataclasses.replace(run, method=run.method.for_evaluations(evaluations))


def budgeted_distillation(
    run: Distilled, out: Path, budget: str, pairs: Sequence[str], resume: bool, device: torch.device
) -> Distilled:
    """The distillation with as many steps as fit into a budget, with a line on what was chosen."""
    seconds = check_budget(budget, pairs, resume)
    ready(out, run, resume=False)
    fitted = fit_distillation(run, seconds, device)
    training = fitted.run.training
    print(
        f"{training.steps:,} steps of {training.batch_size} data, {fitted.step_seconds:.3g} s each, about "
        f"{fitted.seconds / 60:.1f} min",
        file=sys.stderr,
    )
    return fitted.run


def check_budget(budget: str, pairs: Sequence[str], resume: bool) -> float:
    """The seconds of a budget of a distillation whose steps nothing else sets."""
    require(
        not resume and "training.steps" not in settings(pairs),
        f"--budget {budget} was given beside {'--resume' if resume else '--set training.steps'}, which sets the steps "
        "already; leave one of them out",
    )
    return duration(budget)


def push(name: str, repository: str, private: bool | None, license: str | None) -> dict[str, str]:
    """Upload the bundle of a directory to the hub."""
    bundle = load(name, device="cpu")
    return {"bundle": name, "address": publish(bundle, repository, private=private, license=license)}


def train(
    run: Any,
    out: Path,
    *,
    resume: bool,
    quiet: bool,
    command: str,
    device: Device = AUTO,
    parallel: Any = None,
    fork: Path | None = None,
    log: Sequence[str] = (),
    report: bool = True,
) -> Bundle:
    """Train a run with a progress bar and write its report; after Ctrl-C, print the command that resumes it."""
    ready(out, run, resume)
    first = parallel is None or parallel.rank == 0
    if first and not quiet and not resume and run.data is not None and (text := complete(run.data).summary()):
        print(text, file=sys.stderr)  # such as the inferred schema of a table, before any work
    again = shlex.join(["beeline", "train", str(out), "--resume"])
    scores: dict[str, float] = {}
    with tracked(log if first else (), out, run, scores) as trackers:
        with resume_hint(again), progress(out.name, run.training.steps, out, quiet or not first) as shown:
            bundle = train_run(
                run,
                out,
                resume=resume,
                fork=fork,
                device=device,
                parallel=parallel,
                log=shown,
                callbacks=trackers,
                live=report,
            )
        if first:
            export_averages(out)
            if report:
                with report_errors(command), working(quiet) as status:
                    from beeline.cli.report.writing import report_run

                    size = run.training.batch_size
                    scores |= report_run(out, bundle, command=command, batch_size=size, status=status)
    return bundle


@contextmanager
def report_errors(command: str) -> Iterator[None]:
    """Print an error of the report as one line on stderr; the run is complete and its bundle is written."""
    try:
        yield
    except Exception as error:
        file = write_traceback(error, command)
        line = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        print(
            f"the run is complete, but its report could not be written ({line}); the traceback is in {file}",
            file=sys.stderr,
        )


@contextmanager
def resume_hint(again: str) -> Iterator[None]:
    """Print the command that resumes a run after it was interrupted."""
    try:
        yield
    except Interrupted as stop:
        print(f"stopped after step {stop.step}; the checkpoint is saved. Continue with: {again}", file=sys.stderr)
        raise


def sampler_of(bundle: Bundle, pairs: Sequence[str]) -> Any:
    """The sampler of a bundle with ``sampler.*`` settings changed."""
    changes = settings(pairs)
    for name in changes:
        require(
            name.partition(".")[0] == "sampler",
            f"{name!r} is not a setting of the sampler; {nearest(name, _sampler_names())}",
        )
    current = bundle.sampler
    if changes.get("sampler") == tuning.AUTO:
        current, changes = tuning.automatic(current, changes, bundle.flow)
    return config.change({"sampler": current}, changes)["sampler"] if changes else current


def _sampler_names() -> list[str]:
    return [f"sampler.{name}" for name in ("steps", "schedule", "solver", "guidance", "controllers")]


def sample(
    name: str,
    n: int,
    cond: str | None,
    seed: int,
    pairs: Sequence[str],
    out: Path,
    start: Path | None = None,
    device: Device = AUTO,
    how: Mapping[str, Any] | None = None,
    steer: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    controls: Sequence[str] = (),
) -> dict[str, Any]:
    """Sample and write a file: from the source of the flow, or from the data of the file ``start``.

    ``seeds`` are those of the samples, one for each, in place of ``seed``.
    ``how`` are the arguments of ``bl.load`` for a pretrained pipeline, ``steer`` energies and controllers as text,
    ``controls`` files of controls.
    """
    bundle = load(name, device=device, **(how or {}))
    for file in controls:
        bundle = with_control(bundle, file)
    require(
        bundle.modality is not None,
        f"{name} has no modality, so its samples have no file format; use Python: bl.load({name!r}).sample({n})",
    )
    sampler = steered(sampler_of(bundle, pairs), steer)
    check_format(bundle.modality, out)
    if start is None:
        samples = bundle.sample(n, cond=condition(cond), seed=0 if seeds else seed, seeds=seeds, sampler=sampler)
    else:
        data = source_data(bundle, start)
        n = len(data)
        samples = bundle.translate(data, cond=condition(cond), seed=seed, sampler=sampler)
    bundle.modality.save(samples, out)
    drawn = {"seeds": list(seeds)} if seeds else {"seed": seed}
    return {"file": str(out), "n": n, "evaluations": sampler.evaluations, **drawn}


def source_data(bundle: Bundle, file: Path) -> Any:
    """The data of a file in the format of the source of the flow."""
    source = bundle.flow.source
    require(
        isinstance(source, DatasetSource),
        f"--input {file} was given, but this flow starts from noise; leave it out, or train a flow between two data "
        "sets with the recipe 'translation'",
    )
    assert isinstance(source, DatasetSource)
    return complete(source.data).read_file(str(file))


def check_format(modality: Any, out: Path) -> None:
    """Refuse a file that the modality cannot write."""
    kinds = tuple(modality.formats)
    require(
        out.suffix in kinds or (out.suffix == "" and "" in kinds),
        f"--out {out} ends with {out.suffix!r}, which {type(modality).__name__} cannot write; "
        + (f"use one of {', '.join(k or 'a directory' for k in kinds)}" if kinds else "it has no file format"),
    )
    require(not out.is_dir() or "" in kinds, f"--out {out} is a directory; name a file in it")
