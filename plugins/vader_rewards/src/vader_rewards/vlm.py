"""Questions about clips to Qwen's vision-language networks of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader import SpecError, WeightsError
from vader.sdk import Problem
from vader_rewards import pixels, qwen, weights

KINDS = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
"""``model_type`` -> class of transformers."""
_STAMPED = "qwen3_vl"
"""The family that is told the time of each pair of frames, instead of by positions."""
_HALF = (0.5, 0.5, 0.5)
_UNKNOWN_FPS = 24.0
"""What transformers takes for clips that do not tell their rate."""


def kind_of(config: Mapping[str, Any], name: str) -> Any:
    """The class of a network that can be asked.

    Raises:
        vader.WeightsError: it is of another family.
    """
    import transformers

    found = config.get("model_type")
    if found not in KINDS:
        raise WeightsError(f"`weights: {name}` is a {found}; expected one of {', '.join(KINDS)}.")
    return getattr(transformers, KINDS[str(found)])


@dataclass(frozen=True)
class Look:
    """How frames are shown to a network.

    Args:
        patch: its side in pixels.
        merge: patches of a side that become one feature.
        mean: by which pixels are normalised.
        std: likewise.
    """

    patch: int
    merge: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: Any, settings: Mapping[str, Any]) -> Look:
        """By a network's configuration, and that of its processor."""
        vision = config.vision_config
        stamped = config.model_type == _STAMPED
        mean = settings.get("image_mean", _HALF if stamped else pixels.CLIP_MEAN)
        std = settings.get("image_std", _HALF if stamped else pixels.CLIP_STD)
        return cls(vision.patch_size, vision.spatial_merge_size, tuple(mean), tuple(std))

    @property
    def factor(self) -> int:
        """Pixels of a side that are one token."""
        return self.patch * self.merge

    def patches(self, clips: Tensor, size: tuple[int, int]) -> Tensor:
        """Frames ``(n t 3 h w)`` in [0, 1] as the network takes them."""
        return qwen.patches(qwen.ready(clips, size, self.mean, self.std), self.patch, self.merge)


