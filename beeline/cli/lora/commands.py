"""``beeline lora`` and its subcommands: files of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import Bundled, Json, output_path, print_result

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)

File = Annotated[Path, typer.Argument(help="A .safetensors file, or a folder of peft.")]
Form = Annotated[str, typer.Option("--to", metavar="FORM", help="peft, diffusers, kohya or original.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Largest rank of a layer; the error of smaller ones is printed.")]
BASE = typer.Option(metavar="BUNDLE", help="The bundle that it is meant for: sizes, matches and effects.")


@app.callback()
def lora() -> None:
    """Explain, mend, convert and merge files of adapters (LoRA, DoRA, LoHa, LoKr) of peft, diffusers and kohya."""


@app.command(epilog="Example: beeline lora doctor style.safetensors --base runs/digits")
def doctor(
    file: File,
    base: Annotated[str | None, BASE] = None,
    against: Annotated[Path | None, typer.Option(metavar="FILE", help="Another adapter: conflicts of both.")] = None,
    mend: Annotated[
        Path | None,
        typer.Option(
            parser=output_path, metavar="FILE", help="Write it anew: scale in the factors, dead layers left out."
        ),
    ] = None,
    to: Form = "kohya",
    rank: Rank = None,
    json_: Json = False,
) -> None:
    """Say what a file of an adapter is, for which base, how large its change is, and what is wrong with it."""
    from beeline.cli.console import cell, console, table
    from beeline.runs.adapters import doctor as work
    from beeline.runs.bundle import load

    bundle = None if base is None else load(base, device="cpu")
    form = dialect(to)
    found = work.examine(file, bundle)
    clashes = () if against is None else work.conflicts(file, against)
    errors = {} if mend is None else work.write_mended(file, mend, form, rank)
    if json_:
        more = {
            "conflicts": [vars(c) for c in clashes],
            "mended": None if mend is None else str(mend),
            "errors": errors,
        }
        return print_result({**found.plain(), **more}, True)
    ranks = sorted({row.rank for row in found.rows if row.rank is not None})
    facts: dict[str, Any] = {
        "file": found.file,
        "form": found.form,
        "method": ", ".join(found.methods),
        "base": found.base,
        "layers": len(found.rows)
        if found.matched is None
        else f"{found.matched} matched, {len(found.unknown)} unknown, "
        f"{len(found.clashes)} of another size, {len(found.unmatched)} of the base unchanged",
        "rank": ", ".join(map(str, ranks)) or "none",
        "numbers": ", ".join(found.dtypes),
    }
    if found.effect:
        facts["change of v, by time"] = "  ".join(f"{value:.3g}" for value in found.effect)
        facts["change of samples"] = f"{found.endpoint:.3g}"
    print_result(facts, False)
    console.print(table([_row(row, cell) for row in found.rows]))
    if clashes:
        console.print(
            table(
                [{k: "" if v is None else cell(v) if k != "layer" else v for k, v in vars(c).items()} for c in clashes]
            )
        )
    for problem in found.problems:
        typer.echo(f"problem: {problem}")
    if mend is not None:
        worst = f", error of the smaller rank at most {max(errors.values()):.3g}" if errors else ""
        typer.echo(f"mended: {mend} (form {to}, scale 1{worst})")


def _row(row: Any, cell: Any) -> dict[str, str]:
    return {
        "layer": row.layer,
        "size": row.size,
        "rank": "" if row.rank is None else str(row.rank),
        "scale": cell(row.scale),
        "norm": cell(row.norm),
        "of the weight": "" if row.relative is None else cell(row.relative),
        "stable rank": cell(row.stable_rank),
        "": row.note,
    }


def dialect(name: str) -> Any:
    """The form of a file by name; ValueError for one that is not written."""
    from beeline.core.errors import nearest, require
    from beeline.runs.adapters.dialects import DIALECTS

    require(name in DIALECTS, f"there is no form {name!r} of adapters; {nearest(name, DIALECTS)}")
    return DIALECTS[name]


@app.command(epilog="Example: beeline lora export runs/styled style.safetensors --to kohya")
def export(
    bundle: Bundled,
    out: Annotated[Path, typer.Argument(parser=output_path, help="File to write, or a folder (as of peft).")],
    to: Form = "peft",
    rank: Rank = None,
    json_: Json = False,
) -> None:
    """Write the adapter of a bundle as a file of another tool, with the scale in its factors."""
    from beeline.runs.adapters.files import export as write
    from beeline.runs.bundle import load

    form = dialect(to)
    print_result({"file": str(write(load(bundle, device="cpu").flow.field, out, form, rank)), "form": to}, json_)


@app.command(epilog="Example: beeline lora merge runs/digits a.safetensors b.safetensors -w 0.7 -w 0.3 --out both")
def merge(
    bundle: Bundled,
    out: Annotated[Path, typer.Option(parser=output_path, metavar="PATH", help="Directory of the new bundle.")],
    files: Annotated[list[Path] | None, typer.Argument(help="Adapters; none: those inside the bundle.")] = None,
    weight: Annotated[
        list[float] | None, typer.Option("-w", "--weight", help="Amount of every adapter; negative undoes it.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="RULE", help="Rule for several, such as Ties; see 'beeline list merges'.")
    ] = None,
    json_: Json = False,
) -> None:
    """Put adapters into the weights of a bundle."""
    from beeline.config import build as config
    from beeline.runs.adapters.merging import merge_files
    from beeline.runs.bundle import load

    rule = None if by is None else config.parse(by if "(" in by else f"{by}()", "merges")
    made, report = merge_files(load(bundle, device="cpu"), files or [], weight or [], rule)
    made.save(out)
    print_result({"bundle": str(out), **report}, json_)


@app.command(epilog="Example: beeline lora extract runs/tuned runs/digits --rank 8 --out change.safetensors")
def extract(
    tuned: Annotated[str, typer.Argument(help="A bundle that was trained from the base.")],
    base: Annotated[str, typer.Argument(help="The bundle that it was trained from.")],
    out: Annotated[Path, typer.Option(parser=output_path, metavar="FILE", help="File to write.")],
    rank: Rank = None,
    energy: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share of the squared change that is kept."),
    ] = None,
    to: Form = "peft",
    json_: Json = False,
) -> None:
    """Write the difference of two bundles as a LoRA, with the error that its rank leaves."""
    from beeline.networks.adapters.inside import backbone_of
    from beeline.networks.adapters.starts import extract as work
    from beeline.runs.adapters.files import export as write
    from beeline.runs.bundle import load

    form = dialect(to)
    fields = [backbone_of(load(path, device="cpu").flow.field) for path in (tuned, base)]
    found = work(fields[0], fields[1], rank, energy)
    write(found.network, out, form)
    worst = max(found.errors.values())
    left = (
        f"{len(found.left)} tensors that are no weights of layers, such as {found.left[0]}" if found.left else "nothing"
    )
    small = ", ".join(f"{most} in {name}" for name, most in list(found.limited.items())[:3]) or "none"
    print_result(
        {"file": str(out), "layers": len(found.errors), "largest error": f"{worst:.3g}", "left out": left,
         "layers of a smaller rank": small}, json_
    )  # fmt: skip
