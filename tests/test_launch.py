"""Launching kernels: from several threads, with arguments that do not fit, as on a GPU, and compiled for GPUs that are not there."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from pathlib import Path
from typing import Any, no_type_check

import pytest
import torch
import warp as wp

import unrender.ops
from unrender.devices import _kept_memory, as_on_a_gpu, keeping_freed_memory, on_cpu, thread_count
from unrender.ops.encodings.adam import Table, _part
from unrender.ops.kernels.cache import start_with_writable_cache, temporary_cache
from unrender.ops.kernels.grids import slab_range
from unrender.ops.kernels.launch import _pool, address, launch, run_in_threads
from unrender.ops.kernels.structs import filled
from unrender.ops.kernels.work import _kept, recycled

CPU = torch.device("cpu")
FOLDER = Path(unrender.ops.__path__[0])
KERNELS = sorted(
    ".".join(path.relative_to(FOLDER).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if "\n@wp.kernel" in path.read_text(encoding="utf-8")
)


@no_type_check
@wp.kernel
def _count_kernel(first: int, factor: int, values: wp.array(dtype=wp.int32)):
    i = first + wp.tid()
    values[i] = factor * i


@no_type_check
@wp.kernel
def _scale_kernel(first: int, factor: float, values: wp.array2d(dtype=wp.float32), result: wp.array(dtype=wp.float32)):
    i = first + wp.tid()
    result[i] = factor * values[i, 1]


@no_type_check
@wp.kernel
def _nothing_kernel(first: int, values: wp.array(dtype=wp.uint8)):
    i = first + wp.tid()
    if i < 0:
        values[0] = values[1]


class _Pair:
    values: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    others: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]


class _OtherPair:
    others: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    values: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]


class _Rows:
    rows: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]


Pair, OtherPair, Rows = wp.struct(_Pair), wp.struct(_OtherPair), wp.struct(_Rows)


@no_type_check
@wp.kernel
def _first_kernel(first: int, pair: Pair, result: wp.array(dtype=wp.float32)):
    i = first + wp.tid()
    result[i] = pair.values[i]


@no_type_check
@wp.kernel
def _last_block_kernel(first: int, table: Table, block: int, count: int, item: int, found: wp.array(dtype=wp.int64)):
    _row, begin, end = _part(table, item)
    slab_begin, slab_end, _z, _z_end = slab_range(item, 1, block, count, 9)
    found[0] = wp.int64(begin)
    found[1] = wp.int64(end)
    found[2] = wp.int64(slab_begin)
    found[3] = wp.int64(slab_end)


FIRST_LAUNCHES = """
import threading, torch
from unrender.ops.raster import texture
texels, uv, slopes = torch.rand(1, 64, 64, 3), torch.rand(1, 1, 70001, 2), 0.05 * torch.rand(1, 1, 70001, 4)
together, found = threading.Barrier(4), {}
def look_up(k):
    together.wait()
    t = texels.clone().requires_grad_()
    values = texture(t, uv, slopes)
    found[k] = values.detach(), torch.autograd.grad(values.square().sum(), t)[0]
