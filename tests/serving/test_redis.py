"""A queue of several workers in Redis: turns, leases, one answer for every job."""

import contextlib
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pandas
import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.data.images import Images
from beeline.data.points import PointSet
from beeline.data.signals.arrays import ArraySet
from beeline.serving.jobs import QueueFullError, State, TooLateError
from beeline.serving.redis.queue import ALONE, SHARED, RedisQueue
from beeline.serving.redis.service import RedisService
from beeline.serving.requests import Requested, SampleRequest, SamplerRequest
from beeline.serving.service import Limits, Service
from beeline.serving.uses import EditRequest, ScoreRequest
from beeline.serving.wire.errors import error_of, kind_of
from beeline.serving.wire.requests import REQUESTS, packed, unpacked
from beeline.serving.wire.results import dumped, loaded
from benchmarks.serve_parts.client import http, once, post
from benchmarks.serve_parts.redis_server import SERVERS, some
from benchmarks.serve_parts.server import Server, serving
from tests.serving.test_service import made_bundle

pytest.importorskip("redis")


@pytest.fixture(scope="module", params=SERVERS)
def url(request):
    """The address of each kind of server."""
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(SERVERS[request.param]())
        except LookupError as error:
            pytest.skip(str(error))
        yield address


@pytest.fixture(scope="module")
def redis():
    """The address of one server."""
    with contextlib.ExitStack() as stack:
        try:
            _, address = stack.enter_context(some())
        except LookupError as error:
            pytest.skip(str(error))
        yield address


@pytest.fixture
def queue(url):
    made = RedisQueue(url, most=10, lease=60, kept=60)
    made.client.flushall()
    yield made
    made.close()


def eventually(found):
    """What a function gives at last, within 20 seconds."""
    for _ in range(1000):
        if made := found():
            return made
        time.sleep(0.02)
    raise AssertionError("it did not come")


def test_users_take_turns_by_priority_and_a_full_queue_refuses(queue):
    for id, user, priority in [("a1", "a", 0), ("a2", "a", 0), ("a3", "a", 0), ("b1", "b", 0), ("c1", "c", 5)]:
        queue.put("topic", id, id.encode(), 2, user, priority)
    with pytest.raises(QueueFullError, match="10 samples wait, and 1 more"):
        queue.put("topic", "d1", b"", 1)
    queue.put("topic", "a1", b"again", 2)  # the same job, whose first answer was lost on the way
    queue.put("other", "o1", b"", 10)
    taken = [queue.take(["topic"], 1) for _ in range(5)]
    assert [[(one.id, one.payload) for one in some] for some in taken] == [
        [(id, id.encode())] for id in ("c1", "a1", "b1", "a2", "a3")
    ]
    assert queue.take(["topic"], 8) == [] and queue.counts("topic")["rows"] == 0
    for k in range(5):
        queue.put("topic", f"e{k}", b"", 2)
    assert [len(queue.take(["topic", "other"], 5)) for _ in range(4)] == [2, 2, 1, 1]


def test_a_job_of_a_lost_worker_is_taken_by_another_and_answered_once(queue, url):
    other = RedisQueue(url, most=10, lease=60, kept=60)
    queue.put("topic", "j", b"work", 1)
    assert queue.take(["topic"], 1) and other.take(["topic"], 1) == []
    ends = queue.client.zscore("{beeline}:leases:topic", "j")
    time.sleep(0.01)
    assert queue.renew({"j": (0.75, b"")}) == {"j": False}
    assert queue.client.zscore("{beeline}:leases:topic", "j") > ends and other.found(["j"])[0].progress == 0.75
    queue.lease = 0.01
    queue.renew({"j": (0.75, b"")})
    assert eventually(lambda: [one.id for one in other.take(["topic"], 1)]) == ["j"]
    assert queue.renew({"j": (1.0, b"")}) == {}, "it is that of the other now"
    assert other.finish("j", State.DONE, b"first") and not queue.finish("j", State.DONE, b"second")
    found = queue.found(["j", "none"])
    assert (found[0].state, found[0].result) == (State.DONE, b"first") and found[1] is None
    assert {"put": 1, "done": 1, "lost": 1, "rows": 0}.items() <= queue.counts("topic").items()
    other.close()


