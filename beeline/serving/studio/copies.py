"""A request as a command, as Python and as curl, which draw the same samples."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from beeline.serving.requests import SampleRequest

SLOTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "steps": ("steps", lambda value: value),
    "solver": ("solver", lambda value: value),
    "schedule": ("schedule", lambda value: value),
    "guidance_scale": ("guidance", lambda value: f"CFG({value})"),
    "guidance": ("guidance", lambda value: value),
    "controllers": ("controllers", lambda value: f"({', '.join(value)},)" if value else "()"),
}
"""Field of a request -> the setting of a sampler, and its value as text for the command line."""


def settings(request: SampleRequest) -> dict[str, Any]:
    """The settings of the sampler that a request changes, as text for the command line."""
    given = {} if request.sampler is None else request.sampler.model_dump(exclude_none=True)
    return {SLOTS[name][0]: SLOTS[name][1](value) for name, value in given.items()}


def command(request: SampleRequest, place: str, ending: str) -> str:
    """A command that writes the samples to a file."""
    words = ["beeline", "sample", place, "-n", str(request.n), "--seeds", ",".join(map(str, request.drawn()))]
    if request.condition is not None:
        words += ["--condition", json.dumps(request.condition, ensure_ascii=False)]
    for name, value in settings(request).items():
        words += ["--set", f"sampler.{name}={value}"]
    return shlex.join([*words, "--out", f"samples{ending}"])


def python(request: SampleRequest, place: str) -> str:
    """Lines of Python that leave the samples in ``samples``."""
    arguments = [str(request.n), f"seeds={request.drawn()}"]
    if request.condition is not None:
        arguments.append(f"cond={request.condition!r}")
    lines = ["import beeline as bl", "", f"bundle = bl.load({place!r})"]
    changed = settings(request)
    if changed:
        lines[:1] = ["import beeline as bl", "from beeline.config.build import change"]
        lines.append(f"sampler = change(bundle.sampler, {changed!r})")
        arguments.append("sampler=sampler")
    return "\n".join([*lines, f"samples = bundle.sample({', '.join(arguments)})"]) + "\n"


def curl(body: Mapping[str, Any], url: str, keys: bool, kind: str, ending: str) -> str:
    """A command that sends the request and writes the samples to a file."""
    headers = ["Content-Type: application/json", f"Accept: {kind}"]
    words = ["curl", "-sS", "--fail-with-body", f"{url.rstrip('/')}/v1/sample"]
    for header in headers:
        words += ["-H", header]
    key = ' -H "Authorization: Bearer $BEELINE_KEY"' if keys else ""
    return shlex.join([*words, "-d", json.dumps(body, ensure_ascii=False)]) + key + f" -o samples{ending}"