threads = [threading.Thread(target=look_up, args=(k,)) for k in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(found) == 4 and all(torch.equal(a, b) for k in found for a, b in zip(found[0], found[k]))
"""

LAST_LAUNCH = """
import sys
from unrender.ops.kernels.grids import slab_range
from unrender.ops.kernels.launch import run_in_threads
class Last:
    def __del__(self, run=run_in_threads, out=sys.stdout):
        run(lambda k: out.write(str(k)), 8, 2)
run_in_threads(lambda k: None, 8, 2)
last = Last()
"""


@pytest.mark.parametrize("chunks", [None, 1, 7])
def test_every_item_is_visited_once(chunks: int | None) -> None:
    values = torch.zeros(10_001, dtype=torch.int32)
    launch(_count_kernel, 10_001, [3, values], CPU, chunks=chunks)
    assert torch.equal(values, 3 * torch.arange(10_001, dtype=torch.int32))


def test_each_launch_takes_its_own_arguments_and_keeps_none() -> None:
    kept = []
    for rows, factor in ((3, 2.0), (5_000, 3), (7, True)):
        values, result = torch.rand(rows, 2, generator=torch.Generator().manual_seed(rows)), torch.zeros(rows)
        launch(_scale_kernel, rows, [factor, values, result], CPU)
        torch.testing.assert_close(result, float(factor) * values[:, 1], rtol=0, atol=0)
        launch(_scale_kernel, rows, [factor, values.t().contiguous().t(), result.zero_()], CPU)  # not contiguous
        torch.testing.assert_close(result, float(factor) * values[:, 1], rtol=0, atol=0)
        kept += [weakref.ref(values), weakref.ref(result)]
        del values, result
    assert all(reference() is None for reference in kept)


def test_several_threads_may_launch_at_once() -> None:
    results = [torch.zeros(5_000, dtype=torch.int32) for _ in range(8)]

    def fill(k: int) -> None:
        for _ in range(20):
            launch(_count_kernel, 5_000, [k, results[k]], CPU, chunks=4)

    threads = [threading.Thread(target=fill, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, k * torch.arange(5_000, dtype=torch.int32)) for k, result in enumerate(results))


@pytest.mark.parametrize("attempt", range(3))
def test_the_first_launches_of_a_process_may_come_from_several_threads(attempt: int) -> None:
    run = subprocess.run([sys.executable, "-c", FIRST_LAUNCHES], check=False, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def test_an_error_in_one_chunk_waits_for_the_others() -> None:
    """They work on memory that the caller frees when the error reaches it."""
    together, helpers, ended = threading.Barrier(3), [], []

    def work(k: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            helpers.append(k)
        is_slow = len(helpers) == 2 and helpers[1] == k
        together.wait(timeout=60)
        if not is_slow:
            raise KeyError(k)
        time.sleep(0.3)
        ended.append(k)

    with pytest.raises(KeyError):
        run_in_threads(work, 3, 3)
    assert ended == helpers[1:]


def test_an_interruption_at_any_instruction_waits_for_the_helpers_and_loses_none() -> None:
    """Ctrl-C may come anywhere. Here it comes at every instruction of a launch in turn, with a helper at work as soon as it is woken."""
    instructions, running, begun = 0, [], threading.Event()

    def work(k: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(timeout=60)
            return
        running.append(k)
        begun.set()
        time.sleep(0.001)
        running.remove(k)

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith("launch.py"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    run_in_threads(lambda k: None, 3, 3)
    was_interrupted, tracer = True, sys.gettrace()
    while was_interrupted:
        begun.clear()
        left = instructions
        sys.settrace(trace)
        try:
            run_in_threads(work, 2, 2)
            was_interrupted = False
        except KeyboardInterrupt:
            instructions += 1
        finally:
            sys.settrace(tracer)
        assert not running
    assert instructions > 200
    threads = 1 + sum(thread.name == "unrender" for thread in threading.enumerate())
    together = threading.Barrier(threads)

    def meet(k: int) -> None:
        together.wait(timeout=60)

    run_in_threads(meet, threads, threads)


@pytest.mark.skipif(sys.platform == "win32", reason="has no timer that interrupts")
def test_interruptions_of_the_wait_do_not_end_it() -> None:
    ended, together = [], threading.Barrier(4)

    def work(k: int) -> None:
        together.wait(timeout=60)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.1 + 0.05 * k)
            ended.append(k)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.03, 0.02)
            run_in_threads(work, 4, 4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(ended) == 3


def test_an_object_of_a_module_may_launch_when_the_interpreter_ends() -> None:
    run = subprocess.run([sys.executable, "-c", LAST_LAUNCH], check=False, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout, run.stderr) == (0, "01234567", "")


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_a_forked_process_starts_its_own_threads():
    """It inherits the pool without its threads, so work given to that pool would never be done."""
    run_in_threads(lambda k: None, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks beside threads, which is the point
        child = os.fork()
    if child == 0:
        done: list[int] = []
        run_in_threads(done.append, 8, 3)
        os._exit(0 if sorted(done) == list(range(8)) else 1)
    for _ in range(200):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child did not end")
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_a_forked_process_has_locks_that_nobody_holds():
    """Another thread of its parent may hold them as it is made."""
    with warnings.catch_warnings(), _pool.lock, _pool.loading, _kept.lock, _kept_memory.lock:
        warnings.simplefilter("ignore")
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            with keeping_freed_memory():
                launch(_count_kernel, 9, [2, torch.zeros(9, dtype=torch.int32)], CPU)
                recycled((9,))
                run_in_threads(lambda k: None, 99, 99)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_blocks_end_with_the_longest_tensor_that_kernels_count() -> None:
    """The end of the last block, if it were full, would be beyond int32."""
    count, block = 2**31 - 1, 2**20 + 16
    table = filled(
        Table,
        ends=torch.tensor([-(-count // block)], dtype=torch.int32),
        addresses=torch.tensor([[count, 0]], dtype=torch.int64),
        block=block,
    )
    found = torch.zeros(4, dtype=torch.int64)
    launch(_last_block_kernel, 1, [table, block, count, count // block, found], CPU)
    assert found.tolist() == 2 * [count // block * block, count]


def test_a_wrong_type_is_refused_by_a_kernel_that_has_run() -> None:
    launch(_count_kernel, 4, [1, torch.zeros(4, dtype=torch.int32)], CPU)
    for wrong in (torch.zeros(4), torch.zeros(2, 2, dtype=torch.int32)):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="expects an array with"):
                launch(_count_kernel, 4, [1, wrong], CPU)


def test_a_struct_of_another_kind_is_refused() -> None:
    result = torch.zeros(2)
    arrays = {"values": torch.ones(2), "others": torch.ones(2)}
    for _ in range(2):
        launch(_first_kernel, 2, [filled(Pair, **arrays), result], CPU)
        with pytest.raises(TypeError, match=r"_first_kernel takes _Pair as pair, got _OtherPair"):
            launch(_first_kernel, 2, [filled(OtherPair, **arrays), result], CPU)
    assert torch.equal(result, torch.ones(2))


def test_a_tensor_whose_rows_are_too_far_apart_for_a_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"less than 2\^31 bytes apart, got shape \(3, 536870912\)"):
        filled(Rows, rows=torch.empty(3, 2**29, device="meta"))  # 1.6e9 elements, fewer than 2^31


def test_a_tensor_too_large_for_a_kernel_is_refused_by_one_that_has_run() -> None:
    launch(_nothing_kernel, 4, [torch.zeros(4, dtype=torch.uint8)], CPU)
    with pytest.raises(ValueError, match="exceed"):
        launch(_nothing_kernel, 4, [torch.empty(2**31 + 7, dtype=torch.uint8)], CPU)  # memory that is never written costs nothing


def test_the_code_paths_of_a_gpu_run_on_a_cpu() -> None:
    before = on_cpu(CPU)
    with as_on_a_gpu():
        assert not on_cpu(CPU)
        values = torch.zeros(100, dtype=torch.int32)
        launch(_count_kernel, 100, [2, values], CPU)
        assert torch.equal(values, 2 * torch.arange(100, dtype=torch.int32))
        with as_on_a_gpu():
            pass
        assert not on_cpu(CPU)
    assert on_cpu(CPU) is before
    assert thread_count() >= 1


def test_every_family_of_primitives_has_kernels() -> None:
    assert {name.split(".")[0] for name in KERNELS} >= {"encodings", "raster", "rays"}


def test_the_address_of_an_unfit_tensor_is_refused() -> None:
    values = torch.zeros(4, 4)
    assert address(values, torch.float32) == values.data_ptr() and address(None, torch.float32) == 0
    for unfit in (values.int(), values.T[:2]):
        with pytest.raises(TypeError, match="contiguous torch.float32"):
            address(unfit, torch.float32)


@pytest.mark.skipif(sys.platform == "darwin", reason="Warp has no compiler for CUDA there")
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_a_gpu(name: str, tmp_path: Path) -> None:
    """Without a GPU the source can be compiled for one, not run."""
    importlib.import_module(f"unrender.ops.{name}")
    wp.compile_aot_module(wp.get_module(f"unrender.ops.{name}"), arch=80, module_dir=tmp_path, use_ptx=True)
    assert list(tmp_path.glob("*.ptx"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no owners of files in this form")
def test_kernels_are_cached_in_a_private_folder_where_the_home_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(wp.config, "kernel_cache_dir", None)
    monkeypatch.delenv("WARP_CACHE_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")

    def start() -> None:
        assert "XDG_CACHE_HOME" not in os.environ
        wp.config.kernel_cache_dir = os.environ.get("WARP_CACHE_PATH", "/dev/null/warp")
        Path(wp.config.kernel_cache_dir).mkdir(exist_ok=True)

    monkeypatch.setenv("WARP_CACHE_PATH", "")  # so that it is restored
    start_with_writable_cache(start)
    folder = Path(str(wp.config.kernel_cache_dir))
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
    assert "cannot be cached in /dev/null/warp" in caplog.text and "WARP_CACHE_PATH" in caplog.text
    folder.chmod(0o777)  # as somebody else might have left it
    assert temporary_cache() not in (None, folder)


COMPILES = "import torch; from unrender.ops import frequency_encode; print(frequency_encode(torch.full((2, 3), 0.1), 2).sum().item())"


def compiling(cache: Path) -> subprocess.Popen[str]:
    """A process that compiles a kernel into a cache and prints a result."""
    environment = os.environ | {"WARP_CACHE_PATH": str(cache)}
    return subprocess.Popen([sys.executable, "-c", COMPILES], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """What a process prints that has a cache to itself, and how many seconds it takes."""
    began = time.monotonic()
    printed, _ = compiling(tmp_path_factory.mktemp("alone")).communicate()
    assert float(printed) > 0
    return printed, time.monotonic() - began


@pytest.mark.slow
def test_three_processes_compile_into_one_empty_cache(tmp_path: Path, alone: tuple[str, float]) -> None:
    processes = [compiling(tmp_path) for _ in range(3)]
    assert [(process.communicate()[0], process.returncode) for process in processes] == [(alone[0], 0)] * 3


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.3, 0.5, 0.7, 0.9])
def test_a_process_killed_while_it_compiles_leaves_a_cache_that_works(part: float, tmp_path: Path, alone: tuple[str, float]) -> None:
    killed = compiling(tmp_path)
    time.sleep(part * alone[1])
    killed.kill()
    killed.communicate()
    after = compiling(tmp_path)
    assert (after.communicate()[0], after.returncode) == (alone[0], 0)
