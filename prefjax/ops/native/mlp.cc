// The gated MLP and its gradients as XLA calls them.
#include "mlp.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

namespace {

mlp::Shape shape_of(const Floats& x, const Floats& gate) {
  return {x.dimensions()[0], x.dimensions()[1], gate.dimensions()[1], x.dimensions()[0]};
}

int64_t same(int64_t i) { return i; }

ffi::Error Forward(ffi::ThreadPool pool, Floats x, Floats gate, Floats up, Floats down, Result out, Result kept) {
  const auto s = shape_of(x, gate);
  static Scratch shared;
  const auto held = shared.of(s.blocks() * s.packed());
  float* packed = held.get();
  parallel(pool, s.blocks(), [&](int64_t block) {
    mlp::pack_block(s, {gate.typed_data(), up.typed_data(), down.typed_data()}, block, packed);
  });
  parallel(pool, count(s.tokens), [&](int64_t block) {
    static Scratch scratch;
    const auto held = scratch.of(ROWS * (s.stride() + s.wide()));
    float* states = held.get();
    float* found = states + ROWS * s.stride();
    const int64_t first = block * ROWS, rows = rows_of(s.tokens, block);
    for (int64_t i = 0; i < rows; ++i)
      widen(x.typed_data() + (first + i) * s.dim, s.dim, s.stride(), states + i * s.stride());
    mlp::forward(s, packed, states, first, rows, found, kept->element_count() ? kept->typed_data() : nullptr);
    for (int64_t i = 0; i < rows; ++i)
      std::copy_n(found + i * s.wide(), s.dim, out->typed_data() + (first + i) * s.dim);
  });
  return ffi::Error::Success();
}

ffi::Error Backward(ffi::ThreadPool pool, Floats x, Floats gate, Floats up, Floats down, Floats kept, Floats grad,
                    Result in_x, Result in_gate, Result in_up, Result in_down) {
  const auto s = shape_of(x, gate);
  const int64_t n = s.tokens, lanes = mlp::lanes_of(pool, s);
  static Scratch shared;
  const auto held = shared.of(2 * n * s.stride() + lanes * n * s.wide());
  float* states = held.get();
  float *grads = states + n * s.stride(), *sums = grads + n * s.stride();
  spread(pool, x.typed_data(), n, s.dim, s.stride(), states, same);
  spread(pool, grad.typed_data(), n, s.dim, s.stride(), grads, same);
  mlp::backward(pool, s, {gate.typed_data(), up.typed_data(), down.typed_data()}, states, grads, kept.typed_data(),
                mlp::same_places(n), lanes, sums, in_gate->typed_data(), in_up->typed_data(), in_down->typed_data());
  add_lanes(pool, sums, lanes, n, s.dim, s.wide(), in_x->typed_data(), same);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(prefjax_mlp, Forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()    // x [N, D]
                                  .Arg<Floats>()    // gate [D, F]
                                  .Arg<Floats>()    // up [D, F]
                                  .Arg<Floats>()    // down [F, D]
                                  .Ret<Floats>()    // [N, D]
                                  .Ret<Floats>());  // gate x and up x, [2 N F], F up to a multiple of 128; or [0]

XLA_FFI_DEFINE_HANDLER_SYMBOL(prefjax_mlp_grads, Backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()  // gate x and up x
                                  .Arg<Floats>()  // gradient in what came out
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>());
