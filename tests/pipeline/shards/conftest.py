"""Samples to put into shards: generated pictures of different sizes, two of them without a mask."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.shards.index import Sample
from pipeline.sources import list_records
from pipeline.sources.prepare import PrepareSettings, prepare
from tests.pipeline.shards.support import write_folder

WITHOUT_MASK = (3, 4)


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    made = []
    for number, record in enumerate(list_records("demo", limit=10).records):
        prepared = prepare(record, PrepareSettings())
        sample = Sample(
            key=record.key,
            label=number % 3 - 1,
            jpeg=prepared.jpeg,
            mask=prepared.mask,
            height=prepared.height,
            width=prepared.width,
            coverage=prepared.coverage,
            unchanged=prepared.unchanged,
        )
        if number in WITHOUT_MASK:
            sample = replace(sample, mask=b"", coverage=float("nan"))
        made.append(sample)
    return made


@pytest.fixture(scope="session", params=["ffcv", "dali"])
def written(request, samples, tmp_path_factory) -> Path:
    """A shards folder of each format; read only."""
    folder = tmp_path_factory.mktemp("shards") / request.param
    write_folder(folder, request.param, samples, capacity=17)
    return folder
