"""The report of hand-made run folders: its numbers, its sentences, and that it asks for nothing from outside."""

from __future__ import annotations

import base64
import json
import math
import re
import statistics
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from vader.diffusion.frames import write_clip
from vader.report import ReportListener, write_report
from vader.report.comparison import compare
from vader.report.kinds import by_kind
from vader.report.numbers import energy, operations
from vader.report.reading import read_run
from vader.report.summary import summarise
from vader.runs.events import Listeners, Run, RunResult, Validation
from vader.spec import RunSpec

BEFORE = [0.20, 0.35, 0.30, 0.41, 0.26, 0.33, 0.52, 0.28]
AFTER = [0.80, 0.75, 0.95, 0.81, 0.66, 0.93, 0.92, 0.70]
T_7 = 2.36462425  # Student's t, 0.975, 7 degrees of freedom
ARROW = "\N{RIGHTWARDS ARROW}"


def spec(**train: Any) -> RunSpec:
    return RunSpec.model_validate(
        {
            "backbone": "tiny",
            "prompts": {"name": "list", "options": {"prompts": ["a"]}},
            "rewards": ["alignment"],
            "train": {"steps": 4, "batch_size": 3, "gradient_accumulation": 2, **train},
            "validation": {"prompts": {"name": "list", "options": {"prompts": ["b"]}}, "rewards": ["accuracy"]},
        }
    )


def record(step: int, **more: Any) -> dict[str, Any]:
    times = {"rollout": 2.0, "decode": 0.5, "reward": 0.25, "backward": 1.0, "optimizer": 0.0, "step": 5.0}
    common = {"loss": 1 - step / 10, "reward": step / 10, "score/alignment": step / 10, "grad_norm": 0.5}
    timing = {f"time/{key}": value for key, value in times.items()}
    return {"step": step, **common, "learning_rate": 1e-4, "skipped": 0, "unknown": [1], **timing, **more}


def write_metrics(folder: Path, records: Sequence[dict[str, Any]], tail: str = "") -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records) + tail)


def write_validation(
    folder: Path,
    step: int,
    scores: dict[str, list[float]],
    *,
    clips: int = 0,
    prompt: str = "a red circle",
    sketches: Sequence[bytes] = (),
    alarms: Sequence[dict[str, Any]] = (),
    kinds: Sequence[str | None] = (),
    **spent: float,
) -> None:
    samples = folder / "samples" / f"step-{step:06d}"
    samples.mkdir(parents=True)
    rows = []
    for index in range(len(next(iter(scores.values())))):
        file = f"clip-{index:03d}.mp4" if index < clips else None
        if file:
            write_clip(samples / file, torch.rand(4, 3, 16, 24), 8)
        values = {key: value[index] for key, value in scores.items()}
        drawn = base64.b64encode(sketches[index]).decode() if sketches else None
        row = {"index": index, "prompt": prompt, "seed": 7 + index, "scores": values, "file": file, "sketch": drawn}
        rows.append({**row, "kind": kinds[index] if kinds else None})
    size = {"frames": 4, "height": 16, "width": 24, "fps": 8}
    data = {"step": step, "size": size, "alarms": list(alarms), "clips": rows, **spent}
    (samples / "validation.json").write_text(json.dumps(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete run of four optimizer steps, without validation."""
    run = tmp_path / "run-1"
    (run / "checkpoints" / "step-000004").mkdir(parents=True)
    (run / "spec.yaml").write_text(spec().to_yaml())
    (run / "environment.json").write_text(json.dumps({"versions": {"torch": "2.10.1"}, "device": "cpu", "world": {}}))
    write_metrics(run, [record(step, **{"memory/peak_bytes": 2**30 + step * 2**20}) for step in range(1, 5)])
    return run


class Loads(HTMLParser):
    """Collects everything that a browser would load, every text, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = {"src", "href", "srcset", "poster", "data", "action", "xlink:href", "background"}
        self.loads += [value or "" for name, value in attrs if name in names]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["style"], ["script"]):
            self.texts.append(" ".join(data.replace("\N{NO-BREAK SPACE}", " ").split()))

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)


def text_of(folder: Path) -> str:
    return Loads(write_report(folder).read_text(encoding="utf-8")).text


