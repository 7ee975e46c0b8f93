"""A queue of several workers in Redis: turns, leases, one answer for every job."""

import threading
import time

import pytest

from beeline.core.errors import BeelineError
from beeline.serving.jobs import QueueFullError, State
from beeline.serving.redis.queue import ATTEMPTS, RedisQueue
from tests.serving.redis_servers import SERVERS

pytest.importorskip("redis")


@pytest.fixture(scope="module", params=SERVERS)
def url(request, tmp_path_factory):
    with SERVERS[request.param](tmp_path_factory.mktemp("redis")) as address:
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
        queue.put("lane", id, id.encode(), 2, user, priority)
    with pytest.raises(QueueFullError, match="10 samples wait, and 1 more"):
        queue.put("lane", "d1", b"", 1)
    queue.put("lane", "a1", b"again", 2)  # the same job, whose first answer was lost on the way
    queue.put("other", "o1", b"", 10)
    taken = [queue.take(["lane"], 1) for _ in range(5)]
    assert [[(one.id, one.payload) for one in some] for some in taken] == [
        [(id, id.encode())] for id in ("c1", "a1", "b1", "a2", "a3")
    ]
    assert queue.take(["lane"], 8) == [] and queue.counts("lane")["rows"] == 0
    for k in range(5):
        queue.put("lane", f"e{k}", b"", 2)
    assert [len(queue.take(["lane", "other"], 5)) for _ in range(4)] == [2, 2, 1, 1]


def test_a_job_of_a_lost_worker_is_taken_by_another_and_answered_once(queue, url):
    other = RedisQueue(url, most=10, lease=60, kept=60)
    queue.put("lane", "j", b"work", 1)
    assert queue.take(["lane"], 1) and other.take(["lane"], 1) == []
    ends = queue.client.zscore("{beeline}:leases:lane", "j")
    time.sleep(0.01)
    assert queue.renew({"j": (0.75, b"")}) == {"j": False}
    assert queue.client.zscore("{beeline}:leases:lane", "j") > ends and other.found(["j"])[0].progress == 0.75
    queue.lease = 0.01
    queue.renew({"j": (0.75, b"")})
    assert eventually(lambda: [one.id for one in other.take(["lane"], 1)]) == ["j"]
    assert queue.renew({"j": (1.0, b"")}) == {}, "it is that of the other now"
    assert other.finish("j", State.DONE, b"first") and not queue.finish("j", State.DONE, b"second")
    found = queue.found(["j", "none"])
    assert (found[0].state, found[0].result) == (State.DONE, b"first") and found[1] is None
    assert {"put": 1, "done": 1, "lost": 1, "rows": 0}.items() <= queue.counts("lane").items()
    other.close()


def test_the_answer_of_a_worker_that_was_thought_to_be_lost_counts_once(queue):
    queue.lease = 0.01
    queue.put("lane", "j", b"", 3)
    queue.put("lane", "k", b"", 7)
    assert len(queue.take(["lane"], 3)) == 1
    time.sleep(0.02)
    assert queue.take(["lane"], 1)[0].id == "j", "it waits at its old place"
    time.sleep(0.02)
    queue.take([], 1)
    assert queue.finish("j", State.DONE, b"late")
    assert [one.id for one in queue.take(["lane"], 10)] == ["k"] and queue.counts("lane")["rows"] == 0


def test_a_job_that_ends_its_workers_fails_at_last(queue):
    queue.lease = 0.01
    queue.put("lane", "j", b"", 1)
    for _ in range(ATTEMPTS):
        assert eventually(lambda: queue.take(["lane"], 1))
    eventually(lambda: queue.take(["lane"], 1) == [] and queue.found(["j"])[0].state is State.FAILED)
    assert f"{ATTEMPTS} workers were lost" in queue.found(["j"])[0].error


def test_jobs_are_cancelled_and_given_back(queue):
    for id in "abc":
        queue.put("lane", id, b"", 2)
    assert queue.cancel("b") and not queue.cancel("b") and queue.counts("lane")["rows"] == 4
    assert [one.id for one in queue.take(["lane"], 10)] == ["a", "c"]
    queue.want_previews("a")
    assert queue.renew({"a": (0.5, b"x"), "c": (0.0, b"")}) == {"a": True, "c": False}
    assert queue.found(["a"])[0].latest == b"x"
    assert queue.cancel("c") and queue.renew({"a": (0.5, b""), "c": (0.0, b"")}) == {"a": True}
    queue.give_back(["a", "c"])
    assert [one.id for one in queue.take(["lane"], 10)] == ["a"]


def test_changes_are_told(queue):
    told, closed = [], threading.Event()
    thread = threading.Thread(target=queue.listen, args=(told.append, closed))
    thread.start()
    eventually(lambda: queue.client.pubsub_numsub("{beeline}:changed")[0][1])
    queue.put("lane", "j", b"", 1)
    queue.take(["lane"], 1)
    queue.renew({"j": (0.5, b"")})
    queue.renew({"j": (0.5, b"")})  # no change
    queue.finish("j", State.DONE)
    eventually(lambda: len(told) >= 4)
    closed.set()
    thread.join()
    assert told == ["", "j", "j", "j"]


def test_results_are_kept_for_a_while(queue):
    queue.put("lane", "j", b"", 1)
    queue.take(["lane"], 1)
    queue.finish("j", State.DONE, b"x")
    assert 50 < queue.client.ttl("{beeline}:job:j") <= 60
    queue.kept = 0.01
    queue.put("lane", "k", b"", 1)
    queue.cancel("k")
    eventually(lambda: queue.found(["k"]) == [None])


def test_an_address_without_redis_is_refused():
    for address in ("redis://127.0.0.1:1/0", "file:///etc"):
        with pytest.raises(BeelineError, match="no Redis answers there"):
            RedisQueue(address)
