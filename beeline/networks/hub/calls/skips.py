"""Blocks of pretrained transformers that return their inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from beeline.core.errors import require

IMAGE, TEXT = "hidden_states", "encoder_hidden_states"  # names of the arguments of blocks
RESULTS: Mapping[str, tuple[str, ...]] = {
    "FluxTransformerBlock": (TEXT, IMAGE),
    "FluxSingleTransformerBlock": (TEXT, IMAGE),
    "JointTransformerBlock": (TEXT, IMAGE),
    "Flux2TransformerBlock": (TEXT, IMAGE),
    "Flux2SingleTransformerBlock": (IMAGE,),
    "ChromaTransformerBlock": (TEXT, IMAGE),
    "ChromaSingleTransformerBlock": (IMAGE,),
    "QwenImageTransformerBlock": (TEXT, IMAGE),
    "CogView4TransformerBlock": (IMAGE, TEXT),
    "WanTransformerBlock": (IMAGE,),
    "LTXVideoTransformerBlock": (IMAGE,),
    "HunyuanVideoTransformerBlock": (IMAGE, TEXT),
    "HunyuanVideoSingleTransformerBlock": (IMAGE, TEXT),
    "MochiTransformerBlock": (IMAGE, TEXT),
}
"""Class of a block -> the arguments whose changed values it returns, in their order.

``apply_layer_skip`` of diffusers 0.42 is not used: it returns both streams in the order of the arguments, which is the
wrong one for FLUX, Stable Diffusion 3 and Qwen-Image.
"""


def returns_inputs(block: nn.Module) -> Callable[..., Any]:
    """A function in place of ``forward`` of a block; raises ValueError for a class that is not in ``RESULTS``."""
    kind = type(block)
    require(
        kind.__name__ in RESULTS,
        f"blocks of the class {kind.__name__} were to be skipped; what they return is known for "
        f"{', '.join(sorted(RESULTS))}: skip none of this model, or add the class to networks.hub.calls.skips.RESULTS",
    )
    names, signature = RESULTS[kind.__name__], inspect.signature(kind.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(block, *args, **kwargs).arguments
        found = tuple(given[name] for name in names)
        return found if len(found) > 1 else found[0]

    return forward