def test_headline_and_table_hold_the_independently_computed_numbers(folder: Path) -> None:
    right = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    write_validation(folder, 0, {"alignment": BEFORE, "accuracy": right[0]})
    write_validation(folder, 4, {"alignment": AFTER, "accuracy": right[1]})
    differences = [b - a for a, b in zip(BEFORE, AFTER, strict=True)]
    gain, deviation = statistics.mean(differences), statistics.stdev(BEFORE)
    half = T_7 * statistics.stdev(differences) / math.sqrt(8)
    text = text_of(folder)
    assert "tiny aligned with alignment" in text
    assert "Better" in text
    assert (
        f"alignment on the validation's prompts rose from {statistics.mean(BEFORE):.2f} "
        f"to {statistics.mean(AFTER):.2f} (+{gain:.2f}, 95 % CI +{gain - half:.2f} to +{gain + half:.2f})."
    ) in text
    assert f"+{gain - half:.2f} to +{gain + half:.2f} {deviation:.2f} +{gain / deviation:.2f}" in text
    share = math.sqrt((7 / 10 - (5 / 10) ** 2) / 10) * 1.95996398  # 5 gained, 0 lost: (6 - 1) / 10
    numbers = f"(+62.5 points, 95 % CI +{50 - share * 100:.1f} to +{50 + share * 100:.1f} points)"
    assert f"accuracy (held out: not trained on) rose from 25.0 % to 87.5 % {numbers}." in text
    assert "unfinished" not in text


def test_time_memory_and_counts(folder: Path) -> None:
    text = text_of(folder)
    assert "rollout 40.0 % 2.0 s 8.0 s" in text
    assert "decode 10.0 % 500 ms 2.0 s" in text
    assert "reward 5.0 % 250 ms 1.0 s" in text
    assert "backward 20.0 % 1.0 s 4.0 s" in text
    assert "other 25.0 % 1.2 s 5.0 s" in text
    assert "Time in optimizer steps 20.0 s" in text
    assert "Each took 5.0 s Time 20.0 s" in text
    assert "Optimizer steps 4 of 4" in text
    assert "Clips per optimizer step 6" in text
    assert "Peak memory 1.00 GiB" in text
    assert "Newest checkpoint step 4" in text
    assert "torch 2.10.1" in text
    assert "backbone: name: tiny" in text


def test_what_a_run_cost(folder: Path) -> None:
    """Operations of the counted steps times all steps; a sum that lacks some of its parts says so."""
    steps: dict[int, dict[str, float]] = {1: {"cost/flops": 3e12}, 2: {"cost/flops": 1e12}, 3: {}, 4: {}}
    for more in steps.values():
        more |= {"cost/reward_queries": 300.0, "cost/energy_joules": 9000.0}
    write_metrics(folder, [record(step, **more) for step, more in steps.items()])
    write_validation(folder, 0, {"alignment": BEFORE}, seconds=40.0, joules=18000.0)
    write_validation(folder, 4, {"alignment": AFTER}, seconds=80.0, joules=18000.0)
    text = text_of(folder)
    assert "Time, with validations 2 min 20 s" in text
    assert "Time in optimizer steps 20.0 s Time in validations 2 min 00 s Time in both 2 min 20 s" in text
    assert "Clips scored in training 1,200 Clips scored in validations 16" in text
    assert "Operations in optimizer steps about 8.00 TFLOP Energy 20.0 Wh" in text
    write_metrics(folder, [record(1), *(record(step, **steps[step]) for step in (2, 3, 4))])
    text = text_of(folder)
    assert "Clips scored in training 900 (3 of 4 optimizer steps)" in text
    assert "about 4.00 TFLOP Energy 17.5 Wh (3 of 4 optimizer steps)" in text


def test_a_run_of_an_earlier_version_tells_what_it_knows(folder: Path) -> None:
    write_validation(folder, 0, {"alignment": BEFORE})
    write_validation(folder, 4, {"alignment": AFTER}, seconds=6.0)
    assert "Time in validations 6.0 s (1 of 2 validations) Time in both 26.0 s" in text_of(folder)
    (folder / "samples" / "step-000004" / "validation.json").unlink()
    text = text_of(folder)
    assert "Time in optimizer steps 20.0 s Clips scored in validations 8 Time " in text
    assert "Operations" not in text
    assert "Energy" not in text


