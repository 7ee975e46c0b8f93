"""Checks for people who write components; every function raises AssertionError that says what is wrong."""

from typing import TYPE_CHECKING

from beeline.core.namespaces import lazy

if TYPE_CHECKING:  # ``lazy`` imports each name when it is used
    from beeline.testing.components import check_component, check_modality, check_objective, unchanged_random_state
    from beeline.testing.flows import (
        check_coupling,
        check_path,
        check_schedule,
        check_solver_order,
        check_time_sampler,
        measured_order,
    )

__all__ = [
    "check_component",
    "check_coupling",
    "check_modality",
    "check_objective",
    "check_path",
    "check_schedule",
    "check_solver_order",
    "check_time_sampler",
    "measured_order",
    "unchanged_random_state",
]

__getattr__, __dir__ = lazy(__name__)
