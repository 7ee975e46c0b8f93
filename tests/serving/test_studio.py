"""The studio without a browser: its files, what models offer, streams, and requests as code that draws the same."""

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import threading
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Picture

from beeline.cli.main import run as cli
from beeline.data.points import Points, PointSet
from beeline.data.tables.table import Table
from beeline.serving.app import app
from beeline.serving.jobs import State
from beeline.serving.requests import SampleRequest, SamplerRequest
from beeline.serving.routes.waiting import Served
from beeline.serving.studio import copies
from beeline.serving.studio.router import FOLDER, TYPES, studio
from beeline.serving.studio.samplers import Trial
from beeline.serving.studio.views import drawn, view, widgets

testclient = pytest.importorskip("fastapi.testclient", reason="fastapi and httpx of the extra serve are missing")


@pytest.fixture(scope="module")
def place(bundle, tmp_path_factory):
    return str(bundle.save(tmp_path_factory.mktemp("studio") / "bundle"))


@pytest.fixture(scope="module")
def client(service, place):
    return testclient.TestClient(app(Served(service), more=(studio({"small": place}),)), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def offered(client):
    (found,) = client.get("/v1/controls").json()["data"]
    return found


def test_the_page_asks_for_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    texts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.suffix in TYPES}
    for name, text in texts.items():
        assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(r"\son\w+=\"|\sstyle=\"|<script>|<style>|javascript:|eval\(|innerHTML", text), name
    named = set(re.findall(r"/studio/([\w.]+)", texts["index.html"]))
    named |= {one for text in texts.values() for one in re.findall(r'(?:from|url\()\s*"(?:\./)?([\w.]+)"', text)}
    assert named == set(texts) - {"index.html"}, "every file is used, and every file that is used is there"
    assert all(client.get(f"/studio/{name}").status_code == 200 for name in named)


@pytest.mark.parametrize("name", ["other.js", "..%2Frouter.py", "%2Fetc%2Fpasswd", "../router.py", "__init__.py"])
def test_no_other_file_is_given(client, name):
    assert client.get(f"/studio/{name}").status_code == 404


def test_every_control_has_a_name_for_readers_of_screens():
    """Each input, button and select of the page stands in a label, or has one of its own."""
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    without = re.sub(r"<label.*?</label>", "", text, flags=re.S)
    inputs = re.findall(r"<(?:input|select|textarea)[^>]*>", without)
    assert not [one for one in inputs if "aria-label" not in one]
    buttons = re.findall(r"<button([^>]*)>([^<]*)", text)
    assert buttons and all("aria-label" in more or re.search(r"[A-Za-z]{3}", words) for more, words in buttons)


def test_every_sampler_that_is_offered_draws(bundle, offered):
    """Also with its settings written out, as the page sends them."""
    fields = {field["name"]: field for field in offered["sampler"]}
    assert fields["steps"]["default"] == 4 and fields["guidance_scale"]["default"] == 1
    names = {name: [option["name"] for option in fields[name]["options"]] for name in ("solver", "schedule")}
    assert {"EULER", "HEUN", "RK4", "UniPC", "EulerMaruyama"} <= set(names["solver"])
    assert {"Uniform", "Shifted", "Karras"} <= set(names["schedule"]) and "FlowMapStep" not in names["solver"]
    for slot in ("solver", "schedule"):
        for option in fields[slot]["options"]:
            given = [f"{s['name']}={s.get('text', s.get('default'))}" for s in option["settings"]]
            text = f"{option['name']}({', '.join(given)})" if given else option["name"]
            sampler = SamplerRequest(steps=2, **{slot: text}).changed(bundle.sampler)
            assert bundle.sample(1, sampler=sampler).pixels.shape == (1, 8, 8, 1), text
    counted = {
        one["evaluations"]: SamplerRequest(**one["sampler"]).changed(bundle.sampler).evaluations
        for one in offered["budgets"]
    }
    assert all(found == said for said, found in counted.items()) and {1, 2, 3, 4, 8, 32} <= set(counted)


