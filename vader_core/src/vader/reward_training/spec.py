"""The spec of ``vader reward train``. Sections that a run spec has too mean what they mean there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from vader.diffusion.clip_folder import ClipFolder, read_clip_folder
from vader.errors import SpecError
from vader.resolve.plan import Plan
from vader.resolve.validate import resolve
from vader.spec import Options
from vader.spec.components import ComponentField, ComponentSpec, ScoreField, named
from vader.spec.form import form_problems
from vader.spec.reading import SpecSource, read_source
from vader.spec.rollout import SamplerSpec, VideoSpec

Loss = Literal["regression", "cross_entropy", "bradley_terry"]


class ClipsSpec(Options):
    """The clips: a folder's, or the base model's own, which the reward labels."""

    folder: str | None = Field(None, min_length=1, description="Folder with clips.jsonl. Null: the model makes them.")
    count: int = Field(1024, ge=2, description="Clips that the model makes.")
    others: int = Field(
        0, ge=0, description="Other prompts, drawn at random, by which each of them is labelled besides its own."
    )
    floor: float | None = Field(
        None, description="Labels below it count as it: what is wrong anyway need not be told apart. Null: none."
    )
    group_size: int = Field(1, ge=1, description="Clips of each prompt; 2 or more for bradley_terry.")
    held_out: float = Field(0.1, gt=0, lt=1, description="Share of a folder's clips or pairs that is held out.")


class ValidationClipsSpec(Options):
    """The held-out clips of a model that makes its own."""

    prompts: ComponentField | None = Field(None, description="Prompt source. Null: the training prompts.")
    clips: int = Field(128, ge=8, description="Clips.")
    others: int = Field(0, ge=0, description="Other prompts by which each of them is labelled besides its own.")
    seed: int = Field(1234, ge=0, description="Seed of their noise and of the choice of prompts.")
    timesteps: int = Field(11, ge=2, description="Noise levels, 0 to the highest, at which the reward is judged.")


class NetworkSpec(Options):
    """The reward's network."""

    layers: int = Field(8, ge=1, description="Layers of the denoiser that it begins with.")
    heads: int = Field(8, ge=1, description="Heads of its attention; they divide the width of the tokens.")
    hidden: int | None = Field(None, ge=1, description="Width of its MLP. Null: that of the tokens.")
    init: str | None = Field(
        None, min_length=1, description="Folder of a latent reward of the same sizes to go on from. Null: a new one."
    )


