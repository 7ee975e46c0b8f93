"""Error of outputs of a layer with loud channels, weights of 3 and 4 bits: scales searched by the error of outputs
against scales by the largest number."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.rounding import SearchedScale
from benchmarks.claims.storing import loud, output_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "EasyQuant: scales searched by the error of outputs"
CLAIM = "Seven bits come near eight without training."


def measure(rng: bl.Rng) -> list[Finding]:
    layer = loud(rng)
    search = SearchedScale()
    found = [
        finding(f"{bits} bits: searched (figure) against the largest number", output_error(Integers(bits), layer),
                output_error(Integers(bits, 64, search), layer),
                output_error(Integers(bits, 64, SearchedScale(points=1, low=1.0)), layer), "no search")
        for bits in (3, 4)
    ]  # fmt: skip
    eight = output_error(Integers(8), layer)
    return [*found, finding("7 bits, searched (figure) against 8 bits", eight, output_error(Integers(7, 64, search),
                            layer), output_error(Integers(6), layer), "6 bits")]  # fmt: skip
