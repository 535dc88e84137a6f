"""Programs that name a GPU, on a machine without one: every idiom gives what a GPU would give, on the CPU."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
import torch.utils.cpp_extension
from torch import Tensor
from torch.signal.windows import hann

from unrender import devices
from unrender.compat.without_cuda import cuda_on_cpu, has_gpu, tensors

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.fixture(autouse=True, scope="module")
def on_cpu() -> Iterator[None]:
    with cuda_on_cpu():
        yield


def cuda_type() -> Any:
    """The class that PyTorch's type stubs do not know."""
    return getattr(torch.cuda, "FloatTensor")  # noqa: B009


CREATED: dict[str, Callable[[], Tensor]] = {
    "zeros": lambda: torch.zeros(2, device="cuda"),
    "a device": lambda: torch.zeros(2, device=torch.device("cuda", 1)),
    "an index": lambda: torch.zeros(2, device=0),
    "tensor": lambda: torch.tensor([0.0, 0.0], device="cuda"),
    "as_tensor": lambda: torch.as_tensor([0.0, 0.0], device="cuda"),
    "asarray": lambda: torch.asarray([0.0, 0.0], device="cuda"),
    "zeros_like": lambda: torch.zeros_like(torch.ones(2), device="cuda:0"),
    "new_zeros": lambda: torch.ones(2).new_zeros(2, device="cuda"),
    "new_tensor": lambda: torch.ones(2).new_tensor([0.0, 0.0], device="cuda"),
    "normal": lambda: 0 * torch.normal(0.0, 1.0, (2,), device="cuda"),
    "generator": lambda: 0 * torch.rand(2, generator=torch.Generator(device="cuda").manual_seed(3), device="cuda"),
    "fftfreq": lambda: 0 * torch.fft.fftfreq(2, device="cuda"),
    "window": lambda: 0 * hann(2, device=torch.device("cuda")),
    "pinned": lambda: torch.zeros(2, pin_memory=True).cuda(non_blocking=True),
    "pin_memory": lambda: torch.zeros(2).pin_memory().to("cuda", non_blocking=True),
    "cuda": lambda: torch.zeros(2).cuda(),
    "cuda by index": lambda: torch.zeros(2).cuda(0),
    "to a name": lambda: torch.zeros(2).to("cuda:1"),
    "to an index": lambda: torch.zeros(2).to(0),
    "to by keyword": lambda: torch.zeros(2, dtype=torch.float64).to(device="cuda", dtype=torch.float32),
    "to with a type": lambda: torch.zeros(2, dtype=torch.float64).to("cuda", torch.float32, True, True),
    "to where it is": lambda: torch.zeros(2).to(torch.zeros(2).get_device()),
    "FloatTensor": lambda: cuda_type()([0.0, 0.0]),
    "type": lambda: torch.zeros(2, dtype=torch.float64).type(cuda_type()),
    "type by name": lambda: torch.zeros(2, dtype=torch.float64).type("torch.cuda.FloatTensor"),
    "storage": lambda: torch.zeros(0).set_(torch.zeros(2).untyped_storage().cuda(), 0, (2,)),  # pyright: ignore[reportCallIssue]
    "Linear": lambda: 0 * torch.nn.Linear(1, 2, bias=False, device="cuda").weight.detach()[:, 0],
    "Module.cuda": lambda: 0 * torch.nn.Linear(1, 2).cuda().bias.detach(),
    "Module.to": lambda: 0 * torch.nn.Linear(1, 2).to("cuda").to(0).to(device="cuda:0").bias.detach(),
    "Module.to_empty": lambda: torch.nn.Linear(1, 2).to_empty(device="cuda").bias.detach().fill_(0),
    "Module.type": lambda: 0 * torch.nn.Linear(1, 2).double().type("torch.cuda.FloatTensor").bias.detach(),
    "DataParallel": lambda: 0 * torch.nn.DataParallel(torch.nn.Linear(1, 2), device_ids=[0]).cuda()(torch.ones(1, 1).cuda()).detach()[0],
    "sparse": lambda: torch.sparse_coo_tensor(
        torch.zeros(1, 1, dtype=torch.long), torch.zeros(1), (2,), device="cuda", check_invariants=True
    ).to_dense(),
}


