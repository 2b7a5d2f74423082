"""What all methods do with arrays: squares of any picture, levels."""

import contextlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from pipeline.saliency import one_thread
from pipeline.saliency.arrays import as_square, to_bytes
from pipeline.saliency.one_thread import one_thread_each


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_cells_are_means_where_sides_shrink_by_whole_numbers(side, down, across, seed):
    values = np.random.default_rng(seed).random((side * down, side * across, 3)).astype(np.float32)
    cells = values.reshape(side, down, side, across, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(as_square(values, side), cells, atol=1e-5)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_square_has_no_value_that_the_picture_has_not(height, width, side, seed):
    values = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    square = as_square(values, side)
    assert square.shape == (side, side)
    assert square.min() >= values.min() - 1e-4
    assert square.max() <= values.max() + 1e-4


@pytest.mark.parametrize("shape", [(12, 2500), (2500, 12)])
def test_a_strip_is_averaged_along_its_length(shape):
    stripes = (np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 2).astype(np.float32)
    assert np.abs(as_square(stripes, 128) - 0.5).max() < 0.1


def test_levels_are_rounded_and_never_wrap():
    salient = np.array([-0.1, 0.0, 0.4999, 0.5, 1.0, 1.1], np.float32)
    np.testing.assert_array_equal(to_bytes(salient), [0, 0, 127, 128, 255, 255])


def blas_threads() -> set[int]:
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


def test_blas_and_opencv_have_one_thread_and_get_theirs_back():
    one_thread._controller.cache_clear()  # whatever was loaded since
    before, cv2_before = blas_threads(), cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        with contextlib.suppress(KeyError), one_thread_each():
            assert blas_threads() == {1}
            assert cv2.getNumThreads() == 1
            raise KeyError  # whatever happens meanwhile
        assert blas_threads() == before
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(cv2_before)
