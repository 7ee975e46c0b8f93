"""Import of diffusers, with an error that names the extra."""

from __future__ import annotations

import importlib
from types import ModuleType

from beeline.core.errors import BeelineError


def diffusers(purpose: str) -> ModuleType:
    """The package diffusers; raises ValueError with the install command if it is missing."""
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise BeelineError(
            f"{purpose} needs the package diffusers, which cannot be imported ({error}); install it with "
            "pip install 'beeline[hub]'"
        ) from error