@pytest.mark.parametrize("name", CREATED)
def test_what_is_put_on_a_gpu_is_on_the_cpu(name: str) -> None:
    tensor = CREATED[name]()
    assert tensor.device == torch.device("cpu") == torch.device("cuda:0") and tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.zeros(2))


def test_other_devices_and_types_stay() -> None:
    assert torch.zeros(2, device="meta").cuda().device.type == "meta"
    assert torch.zeros(2).to(torch.float64).dtype == torch.float64
    assert torch.device("meta").type == "meta" and torch.device("cpu").type == "cpu"


def test_default_devices_hold_and_end() -> None:
    with torch.device("cuda:0"):
        assert torch.zeros(2).device.type == "cpu"
    torch.set_default_device("cuda")
    assert torch.get_default_device().type == "cpu" and torch.zeros(2).device.type == "cpu"
    torch.set_default_device(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_default_tensor_type("torch.cuda.DoubleTensor")
        assert torch.zeros(2).dtype == torch.float64
        torch.set_default_tensor_type(cuda_type())
    assert torch.zeros(2).dtype == torch.float32


def test_a_device_remains_a_device() -> None:
    device = torch.device("cuda", 0)
    assert isinstance(device, torch.device) and isinstance(torch.zeros(1).device, torch.device)
    assert pickle.loads(pickle.dumps(device)) == copy.deepcopy(device) == device
    assert pickle.loads(pickle.dumps(torch.zeros)) is torch.zeros and pickle.loads(pickle.dumps(torch.device)) is torch.device
    assert {type(device): 1}[torch.device] == 1  # PyTorch looks types up in dictionaries
    generator = torch.Generator("cuda")
    assert isinstance(generator, torch.Generator) and isinstance(torch.default_generator, torch.Generator)
    assert isinstance(torch.zeros(1), cuda_type())


# Where PyTorch or the program runs code elsewhere


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * torch.full((1,), 2.0, device="cuda")


def leaf() -> Tensor:
    return torch.ones(1, device="cuda", requires_grad=True)


def add_one(tensor: Tensor) -> None:
    assert tensor.grad is not None
    tensor.grad += torch.ones(1, device="cuda")


def test_backward_passes_hooks_and_checkpoints_name_a_gpu() -> None:
    x = leaf()
    Doubling.apply(x).backward()
    torch.autograd.backward(Doubling.apply(x))
    assert x.grad is not None and x.grad.item() == 4
    assert torch.autograd.grad(Doubling.apply(x), x)[0].item() == 2
    y = leaf()
    y.register_hook(lambda grad: grad * torch.full((1,), 3.0).cuda())
    y.register_post_accumulate_grad_hook(add_one)
    (5 * y).backward()
    assert y.grad is not None and y.grad.item() == 16
    for reentrant in (True, False):
        z = leaf()
        torch.utils.checkpoint.checkpoint(lambda t: t * torch.full((1,), 7.0, device="cuda"), z, use_reentrant=reentrant).backward()
        assert z.grad is not None and z.grad.item() == 7


def test_threads_and_their_backward_passes_name_a_gpu() -> None:
    def gradient() -> float:
        x = leaf()
        Doubling.apply(x.cuda()).backward()
        assert x.grad is not None
        return x.grad.item()

    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(gradient()))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(2) as pool:
        found += [future.result() for future in [pool.submit(gradient) for _ in range(3)]]
    assert found == [2] * 4


