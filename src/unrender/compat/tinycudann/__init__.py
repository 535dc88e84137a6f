"""The PyTorch interface of tiny-cuda-nn 2.0 (Müller 2021), for tensors on a CPU or a GPU.

The descriptions of encodings and networks are those of its documentation; ``docs/neural_fields.md`` lists what is equal and what differs.

>>> from unrender.compat import tinycudann as tcnn
>>> grid = {"otype": "HashGrid", "n_levels": 4, "log2_hashmap_size": 12, "base_resolution": 8}
>>> network = {"otype": "FullyFusedMLP", "activation": "ReLU", "n_neurons": 32, "n_hidden_layers": 2}
>>> model = tcnn.NetworkWithInputEncoding(n_input_dims=2, n_output_dims=3, encoding_config=grid, network_config=network)
>>> model.params.shape, model.n_output_dims          # 16 x 32 + 32 x 32 + 32 x 16 weights, then 64 + 256 + 1024 + 4096 entries of 2
(torch.Size([12928]), 3)
"""

from __future__ import annotations

from unrender.compat.tinycudann.modules import (
    Encoding,
    Module,
    Network,
    NetworkWithInputEncoding,
    free_temporary_memory,
    supports_jit_fusion,
)

__all__ = ["Encoding", "Module", "Network", "NetworkWithInputEncoding", "free_temporary_memory", "supports_jit_fusion"]
