"""Numbers that settings may not hold: every number of every component is refused outside its range."""

import dataclasses
import math
import types
import typing
from typing import Any

import pytest

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE, makes
from beeline.core.errors import BeelineError
from beeline.core.ranges import Annotated, Count, Range, dataclass
from tests.config.test_catalogue import EXAMPLES, IN_CODE

# where a negative number means something
NEGATIVE = {
    "times.LogitNormal.mean": "of a logit",
    "times.NormalSNR.mean": "nats",
    "times.Mode.scale": "middle times less often",
    "predictions.Boundary.mean": "of the data",
    "sources.Uniform.low": "an end of an interval",
    "rules.Projected.momentum": "against earlier differences",
    "guidance.AdaptiveWeak.aligned": "a cosine; -1 ends guidance after one evaluation",
    "energies.ColumnSum.total": "in the units of the columns",
    "energies.ColumnRange.low": "in the units of the column",
    "energies.ColumnRange.high": "in the units of the column",
    "edits.ShiftedMaps.shift": "towards the beginning",
    "layer_operations.Move.down": "pixels upwards",
    "layer_operations.Move.right": "pixels to the left",
    "layer_operations.Clone.down": "pixels upwards",
    "layer_operations.Clone.right": "pixels to the left",
    "pair_operations.Shifted.down": "pixels upwards",
    "pair_operations.Shifted.right": "pixels to the left",
    "pair_operations.Turned.quarters": "turns to the right",
    "edits.Pan.down": "pixels upwards",
    "edits.Pan.right": "pixels to the left",
    "amounts.PerLayer.others": "against the change",
    "amounts.Window.inside": "against the change",
    "amounts.Window.outside": "against the change",
    "hints.Silhouette.level": "a grey",
    "weights.ByDensity.power": "-1 undoes the weight of the sampler",
    "weights.PowerWeight.data": "an exponent",
    "weights.PowerWeight.source": "an exponent",
    "weights.SigmoidSNR.bias": "nats",
    "objectives.InductiveMoments.bias": "nats",
}
# where infinity means something
ENDLESS = {
    "couplings.Unbalanced.reach": "no mass is left behind: Sinkhorn",
    "controllers.TFG.clip": "no bound",
    "samplers.Anchored.strength": "no anchor",
    "edits.Personalised.strength": "no anchor",
    "edits.PostEdit.noise": "nothing is measured",
    "rules.NormRestored.most": "no bound",
    "rules.Projected.radius": "no bound",
    "guidance.ProjectedFlow.until": "a constant weight",
    "references.SmoothedAttention.sigma": "the mean",
}
UNIONS = (typing.Union, types.UnionType)
EVERY = [f"{kind}.{name}" for kind, names in CATALOGUE.items() for name in names if makes(f"{kind}.{name}")]


def numbers() -> typing.Iterator[tuple[str, Any, str, tuple[type, ...]]]:
    """Every field of a component that holds a number, with the kinds of number that it is annotated with."""
    for full in EVERY:
        if full in IN_CODE:
            part = IN_CODE[full]()
        else:
            text = EXAMPLES.get(full, full)
            part = config.parse(text if "." in text.partition("(")[0] else f"{full.partition('.')[0]}.{text}")
        if not dataclasses.is_dataclass(part) or isinstance(part, type):
            continue
        hints = typing.get_type_hints(type(part))  # without the ranges
        for field in dataclasses.fields(part):
            hint = hints[field.name]
            arms = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
            if field.init and all(arm in (int, float, type(None)) for arm in arms):
                yield f"{full}.{field.name}", part, field.name, arms


NUMBERS = list(numbers())


@pytest.mark.parametrize("where, part, name, arms", NUMBERS, ids=[n[0] for n in NUMBERS])
def test_numbers_that_mean_nothing_are_refused(where: str, part: Any, name: str, arms: tuple[type, ...]) -> None:
    odd: list[object] = [math.nan, -math.inf, True, "3"]
    if where not in ENDLESS:
        odd.append(math.inf)
    if where not in NEGATIVE and name != "seed":  # any whole number names a stream
        odd += [-1e30, -1]
    if float not in arms:
        odd += [2.5, 3.0]
    for value in odd:
        with pytest.raises(BeelineError, match=name):
            dataclasses.replace(part, **{name: value})


def test_the_list_of_negative_numbers_is_true() -> None:
    """A setting of the list takes -0.5 (a whole number -1), and is a number of the catalogue."""
    parts = {where: (part, name, -0.5 if float in arms else -1) for where, part, name, arms in NUMBERS}
    for where in NEGATIVE:
        part, name, value = parts[where]
        assert getattr(dataclasses.replace(part, **{name: value}), name) == value


@dataclass(frozen=True)
class Mine:
    count: Count = 1
    share: Annotated[float, Range(least=0, below=1)] = 0.5
    never: Annotated[float, Range(above=0, inf=True)] = math.inf
    maybe: int | None = None
    text: float | str = "auto"
    flag: bool | int = True
    sizes: tuple[Count, ...] = (1, 2)


@dataclass(frozen=True)
class Heir(Mine):
    more: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "more", 2 * self.more)


@pytest.mark.parametrize("kind", [Mine, Heir])
@pytest.mark.parametrize(
    "good",
    [{"count": 7}, {"share": 0}, {"never": 3}, {"maybe": -3}, {"text": 1.5}, {"text": "x"}, {"flag": False}]
    + [{"sizes": ()}, {"sizes": (3,)}],
)
def test_what_is_inside_is_taken(kind: type, good: dict[str, Any]) -> None:
    ((name, value),) = good.items()
    assert getattr(kind(**good), name) == value


@pytest.mark.parametrize("kind", [Mine, Heir])
@pytest.mark.parametrize(
    "bad",
    [{"count": 0}, {"share": 1}, {"share": -1e-9}, {"never": 0}, {"never": -math.inf}, {"maybe": 2.5}, {"text": True}]
    + [{"text": math.nan}, {"sizes": (1, 0)}, {"sizes": (1, True)}, {"count": None}],
)
def test_what_is_outside_is_refused(kind: type, bad: dict[str, Any]) -> None:
    with pytest.raises(BeelineError, match=f"{kind.__name__} got {next(iter(bad))}="):
        kind(**bad)


def test_a_heir_checks_before_it_computes() -> None:
    assert Heir(more=1.5).more == 3.0
    with pytest.raises(BeelineError, match="Heir got more='a', which is no finite number; give one, such as the def"):
        Heir(more="a")  # type: ignore[arg-type]


def test_the_message_names_the_range() -> None:
    with pytest.raises(BeelineError, match=r"^Mine got count=0, which is no whole number from 1; .*the default 1$"):
        Mine(count=0)
    with pytest.raises(BeelineError, match=r"share=2, which is no finite number from 0 below 1; "):
        Mine(share=2)
