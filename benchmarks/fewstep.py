"""The few-step benchmark: every distillation on one teacher, with the same network and number of network passes.

    python -m benchmarks.fewstep ring [--seeds 3]                 a ring of eight modes, known exactly
    python -m benchmarks.fewstep mnist --mnist FILE               MNIST, from an .npz file
    python -m benchmarks.fewstep mnist-long --mnist FILE          the same with eight times the budget
    python -m benchmarks.fewstep cifar10 --cifar10 FOLDER         CIFAR-10 in grey at 14 x 14, from parquet files
    python -m benchmarks.fewstep costs                            the cost of a step of every method
    python -m benchmarks.fewstep --page                           write docs/few-steps-benchmark.md, measure nothing
    python -m benchmarks.fewstep --picture                        write the samples of MNIST in --models as a picture

A method is a distillation of the registry with its settings, such as "ParallelDecoding(most=4)"; without --method those
of benchmarks/fewstep_parts/methods.py are measured.  Every row is written as soon as it is done and skipped the next
time; a stopped training continues.  A pass is one evaluation of the teacher's network for one datum; the backward pass
of a network counts two.  Students get the number of passes of --budget, of which at most half are spent on pairs.
"""

from __future__ import annotations

import re
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from beeline.core.errors import BeelineError, require
from benchmarks import report
from benchmarks.fewstep_parts import costs, methods, page, store, students, worlds
from benchmarks.fewstep_parts import picture as drawing
from benchmarks.fewstep_parts.methods import Row
from benchmarks.fewstep_parts.worlds import Size, World

TEACHER = "teacher"


def ring(options: Namespace, seed: int) -> World:
    return worlds.ring(seed, options.models / "ring", sized(worlds.RING, options), options.device)


def mnist(options: Namespace, seed: int) -> World:
    require(options.mnist is not None, "the world mnist needs its data; give --mnist FILE, an .npz file of MNIST")
    size = sized(worlds.MNIST, options)
    return worlds.images("mnist", worlds.mnist(options.mnist), seed, options.models / "mnist", size, options.device)


def mnist_long(options: Namespace, seed: int) -> World:
    longer = {"budget": options.budget or worlds.LONG.budget, "samples": options.samples or worlds.LONG.samples}
    return mnist(Namespace(**{**vars(options), **longer}), seed)


def cifar10(options: Namespace, seed: int) -> World:
    require(options.cifar10 is not None, "the world cifar10 needs its data; give --cifar10 FOLDER with parquet files")
    size = sized(worlds.CIFAR, options)
    pictures = worlds.cifar10(options.cifar10)
    return worlds.images("cifar10", pictures, seed, options.models / "cifar10", size, options.device)


def digits(options: Namespace, seed: int) -> World:
    size = sized(worlds.DIGITS, options)
    return worlds.images("digits", worlds.digits(), seed, options.models / "digits", size, options.device)


WORLDS: Mapping[str, Callable[[Namespace, int], World]] = {
    "ring": ring,
    "mnist": mnist,
    "mnist-long": mnist_long,
    "cifar10": cifar10,
    "digits": digits,
}
OTHERS: Mapping[str, Callable[[Namespace], None]] = {"costs": costs.run}


def sized(size: Size, options: Namespace) -> Size:
    changed = {"budget": options.budget, "samples": options.samples, "teacher_steps": options.teacher_steps}
    return replace(size, **{name: value for name, value in changed.items() if value is not None})


def rows(options: Namespace) -> list[Row]:
    if options.method is None:
        return methods.rows()
    return [Row(text, options.evaluations, options.half_width) for text in options.method]


def measure(options: Namespace) -> None:
    """Measure the rows of a world that are missing."""
    wanted = rows(options)
    for row in wanted:
        row.build()  # refuses a wrong name before any work
    out, name = options.output or store.FILE, options.world
    for seed in range(options.seeds):
        world = WORLDS[name](options, seed)
        if not store.current(name, TEACHER, seed, world.described, out):
            found = students.teacher_figures(world, place(options, name, TEACHER, seed))
            store.add(name, TEACHER, seed, {"settings": world.described, **found}, out)
        for row in wanted:
            if store.current(name, row.name, seed, world.described, out) and not options.again:
                continue
            try:
                found = students.measure(row, world, seed, place(options, name, row.name, seed))
            except Exception as error:  # continue with the other methods
                traceback.print_exc()
                found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            store.add(name, row.name, seed, {"settings": world.described, **found}, out)
            print(f"{name} seed {seed}: {row.name}: {brief(found)}", flush=True)


def place(options: Namespace, world: str, row: str, seed: int) -> Path:
    """The folder of the checkpoints of a row."""
    folder: Path = options.models / world / f"{re.sub('[^A-Za-z0-9.=]+', '-', row)}-{seed}"
    return folder


def picture(options: Namespace) -> None:
    """Write the picture of the page, of all students of MNIST with one evaluation."""
    folders = {row: place(options, "mnist", row, 0) for row in store.read(options.output or store.FILE)["mnist"]}
    names = {row: folder.with_name(f"{folder.name}-1.npy") for row, folder in folders.items() if row != TEACHER}
    ends = options.models / "mnist" / f"{TEACHER}-0-32.npy"
    drawing.write({"teacher, 32 evaluations": ends, **names}, page.PICTURE)


def brief(found: Mapping[str, Any]) -> str:
    """One line about a row."""
    if "error" in found:
        return str(found["error"])
    at = {k: v.get("distance", "-") for k, v in found["evaluations"].items()}
    return f"distances {at}, {found['steps']:,} steps, {found['seconds']:.0f} s"


def parser() -> ArgumentParser:
    made = report.parser("fewstep", __doc__)
    made.add_argument("world", nargs="?", choices=[*WORLDS, *OTHERS], help="what is measured")
    made.add_argument("--method", nargs="+", metavar="NAME", help="distillations, with settings if wanted")
    made.add_argument("--evaluations", type=int, metavar="K", help="train the students of --method for K evaluations")
    made.add_argument("--half-width", action="store_true", help="the students of --method are new, half as wide")
    made.add_argument("--seeds", type=int, default=1, help="number of seeds; the ring has three on the page")
    made.add_argument(
        "--models", type=Path, default=Path("models/fewstep"), metavar="DIR", help="teachers, checkpoints"
    )
    made.add_argument("--budget", type=int, metavar="N", help="passes of the networks for a student")
    made.add_argument("--samples", type=int, metavar="N", help="samples of every figure")
    made.add_argument("--teacher-steps", type=int, metavar="N", help="training steps of the teacher")
    made.add_argument("--again", action="store_true", help="measure rows that are stored")
    made.add_argument("--device", default="cpu", help="of teachers and students")
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
            return picture(options)
        require(options.world is not None, f"nothing was named to measure; give one of {[*WORLDS, *OTHERS]}, or --page")
        if options.world in OTHERS:
            return OTHERS[options.world](options)
        measure(options)
    except BeelineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues where it was")


if __name__ == "__main__":
    main()
