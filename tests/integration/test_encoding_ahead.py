"""Prompts are encoded before a run's first step, and what encodes them does not stay in memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.harness import BRIGHTNESS, assert_same_adapter, merged

import vader
import vader_diffusers.tiny
import vader_diffusers.wan
import vader_modelscope.tiny
from vader.backbones.backbone import FamilyBackbone
from vader.diffusion import conditioning
from vader.diffusion.conditioning import ConditioningCache
from vader.estimation import estimate, watched_step
from vader.estimation.watched_step import ENCODING, WINDOW
from vader.protocols import Prompt, Runtime
from vader.runs import course
from vader_modelscope.backbone import ModelScope, ModelScopeOptions

RUNTIME = Runtime(torch.device("cpu"), torch.float32)
PROMPTS = ["a red circle", "a blue square", "a green triangle"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(vader_diffusers.tiny.write(tmp_path_factory.mktemp("wan")))


@pytest.fixture
def run(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[vader.RunResult, Hears]]:
    """``run(name, changes, listener) -> result, what was heard``; conditioning is kept on disk by run."""

    def run(name: str, changes: Mapping[str, Any] | None = None, **options: Any) -> tuple[vader.RunResult, Hears]:
        monkeypatch.setenv("VADER_CACHE_HOME", str(tmp_path / f"cache-{name}"))
        hears = Hears(**options)
        with monkeypatch.context() as patch:
            assemble = FamilyBackbone._assemble

            def noted(self: FamilyBackbone, *arguments: Any) -> None:
                hears.backbone = self
                assemble(self, *arguments)

            patch.setattr(FamilyBackbone, "_assemble", noted)
            result = vader.train(merged(spec(weights, tmp_path / name), changes or {}), listeners=[hears])
        return result, hears

    return run


def spec(weights: str, output: Path) -> dict[str, Any]:
    return {
        "backbone": {"name": "wan", "options": {"weights": weights}, "adapter": {"rank": 2}},
        "video": {"frames": 5, "height": 32, "width": 32},
        "sampler": {"steps": 2, "guidance_scale": 3.0},
        "prompts": {"name": "list", "options": {"prompts": PROMPTS}},
        "rewards": [BRIGHTNESS],
        "train": {"steps": 3, "batch_size": 1, "device": "cpu", "learning_rate": 0.01},
        "validation": {"clips": 2, "prompts": {"name": "list", "options": {"prompts": ["a fox", "a red circle"]}}},
        "output": str(output),
    }


class Hears:
    """Notes progress, and which text encoders are there when a clip of validation is made and at each step."""

    def __init__(self, stop: bool = False) -> None:
        self.backbone: Any = None
        self.encoded: list[tuple[int, int]] = []
        self.there: list[set[str]] = []
        self._stop = stop

    @vader.hookimpl
    def vader_encoding_progress(self, done: int, total: int) -> None:
        self.encoded.append((done, total))
        assert self.backbone.text.encoders
        if self._stop:
            os.kill(os.getpid(), signal.SIGTERM)

    @vader.hookimpl
    def vader_validation_progress(self) -> None:
        self.there.append(set(self.backbone.text.encoders))

    @vader.hookimpl
    def vader_step_finished(self) -> None:
        self.there.append(set(self.backbone.text.encoders))


def test_the_encoder_is_gone_and_the_numbers_stay(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, ahead = run("ahead")
    assert ahead.encoded == [(done, 4) for done in range(1, 5)], "three to train on, and one more to validate"
    assert ahead.there == [set()] * (2 + 3 + 2)
    assert ahead.backbone.pipeline.text_encoder is None

    monkeypatch.setattr(course, "coming", lambda *_: [])
    second, usual = run("usual")
    assert usual.encoded == []
    assert usual.there == [{"text_encoder"}] * 7
    assert_same_adapter(first.folder / "adapter", second.folder / "adapter")
    assert [v.clips for v in first.validations] == [v.clips for v in second.validations]


def test_only_prompts_that_will_be_asked_for_are_encoded(run: Any) -> None:
    many = {"prompts": {"options": {"prompts": [f"prompt {n}" for n in range(40)]}}, "validation": {"clips": 0}}
    _, heard = run("many", many)
    assert heard.encoded[-1] == (3, 3)
    assert heard.there == [set()] * 3


def test_where_there_is_no_room_prompts_are_encoded_as_they_come(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditioning, "DISK_BYTES", 10)
    _, heard = run("no-room")
    assert heard.encoded == []
    assert heard.there[-1] == {"text_encoder"}


def test_a_signal_ends_the_encoding(run: Any) -> None:
    result, heard = run("stopped", stop=True)
    assert (result.stopped, result.step, result.validations) == ("SIGTERM", 0, ())
    assert heard.encoded == [(1, 4)]


def test_a_new_prompt_loads_the_encoder_again(weights: str) -> None:
    backbone = vader_diffusers.wan.Wan(vader_diffusers.wan.WanOptions(weights=weights), RUNTIME)
    before = backbone.encode([Prompt("a fox")])
    backbone.release_text_encoder()
    assert not backbone.text.encoders
    after = backbone.encode([Prompt("a fox")])
    assert torch.equal(before.positive["encoder_hidden_states"], after.positive["encoder_hidden_states"])


def test_an_encoder_that_is_part_of_the_denoiser_stays(tmp_path: Path) -> None:
    options = ModelScopeOptions(weights=str(vader_modelscope.tiny.write(tmp_path)), text_adapter=True)
    backbone = ModelScope(options, RUNTIME)
    backbone.release_text_encoder()
    assert backbone.text.encoders["text_encoder"] is backbone.denoiser.get_submodule("text_encoder")


def test_what_is_kept_is_known() -> None:
    class Encoder:
        def encode(self, prompts: Any) -> Any:
            rows = torch.tensor([[[float(len(prompt.text))]] for prompt in prompts])
            return vader.Conditioning({"embeds": rows})

    cache = ConditioningCache(Encoder(), torch.device("cpu"), limit=8)  # type: ignore[arg-type]
    short, long, longest = (Prompt("x" * n) for n in (1, 2, 3))
    assert cache.has_room(short, 2)
    assert not cache.has_room(short, 3)
    assert list(cache.ahead([short, long, short])) == [(1, 2), (2, 2)]
    assert cache.keeps([short, long])
    list(cache.ahead([longest]))
    assert not cache.keeps([short, longest]), "the one that was used last must go where there is no disk"


def test_the_estimate_counts_the_encoder_while_it_encodes(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = merged(spec(weights, tmp_path), {"validation": {"clips": 0}, "train": {"gradient_accumulation": 3}})
    ahead = estimate(plain).training
    monkeypatch.setattr(watched_step, "coming", lambda *_: [])
    usual = estimate(plain).training
    encoder = vader_diffusers.wan.Wan(vader_diffusers.wan.WanOptions(weights=weights), RUNTIME).text_encoder
    size = sum(parameter.nbytes for parameter in encoder.parameters())
    assert ahead.most["weights: text encoder"] == size
    assert ahead.phases[ENCODING] >= size
    assert usual.phases[WINDOW] - ahead.phases[WINDOW] == size
