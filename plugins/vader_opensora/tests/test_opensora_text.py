"""Prompts are prepared as the reference prepares them, to the letter."""

import pytest

from vader_opensora import text


@pytest.fixture(scope="module")
def data(golden):
    return golden("opensora_t5_text_a").json


def test_cleaning(data):
    assert len(data["cases"]) == 25
    for case in data["cases"]:
        assert text.clean(case["input"]) == case["text_preprocessing"], case["input"]


def test_scores(data):
    for case in data["inference_utils"]["append_score"]:
        assert [text.append_scores(case["inp"], case["aes"], case["flow"], case["cam"])] == case["out"]


def test_the_whole_chain(data):
    for case in data["inference_utils"]["full_chain"]:
        assert [text.prepare(case["inp"], 6.5, None, None)] == case["out"]


def test_nothing_is_appended_unasked():
    assert text.prepare("A  Fox", None, None, None) == "a fox"


@pytest.mark.parametrize(
    ("prompt", "loop", "expected"),
    [
        ("a fox |1| b", 1, "a fox |1| b"),
        ("|0| a fox", 1, "a fox"),
        ("|0| a |1| b |3| c", 0, "a"),
        ("|0| a |1| b |3| c", 2, "b"),
        ("|0| a |1| b |3| c", 3, "c"),
    ],
)
def test_timelines(prompt, loop, expected):
    assert text.at_loop(prompt, loop) == expected
