"""Edits, scores and pictures in the OpenAI form, against the methods of the bundle."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from beeline.config.build import parse
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.couplings.watermark import TreeRing
from beeline.data.described.descriptions import Descriptions
from beeline.data.described.encoders import Pictures
from beeline.data.images import Image, Images
from beeline.data.pictures.provenance import provenance_in
from beeline.fields.flow import Flow
from beeline.runs.bundle import Bundle
from beeline.runs.editing.watermarks import watermarked
from beeline.sampling.sampler import Sampler
from beeline.serving.app import app
from beeline.serving.given import PIXELS, decoded, given, marked, opened
from beeline.serving.jobs import State
from beeline.serving.logs import Log
from beeline.serving.rates import Rates
from beeline.serving.routes.waiting import Served
from beeline.serving.service import Service
from beeline.serving.uses import EditRequest, ScoreRequest

testclient = pytest.importorskip("fastapi.testclient", reason="fastapi and httpx of the extra serve are missing")


@pytest.fixture(scope="module")
def client(service):
    return testclient.TestClient(app(Served(service)), raise_server_exceptions=False)


def png(pixels, **more):
    file = io.BytesIO()
    Picture.fromarray(pixels, **more).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PIXELS_3 = Rng(5).integers(256, 64).view(8, 8).to(torch.uint8).numpy()
HALF = np.where(np.arange(8) < 4, 255, 0).astype(np.uint8)[None].repeat(8, 0)


def test_an_edit_is_that_of_the_bundle_and_keeps_what_is_outside_of_the_mask(client, bundle):
    body = {"data": png(PIXELS_3), "from": {"label": 1}, "to": {"label": 3}, "mask": png(HALF), "seed": 4}
    found = client.post("/v1/edit", json=body)
    assert found.status_code == 200, found.text
    mask = torch.tensor(HALF > 0).float()
    wanted = bundle.edit("FlowEdit", PIXELS_3[None], to={"label": 3}, cond={"label": 1}, region=mask, seed=4)
    made = np.array(found.json()["samples"], np.uint8)
    assert np.array_equal(made, wanted.samples.pixels)
    assert np.array_equal(made[0, :, 4:, 0], PIXELS_3[:, 4:]) and not np.array_equal(made[0, :, :4, 0], PIXELS_3[:, :4])
    assert found.json()["kept_outside"] == 0.0
    picture = client.post("/v1/edit", json=body, headers={"Accept": "image/png"})
    assert np.array_equal(np.asarray(Picture.open(io.BytesIO(picture.content))), made[0, ..., 0])


def test_an_edit_leaves_the_network_of_samples_alone(client, service):
    """Edits of attention hook into the network; samples that are drawn meanwhile do not change."""
    request = {"seed": 3, "condition": {"label": 1}}
    before = client.post("/v1/sample", json=request).json()["samples"]
    jobs = [
        service.accept(EditRequest(data=png(PIXELS_3), to={"label": k % 4}, method="FlowEdit(start=0.2)"), "")
        for k in range(4)
    ]
    assert client.post("/v1/sample", json=request).json()["samples"] == before
    assert all(job.wait(60) and job.state is State.DONE for job in jobs)


class Scaled(torch.nn.Module):
    """The field whose flow multiplies the noise by ``scale``: v = x (scale - 1) / (1 + t (scale - 1))."""

    def __init__(self, scale):
        super().__init__()
        self.more = scale - 1

    def forward(self, x, t, cond=None):
        return x * self.more / (1 + t.view(-1, *[1] * (x.ndim - 1)) * self.more)


def test_a_score_is_the_exact_log_likelihood():
    modality = Image().fit(Images(np.arange(2 * 64).reshape(2, 8, 8, 1).astype(np.uint8)))
    service = Service({"gauss": Bundle(Flow(Scaled(0.5)), Sampler(4), modality, {"shape": [1, 8, 8]})})
    try:
        request = ScoreRequest(data=[png(PIXELS_3)], steps=60)
        job = service.accept(request, "")
        assert job.wait(60) and job.state is State.DONE, job.error
        found = job.result.facts["log_prob"][0]
    finally:
        service.close()
    values = (torch.tensor(PIXELS_3).double() + 0.5) / 128 - 1
    normal = torch.distributions.Normal(0.0, 0.5)
    exact = float(normal.log_prob(values).sum())
    spread = 8 * float(values.abs().max() / 0.25 / 256)  # of the levels that are made uniform
    assert abs(found - exact) < 5 * spread
    bits = job.result.facts["bits_per_dimension"][0]
    assert bits == pytest.approx(-found / (64 * np.log(2)) + 7, rel=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": "Guide(SkippedLayers(), Extrapolate(2.0))"},
        {"guidance": "Guide(Unconditional(), Projected(2.0))"},
        {"controllers": [f"EnergyGuidance(Near({(((0.5,) * 8,) * 8,)}))"]},
    ],
)
def test_guidance_and_controllers_of_ones_own_are_drawn_alone(client, bundle, settings):
    body = {"n": 2, "seed": 7, "condition": {"label": 3}, "sampler": {"steps": 3, **settings}}
    plain = {"seed": 3, "condition": {"label": 1}}
    before = client.post("/v1/sample", json=plain).json()["samples"]
    found = client.post("/v1/sample", json=body)
    assert found.status_code == 200, found.text
    sampler = replace(bundle.sampler, steps=3)
    if "guidance" in settings:
        sampler = replace(sampler, guidance=parse(settings["guidance"], "guidance"))
    else:
        sampler = replace(sampler, controllers=(parse(settings["controllers"][0], "controllers"),))
    wanted = bundle.sample(2, seeds=[7, 8], label=3, sampler=sampler)
    assert np.array_equal(np.array(found.json()["samples"], np.uint8), wanted.pixels)
    assert client.post("/v1/sample", json=plain).json()["samples"] == before


def test_pictures_in_the_openai_form(client, bundle):
    body = {"prompt": "3", "n": 2, "seed": 7, "response_format": "b64_json", "size": "8x8", "user": "ada"}
    found = client.post("/v1/images/generations", json=body)
    assert found.status_code == 200, found.text
    data = found.json()["data"]
    assert [one["seed"] for one in data] == [7, 8]
    made = np.stack([np.asarray(Picture.open(io.BytesIO(base64.b64decode(one["b64_json"])))) for one in data])
    wanted = bundle.sample(2, seeds=[7, 8], label=3).pixels[..., 0]
    assert np.abs(made.astype(int) - wanted).max() <= 1
    files = {"image": ("a.png", base64.b64decode(png(PIXELS_3))), "mask": ("m.png", base64.b64decode(png(HALF)))}
    edited = client.post("/v1/images/edits", data={"prompt": "3", "source": "1", "seed": "4"}, files=files)
    assert edited.status_code == 200, edited.text
    again = bundle.edit("FlowEdit", PIXELS_3[None], to="3", cond="1", region=torch.tensor(HALF > 0).float(), seed=4)
    picture = np.asarray(Picture.open(io.BytesIO(base64.b64decode(edited.json()["data"][0]["b64_json"]))))
    assert np.array_equal(picture, again.samples.pixels[0, ..., 0])


def test_a_request_has_its_own_limit_of_time(client):
    slow = {"condition": {"label": 1}, "sampler": {"steps": 1000}, "timeout": 0.05}
    found = client.post("/v1/sample", json=slow)
    assert found.status_code == 504 and "more than 0.05 seconds" in found.json()["error"]["message"]
    job = client.post("/v1/jobs", json=slow).json()["id"]
    events = [line for line in client.get(f"/v1/jobs/{job}/events").text.split("\n\n") if line]
    assert '"failed"' in events[-1]
    assert client.post("/v1/sample", json={**slow, "timeout": 60, "sampler": {"steps": 1}}).status_code == 200


BAD = {
    "no picture": ("/v1/edit", {"data": "AAAA", "to": 3}, "give a PNG or JPEG file"),
    "no base64": ("/v1/edit", {"data": "/etc/passwd!", "to": 3}, "no text in base64"),
    "another size": ("/v1/edit", {"data": png(PIXELS_3[:4, :4].copy()), "to": 3}, "resize them"),
    "no target": ("/v1/edit", {"data": png(PIXELS_3), "to": None}, "give a new condition"),
    "no such label": ("/v1/edit", {"data": png(PIXELS_3), "to": {"label": 9}}, "label"),
    "no such method": ("/v1/edit", {"data": png(PIXELS_3), "to": 3, "method": "FlowEdt"}, "FlowEdit"),
    "unknown field": ("/v1/edit", {"data": png(PIXELS_3), "to": 3, "maks": ""}, "did you mean 'mask'"),
    "an empty mask": ("/v1/edit", {"data": png(PIXELS_3), "to": 3, "mask": png(HALF * 0)}, "the region is empty"),
    "a large mask": ("/v1/edit", {"data": png(PIXELS_3), "to": 3, "mask": png(HALF[:2])}, "region"),
    "no data": ("/v1/score", {"data": []}, "the data are no pictures"),
    "words": ("/v1/score", {"data": [["a"]]}, "the data are no pictures"),
    "steps": ("/v1/score", {"data": png(PIXELS_3), "steps": 0}, "greater than or equal to 1"),
    "two guidances": ("/v1/sample", {"sampler": {"guidance": "CFG(2)", "guidance_scale": 2}}, "give one of them"),
    "a path": ("/v1/sample", {"sampler": {"guidance": "Guide(WeakBundle('/etc'), Extrapolate(2.0))"}}, "holds a text"),
    "size": ("/v1/images/generations", {"prompt": "3", "size": "1024x1024"}, "draws 8x8"),
    "prompt": ("/v1/images/generations", {"prompt": "a cat"}, "a cat"),
    "url": ("/v1/images/generations", {"prompt": "3", "response_format": "url"}, "b64_json"),
    "no file": ("/v1/images/edits", {"prompt": "3"}, "image"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests(client, case):
    path, body, message = BAD[case]
    found = client.post(path, json=body)
    assert found.status_code == 422 and set(found.json()) == {"error"}, found.text
    assert message in found.json()["error"]["message"]


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    side = int(PIXELS**0.5) + 1
    file = io.BytesIO()
    Picture.new("1", (side, side)).save(file, "PNG")
    with pytest.raises(BeelineError, match="has at most"):
        decoded(file.getvalue(), "it")


def test_a_mask_is_white_or_transparent():
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0, 3] = 255
    file = io.BytesIO()
    Picture.fromarray(clear).save(file, "PNG")
    assert marked(file.getvalue(), "it").tolist() == [[False, True], [True, True]]
    opaque, file = np.full((2, 2, 4), 255, np.uint8), io.BytesIO()
    opaque[0, :, :3] = 0
    Picture.fromarray(opaque).save(file, "PNG")
    assert marked(file.getvalue(), "it").tolist() == [[False, False], [True, True]]


def test_pictures_of_conditions_are_given_in_base64_and_no_file_is_opened(tmp_path):
    file = tmp_path / "it.png"
    Picture.fromarray(PIXELS_3).save(file)
    modality = Image((1, 8, 8), 4, ("a", "b", "c", "d"), 256, (), Descriptions({"sketch": Pictures(8, 4)}))
    made = opened(modality, {"label": "b", "sketch": png(PIXELS_3)})
    assert made["label"] == "b" and np.array_equal(made["sketch"][..., 0], PIXELS_3)
    for condition in ({"sketch": str(file)}, {"sketch": [str(file)]}, str(file)):
        with pytest.raises(BeelineError, match="base64"):
            opened(modality, condition)


def test_rows_texts_and_numbers():
    from beeline.data.points import Points, PointSet
    from beeline.data.sequences import Sequences

    points = Points().fit(PointSet(np.arange(6.0).reshape(3, 2), ("a", "b")))
    assert np.isnan(given(points, [[1, None]])[0, 1])
    assert given(Sequences(alphabet="ab", length=2), "ab") == ["ab"]
    with pytest.raises(BeelineError, match="no array"):
        given(points, {"a": 1})


def test_pictures_say_where_they_come_from_and_not_what_was_asked(client, tmp_path):
    found = client.post("/v1/sample", json={"seed": 7, "condition": {"label": 3}}, headers={"Accept": "image/png"})
    file = tmp_path / "it.png"
    file.write_bytes(found.content)
    action = provenance_in(file)["data"]["actions"][0]
    assert action["digitalSourceType"].endswith("trainedAlgorithmicMedia") and action["softwareAgent"].startswith(
        "Beel"
    )
    assert action["parameters"]["seeds"] == [7] and "label" not in json.dumps(action)
    assert "access-control-allow-origin" not in found.headers


def test_marked_samples_are_found_again_and_the_rate_and_the_log_are_kept(bundle, tmp_path):
    log, clock = io.StringIO(), iter([0.0, 0.0, 30.0])
    service = Service({"small": watermarked(bundle, TreeRing(3))})
    try:
        served = Served(service, rates=Rates(4, clock=lambda: next(clock)), provenance=False)
        one = testclient.TestClient(app(served, log=Log(log)), raise_server_exceptions=False)
        body = {"n": 4, "seed": 5, "condition": {"label": 1}}
        first = one.post("/v1/sample", json=body)
        assert np.array_equal(
            np.array(first.json()["samples"], np.uint8),
            watermarked(bundle, TreeRing(3)).sample(4, seeds=[5, 6, 7, 8], label=1).pixels,
        )
        again = one.post("/v1/sample", json=body)
        assert again.status_code == 429 and again.headers["retry-after"] == "60"
        assert one.post("/v1/sample", json={**body, "n": 5}).status_code == 422
        assert one.post("/v1/sample", json={**body, "n": 2}).status_code == 200, "half a minute later"
    finally:
        service.close()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["status"] for line in lines] == [200, 429, 422, 200]
    assert lines[0]["rows"] == 4 and lines[0]["model"] == "small" and "label" not in log.getvalue()
