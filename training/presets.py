"""Named configurations. The docstring of each is its label: source, command, what to expect.

Figures marked "not measured" have not been measured by this project.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

from model.lars import OptimizerConfig
from model.loss import LossConfig
from model.relicv2 import ReLICv2Config
from model.resnet import ResNetConfig
from pipeline.augment.recipe import LARGE_EVEN, LARGE_ODD, SMALL, MultiCropRecipe
from training import DEFAULT_PRESET, PRESET_NAMES
from training.config import TrainConfig, merged


def imagenet_rn50() -> TrainConfig:
    """ReLICv2's setting: ResNet-50, 4x224 + 2x96 views, batch 4096, 1000 epochs of ImageNet.

    Source: the paper's abstract and pseudo-code, BYOL's code for the rest; values of low confidence
    are listed in docs/provenance.md. Command: `python train.py --data imagenet --out runs/rn50
    --gpus 8 --preset imagenet-rn50`. The paper reports 77.1 % linear top-1; not measured here.
    """
    return TrainConfig(
        name="imagenet-rn50",
        optimizer=OptimizerConfig(weight_decay=1.5e-6),
    )


def imagenet_rn50_300() -> TrainConfig:
    """The same for 300 epochs: BYOL's learning rate 0.3, weight decay 1e-6, target decay 0.99.

    Command: as imagenet-rn50, with `--preset imagenet-rn50-300`. Not measured.
    """
    return replace(
        imagenet_rn50(),
        name="imagenet-rn50-300",
        epochs=300,
        target_decay=0.99,
        optimizer=OptimizerConfig(base_learning_rate=0.3, weight_decay=1e-6),
    )


def imagenet_rn50_100() -> TrainConfig:
    """The same for 100 epochs: BYOL's learning rate 0.45, weight decay 1e-6, target decay 0.99.

    Command: as imagenet-rn50, with `--preset imagenet-rn50-100`. Not measured.
    """
    return replace(
        imagenet_rn50_300(),
        name="imagenet-rn50-100",
        epochs=100,
        optimizer=OptimizerConfig(base_learning_rate=0.45, weight_decay=1e-6),
    )


def imagenet_rn50_40() -> TrainConfig:
    """The same for 40 epochs, to try things: BYOL's learning rate 0.45, target decay 0.97.

    Command: as imagenet-rn50, with `--preset imagenet-rn50-40`. Not measured.
    """
    return replace(imagenet_rn50_100(), name="imagenet-rn50-40", epochs=40, target_decay=0.97)


def small_images() -> TrainConfig:
    """Images of 96 to 160 pixels, one small GPU or a patient CPU: ResNet-18, 2x96 + 2x48 views.

    Source: ours; schedule constants from BYOL's short runs. Command: `python train.py --data
    imagenette --out runs/small --preset small-images`. Not measured to its end; a shorter run on
    smaller views stands in docs/log.md.
    """
    area = (0.2, 1.0)
    return TrainConfig(
        name="small-images",
        recipe=MultiCropRecipe(
            num_large=2,
            num_small=2,
            large_size=96,
            small_size=48,
            large_even=replace(LARGE_EVEN, blur_probability=0.5, area=area),
            large_odd=replace(LARGE_ODD, area=area),
            small=replace(SMALL, area=(0.05, 0.2)),
        ),
        model=ReLICv2Config(
            encoder=ResNetConfig(architecture="resnet18"), hidden_size=1024, embedding_size=128
        ),
        loss=LossConfig(num_negatives=50, negatives="global"),  # the same in 1 to 8 processes
        optimizer=OptimizerConfig(
            name="adamw", base_learning_rate=1e-3, weight_decay=1e-4, warmup_epochs=2
        ),
        epochs=100,
        global_batch_size=128,
        target_decay=0.99,
        checkpoint_every=200,
        monitor_every=5,
    )


def demo() -> TrainConfig:
    """What `make demo` trains: the generated pictures, a narrow ResNet-18, minutes on two cores.

    Source: ours, chosen on the demo pictures: a target that moves fast and starts as a copy, since
    there are 500 steps, not 300,000; half of the large views masked. Command: `make demo`.
    Figures: docs/log.md.
    """
    area = (0.5, 1.0)
    return replace(
        small_images(),
        name="demo",
        recipe=MultiCropRecipe(
            num_large=4,
            num_small=2,
            large_size=48,
            small_size=32,
            large_even=replace(LARGE_EVEN, blur_probability=0.5, area=area, mask_probability=0.5),
            large_odd=replace(LARGE_ODD, area=area, mask_probability=0.5),
            small=replace(SMALL, area=(0.1, 0.4)),
        ),
        model=ReLICv2Config(
            encoder=ResNetConfig(architecture="resnet18", width=0.5),
            hidden_size=512,
            embedding_size=64,
            target_init="copy",
        ),
        loss=LossConfig(temperature=0.1, num_negatives=50, negatives="global"),
        optimizer=OptimizerConfig(
            name="adamw", base_learning_rate=4e-3, weight_decay=1e-4, warmup_epochs=1
        ),
        epochs=8,
        global_batch_size=64,
        target_decay=0.9,
        log_every=5,
        checkpoint_every=100,
        monitor_every=2,
    )


PRESETS = dict(
    zip(
        PRESET_NAMES,
        (
            *(imagenet_rn50, imagenet_rn50_300, imagenet_rn50_100, imagenet_rn50_40),
            *(small_images, demo),
        ),
        strict=True,
    )
)


def load_preset(name: str) -> TrainConfig:
    """Return a named preset, or one read from a TOML file.

    A TOML file may name the preset it starts from as `base`; tables follow the config's fields:
    `base = "imagenet-rn50"`, `epochs = 200`, `[loss]`, `temperature = 0.1`.

    Raises:
        ValueError: unknown name, unreadable file, unknown or ill-typed settings in it.
    """
    if name in PRESETS:
        return PRESETS[name]()
    if not name.endswith(".toml"):
        raise ValueError(
            f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}, or give a .toml file"
        )
    try:
        values = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(
            f"cannot read preset {name}: {error}; presets are {', '.join(PRESETS)}, or a .toml file"
        ) from error
    base = values.pop("base", DEFAULT_PRESET)
    if not isinstance(base, str) or base not in PRESETS:
        raise ValueError(f"{name}: unknown base {base!r}; choose one of {', '.join(PRESETS)}")
    return merged(replace(PRESETS[base](), name=Path(name).stem), values)
