"""Real key lists are consumed to the last tensor; files are found, converted and streamed."""

import gc
import math
import re
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from vader import Prompt, WeightsError
from vader_videocrafter import checkpoint, layout, names, tiny, weights

CPU = torch.device("cpu")
SIZES = {  # configuration: keys, parameters of the denoiser, temporal convolution, fps, relative positions, scale_arr
    "t2v_512_v2.0": (2039, 1_413_284_420, True, True, None, 1400),
    "t2v_512_v1.0": (1750, 1_144_485_956, False, False, 16, None),
    "t2v_1024_v1.0": (1755, 1_146_536_516, False, True, 16, 1000),
}


def read_state(path):
    return dict(torch.load(path, weights_only=True)["state_dict"])


def saved(path, state):
    torch.save({"state_dict": state}, path)
    return path


@pytest.fixture
def state(tiny_file):
    """The tensors of a tiny checkpoint, the test's own."""
    return read_state(tiny_file())


# -- tiny sizes, as the reference takes them

KINDS = {"512-v2": "t2v_512_v2.0", "512-v1": "t2v_512_v1.0", "1024": "t2v_1024_v1.0"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_checkpoint_has_the_published_layout(tiny_file, shapes, kind):
    """The reference loads by name, strictly: every buffer is there, and a convolution of width 1 has its dimensions."""
    ours, theirs = shapes_of(tiny_file(kind)), shapes(KINDS[kind])

    def patterns(found):
        return {re.sub(r"\d+", "N", key): len(shape) for key, shape in found.items()}

    assert patterns(ours).items() <= patterns(theirs).items()
    missing = patterns(theirs).keys() - patterns(ours).keys()
    assert all("skip_connection" in name or "nin_shortcut" in name for name in missing), missing
    buffers = {key: shape for key, shape in theirs.items() if "." not in key}
    assert {key: shape for key, shape in ours.items() if "." not in key} == buffers


def shapes_of(path):
    return {key: tuple(tensor.shape) for key, tensor in read_state(path).items()}


def test_the_buffers_are_those_of_the_reference(state, golden):
    recorded = golden("ddim")
    for name in ("betas", "alphas_cumprod", "alphas_cumprod_prev", "scale_arr"):
        torch.testing.assert_close(state[name], recorded[f"buf.{name}"], rtol=1e-6, atol=1e-8)
    kept, before, betas = (state[name].double() for name in ("alphas_cumprod", "alphas_cumprod_prev", "betas"))
    torch.testing.assert_close(
        state["sqrt_recipm1_alphas_cumprod"].double(), (1 / kept - 1).sqrt(), rtol=1e-5, atol=1e-6
    )
    variance = state["posterior_variance"].double()
    torch.testing.assert_close(variance, betas * (1 - before) / (1 - kept), rtol=1e-4, atol=1e-9)
    mean = state["posterior_mean_coef1"].double() + state["posterior_mean_coef2"].double() * kept.sqrt()
    torch.testing.assert_close(mean, before.sqrt(), rtol=1e-4, atol=1e-5)
    assert state["posterior_log_variance_clipped"][0] == pytest.approx(math.log(1e-20), rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", [True, False])
def test_a_unet_of_one_level(load, tmp_path, kind, attention):
    sizes = tiny.layout(kind)
    sizes = replace(sizes, unet=replace(sizes.unet, channels=(64,), attention=(attention,)))
    made = tiny.state_dict(sizes, 0, kind)
    assert weights.read({key: tuple(tensor.shape) for key, tensor in made.items()}, "x") == sizes
    backbone = load(saved(tmp_path / "model.ckpt", made))
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    branch = backbone.encode([Prompt("a fox")]).positive
    found = backbone.predict(backbone.denoiser, latents, torch.tensor([500.0]), branch)
    assert found.shape == latents.shape
    assert found.isfinite().all()
    assert found.std() > 0.01
    del made["model.diffusion_model.output_blocks.1.0.in_layers.2.weight"]
    with pytest.raises(WeightsError, match=r"1 tensors are missing \(model\.diffusion_model\.output_blocks\.1"):
        load(saved(tmp_path / "model.ckpt", made))


# -- real sizes, on the meta device


@pytest.mark.parametrize("configuration", SIZES)
def test_every_key_of_a_real_checkpoint_has_its_place(shapes, configuration):
    keys, parameters, conv, fps, relative, scale = SIZES[configuration]
    real = shapes(configuration)
    sizes = layout.read(real, configuration)
    assert (sizes.unet.temporal_conv, sizes.unet.fps, sizes.unet.relative_length) == (conv, fps, relative)
    assert sizes.unet == replace(layout.PUBLISHED, temporal_conv=conv, fps=fps, relative_length=relative)
    assert sizes.text == layout.PUBLISHED_TEXT
    assert sizes.text.heads == 16
    assert (sizes.vae, sizes.vae.factor) == (layout.VAELayout(4, (128, 256, 512, 512), 2), 8)
    networks = weights.build(sizes)
    weights.judge(networks, real, sizes, configuration)
    assert sum(parameter.numel() for parameter in networks.unet.parameters()) == parameters
    consumed = [theirs for _, theirs in networks.parameters(sizes)]
    assert len(consumed) == len(set(consumed)), "two parameters of one tensor"
    unused = {name for name in real if names.unused(name, sizes)}
    schedule = {names.SCHEDULE, names.SCALE} & real.keys()
    assert sorted([*consumed, *unused, *schedule]) == sorted(real)
    assert len(real) == keys
    assert real.get(names.SCALE) == (None if scale is None else (scale,))


def test_what_is_deliberately_unused(shapes):
    real = shapes("t2v_512_v2.0")
    sizes = layout.read(real, "it")
    unused = [name for name in real if names.unused(name, sizes)]
    last = [name for name in unused if ".resblocks.23." in name]
    assert (len(unused), len(last)) == (25, 12)
    assert not [name for name in unused if name.startswith((layout.UNET, layout.VAE))]


def test_image_to_video_is_refused(shapes):
    with pytest.raises(WeightsError, match=r"image-to-video checkpoint \(it has .*text-to-video only"):
        layout.read(shapes("i2v_512_v1.0"), "it")


# -- files


def test_the_safetensors_conversion_gives_the_same_networks(tiny_file, tmp_path, load, backbone, converted):
    target = converted(tiny_file(), tmp_path / "model.safetensors")
    assert load_file(target).keys() == read_state(tiny_file()).keys()
    found = load(tmp_path)
    for one, other in (("denoiser", "denoiser"), ("vae", "vae"), ("text_encoder", "text_encoder")):
        pairs = zip(getattr(found, one).parameters(), getattr(backbone, other).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(found.schedule.signal_scale, backbone.schedule.signal_scale)
    assert found.layout == backbone.layout


def test_conversion_to_float16_leaves_schedule_and_first_stage(tiny_file, tmp_path, converted):
    state = load_file(converted(tiny_file(), tmp_path / "model.safetensors", "float16"))
    kinds = {name: tensor.dtype for name, tensor in state.items()}
    assert kinds[f"{layout.UNET}input_blocks.0.0.weight"] == kinds[f"{layout.TEXT}ln_final.weight"] == torch.float16
    assert kinds[f"{layout.VAE}quant_conv.weight"] == kinds["alphas_cumprod"] == kinds["scale_arr"] == torch.float32
    for name, tensor in read_state(tiny_file()).items():
        assert torch.equal(state[name], tensor.to(kinds[name]))


def test_what_is_in_the_run_s_precision_is_not_copied(tiny_file, tmp_path, converted):
    """Its parameters lie in the file, mapped: each where the file has it."""
    file = converted(tiny_file(), tmp_path / "model.safetensors", "bfloat16")
    parts = weights.load(file, "it", CPU, torch.bfloat16, CPU)
    places = [parameter.data_ptr() for parameter in parts.unet.parameters()]
    assert places == sorted(places)
    assert places[-1] - places[0] < file.stat().st_size


def test_nothing_but_a_checkpoint_is_converted(tmp_path, converted):
    with pytest.raises(WeightsError, match="is no VideoCrafter text-to-video checkpoint"):
        converted(saved(tmp_path / "a.ckpt", {"x": torch.ones(1)}), tmp_path / "b.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt"]


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "deepspeed"])
def test_ways_to_save_a_state_dict(state, tmp_path, wrap):
    content = {
        "bare": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "deepspeed": {"module": {f"_forward_module.{name}": tensor for name, tensor in state.items()}},
    }[wrap]
    torch.save(content, tmp_path / "model.ckpt")
    stored = checkpoint.open_checkpoint(tmp_path / "model.ckpt", "it")
    assert stored.shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert torch.equal(stored.read("alphas_cumprod"), state["alphas_cumprod"])


def test_one_tensor_at_a_time(tiny_file, tmp_path, monkeypatch, converted):
    """No second copy: when a tensor is read, none read before is alive."""
    converted(tiny_file(), tmp_path / "model.safetensors")
    opened, alive, most = checkpoint.open_checkpoint, [], []

    def watched(path, name):
        stored = opened(path, name)

        def read(key):
            tensor = stored.read(key)
            alive[:] = [reference for reference in alive if reference() is not None]
            most.append(len(alive))
            alive.append(weakref.ref(tensor))
            return tensor

        return replace(stored, read=read)

    monkeypatch.setattr(weights, "open_checkpoint", watched)
    gc.disable()
    try:
        parts = weights.load(tmp_path / "model.safetensors", "it", CPU, torch.bfloat16, CPU)
    finally:
        gc.enable()
    assert len(most) > 600
    assert max(most) == 0
    assert {p.dtype for p in parts.unet.parameters()} == {p.dtype for p in parts.text_encoder.parameters()}
    assert parts.unet.dtype == torch.bfloat16
    assert parts.vae.dtype == torch.float32
    assert not any(p.requires_grad for module in (parts.unet, parts.vae) for p in module.parameters())


def test_a_published_file_stays_on_disk_until_it_is_read(tiny_file):
    """Its tensors are mapped: they lie in memory as they do in the file, within the file's length."""
    stored = checkpoint.open_checkpoint(tiny_file(), "it")
    places = [stored.read(name).data_ptr() for name in stored.shapes]
    assert places == sorted(places)
    assert places[-1] - places[0] < tiny_file().stat().st_size


# -- where a checkpoint is


@pytest.mark.parametrize("name", ["/no/such/folder", "./x", "model.ckpt", "some/model.safetensors", "x", "a/b/c"])
def test_a_missing_file_is_told_from_a_hub_id(name, monkeypatch):
    monkeypatch.setattr(weights, "hub_file", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(WeightsError, match="no file or folder here"):
        weights.locate(name)


def test_a_folder(tiny_file, tmp_path):
    assert weights.locate(str(tiny_file().parent)) == tiny_file()
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors and no model\.ckpt"):
        weights.locate(str(tmp_path))


def test_another_ending(tmp_path, load):
    (tmp_path / "model.onnx").write_text("x")
    with pytest.raises(WeightsError, match=r"ends in \.onnx; expected \.ckpt, \.pt, \.pth, \.bin, \.safetensors"):
        load(tmp_path / "model.onnx")


def test_revision_of_a_local_file(tiny_file):
    with pytest.raises(WeightsError, match="no revision 'main'"):
        weights.locate(str(tiny_file()), revision="main")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub's client without a connection, with a cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_hub_id_offline(offline):
    with pytest.raises(WeightsError, match=r"hf download some-one/crafter model\.ckpt") as caught:
        weights.locate("some-one/crafter")
    assert "HF_HUB_OFFLINE" in str(caught.value)


def test_hub_id_from_the_cache(offline, tiny_file, load):
    repository = offline / "models--some-one--crafter"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_file().parent, repository / "snapshots" / ("0" * 40))
    assert load("some-one/crafter").layout.unet.fps


def test_tiny_is_seeded(tiny_file, tmp_path):
    before = torch.random.get_rng_state()
    again, other = tiny.write(tmp_path / "a"), tiny.write(tmp_path / "b", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    first, second, third = (read_state(path) for path in (tiny_file(), again, other))
    assert first.keys() == second.keys() == third.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first[f"{layout.UNET}out.2.weight"], third[f"{layout.UNET}out.2.weight"])
