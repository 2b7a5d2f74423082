import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.loss import LossConfig, num_pairs, pair_loss, relic_loss, view_loss

FORMS = ["swap_roles", "swap_views"]
STOPS = ["entropy", "none", "all"]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def transcribed(online, target, negatives, *, tau=0.2, alpha=1.0, beta=1.0, form="B", same=True):
    """The specification, sections 1.1, 1.3 and 1.4, in loops over Python floats."""
    num_views, batch = online.shape[:2]
    num_large = len(target)

    def distribution(anchor, candidates):
        weights = [math.exp(float(np.dot(anchor, c)) / tau) for c in candidates]
        return [w / sum(weights) for w in weights]

    loss, scale = 0.0, 0
    for i in range(num_views):
        for j in range(num_large):
            if i == j and not same:
                continue
            scale += 1
            for b in range(batch):
                if negatives is None:
                    ids = [b] + [k for k in range(batch) if k != b]
                else:
                    ids = [b, *negatives[i, j, b]]
                p = distribution(online[i, b], [target[j, k] for k in ids])
                if form == "A" and i < num_large:
                    q = distribution(online[j, b], [target[i, k] for k in ids])
                else:
                    q = distribution(target[j, b], [online[i, k] for k in ids])
                kl = sum(a * math.log(a / c) for a, c in zip(p, q, strict=True))
                loss += (-alpha * math.log(p[0]) + beta * kl) / batch
    return loss / scale


def unit(*shape, seed=0, dtype=torch.float64):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return F.normalize(values, dim=-1)


