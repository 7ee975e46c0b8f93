"""Mistakes in every setting of every recipe, every field of flow.json and run.yaml, and every argument."""

from __future__ import annotations

import copy
import functools
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.runs import manifest
from beeline.runs.run_directory import flat
from tests.mistakes.harness import Case

# texts that are invalid for every setting but text
NEVER = (
    "{1, 2}",
    "1j",
    "...",
    "b'x'",
    "{[]: 1}",
    "1" + "0" * 400,
    "-" * 3000 + "1",
    "[" * 99 + "]" * 99,
    "NoSuchThing(3)",
    "os.system('true')",
    "LogitNormal(mean=",
    "Sampler(stpes=3)",
)
# values that are valid for some settings
ODD = (
    "none",
    "true",
    "-1",
    "0",
    "0.5",
    "1e308",
    "-1e-300",
    "nan",
    "inf",
    "''",
    "x",
    "[]",
    "{}",
    "[[1, 2], [3]]",
    "Uniform",
    "Linear()",
    "(1, 2, 3)",
    "{'is': 'times.Uniform'}",
    "{'is': 3}",
    "9e18",
    "3_0",
    "\x00",
    "é[/b]",
)
# plain values in place of one in a file
VALUES = (
    None,
    True,
    -1,
    0,
    0.5,
    1e308,
    math.nan,
    math.inf,
    2**40,
    10**30,
    "",
    "x",
    "[/b]",
    [],
    {},
    [[]],
    [1, "a"],
    {"is": "times.Uniform"},
    {"is": 3},
    {"is": "os.system"},
    {"a": {"b": []}},
)
NUMBER_OR_PART = ("lr",)  # settings that take a number or a component


def recipes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every recipe with its settings as dotted names."""
    for name in CATALOGUE["recipes"]:
        yield name, flat(config.describe(config.lookup("recipes", name)()))


def settings() -> Iterator[Case]:
    """Unusual values of every setting of every recipe, and unknown names."""
    for name, known in recipes():
        for dotted, value in known.items():
            if dotted.startswith("network."):
                continue  # plain data until the data are known: see networks()
            setting = dotted.removesuffix(".is")
            for text in (*NEVER, *ODD):
                yield Case(
                    f"show {name} --set {setting}={text[:40]}",
                    ("describe", name, "--yaml", "--set", f"{setting}={text}"),
                    nonsense=text in NEVER and not isinstance(value, str | dict) and value is not None,
                )
            for wrong in (f"{setting}.nothing", f"{setting}x", f".{setting}", f"{setting}..x"):
                yield Case(f"show {name} --set {wrong}=3", ("describe", name, "--set", f"{wrong}=3"))


def ways(data: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all entries of nested plain data."""
    items = data.items() if isinstance(data, Mapping) else enumerate(data[:3]) if isinstance(data, list) else ()
    for key, value in items:
        yield (*way, key)
        yield from ways(value, (*way, key))


def mutations(data: Any) -> Iterator[tuple[str, Any, bool]]:
    """Plain data with one entry removed, renamed or replaced, and whether the result is certainly invalid."""
    for way in ways(data):
        dotted = ".".join(map(str, way))
        for value in (..., "renamed", *VALUES):
            made = copy.deepcopy(data)
            inside = functools.reduce(lambda d, key: d[key], way[:-1], made)
            old = inside[way[-1]]
            if value is ... or (value == "renamed" and isinstance(inside, dict)):
                if isinstance(inside, list):
                    continue
                del inside[way[-1]]
                if value == "renamed":
                    inside[f"{way[-1]}_"] = old
                yield f"{dotted} {'removed' if value is ... else 'renamed'}", made, value != ... and "is" in inside
                continue
            if type(value) is type(old) and value == old:
                continue
            inside[way[-1]] = value
            number = isinstance(old, int | float) and not isinstance(old, bool)
            part = isinstance(old, dict) and "is" in old
            wrong = (number and isinstance(value, str | list | dict)) or (
                part and (isinstance(value, int | float | list) or value in ("x", "", "[/b]"))
            )
            wrong = wrong and not (way[-1] in NUMBER_OR_PART and isinstance(value, int | float))
            yield f"{dotted} = {str(value)[:40]}", made, wrong


def flows(bundle: Path, signed: bool) -> Iterator[Case]:
    """One field of flow.json changed; ``signed`` with a matching hash."""
    data = json.loads((bundle / "flow.json").read_text())
    for name, made, wrong in mutations(data):
        place = name.partition(" ")[0]
        free = place.startswith(("lineage", "null", "content")) or not isinstance(made, dict)

        def prepare(folder: Path, made: Any = made) -> None:
            shutil.copytree(bundle, folder / "b")
            if signed and isinstance(made, dict):
                made = {**made, "content": manifest.content(made)}
            (folder / "b" / "flow.json").write_text(json.dumps(made))

        argv = ("sample", "{}/b", "-n", "2", "--condition", "label=1", "--out", "{}/x.npy")
        yield Case(
            f"flow.json {name}{'' if signed else ' (unsigned)'}",
            argv,
            nonsense=(wrong and not free) if signed else not place.startswith("format"),
            prepare=prepare,
        )


