"""The only denoising loop: training, validation and generation are this loop with different gradient windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor

from vader.diffusion.gradient import Window
from vader.diffusion.guidance import Branches, Combine, Predict, Recompute, classifier_free, guided
from vader.diffusion.shortcuts import FreeSteps, Shortcuts
from vader.protocols import Conditioning, KnowsNoise, Sampler, StepOutput
from vader.shapes import Latents

OnStep = Callable[[int, Latents, StepOutput], None]
"""``(step, latents before it, its output)``, for methods that need the trajectory."""

WithoutGradient = Callable[[], AbstractContextManager[None]]
"""A context in which ``predict`` costs less without gradient; the same but for rounding."""


class ClipNoise:
    """Unit normal noise for a batch in which every clip has a generator of its own, seeded by its own seed.

    Args:
        seeds: one per clip, ``b`` of them.
        shape: of one clip's latents.
        device: where the generators live.
        dtype: of the noise; drawn in it.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> None:
        self._generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
        self._shape, self._device, self._dtype = shape, device, dtype

    def draw(self) -> Tensor:
        """``(b ...)``, the next noise of every clip."""
        rows = [torch.randn(self._shape, generator=g, device=self._device, dtype=self._dtype) for g in self._generators]
        return torch.stack(rows)


def rollout(
    predict: Predict,
    sampler: Sampler,
    conditioning: Conditioning,
    noise: ClipNoise,
    window: Window,
    *,
    guidance_scale: float | Sequence[float] = 1.0,
    branches: Branches = "both",
    recompute: Recompute = "auto",
    shortcuts: Shortcuts | None = None,
    combine: Combine = classifier_free,
    on_step: OnStep | None = None,
    without_gradient: WithoutGradient | None = None,
) -> Latents:
    """Denoise a batch of clips.

    Outside the gradient window nothing is recorded. Inside it calls of the denoiser are recomputed in backward, so that
    memory does not grow with the window's length; save, with ``recompute`` "auto", those of the step that backward
    comes to first, which would be made again at once.

    Args:
        predict: one call of the denoiser, the object that accelerate prepared.
        sampler: built for the wanted number of steps.
        conditioning: of ``b`` prompts.
        noise: of ``b`` clips; the first draw is where the clips start.
        window: steps that carry gradient.
        guidance_scale: 1 is off; a sequence has one for each step.
        branches: guidance branches that carry gradient.
        recompute: see :data:`vader.diffusion.guidance.Recompute`.
        shortcuts: what is left out before the window; None for nothing.
        combine: makes one prediction of two guidance branches.
        on_step: called after each step.
        without_gradient: entered for the steps before the window; None for nothing.

    Returns:
        ``(b ...)``, the clean latents; with gradient when the window is not empty.
    """
    kept = window.first_in_backward if recompute == "auto" else -1
    scales = [guidance_scale] * (window.last + 1) if isinstance(guidance_scale, int | float) else guidance_scale
    latents = noise.draw()
    silent = torch.zeros_like(latents) if isinstance(sampler, KnowsNoise) and not sampler.needs_noise else None
    with ExitStack() as before_window:
        if without_gradient is not None:
            before_window.enter_context(without_gradient())
        free = _free_steps(predict, conditioning, shortcuts, window, before_window, combine)
        for i in range(window.last + 1):
            if i == window.start:
                before_window.close()
                free = None
            with torch.set_grad_enabled(torch.is_grad_enabled() and i >= window.start):
                if free is not None:
                    output = free(i, latents, sampler.timesteps[i].expand(len(conditioning)), scales[i])
                else:
                    output = predict_step(
                        predict,
                        sampler,
                        conditioning,
                        latents.detach() if window.detach_input else latents,
                        i,
                        guidance_scale=scales[i],
                        branches=branches,
                        recompute=False if i == kept else recompute,
                        combine=combine,
                        differentiate=i in window,
                    )
                step = sampler.step(output, i, latents, noise.draw() if silent is None else silent)
            if on_step is not None:
                on_step(i, latents, step)
            latents = step.pred_x0 if window.original and i == window.last else step.prev
    return latents


def _free_steps(
    predict: Predict,
    conditioning: Conditioning,
    shortcuts: Shortcuts | None,
    window: Window,
    before_window: ExitStack,
    combine: Combine,
) -> FreeSteps | None:
    """Predictions of the steps before the window where there are shortcuts; their cache ends with ``before_window``."""
    if shortcuts is None:
        return None
    cached = before_window.enter_context(shortcuts.cache(predict, conditioning))
    return FreeSteps(cached, conditioning, shortcuts.plan(min(window.start, window.last + 1)), combine)


def predict_step(
    predict: Predict,
    sampler: Sampler,
    conditioning: Conditioning,
    latents: Latents,
    i: int,
    *,
    guidance_scale: float,
    branches: Branches,
    recompute: Recompute,
    combine: Combine = classifier_free,
    differentiate: bool = True,
) -> Tensor:
    """The guided prediction of step ``i``: what the sampler is given.

    Args:
        predict: see :func:`rollout`, like all that is not named here.
        latents: ``(b ...)``, those before the step.
        i: 0 to steps - 1.
        differentiate: whether it carries gradient, where the caller's grad mode is on.

    Returns:
        ``(b ...)``.
    """
    timestep = sampler.timesteps[i].expand(len(conditioning))
    with torch.set_grad_enabled(torch.is_grad_enabled() and differentiate):
        return guided(predict, latents, timestep, conditioning, guidance_scale, branches, recompute, combine)
