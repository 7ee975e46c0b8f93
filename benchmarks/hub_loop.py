"""The sampler on a pretrained pipeline against the pipeline's own call, and the gain of caches and compilation.

    python -m benchmarks.hub_loop [loop] [speed] [plan] [--rounds 3] [--device cuda] [--output FILE]

loop   seconds and peak memory of Beeline's sampler over those of the pipeline's call, for the same noise, conditions
       and schedule, conditional and guided: a tiny FLUX and one of 300 million parameters, with random weights; on
       CUDA also one of 12 billion in bfloat16 with images of 1024x1024 pixels
speed  seconds without cache and compilation over those with them, at equal evaluations, on the largest network (on the
       CPU with images of 256 tokens); the relative change of the output; and the evaluations that reuse something
plan   memory and seconds that ``beeline sample --plan`` predicts for that network, over those measured

Runs alternate, and the median of the ratios of adjacent runs is reported.  Seconds are those of the process, on CUDA
those of the clock.  Peak memory is that of allocated tensors without the weights.  Text encoders and autoencoder are
not part of it.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.rng import Rng
from beeline.hub.pipelines import from_pipeline
from beeline.hub.planning import plan
from beeline.hub.speed import cached, compiled, counting
from beeline.networks.hub.caches import FirstBlock, TaylorSeer
from beeline.networks.hub.copies import Counts
from beeline.networks.hub.layout import pack, unpack
from beeline.runs.bundle import Bundle
from beeline.sampling.guidance.guide import CFG, Plain
from beeline.training.memory import Tracker
from benchmarks import report

SCALE = 4.0  # of guidance


@dataclass(frozen=True)
class Size:
    """A FLUX: attention heads and their width, blocks of two streams and of one, widths of text; and the work."""

    heads: int
    width: int
    double: int
    single: int
    text: int
    pooled: int
    steps: int  # of a run of the sampler
    times: int = 1  # runs of one measurement
    side: int = 96  # pixels of an image
    words: int = 16  # tokens of a prompt
    dtype: torch.dtype = torch.float32


SIZES = {
    "tiny": Size(2, 16, 1, 2, 32, 32, 20, 10),
    "300M": Size(8, 128, 4, 9, 512, 512, 4),
    "300M, 256 tokens": Size(8, 128, 4, 9, 512, 512, 12, side=256),
    "12B": Size(24, 128, 19, 38, 4096, 768, 10, side=1024, words=512, dtype=torch.bfloat16),
}
CHANGES = (
    *("compiled", "FirstBlock", "TaylorSeer", "TaylorSeer, whole"),
    *("FirstBlock, compiled", "TaylorSeer, compiled", "TaylorSeer, whole, compiled"),
)


class Setup:
    """A FLUX pipeline with random weights, its bundle, noise and conditions."""

    def __init__(self, name: str, device: torch.device):
        import diffusers as df

        self.size = size = SIZES[name]
        self.device = device
        rotary = size.width * 7 // 32 * 2  # of rows and of columns
        self.config = {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": size.double,
            "num_single_layers": size.single,
            "attention_head_dim": size.width,
            "num_attention_heads": size.heads,
            "joint_attention_dim": size.text,
            "pooled_projection_dim": size.pooled,
            "axes_dims_rope": [size.width - 2 * rotary, rotary, rotary],
            "guidance_embeds": False,
        }
        with Rng(0).ambient(), device, default_dtype(size.dtype):
            net = df.FluxTransformer2DModel(**self.config)
        scheduler = df.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        self.pipe = df.FluxPipeline(scheduler, None, None, None, None, None, net.eval())
        self.pipe.set_progress_bar_config(disable=True)
        self.parameters = sum(p.numel() for p in net.parameters())
        self.bundle = from_pipeline(self.pipe, height=size.side, width=size.side)
        self.x0 = Rng(1).normal(torch.empty(1, *self.bundle.modality.shape, device=device))
        like = torch.empty(1, size.words, size.text, device=device, dtype=size.dtype)
        self.cond, self.null = (
            {"text": Rng(seed).normal(like), "pooled": Rng(seed).fork("p").normal(like[:, 0, : size.pooled])}
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
                height=self.size.side,
                width=self.size.side,
                latents=pack(self.x0).to(self.size.dtype),
                num_inference_steps=steps,
                output_type="latent",
            ).images
        return unpack(latents, *self.x0.shape[2:]).float()

    def ours(self, steps: int, guided: bool, bundle: Bundle | None = None) -> Tensor:
        """The latents of Beeline's sampler."""
        bundle = bundle or self.bundle
        guidance = replace(CFG(SCALE), together=False) if guided else Plain()  # two calls, as in the pipeline
        sampler = replace(bundle.sampler, steps=steps, guidance=guidance)
        return sampler(bundle.flow, self.x0, {**self.cond, "negative": self.null} if guided else self.cond)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New tensors have this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def clock() -> float:
    """Seconds of the process; on CUDA of the wall clock, after all work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(run: Callable[[], Any], times: int) -> float:
    """Seconds of one of ``times`` calls."""
    start = clock()
    for _ in range(times):
        run()
    return (clock() - start) / times


def peak(run: Callable[[], Any], device: torch.device) -> int:
    """Largest number of bytes of the tensors that ``run`` allocates."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with Tracker() as tracker:
        run()
    return tracker.peak