class OnGpu(torch.utils.data.Dataset[Tensor]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((3,), float(index), device="cuda")


@pytest.mark.parametrize("workers", [0, 1])
def test_data_loaders_name_a_gpu(workers: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about fork in a process with threads
        batches = list(torch.utils.data.DataLoader(OnGpu(), num_workers=workers, pin_memory=True, pin_memory_device="cuda"))
    assert torch.equal(torch.cat(batches), torch.tensor([[0.0] * 3, [1.0] * 3]))


# Copies, as a GPU has memory of its own


def test_what_went_to_the_gpu_does_not_change_with_its_source() -> None:
    array, source = np.zeros(3, np.float32), torch.zeros(3)
    moved = [
        torch.from_numpy(array).cuda(),
        torch.as_tensor(array, device="cuda"),
        torch.from_numpy(array).to("cuda"),
        source.cuda(),
        source.to("cuda"),
    ]
    for tensor in moved:
        tensor.add_(1)
    assert not array.any() and not source.any()


def test_what_came_from_the_gpu_is_a_record() -> None:
    tensor = torch.zeros(3, device="cuda", requires_grad=True)
    records = [tensor.detach().cpu(), tensor.detach().to("cpu"), tensor.detach().cpu().numpy(), tensor.data.cpu()]
    with torch.no_grad():
        tensor += 1
    assert not any(record.any() for record in records)


def test_parameters_that_are_moved_stay_what_they_are() -> None:
    tensor = torch.zeros(3, device="cuda", requires_grad=True)
    assert tensor.cuda() is tensor.to("cuda") is tensor
    module = torch.nn.Linear(2, 2)
    weight = module.weight
    assert module.cuda().to("cuda").weight is weight
    frozen = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    assert frozen.cuda() is frozen


# torch.cuda


def test_a_program_is_told_there_is_a_gpu_and_pytorch_is_not() -> None:
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1 and torch.cuda.is_initialized()
    assert devices.select_device(None).type == "cpu"
    with torch.random.fork_rng():
        pass
    with torch.random.fork_rng(devices=[0]):
        torch.cuda.manual_seed(1)


def test_a_program_can_be_told_that_there_is_none() -> None:
    with cuda_on_cpu(answers_yes=False):
        torch.cuda.synchronize()
        assert torch.zeros(1).cuda().device.type == "cpu"


def test_what_waits_chooses_or_marks_does_nothing() -> None:
    torch.cuda.init()
    torch.cuda.synchronize()
    torch.cuda.synchronize(torch.device("cuda"))
    torch.cuda.set_device("cuda:0")
    assert torch.cuda.current_device() == 0
    with torch.cuda.device(0), torch.cuda.device("cuda:0"), torch.cuda.device_of(torch.zeros(1)):
        torch.zeros(1, device="cuda")
    torch.cuda.empty_cache()
    torch.cuda.ipc_collect()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.nvtx.range_push("step")
    torch.cuda.nvtx.range_pop()
    with torch.cuda.nvtx.range("step"):
        torch.cuda.nvtx.mark("here")
    torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.zeros(1).record_stream(torch.cuda.current_stream())  # pyright: ignore[reportCallIssue]
    with torch.autograd.profiler.emit_nvtx():
        torch.zeros(1)


def test_streams_and_events_follow_the_clock() -> None:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert torch.cuda.current_stream() is side
    torch.cuda.current_stream().wait_stream(side)
    assert torch.cuda.current_stream() is torch.cuda.default_stream() is not side and side.query()
    with torch.cuda.stream(None), side:
        assert torch.cuda.current_stream() is side
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with pytest.raises(RuntimeError, match="must be recorded"):
        start.elapsed_time(end)
    start.record()
    time.sleep(0.02)
    side.record_event(end)
    end.synchronize()
    side.wait_event(end)
    assert 20 <= start.elapsed_time(end) < 2000 and end.query()


def test_memory_and_properties_are_those_of_this_machine() -> None:
    free, total = torch.cuda.mem_get_info()
    assert 0 < free <= total
    used = torch.cuda.memory_allocated()
    assert 2**25 < used <= torch.cuda.max_memory_allocated() <= total
    assert torch.cuda.memory_reserved() > 0 and torch.cuda.memory_stats()["allocated_bytes.all.peak"] > 0
    assert "MB" in torch.cuda.memory_summary()
    properties = torch.cuda.get_device_properties(0)
    assert properties.total_memory == total and properties.multi_processor_count == devices.usable_cores()
    assert (properties.major, properties.minor) == torch.cuda.get_device_capability("cuda") == (8, 0)
    assert properties.name == torch.cuda.get_device_name() and torch.cuda.is_bf16_supported()


def test_seeding_the_gpu_makes_its_numbers_repeat() -> None:
    found = []
    for seed in (torch.cuda.manual_seed, torch.cuda.manual_seed_all):
        seed(5)
        found.append(torch.rand(3, device="cuda"))
    state = torch.cuda.get_rng_state()
    found_later = torch.rand(3, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.equal(*found) and torch.equal(found_later, torch.rand(3, device="cuda")) and torch.cuda.initial_seed() == 5


# Training


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_autocast_computes_in_float32_and_mixes_types() -> None:
    half, single = torch.ones(2, 2, device="cuda").half(), torch.ones(2, 2, device="cuda")
    for region in (torch.cuda.amp.autocast(), torch.autocast("cuda"), torch.amp.autocast(device_type="cuda", dtype=torch.bfloat16)):
        with region:
            assert torch.is_autocast_enabled()
            assert torch.equal(half @ single, torch.full((2, 2), 2.0))
            recomputed = torch.utils.checkpoint.checkpoint(lambda x: half @ x, single.clone().requires_grad_(), use_reentrant=False)
            recomputed.sum().backward()
        assert not torch.is_autocast_enabled()
    with torch.autocast("cuda", enabled=False), pytest.raises(RuntimeError):
        torch.mm(half, single)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_gradient_scaling_is_the_identity() -> None:
    for scaler in (torch.cuda.amp.GradScaler(), torch.amp.GradScaler("cuda"), torch.amp.GradScaler(init_scale=8.0)):
        x = torch.nn.Parameter(torch.ones(1, device="cuda"))
        optimizer = torch.optim.SGD([x], lr=0.5)
        scaler.scale(3 * x).sum().backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert x.item() == -0.5 and scaler.get_scale() == 1


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_custom_functions_cast_their_inputs() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        @torch.cuda.amp.custom_fwd(cast_inputs=torch.float32)
        def forward(ctx: Any, x: Tensor) -> Tensor:
            assert x.dtype == torch.float32 and not torch.is_autocast_enabled()
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @torch.cuda.amp.custom_bwd
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return 2 * ctx.saved_tensors[0] * grad

    x = torch.full((1,), 3.0, dtype=torch.float16, device="cuda", requires_grad=True)
    with torch.autocast("cuda"):
        Square.apply(x).backward()
    assert x.grad is not None and x.grad.item() == 6 and x.grad.dtype == torch.float16


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop])
def test_optimizers_for_graphs_step(kind: Callable[..., torch.optim.Optimizer]) -> None:
    expected, found = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    for parameter, options in ((expected, {}), (found, {"capturable": True})):
        optimizer = kind([parameter], lr=0.1, **options)
        saved = optimizer.state_dict()
        for group in saved["param_groups"]:  # as saved on a machine with a GPU
            group["capturable"] = bool(options)
        optimizer.load_state_dict(saved)
        parameter.sum().backward()
        optimizer.step()
    assert torch.equal(expected, found) and not torch.equal(found, torch.ones(3))


def test_fused_optimizers_step() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, device="cuda"))
    parameter.sum().backward()
    torch.optim.Adam([parameter], lr=0.1, fused=True).step()
    torch.testing.assert_close(parameter, torch.full((3,), 0.9))


