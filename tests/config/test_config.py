"""Components as plain data and as text, and every refusal."""

import pathlib
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import nn

import beeline as bl
from beeline.config import build as config
from beeline.config.build import build, change, describe, lookup, parse
from beeline.config.catalogue import Setting
from beeline.config.settings import fit
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.mlp import MLP
from beeline.objectives.losses.basic import Huber, one
from beeline.objectives.matching import Drop, FlowMatching
from beeline.sampling.guidance.guide import Extrapolate, Guide, Plain, Unconditional
from beeline.sampling.sampler import Sampler
from beeline.training.config import Training

GUIDED = Sampler(8, guidance=bl.CFG(3.0, null=10, window=(0.1, 0.9)))


def test_describe_names_and_nests() -> None:
    assert describe(GUIDED) == {
        "is": "samplers.Sampler",
        "steps": 8,
        "schedule": {"is": "schedules.Uniform"},
        "solver": {"is": "solvers.HEUN"},
        "guidance": {
            "is": "guidance.Guide",
            "reference": {"is": "references.Unconditional", "null": 10},
            "rule": {"is": "rules.Extrapolate", "scale": 3.0},
            "window": [0.1, 0.9],
            "together": True,
        },
        "controllers": [],
    }
    assert build(describe(GUIDED)) == GUIDED


def test_functions_and_constants_are_named() -> None:
    data = describe(FlowMatching())
    assert data["weight"] == {"is": "weights.one"} and data["distance"] == {"is": "distances.squared"}
    assert build({"is": "weights.one"}) is one
    assert describe(bl.solvers.RungeKutta(2, ((1.0,),), (0.5, 0.5))) == {"is": "solvers.HEUN"}


def test_networks_are_described_without_their_weights() -> None:
    with Rng(0).ambient():
        net = bl.Network(MLP(2, width=8, depth=1), bl.paths.Cosine(), bl.predictions.Noise(0.01))
        again = build(describe(net))
    assert describe(again) == describe(net) and again.prediction == net.prediction
    again.load_state_dict(net.state_dict())
    x, t = torch.ones(3, 2), torch.full((3,), 0.5)
    assert torch.equal(again(x, t), net(x, t))


def test_small_tensors_become_lists() -> None:
    assert describe(Unconditional({"label": torch.tensor([1, 2])}))["null"] == {"label": [1, 2]}
    assert describe({"a": torch.tensor(0.5), "b": (1, pathlib.PurePosixPath("x/y"))}) == {"a": 0.5, "b": [1, "x/y"]}
    source = build({"is": "sources.Empirical", "data": [[1.0, 2.0]]})
    assert torch.equal(source.data, torch.tensor([[1.0, 2.0]]))


def test_plain_values_pass() -> None:
    for value in (None, True, 3, 0.5, "text", [1, [2.0]], {"a": {"b": None}}):
        assert describe(value) == value and build(value) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-1.5", -1.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("None", None),
        ("inf", float("inf")),
        ("(1, 2)", [1, 2]),
        ("{'a': 1}", {"a": 1}),
        ("'text'", "text"),
        ("HEUN", bl.solvers.HEUN),
        ("heun", bl.solvers.HEUN),
        ("squared", bl.objectives.squared),
        ("LogitNormal", bl.times.LogitNormal()),
        ("LogitNormal(mean=0.5)", bl.times.LogitNormal(0.5)),
        ("logit-normal", bl.times.LogitNormal()),
        ("LogitNormal(0.5, std=2)", bl.times.LogitNormal(0.5, 2.0)),
        ("schedules.Uniform", bl.schedules.Uniform()),
        ("Guide(Unconditional(10), Extrapolate(3.0))", Guide(Unconditional(10), Extrapolate(3.0))),
        ("CFG(3, null={'label': 10}, window=(0, 0.5))", bl.CFG(3.0, {"label": 10}, (0.0, 0.5))),
        ("Independent(Uniform(-2, 2))", bl.couplings.Independent(bl.sources.Uniform(-2.0, 2.0))),
        ("FlowMatching(times=Uniform, weight=one, drop=none)", FlowMatching()),
        ("MinibatchOT(by=label)", bl.couplings.MinibatchOT(by="label")),
        ("[LogitNormal, At(0)]", [bl.times.LogitNormal(), bl.times.At(0.0)]),
    ],
)
def test_parse(text: str, value: Any) -> None:
    assert parse(text) == value


