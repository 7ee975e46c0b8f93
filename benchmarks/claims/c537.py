"""Error of outputs of a layer with loud channels, weights of 4 bits: a correction of rank 8, fitted to the weight or
to the outputs; floating point against integers on Gaussian weights."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.around import Corrected
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.levels import SmallFloats
from benchmarks.claims.storing import gauss, loud, output_error, weight_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "ZeroQuant-FP: floating point of 4 bits, low-rank compensation"
CLAIM = "FP4 weights at least match integers of 4 bits, and a correction of low rank helps."


def measure(rng: bl.Rng) -> list[Finding]:
    w, moments, x = layer = loud(rng)
    plain, form = Integers(4), Corrected(Integers(4), 8)
    stored = form.encode(w)  # fitted to the weight
    y = x @ w.mT
    weights = float((x @ form.decode(stored, *w.shape).mT - y).norm() / y.norm())
    g = gauss(rng)
    return [
        finding("rank 8, fitted to the weight (figure) against none", output_error(plain, layer), weights,
                output_error(Integers(3), layer), "3 bits"),
        finding("rank 8, fitted to the outputs (figure) against fitted to the weight", weights,
                output_error(form, layer), output_error(plain, layer), "no correction"),
        finding("Gaussian weights: FP4 (figure) against integers of 4 bits", weight_error(plain, g),
                weight_error(SmallFloats(2, 1, 64), g), weight_error(Integers(3), g), "3 bits"),
    ]  # fmt: skip
