"""Pretrained pipelines of diffusers as bundles."""

from typing import TYPE_CHECKING

from beeline.core.namespaces import lazy

if TYPE_CHECKING:
    from beeline.hub.loading import load as load
    from beeline.hub.pipelines import from_pipeline as from_pipeline
    from beeline.hub.pipelines import resized as resized
    from beeline.hub.probing import probe as probe
    from beeline.networks.hub.convention import Convention as Convention
    from beeline.networks.hub.families import FAMILIES as FAMILIES

__getattr__, __dir__ = lazy(__name__)
