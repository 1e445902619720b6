"""The option ``reward_decoder``: rewards see its frames, whoever looks at clips the autoencoder's."""

import math

import pytest
import torch

from vader import SpecError, WeightsError, check
from vader.backbones.reward_decoder import hollow
from vader.estimation import estimate
from vader.sdk import DecodePlan


@pytest.fixture(scope="module")
def file(tmp_path_factory, wan):
    """A decoder with random weights, for the latents of Wan 2.1."""
    made, path = hollow(16, wan.family.grid), tmp_path_factory.mktemp("tiny") / "taew2_1.pth"
    generator = torch.Generator().manual_seed(0)
    state = made.state_dict()
    torch.save(
        {k: torch.randn(t.shape, generator=generator) / math.sqrt(max(t[0].numel(), 4)) for k, t in state.items()}, path
    )
    return path


def test_rewards_see_its_frames_and_nobody_else(load, wan, latents, file):
    with_it, z = load(reward_decoder=str(file)), latents.clone().requires_grad_()
    assert torch.equal(with_it.decode(latents, [8]), wan.decode(latents, [8]))
    seen = with_it.decode_for_reward(z, [8, 0], DecodePlan())
    assert seen.shape == (1, 2, 3, 32, 32)
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert not torch.allclose(seen, wan.decode(latents, [8, 0]), atol=0.01)
    assert torch.equal(with_it.reward_decoder.decode(latents, [8, 0], DecodePlan()), seen)
    (gradient,) = torch.autograd.grad(seen.sum(), z)
    assert gradient.abs().max() > 0
    with pytest.raises(IndexError, match="0 to 8"):
        with_it.decode_for_reward(z, [9], DecodePlan())
    assert with_it.decode_modes(with_it.options) == {"window", "precision", "tiles"}


def test_conditioning_does_not_depend_on_it(load, wan, file):
    assert load(reward_decoder=str(file)).conditioning_key() == wan.conditioning_key()


def test_a_file_for_other_latents(load, tmp_path, wan):
    torch.save(hollow(48, wan.family.grid).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="channels of the latents: 48, expected 16"):
        load(reward_decoder=str(tmp_path / "other.pth"))


def spec(folder, name="wan", **options):
    return {
        "backbone": {"name": name, "options": {"weights": str(folder), **options}},
        "video": {"frames": 9, "height": 32, "width": 32},
        "sampler": {"steps": 2},
        "prompts": {"name": "list", "options": {"prompts": ["a fox"]}},
        "rewards": ["shapes_colourfulness"],
        "frames": {"mode": "index", "index": 8},
        "train": {"device": "cpu"},
        "validation": {"clips": 0},
    }


def test_an_estimate_counts_it(folder, file):
    most = estimate(spec(folder, reward_decoder=str(file))).training.most
    expected = sum(tensor.nbytes for tensor in torch.load(file).values())
    assert most["weights: reward decoder"] == expected
    assert estimate(spec(folder, reward_decoder="hub:a/b:c.pth")).training.most["weights: reward decoder"] == expected


def test_a_family_without_one_has_no_such_option(folder):
    with pytest.raises(SpecError, match="unknown field 'reward_decoder'"):
        check(spec(folder, "ltx", reward_decoder="a.pth"))
