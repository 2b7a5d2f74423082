"""Random numbers that are addressed by words: the same words, the same numbers, in any order."""

from __future__ import annotations

import zlib

import torch
from numpy.random import Generator, Philox, SeedSequence

from pipeline.batch import Ids


def generator(seed: int, *words: int | str) -> Generator:
    """Return the generator of a seed and of words such as ("rbd", "round", 2, "epoch", 7)."""
    numbers = [word if isinstance(word, int) else zlib.crc32(word.encode()) for word in words]
    return Generator(Philox(SeedSequence([seed, *numbers])))


def torch_generator(seed: int, *words: int | str) -> torch.Generator:
    """Return torch's generator, on the CPU, for the same purpose."""
    return torch.Generator().manual_seed(int(generator(seed, *words).integers(2**62)))


def shuffled(count: int, seed: int, *words: int | str) -> Ids:
    """Return a random order of 0..count-1, int64 [count]."""
    return generator(seed, *words).permutation(count)
