"""The batches of a run, as long as all ranks want to go on.

Before each step the ranks agree: a signal that one has got, or a loader that one has lost, ends the
run on all of them after the same step, so that it can be saved. Nobody begins a step that another
does not take part in, and nobody waits in it for one that is gone.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.batch import MultiCropBatch
from pipeline.loader import MultiCropLoader
from pipeline.loader.multicrop import GaveUp
from training.launch import StopRequest


def agreed_batches(loader: MultiCropLoader, stop: StopRequest) -> Iterator[MultiCropBatch]:
    """Yield the loader's batches until the end, or until `stop` has a verdict.

    What the loader raises becomes `stop.error`. A rank that was told to stop while it waits for
    views waits no longer: its loader may hang, and job schedulers kill what does not stop in time.
    """
    batches = loader.batches(give_up=lambda: stop.wished)
    for _ in range(len(loader)):
        batch = None
        try:
            batch = next(batches)
        except GaveUp:
            assert stop.wished
        except Exception as error:
            stop.fail(error)
        if stop.agreed() or batch is None:
            return
        yield batch
