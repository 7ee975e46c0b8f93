"""One-step students as ONNX graphs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import is_map
from beeline.core.errors import extra, require
from beeline.core.modes import eval_mode
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import Plain
from beeline.solvers.runge_kutta import EULER, FlowMapStep

FILE = "model.onnx"


class OneStep(nn.Module):
    """The sample of one step as a graph: x1 = x0 + u(x0, 0, cond, 1), or x0 + v(x0, 0, cond)."""

    def __init__(self, field: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.field, self.names = field, names
        self.jumps = is_map(field)

    def forward(self, x0: Tensor, *values: Tensor) -> Tensor:
        cond = dict(zip(self.names, values, strict=True)) or None
        start = torch.zeros_like(x0.flatten(1)[:, 0])
        more = {"s": torch.ones_like(start)} if self.jumps else {}
        v: Tensor = self.field(x0, start, cond, **more)
        return x0 + v


def to_onnx(bundle: Bundle, out: Path) -> dict[str, Any]:
    """Write the graph of a one-step sampler: inputs x0 [B,*S] and the conditions, output x1 [B,*S]."""
    sampler, field = bundle.sampler, bundle.flow.field
    euler = isinstance(sampler.solver, FlowMapStep) or sampler.solver == EULER
    plain = isinstance(sampler.guidance, Plain) and not sampler.controllers
    require(
        sampler.steps == 1 and euler and plain,
        f"the sampler takes {sampler.steps} steps of {type(sampler.solver).__name__} with "
        f"{type(sampler.guidance).__name__}; a graph holds one step without guidance, as a one-step student takes it: "
        "distil with 'beeline distill BUNDLE one-step', or set sampler.steps=1 and sampler.solver=EULER",
    )
    require(isinstance(field, nn.Module), f"the field is {type(field).__name__}, which has no graph; wrap a network")
    shape: Any = bundle.modality.shape if bundle.modality is not None else bundle.lineage.get("shape")
    require(shape is not None, "this bundle does not know the shape of a datum; save it with a modality")
    known = {} if bundle.modality is None else dict(bundle.modality.conditions)
    for library in ("onnx", "onnxscript"):
        extra(library, "onnx")
    examples = {name: example(spec) for name, spec in sorted(known.items())}
    module = OneStep(copy.deepcopy(field), tuple(examples)).float().cpu()  # the bundle stays where it is
    batch = torch.export.Dim("batch", min=1)
    axes: tuple[Any, ...] = ({0: batch}, tuple({0: batch} for _ in examples)) if examples else ({0: batch},)
    out.mkdir(parents=True, exist_ok=True)
    with eval_mode(module):
        torch.onnx.export(
            module,
            (torch.zeros(2, *shape), *examples.values()),
            str(out / FILE),
            input_names=["x0", *examples],
            output_names=["x1"],
            dynamic_shapes=axes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return {"graph": FILE, "inputs": ", ".join(["x0", *examples]), "output": "x1", "shape": list(shape)}


def example(spec: dict[str, Any]) -> Tensor:
    """Two rows of a condition: labels, vectors or sequences."""
    if "classes" in spec:
        return torch.tensor([0, spec["classes"] - 1])
    return torch.zeros(2, *(spec[name] for name in ("length", "size") if name in spec))
