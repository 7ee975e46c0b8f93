"""The command that generates the pairs of a teacher."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import AUTO, Dev, Json, Seed, Set, check_device, output_path, print_result

Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="FILTER",
        help="Keep some of the pairs, such as 'Nearest(0.9)'; see 'beeline list pair_filters'; repeatable.",
    ),
]


def pairs(
    bundle: Annotated[str, typer.Argument(help="Bundle of the teacher: a directory or hub:owner/name.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of pairs, before filters.")],
    out: Annotated[Path, typer.Option(parser=output_path, metavar="PATH", help="Folder for the pairs.")],
    cond: Annotated[
        str | None,
        typer.Option("--condition", "-c", help="Condition: NAME=VALUE, or a JSON or YAML file; default the data's."),
    ] = None,
    set_: Set = None,
    filters: Filters = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="Every different condition equally often.")] = False,
    shard_size: Annotated[int | None, typer.Option(min=1, help="Pairs of a file; default about 64 MiB.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the stored data: float32, bfloat16, float16 or float64.")] = "float32",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pairs that are generated at once.")] = None,
    seed: Seed = 0,
    plan: Annotated[bool, typer.Option("--dry-run", "--plan", help="Print the plan and exit.")] = False,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Generate pairs of noise and data for reflow and distillation.

    Any number of processes may share one folder, by torchrun or as separate commands; after an interruption the same
    command continues.
    """
    from beeline.cli.commands import sampler_of
    from beeline.cli.conditions import condition
    from beeline.config import build as config
    from beeline.runs.bundle import load
    from beeline.runs.pairs.job import pairs as make
    from beeline.runs.pairs.job import prepared

    teacher = load(bundle, device=check_device(own_device(device)))
    first = os.environ.get("RANK", "0") == "0"
    say: Callable[[str], None] = (
        (lambda text: print(text, file=sys.stderr)) if first and not json_ else lambda text: None
    )
    how: dict[str, Any] = {
        "cond": condition(cond),
        "sampler": sampler_of(teacher, set_ or ()),
        "seed": seed,
        "shard_size": shard_size,
        "dtype": dtype,
        "balanced": balanced,
        "filters": tuple(config.parse(text, "pair_filters") for text in filters or ()),
        "batch_size": batch_size,
        "name": bundle,
    }
    if plan:
        for line in prepared(teacher, n, out, **how).plan().lines():
            print(line)
        return
    try:
        store = make(teacher, n, out, trial=first, say=say, **how)
    except KeyboardInterrupt:
        say(f"stopped; the shards in {out} are whole, and the same command continues")
        raise
    if first:
        notes = store.manifest.notes
        found: dict[str, Any] = {"pairs": str(out), "kept": len(store)}
        found |= {f"drift {name}": value for name, value in notes.get("drift", {}).items() if value is not None}
        following = shlex.join(["beeline", "distill", bundle, "reflow", "--set", f"method.store={out}", "--out", "DIR"])
        print_result(found | {"next": following}, json_)


def own_device(device: str) -> str:
    """The device of this process: under torchrun the GPU of its rank."""
    from beeline.core.modes import resolve_device

    rank = os.environ.get("LOCAL_RANK")
    if rank is None or device != AUTO or resolve_device(device).type != "cuda":
        return device
    return f"cuda:{rank}"
