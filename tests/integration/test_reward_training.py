"""Latent rewards: trained on a model's own clips and on a folder's, loaded again, and used without decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fakes import write_clips
from tests.integration.harness import (
    BACKBONE,
    BRIGHTNESS,
    PROMPT_LENGTH,
    At,
    Crash,
    assert_same_run,
    command,
    crash,
    merged,
    records,
    tiny,
    truncate,
)

import vader
from vader.errors import SpecError, WeightsError
from vader.plugins import registry
from vader.protocols import Prompt, Runtime, Video
from vader.reward_training import train_reward
from vader.rewards.latent import Latent

PROMPTS = ["a red circle", "a blue square", "a green triangle", "a fox"]


def spec(output: Path, **changes: Any) -> dict[str, Any]:
    made = {
        "backbone": {"name": BACKBONE, "options": {"prediction": "flow"}},
        "video": {"frames": 3, "height": 4, "width": 4},
        "sampler": {"name": "flow_euler", "steps": 2},
        "prompts": {"name": "list", "options": {"prompts": PROMPTS}},
        "reward": {"name": BRIGHTNESS, "label": "brightness"},
        "clips": {"count": 256},
        "validation": {"clips": 64, "timesteps": 3},
        "network": {"layers": 1, "heads": 4},
        "train": {"steps": 300, "learning_rate": 3e-3, "head_learning_rate": 3e-3, "clean": 0.5, "device": "cpu"},
        "output": str(output),
    }
    return merged(made, changes)


def backbone() -> Any:
    kind = registry.load("backbone", BACKBONE)
    return kind(kind.Options(prediction="flow"), Runtime(torch.device("cpu"), torch.float32))


def latent(folder: Path, made: Any = None) -> Latent:
    runtime = Runtime(torch.device("cpu"), torch.float32)
    return Latent(Latent.Options(weights=str(folder)), runtime, made or backbone())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A call of decode adds an entry."""
    kind, calls = registry.load("backbone", BACKBONE), list[int]()
    plain = kind.decode

    def counted(self: Any, latents: torch.Tensor, frames: Any = None) -> torch.Tensor:
        calls.append(len(latents))
        return plain(self, latents, frames)

    monkeypatch.setattr(kind, "decode", counted)
    return calls


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "latent"
    made = train_reward(spec(folder))
    clean, _, noise = made.judgements
    assert clean.agreement > 0.9
    assert (clean.timestep, noise.timestep) == (0, 1000)
    assert abs(noise.agreement) < clean.agreement, "pure noise says nothing of a clip"
    assert clean.calibration is not None
    assert clean.calibration < 0.3
    return folder


def test_a_distilled_reward_agrees_with_the_pixel_reward_it_was_made_from(trained: Path) -> None:
    """On clips that neither training nor held-out clips have: noise by another seed."""
    made, reward = backbone(), latent(trained)
    prompts = [Prompt(text) for text in PROMPTS] * 8
    conditioning, at = made.encode(prompts), torch.ones(32)
    latents = torch.randn(32, *made.latent_shape(Video(3, 4, 4)), generator=torch.Generator().manual_seed(99))
    for time in (1000, 500):  # two Euler steps from noise, as the clips of the training
        latents = latents - 0.5 * made.predict(made.denoiser, latents, time * at, conditioning.positive)
    found = reward.score(latents, 0 * at, conditioning)
    kind = registry.load("reward", BRIGHTNESS)
    wanted = kind(kind.Options()).score(made.decode(latents), prompts)
    assert float(torch.corrcoef(torch.stack([found, wanted]))[0, 1]) > 0.8
    report = json.loads((trained / "report.json").read_text())
    assert report["agreement"] == "correlation with the labels"
    assert len(report["losses"]) == 300
    page = (trained / "report.html").read_text()
    assert "distilled from brightness" in page
    assert page.count("<svg") == 3


def test_clips_are_kept_and_not_made_again(trained: Path, tmp_path: Path, decoded: list[int]) -> None:
    again = tmp_path / "again"
    again.mkdir()
    (again / "clips.safetensors").write_bytes((trained / "clips.safetensors").read_bytes())
    same = train_reward(spec(again))
    assert decoded == []
    first, second = load_file(trained / "model.safetensors"), load_file(same.folder / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first), "training is deterministic"
    train_reward(spec(again, clips={"count": 8, "others": 2}, train={"steps": 1}))
    assert sum(decoded) == 8 + 64


