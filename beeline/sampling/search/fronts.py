"""Pareto fronts of samples."""

from __future__ import annotations

from torch import Tensor

from beeline.core.errors import require


def nondominated(energies: Tensor) -> Tensor:
    """Whether no other row of ``energies`` [N,M] is as low in every energy and lower in one: [N].

    >>> import torch
    >>> nondominated(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
    tensor([ True,  True, False])
    """
    below = (energies[:, None] <= energies).all(2) & (energies[:, None] < energies).any(2)  # row i dominates j
    return ~below.any(0)


def hypervolume(energies: Tensor, reference: Tensor) -> float:
    """The area between a front of two energies [N,2] and the ``reference`` [2], which is above the front.

    >>> import torch
    >>> hypervolume(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([2.0, 2.0]))
    3.0
    """
    require(
        energies.ndim == 2 and energies.shape[1] == 2 and reference.shape == (2,),
        f"hypervolume got energies of shape {tuple(energies.shape)}; it is an area of two energies: give [N,2]",
    )
    inside = energies[(energies < reference).all(1)]
    front = inside[nondominated(inside)]
    front = front[front[:, 0].argsort(stable=True)]
    height, area = float(reference[1]), 0.0
    for x, y in front.tolist():
        if y < height:
            area += (float(reference[0]) - x) * (height - y)
            height = y
    return area
