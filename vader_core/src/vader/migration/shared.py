"""What the three reference trainers (mihirp1998/VADER) have in common: rewards, prompts, frames, gradient window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vader.migration.keys import Fields, Key, NoCounterpart, Settings, nothing, one_of

Convert = Callable[[Any, Settings], Fields]

AESTHETIC = {"name": "aesthetic", "weight": 0.1, "target": 10.0, "options": {"preprocess": "reference"}}


def hps(version: str, weight: float = 1.0) -> dict[str, Any]:
    """The loss 1 - score, up to its constant."""
    return {"name": "hps", "weight": weight, "options": {"version": version, "preprocess": "reference"}}


def rewards(known: tuple[str, ...], version: Callable[[Settings], str]) -> Convert:
    """The conversion of ``reward_fn``.

    Args:
        known: the rewards that the trainer can use.
        version: of HPS.
    """

    def convert(value: Any, settings: Settings) -> Fields:
        if value not in known:
            raise NoCounterpart(f"the trainer knows {', '.join(known)}.")
        return {"rewards": _REWARDS[value](settings, version(settings))}

    return convert


def _detection(settings: Settings, _version: str) -> list[dict[str, Any]]:
    model = settings["detector_model"]
    dino = model.startswith("grounding")
    weights = f"IDEA-Research/{model}" if dino else f"hustvl/{model}"
    options = {
        "engine": "grounding_dino" if dino else "yolos",
        "object": settings["target_object"].rstrip("."),
        "weights": weights,
        "below": "zero",
        "preprocess": "reference",
    }
    return [{"name": "detection", "options": options}]


def _weather(kind: str) -> Callable[[Settings, str], list[dict[str, Any]]]:
    def made(settings: Settings, _version: str) -> list[dict[str, Any]]:
        options = {"head": settings.find(f"assets/{kind}_reward.pt"), "preprocess": "reference"}
        return [{"name": "weather", "label": kind, "target": 1.0, "options": options}]

    return made


def _compression(settings: Settings, _version: str) -> list[dict[str, Any]]:
    head = settings.find(settings["compression_model_path"].removeprefix("../"))
    return [{"name": "compression", "options": {"head": head, "preprocess": "reference"}}]


_REWARDS: Mapping[str, Callable[[Settings, str], list[dict[str, Any]]]] = {
    "aesthetic": lambda _, version: [AESTHETIC],
    "hps": lambda _, version: [hps(version)],
    "aesthetic_hps": lambda _, version: [{**AESTHETIC, "weight": 0.075}, hps(version, 0.5)],
    "pick_score": lambda _, version: [{"name": "pickscore", "weight": 0.01, "target": 100.0}],
    "rainy": _weather("rainy"),
    "snowy": _weather("snowy"),
    "objectDetection": _detection,
    "compression_score": _compression,
    "compression": _compression,
    "actpred": lambda _, version: [{"name": "action", "options": {"preprocess": "reference"}}],
}
"""A reward of the reference -> those of a spec that give its loss, up to a constant."""

REWARDS_TEXT = (
    "`aesthetic`: `aesthetic`, weight 0.1, target 10. `hps`: `hps`. `aesthetic_hps`: both, with weights 0.075 and 0.5. "
    "`pick_score`: `pickscore`, weight 0.01, target 100. `rainy`, `snowy`: `weather` with that head, target 1. "
    "`objectDetection`: `detection`. `compression_score`: `compression`. `actpred`: `action`. "
    "Preprocessing is the reference's (`preprocess: reference`)."
)

FRAMES = Key(
    "decode_frame",
    "-1",
    "frames.mode",
    "`-1`: `random`. A number: `index`, with `frames.index`. `fml`, `all`, `alt` as they are; `fml` has no code there.",
)


def frames(value: Any, _settings: Settings) -> Fields:
    """The conversion of ``decode_frame``."""
    text = str(value)
    if text == "-1":
        return {"frames.mode": "random"}
    if text.isdecimal():
        return {"frames.mode": "index", "frames.index": int(text)}
    if text not in ("fml", "all", "alt"):
        raise NoCounterpart("expected -1, the number of a frame, fml, all or alt.")
    return {"frames.mode": text}


SPECIFIC = 15
"""The step from which mode ``specific`` of the reference carries gradient: it stands in its code."""


def gradient(value: Any, settings: Settings, steps: str) -> Fields:
    """The conversion of ``backprop_mode``.

    Args:
        steps: name of the setting that has the number of steps.
    """
    if value in ("last", "rand"):
        return {"gradient.mode": value}
    if value != "specific":
        raise NoCounterpart("expected last, rand or specific.")
    if settings[steps] <= SPECIFIC:
        raise NoCounterpart(f"specific begins at step {SPECIFIC}, and there are {settings[steps]} steps.")
    return {"gradient.mode": value, "gradient.from_step": SPECIFIC}


def backprop(steps: str) -> Key:
    """The setting ``backprop_mode``."""
    meaning = (
        "`last` and `rand` as they are. `specific`: from step 15 on, which stands in the reference's code, with "
        "`gradient.from_step: 15`; here it is any step."
    )
    return Key(
        "backprop_mode", "last", "gradient.mode", meaning, lambda value, settings: gradient(value, settings, steps)
    )


def prompts(nouns: str, activities: str) -> Convert:
    """The conversion of ``prompt_fn``.

    Args:
        nouns: name of the setting with the file of nouns.
        activities: the same of activities.
    """

    def convert(value: Any, settings: Settings) -> Fields:
        if value == "nouns_activities":
            options = {
                "nouns": settings.find(f"assets/{settings[nouns]}"),
                "activities": settings.find(f"assets/{settings[activities]}"),
            }
            return {"prompts": {"name": "nouns_activities", "options": options}}
        name = "hps_v2_all_eval" if value == "eval_hps_v2_all" else value
        return {"prompts": {"name": "file", "options": {"path": settings.find(f"assets/{name}.txt")}}}

    return convert


PROMPTS_TEXT = (
    "`nouns_activities`: the source of that name. Every other function there reads a file, here the source `file` with "
    "`assets/NAME.txt` of the reference. The sets of `vader-plugin-rewards` (`vader prompts`) are further ones."
)


def clipping(value: Any, _settings: Settings) -> Fields:
    """The conversion of ``max_grad_norm``: 0 means there that nothing is clipped."""
    return {"train.max_grad_norm": value if value > 0 else 1e9}


def precision(value: Any, _settings: Settings) -> Fields:
    """The conversion of ``mixed_precision``."""
    if value not in ("no", "fp16", "bf16"):
        raise NoCounterpart("expected no, fp16 or bf16.")
    return {"train.mixed_precision": value}


def tracked(value: Any, settings: Settings) -> Fields:
    """The conversion of ``logger_type``, which counts with ``use_wandb`` alone."""
    if not settings["use_wandb"]:
        return {}
    return one_of("trackers", {"wandb": ["wandb"], "tensorboard": ["tensorboard"]})(value, settings)


def adapter_file(value: Any, settings: Settings) -> Fields:
    """The conversion of ``lora_ckpt_path``."""
    if value in ("huggingface-pickscore", "huggingface-hps-aesthetic"):
        raise NoCounterpart("give the file that it stands for, or hub:owner/name:file, as backbone.adapter.init.")
    return {"backbone.adapter.init": settings.find(str(value))} if value else {}


COMMON = (
    Key("train_batch_size", 1, "train.batch_size", "Clips per process and micro-step."),
    Key("gradient_accumulation_steps", 1, "train.gradient_accumulation", "Micro-steps per optimizer step."),
    Key("max_grad_norm", 1.0, "train.max_grad_norm", "0, which clips nothing there, becomes 1e9.", clipping),
    Key(
        "debug",
        False,
        meaning="It switches wandb off. Leave `trackers` empty, or set WANDB_MODE=disabled.",
        convert=nothing,
    ),
    Key("wandb_entity", "", meaning="wandb reads it from the environment: set WANDB_ENTITY."),
    Key("use_wandb", True, "trackers", "False: `trackers` stays empty.", nothing),
    Key(
        "logger_type",
        "wandb",
        "trackers",
        "`metrics.jsonl` and the report are always written.",
        tracked,
    ),
)
"""Settings that all three have."""
