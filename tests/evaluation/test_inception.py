"""The Inception network against torch-fidelity's, with random weights."""

import importlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.images import Image, Images
from beeline.evaluation import inception
from beeline.evaluation.encoded import EncodedPictures
from beeline.evaluation.inception import Inception, InceptionNetwork, resized


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a fitting scale, in the form of the published file."""
    rng, state = Rng(0), {}
    for name, value in InceptionNetwork().state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # as in the published file
        noise = rng.fork(name).normal(value)
        if value.ndim == 4:
            state[name] = noise * (2 / value[0].numel()) ** 0.5
        else:
            positive = name.endswith(("running_var", "bn.weight"))
            state[name] = noise.abs() * 0.5 + 0.5 if positive else noise * 0.1
    state["fc.weight"], state["fc.bias"] = torch.zeros(1008, 2048), torch.zeros(1008)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(state, path)
    return path


def test_features_are_those_of_torch_fidelity(weights, fidelity):
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    theirs = module.FeatureExtractorInceptionV3("i", ["2048"], feature_extractor_weights_path=str(weights))
    pixels = Rng(1).integers(256, 2 * 3 * 32 * 40).reshape(2, 3, 32, 40).to(torch.uint8)
    wanted = theirs(pixels)[0]
    raw = Images(pixels.permute(0, 2, 3, 1).contiguous().numpy())
    modality = Image().fit(raw)
    ours = EncodedPictures(Inception(str(weights)), modality=modality, device="cpu")(modality.encode(raw).x1)
    assert ours.shape == (2, 2048) and ours.dtype == torch.float64 and float(wanted.std()) > 0.1
    assert torch.allclose(ours, wanted.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(32, 40), (400, 299), (1, 7)])
def test_resizing_is_that_of_tensorflow(fidelity, shape):
    module = importlib.import_module("torch_fidelity.interpolate_compat_tensorflow")
    x = Rng(2).normal(torch.empty(2, 3, *shape))
    wanted = module.interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    assert torch.allclose(resized(x, 299), wanted, atol=1e-5)


def test_weights_are_read_as_tensors_alone(weights, tmp_path):
    grey = torch.zeros(1, 1, 8, 8)
    same = tmp_path / "same.safetensors"
    save_file(torch.load(weights, weights_only=True), same)
    assert torch.equal(Inception(str(same))(grey), Inception(str(weights))(grey.expand(-1, 3, -1, -1)))
    assert Inception(str(weights)).name == "Inception of random.pth" and len(Inception(str(weights)).hash) == 64

    class Bad:
        def __reduce__(self):
            return (print, ("unpickled",))

    bad = tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps(Bad(), protocol=2))
    with pytest.raises(BeelineError, match="cannot be read as a file of tensors"):
        Inception(str(bad))(grey)
    torch.save({"conv.weight": torch.zeros(1)}, bad)
    with pytest.raises(BeelineError, match="weights match the network"):
        Inception(str(bad))(grey)
    with pytest.raises(BeelineError, match="one or three channels"):
        Inception(str(weights))(torch.zeros(1, 4, 8, 8))


def test_missing_weights_say_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(BeelineError, match=r"(?s)nothing is downloaded unasked; download https.*--weights FILE"):
        Inception()(torch.zeros(1, 3, 8, 8))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / inception.ALSO).write_bytes(b"")
    assert inception.weights_file().name == inception.ALSO
