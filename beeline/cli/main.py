"""The command line: a closed set of verbs.  A new method never adds a flag.

Exit code 0, 2 for a user's mistake (one line on stderr, no traceback), 1 for a failure of ours.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.memory import keep_memory
from beeline.core.errors import BeelineError, nearest, require

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Rectified flow and flow matching: train, straighten, distil, sample and measure.",
)
AUTO = "auto"


def place(text: str) -> Path:
    """A file or directory to write; an empty name would be the directory in which the command runs."""
    if not text.strip() or "\0" in text:
        raise typer.BadParameter(f"got {text!r}, which names nothing; give a file or a directory, or leave it out")
    path = Path(text)
    if path.resolve() == path.resolve().parent:
        raise typer.BadParameter(f"got {text!r}, the root of all directories, which nothing is written over; name one")
    return path


Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change one setting, as in --set training.steps=2000."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Dev = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1; auto is the GPU where there is one.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write a report after the training.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@app.command(epilog="Example: beeline demo --out demo")
def demo(
    out: Annotated[
        Path, typer.Option(parser=place, metavar="PATH", help="Directory for the three runs and the report.")
    ] = Path("demo"),
    quick: Annotated[bool, typer.Option(help="A few seconds of training: to see that everything works.")] = False,
    device: Dev = AUTO,
    report: Report = True,
) -> None:
    """Run the full pipeline on a built-in data set: train, straighten, distil, sample, evaluate; with a report."""
    from beeline.cli.demo import demo as pipeline

    pipeline(out, quick=quick, device=checked(device), report=report)


@app.command(epilog="Example: beeline train digits --set training.steps=2000 --out runs/digits")
def train(
    recipe: Annotated[str, typer.Argument(help="A data file or folder, a recipe, a YAML file, or a run.")],
    set_: Set = None,
    out: Annotated[
        Path | None, typer.Option(parser=place, metavar="PATH", help="Directory of the run (default runs/RECIPE).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its last checkpoint.")
    ] = False,
    parallel: Annotated[str | None, typer.Option(help="ddp or fsdp: several processes, started with torchrun.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Fit network and steps to a time, as 90s, 20m or 2h (for data: 30m)."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--dry-run", "--plan", help="Print the plan: memory, disk and time; do not start.")
    ] = False,
    fork: Annotated[
        bool, typer.Option("--fork", help="RECIPE is a run: start a new one in --out from its state, with --set.")
    ] = False,
    branch_cooldown: Annotated[
        int | None,
        typer.Option(metavar="STEPS", help="Like --fork, and lower the learning rate to zero over STEPS steps."),
    ] = None,
    at: Annotated[
        int | None, typer.Option(metavar="STEP", help="The checkpoint for --fork and --branch-cooldown.")
    ] = None,
    track: Annotated[str | None, typer.Option(help="Log to tensorboard or wandb as well.")] = None,
    device: Dev = AUTO,
    report: Report = True,
    json_: Json = False,
) -> None:
    """Train a flow; Ctrl-C leaves a checkpoint to resume from."""
    from beeline.cli import commands, planning

    checked(device)  # refused before any work
    run = commands.recipe(recipe, set_ or [], out if resume else None, budget)
    run = planning.budgeted(run, recipe, set_ or [], budget, resume, device, quiet=json_)
    if plan:
        planning.plan(run, json_, device)
        return
    where = out or commands.default_out(recipe)
    run, start = planning.branch(run, recipe, where, fork, branch_cooldown, at)
    with planning.processes(parallel) as shared, planning.tracker(track, where, run) as tracker:
        more = {"--parallel": parallel, "--fork": fork, "--branch-cooldown": branch_cooldown, "--at": at}
        command = typed(
            "train", recipe, set_, where, **more, **{"--budget": budget, "--track": track, "--device": named(device)}
        )
        commands.train(
            run,
            where,
            resume=resume,
            quiet=json_,
            command=command,
            device=device,
            parallel=shared,
            fork=start,
            track=tracker,
            report=report,
        )
        if shared.rank == 0:
            say(written(where), json_)


@app.command("verify", hidden=True)
@app.command(epilog="Example: beeline verify runs/digits")
def verify(
    run: Annotated[str, typer.Argument(help="Directory of a run.")],
    quick: Annotated[bool, typer.Option("--quick", help="Check files and numbers only, without the trial.")] = False,
    json_: Json = False,
) -> None:
    """Check the files, numbers and convention of a run, and that it resumes exactly with its own settings."""
    from beeline.runs.verify import examine, report

    if not report(examine(run, trial=not quick), json_, typer.echo):
        raise typer.Exit(2)


@app.command("ema", hidden=True)
@app.command(epilog="Example: beeline average runs/digits --length 0.05")
def average(
    run: Annotated[Path, typer.Argument(help="Directory of a run with snapshots of power-function averages.")],
    length: Annotated[float, typer.Option(help="Length of the memory relative to the run, 0.01 to 0.28.")],
    at: Annotated[int | None, typer.Option(metavar="STEP", help="After this step; the last one by default.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=place, metavar="PATH", help="Directory of the bundle (default RUN/averages/...)."),
    ] = None,
    json_: Json = False,
) -> None:
    """Compute the average of a run for any length of memory, after training."""
    from beeline.runs.averaging import synthesised

    where, found = synthesised(run, length, at, out)
    say({"bundle": str(where), "snapshots": len(found.used), "mismatch": round(found.mismatch, 4)}, json_)


@app.command(epilog="Example: beeline distill runs/digits reflow --out runs/reflowed")
def distill(
    bundle: Annotated[str, typer.Argument(help="Directory (or hub:owner/name) of the teacher.")],
    method: Annotated[
        str, typer.Argument(help="A distillation, such as reflow or one-step ('beeline list distillations').")
    ],
    out: Annotated[Path, typer.Option(parser=place, metavar="PATH", help="Directory of the run.")],
    set_: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its last checkpoint.")
    ] = False,
    device: Dev = AUTO,
    report: Report = True,
    json_: Json = False,
) -> None:
    """Straighten a flow, or distil it to few steps."""
    from beeline.cli import commands

    checked(device)  # refused before any work
    run = commands.distillation(bundle, method, set_ or [])
    command = typed("distill", bundle, method, set_, out, **{"--device": named(device)})
    commands.train(run, out, resume=resume, quiet=json_, command=command, device=device, report=report)
    say(written(out), json_)


@app.command(
    epilog="Example: beeline sample runs/digits -n 64 --condition label=3 --set sampler.steps=8 --out threes.png"
)
def sample(
    bundle: Annotated[str, typer.Argument(help="Directory (or hub:owner/name) of a bundle.")],
    out: Annotated[
        Path, typer.Option(parser=place, metavar="PATH", help="File (.png, .npz, .npy, .csv) or directory to write.")
    ],
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 64,
    cond: Annotated[
        str | None, typer.Option("--condition", "-c", help="Condition: NAME=VALUE, or a JSON or YAML file.")
    ] = None,
    source: Annotated[Path | None, typer.Option("--input", help="Source data of a flow between two data sets.")] = None,
    seed: Seed = 0,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Sample from a flow."""
    from beeline.cli import commands

    say(commands.sample(bundle, n, cond, seed, set_ or [], out, source, device), json_)


