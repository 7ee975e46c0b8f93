"""One flow and every way of making it smaller, in groups of about equal bytes.

    python -m benchmarks.compress --flow BUNDLE [--samples 256] [--steps 8] [--only NAME ...] [--device cuda]
    python -m benchmarks.compress --page        write the tables of two pages, measure nothing

The bundle is sampled by ``--steps`` steps of its solver.  Written are the share of its bytes, seconds of an evaluation
of 64 data, the largest relative error of velocities in five bins of time, the drift of samples from the same noise, and
the distance of samples to held-out data beside that of the bundle.  Figures of a GPU have a file of their own.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import torch

import beeline as bl
from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.networks.adapters.inside import backbone_of
from beeline.runs.bundle import load
from beeline.runs.compressing.job import conditions_of, made_by, noise, probe_of
from beeline.runs.compressing.measuring import Link, link_of
from beeline.runs.reference_data import data_set
from beeline.runs.scoring import RealData
from benchmarks import report

FILE = report.RESULTS / "compress.json"
GUIDES = report.DOCS / "guides"
METHODS = (
    "int8()", "int8(kept=True)", "SmoothQuant()", "TorchAO()",
    "TorchAO('Int8DynamicActivationInt8Weight()')", "MixedBits(0.25)", "GPTQ(6)", "MixedBits(0.2)", "int4()",
    "Quantize(NormalFloat4())", "GPTQ(4)", "AWQ(4)", "SVDQuant(4, 4)", "Quantize(OffsetIntegers(3))",
    "GPTQ(3)", "Quantize(BitMoD(3))", "Quantize(SmallFloats(3, 2))", "Quantize(Signs(2))", "LowRank(0.5)",
    "SparseGPT(0.5)", "Quantize(Monarch(4, 2), rest=None)", "Narrow(0.5)", "Shallow(1)",
    "Quantize(DenseSparse(0.5), rest=None, means=True)", "Recovered(Quantize(Integers(2)), steps=100)",
    "Recovered(Quantize(StatsQ(2)), steps=100)", "Recovered(Narrow(0.5), steps=100)",
)  # fmt: skip


def row(link: Link, first: Link, seconds: float) -> dict[str, Any]:
    """The figures of a smaller bundle beside the first one."""
    return {
        **asdict(link),
        "share": round(link.bytes / first.bytes, 4),
        "speed": round(first.seconds / link.seconds, 3),
        "error": link.error,
        "ratio": None if link.distance is None or not first.distance else round(link.distance / first.distance, 4),
        "making": round(seconds, 2),  # seconds
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as a table, from the largest share of bytes on."""
    head = "| method | share of bytes | speed | velocity error | drift | distance | seconds to make |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for name, f in sorted(figures.items(), key=lambda item: -item[1]["share"]):
        cells = (f"{f['share']:.3f}", f"{f['speed']:.2f} x", f"{f['error']:.3g}", f"{f['drift']:.3g}",
                 "" if f["ratio"] is None else f"{f['ratio']:.3f} x", f"{f['making']:.1f}")  # fmt: skip
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def best(figures: dict[str, Any], elsewhere: dict[str, Any]) -> str:
    """The methods that no other one beats in bytes and in errors, with their speed on a GPU where it is known."""
    rows = {name: f for name, f in figures.items() if f["distance"] is not None}
    keep = [name for name, f in rows.items()
            if not any(g["bytes"] <= f["bytes"] and g["error"] < f["error"] for g in rows.values())]  # fmt: skip
    lines = ["| method | share of bytes | velocity error | distance | speed on a processor | on a GPU |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name in sorted(keep, key=lambda name: -rows[name]["share"]):
        f, there = rows[name], elsewhere.get(name)
        cells = (f"{f['share']:.3f}", f"{f['error']:.3g}", f"{f['ratio']:.3f} x", f"{f['speed']:.2f} x",
                 "" if there is None else f"{there['speed']:.2f} x")  # fmt: skip
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def page() -> None:
    """Write the tables of the pages on small models."""
    figures = report.read(FILE)["figures"]
    report.fill(GUIDES / "compressing.md", "compress", table(figures))
    elsewhere = report.read(FILE.with_stem("compress-cuda")).get("figures", {})
    report.fill(GUIDES / "small.md", "compress", best(figures, elsewhere))


def main() -> None:
    parser = report.parser("compress", __doc__)
    parser.add_argument("--flow", metavar="BUNDLE", help="the flow that is made smaller")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8, help="of its solver")
    parser.add_argument("--only", nargs="*", metavar="METHOD", help="measure these, and update the result file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the tables into the pages")
    options = parser.parse_args()
    if options.page:
        page()
        return
    name_of_result = report.named("compress", options.device)
    out = options.output or FILE.with_stem(name_of_result)
    torch.set_num_threads(1)
    rng = bl.Rng(0)
    bundle = load(options.flow, device=options.device)
    bundle = replace(bundle, sampler=replace(bundle.sampler, steps=options.steps))
    real = RealData.of(data_set(None, bundle))
    cond, x0 = conditions_of(bundle, real, rng), noise(bundle, rng)
    probe, network = probe_of(bundle, rng.fork("probe"), cond), backbone_of(bundle.flow.field)
    more: dict[str, Any] = {"real": real, "samples": options.samples, "compared": (probe, network)}
    first = link_of("", bundle, bundle, x0, cond, rng, **more)
    found: dict[str, Any] = report.read(out)["figures"] if options.only and out.exists() else {}
    found["as it was"] = row(first, first, 0.0)
    settings = {"samples": options.samples, "steps": options.steps, "parameters": bundle.parameters,
                "network": type(network).__name__}  # fmt: skip
    for name in options.only or METHODS:
        method = config.parse(name, "compressors")
        begin = time.perf_counter()
        try:
            made = made_by(bundle, method, method.plan(network, probe), probe, rng.fork("apply", name))
        except BeelineError as error:  # a library is not installed, or has no kernel for this device
            print(f"{name}: {error}", flush=True)
            continue
        seconds = time.perf_counter() - begin
        found[name] = row(link_of(name, made, bundle, x0, cond, rng, **more), first, seconds)
        print(f"{name:44s} {found[name]['share']:.3f} {found[name]['error']:.4f} {found[name]['ratio']}", flush=True)
        report.write(name_of_result, found, [0], out, device=options.device, **settings)


if __name__ == "__main__":
    main()