@pytest.mark.parametrize(
    ("joules", "said"), [(0.5, "0.50 J"), (3599.0, "3,599 J"), (3600.0, "1.00 Wh"), (9e6, "2.50 kWh")]
)
def test_energy_has_a_fitting_unit(joules: float, said: str) -> None:
    assert energy(joules).replace("\N{NO-BREAK SPACE}", " ") == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0.00 FLOP"), (2.5e9, "2.50 GFLOP"), (999e15, "999.0 PFLOP"), (3e21, "3,000 EFLOP")]
)
def test_operations_have_a_fitting_unit(count: float, said: str) -> None:
    assert operations(count).replace("\N{NO-BREAK SPACE}", " ") == said


def verdict_of(folder: Path) -> str:
    run = read_run(folder)
    return summarise(run, compare(run)).verdict.text


FALLEN, UP = [value - 0.1 - i / 100 for i, value in enumerate(BEFORE)], [value + 0.3 for value in BEFORE]
LOWER = [value - 0.01 - (i % 2) / 1000 for i, value in enumerate(BEFORE)]


@pytest.mark.parametrize(
    ("alignment", "held_out", "expected"),
    [
        (AFTER, {"accuracy": UP, "form": UP}, "Better"),
        (AFTER, {"accuracy": FALLEN, "form": BEFORE}, "Hacked"),
        (AFTER, {"accuracy": BEFORE, "form": FALLEN}, "Hacked"),
        (AFTER, {"accuracy": UP, "form": FALLEN}, "Better in alignment and accuracy, worse in form"),
        (AFTER, {"accuracy": BEFORE, "form": LOWER}, "Better in alignment, worse in form"),
        (AFTER, {"accuracy": BEFORE, "form": BEFORE}, "Better in alignment, unchanged in accuracy and form"),
        (BEFORE, {"accuracy": BEFORE, "form": FALLEN}, "Worse in form"),
        (FALLEN, {"accuracy": FALLEN, "form": FALLEN}, "Worse in alignment, accuracy and form"),
        (BEFORE, {"accuracy": BEFORE, "form": BEFORE}, "No measurable change"),
    ],
)
def test_the_verdict_looks_at_every_score(
    folder: Path, alignment: list[float], held_out: dict[str, list[float]], expected: str
) -> None:
    write_metrics(folder, [record(step, reward=0.5) for step in range(1, 5)])
    write_validation(folder, 0, {"alignment": BEFORE, **dict.fromkeys(held_out, BEFORE)})
    write_validation(folder, 4, {"alignment": alignment, **held_out})
    assert verdict_of(folder) == expected


def test_a_hacked_run_says_why(folder: Path) -> None:
    write_validation(folder, 0, {"alignment": BEFORE, "accuracy": [0.9 + i / 100 for i in range(8)]})
    write_validation(folder, 4, {"alignment": AFTER, "accuracy": [0.5 + i / 90 for i in range(8)]})
    text = text_of(folder)
    assert "Hacked" in text
    assert "alignment improved, while accuracy, which is held out, fell significantly" in text
    assert "Look at the clips before you trust the reward" in text


def test_reward_that_judges_no_validation_is_followed_over_the_optimizer_steps(folder: Path) -> None:
    write_validation(folder, 0, {"accuracy": BEFORE})
    write_validation(folder, 4, {"accuracy": FALLEN})
    assert "the training reward rose from 0.10 to 0.40, while accuracy" in text_of(folder)
    assert verdict_of(folder) == "Hacked"


def flat(values: Sequence[int]) -> list[bytes]:
    """Sketches of clips of one grey each."""
    return [bytes([value] * 16) for value in values]


def test_clips_that_come_to_look_alike_are_told(folder: Path) -> None:
    far, near = [0, 30, 60, 90, 120, 150, 180, 210], [100, 101, 102, 103, 104, 105, 106, 107]
    write_validation(folder, 0, {"alignment": BEFORE, "accuracy": BEFORE}, sketches=flat(far))
    write_validation(folder, 4, {"alignment": AFTER, "accuracy": BEFORE}, sketches=flat(near))
    between = statistics.mean(abs(a - b) for i, a in enumerate(far) for j, b in enumerate(far) if i != j) / 255
    moved = statistics.mean(abs(a - b) for a, b in zip(far, near, strict=True)) / 255
    text = text_of(folder)
    assert verdict_of(folder) == "Hacked"
    assert f"Diversity, the mean distance between clips, fell from {between:.3f} to 0.012." in text
    assert f"the clips are {moved:.3f} away from the base model's" in text
    assert "The clips have come to look alike" in text
    assert "diversity between clips" in text
    assert "divergence from the first clips" in text


