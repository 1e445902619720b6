"""Components by name, with what a spec says of one: a backbone and its adapters, rewards and their part in the loss."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vader.spec.options import Options


def named(value: Any) -> Any:
    """``shapes`` is short for ``{name: shapes}``."""
    return {"name": value} if isinstance(value, str) else value


class ComponentSpec(Options):
    """A component by name, with its options."""

    name: str = Field(min_length=1, description="Registered name, or ./file.py:Class for unpackaged code.")
    options: dict[str, Any] = Field(default_factory=dict, description="The component's own options.")


class AdapterSpec(Options):
    """The LoRA adapter (Hu et al. 2021) that is trained. Defaults are named, so that every type checker sees them."""

    rank: int = Field(default=16, ge=1, description="Rank of the update.")
    alpha: float | None = Field(
        default=None, gt=0, description="Scale numerator; the update is scaled by alpha / rank. Null: init's, or rank."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input while training.")
    target_modules: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Layers that carry it. Null: init's, or the backbone's choice."
    )
    init: str | None = Field(
        default=None, description="Folder, file or hub:owner/name[:file] to start from. Null: zero."
    )


class FrozenAdapterSpec(Options):
    """An adapter fused into the model, such as one that lets it do with few steps; neither trained nor saved."""

    init: str = Field(min_length=1, description="Folder, file or hub:owner/name[:file], in any format.")
    scale: float = Field(1.0, description="Factor of its update.")
    expert: str | None = Field(None, min_length=1, description="Of a model with experts, the one that it is for.")


class BackboneSpec(ComponentSpec):
    """The text-to-video model."""

    adapter: AdapterSpec = Field(default_factory=AdapterSpec, description="The adapter that is trained.")
    frozen_adapters: tuple[FrozenAdapterSpec, ...] = Field(
        (), description="Adapters fused into the model under the one that is trained, in this order."
    )


class IsolateSpec(Options):
    """Another process for a reward, whose packages cannot live with the run's."""

    python: str = Field(min_length=1, description="Its interpreter, such as /path/to/venv/bin/python.")
    timeout: float = Field(600.0, gt=0, description="Seconds that a call may take.")
    startup_timeout: float = Field(600.0, gt=0, description="Seconds that loading the reward may take.")


class ScoreSpec(ComponentSpec):
    """A reward that judges clips."""

    label: str | None = Field(None, min_length=1, description="Name in the logs. Null: the reward's name.")
    isolate: IsolateSpec | None = Field(None, description="Run it in another interpreter. Null: in this one.")

    @property
    def key(self) -> str:
        """The name this reward has in logs and tables."""
        return self.label or self.name


class ContrastSpec(Options):
    """A reward relative to itself: (1 + k) times the score for one phrase, minus that for another (SRPO)."""

    positive: str = Field(description="Phrase in front of the prompt; or a text with {prompt} in it.")
    negative: str = Field(description="The same of what is subtracted.")
    k: float = Field(0.0, ge=0, description="How much more the positive phrase counts.")


class RewardSpec(ScoreSpec):
    """A reward and its part in the loss: maximised, raised to a threshold, or drawn to a target."""

    weight: float = Field(1.0, ge=0, description="Factor of this reward's term.")
    target: float | None = Field(None, description="Score to come near to (L1). Null: maximise.")
    threshold: float | None = Field(None, description="Score above which nothing more is gained. Null: none.")
    normalize: Literal["none", "running", "base"] = Field(
        "none",
        description="Divide the term by the scores' spread: base: that of the first validation; running: moving from "
        "there with the scores of each optimizer step.",
    )
    contrast: ContrastSpec | None = Field(
        None, description="Score by two phrases in the prompt, one against the other. Null: by the prompt."
    )


ComponentField = Annotated[ComponentSpec, BeforeValidator(named)]
ScoreField = Annotated[ScoreSpec, BeforeValidator(named)]
RewardField = Annotated[RewardSpec, BeforeValidator(named)]
