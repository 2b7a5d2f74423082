"""Where networks start: random weights, or an encoder that train.py exported."""

import pytest
import torch

from model.checkpoint import export_encoder
from model.relicv2 import ReLICv2, ReLICv2Config
from model.resnet import ResNetConfig, make_encoder
from pipeline.saliency.refine.initial import fitted, fresh_network, read_encoder
from pipeline.saliency.refine.network import NetworkConfig
from pipeline.saliency.refine.resnet import ARCHITECTURES, DilatedResNet

SMALL = NetworkConfig(architecture="resnet18", width=0.25, size=64)


@pytest.fixture
def exported(tmp_path):
    def export(**settings):
        config = ResNetConfig(**{"architecture": "resnet18", "width": 0.25} | settings)
        path = tmp_path / "encoder.pt"
        export_encoder(path, ReLICv2(ReLICv2Config(encoder=config)))
        return path

    return export


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_trunk_takes_the_weights_of_the_encoder_and_computes_the_same(architecture):
    """With dilations taken out and strides put back it is the encoder itself."""
    encoder = make_encoder(ResNetConfig(architecture=architecture, width=0.125)).eval()
    trunk = DilatedResNet(architecture, 0.125).eval()
    trunk.load_state_dict(encoder.state_dict())
    views = torch.rand(2, 3, 64, 64)
    assert trunk(views).shape == (2, trunk.feature_dim, 8, 8)
    for group in (trunk.layer3, trunk.layer4):
        for part in group.modules():
            if isinstance(part, torch.nn.Conv2d) and part.kernel_size == (3, 3):
                part.dilation = part.padding = (1, 1)
        first = group[0]
        striding = first.conv2 if hasattr(first, "conv3") else first.conv1
        striding.stride = first.downsample[0].stride = (2, 2)
    torch.testing.assert_close(trunk(views), encoder.feature_map(views))


def test_an_exported_encoder_becomes_the_trunk(exported):
    path = exported()
    encoder = read_encoder(path)
    config = fitted(NetworkConfig(size=64), encoder)
    assert (config.architecture, config.width, config.size) == ("resnet18", 0.25, 64)
    network = fresh_network(config, encoder, 0, "a")
    weights = torch.load(path, weights_only=True)
    assert weights
    for name, value in network.trunk.state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"architecture": "resnet200", "width": 1 / 64}, "is a resnet200"),
        ({"stem": "small"}, "has stem 'small'"),
        ({"padding": "same"}, "has padding 'same'"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_in_one_line(exported, settings, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read_encoder(exported(**settings))
    assert "\n" not in str(caught.value)


def test_weights_of_another_width_than_stated_are_refused(exported):
    path = exported()
    beside = path.with_suffix(".json")
    beside.write_text(beside.read_text().replace("0.25", "0.5"))
    with pytest.raises(ValueError, match=r"conv1.weight is \(16, 3, 7, 7\) there, \(32, 3, 7, 7\)"):
        read_encoder(path)


def test_an_encoder_of_an_older_version_is_read(exported):
    path = exported()
    new = read_encoder(path)
    config = {"architecture": new.architecture, "width": new.width}
    torch.save({"format": 1, "config": config, "state_dict": dict(new.weights)}, path)
    path.with_suffix(".json").unlink()
    old = read_encoder(path)
    assert (old.architecture, old.width) == ("resnet18", 0.25)
    assert torch.equal(old.weights["conv1.weight"], new.weights["conv1.weight"])


def test_weights_without_their_json_are_refused(exported):
    path = exported()
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"encoder\.json: cannot be read"):
        read_encoder(path)


def test_what_is_no_encoder_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    for name in ("other.pt", "broken.pt", "missing.pt"):
        with pytest.raises(ValueError, match=name):
            read_encoder(tmp_path / name)


def test_random_weights_are_a_function_of_the_words():
    one, again, other = (fresh_network(SMALL, None, 0, word) for word in ("a", "a", "b"))
    for mine, same in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, same)
    assert not torch.equal(one.trunk.conv1.weight, other.trunk.conv1.weight)


def test_predictions_are_probabilities_of_the_pictures_size():
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    prediction = fresh_network(SMALL, None, 0, "a")(pictures).detach()
    assert prediction.shape == (2, 64, 64)
    assert 0 < float(prediction.min()) < float(prediction.max()) < 1
