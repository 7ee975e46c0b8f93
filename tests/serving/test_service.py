"""A service: samples that do not depend on their batch, a queue in turns, and a real server."""

import concurrent.futures
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from beeline.cli.main import run as cli
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.couplings.watermark import TreeRing
from beeline.data.images import Image, Images
from beeline.fields.flow import Flow, Network
from beeline.networks.dit import DiT
from beeline.runs.bundle import Bundle
from beeline.runs.editing.watermarks import watermarked
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler
from beeline.serving.answers import accepted
from beeline.serving.hosting.evaluations import Evaluations, equal_sizes
from beeline.serving.jobs import Job, Queue, QueueFullError, State
from beeline.serving.keys import Keys, hashed
from beeline.serving.requests import component
from beeline.serving.service import Limits, Service
from beeline.serving.works import Drawing
from beeline.solvers.runge_kutta import EULER, HEUN


def made_bundle():
    pixels = Rng(0).integers(256, 8 * 64).view(8, 8, 8, 1).to(torch.uint8).numpy()
    modality = Image().fit(Images(pixels, np.arange(8) % 4))
    with Rng(1).ambient():
        net = DiT((1, 8, 8), width=16, depth=1, heads=2, conditions={"label": {"classes": 4}})
        for p in net.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    flow = Flow(Network(net).eval().requires_grad_(False), null={"label": 4})
    return Bundle(flow, Sampler(4), modality, {"shape": [1, 8, 8]})


@pytest.fixture
def service(bundle):
    made = Service({"small": bundle}, Limits(batch=16, samples=40))
    yield made
    made.close()


def test_a_sample_has_the_same_bits_alone_and_beside_others(service, bundle):
    """Others have other seeds, conditions, solvers, numbers of steps and guidance scales."""
    samplers = [Sampler(n, solver=s, guidance=g) for n in (1, 3, 4) for s in (EULER, HEUN) for g in (CFG(2), CFG(3))]
    every = [service.drawing(None, [k, k + 50], {"label": k % 4}, samplers[k % 12]) for k in range(24)]
    alone = []
    for drawing in every:
        job = service.submit(drawing)
        assert job.wait(60) and job.state is State.DONE, job.error
        alone.append(job.result.raw.pixels)
    before = service.model(None).host.batches
    jobs = [service.submit(drawing, key=str(k % 3)) for k, drawing in enumerate(every)]
    assert all(job.wait(120) for job in jobs)
    assert all(np.array_equal(job.result.raw.pixels, wanted) for job, wanted in zip(jobs, alone, strict=True))
    later = service.model(None).host.batches - before
    assert max(later) > 4, "rows of several requests share batches"
    assert jobs[0].result.raw.labels.tolist() == [0, 0]


def test_sizes_of_batches_give_equal_bits(bundle):
    x = Rng(3).normal(torch.empty(16, 1, 8, 8))
    t, cond = Rng(4).uniform(16, x), {"label": torch.arange(16) % 4}
    net = bundle.flow.field
    sizes, difference = equal_sizes(net, x, t, cond, 16)
    assert sizes[-1] == 16 and 0 <= difference < 1e-4
    evaluations = Evaluations(net, sizes)
    try:
        whole = net(x, t, cond)
        for rows in ([0], [3, 5], [15, 0, 7, 2, 9]):
            found = evaluations(x[rows], t[rows], {"label": cond["label"][rows]}, None)
            assert torch.equal(found, whole[rows])
        big = evaluations(torch.cat([x, x]), torch.cat([t, t]), {"label": torch.cat([cond["label"]] * 2)}, None)
        assert torch.equal(big, torch.cat([whole, whole]))
        with pytest.raises(BeelineError, match="outside its range"):
            evaluations(x[:1], t[:1], {"label": torch.tensor([9])}, None)
    finally:
        evaluations.close()


def test_only_the_request_that_fails_fails(service):
    good = [service.drawing(None, [k], {"label": 1}) for k in range(6)]
    bad = Drawing("small", (1,), None, {"label": torch.tensor([77])}, good[0].sampler)
    jobs = [service.submit(drawing) for drawing in (*good[:3], bad, *good[3:])]
    assert all(job.wait(60) for job in jobs)
    assert [job.state for job in jobs] == [State.DONE] * 3 + [State.FAILED] + [State.DONE] * 3
    assert "outside its range" in str(jobs[3].error)


