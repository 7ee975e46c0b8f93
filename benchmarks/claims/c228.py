"""Errors of outputs of a layer with loud channels, and velocities of a small transformer of the digits, weights of 3
and 4 bits: scales of columns that are trained for 300 steps, relative to those of AWQ and to GPTQ."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.around import Scaled
from beeline.networks.compressing.formats import Format, Integers
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.rounding import OptimalBrain
from beeline.networks.compressing.weights.trained_scales import TrainedScales
from benchmarks.claims.storing import change_of, digits, loud, output_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "TEQ: trained scales of columns that change nothing but the rounding"
CLAIM = "With under 0.1 percent of trained numbers it matches the best methods at 3 and 4 bits."


def measure(rng: bl.Rng) -> list[Finding]:
    layer, (net, probe, fresh) = loud(rng), digits(rng.seed)

    def velocities(form: Format) -> float:
        method = Quantize(form, rest=None)
        return change_of(method.apply(net, method.plan(net, probe), probe, rng), net, fresh)

    found = []
    for bits in (3, 4):
        plain, trained = Integers(bits), Scaled(Integers(bits), TrainedScales())
        awq, made, none = (output_error(form, layer) for form in (Scaled(plain), trained, plain))
        found.append(finding(f"{bits} bits, loud channels: error of outputs relative to AWQ", 1.0, made / awq,
                             none / awq, "no scales"))  # fmt: skip
    plain = Integers(4)
    made, none = velocities(Scaled(plain, TrainedScales())), velocities(plain)
    for name, form in (("AWQ", Scaled(plain)), ("GPTQ", Integers(4, 64, OptimalBrain()))):
        other = velocities(form)
        found.append(finding(f"4 bits: error of velocities relative to {name}", 1.0, made / other, none / other,
                             "no scales"))  # fmt: skip
    return found
