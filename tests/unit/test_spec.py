"""The run spec: how it is read, overridden, written and judged."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, ValidationError

from vader.errors import Problem, SpecError
from vader.spec import FREE_ON_RESUME, Options, RewardSpec, RunSpec, differences
from vader.spec.consistency import inconsistencies
from vader.spec.form import form_problems, unknown_field
from vader.spec.reading import SpecSource, read_source

LEAST = {"backbone": "fake", "prompts": "list", "rewards": ["bright"]}
FULL = """\
backbone:
  name: fake
  adapter:
    rank: 4
prompts: list
rewards:
  - bright
  - name: hps
    weight: 0.5
train:
  steps: 20
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def changed(**sections: Any) -> RunSpec:
    return RunSpec.model_validate({**LEAST, **sections})


def form(data: dict[str, Any]) -> list[str]:
    """What is said about the form of a spec."""
    with pytest.raises(ValidationError) as caught:
        RunSpec.model_validate(data)
    return [str(problem) for problem in form_problems(SpecSource(data), caught.value, RunSpec)]


def form_of(path: Path, overrides: Sequence[str] = ()) -> list[str]:
    source = read_source(path, overrides)
    with pytest.raises(ValidationError) as caught:
        RunSpec.model_validate(source.data)
    return [str(problem) for problem in form_problems(source, caught.value, RunSpec)]