def test_users_take_turns_and_a_full_queue_refuses(bundle):
    def job(key, n=1, priority=0, steps=1):
        return Job(Drawing("small", tuple(range(n)), None, None, Sampler(steps)), key, priority)

    queue = Queue(10)
    for k, (key, priority) in enumerate([("a", 0), ("a", 0), ("a", 0), ("b", 0), ("c", 5)]):
        queue.put(job(key, priority=priority, steps=k + 1))
    assert ["".join(j.key for j in queue.take(1, 0.0)) for _ in range(5)] == ["c", "a", "b", "a", "a"]
    queue.put(job("a", 8))
    with pytest.raises(QueueFullError, match="8 samples wait, and 3 more"):
        queue.put(job("b", 3))
    queue.put(job("b", 2))
    assert [j.work.rows for j in queue.take(10, 0.0)] == [8, 2], "one sampler, one run"
    assert queue.waiting == 0 and queue.take(1, 0.0) == []


def test_a_cancelled_job_ends_while_others_go_on(service):
    long = [service.submit(service.drawing(None, [k], {"label": 0}, Sampler(400 + k))) for k in range(2)]
    assert long[0].wait(30, lambda job: job.progress > 0)
    service.cancel(long[0])
    assert long[0].state is State.CANCELLED and long[1].wait(60) and long[1].state is State.DONE


@pytest.mark.parametrize("text", ["WeakBundle('x')", "CFG(2)"])
def test_requests_hold_no_texts(text):
    if "2" in text:
        assert component(text, "guidance") is not None
        return
    with pytest.raises(BeelineError, match="holds a text"):
        component(text, "references")


def test_types_of_answers():
    assert accepted("image/png, */*", (".png",)) == "image/png"
    assert accepted("*/*", (".png",)) == "application/json"
    with pytest.raises(BeelineError, match="accept one of application/json, image/png"):
        accepted("video/mp4", (".png",))


