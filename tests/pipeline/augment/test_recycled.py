"""Memory of views is reused when it is free, and only then."""

import threading

import torch

from pipeline.augment.recycled import RecycledMemory


def test_memory_comes_back_when_the_last_tensor_is_gone():
    memory = RecycledMemory()
    views = memory.empty(2, 3, 5)
    place = views.data_ptr()
    one = views[1]
    array = one.numpy()
    del views
    assert memory.empty(2, 3, 5).data_ptr() != place  # a part of it is still held
    del one
    assert memory.empty(2, 3, 5).data_ptr() != place  # and now by an array
    del array
    held = [memory.empty(2, 3, 5) for _ in range(3)]
    assert place in {tensor.data_ptr() for tensor in held}


def test_what_is_held_is_never_overwritten():
    memory = RecycledMemory()
    held = []
    for number in range(200):
        tensor = memory.empty(4, 7)
        tensor.fill_(number)
        held.append((number, tensor))
        if number % 3:
            held.pop(number % len(held))
        assert all((tensor == n).all() for n, tensor in held)


def test_smaller_and_larger_tensors_come_from_the_same_memory():
    memory = RecycledMemory()
    large = memory.empty(100)
    place = large.data_ptr()
    del large
    small = memory.empty(3, 4)
    assert small.shape == (3, 4)
    assert small.data_ptr() == place
    del small
    assert memory.empty(101).numel() == 101
    assert memory.empty(0, 5).numel() == 0


def test_it_may_be_given_back_in_another_thread_and_after_the_lender():
    memory = RecycledMemory()
    tensors = [memory.empty(1000) for _ in range(8)]
    places = {tensor.data_ptr() for tensor in tensors}
    thread = threading.Thread(target=tensors.clear)
    thread.start()
    thread.join()
    again = [memory.empty(1000) for _ in range(8)]
    assert {tensor.data_ptr() for tensor in again} == places
    del memory
    again[0].fill_(1.0)
    assert torch.equal(again[0], torch.ones(1000))