def test_other_prompts_and_a_floor(tmp_path: Path) -> None:
    """PromptLength counts a prompt's letters, so labels by other prompts differ; below the floor all are alike."""
    changes = {"reward": {"name": PROMPT_LENGTH}, "clips": {"count": 16, "others": 2, "floor": 14.0}}
    made = train_reward(spec(tmp_path, **changes, validation={"clips": 32, "others": 3}, train={"steps": 3}))
    assert all(one.own is not None for one in made.judgements)
    kept = load_file(tmp_path / "clips.safetensors")
    assert kept["train/labels"].shape == (3, 16)
    assert kept["held out/labels"].shape == (4, 32)
    assert kept["held out/labels"].min() < 14, "the floor is laid when they are used"
    assert min(true for _, true in made.judgements[0].bins) >= 14
    assert "of own prompts" in (tmp_path / "report.html").read_text()


def test_a_training_goes_on_from_a_reward(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.safetensors").write_bytes((trained / "clips.safetensors").read_bytes())
    whole = {"layers": 1, "heads": 4, "init": str(trained)}
    made = train_reward(spec(tmp_path, network=whole, train={"steps": 2, "learning_rate": 1e-9}))
    before = json.loads((trained / "report.json").read_text())["by_timestep"][0]["agreement"]
    assert made.judgements[0].agreement == pytest.approx(before, abs=0.02)
    with pytest.raises(WeightsError, match=r"mlp\.1\.weight \(16, 16\), expected \(8, 16\)"):
        train_reward(spec(tmp_path, network={**whole, "hidden": 8}))


def test_gradients_are_learnt_where_they_are_asked_for(trained: Path, tmp_path: Path, decoded: list[int]) -> None:
    """The cosine with the pixel reward's gradient, through the decoder, is higher than by labels alone."""
    changes: dict[str, Any] = {"clips": {"count": 64}, "validation": {"clips": 32}}
    learnt = train_reward(spec(tmp_path / "learnt", **changes, train={"steps": 200, "gradient_weight": 1.0}))
    assert sum(decoded) == 2 * (64 + 32), "for labels and for gradients"
    plain = train_reward(spec(tmp_path / "plain", **changes, train={"steps": 200, "gradient_weight": 1e-9}))
    assert learnt.cosine is not None
    assert plain.cosine is not None
    assert learnt.cosine > max(0.8, plain.cosine + 0.05)
    kept = load_file(tmp_path / "learnt" / "clips.safetensors")
    made, row = backbone(), 5
    leaf = kept["held out/latents"][row : row + 1].requires_grad_(True)
    kind = registry.load("reward", BRIGHTNESS)
    kind(kind.Options()).score(made.decode(leaf), [Prompt("")]).sum().backward()
    torch.testing.assert_close(kept["held out/gradients"][row : row + 1], leaf.grad)
    assert f"a mean cosine of {learnt.cosine:.3f}" in (tmp_path / "learnt" / "report.html").read_text()


def run(output: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    made = tiny(output, rewards=[{"name": "latent", "options": {"weights": str(folder)}}], **changes)
    made["backbone"]["options"] = {"prediction": "flow"}
    made["sampler"]["name"] = "flow_euler"
    return {**made, "method": {"name": "prfl", "options": {"threshold": 5.0}}, "gradient": {}}


def test_prfl_by_a_latent_reward_decodes_nothing_and_goes_on_exactly(
    trained: Path, tmp_path: Path, decoded: list[int]
) -> None:
    whole = vader.train(run(tmp_path / "whole", trained))
    assert decoded == []
    with pytest.raises(Crash):
        vader.train(run(tmp_path / "broken", trained), listeners=[At(5, crash)])
    vader.train(run(tmp_path / "broken", trained), resume=True)
    assert_same_run(tmp_path / "broken", whole.folder)
    assert len({record["prfl/step"] for record in records(whole.folder)}) > 1


def test_reward_gradient_takes_a_latent_reward_too_and_validation_scores_it(
    trained: Path, tmp_path: Path, decoded: list[int]
) -> None:
    held_out = {"clips": 2, "save_clips": 0, "rewards": [{"name": BRIGHTNESS, "label": "brightness"}]}
    made = run(tmp_path / "run", trained, validation=held_out)
    del made["method"]
    result = vader.train(made)
    assert [sorted(one.keys) for one in result.validations] == [["brightness", "latent"]] * 2
    assert sum(decoded) == 2 * 2, "only the validations' clips"


def test_frame_rewards_are_refused_by_prfl(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"rewards\.0\.name: method 'prfl' ends rollouts at noisy latents"):
        vader.train({**tiny(tmp_path), "method": "prfl", "gradient": {}})


@pytest.mark.parametrize("loss", [pytest.param("cross_entropy", marks=pytest.mark.slow), "bradley_terry"])
def test_a_folder_of_clips_with_labels_or_pairs(tmp_path: Path, loss: str) -> None:
    """Red clips are liked, grey ones are not."""
    video = Video(3, 16, 16)
    write_clips(tmp_path, video, 16)
    lines = [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()]
    if loss == "bradley_terry":
        pairs = zip(lines[8:] * 2, [*lines[:8], *lines[7::-1]], strict=True)
        said = [{"better": b["file"], "worse": w["file"], "prompt": "a fox"} for b, w in pairs]
    else:
        said = [{**line, "label": float(line["label"] > 0.5)} for line in lines]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, said)))
    changes = {"clips": {"folder": str(tmp_path), "held_out": 0.25}, "video": {"height": 16, "width": 16}}
    made = spec(tmp_path / "out", loss=loss, **changes, train={"steps": 120, "batch_size": 8, "clean": 0.9})
    del made["prompts"], made["reward"]
    found = train_reward(made)
    assert found.judgements[0].agreement >= 0.75
    assert found.judgements[0].rank is None
    assert "from the labels of its clips" in (found.folder / "report.html").read_text()


