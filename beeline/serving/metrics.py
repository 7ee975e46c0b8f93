"""Counts and times of a service in the text form of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from beeline.serving.jobs import State

if TYPE_CHECKING:  # which has these metrics
    from beeline.serving.service import Service


def lines(service: Service) -> Iterator[str]:
    """All metrics of a service."""
    counted = service.counted
    yield from _one("beeline_requests_total", "counter", "requests taken", counted["requests"])
    yield from _one("beeline_done_total", "counter", "requests answered", counted["done"])
    yield from _one("beeline_failed_total", "counter", "requests that failed", counted["failed"])
    yield from _one("beeline_seconds_total", "counter", "seconds from request to answer, summed", service.seconds)
    yield from _one("beeline_waiting_samples", "gauge", "samples in the queue", service.queue.waiting)
    running = sum(job.state is State.RUNNING for job in list(service.jobs.values()))
    yield from _one("beeline_running_requests", "gauge", "requests that run", running)
    yield "# HELP beeline_batch_rows rows of an evaluation that were asked for"
    yield "# TYPE beeline_batch_rows histogram"
    for host in {id(model.host): model.host for model in service.models.values()}.values():
        name, batches = host.names[0], service.batches(host)
        total = sum(batches.values())
        for size in host.sizes:
            below = sum(count for n, count in batches.items() if n <= size)
            yield f'beeline_batch_rows_bucket{{model="{name}",le="{size}"}} {below}'
        yield f'beeline_batch_rows_bucket{{model="{name}",le="+Inf"}} {total}'
        yield f'beeline_batch_rows_sum{{model="{name}"}} {sum(n * count for n, count in batches.items())}'
        yield f'beeline_batch_rows_count{{model="{name}"}} {total}'
    yield from _one("beeline_loaded_models", "gauge", "networks that are loaded", service.residents.loaded)


def _one(name: str, kind: str, meaning: str, value: float) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
    yield f"{name} {value:g}"
