"""Pretrained pipelines of diffusers as bundles."""

from typing import TYPE_CHECKING

from beeline.core.namespaces import lazy

if TYPE_CHECKING:
    from beeline.hub.controls import controlled as controlled
    from beeline.hub.exporting import export as export
    from beeline.hub.loading import from_single_file as from_single_file
    from beeline.hub.loading import load as load
    from beeline.hub.pipelines import from_pipeline as from_pipeline
    from beeline.hub.pipelines import resized as resized
    from beeline.hub.planning import plan as plan
    from beeline.hub.probing import probe as probe
    from beeline.hub.sizes import extended as extended
    from beeline.hub.sizes import scale_fused as scale_fused
    from beeline.hub.sizes import through_pixels as through_pixels
    from beeline.hub.speed import cached as cached
    from beeline.hub.speed import compiled as compiled
    from beeline.hub.speed import counting as counting
    from beeline.hub.trading import choose_cache as choose_cache
    from beeline.networks.hub.caches import AttentionBroadcast as AttentionBroadcast
    from beeline.networks.hub.caches import FasterCache as FasterCache
    from beeline.networks.hub.caches import FirstBlock as FirstBlock
    from beeline.networks.hub.caches import MagCache as MagCache
    from beeline.networks.hub.caches import TaylorSeer as TaylorSeer
    from beeline.networks.hub.convention import Convention as Convention
    from beeline.networks.hub.families import FAMILIES as FAMILIES
    from beeline.networks.hub.sizes.rotary import NTKAware as NTKAware
    from beeline.networks.hub.sizes.rotary import PositionInterpolation as PositionInterpolation
    from beeline.networks.hub.sizes.rotary import YaRN as YaRN
    from beeline.networks.hub.sizes.rotary import proportional as proportional

__getattr__, __dir__ = lazy(__name__)
