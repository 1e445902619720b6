"""Checks of backbones: adapters, and the gradient that reaches them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import torch
from torch import nn

from vader.protocols import Backbone
from vader.resolve import build
from vader.spec import AdapterSpec
from vader.testing.backbone import encoded, live_backbone, near, predicted, random_latents
from vader.testing.checks import Failed, NotApplicable, check, expect
from vader.testing.subject import Subject
from vader.weights import lora


def _adapted(subject: Subject) -> tuple[Backbone, list[nn.Parameter]]:
    """A backbone of the check's own, with an adapter on it."""
    backbone = cast(Backbone, subject.build())
    targets = subject.capability("lora_target_modules")
    without = build.without_adapter(backbone)
    return backbone, lora.inject(backbone.denoiser, AdapterSpec(rank=2), targets, seed=0, without=without)


@check("backbone", needs=("predictions_are_deterministic",))
@torch.no_grad()
def a_new_adapter_changes_nothing(subject: Subject) -> None:
    """Adapters fit on its declared layers, and a new one gives the base model's prediction bit for bit."""
    plain, (adapted, _) = live_backbone(subject), _adapted(subject)
    latents, conditioning = random_latents(subject), encoded(subject)
    before = predicted(plain, plain.denoiser, latents, 500.0, conditioning)
    after = predicted(adapted, adapted.denoiser, latents, 500.0, conditioning)
    expect(torch.equal(before, after), "a zero adapter changes the prediction. Is construction random?")


def _stirred(parameters: list[nn.Parameter]) -> None:
    """Make an adapter do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@check("backbone", needs=("prediction_has_the_shape", "a_new_adapter_changes_nothing"))
def gradient_reaches_the_adapter_alone(subject: Subject) -> None:
    """The gradient of a prediction reaches every adapter weight and no other."""
    backbone, parameters = _adapted(subject)
    _stirred(parameters)
    for time in (950.0, 50.0) if subject.capability("experts") else (500.0,):
        output = predicted(backbone, backbone.denoiser, random_latents(subject), time, encoded(subject))
        if not output.requires_grad:
            raise Failed("the prediction carries no gradient. The caller owns grad mode: use no no_grad and no detach.")
        torch.autograd.backward((output**2).mean())
    named = dict(backbone.denoiser.named_parameters())
    dead = [
        name for name, p in named.items() if p.requires_grad and (p.grad is None or not bool(p.grad.abs().max() > 0))
    ]
    example = f"such as {dead[0]} in clips of {subject.video}" if dead else ""
    hint = "An attention that sees a single token has none: if that is why, give the kit a larger video."
    expect(not dead, f"{len(dead)} adapter weights get no gradient, {example}. {hint}")
    frozen = [name for name, p in named.items() if not p.requires_grad and p.grad is not None]
    expect(not frozen, f"{len(frozen)} frozen weights get a gradient, such as {frozen[0] if frozen else ''}.")


@check("backbone", needs=("a_new_adapter_changes_nothing",))
def an_adapter_is_saved_exactly(subject: Subject) -> None:
    """An adapter comes back from its file bit for bit, into another instance."""
    backbone, parameters = _adapted(subject)
    _stirred(parameters)
    other, loaded = _adapted(subject)
    with tempfile.TemporaryDirectory() as folder:
        name = subject.capability("denoiser_name")
        lora.save(backbone.denoiser, Path(folder), name, subject.capability("experts"))
        lora.load_into(other.denoiser, Path(folder))
    wrong = sum(not torch.equal(before, after) for before, after in zip(parameters, loaded, strict=True))
    expect(wrong == 0, f"{wrong} of {len(parameters)} adapter tensors change on their way through a file.")


@check("backbone", needs=("gradient_reaches_the_adapter_alone",))
def checkpointing_keeps_the_gradient(subject: Subject) -> None:
    """With gradient checkpointing the gradient is the same."""
    if not subject.capability("gradient_checkpointing"):
        raise NotApplicable("it says gradient_checkpointing = False.")
    latents, conditioning = random_latents(subject, 1), encoded(subject, 1)
    gradients = []
    for enable in (False, True):
        backbone, parameters = _adapted(subject)
        _stirred(parameters)
        if enable:
            backbone.enable_gradient_checkpointing()
        output = predicted(backbone, backbone.denoiser, latents, 500.0, conditioning)
        grads = torch.autograd.grad((output**2).mean(), parameters, allow_unused=True)
        gradients.append([torch.zeros(1) if grad is None else grad for grad in grads])
    same = all(near(a, b, 1e-5) for a, b in zip(*gradients, strict=True))
    expect(same, "gradients with and without checkpointing differ.")