def test_clips_that_left_the_base_model_are_told(folder: Path) -> None:
    write_validation(folder, 0, {"alignment": BEFORE, "accuracy": BEFORE}, sketches=flat(range(0, 80, 10)))
    write_validation(folder, 4, {"alignment": AFTER, "accuracy": UP}, sketches=flat(range(255, 175, -10)))
    assert verdict_of(folder) == "Better in alignment and accuracy, worse in likeness to the base model"


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        (BEFORE, "Hacked"),
        (FALLEN, "Hacked"),
        (UP, "Better in alignment and accuracy, possibly hacked"),
    ],
)
def test_alarms_of_the_kept_validation_count(folder: Path, held_out: list[float], expected: str) -> None:
    alarm = {"statistic": "contrast", "step": 4, "text": "the contrast left its range at optimizer step 4."}
    write_validation(folder, 0, {"alignment": BEFORE, "accuracy": BEFORE})
    write_validation(folder, 4, {"alignment": AFTER, "accuracy": held_out}, alarms=[alarm, {"statistic": 1}])
    assert verdict_of(folder) == expected
    assert f"Alarm: {alarm['text']}" in text_of(folder)


def test_kinds_of_prompts_have_lines_of_their_own(folder: Path) -> None:
    kinds = ["count", "relation"] * 4
    for step, values in ((0, BEFORE), (4, AFTER)):
        write_validation(folder, step, {"alignment": values}, kinds=kinds)
    (table,) = by_kind(compare(read_run(folder)))
    assert [(line.kind, line.change.count, line.progress) for line in table.lines] == [
        ("count", 4, 1),
        ("relation", 4, 1),
    ]
    differences = [b - a for a, b in list(zip(BEFORE, AFTER, strict=True))[::2]]
    assert table.lines[0].change.difference == pytest.approx(statistics.mean(differences))
    page = write_report(folder).read_text()
    assert "By kind of prompt" in page
    assert page.count('data-kind="relation"') == 1


@pytest.mark.parametrize("kinds", [[], ["count"] * 8])
def test_one_kind_of_prompt_has_no_lines(folder: Path, kinds: list[str]) -> None:
    for step, values in ((0, BEFORE), (4, AFTER)):
        write_validation(folder, step, {"alignment": values}, kinds=kinds)
    assert by_kind(compare(read_run(folder))) == []
    assert "By kind of prompt" not in write_report(folder).read_text()


def test_target_reward_is_judged_by_its_distance(folder: Path) -> None:
    data = spec().model_dump(mode="json")
    data["rewards"][0]["target"] = 0.3
    (folder / "spec.yaml").write_text(RunSpec.model_validate(data).to_yaml())
    write_validation(folder, 0, {"alignment": AFTER})
    write_validation(folder, 4, {"alignment": [0.31 + i / 1000 for i in range(8)]})
    text = text_of(folder)
    assert "Better" in text
    assert "alignment (target 0.30) on the validation's prompts fell from" in text


def test_clips_of_a_pair_stand_side_by_side(folder: Path) -> None:
    write_validation(folder, 0, {"alignment": BEFORE}, clips=2)
    write_validation(folder, 4, {"alignment": AFTER}, clips=2)
    html = write_report(folder).read_text(encoding="utf-8")
    assert html.count("<video") == 4
    assert html.count('width="24" height="16"') == 4
    assert html.count('aria-label="Clip before \N{MIDDLE DOT} step 0: a red circle"') == 2
    text = Loads(html).text
    assert "before \N{MIDDLE DOT} step 0 after \N{MIDDLE DOT} step 4 a red circle" in text
    assert f"alignment 0.20 {ARROW} 0.80 +0.60 seed 7" in text


