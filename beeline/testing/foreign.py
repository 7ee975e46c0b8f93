"""Small pipelines of diffusers that are trained here, as pretrained models for tests, benchmarks and examples.

Nothing is downloaded: autoencoder, text encoders, tokenizers and transformer are made and trained in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.declared import Traits, Wrapping
from beeline.core.errors import extra, require
from beeline.core.modes import eval_mode
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.networks.hub.families import family_of
from beeline.networks.hub.family import field_of
from beeline.networks.hub.imports import diffusers
from beeline.objectives.matching import Drop, FlowMatching
from beeline.times.samplers import LogitNormal
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupConstantCooldown

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPECIAL = ("<pad>", "<s>", "<unk>", "</s>")
TOKENS = 8  # of a prompt; give it as max_sequence_length

Log: TypeAlias = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the components; the defaults are for images of 32x32 pixels."""

    side: int = 32  # of an image in pixels
    autoencoder: tuple[int, ...] = (8, 16, 32)  # channels; each after the first halves the side
    width: int = 96  # channels of a token
    heads: int = 4
    depth: int = 4  # blocks
    text: int = 32  # channels of the text encoders

    @property
    def latent(self) -> int:
        """Side of a latent."""
        return self.side // 2 ** (len(self.autoencoder) - 1)


SMALL = Sizes(side=8, autoencoder=(8,), width=32, heads=2, depth=2, text=16)
"""Sizes for images of 8x8 pixels and quick tests."""


def sd3(sizes: Sizes = SMALL, words: Sequence[str] = DIGITS, seed: int = 0) -> Any:
    """A pipeline of Stable Diffusion 3 with random weights: two CLIP encoders and a T5."""
    library, models = diffusers("a pipeline"), extra("transformers", "hub")
    with Rng(seed).fork("sd3").ambient():
        width, text = sizes.width, sizes.text
        transformer = library.SD3Transformer2DModel(
            sample_size=sizes.latent,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=sizes.depth,
            attention_head_dim=width // sizes.heads,
            num_attention_heads=sizes.heads,
            joint_attention_dim=2 * text,
            caption_projection_dim=width,
            pooled_projection_dim=2 * text,
            pos_embed_max_size=sizes.latent,
            qk_norm="rms_norm",
        )
        first, second = (models.CLIPTextModelWithProjection(clip_config(models, text, words)).eval() for _ in range(2))
        third = t5(models, 2 * text, words)
        vae = autoencoder(library, sizes)
    readers = [tokenizer(words) for _ in range(3)]
    made = library.StableDiffusion3Pipeline(
        transformer.eval(), library.FlowMatchEulerDiscreteScheduler(shift=1.0), vae,
        first, readers[0], second, readers[1], third, readers[2],
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def flux(sizes: Sizes = SMALL, words: Sequence[str] = DIGITS, seed: int = 0) -> Any:
    """A pipeline of FLUX with random weights: a CLIP and a T5 encoder, without an embedded guidance scale."""
    library, models = diffusers("a pipeline"), extra("transformers", "hub")
    with Rng(seed).fork("flux").ambient():
        width, text = sizes.width, sizes.text
        side = width // sizes.heads
        transformer = library.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=sizes.depth // 2,
            num_single_layers=sizes.depth,
            attention_head_dim=side,
            num_attention_heads=sizes.heads,
            joint_attention_dim=text,
            pooled_projection_dim=text,
            guidance_embeds=False,
            axes_dims_rope=(side - 2 * (side // 3 // 2 * 2), side // 3 // 2 * 2, side // 3 // 2 * 2),
        )
        first = models.CLIPTextModel(clip_config(models, text, words)).eval()
        second = t5(models, text, words)
        vae = autoencoder(library, sizes)
    made = library.FluxPipeline(
        library.FlowMatchEulerDiscreteScheduler(shift=1.0), vae, first, tokenizer(words), second, tokenizer(words),
        transformer.eval(),
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def autoencoder(library: Any, sizes: Sizes) -> Any:
    """An ``AutoencoderKL`` of four latent channels with random weights."""
    levels = len(sizes.autoencoder)
    return library.AutoencoderKL(
        sample_size=sizes.side,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.autoencoder,
        layers_per_block=1,
        norm_num_groups=min(8, *sizes.autoencoder),
        latent_channels=4,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    ).eval()


def clip_config(models: Any, width: int, words: Sequence[str]) -> Any:
    return models.CLIPTextConfig(
        vocab_size=len(SPECIAL) + len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )


def t5(models: Any, width: int, words: Sequence[str]) -> Any:
    """A T5 encoder of one layer."""
    count = len(SPECIAL) + len(words)
    config = models.T5Config(vocab_size=count, d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2)
    return models.T5EncoderModel(config).eval()


def tokenizer(words: Sequence[str]) -> Any:
    """A tokenizer of whole words for both kinds of encoders."""
    parts, models = extra("tokenizers", "hub"), extra("transformers", "hub")
    inner = parts.Tokenizer(
        parts.models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *words])}, unk_token=SPECIAL[2])
    )
    inner.normalizer, inner.pre_tokenizer = parts.normalizers.Lowercase(), parts.pre_tokenizers.Whitespace()
    inner.post_processor = parts.processors.TemplateProcessing(
        single=f"{SPECIAL[1]} $A {SPECIAL[3]}", special_tokens=[(SPECIAL[1], 1), (SPECIAL[3], 3)]
    )
    pad, start, unknown, end = SPECIAL
    return models.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        bos_token=start,
        unk_token=unknown,
        eos_token=end,
        model_max_length=TOKENS,
    )


