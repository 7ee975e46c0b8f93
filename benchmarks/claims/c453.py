"""Velocities of a small U-Net with attention of the digits at equal bytes: for every layer a scale for a row or for 16
numbers, symmetric or not, by the curvature of the output, against the same format for all layers."""

from __future__ import annotations

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.formats import Format, Integers, OffsetIntegers
from beeline.networks.compressing.mixed import MixedBits
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.weights.sensitivity import Curvature
from beeline.networks.unet import UNet
from benchmarks.claims.storing import change_of, pictures
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

METHOD = "Q-HyViT: granularity and offset chosen for every layer of a network of convolutions and attention"
CLAIM = "Up to 29.75 percent better than earlier quantization after training, at 6 bits."
ROW = 4096  # a group that is the whole row


def kinds(bits: int) -> tuple[Format, ...]:
    """Formats with a scale for a row or for 16 numbers, without and with an offset."""
    return tuple(kind(bits, group) for group in (ROW, 16) for kind in (Integers, OffsetIntegers))


def measure(rng: bl.Rng) -> list[Finding]:
    data = Digits()
    raw = data.load()[0]
    batch = bl.Batch(data.modality().fit(raw).encode(raw).x1)
    with rng.fork("network").ambient():
        net = bl.Network(UNet((1, 8, 8), width=16))
    field = learn(net, bl.objectives.FlowMatching(), batch, rng.fork("fit"), steps=100, batch_size=64)
    own = field.backbone.eval().requires_grad_(False)
    probe, fresh = (pictures(own, rng.fork(name)) for name in ("probe", "fresh"))

    def error(method: Quantize | MixedBits) -> float:
        return change_of(method.apply(own, method.plan(own, probe), probe, rng), own, fresh)

    found = []
    for bits in (4, 6):
        for form, name in zip(kinds(bits)[1:3], ("an offset for a row", "a scale for 16"), strict=True):
            equal, less = Quantize(form), Quantize(kinds(bits - 2)[0])
            share = equal.plan(own, probe).after / stored_bytes(own) + 1e-4
            plain = error(equal)
            chosen = error(MixedBits(share, kinds(bits), Curvature(2)))
            found.append(finding(f"{bits} bits, bytes of {name}: chosen by layer, relative to the same for all", 1.0,
                                 chosen / plain, error(less) / plain, "two bits less"))  # fmt: skip
    return found