def runs(recipe: Any) -> Iterator[Case]:
    """One field of run.yaml changed."""
    for name, made, wrong in mutations(config.describe(recipe)):
        text = yaml.safe_dump(made, sort_keys=False)
        free = name.startswith("network")

        def prepare(folder: Path, text: str = text) -> None:
            (folder / "mine.yaml").write_text(text)

        yield Case(f"run.yaml {name}", ("train", "{}/mine.yaml", "--plan"), wrong and not free, prepare)


def texts() -> Iterator[Case]:
    """Files that are not a run."""
    for i, text in enumerate(
        (
            "",
            "null",
            "3",
            "- 1\n- 2\n",
            "a: [1\n",
            "\x00",
            "is: runs.Run\n",
            "is: times.Uniform\n",
            "is: [runs.Run]\n",
            "? [1]\n: 2\n",
            "!!python/object/apply:os.system ['true']\n",
            "[" * 5000,
            "a: " + "{b: " * 1500,
            "1" * 5000,
            "seed: " + "1" * 5000,
            "a: 2020-13-45\n",
            "&a [*a]\n",
            "a: !!binary =\n",
            "a: !!set {1, 2}\n",
            "<<: 3\n",
            "a: &x {b: *x}\n",
        )
    ):

        def prepare(folder: Path, text: str = text) -> None:
            (folder / "mine.yaml").write_text(text)

        yield Case(f"run.yaml holds {text[:20]!r} ({i})", ("train", "{}/mine.yaml", "--plan"), True, prepare)


def commands(bundle: Path) -> Iterator[Case]:
    """Arguments of the command line."""
    seeds = ("x", "1.5", "", "1e3", "nan", "[1]", "0x", "--", "1j")
    sample = ("sample", str(bundle), "-n", "2", "--out")
    conditions = (
        "label=.nan",
        "label=1099511627776",
        "label=-1",
        "label=2",
        "label=1.5",
        "label=1" + "0" * 400,
        "label=0,label=1",
        "label=",
        "=3",
        "lable=1",
        "label=[0, 1, 0]",
        "label={}",
        "label=x",
        "label=0,x=1",
        "[" * 2000,
        "nowhere.json",
        "label=true",
        "label=[[0]]",
        "label=1=2",
        ",",
        "label=.inf",
    )
    yield from (Case(f"--condition {c[:30]}", (*sample, "{}/x.npy", "--condition", c)) for c in conditions)
    for seed in seeds:
        yield Case(f"sample --seed {seed}", (*sample, "{}/x.npy", "--condition", "label=1", "--seed", seed))
        yield Case(
            f"sample -n {seed}", ("sample", str(bundle), "-n", seed, "--condition", "label=1", "--out", "{}/x.npy")
        )
    for out in ("", "/", "{}", "{}/x.wav", "/dev/null", "\x00", "/proc/x.npy", "{}/" + "x" * 300 + ".npy"):
        yield Case(f"sample --out {out[:20]}", (*sample, out, "--condition", "label=1"))
    for out in ("", "/", "/dev/null", "/proc/nothing"):
        yield Case(f"train --out {out}", ("train", "two_moons", "--set", "training.steps=1", "--out", out))
    for text in (*NEVER, "3", "true", "[/b]", "", "Uniform", "Digits(", "runs/x", "\x00", "none", "x" * 300):
        yield Case(f"evaluate D {text[:30]}", ("evaluate", str(bundle), text, "-n", "20"))
        yield Case(f"train {text[:30]}", ("train", text, "--plan"))
        yield Case(f"show {text[:30]}", ("describe", text), text not in ("Uniform",))
        yield Case(f"distill D {text[:30]}", ("distill", str(bundle), text, "--out", "{}/d"))
        yield Case(f"sample {text[:30]}", ("sample", text, "--out", "{}/x.npy"))
        yield Case(f"{text[:30]}", (text,))
        for setting in (
            "sampler.steps",
            "sampler.solver",
            "sampler.guidance",
            "sampler",
            "sampler.guidance.scale",
            "x",
        ):
            yield Case(
                f"sample --set {setting}={text[:30]}",
                (*sample, "{}/x.npy", "--condition", "label=1", "--set", f"{setting}={text}"),
                text in NEVER,
            )
    for text in (
        "Guide(Weak(3), Extrapolate(2))",
        "Guide(Weak(runs/x), Extrapolate(2))",
        "CFG(2, null=x)",
        "CFG([], 1)",
        "Guide(3, 4)",
        "Temperature(x)",
    ):
        yield Case(
            f"guidance {text}", (*sample, "{}/x.npy", "--condition", "label=1", "--set", f"sampler.guidance={text}")
        )


def networks() -> Iterator[Case]:
    """Unusual settings of networks."""
    small = ("--set", "data.n=300", "--set", "data.kept=100", "--set", "training.steps=2")
    for setting in ("width", "depth", "span", "dropout", "scale", "conditions", "frames", "shape", "is", ""):
        for text in (*NEVER, *ODD, "1099511627776"):
            name = f"network.{setting}".rstrip(".")
            yield Case(
                f"--set {name}={text[:40]}",
                ("train", "two_moons", "--plan", *small, "--set", f"{name}={text}"),
                text in NEVER,
            )


def slice_of(cases: Sequence[Case] | Iterator[Case], count: int, seed: int) -> list[Case]:
    """A sample of the cases, which depends on the seed."""
    every = list(cases)
    return random.Random(seed).sample(every, min(count, len(every)))


Maker = Callable[[], Iterator[Case]]
