"""The table of families of pretrained flow networks, and the search in it."""

from __future__ import annotations

from typing import Any

from beeline.core.errors import BeelineError, nearest
from beeline.networks.hub.family import Family
from beeline.networks.hub.table.diffusions import DIFFUSIONS
from beeline.networks.hub.table.editing import EDITING
from beeline.networks.hub.table.images import IMAGES
from beeline.networks.hub.table.more_images import MORE_IMAGES
from beeline.networks.hub.table.videos import VIDEOS

FAMILIES: tuple[Family, ...] = IMAGES + MORE_IMAGES + EDITING + VIDEOS + DIFFUSIONS


def family_named(name: str) -> Family:
    """The family of a name; raises ValueError with the known ones."""
    known = {family.name: family for family in FAMILIES}
    if name not in known:
        raise BeelineError(f"{name!r} is no family of pretrained flows; {nearest(name, known)}")
    return known[name]


def family_of(pipeline: Any) -> Family:
    """The family of a pipeline of diffusers; raises ValueError with the known classes."""
    classes = [c.__name__ for c in type(pipeline).__mro__]
    for family in FAMILIES:
        if family.pipelines[0] == classes[0] or classes[0] in family.pipelines:
            return family
    known = sorted(name for family in FAMILIES for name in family.pipelines)
    raise BeelineError(
        f"{classes[0]} is no pipeline of a known family of flows; its calls and its convention are unknown: use one "
        f"of {', '.join(known)}, or add an entry to a module of beeline/networks/hub/table"
    )
