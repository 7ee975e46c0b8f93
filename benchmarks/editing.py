"""The benchmark of edits: every method at the same number of evaluations of the network.

    python -m benchmarks.editing exact                      labelled mixtures, whose counterfactuals are known
    python -m benchmarks.editing mnist --mnist FILE         MNIST, from an .npz file
    python -m benchmarks.editing cifar10 --cifar10 FOLDER   CIFAR-10 in grey at 14 x 14, from parquet files
    python -m benchmarks.editing --page                     write docs/editing-benchmark.md, measure nothing
    python -m benchmarks.editing --picture                  write the picture of the page, measure nothing

Every row is written as soon as it is done and skipped the next time.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from beeline.config import build as config
from beeline.core.errors import BeelineError, require
from benchmarks import report
from benchmarks.editing_parts import page, picture, worlds
from benchmarks.fewstep_parts import store
from benchmarks.fewstep_parts import worlds as trained

STARTS = {"FlowEdit": (0.05, 0.2, 0.33, 0.5, 0.7), "SDEdit": (0.05, 0.2, 0.3, 0.5, 0.7)}
ROWS = (
    *(f"{name}(start={s})" for name, starts in STARTS.items() for s in starts),
    *(f"InvertAndSample(start={s})" for s in (0.0, 0.2, 0.4)),
    *(f"RFInversion(strength={s})" for s in (0.5, 0.7, 0.9)),
    "TransportGuided()",
    *(f"DeltaVelocity(start={s})" for s in (0.2, 0.4)),
    *(f"PostEdit(start={s})" for s in (0.2, 0.4)),
    "SharedValues()",
    "KeyValueEnriched()",
    "ReFlex()",
    "ReferenceAttention()",
    "FluxSpace()",
)
SOLVED = (("InvertAndSample()", "MIDPOINT"), ("InvertAndSample()", "MidpointReuse()"), ("FlowEdit(start=0.2)", "HEUN"))
GUIDED = (  # the guidance of the new condition, whose evaluations count
    *(("InvertAndSample()", f"CFG({w})") for w in (2, 3, 5)),
    *((f"FlowEdit(start={s})", f"CFG({w})") for s in (0.05, 0.2) for w in (3, 6, 9)),
    ("SDEdit(start=0.05)", "CFG(3)"),
    ("SDEdit(start=0.2)", "CFG(5)"),
)


def exact(options: Namespace) -> Any:
    return worlds.exact(options.data or 500)


def mnist(options: Namespace) -> Any:
    require(options.mnist is not None, "the world mnist needs its data; give --mnist FILE, an .npz file of MNIST")
    size = sized(trained.MNIST, options)
    return worlds.pictures("mnist", trained.mnist(options.mnist), options.data or 200, options.models / "mnist", size)


def cifar10(options: Namespace) -> Any:
    require(options.cifar10 is not None, "the world cifar10 needs its data; give --cifar10 FOLDER with parquet files")
    size, found = sized(trained.CIFAR, options), trained.cifar10(options.cifar10)
    return worlds.pictures("cifar10", found, options.data or 200, options.models / "cifar10", size)


WORLDS = {"exact": exact, "mnist": mnist, "cifar10": cifar10}


def sized(size: trained.Size, options: Namespace) -> trained.Size:
    changed = {"teacher_steps": options.teacher_steps, "classifier": options.classifier_steps}
    return replace(size, **{name: value for name, value in changed.items() if value is not None})


def rows(options: Namespace) -> list[tuple[str, str, str]]:
    """The methods with their solvers and guidance."""
    plain = [(text, "EULER", "Plain()") for text in options.method or ROWS]
    if options.method:
        return plain
    guided = [] if options.world == "exact" else [(text, "EULER", how) for text, how in GUIDED]  # it has no null
    return [*plain, *((text, solver, "Plain()") for text, solver in SOLVED), *guided]


def measure(options: Namespace) -> None:
    """Measure the rows of a world that are missing."""
    world, out = WORLDS[options.world](options), options.output or page.RESULTS
    for text, solver, guidance in rows(options):
        name = ", ".join([text, *(part for part in (solver, guidance) if part not in ("EULER", "Plain()"))])
        if store.current(options.world, name, 0, world.described, out) and not options.again:
            continue
        try:
            found = worlds.measure(world, text, config.parse(solver, "solvers"), config.parse(guidance, "guidance"))
        except (BeelineError, ValueError) as error:
            found = {"refused": " ".join(str(error).split())}
        store.add(options.world, name, 0, {"settings": world.described, **found}, out)
        print(f"{options.world}: {name}: {found}", flush=True)


def parser() -> ArgumentParser:
    made = report.parser("editing", __doc__)
    made.add_argument("world", nargs="?", choices=[*WORLDS], help="what is measured")
    made.add_argument("--method", nargs="+", metavar="NAME", help="edits, with settings if wanted")
    made.add_argument("--data", type=int, metavar="N", help="data that are edited")
    made.add_argument(
        "--models", type=Path, default=Path("models/editing"), metavar="DIR", help="teachers, classifiers"
    )
    made.add_argument("--teacher-steps", type=int, metavar="N", help="training steps of the flow")
    made.add_argument("--classifier-steps", type=int, metavar="N", help="training steps of the classifier")
    made.add_argument("--again", action="store_true", help="measure rows that are stored")
    made.add_argument("--mnist", type=Path, metavar="FILE", help="MNIST as an .npz file")
    made.add_argument("--cifar10", type=Path, metavar="FOLDER", help="CIFAR-10 as parquet files")
    made.add_argument("--page", action="store_true", help="write the documentation page, measure nothing")
    made.add_argument("--picture", action="store_true", help="write the picture of the page, measure nothing")
    return made


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    try:
        if options.page:
            return page.write()
        if options.picture:
            return picture.write(store.read(options.output or page.RESULTS)["mnist"], page.PICTURE)
        require(options.world is not None, f"nothing was named to measure; give one of {[*WORLDS]}, or --page")
        measure(options)
    except BeelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