def test_a_folder_without_labels_is_labelled_by_the_reward(tmp_path: Path) -> None:
    write_clips(tmp_path, Video(3, 4, 4), 12)
    lines = [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()]
    said = [{key: line[key] for key in ("file", "prompt")} for line in lines]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, said)))
    made = spec(tmp_path / "out", clips={"folder": str(tmp_path), "held_out": 0.3}, train={"steps": 2})
    del made["prompts"]
    found = train_reward(made)
    labels = [true for _, true in found.judgements[0].bins]
    assert max(labels) < 0, "brightness is at most 0"
    assert len(set(labels)) == len(labels) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": None}, "prompts: missing"),
        ({"reward": None}, "reward: missing"),
        ({"network": {"heads": 3}}, "network.heads: 3 heads do not divide 16"),
        ({"loss": "bradley_terry"}, "clips.group_size: bradley_terry compares clips of one prompt"),
        ({"clips": {"group_size": 7}}, "clips.count: expected a multiple of group_size 7"),
        ({"clips": {"folder": "/nowhere"}}, "clips.folder: cannot read '/nowhere/clips.jsonl'"),
        ({"loss": "cross_entropy", "train": {"gradient_weight": 1}}, "train.gradient_weight: gradients are of"),
        (
            {"reward": {"name": PROMPT_LENGTH}, "train": {"gradient_weight": 1}},
            "train.gradient_weight: '" + PROMPT_LENGTH + "' is not differentiable",
        ),
        ({"clips": {"cuont": 1}}, "clips.cuont: unknown field 'cuont'. Did you mean 'count'?"),
        ({"reward": {"name": "nothing"}}, "rewards.0.name: no reward is called 'nothing'"),
    ],
)
def test_a_wrong_spec_is_one_clear_error(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        train_reward(spec(tmp_path, **changes))
    assert said in str(refused.value)


def test_too_many_layers_are_the_backbones_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="2 layers are wanted"):
        train_reward(spec(tmp_path, network={"layers": 2}))


def test_damaged_and_foreign_rewards_are_said(trained: Path, tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "model.safetensors"):
            (folder / file).write_bytes((trained / file).read_bytes())
        return folder

    with pytest.raises(WeightsError, match=r"there is no config\.json of a latent reward"):
        latent(tmp_path)
    cut = copied("cut")
    truncate(cut / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors .* is truncated"):
        latent(cut)
    torn = copied("torn")
    (torn / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="is truncated or not the configuration of a latent reward"):
        latent(torn)
    for name, change in (("no head.query", {"head.query": None}), ("extra too many", {"extra": torch.ones(1)})):
        odd = copied(name.replace(" ", "-"))
        tensors = {key: value for key, value in load_file(odd / "model.safetensors").items() if key not in change}
        save_file(
            {**tensors, **{key: value for key, value in change.items() if value is not None}}, odd / "model.safetensors"
        )
        with pytest.raises(WeightsError, match=name):
            latent(odd)
    other = copied("other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "denoiser": {"class": "Another"}}))
    with pytest.raises(WeightsError, match=r"of another denoiser than this backbone's \(class 'Another' there"):
        latent(other)
    with pytest.raises(WeightsError, match="no backbone gives them"):
        Latent(Latent.Options(weights=str(trained)), Runtime(torch.device("cpu"), torch.float32))


def test_the_command_trains_and_says_how_good_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reward.yaml"
    file.write_text(json.dumps(spec(tmp_path / "out", clips={"count": 16}, train={"steps": 2})))
    code, out, _ = command(monkeypatch, capsys, "reward", "train", file, "--set", "validation.clips=8")
    assert code == 0
    assert "optimizer steps: 2 of 2" in out
    assert "timestep      0  correlation with the labels" in out
    assert str(tmp_path / "out") in out.replace("\n", "")
