"""Options of ``beeline train`` that make a run longer."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beeline.core.errors import require
from beeline.core.modes import Device
from beeline.recipes.continuing import Continuation, continuation, whole


def longer(
    directory: str,
    more: str | None,
    data: str | None,
    out: Path | None,
    device: Device,
    others: Mapping[str, Any],
    parallel: str | None,
) -> Continuation:
    """The run in a directory with more steps, with a line on what will be done; ``others`` are options that exclude it.

    Raises BeelineError where such an option is given, or a time in several processes.
    """
    given = [name for name, value in others.items() if value]
    require(
        not given,
        f"{', '.join(given)} was given beside --more, which continues a run with its own settings; leave it out",
    )
    require(
        more is not None, f"--data {data} was given without --more; say for how long the run continues, as --more 10m"
    )
    assert more is not None
    require(
        parallel is None or whole(more) is not None,
        f"--parallel {parallel} was given with the time --more {more}, which every process would measure otherwise; "
        "give a number of steps",
    )
    found = continuation(directory, more, data=data, out=out, device=device)
    print(found.summary(), file=sys.stderr)
    return found
