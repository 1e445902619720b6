"""Methods and variants through ``vader.train``: they learn, resume bit-equal, are refused where they cannot work."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.integration.harness import (
    PROMPT_LENGTH,
    WORDING,
    At,
    Crash,
    Notices,
    adapter,
    assert_same_adapter,
    assert_same_run,
    crash,
    merged,
    records,
    tiny,
)

import vader
from vader.report.statistics import paired_change

STEPS = 6
GRADIENT_FREE: dict[str, Any] = {
    "backbone": {"adapter": {"dropout": 0.0}},
    "sampler": {"eta": 1.0},
    "gradient": {"mode": "last"},
    "train": {"batch_size": 2},
}
FLOW: dict[str, Any] = {
    "backbone": {"options": {"prediction": "flow"}, "adapter": {"dropout": 0.0}},
    "sampler": {"name": "flow_euler"},
    "gradient": {"mode": "last"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "flowbp": merged(FLOW, {"method": {"name": "flowbp", "options": {"variant": "bridge", "reuse": 2}}}),
    "leapalign": merged(FLOW, {"method": {"name": "leapalign"}}),
    "srpo": merged(
        FLOW,
        {
            "method": {"name": "srpo", "options": {"reuse": 2}},
            "rewards": [{"name": WORDING, "contrast": {"positive": "sharp.", "negative": "dull."}}],
        },
    ),
    "nft": merged(
        FLOW,
        {
            "method": {"name": "nft", "options": {"group_size": 2, "reuse": 3, "decay_rate": 0.3}},
            "train": {"batch_size": 2},
        },
    ),
    "awm": merged(
        FLOW,
        {
            "method": {"name": "awm", "options": {"group_size": 2, "reuse": 3, "draws": 2, "kl_weight": 0.1}},
            "train": {"batch_size": 2},
        },
    ),
    "ddpo": merged(
        GRADIENT_FREE,
        {
            "method": {
                "name": "ddpo",
                "options": {"group_size": 2, "inner_epochs": 3, "train_steps": 2, "min_count": 2},
            }
        },
    ),
    "mixgrpo": merged(
        GRADIENT_FREE,
        {"method": {"name": "mixgrpo", "options": {"group_size": 2, "window": 1, "every": 1, "reuse": 2}}},
    ),
    "ddpo, every prompt alone": merged(GRADIENT_FREE, {"method": {"name": "ddpo", "options": {"kl_weight": 0.1}}}),
    "dpo": merged(GRADIENT_FREE, {"method": {"name": "dpo", "options": {"inner_epochs": 2, "draws": 2}}}),
    "renoise": {"gradient": {"mode": "last", "renoise": 2}},
    "kl": {"method": {"name": "reward_gradient", "options": {"kl_weight": 0.1}}},
    "drtune": {"gradient": {"mode": "uniform", "k": 2, "stop_gradient": True}},
    "subset": {"gradient": {"mode": "subset", "k": 2}},
    "refl": {"gradient": {"mode": "rand", "k": 2, "original": True}},
    "ema": {"train": {"ema_decay": 0.9, "validate_every": 2}, "validation": {"clips": 2, "save_clips": 0}},
}

EVERY_CHANGE = ["flowbp", "nft", "ddpo", "dpo", "drtune", "ema"]
"""Those that every test run interrupts: pieces of a rollout, weights of its own, on-policy, pairs, cut, averaged."""


def spec(folder: Path, variant: str, **changes: Any) -> dict[str, Any]:
    return merged(tiny(folder, **VARIANTS[variant]), changes)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[pytest.mark.slow] * (name not in EVERY_CHANGE)) for name in VARIANTS]
)
def test_interrupted_at_every_step_it_ends_bit_equal(variant: str, tmp_path: Path) -> None:
    unbroken, folder = tmp_path / "unbroken", tmp_path / "run"
    assert vader.train(spec(unbroken, variant)).step == STEPS
    assert any(tensor.abs().sum() > 0 for name, tensor in adapter(unbroken / "adapter").items() if "lora_B" in name)
    for step in range(1, STEPS):
        listener = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert vader.train(spec(folder, variant), resume=True, listeners=[listener]).step == step
    assert vader.train(spec(folder, variant), resume=True).step == STEPS
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize("variant", ["ddpo", "dpo", "ema"])
def test_a_crash_between_checkpoints_ends_bit_equal(variant: str, tmp_path: Path) -> None:
    unbroken, folder = tmp_path / "unbroken", tmp_path / "run"
    vader.train(spec(unbroken, variant))
    with pytest.raises(Crash):
        vader.train(spec(folder, variant), listeners=[At(5, crash)])
    vader.train(spec(folder, variant), resume=True)
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize("variant", ["ddpo", "dpo"])
def test_the_same_clips_serve_several_updates(variant: str, tmp_path: Path) -> None:
    """Rewards are those of the same clips until the round is over."""
    vader.train(spec(tmp_path / "run", variant))
    rewards = [line["reward"] for line in records(tmp_path / "run")]
    inner_epochs = VARIANTS[variant]["method"]["options"]["inner_epochs"]
    rounds = [rewards[start : start + inner_epochs] for start in range(0, STEPS, inner_epochs)]
    assert all(len(set(one)) == 1 for one in rounds), rewards
    assert len({one[0] for one in rounds}) == len(rounds)


@pytest.mark.parametrize("variant", ["ddpo", "dpo"])
def test_a_reward_without_a_gradient_is_trained_on(variant: str, tmp_path: Path) -> None:
    made = spec(tmp_path / "run", variant)
    made["rewards"] = [PROMPT_LENGTH]
    assert vader.train(made).step == STEPS
    made = tiny(tmp_path / "other")
    made["rewards"] = [PROMPT_LENGTH]
    with pytest.raises(vader.SpecError, match="is not differentiable"):
        vader.train(made)


@pytest.mark.parametrize(
    ("name", "options"), [("ddpo", {"group_size": 8, "min_count": 8}), ("dpo", {"beta": 20.0, "inner_epochs": 2})]
)
def test_it_learns(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The reward of the same validation clips rises, the 95 % interval of its mean above zero."""
    made = tiny(
        tmp_path / "run",
        **merged(GRADIENT_FREE, {"train": {"batch_size": 8}}),
        method={"name": name, "options": options},
    )
    made = merged(made, {"frames": {"mode": "all"}, "validation": {"clips": 16, "save_clips": 0}})
    train = {
        "steps": 60,
        "gradient_accumulation": 2,
        "warmup_steps": 0,
        "schedule": "constant",
        "checkpoint_every": 100,
    }
    made = merged(made, {"train": train})
    first, last = vader.train(made).validations
    before, after = ([clip.scores["brightness"] for clip in one.clips] for one in (first, last))
    change = paired_change(before, after)
    assert change.interval is not None
    assert change.interval.low > 0, change


