"""Prompts of pretrained pipelines as conditions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from beeline.core.errors import require

LENGTH = "max_sequence_length"
SHARED = (LENGTH, "complex_human_instruction", "clean_caption", "text_encoder_out_layers")
"""Arguments of ``encode_prompt`` for which a pipeline's call has defaults of its own."""


@dataclass(frozen=True)
class Prompt:
    """The condition of texts, by the public ``encode_prompt`` of a pipeline, with the defaults of the pipeline's call.

    ``outputs`` gives the position of every leaf in its result.  ``arguments`` are passed in addition to the texts.
    Embeddings of different lengths are padded with zeros, with a leaf "mask" that is one for words.
    """

    outputs: Mapping[str, int]
    arguments: Mapping[str, Any]
    images: tuple[str, ...] = ()  # names of images that the text encoder sees, one for each text
    layers: str = ""  # leaf whose result is a list of one [B,L,D] for each layer, which is stacked to [B,layers,L,D]
    side: int | None = None  # of the square whose area these images are brought to; None: they are as they were given

    def __call__(self, pipeline: Any, texts: list[str], images: Mapping[str, Any] | None = None) -> dict[str, Any]:
        called, encoding = (inspect.signature(f).parameters for f in (type(pipeline).__call__, pipeline.encode_prompt))
        defaults = {name: called[name].default for name in SHARED if name in called and name in encoding}
        if "device" in encoding and encoding["device"].default is inspect.Parameter.empty:
            defaults["device"] = pipeline._execution_device
        if "batch_size" in encoding:
            defaults["batch_size"] = len(texts)
        seen = {name: images[name] for name in self.images if images and name in images}
        defaults |= {name: [of_area(pipeline, image, self.side)] * len(texts) for name, image in seen.items()}
        made = pipeline.encode_prompt(**{"prompt": texts, **defaults, **self.arguments})
        made = (made,) if isinstance(made, list) else made  # one result, a row for each text
        found = {name: made[i] for name, i in self.outputs.items() if made[i] is not None}
        if self.layers:
            found[self.layers] = torch.stack(found[self.layers], 1)
        for name, leaf in list(found.items()):
            if isinstance(leaf, list):
                found[name] = pad_sequence(leaf, batch_first=True)
                found["mask"] = pad_sequence(
                    [torch.ones(len(row), device=row.device) for row in leaf], batch_first=True
                )
        return found

    def with_length(self, pipeline: Any, length: int) -> Prompt:
        """The same for prompts of ``length`` tokens; raises ValueError where the pipeline has one length."""
        require(
            LENGTH in inspect.signature(pipeline.encode_prompt).parameters,
            f"{LENGTH}={length} was given to a {type(pipeline).__name__}, whose prompts have a length of their own; "
            "leave it out",
        )
        require(length >= 1, f"{LENGTH} is {length}; a prompt has at least one token: give 1 or more")
        return replace(self, arguments={**self.arguments, LENGTH: length})


def of_area(pipeline: Any, image: Any, side: int | None) -> Any:
    """A picture of PIL with the area of a square and sides that are multiples of 32; others as they are."""
    from PIL import Image

    if side is None or not isinstance(image, Image.Image):
        return image
    width = side * math.sqrt(image.width / image.height)
    height = width * image.height / image.width
    return pipeline.image_processor.resize(image, round(height / 32) * 32, round(width / 32) * 32)


@dataclass(frozen=True)
class OneByOne:
    """As the inner encoder, of one text at a time, for pipelines that take one; padded with zeros and a mask."""

    inner: Prompt

    @property
    def outputs(self) -> Mapping[str, int]:
        return self.inner.outputs

    def with_length(self, pipeline: Any, length: int) -> OneByOne:
        return replace(self, inner=self.inner.with_length(pipeline, length))

    def __call__(self, pipeline: Any, texts: list[str], images: Mapping[str, Any] | None = None) -> dict[str, Any]:
        made = [self.inner(pipeline, [text], images) for text in texts]
        found = {}
        for name in self.outputs:
            rows = [row[name][0] if name in row else torch.ones(len(row["text"][0])) for row in made]
            found[name] = pad_sequence(rows, batch_first=True)
        return found


def always(pipeline: Any) -> bool:
    return True


@dataclass(frozen=True)
class EmptyIsZero:
    """As the inner encoder, with zeros for empty texts, which stand for no negative prompt."""

    inner: Prompt
    when: Callable[[Any], bool] = always  # (pipeline) -> whether it has zeros there

    @property
    def outputs(self) -> Mapping[str, int]:
        return self.inner.outputs

    def with_length(self, pipeline: Any, length: int) -> EmptyIsZero:
        return replace(self, inner=self.inner.with_length(pipeline, length))

    def __call__(self, pipeline: Any, texts: list[str], images: Mapping[str, Any] | None = None) -> dict[str, Any]:
        found = self.inner(pipeline, texts, images)
        if not self.when(pipeline):
            return found
        said = torch.tensor([bool(text) for text in texts])
        return {name: leaf * said.to(leaf).view(-1, *[1] * (leaf.ndim - 1)) for name, leaf in found.items()}


ALONE = {"do_classifier_free_guidance": False}  # a negative prompt is encoded by a call of its own
MASKED = {"text": 0, "mask": 1}  # outputs of most encoders with a mask