def test_the_answer_of_a_worker_that_was_thought_to_be_lost_counts_once(queue):
    queue.lease = 0.01
    queue.put("topic", "j", b"", 3)
    queue.put("topic", "k", b"", 7)
    assert len(queue.take(["topic"], 3)) == 1
    time.sleep(0.02)
    assert queue.take(["topic"], 1)[0].id == "j", "it waits at its old place"
    time.sleep(0.02)
    queue.take([], 1)
    assert queue.finish("j", State.DONE, b"late")
    assert [one.id for one in queue.take(["topic"], 10)] == ["k"] and queue.counts("topic")["rows"] == 0


def test_a_job_that_ends_its_workers_is_given_alone_and_fails_at_last(queue):
    queue.lease = 0.01
    queue.put("topic", "bad", b"", 1)
    for _ in range(SHARED):
        assert not eventually(lambda: queue.take(["topic"], 1))[0].alone
    time.sleep(0.02)
    queue.put("topic", "good", b"", 1, priority=-1)
    assert queue.take(["topic"], 10, free=False) == [], "a worker with other jobs leaves it"
    for _ in range(ALONE):
        taken = eventually(lambda: queue.take(["topic"], 10))
        assert [(one.id, one.alone) for one in taken] == [("bad", True)]
        time.sleep(0.02)
    assert [one.id for one in queue.take(["topic"], 10)] == ["good"]
    found = queue.found(["bad"])[0]
    assert found.state is State.FAILED and f"{SHARED + ALONE} workers were lost" in found.error


def test_jobs_are_cancelled_and_given_back(queue):
    for id in "abc":
        queue.put("topic", id, b"", 2)
    assert queue.cancel("b") and not queue.cancel("b") and queue.counts("topic")["rows"] == 4
    assert [one.id for one in queue.take(["topic"], 10)] == ["a", "c"]
    queue.want_previews("a")
    assert queue.renew({"a": (0.5, b"x"), "c": (0.0, b"")}) == {"a": True, "c": False}
    assert queue.found(["a"])[0].latest == b"x"
    assert queue.cancel("c") and queue.renew({"a": (0.5, b""), "c": (0.0, b"")}) == {"a": True}
    queue.give_back(["a", "c"])
    assert [one.id for one in queue.take(["topic"], 10)] == ["a"]


def test_changes_are_told(queue):
    messages, closed = [], threading.Event()
    thread = threading.Thread(target=queue.listen, args=(messages.append, closed))
    thread.start()
    eventually(lambda: queue.client.pubsub_numsub("{beeline}:changed")[0][1])
    queue.put("topic", "j", b"", 1)
    queue.take(["topic"], 1)
    queue.renew({"j": (0.5, b"")})
    queue.renew({"j": (0.5, b"")})  # no change
    queue.finish("j", State.DONE)
    eventually(lambda: len(messages) >= 4)
    closed.set()
    thread.join()
    assert messages == ["", "j", "j", "j"]


def test_results_are_kept_for_a_while(queue):
    queue.put("topic", "j", b"", 1)
    queue.take(["topic"], 1)
    queue.finish("j", State.DONE, b"x")
    assert 50 < queue.client.ttl("{beeline}:job:j") <= 60
    queue.kept = 0.01
    queue.put("topic", "k", b"", 1)
    queue.cancel("k")
    eventually(lambda: queue.found(["k"]) == [None])


def test_an_address_without_redis_is_refused():
    for address in ("redis://127.0.0.1:1/0", "file:///etc"):
        with pytest.raises(BeelineError, match="no Redis answers there"):
            RedisQueue(address)


