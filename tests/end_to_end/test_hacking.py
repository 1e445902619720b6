"""The hacking guard on the embedded model: it warns of a planted hack in time, and is silent on an honest run."""

from __future__ import annotations

import vader

RUN = {
    "backbone": {"name": "shapes", "adapter": {"rank": 16}},
    "sampler": {"steps": 2, "guidance_scale": 1.0},
    "prompts": {"name": "shapes"},
    "gradient": {"mode": "tail", "k": 2},
    "validation": {"prompts": {"name": "shapes", "options": {"split": "held_out"}}, "clips": 8, "save_clips": 0},
}


class Notices:
    """Collects what the run says."""

    def __init__(self):
        self.said = []

    @vader.hookimpl
    def vader_notice(self, run, text):
        self.said.append(text)


def train(tmp_path, reward, rate):
    notices, steps = Notices(), 16
    settings = {"steps": steps, "validate_every": 2, "batch_size": 8, "learning_rate": rate}
    spec = {**RUN, "rewards": [reward], "train": settings, "output": str(tmp_path / "run")}
    result = vader.train(spec, listeners=[notices])
    return notices.said, result.validations[-1].alarms, (tmp_path / "run" / "report.html").read_text(), steps


def test_a_planted_hack_is_named_before_half_of_the_run(tmp_path):
    said, alarms, page, steps = train(tmp_path, "shapes_colourfulness", 5e-3)
    first = min(alarms, key=lambda one: one.step)
    assert first.statistic == "colour"
    assert 0 < first.step < steps / 2
    assert any(text.startswith("possible reward hacking: the colour of the validation clips rose") for text in said)
    assert "Alarm: the colour of the validation clips rose" in page


def test_an_honest_run_does_not_warn(tmp_path):
    said, alarms, page, _ = train(tmp_path, "shapes_alignment", 5e-4)
    assert (said, alarms) == ([], ())
    assert "Alarm" not in page
