"""A simulated second device: its tensors are marked CPU tensors, and mixing them with others is an error.

Inside ``SecondDevice`` a tensor is marked if it is created with ``device=DEVICE``, moved there, or computed from marked
ones; ``x.device`` of a marked tensor is DEVICE.  A call that mixes marked tensors with others (of one number or more
dimensions) raises as it would on a GPU, and so does ``numpy()``.  ``waits`` counts calls that synchronise with the
device: ``item``, ``float``, ``bool``, ``tolist``, ``cpu`` and their like.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("mps", 0)  # a type of torch that this package does not mention

WAITS = {
    "item",
    "__float__",
    "__int__",
    "__bool__",
    "__index__",
    "tolist",
    "cpu",
    "nonzero",
    "unique",
    "equal",
    "numpy",
}
MOVES = {"to", "cpu", "copy_", "__set__", "_has_compatible_shallow_copy_type"}
ALONE = {"numpy", "__array__"}  # refused for tensors on another device


class MixedDevicesError(RuntimeError):
    """A call has tensors of two devices."""


def _base(tensor: Tensor) -> Tensor:
    """The tensor below the transforms of torch.func."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


class SecondDevice(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.marks: dict[int, Any] = {}
        self.waits: Counter[str] = Counter()
        self.inside = 0  # depth of calls with marked tensors

    # ------------------------------------------------------------------------------------------------------- marks

    def _key(self, tensor: Tensor) -> int | None:
        try:
            return _base(tensor).untyped_storage()._cdata
        except (NotImplementedError, RuntimeError):
            return None

    def marked(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and self._key(tensor) in self.marks

    def mark(self, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and (key := self._key(tensor)) is not None and key not in self.marks:
            self.marks[key] = weakref.finalize(_base(tensor).untyped_storage(), self.marks.pop, key, None)

    def unmark(self, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and (mark := self.marks.pop(self._key(tensor), None)) is not None:
            mark.detach()

    # ------------------------------------------------------------------------------------------------------- calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        attribute = getattr(getattr(func, "__self__", None), "__name__", "") if name in ("__get__", "__set__") else ""
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        here = [t for t in tensors if self.marked(t)]
        if name == "__get__":
            if attribute == "device" and here:
                return DEVICE
            made = func(*args, **kwargs)
            if here:
                self.mark(made)
            elif attribute == "grad":  # a gradient is on the device of its tensor
                self.unmark(made)
            return made
        if name == "device":  # torch.device(...)
            return func(*args, **kwargs)
        if name in WAITS and here:
            self.waits[name] += 1
        if name in ALONE and here:
            raise MixedDevicesError(f"{name}() of a tensor on {DEVICE}; move it to the CPU first")
        target = self._target(func, name, args, kwargs)
        if target is not None:
            args, kwargs = self._plain(args, kwargs)
        wants = target == DEVICE if target is not None else bool(here) and name not in ("cpu",)
        if "generator" in kwargs and kwargs["generator"] is not None and wants:
            raise MixedDevicesError(f"{name} on {DEVICE} was given a generator of the CPU")
        if target is not None or name in ("cpu",):
            if name in ("to", "cpu") and isinstance(args[0], Tensor) and self.marked(args[0]) != wants:
                made = func(*args, **kwargs)
                made = made.clone() if made.untyped_storage()._cdata == args[0].untyped_storage()._cdata else made
                if name == "to" and self.marked(args[0]) and not wants:
                    self.waits["cpu"] += 1
            else:
                made = func(*args, **kwargs)
            if wants:
                tree_map(lambda t: self.mark(t), made)
            return made
        if name not in MOVES:
            self._together(name, tensors, here, args)
        self.inside += bool(here)
        try:
            made = func(*args, **kwargs)
        finally:
            self.inside -= bool(here)
        if here and name != "copy_" and name != "__set__":
            tree_map(lambda t: self.mark(t), made)
        return made

    def _target(self, func: Any, name: str, args: Any, kwargs: Any) -> torch.device | None:
        """The device that a call names."""
        if "device" in kwargs and kwargs["device"] is not None:
            return torch.device(kwargs["device"])
        if name == "to":
            for arg in (*args[1:], *kwargs.values()):
                if isinstance(arg, Tensor):
                    return DEVICE if self.marked(arg) else torch.device("cpu")
                if isinstance(arg, torch.device):
                    return arg
                if isinstance(arg, str):
                    return torch.device(arg)
        return None

    def _plain(self, args: Any, kwargs: Any) -> Any:
        """The call with the CPU in place of the device that is not there."""
        cpu = torch.device("cpu")
        swap = lambda v: cpu if isinstance(v, torch.device) and v == DEVICE else v  # noqa: E731
        swapped = {k: cpu if k == "device" and torch.device(v) == DEVICE else swap(v) for k, v in kwargs.items()}
        return tuple(swap(a) for a in args), swapped

    def _together(self, name: str, tensors: list[Tensor], here: list[Tensor], args: Any) -> None:
        if not here or len(here) == len(tensors):
            return
        others = [t for t in tensors if t.ndim and not self.marked(t)]
        if name in ("__getitem__", "__setitem__") and self.marked(args[0]) and others:
            others = [t for t in others if t.is_floating_point()]  # whole numbers of the CPU may be an index
        if others:
            raise MixedDevicesError(
                f"{name} got tensors of {DEVICE} {[tuple(t.shape) for t in here]} and of the CPU "
                f"{[tuple(t.shape) for t in others]}"
            )


class _Passing(TorchDispatchMode):
    """Propagates marks below the Python calls: gradients, tangents, factories inside operations."""

    def __init__(self, mode: SecondDevice) -> None:
        super().__init__()
        self.mode = mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        moves = func._schema.name in ("aten::_to_copy", "aten::copy_", "aten::clone")
        if (any(self.mode.marked(t) for t in inputs) and not moves) or (self.mode.inside and not inputs):
            tree_map(lambda t: self.mode.mark(t), made)
        return made


@contextlib.contextmanager
def second_device() -> Any:
    """Context manager that enables the second device."""
    with SecondDevice() as mode, _Passing(mode):
        yield mode
