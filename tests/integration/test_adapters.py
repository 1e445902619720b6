"""A run's adapter outside of vader and inside: plain peft, diffusers, generation and evaluation; and wrong adapters."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from safetensors.torch import load_file, save_file
from tests.fakes import CHANNELS, TOKENS, WIDTH, FakeBackbone, FakeBackboneOptions
from tests.integration.harness import (
    ADAPTER_FILE,
    PROMPT_LENGTH,
    At,
    Crash,
    adapter,
    crash,
    flip,
    records,
    tiny,
    truncate,
)
from torch import Tensor

import vader

PROMPT = "a red circle"


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    """Alpha is not the rank, so that a scale that gets lost shows."""
    made = tiny(
        folder,
        backbone={"adapter": {"rank": 3, "alpha": 12.0}},
        train={"learning_rate": 0.05, "warmup_steps": 0, "schedule": "constant"},
        validation={"clips": 3, "save_clips": 1, "rewards": [PROMPT_LENGTH]},
    )
    for section, change in changes.items():
        made[section] = {**made[section], **change}
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "run"
    vader.train(spec(folder))
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run's adapter, to be changed: without the digests that a change would not agree with."""
    return Path(shutil.copytree(run / "adapter", tmp_path / "adapter", ignore=shutil.ignore_patterns("manifest.json")))


def frames(source: Any, prompts: tuple[str, ...] = (PROMPT,), **rest: Any) -> list[Tensor]:
    return [clip.frames for clip in vader.generate(source, prompts, **rest)]


def fake_denoiser() -> torch.nn.Module:
    runtime = vader.Runtime(torch.device("cpu"), torch.float32)
    return FakeBackbone(FakeBackboneOptions(), runtime).denoiser


# -- elsewhere


def test_plain_peft_gives_the_same_outputs(run: Path) -> None:
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(fake_denoiser(), str(run / "adapter")).eval()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, CHANNELS, 3, 2, 2, generator=generator)
    embeds = torch.randn(2, TOKENS, WIDTH, generator=generator)
    arguments = (latents, torch.tensor([500, 20]), embeds)
    with torch.no_grad():
        outside, base = loaded(*arguments), fake_denoiser()(*arguments)
        session = vader_session(run)
        inside = session.context.denoiser(*arguments)
    assert torch.equal(outside, inside)
    assert (outside - base).abs().max() > 1e-3, "the adapter does nothing, so nothing was compared"


def vader_session(source: Any) -> Any:
    from vader.runs.session import open_session

    return open_session(source, (), None, scored=False)


