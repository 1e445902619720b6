"""Prompts whose end is not read are said once a run, with how many, and the first words that are lost."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fakes import Brightness, FakeBackbone
from tests.integration.harness import Notices, tiny

import vader
from vader import ComponentError, Prompt, sdk
from vader.runs.long_prompts import long_prompts, prompts_of


class Reads:
    """Takes some words of a prompt."""

    def __init__(self, words: int) -> None:
        self._words = words

    def cut_off(self, text: str) -> str:
        return " ".join(text.split()[self._words :])


def test_one_notice_names_who_cuts_how_many_and_what_is_lost() -> None:
    texts = ["a fox", "a fox jumps over the very lazy dog in the snow", "a fox", "a boat sails away"]
    asked = [Prompt(text) for text in texts]
    said = long_prompts(asked, {"backbone b": Reads(3), "reward 'r'": Reads(2), "reward 's'": object()})
    assert said == (
        "of 3 prompts some are longer than what is taken: backbone b does not see the end of 2 (of 'a fox jumps over "
        "the very lazy dog in the snow', from 'over the very lazy dog in' on); reward 'r' does not see the end of 2 "
        "(of 'a fox jumps over the very lazy dog in the snow', from 'jumps over the very lazy dog' on). Shorten them."
    )
    assert long_prompts(asked, {"backbone b": Reads(30)}) is None
    assert long_prompts([], {"backbone b": Reads(0)}) is None
    with pytest.raises(ComponentError, match=r"backbone b raised AttributeError"):
        long_prompts(asked, {"backbone b": type("Bad", (), {"cut_off": lambda self, text: text.no})()})


def test_a_source_that_does_not_say_what_it_holds_is_drawn_from() -> None:
    class Drawn:
        def draw(self, n: int, rng: random.Random) -> list[Prompt]:
            return [Prompt(f"number {rng.random()}") for _ in range(n)]

    assert len({prompt.text for prompt in prompts_of(Drawn())}) == 200
    held = prompts_of(type("Held", (Drawn,), {"held": lambda self: [Prompt("a")] * 5000})())
    assert len(held) == 2000


class Short(FakeBackbone):
    """Reads two words."""

    cut_off = Reads(2).cut_off


class Deaf(Brightness):
    """Reads one word."""

    cut_off = Reads(1).cut_off


def test_a_run_says_it_once(tmp_path: Path) -> None:
    made = tiny(tmp_path / "run", validation={"clips": 2, "save_clips": 0})
    made["backbone"]["name"] = f"{Path(__file__).resolve()}:Short"
    made["rewards"] = [{"name": f"{Path(__file__).resolve()}:Deaf", "label": "mine"}]
    notices = Notices()
    vader.train(made, listeners=[notices])
    long = [text for text in notices.texts if "longer than" in text]
    assert len(long) == 1
    assert "of 3 prompts" in long[0]
    assert "Short does not see the end of 3 (of 'a red circle', from 'circle' on)" in long[0]
    assert "reward 'mine' does not see the end of 3 (of 'a red circle', from 'red circle' on)" in long[0]
    assert vader.train(made, resume=True).step == 6


def test_a_generation_says_it_too(tmp_path: Path) -> None:
    made = tiny(tmp_path / "run")
    made["backbone"]["name"] = f"{Path(__file__).resolve()}:Short"
    with pytest.warns(UserWarning, match="Short does not see the end of 1 .*'circle' on"):
        vader.generate(made, ["a red circle", "a box"])
    said: list[str] = []
    vader.generate(made, ["a red circle"], notice=said.append)
    assert len(said) == 1


def test_an_evaluation_says_it_of_backbone_and_rewards(tmp_path: Path) -> None:
    made = tiny(tmp_path / "run", validation={"clips": 2})
    made["backbone"]["name"] = f"{Path(__file__).resolve()}:Short"
    made["rewards"] = [{"name": f"{Path(__file__).resolve()}:Deaf", "label": "mine"}]
    said: list[str] = []
    vader.evaluate(made, notice=said.append)
    assert len(said) == 1
    assert "of 2 prompts" in said[0]
    assert "Short does not see the end of 2 " in said[0]
    assert "reward 'mine' does not see the end of 2 " in said[0]


FAR = """
class Far:
    def score(self, frames, prompts):
        return frames.mean(dim=(1, 2, 3, 4))

    def cut_off(self, text):
        return " ".join(text.split()[1:])
"""


@pytest.mark.skipif(os.name != "posix", reason="rewards in another process need it")
def test_an_isolated_reward_says_it_from_its_process(tmp_path: Path) -> None:
    made = tiny(tmp_path / "run", validation={"clips": 1})
    (tmp_path / "far.py").write_text(FAR)
    isolate = {"python": sys.executable, "startup_timeout": 300}
    made["rewards"] = [{"name": f"{tmp_path}/far.py:Far", "label": "far", "isolate": isolate}]
    said: list[str] = []
    vader.evaluate(made, notice=said.append)
    assert len(said) == 1
    assert "reward 'far' does not see the end of 1 (of 'a red circle', from 'red circle' on)" in said[0]


@pytest.mark.parametrize("limit", range(1, 12))
def test_what_is_lost_is_what_the_tokenizer_leaves_out(limit: int) -> None:
    tokenizer, text = sdk.byte_tokenizer(), "a fox in snow"
    taken: Sequence[int] = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    end = sdk.beyond(tokenizer, text, limit)
    assert bool(end) == (list(taken) != tokenizer(text)["input_ids"])
    kept = "".join(tokenizer.convert_ids_to_tokens(taken, skip_special_tokens=True)).replace("Ġ", " ")
    assert kept + text[len(kept) :] == text
    assert text[len(kept) :].strip() == end
