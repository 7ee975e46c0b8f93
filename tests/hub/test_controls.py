"""Control networks of diffusers on bundles, against the pipelines of diffusers that have them."""

import inspect
from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.hub.controls import controlled
from beeline.hub.pipelines import from_pipeline
from beeline.networks.adapters.amounts import Window
from beeline.networks.hub.layout import pack, unpack
from tests.networks.hub import tiny_text
from tests.networks.hub.tiny import awake, certain, df, kl8
from tests.networks.hub.tiny_editing import picture

PROMPTS = ["a lighthouse", "two birds"]


def control_of(kind, net, seed, **more):
    """A control of the sizes of a network in which nothing is zero."""
    names = inspect.signature(kind.__init__).parameters
    settings = {k: v for k, v in net.config.items() if k in names}
    return awake(kind(**{**settings, "num_layers": 1, **more}), seed)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    pipe = tiny_text.sd3(tmp_path_factory.mktemp("sd3"))
    certain(pipe.vae)
    return pipe


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    pipe = tiny_text.flux(tmp_path_factory.mktemp("flux"))
    certain(pipe.vae)
    return pipe


def latents(bundle, cond, x0, steps=3):
    sampler = replace(bundle.sampler, steps=steps)
    with torch.no_grad():
        return bundle.draw(x0, bundle.condition(cond, len(x0)), sampler=sampler)


@pytest.mark.parametrize("zeros", [True, False])
def test_controls_of_sd3_are_those_of_the_pipeline(sd3, zeros):
    control = control_of(df.SD3ControlNetModel, sd3.transformer, 1, force_zeros_for_pooled_projection=zeros)
    pipe = df.StableDiffusion3ControlNetPipeline(**sd3.components, controlnet=control)
    pipe.set_progress_bar_config(disable=True)
    bundle = from_pipeline(sd3, height=8, width=8)
    made, x0 = controlled(bundle, {"canny": control}, {"canny": 0.7}), bundle.start([3, 4])
    cond = {"prompt": PROMPTS, "negative_prompt": "dark", "canny": picture(8, 8)}
    wanted = pipe(
        PROMPTS, negative_prompt=["dark"] * 2, control_image=picture(8, 8), controlnet_conditioning_scale=0.7, height=8,
        width=8, latents=x0.clone(), num_inference_steps=3, guidance_scale=7.0, output_type="latent",
    ).images  # fmt: skip
    guided = replace(made, sampler=replace(made.sampler, guidance=bl.CFG(7.0)))
    assert (latents(guided, cond, x0) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    plain = {k: v for k, v in cond.items() if k != "canny"}
    assert (latents(guided, plain, x0) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize(("pixels", "mode"), [(False, None), (False, 1), (True, None)])
def test_controls_of_flux_are_those_of_the_pipeline(flux, pixels, mode):
    parts, side, more = flux.components, 8, {} if mode is None else {"num_mode": 3}
    if pixels:  # a control of XLabs divides sides by 8, as its autoencoder does
        parts, side = {**parts, "vae": kl8()}, 64
        more = {"conditioning_embedding_channels": 4, "patch_size": 2}
    control = control_of(df.FluxControlNetModel, flux.transformer, 2, num_single_layers=0 if pixels else 1, **more)
    pipe = df.FluxControlNetPipeline(**parts, controlnet=control)
    pipe.set_progress_bar_config(disable=True)
    bundle = from_pipeline(df.FluxPipeline(**parts), height=side, width=side)
    modes = {} if mode is None else {"canny": mode}
    made, x0 = controlled(bundle, {"canny": control}, {"canny": 0.7}, modes), bundle.start([3, 4])
    cond = {"prompt": PROMPTS, "guidance": 2.0, "canny": picture(side, side)}
    wanted = pipe(
        PROMPTS, control_image=picture(side, side), controlnet_conditioning_scale=0.7, height=side, width=side,
        latents=pack(x0), num_inference_steps=3, guidance_scale=2.0, output_type="latent", control_mode=mode,
    ).images  # fmt: skip
    wanted = unpack(wanted, 8, 8)
    assert (latents(made, cond, x0) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (latents(bundle, {"prompt": PROMPTS, "guidance": 2.0}, x0) - wanted).abs().max() > 1e-3


def test_strengths_windows_and_several_controls(flux):
    one, two = (control_of(df.FluxControlNetModel, flux.transformer, k, num_single_layers=1) for k in (3, 4))
    bundle = from_pipeline(flux, height=8, width=8)
    x0 = bundle.start([3, 4])
    plain = {"prompt": PROMPTS, "guidance": 2.0}
    cond = {**plain, "a": picture(8, 8), "b": picture(8, 8)}
    base = latents(bundle, plain, x0)

    def drawn(a, b):
        return latents(controlled(bundle, {"a": one, "b": two}, {"a": a, "b": b}), cond, x0)

    assert torch.equal(drawn(0.0, 0.0), base), "inactive is identical bit for bit"
    assert torch.equal(latents(controlled(bundle, {"a": one, "b": two}), plain, x0), base), "as without hints"
    alone = controlled(bundle, {"a": one})
    assert torch.equal(drawn(1.0, 0.0), latents(alone, {**plain, "a": picture(8, 8)}, x0))
    multi = df.FluxControlNetPipeline(**flux.components, controlnet=df.FluxMultiControlNetModel([one, two]))
    multi.set_progress_bar_config(disable=True)
    wanted = multi(
        PROMPTS, control_image=[picture(8, 8)] * 2, control_mode=[None, None], height=8, width=8,
        controlnet_conditioning_scale=[0.5, 0.25], latents=pack(x0), num_inference_steps=3, guidance_scale=2.0,
        output_type="latent",
    ).images  # fmt: skip
    wanted = unpack(wanted, 8, 8)
    assert (drawn(0.5, 0.25) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    early = latents(controlled(bundle, {"a": one}, {"a": Window(0.0, 0.2)}), {**plain, "a": picture(8, 8)}, x0)
    assert not torch.equal(early, base) and not torch.equal(early, drawn(1.0, 0.0))


def test_other_controls_are_refused(flux, sd3):
    control = control_of(df.SD3ControlNetModel, sd3.transformer, 1)
    bundle = from_pipeline(flux, height=8, width=8)
    right = control_of(df.FluxControlNetModel, flux.transformer, 3, num_single_layers=1)
    several = control_of(df.FluxControlNetModel, flux.transformer, 3, num_single_layers=1, num_mode=3)
    made = controlled(bundle, {"a": right})
    for call, message in (
        (lambda: controlled(bundle, {"a": control}), "'a' is a SD3ControlNetModel, and the family flux"),
        (lambda: controlled(made, {"a": right}), "field Controlled .*give all controls at once"),
        (lambda: controlled(bundle, {"a": right}, {"b": 1.0}), "no control 'b'"),
        (
            lambda: controlled(bundle, {"a": right}, modes={"a": 0}),
            "modes=.'a': 0.*one kind of hints.*none for a single",
        ),
        (lambda: controlled(bundle, {"a": several}), "modes=.., and was trained on 3 kinds"),
        (lambda: controlled(bundle, {"a": several}, modes={"a": 3}), "modes=.'a': 3.*from 0"),
        (lambda: controlled(bundle, {}), "controls=.. were given"),
        (lambda: made.condition({"prompt": "a", "b": picture(8, 8)}, 1), "condition 'b'"),
    ):
        with pytest.raises(BeelineError, match=message):
            call()