class RewardOptimizationSpec(Options):
    """The optimisation of the reward."""

    steps: int = Field(2000, ge=1, description="Optimizer steps.")
    batch_size: int = Field(32, ge=1, description="Labels, or pairs, of each.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of the layers.")
    head_learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of attention and MLP.")
    gradient_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of 1 - cosine between its gradient and that of the reward which labels, at clean clips. "
        "0: it learns labels alone.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    clean: float = Field(0.2, ge=0, le=1, description="Share of clips that are not noised; the others at any timestep.")
    mixed_precision: Annotated[Literal["no", "bf16"], BeforeValidator(lambda v: "no" if v is False else v)] = Field(
        "no", description="Precision of autocast and of the model that makes clips; the reward's weights are float32."
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Device.")


class RewardTrainSpec(Options):
    """A latent reward: what it learns, from which clips, of which network."""

    backbone: Annotated[ComponentSpec, BeforeValidator(named)] = Field(description="Whose latents it scores.")
    video: VideoSpec = Field(default_factory=VideoSpec, description="The clips.")
    sampler: Annotated[SamplerSpec, BeforeValidator(named)] = Field(
        default_factory=SamplerSpec, description="How the model makes clips."
    )
    prompts: ComponentField | None = Field(None, description="Prompts of the clips that the model makes.")
    reward: ScoreField | None = Field(None, description="Labels the clips: the reward that is distilled.")
    loss: Loss = Field(
        "regression", description="regression: labels; cross_entropy: labels of 0 and 1; bradley_terry: pairs."
    )
    clips: ClipsSpec = Field(default_factory=ClipsSpec, description="The clips that it learns from.")
    validation: ValidationClipsSpec = Field(default_factory=ValidationClipsSpec, description="The held-out clips.")
    network: NetworkSpec = Field(default_factory=NetworkSpec, description="The network.")
    train: RewardOptimizationSpec = Field(default_factory=RewardOptimizationSpec, description="The optimisation.")
    output: str = Field("runs/reward", min_length=1, description="Folder of the reward.")


def read(source: Any, overrides: Sequence[str] = ()) -> tuple[RewardTrainSpec, Plan, ClipFolder | None]:
    """A judged spec, the plan of the run that makes and labels its clips, and the folder of clips if it names one.

    Args:
        source: a mapping, or the path of a YAML file.
        overrides: dotted ``path=value`` strings.

    Raises:
        SpecError: it is wrong.
    """
    raw = read_source(source, overrides)
    try:
        spec = RewardTrainSpec.model_validate(raw.data)
    except ValidationError as error:
        raise SpecError(form_problems(raw, error, RewardTrainSpec), raw.name) from error
    folder = _judge(spec, raw)
    plan = resolve(_run_of(spec, folder), training=False, here=True)
    dull = [part.name for part in plan.rewards.values() if not part.capability("differentiable")]
    if spec.train.gradient_weight and dull:
        message = f"{dull[0]!r} is not differentiable, so there is no gradient to learn. Set it to 0."
        raise SpecError([raw.problem("train.gradient_weight", message)], raw.name)
    return spec, plan, folder


def _judge(spec: RewardTrainSpec, raw: SpecSource) -> ClipFolder | None:
    """What does not go together; the folder of clips, if there is one."""
    found, problems = None, []
    if spec.clips.folder is not None:
        try:
            found = read_clip_folder(Path(spec.clips.folder))
        except ValueError as error:
            raise SpecError([raw.problem("clips.folder", str(error))], raw.name) from error
        bare = any(row.label is None for row in found.rows)
        if spec.loss == "bradley_terry" and not found.pairs:
            problems.append(raw.problem("loss", "bradley_terry needs pairs (better, worse), and the folder has none."))
        if spec.loss != "bradley_terry" and bare and spec.reward is None:
            problems.append(raw.problem("clips.folder", "some clips have no label. Add them, or name a reward."))
    else:
        for name in ("prompts", "reward"):
            if getattr(spec, name) is None:
                problems.append(raw.problem(name, "missing: the model's own clips need it. Or name clips.folder."))
        if spec.clips.count % spec.clips.group_size:
            problems.append(raw.problem("clips.count", f"expected a multiple of group_size {spec.clips.group_size}."))
        if spec.loss == "bradley_terry" and spec.clips.group_size < 2:
            message = "bradley_terry compares clips of one prompt; expected 2 or more."
            problems.append(raw.problem("clips.group_size", message))
        if spec.loss == "bradley_terry" and spec.clips.others:
            problems.append(raw.problem("clips.others", "pairs are of clips of one prompt; expected 0."))
    if spec.train.gradient_weight and (found is not None or spec.loss != "regression"):
        message = "gradients are of the reward that labels the model's own clips, for loss regression. Set it to 0."
        problems.append(raw.problem("train.gradient_weight", message))
    if problems:
        raise SpecError(problems, raw.name)
    return found


def _run_of(spec: RewardTrainSpec, folder: ClipFolder | None) -> dict[str, Any]:
    """The run spec whose model makes the clips and whose reward labels them."""
    sections = spec.model_dump(mode="json", include={"backbone", "video", "sampler", "prompts"})
    if folder is not None:
        sections["prompts"] = {"name": "list", "options": {"prompts": [row.prompt.text for row in folder.rows]}}
    train: Mapping[str, Any] = spec.train.model_dump(mode="json", include={"seed", "device", "mixed_precision"})
    held_out = spec.validation.model_dump(mode="json", include={"prompts", "clips", "seed"})
    rewards = [spec.reward.model_dump(mode="json")] if spec.reward is not None else []
    return {**sections, "rewards": rewards, "frames": {"mode": "all"}, "validation": held_out, "train": train}
