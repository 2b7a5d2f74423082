"""Peaks of memory as a process sees them, and memory that goes back to the system."""

import subprocess
import sys
from pathlib import Path

import torch

from tests.journey import ROOT
from training import peak_memory as peaks
from training.peak_memory import peak_memory, status_bytes

BACK = """
import threading
import numpy as np
from training.allocator import give_freed_memory_back, keep_freed_memory
from training.peak_memory import status_bytes
assert keep_freed_memory()
def work():
    blocks = [np.ones(1 << 17) for _ in range(300)]  # 1 MB each
    kept.append(np.ones(10))  # on top of them: what is below cannot go by itself
kept = []
thread = threading.Thread(target=work)
thread.start()
thread.join()
held = status_bytes("VmRSS")
assert give_freed_memory_back()
print(held - status_bytes("VmRSS"))
"""


def test_what_a_thread_has_freed_goes_back():
    done = subprocess.run([sys.executable, "-c", BACK], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200e6


def test_the_peak_is_the_kernels(monkeypatch, tmp_path):
    found = peak_memory(torch.device("cpu"))
    assert found == {"peak_host_bytes": float(status_bytes("VmHWM"))}
    assert found["peak_host_bytes"] >= status_bytes("VmRSS") > 50e6
    status = tmp_path / "status"
    status.write_text("VmPeak:\t 99 kB\nVmHWM:\t 3 kB\n")
    monkeypatch.setattr(peaks, "_STATUS", status)
    assert peak_memory(torch.device("cpu")) == {"peak_host_bytes": 3072.0}
    monkeypatch.setattr(peaks, "_STATUS", Path("no-such-file"))
    assert peak_memory(torch.device("cpu")) == {}
