"""Means over all that the teacher says: of a batch, decaying, or of a window of epochs."""

import pytest
import torch
from viewmill.methods.running_mean import RunningMean


def rows(seed: int, count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def test_the_mean_of_a_batch_has_no_state() -> None:
    mean = RunningMean(3, "batch")
    torch.testing.assert_close(mean.update(rows(0)).value, rows(0).double().mean(dim=0), rtol=1e-6, atol=1e-7)
    assert not mean.state_dict()


def test_a_decaying_mean_begins_with_the_first_batch_and_then_moves() -> None:
    mean = RunningMean(3, "ema", momentum=0.75)
    first, second = rows(0).double().mean(dim=0), rows(1, 9).double().mean(dim=0)
    torch.testing.assert_close(mean.update(rows(0)).value, first, rtol=1e-6, atol=1e-7)
    value, count = mean.update(rows(1, 9))
    torch.testing.assert_close(value, 0.75 * first + 0.25 * second, rtol=1e-6, atol=1e-7)
    assert count == 9


def test_without_momentum_it_is_the_batch() -> None:
    mean, batch = RunningMean(3, "ema"), RunningMean(3, "batch")
    for seed in range(3):
        assert torch.equal(mean.update(rows(seed)).value, batch.update(rows(seed)).value)


def test_a_window_sums_every_row_of_its_epochs_once() -> None:
    mean = RunningMean(3, "streaming", every_epochs=2)
    seen = []
    for epoch in range(5):
        mean.before_epoch(epoch)
        for step in range(2):
            seen.append(mean.update(rows(10 * epoch + step)))
    first = torch.cat([rows(seed) for seed in (0, 1, 10, 11)]).double()
    second = torch.cat([rows(seed) for seed in (20, 21, 30, 31)]).double()
    torch.testing.assert_close(seen[3].value, first.mean(dim=0), rtol=1e-6, atol=1e-7)  # so far
    assert [int(one.rows) for one in seen[:4]] == [5, 10, 15, 20]
    for one in seen[4:8]:  # the window before
        torch.testing.assert_close(one.value, first.mean(dim=0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(seen[8].value, second.mean(dim=0), rtol=1e-6, atol=1e-7)
    assert int(seen[8].rows) == 20


def test_all_state_is_in_the_state_dict() -> None:
    whole, again = RunningMean(3, "streaming"), RunningMean(3, "streaming")
    whole.update(rows(0))
    again.load_state_dict(whole.state_dict())
    for mean in (whole, again):
        mean.before_epoch(1)
    assert torch.equal(whole.update(rows(1)).value, again.update(rows(1)).value)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got epoch, 0\.0 and 1"):
        RunningMean(3, "epoch")
    with pytest.raises(ValueError, match=r"got ema, 1\.0 and 1"):
        RunningMean(3, "ema", momentum=1.0)
