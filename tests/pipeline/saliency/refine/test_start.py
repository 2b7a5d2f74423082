"""Where networks start without an encoder, and by what maps the student is taught."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.finish import Finish, finished
from pipeline.saliency.refine.augment import jittered, mirrored
from pipeline.saliency.refine.chance import generator, shuffled
from pipeline.saliency.refine.config import StartConfig
from pipeline.saliency.refine.f_loss import f_measure_loss
from pipeline.saliency.refine.fuse import write_fused_maps
from pipeline.saliency.refine.initial import fresh_network
from pipeline.saliency.refine.maps import read_map, write_map
from pipeline.saliency.refine.start import starting_weights
from tests.pipeline.saliency.refine.refine_support import TINY, noisy_map, workshop_with

COUNT, SIZE = 6, TINY.network.size
METHODS = ("left", "right")


@pytest.fixture
def workshop(tmp_path):
    with workshop_with(tmp_path, COUNT, METHODS) as made:
        yield made


def nearest(values: np.ndarray) -> np.ndarray:
    return cv2.resize(to_bytes(values), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT)


def with_student(workshop, **settings):
    student = replace(TINY.student, **settings)
    return replace(workshop, config=replace(TINY, student=student))


def test_no_start_is_made_where_none_is_asked_for(workshop):
    config = replace(TINY, start=StartConfig())
    assert starting_weights(METHODS, replace(workshop, config=config)) is None
    assert not (workshop.out / "start.pt").exists()


def test_the_start_learns_all_maps_of_mirrored_and_jittered_photos(workshop):
    """Two epochs against a transcription."""
    start, pixels = TINY.start, workshop.photos.pixels
    sets = [np.stack([nearest(noisy_map(i, kind)) for i in range(COUNT)]) for kind in (0, 1)]
    network = fresh_network(TINY.network, None, TINY.seed, "start")
    adam = torch.optim.Adam(network.parameters())
    for epoch in range(2):
        adam.param_groups[0]["lr"] = start.learning_rate * (1 - epoch / 2) ** start.poly_power
        chance = generator(TINY.seed, "start", "epoch", epoch, "changes")
        order = shuffled(COUNT, TINY.seed, "start", "epoch", epoch)
        for batch in (order[:5], order[5:]):  # phase I's effective batch
            turned = chance.random(len(batch)) < 0.5
            seen = jittered(mirrored(pixels[batch], turned), start.jitter, chance)
            adam.zero_grad()
            for rows in (np.arange(len(batch))[:3], np.arange(len(batch))[3:]):
                if not len(rows):
                    continue
                prediction = network(torch.from_numpy(seen[rows]))
                for labels in sets:
                    target = torch.from_numpy(mirrored(labels[batch], turned)[rows]).float() / 255
                    loss = f_measure_loss(prediction, target, threshold=0.4, beta=4.0) / 2
                    (loss * len(rows) / len(batch)).backward(retain_graph=True)
            adam.step()
    found = starting_weights(METHODS, workshop)
    for name, value in network.state_dict().items():
        # Adam divides by the root of small squares: the order of a sum shows
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
    again = starting_weights(METHODS, workshop)  # read from start.pt
    for name, value in found.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_later_networks_begin_with_the_start(workshop):
    weights = starting_weights(METHODS, workshop)
    network = fresh_network(TINY.network, None, 9, "left", "round", 1, start=weights)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    assert network.training


def test_the_teacher_is_blended_with_the_hand_crafted_fusion(workshop):
    network = fresh_network(TINY.network, None, 1, "fused")
    for name in workshop.names:
        write_map(workshop.maps("both") / name, np.full((50, 40), 200, np.uint8))
    found = []
    for share in (0.0, 0.25, 1.0):
        apart = replace(
            with_student(workshop, teacher_fusion=share, teacher_crf=False, teacher_cut=False),
            out=workshop.out / str(share),
        )
        for name in workshop.names:
            write_map(apart.maps("both") / name, np.full((50, 40), 200, np.uint8))
        write_fused_maps(network, "both", apart)
        found.append(np.stack([read_map(apart.maps("fused") / name) for name in workshop.names]))
    alone, blended, fusion = (maps.astype(float) for maps in found)
    assert (fusion == 200).all()
    assert np.ptp(alone) > 3
    assert np.abs(blended - (0.75 * alone + 0.25 * 200)).max() <= 1


@pytest.mark.parametrize(("crf", "cut"), [(True, False), (True, True), (False, True)])
def test_the_teachers_maps_are_finished_as_is_set(workshop, crf, cut):
    network = fresh_network(TINY.network, None, 1, "fused")
    plain = replace(
        with_student(workshop, teacher_fusion=0.0, teacher_crf=False, teacher_cut=False),
        out=workshop.out / "plain",
    )
    other = replace(
        with_student(workshop, teacher_fusion=0.0, teacher_crf=crf, teacher_cut=cut),
        out=workshop.out / "other",
    )
    for apart in (plain, other):
        write_fused_maps(network, None, apart)
    finish = Finish(crf=TINY.crf if crf else None, cut=cut)
    moved = 0.0
    for name, picture in zip(workshop.names, workshop.photos.pixels, strict=True):
        own = read_map(plain.maps("fused") / name).astype(np.float32) / 255
        wanted = 255 * finished(picture, own, finish)
        found = read_map(other.maps("fused") / name).astype(float)
        assert np.median(np.abs(found - wanted)) <= 1  # of a map that was rounded before
        moved = max(moved, float(np.abs(found - 255 * own).max()))
    assert moved > 20
