"""The protocol of a component: every member of the catalogue keeps it."""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import beeline
from beeline import config
from beeline.catalogue import CATALOGUE, SLOTS, explain, find, makes, member, name_of, settings
from beeline.core.field import MapNetwork, Network
from beeline.core.path import Affine
from beeline.core.rng import Rng
from beeline.core.types import BeelineError

MEMBERS = [f"{kind}.{name}" for kind, names in CATALOGUE.items() for name in names]
CLASSES = [full for full in MEMBERS if isinstance(member(full), type)]

# what is needed to make one, for members that need settings; as text, so that reading it is tested as well
EXAMPLES = {
    "schedules.Explicit": "Explicit((0.0, 0.3, 1.0))",
    "solvers.RungeKutta": "RungeKutta(2, ((2/3,),), (0.25, 0.75))".replace("2/3", "0.6666666666666666"),
    "divergences.Hutchinson": "Hutchinson(Rng(3, ('a', 1, 0.5)), probes=2)",
    "guidance.Guide": "Guide(Unconditional({'label': 10}), Extrapolate(3.0), window=(0.2, 0.9))",
    "guidance.CFG": "CFG(3, null=10)",
    "references.Unconditional": "Unconditional(10)",
    "rules.Extrapolate": "Extrapolate(2)",
    "drops.Drop": "Drop(0.1, null={'label': [3.0]})",
    "random.Rng": "Rng(0)",
    "networks.MLP": "MLP(2, width=8, depth=1, conditions={'label': {'classes': 3}})",
    "networks.UNet": "UNet((1, 8, 8), width=8)",
    "networks.DiT": "DiT((1, 8, 8), width=16, depth=1, heads=2)",
    "networks.Network": "Network(MLP(2, width=8, depth=1), path=Cosine(), prediction=Data(0.01))",
    "networks.MapNetwork": "MapNetwork(MLP(2, width=8, depth=1, span=true))",
    "laws.Gaussian": "laws.Gaussian((0.0, 1.0), (1.0, 2.0))",
    "laws.GaussianMixture": "GaussianMixture(((0.0, 1.0), (2.0, 2.0)), (0.5, 1.0))",
}

# parts that hold what no file can hold: a function, a network, a data set
IN_CODE = {
    "paths.Affine": lambda: Affine(lambda t: t**2, lambda t: 1 - t),
    "references.Weak": lambda: beeline.guidance.Weak(nn.Linear(1, 1)),
    "sources.Empirical": lambda: beeline.sources.Empirical(torch.zeros(20_000, 1)),
    "features.Module": lambda: member("features.Module")(nn.Linear(1, 1), "mine"),
}

# classes of frozen settings with a source that are no choice of anybody's
UNLISTED = {
    "beeline.data.law:LawField": "the exact velocity of a law, made by law.field(path)",
}


def example(full: str) -> object:
    text = EXAMPLES.get(full, full)
    with Rng(0).ambient():
        return config.parse(text if "." in text.partition("(")[0] else f"{full.partition('.')[0]}.{text}")


@contextlib.contextmanager
def untouched():  # type: ignore[no-untyped-def]
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    yield
    assert torch.equal(before[0], torch.get_rng_state()), "torch's global random state was changed"
    assert (before[1] == np.random.get_state()[1]).all(), "numpy's global random state was changed"
    assert before[2] == random.getstate(), "Python's global random state was changed"


def same(a: object, b: object) -> bool:
    """Equality; of networks, equality of what describes them, of their names and of their shapes."""
    if isinstance(a, nn.Module) and isinstance(b, nn.Module):
        shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (a, b)]
        return type(a) is type(b) and shapes[0] == shapes[1]
    return a == b


@pytest.mark.parametrize("full", MEMBERS)
def test_round_trip(full: str) -> None:
    if full in IN_CODE:
        part = IN_CODE[full]()
        with pytest.raises(BeelineError, match="keep"):
            config.describe(part)
        return
    with untouched():
        part = example(full)
        data = config.describe(part)
        with Rng(0).ambient():
            again = config.build(data)
    assert same(again, part)
    assert config.describe(again) == data
    if not isinstance(part, nn.Module) and full != "guidance.CFG":
        assert data["is"] == full