def test_the_same_names_and_shapes_that_peft_writes(run: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    PeftModel.from_pretrained(fake_denoiser(), str(run / "adapter")).save_pretrained(tmp_path)
    theirs, ours = load_file(tmp_path / ADAPTER_FILE), adapter(run / "adapter")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (3, 12.0, "LORA")


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Wan pipeline, and a run on it."""
    tiny_wan = pytest.importorskip("vader_diffusers.tiny", reason="vader-plugin-diffusers is not installed")
    folder = tmp_path_factory.mktemp("wan")
    weights = tiny_wan.write(folder / "weights")
    options = {"weights": str(weights), "max_sequence_length": 16}
    made = tiny(
        folder / "run",
        sampler={"steps": 2, "guidance_scale": 3.0},
        video={"frames": 5, "height": 16, "width": 16},
        train={"steps": 2, "gradient_accumulation": 1, "warmup_steps": 0, "learning_rate": 0.05},
        gradient={"mode": "last"},
        frames={"mode": "index", "index": 0},
    )
    made["backbone"] = {"name": "wan", "options": options, "adapter": {"rank": 2, "alpha": 8.0}}
    vader.train(made)
    return weights, folder / "run"


def test_diffusers_loads_the_adapter_of_a_wan_run(wan: tuple[Path, Path]) -> None:
    """Frames of diffusers' own pipeline with ``load_lora_weights`` against ours, from the same noise."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    from vader.diffusion.rollout import ClipNoise

    weights, folder = wan
    pipeline = WanPipeline.from_pretrained(weights)
    pipeline.set_progress_bar_config(disable=True)
    session = vader_session(folder)
    shift = session.context.backbone.schedule.shift
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    noise = ClipNoise(
        [7],
        session.context.backbone.latent_shape(session.context.video),
        torch.device("cpu"),
        torch.float32,
    ).draw()

    def theirs() -> Tensor:
        video = pipeline(
            PROMPT, negative_prompt="", height=16, width=16, num_frames=5, num_inference_steps=2, guidance_scale=3.0,
            max_sequence_length=16, latents=noise.clone(), output_type="pt",
        ).frames  # fmt: skip
        return torch.as_tensor(video)[0].cpu()

    base = theirs()
    pipeline.load_lora_weights(folder / "adapter")
    adapted = theirs()
    (ours,) = frames(folder, seeds=[7])
    (ours_base,) = frames(folder, seeds=[7], adapter_scale=0.0)
    assert (base - ours_base).abs().max() <= 1e-5
    assert (adapted - ours).abs().max() <= 1e-5
    assert (adapted - base).abs().max() > 1e-3, "the adapter does nothing, so nothing was compared"


def test_a_wan_adapter_also_loads_in_peft(wan: tuple[Path, Path]) -> None:
    from diffusers import WanTransformer3DModel
    from peft import PeftModel

    weights, folder = wan
    transformer = WanTransformer3DModel.from_pretrained(weights, subfolder="transformer")
    loaded = PeftModel.from_pretrained(transformer, str(folder / "adapter"))
    names = {name for name, _ in loaded.named_parameters() if "lora_" in name}
    assert len(names) == len(adapter(folder / "adapter"))


# -- scale


def test_scale_0_is_the_base_model_bit_for_bit(run: Path) -> None:
    base = frames(spec(run))[0]
    assert torch.equal(frames(run, adapter_scale=0.0)[0], base)
    assert not torch.equal(frames(run)[0], base)


def test_scale_multiplies_the_update(run: Path, tmp_path: Path) -> None:
    """Half the scale is the adapter with half of B."""
    half = Path(shutil.copytree(run / "adapter", tmp_path / "half"))
    (half / "manifest.json").unlink()  # else a change is damage
    tensors = {name: tensor / 2 if "lora_B" in name else tensor for name, tensor in adapter(half).items()}
    save_file(tensors, half / ADAPTER_FILE)
    assert torch.allclose(frames(run, adapter_scale=0.5)[0], frames(run, adapter=half)[0], atol=1e-6)
    assert not torch.allclose(frames(run, adapter_scale=0.5)[0], frames(run)[0], atol=1e-4)


def test_an_untrained_adapter_changes_nothing(tmp_path: Path) -> None:
    """A run's first validation judges the base model."""
    result = vader.train(spec(tmp_path / "run", train={"steps": 1}))
    base = vader.evaluate(tmp_path / "run").base
    assert [clip.scores for clip in result.validations[0].clips] == [clip.scores for clip in base.clips]


# -- wrong adapters


def wrong_rank(folder: Path) -> None:
    tensors = {n: t[:2].clone() if "lora_A" in n else t[:, :2].clone() for n, t in adapter(folder).items()}
    save_file(tensors, folder / ADAPTER_FILE)


def wrong_model(folder: Path) -> None:
    tensors = {name.replace("to_q", "to_p"): tensor for name, tensor in adapter(folder).items()}
    save_file(tensors, folder / ADAPTER_FILE)


def no_lora(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    save_file({"weight": torch.zeros(2)}, folder / ADAPTER_FILE)


def garbage_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{not json")


def config_of_another_method(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}')


WRONG = {
    "rank": (wrong_rank, ["another model, rank", "rank 3 for to_q", "have rank 2"]),
    "model": (wrong_model, ["no layer matches", "['to_p']", "linear layers called", "to_q"]),
    "truncated": (lambda folder: truncate(folder / ADAPTER_FILE), ["not a readable safetensors file", ADAPTER_FILE]),
    "header flipped": (lambda folder: flip(folder / ADAPTER_FILE, 0.001), ["safetensors", ADAPTER_FILE]),
    "empty": (lambda folder: (folder / ADAPTER_FILE).write_bytes(b""), ["not a readable safetensors file"]),
    "missing": (lambda folder: (folder / ADAPTER_FILE).unlink(), ["no adapter at", "Expected a folder with"]),
    "no LoRA": (no_lora, ["holds no LoRA tensors", "lora_A.weight"]),
    "config garbage": (garbage_config, ["adapter_config.json"]),
    "config of another method": (config_of_another_method, ["adapter_config.json"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_adapter_is_a_clear_error(run: Path, copy: Path, name: str) -> None:
    damage, says = WRONG[name]
    damage(copy)
    with pytest.raises(vader.WeightsError) as error:
        vader.generate(run, [PROMPT], adapter=copy)
    for said in (str(copy), *says):
        assert said in str(error.value)


@pytest.mark.parametrize("name", ["rank", "model", "truncated", "missing"])
def test_a_wrong_adapter_to_start_from(copy: Path, tmp_path: Path, name: str) -> None:
    damage, says = WRONG[name]
    damage(copy)
    with pytest.raises((vader.WeightsError, vader.SpecError)) as error:
        vader.train(spec(tmp_path / "run", backbone={"adapter": {"rank": 3, "alpha": 12.0, "init": str(copy)}}))
    for said in says:
        assert said in str(error.value)


@pytest.mark.parametrize("wrong", ["nowhere", "notes.txt", "pytorch.bin"])
def test_what_is_no_adapter_at_all(run: Path, tmp_path: Path, wrong: str) -> None:
    if "." in wrong:
        (tmp_path / wrong).write_text("hello")
    with pytest.raises(vader.WeightsError, match=f"no adapter at .*{wrong}.*Expected"):
        vader.generate(run, [PROMPT], adapter=tmp_path / wrong)


def test_a_run_without_an_adapter_yet(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        vader.train(spec(tmp_path / "run"), listeners=[At(1, crash)])
    with pytest.raises(vader.WeightsError, match="holds no adapter yet"):
        vader.generate(tmp_path / "run", [PROMPT])


def test_an_unfinished_run_gives_its_newest_sound_checkpoint(run: Path, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        vader.train(spec(tmp_path / "run"), listeners=[At(5, crash)])
    checkpoints = tmp_path / "run" / "checkpoints"
    assert torch.equal(frames(tmp_path / "run")[0], frames(run, adapter=checkpoints / "step-000004" / "adapter")[0])
    flip(checkpoints / "step-000004" / "optimizer.pt")
    assert torch.equal(frames(tmp_path / "run")[0], frames(run, adapter=checkpoints / "step-000002" / "adapter")[0])


# -- starting from an adapter


def test_a_run_starts_from_an_adapter(run: Path, tmp_path: Path) -> None:
    first: list[dict[str, Tensor]] = []
    folder = tmp_path / "run"
    made = spec(folder, backbone={"adapter": {"rank": 3, "alpha": 12.0, "init": str(run / "adapter")}})
    made["train"] = {**made["train"], "learning_rate": 1e-12, "steps": 1}
    vader.train(made)
    first.append(adapter(folder / "adapter"))
    for name, tensor in adapter(run / "adapter").items():
        torch.testing.assert_close(first[0][name], tensor, rtol=0, atol=1e-9)
    one = vader.evaluate(run).adapted
    two = vader.evaluate(folder).base
    assert one is not None
    assert two.mean("brightness") != one.mean("brightness"), "evaluate's base is the base, not where the run started"


@pytest.mark.parametrize("said", [{"rank": 3, "alpha": None}, {"rank": 3}, {}], ids=str)
def test_alpha_that_is_not_said_is_the_file_s(run: Path, tmp_path: Path, said: dict[str, Any]) -> None:
    """The same spec means the same adapter to train as to generate."""
    made = spec(tmp_path / "run")
    made["backbone"]["adapter"] = {**said, "init": str(run / "adapter")}
    assert torch.equal(frames(made)[0], frames(run)[0])
    made["train"] = {**made["train"], "learning_rate": 1e-12, "steps": 1}
    vader.train(made)
    torch.testing.assert_close(frames(tmp_path / "run")[0], frames(run)[0], atol=1e-6, rtol=0)


def test_a_spec_as_an_object_says_what_it_says(run: Path, tmp_path: Path) -> None:
    made = spec(tmp_path / "run")
    made["backbone"]["adapter"] = {"init": str(run / "adapter")}
    assert vader.check(vader.RunSpec(**made)).backbone.adapter.alpha == 12.0


@pytest.mark.parametrize(("name", "value"), [("alpha", 3.0), ("rank", 4)])
def test_another_shape_than_the_file_s_is_refused(run: Path, tmp_path: Path, name: str, value: float) -> None:
    made = spec(tmp_path / "run")
    made["backbone"]["adapter"] = {name: value, "init": str(run / "adapter")}
    with pytest.raises(vader.SpecError, match=rf"backbone\.adapter\.{name}.*has {name} (12|3), found {value:g}"):
        vader.check(made)


def test_no_target_modules_are_none() -> None:
    with pytest.raises(vader.SpecError, match="target_modules"):
        vader.check(spec(Path("x"), backbone={"adapter": {"target_modules": []}}))


def test_a_frozen_adapter_is_under_the_trained_one_and_not_saved(run: Path, tmp_path: Path) -> None:
    frozen = [{"init": str(run / "adapter"), "scale": 0.5}]
    made = spec(tmp_path / "run", backbone={"adapter": {"rank": 1}, "frozen_adapters": frozen})
    assert torch.allclose(frames(made)[0], frames(run, adapter_scale=0.5)[0], atol=1e-5)
    assert (frames(made)[0] - frames(run, adapter_scale=0.0)[0]).abs().max() > 1e-3
    vader.train(made, ["train.steps=1", "train.learning_rate=1e-12"])
    assert all(1 in tensor.shape for tensor in adapter(tmp_path / "run" / "adapter").values())
    for scale in (0.0, 1.0):  # the base model of the run is the fused one
        assert torch.allclose(frames(tmp_path / "run", adapter_scale=scale)[0], frames(made)[0], atol=1e-5)


def test_a_frozen_adapter_that_cannot_be_read(tmp_path: Path) -> None:
    made = spec(tmp_path / "run", backbone={"frozen_adapters": [{"init": "nowhere"}]})
    with pytest.raises(vader.SpecError, match=r"backbone\.frozen_adapters\.0\.init.*no adapter at 'nowhere'"):
        vader.check(made)


def test_a_spec_with_an_adapter_generates_with_it(run: Path, tmp_path: Path) -> None:
    made = spec(tmp_path / "run", backbone={"adapter": {"rank": 3, "alpha": 12.0, "init": str(run / "adapter")}})
    assert torch.equal(frames(made)[0], frames(run)[0])


def test_a_bare_file_keeps_its_scale(run: Path, tmp_path: Path) -> None:
    """The tensors alone do not say alpha: the file itself must, or an adapter is silently weaker where it is sent."""
    bare = tmp_path / "bare.safetensors"
    shutil.copy(run / "adapter" / ADAPTER_FILE, bare)
    assert torch.equal(frames(spec(tmp_path / "run"), adapter=bare)[0], frames(run)[0])


def test_a_bare_file_of_diffusers_keeps_its_scale(wan: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = wan
    bare = tmp_path / "bare.safetensors"
    shutil.copy(folder / "adapter" / "pytorch_lora_weights.safetensors", bare)
    assert torch.equal(frames(folder, adapter=bare)[0], frames(folder)[0])


# -- generation


def decoded(file: Path, size: int) -> Any:
    """Frames ``(f h w 3)`` of a square clip, by ffmpeg itself."""
    command = [get_ffmpeg_exe(), "-v", "error", "-i", str(file), "-fps_mode", "passthrough", "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3)


@pytest.mark.parametrize("file_type", ["mp4", "gif", "png"])
def test_generate_writes_clips_and_a_grid(run: Path, tmp_path: Path, file_type: str) -> None:
    made = vader.generate(
        run, [PROMPT, "a blue square"], seeds=[1, 2], output=tmp_path, file_type=file_type, grid=True, enlarge=8
    )
    files = [clip.file for clip in made]
    assert [file.name for file in files if file] == [
        f"clip-{index:03d}-seed-{seed}.{file_type}" for index, seed in enumerate([1, 2, 1, 2])
    ]
    assert {path.name for path in tmp_path.iterdir()} == {f.name for f in files if f} | {f"grid.{file_type}"}
    assert [(clip.prompt, clip.seed) for clip in made][1:3] == [(PROMPT, 2), ("a blue square", 1)]
    assert all(clip.frames.shape == (3, 3, 4, 4) for clip in made)
    assert files[1] is not None
    wanted = (made[1].frames * 255).round().byte().permute(0, 2, 3, 1).numpy().repeat(8, axis=1).repeat(8, axis=2)
    if file_type == "png":  # a strip of frames, lossless
        assert np.array_equal(iio.imread(files[1]), np.concatenate(list(wanted), axis=1))
        assert iio.imread(tmp_path / "grid.png").shape == (64, 192, 3)
    else:
        off = np.abs(decoded(files[1], 32).astype(int) - wanted.astype(int)).mean()
        assert off < 40, "not the clip that was returned"  # colours are halved in resolution, palettes are small
        assert decoded(tmp_path / f"grid.{file_type}", 64).shape == (3, 64, 64, 3)


def test_a_clip_depends_on_its_seed_and_prompt_and_on_nothing_else(run: Path) -> None:
    prompts = (PROMPT, "a blue square", "a green triangle")
    alone = [frames(run, (prompt,), seeds=[seed])[0] for prompt in prompts for seed in (3, 4)]
    for size in (1, 2, 4, 6):
        together = frames(run, prompts, seeds=[3, 4], batch_size=size)
        assert len(together) == 6
        for one, other in zip(alone, together, strict=True):
            assert torch.allclose(one, other, atol=1e-6), size
    assert torch.equal(frames(run, seeds=[3])[0], alone[0]), "the same twice"
    assert not torch.allclose(alone[0], alone[1], atol=1e-3), "seeds differ"
    assert not torch.allclose(alone[0], alone[2], atol=1e-3), "prompts differ"
    torch.manual_seed(99)
    assert torch.equal(frames(run, seeds=[3])[0], alone[0]), "the global random state does not matter"


def test_generate_in_python_refuses_nonsense(run: Path) -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        vader.generate(run, [])
    with pytest.raises(ValueError, match=r"'avi'.*expected mp4, gif or png"):
        vader.generate(run, [PROMPT], file_type="avi")


def test_generate_into_a_place_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(vader.VaderError, match="file"):
        vader.generate(run, [PROMPT], output=tmp_path / "file" / "clips")


# -- evaluation


def test_evaluate_says_what_the_run_said(run: Path) -> None:
    """The last validation of the run, made again from its folder; and the first, of the base model."""
    found = vader.evaluate(run)
    assert found.adapted is not None
    for step, made in ((0, found.base), (6, found.adapted)):
        saved = json.loads((run / "samples" / f"step-{step:06d}" / "validation.json").read_text())
        assert [clip["prompt"] for clip in saved["clips"]] == [clip.prompt for clip in made.clips]
        assert [clip["seed"] for clip in saved["clips"]] == [clip.seed for clip in made.clips]
        assert [clip["scores"] for clip in saved["clips"]] == [clip.scores for clip in made.clips]
    assert set(found.base.keys) == {"brightness", PROMPT_LENGTH}
    assert found.adapted.mean("brightness") > found.base.mean("brightness"), "training raised what it trains on"
    assert records(run)[-1]["step"] == 6


def test_evaluate_of_a_spec_judges_the_base_alone(run: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = vader.evaluate(spec(tmp_path / "run"), output=tmp_path / "clips", progress=lambda *done: seen.append(done))
    assert found.adapted is None
    assert [clip.scores for clip in found.base.clips] == [clip.scores for clip in vader.evaluate(run).base.clips]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [path.name for path in (tmp_path / "clips" / "base").iterdir()] == ["clip-000.mp4"]


def test_evaluate_at_scale_0_finds_no_difference(run: Path) -> None:
    found = vader.evaluate(run, adapter_scale=0.0)
    assert found.adapted is not None
    assert [clip.scores for clip in found.base.clips] == [clip.scores for clip in found.adapted.clips]


def test_evaluate_without_validation_is_refused(run: Path) -> None:
    with pytest.raises(vader.SpecError, match=r"validation\.clips"):
        vader.evaluate(run, overrides=["validation.clips=0"])
