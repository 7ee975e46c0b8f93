"""What the verbs of the command line do; a page or a server calls the same functions."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from beeline.cli import tuning
from beeline.cli.conditions import condition
from beeline.cli.console import cell, console, progress, table, traced, working
from beeline.config import build as config
from beeline.config import catalogue
from beeline.config import docs as pages
from beeline.core.errors import BeelineError, nearest, require
from beeline.core.files import read_plain
from beeline.core.modes import AUTO, Device
from beeline.core.protocols.objectives import spec_of
from beeline.core.rng import Rng
from beeline.data.modality import complete
from beeline.data.translation import DatasetSource
from beeline.evaluation.scores import compare, figure, span
from beeline.objectives.matching import ObjectiveWrapper
from beeline.recipes.automatic import recipe_for
from beeline.runs.averaging import export_averages
from beeline.runs.budget import side_for
from beeline.runs.bundle import Bundle, load
from beeline.runs.run import Distilled, Run, to_yaml
from beeline.runs.run import train as work
from beeline.runs.run_directory import flat, ready
from beeline.sampling.sampler import Sampler
from beeline.training.checks import Interrupted
from beeline.training.logs.trackers import combined


def settings(pairs: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dict."""
    made = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        require(sign and name, f"--set got {pair!r}; give NAME=VALUE, for example --set training.steps=2000")
        made[name.strip()] = value.strip()
    return made


def recipe(name: str, pairs: Sequence[str] = (), resumed: Path | None = None, budget: str | None = None) -> Any:
    """A run by the name of its recipe, from a data file or folder, a YAML file or a run, with settings changed.

    ``resumed`` is the directory of a run that continues: one of a data file is read from there, since a budget may
    give another run at another time.
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
        run = config.build(read_plain(file))
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
    """A run with settings changed; a network may be swapped by its name."""
    network = changes.pop("network", None)
    if network is not None:
        cls = config.lookup("networks", network)
        run = dataclasses.replace(run, network={"is": f"networks.{cls.__name__}"})
    made = config.change(run, changes) if changes else run
    asked = "objective" in changes and not any(name.endswith(".drop") for name in changes)
    return dropping(made, run.objective) if asked else made


def dropping(run: Any, before: Any) -> Any:
    """A run whose objective was named anew, with the null condition of the one before where it has none of its own."""
    name, objective = "objective", run.objective
    while isinstance(objective, ObjectiveWrapper):
        name, objective = f"{name}.objective", objective.objective
    drop, own = spec_of(before).drop, spec_of(objective).drop
    open_ = own is None and any(f.name == "drop" for f in dataclasses.fields(objective))
    return config.change(run, {f"{name}.drop": drop}) if open_ and drop is not None else run


def default_out(name: str) -> Path:
    """Where a run goes when nothing is said: a run's own directory, or runs/NAME."""
    path = Path(name)
    return path if (path / "run.yaml").is_file() else Path("runs") / path.stem


def distillation(bundle: str, method: str, pairs: Sequence[str]) -> Distilled:
    """A distillation run; settings of the method, the training and the seed can be changed."""
    load(bundle, device="cpu")  # refused before any work
    way = config.parse(method if "(" in method else config.lookup("distillations", method).__name__, "distillations")
    return config.change(Distilled(str(bundle), way), settings(pairs)) if pairs else Distilled(str(bundle), way)


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
    track: Any = None,
    report: bool = True,
) -> Bundle:
    """Work a run with a progress bar, and write its report; says how to resume after Ctrl-C."""
    ready(out, run, resume)
    first = parallel is None or parallel.rank == 0
    if first and not quiet and not resume and run.data is not None and (text := complete(run.data).summary()):
        print(text, file=sys.stderr)  # such as the inferred schema of a table, before any work
    again = shlex.join(["beeline", "train", str(out), "--resume"])
    with stoppable(again), progress(out.name, run.training.steps, quiet or not first) as log:
        both = log if track is None else combined(log, track)
        bundle = work(run, out, resume=resume, fork=fork, device=device, parallel=parallel, log=both)
    if first:
        export_averages(out)
        if report:
            with reporting(command), working(quiet) as said:
                from beeline.cli.reporting import report_run

                report_run(out, bundle, command=command, batch_size=run.training.batch_size, said=said)
    return bundle