# -- moving average and early stop


def test_what_is_kept_is_the_average(tmp_path: Path) -> None:
    """The raw weights go on in checkpoints as they would without it."""
    vader.train(spec(tmp_path / "plain", "ema", train={"ema_decay": None}))
    vader.train(spec(tmp_path / "ema", "ema"))
    last = Path("checkpoints") / "step-000006" / "adapter"
    assert_same_adapter(tmp_path / "plain" / last, tmp_path / "ema" / last)
    raw, kept = adapter(tmp_path / "ema" / last), adapter(tmp_path / "ema" / "adapter")
    assert max(float((raw[name] - kept[name]).abs().max()) for name in raw) > 1e-4


class Peak:
    """A held-out score that is highest at the validation after optimizer step 4, and falls then."""

    differentiable = False

    def __init__(self) -> None:
        self.calls = 0

    def score(self, frames: Any, prompts: Any) -> Any:
        """``(b,)``, the same for every clip."""
        self.calls += 1
        return frames.new_full((len(frames),), -abs(self.calls - 1 - 2.0))


def early(folder: Path, **changes: Any) -> dict[str, Any]:
    made = tiny(folder)
    stop = {"score": "held", "patience": 2}
    section = {"steps": 40, "validate_every": 2, "checkpoint_every": 5, "early_stop": stop}
    held = {"name": f"{__file__}:Peak", "label": "held"}
    validation = {"clips": 2, "batch_size": 2, "save_clips": 0, "rewards": [held]}
    return merged(merged(made, {"train": section, "validation": validation}), changes)


