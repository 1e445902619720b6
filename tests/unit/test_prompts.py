"""Prompts from files and from the spec: comments, weights, and how they are drawn."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from vader import Prompt
from vader.prompts import draw_evenly, draw_weighted
from vader.prompts.file import FilePrompts, as_lines, read_prompts, read_weighted
from vader.prompts.listed import ListPrompts

FILE = """# animals, mostly
a fox runs through snow
  [3] a boat in a storm

[0.5]an owl
[cinematic] a dog
  # not a prompt
10 red balloons
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text(FILE, encoding="utf-8")
    return path


def counts(prompts: list[Prompt]) -> Counter[str]:
    return Counter(prompt.text for prompt in prompts)


def test_a_file_has_comments_and_weights(file: Path) -> None:
    assert read_weighted(file) == [
        ("a fox runs through snow", 1.0),
        ("a boat in a storm", 3.0),
        ("an owl", 0.5),
        ("[cinematic] a dog", 1.0),
        ("10 red balloons", 1.0),
    ]
    assert read_prompts(file)[1] == "a boat in a storm"


def test_a_file_is_drawn_by_weight(file: Path) -> None:
    """Of 13, a weight of 3 in 6.5 gets exactly 6, one of 1 exactly 2, one of a half exactly 1."""
    source = FilePrompts(FilePrompts.Options(path=str(file)))
    drawn = source.draw(13, random.Random(0))
    assert counts(drawn) == {
        "a boat in a storm": 6,
        "a fox runs through snow": 2,
        "[cinematic] a dog": 2,
        "10 red balloons": 2,
        "an owl": 1,
    }
    assert source.draw(13, random.Random(0)) == drawn
    assert source.draw(13, random.Random(1)) != drawn


@pytest.mark.parametrize("n", [1, 3, 5, 8])
def test_shares_hold_on_average(n: int) -> None:
    """Over many draws each prompt comes as often as its weight says; in each, at most one more or less than that."""
    weights = [1.0, 2.0, 0.1, 4.4]
    prompts = [Prompt(str(weight)) for weight in weights]
    total: Counter[str] = Counter()
    for seed in range(2000):
        drawn = counts(draw_weighted(prompts, weights, n, random.Random(seed)))
        assert drawn.total() == n
        for weight in weights:
            assert abs(drawn[str(weight)] - n * weight / 7.5) < 1
        total += drawn
    for weight in weights:
        assert total[str(weight)] / (2000 * n) == pytest.approx(weight / 7.5, abs=0.03)


def test_equal_weights_repeat_none_before_all_have_come() -> None:
    prompts = [Prompt(letter) for letter in "abcdefg"]
    for seed in range(200):
        rng = random.Random(seed)
        for n, times in [(7, {1}), (5, {0, 1}), (16, {2, 3})]:
            drawn = counts(draw_weighted(prompts, [0.1] * 7, n, rng))
            assert {drawn[prompt.text] for prompt in prompts} == times
            assert drawn.total() == n


def test_every_order_is_drawn() -> None:
    prompts = [Prompt(letter) for letter in "abc"]
    orders = {tuple(map(str, draw_weighted(prompts, [1, 1, 1], 3, random.Random(seed)))) for seed in range(100)}
    assert len(orders) == 6


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes("\ufeff# comment\r\na café\r\n".encode())
    assert read_prompts(path) == ["a café"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[0] a fox", "line 2 of the prompt file '.*' has the weight 0; expected a finite number above 0"),
        ("[-2] a fox", "has the weight -2"),
        ("[1e999] a fox", "has the weight 1e999"),
        ("[3]", r"line 2 .* has a weight and no prompt; expected a line such as \[3\] a fox"),
    ],
)
def test_a_bad_weight_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(f"a boat\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_weighted(path)


def test_lines_are_read_back_as_the_same_prompts(tmp_path: Path) -> None:
    texts = ["a fox", "# not a comment", "[3] not a weight", "[3]", "two\nlines", "10 balloons"]
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(as_lines(texts)))
    assert read_weighted(path) == [(" ".join(text.split()), 1.0) for text in texts]
    assert as_lines(["a fox"]) == ["a fox"]


def test_a_list() -> None:
    source = ListPrompts(ListPrompts.Options(prompts=("a fox", "a boat", "rain")))
    assert counts(source.draw(6, random.Random(0))) == {"a fox": 2, "a boat": 2, "rain": 2}
    assert len(draw_evenly([Prompt("a")], 3, random.Random(0))) == 3
