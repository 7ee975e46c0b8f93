"""Small Stable Diffusion 3 and FLUX pipelines, trained here on digits, saved, and loaded by diffusers and by Beeline.

    python -m benchmarks.foreign_demo [--mnist mnist.npz] [--steps 1500] [--models DIR] [--output FILE]

Autoencoder, text encoders, tokenizers and transformers are made in place, so that nothing is downloaded.  Without
--mnist the digits of scikit-learn are used.  The pipelines remain in DIR, as ``sd3`` and ``flux``; load them by
``bl.load(DIR / "sd3", height=32, width=32, max_sequence_length=8)``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from beeline.config import build
from beeline.core.types import Batch
from beeline.hub.loading import load
from beeline.hub.probing import probe
from beeline.networks.hub.imports import diffusers
from beeline.networks.hub.layout import pack
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import Guide, Unconditional
from beeline.testing import foreign
from benchmarks import report

SEED = 0
STEPS = 20  # of sampling


class Digits(NamedTuple):
    """Gray images [N,H,W] in 0 .. 255 with labels, for training and for evaluation."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Kind:
    """A pipeline, and the arguments of its call beside prompts and steps."""

    make: Callable[..., Any]
    arguments: Callable[[Tensor, int, float], dict[str, Any]]  # (noise, number of prompts, guidance scale)


def sd3_arguments(x0: Tensor, n: int, scale: float) -> dict[str, Any]:
    return {"latents": x0.clone(), "guidance_scale": scale}


def flux_arguments(x0: Tensor, n: int, scale: float) -> dict[str, Any]:
    return {"latents": pack(x0), "true_cfg_scale": scale}


KINDS = {"sd3": Kind(foreign.sd3, sd3_arguments), "flux": Kind(foreign.flux, flux_arguments)}


def mnist(path: Path) -> Digits:
    """The first 20000 training and 2000 test images."""
    with np.load(path) as data:
        images, labels, test_images, test_labels = (
            torch.as_tensor(data[name]) for name in ("x_train", "y_train", "x_test", "y_test")
        )
    return Digits(images[:20000], labels[:20000].long(), test_images[:2000], test_labels[:2000].long())


def small_digits() -> Digits:
    """The digits of scikit-learn, 8x8 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = torch.as_tensor(found.images * 255 / 16).round(), torch.as_tensor(found.target)
    return Digits(images[300:], labels[300:], images[:300], labels[:300])


def guided(bundle: Bundle, scale: float, steps: int) -> Bundle:
    """The bundle with another number of steps and guidance scale."""
    rule = build.build({**bundle.modality.family.rule, "scale": scale})
    return replace(bundle, sampler=replace(bundle.sampler, steps=steps, guidance=Guide(Unconditional(), rule)))


def pixels(found: Any) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(one) for one in found]).astype(int)


def equality(
    kind: Kind, folder: Path, bundle: Bundle, prompts: list[str], scale: float, steps: int
) -> dict[str, float | int]:
    """Largest differences between the pictures and latents of diffusers and of Beeline, from the same noise."""
    library = diffusers("the comparison")
    pipeline = library.DiffusionPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    seeds, size = list(range(len(prompts))), bundle.modality.pipeline.vae.config.sample_size
    bundle = guided(bundle, scale, steps)
    x0 = bundle.start(seeds)
    call = {"height": size, "width": size, "num_inference_steps": steps, "max_sequence_length": foreign.TOKENS}
    call |= {"negative_prompt": [""] * len(prompts), **kind.arguments(x0, len(prompts), scale)}
    theirs = pixels(pipeline(prompts, **call).images)
    latents = pipeline(prompts, **call, output_type="latent").images
    condition = {"prompt": prompts, "negative_prompt": ""}
    ours = pixels(bundle.sample(len(prompts), cond=condition, seeds=seeds))
    end = bundle.draw(x0, bundle.condition(condition, len(prompts)))
    end = pack(end) if latents.ndim == 3 else end
    return {
        "largest difference of pixels, of 255": int(np.abs(ours - theirs).max()),
        "largest difference of latents": float((end - latents).abs().max()),
    }


def accuracy(data: Digits, made: Tensor, labels: Tensor) -> float:
    """The share of images [N,H,W] that the nearest three of 10000 training images give their label."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(3).fit(data.images[:10000].flatten(1).numpy(), data.labels[:10000].numpy())
    return float(model.score(made.flatten(1).numpy(), labels.numpy()))


def cropped(pictures: np.ndarray[Any, Any], side: int) -> Tensor:
    """The gray middle [N,side,side] of RGB pictures [N,H,W,3]."""
    edge = (pictures.shape[1] - side) // 2
    return torch.as_tensor(pictures[:, edge : edge + side, edge : edge + side].mean(3))


