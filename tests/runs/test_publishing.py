"""Upload to the hub, with a stand-in for its API."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

import beeline as bl
from beeline.data.points import Points, PointSet
from beeline.runs.publishing import card, push


class FakeApi:
    """Records what would be uploaded."""

    def __init__(self, error: Exception | None = None):
        self.error, self.files, self.calls = error, {}, []

    def create_repo(self, repo_id: str, **settings: Any) -> str:
        if self.error is not None:
            raise self.error
        self.calls.append(("create", repo_id, settings))
        return f"https://hub/{repo_id}"

    def upload_folder(self, **settings: Any) -> None:
        self.calls.append(("upload", settings.pop("repo_id"), settings))
        self.files = {p.name: p.read_bytes() for p in Path(settings["folder_path"]).iterdir()}


@pytest.fixture
def bundle() -> bl.Bundle:
    raw = PointSet(np.random.default_rng(0).normal(size=(50, 2)), labels=np.arange(50) % 2, names=("cat", "dog"))
    modality = Points().fit(raw)
    from beeline.networks.mlp import MLP

    net = bl.Network(MLP(shape=(2,), width=8, depth=1, conditions=modality.conditions))
    lineage = {
        "made_by": "train",
        "data": {"is": "data.PointFile", "path": "/home/someone/secret name.npz"},
        "seed": 3,
        "parent": "runs/teacher",
        "average": {"is": "averages.EMA", "half_life": 100.0},
    }
    return bl.Bundle(bl.Flow(net), bl.Sampler(4), modality, lineage, null={"label": 2})


def test_a_push_uploads_the_bundle_and_a_card(bundle: bl.Bundle, tmp_path: Path) -> None:
    api = FakeApi()
    address = bundle.push_to_hub("ada/moons", private=True, license="mit", token="t", api=api)
    assert address == "https://hub/ada/moons"
    assert [c[:2] for c in api.calls] == [("create", "ada/moons"), ("upload", "ada/moons")]
    assert api.calls[0][2]["private"] is True and api.calls[1][2]["token"] == "t"
    assert sorted(api.files) == ["README.md", "flow.json", "model.safetensors"]
    for name, content in api.files.items():
        assert b"/home/someone" not in content, name
        (tmp_path / name).write_bytes(content)
    again = bl.load(tmp_path)  # what was uploaded is a bundle
    np.testing.assert_array_equal(again.sample(5, label="dog").values, bundle.sample(5, label="dog").values)
    _, front, text = api.files["README.md"].decode().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["library_name"] == "beeline" and head["license"] == "mit" and "flow-matching" in head["tags"]
    assert 'bl.load("hub:ada/moons")' in text and "label" in text and "PointFile" in text
    assert "Not evaluated" in text and "secret" not in text


def test_the_card_shows_scores_with_counts_and_baselines(bundle: bl.Bundle) -> None:
    x = np.random.default_rng(1).normal(size=(60, 2))
    report = bundle.evaluate(x, ["cat", "dog"] * 30, n=40)
    text = card(bundle, "ada/moons", scores=report)
    assert "real vs. real" in text and "40 / 60" in text and f"{report.scores[0].value:.4g}" in text
    stored = bl.Bundle(bundle.flow, bundle.sampler, bundle.modality, {"quality": {"a": {"energy": 0.25}}})
    assert "| energy | 0.25 |" in card(stored, "ada/moons")


@pytest.mark.parametrize("name", ["moons", "a/b/c", "ada/", "ada/mo ons", "hub:ada/moons", "ada/..moons"])
def test_a_name_that_is_not_on_the_hub_is_refused(bundle: bl.Bundle, name: str) -> None:
    api = FakeApi()
    with pytest.raises(bl.BeelineError, match="give owner/name"):
        push(bundle, name, api=api)
    assert not api.calls


def unconnected(library: str) -> Exception:
    """As a library for HTTP raises it; which one is installed depends on the version of huggingface_hub."""
    return type("ConnectError", (Exception,), {"__module__": library})("slow")


def refused(status: int) -> HfHubHTTPError:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError(f"status {status}", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalTokenNotFoundError("none"), "run 'hf auth login', or give token="),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        (refused(401), "run 'hf auth login' with a token of the scope 'write'"),
        (refused(500), "the hub did not take ada/moons"),
        (ConnectionError("refused"), "cannot be reached .ConnectionError.; check the network"),
        (unconnected("httpx"), "cannot be reached .ConnectError.; check the network"),
        (unconnected("httpx2"), "cannot be reached .ConnectError.; check the network"),
    ],
)
def test_no_login_and_no_network_are_explained(bundle: bl.Bundle, error: Exception, message: str) -> None:
    with pytest.raises(bl.BeelineError, match=message):
        push(bundle, "ada/moons", api=FakeApi(error))
