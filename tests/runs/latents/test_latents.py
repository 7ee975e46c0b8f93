"""Stored latents: exact round trips, resumed encoding, training and samples as images, and every refusal."""

import json
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file

import beeline as bl
from beeline.cli.main import run as beeline
from beeline.core.files import sha256
from beeline.data.described.encoders import Numbers
from beeline.data.image_files import ImageFile
from beeline.data.images import Image, Images
from beeline.data.latents import modality as modalities
from beeline.data.latents.autoencoders import DiffusersVAE, PatchChannels
from beeline.data.latents.modality import LatentFeed, LatentImage, LatentImages
from beeline.data.latents.shards import MANIFEST, Shards, read_shards
from beeline.data.pictures.augmentations import Flip
from beeline.data.point_files import DistributionData
from beeline.objectives.matching import FlowMatching
from beeline.recipes.automatic import recipe_for
from beeline.runs.latents import encoding
from beeline.runs.latents.bundled import OfAutoencoder
from beeline.runs.latents.encoding import Latents, encode_data
from beeline.runs.run import Run, prepare
from beeline.training.feed.microbatches import InMemory
from beeline.training.memory import Tracker
from beeline.training.plan import plan

RNG = np.random.default_rng(3)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 7)
    for i in range(30):
        path = tmp_path / "photos" / ("cat" if i % 3 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def encoded(photos, name="latents", factor=2):
    return encode_data(ImageFile(photos), PatchChannels(factor), photos.parent / name, device="cpu")


def test_latents_are_those_of_the_images_and_decode_to_them(photos):
    data = encoded(photos)
    raw, held = ImageFile(photos).load()
    latents, unseen = data.load()
    modality = data.modality().fit(latents)
    assert modality.shape == (12, 4, 4) and modality.conditions == {"label": {"classes": 2}}
    image = Image().fit(raw)
    for stored, images in ((latents, raw), (unseen, held)):
        batch = modality.encode(stored)
        assert torch.equal(
            stored.take(torch.arange(len(images))), PatchChannels(2).encode(image.encode(images).x1).half()
        )
        assert np.array_equal(modality.decode(batch.x1).pixels, images.pixels), "the round trip is exact"
        assert torch.equal(batch.cond["label"], image.encode(images).cond["label"])
        assert torch.allclose(batch.x1, modality.encode(images).x1, atol=1e-5), "images are encoded as their latents"
    x = modality.encode(latents).x1
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(12), atol=1e-5)
    assert torch.allclose(x.std((0, 2, 3)), torch.ones(12), atol=1e-4)
    assert "27 training and 3 held-out latents of autoencoders.PatchChannels" in data.summary()


def test_shards_hold_what_the_manifest_says(photos):
    data = encoded(photos)
    manifest = json.loads((photos.parent / "latents" / MANIFEST).read_text())
    assert [s["rows"] for s in manifest["parts"]["train"]] == [7, 7, 7, 6] and manifest["complete"]
    for shard in (*manifest["parts"]["train"], *manifest["parts"]["held"]):
        file = photos.parent / "latents" / shard["file"]
        assert sha256(file) == shard["sha256"] and len(load_file(file)["latents"]) == shard["rows"]
    rows = torch.tensor([26, 0, 6, 7, 13, 20, 0])
    whole = torch.cat(data.load()[0].parts)
    assert torch.equal(data.load()[0].take(rows), whole[rows])
    assert torch.equal(data.load()[0].rows(slice(5, 9)).parts[0], whole[5:9])


def test_an_interrupted_encoding_continues_with_equal_files(photos, monkeypatch):
    encoded(photos, "whole")
    append, count = Shards.append, []

    def stops(self, *args):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(1)
        append(self, *args)

    monkeypatch.setattr(Shards, "append", stops)
    with pytest.raises(KeyboardInterrupt):
        encoded(photos)
    with pytest.raises(bl.BeelineError, match="holds 14 training latents and is not complete; run the same"):
        Latents(photos.parent / "latents").load()
    seen = []
    monkeypatch.setattr(Shards, "append", lambda self, part, *rest: (seen.append(part), append(self, part, *rest)))
    encoded(photos)
    assert seen == ["train", "train", "held"], "two shards were kept"
    a, b = (json.loads((photos.parent / name / MANIFEST).read_text()) for name in ("whole", "latents"))
    assert a == b
    encoded(photos)
    assert len(seen) == 3, "nothing is left to do"


