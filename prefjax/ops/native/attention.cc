// softmax(scale q k^T, masked) v and its gradients as XLA calls them.
#include "attention.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;
using Mask = ffi::Buffer<ffi::PRED>;

namespace {

attention::Shape shape_of(const Floats& q, const Floats& k, const Mask& mask) {
  auto a = q.dimensions(), b = k.dimensions();
  return {a[0], a[2], a[3], a[1], b[1], a[4], mask.dimensions()[0]};
}

ffi::Error Forward(ffi::ThreadPool pool, Floats q, Floats k, Floats v, Mask mask, Result out, Result lse, float scale) {
  const auto s = shape_of(q, k, mask);
  const auto runs = attention::visible(pool, s, mask.typed_data());
  attention::attend(pool, s, runs, mask.typed_data(), scale, q.typed_data(), k.typed_data(), v.typed_data(),
                    out->typed_data(), lse->typed_data());
  return ffi::Error::Success();
}

ffi::Error Backward(ffi::ThreadPool pool, Floats q, Floats k, Floats v, Mask mask, Floats out, Floats lse, Floats grad,
                    Result in_q, Result in_k, Result in_v, float scale) {
  const auto s = shape_of(q, k, mask);
  const auto runs = attention::visible(pool, s, mask.typed_data());
  attention::attend_grads(pool, s, runs, mask.typed_data(), scale, q.typed_data(), k.typed_data(), v.typed_data(),
                          out.typed_data(), lse.typed_data(), grad.typed_data(), in_q->typed_data(),
                          in_k->typed_data(), in_v->typed_data());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(prefjax_attention, Forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()                  // queries [batch, T, groups, heads, dim]
                                  .Arg<Floats>()                  // keys [batch, S, groups, dim]
                                  .Arg<Floats>()                  // values
                                  .Arg<Mask>()  // mask [batch or 1, T, S]
                                  .Ret<Floats>()                  // as the queries
                                  .Ret<Floats>()                  // log-sum-exp [batch, groups, heads, T]
                                  .Attr<float>("scale"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(prefjax_attention_grads, Backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Mask>()
                                  .Arg<Floats>()  // what came out, its log-sum-exp, its gradient
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Attr<float>("scale"));
