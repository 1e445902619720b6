"""Two experts: routing, the gradient across their boundary, their weights on the host, their adapters in diffusers."""

import pytest
import torch
from plugins.vader_diffusers.tests.experts import STEPS, VIDEO, adapted, clean
from plugins.vader_diffusers.tests.parity import CPU, PROMPTS

from vader import Runtime
from vader_diffusers import tiny
from vader_diffusers.wan22 import Wan22, Wan22Options


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("wan22") / "tiny", 0, "wan22")


def test_gradient_across_the_boundary_against_finite_differences(folder, monkeypatch):
    """Wan rounds to float32 in places; for this test those casts are to float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    backbone, mine = adapted(folder)
    backbone.denoiser.double()
    with torch.no_grad():
        conditioning = backbone.encode(PROMPTS).map(torch.Tensor.double)
    x, sampler = clean(backbone, conditioning, dtype=torch.float64)
    high = sampler.timesteps >= backbone.denoiser.boundary
    assert 0 < high.sum() < STEPS
    weight = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((x * weight).sum(), list(mine.values()))
    for expert in ("high.", "low."):
        moved = [(p, g) for (name, p), g in zip(mine.items(), gradients, strict=True) if name.startswith(expert)]
        ways = [torch.randn_like(p, generator=torch.Generator().manual_seed(i)) for i, (p, _) in enumerate(moved)]
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                for (parameter, _), way in zip(moved, ways, strict=True):
                    parameter.add_(way, alpha=step)
                values.append((clean(backbone, conditioning, dtype=torch.float64)[0] * weight).sum())
            for (parameter, _), way in zip(moved, ways, strict=True):
                parameter.add_(way, alpha=1e-5)
        expected = sum((g * way).sum() for (_, g), way in zip(moved, ways, strict=True))
        assert abs(expected) > 1e-3
        torch.testing.assert_close((values[0] - values[1]) / 2e-5, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("recompute", [False, True, "auto"])
@pytest.mark.parametrize("by_block", [False, True])
def test_experts_on_the_host_give_the_same_clips_and_gradients(folder, recompute, by_block):
    found = []
    for offload in ("keep", "cpu"):
        backbone, mine = adapted(folder, expert_offload=offload)
        if by_block:
            backbone.enable_gradient_checkpointing()
        with torch.no_grad():
            conditioning = backbone.encode(PROMPTS)
        x, _ = clean(backbone, conditioning, recompute)
        sizes = {
            name: sum(p.numel() for p in net.parameters() if not p.requires_grad)
            for name, net in backbone.denoiser.experts.items()
        }
        assert (min(sizes.values()) == 0) is (offload == "cpu"), sizes
        found.append((x.detach(), torch.autograd.grad(x.square().sum(), list(mine.values()))))
    (one, gradients), (other, others) = found
    assert torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


def test_rows_of_a_batch_go_to_the_expert_of_their_timestep(folder):
    backbone, _ = adapted(folder, expert_offload="cpu")
    latents = torch.randn(3, *backbone.latent_shape(VIDEO), generator=torch.Generator().manual_seed(0))
    times = torch.tensor([900.0, 100.0, 875.0])
    with torch.no_grad():
        branch = backbone.encode((*PROMPTS, PROMPTS[0])).positive
        whole = backbone.predict(backbone.denoiser, latents, times, branch)
        for row in range(3):
            alone = {name: tensor[[row]] for name, tensor in branch.items()}
            expert = "high" if times[row] >= 875 else "low"
            backbone.denoiser.use(expert)
            direct = backbone.denoiser.experts[expert](latents[[row]], times[[row]], **alone).sample
            torch.testing.assert_close(whole[[row]], direct, atol=1e-6, rtol=0)


def test_every_adapter_has_a_gradient_though_its_expert_has_no_part(folder):
    backbone, mine = adapted(folder)
    latents = torch.randn(1, *backbone.latent_shape(VIDEO), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        branch = backbone.encode(PROMPTS[:1]).positive
    backbone.predict(backbone.denoiser, latents, torch.tensor([100.0]), branch).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) is name.startswith("low.") for name, p in mine.items())


def test_guidance_of_each_expert(folder):
    backbone = Wan22(Wan22Options(weights=str(folder), guidance_scale_2=3.0), Runtime(CPU, torch.float32))
    assert [backbone.guidance_scale_at(s, t, 4) for s, t in [(5, 875), (5, 874), (1, 100)]] == [5, 3, 1]
