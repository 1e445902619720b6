"""A latent reward of a family's own layers: what its trunk computes, how it is kept, and what it needs."""

from dataclasses import asdict

import pytest
import torch
from plugins.vader_diffusers.tests.parity import loaded

from vader import Prompt, Runtime, Video, WeightsError
from vader.estimation import estimate
from vader.rewards import files
from vader.rewards.latent import Latent, build
from vader.rewards.network import tokens
from vader.testing import RewardContract, Subject
from vader_diffusers import tiny
from vader_diffusers.cogvideox import CogVideoX
from vader_diffusers.wan import Wan
from vader_diffusers.wan22 import Wan22

VIDEO, CPU = Video(9, 32, 32, 8.0), torch.device("cpu")
PROMPTS = [Prompt("a fox"), Prompt("rain on a window")]


@pytest.fixture(scope="module")
def cogvideox(tmp_path_factory):
    folder = tiny.write(tmp_path_factory.mktemp("cogvideox") / "tiny", 0, "cogvideox", max_text_seq_length=32)
    return loaded(CogVideoX, folder, max_sequence_length=32)


def written(backbone, folder, layers=1):
    """A reward with a random head that is not near zero, and its network."""
    trunk, last = backbone.trunk(layers)
    width = trunk_tokens(backbone, trunk, last).shape[-1]
    config = files.LatentConfig(layers, 2, width, 8, files.denoiser_of(trunk), {"loss": "regression"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = build(config, backbone, "it")
        with torch.no_grad():
            for parameter in network.head.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    files.write(folder, config, network.state_dict())
    return network.eval()


def given(backbone):
    latents = torch.randn(2, *backbone.latent_shape(VIDEO), generator=torch.Generator().manual_seed(0))
    return latents, torch.tensor([300.0, 700.0]), backbone.encode(PROMPTS)


def trunk_tokens(backbone, trunk, last):
    latents, timestep, conditioning = given(backbone)
    with torch.no_grad():
        return tokens(trunk, last, backbone.predict, latents, timestep, conditioning.positive)


def latent(backbone, folder, dtype=torch.float32, **options):
    return Latent(Latent.Options(weights=str(folder), **options), Runtime(CPU, dtype), backbone)


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_the_trunk_is_the_denoisers_first_layer(name, request):
    """Its tokens are those after that layer in the whole denoiser; more layers than there are is an error."""
    backbone = request.getfixturevalue(name)
    blocks = getattr(backbone.denoiser, backbone.family.layers.name)
    whole = trunk_tokens(backbone, backbone.denoiser, blocks[0])
    trunk, last = backbone.trunk(1)
    torch.testing.assert_close(trunk_tokens(backbone, trunk, last), whole, rtol=0, atol=0)
    assert len(getattr(trunk, backbone.family.layers.name)) == 1
    with pytest.raises(WeightsError, match=f"9 layers are wanted of .*; its denoiser has {len(blocks)}"):
        backbone.trunk(9)


def test_a_reward_comes_back_as_it_was_written(wan, cogvideox, tmp_path):
    network, (latents, timestep, conditioning) = written(wan, tmp_path), given(wan)
    with torch.no_grad():
        wanted = network(wan.predict, latents, timestep, conditioning.positive)
    found = latent(wan, tmp_path).score(latents, timestep, conditioning)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    with pytest.raises(WeightsError, match=r"of another denoiser than this backbone's \("):
        latent(cogvideox, tmp_path)


def test_layers_recomputed_in_backward_have_the_same_gradient(wan, tmp_path):
    written(wan, tmp_path)
    latents, timestep, conditioning = given(wan)
    found = []
    for checkpointing in (False, True):
        leaf = latents.clone().requires_grad_(True)
        latent(wan, tmp_path, checkpointing=checkpointing).score(leaf, timestep, conditioning).sum().backward()
        found.append(leaf.grad)
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_clips_are_encoded_as_the_decoder_takes_them_back(name, request):
    """The mode of diffusers' own autoencoder, scaled as the denoiser sees it."""
    backbone = request.getfixturevalue(name)
    frames = torch.rand(1, 9, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = backbone.encode_clips(frames)
    assert found.shape == (1, *backbone.latent_shape(VIDEO))
    with torch.no_grad():
        mode = backbone.vae.encode(2 * frames.transpose(1, 2) - 1).latent_dist.mode()
    torch.testing.assert_close(backbone.family.decoder.unscale(backbone.vae, found), mode, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def subject(wan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    written(wan, folder)
    owner = Subject("backbone", Wan, {"weights": wan.options.weights}, video=asdict(VIDEO))
    return Subject("reward", "latent", {"weights": str(folder)}, backbone=owner, prompts=PROMPTS)


class TestContract(RewardContract):
    @pytest.fixture
    def reward(self, subject):
        return subject


def test_an_estimate_counts_its_layers_and_no_decoder_runs(wan, tmp_path):
    written(wan, tmp_path)
    spec = {
        "backbone": {"name": "wan", "options": {"weights": wan.options.weights}},
        "video": {"frames": 9, "height": 32, "width": 32},
        "sampler": {"steps": 2},
        "prompts": {"name": "list", "options": {"prompts": ["a fox"]}},
        "rewards": [{"name": "latent", "options": {"weights": str(tmp_path)}}],
        "method": "prfl",
        "train": {"device": "cpu"},
        "validation": {"clips": 0},
    }
    found = estimate(spec)
    assert not found.not_counted
    network = latent(wan, tmp_path)._network
    size = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    counted = next(value for row, value in found.training.most.items() if row.startswith("weights: reward latent"))
    assert counted == pytest.approx(size, rel=0.05)
    assert found.training.peak.phase != "decoding"


def test_of_two_experts_the_one_for_low_noise_gives_its_layers(tmp_path):
    folder = tiny.write(tmp_path / "tiny", 0, "wan22")
    backbone = loaded(Wan22, folder)
    trunk, last = backbone.trunk(1)
    low = backbone.denoiser.experts["low"]
    whole = trunk_tokens(backbone, low, low.blocks[0])
    torch.testing.assert_close(trunk_tokens(backbone, trunk, last), whole, rtol=0, atol=0)
    with pytest.raises(WeightsError, match="with two experts expert_offload too"):
        loaded(Wan22, folder, expert_offload="cpu").trunk(1)