@pytest.mark.parametrize("full", MEMBERS)
def test_the_description_is_plain(full: str) -> None:
    import json

    import yaml

    if full in IN_CODE:
        return
    data = config.describe(example(full))
    assert json.loads(json.dumps(data)) == data
    assert yaml.safe_load(yaml.safe_dump(data)) == data


@pytest.mark.parametrize("full", CLASSES)
def test_frozen(full: str) -> None:
    kind = member(full)
    if issubclass(kind, nn.Module):
        assert kind in (Network, MapNetwork) or callable(kind.describe)
        return
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    for slot in dataclasses.fields(kind):
        assert slot.default_factory is dataclasses.MISSING or not isinstance(slot.default_factory(), list | dict | set)


@pytest.mark.parametrize("full", [full for full in MEMBERS if full.partition(".")[0] != "recipes"])
def test_documented(full: str) -> None:
    page = explain(*full.split("."))
    assert page.sentence.endswith("."), "one sentence first"
    assert page.source.startswith("Source:"), "where it comes from"
    assert page.example.startswith(">>>"), "one call"
    if isinstance(member(full), type):
        assert page.formula, "the formula, between sentence and assumptions"


@pytest.mark.parametrize("full", MEMBERS)
def test_an_entry_names_its_own_place(full: str) -> None:
    kind, _, name = full.partition(".")
    module, _, attribute = CATALOGUE[kind][name].removesuffix("()").partition(":")
    assert inspect.getmodule(getattr(importlib.import_module(module), attribute, None)) is not None or name.isupper()
    if not name.isupper():
        assert name_of(member(full)) == full


def test_names_in_a_kind_differ_by_more_than_case() -> None:
    for kind, names in CATALOGUE.items():
        for name in names:
            assert find(f"{kind}.{name.upper()}") == f"{kind}.{name}"


def test_every_kind_of_a_protocol_is_spelt_as_in_the_catalogue() -> None:
    coming = {"controllers", "edits", "distillations", "modalities"}
    assert set(SLOTS.values()) <= set(CATALOGUE) | coming


def test_settings_that_hold_components_know_their_kind() -> None:
    known = settings(member("objectives.FlowMatching"))
    for name, kind in {"path": "paths", "times": "times", "weight": "weights", "drop": "drops"}.items():
        assert kind in known[name].kinds


def test_everything_that_could_be_chosen_is_listed() -> None:
    missing = []
    for path in sorted(Path(beeline.__file__).parent.rglob("*.py")):
        parts = path.relative_to(Path(beeline.__file__).parent.parent).with_suffix("").parts
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            place = f"{'.'.join(parts)}:{getattr(node, 'name', '')}"
            if isinstance(node, ast.ClassDef) and "\nSource: " in inspect.cleandoc(ast.get_docstring(node) or ""):
                listed = {p.removesuffix("()") for names in CATALOGUE.values() for p in names.values()}
                if place not in listed and place not in UNLISTED and not node.name.startswith("_"):
                    missing.append(place)
    assert not missing, "list these in beeline/catalogue.py"


def test_constants_have_no_settings() -> None:
    assert not makes("solvers.HEUN") and makes("solvers.RungeKutta") and makes("guidance.CFG")
    assert not makes("distances.squared") and makes("distances.Huber")


def test_pages_hold_the_comments_of_the_settings() -> None:
    rows = {row[0]: row for row in explain("times", "logit-normal").settings}
    assert rows["std"] == ("std", "float", "1.0", "of the logit, above 0")
    assert dict(r[0::3] for r in explain("networks", "MLP").settings)["depth"] == "blocks"
    assert ("b", "tuple[float, ...]", "(0.5, 0.5)", "") in explain("solvers", "HEUN").settings
    assert explain("guidance", "CFG").settings[0][:3] == ("scale", "float", "")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("tmes", "Uniform", "did you mean 'times'"),
        ("times", "LogNormal", "did you mean 'LogitNormal'"),
    ],
)
def test_unknown_pages(kind: str, name: str, message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        explain(kind, name)
