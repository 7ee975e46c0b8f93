"""Eight evaluations of ``auto_sampler`` on pretrained pipelines against eight of the pipelines themselves.

    python -m benchmarks.hub_eight [--steps 1500] [--output FILE]

Subjects are a small Stable Diffusion 3 with shift 3 and a small FLUX, both trained here on the digits of scikit-learn,
and a tiny Wan with random weights and the multistep scheduler of the released ones.  The figures are root mean squared
distances of latents to the pipeline's own result of 200 steps, from the same noise and prompts, conditional and guided:
of the pipeline's own 8 steps, and the ratio of others at 8 evaluations to it.  A ratio above 1 is worse.

auto                  ``auto_sampler(8)``
auto, independent     ``auto_sampler(8, independent=True)``: weights for flows of independent pairs
UniPC, own schedule   the solver of ``auto_sampler`` for more evaluations, with the schedule of the checkpoint
Adams-Bashforth, ...  the one that it has for other paths, in the same way
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.rng import Rng
from beeline.hub.pipelines import from_pipeline
from beeline.networks.hub.imports import diffusers
from beeline.networks.hub.layout import pack, unpack
from beeline.runs.bundle import Bundle
from beeline.sampling.auto import auto_sampler
from beeline.sampling.guidance.guide import CFG, Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.multistep import AdamsBashforth, UniPC
from beeline.testing import foreign
from benchmarks import report
from benchmarks.foreign_demo import small_digits

EIGHT, MANY, SCALE, SAMPLES = 8, 200, 4.0, 40
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Subject:
    """A pipeline as a bundle, a condition with its negative for SAMPLES samples, and the pipeline's own call."""

    bundle: Bundle
    cond: dict[str, Any]
    theirs: Callable[[Tensor, int, bool], Tensor]  # (noise, steps, guided) -> latents


def trained(make: Callable[..., Any], shift: float, steps: int) -> Any:
    """A pipeline that is trained on the digits of scikit-learn, with a scheduler of a shift."""
    digits, pipeline = small_digits(), make(foreign.SMALL)
    images = foreign.pictures(digits.images, foreign.SMALL.side)
    foreign.train_autoencoder(pipeline.vae, images, steps=400)
    foreign.train(pipeline, images, digits.labels, steps=steps)
    pipeline.scheduler = diffusers("a schedule").FlowMatchEulerDiscreteScheduler(shift=shift)
    return pipeline


def prompted(
    pipeline: Any, arguments: Callable[[Tensor, float], dict[str, Any]], taken: Callable[[Tensor, Tensor], Tensor]
) -> Subject:
    """The subject of an image pipeline with text encoders."""
    side = foreign.SMALL.side
    bundle = from_pipeline(pipeline, height=side, width=side, max_sequence_length=foreign.TOKENS)
    prompts = [foreign.DIGITS[i % 10] for i in range(SAMPLES)]
    call = {"prompt": prompts, "negative_prompt": [""] * SAMPLES, "height": side, "width": side}
    call |= {"max_sequence_length": foreign.TOKENS, "output_type": "latent"}

    def theirs(x0: Tensor, steps: int, guided: bool) -> Tensor:
        made = pipeline(**call, **arguments(x0, SCALE if guided else 1.0), num_inference_steps=steps)
        return taken(made.images, x0)

    condition: Any = bundle.condition({"prompt": prompts, "negative_prompt": ""}, SAMPLES)
    return Subject(bundle, condition, theirs)


def sd3(steps: int) -> Subject:
    def arguments(x0: Tensor, scale: float) -> dict[str, Any]:
        return {"latents": x0.clone(), "guidance_scale": scale}

    return prompted(trained(foreign.sd3, 3.0, steps), arguments, lambda out, x0: out)


def flux(steps: int) -> Subject:
    def arguments(x0: Tensor, scale: float) -> dict[str, Any]:
        return {"latents": pack(x0), "true_cfg_scale": scale}

    return prompted(trained(foreign.flux, 1.0, steps), arguments, lambda out, x0: unpack(out, *x0.shape[2:]))


