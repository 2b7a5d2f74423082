"""Parts of the planner: the model of stages and resources, figures, demand, the network."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from bench.plan.capacity import Machine, cores_needed, predict
from bench.plan.costs import (
    CORES,
    DISK,
    GPU,
    HERE,
    LINK,
    Cost,
    Work,
    find_figures,
    keep_figures,
)
from bench.plan.demand import derived_demand
from bench.plan.network import examine, step_gigamacs
from model.relicv2 import ReLICv2, ReLICv2Config
from model.resnet import ResNetConfig
from pipeline.augment.recipe import MultiCropRecipe
from training.config import TrainConfig
from training.presets import load_preset

WORK = Work(stored_bytes=1e5, megapixels=0.2, view_megapixels=0.2, upload_bytes=6e5, gigamacs=70.0)


def costs(**seconds):
    """Of a training on GPUs, views made there, unless told otherwise."""
    resources = {"disk": DISK, "read": CORES, "decode": CORES, "upload": LINK, "augment": GPU}
    return {
        name: Cost(resource=resources.get(name, GPU), seconds=each, source=HERE)
        for name, each in seconds.items()
    }


def machine(gpu="H200", gpus=8, cores=64, threads=0):
    return Machine(gpu=gpu, gpus=gpus, cores=cores, memory_bytes=1e12, threads=threads)


def test_each_stage_alone_has_all_of_its_resource():
    found = predict(
        costs(disk=1e-4, read=1e-4, decode=1e-3, upload=5e-5, augment=1e-4, step=2e-3), machine()
    )
    assert found.stages == pytest.approx(
        {
            "disk": 10_000,
            "read": 80_000,  # one thread in each of 8 processes
            "decode": 64_000,
            "upload": 160_000,
            "augment": 80_000,
            "step": 4_000,
        }
    )


def test_stages_of_one_resource_take_turns_and_resources_work_beside_each_other():
    found = predict(costs(read=1e-4, decode=9e-4, augment=5e-4, step=1.5e-3), machine(gpus=4))
    assert found.resources == pytest.approx({CORES: 64_000, GPU: 2_000})
    assert found.host == pytest.approx(40_000)  # four threads read
    assert found.feeding == pytest.approx(8_000)
    assert found.training == pytest.approx(2_000)
    assert (found.bottleneck, found.resource) == ("step", GPU)


def test_the_first_bottleneck_is_named():
    slow_disk = predict(costs(disk=1e-3, read=1e-5, decode=1e-3, step=1e-3), machine())
    assert (slow_disk.bottleneck, slow_disk.resource) == ("disk", DISK)
    few_cores = predict(costs(read=1e-5, decode=1e-3, augment=1e-5, step=1e-3), machine(cores=2))
    assert (few_cores.bottleneck, few_cores.resource) == ("decode", CORES)
    assert few_cores.training == pytest.approx(2 / 1.01e-3)


def test_on_a_cpu_the_model_shares_the_cores():
    on_cores = {
        name: Cost(resource=CORES, seconds=each, source=HERE)
        for name, each in {"read": 1e-5, "decode": 1e-3, "augment": 2e-3, "step": 7e-3}.items()
    }
    found = predict(on_cores, machine(gpu="cpu", gpus=1, cores=2))
    assert found.feeding == found.host == pytest.approx(2 / 3.01e-3)
    assert found.training == pytest.approx(2 / 10.01e-3)
    assert (found.bottleneck, found.resource) == ("step", CORES)


def test_a_team_of_threads_uses_no_more_cores_than_it_has_threads():
    found = predict(costs(decode=1e-3, step=1e-5), machine(gpus=2, threads=3))
    assert found.stages["decode"] == pytest.approx(6_000)
    assert found.training == pytest.approx(6_000)


def test_what_is_not_known_of_the_gpu_leaves_the_host_planned():
    unknown = costs(read=1e-5, decode=1e-3, upload=None, augment=None, step=None)
    found = predict(unknown, machine())
    assert found.host == pytest.approx(64 / 1.01e-3)
    assert (found.feeding, found.training, found.bottleneck) == (None, None, None)
    assert found.stages["step"] is None
    assert cores_needed(unknown, 6_400) == pytest.approx(6.464)


def planned(name="NVIDIA H200", date="2026-01-01", source=HERE, **seconds):
    return {
        "costs": {
            stage: asdict(cost) | {"source": source} for stage, cost in costs(**seconds).items()
        },
        "work": asdict(WORK),
        "machine": {"gpu": "H200"},
        "environment": {"gpu": {"name": name}, "date": date},
    }


def test_figures_of_a_gpu_are_kept_found_and_scaled(tmp_path):
    assert find_figures("H200", tmp_path) is None
    keep_figures(tmp_path / "old.json", planned(read=1e-5, upload=1e-4, augment=2e-5, step=2e-3))
    keep_figures(
        tmp_path / "new.json",
        planned(date="2026-02-01", read=1e-5, upload=1e-4, augment=1e-5, step=1e-3),
    )
    keep_figures(tmp_path / "other.json", planned("NVIDIA A100", step=9e-3))
    found = find_figures("h200", tmp_path)
    assert found.gpu == "NVIDIA H200"
    assert set(found.seconds) == {"upload", "augment", "step"}  # what is the GPU's
    twice = replace(WORK, view_megapixels=0.4, gigamacs=35.0, upload_bytes=3e5)
    assert found.of("augment", twice) == pytest.approx(2e-5)
    assert found.of("step", twice) == pytest.approx(5e-4)
    assert found.of("upload", twice) == pytest.approx(5e-5)
    assert find_figures("A100", tmp_path).of("augment", WORK) is None
    assert find_figures("B200", tmp_path) is None


def test_only_a_gpu_that_was_measured_here_is_kept(tmp_path):
    with pytest.raises(ValueError, match="there is no H200 on this machine"):
        keep_figures(tmp_path / "x.json", planned(source="unknown", step=None))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_no_figures_is_named(tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps({"gpu": "NVIDIA H200"}))
    with pytest.raises(ValueError, match=r"bad\.json: not figures of a GPU"):
        find_figures("H200", tmp_path)


def test_the_derived_demand_is_that_of_the_paper_scaled_by_work():
    assert derived_demand("A100", 70.0) == pytest.approx((430, 430))
    assert derived_demand("H200", 140.0) == pytest.approx((275, 400))
    assert derived_demand("RTX 9999", 70.0) is None


def test_resnet50_with_six_views_has_70_gigamacs():
    assert step_gigamacs(load_preset("imagenet-rn50")) == pytest.approx(70, rel=0.02)


def small(optimizer="lars", **loss):
    config = TrainConfig(
        recipe=MultiCropRecipe(num_large=2, num_small=1, large_size=32, small_size=16),
        model=ReLICv2Config(
            encoder=ResNetConfig(architecture="resnet18", width=0.125),
            hidden_size=16,
            embedding_size=8,
        ),
    )
    return replace(
        config,
        optimizer=replace(config.optimizer, name=optimizer),
        loss=replace(config.loss, **loss),
    )


def test_weights_count_with_gradients_optimizer_and_target():
    lars, adamw = (examine(small(name), bfloat16=False) for name in ("lars", "adamw"))
    model = ReLICv2(small().model)
    online = sum(p.numel() for p in model.online.parameters())
    every = sum(t.numel() for t in (*model.parameters(), *model.buffers()))
    assert lars.weight_bytes == 4 * (every + 2 * online)
    assert adamw.weight_bytes == 4 * (every + 3 * online)


def test_activations_are_those_of_one_view_unless_all_are_kept():
    one = examine(small(), bfloat16=False)
    every = examine(small(kl_form="swap_views"), bfloat16=False)
    assert every.saved_bytes_per_image == pytest.approx(3 * one.saved_bytes_per_image)
    half = examine(small(), bfloat16=True)
    assert 0.3 < half.saved_bytes_per_image / one.saved_bytes_per_image < 0.8


def test_activations_are_what_autograd_keeps():
    network = examine(small(), bfloat16=False)
    first = torch.zeros(1, 3, 32, 32).nbytes  # the input of the first convolution alone
    assert network.saved_bytes_per_image > 3 * first
    larger = replace(small(), recipe=replace(small().recipe, large_size=64))
    ratio = examine(larger, bfloat16=False).saved_bytes_per_image / network.saved_bytes_per_image
    assert ratio == pytest.approx(4, rel=0.05)
