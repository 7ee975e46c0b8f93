"""The sampler on a pretrained pipeline against the pipeline's own call, and the gain of caches and compilation.

    python -m benchmarks.hub_loop [loop] [speed] [--rounds 3] [--output FILE]

loop   seconds and peak memory of Beeline's sampler over those of the pipeline's call, for the same noise, conditions
       and schedule, conditional and guided: a tiny FLUX and one of 300 million parameters, with random weights
speed  seconds without cache and compilation over those with them, at equal evaluations, on the larger network; the
       relative change of the output; and the evaluations that reuse something

Runs alternate, and the median of the ratios of adjacent runs is reported.  Seconds are those of the process.  Peak
memory is that of allocated tensors without the weights.  Text encoders and autoencoder are not part of it.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.rng import Rng
from beeline.hub.pipelines import from_pipeline
from beeline.hub.speed import cached, compiled, counting
from beeline.networks.hub.caches import Cache, FirstBlock, TaylorSeer
from beeline.networks.hub.copies import Counts
from beeline.networks.hub.layout import pack, unpack
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import CFG, Plain
from beeline.training.memory import Tracker
from benchmarks import report

SCALE = 4.0  # of guidance
SIDE = 96  # pixels
WORDS = 16  # tokens of the prompt
# name: attention heads and their width, blocks of two streams and of one, width of the text
NETWORKS = {"tiny": (2, 16, 1, 2, 32), "300M": (8, 128, 4, 9, 512)}
CACHES: dict[str, Cache] = {"FirstBlock(0.1)": FirstBlock(0.1), "TaylorSeer(every=3)": TaylorSeer(every=3)}


class Setup:
    """A FLUX pipeline with random weights, its bundle, noise and conditions."""

    def __init__(self, name: str):
        import diffusers as df

        heads, width, double, single, text = NETWORKS[name]
        rotary = width * 7 // 32 * 2  # of rows and of columns
        with Rng(0).ambient():
            net = df.FluxTransformer2DModel(
                patch_size=1,
                in_channels=64,
                num_layers=double,
                num_single_layers=single,
                attention_head_dim=width,
                num_attention_heads=heads,
                joint_attention_dim=text,
                pooled_projection_dim=text,
                axes_dims_rope=[width - 2 * rotary, rotary, rotary],
                guidance_embeds=False,
            )
        scheduler = df.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        self.pipe = df.FluxPipeline(scheduler, None, None, None, None, None, net.eval())
        self.pipe.set_progress_bar_config(disable=True)
        self.parameters = sum(p.numel() for p in net.parameters())
        self.bundle = from_pipeline(self.pipe, height=SIDE, width=SIDE)
        self.x0 = Rng(1).normal(torch.empty(1, *self.bundle.modality.shape))
        self.cond, self.null = (
            {
                "text": Rng(seed).normal(torch.empty(1, WORDS, text)),
                "pooled": Rng(seed).fork("p").normal(torch.empty(1, text)),
            }
            for seed in (2, 3)
        )

    def theirs(self, steps: int, guided: bool) -> Tensor:
        """The latents of the pipeline's own call."""
        names = {"text": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
        embeds = {names[k]: v for k, v in self.cond.items()} | {f"negative_{names[k]}": v for k, v in self.null.items()}
        with torch.no_grad():
            latents = self.pipe(
                **embeds,
                true_cfg_scale=SCALE if guided else 1.0,
                height=SIDE,
                width=SIDE,
                latents=pack(self.x0),
                num_inference_steps=steps,
                output_type="latent",
            ).images
        return unpack(latents, *self.x0.shape[2:])

    def ours(self, steps: int, guided: bool, bundle: Bundle | None = None) -> Tensor:
        """The latents of Beeline's sampler."""
        bundle = bundle or self.bundle
        guidance = replace(CFG(SCALE), together=False) if guided else Plain()  # two calls, as in the pipeline
        sampler = replace(bundle.sampler, steps=steps, guidance=guidance)
        return sampler(bundle.flow, self.x0, {**self.cond, "negative": self.null} if guided else self.cond)


def seconds(run: Callable[[], Any], times: int) -> float:
    """Seconds of the process for one of ``times`` calls."""
    start = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - start) / times


