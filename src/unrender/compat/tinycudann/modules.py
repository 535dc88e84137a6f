"""The modules of tiny-cuda-nn's PyTorch interface: :class:`Encoding`, :class:`Network`, :class:`NetworkWithInputEncoding`.

All is computed in float32 on the device of the input, or in float64 after ``.double()``, and differentiable at least twice. Without a
``dtype`` results are float32, where tiny-cuda-nn has half precision on most GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.compat.tinycudann.descriptions import encoding_from, network_from
from unrender.compat.tinycudann.encodings import Identity, InputEncoding
from unrender.compat.tinycudann.lattices import Grid
from unrender.compat.tinycudann.networks import Perceptron
from unrender.compat.without_cuda import has_gpu
from unrender.ops.encodings import encoded_mlp
from unrender.ops.kernels.checks import Arguments

__all__ = ["Encoding", "Module", "Network", "NetworkWithInputEncoding", "free_temporary_memory", "supports_jit_fusion"]

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def free_temporary_memory() -> None:
    """Do nothing: no memory is kept between calls."""


def supports_jit_fusion() -> bool:
    """Tell that ``jit_fusion`` may be set; it has no effect."""
    return False


class NativeModule:
    """What programs ask of ``native_tcnn_module``, the compiled half of a module of tiny-cuda-nn."""

    def __init__(self, module: Module) -> None:
        """Answer for a module."""
        self._module = module

    def initial_params(self, seed: int) -> Float[Tensor, " parameters"]:
        """Draw initial parameters, on the device of the module."""
        return self._module.initial(seed).to(self._module.params.device)

    def hyperparams(self) -> dict[str, Any]:
        """Return the descriptions of encoding and network."""
        return dict(self._module.descriptions)

    def n_params(self) -> int:
        """Return the number of parameters."""
        return self._module.params.numel()

    def n_input_dims(self) -> int:
        """Return the number of inputs."""
        return self._module.n_input_dims

    def n_output_dims(self) -> int:
        """Return the number of outputs, with the padded ones of a network."""
        return self._module.padded_output_dims


class Module(nn.Module):
    """A map of rows of numbers with one vector of trainable parameters: an encoding, and a network on it if there is one."""

    params: nn.Parameter
    """All parameters, float32: the weight matrices of the network, then the features of the encoding."""
    jit_fusion: bool = False
    """Has no effect."""
    loss_scale: float = 1.0
    """Has no effect: gradients in float32 need no scale."""

    def __init__(
        self,
        encoding: InputEncoding,
        network: Perceptron | None,
        descriptions: Mapping[str, Any],
        seed: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the parameters, on the GPU if there is one."""
        super().__init__()
        self._encoding, self._network, self.descriptions = encoding, network, descriptions
        self.n_input_dims = encoding.inputs
        self.n_output_dims = network.outputs if network else encoding.outputs
        self.padded_output_dims = network.shapes[-1][0] if network else encoding.outputs
        self.seed = Arguments(type(self).__name__).integer(seed, "seed", -(2**63), 2**64 - 1)
        if dtype is not None and dtype not in _FLOATS:
            raise ValueError(f"{type(self).__name__} takes a floating type as dtype, got {dtype}")
        self.dtype = dtype or torch.float32
        self.params = nn.Parameter(self.initial(self.seed).to(_device()))

    def initial(self, seed: int) -> Float[Tensor, " parameters"]:
        """Draw initial parameters, float32 on the CPU; the same for a seed on every device."""
        generator = torch.Generator("cpu").manual_seed(seed)
        weights = self._network.initial(generator) if self._network else torch.zeros(0, device="cpu")
        return torch.cat([weights, self._encoding.initial(generator)])

    @property
    def native_tcnn_module(self) -> NativeModule:
        """Answers to what programs ask of the compiled half."""
        return NativeModule(self)

    def forward(self, x: Float[Tensor, "points inputs"]) -> Float[Tensor, "points outputs"]:
        """Map rows.

        Args:
            x: ``[points, n_input_dims]``, any floating type, on any device: the result is on the same.

        Returns:
            ``[points, n_output_dims]`` of :attr:`dtype`, or float64 after ``.double()``.

        Raises:
            ValueError: for another shape or type.
        """
        x = Arguments(type(self).__name__).tensor(x, "x", _FLOATS, ("points", (self.n_input_dims, "n_input_dims")))
        precise = self.params.dtype == torch.float64
        compute = torch.float64 if precise else torch.float32
        weights, features = self.params.to(x.device, compute).split(
            [self._network.parameters if self._network else 0, self._encoding.parameters]
        )
        result = self._result(x.to(compute), weights, features)
        return result if precise else result.to(self.dtype)

    def _result(self, x: Tensor, weights: Tensor, features: Tensor) -> Tensor:
        """Encode points and apply the network, as one operation where there is one."""
        encoding, network = self._encoding, self._network
        if network is None:
            return encoding.encode(x, features)
        grid = encoding.twin if isinstance(encoding, Grid) and x.dtype == torch.float32 else None
        if grid is None or not network.is_mlp:
            return network.apply(encoding.encode(x, features), weights, encoding.padding)
        outputs, _ = encoded_mlp(x, features.view(-1, grid.features), grid, *network.layers(weights, encoding.padding))
        return network.finish(outputs)

    def extra_repr(self) -> str:
        """Return the sizes for ``repr``."""
        return f"n_input_dims={self.n_input_dims}, n_output_dims={self.n_output_dims}, seed={self.seed}, dtype={self.dtype}"


