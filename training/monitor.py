"""kNN accuracy of the encoder while it trains, when labels exist: to watch, never to choose by.

Some samples of the training shards, always the same, are classified by their neighbours among each
other; their centre crops go through the online encoder in evaluation mode, which leaves it alone.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from evaluation.features import extract_features
from evaluation.knn import KnnConfig, leave_one_out_accuracy
from pipeline.loader import evaluation_views
from pipeline.rng import Stream, random_words
from pipeline.shards import Shards
from training.config import TrainConfig
from training.launch import PATIENCE_SECONDS, World

_MAX_SAMPLES = 5_000  # enough for a trend; seconds of a GPU's time at 224 pixels
_MIN_SAMPLES = 21  # each needs 20 neighbours


class KnnMonitor:
    """Measures on rank 0, while the others wait for it, longer than they would in a step."""

    def __init__(self, shards: Shards, config: TrainConfig, world: World) -> None:
        self._shards, self._config, self._world = shards, config, world
        labelled = np.flatnonzero(shards.labels >= 0)
        words = random_words(
            seed=0,
            stream=Stream.EVALUATION,
            epoch=0,
            sample_ids=labelled,
            num_views=1,
            num_draws=1,
        )
        chosen = np.argsort(words[:, 0, 0], kind="stable")[:_MAX_SAMPLES]
        self._ids = np.sort(labelled[chosen])
        self._waiting: Any = None
        if world.size > 1 and config.monitor_every:
            self._waiting = dist.new_group(
                backend="gloo", timeout=timedelta(seconds=PATIENCE_SECONDS)
            )

    def due(self, step: int, steps_per_epoch: int, *, last: bool) -> bool:
        """Whether to measure after so many completed steps; the same on every rank."""
        every = self._config.monitor_every * steps_per_epoch
        return len(self._ids) >= _MIN_SAMPLES and every > 0 and (last or step % every == 0)

    def measure(self, encoder: nn.Module) -> dict[str, float]:
        """Return {"knn_top1": percent} of the encoder as it is, {} on other ranks than 0.

        Called on every rank; all return when rank 0 is done.
        """
        found = self._measured(encoder) if self._world.is_main else {}
        if self._waiting is not None:
            dist.all_reduce(torch.zeros(()), group=self._waiting)
        return found

    def _measured(self, encoder: nn.Module) -> dict[str, float]:
        with evaluation_views(
            self._shards,
            size=self._config.recipe.large_size,
            batch_size=min(256, len(self._ids)),
            config=self._config.loader,
            sample_ids=self._ids,
            device=self._world.device,
        ) as views:
            features, labels = extract_features(encoder, views, self._world.device)
        known = labels >= 0  # a bad sample may have been replaced by an unlabelled one
        config = KnnConfig(k=20, more_k=())
        device = self._world.device
        (result,) = leave_one_out_accuracy(
            features[known], labels[known], config=config, device=device
        )
        return {"knn_top1": result.weighted.top1}
