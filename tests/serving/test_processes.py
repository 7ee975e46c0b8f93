"""Processes that do the requests of a service: the same samples, and no request lost with a process."""

import os
import signal
import time
from functools import partial

import numpy as np
import pytest

from beeline.core.errors import BeelineError
from beeline.serving.hosting.places import Places, served
from beeline.serving.jobs import State
from beeline.serving.processes.workers import Workers
from beeline.serving.requests import SampleRequest
from beeline.serving.service import Limits, Service
from tests.serving.test_service import made_bundle

pytestmark = pytest.mark.slow  # a process imports torch


def drawn(service, **request):
    return service.accept(SampleRequest(**{"condition": {"label": 1}, **request}))


def test_processes_draw_the_same_samples_and_one_that_ends_loses_nothing(tmp_path):
    bundle = made_bundle()
    loads = {"small": partial(served, str(bundle.save(tmp_path / "small")), "cpu")}
    service = Service(Places(loads), Limits(batch=8, samples=64), workers=Workers(loads, Limits(batch=8), 2))
    try:
        assert service.residents.loaded == 0, "the service itself keeps no network"
        jobs = [drawn(service, n=2, seed=k, sampler={"steps": 1 + k % 3}) for k in range(12)]
        for k, job in enumerate(jobs):
            assert job.wait(60) and job.state is State.DONE, job.error
            wanted = bundle.sample(2, seeds=[k, k + 1], label=1, sampler=job.work.sampler).pixels.astype(int)
            assert np.abs(job.result.raw.pixels.astype(int) - wanted).max() <= 1
            assert job.result.facts["seeds"] == [k, k + 1] and job.result.raw.labels.tolist() == [1, 1]
        assert service.batches(service.model(None).host).total() > 0
        assert 'beeline_batch_rows_count{model="small"}' in "\n".join(service.metrics())

        long = [drawn(service, n=4, seed=k, sampler={"steps": 150 + k}) for k in range(4)]
        service.watch(long[0])
        assert long[0].wait(30, lambda job: job.progress > 0 and job.latest is not None)
        used = [process for process in service.workers.processes if process.jobs]
        os.kill(used[0].process.pid, signal.SIGKILL)
        service.cancel(long[3])
        for job in long[:3]:
            assert job.wait(120) and job.state is State.DONE, job.error
        again = [drawn(service, n=4, seed=k, sampler={"steps": 150 + k}) for k in range(3)]
        for job, other in zip(long, again, strict=False):
            assert other.wait(120) and np.array_equal(job.result.raw.pixels, other.result.raw.pixels)
        late = drawn(service, n=1, sampler={"steps": 1000}, timeout=0.05)
        assert late.wait(20) and late.state is State.FAILED and "0.05 seconds" in str(late.error)
        end = time.monotonic() + 20
        while any(process.jobs for process in service.workers.processes):
            assert time.monotonic() < end, "cancelled requests leave their process"
            time.sleep(0.05)
    finally:
        service.close()
    assert not any(process.process.is_alive() for process in service.workers.processes)


def test_a_process_that_cannot_load_is_told(tmp_path):
    with pytest.raises(BeelineError, match="ended before it had loaded"):
        Workers({"none": partial(served, str(tmp_path / "none"), "cpu")}, Limits(), 1)
