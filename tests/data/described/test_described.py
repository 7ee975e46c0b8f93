"""Texts and other descriptions of images: what networks are given, what is stored, and every refusal."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image as Picture

import beeline as bl
from beeline.cli.main import run as beeline
from beeline.config import build as config
from beeline.core.rng import Rng
from beeline.data.described import store
from beeline.data.described.columns import columns_of, has_captions
from beeline.data.described.descriptions import Columns, Descriptions
from beeline.data.described.encoders import Numbers, Pictures
from beeline.data.described.hub_text import HubText
from beeline.data.image_files import ImageFile
from beeline.data.images import Image
from beeline.data.pictures.feeds import ImageFeed
from beeline.data.pictures.listing import listing
from beeline.objectives.matching import Drop, FlowMatching
from beeline.recipes.automatic import recipe_for
from beeline.sampling.guidance.guide import Unconditional
from beeline.sampling.guidance.references.conditions import OtherCondition, Without
from beeline.sampling.steering.modalities import for_modality

tiny = pytest.importorskip("tests.data.described.tiny")
TEXTS = ["a red circle", "a blue square on black", "", None]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    made = {name: getattr(tiny, name)(place / name) for name in ("clip", "t5", "bert")}
    return made | {"projected": tiny.clip(place / "projected", projection=True)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "beeline" / "texts"


def encoder(models, name, **more):
    return HubText(str(models[name][2]), length=10, **more)


@pytest.mark.parametrize("name", ["clip", "t5", "bert", "projected"])
def test_embeddings_are_those_of_the_library(models, name):
    net, words, _ = models[name]
    given = words(TEXTS[:2], return_tensors="pt", padding=True)
    with torch.no_grad():
        out = net(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
    made = encoder(models, name, pooled=name != "t5").encode(TEXTS)
    for row, count in enumerate(given["attention_mask"].sum(1).tolist()):
        assert torch.allclose(made[""][row, :count], out.last_hidden_state[row, :count], atol=2e-3)
        assert not made[""][row, count:].any(), "zeros are padding"
    assert not made[""][2:].any(), "no text is the null"
    if name != "t5":
        pooled = out.text_embeds if name == "projected" else out.pooler_output
        assert torch.allclose(made["pooled"][:2], pooled, atol=2e-3) and not made["pooled"][2:].any()


def test_layers_may_be_left_out_and_texts_are_cut(models):
    net, words, folder = models["clip"]
    given = words(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        hidden = net(**{k: given[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True).hidden_states
    made = HubText(str(folder), length=10, skip=1).encode(TEXTS[:1])[""]
    assert torch.allclose(made[0, : hidden[-2].shape[1]], hidden[-2][0], atol=2e-3)
    assert HubText(str(folder), length=3).encode(["a red circle on black"])[""].shape == (1, 3, 12)


def test_texts_are_encoded_once_and_stored_by_encoder_length_and_text(models, cache, monkeypatch):
    seen, one = [], encoder(models, "clip", pooled=True)
    whole = HubText.encode
    monkeypatch.setattr(HubText, "encode", lambda self, texts: (seen.extend(texts), whole(self, texts))[1])
    monkeypatch.setattr(store, "PART", 2)
    texts = ["a red circle", "a blue circle", "", "a red circle", "a green square"]
    stored = one.stored(texts)
    assert sorted(seen) == ["a blue circle", "a green square", "a red circle"], "equal texts are encoded once"
    assert len(list(cache.rglob("*.safetensors"))) == 2
    direct, rows = whole(one, texts), torch.tensor([4, 2, 0, 3])
    for name, leaf in stored(rows).items():
        assert leaf.dtype == torch.float16 and torch.equal(leaf.float(), direct[name][rows])
    seen.clear()
    one.stored([*texts, "a picture"])
    assert seen == ["a picture"]
    HubText(one.name, length=9, pooled=True).stored(texts)
    assert len(seen) == 4, "another length is another key"


def test_a_damaged_or_interrupted_cache_is_completed(models, cache, monkeypatch):
    monkeypatch.setattr(store, "PART", 1)
    one, whole, count = encoder(models, "t5"), HubText.encode, []

    def stops(self, texts):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(texts)
        return whole(self, texts)

    monkeypatch.setattr(HubText, "encode", stops)
    texts = ["a red circle", "a blue circle", "a picture"]
    with pytest.raises(KeyboardInterrupt):
        one.stored(texts)
    files = sorted(cache.rglob("*.safetensors"))
    assert len(files) == 2 and not list(cache.rglob("*.part"))
    files[0].write_bytes(files[0].read_bytes()[:40])
    monkeypatch.setattr(HubText, "encode", whole)
    found = one.stored(texts)(torch.arange(3))[""]
    assert torch.equal(found.float(), whole(one, texts)[""])


def test_refusals_of_encoders(models, tmp_path, monkeypatch):
    with pytest.raises(bl.BeelineError, match="is not on disk; .* give one of them, or leave texts out"):
        HubText(str(tmp_path / "none")).digest()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(bl.BeelineError, match="hub:nobody/nothing is not on disk, .* save it with save_pretrained"):
        HubText("hub:nobody/nothing").digest()
    with pytest.raises(bl.BeelineError, match="length=77, but .* has positions for 16 tokens; set length=16"):
        HubText(str(models["clip"][2])).sizes  # noqa: B018
    with pytest.raises(bl.BeelineError, match="has no pooled output; leave it out"):
        encoder(models, "t5", pooled=True).encode(["a red circle"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(bl.BeelineError, match=r"holds no model\.safetensors"):
        HubText(str(tmp_path / "empty")).digest()
    with pytest.raises(bl.BeelineError, match="the text of row 1 is int; a caption or prompt is text"):
        encoder(models, "t5").encode(["a", 3])
    monkeypatch.setitem(sys.modules, "transformers", None)
    from beeline.data.described import hub_text

    hub_text._loaded.cache_clear()
    hub_text.settings_of.cache_clear()
    with pytest.raises(bl.BeelineError, match=r"pip install 'beeline\[encoders\]'"):
        encoder(models, "t5").encode(["a"])


def test_columns_of_a_folder(tmp_path):
    place = tiny.shapes(tmp_path / "a", 6)
    assert has_captions(listing(place))
    assert columns_of(listing(place)).values["text"][:2] == ["a red circle", "a green circle"]
    (place / "000.txt").unlink()
    assert columns_of(listing(place)).values["text"][0] is None
    table = tiny.shapes(tmp_path / "b", 4, metadata=True)
    (table / "edges").mkdir()
    rows = [json.loads(line) | {"edge_file_name": "edges/x.png"} for line in (table / "metadata.jsonl").open()]
    (table / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = columns_of(listing(table)).values
    assert found["text"][3] == "a red square" and found["edge_file_name"][0] == str(table / "edges/x.png")
    assert Columns(found).rows(np.array([2, 0])).values["tone"] == [[2, 1.0], [0, 1.0]]
    csv = tiny.shapes(tmp_path / "c", 2)
    for file in csv.glob("*.txt"):
        file.unlink()
    (csv / "notes.txt").write_text("no caption")
    assert not has_captions(listing(csv))
    (csv / "metadata.csv").write_text('file_name,text\n000.png,"a circle, red"\n001.png,\n')
    assert columns_of(listing(csv)).values["text"] == ["a circle, red", None] and has_captions(listing(csv))
    (csv / "metadata.csv").write_text("file_name,text\n007.png,x\n")
    with pytest.raises(bl.BeelineError, match=r"describes 007\.png, which is not there"):
        columns_of(listing(csv))
    (csv / "metadata.csv").write_text("file_name,text\n000.png,x,y\n")
    with pytest.raises(bl.BeelineError, match="line 2 has more cells than the header"):
        columns_of(listing(csv))


def test_numbers_and_pictures_are_conditions(tmp_path):
    boxes = Numbers(2, length=3, scale=2.0)
    made = boxes.encode([[[2, 4]], "[[2, 4], [6, 8]]", None])[""]
    assert made.tolist() == [[[1, 2], [0, 0], [0, 0]], [[1, 2], [3, 4], [0, 0]], [[0, 0]] * 3]
    assert Numbers(2).encode([[1, 2], ""])[""].tolist() == [[1, 2], [0, 0]]
    for wrong in ([[1, 2, 3]], [[1, 2]] * 4, "x", [[float("nan"), 1]]):
        with pytest.raises(bl.BeelineError, match="the condition of row 0"):
            boxes.encode([wrong])
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Picture.fromarray(pixels).save(tmp_path / "x.png")
    a = Pictures(8, 4).encode([str(tmp_path / "x.png"), pixels, None])[""]
    assert torch.equal(a[0], a[1]) and not a[2].any() and a[0].ne(0).all()
    assert torch.equal(a[0, 1], (torch.from_numpy(pixels[:4, 4:].reshape(-1)).float() + 0.5) / 128 - 1)
    both = Descriptions({"boxes": boxes, "age": Numbers(1)})
    assert both.conditions == {"boxes": {"length": 3, "size": 2}, "age": {"size": 1, "null": 0}}
    given = both.given({"boxes": [[2, 4]], "age": [[1], [2]]}, 2)
    assert given["age"].tolist() == [[1], [2]] and torch.equal(given["boxes"][0], given["boxes"][1])
    with pytest.raises(bl.BeelineError, match="3 values were given as the condition 'age' of 2 samples"):
        both.given({"age": [[1], [2], [3]]}, 2)


def test_described_images_are_encoded_fed_and_sampled_alike(models, tmp_path):
    encoders = {"text": encoder(models, "clip", pooled=True), "t5": encoder(models, "t5"), "tone": Numbers(2)}
    data = ImageFile(tiny.shapes(tmp_path / "a", 12, metadata=True), held_out=0.25, conditions=encoders)
    raw, held = data.load()
    modality = data.modality().fit(raw)
    assert modality.conditions == {
        "text": {"length": 10, "size": 12},
        "text.pooled": {"size": 12, "null": 0},
        "t5": {"length": 10, "size": 8},
        "tone": {"size": 2, "null": 0},
    }
    batch = modality.encode(raw)
    feed = modality.microbatches(raw, Rng(0))
    assert isinstance(feed, ImageFeed)
    part, rows = feed.microbatch(3, 4), feed.rows(3, 4)
    assert torch.equal(part.x1, batch.x1[rows]) and all(
        torch.equal(part.cond[k], v[rows]) for k, v in batch.cond.items()
    )
    assert (
        feed.load(0, 2).cond["text"].dtype == torch.float16 and feed.identity["encoders"] == modality.described.weights
    )
    caption, tone = raw.columns.values["text"][2], raw.columns.values["tone"][2]
    asked = modality.condition({"text": caption, "tone": tone}, 2)
    assert all(torch.equal(asked[k][1], batch.cond[k][2]) for k in batch.cond), "a prompt is what was trained on"
    assert all(torch.equal(v, asked[k]) for k, v in modality.condition(caption, 2).items() if k != "tone")
    assert torch.equal(modality.condition({"t5": "a picture"}, 1)["text"], torch.zeros(1, 10, 12))
    assert modality.condition({"text": ["a", "red"]}, 2)["t5"].shape == (2, 10, 8)
    assert len(modality.subset(raw, 600)) == 1 and len(held) == 3
    again = config.build(json.loads(json.dumps(config.describe(modality))))
    assert again == modality
    for value, message in (
        ({"label": 3}, "these data have no labels"),
        ({"txt": "a"}, "no condition 'txt'; did you mean 'text'"),
        ({"text": ["a"] * 3}, "3 values were given"),
    ):
        with pytest.raises(bl.BeelineError, match=message):
            modality.condition(value, 2)
    tiny.clip(models["clip"][2], seed=5)
    try:
        with pytest.raises(bl.BeelineError, match="has other weights or another tokenizer"):
            again.condition({"text": "a"}, 1)
    finally:
        tiny.clip(models["clip"][2])


def test_pictures_of_a_folder_are_a_condition(tmp_path):
    place = tiny.shapes(tmp_path / "a", 6, metadata=True)
    (place / ".edges").mkdir()
    rows = [json.loads(line) for line in (place / "metadata.jsonl").open()]
    for i, row in enumerate(rows):
        Picture.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(place / ".edges" / f"{i}.png")
        row["edge_file_name"] = f".edges/{i}.png"
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    edges = Pictures(8, 4, column="edge_file_name")
    raw = ImageFile(place, held_out=0.3, conditions={"edges": edges, "sizes": Numbers(2, length=2)}).load()[0]
    modality = ImageFile(place, conditions={"edges": edges, "sizes": Numbers(2, length=2)}).modality().fit(raw)
    batch = modality.encode(raw)
    assert batch.cond["edges"].shape == (4, 4, 16) and batch.cond["sizes"].shape == (4, 2, 2)
    asked = modality.condition({"edges": raw.columns.values["edge_file_name"][1]}, 1)
    assert torch.equal(asked["edges"][0], batch.cond["edges"][1]) and not asked["sizes"].any()
    with pytest.raises(bl.BeelineError, match="there is no picture nowhere"):
        modality.condition({"edges": "nowhere.png"}, 1)


def test_conditions_without_their_column_are_refused(models, tmp_path):
    place = tiny.shapes(tmp_path / "a", 4)
    data = ImageFile(place, conditions={"boxes": Numbers(2)})
    raw = data.load()[0]
    with pytest.raises(bl.BeelineError, match="made from the column 'boxes', which the data do not have; .*text"):
        data.modality().fit(raw).encode(raw)
    with pytest.raises(bl.BeelineError, match="a full stop separates"):
        ImageFile(place, conditions={"a.b": Numbers(2)})
    with pytest.raises(bl.BeelineError, match="which a ConditionEncoder needs"):
        ImageFile(place, conditions={"a": bl.Drop()})


def test_parts_of_a_condition_are_dropped_and_replaced_together(models):
    cond = {"clip": torch.ones(64, 2, 3), "clip.pooled": torch.ones(64, 3), "t5": torch.ones(64, 2, 3)}
    null = dict.fromkeys(cond, 0.0)
    made = Drop(0.5, null, apart=True)(cond, 64, Rng(0), torch.empty(0))
    gone = {name: ~leaf.flatten(1).any(1) for name, leaf in made.items()}
    assert torch.equal(gone["clip"], gone["clip.pooled"]) and not torch.equal(gone["clip"], gone["t5"])
    assert 10 < int(gone["clip"].sum()) < 54 and 10 < int(gone["t5"].sum()) < 54
    weak = Without("clip", Unconditional(null))(None, cond)[1]
    assert not weak["clip"].any() and not weak["clip.pooled"].any() and weak["t5"].all()
    described = Descriptions({"text": encoder(models, "clip", pooled=True)}).fit()
    modality = Image((3, 8, 8), described=described)
    prompt, negative = (modality.condition({"text": text}, 3) for text in ("a red circle", "a blue square"))
    reference = for_modality(OtherCondition({"text": "a blue square"}), modality)
    weak = reference(None, prompt)[1]
    assert all(torch.equal(weak[name], negative[name]) for name in prompt)


def test_a_network_is_trained_on_captions_and_sampled_by_a_prompt(models, tmp_path, capsys):
    place, run = tiny.shapes(tmp_path / "shapes", 24), str(tmp_path / "run")
    assert recipe_for(str(place)).network["is"] == "networks.MMDiT"
    folder = str(models["clip"][2])
    small = ["network=MMDiT", "network.width=16", "network.depth=1", "network.heads=2", "training.steps=3"]
    small += ["training.batch_size=8", f"data.conditions.text.name={folder}", "data.conditions.text.length=8"]
    sets = [word for pair in (*small, "data.conditions.text.pooled=true") for word in ("--set", pair)]
    assert beeline(["train", str(place), *sets, "--out", run, "--no-report", "--device", "cpu"]) == 0
    bundle = bl.load(run, device="cpu")
    assert bundle.null == {"text": 0.0, "text.pooled": 0.0}
    red = bundle.sample(2, text="a red circle", seed=1).pixels
    assert np.array_equal(red, bundle.sample(2, cond="a red circle", seed=1).pixels)
    guided = ["--set", "sampler.guidance=Guide(OtherCondition({'text': 'a blue square'}), Extrapolate(2.0))"]
    for name, more in (("a", ["-c", "text=a red circle"]), ("b", []), ("c", ["-c", "a red circle", *guided])):
        out = str(tmp_path / f"{name}.npz")
        assert beeline(["sample", run, "-n", "2", "--out", out, "--seed", "1", *more]) == 0
        assert np.load(out)["images"].shape == (2, 8, 8, 3)
    assert np.array_equal(np.load(tmp_path / "a.npz")["images"], red)
    capsys.readouterr()
    (place / "000.png").write_bytes(b"damaged")  # which would be refused if the pictures were read before
    assert beeline(["train", str(place), "--out", str(tmp_path / "other"), "--device", "cpu"]) == 2
    assert "text encoder hub:openai/clip-vit-large-patch14 is not on disk" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_samples_follow_their_prompt(models, tmp_path):
    """Colours named in a prompt are those of the samples, with guidance and without."""
    data = ImageFile(tiny.shapes(tmp_path / "shapes", 24), conditions=HubText(str(models["clip"][2]), length=8))
    network = {"is": "networks.MMDiT", "width": 32, "depth": 1, "heads": 2}
    objective = FlowMatching(drop=Drop(0.1))
    lr = bl.training.optim.learning_rate.Constant(2e-3)
    run = bl.Run(data, network, objective, bl.Training(steps=500, batch_size=16, lr=lr))
    flow = bl.train(run, out=tmp_path / "run", device="cpu", log=None)
    for guidance in (bl.CFG(1.0), bl.CFG(2.0)):
        for k, colour in enumerate(tiny.COLOURS):
            made = flow.sample(32, text=f"a {colour} circle", sampler=bl.Sampler(12, guidance=guidance)).pixels
            assert (made.astype(float).mean((1, 2)).argmax(1) == k).mean() > 0.9
