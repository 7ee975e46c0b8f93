"""The command line: a fixed set of commands.  A new method never adds an option.

Exit code 0; 2 for a mistake of the user (one line on stderr, no traceback); 1 for an internal error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline import __version__
from beeline.cli.arguments import (
    AUTO,
    At,
    BranchCooldown,
    Bundled,
    Dev,
    DistillBudget,
    EvaluationData,
    FeatureName,
    FeatureWeights,
    Json,
    License,
    More,
    OtherData,
    Private,
    Reference,
    Rehearse,
    Report,
    ReportFile,
    Samples,
    SaveReference,
    Seed,
    Set,
    TrackLog,
    check_device,
    command_line,
    named,
    output_path,
    print_result,
    run_files,
)
from beeline.cli.errors import OUT_OF_MEMORY, fail, internal_error
from beeline.cli.lora.commands import app as lora_app
from beeline.cli.memory import keep_memory
from beeline.cli.runs.commands import app as runs_app
from beeline.cli.verbs.adapting import adapt
from beeline.cli.verbs.averaging import average
from beeline.cli.verbs.compressing import compress
from beeline.cli.verbs.describing import describe, list_
from beeline.cli.verbs.editing import detect, edit, invert
from beeline.cli.verbs.encoding import encode
from beeline.cli.verbs.exporting import export
from beeline.cli.verbs.pairs import pairs
from beeline.cli.verbs.probing import probe
from beeline.cli.verbs.sampling import sample
from beeline.cli.verbs.served.serving import serve
from beeline.cli.verbs.solving import solve
from beeline.core.errors import BeelineError, nearest, require

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# the class of all mistakes in arguments, from click or from the copy of it inside typer
UsageError: Any = typer.BadParameter.__base__


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(f"beeline {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Rectified flow and flow matching: train, straighten, distil, sample and evaluate."""


@app.command(epilog="Example: beeline demo --out demo")
def demo(
    out: Annotated[
        Path, typer.Option(parser=output_path, metavar="PATH", help="Directory for the three runs and the report.")
    ] = Path("demo"),
    quick: Annotated[bool, typer.Option(help="Train for a few seconds, to check that everything works.")] = False,
    device: Dev = AUTO,
    report: Report = True,
) -> None:
    """Train, straighten, distil, sample and evaluate on a built-in data set, and write a report."""
    from beeline.cli.demo import demo as pipeline

    pipeline(out, quick=quick, device=check_device(device), report=report)


@app.command(epilog="Example: beeline train digits --set training.steps=2000 --out runs/digits")
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe, data file or folder, YAML file, or directory of a run.")],
    set_: Set = None,
    out: Annotated[
        Path | None, typer.Option(parser=output_path, metavar="PATH", help="Directory of the run; default runs/RECIPE.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its last checkpoint.")
    ] = False,
    parallel: Annotated[
        str | None, typer.Option(help="ddp or fsdp, for several processes started by torchrun.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Training time, as 90s, 20m or 2h: sets network and steps (for data: 30m)."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--dry-run", "--plan", help="Print the expected memory, disk space and time, and exit.")
    ] = False,
    fork: Annotated[
        bool, typer.Option("--fork", help="RECIPE is a run: start a new run in --out from its checkpoint.")
    ] = False,
    branch_cooldown: BranchCooldown = None,
    at: At = None,
    more: More = None,
    data: OtherData = None,
    log: TrackLog = None,
    device: Dev = AUTO,
    report: Report = True,
    json_: Json = False,
) -> None:
    """Train a flow.  Ctrl-C saves a checkpoint, from which --resume continues."""
    from beeline.cli import commands, continuing, planning

    check_device(device)  # before any work
    where = out or commands.default_out(recipe)
    longer = None
    if more is not None or data is not None:
        others = {"--budget": budget, "--fork": fork, "--branch-cooldown": branch_cooldown, "--at": at, "--set": set_}
        longer = continuing.longer(recipe, more, data, out, device, others, parallel)
        run, where, resume = longer.run, longer.out, longer.resume
    else:
        run = commands.recipe(recipe, set_ or [], where if resume else None, budget)
    if not resume and longer is None:
        free = None if plan else where
        run = planning.budgeted(run, recipe, set_ or [], budget, device, out=free, parallel=parallel, quiet=json_)
    if plan:
        planning.plan(run, json_, device)
        return
    run, start = planning.branch(run, recipe, where, fork, branch_cooldown, at)
    start = start if longer is None else longer.fork
    with planning.processes(parallel) as engine:
        given: dict[str, Any] = {"--parallel": parallel, "--fork": fork, "--branch-cooldown": branch_cooldown}
        given |= {"--at": at, "--more": more, "--data": data, "--budget": budget, "--device": named(device)}
        command = command_line("train", recipe, set_, where, log=log, **given)
        commands.train(
            run,
            where,
            resume=resume,
            quiet=json_,
            command=command,
            device=device,
            parallel=engine,
            fork=start,
            log=log or (),
            report=report,
        )
        if engine.rank == 0:
            print_result(run_files(where), json_)


