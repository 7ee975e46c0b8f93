"""Device, precision and mode: where tensors live, how they are rounded, and whether networks train."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import fields_of
from beeline.core.errors import BeelineError
from beeline.core.types import Batch

AUTO = "auto"

Check = tuple[Tensor, Callable[[], Exception]]
"""A boolean scalar on a device, and the error to raise where it is false."""

Device = torch.device | str
"""A device, its name, or "auto": the GPU where torch sees one, else the CPU."""


def resolve_device(device: Device | None = AUTO) -> torch.device:
    """The device that is meant, after a check that this machine has it; "auto" (or None) is CUDA, else the CPU.

    MPS is never chosen by "auto", because it has no float64.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device in (None, AUTO):
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    assert device is not None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise BeelineError(
            f"device={device!r} was given, which names no device of torch; give 'auto', 'cpu', 'cuda' or 'cuda:1'"
        ) from None
    if found.type == "cuda" and found.index is None and torch.cuda.is_available():
        found = torch.device("cuda", torch.cuda.current_device())
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        have = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise BeelineError(
            f"device={str(device)!r} was given, but torch cannot use it on this machine, which has {have}; give one of "
            "these, or 'auto'"
        ) from None
    return found


def device_of(*parts: Any) -> torch.device | None:
    """The device of the first tensor in ``parts`` (networks, components, trees); None where there is none.

    >>> device_of(nn.Linear(1, 1)), device_of(nn.Identity())
    (device(type='cpu'), None)
    """
    first = next(tensors_of(*parts), None)
    return None if first is None else first.device


def place_for(device: Device | None, *parts: Any) -> torch.device:
    """Where work with ``parts`` runs: the given device; for "auto" the accelerator that holds them, if any."""
    if device in (None, AUTO):
        here = device_of(*parts)
        if here is not None and here.type not in ("cpu", "meta"):
            return here
    return resolve_device(device)


def tensors_of(*parts: Any) -> Iterator[Tensor]:
    """The tensors in networks, dataclasses, mappings, sequences and partial functions; others hold none."""
    for part in parts_in(parts):
        if isinstance(part, Tensor):
            yield part


def modules_of(*parts: Any) -> Iterator[nn.Module]:
    """The networks in ``parts``, found as ``tensors_of`` finds tensors, with all their submodules."""
    for part in parts_in(parts):
        if isinstance(part, nn.Module):
            yield part


_SINGLE = (str, bytes, int, float, type, type(None))  # hold no tensors
_USUAL = {bool, int, float, str, dict, list, tuple, set, OrderedDict, type(None)}  # of attributes; no dataclasses


def parts_in(parts: Any) -> Iterator[Any]:
    """All parts of a part, itself included: tensors, networks, components, containers, depth first; no recursion."""
    rest, seen = [parts], set[int]()
    while rest:
        part = rest.pop()
        if isinstance(part, Tensor):
            yield part
            continue
        if isinstance(part, _SINGLE) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, nn.Module):
            yield part
            yield from part._parameters.values()
            yield from part._buffers.values()
            inside = [*part._modules.values(), *_held(part).values()]
        else:
            yield part
            inside = list(_children(part))
        rest.extend(reversed(inside))


def _held(module: nn.Module) -> dict[str, Any]:
    """The components of a network that are no modules: its path, its prediction."""
    return {
        k: v
        for k, v in module.__dict__.items()
        if type(v) not in _USUAL and dataclasses.is_dataclass(v) and not isinstance(v, type)
    }


