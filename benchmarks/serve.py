"""The service under load: throughput, latencies, too many requests, mixed ones, malformed ones, kills, and the page.

    python -m benchmarks.serve [PART ...] --demo DIRECTORY [--seconds 5] [--repeats 3] [--output FILE]

DIRECTORY is that of ``beeline demo``: its ``distilled`` draws digits in one evaluation, its ``teacher`` is the DiT from
which it was distilled.  Parts (all without any):

throughput  one-step digits, 64 clients, 1 and 16 samples a request: samples a second, and those of a bare loop in this
            process that draws the batches which the server has drawn (seeds to noise, network, pictures as arrays)
latency     one sample a request, 1, 16 and 64 clients: median and 99th percentile
overload    requests of 64 samples at ten times the rate that the server sustains
mixed       requests with 1, 4 and 16 evaluations and three guidance scales of the teacher: all at once, and one after
            another; whether every answer is the same
malformed   requests that are wrong in many ways: statuses, tracebacks, and the memory of the server
kills       two servers behind a queue in Redis, one of which is killed again and again while jobs come in
page        seconds from opening the page to its first picture: in Chromium, if it is installed, and by requests alone

All runs on the loopback address of one machine, which the server shares with its load.  Runs that are compared
alternate, and ratios are those of medians.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.serve_parts import faults, kills, page, speed

PARTS = {
    "throughput": speed.throughput,
    "latency": speed.latency,
    "overload": speed.overload,
    "mixed": speed.mixed,
    "malformed": faults.malformed,
    "kills": kills.kills,
    "page": page.page,
}


def main() -> None:
    parser = report.parser("serve", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--demo", type=Path, required=True, metavar="DIRECTORY", help="of beeline demo")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--kills", type=int, default=100, help="number of kills")
    parser.add_argument("--malformed", type=int, default=1000, help="number of malformed requests")
    parser.add_argument("--seed", type=int, default=0, help="seed of kills and of malformed requests")
    given = parser.parse_args()
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; give some of {', '.join(PARTS)}")
    for name in ("distilled", "teacher"):
        if not (given.demo / name).is_dir():
            parser.error(f"{given.demo} has no bundle {name!r}; make it by: beeline demo --out {given.demo}")
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for part in given.parts or PARTS:
        print(f"{part} ...", file=sys.stderr)
        figures[part] = PARTS[part](given)
        print(json.dumps({part: figures[part]}, indent=1))
    settings = {"seconds": given.seconds, "repeats": given.repeats}
    report.write("serve", figures, [given.seed], given.output, packages=("fastapi", "uvicorn", "redis"), **settings)


if __name__ == "__main__":
    main()