def test_keys_are_read_as_hashes(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# users\nada {hashed('secret')}\n")
    keys = Keys.read(file)
    assert keys.user("Bearer secret") == "ada" and keys.user("Bearer other") is None and keys.user("") is None
    file.write_text("ada secret\n")
    with pytest.raises(BeelineError, match="line 1"):
        Keys.read(file)


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    """(process, port) of ``beeline serve``."""
    pytest.importorskip("uvicorn")
    place = bundle.save(tmp_path_factory.mktemp("serve") / "bundle")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "beeline", "serve", str(place), "--port", str(port), "--waiting", "64"]
    (place.parent / "secret").write_text("0123456789abcdef")
    command += ["--watermark", str(place.parent / "secret"), "--log", str(place.parent / "log"), "--rate", "10000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        try:
            if call(port, "GET", "/ready")[0] == 200:
                break
        except OSError:
            time.sleep(0.1)
            assert process.poll() is None, process.stderr.read()
    yield process, port
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert "Traceback" not in process.stderr.read()


def call(port, method, path, body=None, **headers):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    raw = body if isinstance(body, str | bytes | None) else json.dumps(body)
    link.request(method, path, raw, {"Content-Type": "application/json", **headers})
    answer = link.getresponse()
    content = answer.read()
    link.close()
    found = json.loads(content) if answer.headers.get_content_type() == "application/json" else content
    return answer.status, found


@pytest.mark.engine
def test_a_server_draws_what_the_bundle_draws(server, bundle):
    _, port = server
    assert call(port, "GET", "/health") == (200, {"status": "ok"})
    request = {"n": 1, "seed": 7, "condition": {"label": 3}}
    status, found = call(port, "POST", "/v1/sample", request, Accept="application/json")
    assert status == 200 and found["seeds"] == [7] and found["evaluations"] == 8
    made = watermarked(bundle, TreeRing.of_secret(b"0123456789abcdef")).sample(1, seeds=[7], label=3)
    difference = np.abs(np.array(found["samples"], np.int64) - made.pixels.astype(np.int64)).max()
    assert difference <= 1, "up to rounding at the border of two values"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [{"n": 2, "seed": k, "condition": {"label": k % 4}, "sampler": {"steps": 1 + k % 3}} for k in range(24)]
        answers = list(pool.map(lambda r: call(port, "POST", "/v1/sample", r), asked))
    assert {status for status, _ in answers} == {200}
    again = call(port, "POST", "/v1/sample", asked[5])[1]["samples"]
    assert again == answers[5][1]["samples"]
    status, png = call(port, "POST", "/v1/sample", request, Accept="image/png")
    assert status == 200 and png[:4] == b"\x89PNG"
    status, text = call(port, "GET", "/metrics")
    assert status == 200 and b"beeline_requests_total" in text and b'le="+Inf"' in text
    assert call(port, "GET", "/v1/models")[1]["data"][0]["conditions"] == {"label": {"classes": 4}}
    assert "/v1/sample" in call(port, "GET", "/openapi.json")[1]["paths"]


@pytest.mark.engine
def test_jobs_of_a_server_tell_their_progress_and_are_cancelled(server):
    _, port = server
    status, job = call(port, "POST", "/v1/jobs", {"n": 1, "condition": {"label": 0}, "sampler": {"steps": 60}})
    assert status == 202
    events = call(port, "GET", f"/v1/jobs/{job['id']}/events?previews=true")[1].decode().split("\n\n")
    events = [json.loads(event.removeprefix("data: ")) for event in events if event]
    assert events[-1]["state"] == "done" and any("preview" in one for one in events)
    assert call(port, "GET", f"/v1/jobs/{job['id']}/result")[0] == 200
    job = call(port, "POST", "/v1/jobs", {"condition": {"label": 0}, "sampler": {"steps": 1000}})[1]
    assert call(port, "DELETE", f"/v1/jobs/{job['id']}")[1]["state"] == "cancelled"
    assert call(port, "GET", f"/v1/jobs/{job['id']}/result")[0] == 409


BAD = {
    "unknown field": ({"sed": 7}, 422, "did you mean 'seed'"),
    "unknown setting": ({"sampler": {"step": 7}}, 422, "did you mean 'steps'"),
    "too many": ({"n": 1000, "condition": {"label": 1}}, 422, "1 to 256"),
    "far too many": ({"n": 10**12}, 422, "less than or equal to 65536"),
    "none": ({"n": 0}, 422, "greater than or equal to 1"),
    "no model": ({"model": "other"}, 422, "there is no model 'other'"),
    "no label": ({"condition": {"label": 9}}, 422, "label"),
    "no condition": ({"condition": {"lable": 1}}, 422, "lable"),
    "seeds": ({"n": 2, "seeds": [1]}, 422, "one seed for every sample"),
    "a path": ({"sampler": {"solver": "Bespoke('/etc/passwd')"}}, 422, ""),
    "half a body": ('{"n": 1, "se', 422, ""),
    "no object": ("[1, 2]", 422, ""),
    "nothing": ("", 422, ""),
    "large": ('{"condition": "' + "x" * 2**20 + '"}', 413, "at most 1,048,576"),
    "deep": ("[" * 5000 + "]" * 5000, 400, ""),
    "infinite": ('{"sampler": {"guidance_scale": 1e999}}', 422, ""),
}


@pytest.mark.engine
@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused_in_one_form(server, case):
    body, wanted, message = BAD[case]
    status, found = call(server[1], "POST", "/v1/sample", body)
    assert status == wanted and set(found) == {"error"} and found["error"]["status"] == status
    assert message in found["error"]["message"]


@pytest.mark.engine
def test_a_queue_that_is_full_refuses_at_once_and_loses_nothing(server):
    _, port = server
    body = {"n": 32, "condition": {"label": 1}, "sampler": {"steps": 40}}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda k: call(port, "POST", "/v1/sample", {**body, "seed": k})[0], range(16)))
    assert set(answers) == {200, 429}
    assert call(port, "GET", "/ready")[0] == 200


@pytest.mark.engine
def test_a_client_that_leaves_disturbs_nobody(server):
    _, port = server
    link = socket.create_connection(("127.0.0.1", port))
    body = json.dumps({"condition": {"label": 1}, "sampler": {"steps": 1000}})
    link.sendall(f"POST /v1/sample HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    link.close()
    assert call(port, "POST", "/v1/sample", {"condition": {"label": 2}})[0] == 200
    assert threading.active_count() < 50


@pytest.mark.engine
def test_what_a_server_needs_is_checked_before_it_loads(server, tmp_path, capsys):
    """A port that is taken and a log that cannot be written; the bundle that is named does not even exist."""
    _, port = server
    for words, message in (
        (["--port", str(port)], f"port {port}, cannot be listened on"),
        (["--log", str(tmp_path / "none" / "log")], "No such file or directory"),
    ):
        assert cli(["serve", "nothere", *words]) == 2
        assert message in capsys.readouterr().err
