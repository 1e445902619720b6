"""How values of VideoX-Fun's settings become fields of a spec."""

from __future__ import annotations

import json
from typing import Any

from vader.migration.keys import Fields, NoCounterpart, Settings, one_of

HUB = {
    "Wan2.1-T2V-1.3B": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "Wan2.1-T2V-14B": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "Wan2.2-T2V-A14B": "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
}
"""Weights in the authors' layout -> the same in diffusers'."""


def weights(value: Any, _settings: Settings) -> Fields:
    """The model, by the last part of its path."""
    name = str(value or "").rstrip("/").rsplit("/", 1)[-1]
    if name in HUB:
        return {"backbone.options.weights": HUB[name]}
    raise NoCounterpart(
        f"{name or 'no model'!s} has no pipeline in diffusers' layout that is known here, so the backbone's default is "
        "taken. Set backbone.options.weights to a folder or hub id in that layout."
    )


def steps(value: int | None, _settings: Settings) -> Fields:
    """Optimizer steps."""
    if value is None:
        raise NoCounterpart("epochs depend on the number of prompts. Set train.steps, the optimizer steps.")
    return {"train.steps": value}


def reward(value: str, settings: Settings) -> Fields:
    """The reward with its loss: |score - max_reward|, or -score without one, times loss_scale."""
    said = _arguments(settings["reward_fn_kwargs"])
    if value not in _REWARDS:
        raise NoCounterpart(f"known are {', '.join(_REWARDS)}. Write one of your own, or name another in rewards.")
    name, scale, target, factor, options = _REWARDS[value]
    weight = said.pop("loss_scale", scale)
    target = said.pop("max_reward", target)
    made: dict[str, Any] = {"name": name, "weight": weight / factor, "options": {}}
    if target is not None:
        made["target"] = float(target) * factor
    for argument, given in said.items():
        if argument not in options:
            raise NoCounterpart(f"the argument {argument!r} of {value} is not known. Set the options of {name!r}.")
        made["options"] |= options[argument](given)
    return {"rewards": [made]}


def _arguments(text: str | None) -> dict[str, Any]:
    try:
        said = json.loads(text) if text else {}
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise NoCounterpart('reward_fn_kwargs: expected a mapping in JSON, such as {"version": "v2.1"}.')
    return said


def _dimension(name: str) -> dict[str, Any]:
    return {} if name == "Overall" else {"dimensions": {name: 1.0}}


def _named(option: str) -> Any:
    return lambda given: {} if given is None else {option: given}


def _version(given: str) -> dict[str, Any]:
    if given != "v2":
        raise NoCounterpart(f"version {given!r} of the aesthetic predictor is not there; v2 is.")
    return {}


_REWARDS: dict[str, tuple[str, float, float | None, float, dict[str, Any]]] = {
    "AestheticReward": ("aesthetic", 0.1, 10.0, 1.0, {"version": _version, "encoder_path": _named("weights")}),
    "HPSReward": ("hps", 1.0, 1.0, 1.0, {"version": _named("version"), "model_path": _named("weights")}),
    "PickScoreReward": ("pickscore", 1.0, 1.0, 100.0, {"model_path": _named("weights")}),
    "HPSv3Reward": ("hpsv3", 1.0, 1.0, 1.0, {"checkpoint_path": _named("weights")}),
    "VideoAlignReward": (
        "videoreward",
        1.0,
        1.0,
        1.0,
        {"model_path": _named("weights"), "reward_dim": _dimension, "fps": _named("clip_fps")},
    ),
}
"""Reward there -> name, loss_scale, max_reward, factor between the scores, and its arguments."""


def window(value: str, settings: Settings) -> Fields:
    """Which steps carry gradient."""
    listed, total, k = settings["backprop_step_list"], settings["num_inference_steps"], settings["backprop_num_steps"]
    if listed:
        found = sorted(map(int, [listed] if isinstance(listed, str) else listed))
        if found != list(range(found[0], total)):
            raise NoCounterpart("a list of steps with gaps: gradient.mode has uniform and subset for those.")
        return {"gradient.mode": "tail", "gradient.k": len(found)}
    if value == "random":
        start, end = settings["backprop_random_start_step"], settings["backprop_random_end_step"]
        if start > 0 or end < total - 1:
            raise NoCounterpart("subset draws from all steps, not from a range of them. Set gradient by hand.")
    modes = {"last": "last", "tail": "tail", "uniform": "uniform", "random": "subset"}
    found_mode = one_of("gradient.mode", modes)(value, settings)
    return found_mode if value == "last" else {**found_mode, "gradient.k": k}


def frames(value: int, settings: Settings) -> Fields:
    """The frames that are decoded: those of the first latent frames."""
    if value == 1:
        return {"frames.mode": "index", "frames.index": 0}
    raise NoCounterpart("only the first latent frame is translated; frames.mode has all, fml, alt and random.")


def sampled(value: str | None, settings: Settings) -> Fields:
    """How many of the decoded frames are scored."""
    if value in (None, "1"):
        return {}
    raise NoCounterpart("frames.mode says which are scored.")


def layers(every: tuple[str, ...]) -> Any:
    """The conversion of ``lora_skip_name``.

    Args:
        every: the layers that carry the adapter when none is left out.
    """

    def convert(value: str | None, _settings: Settings) -> Fields:
        if value not in (None, "", "ffn"):
            raise NoCounterpart("only ffn is known. Name the layers in backbone.adapter.target_modules.")
        left = [name for name in every if not (value and name.startswith(value))]
        return {"backbone.adapter.target_modules": left}

    return convert


def file(place: str) -> Any:
    """The conversion of a file of prompts."""

    def convert(value: str | None, settings: Settings) -> Fields:
        if not value or value == "normal":
            return {}
        return {place: {"name": "file", "options": {"path": settings.find(value)}}}

    return convert


def validated(place: str) -> Any:
    """The conversion of what counts only where there are prompts to validate with."""
    return lambda value, settings: {place: value} if settings["validation_prompt_path"] else {}


def precision(value: str | None, _settings: Settings) -> Fields:
    """``None`` is what accelerate is configured to."""
    return one_of("train.mixed_precision", {None: None, "no": "no", "fp16": "fp16", "bf16": "bf16"})(value, _settings)


def ema(value: bool, _settings: Settings) -> Fields:
    """A moving average, whose decay is not a setting there."""
    if value:
        raise NoCounterpart("set train.ema_decay, such as 0.99.")
    return {}


def shift(value: str, _settings: Settings) -> Fields:
    """The scheduler's shift, by the configurations that come with the trainer."""
    if not value:
        return {}
    return {"sampler.name": "flow_euler", "sampler.options.shift": 12.0 if "wan2.2/wan_civitai_t2v" in value else 5.0}
