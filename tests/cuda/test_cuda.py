"""What only a CUDA device can show; benchmarks/gpu runs these where there is one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import FakeBackbone

import vader
from vader.diffusion.gradient import window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.diffusion.samplers.flow_euler import FlowEuler, FlowEulerOptions
from vader.diffusion.seeding import stream
from vader.protocols import Prompt, Runtime, SamplerContext, Video
from vader.spec import AdapterSpec
from vader.weights.lora import inject

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
SPEC: dict[str, Any] = {
    "backbone": {"name": "shapes", "adapter": {"rank": 4}},
    "sampler": {"steps": 3, "guidance_scale": 3.0},
    "prompts": {"name": "shapes", "options": {"split": "train"}},
    "rewards": ["shapes_alignment"],
    "gradient": {"mode": "tail", "k": 2},
    "train": {"steps": 3, "batch_size": 2, "learning_rate": 1e-3},
    "validation": {"clips": 2, "save_clips": 0},
}


def run(folder: Path, **changes: Any) -> vader.RunResult:
    spec = {**SPEC, "output": str(folder)}
    return vader.train(spec, [f"{key}={value}" for key, value in changes.items()])


def gradients(device: str) -> list[torch.Tensor]:
    """Of the embedded Wan's adapter, through two steps and the decoder, from noise that was drawn on the CPU."""
    from vader_shapes.backbone import Shapes, ShapesOptions

    backbone = Shapes(ShapesOptions(), Runtime(torch.device(device), torch.float32))
    found = inject(backbone.denoiser, AdapterSpec(rank=2), Shapes.lora_target_modules, seed=0)
    with torch.no_grad():
        for index, parameter in enumerate(found):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.copy_(0.1 * drawn)

    class Given(ClipNoise):
        def draw(self) -> torch.Tensor:
            shape = backbone.latent_shape(Shapes.family.video)
            return torch.randn(1, *shape, generator=torch.Generator().manual_seed(3)).to(device)

    video = Shapes.family.video
    context = SamplerContext(backbone.schedule, 3, 0.0, video, torch.device(device))
    clean = rollout(
        partial(backbone.predict, backbone.denoiser),
        FlowEuler(FlowEulerOptions(), context),
        backbone.encode([Prompt("a red circle moving left on a black background")]),
        Given([0], (1,), torch.device("cpu"), torch.float32),
        window("tail", 3, k=2)(stream(0)),
        guidance_scale=3.0,
    )
    return [grad.cpu() for grad in torch.autograd.grad(backbone.decode(clean).square().mean(), found)]


def test_gradients_are_those_of_the_cpu() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for mine, expected in zip(gradients("cuda"), gradients("cpu"), strict=True):
        torch.testing.assert_close(mine, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_run_in_each_precision(tmp_path: Path, precision: str) -> None:
    result = run(tmp_path / "run", **{"train.mixed_precision": precision, "train.device": "cuda"})
    assert result.step == 3
    assert all(value == value for value in result.metrics.values())
    if precision != "fp16":  # whose scaler may skip its first steps
        assert result.skipped_steps == 0


def test_a_resumed_run_is_bit_equal(tmp_path: Path) -> None:
    settings = {"train.device": "cuda", "train.checkpoint_every": 1}
    whole = run(tmp_path / "whole", **settings)
    run(tmp_path / "parts", **settings, **{"train.steps": 2})
    rest = vader.train(
        {**SPEC, "output": str(tmp_path / "parts")}, ["train.device=cuda", "train.checkpoint_every=1"], resume=True
    )
    assert rest.metrics["loss"] == whole.metrics["loss"]


def test_noise_is_one_stream_a_clip_on_the_device() -> None:
    device = torch.device("cuda")
    both = ClipNoise([1, 2], (4, 2, 3, 3), device, torch.float32)
    alone = ClipNoise([2], (4, 2, 3, 3), device, torch.float32)
    for _ in range(2):
        drawn = both.draw()
        assert drawn.device.type == "cuda"
        assert torch.equal(drawn[1:], alone.draw())


def test_compiled_blocks_give_the_same(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", **{"train.device": "cuda"})
    compiled = run(tmp_path / "compiled", **{"train.device": "cuda", "train.compile": "true"})
    assert compiled.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-3)


def test_the_fake_backbone_lives_on_the_device() -> None:
    backbone = FakeBackbone(FakeBackbone.Options(), Runtime(torch.device("cuda"), torch.float32))
    frames = backbone.decode(torch.zeros(1, *backbone.latent_shape(Video(2, 8, 8)), device="cuda"))
    assert frames.device.type == "cuda"
