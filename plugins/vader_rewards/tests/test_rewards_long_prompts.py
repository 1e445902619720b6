"""Rewards that read the beginning of a prompt alone say what they do not read."""

from __future__ import annotations

import pytest
import torch

import vader
from vader import Prompt, sdk
from vader.testing import Subject

READERS = ("hps", "clip_text", "pickscore", "imagereward", "video_text")


@pytest.mark.parametrize("name", READERS)
def test_the_end_that_is_not_read_changes_nothing(name, options):
    reward = Subject("reward", name, options[name]).live(torch.float32)
    assert isinstance(reward, sdk.CutsPrompts)
    text = "a fox jumps over the dog " * 30
    end = reward.cut_off(text)
    assert len(end) > 200
    assert reward.cut_off("a fox") == ""
    kept = text.rstrip()[: -len(end)].rstrip()
    assert (kept + end).replace(" ", "") == text.replace(" ", "")
    assert reward.cut_off(kept) == ""
    frames = torch.rand(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    said = [text, text.rstrip()[: 12 - len(end)] + "and a boat " * 40]
    scores = [float(reward.score(frames[:1], [Prompt(one)])[0]) for one in said]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_a_run_says_which_rewards_do_not_read_all(options, tmp_path, monkeypatch):
    said = []

    class Notices:
        @vader.hookimpl
        def vader_notice(self, text):
            said.append(text)

    vader.train(
        {
            "backbone": "shapes",
            "prompts": {"name": "list", "options": {"prompts": ["a red circle " * 40, "a blue square"]}},
            "rewards": [{"name": "pickscore", "options": options["pickscore"], "label": "pick"}],
            "train": {"steps": 1, "warmup_steps": 0, "device": "cpu"},
            "sampler": {"steps": 1, "guidance_scale": 1.0},
            "validation": {"clips": 0},
            "output": str(tmp_path / "run"),
        },
        listeners=[Notices()],
    )
    long = [text for text in said if "longer than" in text]
    assert len(long) == 1
    assert "of 2 prompts" in long[0]
    assert "backbone shapes does not see the end of 1 (of 'a red circle" in long[0]
    assert "reward 'pick' does not see the end of 1 (of 'a red circle" in long[0]
