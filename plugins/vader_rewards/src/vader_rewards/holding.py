"""How rewards with a large network hold it: options that they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from vader import Options


def judged(chosen: dict[str, float], known: Sequence[str]) -> dict[str, float]:
    """Weights of a network's scores.

    Raises:
        ValueError: one has no such name, or none has a weight.
    """
    unknown = sorted(chosen.keys() - set(known))
    if unknown or not any(chosen.values()):
        what = f"{', '.join(unknown)} is none of them" if unknown else "none has a weight"
        raise ValueError(f"{what}; expected weights of some of {', '.join(known)}.")
    return chosen


class JudgeOptions(Options):
    """How a large network is held."""

    checkpointing: bool | None = Field(
        None,
        description="Recompute the network's layers in backward: far less memory, a third more time. Null: for "
        "networks of half a billion weights and more.",
    )
    offload: bool = Field(
        False, description="Hold the network on the CPU, and copy it to the device for every use: slower, no memory."
    )


class FrameJudgeOptions(JudgeOptions):
    """How a network that judges frames one by one is held."""

    checkpointing: bool | None = Field(
        False,
        description="Recompute the network's layers in backward: less memory, a third more time. Null: for networks "
        "of half a billion weights and more.",
    )
    chunk: int = Field(8, ge=1, description="Frames judged at once.")


class QuantisableOptions(JudgeOptions):
    """How a network of billions of weights is held."""

    quantization: dict[str, Any] | None = Field(
        None,
        description="quantization_config of transformers, such as {quant_method: bitsandbytes, load_in_4bit: true}, "
        "with the package that it names. Null: none.",
    )

    @model_validator(mode="after")
    def _in_one_place(self) -> QuantisableOptions:
        if self.offload and self.quantization is not None:
            raise ValueError("offload and quantization exclude each other; expected one of them.")
        return self
