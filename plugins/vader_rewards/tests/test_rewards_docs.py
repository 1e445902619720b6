"""The page of rewards tells of every registered reward all that a user must know before choosing it."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from vader_rewards.detection import DetectionOptions

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "rewards.md").read_text(encoding="utf-8")
ENTRIES = {e.name: e for e in entry_points(group="vader.rewards") if e.value.startswith("vader_rewards.")}


def table(*header):
    """Rows of the table with that header: lists of cells, stripped."""
    lines = DOCS.splitlines()
    start = lines.index(f"| {' | '.join(header)} |")
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


GLANCE = {row[0].strip("`"): row for row in table("name", "measures", "range", "typical", "frames", "prompt", "extra")}
WEIGHTS = table("name", "weights", "memory", "licence")


def test_no_reward_is_listed_that_is_not_there():
    assert set(GLANCE) == set(ENTRIES)
    assert {name for row in WEIGHTS for name in re.findall(r"`(\w+)`", row[0])} == set(ENTRIES)


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_what_it_measures_range_typical_value_frames(name):
    _, measures, bounds, typical, frames, prompt, extra = GLANCE[name]
    kind = ENTRIES[name].load()
    assert len(measures) > 10
    assert re.search(r"\d|any", bounds), bounds
    assert re.search(r"\d|not measured", typical), typical
    assert frames == str(getattr(kind, "frames", 1))
    assert (prompt != "no") == getattr(kind, "needs_prompt", False), prompt
    assert all(
        f"`{named}`" in (Path(__file__).parents[1] / "README.md").read_text() for named in re.findall(r"`(\w+)`", extra)
    )


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_weights_memory_licence(name):
    rows = [row for row in WEIGHTS if f"`{name}`" in row[0]]
    assert rows
    for _, weights, memory, licence in rows:
        assert weights
        assert re.search(r"\d+ ?[MG]B|none", memory), memory
        assert licence


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_how_it_is_cheated(name):
    section = re.search(rf"^### {name}\n(.*?)(?=^##)", DOCS, re.MULTILINE | re.DOTALL)
    assert section is not None
    cheating = re.search(r"\*\*Cheating\*\*(?: \([^)]+\))?: (.+)", section[1], re.DOTALL)
    assert cheating is not None
    assert len(cheating[1]) > 4


def test_sources_of_typical_values():
    """Every letter in the column is explained below the table, and every explanation is used."""
    letters = {letter for row in GLANCE.values() for letter in re.findall(r"\((\w)\)", row[3])}
    explained = set(re.findall(r"^- \((\w)\) ", DOCS, re.MULTILINE))
    assert letters == explained
    assert any("not measured" in row[3] for row in GLANCE.values()) == ('- "Not measured"' in DOCS)


def test_every_detector_has_weights_and_a_licence():
    names = " ".join(row[0] for row in WEIGHTS if "`detection`" in row[0])
    for engine in DetectionOptions.model_fields["engine"].annotation.__args__:
        assert engine == "yolos" or f"`engine: {engine}`" in names, engine