def test_checkpoints_load_to_any_gpu() -> None:
    file = io.BytesIO()
    torch.save({"weight": torch.arange(3.0), "device": torch.device("cuda")}, file)
    places: list[Any] = ["cuda", "cuda:1", torch.device("cuda"), {"cpu": "cuda:0"}, lambda storage, location: storage.cuda(0), None]
    for place in places:
        file.seek(0)
        loaded = torch.load(file, map_location=place)
        assert torch.equal(loaded["weight"], torch.arange(3.0)) and loaded["device"].type == "cpu"
    assert torch.serialization.default_restore_location(torch.zeros(1).untyped_storage(), "cuda:3").device.type == "cpu"


def scripted(x: Tensor) -> Tensor:
    return x * 2 + torch.ones(2, device="cuda")


def scripted_plainly(x: Tensor) -> Tensor:
    return x * 2 + torch.ones(2)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_scripts_run_with_a_gpu_in_their_source_too(tmp_path: Path) -> None:
    for function in (scripted, scripted_plainly):
        assert torch.equal(torch.jit.script(function)(torch.ones(2)), torch.full((2,), 3.0))
    torch.jit.save(torch.jit.script(scripted_plainly), str(tmp_path / "f.pt"))
    assert torch.equal(torch.jit.load(str(tmp_path / "f.pt"), map_location="cuda")(torch.ones(2)), torch.full((2,), 3.0))


