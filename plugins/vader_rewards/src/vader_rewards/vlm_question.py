"""A question about the clip to a vision-language network: how likely is the answer?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from vader import Prompt, Runtime, SpecError, Video
from vader.sdk import Problem
from vader_rewards.holding import QuantisableOptions

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import Frames, Place, Scores
    from vader_rewards.judge import Judge
    from vader_rewards.vlm import Dialogue, Look, MetaDialogue

BASE = "Qwen/Qwen2-VL-2B-Instruct"
METADATA = "questions"


class VlmQuestionOptions(QuantisableOptions):
    """Options of :class:`VlmQuestion`."""

    weights: str = Field(
        BASE,
        min_length=1,
        description="Any Qwen2-VL, Qwen2.5-VL or Qwen3-VL of transformers: a hub id (owner/name) or a local folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    questions: tuple[str, ...] = Field(
        ("Does the clip show {prompt}? Answer Yes or No.",),
        min_length=1,
        description="Questions, whose scores are averaged; {prompt} is the prompt's place. A prompt's own, in its "
        "metadata `questions`, take their place.",
    )
    answer: str = Field("Yes", min_length=1, description="The answer that is wanted; one token.")
    against: str | None = Field(
        "No", min_length=1, description="The answer that is not wanted; one token. Null: every other token."
    )
    scale: Literal["log_odds", "probability"] = Field(
        "log_odds", description="log_odds: log p / (1 - p), with a gradient everywhere. probability: p."
    )
    fps: float = Field(2.0, gt=0, description="Frames a second that are looked at; at least four.")
    num_frames: int | None = Field(None, ge=2, description="Frames that are looked at, in place of fps. Null: by fps.")
    clip_fps: float | None = Field(None, gt=0, description="Frames a second of the clips. Null: the run's own.")
    min_pixels: int = Field(128 * 28 * 28, ge=28 * 28, description="Smaller frames are enlarged to this many pixels.")
    max_pixels: int = Field(256 * 28 * 28, ge=28 * 28, description="Larger frames are shrunk to this many pixels.")

    @field_validator("questions")
    @classmethod
    def _words(cls, asked: tuple[str, ...]) -> tuple[str, ...]:
        if not all(question.strip() for question in asked):
            raise ValueError("a question is empty; expected words, with {prompt} for the prompt.")
        return asked


class VlmQuestion:
    """How likely a vision-language network gives the wanted answer to questions about the clip, as log-odds.

    0 is even odds. Its tokenizer decides which answers are one token; others are refused.

    Args:
        options: which network, questions and answers, what is looked at.
        runtime: device and dtype of the network; log-odds are in float32.
        video: of the run, for its frames per second.

    Raises:
        vader.RegistryError: if the package that quantises is not installed.
        vader.SpecError: if an answer is more than one token.
        vader.WeightsError: if the weights cannot be loaded.

    Source: VQAScore (Lin et al. 2024, arXiv 2404.01291) asks so of pictures.
    """

    Options = VlmQuestionOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True
    frames: ClassVar[int] = 2

    def __init__(self, options: VlmQuestionOptions, runtime: Runtime, video: Video | None = None) -> None:
        from vader_rewards import towers, vlm, weights

        name = options.weights
        source = weights.folder(name, options.revision)
        config = weights.configuration(source, name)
        kind = vlm.kind_of(config, name)

        def build() -> Any:
            return weights.model(kind, source, name, runtime.dtype, options.quantization, strict=True)

        judge = towers.judge(("vlm", str(source)), build, options, runtime)
        stamped = config["model_type"] == "qwen3_vl"
        tokenizer = weights.tokenizer(source, name)
        dialogue = vlm.Dialogue(tokenizer, vlm.template_of(source, name), stamped, name)
        look = vlm.Look.of(judge.network.config, weights.processor(source, name))
        self._set_up(options, judge, dialogue, look, video)

    @classmethod
    def meta_init(cls, options: VlmQuestionOptions, runtime: Runtime, place: Place, video: Video) -> VlmQuestion:
        """See :class:`vader.sdk.MetaBuildable`; without a folder, for the published Qwen2-VL alone."""
        from vader_rewards import meta_init, towers, vlm
        from vader_rewards.qwen_sizes import PUBLISHED

        config = meta_init.config(options.weights, PUBLISHED)
        network: Any = vlm.outlined(config, runtime.dtype, options.weights)
        reward = cls.__new__(cls)
        look, dialogue = vlm.Look.of(network.config, {}), vlm.MetaDialogue(network.config.video_token_id)
        reward._set_up(options, towers.placed(network, options, runtime, place), dialogue, look, video)
        return reward

    def _set_up(
        self,
        options: VlmQuestionOptions,
        judge: Judge,
        dialogue: Dialogue | MetaDialogue,
        look: Look,
        video: Video | None,
    ) -> None:
        self._options, self._judge, self._dialogue, self._look = options, judge, dialogue, look
        self._video = video
        self._answer = dialogue.token(options.answer, "answer")
        self._against = dialogue.token(options.against, "against") if options.against is not None else None

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Mapping[str, Scores]:
        """``(b f 3 h w)`` in [0, 1], f at least 2, and ``b`` prompts -> the score and the probability, each ``(b,)``.

        Raises:
            ValueError: a single frame.
            vader.SpecError: a prompt's questions are no questions, or an answer is more than one token.
        """
        import torch

        from vader_rewards import pixels, qwen, sampling, vlm

        pixels.images(frames)
        options, look, network, against = self._options, self._look, self._judge.network, self._against
        fps = options.clip_fps
        if fps is None and self._video is not None:
            fps = sampling.fps_of(frames.shape[1], self._video.frames, self._video.fps)
        places = sampling.looked_at("vlm_question", frames.shape[1], fps, options.fps, options.num_frames)
        size = sampling.size_within(*frames.shape[-2:], options.min_pixels, options.max_pixels, look.factor)
        grid = qwen.grid_of(len(places), size, look.patch)
        times = vlm.pair_times(places, fps)
        seconds = (times[-1] - times[0]) / max(len(times) - 1, 1)
        asked = [self._asked(prompt) for prompt in prompts]
        rows = [self._dialogue.encode([q for q, _ in each], grid, look.merge, times) for each in asked]

        def columns(clip: Tensor, which: slice) -> Tensor:
            wanted = torch.tensor([answer for _, answer in asked[which.start]], device=clip.device)
            seen, texts = look.patches(clip, size), rows[which.start]
            logits = vlm.answers(network, seen, grid, texts, seconds, self._dialogue.positions)
            odds = vlm.log_odds(logits, wanted, against)
            chance = odds.sigmoid().mean()
            return torch.stack([odds.mean() if options.scale == "log_odds" else chance, chance])[None]

        found = self._judge.score(columns, frames[:, places].to(pixels.wide(frames.dtype)), 1)
        return {"score": found[:, 0], "probability": found[:, 1]}

    def _asked(self, prompt: Prompt) -> list[tuple[str, int]]:
        """Questions about a prompt's clip, each with the token of its wanted answer."""
        own = prompt.metadata.get(METADATA)
        if own is None:
            return [(q.replace("{prompt}", prompt.text), self._answer) for q in self._options.questions]
        listed = [own] if isinstance(own, str) else own
        fine = isinstance(listed, Sequence) and listed and all(_is_question(each) for each in listed)
        if not fine:
            message = (
                f"prompt {prompt.text!r} has the metadata `{METADATA}: {own!r}`; expected a question, or a list of "
                "questions or of {question, answer}."
            )
            raise SpecError([Problem("prompts", message)])
        pairs = [(each, None) if isinstance(each, str) else (each["question"], each.get("answer")) for each in listed]
        return [
            (question, self._answer if answer is None else self._dialogue.token(answer, f"metadata.{METADATA}"))
            for question, answer in pairs
        ]


def _is_question(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("question"), str)
        and isinstance(value.get("answer", ""), str)
        and value.keys() <= {"question", "answer"}
    )
