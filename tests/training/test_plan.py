"""The steps of a run: presets that run in several processes, data sets that are too small."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from training.config import TrainConfig, apply_settings
from training.plan import Plan
from training.presets import load_preset


@dataclass
class Few:
    """Shards of so many samples, as far as a plan asks."""

    num_samples: int
    manifest = SimpleNamespace(index_sha256="x")

    def __len__(self):
        return self.num_samples

    @property
    def stored_bytes(self):
        return np.full(self.num_samples, 1000)


@pytest.mark.parametrize("preset", ["small-images", "demo"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_small_presets_run_in_one_to_eight_processes(tmp_path, preset, size):
    config = load_preset(preset)
    Plan.of(config, Few(1000), tmp_path / "run").check_world(config, size)


@pytest.mark.parametrize(
    ("num_samples", "settings", "hint"),
    [
        (2934, [], "for a small data set give --preset small-images (batches of 128)"),
        (100, [], "give --preset small-images --set global_batch_size=64"),
        (40, [], "--preset small-images --set global_batch_size=32 --set num_negatives=31"),
        (40, ["global_batch_size=128"], "give --set global_batch_size=32"),
        (40, ["global_batch_size=64", "num_negatives=32"], "=32 --set num_negatives=31"),
        (1, [], "give more images"),
    ],
)
def test_too_few_samples_for_a_batch_say_what_would_do(tmp_path, num_samples, settings, hint):
    config = apply_settings(TrainConfig(), settings)
    with pytest.raises(ValueError, match="samples do not fill one global batch") as refused:
        Plan.of(config, Few(num_samples), tmp_path / "run")
    assert str(refused.value).endswith(hint)
