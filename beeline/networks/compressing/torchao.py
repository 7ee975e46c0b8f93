"""Weights as tensors of the library torchao, with its kernels."""

from __future__ import annotations

import ast
import functools
import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.errors import extra, nearest, require
from beeline.core.ranges import dataclass
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.formats import Format

LIKE = "like"  # an empty tensor with the dtype of the weight, which follows those of the network
WORKS = "Int8WeightOnly(), Int8DynamicActivationInt8Weight(), IntxWeightOnly(weight_dtype=int4) and Float8WeightOnly()"


@dataclass(frozen=True)
class AOTensor(Format):
    """A tensor of the library torchao, multiplied by its kernels.

    ``config`` is one of its configurations, with or without "Config" at the end, whose settings are numbers, dtypes
    and granularities: IntxWeightOnly(weight_dtype=int4, granularity=PerGroup(32)).  What is stored are the plain
    tensors that torchao's is made of; float8 is stored as bytes.  Integers below 8 bits take a byte each there.
    Needs the extra ``torchao``.
    Source: Or et al. 2025, TorchAO (arXiv 2507.16099).

    >>> AOTensor().config
    'Int8WeightOnly()'
    """

    config: str = "Int8WeightOnly()"

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        made = _quantized(self.config, w)
        names, _ = made.__tensor_flatten__()
        return {LIKE: w.new_empty(0)} | {name: _plain(vars(made)[name]) for name in names}

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        return self.tensor(stored, out, into, stored[LIKE].dtype).dequantize()  # type: ignore[no-any-return,operator]

    def product(self, x: Tensor, stored: Mapping[str, Tensor], out: int) -> Tensor:
        return F.linear(x, self.tensor(stored, out, x.shape[-1], x.dtype))

    def tensor(self, stored: Mapping[str, Tensor], out: int, into: int, dtype: torch.dtype) -> Tensor:
        """The tensor of torchao, which stands for a weight [out,into] of a dtype."""
        kind, context, dtypes, strides = _template(self.config, out, into, dtype, str(stored[LIKE].device))
        parts = {name: _restored(stored[name], dtypes[name]) for name in dtypes}
        made: Tensor = kind.__tensor_unflatten__(parts, context, (out, into), strides)
        return made


def _plain(part: Tensor) -> Tensor:
    """A tensor that keeps its numbers when a network changes its dtype."""
    return part.view(torch.uint8) if part.is_floating_point() and part.element_size() == 1 else part


def _restored(part: Tensor, dtype: torch.dtype) -> Tensor:
    return part.view(dtype) if part.dtype == torch.uint8 and dtype.is_floating_point else part.to(dtype)


@functools.lru_cache(maxsize=256)
def _template(config: str, out: int, into: int, dtype: torch.dtype, device: str) -> tuple[Any, Any, Any, Any]:
    """The class of a tensor, what it keeps beside its tensors, their dtypes, and its strides."""
    made = _quantized(config, torch.ones(out, into, dtype=dtype, device=device))
    names, context = made.__tensor_flatten__()
    return type(made), context, {name: vars(made)[name].dtype for name in names}, made.stride()


def _quantized(config: str, w: Tensor) -> Any:
    """torchao's tensor of a weight [out,in]; ValueError where it has none."""
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it warns of every kernel that this processor does not have
    ao = extra("torchao.quantization", "torchao")
    site = nn.Linear(w.shape[1], len(w), bias=False, device="meta")
    site.weight = nn.Parameter(w.detach(), requires_grad=False)
    chosen, reason = configured(config, ao), ""
    try:
        ao.quantize_(site, chosen)
    # torchao refuses a device or a shape by any of these, and by none of its own
    except (AssertionError, ImportError, RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as e:
        reason = f" ({type(e).__name__}: {str(e).splitlines()[0][:200] if str(e) else ''})"
    require(
        type(site.weight) is not nn.Parameter,
        f"torchao was to store a layer of {w.shape[1]} x {len(w)} by {config} on the device {w.device.type}, and "
        f"cannot{reason}; on every processor work {WORKS} with a granularity PerGroup(n) whose n divides the inputs: "
        "give one of them, or compress on a device that has its kernels",
    )
    return site.weight.data


def configured(text: str, ao: Any) -> Any:
    """The configuration of torchao that a text such as IntxWeightOnly(weight_dtype=int4) describes."""
    names = {name.removesuffix("Config"): name for name in dir(ao) if name.endswith("Config")}
    name, _, _ = text.partition("(")
    short = name.strip().removesuffix("Config")
    require(short in names, f"torchao has no configuration {name!r}; {nearest(short, names)}")
    values = {k: v for k, v in vars(torch).items() if isinstance(v, torch.dtype)}
    values |= {k: v for k, v in vars(ao).items() if isinstance(v, type) and re.match("Per|MappingType", k)}
    try:
        call = ast.parse(text if "(" in text else text + "()", mode="eval").body
        assert isinstance(call, ast.Call)
        given = {str(k.arg): _value(k.value, values) for k in call.keywords}
        return vars(ao)[names[short]](*(_value(a, values) for a in call.args), **given)
    except (SyntaxError, AssertionError, TypeError, ValueError, KeyError) as error:
        require(
            False,
            f"torchao was given the configuration {text!r} ({type(error).__name__}: {error}); its settings are "
            "numbers, dtypes such as int4, and granularities such as PerGroup(64): give "
            "IntxWeightOnly(weight_dtype=int4, granularity=PerGroup(64))",
        )


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return values[node.func.id](*(_value(a, values) for a in node.args))
    return ast.literal_eval(node)