def test_clips_that_changed_their_seed_are_not_compared(folder: Path) -> None:
    write_validation(folder, 0, {"alignment": BEFORE}, prompt="an old prompt")
    write_validation(folder, 2, {"alignment": BEFORE})
    write_validation(folder, 4, {"alignment": AFTER})
    assert "step 2 against step 4" in text_of(folder)


def test_scores_that_are_not_finite_leave_their_clip_out(folder: Path) -> None:
    write_validation(folder, 0, {"alignment": [math.nan, *BEFORE[1:]]})
    write_validation(folder, 4, {"alignment": AFTER})
    text = text_of(folder)
    assert "trained, 7 clips" in text
    assert f"from {statistics.mean(BEFORE[1:]):.2f} to {statistics.mean(AFTER[1:]):.2f}" in text


@pytest.mark.parametrize("clips", [0, 1])
def test_one_validation(folder: Path, clips: int) -> None:
    write_validation(folder, 0, {"alignment": BEFORE, "accuracy": [1.0] * 6 + [0.0] * 2}, clips=clips)
    html = write_report(folder).read_text(encoding="utf-8")
    text = Loads(html).text
    said = "Judged once so far, before training, on the validation's prompts: mean alignment 0.33, accuracy 75.0 %."
    assert said in text
    assert html.count("<video") == clips


def test_no_validation(folder: Path) -> None:
    text = text_of(folder)
    assert "The training reward went from 0.10 (mean of the first 1 optimizer step) to 0.40" in text
    assert "No validation so far" in text


def test_unfinished_run_with_one_torn_line(folder: Path) -> None:
    write_metrics(folder, [record(1)], tail='{"step": 2, "loss": 0.')
    text = text_of(folder)
    assert "unfinished: 1 of 4 optimizer steps" in text
    assert "Too few optimizer steps to tell anything." in text


def test_skipped_steps_are_counted_and_named(folder: Path) -> None:
    nothing = {"loss": None, "reward": None, "score/alignment": math.nan, "grad_norm": math.inf, "skipped": 1}
    write_metrics(folder, [record(1), record(2, **nothing), record(3), record(4)])
    html = write_report(folder).read_text(encoding="utf-8")
    assert "1 of 4 optimizer steps was skipped because loss or gradient was not finite: 2." in Loads(html).text
    assert 'class="skip"' in html
    assert not re.search(r"(?:points|[xy][12]?|c[xy])=\"[^\"]*(?:nan|inf)", html)


def test_shortcuts_of_training_are_told(folder: Path) -> None:
    rollout = {"reuse": {"every": 2, "from_step": 3}, "guidance_every": 4, "cache": "FirstBlockCacheConfig"}
    told = "Before the gradient window training left out denoiser calls:"
    assert told not in text_of(folder)
    changed = RunSpec.model_validate({**spec().model_dump(), "rollout": rollout})
    (folder / "spec.yaml").write_text(changed.to_yaml())
    found = text_of(folder)
    assert f"{told} one prediction for 2 steps, from step 3 to before the gradient window; both guidance" in found
    assert (
        "at one prediction of 4; a cache of blocks (FirstBlockCacheConfig). Validation clips were made in full" in found
    )


def test_resumed_run_counts_repeated_steps_once(folder: Path) -> None:
    write_metrics(folder, [record(1), record(2), record(3), record(2, reward=0.9), record(3, reward=0.8)])
    assert [(line["step"], line["reward"]) for line in read_run(folder).records] == [(1, 0.1), (2, 0.9), (3, 0.8)]