@app.command("fit-solver", hidden=True)
@app.command("fit-solver", epilog="Example: beeline fit-solver runs/digits --nfe 8")
def fit_solver(
    bundle: Annotated[str, typer.Argument(help="Directory of a bundle, or of a run.")],
    evaluations: Annotated[int, typer.Option("--nfe", "--evaluations", help="NFE budget per sample.")] = 8,
    cond: Annotated[
        str | None,
        typer.Option("--condition", "-c", help="Condition it will be used with; random labels by default."),
    ] = None,
    noises: Annotated[int, typer.Option(help="Noises to fit on.")] = 512,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(parser=place, metavar="PATH", help="Directory of a new bundle (default: change this one)."),
    ] = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Fit the time steps and weights of a solver to a flow, and store them in its bundle."""
    from beeline.cli import tuning
    from beeline.cli.conditions import condition

    say(tuning.tune(bundle, evaluations, condition(cond), noises, seed, out, device=device), json_)


@app.command(epilog="Example: beeline evaluate runs/digits digits -n 500")
def evaluate(
    bundle: Annotated[str, typer.Argument(help="Directory (or hub:owner/name) of a bundle.")],
    data: Annotated[
        str | None, typer.Argument(help="Recipe name, data set or file; the data it was trained on by default.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 500,
    seed: Seed = 0,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Evaluate a flow: scores with their real-vs-real baseline and interval, and cost in NFE."""
    from beeline.cli import commands

    commands.evaluate([bundle], data, n, seed, set_ or [], json_, device)


