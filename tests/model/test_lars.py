import copy
import math

import pytest
import torch
from torch import nn

from model.lars import LARS, OptimizerConfig, make_optimizer, parameter_groups

RATES = [0.0, 0.5, 1.2, 0.3]


def scalar_lars(p, gradients, *, decay, eta, momentum, adaptive):
    """BYOL's update of one parameter, a flat list of Python floats."""
    m = [0.0] * len(p)
    for rate, g in zip(RATES, gradients, strict=True):
        if adaptive:
            g = [a + decay * b for a, b in zip(g, p, strict=True)]
            p_norm = math.sqrt(sum(a * a for a in p))
            g_norm = math.sqrt(sum(a * a for a in g))
            ratio = eta * p_norm / g_norm if p_norm > 0 and g_norm > 0 else 1.0
            g = [ratio * a for a in g]
        m = [momentum * a + b for a, b in zip(m, g, strict=True)]
        p = [a - rate * b for a, b in zip(p, m, strict=True)]
    return p


def network():
    torch_state = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch_state, dtype=torch.float64)
    return layers


def run(model, optimizer, gradients, rates):
    for rate, step in zip(rates, gradients, strict=True):
        for parameter, gradient in zip(model.parameters(), step, strict=True):
            parameter.grad = gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def draw_gradients(model, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.parameters()]
        for _ in range(steps)
    ]


def test_lars_equals_the_scalar_transcription():
    model = network()
    with torch.no_grad():
        model[3].weight.zero_()  # its norm is 0 in the first two steps
    config = OptimizerConfig(weight_decay=1 / 32, momentum=0.8, trust_coefficient=0.05)
    gradients = draw_gradients(model, len(RATES))
    gradients[1][0].copy_(-model[0].weight.detach() / 32)  # exactly 0 with decay
    expected = [
        scalar_lars(
            p.detach().flatten().tolist(),
            [step[number].flatten().tolist() for step in gradients],
            decay=1 / 32,
            eta=0.05,
            momentum=0.8,
            adaptive=p.ndim > 1,
        )
        for number, p in enumerate(model.parameters())
    ]
    run(model, make_optimizer(model, config), gradients, RATES)
    for parameter, values in zip(model.parameters(), expected, strict=True):
        assert parameter.flatten().tolist() == pytest.approx(values, rel=1e-12, abs=1e-12)


def test_biases_and_norms_are_excluded_and_everything_else_is_not():
    model = network()
    weights, excluded = parameter_groups(model)
    assert [id(p) for p in weights] == [id(model[0].weight), id(model[3].weight)]
    assert {id(p) for p in excluded} == {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[3].bias)
    }


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_excluded_parameters_rest_without_a_gradient(name):
    model = network()
    before = copy.deepcopy(model)
    optimizer = make_optimizer(model, OptimizerConfig(name=name, weight_decay=0.1))
    zeros = [[torch.zeros_like(p) for p in model.parameters()]]
    run(model, optimizer, zeros, [1.0])
    moved = [
        not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    ]
    assert moved == [True, False, False, False, True, False]  # the two weights decay


def test_what_takes_no_gradient_is_left_out():
    model = network()
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerConfig())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in (*model[1].parameters(), *model[3].parameters())}


def test_parameters_without_a_gradient_stay_and_get_no_state():
    model = network()
    optimizer = LARS([{"params": list(model.parameters())}], lr=0.1)
    before = model[0].weight.clone()
    model[3].bias.grad = torch.ones_like(model[3].bias)
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert list(optimizer.state) == [model[3].bias]


def test_layouts_of_gradients_and_momentum_do_not_matter():
    """Kernels go through memory; a gradient may lie in it otherwise than its weight."""
    weights = [nn.Parameter(torch.randn(4, 3, 2, 2, dtype=torch.float64)) for _ in range(2)]
    with torch.no_grad():
        weights[1].copy_(weights[0])
    last = nn.Parameter(weights[1].detach().to(memory_format=torch.channels_last))
    optimizers = [LARS([weight], lr=0.5) for weight in (weights[0], last)]
    for _ in range(2):
        gradient = torch.randn(4, 3, 2, 2, dtype=torch.float64)
        weights[0].grad = gradient
        last.grad = gradient.clone()  # contiguous
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(weights[0], last, rtol=1e-12, atol=1e-12)
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))  # contiguous momentum
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(weights[0], last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_no_bit_changes_while_found_inf_is_1(name):
    model = network()
    optimizer = make_optimizer(model, OptimizerConfig(name=name, weight_decay=0.1))
    first, second = draw_gradients(model, 2)
    run(model, optimizer, [first], [0.5])
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()["state"]])
    optimizer.found_inf = torch.ones(())
    second[0].fill_(math.nan)
    run(model, optimizer, [second], [0.5])
    for old, new in zip(before[0].values(), model.state_dict().values(), strict=True):
        assert torch.equal(old, new)
    for number, old in before[1].items():
        for key, value in old.items():
            assert torch.equal(value, optimizer.state_dict()["state"][number][key]), key
    optimizer.found_inf = torch.zeros(())
    run(model, optimizer, [first], [0.5])
    assert not torch.equal(before[0]["0.weight"], model[0].weight)


def test_gradients_are_left_as_they_were():
    model = network()
    optimizer = make_optimizer(model, OptimizerConfig())
    (gradients,) = draw_gradients(model, 1)
    run(model, optimizer, [gradients], [0.5])
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_state_survives_a_round_trip(name):
    config = OptimizerConfig(name=name, trust_coefficient=0.1)
    model = network()
    gradients = draw_gradients(model, 6)
    straight, resumed = copy.deepcopy(model), model
    run(straight, make_optimizer(straight, config), gradients, [0.1] * 6)
    first = make_optimizer(resumed, config)
    run(resumed, first, gradients[:3], [0.1] * 3)
    second = make_optimizer(resumed, config)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(resumed, second, gradients[3:], [0.1] * 3)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_closure_is_run_with_gradients():
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([weight], lr=1.0, weight_decay=0.0, trust_coefficient=1.0, momentum=0.0)

    def closure():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4
    # |p| = |g| = 2: the step is the gradient itself
    assert torch.equal(weight.detach(), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"name": "sgd"}, "optimizer 'sgd'; choose one of lars, adamw"),
        ({"base_learning_rate": -0.1}, "base_learning_rate.*got -0.1"),
        ({"weight_decay": math.nan}, "weight_decay.*got nan"),
        ({"momentum": 1.0}, "momentum.*got 1"),
        ({"adam_beta2": -0.5}, "adam_beta2.*got -0.5"),
        ({"warmup_epochs": -1}, "warmup_epochs.*got -1"),
    ],
)
def test_bad_settings_are_named(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        OptimizerConfig(**bad)
