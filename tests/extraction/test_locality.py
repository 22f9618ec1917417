"""How far beside their places the positions of a layer read the image."""

import pytest
import torch
from torch import nn

from conceptatlas.extraction import split


def network(*layers):
    torch.manual_seed(0)
    body = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()


def strided(n_in, size, stride, padding):
    return nn.Conv2d(n_in, 8, size, stride=stride, padding=padding)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_padded_convolution_of_stride_two_reads_further_up_and_to_the_left(depth):
    layers = [strided(3 if i == 0 else 8, 3, 2, 1) for i in range(depth)]
    found = split(network(*layers), str(2 * depth - 1), input_size=(96, 96)).reading_offset()
    stride = 2**depth
    assert found[0] == found[1] == pytest.approx(-(stride - 1) / 2 / stride, abs=0.1)


@pytest.mark.parametrize(
    "layers",
    [
        (strided(3, 8, 8, 0),),
        (strided(3, 3, 1, 1), nn.MaxPool2d(2), strided(8, 3, 1, 1), nn.AvgPool2d(4)),
    ],
    ids=["patches", "pools"],
)
def test_patches_and_even_pools_read_at_their_places(layers):
    cut = split(network(*layers), str(2 * len(layers) - 1), input_size=(64, 64))
    assert cut.reading_offset() == (0.0, 0.0)


def test_weights_that_look_to_one_side_are_not_taken_for_an_offset_of_the_grid():
    lopsided = strided(3, 3, 1, 1)
    with torch.no_grad():
        lopsided.weight[:, :, :, 1:] = 0.0
    cut = split(network(lopsided), "1", input_size=(32, 32))
    assert cut.reading_offset() == (0.0, 0.0)


def test_a_layer_without_gradients_reads_at_its_places():
    model = network(strided(3, 3, 2, 1))
    with torch.no_grad():
        cut = split((lambda x: model[:2](x).detach(), lambda a: model[2:](a)), "auto", input_size=(32, 32))
    assert cut.reading_offset() == (0.0, 0.0)


def test_an_earlier_layer_is_measured_by_its_name():
    cut = split(network(strided(3, 3, 2, 1), strided(8, 3, 2, 1)), "3", input_size=(64, 64))
    assert abs(cut.reading_offset("1")[0]) < abs(cut.reading_offset()[0])