@app.command("doctor", hidden=True)
@app.command(epilog="Example: beeline verify runs/digits")
def verify(
    run: Annotated[str, typer.Argument(help="Directory of a run.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Check files and numbers only, without training steps.")
    ] = False,
    json_: Json = False,
) -> None:
    """Check the files, numbers and conventions of a run, and that it resumes exactly with its own settings."""
    from beeline.runs.verify import examine, report

    if not report(examine(run, trial=not quick), json_, typer.echo):
        raise typer.Exit(2)


app.command("ema", hidden=True)(average)
app.command(epilog="Example: beeline average runs/digits --length 0.05")(average)


@app.command(epilog="Example: beeline distill runs/digits reflow --out runs/reflowed")
def distill(
    bundle: Annotated[str, typer.Argument(help="Bundle of the teacher: a directory or hub:owner/name.")],
    method: Annotated[
        str, typer.Argument(help="A distillation method, such as reflow or one-step; see 'beeline list distillations'.")
    ],
    out: Annotated[Path, typer.Option(parser=output_path, metavar="PATH", help="Directory of the run.")],
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="Evaluations of the student's network for a sample.")
    ] = None,
    set_: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its last checkpoint.")
    ] = False,
    budget: DistillBudget = None,
    rehearse: Rehearse = False,
    log: TrackLog = None,
    device: Dev = AUTO,
    report: Report = True,
    json_: Json = False,
) -> None:
    """Straighten a flow, or distil it to few steps; the method auto tries several and continues the best."""
    from beeline.cli.verbs import distilling

    where = check_device(device)  # before any work
    options = {"--evaluations": evaluations, "--device": named(device), "--budget": budget, "--rehearse": rehearse}
    how = distilling.How(
        command_line("distill", bundle, method, set_, out, log=log, **options), where, resume, json_, report, log or ()
    )
    distilling.distill(bundle, method, evaluations, budget, set_ or [], out, rehearse, how)
    print_result(run_files(out), json_)


app.command(epilog="Example: beeline adapt runs/digits LoRA --data styled --out runs/styled")(adapt)
app.command(epilog="Example: beeline compress runs/digits int8 --out runs/digits-int8")(compress)
app.command(epilog="Example: beeline serve runs/digits --port 8000")(serve)
app.command(epilog="Example: beeline pairs runs/digits -n 100000 --out pairs")(pairs)
app.command(
    epilog="Example: beeline sample runs/digits -n 64 --condition label=3 --set sampler.steps=8 --out threes.png"
)(sample)


@app.command("tune", hidden=True)
@app.command("fit-solver", epilog="Example: beeline fit-solver runs/digits --nfe 8")
def fit_solver(
    bundle: Annotated[str, typer.Argument(help="Directory of a bundle or run.")],
    evaluations: Annotated[int, typer.Option("--nfe", "--evaluations", help="NFE budget per sample.")] = 8,
    cond: Annotated[
        str | None,
        typer.Option("--condition", "-c", help="Condition of the intended use; default random labels."),
    ] = None,
    noises: Annotated[int, typer.Option(help="Number of noise samples to fit on.")] = 512,
    method: Annotated[
        str,
        typer.Option(help="A component of 'beeline list fits', such as 'StateDependent()', with --noises 8192."),
    ] = "Bespoke()",
    caches: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Instead of a solver, choose the fastest cache of a pretrained model whose samples change by at most "
            "this share, such as 0.05.",
        ),
    ] = None,
    set_: Set = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=output_path, metavar="PATH", help="Directory of a new bundle; default: change this bundle."
        ),
    ] = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Fit the time steps and weights of a solver to a flow, and store the solver in its bundle."""
    from beeline.cli import tuning
    from beeline.cli.conditions import condition

    if caches is not None:
        from beeline.cli.verbs import caching

        require(
            out is None and (evaluations, noises, method) == (8, 512, "Bespoke()"),
            "--caches fits no solver, so that --nfe, --noises, --method and --out have no effect: leave them out, and "
            "set the steps with --set sampler.steps=20",
        )
        return print_result(caching.choose(bundle, caches, condition(cond), seed, set_ or (), device), json_)
    require(not set_, "--set is for --caches; a solver is fitted under the settings of its bundle: leave --set out")
    found = tuning.fit(
        bundle, evaluations, condition(cond), noises, seed, out, device=device, quiet=json_, method=method
    )
    print_result(found, json_)


@app.command(epilog="Example: beeline evaluate runs/digits digits -n 500 --features classifier --out scores.html")
def evaluate(
    bundle: Bundled,
    data: EvaluationData = None,
    n: Samples = None,
    features: FeatureName = None,
    weights: FeatureWeights = None,
    reference: Reference = None,
    save_reference: SaveReference = None,
    out: ReportFile = None,
    seed: Seed = 0,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Evaluate a flow: scores with intervals and real-vs-real baselines, and the cost in evaluations of the network."""
    from beeline.cli import evaluating

    by = evaluating.FeatureOptions(features, weights, reference, save_reference)
    evaluating.evaluate([bundle], data, n, seed, set_ or [], json_, device, by=by, out=out)


