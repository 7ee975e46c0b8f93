"""The demo: seconds of each stage, and its three figures of quality.

    python -m benchmarks.demo [--directory DIR] [--output FILE]

``distance``: Frechet distance of the distilled model at 1 evaluation over the teacher's at 32; aim: at most 1.5
``agreement``: fraction of the distilled model's samples classified as their condition; aim: at least 0.95
``straightness``: relative straightness after reflow over before; aim: at most 0.2
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from beeline.cli.demo import demo
from beeline.evaluation.scores import Report
from benchmarks import report


def figures(out: Path) -> dict[str, Any]:
    """The figures of a finished demo."""
    written = json.loads((out / "figures.json").read_text())
    reports = {
        (model, int(count)): Report.from_dict(data)
        for model, counts in written["models"].items()
        for count, data in counts.items()
    }
    straight = {
        model: s.value for (model, _), r in reports.items() for s in r.scores if s.name == "relative straightness"
    }
    one = reports["distilled", 1]
    return {
        "seconds": {**written["seconds"], "all": sum(written["seconds"].values())},
        "distance": one["Frechet distance"].value / reports["teacher", 32]["Frechet distance"].value,
        "agreement": one["label agreement"].value,
        "straightness": straight["reflowed"] / straight["teacher"],
        "by_evaluations": {
            model: {c: r["Frechet distance"].value for (m, c), r in reports.items() if m == model}
            for model in dict.fromkeys(m for m, _ in reports)
        },
        "real-vs-real baseline": one["Frechet distance"].floor,
    }


def main() -> None:
    parser = report.parser("demo", __doc__)
    parser.add_argument("--directory", type=Path, metavar="DIR", help="directory of the demo, which may be finished")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.directory or Path(temporary) / "demo"
        if not (out / "figures.json").is_file():
            demo(out)
        found = figures(out)
    print(json.dumps(found, indent=2))
    report.write("demo", found, [0], options.output)


if __name__ == "__main__":
    main()
