"""kNN accuracy of the encoder while it trains, when labels exist: to watch, never to choose by.

A fixed part of the training shards is the bank, another the queries; their centre crops go through
the online encoder in evaluation mode, which leaves its state alone.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from evaluation.features import extract_features
from evaluation.knn import knn_accuracy
from pipeline.loader import evaluation_views
from pipeline.rng import Stream, random_words
from pipeline.shards import Shards
from training.config import TrainConfig
from training.launch import World

_MAX_BANK = 10_000  # enough for a trend: a minute of a GPU's time at 224 pixels
_MAX_QUERIES = 1_000


class KnnMonitor:
    """Measures on rank 0 while the others wait at the next collective."""

    def __init__(self, shards: Shards, config: TrainConfig, world: World) -> None:
        self._shards, self._config, self._world = shards, config, world
        labelled = np.flatnonzero(shards.labels >= 0)
        num_queries = min(_MAX_QUERIES, len(labelled) // 5)
        words = random_words(
            seed=0,
            stream=Stream.EVALUATION,
            epoch=0,
            sample_ids=labelled,
            num_views=1,
            num_draws=1,
        )
        shuffled = labelled[np.argsort(words[:, 0, 0], kind="stable")]
        self._queries = np.sort(shuffled[:num_queries])
        self._bank = np.sort(shuffled[num_queries:][:_MAX_BANK])

    def due(self, step: int, steps_per_epoch: int, *, last: bool) -> bool:
        """Whether to measure after so many completed steps; the same on every rank."""
        every = self._config.monitor_every * steps_per_epoch
        return bool(len(self._queries)) and every > 0 and (last or step % every == 0)

    def measure(self, encoder: nn.Module) -> dict[str, float]:
        """Return {"knn_top1": percent} of the encoder as it is."""
        bank, bank_labels = self._features(encoder, self._bank)
        queries, query_labels = self._features(encoder, self._queries)
        result = knn_accuracy(
            bank=bank, bank_labels=bank_labels, queries=queries, query_labels=query_labels, k=20
        )
        return {"knn_top1": result.top1}

    def _features(self, encoder: nn.Module, ids: np.ndarray):  # type: ignore[no-untyped-def]
        with evaluation_views(
            self._shards,
            size=self._config.recipe.large_size,
            batch_size=self._config.global_batch_size // self._world.size,
            config=self._config.loader,
            sample_ids=ids,
        ) as views:
            return extract_features(encoder, views, self._world.device)
