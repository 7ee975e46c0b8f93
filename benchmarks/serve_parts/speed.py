"""Throughput and latencies of a server."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from beeline.runs.bundle import Bundle, load
from benchmarks.serve_parts.client import Load, percentiles, post, rate, statuses
from benchmarks.serve_parts.server import Server, serving

CLIENTS = (1, 16, 64)
SIZES = (1, 16)  # samples of a request
WARM = 1.0  # seconds of load before a measurement
OVER = 10  # times the sustained rate
MANY = 64  # samples of a request of the overload
EVALUATIONS, SCALES = (1, 4, 16), (1.0, 2.0, 4.0)
COPIES = 4  # requests of each kind in the mixed load


def digits(k: int, n: int = 1) -> dict[str, Any]:
    """Request k for digits."""
    return {"n": n, "seed": 1000 * k, "condition": {"label": k % 10}}


def ask(n: int) -> Callable[[int], bytes]:
    """Requests of ``n`` samples."""
    return lambda k: post(digits(k, n))


def throughput(given: argparse.Namespace) -> dict[str, Any]:
    """Samples a second beside a bare loop over the same batches, by turns, for requests of several sizes."""
    bundle = load(given.demo / "distilled")
    with serving(given.demo / "distilled") as server:
        return {f"samples_of_a_request_{n}": compared(server, bundle, n, given) for n in SIZES}


def compared(server: Server, bundle: Bundle, n: int, given: argparse.Namespace) -> dict[str, Any]:
    """Samples a second of requests for ``n`` each, of the bare loop, and processor time of the server."""
    runs = []
    for _ in range(given.repeats):
        Load(server.port, ask(n)).closed(CLIENTS[-1], WARM)
        before, processor = server.batches(), server.seconds()
        answers = Load(server.port, ask(n)).closed(CLIENTS[-1], given.seconds)
        busy = server.seconds() - processor
        drawn = {size: count - before[size] for size, count in server.batches().items() if count > before[size]}
        alone, cost = bare(bundle, drawn, given.seconds)
        runs.append((n * rate(answers), alone, 1000 * busy / (n * len(answers)), 1000 * cost, drawn, statuses(answers)))
    served, alone, spent, cost = (statistics.median(column) for column in list(zip(*runs, strict=True))[:4])
    return {
        "clients": CLIENTS[-1],
        "requests_per_second": round(served / n, 1),
        "samples_per_second": round(served, 1),
        "bare_samples_per_second": round(alone, 1),
        "ratio": round(served / alone, 3),
        "processor_ms_of_a_sample": {"server": round(spent, 4), "bare": round(cost, 4)},
        "runs": [
            {"served": round(s, 1), "bare": round(b, 1), "batches": batches, "statuses": came}
            for s, b, _, _, batches, came in runs
        ],
    }


def bare(bundle: Bundle, batches: dict[int, int], seconds: float) -> tuple[float, float]:
    """Samples a second of a loop over batches in the given proportions, and processor seconds of a sample."""
    total = sum(batches.values())
    sizes = [size for size, count in sorted(batches.items()) for _ in range(max(1, round(50 * count / total)))]
    drawn, begun, processor = 0, time.perf_counter(), time.process_time()
    for size in itertools.cycle(sizes):
        seeds = list(range(drawn, drawn + size))
        cond = bundle.condition({"label": [k % 10 for k in range(size)]}, size)
        sampler = bundle.sampler.seeded(seeds, 0)
        bundle.modality.decode(bundle.draw(bundle.start(seeds), cond, sampler=sampler, batch_size=size))
        drawn += size
        if time.perf_counter() - begun > seconds:
            break
    return drawn / (time.perf_counter() - begun), (time.process_time() - processor) / drawn


def latency(given: argparse.Namespace) -> dict[str, Any]:
    """Times of requests by the number of clients; medians of the repeats."""
    found: dict[int, list[dict[str, float]]] = {clients: [] for clients in CLIENTS}
    with serving(given.demo / "distilled") as server:
        for _ in range(given.repeats):
            for clients, rows in found.items():
                Load(server.port, ask(1)).closed(clients, WARM)
                rows.append(percentiles(Load(server.port, ask(1)).closed(clients, given.seconds)))
    return {
        str(clients): {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for clients, rows in found.items()
    }


def overload(given: argparse.Namespace) -> dict[str, Any]:
    """Ten times the rate that 16 clients get: what is lost, and how soon the rest is refused."""
    with serving(given.demo / "distilled", "--waiting", 16 * MANY) as server:
        Load(server.port, ask(MANY)).closed(CLIENTS[1], WARM)
        sustained = rate(Load(server.port, ask(MANY)).closed(CLIENTS[1], given.seconds))
        answers = Load(server.port, ask(MANY)).open(OVER * sustained, given.seconds)
        afterwards = Load(server.port, ask(MANY)).closed(1, most=1)
    refused = [a for a in answers if a.status == 429]
    return {
        "samples_of_a_request": MANY,
        "sustained_per_second": round(sustained, 1),
        "sent_per_second": round(OVER * sustained, 1),
        "sent": len(answers),
        "statuses": statuses(answers),
        "lost": int(OVER * sustained * given.seconds) - sum(a.status in (200, 429) for a in answers),
        "refused": percentiles(refused),
        "refused_within_100_ms": round(sum(a.seconds <= 0.1 for a in refused) / max(1, len(refused)), 4),
        "answered": percentiles(a for a in answers if a.status == 200),
        "status_afterwards": afterwards[0].status,
    }


def mixed(given: argparse.Namespace) -> dict[str, Any]:
    """Requests of nine kinds, all at once and one after another, by turns."""
    kinds = list(itertools.product(EVALUATIONS, SCALES))
    count = COPIES * len(kinds)

    def mix(k: int) -> bytes:
        evaluations, scale = kinds[k % len(kinds)]
        sampler = {"steps": evaluations, "solver": "EULER", "guidance_scale": scale}
        return post({**digits(k), "sampler": sampler})

    seconds: dict[str, list[float]] = {"together": [], "one_after_another": []}
    drawn: dict[str, dict[int, Any]] = {}
    with serving(given.demo / "teacher") as server:
        Load(server.port, mix).closed(count, most=count)
        for _ in range(given.repeats):
            for name, clients in (("together", count), ("one_after_another", 1)):
                begun = time.perf_counter()
                answers = Load(server.port, mix, keep=True).closed(clients, most=count)
                seconds[name].append(time.perf_counter() - begun)
                drawn[name] = {a.number: json.loads(a.body)["samples"] for a in answers}
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "requests": count,
        "evaluations": EVALUATIONS,
        "guidance_scales": SCALES,
        "ratio": round(middle["one_after_another"] / middle["together"], 3),
        "seconds": {name: [round(s, 3) for s in times] for name, times in seconds.items()},
        "equal_answers": sum(drawn["together"][k] == made for k, made in drawn["one_after_another"].items()),
    }