class TestReading:
    def test_yaml_gives_data_and_its_name(self, tmp_path: Path) -> None:
        path = written(tmp_path, FULL)
        source = read_source(path)
        assert source.data == yaml.safe_load(FULL)
        assert source.name == str(path)
        assert read_source(str(path)).data == source.data

    def test_yaml_gives_the_line_of_every_path(self, tmp_path: Path) -> None:
        source = read_source(written(tmp_path, FULL))
        lines = {path: source.problem(path, "").line for path in ("backbone.name", "backbone.adapter.rank", "prompts",
                 "rewards", "rewards.0", "rewards.1.weight", "train.steps")}  # fmt: skip
        assert lines == {"backbone.name": 2, "backbone.adapter.rank": 4, "prompts": 5, "rewards": 6, "rewards.0": 7,
                         "rewards.1.weight": 9, "train.steps": 11}  # fmt: skip

    def test_a_path_that_is_not_in_the_file_has_the_line_of_its_parent(self, tmp_path: Path) -> None:
        source = read_source(written(tmp_path, FULL))
        assert source.problem("rewards.1.options.level", "").line == 8
        assert source.problem("frames.index", "").line in (None, 1)

    def test_a_mapping_is_copied(self) -> None:
        data = {"backbone": {"name": "fake"}}
        read_source(data, ["backbone.name=other"])
        assert data == {"backbone": {"name": "fake"}}

    def test_a_mapping_has_neither_name_nor_lines(self) -> None:
        assert read_source(LEAST).name is None
        assert str(read_source(LEAST).problem("train.steps", "wrong.")) == "train.steps: wrong."

    def test_a_spec_is_read_back_equal(self) -> None:
        spec = changed(train={"steps": 7}, rewards=[{"name": "a", "target": 1.5}, "b"])
        assert RunSpec.model_validate(read_source(spec).data) == spec

    def test_an_empty_file_is_an_empty_spec(self, tmp_path: Path) -> None:
        assert read_source(written(tmp_path, "# nothing yet\n")).data == {}

    def test_a_missing_file_says_how_to_get_one(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError) as caught:
            read_source(tmp_path / "none.yaml")
        (problem,) = caught.value.problems
        assert problem.path == str(tmp_path / "none.yaml")
        assert problem.message.startswith("cannot read the spec file: No such file or directory. Expected ")
        assert "'vader init none.yaml' writes" in problem.message

    def test_a_folder_or_a_binary_file_is_no_spec(self, tmp_path: Path) -> None:
        (tmp_path / "run.bin").write_bytes(b"\xff\xfe\x00binary")
        for path in (tmp_path, tmp_path / "run.bin"):
            with pytest.raises(SpecError, match="cannot read the spec file"):
                read_source(path)

    @pytest.mark.parametrize(
        ("text", "line"),
        [("train:\n  steps: [1, 2\n", 3), ("train:\n\tsteps: 1\n", 2), ("a: 1\n---\nb: 2\n", 2), ("a: 'open\n", 2)],
    )
    def test_broken_yaml_is_shown_with_its_line(self, tmp_path: Path, text: str, line: int) -> None:
        with pytest.raises(SpecError, match="not valid YAML") as caught:
            read_source(written(tmp_path, text))
        assert caught.value.problems[0].line == line

    @pytest.mark.parametrize("text", ["a: \0\n", "a: &x [*x]\n", "? [1, 2]\n: 3\n", "a: !!python/object:os.x {}\n"])
    def test_yaml_that_no_spec_can_hold_is_a_spec_error(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(SpecError):
            read_source(written(tmp_path, text))

    @pytest.mark.parametrize(("text", "kind"), [("[1, 2]", "list"), ("words", "str"), ("3", "int")])
    def test_something_else_than_a_mapping_is_refused(self, tmp_path: Path, text: str, kind: str) -> None:
        with pytest.raises(SpecError, match=f"expected a mapping of fields such as 'backbone:', found {kind}"):
            read_source(written(tmp_path, text))

    def test_keys_that_stand_twice_are_all_refused_with_their_lines(self, tmp_path: Path) -> None:
        text = "train:\n  steps: 1\n  seed: 2\n  steps: 3\nrewards:\n  - name: a\n    name: b\n"
        with pytest.raises(SpecError) as caught:
            read_source(written(tmp_path, text))
        assert [(p.path, p.line) for p in caught.value.problems] == [("train.steps", 4), ("rewards.0.name", 7)]
        assert caught.value.problems[0].message == "the key stands twice; remove one."

    def test_a_section_that_stands_twice_is_one_mistake(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError) as caught:
            read_source(written(tmp_path, "train:\n  steps: 1\ntrain:\n  steps: 3\n"))
        assert [(p.path, p.line) for p in caught.value.problems] == [("train", 3)]


class TestOverrides:
    def apply(self, *overrides: str, **data: Any) -> dict[str, Any]:
        return read_source(data or dict(LEAST), overrides).data

    @pytest.mark.parametrize(
        ("raw", "value"),
        [("50", 50), ("2e-4", "2e-4"), ("0.5", 0.5), ("null", None), ("", None), ("true", True), ("a=b", "a=b"),
         ("[a, b]", ["a", "b"]), ("{k: 1}", {"k": 1}), ("'50'", "50")],
    )  # fmt: skip
    def test_values_are_yaml(self, raw: str, value: Any) -> None:
        assert self.apply(f"train.steps={raw}")["train"] == {"steps": value}

    def test_later_ones_win(self) -> None:
        assert self.apply("train.steps=1", "train.steps=2")["train"]["steps"] == 2

    def test_make_sections_and_keep_their_neighbours(self) -> None:
        before = {"name": "fake", "options": {"a": 1}}
        data = self.apply("backbone.adapter.rank=4", "gradient.mode=tail", backbone=before)
        assert data == {
            "backbone": {"name": "fake", "options": {"a": 1}, "adapter": {"rank": 4}},
            "gradient": {"mode": "tail"},
        }

    def test_reach_into_a_section_that_is_null(self) -> None:
        assert self.apply("train.steps=1", train=None) == {"train": {"steps": 1}}

    def test_reach_into_a_component_that_is_short_for_its_name(self) -> None:
        data = self.apply("backbone.options.seed=3", "rewards.0.weight=2")
        assert data["backbone"] == {"name": "fake", "options": {"seed": 3}}
        assert data["rewards"] == [{"name": "bright", "weight": 2}]

    def test_replace_an_element_of_a_list(self) -> None:
        assert self.apply("rewards.1=other", rewards=["a", "b"]) == {"rewards": ["a", "other"]}

    def test_reach_into_a_tuple_of_python(self) -> None:
        assert self.apply("rewards.0.weight=2", rewards=("a",))["rewards"][0] == {"name": "a", "weight": 2}

    def test_of_a_spec_give_the_changed_spec(self) -> None:
        source = read_source(changed(), ["rewards.0.weight=2", "train.learning_rate=1e-3"])
        spec = RunSpec.model_validate(source.data)
        assert (spec.rewards[0].weight, spec.train.learning_rate) == (2, 1e-3)

    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("train.steps", "train.steps: an override is written path=value, for example train.steps=50."),
            ("=3", "=3: an override is written path=value"),
            ("train..steps=3", "train..steps=3: an override is written path=value"),
            ("train.steps=[1", "train.steps: the value '[1' of this override is not valid YAML: did not find"),
            ("rewards.1.weight=2", "rewards.1.weight: rewards is a list; expected an index (0 to 0), found '1'."),
            ("rewards.x.weight=2", "rewards.x.weight: rewards is a list; expected an index (0 to 0), found 'x'."),
            ("trackers.0=x", "trackers.0: trackers is a list; expected an index (none, the list is empty), found '0'."),
            ("train.steps.x=2", "train.steps.x: train.steps is 3, which has no field 'x'."),
        ],
    )
    def test_that_cannot_be_applied_say_why(self, override: str, says: str) -> None:
        with pytest.raises(SpecError) as caught:
            self.apply(override, **LEAST, trackers=[], train={"steps": 3})
        assert says in str(caught.value)

    def test_that_cannot_be_applied_are_all_named_at_once(self) -> None:
        with pytest.raises(SpecError, match="2 problems in the run spec"):
            self.apply("a", "rewards.7=x")

    def test_mistakes_in_them_are_not_blamed_on_a_line_of_the_file(self, tmp_path: Path) -> None:
        said = form_of(written(tmp_path, FULL), ["train.steps=-4"])
        assert len(said) == 1
        assert said[0].startswith("train.steps")
        assert "line 11" not in said[0]
        assert "found -4" in said[0]