def draw_negatives(num_views, num_large, batch, count, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.random((num_views, num_large, batch, batch)) + 10 * np.eye(batch)
    return torch.from_numpy(scores.argsort(-1)[..., :count])


def one_pair(online, target, negatives=None, **settings):
    return pair_loss(
        online,
        target,
        candidates_online=online,
        candidates_target=target,
        positives=torch.arange(len(online)),
        negatives=negatives,
        config=LossConfig(**settings),
    )


@given(
    num_large=st.integers(2, 3),
    num_small=st.integers(0, 2),
    batch=st.integers(2, 5),
    count=st.integers(0, 4),
    form=st.sampled_from(FORMS),
    same=st.booleans(),
    temperature=st.floats(0.1, 1.0),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_loss_equals_the_specification_in_loops(
    num_large, num_small, batch, count, form, same, temperature, seed
):
    num_views = num_large + num_small
    online, target = unit(num_views, batch, 6, seed=seed), unit(num_large, batch, 6, seed=seed + 1)
    chosen = min(count, batch - 1)
    negatives = draw_negatives(num_views, num_large, batch, chosen, seed) if chosen else None
    config = LossConfig(
        temperature=temperature,
        contrastive_weight=0.7,
        invariance_weight=1.3,
        kl_form=form,
        same_view_pairs=same,
    )
    terms = relic_loss(online, target, negatives=negatives, config=config)
    expected = transcribed(
        online.numpy(),
        target.numpy(),
        None if negatives is None else negatives.numpy(),
        tau=temperature,
        alpha=0.7,
        beta=1.3,
        form="A" if form == "swap_views" else "B",
        same=same,
    )
    assert terms.total.dtype == torch.float64
    assert terms.total.item() == pytest.approx(expected, rel=1e-12)
    weighted = 0.7 * terms.contrastive + 1.3 * terms.invariance
    torch.testing.assert_close(terms.total, weighted, **EXACT)


def test_loss_is_the_mean_of_its_pairs():
    online, target = unit(4, 5, 6), unit(2, 5, 6, seed=1)
    negatives = draw_negatives(4, 2, 5, 3)
    whole = relic_loss(online, target, negatives=negatives, config=LossConfig())
    pairs = [one_pair(online[v], target[w], negatives[v, w]) for v in range(4) for w in range(2)]
    for name in ("total", "contrastive", "invariance", "accuracy", "positive_similarity"):
        mean = sum(getattr(pair, name) for pair in pairs) / 8
        torch.testing.assert_close(getattr(whole, name), mean, **EXACT)


@pytest.mark.parametrize("num_negatives", [0, 3])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_gradient_agrees_with_finite_differences(form, same, num_negatives):
    # the whole KL is differentiated: only then the value's differences are the gradient
    config = LossConfig(kl_form=form, stop_gradient="none", same_view_pairs=same, temperature=0.5)
    target = unit(2, 4, 3, seed=1)
    negatives = draw_negatives(3, 2, 4, num_negatives) if num_negatives else None

    def loss(raw):
        online = F.normalize(raw, dim=-1)
        return relic_loss(online, target, negatives=negatives, config=config).total

    assert torch.autograd.gradcheck(loss, unit(3, 4, 3).requires_grad_())


@pytest.mark.parametrize("stop", ["entropy", "all"])
@pytest.mark.parametrize("form", FORMS)
def test_stopped_gradient_is_that_of_the_value_with_constants_in_its_place(form, stop):
    """Finite differences of the KL in which the stopped factors keep their first values."""
    tau, eps = 0.5, 1e-6
    target = unit(2, 4, 3, seed=1).numpy()
    start = unit(2, 4, 3).numpy()

    def logs(online, i, j, swapped):
        first, second = (online[i], target[j])
        if swapped:
            first, second = (
                (online[j], target[i]) if form == "swap_views" else (target[j], online[i])
            )
        logits = first @ second.T / tau
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def value(online):
        total = 0.0
        for i in range(2):
            for j in range(2):
                constant = logs(start, i, j, swapped=False)
                log_p = constant if stop == "all" else logs(online, i, j, swapped=False)
                p, log_q = np.exp(log_p), logs(online, i, j, swapped=True)
                total += (np.exp(constant) * constant - p * log_q).sum(1).mean() / 4
        return total

    online = torch.from_numpy(start.copy()).requires_grad_()
    config = LossConfig(
        kl_form=form, stop_gradient=stop, contrastive_weight=0.0, temperature=tau, num_negatives=0
    )
    terms = relic_loss(online, torch.from_numpy(target), negatives=None, config=config)
    assert terms.total.item() == pytest.approx(value(start), rel=1e-9)
    terms.total.backward()
    for place in np.ndindex(start.shape):
        up, down = start.copy(), start.copy()
        up[place] += eps
        down[place] -= eps
        difference = (value(up) - value(down)) / (2 * eps)
        assert online.grad[place].item() == pytest.approx(difference, abs=1e-8)


def test_stop_gradient_changes_gradients_and_never_the_value():
    target, negatives = unit(2, 6, 8, seed=1), draw_negatives(3, 2, 6, 4)
    values, gradients = [], []
    for stop in STOPS:
        online = unit(3, 6, 8).requires_grad_()
        config = LossConfig(stop_gradient=stop)
        terms = relic_loss(online, target, negatives=negatives, config=config)
        terms.total.backward()
        values.append(terms.total.item())
        gradients.append(online.grad)
    assert values[0] == values[1] == values[2]
    assert not torch.allclose(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])
    assert not torch.allclose(gradients[1], gradients[2])


def test_identical_networks_have_no_invariance_loss():
    same = unit(64, 256, dtype=torch.float32)
    terms = one_pair(same, same, temperature=0.1)
    assert terms.invariance.item() == 0
    assert terms.contrastive.item() < 0.03
    few = one_pair(same, same, draw_negatives(1, 1, 64, 10)[0, 0], temperature=0.1)
    assert few.contrastive.item() < 0.002
    assert few.accuracy.item() == 1
    assert few.positive_similarity.item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("count", "contrastive", "invariance"), [(10, 2.57, 0.30), (100, 4.80, 0.38), (511, 6.43, 0.39)]
)
def test_random_embeddings_give_the_known_values(count, contrastive, invariance):
    online, target = (unit(512, 256, seed=seed, dtype=torch.float32) for seed in (0, 1))
    negatives = draw_negatives(1, 1, 512, count)[0, 0]
    terms = one_pair(online, target, negatives, temperature=0.1)
    assert terms.contrastive.item() == pytest.approx(contrastive, abs=0.06)
    assert terms.invariance.item() == pytest.approx(invariance, abs=0.02)
    assert terms.accuracy.item() == pytest.approx(1 / (1 + count), abs=0.05)
    assert abs(terms.positive_similarity.item()) < 0.02


