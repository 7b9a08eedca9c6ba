"""Causal attention by jax's kernel for TPUs ("splash": sparse flash attention), under the masks of packed rows.

The kernel reads the mask in blocks: blocks that nobody may look at are skipped, and blocks that everybody may look at
are not read. What is data there, which example and response each token belongs to, is a dynamic mask of each row.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from prefjax.models import placement

DTYPES = ("float32", "bfloat16")  # what the kernel computes
BLOCK = 512  # the most columns of a block: its logits, mask, queries and keys lie in a core's own memory
LONGEST = 8192  # columns of a row whose mask, which the kernel reads as int32, takes 256 MB
_LANES = 128  # the kernel wants whole ones along a row
_KEPT = "splash"  # names what is kept for the backward pass


def usable(dtype: Any, queries: int, keys: int) -> bool:
    """Whether the kernel is to be called: for a dtype it knows, not too long, and cut over devices by `placement`."""
    fits = jnp.dtype(dtype).name in DTYPES and queries * keys <= LONGEST**2
    return fits and (jax.device_count() == 1 or placement.placed())


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    block: int = BLOCK,
    interpret: bool | None = None,
) -> jax.Array:
    """softmax(softcap(scale q k^T) + mask) v by the kernel; reverse mode only.

    The softmax is float32; products of float32 are as precise as `jax.default_matmul_precision` says. On a mesh each
    device runs its own rows, heads and queries (`placement.attention`). For the backward pass q, k, v, the output and
    its log-sum-exp are kept, and no array of queries by keys beside the caller's mask; a pass holds the mask of a row
    as int32.

    Args:
      q: [B, H, T, head_dim]; k, v: [B, KV, S, head_dim] with H a multiple of KV.
      mask: bool [B or 1, T, S]. Lengths and head_dim are padded to what the kernel wants.
      scale, softcap: as in `prefjax.models.attention.attend`.
      block: the most columns of a block.
      interpret: whether jax interprets the kernel, slowly; None for: where the default device is no TPU.

    Returns:
      [B, H, T, head_dim]; 0 where a query sees nothing.

    Raises:
      ValueError: a dtype that is not in DTYPES.
    """
    if q.dtype.name not in DTYPES:
        raise ValueError(f"splash attention computes {' and '.join(DTYPES)}, not {q.dtype}")
    interpret = jax.default_backend() != "tpu" if interpret is None else interpret
    here = functools.partial(_here, scale=scale, softcap=softcap, block=block, interpret=interpret)

    def spread(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        return placement.attention(here, (q,), (k, v), mask, ("queries",), kernel=True)[0]

    # Else blocks of the mask, padded copies and gathered keys would be kept too, for each layer
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    return jax.checkpoint(spread, policy=policy)(q, k, v, mask)


def _here(q, k, v, mask, *, scale: float, softcap: float | None, block: int, interpret: bool) -> tuple[jax.Array]:
    """What one device does, for the rows, heads and queries it has."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    length, head_dim = q.shape[2:]
    of_queries, of_keys = (_block(size, block) for size in mask.shape[1:])
    queries, keys = -mask.shape[1] % of_queries, -mask.shape[2] % of_keys
    lanes = -head_dim % (64 if head_dim <= 64 else _LANES)
    q, k, v, mask = (
        jnp.pad(x, (*((0, 0),) * (x.ndim - 2), *((0, size) for size in after)))
        for x, after in ((q * scale, (queries, lanes)), (k, (keys, lanes)), (v, (keys, lanes)), (mask, (queries, keys)))
    )
    # The kernel asks that every query sees something: its softmax over nothing is not a number
    seen = jnp.any(mask, axis=-1, keepdims=True)
    mask = mask | (~seen & (jnp.arange(mask.shape[-1]) == 0))
    sizes = splash.BlockSizes(
        **dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), of_queries),
        **dict.fromkeys(("block_kv", "block_kv_dkv", "block_kv_dq"), of_keys),
    )

    def row(q, k, v, mask):
        run: Any = splash.make_splash_mha(
            mask[None],
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            attn_logits_soft_cap=softcap,
            residual_checkpoint_name=_KEPT,
            interpret=interpret,
        )
        for part in ("fwd_mask_info", "dq_mask_info", "dkv_mask_info"):
            # It chooses a label alone, and is an array by now, about which traced code cannot branch
            setattr(run, part, getattr(run, part)._replace(is_dynamic_mask=None))
        return run(q, k, v)

    if mask.shape[0] > 1:
        out = jax.vmap(row)(q, k, v, mask)
    else:
        out = jax.vmap(functools.partial(row, mask=mask[0]))(q, k, v)
    return (jnp.where(seen[:, None], out, 0)[:, :, :length, :head_dim],)


def _block(length: int, most: int) -> int:
    """Columns of a block: as even as whole lanes allow, so that little is padding."""
    count = -(-length // most)
    return -(-length // (count * _LANES)) * _LANES
