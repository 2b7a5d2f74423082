import numpy as np
import pytest
import torch

from model.official import convert_haiku
from model.resnet import ResNetConfig, make_encoder


def make_trained_encoder(architecture):
    config = ResNetConfig(architecture=architecture, width=0.125, padding="same")
    encoder = make_encoder(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if value.ndim == 1:  # so that no two norms are alike
                value.copy_(torch.rand(value.shape) + ("running_mean" in name))
    return encoder.eval()


def haiku_module(name, network):
    """The inverse of the mapping, written from the specification's table."""
    layer, *rest = name.split(".")
    if layer in ("conv1", "bn1"):
        return f"{network}/~/initial_{'conv' if layer == 'conv1' else 'batchnorm'}"
    block, part, *place = rest
    if part == "downsample":
        own = "shortcut_conv" if place[0] == "0" else "shortcut_batchnorm"
    else:
        own = f"{'conv' if part[:4] == 'conv' else 'batchnorm'}_{int(part[-1]) - 1}"
    return f"{network}/~/block_group_{int(layer[5:]) - 1}/~/block_{block}/~/{own}"


def as_haiku(encoder, network, *, device_axis=True):
    """Params and state as haiku nests them: HWIO kernels, [1, 1, 1, C] norms, counters."""
    params, state = {}, {}

    def on_devices(array):
        return np.stack([array, array + 1]) if device_axis else array

    for name, value in encoder.state_dict().items():
        array, (module, _, leaf) = value.numpy(), name.rpartition(".")
        module = haiku_module(module, network)
        if array.ndim == 4:
            params[module] = {"w": on_devices(array.transpose(2, 3, 1, 0))}
        elif leaf in ("weight", "bias"):
            own = {"weight": "scale", "bias": "offset"}[leaf]
            params.setdefault(module, {})[own] = on_devices(array.reshape(1, 1, 1, -1))
        elif leaf in ("running_mean", "running_var"):
            average = on_devices(array.reshape(1, 1, 1, -1))
            state[f"{module}/~/{leaf[8:]}_ema"] = {
                "counter": on_devices(np.array(7)),
                "hidden": average / 2,  # before the debiasing
                "average": average,
            }
    params["mlp/~/linear"] = {"w": on_devices(np.zeros((4, 5))), "b": on_devices(np.zeros(5))}
    state["mlp/~/batch_norm/~/mean_ema"] = {"average": on_devices(np.zeros((1, 5)))}
    return params, state


@pytest.mark.parametrize("device_axis", [True, False])
@pytest.mark.parametrize(
    ("architecture", "network"),
    [("resnet18", "res_net18"), ("resnet50", "res_net50"), ("resnet34", "online/~/res_net34")],
)
def test_conversion_inverts_the_haiku_layout(architecture, network, device_axis):
    encoder = make_trained_encoder(architecture)
    converted = convert_haiku(*as_haiku(encoder, network, device_axis=device_axis))
    expected = encoder.state_dict()
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], value) for name, value in expected.items())
    other = make_encoder(encoder.config).eval()
    other.load_state_dict(converted)
    views = torch.randn(1, 3, 32, 32)
    assert torch.equal(other(views), encoder(views))


def test_numbered_stem_of_byols_files_is_found():
    encoder = make_trained_encoder("resnet18")
    params, state = as_haiku(encoder, "res_net18")
    params["res_net18/~/initial_conv_1"] = params.pop("res_net18/~/initial_conv")
    assert torch.equal(convert_haiku(params, state)["conv1.weight"], encoder.conv1.weight)


def test_tree_without_a_resnet_is_refused():
    with pytest.raises(ValueError, match=r"0 ResNets in the haiku tree.*mlp/~/linear"):
        convert_haiku({"mlp/~/linear": {"w": np.zeros((4, 5))}}, {})


def test_tree_with_two_resnets_is_refused():
    encoder = make_trained_encoder("resnet18")
    online, target = (as_haiku(encoder, f"{name}/~/res_net18") for name in ("online", "target"))
    with pytest.raises(ValueError, match="2 ResNets in the haiku tree"):
        convert_haiku(online[0] | target[0], online[1] | target[1])