def test_all_others_is_the_same_as_all_of_them_named():
    online, target = unit(3, 6, 8), unit(2, 6, 8, seed=1)
    named = draw_negatives(3, 2, 6, 5)
    everyone = relic_loss(online, target, negatives=None, config=LossConfig())
    torch.testing.assert_close(
        everyone.total, relic_loss(online, target, negatives=named, config=LossConfig()).total
    )


@given(order=st.permutations(range(6)))
@settings(deadline=None, max_examples=20)
def test_order_of_the_batch_does_not_matter(order):
    online, target = unit(3, 6, 8), unit(2, 6, 8, seed=1)
    negatives = draw_negatives(3, 2, 6, 4)
    places = torch.tensor(order)
    where = torch.argsort(places)  # image k stands at row where[k] afterwards
    config = LossConfig()
    shuffled = relic_loss(
        online[:, places],
        target[:, places],
        negatives=where[negatives[:, :, places]],
        config=config,
    )
    expected = relic_loss(online, target, negatives=negatives, config=config)
    torch.testing.assert_close(shuffled.total, expected.total, **EXACT)


def test_anchors_may_be_a_part_of_the_candidates():
    online, target = unit(3, 6, 8), unit(2, 6, 8, seed=1)
    negatives, config = draw_negatives(3, 2, 6, 4), LossConfig()
    parts = [
        relic_loss(
            online[:, rows],
            target[:, rows],
            negatives=negatives[:, :, rows],
            config=config,
            candidates_online=online,
            candidates_target=target,
            positives=rows,
        )
        for rows in (torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5]))
    ]
    whole = relic_loss(online, target, negatives=negatives, config=config)
    torch.testing.assert_close((parts[0].total + parts[1].total) / 2, whole.total, **EXACT)


def test_view_loss_uses_no_other_online_view():
    online, target = unit(3, 6, 8), unit(2, 6, 8, seed=1)
    negatives = draw_negatives(3, 2, 6, 4)
    config = LossConfig(same_view_pairs=False)
    views = [
        view_loss(
            view,
            online[view],
            target,
            candidates_online=online[view],
            candidates_target=target,
            positives=torch.arange(6),
            negatives=negatives[view],
            config=config,
        ).total
        for view in range(3)
    ]
    expected = relic_loss(online, target, negatives=negatives, config=config).total
    torch.testing.assert_close(sum(views) / 4, expected, **EXACT)


def test_number_of_pairs_is_the_printed_scale():
    assert num_pairs(6, 4, LossConfig()) == (4 + 2) * 4
    assert num_pairs(6, 4, LossConfig(same_view_pairs=False)) == 4 * 3 + 2 * 4


def test_loss_stays_in_float32_under_autocast():
    online, target = (unit(2, 8, 16, seed=seed, dtype=torch.float32) for seed in (0, 1))
    expected = relic_loss(online, target, negatives=None, config=LossConfig()).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = relic_loss(online, target, negatives=None, config=LossConfig()).total
    assert total.dtype == torch.float32
    assert torch.equal(total, expected)


def test_only_total_carries_a_gradient():
    terms = one_pair(unit(4, 8).requires_grad_(), unit(4, 8, seed=1))
    assert terms.total.requires_grad
    for name in ("contrastive", "invariance", "accuracy", "positive_similarity"):
        assert not getattr(terms, name).requires_grad


def test_accuracy_of_collapsed_embeddings_is_zero():
    collapsed = torch.ones(4, 8) / 8**0.5
    assert one_pair(collapsed, collapsed).accuracy.item() == 0


def test_one_image_alone_is_refused():
    with pytest.raises(ValueError, match="at least 2 images"):
        one_pair(unit(1, 8), unit(1, 8, seed=1))


def test_one_large_view_without_same_view_pairs_is_refused():
    with pytest.raises(ValueError, match="at least 2 large views, got 1"):
        num_pairs(3, 1, LossConfig(same_view_pairs=False))


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"temperature": 0.0}, "temperature.*got 0"),
        ({"temperature": math.nan}, "temperature.*got nan"),
        ({"invariance_weight": -1.0}, "invariance_weight.*got -1"),
        ({"num_negatives": -1}, "num_negatives.*got -1"),
        ({"kl_form": "C"}, "kl_form 'C'"),
        ({"stop_gradient": "some"}, "stop_gradient 'some'"),
        ({"negatives": "remote"}, "negatives 'remote'"),
    ],
)
def test_bad_settings_are_named(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        LossConfig(**bad)
