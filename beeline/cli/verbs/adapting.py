"""The command that trains a small change of a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import (
    AUTO,
    Bundled,
    Dev,
    Json,
    Report,
    Set,
    TrackLog,
    check_device,
    command_line,
    named,
    output_path,
    print_result,
    run_files,
)


def adapt(
    bundle: Bundled,
    delta: Annotated[
        str,
        typer.Argument(
            help="A change of weights, such as LoRA, a branch beside blocks, such as Bottleneck, or a control, such as "
            "ControlBranch; see 'beeline list deltas', 'beeline list branches' and 'beeline list controls'."
        ),
    ],
    out: Annotated[Path, typer.Option(parser=output_path, metavar="PATH", help="Directory of the run.")],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Recipe, file or folder; default the data of the bundle.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ADAPTED",
            help="A bundle with the change, of any network: its samples are the data, which carries the change over.",
        ),
    ] = None,
    set_: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its last checkpoint.")
    ] = False,
    log: TrackLog = None,
    device: Dev = AUTO,
    report: Report = True,
    json_: Json = False,
) -> None:
    """Train a small change of a flow on data; the weights of the flow stay as they are."""
    from beeline.cli import commands
    from beeline.core.errors import require
    from beeline.distillation.adapting import Adaptation
    from beeline.distillation.controls.training import ControlTraining
    from beeline.runs.adapters import controls
    from beeline.runs.bundle import load

    where = check_device(device)  # before any work
    require(
        from_ is None or data is None,
        f"--data {data} was given with --from {from_}, whose samples are the data; give one of them",
    )
    source = data if from_ is None else f"SamplesOf({str(from_)!r})"
    run = adaptation(bundle, delta, source, set_ or [])
    options: dict[str, Any] = {"--data": data, "--from": from_, "--device": named(device)}
    commands.train(
        run,
        out,
        resume=resume,
        quiet=json_,
        command=command_line("adapt", bundle, delta, set_, out, log=log, **options),
        device=where,
        report=report,
        log=log or (),
    )
    made = {}
    if isinstance(run.method, Adaptation):
        made["adapter"] = str(_adapter(out))
    elif isinstance(run.method, ControlTraining):
        made["control"] = str(controls.export(load(out, device="cpu").flow.field, out))
    print_result({**run_files(out), **made}, json_)


def _adapter(out: Path) -> Path:
    """The change of the bundle of a run as a file: as that of peft where it is a LoRA or DoRA, else in the own form.

    Over a mixture, which has no weights for peft, it is in the own form too.
    """
    from beeline.networks.adapters.adapted import Adapted
    from beeline.networks.adapters.delta import LoRA, changed_layers
    from beeline.networks.adapters.inside import backbone_of
    from beeline.networks.adapters.members.low_rank import DoRA
    from beeline.runs.adapters.dialects import PEFT
    from beeline.runs.adapters.files import export
    from beeline.runs.bundle import load

    field = load(out, device="cpu").flow.field
    net = backbone_of(field)
    known = isinstance(net, Adapted) and isinstance(net.settings["delta"], LoRA | DoRA)
    known = known and not any(layer.mixes for layer in changed_layers(net).values())
    return export(field, out / "adapter.safetensors", PEFT if known else None)


def adaptation(bundle: str, delta: str, data: str | None, pairs: list[str]) -> Any:
    """The run of an adaptation, with settings changed."""
    from beeline.cli import commands
    from beeline.config import build as config
    from beeline.config.catalogue import CATALOGUE, find
    from beeline.data.latents.hints import OfPictures
    from beeline.data.latents.modality import LatentImage
    from beeline.distillation.adapting import Adaptation, BranchTraining
    from beeline.distillation.controls.training import ControlTraining
    from beeline.runs.bundle import load
    from beeline.runs.reference_data import data_set
    from beeline.runs.run import Distilled

    base = load(bundle, device="cpu")  # refused before any work
    text = delta if "(" in delta else f"{delta}()"
    _, _, name = find(text.partition("(")[0], ("deltas", "branches", "controls")).rpartition(".")
    if name in CATALOGUE["controls"]:
        method: Any = ControlTraining(config.parse(text, "controls"), sampler=base.sampler)
    elif name in CATALOGUE["branches"]:
        method = BranchTraining(config.parse(text, "branches"), sampler=base.sampler)
    else:
        method = Adaptation(config.parse(text, "deltas"), sampler=base.sampler)
    source = None if data is None else data_set(data, base)
    run = Distilled(str(bundle), method, data=source)
    run = config.change(run, commands.settings(pairs)) if pairs else run
    if isinstance(run.method, ControlTraining) and isinstance(base.modality, LatentImage):
        hinted = replace(run.method, hint=OfPictures(run.method.hint, base.modality), name=run.method.title)
        return replace(run, method=hinted)
    return run