@contextmanager
def reporting(command: str) -> Iterator[None]:
    """A report that fails costs a line on stderr, and never the run, whose bundle is there already."""
    try:
        yield
    except Exception as error:
        file = traced(error, command)
        line = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        print(f"the run is complete, but its report was not written ({line}); the trace is in {file}", file=sys.stderr)


@contextmanager
def stoppable(again: str) -> Iterator[None]:
    """Says how to go on when a run was stopped and has saved itself."""
    try:
        yield
    except Interrupted as stop:
        print(f"stopped after step {stop.step}, everything is saved; go on with: {again}", file=sys.stderr)
        raise


def sampler_of(bundle: Bundle, pairs: Sequence[str]) -> Any:
    """The sampler of a bundle with ``sampler.*`` settings changed."""
    changes = settings(pairs)
    for name in changes:
        require(
            name.partition(".")[0] == "sampler", f"{name!r} is no setting of drawing; {nearest(name, _sampler_names())}"
        )
    current = bundle.sampler
    if changes.get("sampler") == tuning.AUTO:
        current, changes = tuning.automatic(current, changes)
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
) -> dict[str, Any]:
    """Draw, and write what was drawn: from the source of the flow, or from every datum of the file ``start``."""
    bundle = load(name, device=device)
    require(
        bundle.modality is not None,
        f"{name} has no modality, which writes data to files; sample it in Python: bl.load({name!r}).sample({n})",
    )
    sampler = sampler_of(bundle, pairs)
    require(isinstance(sampler, Sampler), f"--set sampler={sampler!r} names no sampler; give Sampler(steps=8)")
    check_out(bundle.modality, out)
    if start is None:
        made = bundle.sample(n, cond=condition(cond), seed=seed, sampler=sampler)
    else:
        given = starting(bundle, start)
        n = len(given)
        made = bundle.translate(given, cond=condition(cond), seed=seed, sampler=sampler)
    bundle.modality.save(made, out)
    return {"file": str(out), "n": n, "evaluations": sampler.evaluations, "seed": seed}


def starting(bundle: Bundle, file: Path) -> Any:
    """The data of a file, read as the source of the flow was."""
    source = bundle.flow.source
    require(
        isinstance(source, DatasetSource),
        f"--input {file} was given, but this flow starts from noise; leave it out, or train from files with the recipe "
        "'translation'",
    )
    assert isinstance(source, DatasetSource)
    return complete(source.data).read_file(str(file))


def check_out(modality: Any, out: Path) -> None:
    """Refuse a file that the modality cannot write, before any work."""
    kinds = tuple(modality.formats)
    require(
        out.suffix in kinds or (out.suffix == "" and "" in kinds),
        f"--out {out} has the ending {out.suffix!r}, which {type(modality).__name__} cannot write; "
        + (f"use one of {', '.join(k or 'a directory' for k in kinds)}" if kinds else "it has no file format"),
    )
    require(not out.is_dir() or "" in kinds, f"--out {out} is a directory; name a file in it")


def data_set(text: str | None, bundle: Bundle) -> Any:
    """The data to measure on: the bundle's own, a recipe's, a data set by name, or a file of the same kind."""
    own = bundle.lineage.get("data")
    if text is None:
        require(own is not None, "this bundle does not say which data it was trained on; name them")
        return config.build(own)
    if text in catalogue.CATALOGUE["recipes"] or text.replace("-", "_") in catalogue.CATALOGUE["recipes"]:
        return config.lookup("recipes", text)().data
    if Path(text).exists():
        require(
            own is not None and "path" in own,
            f"{text} is a file, but the bundle was not trained on a file; name a data set, such as 'Digits()'",
        )
        return config.build({**own, "path": text})  # type: ignore[dict-item]
    try:
        return config.parse(text, "data")
    except BeelineError as error:
        raise BeelineError(f"{text!r} is neither a file, a recipe nor a data set here ({error})") from None


