"""The autoencoder against explicit forms: its divergence, its noise, its loss, and what it refuses."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import beeline as bl
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Data, Network
from beeline.networks.encoding.autoencoder import Autoencoder
from beeline.networks.transformer.layout import collected_notes
from beeline.objectives.alignment import Noted
from beeline.objectives.losses.basic import one, squared
from beeline.objectives.losses.distances import Combined, Perceptual
from beeline.objectives.losses.encoders import RandomFeatures
from beeline.objectives.regression import Reconstruction
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER

X = Rng(0).normal(torch.empty(5, 3, 8, 12))
T = torch.zeros(5)


def made(seed=1, **more):
    with Rng(seed).ambient():
        net = Autoencoder((3, 8, 12), latent=2, width=8, multipliers=(1, 2, 2), **more)
        for p in net.parameters():
            p.data.add_(0.05 * torch.randn_like(p))
    return net.eval()


@pytest.mark.parametrize("blocks", [1, 2])
def test_latents_have_the_declared_size_and_decode_to_images(blocks):
    net = made(blocks=blocks, variational=False)
    z = net.encode(X)
    assert z.shape == (5, 2, 2, 3) and torch.equal(net(X, T), net.decode(z)) and net.decode(z).shape == X.shape
    assert net.encode(torch.zeros(1, 3, 16, 4)).shape == (1, 2, 4, 1), "other sides are taken"
    again = Autoencoder(**net.describe())
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.encode(X), z)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_divergence_and_the_noise_are_those_of_the_gaussian(seed):
    net, noise = made(seed), Rng(seed).normal(X)
    mean, log_std = net.gaussian(X)
    with collected_notes() as notes:
        plain, noised = net(X, T), net(X, T, {"noise": noise, "label": torch.zeros(5)})
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).mean()
    assert len(notes) == 2 and all(torch.allclose(note["code.kl"], expected, atol=1e-5) for note in notes)
    assert torch.equal(plain, net.decode(mean))
    assert torch.allclose(
        noised, net.decode(mean + log_std.exp() * noise.flatten(1)[:, :12].view(5, 2, 2, 3)), atol=1e-6
    )


def test_the_loss_is_that_of_the_reconstruction_with_its_terms():
    net = made()
    field, batch = Network(net, prediction=Data()), Batch(X)
    error = (net(X, T) - X).square().flatten(1).mean(1)
    plain = Reconstruction(noise=False)
    loss = plain(field, batch, Rng(3))
    assert torch.allclose(loss.per_sample, error, atol=1e-5) and torch.allclose(loss.value, error.mean(), atol=1e-5)
    assert Reconstruction().heldout(bl.times.Uniform()) == plain
    features = Perceptual(RandomFeatures(4), plain=0.0)
    both = Reconstruction(Combined((squared, features), (one, one)), noise=False)(field, batch, Rng(3)).value
    assert torch.allclose(both, error.mean() + features(net(X, T), X).mean(), atol=1e-5)
    with collected_notes() as notes:
        net(X, T)
    weighed = Noted(plain, {"kl": 0.5})(field, batch, Rng(3)).value
    assert torch.allclose(weighed, loss.value + 0.5 * notes[0]["code.kl"], atol=1e-5)
    a, b = (Reconstruction()(field, batch, Rng(k)).value for k in (3, 4))
    assert a != b and a == Reconstruction()(field, batch, Rng(3)).value, "noise follows the key"
    sampled = Sampler(1, solver=EULER)(bl.Flow(field), X)
    assert torch.allclose(sampled, net(X, T), atol=1e-5), "a sample of one step is a reconstruction"


def test_refusals():
    with pytest.raises(bl.BeelineError, match="8x10, whose sides are no multiples of 4; resize them"):
        Autoencoder((3, 8, 10))
    with pytest.raises(bl.BeelineError, match="a latent is smaller: give fewer channels"):
        Autoencoder((1, 8, 8), latent=8, width=8, multipliers=(1, 2))(X[:, :1, :, :8], T, {"noise": X[:, :1, :, :8]})
    with pytest.raises(bl.BeelineError, match="set one for each level"):
        Autoencoder((1, 8, 8), multipliers=())
    with pytest.raises(bl.BeelineError, match="latent=0; a size is a whole number"):
        Autoencoder((1, 8, 8), latent=0)