def evaluation(data: Digits, bundle: Bundle, scale: float, steps: int, each: int) -> dict[str, Any]:
    """How often samples are the digit of their prompt, and the baselines of real and of decoded images."""
    labels = torch.arange(10).repeat_interleave(each)
    prompts = [foreign.DIGITS[i] for i in labels.tolist()]
    side = data.images.shape[-1]
    real = data.test_images[:1000], data.test_labels[:1000]
    pipeline, size = bundle.modality.pipeline, bundle.modality.pipeline.vae.config.sample_size
    decoded = bundle.modality.decode(
        bundle.modality.family.statistics.to_flow(
            pipeline.vae, foreign.encoded(pipeline.vae, foreign.pictures(real[0], size))
        )
    )
    found = {
        "real images": accuracy(data, real[0], real[1]),
        "real images through the autoencoder": accuracy(data, cropped(pixels(decoded), side), real[1]),
    }
    for s in (1.0, scale):
        made = guided(bundle, s, steps).sample(len(labels), cond={"prompt": prompts, "negative_prompt": ""}, seed=SEED)
        found[f"samples, guidance scale {s:g}"] = accuracy(data, cropped(pixels(made), side), labels)
    return found


def conditions(bundle: Bundle, labels: Tensor) -> dict[str, Tensor]:
    """The embeddings of the prompts of labels, one row for each."""
    table = foreign.labelled(bundle.modality.pipeline, foreign.DIGITS)
    return {name: table.get_buffer(f"table_{name}")[labels] for name in table.names}


def convention(data: Digits, folder: Path, bundle: Bundle, n: int) -> dict[str, Any]:
    """What the probe finds about the saved transformer, from raw latents of images that it was not trained on."""
    vae = bundle.modality.pipeline.vae
    raw = foreign.encoded(vae, foreign.pictures(data.test_images[:n], vae.config.sample_size))
    found = probe(folder, Batch(raw, cond=conditions(bundle, data.test_labels[:n])), n=n, device="cpu")
    said = found.as_dict()
    return {name: said[name] for name in ("decided", "output", "time", "latent_scale", "path", "margin")}


def demonstration(
    name: str,
    data: Digits,
    sizes: foreign.Sizes,
    folder: Path,
    *,
    steps: int,
    autoencoder_steps: int,
    scale: float = 2.0,
    sampling_steps: int = STEPS,
    each: int = 20,
    probed: int = 256,
) -> dict[str, Any]:
    """Train, save, load and compare one kind; the pipeline is left in ``folder``."""
    kind = KINDS[name]
    pipeline, images = kind.make(sizes, seed=SEED), foreign.pictures(data.images, sizes.side)
    begin = time.perf_counter()
    error = foreign.train_autoencoder(pipeline.vae, images, autoencoder_steps, seed=SEED)
    middle = time.perf_counter()
    entries: list[dict[str, Any]] = []
    foreign.train(pipeline, images, data.labels, steps=steps, seed=SEED, log=entries.append)
    end = time.perf_counter()
    pipeline.save_pretrained(str(folder))
    bundle = load(folder, device="cpu", height=sizes.side, width=sizes.side, max_sequence_length=foreign.TOKENS)
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    figures = {
        "weights of the transformer": sum(p.numel() for p in pipeline.transformer.parameters()),
        "seconds of the autoencoder": round(middle - begin, 1),
        "seconds of the transformer": round(end - middle, 1),
        "squared error of the autoencoder": error,
        "training loss, first and last tenth": [float(np.mean(part)) for part in np.array_split(losses, 10)[::9]],
        "equality": equality(kind, folder, bundle, list(foreign.DIGITS[:4]), scale, sampling_steps),
        "share of the digit of the prompt": evaluation(data, bundle, scale, sampling_steps, each),
        "probe of the saved transformer": convention(data, folder, bundle, probed),
    }
    shown = [foreign.DIGITS[i % 10] for i in range(60)]
    shown_bundle = guided(bundle, scale, sampling_steps)
    grid = shown_bundle.sample(len(shown), cond={"prompt": shown, "negative_prompt": ""}, seed=SEED)
    bundle.modality.save(grid, folder / "samples.png")
    return figures


def main() -> None:
    parser = report.parser("foreign_demo", __doc__)
    parser.add_argument("--mnist", type=Path, metavar="FILE", help="MNIST as an .npz file; default: small digits")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of each transformer")
    parser.add_argument("--autoencoder-steps", type=int, default=400)
    parser.add_argument(
        "--models", type=Path, default=Path("foreign"), metavar="DIR", help="directory of the pipelines"
    )
    parser.add_argument("--kind", choices=sorted(KINDS), nargs="*", default=sorted(KINDS))
    options = parser.parse_args()
    data = small_digits() if options.mnist is None else mnist(options.mnist)
    sizes = replace(foreign.SMALL, width=64, depth=4) if options.mnist is None else foreign.Sizes()
    torch.set_num_threads(1)
    steps = {"steps": options.steps, "autoencoder_steps": options.autoencoder_steps}
    figures = {}
    for name in options.kind:
        figures[name] = demonstration(name, data, sizes, options.models / name, **steps)
        print(name, figures[name], flush=True)
    settings = {"data": "scikit-learn digits" if options.mnist is None else "MNIST", "sampling_steps": STEPS, **steps}
    packages = ("diffusers", "transformers")
    print(report.write("foreign_demo", figures, [SEED], options.output, packages=packages, **settings))


if __name__ == "__main__":
    main()
