"""Plain forms: every derivative of a model, where the fast forms know first ones in reverse mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.models.decoder import decoder
from prefjax.ops import logprobs, plain


def compiled(fn):
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def test_second_derivatives_of_a_model_in_forward_and_reverse_mode(monkeypatch):
    # Outside of plain forms each part takes a fast form, as if rows were long and logits many
    for constant in ("models.attention.BLOCKWISE", "models.layers.NATIVE_SIZE", "ops.head_chunks.LOGITS"):
        monkeypatch.setattr(f"prefjax.{constant}", 1)
    model = decoder(vocab_size=50, hidden_size=16, num_layers=1, num_heads=1, intermediate_size=24)
    params = model.init(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 72), 0, 50)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    direction = tree.unflatten([jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])

    def loss(params):
        hidden = model.hidden(params, tokens)
        logps = logprobs.row_logps(hidden[:, :-1], model.unembed(params).kernel, tokens[:, 1:], tokens[:, 1:] > 0)
        return jnp.mean(jnp.square(logps))

    def slope(params):  # of the loss along the direction
        return sum(map(jnp.vdot, jax.tree.leaves(jax.grad(loss)(params)), jax.tree.leaves(direction)))

    with pytest.raises(TypeError, match="custom_vjp"):
        compiled(lambda p: jax.jvp(loss, (p,), (direction,)))(params)
    with plain.forms():
        both = compiled(lambda p: jax.jvp(jax.value_and_grad(loss), (p,), (direction,))[1])
        forward, product = both(params)
        again = compiled(jax.grad(slope))(params)
    step = 1e-3
    slope = compiled(slope)
    values = [slope(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction)) for s in (-step, 0, step)]
    np.testing.assert_allclose(forward, values[1], rtol=1e-4)  # the fast forms' own
    curvature = sum(map(jnp.vdot, jax.tree.leaves(product), jax.tree.leaves(direction)))
    np.testing.assert_allclose(curvature, (values[2] - values[0]) / (2 * step), rtol=2e-2)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(product))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * largest), product, again)
