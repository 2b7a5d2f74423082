"""The batches of a run, as long as all ranks want to go on.

Before each step the ranks agree: a signal that one has got, or a loader that one has lost, ends the
run on all of them after the same step, so that it can be saved. Nobody begins a step that another
does not take part in, and nobody waits in it for one that is gone.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.batch import MultiCropBatch
from pipeline.loader import MultiCropLoader
from training.launch import StopRequest


def agreed_batches(loader: MultiCropLoader, stop: StopRequest) -> Iterator[MultiCropBatch]:
    """Yield the loader's batches until the end, or until `stop` has a verdict.

    What the loader raises becomes `stop.error`.
    """
    batches = iter(loader)
    for _ in range(len(loader)):
        batch = None
        try:
            batch = next(batches)
        except Exception as error:
            stop.fail(error)
        if stop.agreed() or batch is None:
            return
        yield batch
