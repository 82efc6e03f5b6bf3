"""The learned perceptual distance: the published computation, inside a mask, with weights from a file."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from raylib.errors import ConfigError
from raylib.io.imagenet_weights import weights_plan
from raylib.metrics.lpips import load_lpips, masked_lpips

CONVOLUTIONS = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3))


def random_alexnet(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of AlexNet's shapes and torchvision's names, scaled so that every layer stays alive."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for index, inside, out, size in CONVOLUTIONS:
        scale = (2 / (inside * size * size)) ** 0.5
        state[f"features.{index}.weight"] = scale * torch.randn(out, inside, size, size, generator=generator)
        state[f"features.{index}.bias"] = 0.1 * torch.randn(out, generator=generator)
    return state


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory):
    """A file as torchvision's, classifier included."""
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save(random_alexnet() | {"classifier.1.weight": torch.zeros(2, 2)}, path)
    return path


def by_the_paper(a: np.ndarray, b: np.ndarray, mask: np.ndarray, state: dict[str, torch.Tensor]) -> float:
    """Equation 1 of Zhang et al. with the published weights of the layers, averaged over the mask."""
    learned = torch.load(files("lpips") / "weights" / "v0.1" / "alex.pth", map_location="cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = torch.from_numpy(np.stack([a, b])).permute(0, 3, 1, 2).double() * 2 - 1
    x = (x - shift[:, None, None]) / scale[:, None, None]
    total = torch.zeros(mask.shape, dtype=torch.float64)
    for layer, (index, *_, size) in enumerate(CONVOLUTIONS):
        if layer in (1, 2):
            x = functional.max_pool2d(x, 3, 2)
        weight, bias = state[f"features.{index}.weight"].double(), state[f"features.{index}.bias"].double()
        x = functional.conv2d(x, weight, bias, stride=4 if layer == 0 else 1, padding=2 if size > 3 else 1).relu()
        unit = x / (x.norm(dim=1, keepdim=True) + 1e-10)
        off = (unit[0] - unit[1]) ** 2
        weighted = (off * learned[f"lin{layer}.model.1.weight"][0].double()).sum(0)
        total += functional.interpolate(weighted[None, None], mask.shape, mode="bilinear")[0, 0]
    return float(total[torch.from_numpy(mask)].mean())


def some_pictures(size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:size, :size] / size
    a = np.stack([0.5 + 0.4 * np.sin(9 * rows), 0.5 + 0.4 * np.cos(7 * columns), rows * columns], 2)
    return a, np.clip(a + 0.2 * np.sin(40 * (rows + columns))[..., None], 0, 1)


def test_it_is_the_papers_equation(alexnet_file):
    a, b = some_pictures()
    mask = np.zeros(a.shape[:2], bool)
    mask[20:80, 30:70] = True
    expected = by_the_paper(a, b, mask, random_alexnet())
    assert expected > 0.01
    assert masked_lpips(load_lpips(str(alexnet_file)), a, b, mask) == pytest.approx(expected, rel=1e-4)


def test_the_same_picture_is_at_no_distance(alexnet_file):
    distance = load_lpips(str(alexnet_file))
    a, b = some_pictures()
    everywhere = np.ones(a.shape[:2], bool)
    assert masked_lpips(distance, a, a, everywhere) == 0
    assert masked_lpips(distance, a, b, everywhere) > 0
    assert not any(p.requires_grad for p in distance.parameters())


def test_it_grows_with_what_is_wrong(alexnet_file):
    distance = load_lpips(str(alexnet_file))
    a, _ = some_pictures()
    noise = np.random.default_rng(0).normal(size=a.shape)
    everywhere = np.ones(a.shape[:2], bool)
    found = [masked_lpips(distance, np.clip(a + s * noise, 0, 1), a, everywhere) for s in (0.01, 0.05, 0.2)]
    assert 0 < found[0] < found[1] < found[2]


def test_both_kinds_of_files_hold_the_same_weights(alexnet_file, tmp_path):
    save_file(random_alexnet(), tmp_path / "alexnet.safetensors")
    a, b = some_pictures()
    everywhere = np.ones(a.shape[:2], bool)
    one, other = (
        masked_lpips(load_lpips(str(path)), a, b, everywhere)
        for path in (alexnet_file, tmp_path / "alexnet.safetensors")
    )
    assert one == other
    assert str(alexnet_file) in weights_plan("LPIPS", str(alexnet_file), load_lpips)


def test_weights_that_cannot_be_had_are_one_sentence(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(
        ConfigError, match=r"alexnet weights 'torchvision' cannot be read.*no network.*leave lpips out"
    ):
        load_lpips("torchvision")
    with pytest.raises(ConfigError, match=r"nowhere\.pth"):
        load_lpips(str(tmp_path / "nowhere.pth"))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"other\.pth' are not torchvision's AlexNet: .*features\.0\.bias"):
        load_lpips(str(tmp_path / "other.pth"))
    torch.save(random_alexnet() | {"features.3.weight": torch.zeros(2)}, tmp_path / "shape.pth")
    with pytest.raises(ConfigError, match=r"shape\.pth' are not torchvision's AlexNet: .*size mismatch"):
        load_lpips(str(tmp_path / "shape.pth"))
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ConfigError, match=r"tensor\.pth' cannot be read"):
        load_lpips(str(tmp_path / "tensor.pth"))
    assert "downloaded" in weights_plan("LPIPS", "torchvision", load_lpips)
