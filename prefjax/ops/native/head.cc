// Log-probabilities of target tokens and their gradients, some columns of the vocabulary at a time, all of it in cache.
//
// Only tokens asked for (`where`; backwards, only those with a gradient) are computed. Logits live in a buffer of one
// block; those of the first tokens are kept as far as there is room for them, the backward pass makes the rest again.
#include <algorithm>
#include <cmath>
#include <vector>

#include "gemm.h"
#include "pack.h"
#include "parallel.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Indices = ffi::Buffer<ffi::S32>;
using Result = ffi::ResultBuffer<ffi::F32>;

namespace {

constexpr int64_t ROWS = 8 * MR;  // tokens of a block

struct Shape {
  int64_t dim, vocab, columns;  // `columns` of the vocabulary to a block: at most 512 KiB of the kernel
  Shape(int64_t dim, int64_t vocab) : dim(dim), vocab(vocab) {
    columns = std::clamp<int64_t>(131072 / dim / NR * NR, NR, 256);
  }
  int64_t blocks() const { return (vocab + columns - 1) / columns; }
  int64_t wide() const { return padded(dim); }
  int64_t stride() const { return wide() + GAP; }     // of a token's hidden state
  int64_t width() const { return columns + GAP; }     // of a token's logits
  int64_t size(int64_t block) const { return std::min(columns, vocab - block * columns); }
};

// How many tokens' logits `kept` has room for: [blocks, tokens, columns]
int64_t room(const Shape& s, int64_t n, int64_t floats) {
  return std::min(n, floats / (s.blocks() * s.columns) / ROWS * ROWS);
}

std::vector<int64_t> chosen(int64_t n, const bool* where, const float* a, const float* b) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; ++i)
    if (where[i] && (!a || a[i] != 0 || b[i] != 0)) out.push_back(i);
  return out;
}

ffi::Error Forward(ffi::ThreadPool pool, Floats hidden, Floats kernel, Indices targets, ffi::Buffer<ffi::PRED> where,
                   Result logps, Result lse, Result kept) {
  const Shape s(hidden.dimensions()[1], kernel.dimensions()[1]);
  const int64_t total = hidden.dimensions()[0];
  const auto tokens = chosen(total, where.typed_data(), nullptr, nullptr);
  const int64_t n = tokens.size(), keep = room(s, n, kept->element_count());
  static thread_local Scratch shared;
  float* states = shared.of(n * s.stride() + (2 * s.blocks() + 1) * n);
  float *tops = states + n * s.stride(), *sums = tops + s.blocks() * n, *own = sums + s.blocks() * n;
  spread(pool, hidden.typed_data(), n, s.dim, s.stride(), states, [&](int64_t i) { return tokens[i]; });
  parallel(pool, s.blocks(), [&](int64_t block) {
    static thread_local Scratch scratch;
    float* columns = scratch.of(s.columns * s.dim + ROWS * s.width());
    float* buffer = columns + s.columns * s.dim;
    const int64_t size = s.size(block), first = block * s.columns;
    pack(kernel.typed_data() + first, s.vocab, s.dim, size, columns);
    for (int64_t t = 0; t < n; t += ROWS) {
      const int64_t rows = std::min(ROWS, n - t), width = t < keep ? s.columns : s.width();
      float* logits = t < keep ? kept->typed_data() + (block * keep + t) * s.columns : buffer;
      product(states + t * s.stride(), s.stride(), 1, columns, s.dim * NR, NR, rows, panels_of(size), s.dim, logits,
              width, false);
      for (int64_t i = 0; i < rows; ++i) {
        float* row = logits + i * width;
        std::fill(row + size, row + padded(size), -INFINITY);
        vec most = load(row), sums_of{};
        for (int64_t j = W; j < padded(size); j += W) most = larger(load(row + j), most);
        const float top = largest(most);
        for (int64_t j = 0; j < padded(size); j += W) sums_of += exponential(load(row + j) - top);
        tops[block * n + t + i] = top;
        sums[block * n + t + i] = sum(sums_of);
        const int64_t target = targets.typed_data()[tokens[t + i]] - first;
        if (target >= 0 && target < size) own[t + i] = row[target];
      }
    }
  });
  std::fill_n(logps->typed_data(), total, 0.0f);
  std::fill_n(lse->typed_data(), total, 0.0f);
  constexpr int64_t piece = 256;
  parallel(pool, (n + piece - 1) / piece, [&](int64_t p) {
    const int64_t first = p * piece, size = std::min(piece, n - first);
    float top[piece], total[piece];
    std::copy_n(tops + first, size, top);
    std::fill_n(total, size, 0.0f);
    for (int64_t b = 1; b < s.blocks(); ++b)
      for (int64_t i = 0; i < size; ++i) top[i] = std::max(top[i], tops[b * n + first + i]);
    for (int64_t b = 0; b < s.blocks(); ++b)
      for (int64_t i = 0; i < size; ++i)
        total[i] += sums[b * n + first + i] * std::exp(tops[b * n + first + i] - top[i]);
    for (int64_t i = 0; i < size; ++i) {
      const float log_total = std::log(total[i]);
      lse->typed_data()[tokens[first + i]] = top[i] + log_total;
      logps->typed_data()[tokens[first + i]] = own[first + i] - top[i] - log_total;
    }
  });
  return ffi::Error::Success();
}