def evaluate(
    names: Sequence[str],
    data: str | None,
    n: int,
    seed: int,
    pairs: Sequence[str],
    as_json: bool,
    device: Device = AUTO,
) -> None:
    """Measure bundles on the same data and the same noise, each with its own sampler unless settings say otherwise."""
    from beeline.cli.measuring import Real, labels_of, measured

    bundles = dict(zip(labels_of(list(names)), (load(name, device=device) for name in names), strict=True))
    source = data_set(data, next(iter(bundles.values())))
    for label, bundle in bundles.items():
        comparable(source, bundle, label)
    real = Real.of(source)
    shapes = {label: tuple(bundle.modality.shape) for label, bundle in bundles.items()}
    given = tuple(next(iter(bundles.values())).modality.encode(real.held).x1.shape[1:])
    for label, shape in shapes.items():
        require(
            shape == given,
            f"{label} makes data of shape {shape}, and the data are of shape {given}; what is unlike cannot be "
            "measured: name data that it makes, or leave it out",
        )
    reports = {
        label: measured(bundle, real, n, Rng(seed), sampler=sampler_of(bundle, pairs), name=label)
        for label, bundle in bundles.items()
    }
    if as_json:
        print(json.dumps([report.as_dict() for report in reports.values()], indent=2))
        return
    if len(reports) > 1:
        console.print(side_by_side(compare(reports)))
        return
    for report in reports.values():
        console.print(report.table())


def comparable(source: Any, bundle: Bundle, label: str) -> None:
    """Refuse data that a bundle does not make, before any work."""
    ours, theirs = type(bundle.modality).__name__, type(source.modality()).__name__
    require(
        ours == theirs,
        f"{label} makes data of the kind {ours}, but {type(source).__name__} holds {theirs}; what is unlike cannot be "
        "measured: name data of the same kind",
    )


def side_by_side(rows: Sequence[dict[str, Any]]) -> Any:
    """A table with one line a figure and one column a model."""
    lines = []
    for name in dict.fromkeys(key for row in rows for key in row if key != "model"):
        line, floor = {"figure": name}, ""
        for row in rows:
            found = row.get(name)
            if isinstance(found, dict):
                line[row["model"]] = f"{figure(found['value'])}  ({span(found['interval'])})"
                floor = figure(found["floor"])
                line["figure"] = f"{name} {'↓' if found['better'] == 'lower' else '↑'}"
            else:
                line[row["model"]] = cell(found)
        lines.append({**line, "floor": floor})
    return table(lines)


def describe(name: str, as_yaml: bool, pairs: Sequence[str], as_json: bool) -> None:
    """A recipe with its settings, or a component with its page."""
    full = catalogue.find(name) if "." in name else _anywhere(name)
    kind, _, short = full.partition(".")
    if kind == "recipes":
        run = recipe(short, pairs)
        if as_yaml:
            print(to_yaml(run), end="")
            return
        if as_json:
            print(json.dumps(config.describe(run), indent=2))
            return
        page = pages.explain(kind, short)
        console.print(f"[bold]{short}[/bold]  {escape(page.sentence)}")
        rows = [{"setting": key, "value": str(value)} for key, value in flat(config.describe(run)).items()]
        console.print(table(rows))
        return
    require(not as_yaml, f"{name} is one of the {kind}, and only recipes have a YAML form; leave --yaml out")
    page = pages.explain(kind, short)
    if as_json:
        print(json.dumps(dataclasses.asdict(page), indent=2))
        return
    console.print(f"[bold]{page.name}[/bold]  ({kind})\n{escape(page.sentence)}\n")
    for part in (page.formula, page.assumes, page.source, page.example):
        if part:
            console.print(part + "\n", markup=False)
    if page.settings:
        names = ("setting", "type", "default", "meaning")
        console.print(table([dict(zip(names, row, strict=True)) for row in page.settings]))
    if kind == "times":
        density(full)


def density(full: str) -> None:
    """Draw the density of a law of times with its default settings, in twenty bars from source to data."""
    law = config.build({"is": full})
    t = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
    if law(1, t, Rng(0)).ndim > 1:  # several times for one datum: no curve
        return
    heights = law.log_prob(t).exp()
    if not heights.isfinite().all() or not heights.any():
        return
    console.print("\ndensity with the defaults")
    for time, height in zip(t.tolist(), heights.tolist(), strict=True):
        bar = "█" * round(30 * height / float(heights.max()))
        console.print(f"t = {time:.3f}  {height:6.3f}  {bar}", markup=False)


def _anywhere(name: str) -> str:
    """The full name of a component named without its kind; recipes first."""
    kinds = [k for k in ("recipes", *catalogue.CATALOGUE)]
    for kind in kinds:
        try:
            return catalogue.find(name, (kind,))
        except BeelineError:
            continue
    every = {n for names in catalogue.CATALOGUE.values() for n in names}
    raise BeelineError(f"there is nothing called {name!r}; {nearest(name, every).partition(' valid names')[0]} "
                       "see 'beeline list'")  # fmt: skip