def peak(run: Callable[[], Any]) -> int:
    """Largest number of bytes of the tensors that ``run`` allocates."""
    with Tracker() as tracker:
        run()
    return tracker.peak


def loop(name: str, steps: int, guided: bool, rounds: int, times: int) -> dict[str, Any]:
    """Seconds and memory of the sampler over those of the pipeline's call."""
    setup = Setup(name)
    runs = [lambda: setup.theirs(steps, guided), lambda: setup.ours(steps, guided)]
    theirs, ours = (run() for run in runs)
    pairs = []
    for i in range(rounds):  # the order changes too
        found = {k: seconds(runs[k], times) for k in ((0, 1) if i % 2 == 0 else (1, 0))}
        pairs.append((found[0], found[1]))
    ratios = [b / a for a, b in pairs]
    memory = [peak(run) for run in runs]
    return {
        "network": name,
        "parameters": setup.parameters,
        "steps": steps,
        "guided": guided,
        "difference": float((ours - theirs).abs().max() / theirs.abs().max()),
        "pipeline_seconds": round(statistics.median(a for a, _ in pairs), 5),
        "sampler_over_pipeline": round(statistics.median(ratios), 4),
        "spread": [round(min(ratios), 4), round(max(ratios), 4)],
        "peak_bytes": {"pipeline": memory[0], "sampler": memory[1]},
    }


def speed(steps: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds without cache and compilation over those with them, in one series of alternating runs."""
    setup = Setup("300M")
    fast = compiled(setup.bundle)
    bundles = {"compiled": fast}
    bundles |= {name: cached(setup.bundle, cache) for name, cache in CACHES.items()}
    bundles |= {f"{name}, compiled": cached(fast, cache) for name, cache in CACHES.items()}
    plain = setup.ours(steps, False)
    figures: dict[str, dict[str, Any]] = {}
    for name, bundle in bundles.items():
        start = time.process_time()
        with contextlib.nullcontext(Counts(steps)) if bundle is fast else counting(bundle) as counted:
            found = setup.ours(steps, False, bundle)  # compiles
        first = time.process_time() - start
        counts = {"full": counted.full, "reused": counted.reused}
        change = float((found - plain).square().mean().sqrt() / plain.square().mean().sqrt())
        figures[name] = {"first_seconds": round(first, 2), "relative_change": change, "evaluations": counts}
    ratios: dict[str, list[float]] = {name: [] for name in bundles}
    base = []
    for _ in range(rounds):
        for name, bundle in bundles.items():
            base.append(seconds(lambda: setup.ours(steps, False), 1))
            ratios[name].append(base[-1] / seconds(lambda bundle=bundle: setup.ours(steps, False, bundle), 1))
    return [
        {
            "change": name,
            "steps": steps,
            "plain_seconds": round(statistics.median(base), 4),
            "speedup": round(statistics.median(ratios[name]), 4),
            "spread": [round(min(ratios[name]), 4), round(max(ratios[name]), 4)],
            **figure,
        }
        for name, figure in figures.items()
    ]


def main() -> None:
    parts = ("loop", "speed")
    parser = report.parser("hub_loop", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of measurements")
    options = parser.parse_args()
    chosen = options.parts or parts
    if unknown := sorted(set(chosen) - set(parts)):
        parser.error(f"unknown part {', '.join(unknown)}; choose from {', '.join(parts)}")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if "loop" in chosen:
        sizes = (("tiny", 20, 10), ("300M", 4, 1))
        found["loop"] = [
            loop(name, steps, guided, options.rounds, times) for name, steps, times in sizes for guided in (False, True)
        ]
    if "speed" in chosen:
        found["speed"] = speed(12, options.rounds)
    print(json.dumps(found, indent=2))
    report.write(
        "hub_loop",
        found,
        [0, 1, 2, 3],
        options.output,
        packages=["diffusers"],
        rounds=options.rounds,
        side=SIDE,
        words=WORDS,
    )


if __name__ == "__main__":
    main()