def test_refusals(photos, tmp_path, monkeypatch):
    encoded(photos)
    with pytest.raises(bl.BeelineError, match="latents with another autoencoder and shape, and nothing is overwritten"):
        encoded(photos, factor=4)
    Picture.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photos / "cat" / "01.png")
    with pytest.raises(bl.BeelineError, match="latents with another images"):
        encoded(photos)
    with pytest.raises(bl.BeelineError, match="holds other files"):
        encode_data(ImageFile(photos), PatchChannels(2), photos)
    with pytest.raises(bl.BeelineError, match="no multiples of factor=3"):
        encoded(photos, "x", factor=3)
    with pytest.raises(bl.BeelineError, match="latents are encoded once; leave the augmentation out"):
        encode_data(ImageFile(photos, augment=Flip()), PatchChannels(2), tmp_path / "y")
    with pytest.raises(bl.BeelineError, match="holds no images of one size"):
        encode_data(DistributionData(bl.distributions.GaussianMixture.ring(), n=9), PatchChannels(2), tmp_path / "y")
    with pytest.raises(bl.BeelineError, match="holds no latents .* beeline encode IMAGES"):
        Latents(tmp_path / "nothing").load()
    monkeypatch.setattr(encoding.shutil, "disk_usage", lambda path: namedtuple("usage", "free")(100))
    with pytest.raises(bl.BeelineError, match="MiB are free; free some space"):
        encoded(photos, "z")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("settings"), "lacks 'settings'"),
        (lambda m: m.update(format=9), "has format 9"),
        (lambda m: m["parts"]["train"][0].update(file="../x.safetensors"), "shards lie beside it"),
        (lambda m: m["parts"]["train"][0].update(rows=3), "does not hold the 3 latents"),
        (lambda m: m.update(parts={"train": 3}), "lacks"),
    ],
)
def test_damaged_manifests(photos, change, message):
    data = encoded(photos)
    file = photos.parent / "latents" / MANIFEST
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(bl.BeelineError, match=message):
        data.load()
    assert message or read_shards(file.parent)


def test_many_latents_are_read_by_microbatch(photos, monkeypatch):
    data = encoded(photos)
    raw = data.load()[0]
    modality = data.modality().fit(raw)
    assert modality.microbatches(raw, bl.Rng(0)) is None
    monkeypatch.setattr(modalities, "ENCODED", 10 * 12 * 4 * 4)
    feed = modality.microbatches(raw, bl.Rng(0))
    whole = InMemory(modality.encode(raw), bl.Rng(0))
    assert isinstance(feed, LatentFeed) and len(modality.subset(raw, 10 * 12 * 4 * 4)) == 10
    for number in (0, 5):
        a, b = feed.microbatch(number, 8), whole.microbatch(number, 8)
        assert torch.equal(a.x1, b.x1) and torch.equal(a.cond["label"], b.cond["label"])
        assert feed.load(number, 8).x1.dtype == torch.float16
    assert feed.identity["latents"] == raw.digest


