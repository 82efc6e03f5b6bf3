import itertools

import pytest
import torch

from raylib.errors import ConfigError
from raylib.segmentation.unet import PAPER_WIDTHS, UNet


def test_paper_size_has_the_original_number_of_parameters():
    # Ronneberger et al.: 3x3 convolutions in pairs, 2x2 up-convolutions, a 1x1 head, biases everywhere.
    def pair(i: int, o: int) -> int:
        return 9 * i * o + o + 9 * o * o + o

    widths = (3, *PAPER_WIDTHS)
    expected = sum(pair(i, o) for i, o in itertools.pairwise(widths))
    expected += sum(4 * 2 * o * o + o + pair(2 * o, o) for o in PAPER_WIDTHS[:-1])
    expected += 64 * 6 + 6
    assert sum(p.numel() for p in UNet(norm="none").parameters()) == expected == 31_032_070


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("size", [(64, 64), (37, 50), (5, 8)])
def test_logits_are_as_large_as_the_picture(norm, size):
    network = UNet((4, 8, 8), num_classes=5, norm=norm)
    assert network(torch.rand(2, 3, *size)).shape == (2, 5, *size)


def test_padding_inside_repeats_the_border():
    torch.manual_seed(0)
    network = UNet((8, 16, 32)).double()
    image = torch.rand(1, 3, 30, 41, dtype=torch.float64)
    padded = torch.nn.functional.pad(image, (0, 3, 0, 2), mode="replicate")
    torch.testing.assert_close(network(image), network(padded)[..., :30, :41])


def test_group_normalisation_never_looks_at_other_pictures():
    torch.manual_seed(0)
    network = UNet((32, 64), norm="group").double()
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network(images), torch.cat([network(image[None]) for image in images]))


def test_the_finest_level_is_copied_across():
    """Detail of one pixel reaches the output although the path below halves the resolution."""
    torch.manual_seed(0)
    network = UNet((8, 16), norm="none")
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    network(image)[0, 0, 8, 8].backward()
    assert image.grad is not None
    reach = (image.grad[0].abs().sum(0) > 0).nonzero()
    assert [8, 8] in reach.tolist()
    without = UNet((8, 16), norm="none")
    without.load_state_dict(network.state_dict())
    with torch.no_grad():
        without.merge[0][0].weight[:, :8] = 0  # the copied half
    assert not torch.allclose(without(image), network(image))


@pytest.mark.parametrize(("widths", "norm"), [((8,), "group"), ((8, 0), "group"), ((8, 16), "layer")])
def test_impossible_networks_are_refused(widths, norm):
    with pytest.raises(ConfigError, match=r"expected"):
        UNet(widths, norm=norm)
