"""Adapters of the hub, from a cache laid out as the hub's client lays it out, without a connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from tests.integration.harness import tiny

import vader
from vader import SpecError, WeightsError
from vader.cli import app as cli
from vader.resolve import adapter_source
from vader.resolve.validate import resolve
from vader.runs.folder import SPEC
from vader.weights.lora import DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE

PROMPT = "a red circle"
COMMIT = "0" * 40


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache, the test's own; asking the hub for anything is an error of its client."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    vader.train(tiny(folder, backbone={"adapter": {"rank": 3, "alpha": 12.0}}, train={"learning_rate": 0.05}))
    return folder


def publish(cache: Path, name: str, files: dict[str, Path]) -> None:
    """Put a repository into the cache: blobs, a snapshot of links to them, and the branch that it is of."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    for number, (file, source) in enumerate(files.items()):
        blob = repository / "blobs" / f"{number:040x}"
        blob.write_bytes(source.read_bytes())
        link = repository / "snapshots" / COMMIT / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


def peft_files(run: Path) -> dict[str, Path]:
    return {file: run / "adapter" / file for file in (PEFT_FILE, PEFT_CONFIG)}


def spec(folder: Path, init: str, **adapter: Any) -> dict[str, Any]:
    made = tiny(folder)
    return {**made, "backbone": {**made["backbone"], "adapter": {"init": init, **adapter}}}


def test_training_starts_from_it_with_its_rank(run: Path, cache: Path, tmp_path: Path) -> None:
    publish(cache, "some-one/lora", peft_files(run))
    plan = resolve(spec(tmp_path / "out", "hub:some-one/lora"))
    adapter = plan.spec.backbone.adapter
    assert (adapter.rank, adapter.alpha, adapter.init) == (3, 12.0, "hub:some-one/lora")
    assert plan.initial_adapter is not None
    assert plan.initial_adapter.name == PEFT_FILE
    vader.train(
        spec(tmp_path / "out", "hub:some-one/lora"),
        ["train.steps=1", "train.warmup_steps=0", "train.learning_rate=1e-12"],
    )
    found = vader.generate(tmp_path / "out", [PROMPT])[0].frames
    expected = vader.generate(run, [PROMPT])[0].frames
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    base = vader.generate(run, [PROMPT], adapter_scale=0.0)[0].frames
    assert (expected - base).abs().max() > 1e-3, "the adapter does nothing, so nothing was compared"


@pytest.mark.parametrize("name", ["hub:some-one/lora", f"hub:some-one/lora:{PEFT_FILE}"])
def test_generation_with_it(run: Path, cache: Path, name: str) -> None:
    publish(cache, "some-one/lora", {**peft_files(run), "README.md": run / SPEC})
    found = vader.generate(run, [PROMPT], adapter=name)[0].frames
    assert torch.equal(found, vader.generate(run, [PROMPT])[0].frames)


def test_a_file_in_a_folder_of_the_repository_brings_its_configuration(run: Path, cache: Path) -> None:
    publish(cache, "some-one/lora", {f"step 3/{file}": path for file, path in peft_files(run).items()})
    found = vader.generate(run, [PROMPT], adapter=f"hub:some-one/lora:step 3/{PEFT_FILE}")[0].frames
    assert torch.equal(found, vader.generate(run, [PROMPT])[0].frames)


def test_evaluation_with_it(run: Path, cache: Path) -> None:
    publish(cache, "some-one/lora", peft_files(run))
    overrides = ["validation.clips=2"]
    found = vader.evaluate(run, adapter="hub:some-one/lora", overrides=overrides).adapted
    expected = vader.evaluate(run, overrides=overrides).adapted
    assert found is not None
    assert expected is not None
    assert [clip.scores for clip in found.clips] == [clip.scores for clip in expected.clips]


def test_what_training_started_from_need_not_be_there_later(run: Path, cache: Path, tmp_path: Path) -> None:
    publish(cache, "some-one/lora", peft_files(run))
    vader.train(spec(tmp_path / "out", "hub:some-one/lora"), ["train.steps=1", "train.warmup_steps=0"])
    cache.rename(tmp_path / "gone")
    assert vader.generate(tmp_path / "out", [PROMPT])[0].frames.isfinite().all()


MISSING = "hub:some-one/missing"


def test_offline_and_missing_is_one_clear_error(run: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        vader.train(spec(tmp_path / "out", MISSING))
    problem = caught.value.problems[0]
    assert problem.path == "backbone.adapter.init"
    for wanted in ("some-one/missing", "`hf download some-one/missing`", "HF_HUB_OFFLINE=1"):
        assert wanted in problem.message
    with pytest.raises(WeightsError, match="hf download some-one/missing"):
        vader.generate(run, [PROMPT], adapter=MISSING)
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(run: Path, cache: Path) -> None:
    publish(cache, "some-one/lora", peft_files(run))
    with pytest.raises(WeightsError, match=r"not give its other.pt.*`hf download some-one/lora other.pt`") as caught:
        vader.generate(run, [PROMPT], adapter="hub:some-one/lora:other.pt")
    assert "HF_HUB_OFFLINE=1" in str(caught.value)


def test_a_dry_run_downloads_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the hub within reach it still looks in the cache alone, and says what a run will download."""
    import yaml

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_: pytest.fail("asked the hub"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("opened a connection"))
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(spec(tmp_path / "out", MISSING, rank=5)))
    assert vader.check(file, trust_code=True).backbone.adapter.rank == 5
    monkeypatch.setattr("sys.argv", ["vader", "train", str(file), "--dry-run", "--trust-code"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    said = capsys.readouterr().out
    assert f"is sound. Its adapter {MISSING} is not in the hub's cache; a run downloads it" in said


def test_a_dry_run_judges_what_the_cache_has(run: Path, cache: Path, tmp_path: Path) -> None:
    publish(cache, "some-one/lora", peft_files(run))
    assert vader.check(spec(tmp_path / "out", "hub:some-one/lora")).backbone.adapter.rank == 3
    with pytest.raises(SpecError, match="has rank 3, found 8"):
        vader.check(spec(tmp_path / "out", "hub:some-one/lora", rank=8))


@pytest.mark.parametrize("name", ["hub:lora", "hub:", "hub:a/b/c", "hub:a/b:", "hub:../x", "hub:a/b:../x"])
def test_names_that_are_none(name: str, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="expected hub:owner/name or hub:owner/name:file"):
        vader.check(spec(tmp_path / "out", name))


def test_which_file_of_a_repository(run: Path, cache: Path) -> None:
    own = run / "adapter" / PEFT_FILE
    publish(cache, "some-one/single", {"lora.pt": own, "README.md": own})
    publish(cache, "some-one/diffusers", {DIFFUSERS_FILE: own, "model.ckpt": own})
    publish(cache, "some-one/two", {"b.pt": own, "a.safetensors": own})
    publish(cache, "some-one/none", {"README.md": own})
    for name, file in (("single", "lora.pt"), ("diffusers", DIFFUSERS_FILE)):
        found = adapter_source.locate(f"hub:some-one/{name}")
        assert found is not None
        assert found.name == file
    with pytest.raises(WeightsError, match=r"holds 2 files of weights \(a.safetensors, b.pt\); name the adapter's"):
        adapter_source.locate("hub:some-one/two")
    with pytest.raises(WeightsError, match="holds no file of weights, only 1 others"):
        adapter_source.locate("hub:some-one/none")