def test_the_best_adapter_is_kept_when_the_held_out_score_falls(tmp_path: Path) -> None:
    notices = Notices()
    result = vader.train(early(tmp_path / "run"), listeners=[notices])
    assert (result.step, result.stopped, result.adapter_step) == (8, None, 4)
    assert "the adapter of optimizer step 4 is kept" in str(notices)
    until = early(tmp_path / "four", train={"steps": 4, "warmup_steps": 2, "schedule": "constant", "early_stop": None})
    full = early(tmp_path / "full", train={"schedule": "constant"})
    vader.train(until)
    assert vader.train(full).adapter_step == 4
    assert_same_adapter(tmp_path / "full" / "adapter", tmp_path / "four" / "adapter")
    again = vader.train(early(tmp_path / "run"), resume=True)
    assert (again.step, again.adapter_step) == (8, 4), "a finished run has nothing left to do"


# -- what cannot work is refused before weights load


BAD: list[tuple[dict[str, Any], str]] = [
    (
        {"method": {"name": "ddpo"}, "gradient": {"mode": "rand"}},
        "gradient.mode: method ddpo has no gradient window",
    ),
    ({"method": {"name": "dpo"}, "gradient": {"recompute": False}}, "gradient.recompute: method dpo has no gradient"),
    ({"method": {"name": "ddpo"}, "sampler": {"eta": 0}}, "sampler.eta: method ddpo needs noise in every step"),
    ({"method": {"name": "ddpo"}, "rollout": {"coarse_steps": 2}}, "rollout: method ddpo trains the very steps"),
    (
        {"method": {"name": "ddpo"}, "sampler": {"name": "diffusers", "options": {"scheduler": "DDIMScheduler"}}},
        "sampler.name: method ddpo needs single steps with noise",
    ),
    (
        {"method": {"name": "ddpo"}, "backbone": {"adapter": {"dropout": 0.1}}},
        "backbone.adapter.dropout: dropout makes",
    ),
    (
        {"method": {"name": "dpo", "options": {"group_size": 3}}},
        "train.batch_size: 2 is no multiple of 3, the clips that method dpo makes of each prompt. Expected 3, 6",
    ),
    (
        {"method": {"name": "ddpo", "options": {"train_steps": 9}}},
        "method.options.train_steps: 9 is more than sampler.steps",
    ),
    ({"method": {"name": "dpo", "options": {"beta": 0}}}, "method.options.beta"),
    ({"gradient": {"mode": "uniform"}}, "gradient.k: mode uniform needs k"),
    ({"gradient": {"mode": "subset", "k": 9}}, "gradient.k: k = 9 is more than sampler.steps = 3"),
    (
        {"gradient": {"mode": "subset", "k": 2, "original": True}},
        "gradient.original: mode subset has steps after its first",
    ),
    ({"gradient": {"mode": "tail", "k": 2, "renoise": 2}}, "gradient.renoise: it re-noises the last step"),
    ({"gradient": {"renoise": 2, "stop_gradient": True}}, "gradient.stop_gradient: renoise already decodes"),
    (
        {
            "train": {"validate_every": 2, "early_stop": {"score": "brightnes"}},
            "validation": {"clips": 1},
        },
        "train.early_stop.score: no reward is called 'brightnes'. Did you",
    ),
    ({"train": {"early_stop": {"score": "brightness"}}}, "train.early_stop: it looks at validations"),
    ({"train": {"ema_decay": 1.0}}, "train.ema_decay"),
]


@pytest.mark.parametrize(
    ("changes", "message"), BAD, ids=[message.split(":")[0] + str(i) for i, (_, message) in enumerate(BAD)]
)
def test_bad_specs_name_the_field(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = merged(tiny(tmp_path / "run", **GRADIENT_FREE), changes)
    with pytest.raises(vader.SpecError) as caught:
        vader.check(made)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1, caught.value