def loop(setup: Setup, name: str, guided: bool, rounds: int) -> dict[str, Any]:
    """Seconds and memory of the sampler over those of the pipeline's call."""
    steps, times = setup.size.steps, setup.size.times
    runs = [lambda: setup.theirs(steps, guided), lambda: setup.ours(steps, guided)]
    theirs, ours = (run() for run in runs)
    pairs = []
    for i in range(rounds):  # the order changes too
        found = {k: seconds(runs[k], times) for k in ((0, 1) if i % 2 == 0 else (1, 0))}
        pairs.append((found[0], found[1]))
    ratios = [b / a for a, b in pairs]
    memory = [peak(run, setup.device) for run in runs]
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


def planned(setup: Setup) -> dict[str, Any]:
    """Predicted and measured peak memory and seconds of one run."""
    with tempfile.TemporaryDirectory() as folder:
        write_configurations(setup, Path(folder))
        side = setup.size.side
        found = plan(
            folder,
            device=setup.device,
            dtype=str(setup.size.dtype).removeprefix("torch."),
            height=side,
            width=side,
            max_sequence_length=setup.size.words,
            sampler=lambda bundle: replace(bundle.sampler, steps=setup.size.steps, guidance=Plain()),
        )
    weights = sum(p.numel() * p.element_size() for p in setup.pipe.transformer.parameters())
    measured = {
        "peak": weights + peak(lambda: setup.ours(setup.size.steps, False), setup.device),
        "seconds": seconds(lambda: setup.ours(setup.size.steps, False), 1),
    }
    return {"parameters": setup.parameters, "predicted": {k: getattr(found, k) for k in measured}, "measured": measured}


def write_configurations(setup: Setup, folder: Path) -> None:
    """A saved pipeline without the values of its weights, which a plan does not read."""
    setup.pipe.scheduler.save_pretrained(folder / "scheduler")
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    index["scheduler"] = ["diffusers", type(setup.pipe.scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(
        json.dumps({"_class_name": "FluxTransformer2DModel"} | setup.config)
    )
    header, end = {}, 0
    for name, tensor in setup.pipe.transformer.state_dict().items():
        size = tensor.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(folder / "transformer" / "diffusion_pytorch_model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # holes, which take no space on disk


def speed(setup: Setup, changes: Sequence[str], steps: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds without cache and compilation over those with them, in one series of alternating runs."""
    fast = compiled(setup.bundle)
    made = {
        "compiled": lambda: fast,
        "FirstBlock": lambda: cached(setup.bundle, FirstBlock(0.1)),
        "TaylorSeer": lambda: cached(setup.bundle, TaylorSeer(every=3)),
        "TaylorSeer, whole": lambda: cached(setup.bundle, TaylorSeer(every=3, whole=True)),
        "TaylorSeer, whole, compiled": lambda: cached(fast, TaylorSeer(every=3, whole=True)),
        "FirstBlock, compiled": lambda: cached(fast, FirstBlock(0.1)),
        "TaylorSeer, compiled": lambda: cached(fast, TaylorSeer(every=3)),
    }
    bundles = {name: made[name]() for name in changes}
    plain = setup.ours(steps, False)
    figures: dict[str, dict[str, Any]] = {}
    for name, bundle in bundles.items():
        start = clock()
        with contextlib.nullcontext(Counts(steps)) if bundle is fast else counting(bundle) as counted:
            found = setup.ours(steps, False, bundle)  # compiles
        first = clock() - start
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
    parts = ("loop", "speed", "plan")
    parser = report.parser("hub_loop", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of measurements")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=CHANGES, help="those of the part speed")
    options = parser.parse_args()
    chosen = options.parts or parts
    if unknown := sorted(set(chosen) - set(parts)):
        parser.error(f"unknown part {', '.join(unknown)}; choose from {', '.join(parts)}")
    torch.set_num_threads(1)
    device = torch.device(options.device)
    on_cpu = device.type == "cpu"
    sizes = ("tiny", "300M", "300M, 256 tokens") if on_cpu else ("tiny", "300M", "12B")
    found: dict[str, Any] = {}

    def keep(part: str, figures: Any) -> None:
        found[part] = figures
        print(json.dumps(figures, indent=2), flush=True)
        report.write(
            "hub_loop" if on_cpu else f"hub_loop-{device.type}",
            found,
            [0, 1, 2, 3],
            options.output,
            device=options.device,
            packages=["diffusers"],
            rounds=options.rounds,
            sizes={name: {k: str(v) for k, v in asdict(SIZES[name]).items()} for name in sizes},
        )

    for name in sizes if "loop" in chosen else sizes[-1:]:
        setup = Setup(name, device)
        if "loop" in chosen and name != "300M, 256 tokens":
            rows = [loop(setup, name, guided, options.rounds) for guided in (False, True)]
            keep("loop", [*found.get("loop", []), *rows])
    if "plan" in chosen:  # of the largest network
        keep("plan", planned(setup))
    if "speed" in chosen:
        keep("speed", speed(setup, options.changes, 12, options.rounds))


if __name__ == "__main__":
    main()
