"""Components that give, change or raise what they must not: one error that names the component and what it gave."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vader
from vader import Options, Prompt, SpecError
from vader.errors import ComponentError
from vader.methods.context import PhaseTimer, RolloutContext
from vader.methods.contrast import Contrast
from vader.methods.query_counter import QueryCounter
from vader.methods.scoring import ask_latent_reward, ask_reward
from vader.plugins.registry import misfit
from vader.prompts import drawn
from vader.protocols import SCORE, Conditioning
from vader.resolve.build import FunctionReward
from vader.resolve.validate import resolve
from vader.runs.generation import generate

PROMPTS = [Prompt("a"), Prompt("b")]
SPEC = {"backbone": "shapes", "prompts": "shapes", "rewards": ["shapes_motion"]}


def clips(grad: bool = False) -> Tensor:
    return torch.rand(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(grad)


def reward(give: Callable[[Tensor], Any]) -> Any:
    return FunctionReward(lambda frames, prompts: give(frames))


def mean(frames: Tensor) -> Tensor:
    return frames.mean((1, 2, 3, 4))


GIVES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (
        lambda frames: None,
        "no tensor but None; expected a floating-point tensor",
    ),
    "a float": (lambda frames: 0.5, "no tensor but a float, 0.5"),
    "a list": (lambda frames: [0.1, 0.2], r"no tensor but a list, \[0.1, 0.2\]"),
    "an array": (lambda frames: np.zeros(2), "no tensor but a ndarray"),
    "a scalar": (lambda frames: frames.mean(), r"of shape \(\); expected \(2,\)"),
    "a column": (lambda frames: mean(frames)[:, None], r"of shape \(2, 1\)"),
    "one too many": (lambda frames: frames.new_zeros(3), r"of shape \(3,\)"),
    "integers": (lambda frames: torch.tensor([1, 2]), r"of torch.int64; .*\.float\(\)"),
    "truths": (lambda frames: torch.tensor([True, False]), "of torch.bool"),
    "complex": (lambda frames: torch.zeros(2, dtype=torch.complex64), "of torch.complex64"),
    "another device": (lambda frames: torch.zeros(2, device="meta"), "gave scores on meta; expected cpu"),
    "a part elsewhere": (
        lambda frames: {"score": mean(frames), "x": torch.zeros(2, device="meta")},
        "gave scores 'x' on meta",
    ),
    "a part of a list": (lambda frames: {"score": mean(frames), "x": [1]}, "gave scores 'x' that are no tensor"),
    "no score": (lambda frames: {"x": mean(frames)}, "gave scores called x; expected one called 'score'"),
    "a coroutine": (lambda frames: (score for score in frames), "no tensor but a generator"),
}


@pytest.mark.parametrize("name", GIVES)
def test_what_a_reward_gives_is_named(name: str) -> None:
    give, message = GIVES[name]
    with pytest.raises(ComponentError, match=message) as caught:
        ask_reward("mine", reward(give), clips(), PROMPTS)
    assert str(caught.value).startswith("reward 'mine' gave scores")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "give",
    [
        lambda frames: mean(frames).detach(),
        lambda frames: mean(frames.detach()),
        lambda frames: torch.tensor([mean(frame[None]).item() for frame in frames]),
        lambda frames: {"score": mean(frames).detach(), "x": mean(frames)},
    ],
)
def test_scores_without_a_gradient_are_named_where_one_is_needed(give: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ComponentError, match="reward 'mine' gave scores without a gradient, though it says"):
        ask_reward("mine", reward(give), clips(grad=True), PROMPTS)
    with torch.no_grad():
        assert ask_reward("mine", reward(give), clips(grad=True), PROMPTS)[SCORE].shape == (2,)

    def honest(frames: Tensor, prompts: Any) -> Any:
        return give(frames)

    honest.differentiable = False  # type: ignore[attr-defined]
    assert ask_reward("mine", FunctionReward(honest), clips(grad=True), PROMPTS)[SCORE].shape == (2,)


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyError("x"), RuntimeError("CUDA"), SystemExit(0), StopIteration()]
)
def test_what_a_reward_raises_is_named(error: BaseException) -> None:
    def give(frames: Tensor) -> Any:
        raise error

    with pytest.raises(ComponentError, match=f"reward 'mine' raised {type(error).__name__}"):
        ask_reward("mine", reward(give), clips(), PROMPTS)


def _in_numpy(frames: Tensor) -> Tensor:
    pixels = frames.detach().numpy()
    pixels *= 255
    return mean(frames)


@pytest.mark.parametrize(
    "give",
    [
        lambda frames: mean(frames.mul_(0)),
        lambda frames: mean(frames.detach().clamp_(0.4, 0.6)),
        lambda frames: mean(frames[:, :1].sub_(0.5)),
        lambda frames: mean(frames.data.zero_()),
        _in_numpy,
    ],
)
def test_frames_that_a_reward_changes_are_an_error(give: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ComponentError, match="reward 'mine' changed the frames that it was given, in place"):
        ask_reward("mine", reward(give), clips(), PROMPTS)


def test_frames_with_nan_are_not_taken_for_changed_ones() -> None:
    assert ask_reward("mine", reward(mean), clips() * torch.nan, PROMPTS)[SCORE].isnan().all()


def test_looking_for_changes_takes_no_memory() -> None:
    frames, seen = torch.rand(2, 8, 3, 64, 64), []
    ask_reward("mine", reward(lambda given: seen.append(given.data_ptr()) or mean(given)), frames, PROMPTS)
    assert seen == [frames.data_ptr()]


def test_latents_are_judged_too() -> None:
    conditioning = Conditioning({"text": torch.zeros(2, 1)})

    class Latent:
        input = "latents"

        def score(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Any:
            return mean(latents.mul_(2))

    with pytest.raises(ComponentError, match="reward 'mine' changed the latents"):
        ask_latent_reward("mine", Latent(), clips(), torch.zeros(2), conditioning)
    bad: Any = FunctionReward(lambda latents, timestep, conditioning: None)
    with pytest.raises(ComponentError, match="reward 'mine' gave scores that are no tensor but None"):
        ask_latent_reward("mine", bad, clips(), torch.zeros(2), conditioning)


def test_a_contrast_names_the_reward_too() -> None:
    made = RolloutContext.__new__(RolloutContext)
    object.__setattr__(made, "rewards", {"mine": reward(lambda frames: None)})
    object.__setattr__(made, "timer", PhaseTimer(torch.device("cpu")))
    object.__setattr__(made, "queries", QueryCounter())
    object.__setattr__(made, "contrasts", {"mine": Contrast("good", "bad")})
    with pytest.raises(ComponentError, match="reward 'mine' gave scores that are no tensor but None"):
        made.score(clips(), PROMPTS)


class Source:
    def __init__(self, given: Any) -> None:
        self._given = given

    def draw(self, n: int, rng: random.Random) -> Any:
        return self._given(n) if callable(self._given) else self._given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda n: [Prompt("a")] * (n - 1), "prompt source Source gave 3 prompts when asked for 4"),
        (lambda n: [Prompt("a")] * (n + 1), "gave 5 prompts"),
        ([], "gave 0 prompts"),
        (lambda n: ["a"] * n, "gave 'a' for a prompt; expected vader.Prompt"),
        (lambda n: [None] * n, "gave None for a prompt"),
        (lambda n: [Prompt(3)] * n, r"gave Prompt\(text=3"),  # type: ignore[arg-type]
        (None, "gave None; expected a list of 4 vader.Prompt"),
        ("abcd", "gave 'abcd'; expected a list"),
        (lambda n: (Prompt("a") for _ in range(n)), "gave <generator"),
        (lambda n: 1 / 0, "prompt source Source raised ZeroDivisionError"),
    ],
)
def test_what_a_prompt_source_gives_is_named(given: Any, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        drawn(Source(given), 4, random.Random(0))


def test_a_prompt_source_is_judged_before_weights_are_loaded(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text("class Strings:\n    def draw(self, n, rng):\n        return ['a'] * n\n")
    with pytest.raises(SpecError, match=r"prompts\.name: .*Strings.* gave 'a' for a prompt"):
        vader.check({**SPEC, "prompts": f"{tmp_path}/mine.py:Strings"})


class NoPrompts:
    def score(self, frames: Any) -> Any: ...


class Keywords:
    def score(self, *, frames: Any, prompts: Any) -> Any: ...


class Fine:
    def score(self, frames: Any, prompts: Any, extra: int = 3) -> Any: ...


class Needs:
    def __init__(self, path: str) -> None: ...

    def score(self, frames: Any, prompts: Any) -> Any: ...


class NeedsOptions:
    class Options(Options):
        path: str

    def __init__(self, options: Any) -> None: ...

    def score(self, frames: Any, prompts: Any) -> Any: ...


class Latent:
    input = "latents"

    def score(self, latents: Any, timestep: Any) -> Any: ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["shapes_motion"],
            "place 0: found the text 'shapes_motion'; expected an object. A reward is named in",
        ),
        ("shapes_motion", "the argument rewards is 'shapes_motion'; expected a list of rewards"),
        ([3], "found 3; expected an object with score, a class or a function"),
        ([None], "found None"),
        (Fine(), "expected a list of rewards"),
        ([NoPrompts], r"score is written score\(self, frames.*\).*it is called with \(self, frames, prompts\)"),
        ([NoPrompts()], r"score is written .* called with \(frames, prompts\)"),
        ([Keywords], "score is written"),
        ([lambda frames: frames], r"called with \(frames, prompts\)"),
        ([Latent], r"called with \(self, latents, timestep, conditioning\)"),
        ([Needs], "Needs needs path; offered are runtime, video, backbone"),
        ([NeedsOptions], "NeedsOptions cannot be constructed without options"),
    ],
)
def test_rewards_of_python_are_judged_before_weights_are_loaded(given: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        resolve(SPEC, rewards=given)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("given", [Fine, Fine(), lambda frames, prompts: None, lambda *seen: None])
def test_sound_rewards_of_python_pass(given: Any) -> None:
    assert len(resolve(SPEC, rewards=[given]).rewards) == 2


def test_a_source_of_another_signature_is_refused() -> None:
    class Drawn:
        def draw(self, n: int) -> Any: ...

    verdict = misfit("prompts", Drawn)
    assert verdict is not None
    assert "draw is written" in verdict.cause


@pytest.mark.parametrize("given", ["red", Prompt("red"), [3], [None], ["a", b"b"]])
def test_generate_takes_a_list_of_prompts(given: Any) -> None:
    with pytest.raises(SpecError, match=r"prompts: found .*; expected"):
        generate(SPEC, given)


@pytest.mark.parametrize("seeds", [0, "0"])
def test_generate_takes_a_list_of_seeds(seeds: Any) -> None:
    with pytest.raises(SpecError, match="seeds: found"):
        generate(SPEC, ["red"], seeds=seeds)


def test_overrides_are_a_list() -> None:
    with pytest.raises(SpecError, match=r"overrides: found the text 'train.steps=3'; expected a list") as caught:
        vader.check(SPEC, "train.steps=3")
    assert len(caught.value.problems) == 1


def test_a_reward_gets_prompts_that_it_cannot_change() -> None:
    prompts = list(PROMPTS)

    def clear(frames: Tensor, given: Sequence[Prompt]) -> Tensor:
        assert isinstance(given, tuple)
        return mean(frames)

    ask_reward("mine", FunctionReward(clear), clips(), prompts)


def _spoil(value: Any) -> None:
    """Change all that can be changed in place."""
    if isinstance(value, dict | list | set | tuple):
        for inner in list(value.values() if isinstance(value, dict) else value):
            _spoil(inner)
    if isinstance(value, dict | list | set | bytearray):
        value.clear()
    elif isinstance(value, Tensor | np.ndarray):
        value[...] = 0


def test_metadata_that_a_reward_changes_reaches_nobody() -> None:
    def metadata() -> dict[str, Any]:
        return {
            "class": "fox", "boxes": [[1, 2], {"at": [3]}], "seen": {"a", "b"}, "pair": ([1], "x"),
            "raw": bytearray(b"ab"),
            "target": torch.ones(2), "mask": np.ones(2), "none": None,
        }  # fmt: skip

    prompts = [Prompt("a", metadata()), Prompt("b", MappingProxyType(metadata()))]
    seen: list[Any] = []

    def spoil(frames: Tensor, given: Sequence[Prompt]) -> Tensor:
        seen.append(copy.deepcopy([dict(prompt.metadata) for prompt in given]))
        for prompt in given:
            _spoil(dict(prompt.metadata))
            prompt.metadata["new"] = 1  # type: ignore[index]
        return mean(frames)

    for _ in range(2):
        ask_reward("mine", FunctionReward(spoil), clips(), prompts)
    for made in (*seen[0], *seen[1], *(dict(prompt.metadata) for prompt in prompts)):
        assert made.keys() == metadata().keys()
        assert made["boxes"] == [[1, 2], {"at": [3]}]
        assert (made["seen"], made["pair"], made["raw"]) == ({"a", "b"}, ([1], "x"), bytearray(b"ab"))
        assert float(made["target"].sum()) == float(made["mask"].sum()) == 2


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda latents, timestep, conditioning: timestep.mul_(2), "timestep"),
        (lambda latents, timestep, conditioning: conditioning.positive["text"].add_(1), "conditioning"),
        (lambda latents, timestep, conditioning: conditioning.negative["text"].numpy().fill(3), "conditioning"),
        (lambda latents, timestep, conditioning: conditioning.positive["mask"].logical_not_(), "conditioning"),
    ],
)
def test_conditioning_that_a_reward_changes_is_an_error(spoil: Callable[..., Any], what: str) -> None:
    conditioning = Conditioning(
        {"text": torch.zeros(2, 1), "mask": torch.ones(2, 1, dtype=torch.bool)}, {"text": torch.ones(2, 1)}
    )

    class Latent:
        input = "latents"

        def score(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Any:
            spoil(latents, timestep, conditioning)
            return mean(latents)

    with pytest.raises(ComponentError, match=f"reward 'mine' changed the {what}"):
        ask_latent_reward("mine", Latent(), clips(), torch.ones(2), conditioning)


def test_a_branch_that_a_reward_empties_is_its_own() -> None:
    conditioning = Conditioning({"text": torch.zeros(2, 1)}, {"text": torch.ones(2, 1)})

    class Latent:
        input = "latents"

        def score(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Any:
            conditioning.positive.clear()  # type: ignore[attr-defined]
            conditioning.negative["new"] = latents  # type: ignore[index]
            return mean(latents)

    ask_latent_reward("mine", Latent(), clips(), torch.ones(2), conditioning)
    assert (list(conditioning.positive), list(conditioning.negative or {})) == (["text"], ["text"])
