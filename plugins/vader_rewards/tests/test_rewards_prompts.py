"""Prompt sources, and class names found in prompts."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from vader import Prompt, SpecError
from vader_rewards.labels import ClassNames
from vader_rewards.prompts import SETS, NounsActivities, PromptSet, prompts_of, set_names, with_article

NAMES = ["playing piano", "playing guitar", "jogging", "tench, Tinca tinca", "crane", "crane, machine"]


def test_sets():
    """At least 25 sets of at least 20 prompts, and no prompt twice anywhere."""
    names = set_names()
    assert len(names) >= 25
    assert {"animals", "animals_clothes", "instruments", "humans", "weather", "actions", "book_and_cup"} <= set(names)
    sizes = {name: len(prompts_of(name)) for name in names}
    assert min(sizes.values()) >= 20, sizes
    seen = Counter(text.casefold() for name in names for text in prompts_of(name))
    assert not [text for text, count in seen.items() if count > 1]
    assert all(len(text) > 8 for text in seen)


def test_every_set_says_what_it_is():
    for name in set_names():
        assert (SETS / f"{name}.txt").read_text(encoding="utf-8").startswith("# ")


def test_set_source():
    source = PromptSet(PromptSet.Options(sets=("rain", "snow")))
    drawn = source.draw(40, random.Random(0))
    assert Counter(prompt.metadata["set"] for prompt in drawn) == {"rain": 20, "snow": 20}
    assert len({prompt.text for prompt in drawn}) == 40
    held = source.held()
    assert [prompt.text for prompt in held] == [*prompts_of("rain"), *prompts_of("snow")]
    assert all(prompt in held for prompt in drawn)
    assert source.draw(40, random.Random(0)) == drawn
    assert source.draw(40, random.Random(1)) != drawn


def test_unknown_set():
    with pytest.raises(ValueError, match=r"no set is called 'anmals'\. Did you mean 'animals'\? There are .*weather"):
        PromptSet.Options(sets=("anmals",))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "nouns").write_text("# nouns\nowl\ncat\n\ntwo mice\n")
    (tmp_path / "activities").write_text("riding a bike\nwashing dishes\n")
    return {"nouns": str(tmp_path / "nouns"), "activities": str(tmp_path / "activities")}


def test_nouns_activities(files):
    source = NounsActivities(NounsActivities.Options(**files))
    drawn = source.draw(6, random.Random(0))
    assert {prompt.text for prompt in drawn} == {
        "an owl riding a bike",
        "an owl washing dishes",
        "a cat riding a bike",
        "a cat washing dishes",
        "two mice riding a bike",
        "two mice washing dishes",
    }
    assert {"object": "owl", "activity": "riding a bike"} in [prompt.metadata for prompt in drawn]
    assert source.draw(6, random.Random(0)) == drawn
    assert sorted(source.held(), key=str) == sorted(drawn, key=str)


def test_nouns_activities_by_weight(tmp_path):
    """Weights multiply: 6 of 12 for the heavy noun with the heavy activity."""
    (tmp_path / "nouns").write_text("[3] owl\ncat\n")
    (tmp_path / "activities").write_text("riding a bike\n[2] washing dishes\n")
    options = NounsActivities.Options(nouns=str(tmp_path / "nouns"), activities=str(tmp_path / "activities"))
    drawn = Counter(prompt.text for prompt in NounsActivities(options).draw(12, random.Random(0)))
    assert drawn == {
        "an owl washing dishes": 6,
        "an owl riding a bike": 3,
        "a cat washing dishes": 2,
        "a cat riding a bike": 1,
    }


def test_named_sets_are_those_that_the_source_draws_from():
    sets = PromptSet.named_sets()
    assert list(sets) == set_names()
    for name in ("rain", "signs"):
        drawn = PromptSet(PromptSet.Options(sets=(name,))).draw(len(sets[name]), random.Random(0))
        assert sorted(drawn, key=str) == sorted(sets[name], key=str)


def test_nouns_activities_without_a_file(files):
    with pytest.raises(ValueError, match="cannot read the prompt file '/no/such'"):
        NounsActivities(NounsActivities.Options(**{**files, "nouns": "/no/such"}))


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("owl", "an owl"),
        ("cat", "a cat"),
        ("unicorn", "a unicorn"),
        ("uninvited guest", "an uninvited guest"),
        ("umbrella", "an umbrella"),
        ("user", "a user"),
        ("usher", "an usher"),
        ("ukulele", "a ukulele"),
        ("utensil", "a utensil"),
        ("ewe", "a ewe"),
        ("European bison", "a European bison"),
        ("hourglass", "an hourglass"),
        ("heirloom", "an heirloom"),
        ("honest man", "an honest man"),
        ("horse", "a horse"),
        ("Ant", "an Ant"),
        ("the moon", "the moon"),
        ("three owls", "three owls"),
        ("an owl", "an owl"),
    ],
)
def test_article(noun, expected):
    assert with_article(noun) == expected


@pytest.mark.parametrize(
    ("prompt", "index"),
    [
        (Prompt("jogging"), 2),
        (Prompt("A man Playing  Piano, slowly"), 0),
        (Prompt("Tinca tinca"), 3),
        (Prompt("a tench in a pond"), 3),
        (Prompt("anything", {"class": "jogging"}), 2),
        (Prompt("jogging", {"class": 1}), 1),
        (Prompt("a runner at dawn"), 2),
        (Prompt("a crane, machine by the dock"), 5),
    ],
)
def test_class_of_a_prompt(prompt, index):
    assert ClassNames("action", NAMES, mapping={"A runner at dawn": "jogging"}).index(prompt) == index


def test_fixed_class():
    assert ClassNames("action", NAMES, fixed="jogging").index(Prompt("playing piano")) == 2
    assert ClassNames("action", NAMES, fixed=1).index(Prompt("playing piano")) == 1


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            "playing the pianos",
            "action: prompt 'playing the pianos' names none of its 6 classes. Nearest: 'playing piano'",
        ),
        ("a crane by the dock", "'crane' is the name of classes 4, 5"),
        ("joggings", "Nearest: 'jogging'"),
    ],
)
def test_prompt_without_a_class(prompt, message):
    with pytest.raises(SpecError) as caught:
        ClassNames("action", NAMES).index(Prompt(prompt))
    assert message in str(caught.value)


@pytest.mark.parametrize("bad", [{"fixed": "juggling"}, {"fixed": 6}, {"fixed": -1}, {"mapping": {"x": "juggling"}}])
def test_options_that_name_no_class(bad):
    with pytest.raises(SpecError, match="action"):
        ClassNames("action", NAMES, **bad)


def test_the_docs_name_every_set():
    docs = (Path(__file__).resolve().parents[3] / "docs" / "rewards.md").read_text(encoding="utf-8")
    listed = docs[docs.index("`set` draws from 29") :]
    assert len(set_names()) == 29
    for name in set_names():
        assert re.search(rf"\b{name}\b", listed), name
