"""Feature spaces by name: published networks, the classifier of the data, bundles and vision models in a directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import nearest, require
from beeline.core.modes import AUTO, Device
from beeline.core.protocols.data import Features, FullEncoder
from beeline.evaluation.encoded import Encoded, EncodedPictures
from beeline.evaluation.features import SmallClassifier
from beeline.evaluation.inception import Inception
from beeline.runs.features.bundles import OfBundle
from beeline.runs.features.hub import HubVision

PUBLISHED: Mapping[str, Callable[[str], FullEncoder]] = {
    "inception": Inception,
    "dinov2": lambda weights: HubVision(weights or "facebook/dinov2-large"),
    "clip": lambda weights: HubVision(weights or "openai/clip-vit-large-patch14"),
}
"""Networks for pictures by name, from their weights; "" takes the published ones."""

LEARNED: Mapping[str, Callable[[], Features]] = {"classifier": SmallClassifier}
"""Features that are learned from the data."""

HUB = "hub:"  # marks a name of the hub, as for bundles


def features_named(name: str, modality: Any, *, weights: str = "", device: Device = AUTO) -> Features:
    """The features that a name, a path or a component in text means.

    ``name`` is one of PUBLISHED or LEARNED, the directory of a bundle or of a vision model of transformers,
    "hub:owner/name", or an encoder or features of the catalogue such as "RandomFeatures(64)".  ``weights`` is a file
    (inception) or a directory or hub id (dinov2, clip) in place of the published weights.  ValueError for an unknown
    name, which lists the names, and for pickles.
    """
    if name in PUBLISHED:
        return EncodedPictures(PUBLISHED[name](weights), device=device, modality=modality)
    require(
        not weights,
        f"weights {weights} were given for the features {name!r}, which have their own; --weights belongs to "
        f"{', '.join(PUBLISHED)}",
    )
    if name in LEARNED:
        return LEARNED[name]()
    path = Path(name)
    if name.startswith(HUB):
        return EncodedPictures(HubVision(name.removeprefix(HUB)), device=device, modality=modality)
    if path.is_dir():
        return _in_directory(path, modality, device)
    require(
        not path.is_file(),
        f"{name} is a file, but features are a name or a directory: of a bundle, or of a vision model with config.json "
        f"and model.safetensors (pickled models are not read); valid names: {', '.join((*PUBLISHED, *LEARNED))}",
    )
    return _component(name, modality, device)


def _in_directory(path: Path, modality: Any, device: Device) -> Features:
    """The features of the model in a directory."""
    if (path / "flow.json").is_file() or (path / "bundle" / "flow.json").is_file():
        return Encoded(OfBundle(str(path)), device=device)
    require(
        (path / "config.json").is_file(),
        f"{path} holds neither a bundle (flow.json) nor a vision model of transformers (config.json), so it has no "
        "features; give the directory of a run, or one that save_pretrained wrote",
    )
    return EncodedPictures(HubVision(str(path)), device=device, modality=modality)


def _component(text: str, modality: Any, device: Device) -> Features:
    """Features or an encoder of the catalogue, from text."""
    head = text.partition("(")[0].strip()
    kinds = [kind for kind in ("features", "encoders") if head in CATALOGUE[kind]]
    require(
        kinds,
        f"{text!r} is no name of features, no directory and no component; "
        f"{nearest(text, (*PUBLISHED, *LEARNED))}, the directory of a bundle or of a vision model, hub:owner/name",
    )
    found = config.parse(text, kinds[0])
    if isinstance(found, type):
        found = found()
    if "features" in kinds:
        return found
    if ".png" in modality.formats:
        return EncodedPictures(found, device=device, modality=modality)
    return Encoded(found, device=device)
