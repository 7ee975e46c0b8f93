"""Networks of a service: low-rank changes by row, networks that give way, several devices."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.adapters.adapted import adapted
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.inside import with_backbone
from beeline.networks.adapters.members.low_rank import DoRA
from beeline.runs.bundle import load
from beeline.serving.hosting.models import hosted
from beeline.serving.hosting.residents import Residents
from beeline.serving.jobs import State
from beeline.serving.requests import SampleRequest
from beeline.serving.service import Limits, Service
from tests.serving.test_service import made_bundle


def changed(bundle, seed, delta=LoRA(2), layers=()):
    """The bundle with a change of its network that is not small."""
    with Rng(seed).ambient():
        field = adapted(bundle.flow.field, delta, layers)
        for layer in changed_layers(field).values():
            for change in layer.changes:
                for value in change.numbers.values():
                    value.data.add_(0.3 * torch.randn_like(value))
    return replace(bundle, flow=replace(bundle.flow, field=field.eval().requires_grad_(False)))


@pytest.fixture(scope="module")
def bundles():
    base = made_bundle()
    return {"base": base, "red": changed(base, 1), "blue": changed(base, 2, LoRA(1, 0.5), ["qkv"])}


@pytest.fixture(scope="module")
def service(bundles):
    made = Service(bundles, Limits(batch=16))
    yield made
    made.close()


def drawn(service, **request):
    return service.accept(SampleRequest(**{"condition": {"label": 1}, **request}))


def pixels(job):
    assert job.wait(60) and job.state is State.DONE, job.error
    return job.result.raw.pixels.astype(int)


def test_an_adapted_bundle_shares_the_network_of_its_base(service, bundles):
    host = service.model("base").host
    assert host.names == ["base", "red", "blue"] and service.model("red").host is host
    for name in bundles:
        wanted = bundles[name].sample(4, seeds=[3, 4, 5, 6], label=1).pixels.astype(int)
        assert np.abs(pixels(drawn(service, model=name, n=4, seed=3)) - wanted).max() <= 1
    assert np.abs(pixels(drawn(service, model="red", seed=3)) - pixels(drawn(service, model="base", seed=3))).max() > 5


def test_amounts_are_those_of_the_adapted_network(service, bundles):
    field = with_backbone(bundles["red"].flow.field, lambda net: net.at(0.5)).eval().requires_grad_(False)
    half = replace(bundles["base"], flow=replace(bundles["base"].flow, field=field))
    made = pixels(drawn(service, model="base", n=3, seed=1, adapters={"red": 0.5}))
    assert np.abs(made - half.sample(3, seeds=[1, 2, 3], label=1).pixels.astype(int)).max() <= 1
    whole = pixels(drawn(service, model="base", n=3, seed=1, adapters={"blue": 1.0}))
    assert np.array_equal(whole, pixels(drawn(service, model="blue", n=3, seed=1)))
    none = pixels(drawn(service, model="base", n=3, seed=1, adapters={"red": 0.0}))
    assert np.array_equal(none, pixels(drawn(service, model="base", n=3, seed=1)))
    with pytest.raises(BeelineError, match="no adapter 'green' of 'base'; it has red, blue"):
        drawn(service, adapters={"green": 1.0})


def test_rows_of_a_batch_take_their_own_changes_and_do_not_change_each_other(service):
    """The same bits as alone, while samples of several changes, with guidance and without, share evaluations."""
    kinds = [("base", {}), ("red", {}), ("blue", {}), ("base", {"red": 0.5, "blue": -1}), ("red", {"blue": 0.3})] * 3
    asked = [
        {"model": m, "n": 2, "seed": 7 * k, "adapters": a, "sampler": {"steps": 3 + k % 2, "guidance_scale": 1 + k % 2}}
        for k, (m, a) in enumerate(kinds)
    ]
    alone = [pixels(drawn(service, **request)) for request in asked]
    host = service.model("base").host
    before = host.batches
    jobs = [drawn(service, **request) for request in asked]
    assert all(np.array_equal(pixels(job), wanted) for job, wanted in zip(jobs, alone, strict=True))
    assert max(host.batches - before) > 4, "requests with different changes share batches"


def test_changes_that_are_not_of_low_rank_have_networks_of_their_own(bundles):
    wide = changed(bundles["base"], 5, DoRA(1))
    other = changed(replace(bundles["base"], flow=made_bundle().flow), 3)
    with torch.no_grad():
        next(other.flow.field.parameters()).add_(1.0)
    models = hosted({"base": bundles["base"], "wide": wide, "other": other}, Residents(), 8)
    assert len({id(model.host) for model in models.values()}) == 3
    for model in models.values():
        model.host.unload()


class Counted(dict):
    """Bundles that are loaded at every use."""

    def __init__(self, places):
        super().__init__(places)
        self.loads = []

    def __getitem__(self, name):
        self.loads.append(name)
        return load(super().__getitem__(name), device="cpu")

    def items(self):
        return [(name, self[name]) for name in self]


def test_networks_give_way_to_those_that_are_used(bundles, tmp_path):
    base = bundles["base"]
    places = Counted({name: base.save(tmp_path / name) for name in ("a", "b", "c")})
    service = Service(places, Limits(batch=8, resident=2))
    try:
        assert service.residents.loaded == 2
        assert all(p.device.type == "meta" for p in service.model("a").bundle.flow.field.parameters())
        wanted = pixels(drawn(service, model="c", seed=3))
        batches = service.model("c").host.batches.total()
        places.loads.clear()
        jobs = [drawn(service, model=name, seed=3) for name in "abcabc"]
        assert all(np.array_equal(pixels(job), wanted) for job in jobs)
        assert "a" in places.loads and service.residents.loaded == 2
        assert service.model("c").host.batches.total() > batches, "counts outlive a network"
    finally:
        service.close()


def test_devices_share_a_queue(bundles):
    service = Service({"base": bundles["base"]}, Limits(batch=8, runs=1), devices=["cpu", "cpu"])
    try:
        jobs = [drawn(service, n=2, seed=k, sampler={"steps": 40 + k}) for k in range(6)]
        made = [pixels(job) for job in jobs]
        again = [pixels(drawn(service, n=2, seed=k, sampler={"steps": 40 + k})) for k in range(6)]
        assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
        used = [replica.evaluations.batches.total() for replica in service.model(None).host.replicas]
        assert len(used) == 2 and min(used) > 0
    finally:
        service.close()
