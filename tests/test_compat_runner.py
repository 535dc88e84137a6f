"""``python -m unrender.compat`` runs a program as ``python`` does, and the processes that it starts too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

COMPAT = ["-m", "unrender.compat"]


def run_python(*arguments: str, cwd: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=environment, input=text)


ABOUT_ITSELF = """
import sys, __main__
print(__name__, __package__, sorted(set(vars(__main__)) - {"sys", "__main__"}), __main__ is sys.modules["__main__"])
print(sys.argv, sys.path, globals().get("__file__"), __spec__ and __spec__.name, type(__loader__).__name__)
"""


CHAINED = """
def f():
    raise ValueError("deep")
try:
    f()
except ValueError as error:
    raise KeyError(1) from error
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of programs."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "train.py").write_text(ABOUT_ITSELF + "from . import data\n")
    (tmp_path / "package" / "data.py").write_text("print('data', __name__)\n")
    (tmp_path / "package" / "__main__.py").write_text(ABOUT_ITSELF)
    (tmp_path / "program.py").write_text(ABOUT_ITSELF)
    (tmp_path / "package" / "fails.py").write_text("def f():\n    raise ValueError('in a module')\nf()\n")
    (tmp_path / "fails.py").write_text(CHAINED)
    (tmp_path / "broken.py").write_text("x = 1\ny = = 2\n")
    (tmp_path / "ends.py").write_text("import atexit, sys\natexit.register(print, 'at exit')\nsys.exit(int(sys.argv[1]))\n")
    (tmp_path / "says.py").write_text("raise SystemExit('a sentence')\n")
    (tmp_path / "hooked.py").write_text("import sys\nsys.excepthook = lambda kind, e, tb: print(kind, tb.tb_frame.f_code.co_name)\n1 / 0\n")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "link.py").symlink_to(tmp_path / "program.py")
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nprint('\xe9')\n".encode("latin-1"))
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["program.py", "--steps", "2"],
        ["./linked/link.py"],
        ["-m", "package.train", "-c", "x"],
        ["-m", "package"],
        ["package"],
        ["-c", ABOUT_ITSELF, "1", "-m"],
        ["-", "a"],
        ["fails.py"],
        ["-m", "package.fails"],
        ["-m", "package.missing"],
        ["broken.py"],
        ["missing.py"],
        ["ends.py", "7"],
        ["ends.py", "0"],
        ["says.py"],
        ["hooked.py"],
        ["latin.py"],
        ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)"],
    ],
    ids=lambda arguments: " ".join(arguments)[:20].replace("\n", " "),
)
def test_a_program_cannot_tell_who_runs_it(arguments: list[str], folder: Path) -> None:
    text = ABOUT_ITSELF if arguments[0] == "-" else None
    plain, ours = (run_python(*before, *arguments, cwd=folder, text=text) for before in ([], COMPAT))
    assert ours.stdout == plain.stdout
    assert ours.stderr == plain.stderr
    assert ours.returncode == plain.returncode
    if "SIGINT" in arguments[-1]:
        assert plain.returncode == -signal.SIGINT


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-m"], ["-c"], ["--unknown", "program.py"]])
def test_the_command_says_what_it_wants(arguments: list[str], folder: Path) -> None:
    done = run_python(*COMPAT, *arguments, cwd=folder)
    assert done.returncode == (0 if arguments == ["--help"] else 2)
    assert "PROGRAM.py" in done.stdout + done.stderr


CHILDREN = """
import multiprocessing, os, subprocess, sys

def in_child(queue):
    import nvdiffrast.torch
    queue.put(nvdiffrast.torch.__name__)

if __name__ == "__main__":
    code = "import nvdiffrast, sys; print(nvdiffrast.__version__, 'torch' in sys.modules, any('children' in p for p in sys.path))"
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    print(subprocess.run("python3 -c 'print(1)'", shell=True, capture_output=True, text=True, check=True).stdout.strip())
    hidden = subprocess.run([sys.executable, "-c", "import sitecustomize; print(sitecustomize.marker)"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"] + os.pathsep + os.getcwd()})
    print(hidden.stdout.strip(), hidden.stderr)
    isolated = subprocess.run([sys.executable, "-I", "-c", "import nvdiffrast"], capture_output=True, text=True)
    print("isolated", isolated.returncode)
"""

WITH_TORCH = """
import sys, threading
import torch.multiprocessing as multiprocessing
import torch
import nvdiffrast.torch as dr
from concurrent.futures import ThreadPoolExecutor

def coverage():
    pos = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]], device="cuda", requires_grad=True)
    tri = torch.tensor([[0, 1, 2]], dtype=torch.int32).cuda()
    rast, _ = dr.rasterize(dr.RasterizeCudaContext(device="cuda"), pos, tri, (4, 4))
    rast[..., 0].sum().backward()
    try:
        refused = not dr.texture_construct_mip(torch.rand(1, 3, 5, 1))
    except ValueError:
        refused = True
    return int(rast[..., 3].sum()), bool(pos.grad.any()), torch.cuda.is_available(), refused

def in_child(queue):
    queue.put(coverage())

class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return torch.full((1,), float(index), device="cuda").cuda()

if __name__ == "__main__":
    print("here", coverage())
    print("thread", ThreadPoolExecutor(1).submit(coverage).result())
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=in_child, args=(queue,))
        process.start()
        print(method, queue.get())
        process.join()
    print("loader", [batch.item() for batch in torch.utils.data.DataLoader(Items(), num_workers=1, pin_memory=True)])
    raise SystemExit(3)
"""


