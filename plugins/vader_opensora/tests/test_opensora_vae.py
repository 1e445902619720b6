"""The autoencoder gives the reference's numbers, and decodes no more than it must."""

import pytest
import torch

from vader_opensora.vae import SPATIAL, OpenSoraVAE


@pytest.fixture(scope="module")
def data(golden):
    return golden("opensora_vae_a")


@pytest.fixture(scope="module")
def vae(data):
    config = data.json["config"]
    vae = OpenSoraVAE(config["spatial"], config["t"], config["micro"], config["shift"], config["scale"])
    vae.load_state_dict(data.under("sd."))
    return vae.requires_grad_(False).eval()


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5, 8, 9])
def test_temporal_decode(vae, data, close, frames):
    close(vae.temporal_vae.decode(data[f"tdec{frames}.z"], frames), data[f"tdec{frames}.out"])


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5, 8, 9])
def test_temporal_encode(vae, data, close, frames):
    found = vae.temporal_vae.encode(data[f"tenc{frames}.x"])
    close(found.mean, data[f"tenc{frames}.mean"])
    close(found.logvar, data[f"tenc{frames}.logvar"])


@torch.no_grad()
@pytest.mark.parametrize("frames", [9, 14, 20])
def test_decode(vae, data, close, frames):
    close(vae.decode(data[f"dec{frames}.z"], frames), data[f"dec{frames}.out"])


@torch.no_grad()
def test_encode(vae, data, close):
    close(vae.encode(data["enc.x"]), data["enc.z_mode"])


@torch.no_grad()
@pytest.mark.parametrize(
    "frames", [[0], [8], [9], [13], [19], [3, 4], [8, 9], [19, 0, 9], [2, 2], list(range(0, 20, 2))], ids=str
)
def test_decode_of_some_frames_equals_the_whole(vae, data, frames):
    whole = vae.decode(data["dec20.z"], 20)
    torch.testing.assert_close(vae.decode(data["dec20.z"], 20, frames), whole[:, :, frames], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("frames", "windows", "images"), [([4], 1, 1), ([0, 8], 1, 2), ([8, 9], 2, 2), ([19], 1, 1)])
def test_decode_computes_the_windows_it_needs(vae, data, frames, windows, images):
    shapes = []
    hooks = [
        vae.temporal_vae.decoder.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape[2])),
        vae.spatial_vae.module.decoder.register_forward_hook(lambda _, inputs, __: shapes.append(len(inputs[0]))),
    ]
    vae.decode(data["dec20.z"], 20, frames)
    for hook in hooks:
        hook.remove()
    assert len(shapes) == windows + 1
    assert shapes[-1] == images
    assert all(size <= vae.window for size in shapes[:-1])


def saved_bytes(vae, function):
    """Bytes of activations that autograd saves for backward in a call, each storage once; and the call's result."""
    storages, weights = {}, {tensor.untyped_storage().data_ptr() for tensor in vae.state_dict().values()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    return sum(storages.values()), result


def test_backward_stays_within_the_window(vae, data):
    """Frame 12 of 20 is in the second of three windows: latent frames 3 to 5."""
    z = data["dec20.z"].clone().requires_grad_()
    one, pixels = saved_bytes(vae, lambda: vae.decode(z, 20, [12]))
    pixels.square().mean().backward()
    touched = z.grad.abs().sum(dim=(0, 1, 3, 4)) > 0
    assert touched.tolist() == [False] * 3 + [True] * 3 + [False]
    window = data["dec20.z"][:, :, 3:6].clone().requires_grad_()
    alone, expected = saved_bytes(vae, lambda: vae.decode(window, 9, [3]))
    assert torch.equal(pixels, expected)
    assert one == alone
    whole, _ = saved_bytes(vae, lambda: vae.decode(z, 20))
    assert one < whole / 4


def decode_as_the_reference_trains(vae, z):
    """Its training decodes latent frames as one window, and takes their number for that of the frames."""
    return vae.to_pixels(vae.temporal_vae.decode(z * vae.scale + vae.shift, z.shape[2]))


@torch.no_grad()
@pytest.mark.parametrize(("name", "latents"), [("train_alt", [0, 2]), ("train_all", [0, 1, 2])])
def test_decode_of_a_batch_as_the_reference_trains(vae, data, close, name, latents):
    close(decode_as_the_reference_trains(vae, data["train1.z"][:, :, latents]), data[f"{name}.out"])


def test_gradient_of_decode(vae, data, close):
    z = data["train1.z"].clone().requires_grad_()
    used = data["train1.grad_z"].abs().sum(dim=(0, 1, 3, 4)).nonzero().flatten().tolist()
    pixels = decode_as_the_reference_trains(vae, z[:, :, used])
    close(pixels.detach(), data["train1.out"])
    loss = pixels.square().mean()
    close(loss.detach(), data["train1.loss"])
    loss.backward()
    close(z.grad, data["train1.grad_z"])


def test_latent_frames(vae, data):
    for frames, (latent, _, _) in data.json["latent_sizes"].items():
        assert vae.latent_frames(int(frames)) == latent


def test_real_size_names_and_shapes(golden):
    listed = golden("opensora_vae_v1_2_keys").json
    with torch.device("meta"):
        vae = OpenSoraVAE()
    found = {name: list(tensor.shape) for name, tensor in vae.state_dict().items()}
    assert found == {name: shape for name, (shape, _) in listed["keys"].items()}
    assert (len(found), sum(p.numel() for p in vae.parameters())) == (517, listed["n_params"])
    assert (vae.window, vae.spatial_factor, vae.latent_frames(51)) == (5, 8, 15)
    assert SPATIAL.items() <= {**vae.spatial_vae.module.config}.items()


def test_published_shift_and_scale():
    vae = OpenSoraVAE(
        {**SPATIAL, "block_out_channels": (8,) * 4, "norm_num_groups": 4}, {"filters": 8, "num_groups": 4}
    )
    torch.testing.assert_close(vae.shift.flatten(), torch.tensor([-0.1, 0.34, 0.27, 0.98]))
    torch.testing.assert_close(vae.scale.flatten(), torch.tensor([3.85, 2.32, 2.33, 3.06]))
