"""How scored frames are decoded: by the plan of the spec, which the backbone must know; what is looked at, as ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.fakes import FakeBackbone
from tests.method_context import backbone, batch, context
from torch import Tensor, nn

from vader import SpecError, check
from vader.backbones.decoding import CausalPrefix, PerFrame, WholeClip, decode_whole
from vader.backbones.family import Grid
from vader.protocols import DecodePlan
from vader.resolve.build import decode_plan
from vader.spec.rollout import FramesSpec


class Planned(FakeBackbone):
    """Notes the plans it decodes by."""

    plans: list[DecodePlan]

    def decode_modes(self, options: Any) -> set[str]:
        return {"window"}

    def decode_for_reward(self, latents: Tensor, frames: Sequence[int], plan: DecodePlan) -> Tensor:
        self.plans.append(plan)
        return self.decode(latents, frames)


def test_scored_frames_follow_the_plan_and_others_do_not() -> None:
    made = backbone()
    made.__class__, made.plans = Planned, []
    plan = DecodePlan(window=2)
    used = context(made, decode_plan=plan)
    latents = torch.zeros(4, *made.latent_shape(used.video), dtype=torch.float64)
    used.decode(latents, None)
    used.decode(latents, [0])
    assert made.plans == []
    used.decode_and_score(latents, [0], batch(made))
    assert made.plans == [plan]


def test_the_plan_of_a_spec() -> None:
    spec = FramesSpec(decode_window=3, decode_precision="bf16", decode_tiles=2)
    assert decode_plan(spec) == DecodePlan(3, "bf16", 2)
    assert decode_plan(FramesSpec()) == DecodePlan()


@pytest.mark.parametrize(
    ("name", "field", "value", "default"),
    [("modelscope", "window", 2, None), ("modelscope", "tiles", 2, 1), ("opensora", "precision", "bf16", "float32")],
)
def test_a_mode_that_the_decoder_has_not_is_refused(name: str, field: str, value: Any, default: Any) -> None:
    prompts = {"name": "list", "options": {"prompts": ["a fox"]}}
    spec = {"backbone": name, "prompts": prompts, "rewards": ["shapes_colourfulness"]}
    with pytest.raises(SpecError) as caught:
        check({**spec, "frames": {f"decode_{field}": value}})
    (problem,) = [problem for problem in caught.value.problems if problem.path.startswith("frames")]
    assert problem.path == f"frames.decode_{field}"
    assert f"expected {default}, found {value}. Remove it." in problem.message


def test_modes_by_autoencoder() -> None:
    assert CausalPrefix().modes("AutoencoderKLWan") == {"window", "precision", "tiles"}
    assert CausalPrefix().modes("AutoencoderKLCogVideoX") == {"window", "precision"}
    assert CausalPrefix().modes("AutoencoderKLMine") == WholeClip().modes("AutoencoderKLWan") == set()
    assert PerFrame().modes("AutoencoderKL") == {"precision"}
    assert WholeClip().frames(3, Grid(time=8, time_offset=1)) == 17


def test_any_other_decoder_is_recomputed_layer_by_layer() -> None:
    from diffusers import AutoencoderKLLTXVideo

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLLTXVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
        )
    vae.eval().requires_grad_(False)
    z = torch.randn(1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    held: list[int] = []
    found = []
    for decode in (lambda: vae.decode(z, return_dict=False)[0], lambda: decode_whole(vae, z)):
        kept: set[int] = set()

        def keep(tensor: Tensor, kept: set[int] = kept) -> Tensor:
            kept.add(tensor.nbytes and tensor.untyped_storage()._cdata)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            pixels = decode()
        held.append(len(kept))
        found.append((pixels, torch.autograd.grad(pixels.square().sum(), z)[0]))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=0)
    assert held[1] < held[0] / 3
    assert not any("forward" in vars(module) for module in vae.modules() if isinstance(module, nn.Module))
