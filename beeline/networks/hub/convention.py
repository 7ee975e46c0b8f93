"""The convention of a network of unknown origin, and the network as a velocity field of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Wrapping
from beeline.core.errors import require
from beeline.core.protocols.flows import Prediction
from beeline.core.types import Cond, expand_time
from beeline.fields.flow import Velocity
from beeline.networks.hub.family import NetworkTime, noise_level, time
from beeline.paths.affine import AffinePath, Linear

CLOCKS: dict[NetworkTime, tuple[str, str]] = {time: ("time", "t"), noise_level: ("noise_level", "(1 - t)")}
"""Functions of the time of the path, with their names and formulas."""


@dataclass(frozen=True)
class Convention:
    """What a network takes and returns, in terms of this package.

    z = scale (x1 - shift) are its data, z_u = a(u) z + b(u) x0 its states on ``path`` at a time u, and
    network(z_u, time_scale * clock(u), cond) = sign * prediction(z_u, u).
    """

    prediction: Prediction = field(default_factory=Velocity)
    sign: float = 1.0  # -1: the network returns the negative, such as noise - data
    clock: NetworkTime = time  # or noise_level
    time_scale: float = 1.0  # 1 or 1000
    latent_scale: float = 1.0  # of the network's data z = scale (x1 - shift)
    latent_shift: float = 0.0
    path: AffinePath = field(default_factory=Linear)

    def __post_init__(self) -> None:
        require(
            self.clock in CLOCKS,
            f"Convention got the clock {self.clock!r}; give one of {', '.join(name for name, _ in CLOCKS.values())} of "
            "beeline.networks.hub.family",
        )
        for name in ("sign", "time_scale", "latent_scale"):
            require(
                getattr(self, name) != 0,
                f"Convention got {name}=0, with which nothing of the network's input or output would be left; 1 is "
                "the default",
            )

    def inputs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network's state z [B,*S] and its time u [B] on ``path``, for a state on the straight path of the data."""
        a, b = t.double() / self.latent_scale, 1 - t.double()
        u = self.path.time_of_ratio(a, b).to(t.dtype)
        exact = u.double()
        size = torch.hypot(self.path.a(exact), self.path.b(exact)) / torch.hypot(a, b)
        centred = x - self.latent_shift * expand_time(t, x)
        return centred * expand_time(size.to(x.dtype), x), u

    def network_time(self, u: Tensor, x: Tensor) -> Tensor:
        """The time [B] that the network is given."""
        return self.time_scale * self.clock(u, x)

    def velocity(self, output: Tensor, z: Tensor, u: Tensor) -> Tensor:
        """The velocity x1 - x0 [B,*S] on the straight path of the data, from the network's output at z and u."""
        slope = self.prediction.velocity(self.sign * output, z, u, self.path)
        noise, data = self.path.ends(z, slope, u)
        return data / self.latent_scale + self.latent_shift - noise

    def field(self, network: Any) -> Foreign:
        """The network as a velocity field on the straight path."""
        return Foreign(network, self)

    def __str__(self) -> str:
        path = type(self.path).__name__
        return f"output {self.target}, time {self.clock_text}, data {self.latents}, path {path}"

    @property
    def target(self) -> str:
        """What the network returns: +velocity (data - noise), -velocity, +noise, and so on."""
        return f"{'-' if self.sign < 0 else '+'}{type(self.prediction).__name__.lower()}"

    @property
    def clock_text(self) -> str:
        """The time that the network is given, as a formula."""
        formula = CLOCKS[self.clock][1]
        return formula if self.time_scale == 1 else f"{self.time_scale:g} {formula}"

    @property
    def latents(self) -> str:
        """The network's data in terms of the given ones, as a formula."""
        shifted = f"(x1 - {self.latent_shift:.4g})" if self.latent_shift else "x1"
        return shifted if self.latent_scale == 1 else f"{self.latent_scale:.4g} {shifted}"

    def entry(self) -> str:
        """Lines of Python that construct this convention."""
        clock, default = CLOCKS[self.clock][0], Convention()
        imported = [(type(part).__module__, type(part).__name__) for part in (self.prediction, self.path)]
        imported += [(Convention.__module__, Convention.__name__), (NetworkTime.__module__, clock)]
        numbers = ("sign", "time_scale", "latent_scale", "latent_shift")
        changed = {name: getattr(self, name) for name in numbers if getattr(self, name) != getattr(default, name)}
        texts = {"prediction": repr(self.prediction), "clock": clock, "path": repr(self.path)}
        texts |= {name: repr(value) for name, value in changed.items()}
        lines = [f"from {module} import {name}" for module, name in sorted(imported)]
        settings = [f"    {name}={text}," for name, text in texts.items()]
        return "\n".join([*lines, "", "CONVENTION = Convention(", *settings, ")"]) + "\n"


class Foreign(Wrapping):
    """A network in a convention of its own as a velocity field on the straight path of the data.

    v(x, t, cond) = convention.velocity(network(z, time, cond), z, u),  with z, u and the time of the convention
    Assumes a standard Gaussian source.

    >>> from beeline.networks.hub.family import noise_level
    >>> v = Foreign(lambda x, t: x, Convention(sign=-1.0, clock=noise_level, time_scale=1000.0))
    >>> v(torch.ones(1, 1), torch.zeros(1))
    tensor([[-1.]])
    """

    inside = "network"
    is_flow_map = False

    def __init__(self, network: nn.Module | Callable[..., Tensor], convention: Convention):
        super().__init__()
        self.network, self.convention = network, convention

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        z, u = self.convention.inputs(x, t)
        tau = self.convention.network_time(u, z)
        out = self.network(z, tau) if cond is None else self.network(z, tau, cond)
        return self.convention.velocity(out, z, u)
