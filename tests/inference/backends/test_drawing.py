from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.inference.backends.base import Draw
from qwen_ner.inference.backends.drawing import probabilities, sample

SHARES = st.lists(st.integers(1, 1000), min_size=1, max_size=200)


@given(SHARES, st.floats(1e-3, 1.0), st.floats(0.05, 50))
def test_the_nucleus_is_the_least_set_of_likeliest_tokens_that_reaches_top_p(counts, top_p, temperature):
    logits = torch.tensor([counts]).float().log() * temperature
    (weights,) = probabilities(logits, [Draw(temperature, top_p, 0)]).double()
    whole = torch.tensor(counts).double() / sum(counts)
    kept = weights > 0
    assert weights[kept].tolist() == pytest.approx(whole[kept].tolist(), rel=1e-4)
    assert weights.sum() >= top_p - 1e-5
    if not kept.all():
        assert weights[kept].min() >= whole[~kept].max() - 1e-6
    last = whole[kept].min()
    assert (whole[kept & (whole > last + 1e-6)]).sum() < top_p + 1e-5, "without the last ones it is not reached"


def test_rows_keep_their_own_temperature_and_nucleus():
    torch.manual_seed(0)
    logits = torch.randn(4, 5000) * 3
    draws = [Draw(1.0, 1.0, 0), Draw(0.5, 0.9, 0), Draw(9.0, 0.999, 0), Draw(1e-300, 0.5, 0)]
    together = probabilities(logits, draws)
    for row, draw in enumerate(draws):
        assert torch.equal(together[row], probabilities(logits[row : row + 1], [draw])[0])
    kept = (together > 0).sum(-1).tolist()
    assert kept[0] == 5000 > kept[2] > 4000 > kept[1] > kept[3] == 1


def test_what_may_not_be_drawn_is_not_drawn():
    (weights,) = probabilities(torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0]]), [Draw(2.0, 1.0, 0)])
    assert weights.tolist() == [0, 0.5, 0, 0.5]


class Fixed(Random):
    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


@pytest.mark.parametrize(
    ("point", "column"), [(0.0, 1), (0.2499, 1), (0.2501, 3), (0.9, 3), (1 - 2**-53, 3), (1 - 2**-30, 3)]
)
def test_a_column_is_drawn_whose_share_holds_the_point(point, column):
    """Also at both ends, where columns have no weight, and wherever rounding puts 0.999…"""
    weights = torch.tensor([[0.0, 0.2, 0.0, 0.6, 0.0]])
    assert sample(weights, [Fixed(point)]).tolist() == [column]


def test_each_row_draws_by_its_own_numbers():
    weights = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    alone = [
        [int(sample(weights[row : row + 1], [own])) for _ in range(20)] for row, own in enumerate(map(Random, range(3)))
    ]
    randoms = [Random(seed) for seed in range(3)]
    together = [sample(weights, randoms).tolist() for _ in range(20)]
    assert [list(row) for row in zip(*together, strict=True)] == alone
