"""The demo, timed stage by stage, with the three ratios that it is made to show.

    python -m benchmarks.demo [--out DIR] [--json FILE]

``distance``: Frechet distance of the distilled model at 1 evaluation over the teacher's at 32, aim 1.5 at most;
``agreement``: share of the distilled model's samples with the label that was asked for, aim 0.95 and more;
``straightness``: relative straightness after reflow over before, aim 0.2 at most.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from beeline.cli.demo import demo
from beeline.evaluation.scores import Report
from benchmarks.report import write


def figures(out: Path) -> dict[str, Any]:
    """What a finished demo measured."""
    told = json.loads((out / "figures.json").read_text())
    report = {
        (model, int(count)): Report.from_dict(data)
        for model, counts in told["models"].items()
        for count, data in counts.items()
    }
    straight = {
        model: s.value for (model, _), r in report.items() for s in r.scores if s.name == "relative straightness"
    }
    one = report["distilled", 1]
    return {
        "seconds": {**told["seconds"], "all": sum(told["seconds"].values())},
        "distance": one["Frechet distance"].value / report["teacher", 32]["Frechet distance"].value,
        "agreement": one["label agreement"].value,
        "straightness": straight["reflowed"] / straight["teacher"],
        "by_evaluations": {
            model: {c: r["Frechet distance"].value for (m, c), r in report.items() if m == model}
            for model in dict.fromkeys(m for m, _ in report)
        },
        "floor": one["Frechet distance"].floor,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--out", type=Path, help="directory of a demo, to keep it or to read a finished one")
    parser.add_argument("--json", type=Path, help="where to write, instead of benchmarks/results/demo.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        out = chosen.out or Path(place) / "demo"
        if not (out / "figures.json").is_file():
            demo(out)
        found = figures(out)
    print(json.dumps(found, indent=2))
    write("demo", found, [0], chosen.json)


if __name__ == "__main__":
    main()