def test_children_of_python_find_the_stand_in(folder: Path) -> None:
    (folder / "children_program.py").write_text(CHILDREN)
    (folder / "sitecustomize.py").write_text("marker = 'hidden one'\n")
    done = run_python(*COMPAT, "children_program.py", cwd=folder)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["0.4.0 False False", "1", "hidden one ", "isolated 1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_children_and_workers_name_a_gpu_and_know_the_options(folder: Path) -> None:
    (folder / "workers.py").write_text(WITH_TORCH)
    done = run_python(*COMPAT, "--no-cuda", "--strict", "workers.py", cwd=folder)
    assert done.returncode == 3, done.stderr
    seen = "(16, True, False, True)"
    expected = [f"here {seen}", f"thread {seen}", f"fork {seen}", f"spawn {seen}", "loader [0.0, 1.0]"]
    assert done.stdout.splitlines() == expected


def test_an_installed_or_half_installed_nvdiffrast_is_replaced(folder: Path) -> None:
    (folder / "nvdiffrast").mkdir()
    program = "import nvdiffrast; print(nvdiffrast.__version__)"
    assert run_python(*COMPAT, "-c", program, cwd=folder).stdout == "0.4.0\n"  # a folder, as of a submodule that was not fetched
    (folder / "nvdiffrast" / "__init__.py").write_text("__version__ = 'installed'\n")
    assert run_python(*COMPAT, "-c", program, cwd=folder).stdout == "0.4.0\n"


IDIOMS = """
import warnings
import nvdiffrast.torch.ops as ops
from nvdiffrast.torch import *
import nvdiffrast.torch as dr
from nvdiffrast.torch.ops import _cached_plugin
import nvdiffrast
assert nvdiffrast.torch is dr and dr.ops is ops and rasterize is dr.rasterize is ops.rasterize
assert nvdiffrast.__version__ == "0.4.0"
ops._get_plugin(); dr.ops._get_plugin(gl=True); assert _cached_plugin[True] is dr.ops._get_plugin(gl=True)
try:
    ops._get_plugin().RasterizeCRStateWrapper
except AttributeError as error:
    assert "call the functions of nvdiffrast.torch" in str(error)
import torch
assert torch.cuda.is_available()
contexts = [RasterizeCudaContext(), RasterizeCudaContext(device="cuda"), RasterizeCudaContext(0),
    RasterizeCudaContext(torch.device("cuda")), RasterizeGLContext(), RasterizeGLContext(output_db=False, mode="manual", device="cuda")]
contexts[-1].set_context(); contexts[-1].release_context(); dr.set_log_level(3); assert dr.get_log_level() == 3
pos = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]]).cuda(); tri = torch.tensor([[0, 1, 2]], dtype=torch.int32).cuda()
for context in contexts:
    assert rasterize(context, pos, tri, resolution=[4, 4], ranges=torch.zeros(0, 2, dtype=torch.int32))[0][..., 3].sum() == 16
with DepthPeeler(contexts[0], pos, tri, (4, 4), ranges=torch.tensor([[0, 1]])) as peeler:
    assert [int(peeler.rasterize_next_layer()[0][..., 3].sum()) for _ in range(2)] == [16, 0]
rast, _ = rasterize(contexts[0], pos, tri, (4, 4))
assert antialias(torch.ones(1, 4, 4, 1), rast, pos, tri, antialias_construct_topology_hash(tri)).sum() == 16
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    texture(torch.rand(1, 12, 6, 1), torch.rand(1, 2, 2, 2), mip_level_bias=torch.ones(1, 2, 2))
    texture_construct_mip(torch.rand(1, 3, 5, 1))  # here
assert [w.filename for w in caught] == [__file__] * 2, caught
lines = open(__file__).read().splitlines()
assert "mip_level_bias" in lines[caught[0].lineno - 1] and "# here" in lines[caught[1].lineno - 1]
assert "after level 1 of 6 x 3" in str(caught[0].message) and "max_mip_level=0" in str(caught[1].message)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("default")
    for _ in range(2):
        torch.tensor(torch.zeros(2), device="cuda")  # one line
    torch.tensor(torch.zeros(2))  # another
assert [(w.filename, lines[w.lineno - 1].rpartition("# ")[2]) for w in caught] == [(__file__, "one line"), (__file__, "another")]
print("ran")
"""


def test_every_way_to_import_and_to_call_runs(folder: Path) -> None:
    (folder / "idioms.py").write_text(IDIOMS)
    done = run_python(*COMPAT, "idioms.py", cwd=folder)
    assert (done.stdout, done.stderr) == ("ran\n", "")