def test_the_command_line_from_images_to_images(photos, tmp_path, capsys):
    out, run = str(tmp_path / "latents"), str(tmp_path / "run")
    assert beeline(["encode", str(photos), "--encoder", "PatchChannels(2)", "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"] == 27
    assert isinstance(recipe_for(out).data, Latents)
    small = ["network=UNet", "network.width=8", "network.multipliers=[1]", "training.steps=3", "training.batch_size=8"]
    sets = [word for pair in small for word in ("--set", pair)]
    assert beeline(["train", out, *sets, "--out", run, "--no-report", "--device", "cpu"]) == 0
    assert beeline(["sample", run, "-n", "3", "--condition", "label=dog", "--out", str(tmp_path / "s.npz")]) == 0
    made = np.load(tmp_path / "s.npz")
    assert made["images"].shape == (3, 8, 8, 3) and made["images"].dtype == np.uint8
    assert beeline(["encode", str(photos), "--encoder", "nothing", "--out", str(tmp_path / "no")]) == 2
    assert "neither a folder" in capsys.readouterr().err


@pytest.fixture
def vae(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    with bl.Rng(0).ambient():
        net = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            layers_per_block=1,
        )
    net.save_pretrained(tmp_path / "vae")
    return net.eval(), tmp_path / "vae"


def test_latents_of_diffusers_are_those_of_the_library(photos, vae, tmp_path):
    net, folder = vae
    autoencoder = DiffusersVAE(folder)
    data = encode_data(ImageFile(photos), autoencoder, tmp_path / "latents", device="cpu")
    raw, latents = ImageFile(photos).load()[0], data.load()[0]
    x = Image().fit(raw).encode(raw).x1
    with torch.no_grad():
        z = net.encode(x).latent_dist.mode()
        back = net.decode(z).sample
    stored = latents.take(torch.arange(len(raw)))
    assert torch.allclose(stored.float(), z, atol=2e-3) and z.shape == (27, 4, 4, 4)
    modality = data.modality().fit(latents)
    batch = modality.encode(raw)
    expected = Image().fit(raw).decode(back).pixels.astype(int)
    assert np.abs(modality.decode(batch.x1).pixels.astype(int) - expected).max() <= 1
    gray = Images(raw.pixels[..., :1])
    of_gray = LatentImage(autoencoder, Image()).fit(gray)
    assert of_gray.decode(of_gray.encode(gray).x1).pixels.shape == gray.pixels.shape
    assert modality.weights == autoencoder.digest() != ""


def test_other_weights_are_refused(vae, tmp_path):
    autoencoder = DiffusersVAE(vae[1])
    images = Images(RNG.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8))
    modality = LatentImage(autoencoder, Image()).fit(images)
    other = LatentImage(autoencoder, modality.image, modality.shape, modality.mean, modality.std, "0" * 32)
    with pytest.raises(bl.BeelineError, match="has other weights .* restore its files"):
        other.decode(torch.zeros(1, *modality.shape))
    with pytest.raises(bl.BeelineError, match="sides that are multiples of 2"):
        autoencoder.encode(torch.zeros(1, 3, 7, 8))
    with pytest.raises(bl.BeelineError, match="there is no folder"):
        DiffusersVAE(tmp_path / "none").digest()
    (tmp_path / "empty").mkdir()
    with pytest.raises(bl.BeelineError, match="gave no AutoencoderKL or AutoencoderDC in safetensors"):
        DiffusersVAE(tmp_path / "empty").digest()


def test_parts_are_one_sequence():
    parts = tuple(torch.arange(12.0).reshape(12, 1, 1, 1).split([5, 0, 7]))
    raw = LatentImages(parts, np.arange(12))
    assert raw.take(torch.tensor([11, 0, 4, 5, 6])).flatten().tolist() == [11, 0, 4, 5, 6]
    assert len(raw) == 12 and raw.rows(np.array([1, 7])).labels.tolist() == [1, 7]


@pytest.fixture
def dc(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    with bl.Rng(0).ambient():
        net = diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_out_channels=(8, 16),
            decoder_block_out_channels=(8, 16),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
        )
    net.save_pretrained(tmp_path / "dc")
    return net.eval(), tmp_path / "dc"


def test_deep_compression_autoencoders_are_those_of_the_library(dc):
    net, folder = dc
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    autoencoder = DiffusersVAE(folder)
    with torch.no_grad():
        z = net.encode(x).latent
        back = net.decode(z).sample
    assert z.shape == (3, 4, 4, 4)
    assert torch.allclose(autoencoder.encode(x), z, atol=1e-5) and torch.allclose(
        autoencoder.decode(z), back, atol=1e-5
    )
    with pytest.raises(bl.BeelineError, match="sides that are multiples of 2"):
        autoencoder.encode(torch.zeros(1, 3, 7, 8))


def test_captions_survive_encoding(tmp_path, capsys, monkeypatch):
    tiny = pytest.importorskip("tests.data.described.tiny")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding, "SHARD", 5)
    photos, out, run = tiny.shapes(tmp_path / "shapes", 12), str(tmp_path / "latents"), str(tmp_path / "run")
    (photos / "003.txt").write_text('two\nlines of "text"')
    assert beeline(["encode", str(photos), "--encoder", "PatchChannels(2)", "--out", out, "--json"]) == 0
    data, images = Latents(out), ImageFile(photos, conditions=Numbers(1))
    for stored, raw in zip(data.load(), images.load(), strict=True):
        assert stored.columns.values == raw.columns.values, "encoded without a text encoder"
    with pytest.raises(bl.BeelineError, match="latents with another images"):
        (photos / "003.txt").write_text("another")
        encode_data(recipe_for(str(photos)).data, PatchChannels(2), out)
    clip = tiny.clip(tmp_path / "clip")[2]
    sets = [f"data.conditions=HubText('{clip}', 8, pooled=true)", "network.width=16", "network.depth=1"]
    sets += ["network.heads=2", "training.steps=2", "training.batch_size=4"]
    words = [word for pair in sets for word in ("--set", pair)]
    assert beeline(["train", out, *words, "--out", run, "--no-report", "--device", "cpu"]) == 0
    bundle = bl.load(run, device="cpu")
    assert bundle.modality.conditions == {"text": {"length": 8, "size": 12}, "text.pooled": {"size": 12, "null": 0}}
    assert bundle.sample(2, text="a red circle").pixels.shape == (2, 8, 8, 3)
    feed = bundle.modality.microbatches(data.load()[0], bl.Rng(0))
    batch = bundle.modality.encode(data.load()[0])
    assert isinstance(feed, LatentFeed)
    part, rows = feed.microbatch(1, 4), feed.rows(1, 4)
    assert torch.equal(part.cond["text"], batch.cond["text"][rows]) and torch.equal(part.x1, batch.x1[rows])