def _device() -> torch.device:
    """Return where modules of tiny-cuda-nn would be: on the GPU if there is one, unless PyTorch has another default device."""
    default = torch.get_default_device()
    return torch.device("cuda", torch.cuda.current_device()) if default.type == "cpu" and has_gpu() else default


class Encoding(Module):
    """An encoding of inputs, normally in [0, 1], as its description says."""

    def __init__(self, n_input_dims: int, encoding_config: Mapping[str, Any], seed: int = 1337, dtype: torch.dtype | None = None) -> None:
        """Make the encoding and draw its parameters.

        Args:
            n_input_dims: numbers per point.
            encoding_config: its JSON description: ``otype`` and the keys of that type.
            seed: for the initial parameters.
            dtype: type of the result; by default float32.

        Raises:
            ValueError: for an unknown ``otype``, a misspelled key, or sizes that are impossible.

        >>> wave = Encoding(1, {"otype": "Frequency", "n_frequencies": 2})
        >>> wave(torch.tensor([[0.5]]))[0, 0].item(), wave.n_output_dims                    # sin(pi / 2)
        (1.0, 4)
        """
        super().__init__(encoding_from(n_input_dims, encoding_config), None, dict(encoding_config), seed, dtype)
        self.encoding_config = encoding_config


class Network(Module):
    """A perceptron without biases; ones in the padded inputs act as a bias of its first layer."""

    def __init__(self, n_input_dims: int, n_output_dims: int, network_config: Mapping[str, Any], seed: int = 1337) -> None:
        """Make the network and draw its weights.

        Args:
            n_input_dims: inputs.
            n_output_dims: outputs.
            network_config: its JSON description: ``otype`` and the keys of that type.
            seed: for the initial weights.

        Raises:
            ValueError: as :class:`Encoding`.

        >>> Network(2, 3, {"otype": "CutlassMLP", "n_neurons": 8, "n_hidden_layers": 1}).params.shape    # 8 x 8 and 8 x 8, padded
        torch.Size([128])
        """
        network = network_from(n_input_dims, n_output_dims, network_config)
        super().__init__(Identity(n_input_dims), network, dict(network_config), seed)
        self.network_config = network_config


class NetworkWithInputEncoding(Module):
    """A perceptron on an encoding of its inputs."""

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        encoding_config: Mapping[str, Any],
        network_config: Mapping[str, Any],
        seed: int = 1337,
    ) -> None:
        """Make both and draw their parameters.

        Args:
            n_input_dims: inputs of the encoding.
            n_output_dims: outputs of the network.
            encoding_config: description of the encoding.
            network_config: description of the network.
            seed: for the initial parameters.

        Raises:
            ValueError: as :class:`Encoding`.
        """
        encoding = encoding_from(n_input_dims, encoding_config)
        network = network_from(encoding.outputs, n_output_dims, network_config)
        super().__init__(encoding, network, {"encoding": encoding_config, "network": network_config}, seed)
        self.encoding_config, self.network_config = encoding_config, network_config
