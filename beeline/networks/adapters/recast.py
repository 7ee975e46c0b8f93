"""Layers of the same kind whose weight is computed where it is used."""

from __future__ import annotations

from typing import Any

from torch import nn

_KINDS: dict[tuple[type, type], Any] = {}


def recast(layer: nn.Module, computed: type[nn.Module]) -> Any:
    """A layer with the parameters, buffers and settings of ``layer``, whose class comes after ``computed``.

    It is a layer of the same kind for whoever asks by isinstance.  The attributes of ``computed``, such as a property
    ``weight``, replace those of its class.
    """
    return like(layer, _kind(computed, type(layer)))


def _kind(computed: type, kind: type) -> Any:
    if (computed, kind) not in _KINDS:
        _KINDS[computed, kind] = type(f"{computed.__name__}{kind.__name__}", (computed, kind), {})
    return _KINDS[computed, kind]


def without(layer: nn.Module, computed: type[nn.Module]) -> Any:
    """A layer of the class that it had before ``recast``."""
    return like(layer, _stripped(type(layer), computed))


def _stripped(kind: type, computed: type) -> type:
    """The class before ``recast`` to ``computed``, below classes of later ones."""
    first, inner = next(key for key, made in _KINDS.items() if made is kind)
    return inner if first is computed else _kind(first, _stripped(inner, computed))


def like(layer: nn.Module, kind: Any) -> Any:
    """A layer of another class with the same parameters, buffers and settings."""
    made = kind.__new__(kind)
    made.__dict__.update(layer.__dict__)
    for part in ("_parameters", "_buffers", "_modules"):
        made.__dict__[part] = dict(layer.__dict__[part])
    return made


def replaced(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of that with the dotted ``name``."""
    parent, _, last = name.rpartition(".")
    network.get_submodule(parent).add_module(last, layer)
