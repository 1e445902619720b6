"""The noise schedule that a scheduler's configuration in diffusers means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from vader.errors import WeightsError
from vader.protocols import NoiseSchedule, Prediction
from vader.weights.files import first_line

if TYPE_CHECKING:
    from torch import Tensor

    from vader.backbones.backbone import FamilyBackbone

TINY_ALPHA = 2.0**-24
"""In place of an exact zero, at which the clean latents do not follow from the noise."""
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "snr_shift_scale")


def flow_schedule(config: Mapping[str, Any], name: str, fix: str, options: Any) -> NoiseSchedule:
    """Of a flow with a constant shift.

    Args:
        config: of a flow scheduler; ``flow_shift`` (UniPC, DPM-Solver) or ``shift`` (flow-match Euler) is the shift.
        name: what the user calls the weights, for errors.
        fix: what to do about them.
        options: of the backbone.

    Raises:
        WeightsError: it is not such a flow.
    """
    kind = config.get("prediction_type", "flow_prediction")
    if kind != "flow_prediction" or config.get("use_dynamic_shifting"):
        seen = f"prediction_type {kind!r}, use_dynamic_shifting {bool(config.get('use_dynamic_shifting'))}"
        raise WeightsError(f"{name}: scheduler says {seen}; expected 'flow_prediction' with a constant shift. {fix}")
    return NoiseSchedule(
        prediction="flow",
        train_timesteps=int(config.get("num_train_timesteps", 1000)),
        shift=float(config.get("flow_shift", config.get("shift", 1.0))),
        config=dict(config),
    )


def even_flow_schedule(config: Mapping[str, Any], name: str, fix: str, options: Any) -> NoiseSchedule:
    """Of a flow whose pipeline spaces its steps evenly from sigma 1 to 1 / steps and then shifts them.

    A shift that depends on the clip's size (``use_dynamic_shifting``) is left to :func:`shift_by_size`.
    """
    schedule = flow_schedule({**config, "use_dynamic_shifting": False}, name, fix, options)
    sigmas = partial(_even_sigmas, terminal=config.get("shift_terminal"))
    return replace(schedule, config=dict(config), sigmas=sigmas)


def _even_sigmas(steps: int, shift: float, terminal: float | None) -> Tensor:
    """See :attr:`NoiseSchedule.sigmas`; all are stretched so that the last is ``terminal``, if it is said."""
    import torch

    from vader.diffusion.samplers.flow_euler import shifted

    sigmas = shifted(torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64), shift)
    if not terminal or steps == 1:
        return sigmas
    return 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])


def shift_by_size(backbone: FamilyBackbone) -> None:
    """Give a backbone's schedule the shift of its clip (Esser et al. 2024, arXiv 2403.03206, section 5.3.2).

    Its logarithm is linear in the number of latent cells. For ``prepare`` of a family whose tokens are single cells; a
    scheduler without ``use_dynamic_shifting`` keeps its shift.
    """
    config = backbone.schedule.config
    if not config.get("use_dynamic_shifting"):
        return
    cells = math.prod(backbone.latent_shape(backbone.video)[1:])
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (cells - few) / (many - few)
    shift = math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu
    backbone.schedule = replace(backbone.schedule, shift=shift)


def diffusion_schedule(config: Mapping[str, Any], name: str, fix: str, options: Any) -> NoiseSchedule:
    """Of a variance-preserving process.

    The option ``zero_terminal_snr`` rescales it so that the last training timestep is pure noise (Lin et al. 2023,
    arXiv 2305.08891, algorithm 1); a configuration that has ``rescale_betas_zero_snr`` asks for it by itself.

    Args:
        config: of any scheduler of such a process.
        name: what the user calls the weights, for errors.
        fix: what to do about them.
        options: of the backbone.

    Raises:
        WeightsError: it means no such process.
    """
    from diffusers import CogVideoXDDIMScheduler, DDIMScheduler

    kind = config.get("prediction_type", "epsilon")
    if kind not in _PREDICTIONS:
        raise WeightsError(
            f"{name}: scheduler says prediction_type {kind!r}; expected {', '.join(_PREDICTIONS)}. {fix}"
        )
    shifted = "snr_shift_scale" in config
    betas = {key: config[key] for key in _BETAS if config.get(key) is not None}
    rescale = bool(getattr(options, "zero_terminal_snr", False) or config.get("rescale_betas_zero_snr"))
    try:
        scheduler = (CogVideoXDDIMScheduler if shifted else DDIMScheduler)(**betas, rescale_betas_zero_snr=rescale)
        alphas = scheduler.alphas_cumprod.double()
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{name}: scheduler means no noise schedule: {first_line(error)}. {fix}") from error
    return NoiseSchedule(
        prediction=_PREDICTIONS[kind],
        alphas_cumprod=alphas.clamp(min=TINY_ALPHA) if kind == "epsilon" else alphas,
        train_timesteps=len(alphas),
        config={key: value for key, value in config.items() if key != "rescale_betas_zero_snr"},
    )