def test_parse_with_a_kind_takes_short_names() -> None:
    assert parse("uniform", "sources") == bl.sources.Uniform()
    assert lookup("times", "uniform") is bl.times.Uniform and lookup("times", "times.Uniform") is bl.times.Uniform


def test_change() -> None:
    made = change(GUIDED, {"steps": "4", "guidance.rule.scale": 2, "schedule": "shifted(shift=2)", "solver": "EULER"})
    assert made == Sampler(4, bl.schedules.Shifted(2.0), bl.solvers.EULER, bl.CFG(2.0, 10, (0.1, 0.9)))
    assert GUIDED.steps == 8
    assert isinstance(made.guidance.rule.scale, float)


def test_change_sets_the_whole_before_its_parts() -> None:
    made = change(FlowMatching(), {"times.std": 2, "times": "LogitNormal", "drop": "Drop(0.1)", "drop.null": "10"})
    assert made.times == bl.times.LogitNormal(0.0, 2.0) and made.drop == Drop(0.1, 10)


def test_change_reaches_into_tuples_and_unions() -> None:
    made = change(GUIDED, {"guidance.window.0": "0.5"})
    assert made.guidance.window == (0.5, 0.9)
    training = change(Training(), {"clip": "none", "lr": "Constant(1e-3)", "ema": "EMA(100), EMA(1000)"})
    assert training.clip is None and training.lr.peak == 1e-3 and [e.half_life for e in training.ema] == [100, 1000]
    assert change(training, {"clip": "0.5", "ema": "none"}).ema is None


def test_change_of_plain_data_stays_plain() -> None:
    data = describe(GUIDED)
    assert change(data, {"guidance.rule.scale": "2", "solver": "rk4"}) == describe(
        change(GUIDED, {"guidance.rule.scale": 2, "solver": bl.solvers.RK4})
    )
    network = {"is": "networks.MLP", "width": 8}
    assert change(network, {"depth": "2"}) == {"is": "networks.MLP", "width": 8, "depth": 2}
    assert change({"a": [1, {"b": 2}]}, {"a.1.b": "3"}) == {"a": [1, {"b": 3}]}


def test_change_of_a_network_makes_a_new_one() -> None:
    with Rng(0).ambient():
        net = bl.Network(MLP(2, width=8, depth=1))
        assert change(net, {"backbone.width": 16, "path": "Cosine"}).backbone.inp.out_features == 16


def test_numbers_that_yaml_reads_as_text() -> None:
    assert build({"is": "times.LogitNormal", "mean": "1e-3"}).mean == 1e-3
    assert build({"is": "samplers.Sampler", "steps": "8", "solver": "HEUN"}) == Sampler(8)
    assert build({"is": "samplers.Sampler", "steps": 8.0}).steps == 8


@dataclass(frozen=True)
class Mine:
    """A solver of a user's own."""

    order: int = 1


@dataclass(frozen=True)
class Settings:
    """One setting of every type."""

    mode: Literal["slow", "fast"] = "slow"
    names: tuple[str, ...] = ()
    rows: list[float] | None = None
    table: dict[str, int] | None = None
    place: pathlib.Path | None = None
    name: str | None = None
    either: int | str = 1


