"""What a loader gives, told by a process of its own: libraries there disturb no other test."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from bench.loader import LoaderRequest, our_stream
from bench.peers import dali_loader, ffcv_loader, kornia_dali_loader, torchvision_loader
from pipeline.augment.recipe import MultiCropRecipe

BATCH = 4
LOADERS = {
    "loader (ffcv)": ("numba", None),
    "loader (dali)": ("numba", None),
    "torchvision (PIL)": ("torchvision", torchvision_loader.make_pil),
    "torchvision (simplejpeg)": ("torchvision", torchvision_loader.make_tensor),
    "FFCV stock": ("ffcv", ffcv_loader.make),
    "DALI stock": ("nvidia.dali", dali_loader.make),
    "kornia after DALI": ("kornia", partial(kornia_dali_loader.make, device_id=None)),
}


@dataclass(frozen=True)
class Seen:
    """Of one pass over the pictures and a batch more."""

    shapes: set[tuple[tuple[int, ...], ...]]  # of the views of a batch
    dtypes: set[torch.dtype]
    lowest: float
    highest: float
    deviation: float  # the smallest of any view of a batch
    labels: list[int]
    different: bool  # the views of a picture, from one another
    note: str


def look(name, found):
    """Run a loader of LOADERS in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_look, name, found).result()


def _look(name, found):
    torch.set_num_threads(1)
    stream = _open(name, found)
    batches = [
        ([view.float().clone() for view in views], [view.dtype for view in views], labels.clone())
        for views, labels in (next(stream.batches) for _ in range(found.images // BATCH + 1))
    ]
    stream.close()
    flat = [view for views, _, _ in batches for view in views]
    first = batches[0][0]
    return Seen(
        shapes={tuple(tuple(view.shape) for view in views) for views, _, _ in batches},
        dtypes={dtype for _, dtypes, _ in batches for dtype in dtypes},
        lowest=min(float(view.min()) for view in flat),
        highest=max(float(view.max()) for view in flat),
        deviation=min(float(view.std()) for view in flat),
        labels=[int(label) for _, _, labels in batches for label in labels],
        different=not any(torch.equal(first[0], view) for view in first[1:4]),
        note=stream.note,
    )


def _open(name, found):
    recipe, make = MultiCropRecipe(), LOADERS[name][1]
    if make is None:
        request = LoaderRequest(device="cpu", batch=BATCH, rounds=1, threads=2)
        return our_stream(found, name[8:12], recipe, request)
    source = found.photos if "torchvision" in name else found.shards.get(name[:4].lower())
    source = found.shards["dali"] if source is None else source
    return make(source, recipe, batch=BATCH, workers=2)