def test_only_a_spec_or_only_metrics(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(spec().to_yaml())
    assert "No optimizer step is finished yet." in text_of(tmp_path)
    (tmp_path / "spec.yaml").write_text("backbone: [of, another, version]\n")
    write_metrics(tmp_path, [record(1), record(2)])
    text = text_of(tmp_path)
    assert "This version of vader does not understand spec.yaml" in text
    assert "of, another, version" in text


def test_untrusted_text_is_escaped(folder: Path) -> None:
    evil = "</p><script>alert('x')</script><img src=https://example.org/x.png onerror=alert(1)>\" onload=\"alert(1)"
    write_validation(folder, 0, {"alignment": BEFORE, "<b>score</b>": BEFORE}, clips=1, prompt=evil)
    write_validation(folder, 4, {"alignment": AFTER, "<b>score</b>": AFTER}, clips=1, prompt=evil)
    html = write_report(folder).read_text(encoding="utf-8")
    page = Loads(html)
    assert "&lt;script&gt;alert(" in html
    assert page.tags.count("script") == 1, "the report's own"
    assert "img" not in page.tags
    assert "<b>score</b>" not in html
    assert "onload" not in re.sub(r'="[^"]*"', "", "".join(re.findall(r"<[^>]*>", html)))


def test_nothing_is_loaded_from_outside(folder: Path) -> None:
    write_validation(folder, 0, {"alignment": BEFORE}, clips=1)
    write_validation(folder, 4, {"alignment": AFTER}, clips=1)
    html = write_report(folder).read_text(encoding="utf-8")
    loads = Loads(html).loads
    assert len(loads) == 2
    assert all(load.startswith("data:video/mp4;base64,") for load in loads)
    assert not re.search(r"url\(|@import|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html).split("</style>")[0])
    assert "default-src 'none'" in html


def test_tables_and_pictures_have_names(folder: Path) -> None:
    write_validation(folder, 0, {"alignment": BEFORE})
    write_validation(folder, 4, {"alignment": AFTER})
    html = write_report(folder).read_text(encoding="utf-8")
    pictures = re.findall(r"<svg[^>]*>", html)
    assert len(pictures) >= 6
    assert all("aria-label=" in picture or 'aria-hidden="true"' in picture for picture in pictures)
    assert not re.search(r"<th(?![^>]*scope=)[ >]", html)
    assert f'aria-label="reward = alignment over optimizer steps: 0.10 {ARROW} 0.40"' in html
    assert '<html lang="en">' in html


def test_report_replaces_its_predecessor_and_leaves_nothing_else(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    write_report(folder)
    path = write_report(folder)
    assert path == folder / "report.html"
    assert {item.name for item in folder.iterdir()} == {*before, "report.html"}


def test_listener_writes_after_validation_and_at_the_end(folder: Path) -> None:
    listeners = Listeners([ReportListener()], plugins=False)
    run = Run(folder, spec(), 0, 1, 8.0)
    listeners.emit("validation_finished", run=run, validation=Validation(0, ()))
    assert (folder / "report.html").is_file()
    (folder / "report.html").unlink()
    listeners.emit("run_finished", run=run, result=RunResult(folder, 4, None, {}))
    assert (folder / "report.html").is_file()


def test_what_a_method_logs_is_shown(folder: Path) -> None:
    logged = {"kl": 0.25, "ddpo/clip_fraction": 0.125, "time/loss": 1.0}
    write_metrics(folder, [record(step, **logged) for step in (1, 2)])
    html = write_report(folder).read_text(encoding="utf-8")
    text = Loads(html).text
    assert "divergence from the base" in text
    assert "share of clipped ratios" in text
    assert "share of pairs in the right order" not in text
    assert 'class="phase-loss"' in html
    assert ".phase-loss {" in html


def test_a_live_page_reloads_itself_and_tells_the_time_left(folder: Path) -> None:
    write_metrics(folder, [record(1), record(2)])
    page = write_report(folder, live=True).read_text(encoding="utf-8")
    assert re.search(r'<body data-written="\d{13}">', page)
    assert "About left, without validations 10.0 s" in Loads(page).text, "2 steps of 5 s"
    write_metrics(folder, [record(step) for step in range(1, 5)])
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<body>" in page
    assert "Left" not in Loads(page).text


def test_the_listener_writes_every_few_seconds_and_last_when_nothing_more_comes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, run = [100.0], Run(folder, spec(), 0, 1, 8.0)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    listener, report = ReportListener(), folder / "report.html"
    listener.vader_run_started(run=run)
    listener.vader_step_finished(run=run)
    assert not report.exists(), "short runs write no page that nobody could see"
    now[0] += 5
    listener.vader_step_finished(run=run)
    assert "data-written" in report.read_text()
    report.unlink()
    now[0] += 4
    listener.vader_validation_progress(run=run)
    assert not report.exists()
    now[0] += 1
    listener.vader_validation_progress(run=run)
    assert report.exists()
    listener.vader_run_finished(run=run)
    assert "data-written" not in report.read_text()
