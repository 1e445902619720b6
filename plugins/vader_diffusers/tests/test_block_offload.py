"""Frozen weights that wait on the host: the same numbers, and a block's weights on the device only while it runs."""

from pathlib import Path

import pytest
import torch

from vader import RunSpec, SpecError, WeightsError
from vader.backbones.kernels import compile_blocks
from vader.estimation import estimate
from vader.resolve.validate import check
from vader.spec import AdapterSpec
from vader.weights import lora
from vader.weights.lora.adapter import Adapter

REWARD = Path(__file__).resolve().parents[3] / "tests" / "memory_reward.py"
CONTEXT = {"encoder_hidden_states": torch.linspace(-1, 1, 4 * 32).reshape(1, 4, 32)}


def spec(weights, name="wan", **options):
    return {
        "backbone": {"name": name, "options": {"weights": str(weights), **options}, "adapter": {"rank": 2}},
        "video": {"frames": 5, "height": 32, "width": 32},
        "sampler": {"steps": 2},
        "prompts": {"name": "list", "options": {"prompts": ["a fox"]}},
        "rewards": [{"name": f"{REWARD}:Small", "label": "small"}],
        "train": {"gradient_checkpointing": True},
        "validation": {"clips": 0},
    }


def held(denoiser):
    """Numbers of the blocks' frozen weights that are there."""
    return sum(p.numel() for block in denoiser.blocks for p in block.parameters() if not p.requires_grad)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradients_are_the_same_and_one_block_is_there_at_a_time(load, checkpointing):
    found = []
    for home in ("keep", "cpu"):
        backbone = load(block_offload=home)
        denoiser = backbone.denoiser
        lora.inject(denoiser, AdapterSpec(rank=2), ("to_q", "ffn.net.2"), seed=0)
        if checkpointing:
            backbone.enable_gradient_checkpointing()
        trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        for place, parameter in enumerate(trained):
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place)))
        most = []
        for block in denoiser.blocks:
            block.attn1.register_forward_hook(lambda *_, denoiser=denoiser, most=most: most.append(held(denoiser)))
        latents = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(7), requires_grad=True)
        output = denoiser(latents, torch.tensor([500.0]), **CONTEXT, return_dict=False)[0]
        output.square().mean().backward()
        found.append([output.detach(), latents.grad, *(parameter.grad for parameter in trained)])
        if home == "cpu":
            one = sum(p.numel() for p in backbone.shelves["blocks"][0].parameters())
            assert len(most) == (4 if checkpointing else 2)
            assert set(most) == {one}
            assert held(denoiser) == 0
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_an_estimate_counts_the_blocks_on_the_host(folder):
    kept, moved = (
        estimate(RunSpec.model_validate(spec(folder, block_offload=home)), device="cuda") for home in ("keep", "cpu")
    )
    blocks = moved.host["blocks"]
    assert kept.host == {}
    assert blocks > 0
    assert kept.training.most["weights: denoiser"] - moved.training.most["weights: denoiser"] == blocks


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("wan", {"quantize": "bnb_nf4"}, "quantised blocks are not moved"),
        ("wan22", {"expert_offload": "cpu"}, "blocks that wait on the host need no expert_offload"),
    ],
)
def test_weights_are_held_in_one_way(name, options, said):
    with pytest.raises(SpecError, match=said):
        check(spec("/not/there", name, block_offload="cpu", **options))


def test_such_blocks_are_not_compiled(load):
    with pytest.raises(
        SpecError, match=r"train\.compile: blocks whose weights are fetched as they run cannot be compiled"
    ):
        compile_blocks(load(block_offload="cpu").denoiser)


def test_a_frozen_adapter_is_refused(load):
    with pytest.raises(WeightsError, match="'some' cannot be added to weights that wait on the host"):
        lora.fuse(load(block_offload="cpu").denoiser, Adapter(AdapterSpec(), {}, {}), 1.0, "some")
