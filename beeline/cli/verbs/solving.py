"""The command that samples what is missing in data, given the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import AUTO, Bundled, Dev, Json, Output, Seed, Set, print_result
from beeline.core.errors import nearest, require


def solve(
    bundle: Bundled,
    task: Annotated[
        str, typer.Argument(help="inpaint, impute, forecast, upscale, deblur, denoise or colourise; see 'list tasks'.")
    ],
    given: Annotated[
        Path, typer.Argument(metavar="INPUT", help="File of incomplete data, of the kind that the model generates.")
    ],
    out: Output,
    n: Annotated[int, typer.Option("-n", help="Samples for every input; from 2 on with their deviation.")] = 1,
    mask: Annotated[
        Path | None, typer.Option(help="For inpaint: a picture, white where pixels are to be filled.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Deviation of the noise of the input, in encoded units: 1 is half of the range of pixels."),
    ] = None,
    cond: Annotated[
        str | None, typer.Option("--condition", "-c", help="Condition: NAME=VALUE, or a JSON or YAML file.")
    ] = None,
    seed: Seed = 0,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Fill, sharpen, continue or colour data: samples of a flow given what was observed.

    Settings: --set task.blur='MotionBlur(5)', --set sampler.steps=40, --set controller=Pull, and those of the
    controller, as --set controller.iterations=8.
    """
    print_result(_solved(bundle, task, given, out, n, mask, noise, cond, seed, set_ or [], device), json_)


def _solved(
    name: str,
    task: str,
    given: Path,
    out: Path,
    n: int,
    mask: Path | None,
    noise: float | None,
    cond: str | None,
    seed: int,
    pairs: list[str],
    device: str,
) -> dict[str, Any]:
    from beeline.cli import commands
    from beeline.cli.conditions import condition
    from beeline.config import build as config
    from beeline.config.catalogue import CATALOGUE
    from beeline.hub.loading import load
    from beeline.runs.solving.tasks import Inpaint

    known = {word.lower(): word for word in CATALOGUE["tasks"]}
    require(task.lower() in known, f"there is no task {task!r}; {nearest(task.lower(), known)}")
    groups: dict[str, dict[str, str]] = {"task": {}, "sampler": {}, "controller": {}}
    for key, value in commands.settings(pairs).items():
        group = key.partition(".")[0]
        require(group in groups, f"{key!r} is no setting of a problem; set sampler.*, task.* or controller.*")
        groups[group][key] = value
    made = config.change({"task": config.parse(known[task.lower()], "tasks")}, groups["task"])["task"]
    if mask is not None:
        require(isinstance(made, Inpaint), f"--mask is for 'inpaint', and the task is {task!r}; leave it out")
        made = Inpaint(mask)
    require(given.exists(), f"there is no file {given}; give the data that are to be completed")
    bundle = load(name, device=device)
    if bundle.modality is not None:
        commands.check_format(bundle.modality, out)
    sampler = commands.sampler_of(bundle, [f"{key}={value}" for key, value in groups["sampler"].items()])
    found = bundle.solve(
        made,
        given,
        draws=n,
        noise=noise,
        cond=condition(cond),
        seed=seed,
        sampler=sampler,
        controller=_controller(groups["controller"]),
    )
    result = {"file": str(out), "inputs": len(found.samples) // n, "draws": n, "seed": seed}
    return result | _written(bundle.modality, found, out)


def _controller(given: Mapping[str, str]) -> Any:
    """The controller without the measurement, which it takes as its first argument; None for the usual one."""
    from beeline.config import build as config
    from beeline.config.settings import construct, read
    from beeline.sampling.steering.inverse.problem import LinearSolver

    if not given:
        return None
    name = given.get("controller", "MomentMatching")
    require(
        "(" not in name,
        f"--set controller={name} has settings in brackets, and the measurement is still to come; give the name, and "
        "each setting by itself: --set controller=Pull --set controller.deviation=0.5",
    )
    kind = config.lookup("controllers", name)
    require(
        isinstance(kind, type) and issubclass(kind, LinearSolver),
        f"--set controller={name} does not solve linear problems; give MomentMatching, "
        "PseudoInverse, Pull or Replacement",
    )
    more = {key.partition(".")[2]: read(value) for key, value in given.items() if "." in key}
    return lambda measured: construct(kind, kind.__name__, {"measured": measured, **more}, "controller")


def _written(modality: Any, found: Any, out: Path) -> dict[str, Any]:
    """Write samples and their deviations; what is printed of them."""
    write(modality, found.samples, out)
    more = dict(found.summary or {})
    if found.deviation is not None:
        beside = out.with_name(f"{out.stem}-deviation{out.suffix}")
        write(modality, found.deviation, beside)
        more["deviation"] = str(beside)
    return more


def write(modality: Any, raw: Any, out: Path) -> None:
    """Write data in the user's form; a single picture as it is, not as a preview."""
    from PIL import Image as Picture

    from beeline.core.files import replacing
    from beeline.data.images import Images

    if isinstance(raw, Images) and len(raw) == 1 and out.suffix.lower() in (".png",):
        tile = raw.pixels[0]
        with replacing(out) as file:
            Picture.fromarray(tile if tile.shape[2] == 3 else tile[..., 0]).save(file, "PNG")
        return
    modality.save(raw, out)
