"""One update: parts add up to the gradient of the whole effective batch."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.saliency.refine.updates import set_learning_rate, split, update


class Brightness(nn.Module):
    """A network without BatchNorm: a weighted sum of the channels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))

    def forward(self, pictures):
        return (pictures.float() / 255 @ self.weight).sigmoid()


def squares(prediction, ids):
    return (prediction - torch.from_numpy(ids % 2)[:, None, None]).square().mean()


def after_update(part_size: int) -> tuple[torch.Tensor, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), dtype=np.uint8)
    network = Brightness()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    ids = np.array([9, 2, 5, 0, 10, 7, 3])
    predictions = update(network, optimizer, pixels, ids, part_size, squares)
    return network.weight.detach(), predictions


@pytest.mark.parametrize("part_size", [1, 3, 4])
def test_accumulated_parts_make_the_update_of_the_whole_batch(part_size):
    whole, predictions = after_update(7)
    weight, in_parts = after_update(part_size)
    assert not torch.equal(whole, Brightness().weight)
    torch.testing.assert_close(weight, whole)
    np.testing.assert_allclose(in_parts, predictions, rtol=1e-6)
    assert predictions.shape == (7, 4, 4)


def test_a_loss_that_is_not_finite_ends_the_training_with_advice():
    network = Brightness()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="loss became nan: lower the learning rate"):
        update(network, optimizer, pixels, np.arange(2), 2, lambda p, _: (p * torch.nan).mean())
    assert torch.equal(network.weight, Brightness().weight)


def test_the_poly_rate_falls_from_its_base_as_published():
    optimizer = torch.optim.Adam(Brightness().parameters())
    rates = []
    for epoch in range(25):
        set_learning_rate(optimizer, 1e-6, epoch, 25, 0.9)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == 1e-6
    assert rates[10] == pytest.approx(1e-6 * (15 / 25) ** 0.9)
    assert rates == sorted(rates, reverse=True)


def test_split_keeps_the_order_and_leaves_nothing_out():
    parts = list(split(np.array([4, 1, 3, 0, 2]), 2))
    assert [part.tolist() for part in parts] == [[4, 1], [3, 0], [2]]
