"""peft's configuration of an adapter: what of it changes the function is honoured, or refused by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from vader.errors import WeightsError, cut

_ALPHA = (1e-9, 1e9)
"""No adapter has a smaller or a larger one; far beyond, the ratio of two is no number."""
_INITS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin that leave the base weights as they are."""
_HONOURED = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
}
_SILENT = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("lora_dropout", "megatron_core", "qalora_group_size", "runtime_config", "eva_config", "ensure_weight_tying"),
}
"""Fields that say nothing of what a trained adapter computes."""


def judged(config: Any, where: str) -> Mapping[str, Any]:
    """A configuration whose every field is known to be harmless, or is honoured by :func:`alphas`.

    Raises:
        WeightsError: it is none of a LoRA, a value is wrong, or a field means something that is not taken.
    """

    def wrong(key: str, expected: str) -> WeightsError:
        said = f"{where} says {key}: {cut(config.get(key))}"
        return WeightsError(f"{said}; expected {expected}. Correct it, or export the adapter again.")

    if not isinstance(config, Mapping):
        raise WeightsError(f"{where} holds {type(config).__name__}; expected peft's configuration, an object.")
    if config.get("peft_type", "LORA") != "LORA":
        raise wrong("peft_type", "LORA")
    if not _whole(config.get("r")) or config["r"] < 1:
        raise wrong("r", "the rank, a whole number of at least 1")
    if not is_alpha(config.get("lora_alpha")):
        raise wrong("lora_alpha", "a number above 0 (1e-9 to 1e9)")
    for key, fits in (("rank_pattern", lambda v: _whole(v) and v >= 1), ("alpha_pattern", is_alpha)):
        pattern = config.get(key) or {}
        if not isinstance(pattern, Mapping) or not all(map(fits, pattern.values())):
            raise wrong(key, "numbers by layer")
        if not all(map(_soon_matched, pattern)):
            raise wrong(key, "layers' names, or regular expressions with at most 3 of * + { and none after a bracket")
    if config.get("init_lora_weights", True) not in _INITS:
        raise wrong("init_lora_weights", "true or gaussian, since this one has changed the base weights as well")
    for key, value in config.items():
        if key not in _HONOURED | _SILENT and value not in (None, False, 0, "", "none") and value not in ([], {}):
            raise wrong(key, "none, since an adapter with it is more than a LoRA of two factors a layer")
    return config


def alphas(config: Mapping[str, Any], ranks: Mapping[str, int], where: str) -> dict[str, float]:
    """Alpha of every layer, so that ``alpha / rank`` is its scale.

    Args:
        config: judged.
        ranks: of every layer, by its tensors.
        where: what the user calls the configuration, for errors.

    Raises:
        WeightsError: it says another rank than the tensors have.
    """
    found = {}
    for layer, rank in ranks.items():
        said = _matching(config.get("rank_pattern") or {}, layer, config["r"])
        if said != rank:
            raise WeightsError(
                f"{where} says rank {cut(said)} for {layer}, whose tensors have rank {rank}: they are of another "
                "model, rank or configuration. Copy the adapter again."
            )
        alpha = float(_matching(config.get("alpha_pattern") or {}, layer, config["lora_alpha"]))
        found[layer] = alpha * rank**0.5 if config.get("use_rslora") else alpha
    return found


def targets(config: Mapping[str, Any], layers: Sequence[str]) -> tuple[str, ...] | None:
    """The configuration's target modules where they are a plain list that means just these layers, else None."""
    listed = config.get("target_modules")
    if not isinstance(listed, list | tuple | set) or not listed or not all(isinstance(name, str) for name in listed):
        return None
    if any(config.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules")):
        return None

    def carries(name: str, layer: str) -> bool:
        return layer == name or layer.endswith(f".{name}")

    used = all(any(carries(name, layer) for layer in layers) for name in listed)
    covered = all(any(carries(name, layer) for name in listed) for layer in layers)
    return tuple(listed) if used and covered else None


def _matching(pattern: Mapping[str, Any], layer: str, default: Any) -> Any:
    """The value for a layer. Source: ``get_pattern_key`` of peft, whose keys are regular expressions."""
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of what brackets may once mean
            return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", layer)), default)
    except re.error as error:
        raise WeightsError(f"the adapter's pattern of layers is no regular expression: {error}.") from error


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_alpha(value: Any) -> bool:
    """Whether a value can be an adapter's alpha."""
    return isinstance(value, int | float) and not isinstance(value, bool) and _ALPHA[0] <= value <= _ALPHA[1]


def _soon_matched(pattern: str) -> bool:
    """Whether a regular expression cannot take for ever: time grows with the name's length to the power of repeats."""
    return len(pattern) < 1000 and len(re.findall(r"[*+{]", pattern)) <= 3 and not re.search(r"\)[*+{]", pattern)
