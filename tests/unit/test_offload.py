"""What is kept for backward waits elsewhere: the same gradient, and only what is large is moved."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vader.diffusion import offload
from vader.diffusion.offload import kept_on
from vader.errors import SpecError
from vader.estimation import estimate
from vader.protocols import Batch
from vader.resolve import build
from vader.resolve.validate import resolve
from vader.runs.device import DTYPES
from vader.weights import lora

CPU, META = torch.device("cpu"), torch.device("meta")
REWARD = Path(__file__).resolve().parents[1] / "memory_reward.py"


def spec(**train: Any) -> dict[str, Any]:
    return {
        "backbone": {"name": "shapes", "adapter": {"rank": 4}},
        "sampler": {"steps": 3, "guidance_scale": 2.0},
        "prompts": {"name": "list", "options": {"prompts": ["a red circle"]}},
        "rewards": [{"name": f"{REWARD}:Small", "label": "small"}],
        "gradient": {"mode": "tail", "k": 2},
        "frames": {"mode": "index", "index": 0},
        "train": {"gradient_checkpointing": True, **train},
        "validation": {"clips": 0},
    }


def test_large_tensors_are_moved_and_parameters_and_small_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "LEAST", 400)
    weight, x, y = (
        nn.Parameter(torch.ones(100)),
        torch.ones(100, requires_grad=True),
        torch.ones(99, requires_grad=True),
    )
    with kept_on(CPU):
        product = weight * x.clone()  # keeps both
        short = y.clone().square()
    kept = product.grad_fn, short.grad_fn
    saved_weight, saved_x = kept[0]._saved_self, kept[0]._saved_other  # type: ignore[union-attr]
    assert saved_weight.data_ptr() == weight.data_ptr()
    assert saved_x.data_ptr() != x.data_ptr()
    (product.sum() + short.sum()).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert y.grad is not None
    assert torch.equal(x.grad, torch.ones(100))
    assert torch.equal(y.grad, 2 * torch.ones(99))


@pytest.mark.parametrize("recompute", ["auto", True, False])
def test_a_step_has_the_same_gradient(monkeypatch: pytest.MonkeyPatch, recompute: Any) -> None:
    monkeypatch.setattr(offload, "LEAST", 0)
    plan = resolve({**spec(offload_activations=True), "gradient": {"mode": "tail", "k": 2, "recompute": recompute}})
    backbone = build.assemble_backbone(plan, CPU, DTYPES["no"])
    rewards = build.assemble_rewards(plan.rewards, CPU, DTYPES["no"])
    targets = plan.backbone.capability("lora_target_modules")
    parameters = lora.inject(backbone.denoiser, plan.spec.backbone.adapter, targets, 0)
    context = build.assemble_context(plan, backbone, backbone.denoiser, rewards, CPU)
    assert context.host is None  # nothing is moved on the CPU
    gradients = []
    for host in (None, CPU):
        object.__setattr__(context, "host", host)
        prompts = resolve(spec()).prompts.draw(1, random.Random(0))
        batch = Batch(prompts, backbone.encode(prompts), (3,), random.Random(0))
        window = context.draw_window(random.Random(0))
        context.sample_and_score(batch, window).reward.sum().backward()
        gradients.append([parameter.grad for parameter in parameters])
        for parameter in parameters:
            parameter.grad = None
    assert any(float(gradient.abs().max()) > 0 for gradient in gradients[0])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.slow
def test_an_estimate_leaves_out_what_waits_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "LEAST", 0)
    row = "gradient window"
    kept, moved = (estimate(spec(offload_activations=one), device="cuda").training.most[row] for one in (False, True))
    assert moved < 0.9 * kept


def test_it_wants_block_checkpointing() -> None:
    with pytest.raises(SpecError, match=r"train\.offload_activations: everything that the denoiser computes"):
        resolve(spec(gradient_checkpointing=False, offload_activations=True))
