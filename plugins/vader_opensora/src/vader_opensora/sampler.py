"""The rectified flow of Open-Sora 1.2 (arXiv 2412.20404, section 3.2; Liu et al. 2022, arXiv 2209.03003)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from vader import Options, SamplerContext, StepOutput, Video

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vader.sdk import Latents, Prediction


class OpenSoraRFlowOptions(Options):
    """Options of :class:`OpenSoraRFlow`."""

    transform: bool = Field(True, description="Move timesteps towards noise for larger and longer clips.")
    size_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Arithmetic of the clip's size in the transform; VADER-Open-Sora's is bfloat16."
    )


class OpenSoraRFlow:
    """Euler steps over sigmas 1, 1 - 1/N, ..., 1/N, 0, each but the last moved by the size of the clip.

    With ``eta`` above 0 they are stochastic, like those of ``flow_euler``.

    The move is ``r sigma / (1 + (r - 1) sigma)`` with ``r = sqrt(pixels of a frame / 512^2) sqrt(latent frames)``.
    Like the reference it counts 5 latent frames for every whole 17 frames; for 2 to 16 frames, for which the reference
    then has a division of 0 by 0, it counts those that the VAE gives, one for every four.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("flow",)
    stochastic: ClassVar[bool] = True
    any_order: ClassVar[bool] = True
    Options = OpenSoraRFlowOptions

    def __init__(self, options: OpenSoraRFlowOptions, context: SamplerContext) -> None:
        import torch

        self._eta = context.eta
        sigmas = 1 - torch.arange(context.steps, dtype=torch.float64) / context.steps
        if options.transform:
            dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
            ratio = _ratio(context.video, dtypes[options.size_dtype]).double()
            sigmas = ratio * sigmas / (1 + (ratio - 1) * sigmas)
        self._sigmas = [*sigmas.tolist(), 0.0]
        self.timesteps: Tensor = (sigmas * context.schedule.train_timesteps).float().to(context.device)

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """See :class:`vader.Sampler`."""
        from vader.sdk import flow_step

        return flow_step(model_output, latents, noise, self._sigmas[i], self._sigmas[i + 1], self._eta)


def _ratio(video: Video, dtype: torch.dtype) -> Tensor:
    """How far the timesteps of this clip are moved; 1 for one square frame of 512 pixels. Rounded to ``dtype``."""
    import torch

    frames = 1 if video.frames == 1 else video.frames // 17 * 5 or -(-video.frames // 4)
    height, width, count = (torch.tensor(float(number), dtype=dtype) for number in (video.height, video.width, frames))
    return (height * width / 512**2).sqrt() * count.sqrt()
