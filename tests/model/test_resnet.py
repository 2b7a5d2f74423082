import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.resnet import ResNetConfig, make_encoder, pad_same
from torchvision_cpu import import_torchvision


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def num_parameters(**settings):
    with torch.device("meta"):
        encoder = make_encoder(ResNetConfig(**settings))
    return sum(parameter.numel() for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        ("resnet18", 11_176_512),
        ("resnet34", 21_284_672),
        ("resnet50", 23_508_032),
        ("resnet101", 42_500_160),
        ("resnet152", 58_143_808),
        ("resnet200", 58_143_808 + 16 * 280_064),
    ],
)
def test_standard_networks_have_their_known_size(architecture, count):
    assert num_parameters(architecture=architecture) == count


def test_width_multiplies_every_channel():
    narrow = make_encoder(ResNetConfig(architecture="resnet50", width=0.5))
    wide = make_encoder(ResNetConfig(architecture="resnet50"))
    assert (narrow.feature_dim, wide.feature_dim) == (1024, 2048)
    for (name, half), whole in zip(narrow.named_parameters(), wide.parameters(), strict=True):
        inputs = slice(2, None) if name == "conv1.weight" else slice(None)  # RGB stays three
        ratios = [b / a for a, b in zip(half.shape, whole.shape, strict=True)]
        assert ratios[0] == 2
        assert half.ndim == 1 or name == "conv1.weight" or ratios[1] == 2
        assert all(ratio == 1 for ratio in ratios[2:][inputs])


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_torchvision_computes_the_same_from_the_same_weights(architecture):
    torchvision = import_torchvision()
    encoder = make_encoder(ResNetConfig(architecture=architecture), generator())
    other = getattr(torchvision.models, architecture)(weights=None)
    missing, unexpected = other.load_state_dict(encoder.state_dict(), strict=False)
    assert sorted(missing) == ["fc.bias", "fc.weight"]
    assert unexpected == []
    other.fc = torch.nn.Identity()
    views = torch.randn(2, 3, 65, 64, generator=generator(1))
    torch.testing.assert_close(encoder(views), other(views))  # batch statistics
    torch.testing.assert_close(encoder.eval()(views), other.eval()(views))  # running ones
    encoder.load_state_dict({k: v for k, v in other.state_dict().items() if k[:2] != "fc"})


def test_weights_are_a_truncated_normal_over_the_fan_in():
    encoder = make_encoder(ResNetConfig(architecture="resnet18"), generator())
    weight = encoder.layer4[0].conv2.weight
    sigma = (512 * 9) ** -0.5
    assert weight.abs().max() <= 2 * sigma
    assert weight.abs().max() > 1.99 * sigma
    # variance of a normal cut at two sigma: 1 - 4 phi(2) / (2 Phi(2) - 1)
    assert weight.std().item() == pytest.approx(0.8796 * sigma, rel=0.005)


def test_weights_depend_on_the_generator_alone():
    config = ResNetConfig(architecture="resnet18", width=0.25)
    before = torch.get_rng_state()
    first, same, other = (make_encoder(config, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.conv1.weight, same.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_zero_init_makes_blocks_start_as_their_shortcut(architecture):
    config = ResNetConfig(architecture=architecture, width=0.25, zero_init_last_bn=True)
    block = make_encoder(config, generator()).layer1[1]
    x = torch.rand(2, 16 * config.expansion, 5, 5)
    assert torch.equal(block(x), x)


def explicit_same(x, kernel, stride, value):
    """TensorFlow's SAME written with a canvas: the window of output 0 starts at -before."""
    height, width = x.shape[-2:]
    needed = [max((-(-n // stride) - 1) * stride + kernel, n) for n in (height, width)]
    canvas = np.full((*x.shape[:2], *needed), value, np.float32)
    top, left = (needed[0] - height) // 2, (needed[1] - width) // 2
    canvas[..., top : top + height, left : left + width] = x
    return torch.from_numpy(canvas)


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kernel=st.sampled_from([1, 3, 7]),
    stride=st.sampled_from([1, 2]),
)
@settings(deadline=None, max_examples=60)
def test_same_padding_is_tensorflows(height, width, kernel, stride):
    x = torch.randn(1, 2, height, width)
    padded = pad_same(x, kernel, stride, value=-1.0)
    assert torch.equal(padded, explicit_same(x.numpy(), kernel, stride, -1.0))
    outputs = F.max_pool2d(padded, kernel, stride).shape[-2:]
    assert tuple(outputs) == (-(-height // stride), -(-width // stride))


def test_same_padding_of_the_imagenet_sizes_is_the_known_one():
    def top_left(kernel, size):
        marked = pad_same(torch.ones(1, 1, size, size), kernel, 2, value=0.0)
        before = int(marked[0, 0, :, size // 2].argmax())
        return before, marked.shape[-2] - size - before

    assert top_left(7, 224) == (2, 3)
    assert top_left(3, 112) == (0, 1)
    assert top_left(3, 7) == (1, 1)


def test_paddings_agree_where_nothing_strides_over_an_edge_unevenly():
    # odd at every stride: 33 -> 17 -> 9 -> 5 -> 3 -> 2; the two rules pad alike down to 3
    same, symmetric = (
        make_encoder(
            ResNetConfig(architecture="resnet18", width=0.25, padding=padding), generator()
        )
        for padding in ("same", "symmetric")
    )
    odd = torch.randn(2, 3, 33, 33, generator=generator(1))
    torch.testing.assert_close(same.eval()(odd), symmetric.eval()(odd))
    even = torch.randn(2, 3, 32, 32, generator=generator(1))
    assert not torch.allclose(same(even), symmetric(even), atol=1e-2)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("stem", "side"), [("imagenet", 2), ("small", 8)])
def test_small_stem_keeps_the_resolution(padding, stem, side):
    config = ResNetConfig(architecture="resnet18", width=0.25, stem=stem, padding=padding)
    encoder = make_encoder(config, generator())
    assert encoder.feature_map(torch.randn(2, 3, 64, 64)).shape == (2, 128, side, side)


def test_channels_last_gives_the_same_features_and_stays():
    config = ResNetConfig(architecture="resnet18", width=0.25, padding="same")
    encoder = make_encoder(config, generator()).eval()
    views = torch.randn(2, 3, 32, 32, generator=generator(1))
    expected = encoder(views)
    encoder = encoder.to(memory_format=torch.channels_last)
    views = views.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(encoder(views), expected, rtol=1e-4, atol=1e-5)
    features = encoder.layer1(encoder.conv1(views))
    assert features.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"architecture": "resnet51"}, "resnet51.*resnet18"),
        ({"stem": "large"}, "stem 'large'"),
        ({"padding": "valid"}, "padding 'valid'"),
        ({"width": 0.0}, "width.*got 0"),
        ({"width": 0.3}, "width.*got 0.3"),
    ],
)
def test_bad_settings_are_named(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        ResNetConfig(**settings)