# What cannot be served


def call(name: str, *arguments: object) -> object:
    return getattr(torch.cuda, name)(*arguments)


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: call("CUDAGraph"), "torch.cuda.CUDAGraph"),
        (lambda: call("graph", None), "torch.cuda.graph"),
        (lambda: call("cudart"), "torch.cuda.cudart"),
        (lambda: call("current_blas_handle"), "torch.cuda.current_blas_handle"),
        (lambda: call("caching_allocator_alloc", 8), "cudaCachingAllocator"),
        (lambda: torch.distributed.init_process_group("nccl"), "backend nccl .* use the backend .gloo."),
        (lambda: torch.distributed.init_process_group(backend="cpu:gloo,cuda:nccl"), "backend nccl"),
        (lambda: torch.utils.cpp_extension.load("plugin", ["a.cpp", "b.cu"]), "the CUDA extension 'plugin'"),
        (lambda: torch.utils.cpp_extension.load_inline("plugin", "", cuda_sources="x"), "the CUDA extension 'plugin'"),
    ],
)
def test_what_needs_a_gpu_says_so_and_where_to_read(call: Callable[[], object], name: str) -> None:
    with pytest.raises((RuntimeError, AttributeError), match=f"{name}.*docs/nvdiffrast.md") as caught:
        call()
    assert "\n" not in str(caught.value)


# The replacement itself


def test_everything_is_restored() -> None:
    assert not has_gpu()
    before = (torch.zeros, torch.device, torch.Generator, torch.cuda.is_available, torch.cuda.Event, Tensor.to)
    with cuda_on_cpu():
        assert torch.zeros is not before[0]
    assert (torch.zeros, torch.device, torch.Generator, torch.cuda.is_available, torch.cuda.Event, Tensor.to) == before


def test_every_function_of_pytorch_that_takes_a_device_is_replaced() -> None:
    """Read from the schemas of the installed version, so that a new function of PyTorch is noticed."""
    schemas = torch._C._jit_get_all_schemas()
    taking = {schema.name.removeprefix("aten::") for schema in schemas if any(a.name == "device" for a in schema.arguments)}
    functions = {name for name in taking if not name.startswith("_") and getattr(torch, name, None) is not None}
    assert functions - set(tensors.CREATING) - {"Generator"} == set()
    methods = {name for name in taking if not name.startswith("_") and getattr(Tensor, name, None) is not None}
    assert methods - set(tensors.CREATING_LIKE) - {"to", "pin_memory"} == set()
