import pytest
import torch

from model.relicv2 import ReLICv2, ReLICv2Config
from model.resnet import ResNetConfig

TINY = ResNetConfig(architecture="resnet18", width=0.125, stem="small")


def make_model(seed=0, **settings):
    config = ReLICv2Config(encoder=TINY, hidden_size=16, embedding_size=8, **settings)
    return ReLICv2(config, generator=torch.Generator().manual_seed(seed))


def views(seed=0, batch=4):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_embeddings_have_unit_norm_in_float32():
    model = make_model()
    for embed in (model.embed_online, model.embed_target):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embeddings = embed(views())
        assert embeddings.shape == (4, 8)
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))


def test_float64_stays_float64():
    model = make_model().double()
    assert model.embed_online(views().double()).dtype == torch.float64
    assert model.embed_target(views().double()).dtype == torch.float64


def test_target_receives_no_gradient():
    model = make_model()
    assert not model.embed_target(views()).requires_grad
    (model.embed_online(views()) * model.embed_target(views(1))).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in model.target.parameters())
    assert all(p.grad is not None for p in model.online.parameters())


def test_heads_are_linear_norm_relu_linear_without_bias():
    projector, predictor = make_model().online.projector, make_model().online.predictor
    assert {name: tuple(p.shape) for name, p in projector.named_parameters()} == {
        "hidden.weight": (16, 64),
        "hidden.bias": (16,),
        "bn.weight": (16,),
        "bn.bias": (16,),
        "output.weight": (8, 16),
    }
    assert predictor.hidden.weight.shape == (16, 8)
    x = torch.randn(5, 64)
    hidden = x @ projector.hidden.weight.T
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
    expected = hidden.clamp(min=0) @ projector.output.weight.T
    torch.testing.assert_close(projector(x), expected, rtol=1e-4, atol=1e-5)


def test_heads_start_as_haiku_does():
    head = make_model().online.projector
    assert head.hidden.weight.abs().max() <= 2 / 64**0.5
    assert torch.count_nonzero(head.hidden.bias) == 0
    assert head.output.weight.abs().max() <= 2 / 16**0.5


def test_target_is_initialised_independently_or_as_a_copy():
    independent, copied = make_model(), make_model(target_init="copy")
    assert not torch.equal(
        independent.online.encoder.conv1.weight, independent.target.encoder.conv1.weight
    )
    for name, parameter in copied.target.named_parameters():
        assert torch.equal(parameter, copied.online.get_parameter(name))


def test_without_predictor_both_branches_have_the_same_parameters():
    model = make_model(predictor=False, target_init="copy")
    online, target = (dict(b.named_parameters()) for b in (model.online, model.target))
    assert online.keys() == target.keys()
    torch.testing.assert_close(model.embed_online(views()), model.embed_target(views()))
    assert any("predictor" in name for name, _ in make_model().online.named_parameters())


def test_target_is_the_moving_average_of_parameters():
    model = make_model()
    before = {name: p.clone() for name, p in model.target.named_parameters()}
    model.update_target(0.9)
    for name, parameter in model.target.named_parameters():
        expected = 0.9 * before[name] + 0.1 * model.online.get_parameter(name)
        torch.testing.assert_close(parameter, expected)


def test_decay_one_and_zero_are_exact():
    model = make_model()
    before = {name: p.clone() for name, p in model.target.named_parameters()}
    model.update_target(1.0)
    assert all(torch.equal(p, before[name]) for name, p in model.target.named_parameters())
    model.update_target(0.0)
    for name, parameter in model.target.named_parameters():
        assert torch.equal(parameter, model.online.get_parameter(name))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.996, 1.0])
def test_target_under_a_guard_moves_alike_or_not_at_all(decay):
    plain, guarded, kept = make_model(), make_model(), make_model()
    plain.update_target(decay)
    guarded.update_target(decay, found_inf=torch.zeros(()))
    for one, other in zip(plain.target.parameters(), guarded.target.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        kept.online.encoder.conv1.weight.fill_(torch.nan)
    kept.update_target(decay, found_inf=torch.ones(()))
    for one, other in zip(kept.target.parameters(), make_model().target.parameters(), strict=True):
        assert torch.equal(one, other)


def test_target_keeps_its_own_batchnorm_statistics():
    model = make_model()
    model.embed_online(views())
    buffers = {name: b.clone() for name, b in model.target.named_buffers()}
    model.update_target(0.0)
    assert all(torch.equal(b, buffers[name]) for name, b in model.target.named_buffers())
    online = dict(model.online.named_buffers())
    model.embed_target(views(1))
    target = dict(model.target.named_buffers())
    assert not torch.equal(target["encoder.bn1.running_mean"], buffers["encoder.bn1.running_mean"])
    assert target["encoder.bn1.num_batches_tracked"] == 1
    assert online["encoder.bn1.num_batches_tracked"] == 1


def test_features_are_those_of_the_online_encoder():
    model = make_model().eval()
    assert model.features(views()).shape == (4, 64)
    assert torch.equal(model.features(views()), model.online.encoder(views()))


def test_same_generator_same_weights():
    first, same, other = make_model(1).state_dict(), make_model(1).state_dict(), make_model(2)
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not torch.equal(
        first["online.projector.hidden.weight"], other.online.projector.hidden.weight
    )


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"target_init": "zero"}, "target_init 'zero'"),
        ({"hidden_size": 0}, "hidden_size.*got 0"),
        ({"embedding_size": -1}, "embedding_size.*got -1"),
    ],
)
def test_bad_settings_are_named(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        ReLICv2Config(**bad)
