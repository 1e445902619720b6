"""The noise schedule that a scheduler's configuration in diffusers means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vader.errors import WeightsError
from vader.protocols import NoiseSchedule, Prediction
from vader.weights.files import first_line

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
