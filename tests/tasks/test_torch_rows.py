# SPDX-License-Identifier: Apache-2.0
"""Losses by row agree with torch's means."""

import pytest

torch = pytest.importorskip("torch")

from muster.tasks import torch_rows  # noqa: E402


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 3), (5, 2, 4, 3)])
def test_cross_entropy_by_place_has_torchs_mean(shape):
    output = torch.randn(shape, dtype=torch.float64)
    y = torch.randint(0, 3, shape[:-1])
    losses = torch_rows.cross_entropy(output, y)
    assert losses.shape == y.shape
    expected = -output.log_softmax(-1).gather(-1, y[..., None])[..., 0]
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(losses.mean(), torch_rows.mean_cross_entropy(output, y))
    assert torch_rows.per_row(losses).shape == (5,)
    assert torch_rows.accuracy(output, y).shape == y.shape


@pytest.mark.parametrize(("output", "y"), [((5, 1), (5,)), ((5,), (5, 1)), ((5, 2), (5, 2))])
def test_squares_never_broadcast(output, y):
    output, y = torch.randn(output), torch.randn(y)
    losses = torch_rows.squares(output, y)
    assert losses.shape == (5,)
    expected = torch.nn.functional.mse_loss(output.reshape(y.shape), y)
    torch.testing.assert_close(losses.mean(), expected)
    assert torch_rows.error(output, y).shape == (5,)


def test_outputs_of_another_size_are_refused():
    with pytest.raises(RuntimeError, match="shape"):
        torch_rows.squares(torch.zeros(5, 2), torch.zeros(5))
