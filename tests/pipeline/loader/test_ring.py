"""Hand-over between threads: order, bounds, closing, and slots that are never shared."""

import threading
import time

import numpy as np
import pytest
import torch

from pipeline.loader.ring import Channel, ChannelClosed, Ring, Slot


def run(*functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_a_channel_keeps_order_and_bound():
    channel, seen, longest = Channel(3), [], []

    def produce():
        for item in range(200):
            channel.put(item)

    def consume():
        for _ in range(200):
            longest.append(len(channel))
            seen.append(channel.get())

    run(produce, consume)
    assert seen == list(range(200))
    assert max(longest) <= 3


@pytest.mark.parametrize("waiting", ["put", "get"])
def test_closing_wakes_who_waits(waiting):
    channel, outcome = Channel(1), []
    if waiting == "put":
        channel.put(0)

    def wait():
        try:
            channel.put(1) if waiting == "put" else channel.get()
        except ChannelClosed:
            outcome.append("closed")

    def close():
        time.sleep(0.05)
        channel.close()

    run(wait, close)
    assert outcome == ["closed"]


def test_a_channel_without_room_is_refused():
    with pytest.raises(ValueError, match="room for at least one item, got 0"):
        Channel(0)


@pytest.mark.parametrize(("producer_pause", "consumer_pause"), [(0, 0.002), (0.002, 0)])
def test_slots_are_never_overwritten_in_use(producer_pause, consumer_pause):
    ring, filled, wrong = Ring([Slot() for _ in range(3)]), Channel(3), []
    heights, widths = np.array([4, 6]), np.array([5, 3])

    def produce():
        for item in range(100):
            slot = ring.acquire()
            images, masks = slot.lay_out(heights, widths)
            images.pixels.fill_(item)
            masks.fill_(item)
            filled.put((slot, images, masks, item))
            time.sleep(producer_pause)

    def consume():
        for _ in range(100):
            slot, images, masks, item = filled.get()
            time.sleep(consumer_pause)
            if not (images.pixels == item).all() or not (masks == item).all():
                wrong.append(item)
            ring.release(slot)

    run(produce, consume)
    assert wrong == []


def test_a_slot_is_allocated_once_for_batches_that_fit():
    slot = Slot()
    first, _ = slot.lay_out(np.array([100, 50]), np.array([100, 60]))
    second, _ = slot.lay_out(np.array([90]), np.array([80]))
    assert first.pixels.data_ptr() == second.pixels.data_ptr()
    assert second.pixels.numel() == 90 * 80 * 3


def test_images_of_a_slot_lie_side_by_side():
    images, masks = Slot().lay_out(np.array([2, 3]), np.array([5, 4]))
    assert images.offsets.tolist() == [0, 30]
    images.image(0).fill_(1)
    images.image(1).fill_(2)
    assert images.pixels.tolist() == [1] * 30 + [2] * 36
    assert masks.shape == (2, 128, 128)


def test_closing_a_ring_wakes_who_waits_for_a_slot():
    ring, outcome = Ring([Slot()]), []
    ring.acquire()

    def wait():
        with pytest.raises(ChannelClosed):
            ring.acquire()
        outcome.append("closed")

    def close():
        time.sleep(0.05)
        ring.close()

    run(wait, close)
    assert outcome == ["closed"]


def test_room_on_a_gpu_is_free_of_earlier_work_before_it_is_handed_out(monkeypatch):
    waited = []

    class Stream:
        def synchronize(self):
            waited.append(len(made))

    made, empty = [], torch.empty

    def on_the_cpu(*shape, dtype, device, pin_memory):
        made.append(device.type)
        return empty(*shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", on_the_cpu)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    slot = Slot.__new__(Slot)
    slot._device, slot._pinned, slot.in_use = torch.device("cuda"), True, None
    slot._pixels, slot._masks = empty(0, dtype=torch.uint8), empty(0, 128, 128)
    for side in (4, 4, 40):  # the second fits what is there
        slot.lay_out(np.array([side]), np.array([side]))
    assert made == ["cuda", "cpu", "cuda"]
    assert waited == [1, 3]