def test_every_edit_that_is_offered_edits(client, offered):
    file = io.BytesIO()
    Picture.fromarray(np.zeros((8, 8), np.uint8)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    clear = io.BytesIO()
    Picture.fromarray(np.zeros((8, 8, 4), np.uint8)).save(clear, "PNG")
    names = [one["name"] for one in offered["edits"]]
    assert {"FlowEdit", "SDEdit"} <= set(names)
    for one in offered["edits"]:
        mask = {"mask": base64.b64encode(clear.getvalue()).decode()} if one["mask"] else {}
        answer = client.post(
            "/v1/edit", json={"data": data, "from": {"label": 1}, "to": {"label": 2}, "method": one["name"], **mask}
        )
        assert answer.status_code == 200, (one, answer.text)


def test_a_trial_costs_one_evaluation_of_the_network(bundle):
    calls = []
    handle = bundle.flow.field.register_forward_hook(lambda *_: calls.append(1))
    try:
        trial = Trial.of(bundle)
        assert len(calls) == 2, "HEUN takes two in its one step"
        assert trial.fits(bundle.sampler) and len(calls) == 2
    finally:
        handle.remove()


def streamed(client, body):
    with client.stream("POST", "/v1/stream", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        text = "".join(answer.iter_text())
    return [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part]


def tiles(url, n):
    """The pictures of a grid, as the page cuts them out."""
    grid = np.asarray(Picture.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
    wide = int(np.ceil(np.sqrt(n)))
    zoom = grid.shape[1] // (wide * 9 + 1)
    small = grid[::zoom, ::zoom]
    return np.stack([small[9 * (k // wide) + 1 :, 9 * (k % wide) + 1 :][:8, :8] for k in range(n)])


def test_a_stream_gives_the_trajectory_and_the_samples(client):
    body = {"n": 3, "seed": 7, "condition": {"label": 2}, "sampler": {"steps": 6}}
    events = streamed(client, body)
    seen = [event for event in events if "preview" in event]
    times = [event["progress"] for event in seen]
    assert times == sorted(times) and times[-1] == 1.0 and len(times) >= 5
    last = events[-1]
    assert last["state"] == "done" and last["seeds"] == [7, 8, 9] and last["evaluations"] == 12
    wanted = np.array(client.post("/v1/sample", json=body).json()["samples"])[..., 0]
    assert np.array_equal(tiles(last["samples"], 3), wanted)
    assert not np.array_equal(tiles(seen[0]["preview"], 3), wanted)


def test_a_stream_tells_what_went_wrong(client):
    answer = client.post("/v1/stream", json={"condition": {"label": 9}})
    assert answer.status_code == 422 and "outside its range" in answer.json()["error"]["message"]
    (*_, last) = streamed(client, {"condition": {"label": 1}, "sampler": {"solver": "FlowMapStep"}})
    assert last["state"] == "failed" and "needs a flow map" in last["error"]


def test_a_client_that_leaves_a_stream_ends_its_job(service, place):
    uvicorn = pytest.importorskip("uvicorn")
    import http.client

    server = uvicorn.Server(
        uvicorn.Config(app(Served(service), more=(studio({"small": place}),)), port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body = json.dumps({"condition": {"label": 0}, "sampler": {"steps": 1000}})
        link.request("POST", "/v1/stream", body, {"Content-Type": "application/json"})
        id = json.loads(link.getresponse().readline().decode().removeprefix("data: "))["id"]
        link.close()
        assert service.job(id).wait(20) and service.job(id).state is State.CANCELLED
        url = f"http://127.0.0.1:{port}"
        request = {"n": 2, "seed": 3, "condition": {"label": "it's"}}
        assert "'\"'\"'" in copies.curl(request, url, False, "image/png", ".png"), "quotes are kept from the shell"
        if shutil.which("curl"):
            command = copies.curl({"n": 2, "seed": 3}, url, False, "application/json", ".json")
            command = command.replace("-o samples.json", "")
            found = json.loads(subprocess.run(command, shell=True, capture_output=True, check=True).stdout)
            assert found["seeds"] == [3, 4]
    finally:
        server.should_exit = True
        thread.join(20)


NEAR = f"EnergyGuidance(Near({(((0.5,) * 8,) * 8,)}))"
REQUESTS = (
    {"n": 2, "seed": 7, "condition": {"label": 3}},
    {"n": 3, "seed": 11, "condition": {"label": ["0", "1", "2"]}, "sampler": {"steps": 2, "solver": "EULER"}},
    {"n": 1, "seed": 5, "sampler": {"schedule": "Shifted(shift=2.0)"}},
    {"n": 1, "seed": 5, "condition": {"label": 1}, "sampler": {"guidance_scale": 2.5}},
    {
        "n": 2,
        "seeds": [9, 4],
        "condition": {"label": 1},
        "sampler": {"solver": "EulerMaruyama(noise=White(rng=Rng(0)))"},
    },
    {"n": 1, "seed": 5, "condition": {"label": 1}, "sampler": {"guidance": "Guide(Unconditional(), Projected(2.0))"}},
    {"n": 1, "seed": 5, "condition": {"label": 1}, "sampler": {"controllers": [NEAR]}},
)


@pytest.mark.parametrize("body", REQUESTS)
def test_the_command_and_the_python_of_a_request_draw_its_samples(client, body, tmp_path, monkeypatch):
    """Up to rounding at the border of two levels: batches of other sizes differ in the last bit."""
    monkeypatch.chdir(tmp_path)
    wanted = np.array(client.post("/v1/sample", json=body).json()["samples"])
    found = client.post("/v1/copies", json=body).json()
    words = shlex.split(found["command"].replace("samples.png", "samples.npy"))
    assert words[0] == "beeline" and cli(words[1:]) == 0
    assert np.abs(np.load("samples.npy").astype(int) - wanted).max() <= 1
    scope = {}
    exec(found["python"], scope)
    assert np.abs(np.asarray(scope["samples"].pixels).astype(int) - wanted).max() <= 1
    assert found["evaluations"] == client.post("/v1/sample", json=body).json()["evaluations"]
    sent = json.loads(shlex.split(found["curl"])[shlex.split(found["curl"]).index("-d") + 1])
    assert np.array_equal(np.array(client.post("/v1/sample", json=sent).json()["samples"]), wanted)


def test_commands_are_left_out_where_samples_have_a_watermark(service):
    one = testclient.TestClient(app(Served(service), more=(studio({}, keys=True),)))
    found = one.post("/v1/copies", json={"seed": 1}).json()
    assert set(found) == {"curl", "evaluations"} and "$BEELINE_KEY" in found["curl"]


@pytest.mark.parametrize("seeds", ["1,2", "1,x,3", "-1,2,3", ""])
def test_seeds_of_a_command_are_one_for_every_sample(place, seeds, tmp_path, capsys):
    assert cli(["sample", place, "-n", "3", "--seeds", seeds, "--out", str(tmp_path / "s.npy")]) == 2
    assert "3 whole numbers from 0" in capsys.readouterr().err


def test_an_own_seed_is_part_of_what_is_asked(place):
    request = SampleRequest(n=2, seed=3, condition={"label": 1})
    assert copies.command(request, place, ".png").endswith(
        "-n 2 --seeds 3,4 --condition '{\"label\": 1}' --out samples.png"
    )


def test_tables_and_points_have_their_own_widgets_and_views():
    i = np.arange(60)
    frame = pd.DataFrame(
        {
            "age": 20 + i % 40,
            "grade": np.array(["a", "b", "c"])[i % 3],
            "on": i % 2 == 0,
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(i, unit="D"),
        }
    )
    table = Table().fit(frame)
    found = {one["name"]: one for one in widgets(table)}
    assert found["age"] == {"name": "age", "kind": "cell", "cell": "number", "whole": True, "least": 20, "most": 59}
    assert sorted(found["grade"]["options"]) == ["a", "b", "c"] and found["on"]["options"] == [True, False]
    assert found["when"]["least"].startswith("2020-01-01") and view(table) == {
        "kind": "rows",
        "columns": list(frame.columns),
    }
    assert drawn(table, frame.head(1))[0]["age"] == 20
    points = Points().fit(PointSet(np.arange(6.0).reshape(3, 2), ("a", "b"), np.array([0, 1, 1]), ("cat", "dog")))
    assert widgets(points) == [{"name": "label", "kind": "choice", "options": ["cat", "dog"]}]
    assert view(points) == {"kind": "points", "columns": ["a", "b"]}
