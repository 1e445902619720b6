"""The hacking guard: which image statistics leave their range, and when."""

from __future__ import annotations

import math

import pytest
import torch

from vader.runs.events import Validation, ValidationClip
from vader.runs.hacking import alarms, allowed
from vader.runs.image_statistics import IMAGES, Diversity, image_statistics
from vader.spec import HackingSpec


def clips(*, seed: int = 0, b: int = 2, f: int = 5) -> torch.Tensor:
    return torch.rand(b, f, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def validation(step: int, **statistics: list[float]) -> Validation:
    rows = zip(*statistics.values(), strict=True)
    named = [dict(zip(statistics, row, strict=True)) for row in rows]
    return Validation(step, tuple(ValidationClip(i, "p", i, {}, statistics=one) for i, one in enumerate(named)))


def test_a_plain_grey_clip_has_none_of_anything() -> None:
    assert image_statistics(torch.full((1, 4, 3, 8, 8), 0.5)) == [dict.fromkeys(IMAGES, pytest.approx(0, abs=1e-6))]


def test_statistics_are_what_their_names_say() -> None:
    red = torch.zeros(1, 2, 3, 8, 8)
    red[:, :, 0] = 0.8
    assert image_statistics(red)[0]["colour"] == pytest.approx(0.8)
    halves = torch.zeros(1, 2, 3, 8, 8)
    halves[..., 4:] = 1.0
    (half,) = image_statistics(halves)
    assert half["contrast"] == pytest.approx(0.5)
    assert half["detail"] == pytest.approx(2 * 0.25 / 8)  # the two columns at the edge differ from their mean by 1/4
    assert half["motion"] == 0.0
    flash = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8), torch.ones(3, 8, 8)]).unsqueeze(0)
    assert image_statistics(flash)[0]["motion"] == pytest.approx(0.5)
    assert image_statistics(flash[:, :1])[0]["motion"] == 0.0


def test_a_clip_s_statistics_do_not_depend_on_its_batch() -> None:
    batch = clips(b=3)
    assert image_statistics(batch)[1] == pytest.approx(image_statistics(batch[1:2])[0])


def test_diversity_is_between_the_clips_of_a_prompt_or_else_between_all() -> None:
    diversity, values = Diversity(), {"a": (0, 51), "b": (153, 51)}
    rows = [(prompt, values[prompt][turn]) for turn in range(2) for prompt in "ab"]
    drawn = [ValidationClip(i, prompt, i, {}, sketch=bytes([value] * 4)) for i, (prompt, value) in enumerate(rows)]
    found = [diversity.of(clip) for clip in drawn]
    assert found[0] == {}
    assert [one["diversity"] for one in found[1:]] == pytest.approx([0.6, 0.2, 0.4])
    assert diversity.of(ValidationClip(9, "a", 9, {})) == {}


def test_the_range_is_of_the_spread_and_between_a_tenth_and_a_half() -> None:
    one = HackingSpec(spreads=1.0)
    base = [0.8, 0.9, 1.0, 1.1, 1.2]
    assert allowed(one, base).high == pytest.approx(1.0 + math.sqrt(0.025))
    assert allowed(one, base).low == pytest.approx(1.0 - math.sqrt(0.025))
    assert allowed(one, [1.0] * 5).high == pytest.approx(1.1)
    wide = allowed(one, [0.0, 0.0, 1.0, 3.0])
    assert (wide.low, wide.high) == (pytest.approx(0.5), pytest.approx(2.0))


def test_what_leaves_its_range_is_named_with_the_step_at_which_it_left() -> None:
    base = [0.8, 0.9, 1.0, 1.1, 1.2]
    run = [
        validation(0, colour=base, motion=base),
        validation(10, colour=[x + 0.1 for x in base], motion=base),
        validation(20, colour=[x + 0.5 for x in base], motion=[0.9 * x for x in base]),
        validation(30, colour=[x + 0.7 for x in base], motion=[0.2 * x for x in base]),
    ]
    assert alarms(HackingSpec(), run[:2]) == ()
    assert [(one.statistic, one.step) for one in alarms(HackingSpec(), run[:3])] == [("colour", 20)]
    colour, motion = alarms(HackingSpec(), run)
    assert (colour.statistic, colour.step) == ("colour", 20)
    assert (motion.statistic, motion.step) == ("motion", 30)
    assert colour.text == (
        "the colour of the validation clips rose from 1 to 1.7 by optimizer step 30; it left its range, 0.842 to 1.16, "
        "at optimizer step 20."
    )
    assert motion.text.startswith("the motion of the validation clips fell from 1 to 0.2 by optimizer step 30; it left")
    assert alarms(HackingSpec(), [*run, validation(40, colour=base, motion=base)]) == ()
    assert alarms(None, run) == ()
    assert alarms(HackingSpec(spreads=4.0), run[:3]) == ()


def test_what_chance_explains_does_not_warn() -> None:
    base = [1.0, 1.0, 1.0, 1.0, 1.0]
    lucky = [1.0, 1.0, 1.0, 1.0, 1.9]  # the mean is outside, for one clip
    assert alarms(HackingSpec(), [validation(0, colour=base), validation(5, colour=lucky)]) == ()
    few = [validation(0, colour=base[:3]), validation(5, colour=[9.0] * 3)]
    assert alarms(HackingSpec(), few) == ()


def test_validations_without_statistics_tell_nothing() -> None:
    plain = Validation(0, (ValidationClip(0, "p", 0, {"a": 1.0}),))
    assert alarms(HackingSpec(), [plain, validation(5, colour=[1.0] * 5)]) == ()
    assert alarms(HackingSpec(), []) == ()