class Dialogue:
    """Puts questions about one clip into tokens.

    Args:
        tokenizer: of transformers.
        template: of its dialogues (Jinja); None for the tokenizer's own.
        stamped: each pair of frames is told with its time.
        name: of the weights, for errors.
    """

    def __init__(self, tokenizer: Any, template: str | None, stamped: bool, name: str) -> None:
        self._tokenizer, self._template, self._stamped = tokenizer, template, stamped
        if template is None and not getattr(tokenizer, "chat_template", None):
            raise WeightsError(f"{name} has no chat template. Fetch it again with `hf download {name}`.")

    def token(self, answer: str, where: str) -> int:
        """The one token of an answer.

        Raises:
            vader.SpecError: it is several.
        """
        found: list[int] = self._tokenizer(answer, add_special_tokens=False)["input_ids"]
        if len(found) != 1:
            parts = ", ".join(map(repr, self._tokenizer.convert_ids_to_tokens(found)))
            message = f"the answer {answer!r} is {len(found)} tokens ({parts}); expected one. Take a shorter word."
            raise SpecError([Problem(where, message)])
        return found[0]

    def encode(self, questions: Sequence[str], grid: qwen.Grid, merge: int, times: Sequence[float]) -> list[list[int]]:
        """Tokens of each question, a row for each.

        Args:
            questions: about the clip.
            grid: its patches.
            merge: patches of a side that become one feature.
            times: of each pair of frames, in seconds.

        Raises:
            vader.SpecError: a question holds a token of the network.
        """
        qwen.refuse_tokens(self._tokenizer, questions)
        pads = qwen.VIDEO * (grid.tokens(merge) // grid.time)
        shown = f"<|vision_start|>{pads * grid.time}<|vision_end|>"
        if self._stamped:  # as Qwen3-VL was released; transformers 5.24 leaves marks around all pairs too
            shown = "".join(f"<{time:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for time in times)
        place = f"<|vision_start|>{qwen.VIDEO}<|vision_end|>"
        return [self._tokenizer(self._told(question).replace(place, shown))["input_ids"] for question in questions]

    def positions(self, length: int, rows: int) -> None:
        """The network counts positions itself, by its multimodal rule."""

    def _told(self, question: str) -> str:
        content = [{"type": "video"}, {"type": "text", "text": question}]
        told: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
        )
        return told


class MetaDialogue:
    """In the place of :class:`Dialogue`: questions of a typical length.

    Args:
        video: number of the token in whose place features stand.
        length: tokens of a question.
    """

    def __init__(self, video: int, length: int = 60) -> None:
        self._video, self._length = video, length

    def token(self, answer: str, where: str) -> int:
        """Some token."""
        return len(answer)

    def encode(self, questions: Sequence[str], grid: qwen.Grid, merge: int, times: Sequence[float]) -> list[list[int]]:
        """See :meth:`Dialogue.encode`."""
        return [[0] * 8 + [self._video] * grid.tokens(merge) + [0] * self._length for _ in questions]

    def positions(self, length: int, rows: int) -> Tensor:
        """``(3 rows length)``: plain ones, since the network's own rule reads numbers that are not there."""
        return torch.arange(length).expand(3, rows, -1)


def template_of(source: Path, name: str) -> str | None:
    """The dialogue template that older folders keep in a file of its own."""
    if not (source / "chat_template.json").is_file():
        return None
    return str(weights.configuration(source, name, "chat_template.json")["chat_template"])


Positions = Callable[[int, int], Tensor | None]
"""Of tokens, by their number and that of rows; None for the network's own."""


def answers(
    network: Any, seen: Tensor, grid: qwen.Grid, rows: Sequence[Sequence[int]], seconds: float, positions: Positions
) -> Tensor:
    """What the network says after each question about one clip: logits over its vocabulary, ``(q v)``.

    Args:
        network: of :data:`KINDS`.
        seen: patches of the clip.
        grid: of them.
        rows: tokens of each question.
        seconds: from one pair of frames to the next.
        positions: of their tokens.
    """
    device, count = seen.device, len(rows)
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    video = network.config.video_token_id
    features = network.model.get_video_features(seen, grid.tensor(1).to(device), return_dict=True)
    features.pooler_output = tuple(features.pooler_output) * count
    if hasattr(features, "deepstack_features"):
        features.deepstack_features = [tuple(feature) * count for feature in features.deepstack_features]
    more = {"second_per_grid_ts": [seconds] * count} if network.config.model_type == "qwen2_5_vl" else {}
    hidden = network.model(
        input_ids=ids.to(device),
        position_ids=positions(longest, count),
        mm_token_type_ids=((ids == video) * 2).to(device),
        video_grid_thw=grid.tensor(count).to(device),
        mm_encoder_outputs={"video": features},
        use_cache=False,
        **more,
    ).last_hidden_state
    last = torch.tensor([len(row) - 1 for row in rows], device=device)
    chosen = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)
    logits: Tensor = network.lm_head(chosen)
    return logits.to(pixels.wide(logits.dtype))


def log_odds(logits: Tensor, answer: Tensor, against: int | None) -> Tensor:
    """Of an answer against another one, or against all others: ``(q v)``, ``(q,)`` -> ``(q,)``."""
    wanted = logits.gather(1, answer[:, None])
    if against is not None:
        return wanted.squeeze(1) - logits[:, against]
    others = logits.scatter(1, answer[:, None], float("-inf"))
    return wanted.squeeze(1) - others.logsumexp(1)


def pair_times(places: Sequence[int], fps: float | None) -> list[float]:
    """When each pair of frames is, in seconds."""
    rate = fps or _UNKNOWN_FPS
    return [(first + second) / 2 / rate for first, second in zip(places[::2], places[1::2], strict=True)]


def outlined(config: Mapping[str, Any], dtype: torch.dtype, name: str) -> nn.Module:
    """A network on the meta device."""
    from vader.sdk import meta_network

    found: nn.Module = meta_network(kind_of(config, name), config, dtype).requires_grad_(False).eval()
    return found