def _children(part: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(part):
        yield from fields_of(part).values()
    elif isinstance(part, Mapping):
        yield from part.values()
    elif isinstance(part, list | tuple | set | frozenset):
        yield from part
    elif isinstance(part, functools.partial):
        yield from (*part.args, *part.keywords.values())


def moved(part: Any, device: Device, memo: dict[int, Any] | None = None) -> Any:
    """``part`` with every tensor in it on ``device``; a part that is there already is returned as it is.

    Nothing is changed in place: networks that have to move are copied, so that the caller's stay where they are.
    Networks, dataclasses, mappings, sequences and partial functions are searched; functions and other objects are
    given back as they are.  ``memo`` carries over what was moved before: what was one object stays one.

    >>> x = torch.ones(2)
    >>> moved({"a": x}, "cpu")["a"] is x
    True
    """
    return _moved(part, torch.device(device), {} if memo is None else memo)


def _moved(part: Any, device: torch.device, memo: dict[int, Any]) -> Any:
    if isinstance(part, _SINGLE):
        return part
    if id(part) not in memo:
        memo[id(part)] = moved_part = _moved_once(part, device, memo)
        memo.setdefault(id(memo), []).append(part)  # keeps the id from being used again
        memo.setdefault(id(moved_part), moved_part)
    return memo[id(part)]


def _moved_once(part: Any, device: torch.device, memo: dict[int, Any]) -> Any:
    if isinstance(part, nn.Module):
        return _moved_module(part, device, memo)
    if isinstance(part, nn.Parameter):
        return part if part.device == device else nn.Parameter(part.detach().to(device), part.requires_grad)
    if isinstance(part, Tensor):
        return part.to(device)
    if dataclasses.is_dataclass(part):
        before = fields_of(part)
        after = {name: _moved(value, device, memo) for name, value in before.items()}
        if all(after[name] is before[name] for name in before):
            return part
        made = copy.copy(part)
        for name in [k for k in vars(made) if k not in before]:  # cached properties: they are computed again
            vars(made).pop(name)
        for name, value in after.items():
            object.__setattr__(made, name, value)
        return made
    if isinstance(part, Mapping):
        items = {key: _moved(value, device, memo) for key, value in part.items()}
        return part if all(items[key] is value for key, value in part.items()) else items
    if isinstance(part, list | tuple):
        values = [_moved(value, device, memo) for value in part]
        if all(a is b for a, b in zip(values, part, strict=True)):
            return part
        return type(part)(*values) if hasattr(part, "_fields") else type(part)(values)
    if isinstance(part, functools.partial):
        args, keywords = _moved(part.args, device, memo), _moved(part.keywords, device, memo)
        same = args is part.args and keywords is part.keywords
        return part if same else functools.partial(part.func, *args, **keywords)
    return part


def _moved_module(module: nn.Module, device: torch.device, memo: dict[int, Any]) -> nn.Module:
    own = [t for m in module.modules() for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    held = [value for m in module.modules() for value in _held(m).values()]
    if all(t.device == device for t in own) and all(_moved(value, device, memo) is value for value in held):
        return module
    # a deep copy in which every tensor is the moved one: nothing is held twice on one device
    return copy.deepcopy(module, memo | {id(part): _moved(part, device, memo) for part in (*own, *held)})


@contextlib.contextmanager
def eval_mode(*parts: Any, grad: bool = False) -> Iterator[None]:
    """Evaluation mode for the networks in ``parts``, restored for each module on exit; no graph unless ``grad``.

    With ``grad`` the graph is kept where the caller keeps one.

    >>> net = nn.Dropout()
    >>> with eval_mode(net):
    ...     net.training
    False
    >>> net.training
    True
    """
    changed = [module for module in modules_of(*parts) if module.training]
    for module in changed:
        module.training = False
    try:
        with contextlib.nullcontext() if grad else torch.no_grad():
            yield
    finally:
        for module in changed:
            module.training = True


@contextlib.contextmanager
def frozen(*parts: Any) -> Iterator[None]:
    """The weights of the networks in ``parts`` take no gradients inside; a graph goes through them to their inputs.

    >>> net = nn.Linear(1, 1)
    >>> with frozen(net):
    ...     net.weight.requires_grad
    False
    >>> net.weight.requires_grad
    True
    """
    weights = [p for module in modules_of(*parts) for p in module._parameters.values() if p is not None]
    changed = [p for p in dict.fromkeys(weights) if p.requires_grad]
    for p in changed:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in changed:
            p.requires_grad_(True)


def graph_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Context manager: a graph is recorded only where one is recorded for ``x``, as networks that are frozen need."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad)


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or in its own dtype where that is better: integration states, times, norms and losses."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def wide_batch(batch: Batch) -> Batch:
    """A batch in which data, source points and weights are in float32 or better, so that times and losses are too."""
    parts = {"x1": batch.x1, "x0": batch.x0, "weight": batch.weight}
    narrow = {k: wide(v) for k, v in parts.items() if v is not None and v.is_floating_point() and v.itemsize < 4}
    return dataclasses.replace(batch, **narrow) if narrow else batch


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """No autocast inside: for forward-mode derivatives, norms and transport costs."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


_narrow: contextvars.ContextVar[bool] = contextvars.ContextVar("weights in half precision", default=False)


@contextlib.contextmanager
def narrow_weights(narrow: bool) -> Iterator[None]:
    """Context manager: whether an engine gathers weights in half precision, so that only autocast can use them."""
    token = _narrow.set(narrow)
    try:
        yield
    finally:
        _narrow.reset(token)


def has_narrow_weights() -> bool:
    """Whether it is called inside ``narrow_weights(True)``."""
    return _narrow.get()


class Checks(list[Check]):
    """The checks of a run that are read later, and the tensors that were checked in it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[Any, ...], Tensor] = {}  # the tensors are referenced, so that no identity is used again


_pending: contextvars.ContextVar[Checks | None] = contextvars.ContextVar("pending checks", default=None)


def needs_check(value: Tensor, *limits: Any) -> bool:
    """Whether ``value`` has not been checked against ``limits`` yet in this run; True outside ``deferred``."""
    if torch.compiler.is_compiling():
        return False
    pending, key = _pending.get(), (id(value), *limits)
    if pending is None or key not in pending.seen:
        if pending is not None:
            pending.seen[key] = value
        return True
    return False


def check_values(good: Tensor, message: Callable[[], str]) -> None:
    """Raise ValueError unless the boolean scalar ``good`` holds; ``message`` is called on failure only.

    On an accelerator, inside ``deferred``, the test is read later, with others, so that nothing waits for the device.
    """
    check_later(good, lambda: BeelineError(message()))


def check_later(good: Tensor, error: Callable[[], Exception]) -> None:
    """``check_values`` with an error of any class."""
    if torch.compiler.is_compiling():
        return
    pending = _pending.get()
    inside = torch._C._functorch.peek_interpreter_stack() is not None  # a tensor of a transform does not outlive it
    if pending is None or good.device.type == "cpu" or inside:
        if not bool(good):
            raise error()
        return
    pending.append((good, error))


@contextlib.contextmanager
def deferred() -> Iterator[Checks]:
    """Collect the checks of values on accelerators; the outermost one that is left reads them, if nobody has."""
    outer = _pending.get()
    if outer is not None:
        yield outer
        return
    checks = Checks()
    token = _pending.set(checks)
    try:
        yield checks
    finally:
        _pending.reset(token)
    if checks and not bool(torch.stack([good for good, _ in checks]).all()):
        refuse(checks)


def refuse(checks: list[Check]) -> None:
    """Raise the error of the first failed check."""
    for good, error in checks:
        if not bool(good):
            raise error()


def check_together(what: str, x: Tensor, *parts: Any) -> None:
    """Refuse a state that is on another device than the networks that are to take it."""
    for module in modules_of(*parts):
        for weight in module._parameters.values():
            if weight is not None and weight.device != x.device:  # not require(): its message costs more than the check
                raise BeelineError(
                    f"{what} is on {x.device}, and {type(module).__name__} on {weight.device}; a flow runs on one "
                    "device: move the state with .to(device), or the network"
                )
