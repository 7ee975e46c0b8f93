"""Error of outputs of a layer with loud channels, weights of 3 and 4 bits: scales of columns by the sizes of inputs
against none, and against GPTQ."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.around import Scaled
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.rounding import OptimalBrain
from benchmarks.claims.storing import loud, output_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "AWQ: scales by the sizes of inputs"
CLAIM = "Protecting the one percent of salient weights removes most of the error of quantization."


def measure(rng: bl.Rng) -> list[Finding]:
    layer = loud(rng)
    found = []
    for bits in (3, 4):
        plain, scaled = (output_error(form, layer) for form in (Integers(bits), Scaled(Integers(bits))))
        careful = output_error(Integers(bits, 64, OptimalBrain()), layer)
        coarse = output_error(Integers(bits, 4096), layer)
        found += [
            finding(f"{bits} bits: scaled columns (figure) against none", plain, scaled, coarse, "one scale for a row"),
            finding(f"{bits} bits: scaled columns (figure) against GPTQ", careful, scaled, coarse,
                    "one scale for a row"),
        ]  # fmt: skip
    layer_half = output_error(Integers(3), layer)
    return [*found, finding("3 bits: scaled columns (figure) against half of the error", layer_half / 2,
                            output_error(Scaled(Integers(3)), layer), layer_half, "none")]  # fmt: skip