@app.command(epilog="Example: beeline compare demo/teacher demo/reflowed demo/distilled")
def compare(
    bundles: Annotated[list[str], typer.Argument(help="Bundles: directories or hub:owner/name.")],
    data: Annotated[
        str | None, typer.Option(help="Recipe, data set or file; default the data of the first bundle.")
    ] = None,
    n: Samples = None,
    features: FeatureName = None,
    weights: FeatureWeights = None,
    reference: Reference = None,
    out: ReportFile = None,
    seed: Seed = 0,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Evaluate several flows on the same data and noise."""
    from beeline.cli import evaluating

    by = evaluating.FeatureOptions(features, weights, reference)
    evaluating.evaluate(bundles, data, n, seed, set_ or [], json_, device, by=by, out=out)


@app.command(epilog="Example: beeline push runs/digits ada/digits --private")
def push(
    bundle: Annotated[str, typer.Argument(help="Directory of a bundle or run.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of the Hugging Face hub.")],
    private: Private = None,
    license_: License = None,
    json_: Json = False,
) -> None:
    """Upload a bundle with a model card to the Hugging Face hub, with the login of 'hf auth login' or HF_TOKEN."""
    from beeline.cli import commands

    print_result(commands.push(bundle, name, private, license_), json_)


app.command("list", epilog="Example: beeline list solvers")(list_)
app.command("show", hidden=True)(describe)
app.command(epilog="Example: beeline describe digits --yaml > mine.yaml && beeline train mine.yaml")(describe)
app.add_typer(runs_app, name="runs")
app.add_typer(lora_app, name="lora")
app.command(epilog="Example: beeline encode photos --encoder hub:stabilityai/sd-vae-ft-mse --out latents")(encode)
app.command(epilog="Example: beeline export runs/student --to onnx --out student")(export)
app.command(epilog="Example: beeline edit demo/teacher FlowEdit 3.npz --from label=3 --to label=8 --out 8.npz")(edit)
app.command(epilog="Example: beeline invert demo/teacher digits.npz --from label=3 --out noise.npz")(invert)
app.command(epilog="Example: beeline detect demo/teacher found.png --watermark secret.txt")(detect)
app.command(epilog="Example: beeline solve runs/mnist inpaint cut.png --mask mask.png -n 4 --out filled.png")(solve)
app.command(epilog="Example: beeline probe model/transformer --data latents.npz --out convention.py")(probe)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    keep_memory()
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run a command; returns its exit code."""
    command = typer.main.get_group(app)
    try:
        if argv and not argv[0].startswith("-"):
            names = [name for name, item in command.commands.items() if not item.hidden]
            require(argv[0] in command.commands, f"there is no command {argv[0]!r}; {nearest(argv[0], names)}")
        result = command.main(args=argv or ["--help"], prog_name="beeline", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BeelineError as error:
        return fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        return 130
    except UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "beeline"
        return fail(f"{error.format_message().rstrip('.')}; see {where} --help")
    except MemoryError as error:
        return fail(OUT_OF_MEMORY.format(error))
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            return internal_error(error, argv)
        place = "" if error.filename is None else f" ({error.filename})"
        return fail(f"{error.strerror or error}{place}; check the path, the permissions and the free space")
    except Exception as error:
        if "can't allocate memory" in str(error):  # torch has no class for this error
            return fail(OUT_OF_MEMORY.format(error))
        return internal_error(error, argv)
