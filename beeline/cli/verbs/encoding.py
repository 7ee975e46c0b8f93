"""The command that encodes images to latents."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import AUTO, Dev, Json, Set, check_device, output_path, print_result


def encode(
    data: Annotated[str, typer.Argument(help="A folder of images, or other data of images.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="Folder of an AutoencoderKL or AutoencoderDC, or of a run of the recipe autoencoder; hub:owner/name; "
            "or one of 'beeline list autoencoders'."
        ),
    ],
    out: Annotated[Path, typer.Option(parser=output_path, metavar="PATH", help="Folder for the latents.")],
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Encode images to latents once, for training on them; after an interruption the same command continues."""
    from beeline.cli.commands import recipe
    from beeline.core.errors import require
    from beeline.runs.latents.encoding import encode_data
    from beeline.runs.run import Run

    where = check_device(device)  # before any work
    autoencoder = parsed(encoder)
    run = recipe(data, set_ or [])
    require(isinstance(run, Run), f"{data} is a distillation, which has no data of its own; give a folder of images")
    say = (lambda text: None) if json_ else (lambda text: print(text, file=sys.stderr))
    made = encode_data(run.data, autoencoder, out, device=where, say=say)
    train, held = (len(part) for part in made.load())
    following = shlex.join(["beeline", "train", str(out)])
    print_result({"latents": str(out), "training": train, "held out": held, "next": following}, json_)


def parsed(text: str) -> Any:
    """An autoencoder from the command line: the name of a component, a folder, or hub:owner/name."""
    from beeline.config import build as config
    from beeline.config.catalogue import CATALOGUE
    from beeline.core.errors import BeelineError, nearest
    from beeline.data.latents.autoencoders import HUB, DiffusersVAE
    from beeline.runs.latents.bundled import OfAutoencoder

    name = text.partition("(")[0].replace("-", "").replace("_", "").lower()
    if name in {known.lower() for known in CATALOGUE["autoencoders"]} or "(" in text:
        return config.parse(text, "autoencoders")
    if any((Path(text).expanduser() / place / "flow.json").is_file() for place in ("", "bundle")):
        return OfAutoencoder(text)
    if text.startswith(HUB) or Path(text).expanduser().is_dir():
        return DiffusersVAE(text)
    raise BeelineError(
        f"--encoder {text} is neither a folder with an autoencoder nor {HUB}owner/name nor an autoencoder; "
        f"{nearest(text, CATALOGUE['autoencoders'])}"
    )
