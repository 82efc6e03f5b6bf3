"""The paper's networks layer by layer, and the features of VGG19."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from raylib.errors import ConfigError
from raylib.paper.babymeshnet import BabyMeshNet
from raylib.paper.meshnet import MeshNet
from raylib.paper.vgg import LAYERS, load_vgg, random_vgg, vgg_distance


def _summary(network: nn.Module, channels: int, px: int) -> list[tuple[tuple[int, ...], int]]:
    """Output shape and number of parameters of each layer with weights, in the order of the forward pass."""
    rows: list[tuple[tuple[int, ...], int]] = []

    def note(layer, _, output):
        rows.append((tuple(output.shape[1:]), sum(p.numel() for p in layer.parameters())))

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note)
    network(torch.rand(1, channels, px, px))
    return rows


def test_babymeshnet_is_appendix_a():
    network = BabyMeshNet()
    assert _summary(network, 3, 256) == [
        ((8, 254, 254), 224),
        ((12, 125, 125), 876),
        ((16, 60, 60), 1_744),
        ((32, 28, 28), 4_640),
        ((7686,), 48_214_278),
    ]
    assert sum(p.numel() for p in network.parameters()) == 48_221_762
    assert network(torch.rand(2, 3, 256, 256)).shape == (2, 2562, 3)


def test_meshnet_is_appendix_b():
    network = MeshNet()
    assert _summary(network, 6, 128) == [
        ((16, 126, 126), 880),
        ((32, 61, 61), 4_640),
        ((64, 28, 28), 18_496),
        ((128, 12, 12), 73_856),
        ((6339,), 29_216_451),
        ((6339,), 29_216_451),
    ]
    assert sum(p.numel() for p in network.parameters()) == 58_530_774


@pytest.mark.parametrize("px", [46, 64, 97])
def test_meshnet_takes_any_size_that_leaves_a_pixel(px):
    offsets, colors = MeshNet(100, px)(torch.rand(3, 6, px, px))
    assert offsets.shape == colors.shape == (3, 100, 3)
    assert colors.min() > 0 and colors.max() < 1
    with pytest.raises(ConfigError, match="input_px is 45, expected at least 46"):
        MeshNet(100, 45)


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="expected 64 x 64"):
        MeshNet(100, 64)(torch.rand(1, 6, 65, 65))


def _torchvision_state(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights by torchvision's names, which count layers without weights too."""
    state, channels, index = {}, 3, 0
    for n, width in ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)):
        for _ in range(n):
            state[f"features.{index}.weight"] = 0.05 * torch.randn(width, channels, 3, 3, generator=generator)
            state[f"features.{index}.bias"] = 0.1 * torch.randn(width, generator=generator)
            channels, index = width, index + 2
        index += 1  # max pooling
    return state


def test_torchvision_weights_give_torchvisions_features(tmp_path):
    from torchvision.models import vgg19

    state = _torchvision_state(torch.Generator().manual_seed(1))
    torch.save(state, tmp_path / "vgg19.pth")
    save_file(state, tmp_path / "vgg19.safetensors")
    reference = vgg19(weights=None).features.eval()
    reference.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    image = torch.rand(2, 3, 48, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (image - mean[:, None, None]) / std[:, None, None]
    expected = []
    for index, layer in enumerate(reference):
        x = layer(x)
        if index in (1, 6, 11, 20, 29):  # relu1_1, relu2_1, relu3_1, relu4_1, relu5_1
            expected.append(x.clone())
    for name in ("vgg19.pth", "vgg19.safetensors"):
        features = load_vgg(str(tmp_path / name))
        for ours, theirs in zip(features(image), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.detach().abs().max()))
    assert not any(p.requires_grad for p in features.parameters())


def test_caffes_numbers_mean_bgr_and_bytes(tmp_path):
    generator = torch.Generator().manual_seed(2)
    arrays, channels = {}, 3
    for block, (n, width) in enumerate(((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)), 1):
        for i in range(1, n + 1):
            kernel = 0.05 * torch.randn(3, 3, channels, width, generator=generator)
            arrays[f"block{block}_conv{i}.kernel"] = kernel.numpy().astype(np.float16)
            arrays[f"block{block}_conv{i}.bias"] = np.zeros(width, np.float16)
            channels = width
    np.savez(tmp_path / "vgg.npz", **arrays)
    image = torch.rand(1, 3, 16, 16)
    ours = load_vgg(str(tmp_path / "vgg.npz"))(image)[0]
    bgr = image.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    kernel = torch.from_numpy(arrays["block1_conv1.kernel"]).float().permute(3, 2, 0, 1)
    expected = torch.relu(nn.functional.conv2d(bgr, kernel, padding=1))
    # Caffe pads with zeros after the mean is taken off, and so do we.
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)


def test_the_distance_is_nothing_to_itself_and_falls_as_pictures_agree():
    vgg = random_vgg()
    image = torch.rand(2, 3, 32, 32)
    features = vgg(image)
    assert len(features) == len(LAYERS)
    assert (vgg_distance(features, features) == 0).all()
    noise = torch.randn(2, 3, 32, 32)
    near, far = (vgg_distance(features, vgg(image + scale * noise)) for scale in (0.05, 0.3))
    assert (near > 0).all() and (far > 2 * near).all()


def test_vggs_weights_that_cannot_be_had_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _offline)
    with pytest.raises(ConfigError, match=r"'torchvision' cannot be read.*give a local file"):
        load_vgg("torchvision")
    with pytest.raises(ConfigError, match=r"nowhere\.pth"):
        load_vgg(str(tmp_path / "nowhere.pth"))
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 no archive")
    for name in ("nowhere.npz", "broken.npz"):
        with pytest.raises(ConfigError, match=f"{name}' cannot be read"):
            load_vgg(str(tmp_path / name))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"lack .*expected torchvision's VGG19"):
        load_vgg(str(tmp_path / "other.pth"))


def _offline(*args, **kwargs):
    raise OSError("no network")


def test_the_shared_weights_know_a_face_from_noise(shared_data, astronaut):
    vgg = load_vgg(str(shared_data("vgg19") / "vgg19_conv_fp16.npz"))
    face = torch.from_numpy(astronaut[:256, 100:356].copy()).permute(2, 0, 1)[None].float() / 255
    face = nn.functional.interpolate(face, (64, 64), mode="area")
    dimmed = 0.8 * face
    shuffled = face.flatten(2)[:, :, torch.randperm(64 * 64, generator=torch.Generator().manual_seed(0))]
    features = [vgg(x) for x in (face, dimmed, shuffled.view_as(face))]
    # The trained network sees the same thing in a dimmed picture and another thing in its shuffled pixels.
    assert vgg_distance(features[0], features[1]) < 0.4 * vgg_distance(features[0], features[2])
