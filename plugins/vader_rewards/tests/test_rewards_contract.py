"""Every reward and prompt source keeps the promises of its kind: the conformance kit."""

from importlib.metadata import entry_points

import pytest

from vader import Prompt
from vader.testing import PromptSourceContract, RewardContract, Subject

APART = ("hps_package",)
"""Rewards whose package lives in an environment of its own: engines/check_hpsv2.py checks them there."""
ALL = sorted(
    entry.name
    for entry in entry_points(group="vader.rewards")
    if entry.value.startswith("vader_rewards.") and entry.name not in APART
)
MEANT = {
    "detection": [
        Prompt("a book", {"object": "book"}),
        Prompt("a dog", {"object": "dog"}),
        Prompt("x", {"object": "cup"}),
    ],
    "action": [Prompt("a man playing piano"), Prompt("jogging"), Prompt("chopping wood")],
    "imagenet": [Prompt("a goldfish"), Prompt("a volcano"), Prompt("a zebra")],
    "ocr_text": [Prompt('a sign "CAT"'), Prompt('a sign "DOG"'), Prompt('a sign "A"')],
}
BY_PROMPT = ("object", "action", "label", "text")
"""Options that would fix what the prompts are to say."""


class TestRewards(RewardContract):
    @pytest.fixture(params=ALL)
    def reward(self, request, options, picture):
        if request.param == "image_fidelity":
            chosen = [Prompt(text, image=picture(seed)) for seed, text in enumerate(("a fox", "a red fox", "rain"))]
            return Subject("reward", request.param, options[request.param], size=(24, 36), prompts=chosen)
        chosen = {key: value for key, value in options[request.param].items() if key not in BY_PROMPT}
        meant = {"prompts": MEANT[request.param]} if request.param in MEANT else {}
        size = (40, 48) if request.param == "imagenet" else (24, 36)  # where its ReLU6 bends less
        return Subject("reward", request.param, chosen, size=size, **meant)


class TestSets(PromptSourceContract):
    @pytest.fixture
    def prompts(self):
        return Subject("prompts", "set", {"sets": ["animals", "rain"]})


class TestNounsActivities(PromptSourceContract):
    @pytest.fixture
    def prompts(self, tmp_path_factory):
        folder = tmp_path_factory.getbasetemp() / "nouns_activities"
        folder.mkdir(exist_ok=True)
        (folder / "nouns").write_text("owl\ncat\nunicorn\nant\n")
        (folder / "activities").write_text("riding a bike\nwashing dishes\nreading a book\n")
        options = {"nouns": str(folder / "nouns"), "activities": str(folder / "activities")}
        return Subject("prompts", "nouns_activities", options)
