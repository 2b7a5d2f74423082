"""What `train.py --plan` counts, against known figures and a real forward."""

from dataclasses import replace

import pytest
import torch

from model.relicv2 import ReLICv2
from training.config import apply_settings
from training.forecast.memory import _kept_bytes, step_memory
from training.forecast.operations import (
    count_parameters,
    forward_operations,
    operations_per_image,
)
from training.presets import demo, imagenet_rn50


def test_parameters_are_those_of_the_literature():
    found = count_parameters(imagenet_rn50())
    assert found["encoder"] == 23_508_032  # torchvision's ResNet-50 without its classifier
    # 2048 -> 4096 with BatchNorm -> 256, and 256 -> 4096 -> 256
    assert found["target"] == found["encoder"] + found["projector"]
    assert found["projector"] == pytest.approx(2048 * 4096 + 4096 * 256, rel=0.002)
    assert found["predictor"] == pytest.approx(2 * 256 * 4096, rel=0.01)


def test_operations_are_those_of_the_literature():
    # 17.9 GMAC forward of four 224s and two 96s, three times, and 16.4 of the target: about 70
    assert operations_per_image(imagenet_rn50()) / 2e9 == pytest.approx(70, rel=0.03)
    (forward,) = forward_operations(imagenet_rn50().model.encoder, 224)
    assert forward / 2e9 == pytest.approx(4.09, rel=0.01)


def test_memory_of_the_step_counts_what_is_there():
    config = demo()
    found = step_memory(config, batch=64, half=False)
    assert found["gradients"] * 2 == found["optimizer"]  # AdamW keeps two numbers of each
    assert found["weights"] > found["gradients"]  # the target has weights and no gradients
    twice = step_memory(config, batch=128, half=False)
    assert twice["activations of one view"] == 2 * found["activations of one view"]
    large = replace(config, recipe=replace(config.recipe, large_size=96))
    grown = step_memory(large, batch=64, half=False)["activations of one view"]
    assert grown == pytest.approx(4 * found["activations of one view"], rel=0.1)


def test_parts_of_a_batch_share_its_activations_and_coupled_views_add_them_up():
    config = demo()
    one = step_memory(config, batch=64, half=False)["activations of one view"]
    parts = step_memory(replace(config, accumulate=4), batch=64, half=False)
    assert parts["activations of one view"] == one / 4
    coupled = apply_settings(config, ["loss.kl_form=swap_views"])
    every = step_memory(coupled, batch=64, half=False)["activations of all views"]
    small = (32 / 48) ** 2  # the area of a small view
    assert every == pytest.approx((4 + 2 * small) * one, rel=0.05)


def test_kept_activations_are_those_of_a_real_forward():
    config = apply_settings(demo(), ["model.encoder.width=0.25"])
    with torch.device("meta"):
        counted = _kept_bytes(ReLICv2(config.model), 48)
    model = ReLICv2(config.model).train()
    own = {each.untyped_storage().data_ptr() for each in model.state_dict().values()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model.embed_online(torch.randn(4, 3, 48, 48))
    assert counted == sum(kept.values()) / 4
    assert out.requires_grad