class TestWriting:
    def test_yaml_round_trip(self, tmp_path: Path) -> None:
        spec = changed(
            backbone={"name": "fake", "options": {"seed": 3, "nested": {"list": [1, 2.5, None]}}},
            rewards=[{"name": "a", "target": 1e-7, "label": "ä"}, "b"],
            video={"frames": 8},
            trackers=["wandb"],
        )
        (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
        assert RunSpec.model_validate(read_source(tmp_path / "spec.yaml").data) == spec

    def test_yaml_keeps_the_order_of_the_fields(self) -> None:
        assert list(yaml.safe_load(changed().to_yaml())) == list(RunSpec.model_fields)


class TestDigest:
    @pytest.mark.parametrize(
        "sections",
        [
            {"output": "elsewhere"},
            {"trackers": ["wandb"]},
            {"validation": {"clips": 2}},
            {"gradient": {"recompute": False}},
            {"train": {"steps": 7}},
            {"train": {"device": "cpu"}},
            {"train": {"checkpoint_every": 7}},
            {"train": {"validate_every": 7}},
            {"train": {"keep_checkpoints": 2}},
            {"train": {"processes": 2}},
            {"train": {"timeout": 60}},
            {"train": {"sharding": {"strategy": "full"}}},
            {"train": {"max_nonfinite": 7}},
        ],
    )
    def test_is_free_of_what_may_change_on_resume(self, sections: dict[str, Any]) -> None:
        assert changed(**sections).digest() == changed().digest()
        assert differences(changed(), changed(**sections)) == []

    def test_a_field_added_since_is_not_in_it_at_the_value_that_does_as_before(self) -> None:
        """Else runs of earlier versions cannot be resumed: list the field in ADDED_FIELDS."""
        golden = Path(__file__).parents[1] / "golden" / "run_folder_a"
        manifest = json.loads((golden / "checkpoints" / "step-000004" / "manifest.json").read_text())
        assert (
            RunSpec.model_validate(read_source(golden / "spec.yaml").data).digest(
                {"train.processes": None, "gradient.recompute": True}
            )
            == manifest["digest"]
        )

    def test_free_fields_are_pinned(self) -> None:
        assert len(FREE_ON_RESUME) == 14

    @pytest.mark.parametrize(
        ("sections", "says"),
        [
            ({"train": {"seed": 1}}, "train.seed: 0 then, 1 now"),
            ({"train": {"learning_rate": 1e-3}}, "train.learning_rate: 0.0002 then, 0.001 now"),
            ({"train": {"batch_size": 2}}, "train.batch_size: 1 then, 2 now"),
            ({"sampler": {"eta": 1}}, "sampler.eta: 0.0 then, 1.0 now"),
            ({"backbone": {"name": "fake", "options": {"seed": 1}}}, "backbone.options.seed: None then, 1 now"),
            ({"gradient": {"mode": "rand"}}, "gradient.mode: 'last' then, 'rand' now"),
            ({"prompts": "file"}, "prompts.name: 'list' then, 'file' now"),
        ],
    )
    def test_holds_everything_else(self, sections: dict[str, Any], says: str) -> None:
        assert changed(**sections).digest() != changed().digest()
        assert differences(changed(), changed(**sections)) == [says]

    def test_differences_name_every_path(self) -> None:
        found = differences(changed(), changed(train={"seed": 1, "steps": 9}, sampler={"steps": 3}, rewards=["x"]))
        assert [line.split(":")[0] for line in found] == ["sampler.steps", "rewards", "train.seed"]

    def test_does_not_depend_on_how_the_spec_was_written(self) -> None:
        assert changed(backbone={"name": "fake"}).digest() == changed(backbone="fake").digest()


class TestForm:
    def test_names_are_short_for_components(self) -> None:
        spec = changed(sampler="ddim", method="ddpo", validation={"prompts": "file", "rewards": ["a"]})
        assert (spec.backbone.name, spec.prompts.name, spec.rewards[0].name) == ("fake", "list", "bright")
        assert (spec.sampler.name, spec.method.name) == ("ddim", "ddpo")
        assert spec.validation.prompts is not None
        assert (spec.validation.prompts.name, spec.validation.rewards[0].name) == ("file", "a")

    def test_a_reward_is_logged_by_its_label_or_its_name(self) -> None:
        rewards = changed(rewards=["a", {"name": "b", "label": "c"}]).rewards
        assert [reward.key for reward in rewards] == ["a", "c"]

    def test_a_misspelt_field_has_its_nearest_name_and_all_known_ones(self) -> None:
        assert form({**LEAST, "gradient": {"mod": "last"}}) == [
            "gradient.mod: unknown field 'mod'. Did you mean 'mode'? "
            "Known: mode, k, from_step, original, stop_gradient, renoise, branches, recompute."
        ]

    def test_a_misspelt_field_in_a_list_is_known_by_its_model(self) -> None:
        said = form({**LEAST, "rewards": ["a", {"name": "b", "wieght": 2}]})
        start, _, known = said[0].partition(" Known: ")
        assert start == "rewards.1.wieght: unknown field 'wieght'. Did you mean 'weight'?"
        assert set(known.rstrip(".").split(", ")) == set(RewardSpec.model_fields)

    @pytest.mark.parametrize("key", ["learning-rate", "learning[rate]"])
    def test_a_misspelt_field_with_odd_signs_keeps_its_path_and_its_section(self, key: str) -> None:
        said = form({**LEAST, "train": {key: 1}})
        assert said[0].startswith(f"train.{key}: unknown field {key!r}. Did you mean 'learning_rate'? Known: steps, ")

    def test_a_missing_field_says_what_it_is(self) -> None:
        assert form({"prompts": "list"}) == ["backbone: missing. Add it (The text-to-video model)."]

    @pytest.mark.parametrize(
        ("sections", "says"),
        [
            ({"train": {"steps": "many"}},
             "train.steps: expected a valid integer, unable to parse string as an integer; found 'many'."),
            ({"train": {"steps": 0}}, "train.steps: expected greater than or equal to 1; found 0."),
            ({"train": {"learning_rate": float("nan")}}, "train.learning_rate: expected a finite number; found nan."),
            ({"sampler": {"eta": 1.5}}, "sampler.eta: expected less than or equal to 1; found 1.5."),
            ({"frames": {"mode": "fmm"}},
             "frames.mode: expected 'random', 'index', 'fml', 'all' or 'alt'; found 'fmm'."),
            ({"trackers": ["tensorbord"]},
             "trackers.0: expected 'tensorboard', 'wandb' or 'trackio'; found 'tensorbord'."),
            ({"gradient": {"original": "maybe"}},
             "gradient.original: expected a valid boolean, unable to interpret input; found 'maybe'."),
        ],
    )  # fmt: skip
    def test_a_wrong_value_is_shown_with_what_was_expected(self, sections: dict[str, Any], says: str) -> None:
        assert form({**LEAST, **sections}) == [says]

    @pytest.mark.parametrize("sections", [{"train": 3}, {"rewards": {"name": "a"}}, {"backbone": 3}, {"rewards": "a"}])
    def test_a_wrong_shape_is_said_in_words_of_yaml(self, sections: dict[str, Any]) -> None:
        (said,) = form({**LEAST, **sections})
        assert "tuple" not in said
        assert "instance" not in said
        assert "Spec" not in said

    def test_all_mistakes_come_at_once_with_their_lines(self, tmp_path: Path) -> None:
        text = "backbone: fake\nprompts: list\ntrain:\n  stps: 1\n  seed: -1\nframes:\n  mode: x\n"
        said = form_of(written(tmp_path, text))
        assert sorted(line.split(": ")[0] for line in said) == [
            "frames.mode (line 7)", "train.seed (line 5)", "train.stps (line 4)",
        ]  # fmt: skip

    def test_options_of_a_component_are_placed_under_its_path(self) -> None:
        class Mine(Options):
            level: float = Field(0.5, ge=0)
            size: int | str = 1
            table: dict[str, int] = Field(default_factory=dict)

        with pytest.raises(ValidationError) as caught:
            Mine.model_validate({"levle": 1, "level": -1, "size": [], "table": {"a-b": "x"}})
        problems = form_problems(SpecSource({}), caught.value, Mine, ("rewards", 0, "options"))
        said = {problem.path: problem.message for problem in problems}
        assert said["rewards.0.options.levle"].startswith("unknown field 'levle'. Did you mean 'level'?")
        assert said["rewards.0.options.level"] == "expected greater than or equal to 0; found -1."
        assert said["rewards.0.options.table.a-b"].startswith("expected a valid integer")
        assert any(path.startswith("rewards.0.options.size") for path in said)

    def test_of_options_without_fields_is_said_so(self) -> None:
        assert unknown_field("level", []) == "unknown field 'level'; this takes no fields. Remove it."

    def test_of_a_name_near_to_none_makes_no_guess(self) -> None:
        assert unknown_field("zzz", ["level"]) == "unknown field 'zzz'. Known: level."

    def test_specs_and_options_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            changed().train.steps = 3  # type: ignore[misc]


class TestImpossible:
    def said(self, **sections: Any) -> list[str]:
        spec = changed(**sections)
        return [str(SpecSource({}).problem(*finding)) for finding in inconsistencies(spec)]

    def test_nothing_is_said_of_a_possible_spec(self) -> None:
        assert self.said() == []
        assert self.said(
            sampler={"steps": 10},
            gradient={"mode": "tail", "k": 10},
            frames={"mode": "index", "index": 0},
            train={"steps": 10, "warmup_steps": 9},
            rewards=["a", {"name": "a", "label": "b"}],
            validation={"rewards": ["a"]},
        ) == []  # fmt: skip
        assert self.said(sampler={"steps": 10}, gradient={"mode": "specific", "from_step": 9}) == []

    @pytest.mark.parametrize(
        ("sections", "says"),
        [
            ({"gradient": {"mode": "tail"}},
             "gradient.k: mode tail needs k, the number of steps with gradient. Add k: 1 or more."),
            ({"gradient": {"mode": "last", "k": 2}},
             "gradient.k: k = 2 means nothing to mode last. Use mode: tail, or remove k."),
            ({"gradient": {"mode": "tail", "k": 11}, "sampler": {"steps": 10}},
             "gradient.k: k = 11 is more than sampler.steps = 10. Expected 1 to 10."),
            ({"gradient": {"mode": "specific"}, "sampler": {"steps": 10}},
             "gradient.from_step: mode specific needs from_step, expected 0 to 9."),
            ({"rollout": {"coarse_steps": 11}, "sampler": {"steps": 10}},
             "rollout.coarse_steps: 11 is more than sampler.steps = 10. Expected 1 to 10."),
            ({"rollout": {"coarse_steps": 5, "reuse": {}}},
             "rollout.coarse_steps: reuse says already which steps make a prediction. Remove one of the two."),
            ({"rollout": {"reuse": {"from_step": 10}}, "sampler": {"steps": 10}},
             "rollout.reuse.from_step: 10 is not before sampler.steps = 10. Expected 0 to 9."),
            ({"rollout": {"reuse": {"from_step": 4, "to_step": 4}}},
             "rollout.reuse.from_step: 4 is not before to_step = 4. Expected 0 to 3."),
            ({"rollout": {"guidance_every": 2}},
             "rollout.guidance_every: there is no guidance at sampler.guidance_scale 1. Remove it, or set a scale."),
            ({"gradient": {"mode": "last", "from_step": 2}},
             "gradient.from_step: from_step means nothing to mode last. Use mode: specific, or remove it."),
            ({"gradient": {"mode": "specific", "from_step": 10}, "sampler": {"steps": 10}},
             "gradient.from_step: 10 is past the last step. Expected 0 to 9 (sampler.steps = 10)."),
            ({"frames": {"mode": "index"}}, "frames.index: mode index needs index, the frame to decode."),
            ({"frames": {"mode": "fml", "index": 2}},
             "frames.index: index means nothing to mode fml. Use mode: index, or remove it."),
            ({"train": {"steps": 10, "warmup_steps": 10}}, "train.warmup_steps: 10 is not less than train.steps = 10."),
            ({"rewards": ["a", "b", "a"]},
             "rewards.2.label: 'a' already names rewards.0 in the logs. Give one of them a label."),
            ({"rewards": ["a", {"name": "b", "label": "a"}]},
             "rewards.1.label: 'a' already names rewards.0 in the logs. Give one of them a label."),
            ({"validation": {"rewards": ["a", "a"]}},
             "validation.rewards.1.label: 'a' already names validation.rewards.0 in the logs. "
             "Give one of them a label."),
        ],
    )  # fmt: skip
    def test_states_are_refused_with_the_way_out(self, sections: dict[str, Any], says: str) -> None:
        assert self.said(**sections) == [says]

    def test_states_all_come_at_once(self) -> None:
        assert len(self.said(gradient={"mode": "tail"}, frames={"mode": "index"}, rewards=["a", "a"])) == 3

    def test_states_have_their_line(self, tmp_path: Path) -> None:
        source = read_source(written(tmp_path, FULL + "gradient:\n  mode: last\n  k: 2\n"))
        (problem,) = [source.problem(*finding) for finding in inconsistencies(RunSpec.model_validate(source.data))]
        assert problem.line == 14


class TestErrors:
    def test_a_problem_says_path_line_and_message(self) -> None:
        assert str(Problem("a.b", "wrong.", 3)) == "a.b (line 3): wrong."
        assert str(Problem("", "wrong.")) == "spec: wrong."

    def test_a_spec_error_counts_and_lists_its_problems(self) -> None:
        error = SpecError([Problem("a", "x."), Problem("b", "y.")], "run.yaml")
        assert str(error) == "2 problems in run.yaml\n  a: x.\n  b: y."
        assert str(SpecError([Problem("a", "x.")])) == "1 problem in the run spec\n  a: x."
        assert isinstance(error, ValueError)