def pictures(pixels: Any, side: int) -> Tensor:
    """Gray images [N,H,W] in [0, 255] as RGB [N,3,side,side] in [-1, 1], with a black margin."""
    x = torch.as_tensor(pixels).float() / 127.5 - 1
    rest = side - x.shape[-1]
    require(
        x.ndim == 3 and x.shape[1] == x.shape[2] and rest >= 0,
        f"the images have shape {list(x.shape)}; give gray images [N,H,W] that are square and not larger than {side}",
    )
    x = F.pad(x, (rest // 2, rest - rest // 2, rest // 2, rest - rest // 2), value=-1.0)
    return x[:, None].expand(-1, 3, -1, -1)


def train_autoencoder(vae: Any, images: Tensor, steps: int, *, seed: int = 0, batch_size: int = 32) -> float:
    """Train an autoencoder in place; sets scale and shift of its latents, and returns the last squared error.

    loss = |decode(mean + std noise) - x|^2 + 1e-4 KL, averaged over pixels
    """
    rng, optimizer = Rng(seed).fork("autoencoder"), torch.optim.AdamW(vae.parameters(), 2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=max(steps, 1))
    vae.train()
    error = images.new_zeros(())
    for step in range(steps):
        x = images[rows(rng.fork(step), len(images), batch_size)]
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * rng.fork(step, "noise").normal(posterior.mean)
        error = F.mse_loss(vae.decode(z).sample, x)
        loss = error + 1e-4 * posterior.kl().mean() / x[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    vae.eval()
    z = encoded(vae, images[:1000])
    vae.register_to_config(scaling_factor=float(1 / z.std()), shift_factor=float(z.mean()))
    return float(error.detach())


def rows(rng: Rng, n: int, count: int) -> Tensor:
    """``count`` random indices below ``n``."""
    return (rng.uniform(count, torch.empty(0)) * n).long().clamp(max=n - 1)


def encoded(vae: Any, images: Tensor) -> Tensor:
    """The means of the latents [N,C,h,w], without scale and shift."""
    with eval_mode(vae):
        return torch.cat([vae.encode(part).latent_dist.mean for part in images.split(256)])


class Labelled(Wrapping):
    """A field under prompts as a field under labels, by a table of embeddings.

    v(x, t, label) = field(x, t, {name: table[label]})
    """

    def __init__(self, field: nn.Module, table: dict[str, Tensor]):
        super().__init__()
        self.field, self.names = field, tuple(table)
        for name, rows_ in table.items():
            self.register_buffer(f"table_{name}", rows_)

    @property
    def traits(self) -> Traits:
        return Traits(nulls={"label": len(self.get_buffer(f"table_{self.names[0]}")) - 1})

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        label = cond["label"] if isinstance(cond, dict) else cond
        assert isinstance(label, Tensor)
        found: Tensor = self.field(x, t, {name: self.get_buffer(f"table_{name}")[label] for name in self.names})
        return found


def labelled(pipeline: Any, prompts: Sequence[str]) -> Labelled:
    """The field of a pipeline under labels 0 .. len(prompts); the last one stands for the empty prompt."""
    family = family_of(pipeline)
    with eval_mode(*(part for part in pipeline.components.values() if isinstance(part, nn.Module))):
        table = family.prompt.with_length(pipeline, TOKENS)(pipeline, [*prompts, ""])
    return Labelled(field_of(pipeline, family), table)


def train(
    pipeline: Any,
    images: Tensor,
    labels: Tensor,
    prompts: Sequence[str] = DIGITS,
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    log: Log = lambda entry: None,
) -> Any:
    """Train the transformer of a pipeline in place by flow matching on the latents of images [N,3,H,W].

    ``labels`` [N] are indices of ``prompts``.  One label in ten is replaced by the empty prompt, for guidance.
    """
    family = family_of(pipeline)
    x1 = family.statistics.to_flow(pipeline.vae, encoded(pipeline.vae, images))
    network = labelled(pipeline, prompts)
    pipeline.transformer.train()
    objective = FlowMatching(times=LogitNormal(), drop=Drop(0.1, null=len(prompts)))
    schedule = WarmupConstantCooldown(peak=lr, warmup=max(1, min(100, steps // 10)))
    training = Training(steps=steps, batch_size=batch_size, lr=schedule)
    data = Batch(x1, cond={"label": labels.long()})
    made = fit(network, objective, data, training, rng=Rng(seed), device=x1.device, log=log)
    pipeline.transformer.load_state_dict(made.field.net.state_dict())
    pipeline.transformer.eval()
    return pipeline
