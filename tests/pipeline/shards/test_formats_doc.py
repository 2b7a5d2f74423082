"""The code in docs/formats.md reads our shards."""

import re
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from pipeline.saliency.codec import decode_mask
from pipeline.shards import open_shards
from pipeline.shards.index import ROW
from pipeline.shards.manifest import Manifest
from tests.pipeline.shards.support import write_folder

DOC = Path(__file__).resolve().parents[3] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def documented():
    """What the code blocks define, by name."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", DOC.read_text(), flags=re.DOTALL):
        exec(block, names)
    return names


def test_samples_are_read_as_documented(documented, written, samples):
    for sample_id, sample in enumerate(samples):
        jpeg, mask, label = documented["read_sample"](written, sample_id)
        assert (jpeg, mask, label) == (sample.jpeg, sample.mask, sample.label)
        if mask:
            assert (documented["decode_mask"](mask + b"padding") == decode_mask(mask)).all()


def test_tars_are_read_as_documented(documented, samples, tmp_path):
    write_folder(tmp_path, "dali", samples)
    pipeline = documented["read_tars"](tmp_path)
    pipeline.build()
    images, masks, labels = pipeline.run()
    for row, sample in enumerate(samples[:4]):
        assert (images.at(row) == simplejpeg.decode_jpeg(sample.jpeg)).all()
        assert masks.at(row).tobytes() == sample.mask
        assert int(labels.at(row).tobytes()) == sample.label


def test_every_field_is_documented(written):
    text = DOC.read_text()
    fields = {*Manifest.__dataclass_fields__, *(ROW.names or ()), "keys"}
    assert [name for name in sorted(fields) if f"`{name}`" not in text] == []
    masks = open_shards(written).manifest.masks
    assert np.all([f"`{name}`" in text for name in masks.__dataclass_fields__])
