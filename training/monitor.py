"""kNN accuracy of the encoder while it trains, when labels exist: to watch, never to choose by.

Some samples of the training shards, always the same, are classified by their neighbours among each
other; their centre crops go through the online encoder in evaluation mode, which leaves it alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from evaluation.accuracy import standard_error
from evaluation.features import extract_features
from evaluation.knn import KnnConfig, leave_one_out_accuracy
from pipeline.loader import evaluation_views
from pipeline.rng import Stream, random_words
from pipeline.shards import Shards
from training.allocator import give_freed_memory_back
from training.config import TrainConfig
from training.launch import World

_MAX_SAMPLES = 5_000  # enough for a trend; seconds of a GPU's time at 224 pixels
_MIN_SAMPLES = 21  # each needs 20 neighbours
_MAX_BATCH = 256


def num_measured(shards: Shards, config: TrainConfig) -> int:
    """How many samples a measurement takes; 0: there is none in this run."""
    labelled = int((shards.labels >= 0).sum())
    wanted = config.monitor_every > 0 and labelled >= _MIN_SAMPLES
    return min(labelled, _MAX_SAMPLES) if wanted else 0


def batch_measured(shards: Shards, config: TrainConfig, world_size: int) -> int:
    """How many of them at a time: no more than a step has, so that none takes more memory."""
    rows = config.global_batch_size // world_size // config.accumulate
    return min(_MAX_BATCH, num_measured(shards, config), rows)


class KnnMonitor:
    """Measures on rank 0, while the others wait at their next collective.

    `fail` is told of an error.
    """

    def __init__(
        self,
        shards: Shards,
        config: TrainConfig,
        world: World,
        fail: Callable[[Exception], object],
    ) -> None:
        self._shards, self._config, self._world = shards, config, world
        self._fail = fail
        labelled = np.flatnonzero(shards.labels >= 0)
        words = random_words(
            seed=0,
            stream=Stream.EVALUATION,
            epoch=0,
            sample_ids=labelled,
            num_views=1,
            num_draws=1,
        )
        chosen = np.argsort(words[:, 0, 0], kind="stable")[: num_measured(shards, config)]
        self._ids = np.sort(labelled[chosen])

    def due(self, step: int, steps_per_epoch: int, *, last: bool) -> bool:
        """Whether to measure after so many completed steps; the same on every rank."""
        every = self._config.monitor_every * steps_per_epoch
        return len(self._ids) > 0 and (last or step % every == 0)

    def measure(self, encoder: nn.Module, bad_samples: dict[int, str]) -> dict[str, float]:
        """Return the accuracy of the encoder as it is; `bad_samples` gets those it met.

        {"knn_top1", "knn_standard_error", "knn_chance"} in percent; chance is the share of the most
        frequent class.

        An error goes to `fail`, and nothing is returned: the run is to be saved, as after an error
        of its own loader.
        """
        give_freed_memory_back()  # the step's, so that it does not add to the measurement's own
        try:
            return self._measure(encoder, bad_samples)
        except Exception as error:
            self._fail(error)
            return {}
        finally:
            give_freed_memory_back()

    def _measure(self, encoder: nn.Module, bad_samples: dict[int, str]) -> dict[str, float]:
        with evaluation_views(
            self._shards,
            size=self._config.recipe.large_size,
            batch_size=batch_measured(self._shards, self._config, self._world.size),
            config=self._config.loader,
            sample_ids=self._ids,
            device=self._world.device,
        ) as views:
            try:
                features, labels = extract_features(encoder, views, self._world.device)
            finally:
                bad_samples |= views.bad_by_id
        known = labels >= 0  # a bad sample may have been replaced by an unlabelled one
        config = KnnConfig(k=20, more_k=())
        device = self._world.device
        (result,) = leave_one_out_accuracy(
            features[known], labels[known], config=config, device=device
        )
        top1, samples = result.weighted.top1, int(known.sum())
        return {
            "knn_top1": top1,
            "knn_standard_error": standard_error(top1, samples),
            "knn_chance": 100 * int(labels[known].bincount().max()) / samples,
        }
