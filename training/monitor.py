"""kNN accuracy of the encoder while it trains, when labels exist: to watch, never to choose by.

Some samples of the training shards, always the same, are classified by their neighbours among each
other, or samples of other shards (`monitor_shards`) by their neighbours among those. Centre crops
go through the online encoder in evaluation mode, which leaves it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from evaluation.accuracy import standard_error
from evaluation.features import extract_features
from evaluation.knn import KnnConfig, knn_accuracy, leave_one_out_accuracy
from evaluation.subject import check_known_classes, labelled, to_training_labels
from pipeline.batch import Ids
from pipeline.loader import evaluation_views
from pipeline.rng import Stream, random_words
from pipeline.shards import Shards, open_shards
from training.allocator import give_freed_memory_back
from training.config import TrainConfig
from training.launch import World

_MAX_SAMPLES = 5_000  # enough for a trend; seconds of a GPU's time at 224 pixels
_MIN_SAMPLES = 21  # each needs 20 neighbours
_MAX_BATCH = 256


def num_measured(shards: Shards, config: TrainConfig) -> int:
    """How many samples of these shards a measurement takes; 0: there is none in this run."""
    count = len(labelled(shards))
    wanted = config.monitor_every > 0 and count >= _MIN_SAMPLES
    return min(count, _MAX_SAMPLES) if wanted else 0


def batch_measured(shards: Shards, config: TrainConfig, world_size: int) -> int:
    """How many of them at a time: no more than a step has, so that none takes more memory."""
    rows = config.global_batch_size // world_size // config.accumulate
    return min(_MAX_BATCH, num_measured(shards, config), rows)


class KnnMonitor:
    """Measures on rank 0, while the others wait at their next collective.

    `fail` is told of an error.

    Raises:
        ValueError: `monitor_shards` are no shards, have no labels, or classes of their own.
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
        self._ids = _chosen(shards, num_measured(shards, config))
        self._queries = _opened_queries(shards, config) if len(self._ids) else None

    def due(self, step: int, steps_per_epoch: int, *, last: bool) -> bool:
        """Whether to measure after so many completed steps; the same on every rank."""
        every = self._config.monitor_every * steps_per_epoch
        return len(self._ids) > 0 and (last or step % every == 0)  # step 0: not trained yet

    def measure(self, encoder: nn.Module, bad_samples: dict[int, str]) -> dict[str, float]:
        """Return the accuracy of the encoder as it is; `bad_samples` gets those it met.

        {"knn_top1", "knn_standard_error", "knn_chance"} in percent; chance is the share of the most
        frequent class. Of `monitor_shards` the first is "knn_top1_validation".

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
        config, device = KnnConfig(k=20, more_k=()), self._world.device
        features, labels = self._features(encoder, self._shards, self._ids, bad_samples)
        if self._queries is None:
            name = "knn_top1"
            (result,) = leave_one_out_accuracy(features, labels, config=config, device=device)
        else:
            name = "knn_top1_validation"
            ids = _chosen(self._queries, min(len(labelled(self._queries)), _MAX_SAMPLES))
            queries, found = self._features(encoder, self._queries, ids, {})
            bank_labels, labels = labels, to_training_labels(found, self._shards, self._queries)
            (result,) = knn_accuracy(
                features, bank_labels, queries, labels, config=config, device=device
            )
        top1, samples = result.weighted.top1, len(labels)
        return {
            name: top1,
            "knn_standard_error": standard_error(top1, samples),
            "knn_chance": 100 * int(labels.bincount().max()) / samples,
        }

    def _features(
        self, encoder: nn.Module, shards: Shards, ids: Ids, bad_samples: dict[int, str]
    ) -> tuple[Tensor, Tensor]:
        """Features [N, D] and labels [N] of labelled samples; `bad_samples` gets those it met."""
        with evaluation_views(
            shards,
            size=self._config.recipe.large_size,
            batch_size=batch_measured(self._shards, self._config, self._world.size),
            config=self._config.loader,
            sample_ids=ids,
            device=self._world.device,
        ) as views:
            try:
                features, labels = extract_features(encoder, views, self._world.device)
            finally:
                bad_samples |= views.bad_by_id
        known = labels >= 0  # a bad sample may have been replaced by an unlabelled one
        return features[known], labels[known]


def _chosen(shards: Shards, count: int) -> Ids:
    """Return so many labelled samples, ascending, always the same ones."""
    ids = labelled(shards)
    words = random_words(
        seed=0, stream=Stream.EVALUATION, epoch=0, sample_ids=ids, num_views=1, num_draws=1
    )
    return np.sort(ids[np.argsort(words[:, 0, 0], kind="stable")[:count]])


def _opened_queries(shards: Shards, config: TrainConfig) -> Shards | None:
    if config.monitor_shards is None:
        return None
    queries = open_shards(Path(config.monitor_shards))
    if not len(labelled(queries)):
        raise ValueError(f"monitor_shards={config.monitor_shards} has no labels; set it to none")
    check_known_classes(shards, queries)
    return queries
