"""Arguments that several commands share, and the output of their results."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

AUTO = "auto"


def output_path(text: str) -> Path:
    """A file or directory to write.  An empty path would be the working directory, and is refused."""
    if not text.strip() or "\0" in text:
        raise typer.BadParameter(f"got {text!r}, which is not a path; give a file or a directory, or leave it out")
    path = Path(text)
    if path.resolve() == path.resolve().parent:
        raise typer.BadParameter(
            f"got {text!r}, the root directory, which is never overwritten; give a directory in it"
        )
    return path


Bundled = Annotated[str, typer.Argument(help="A bundle: a directory or hub:owner/name.")]
Output = Annotated[
    Path, typer.Option(parser=output_path, metavar="PATH", help="File (.png, .npy, .csv, ...) or directory to write.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Change a setting, for example --set training.steps=2000; repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Dev = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1; auto is the GPU if there is one.")]
Report = Annotated[
    bool, typer.Option("--report/--no-report", help="Write live.html during training, and report.html after it.")
]
TrackLog = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        "--track",
        metavar="TRACKER",
        help="Also log to tensorboard, wandb or mlflow, with settings as 'wandb(project=p,entity=e)'; repeatable.",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option("-n", "--samples", help="Number of samples; default 500, or as many as the features need."),
]
EvaluationData = Annotated[
    str | None, typer.Argument(help="Recipe, data set or file; default the training data of the bundle.")
]
FeatureName = Annotated[
    str | None,
    typer.Option(
        "--features",
        help="Compare in features: inception, dinov2, clip, classifier, a bundle or a vision model.",
    ),
]
FeatureWeights = Annotated[
    str | None, typer.Option("--weights", help="File or directory of the weights of the features.")
]
Reference = Annotated[
    str | None,
    typer.Option(help="train (default), held-out (default of classifier), pictures, or statistics (.npz)."),
]
SaveReference = Annotated[
    Path | None,
    typer.Option(parser=output_path, metavar="PATH", help="File (.npz, .safetensors) for statistics of the reference."),
]
ReportFile = Annotated[
    Path | None, typer.Option("--out", parser=output_path, metavar="PATH", help="HTML report to write.")
]
BranchCooldown = Annotated[
    int | None,
    typer.Option(metavar="STEPS", help="Like --fork, with a learning rate that falls to zero in STEPS steps."),
]
At = Annotated[
    int | None, typer.Option(metavar="STEP", help="Step of the checkpoint for --fork and --branch-cooldown.")
]
DistillBudget = Annotated[
    str | None,
    typer.Option("--budget", metavar="TIME", help="Time for all of it, as 90s, 20m or 2h: sets the steps."),
]
Rehearse = Annotated[
    bool, typer.Option("--rehearse", help="Do all of it at toy size first; a failure stops before the real run.")
]
More = Annotated[
    str | None,
    typer.Option(metavar="STEPS|TIME", help="Make the run in the directory RECIPE longer: 2000 (steps) or 10m."),
]
OtherData = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="With --more: continue on other data of the same form, in a new directory."),
]
Private = Annotated[
    bool | None, typer.Option("--private/--public", help="Who may read a new repository; default that of the hub.")
]
License = Annotated[
    str | None, typer.Option("--license", help="License of the model, as the hub names it, such as mit.")
]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]


def command_line(*parts: Any, log: list[str] | None = None, **options: Any) -> str:
    """A command as a line for the shell: words, a list of --set, the output directory, and the options that are set."""
    *words, sets, out = parts
    given = [
        w for key, v in options.items() if v not in (None, False) for w in ((key,) if v is True else (key, str(v)))
    ]
    pairs = [w for pair in sets or [] for w in ("--set", pair)]
    given += [w for tracker in log or () for w in ("--log", tracker)]
    return shlex.join(["beeline", *words, *pairs, "--out", str(out), *given])


def check_device(device: str) -> Any:
    """The device to use; BeelineError if it is not available."""
    from beeline.core.modes import resolve_device

    return resolve_device(device)


def named(device: str) -> str | None:
    """A device for ``command_line``; None for the default."""
    return None if device == AUTO else device


def run_files(out: Path) -> dict[str, str]:
    """The paths of a run, its bundle and its report."""
    page = out / "report.html"
    return {"run": str(out), "bundle": str(out / "bundle")} | ({"report": str(page)} if page.is_file() else {})


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print the result of a command as JSON, or one line per entry."""
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    width = max(len(k) for k in result)
    for key, value in result.items():
        typer.echo(f"{key.rjust(width)}  {value}")
