"""Configuration: every setting has a path, a type and a message when it is wrong."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from training.config import (
    FREE_TO_CHANGE,
    TrainConfig,
    apply_settings,
    differences,
    doubts,
    flattened,
    from_dict,
    merged,
    to_dict,
)
from training.presets import PRESETS, load_preset
from training.settings_list import (
    SOURCES,
    listed_settings,
    meanings,
    settings_text,
    shown,
)

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


def test_an_end_of_a_path_that_occurs_once_stands_for_it():
    config = apply_settings(
        TrainConfig(),
        [
            *("executor=compiled", "temperature=0.2", "epochs=3", "encoder.width=0.5"),
            *("large_even.blur_probability=0.2", "name=mine"),
        ],
    )
    assert config.model.encoder.width == 0.5
    assert config.recipe.large_even.blur_probability == 0.2
    assert config.recipe.large_odd == TrainConfig().recipe.large_odd
    assert (config.name, config.optimizer.name) == ("mine", "lars")
    assert config.loader.executor == "compiled"
    assert config.loss.temperature == 0.2
    assert config.epochs == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hue=0.2", "'hue' is one of several: recipe.large_even.hue, recipe.large_odd.hue, rec"),
        ("epochs", "--set takes name=value, got 'epochs'; train.py --settings lists them all"),
        ("epoch=3", "unknown setting 'epoch'; did you mean epochs\\? train.py --settings lists"),
        ("loss.temp=3", "unknown setting 'loss.temp'; .*valid here: temperature"),
        ("loss=3", "loss holds settings of its own: loss.temperature"),
        ("epochs.x=3", "unknown setting 'epochs.x'; did you mean epochs"),
        ("epochs=many", "epochs takes a whole number, got 'many'"),
        ("loss.temperature=hot", "loss.temperature takes a number, got 'hot'"),
        ("model.predictor=yes", "model.predictor takes true or false, got 'yes'"),
        ("recipe.small.area=0.1", "recipe.small.area takes 2 values separated by commas"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("seed=-1", "seed must lie in"),
        ("window_gigabytes=-1", "order.window_gigabytes must not be negative, got -1.0"),
        ("block_megabytes=0", "order.block_megabytes must be above zero, got 0.0"),
        ("milestone_every=-1", "milestone_every must not be negative, got -1"),
        ("precision=float8", "unknown precision 'float8'; choose one of auto"),
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


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("lr", "optimizer.base_learning_rate"),
        ("learning_rate", "optimizer.base_learning_rate"),
        ("batch", "global_batch_size"),
        ("bs", "global_batch_size"),
        ("temperatur", "loss.temperature"),
        ("tau", "loss.temperature or target_decay"),
        ("loss.tau", "loss.temperature or target_decay"),
        ("num-workers", "loader.threads"),
        ("encoder.widht", "model.encoder.width"),
        ("Epoch", "epochs"),
        ("small.blur", "recipe.small.blur_probability"),
        ("keep", "keep_checkpoints"),
    ],
)
def test_wrong_names_are_compared_with_all_settings(setting, meant):
    with pytest.raises(ValueError, match=f"unknown setting '{setting}'; did you mean {meant}"):
        apply_settings(TrainConfig(), [f"{setting}=0.3"])
    values = {"optimizer": {"lr": 0.3}}
    with pytest.raises(ValueError, match=r"'optimizer\.lr'; did you mean optimizer\.base_learning"):
        merged(TrainConfig(), values)


def test_no_name_is_near_to_one_that_is_like_none():
    with pytest.raises(ValueError, match=r"unknown setting 'zzz'; train\.py --settings lists"):
        apply_settings(TrainConfig(), ["zzz=1"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["base_learning_rate=1e9"], "optimizer.base_learning_rate=1e.09 times .* will diverge"),
        (["base_learning_rate=0"], "nothing is learned"),
        (["contrastive_weight=0"], "embeddings may collapse"),
        (["temperature=20"], "loss.temperature=20: methods of this kind use 0.05 to 0.5"),
        (["target_decay=1"], "never moves"),
    ],
)
def test_what_can_hardly_be_meant_is_doubted(settings, said):
    (doubt,) = doubts(apply_settings(TrainConfig(), settings))
    assert re.search(said, doubt)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_preset_is_doubted(name):
    assert doubts(load_preset(name)) == []


def test_nothing_to_learn_is_refused():
    with pytest.raises(ValueError, match="are both 0: nothing would be learned"):
        apply_settings(TrainConfig(), ["contrastive_weight=0", "invariance_weight=0"])


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
    with pytest.raises(ValueError, match=r"preset missing\.toml: .*; presets are imagenet-rn50"):
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


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_setting_is_listed_with_its_meaning_and_source(name):
    config = load_preset(name)
    listed = listed_settings(config)
    assert {each.path: each.value for each in listed} == dict(flattened(config))
    for each in listed:
        assert len(each.meaning) > 8, each.path
        words = [part.removeprefix("small: ") for part in each.source.split("; ")]
        assert set(words) <= set(SOURCES), (each.path, each.source)
    text = settings_text(config)
    assert max(map(len, text.splitlines())) <= 80
    for path, _ in flattened(config):
        assert f"\n{path} = " in text


def test_a_listed_setting_has_choices_and_the_default():
    text = settings_text(load_preset("small-images"))
    assert "loss.kl_form = swap_roles\n    which distributions the KL divergence compares" in text
    assert "one of swap_roles,\n    swap_views [deduced]" in text
    assert "epochs = 100  (default 1000)\n    passes over the data set [recalled]" in text
    assert "this\n    times global_batch_size / 256 [BYOL; recalled]" in text
    (decoder,) = (e for e in listed_settings(TrainConfig()) if e.path == "loader.decoder")
    assert decoder.choices == ("auto", "turbojpeg", "dali", "dali-gpu")


@dataclass
class Bare:
    size: int = 3


@dataclass
class Unsourced:
    size: int = 3  # of something


@pytest.mark.parametrize("kind", [Bare, Unsourced])
def test_a_setting_without_a_meaning_and_a_source_is_an_error(kind):
    with pytest.raises(ValueError, match=r"size needs a comment that ends with its \[source\]"):
        meanings(kind)


def test_what_a_listed_value_looks_like_is_what_set_takes():
    listed = listed_settings(load_preset("demo"))
    config = apply_settings(TrainConfig(), [f"{each.path}={shown(each.value)}" for each in listed])
    assert [shown(each.value) for each in listed_settings(config)] == [
        shown(each.value) for each in listed
    ]
