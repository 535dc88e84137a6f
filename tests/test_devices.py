"""Devices and threads: how overlapping blocks share the thread policy, and what is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from unrender.devices import DeviceError, as_on_a_gpu, on_cpu, pytorch_on_one_thread, select_device, thread_count, usable_cores, versions

HEAVY = ("torch", "warp", "numpy", "PIL", "trimesh", "jaxtyping", "tyro", "rich")


def imported_by(code: str) -> set[str]:
    """The heavy packages that are loaded in a fresh process after some code."""
    report = f"{code}\nimport sys\nprint('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", report], check=True, capture_output=True, text=True, timeout=300)
    return set(run.stdout.rsplit("loaded:", 1)[1].split())


def test_a_block_runs_pytorch_on_one_thread_and_kernels_on_all() -> None:
    with pytorch_on_one_thread():
        assert torch.get_num_threads() == 1 and thread_count() == 2
        with pytorch_on_one_thread():
            assert torch.get_num_threads() == 1 and thread_count() == 2
        assert torch.get_num_threads() == 1 and thread_count() == 2
    assert torch.get_num_threads() == 2 and thread_count() == 2


def test_an_error_inside_a_block_restores_the_threads() -> None:
    with pytest.raises(KeyError), pytorch_on_one_thread():
        raise KeyError
    assert torch.get_num_threads() == 2 and thread_count() == 2


def test_blocks_that_overlap_in_several_threads_restore_the_number_of_threads() -> None:
    """The first to begin is the first to end, as where a viewer's thread renders past the end of a fit."""
    entered, left = threading.Event(), threading.Event()
    seen: list[tuple[int, int]] = []

    def outlive() -> None:
        with pytorch_on_one_thread():
            entered.set()
            left.wait(timeout=60)
            seen.append((torch.get_num_threads(), thread_count()))

    viewer = threading.Thread(target=outlive)
    with pytorch_on_one_thread():
        viewer.start()
        assert entered.wait(timeout=60)
    assert torch.get_num_threads() == 2 and thread_count() == 2  # the block of the other thread is still open
    left.set()
    viewer.join()
    assert seen == [(1, 2)]
    assert torch.get_num_threads() == 2 and thread_count() == 2


def test_a_block_that_another_thread_ends_leaves_neither_of_them_on_one_thread() -> None:
    """As the garbage collector may do with the generator of a loop that was left."""
    block, seen = pytorch_on_one_thread(), []
    block.__enter__()

    def end() -> None:
        with pytorch_on_one_thread():
            block.__exit__(None, None, None)
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    other = threading.Thread(target=end)
    other.start()
    other.join()
    assert seen == [1, 2]
    with pytorch_on_one_thread():
        assert torch.get_num_threads() == 1 and thread_count() == 2
    assert torch.get_num_threads() == 2 and thread_count() == 2


def test_the_number_of_threads_set_between_two_blocks_is_kept() -> None:
    with pytorch_on_one_thread():
        pass
    torch.set_num_threads(3)
    try:
        with pytorch_on_one_thread():
            assert thread_count() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(2)


@pytest.mark.cpu
def test_a_cpu_is_served_as_a_gpu_inside_the_block_alone() -> None:
    device = torch.device("cpu")
    with pytest.raises(KeyError), as_on_a_gpu():
        assert not on_cpu(device)
        raise KeyError
    assert on_cpu(device)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "there is no device 'gpu'; choose cpu, cuda or cuda:1"),
        ("cdua", "there is no device 'cdua'; did you mean cuda?"),
        ("cpu:1", "there is no device 'cpu:1'"),
        ("cuda:x", "there is no device 'cuda:x'"),
    ],
)
def test_a_device_that_does_not_exist_is_refused(name: str, message: str) -> None:
    with pytest.raises(DeviceError) as refused:
        select_device(name)
    assert str(refused.value).startswith(message)


def test_versions_are_those_of_the_imported_packages() -> None:
    import warp

    found = versions()
    assert found["torch"] == torch.__version__ and found["warp"] == warp.__version__
    assert set(found) == {"unrender", "torch", "warp", "numpy", "python"}
    assert usable_cores() >= 1


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported_by("import unrender") == set()


def test_help_imports_nothing_heavy() -> None:
    assert imported_by("from unrender.cli import main\nassert main(['--help']) == 0 and main(['--version']) == 0") == set()


def test_the_doctor_is_imported_without_pytorch() -> None:
    assert imported_by("import unrender.doctor, unrender.devices, unrender.words") == set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_reused_inside_a_block_and_returned_behind_it() -> None:
    """Counted in page faults: memory that is fresh costs one for every page, or for every huge page."""
    code = """
import resource, torch
from unrender.devices import keeping_freed_memory

def faults(count=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.empty(50_000_000, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

fresh = faults()
with keeping_freed_memory():
    with keeping_freed_memory():
        faults(20)  # an aligned block needs more room than the one just freed: the remainders settle after about ten
    again = faults()
    kept = resident()
print(fresh, again, kept - resident())
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    fresh, again, returned = map(int, run.stdout.split())
    assert again < fresh / 10
    assert returned > 40_000_000