def test_parts_of_ones_own_are_welcome_in_code() -> None:
    assert change(GUIDED, {"solver": Mine()}).solver == Mine()
    made = change(
        Settings(),
        {"mode": "fast", "names": "a, b", "rows": "1, 2", "table": "{'a': 1}", "place": pathlib.Path("x"), "name": "8"},
    )
    assert made == Settings("fast", ("a", "b"), [1.0, 2.0], {"a": 1}, pathlib.Path("x"), "8")
    assert change(Settings(), {"place": "x/y"}).place == pathlib.Path("x/y")
    assert change(made, {"name": "none", "either": "two", "rows": "none"}) == Settings(
        "fast", ("a", "b"), None, {"a": 1}, pathlib.Path("x"), None, "two"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 3}, "Sampler has no setting 'step'; did you mean 'steps'"),
        ({"guidance.rule.scle": 3}, r"guidance.rule: Extrapolate has no setting 'scle'; did you mean 'scale'"),
        ({"steps": 1.5}, r"^steps: got 1.5 \(float\), which does not fit this setting; give a whole number"),
        ({"steps": "1.5"}, "^steps: got 1.5"),
        ({"steps": "many"}, "^steps: got 'many'"),
        ({"steps": True}, "^steps: got True"),
        ({"steps": None}, "^steps: got None"),
        ({"steps": "0"}, "^steps: Sampler got steps=0; the number of steps is an integer"),
        ({"steps.more": 3}, "^steps is 8, which has no setting 'more' inside; set steps itself"),
        ({"guidance.together": "8"}, "^guidance.together: got 8 .* give true or false"),
        ({"guidance.window": "0.1"}, "^guidance.window: got 0.1"),
        ({"guidance.window": "(0.1, 0.2, 0.3)"}, "^guidance.window: got 3 values, but it takes 2"),
        ({"guidance.window.7": "0.1"}, "guidance.window has no setting '7'"),
        ({"guidance.rule.scale": "[1]"}, r"^guidance.rule.scale: got \[1\] .* give a number"),
        ({"solver": "heum"}, "^solver: 'heum' is none of the solvers; did you mean 'HEUN'"),
        ({"solver": "schedules.Uniform"}, "^solver: 'schedules.Uniform' is one of the schedules, which do not fit"),
        ({"solver": bl.paths.Linear()}, r"^solver: got Linear\(\) \(paths.Linear\)"),
        ({"solver": 3}, r"^solver: got 3 \(int\), which does not fit this setting; give one of the solvers \(EULER"),
        ({"solver": "HEUN(3)"}, "^solver: 'HEUN.3.' has more values than solvers.HEUN has settings"),
        ({"solver": "HEUN(order=3)"}, "^solver: solvers.HEUN has no settings"),
        ({"schedule": "Shifted(-1)"}, "^schedule: Shifted got shift=-1.0"),
        ({"schedule": "Shifted(1, shift=2)"}, "^schedule: 'Shifted.1, shift=2.' gives shift twice"),
        ({"guidance": "Guide(Unconditional(1))"}, r"^guidance: Guide lacks rule.*Guide\(rule=...\)"),
        ({"guidance": {"is": "guidance.Guide", "x": 1}}, "^guidance: Guide has no setting 'x'"),
        ({"guidance": "Guide(Unconditional(1), Extrapolate('a'))"}, "^guidance.rule.scale: got 'a'"),
    ],
)
def test_refused_changes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        change(GUIDED, changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: change(FlowMatching(), {"drop.null": 1}), "^drop is None, which has no setting 'null' inside"),
        (lambda: change(Settings(), {"mode": "fats"}), "^mode: got 'fats'; did you mean 'fast'"),
        (lambda: change(Settings(), {"table": "3"}), "^table: got 3"),
        (lambda: parse("Uniform"), "may mean times.Uniform, schedules.Uniform, sources.Uniform"),
        (lambda: parse("LogNormal"), "there is no component 'LogNormal'; did you mean 'LogitNormal'"),
        (lambda: parse("LogitNormal", "tmes"), "there is no kind of component 'tmes'; did you mean 'times'"),
        (lambda: parse("LogitNormal(**{'mean': 1})"), "has more values than"),
        (lambda: parse("__import__('os').system('true')"), 'there is no kind of component "__import__'),
        (lambda: parse("open('x')"), "there is no component 'open'"),
        (lambda: build({"is": "os.system"}), "there is no kind of component 'os'"),
        (lambda: build({"is": "times.LogitNormal", "std": -1}), "LogitNormal got std=-1"),
        (lambda: build({"a": [{"is": "times.At", "t": 2}]}), "^a.0: At got t=2"),
        (lambda: build({"is": "references.WeakBundle"}), "WeakBundle lacks path"),
        (lambda: describe({"a": Mine()}), "^a: Mine is not in the catalogue"),
        (lambda: describe(Guide(bl.guidance.Weak(nn.Linear(1, 1)), Extrapolate(2.0))), "^reference.field: .*weights"),
        (lambda: describe(torch.zeros(20_000)), "a tensor of shape .20000,. and torch.float32 is not a setting"),
        (lambda: lookup("solvers", "eular"), "did you mean 'EULER'"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        call()


def test_a_slot_without_a_kind_takes_any_object() -> None:
    slot = Setting("rule", "Any", Any, None, ())
    assert fit(Plain(), slot, "rule") == Plain()
    assert config.parse("Huber(scale=0.1)", "distances") == Huber(0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guidance={[]: 1}", "a name is no text"),
        ("steps={1, 2}", r"^steps: got \{1, 2\} \(set\), which is no setting"),
        ("steps=1j", r"^steps: got 1j \(complex\), which is no setting"),
        ("steps=...", r"^steps: got Ellipsis \(ellipsis\), which is no setting"),
        ("steps=b'8'", r"^steps: got b'8' \(bytes\), which is no setting"),
        ("steps=1" + "0" * 400, "^steps: got a whole number of about 13"),
        ("steps=1" + "0" * 5000, "^steps: got '10000"),
        ("steps=1e300", "^steps: got a whole number of about 997 bits"),
        ("steps=0x" + "f" * 5000, "^steps: got a whole number of about 20000 bits"),
        ("guidance.window.0=1" + "0" * 400, "^guidance.window.0: got a whole number"),
        ("guidance.window.0=[]", r"^guidance.window.0: got \[\] \(list\)"),
        ("solver={1, 2}", "^solver: got"),
        ("schedule=" + "(" * 5000 + ")" * 5000, "^schedule: "),
        ("steps=" + "-" * 3000 + "1", "^steps: .*nested too deeply"),
        ("steps=" + "[" * 60 + "]" * 60, r"^steps: got .*\(list\)"),
        ("solver.order.deep=3", "^solver.order is 2, which has no setting 'deep' inside"),
        ("guidance.together.x=3", "^guidance.together is True"),
    ],
)
def test_what_is_no_setting_at_all(text: str, message: str) -> None:
    name, _, value = text.partition("=")
    with pytest.raises(BeelineError, match=message):
        change(GUIDED, {name: value})


def test_a_function_has_no_settings_below_it() -> None:
    with pytest.raises(BeelineError, match="^weight is .*, which has no setting 'nothing' inside"):
        change(FlowMatching(), {"weight.nothing": "3"})


def test_files_hold_plain_data() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    for data, message in (
        ({"is": "times.At", "t": {1, 2}}, "^t: got {1, 2}"),
        ({"is": "times.At", "t": pathlib}, "^t: got"),
        ({"is": "times.At", None: 3}, "has the name None"),
        (deep, "nested more than 40 levels"),
        ({"is": "sources.Empirical", "data": [[1.0], [1.0, 2.0]]}, "^data: got .*lists of equal length"),
        ({"is": "sources.Empirical", "data": {"a": 1}}, "^data: got .*no array"),
        ({"is": "times.LogitNormal", "mean": 10**400}, "^mean: got a whole number"),
    ):
        with pytest.raises(BeelineError, match=message):
            build(data)


def test_a_plain_value_is_no_component() -> None:
    for text, kind in (("3", "data"), ("true", "data"), ("2.5", "solvers")):
        with pytest.raises(BeelineError, match=f"which does not fit this setting; give one of the {kind}"):
            parse(text, kind)
