import copy
import gc
import weakref

import numpy as np
import pytest
import torch

from model.loss import LossConfig, relic_loss
from model.relicv2 import ReLICv2, ReLICv2Config
from model.resnet import ResNetConfig
from model.step import backward, backward_all_views, backward_view_by_view

BATCH = 4


def make_model(dtype=torch.float64):
    config = ReLICv2Config(
        encoder=ResNetConfig(architecture="resnet18", width=0.0625, stem="small"),
        hidden_size=8,
        embedding_size=6,
    )
    return ReLICv2(config, generator=torch.Generator().manual_seed(0)).to(dtype)


def make_views(num_large=2, num_small=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    large = torch.randn(num_large, BATCH, 3, 16, 16, generator=generator, dtype=dtype)
    small = torch.randn(num_small, BATCH, 3, 8, 8, generator=generator, dtype=dtype)
    return large, small


def draw_negatives(num_large, num_small, count=2):
    rng = np.random.default_rng(0)
    scores = rng.random((num_large + num_small, num_large, BATCH, BATCH)) + 10 * np.eye(BATCH)
    return torch.from_numpy(scores.argsort(-1)[..., :count])


def gradients(model):
    return {name: p.grad for name, p in model.online.named_parameters()}


@pytest.mark.parametrize("stop", ["entropy", "none", "all"])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("subsampled", [True, False])
@pytest.mark.parametrize("num_small", [0, 2])
def test_view_by_view_is_the_gradient_of_the_full_sum(num_small, subsampled, same, stop):
    one, all_at_once = make_model(), make_model()
    large, small = make_views(2, num_small)
    negatives = draw_negatives(2, num_small) if subsampled else None
    config = LossConfig(same_view_pairs=same, stop_gradient=stop)
    terms = backward_view_by_view(one, large, small, negatives, config)
    expected = backward_all_views(all_at_once, large, small, negatives, config)
    for name in ("total", "contrastive", "invariance", "accuracy", "positive_similarity"):
        torch.testing.assert_close(
            getattr(terms, name), getattr(expected, name), rtol=1e-10, atol=1e-12
        )
    want = gradients(all_at_once)
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradient, want[name], rtol=1e-10, atol=1e-10)
    for (name, buffer), other in zip(one.named_buffers(), all_at_once.buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_full_sum_is_the_loss_of_all_embeddings():
    model, other = make_model(), make_model()
    large, small = make_views()
    negatives, config = draw_negatives(2, 2), LossConfig()
    backward(model, large, small, negatives, config)
    targets = torch.stack([other.embed_target(view) for view in large])
    online = torch.stack([other.embed_online(view) for view in (*large, *small)])
    relic_loss(online, targets, negatives=negatives, config=config).total.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, gradients(other)[name], rtol=1e-10, atol=1e-10)


def test_gradient_agrees_with_a_finite_difference_along_a_direction():
    model = make_model()
    large, small = make_views()
    config = LossConfig(stop_gradient="none")
    backward(model, large, small, None, config)
    generator = torch.Generator().manual_seed(2)
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in model.online.named_parameters()
    }
    slope = sum((gradient * direction[name]).sum() for name, gradient in gradients(model).items())
    values = []
    for sign in (1, -1):
        moved = make_model()
        with torch.no_grad():
            for name, parameter in moved.online.named_parameters():
                parameter.add_(direction[name], alpha=sign * 1e-7)
        values.append(backward(moved, large, small, None, config).total.item())
    assert slope.item() == pytest.approx((values[0] - values[1]) / 2e-7, rel=1e-5)


def test_form_a_keeps_all_views_and_form_b_one(monkeypatch):
    """Counts how many views' activations are alive when each further view is embedded."""
    alive_at = {}
    for form in ("swap_roles", "swap_views"):
        model, alive, counts = make_model(), [], []
        original = model.embed_online

        def embed(view, original=original, alive=alive, counts=counts):
            gc.collect()
            counts.append(sum(reference() is not None for reference in alive))
            online = original(view)

            def hook(gradient):
                """Lives as long as the graph of the view."""

            online.register_hook(hook)
            alive.append(weakref.ref(hook))
            return online

        monkeypatch.setattr(model, "embed_online", embed)
        backward(model, *make_views(), None, LossConfig(kl_form=form))
        alive_at[form] = counts
    assert alive_at == {"swap_roles": [0, 0, 0, 0], "swap_views": [0, 1, 2, 3]}


def test_form_a_differs_from_form_b_in_the_invariance_only():
    large, small = make_views()
    a = backward(make_model(), large, small, None, LossConfig(kl_form="swap_views"))
    b = backward(make_model(), large, small, None, LossConfig(kl_form="swap_roles"))
    torch.testing.assert_close(a.contrastive, b.contrastive)
    assert not torch.allclose(a.invariance, b.invariance, rtol=1e-3)


def test_gradients_add_up_over_calls():
    model, twice = make_model(), make_model()
    views = make_views()
    backward(model, *views, None, LossConfig())
    once = copy.deepcopy(gradients(model))
    for _ in range(2):
        backward(twice, *views, None, LossConfig())
    for name, gradient in gradients(twice).items():
        torch.testing.assert_close(gradient, 2 * once[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["swap_roles", "swap_views"])
def test_autocast_is_entered_for_forwards_and_kept_from_the_loss(form):
    model = make_model(torch.float32)
    large, small = make_views(dtype=torch.float32)
    seen = []
    model.online.encoder.conv1.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    model.target.encoder.conv1.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    config = LossConfig(kl_form=form)
    terms = backward(model, large, small, None, config, autocast=autocast)
    assert seen == [torch.bfloat16] * 6
    assert terms.total.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in gradients(model).values())


def test_results_are_detached_and_the_target_untouched():
    model = make_model()
    before = copy.deepcopy(dict(model.target.named_parameters()))
    terms = backward(model, *make_views(), None, LossConfig())
    assert not terms.total.requires_grad
    for name, parameter in model.target.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
