"""Some hundred malformed requests: each is refused in the one form of errors, none is an error of the server."""

import base64
import io
import json
import random
import zlib

import numpy as np
import pytest
from PIL import Image as Picture

from beeline.serving.app import app
from beeline.serving.keys import Keys, hashed
from beeline.serving.service import Limits, Service
from tests.serving.test_service import made_bundle

testclient = pytest.importorskip("fastapi.testclient", reason="fastapi and httpx of the extra serve are missing")
waiting = pytest.importorskip("beeline.serving.routes.waiting")


@pytest.fixture(scope="module")
def service():
    made = Service({"small": made_bundle()}, Limits(batch=8, samples=8, waiting=64))
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(service):
    return testclient.TestClient(app(waiting.Served(service, 20.0)), raise_server_exceptions=False)


def png(pixels):
    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def text(content):
    return base64.b64encode(content).decode()


SMALL = png(np.arange(64, dtype=np.uint8).reshape(8, 8))
WHITE = png(np.full((8, 8), 255, np.uint8))
BOMB = SMALL[:16] + (60000).to_bytes(4, "big") * 2 + SMALL[24:29]
BOMB += zlib.crc32(BOMB[12:29]).to_bytes(4, "big") + SMALL[33:]
GOOD = {
    "/v1/sample": {"n": 1, "seed": 7, "condition": {"label": 3}, "sampler": {"steps": 1}, "adapters": {}},
    "/v1/jobs": {"n": 1, "seeds": [7], "condition": {"label": 3}, "sampler": {"steps": 1, "solver": "EULER"}},
    "/v1/edit": {
        "data": text(SMALL),
        "from": {"label": 1},
        "to": {"label": 3},
        "mask": text(WHITE),
        "method": "SDEdit",
    },
    "/v1/jobs/edit": {"data": text(SMALL), "to": {"label": 3}, "preserve": 0.5, "seed": 1},
    "/v1/score": {"data": text(SMALL), "condition": {"label": 3}, "steps": 1, "probes": 1},
    "/v1/images/generations": {"prompt": "3", "n": 1, "size": "8x8", "seed": 1, "sampler": {"steps": 1}},
}
VALUES = (
    None, -1, 0, 9, 1.5, 1e300, 2**70, 10**12, True, "", "a", "3", "x" * 3000, "é\u2028\x00", [], {}, [[]], [None],
    [1e300], [{}] * 9, {"label": 99}, {"label": "three"}, {"label": [1, 2]}, {"label": {}}, {"label": None},
    {"lable": 1}, {"": {}}, {"label": True}, "Bespoke('/etc/passwd')", "__import__('os')", "HEUN(", "CFG(2)",
    "Sampler()", "../../x", "data:image/png;base64,AAAA", text(BOMB), text(SMALL[:40]),
    [text(SMALL), text(png(np.zeros((4, 4), np.uint8)))], [[[0] * 8] * 8], [[["a"]]], {"steps": 0}, {"steps": 10**9},
    {"guidance_scale": -1}, {"guidance_scale": "nan"}, {"solver": 3}, {"small": 1},
)  # fmt: skip


def mutated(draw):
    """(path, content, headers) of a request that differs from a good one."""
    path = draw.choice(list(GOOD))
    body = json.loads(json.dumps(GOOD[path]))
    for _ in range(draw.randint(1, 2)):
        keys = [*body, "model", "priority", "unknown", "data", "n"]
        body[draw.choice(keys)] = draw.choice(VALUES)
    content = json.dumps(body).encode()
    way = draw.random()
    if way < 0.15:
        content = content[: draw.randrange(len(content))]
    elif way < 0.3:
        spoilt = bytearray(content)
        for _ in range(draw.randint(1, 6)):
            spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        content = bytes(spoilt)
    elif way < 0.35:
        content = draw.choice([b"", b"[]", b"null", b"NaN", b'"x"', b"[" * 3000, b"{}" * 9, b"\xff\xfe", b'{"n": NaN}'])
    headers = {"Content-Type": "application/json"}
    if draw.random() < 0.15:
        headers["Content-Type"] = draw.choice(
            ["", "text/plain", "multipart/form-data", "application/json; charset=utf-7"]
        )
    if draw.random() < 0.3:
        headers["Accept"] = draw.choice(["image/png", "video/mp4", "*/*;q=0", ",,,", "text/csv", "image/png;q=x, a/b"])
    return path, content, headers


@pytest.mark.parametrize("seed", range(2))
def test_malformed_requests_are_refused_in_one_form(client, seed):
    draw, seen = random.Random(seed), set()
    for _ in range(200):
        path, content, headers = mutated(draw)
        found = client.post(path, content=content, headers=headers)
        assert found.status_code < 500, (path, content[:500], headers, found.text[:500])
        seen.add(found.status_code)
        if found.status_code >= 400:
            error = found.json()["error"]
            assert error["status"] == found.status_code and error["message"], found.text
            assert "Traceback" not in found.text and "/work" not in found.text
    assert 422 in seen
    answers = [client.post(path, json=body).status_code for path, body in GOOD.items()]
    assert answers == [202 if "jobs" in path else 200 for path in GOOD]


@pytest.mark.parametrize("files", [
    {"image": ("a.png", SMALL[:30])}, {"image": ("a.png", BOMB)}, {"image": ("../../a", b"")}, {},
    {"image": ("a.png", SMALL), "mask": ("m.png", b"x")}, {"mask": ("m.png", SMALL)},
])  # fmt: skip
@pytest.mark.parametrize("data", [{"prompt": "3"}, {"prompt": "nine", "seed": "x"}, {"prompt": "3", "method": "("}, {}])
def test_malformed_forms_are_refused(client, files, data):
    found = client.post("/v1/images/edits", data=data, files=files or None)
    assert 400 <= found.status_code < 500 and set(found.json()) == {"error"}, found.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/jobs/none", 422), ("DELETE", "/v1/jobs/%00", 422), ("GET", "/v1/jobs/none/events?previews=7", 422),
     ("GET", "/v1/jobs/..%2F..%2Fetc", 404), ("PUT", "/v1/sample", 405), ("GET", "/nothing", 404),
     ("POST", "/health", 405), ("GET", "/v1/sample", 405)],
)  # fmt: skip
def test_other_paths_and_methods_are_refused_in_the_same_form(client, method, path, status):
    found = client.request(method, path)
    assert found.status_code == status and found.json()["error"]["status"] == status, found.text


def test_keys_and_origins(service):
    """Keys that are no text are refused; no page of another origin may read an answer."""
    client = testclient.TestClient(
        app(waiting.Served(service), Keys({hashed("secret"): "ada"})), raise_server_exceptions=False
    )
    for given in (b"", b"Bearer", b"Bearer \xff\xfe", b"Basic secret", b"Bearer " + b"x" * 4000):
        found = client.get("/v1/models", headers={"Authorization": given})
        assert found.status_code == 401 and set(found.json()) == {"error"}
    origin = {"Origin": "https://example.com", "Authorization": "Bearer secret"}
    found = client.get("/v1/models", headers=origin)
    assert found.status_code == 200 and "access-control-allow-origin" not in found.headers
    asked = client.options("/v1/sample", headers={**origin, "Access-Control-Request-Method": "POST"})
    assert asked.status_code == 405 and "access-control-allow-origin" not in asked.headers