SAMPLES = {
    "nothing": None,
    "a tensor": torch.randn(2, 3),
    "an array": np.arange(6.0).reshape(2, 3)[:, ::-1],
    "texts": ["a", "\u00e9\n"],
    "images": Images(np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1), np.array([1, 0]), ("a", "b")),
    "sounds": ArraySet(np.random.default_rng(0).normal(size=(2, 1, 5)).astype(np.float32)),
    "points": PointSet(np.ones((2, 2)), ("u", "v")),
    "a table": pandas.DataFrame({"age": [1, None], "who": pandas.Categorical(["x", "y"]), "on": [True, False]}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_sent_without_loss(name):
    raw, facts = SAMPLES[name], {"seeds": [1, 2]}
    found, said = loaded(dumped(raw, facts))
    assert said == facts and type(found) is type(raw)
    if name == "a table":
        pandas.testing.assert_frame_equal(found, raw)
        return
    for one, other in zip(*(vars(x).values() if hasattr(x, "__dict__") else [x] for x in (found, raw)), strict=True):
        assert type(one) is type(other) and np.array_equal(one, other), (one, other)


def test_samples_of_an_unknown_type_are_refused():
    with pytest.raises(BeelineError, match="of the type object cannot be sent"):
        dumped(object())


@pytest.fixture(scope="module")
def bundle():
    return made_bundle()


def sample(k=0, n=1, label=1, **sampler):
    return SampleRequest(n=n, seed=k, condition={"label": label}, sampler=SamplerRequest(**sampler))


@pytest.fixture
def services(redis, bundle):
    """Three services behind one queue."""
    RedisQueue(redis).client.flushall()
    made = [
        RedisService({"small": bundle}, RedisQueue(redis, lease=60), Limits(batch=16, samples=40)) for _ in range(3)
    ]
    yield made
    for service in made:
        service.close()


def test_several_services_do_the_requests_of_each_other(services, bundle):
    """Every sample is that of one service alone, whichever process draws it."""
    front = services[0]
    requests = [sample(k, 2, k % 4, steps=1 + k % 3, guidance_scale=2 + k % 2) for k in range(24)]
    jobs = [front.accept(request, user=str(k % 2)) for k, request in enumerate(requests)]
    assert all(job.wait(60) and job.state is State.DONE for job in jobs)
    alone = Service({"small": bundle}, Limits(batch=16))
    for job, request in zip(jobs, requests, strict=True):
        wanted = alone.accept(request)
        assert wanted.wait(60) and np.array_equal(job.result.raw.pixels, wanted.result.raw.pixels)
        assert job.result.raw.labels.tolist() == wanted.result.raw.labels.tolist()
        assert job.result.facts == wanted.result.facts
    alone.close()
    seen = services[1].job(jobs[5].id)
    assert seen.state is State.DONE and np.array_equal(seen.result.raw.pixels, jobs[5].result.raw.pixels)
    assert sum(service.local.counted["done"] > 0 for service in services) > 1
    assert 'beeline_queue_jobs{model="small",state="done"} 24' in list(front.metrics())
    with pytest.raises(BeelineError, match="there is no job 'none'"):
        front.job("none")
    with pytest.raises(BeelineError, match="1 to 40"):
        front.accept(sample(n=41))


def test_requests_are_sent_as_they_are():
    edit = EditRequest(data=[[0]], to={"label": 1}, **{"from": {"label": 0}}, sampler=SamplerRequest(steps=3))
    for request in (sample(3, 2, steps=4), edit, ScoreRequest(data="x", priority=2)):
        assert unpacked(packed(request)) == request
    assert set(last(Requested)) == set(REQUESTS.values())
    drawn = SampleRequest().settled()
    assert drawn.seed is not None and drawn.settled() is drawn
    with pytest.raises(BeelineError, match="'Other' came"):
        unpacked(b'{"kind": "Other", "request": {}}')


def last(kind):
    """The classes below one that have none below."""
    below = kind.__subclasses__()
    return [one for part in below for one in last(part)] if below else [kind]


def test_edits_go_through_the_queue_and_what_is_wrong_fails_there(services):
    first, second = services[:2]
    data = (np.arange(64, dtype=np.uint8).reshape(1, 8, 8) * 3).tolist()
    same = EditRequest(data=data, to={"label": 1}, **{"from": {"label": 1}})
    job = first.accept(same)
    assert job.wait(60) and job.state is State.DONE, job.error
    assert np.array_equal(job.result.raw.pixels[..., 0], np.array(data)), "nothing is to be changed"
    score = second.accept(ScoreRequest(data=data, condition={"label": 1}, steps=2))
    assert score.wait(60) and score.result.raw is None and len(score.result.facts["log_prob"]) == 1
    first.redis.put("small@", "bad", packed(SampleRequest(model="small", condition={"label": 77})), 1)
    bad = eventually(lambda: failed(first, "bad"))
    assert '"kind": "request"' in bad.error and "77" in bad.error


def failed(service, id):
    found = service.redis.found([id])[0]
    return found if found.state is State.FAILED else None


def test_requests_are_cancelled_by_any_service_and_tell_what_they_reach(services):
    job = services[0].accept(sample(steps=1000))
    services[0].watch(job)
    assert job.wait(60, lambda job: job.latest is not None) and 0 < job.progress < 1
    assert job.latest.shape == (1, 1, 8, 8)
    services[1].cancel(services[1].job(job.id))
    assert job.wait(20) and job.state is State.CANCELLED
    eventually(lambda: not any(service._running for service in services))


def test_a_service_that_stops_leaves_its_requests_to_others(redis, bundle):
    first, second = (RedisService({"small": bundle}, RedisQueue(redis), Limits(batch=4, runs=1)) for _ in range(2))
    try:
        jobs = [second.accept(sample(k, steps=20 + k)) for k in range(12)]
        first.close()
        assert all(job.wait(60) and job.state is State.DONE for job in jobs)
    finally:
        second.close()


@pytest.mark.slow
@pytest.mark.engine
def test_servers_that_are_killed_lose_no_job(redis, bundle, tmp_path):
    """Jobs are accepted by two servers; one is killed, and the other has the results of all."""
    place = bundle.save(tmp_path / "bundle")
    RedisQueue(redis).client.flushall()
    arguments = (place, "--queue", redis, "--lease", "1", "--batch", "8")
    with serving(*arguments) as stays:
        ids = []
        for _ in range(2):
            dies = Server(*arguments)
            dies.wait()
            for k in range(30):
                server = (stays, dies)[k % 2]
                body = {"seed": k, "condition": {"label": k % 4}, "sampler": {"steps": 100 + k}}
                status, content = once(server.port, post(body, "/v1/jobs"))
                assert status == 202, content
                ids.append((json.loads(content)["id"], k))
            dies.kill()
        drawn = {}
        for id, k in ids:
            path = f"/v1/jobs/{id}"
            eventually(lambda path=path: json.loads(once(stays.port, http("GET", path))[1])["state"] == "done")
            made = json.loads(once(stays.port, http("GET", f"{path}/result"))[1])["samples"]
            assert drawn.setdefault(k, made) == made
        text = once(stays.port, http("GET", "/metrics"))[1].decode()
        assert f'state="done"}} {len(ids)}' in text
        assert stays.said().count("Traceback") == 0


@pytest.mark.slow
@pytest.mark.engine
def test_workers_that_are_killed_under_load_lose_no_job(redis, bundle, tmp_path):
    """The measurement of benchmarks/serve.py, with fewer kills and a network of random weights."""
    for name in ("teacher", "distilled"):
        bundle.save(tmp_path / name)
    command = [sys.executable, "-m", "benchmarks.serve", "kills", "--demo", tmp_path, "--kills", "10"]
    subprocess.run([*command, "--output", tmp_path / "found"], check=True, timeout=300, stdout=subprocess.DEVNULL)
    found = json.loads((tmp_path / "found").read_text())["figures"]["kills"]
    assert found["lost"] == found["answered_twice"] == 0 and found["equal"] == found["compared_with_the_bundle_alone"]
    assert found["answers_counted_by_redis"] == found["accepted"] > 0 and found["taken_up_after_a_kill"] > 0


def test_errors_keep_their_kind_between_processes():
    for error in (TooLateError("late"), BeelineError("wrong"), RuntimeError("broken"), ValueError("wrong")):
        found = error_of(kind_of(error), str(error))
        assert str(found) == str(error) and isinstance(found, ValueError) == isinstance(error, ValueError)
        assert isinstance(found, TooLateError) == isinstance(error, TooLateError)