def wan(steps: int) -> Subject:
    """Random weights: nothing is trained."""
    library, rng = diffusers("a pipeline"), Rng(0)
    with rng.fork("weights").ambient():
        net = library.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
            text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
        )  # fmt: skip
        for p in net.parameters():
            p.data += 0.08 * torch.randn_like(p)  # no gate is closed
        vae = library.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    scheduler = library.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = library.WanPipeline(None, None, vae, scheduler, net.eval())
    pipeline.set_progress_bar_config(disable=True)
    size: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 5}
    bundle = from_pipeline(pipeline, **size)
    text, negative = (rng.fork(name).normal(torch.empty(SAMPLES, 7, 32)) for name in ("text", "negative"))
    call = {"prompt_embeds": text, "negative_prompt_embeds": negative, **size, "output_type": "latent"}

    def theirs(x0: Tensor, steps: int, guided: bool) -> Tensor:
        scale = SCALE if guided else 1.0
        made = pipeline(**call, latents=x0.clone(), guidance_scale=scale, num_inference_steps=steps)
        found: Tensor = made.frames
        return found

    return Subject(bundle, {"text": text, "negative": {"text": negative}}, theirs)


SUBJECTS: dict[str, Callable[[int], Subject]] = {"sd3": sd3, "flux": flux, "wan": wan}


def samplers(bundle: Bundle) -> dict[str, Sampler]:
    """The samplers of eight evaluations that are compared with the pipeline's own."""
    own = replace(bundle.sampler, steps=EIGHT)
    return {
        "auto": auto_sampler(EIGHT),
        "auto, independent": auto_sampler(EIGHT, independent=True),
        "UniPC, own schedule": replace(own, solver=UniPC(2)),
        "Adams-Bashforth, own schedule": replace(own, solver=AdamsBashforth(2)),
    }


def rmse(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).double().square().mean().sqrt())


@torch.no_grad()
def measured(subject: Subject, guided: bool, seeds: Sequence[int]) -> dict[str, Any]:
    """The distance of the pipeline's own eight steps, and ratios to it, each from the errors over all noise."""
    cond = subject.cond if guided else {k: v for k, v in subject.cond.items() if k != "negative"}
    errors: dict[str, list[float]] = {}
    for seed in seeds:
        x0 = subject.bundle.start([seed * SAMPLES + i for i in range(SAMPLES)])
        wanted = subject.theirs(x0, MANY, guided)
        errors.setdefault("own", []).append(rmse(subject.theirs(x0, EIGHT, guided), wanted))
        for name, sampler in samplers(subject.bundle).items():
            how = replace(sampler, guidance=CFG(SCALE) if guided else Plain())
            errors.setdefault(name, []).append(rmse(how(subject.bundle.flow, x0, cond), wanted))
    own = errors.pop("own")
    ratios = {name: [a / b for a, b in zip(found, own, strict=True)] for name, found in errors.items()}
    return {
        "rmse of the pipeline's own eight": own,
        **{name: {"ratio": sum(r) / len(r), "of each seed": r} for name, r in ratios.items()},
    }


def main(arguments: Sequence[str] | None = None) -> Path:
    options = report.parser("hub_eight", __doc__)
    options.add_argument("--steps", type=int, default=1500, help="training steps of each pipeline")
    chosen = options.parse_args(arguments)
    figures = {}
    for name, make in SUBJECTS.items():
        subject = make(chosen.steps)
        figures[name] = {
            mode: measured(subject, guided, SEEDS) for mode, guided in (("conditional", False), ("guided", True))
        }
        for mode, found in figures[name].items():
            ratios = {key: round(value["ratio"], 3) for key, value in found.items() if isinstance(value, dict)}
            print(name, mode, round(sum(found["rmse of the pipeline's own eight"]) / len(SEEDS), 4), ratios, flush=True)
    return report.write(
        "hub_eight", figures, SEEDS, chosen.output, packages=("diffusers",),
        training_steps=chosen.steps, samples=SAMPLES, scale=SCALE, reference_steps=MANY,
    )  # fmt: skip


if __name__ == "__main__":
    print(main())
