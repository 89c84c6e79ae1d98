"""Three ways to one number: each against its definition, and the same however a batch is cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ragged import ragged

from models.reductions import Reduction
from models.settings import ReductionName

NAMES: list[ReductionName] = ["token", "sequence", "constant"]


def plain(name: str, values: torch.Tensor, mask: torch.Tensor, length: int) -> float:
    rows = [[v for v, m in zip(*row, strict=True) if m] for row in zip(values.tolist(), mask.tolist(), strict=True)]
    if name == "token":
        return sum(map(sum, rows)) / sum(map(len, rows))
    if name == "sequence":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return sum(map(sum, rows)) / (len(rows) * length)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000))
def test_each_is_its_definition(name: ReductionName, seed: int) -> None:
    (values, *_), mask = ragged(seed)
    assert Reduction(name, length=7)(values, mask).item() == pytest.approx(plain(name, values, mask, 7), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8))
def test_one_batch_of_eight_is_eight_of_one(name: ReductionName, seed: int, rows: int) -> None:
    """The losses of parts add up to the batch's, whatever the lengths."""
    (values, *_), mask = ragged(seed, rows=8)
    whole = Reduction(name, length=7)
    count = sum(whole.count(mask[at : at + rows]) for at in range(0, 8, rows))
    assert count == whole.count(mask)
    part = Reduction(name, length=7, whole=count)
    parts = [part(values[at : at + rows], mask[at : at + rows]).item() for at in range(0, 8, rows)]
    assert sum(parts) == pytest.approx(whole(values, mask).item(), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000), extra=st.integers(1, 4))
def test_padding_changes_nothing(name: ReductionName, seed: int, extra: int) -> None:
    (values, *_), mask = ragged(seed)
    wider = torch.nn.functional.pad(values, (0, extra), value=9.0)
    reduction = Reduction(name, length=7)
    padded = reduction(wider, torch.nn.functional.pad(mask, (0, extra)))
    assert padded.item() == pytest.approx(reduction(values, mask).item(), abs=1e-12)


def test_a_response_without_a_token_still_counts_as_one() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    assert Reduction("sequence")(torch.ones(2, 2), mask).item() == 0.5


def test_a_constant_needs_its_length() -> None:
    with pytest.raises(ValueError, match="divides by a length"):
        Reduction("constant")
