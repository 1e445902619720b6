"""Optical flow on textures that are functions of the place: they move by any distance without resampling."""

import math

import pytest
import torch

from vader_rewards.flow import Flow
from vader_rewards.motion import Motion


def texture(right, down, count=3, height=48, width=64, contrast=0.12, dtype=torch.float64):
    """``(1 f 3 h w)``: 24 waves 6 to 24 pixels long, in all directions, moved by that many pixels a frame."""
    generator = torch.Generator().manual_seed(1)
    angle, length, phase = torch.rand(3, 24, generator=generator, dtype=dtype)
    angle, length, phase = 2 * math.pi * angle, 6 + 18 * length, 2 * math.pi * phase
    x = torch.arange(width, dtype=dtype)[None, :, None]
    y = torch.arange(height, dtype=dtype)[:, None, None]
    frames = [
        torch.sin(2 * math.pi / length * (angle.cos() * (x - t * right) + angle.sin() * (y - t * down)) + phase).sum(-1)
        for t in range(count)
    ]
    grey = torch.stack(frames)
    return (0.5 + contrast * grey / grey.std()).clamp(0, 1)[None, :, None].expand(1, count, 3, height, width)


@pytest.fixture(scope="module")
def flow():
    return Flow(Flow.Options())


@pytest.mark.parametrize(
    ("right", "down", "tolerance"),
    [(0.1, 0, 0.06), (0.5, 0, 0.05), (0, -0.5, 0.05), (1, 0, 0.05), (0.6, 0.8, 0.05), (2, -1, 0.05), (0, 3, 0.15)],
)
def test_score_is_the_distance_moved(flow, right, down, tolerance):
    """Within 5 % for 0.5 to 2.2 pixels a frame, a little more outside; what enters at the edge is counted too."""
    score = flow.score(texture(right, down), []).item() * 64
    assert score == pytest.approx(math.hypot(right, down), rel=tolerance)


@pytest.mark.parametrize(("right", "down"), [(0.3, 0), (-1, 0.5), (2, -1), (4, 0), (0, -4)])
def test_displacement_has_a_direction(flow, right, down):
    """Away from the edge, on average over pixels, to a tenth of a pixel."""
    moved = flow.displacement(texture(right, down))
    assert moved.shape == (1, 2, 2, 48, 64)
    mean = moved[..., 8:-8, 8:-8].mean(dim=(0, 1, 3, 4))
    torch.testing.assert_close(mean, torch.tensor([right, down], dtype=torch.float64), rtol=0, atol=0.1)


def test_parts_move_apart(flow):
    """The left half goes up, the right half stays."""
    frames = texture(0, -1).clone()
    frames[..., 32:] = texture(0, 0)[..., 32:]
    moved = flow.displacement(frames).mean(dim=(0, 1, 3))[1]
    assert moved[4:20].mean().item() == pytest.approx(-1, abs=0.15)
    assert moved[44:60].abs().max() < 0.05


def test_a_fraction_of_the_width_whatever_the_size(flow):
    """Twice the size, twice as far in pixels: the same score. Large frames are shrunk first."""
    small, shrunk = texture(1, 0), Flow(Flow.Options(size=48))
    large = torch.nn.functional.interpolate(small.flatten(0, 1), scale_factor=2, mode="bicubic").unflatten(0, (1, 3))
    expected = flow.score(small, []).item()
    assert flow.score(large, []).item() == pytest.approx(expected, rel=0.15)
    assert shrunk.displacement(large).shape[-2:] == (48, 64)
    assert shrunk.score(large, []).item() == pytest.approx(expected, rel=0.05)


def test_contrast_changes_motion_and_not_flow(flow):
    motion = Motion(Motion.Options())
    faint, strong = texture(1, 0, contrast=0.06), texture(1, 0, contrast=0.12)
    assert motion.score(strong, []).item() > 1.8 * motion.score(faint, []).item()
    assert flow.score(strong, []).item() == pytest.approx(flow.score(faint, []).item(), rel=0.1)


def test_what_does_not_move(flow):
    """A still clip scores 0; noise of 1 % and a plain clip that changes colour, next to nothing."""
    still = texture(0, 0)
    assert flow.score(still, []).item() == 0
    noise = 0.01 * torch.randn(still.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert flow.score(still + noise, []).item() * 64 < 0.15
    plain = torch.linspace(0, 1, 4, dtype=torch.float64).view(1, 4, 1, 1, 1).expand(1, 4, 3, 32, 32)
    assert flow.score(plain, []).item() == 0


def test_gradient_at_rest_is_finite(flow):
    frames = texture(0, 0).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(flow.score(frames, []).sum(), frames)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("size", [(3, 5), (16, 7), (17, 130)])
def test_any_size(flow, size):
    frames = torch.rand(2, 3, 3, *size, generator=torch.Generator().manual_seed(0))
    score = flow.score(frames, [])
    assert score.shape == (2,)
    assert torch.isfinite(score).all()


def test_gradient_against_finite_differences_on_a_moving_texture(flow):
    """In float64 along a random direction, where things really move."""
    frames = texture(0.7, -0.4).clone().requires_grad_()
    direction = torch.randn(frames.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(flow.score(frames, []).sum(), frames)
    with torch.no_grad():
        ahead, behind = (flow.score(frames + sign * 1e-7 * direction, []) for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind).sum() / 2e-7, rtol=1e-4, atol=0)


def test_an_even_window_is_refused():
    with pytest.raises(ValueError, match="found 4; expected an odd number"):
        Flow.Options(window=4)