def test_an_autoencoder_is_trained_and_encodes(photos, tmp_path):
    out, run = str(tmp_path / "latents"), str(tmp_path / "autoencoder")
    sets = [f"data.path={photos}", "network.width=8", "network.multipliers=[1,2]", "network.latent=3"]
    sets += ["training.steps=60", "training.batch_size=16", "training.lr=Constant(0.003)"]
    words = [word for pair in sets for word in ("--set", pair)]
    assert beeline(["train", "autoencoder", *words, "--out", run, "--no-report", "--device", "cpu"]) == 0
    assert beeline(["encode", str(photos), "--encoder", run, "--out", out]) == 0
    latents = Latents(out).load()[0]
    modality = Latents(out).modality().fit(latents)
    assert modality.shape == (3, 4, 4) and modality.weights == OfAutoencoder(run).digest() != ""
    log = [json.loads(line) for line in (tmp_path / "autoencoder" / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0] and any(entry.get("terms", {}).get("kl", 0) > 0 for entry in log)
    raw = ImageFile(photos).load()[0]
    x = Image().fit(raw).encode(raw).x1
    net = bl.load(run, device="cpu").flow.field
    with torch.no_grad():
        again = net.backbone(x, torch.zeros(len(x)))
    own = modality.pixels(modality.encode(raw).x1)
    assert torch.allclose(own, again, atol=1e-4), "latents decode to the reconstruction"
    with pytest.raises(bl.BeelineError, match="sides are no multiples of 2"):
        OfAutoencoder(run).encode(torch.zeros(1, 3, 7, 8))
    with pytest.raises(bl.BeelineError, match="holds no bundle"):
        OfAutoencoder(tmp_path).digest()


def test_the_plan_of_a_run_on_latents_predicts_its_memory(photos):
    latents = encoded(photos)
    run = Run(latents, {"is": "networks.DiT", "patch": 1, "width": 64, "depth": 3}, FlowMatching(drop=bl.Drop(0.1)))
    work, training = prepare(run), replace(run.training, batch_size=96)
    made = plan(work.networks, work.objective, work.data, training, rng=bl.Rng(0), trial=0)
    batch = InMemory(work.data, bl.Rng(0)).microbatch(0, 96)
    with Tracker() as tracker:
        work.objective(work.networks, batch, bl.Rng(0)).value.backward()
    assert abs(made.activations / tracker.peak - 1) < 0.1


@pytest.mark.slow
def test_latents_of_large_images_end_to_end(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    with bl.Rng(0).ambient():
        net = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            norm_num_groups=2,
            layers_per_block=1,
        )
    net.save_pretrained(tmp_path / "eighth")
    for i in range(8):
        path = tmp_path / "large" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(RNG.integers(0, 256, (300, 280, 3)).astype(np.uint8)).save(path)
    out, run = str(tmp_path / "latents"), str(tmp_path / "run")
    resized = ["--set", "data.resize=256", "--out", out]
    assert beeline(["encode", str(tmp_path / "large"), "--encoder", str(tmp_path / "eighth"), *resized]) == 0
    assert Latents(out).modality().fit(Latents(out).load()[0]).shape == (4, 32, 32)
    sets = ["network=DiT", "network.patch=4", "network.width=32", "network.depth=1", "training.steps=3"]
    words = [word for pair in (*sets, "training.batch_size=4") for word in ("--set", pair)]
    assert beeline(["train", out, *words, "--out", run, "--no-report", "--device", "cpu"]) == 0
    assert bl.load(run, device="cpu").sample(2, label="dog").pixels.shape == (2, 256, 256, 3)
