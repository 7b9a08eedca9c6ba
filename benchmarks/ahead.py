"""Devices that one does not have, to compile for: what the scripts beside this one measure memory on."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
from jax.experimental import topologies

from prefjax.ops import head_gpu

# What the compiler asks of an H100: a stream_executor.GpuTargetConfigProto as text
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_core: 233472 shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  device_memory_size: 84942979072 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
}
"""


def devices_of(topology: str) -> tuple[str, list]:
    """("tpu" or "cuda", the devices), after which the library writes its programs for them."""
    kind, _, size = topology.partition(":")
    if kind == "h100":
        jax.default_backend = lambda: "gpu"
        head_gpu.capability = lambda: (9, 0)
        return "cuda", topologies.get_topology_desc(kind, "cuda", target_config=H100, topology=size).devices
    jax.default_backend = lambda: "tpu"
    return "tpu", topologies.get_topology_desc(topology_name=topology, platform="tpu").devices


def compiled(fn, *args, platform: str):
    """The memory that a device takes of `fn(*args)`, jitted, as compiled for where `args` lie."""
    return fn.trace(*args).lower(lowering_platforms=(platform,)).compile().memory_analysis()
