import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from model.collapse import EMBEDDING_STD_BAR, collapse_warning, embedding_std, rank_me
from model.loss import LossConfig
from model.step import backward
from tests.model.test_step import make_model, make_views


def on_the_sphere(count, dims, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dims, generator=generator), dim=1)


def plain_figures(rows):
    """The definitions, in plain Python but for the singular values."""
    count, dims = rows.shape
    spread = 0.0
    for column in rows.T.tolist():
        mean = math.fsum(column) / count
        spread += math.sqrt(math.fsum((x - mean) ** 2 for x in column) / (count - 1)) / dims
    singular = torch.linalg.svdvals(rows.double()).tolist()
    shares = [value / math.fsum(singular) for value in singular]
    entropy = -math.fsum(share * math.log(share) for share in shares if share > 0)
    return spread * math.sqrt(dims), math.exp(entropy)


@pytest.mark.parametrize(("count", "dims"), [(2, 5), (7, 7), (40, 6), (6, 40)])
def test_figures_are_those_of_the_definitions(count, dims):
    rows = on_the_sphere(count, dims)
    spread, rank = plain_figures(rows)
    assert embedding_std(rows).item() == pytest.approx(spread, rel=1e-6)
    assert rank_me(rows).item() == pytest.approx(rank, rel=1e-6)


def test_embeddings_spread_evenly_have_a_spread_of_one_and_use_all_dimensions():
    rows = on_the_sphere(20_000, 64)
    assert embedding_std(rows).item() == pytest.approx(1, abs=0.005)
    assert rank_me(rows).item() == pytest.approx(64, rel=0.01)


def test_embeddings_of_one_point_have_no_spread_and_use_one_dimension():
    rows = on_the_sphere(1, 64).expand(512, 64)
    assert embedding_std(rows).item() == pytest.approx(0, abs=1e-6)
    assert rank_me(rows).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rank_me_of_equal_directions_is_their_number(rank):
    directions = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))[0]
    rows = directions[:rank].repeat(5, 1)
    assert rank_me(rows).item() == pytest.approx(rank, rel=1e-5)


@given(count=st.integers(2, 12), dims=st.integers(2, 12), seed=st.integers(0, 1000))
def test_rank_me_lies_in_its_range_and_knows_no_scale_order_or_rotation(count, dims, seed):
    rows = on_the_sphere(count, dims, seed)
    rank = rank_me(rows).item()
    assert 1 - 1e-9 <= rank <= min(count, dims) + 1e-9
    turned = rows.double() @ torch.linalg.qr(on_the_sphere(dims, dims, seed + 1).double())[0]
    assert rank_me(7 * turned.flip(0)).item() == pytest.approx(rank, rel=1e-5)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_embeddings_that_are_not_finite_have_no_figures_and_raise_nothing(wrong):
    rows = on_the_sphere(6, 4)
    rows[2, 1] = wrong
    assert math.isnan(embedding_std(rows).item())
    assert math.isnan(rank_me(rows).item())


def test_the_warning_comes_below_the_bar():
    """Points around one mean: at the bar their mean cosine is 0.99, as its derivation says."""
    dims = 256
    mean = on_the_sphere(1, dims, seed=1)
    # unit vectors of mean length m have embedding_std sqrt(1 - m^2)
    around = {}
    for cosine in (0.98, 0.995):
        noise = on_the_sphere(4000, dims, seed=2)
        noise = F.normalize(noise - (noise @ mean.T) * mean, dim=1)
        rows = math.sqrt(cosine) * mean + math.sqrt(1 - cosine) * noise
        around[cosine] = embedding_std(rows).item()
        assert around[cosine] == pytest.approx(math.sqrt(1 - cosine), rel=0.01)
    assert collapse_warning(around[0.98]) == ""
    assert "embedding_std is 0.07" in collapse_warning(around[0.995])
    one_axis = torch.zeros(512, dims)
    one_axis[:, 3] = torch.tensor([1.0, -1.0]).repeat(256)
    assert collapse_warning(embedding_std(one_axis).item())  # dimensional collapse, mean 0
    assert collapse_warning(EMBEDDING_STD_BAR) == collapse_warning(math.nan) == ""


@pytest.mark.parametrize("form", ["swap_roles", "swap_views"])
def test_the_step_hands_out_the_online_embeddings_of_the_first_large_view(form):
    model, other = make_model(), make_model()
    large, small = make_views()
    terms = backward(model, large, small, None, LossConfig(kl_form=form))
    assert terms.embeddings is not None
    assert not terms.embeddings.requires_grad
    assert torch.equal(terms.embeddings, other.embed_online(large[0]))
