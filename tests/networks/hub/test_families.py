"""Every family samples the latents of its own pipeline, conditional and guided, with its own schedule."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.fields.flow import bind, is_map
from beeline.hub.pipelines import from_pipeline
from beeline.networks.hub.checkpoint_schedule import CheckpointSchedule
from beeline.networks.hub.families import FAMILIES, family_of
from beeline.networks.hub.family import Experts
from beeline.networks.maps.head_bank import HeadBank
from beeline.sampling.guidance.guide import CFG, Guide, Plain
from tests.networks.hub import tiny_diffusions, tiny_editing, tiny_further, tiny_images, tiny_more_images, tiny_videos
from tests.networks.hub.tiny import SCALE, df, flow_prediction

FLOWS = {
    "sd3": tiny_images.sd3,
    "flux": tiny_images.flux,
    "flux-kontext": tiny_editing.flux_kontext,
    "flux-fill": tiny_editing.flux_fill,
    "flux-control": tiny_editing.flux_control,
    "flux2": tiny_images.flux2,
    "flux2-klein": tiny_images.flux2_klein,
    "chroma": tiny_images.chroma,
    "qwen-image": tiny_images.qwen_image,
    "z-image": tiny_images.z_image,
    "lumina2": tiny_images.lumina2,
    "sana": tiny_images.sana,
    "auraflow": tiny_more_images.auraflow,
    "cogview4": tiny_more_images.cogview4,
    "prx": tiny_more_images.prx,
    "hidream": tiny_more_images.hidream,
    "wan": tiny_videos.wan,
    "wan, a time per token": tiny_videos.wan_per_token,
    "wan, two experts": tiny_videos.wan_experts,
    "anyflow": tiny_videos.anyflow,
    "hunyuan-image": tiny_more_images.hunyuan_image_field,
    "hunyuan-image, a flow map": tiny_more_images.hunyuan_image,
    "ltx": tiny_videos.ltx,
    "hunyuan-video": tiny_videos.hunyuan_video,
    "mochi": tiny_videos.mochi,
    "ovis-image": tiny_further.ovis,
    "longcat-image": tiny_further.longcat,
    "bria": tiny_further.bria,
    "bria, another shift": tiny_further.bria_dynamic,
    "nucleus-image": tiny_further.nucleus,
    "krea2": tiny_further.krea2,
    "krea2, distilled": tiny_further.krea2_distilled,
    "ernie-image": tiny_further.ernie,
    "kandinsky5": tiny_further.kandinsky5,
    "kandinsky5-video": tiny_videos.kandinsky5_video,
    "kandinsky5-video, known frames": tiny_videos.kandinsky5_video_known_frames,
    "skyreels-v2": tiny_videos.skyreels,
    "sana-video": tiny_videos.sana_video,
    "bria-fibo": tiny_further.fibo,
    "bria-fibo2": tiny_further.fibo2,
    "easyanimate": tiny_videos.easyanimate,
    "skyreels-image-to-video": tiny_editing.hunyuan_frames,
    "hunyuan-video-1.5": tiny_videos.hunyuan_video15,
    "qwen-image-edit": tiny_editing.qwen_edit,
    "qwen-image-edit-plus": tiny_editing.qwen_edit_plus,
    "longcat-image-edit": tiny_editing.longcat_edit,
    "kandinsky5-image-to-image": tiny_editing.kandinsky5_image,
    "skyreels-v2-image-to-video": tiny_editing.skyreels_frames,
    "wan-image-to-video": tiny_editing.wan_frames,
    "wan-image-to-video, a time per token": tiny_editing.wan_frames_per_token,
    "ltx-image-to-video": tiny_editing.ltx_frames,
}
CASES = FLOWS | tiny_diffusions.CASES
STEPS = 6


@pytest.fixture(autouse=True)
def silent():
    df.utils.logging.set_verbosity_error()
    torch.manual_seed(0)


def ours(case, guided, bundle=None, steps=STEPS):
    bundle = bundle or from_pipeline(case.pipe, **case.size)
    guide = bundle.sampler.guidance if isinstance(bundle.sampler.guidance, Guide) else CFG(SCALE)
    guidance = replace(guide, rule=replace(guide.rule, scale=SCALE)) if guided else Plain()
    cond = {**case.cond, "negative": case.null} if guided else case.cond
    return replace(bundle.sampler, steps=steps, guidance=guidance)(bundle.flow, case.x0, cond)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("guided", [False, True], ids=["conditional", "guided"])
def test_a_family_gives_the_latents_of_its_pipeline(name, guided):
    case = CASES[name]()
    case.pipe.set_progress_bar_config(disable=True)
    if guided and case.null is None:
        pytest.skip("the pipeline guides by an embedded scale or a guider of its own")
    with torch.no_grad():
        wanted = case.theirs(STEPS, guided)
        found = ours(case, guided)
    assert found.shape == wanted.shape
    assert (wanted - case.x0).abs().max() > 0.1
    # roundings differ between processors, and guidance enlarges them: 1.1e-5 was measured for Kandinsky 5
    assert (found - wanted).abs().max() <= 3e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_a_network_in_bfloat16_is_called_without_autocast(name, tmp_path):
    """Autocast would compute norms in float32, which its pipeline does not, and take time for conversions."""
    case = CASES[name]()
    family = family_of(case.pipe)
    field = from_pipeline(case.pipe, **case.size).flow.field
    t, one = torch.full((len(case.x0),), 0.5), field.high if isinstance(field, Experts) else field
    family.network(case.pipe).save_pretrained(tmp_path)
    half = one.on(type(one.net).from_pretrained(tmp_path, torch_dtype=torch.bfloat16))  # keeps some parts in float32
    with torch.no_grad():
        full, alone, bound = one(case.x0, t, case.cond), half(case.x0, t, case.cond), bind(half, case.cond)(case.x0, t)
    assert torch.equal(alone, bound) and bound.dtype == torch.float32
    assert (bound - full).abs().mean() <= 0.1 * full.abs().max(), "embedded guidance scales are rounded, too"


ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")]


def in_bfloat16(pipe):
    """The pipeline in bfloat16 on the GPU as ``from_pretrained`` loads it: some modules stay in float32."""
    pipe.to("cuda", torch.bfloat16)
    for part in pipe.components.values():
        kept = set(getattr(part, "_keep_in_fp32_modules", None) or ())
        for name, module in part.named_modules() if kept else ():
            if kept & set(name.split(".")):
                module.float()
    return pipe


@pytest.mark.parametrize("name", [pytest.param(name, marks=ON_GPU) for name in CASES])
def test_a_family_gives_the_same_latents_on_a_gpu_and_close_ones_in_bfloat16(name):
    case = CASES[name]()
    guided = case.null is not None
    wanted = ours(case, guided)
    there, size = replace(case, x0=case.x0.cuda()), float(wanted.abs().max())
    found = ours(there, guided, from_pipeline(case.pipe, **case.size).to("cuda"))
    assert found.is_cuda and (found.cpu() - wanted).abs().max() <= 2e-3 * size
    half = ours(there, guided, from_pipeline(in_bfloat16(case.pipe), **case.size))
    assert half.dtype == torch.float32 and (half.cpu() - wanted).abs().mean() <= 0.1 * size


def test_every_family_has_a_case():
    tested = {family_of(make().pipe).name for make in CASES.values()}
    assert tested == {family.name for family in FAMILIES}


def test_the_page_names_every_family():
    page = (Path(__file__).parents[3] / "docs/guides/pretrained.md").read_text(encoding="utf-8")
    part = page.partition("The families, with")[2].partition("A condition is")[0]
    rows = "".join(line for line in part.splitlines() if line.startswith("|"))
    assert set(re.findall("`([^`]+)`", rows)) == {family.name for family in FAMILIES}


def test_rows_on_both_sides_of_the_boundary_have_their_own_expert():
    case = CASES["wan, two experts"]()
    field = from_pipeline(case.pipe, **case.size).flow.field
    t = torch.tensor([0.05, 0.6])
    v = field(case.x0, t, case.cond)
    for i, expert in enumerate((field.high, field.low)):
        row = expert(case.x0[i : i + 1], t[i : i + 1], {"text": case.cond["text"][i : i + 1]})
        assert torch.equal(v[i : i + 1], row)


@pytest.mark.parametrize("name", [name for name in FLOWS if name != "wan, two experts"])  # the same calls as wan
def test_the_comparison_finds_a_wrong_sign_and_a_wrong_time(name):
    case = CASES[name]()
    bundle = from_pipeline(case.pipe, **case.size)
    field = bundle.flow.field
    right = ours(case, False, bundle)
    kind = type(field)
    for wrong in (
        kind(field.net, replace(field.family, sign=-field.family.sign), field.settings, field.clock),
        kind(field.net, field.family, field.settings, lambda t, x: field.clock(1 - t, x)),
    ):
        changed = ours(case, False, replace(bundle, flow=replace(bundle.flow, field=wrong)))
        assert (changed - right).abs().max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_latents_are_decoded_to_the_size_and_encoded_to_latents(name):
    case = CASES[name]()
    modality = from_pipeline(case.pipe, **case.size).modality
    pictures = modality.decode(case.x0[:1])
    first = pictures[0][0] if isinstance(pictures[0], list) else pictures[0]
    assert first.size == (case.size["width"], case.size["height"])
    assert modality.encode(pictures).x1.shape == case.x0[:1].shape


@pytest.mark.parametrize("name", [name for name, make in CASES.items() if make.__module__ == tiny_editing.__name__])
def test_images_of_the_condition_are_used_and_needed(name):
    case = CASES[name]()
    inputs = family_of(case.pipe).inputs
    right = ours(case, False)
    flipped = {leaf: case.cond[leaf].flip(-1) for leaf in inputs.leaves if leaf in case.cond}
    assert (ours(replace(case, cond=case.cond | flipped), False) - right).abs().max() > 1e-3
    if inputs.required:
        without = {leaf: value for leaf, value in case.cond.items() if leaf not in inputs.required}
        with pytest.raises(BeelineError, match=f"without {inputs.required[0]}.*give {inputs.names[0]}"):
            ours(replace(case, cond=without), False)


@pytest.mark.parametrize("name", ["flux", "chroma", "qwen-image", "z-image", "lumina2"])
def test_latents_are_equal_where_float32_holds_the_noise_levels(name):
    case = CASES[name]()
    case.pipe.scheduler = df.FlowMatchEulerDiscreteScheduler(shift=1.0)
    with torch.no_grad():
        wanted = case.theirs(8, False)
    assert (ours(case, False, steps=8) - wanted).abs().max() <= 2e-6


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny_images.sana(flow_prediction(df.DPMSolverMultistepScheduler, 3.0)),
        lambda: tiny_videos.wan(flow_prediction(df.UniPCMultistepScheduler, 5.0)),
    ],
    ids=["sana", "wan"],
)
def test_the_multistep_solver_of_a_checkpoint_is_followed(make):
    case = make()
    with torch.no_grad():
        wanted = case.theirs(8, True)
    assert (ours(case, True, steps=8) - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize(
    "given, message", [(("sd4", "FlowMatchEulerDiscreteScheduler"), "no family"), (("sd3", "Nothing"), "not known")]
)
def test_an_unknown_schedule_is_refused(given, message):
    with pytest.raises(BeelineError, match=message):
        CheckpointSchedule(*given)


def test_a_falling_schedule_has_the_nodes_of_the_rising_one():
    schedule = CheckpointSchedule("sd3", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
    assert torch.allclose(schedule(40, 1.0, 0.0), schedule(40).flip(0), atol=1e-6)


@pytest.mark.parametrize("first, last", [(0, 20), (20, 40), (8, 28)])
def test_a_part_between_two_nodes_has_the_density_of_the_whole(first, last):
    schedule = CheckpointSchedule("sd3", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
    whole = schedule(40)
    part = schedule(40, float(whole[first]), float(whole[last]))  # two steps for each step of the whole
    assert torch.allclose(part[::2], whole[first : last + 1], atol=1e-5)


OTHER_ROWS = {"ernie-image"}  # tokens before samples: jumps that differ between samples are refused


SOME = {"sd3", "flux", "z-image", "lumina2", "wan", "ernie-image", "prx", "kandinsky5", "anyflow"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in SOME else [pytest.mark.slow]) for n in FLOWS])
def test_heads_of_a_family_start_as_its_last_layer(name):
    case = CASES[name]()
    family = family_of(case.pipe).name
    field = from_pipeline(case.pipe, **case.size).flow.field
    field = field.high if isinstance(field, Experts) else field
    t = torch.full((len(case.x0),), 0.5)
    with torch.no_grad():
        wanted = field(case.x0, t, case.cond)
        if is_map(field):
            with pytest.raises(BeelineError, match="is a flow map"):
                HeadBank(field)
            return
        student = HeadBank(field, 4, 2)
        found = student(case.x0, t, case.cond, torch.ones_like(t))
        assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))
        student.bank.bias += torch.arange(4.0)[:, None]
        moved = student(case.x0, t, case.cond, torch.ones_like(t))
        assert (moved - found).abs().mean() > 0.1, "the heads of the second half are used"
        mixtures = torch.eye(4)[torch.arange(len(t)) % 2 + 2][None]
        if family in OTHER_ROWS:
            with pytest.raises(BeelineError, match="rows for a batch of"):
                student(case.x0, t, case.cond, mixtures=mixtures)
            return
        each = student(case.x0, t, case.cond, mixtures=mixtures)[0]
    assert (each - found).abs().mean() > 0.1