ffi::Error Backward(ffi::ThreadPool pool, Floats hidden, Floats kernel, Indices targets, ffi::Buffer<ffi::PRED> where,
                    Floats lse, Floats kept, Floats grad, Floats grad_lse, Result in_hidden, Result in_kernel) {
  const Shape s(hidden.dimensions()[1], kernel.dimensions()[1]);
  const auto tokens = chosen(hidden.dimensions()[0], where.typed_data(), grad.typed_data(), grad_lse.typed_data());
  const int64_t n = tokens.size(), lanes = lanes_of(pool, 2, s.blocks(), n, s.wide());
  // Where the forward pass, which knew no gradients, had each token
  const auto before = chosen(hidden.dimensions()[0], where.typed_data(), nullptr, nullptr);
  const int64_t keep = room(s, before.size(), kept.element_count());
  std::vector<int64_t> places(n);
  for (int64_t i = 0, j = 0; i < n; places[i++] = j)
    while (before[j] != tokens[i]) ++j;
  static thread_local Scratch shared;
  float* states = shared.of(n * s.stride() + lanes * n * s.wide());
  float* sums = states + n * s.stride();  // [lanes, n, wide]
  spread(pool, hidden.typed_data(), n, s.dim, s.stride(), states, [&](int64_t i) { return tokens[i]; });
  parallel(pool, lanes, [&](int64_t lane) {
    static thread_local Scratch scratch;
    float* columns = scratch.of(2 * s.columns * s.wide() + (ROWS + s.dim) * s.width());
    float* across = columns + s.columns * s.wide();
    float* inner = across + s.columns * s.wide();
    float* total = inner + ROWS * s.width();
    float* own = sums + lane * n * s.wide();
    const int64_t from = lane * s.blocks() / lanes, to = (lane + 1) * s.blocks() / lanes;
    for (int64_t block = from; block < to; ++block) {
      const int64_t size = s.size(block), first = block * s.columns, panels = panels_of(size);
      pack(kernel.typed_data() + first, s.vocab, s.dim, size, columns);
      pack_transposed(kernel.typed_data() + first, s.vocab, s.dim, size, across);
      for (int64_t t = 0; t < n; t += ROWS) {
        const int64_t rows = std::min(ROWS, n - t);
        const float* here = states + t * s.stride();
        const bool again = places[t + rows - 1] >= keep;
        if (again) product(here, s.stride(), 1, columns, s.dim * NR, NR, rows, panels, s.dim, inner, s.width(), false);
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t token = tokens[t + i];
          const float log_all = lse.typed_data()[token], in_own = grad.typed_data()[token];
          const float factor = grad_lse.typed_data()[token] - in_own;
          float* row = inner + i * s.width();
          const float* logits = again ? row : kept.typed_data() + (block * keep + places[t + i]) * s.columns;
          for (int64_t j = 0; j < padded(size); j += W)
            store(row + j, exponential(load(logits + j) - log_all) * factor);
          std::fill(row + size, row + padded(size), 0.0f);
          const int64_t target = targets.typed_data()[token] - first;
          if (target >= 0 && target < size) row[target] += in_own;
        }
        product(inner, s.width(), 1, across, size * NR, NR, rows, s.wide() / NR, size, own + t * s.wide(),
                s.wide(), block != from);
        product(here, 1, s.stride(), inner, NR, s.width(), s.dim, panels, rows, total, s.width(), t != 0);
      }
      for (int64_t d = 0; d < s.dim; ++d) {
        float* row = in_kernel->typed_data() + d * s.vocab + first;
        if (n) std::copy_n(total + d * s.width(), size, row);
        else std::fill_n(row, size, 0.0f);
      }
    }
  });
  std::fill_n(in_hidden->typed_data(), in_hidden->element_count(), 0.0f);
  add_lanes(pool, sums, lanes, n, s.dim, s.wide(), in_hidden->typed_data(), [&](int64_t i) { return tokens[i]; });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(prefjax_head, Forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()                  // hidden [N, D]
                                  .Arg<Floats>()                  // kernel [D, V]
                                  .Arg<Indices>()                 // targets [N]
                                  .Arg<ffi::Buffer<ffi::PRED>>()  // where [N]
                                  .Ret<Floats>()                  // log-probs [N]
                                  .Ret<Floats>()                  // log-sum-exp [N]
                                  .Ret<Floats>());                // room for logits, any size

XLA_FFI_DEFINE_HANDLER_SYMBOL(prefjax_head_grads, Backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Indices>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Arg<Floats>()    // log-sum-exp
                                  .Arg<Floats>()    // logits
                                  .Arg<Floats>()    // gradient in the log-probs
                                  .Arg<Floats>()    // gradient in the log-sum-exp
                                  .Ret<Floats>()    // gradient in hidden
                                  .Ret<Floats>());  // gradient in the kernel
