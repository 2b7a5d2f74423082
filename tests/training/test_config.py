"""Configuration: every setting has a path, a type and a message when it is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from training.config import (
    FREE_TO_CHANGE,
    TrainConfig,
    apply_settings,
    differences,
    flattened,
    from_dict,
    merged,
    to_dict,
)
from training.presets import PRESETS, load_preset

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name):
    config = load_preset(name)
    assert config.name == name
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_a_label(name):
    label = PRESETS[name].__doc__
    assert "ommand: " in label
    assert "easured" in label or "docs/log.md" in label


def test_settings_are_parsed_by_type():
    config = apply_settings(
        TrainConfig(),
        [
            "loss.temperature=0.1",
            "recipe.large_even.area=0.14,1",
            "model.predictor=false",
            "loader.decoder=turbojpeg",
            "epochs=7",
            "recipe.mask_color=(0.5, 0.5, 0.5)",
            "gpu_decode_share=0.25",
            "hw_decoder_load=AUTO",
        ],
    )
    assert config.loss.temperature == 0.1
    assert config.recipe.large_even.area == (0.14, 1.0)
    assert config.model.predictor is False
    assert config.loader.decoder == "turbojpeg"
    assert config.epochs == 7
    assert config.recipe.mask_color == (0.5, 0.5, 0.5)
    assert config.recipe.large_odd == TrainConfig().recipe.large_odd
    assert (config.loader.gpu_decode_share, config.loader.hw_decoder_load) == (0.25, "auto")
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_later_settings_win():
    assert apply_settings(TrainConfig(), ["epochs=7", "epochs=9"]).epochs == 9


def test_a_name_that_occurs_once_stands_for_its_path():
    config = apply_settings(TrainConfig(), ["executor=compiled", "temperature=0.2", "epochs=3"])
    assert config.loader.executor == "compiled"
    assert config.loss.temperature == 0.2
    assert config.epochs == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hue=0.2", "'hue' is one of several: recipe.large_even.hue, recipe.large_odd.hue, rec"),
        ("epochs", "--set takes path=value, got 'epochs'"),
        ("epoch=3", "unknown setting 'epoch'; did you mean epochs\\? valid here: name, recipe"),
        ("loss.temp=3", "unknown setting 'loss.temp'; .*valid here: temperature"),
        ("loss=3", "loss holds settings of its own: loss.temperature"),
        ("epochs.x=3", "epochs has no settings of its own"),
        ("epochs=many", "epochs takes a whole number, got 'many'"),
        ("loss.temperature=hot", "loss.temperature takes a number, got 'hot'"),
        ("model.predictor=yes", "model.predictor takes true or false, got 'yes'"),
        ("recipe.small.area=0.1", "recipe.small.area takes 2 values separated by commas"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("seed=-1", "seed must lie in"),
        ("window_gigabytes=-1", "order.window_gigabytes must not be negative, got -1.0"),
        ("block_megabytes=0", "order.block_megabytes must be above zero, got 0.0"),
        ("milestone_every=-1", "milestone_every must not be negative, got -1"),
        ("precision=float8", "unknown precision 'float8'"),
        ("gpu_decode_share=half", "gpu_decode_share takes a number or auto, got 'half'"),
        ("hw_decoder_load=2", "hw_decoder_load must lie in 0..1 or be auto, got 2.0"),
        ("decoder=nvjpeg", "unknown decoder 'nvjpeg'; choose one of auto, .*, dali-gpu"),
        ("recipe.small.hue=-1", "hue must not be negative"),
        ("model.encoder.architecture=vgg", "unknown architecture 'vgg'"),
    ],
)
def test_wrong_settings_say_what_to_do(setting, message):
    with pytest.raises(ValueError, match=message):
        apply_settings(TrainConfig(), [setting])


def test_a_toml_file_is_laid_over_its_base(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "small-images"\nepochs = 3\n[loss]\ntemperature = 1\n'
        "[recipe]\nnum_large = 3\n[recipe.small]\narea = [0.1, 0.2]\n"
    )
    config = load_preset(str(path))
    base = load_preset("small-images")
    assert config.name == "mine"
    assert config.epochs == 3
    assert config.loss == replace(base.loss, temperature=1.0)
    assert config.recipe.small.area == (0.1, 0.2)
    assert config.optimizer == base.optimizer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "cannot read preset"),
        ('base = "other"', "unknown base 'other'"),
        ("speed = 3", "unknown setting 'speed'"),
        ("loss = 3", "loss holds settings of its own, got 3"),
        ('epochs = "3"', "epochs takes a whole number, got '3'"),
        ("[recipe]\nmean = [0.5]", r"recipe.mean takes 3 values, got \[0.5\]"),
        ("[recipe]\nstd = []", r"recipe.std takes 3 values"),
        ("[loss]\ntemperature = nan", "loss.temperature takes a finite number"),
        ('base = ["demo"]', "unknown base"),
        ("epochs = true", "epochs takes a whole number, got True"),
        ('[loader]\ngpu_decode_share = "half"', "takes a number or auto, got 'half'"),
    ],
)
def test_wrong_toml_files_say_what_to_do(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_preset(str(path))


def test_unknown_presets_list_the_known():
    with pytest.raises(ValueError, match="unknown preset 'imagenet'; choose one of imagenet-rn50"):
        load_preset("imagenet")
    with pytest.raises(ValueError, match=r"cannot read preset missing\.toml"):
        load_preset("missing.toml")


def test_only_what_changes_the_result_counts_as_a_difference():
    config = TrainConfig()
    assert differences(config, apply_settings(config, ["loader.threads=3", "log_every=1"])) == []
    assert differences(config, apply_settings(config, ["seed=3"])) == ["seed was 0, is 3"]
    assert differences(config, apply_settings(config, ["window_gigabytes=32"])) == [
        "order.window_gigabytes was 0.0, is 32.0"
    ]
    assert differences(config, merged(config, {"loss": {"temperature": 0.5}})) == [
        f"loss.temperature was {config.loss.temperature}, is 0.5"
    ]


def test_free_settings_exist():
    paths = {path for path, _ in flattened(TrainConfig())}
    assert set(FREE_TO_CHANGE) <= paths


def test_every_setting_is_in_the_provenance_table():
    text = (ROOT / "docs" / "provenance.md").read_text(encoding="utf-8")
    missing = []
    for path, _ in flattened(TrainConfig()):
        name = path.rsplit(".", 1)[-1]
        if not path.startswith("loader.") and f"{name}`" not in text:
            missing.append(path)
    assert missing == []
