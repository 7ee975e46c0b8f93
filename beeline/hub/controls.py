"""Control networks of diffusers on pretrained bundles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from beeline.core.errors import require
from beeline.data.pretrained import Prompted
from beeline.networks.adapters.amounts import Amount
from beeline.networks.hub.calls import controls as foreign
from beeline.runs.bundle import Bundle

NONE: Mapping[str, Any] = {}


def controlled(
    bundle: Bundle,
    controls: Mapping[str, Any],
    strengths: Mapping[str, float | Amount] = NONE,
    modes: Mapping[str, int] = NONE,
) -> Bundle:
    """A bundle of FLUX or Stable Diffusion 3 with control networks of diffusers, by name.

    ``controls`` are ``FluxControlNetModel`` or ``SD3ControlNetModel``; they are moved to the device of the network, in
    its precision.  Their hints are pictures under their names: ``made.sample(4, prompt="...", canny="edges.png")``.
    ``strengths`` are numbers, or windows of time (``networks.adapters.amounts``), 1 where none is given; ``modes`` are
    numbers of the kind of hint for those that were trained on several (union), which need one.

    Raises ValueError for another family, for controls of another one, and for modes that a control has not.
    """
    require(
        bool(controls) and isinstance(bundle.modality, Prompted),
        f"controls={sorted(controls)} were given for a bundle of {type(bundle.modality).__name__}; control networks of "
        "diffusers are for its pipelines: give them by name for a bundle of bl.load or bl.hub.from_pipeline, and train "
        "a control of another flow with 'beeline adapt'",
    )
    assert isinstance(bundle.modality, Prompted)
    field = foreign.controlled(bundle.flow.field, controls, strengths, modes)
    dtype = next(field.net.parameters()).dtype
    for control in controls.values():
        control.eval().requires_grad_(False).to(bundle.device)
        if next(control.parameters()).dtype != dtype:
            control.to(dtype)
    family = replace(field.family, inputs=foreign.HintInputs(controls))
    return replace(bundle, flow=replace(bundle.flow, field=field), modality=replace(bundle.modality, family=family))