@app.command(epilog="Example: beeline compare demo/teacher demo/reflowed demo/distilled")
def compare(
    bundles: Annotated[list[str], typer.Argument(help="Directories (or hub:owner/name) of bundles.")],
    data: Annotated[
        str | None, typer.Option(help="Recipe name, data set or file; the data of the first bundle by default.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 500,
    seed: Seed = 0,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Evaluate several flows on the same data and the same noise."""
    from beeline.cli import commands

    commands.evaluate(bundles, data, n, seed, set_ or [], json_, device)


@app.command("list", epilog="Example: beeline list solvers")
def list_(
    kind: Annotated[str | None, typer.Argument(help="A kind of component; all kinds by default.")] = None,
    json_: Json = False,
) -> None:
    """List components, one line each, by kind."""
    from beeline.cli import listing

    listing.list_components(kind, json_)


@app.command("describe", hidden=True)
@app.command(epilog="Example: beeline describe digits --yaml > mine.yaml && beeline train mine.yaml")
def describe(
    name: Annotated[str, typer.Argument(help="A component or a recipe.")],
    yaml: Annotated[bool, typer.Option("--yaml", help="A recipe as a YAML file.")] = False,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Describe a component or recipe: what it does, its formula, settings and source."""
    from beeline.cli import commands

    commands.describe(name, yaml, set_ or [], json_)


def typed(*parts: Any, **options: Any) -> str:
    """A command as it can be typed again: words, a list of --set, the output directory, and options that were given."""
    *words, sets, out = parts
    given = [
        w for key, v in options.items() if v not in (None, False) for w in ((key,) if v is True else (key, str(v)))
    ]
    pairs = [w for pair in sets or [] for w in ("--set", pair)]
    return shlex.join(["beeline", *words, *pairs, "--out", str(out), *given])


def checked(device: str) -> Any:
    """The device that is used; refused where it is not there."""
    from beeline.core.modes import resolve_device

    return resolve_device(device)


def named(device: str) -> str | None:
    """A device that was asked for by name."""
    return None if device == AUTO else device


def written(out: Path) -> dict[str, str]:
    """Where a run and its parts are."""
    page = out / "report.html"
    return {"run": str(out), "bundle": str(out / "bundle")} | ({"report": str(page)} if page.is_file() else {})


def say(result: dict[str, Any], as_json: bool) -> None:
    """The result of a verb: JSON, or one line an entry."""
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    width = max(len(k) for k in result)
    for key, value in result.items():
        typer.echo(f"{key.rjust(width)}  {value}")


def main(argv: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    keep_memory()
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        verbs = list(getattr(command, "commands", {}))
        if argv and not argv[0].startswith("-"):
            require(argv[0] in verbs, f"there is no verb {argv[0]!r}; {nearest(argv[0], verbs)}")
        result = command.main(args=argv, prog_name="beeline", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BeelineError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except MemoryError as error:
        return fail(f"there is not enough memory ({error}); make the batch, the network or the data smaller")
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            return ours(error, argv)
        place = "" if error.filename is None else f" ({error.filename})"
        return fail(f"{error.strerror or error}{place}; check the path, the permissions and the free space")
    except Exception as error:
        # typer brings a copy of click of its own, so its exceptions are known by what they can do
        if "can't allocate memory" in str(error):  # torch has no class of its own for this
            return fail(f"there is not enough memory ({error}); make the batch, the network or the data smaller")
        if not hasattr(error, "format_message"):
            return ours(error, argv)
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "beeline"
        return fail(f"{error.format_message().rstrip('.')}; see {where} --help")


def fail(message: str, code: int = 2) -> int:
    """One line on stderr, and the exit code."""
    line = " ".join(message.split())
    print("error: " + (line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."), file=sys.stderr)
    return code


LONGEST = 3000  # characters of a message; what a user gave may be longer than anybody reads


def ours(error: Exception, argv: list[str]) -> int:
    """An error that nobody foresaw: one line that names a file with the trace, which a report of it needs."""
    from beeline.cli.console import traced

    name = traced(error, shlex.join(["beeline", *argv]))
    return fail(
        f"{type(error).__name__}: {error}; this is a fault of beeline and not of your input: please report it with the "
        f"file {name}, which holds the trace",
        1,
    )
