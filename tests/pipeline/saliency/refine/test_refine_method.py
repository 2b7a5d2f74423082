"""Phase I and II: what is learned from, epoch by epoch, against plain transcriptions."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.crf import refine_by_crf
from pipeline.saliency.refine.chance import shuffled
from pipeline.saliency.refine.f_loss import f_measure_loss
from pipeline.saliency.refine.fuse import fuse
from pipeline.saliency.refine.history import History
from pipeline.saliency.refine.initial import fresh_network
from pipeline.saliency.refine.maps import read_map, read_maps, write_map
from pipeline.saliency.refine.refine_method import refine_method
from tests.pipeline.saliency.refine.refine_support import TINY, noisy_map, workshop_with

COUNT, SIZE = 6, TINY.network.size


@pytest.fixture
def workshop(tmp_path):
    with workshop_with(tmp_path, COUNT, ("left",)) as made:
        yield made


def nearest(values: np.ndarray) -> np.ndarray:
    return cv2.resize(values, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT)


def transcribed(method: str, labels: np.ndarray, pixels: np.ndarray) -> list[np.ndarray]:
    """The history maps after each round, one photo and one epoch after the other."""
    phase, rounds = TINY.phase_one, []
    for r in (1, 2):
        network = fresh_network(TINY.network, None, TINY.seed, method, "round", r)
        adam = torch.optim.Adam(network.parameters())
        threshold = 0.4 if r == 1 else 0.5
        mva = np.zeros(labels.shape, np.float32)
        for epoch in range(phase.epochs):
            rate = phase.learning_rates[r - 1] * (1 - epoch / phase.epochs) ** 0.9
            adam.param_groups[0]["lr"] = rate
            order = shuffled(COUNT, TINY.seed, method, "round", r, "epoch", epoch)
            for batch in (order[:5], order[5:]):  # the effective batch is 5
                adam.zero_grad()
                for part in (batch[:3], batch[3:]):  # 3 in memory at once
                    if not len(part):
                        continue
                    prediction = network(torch.from_numpy(pixels[part]))
                    target = torch.from_numpy(labels[part]).float() / 255
                    loss = f_measure_loss(prediction, target, threshold=threshold, beta=1.0)
                    (loss * len(part) / len(batch)).backward()
                    for i, p in zip(part, prediction.detach().numpy(), strict=True):
                        mva[i] = 0.7 * mva[i] + 0.3 * refine_by_crf(pixels[i], p, TINY.crf)
                adam.step()
        labels = np.rint(mva * 255).astype(np.uint8)
        rounds.append(labels)
    return rounds


def test_each_round_learns_from_the_history_maps_of_the_one_before(workshop):
    labels = np.stack([nearest(to_bytes(noisy_map(index, 0))) for index in range(COUNT)])
    expected = transcribed("left", labels, workshop.photos.pixels)
    refined = refine_method("left", workshop)
    for number, wanted in enumerate(expected, 1):
        found = read_maps(workshop.maps(f"left-round{number}"), workshop.names, SIZE)
        assert np.abs(found.astype(int) - wanted).max() <= 1
    np.testing.assert_array_equal(refined, found)
    assert np.abs(expected[0].astype(int) - expected[1]).max() > 5  # else round 2 could be round 1


def test_the_state_of_a_round_is_gone_when_its_maps_are_there(workshop):
    refine_method("left", workshop)
    assert not list((workshop.out / "work").iterdir())


def test_history_starts_at_zero_and_is_not_corrected_for_it():
    with ThreadPoolExecutor(2) as pool:
        history = History(np.zeros((3, 2, 2), np.float32), 0.7, lambda image, p: p, pool)
        values = np.array([1.0, 0.5], np.float32)[:, None, None] * np.ones((2, 2, 2), np.float32)
        for _ in range(2):
            history.update(np.array([2, 0]), np.zeros((2, 2, 2, 3), np.uint8), values)
            history.finish()
    np.testing.assert_allclose(history.maps[:, 0, 0], [0.5 * 0.51, 0, 0.51], rtol=1e-6)


def test_what_fails_in_a_thread_ends_the_epoch():
    def fail(image, prediction):
        raise ValueError("no kernel")

    with ThreadPoolExecutor(1) as pool:
        history = History(np.zeros((1, 2, 2), np.float32), 0.7, fail, pool)
        history.update(
            np.array([0]), np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2), np.float32)
        )
        with pytest.raises(ValueError, match="no kernel"):
            history.finish()


def test_fusion_learns_from_all_sets_jointly(workshop):
    """Two epochs against a transcription: the loss is the mean over the sets, the rate decays."""
    sets = [
        np.stack([nearest(to_bytes(noisy_map(index, kind))) for index in range(COUNT)])
        for kind in (0, 1)
    ]
    phase = TINY.phase_two
    network = fresh_network(TINY.network, None, TINY.seed, "fused")
    adam = torch.optim.Adam(network.parameters())
    for epoch in range(2):
        decay = (1 - epoch / phase.epochs) ** phase.poly_power
        adam.param_groups[0]["lr"] = phase.learning_rate * decay
        order = shuffled(COUNT, TINY.seed, "fused", "epoch", epoch)
        for batch in (order[:4], order[4:]):
            adam.zero_grad()
            for part in (batch[:3], batch[3:]):
                if not len(part):
                    continue
                prediction = network(torch.from_numpy(workshop.photos.pixels[part]))
                for labels in sets:
                    target = torch.from_numpy(labels[part]).float() / 255
                    loss = f_measure_loss(prediction, target, threshold=0.5, beta=phase.beta) / 2
                    (loss * len(part) / len(batch)).backward(retain_graph=True)
            adam.step()
    found = fuse(sets, workshop).state_dict()
    for name, value in network.state_dict().items():
        # Adam divides by the root of small squares: the order of a sum shows
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_a_damaged_map_is_named(workshop):
    broken = workshop.maps("left") / workshop.names[2]
    broken.write_bytes(b"no png")
    with pytest.raises(ValueError, match=f"{broken.name}: the map is damaged"):
        refine_method("left", workshop)


def test_maps_come_back_as_they_were_written(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (21, 34), dtype=np.uint8)
    write_map(tmp_path / "a" / "b.png", values)
    np.testing.assert_array_equal(read_map(tmp_path / "a" / "b.png"), values)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.png"]


def test_a_learning_rate_that_is_too_high_ends_with_advice(workshop):
    phase = replace(TINY.phase_one, learning_rates=(1e30, 1e30))
    wild = replace(workshop, config=replace(TINY, phase_one=phase))
    with pytest.raises(ValueError, match="lower the learning rate"):
        refine_method("left", wild)


def test_history_is_corrected_for_its_start_where_asked(workshop):
    refine_method("left", workshop)
    plain = read_maps(workshop.maps("left-round1"), workshop.names, SIZE).astype(float)
    phase = replace(TINY.phase_one, correct_history=True)
    corrected = replace(
        workshop, config=replace(TINY, phase_one=phase), out=workshop.out / "corrected"
    )
    for index, name in enumerate(workshop.names):
        write_map(corrected.maps("left") / name, to_bytes(noisy_map(index, 0)))
    refine_method("left", corrected)
    found = read_maps(corrected.maps("left-round1"), workshop.names, SIZE)
    whole = (plain / (1 - 0.7**2)).clip(0, 255)
    assert np.abs(whole - plain).max() > 50
    assert np.abs(found - whole).max() <= 1.5
