"""The hand-crafted methods and their fusion by name, from pixels to a map of the same size.

Superpixels and the cue of the background are made once per picture, whatever is asked for.

Shapes: H/W sides of the picture, h/w of the working picture, N superpixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from pipeline.batch import Bytes
from pipeline.saliency.absorbing_chain import absorbing_chain
from pipeline.saliency.arrays import Doubles, Floats
from pipeline.saliency.barrier import barrier
from pipeline.saliency.crf import CrfConfig
from pipeline.saliency.finish import Finish, finished_mask
from pipeline.saliency.fusion import fused
from pipeline.saliency.hierarchical import hierarchical
from pipeline.saliency.manifold_ranking import manifold_ranking
from pipeline.saliency.rbd import background_probability, rbd
from pipeline.saliency.reconstruction import reconstruction
from pipeline.saliency.superpixels import Scene, SceneSettings, make_scene

FUSION = "fusion"
SINGLE = ("rbd", "mr", "mc", "mbd", "hs", "dsr")
FINISHED = "finished"  # the fusion, through the CRF and averaged with a cut
METHODS = (*SINGLE, FUSION, FINISHED)

FINISH = Finish(crf=CrfConfig(), cut=True)
_MADE_OF = {FUSION: SINGLE, FINISHED: (*SINGLE, FUSION)}

_OF_SUPERPIXELS: dict[str, Callable[[Scene], Doubles]] = {
    "mr": manifold_ranking,
    "mc": absorbing_chain,
    "hs": hierarchical,
    "dsr": reconstruction,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A map and what it took."""

    saliency: Floats  # [H, W], 0..1
    seconds: float  # on its own: with superpixels and all maps that it is made of


def estimate(image: Bytes, method: str = FUSION, settings: SceneSettings | None = None) -> Floats:
    """Return the saliency of a picture, uint8 [H, W, 3] RGB of any size: float32 [H, W] in 0..1.

    A picture in which nothing stands out, because it has one colour, gives zeros.

    Raises:
        ValueError: the method is unknown, or the picture not such an array.
    """
    return estimate_all(image, (method,), settings)[method].saliency


def estimate_all(
    image: Bytes, methods: Sequence[str] = METHODS, settings: SceneSettings | None = None
) -> dict[str, Estimate]:
    """Return the estimate of each method by its name; see `estimate`."""
    check_methods(methods)
    started = time.perf_counter()
    scene = make_scene(image, settings)
    height, width = image.shape[:2]
    if scene.flat:
        zeros = np.zeros((height, width), np.float32)
        seconds = time.perf_counter() - started
        return {method: Estimate(saliency=zeros.copy(), seconds=seconds) for method in methods}
    work = _Work(image=image, scene=scene, shared_seconds=time.perf_counter() - started)
    return {method: work.estimate(method, height, width) for method in methods}


def named_methods(text: str) -> tuple[str, ...]:
    """Return the methods of a list like `rbd,mr`, each once, in its order.

    Raises:
        ValueError: it names none, or an unknown one.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ValueError(f"--methods names none; there are {', '.join(METHODS)}")
    check_methods(names)
    return names


def check_methods(methods: Sequence[str]) -> None:
    """Raise ValueError where a method is unknown."""
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")


@dataclass(kw_only=True, slots=True)
class _Work:
    """What was made of a scene so far, and how many seconds each took."""

    image: Bytes
    scene: Scene
    shared_seconds: float
    background: Doubles | None = None  # [N]
    maps: dict[str, Floats] = field(default_factory=dict)  # [h, w] each; finished [128, 128]
    seconds: dict[str, float] = field(default_factory=dict)

    def estimate(self, method: str, height: int, width: int) -> Estimate:
        needed = _MADE_OF.get(method, ())
        for name in (*needed, method):
            if name not in self.maps:
                started = time.perf_counter()
                self.maps[name] = self._make(name)
                self.seconds[name] = time.perf_counter() - started
        started = time.perf_counter()
        resized = cv2.resize(self.maps[method], (width, height), interpolation=cv2.INTER_LINEAR)
        own = time.perf_counter() - started
        own += self.shared_seconds + sum(self.seconds[name] for name in (*needed, method))
        return Estimate(saliency=resized.clip(0, 1), seconds=own)

    def _make(self, method: str) -> Floats:
        if method == "mbd":
            return barrier(self.scene)
        if method in _OF_SUPERPIXELS:
            return self.scene.paint(_OF_SUPERPIXELS[method](self.scene))
        if method == FINISHED:
            return finished_mask(self.image, self.maps[FUSION], FINISH)
        if self.background is None:
            self.background = background_probability(self.scene)
        if method == "rbd":
            return self.scene.paint(rbd(self.scene, self.background))
        layers = np.stack([self.scene.pool(self.maps[name]) for name in SINGLE])
        return self.scene.paint(fused(self.scene, layers, self.background))
