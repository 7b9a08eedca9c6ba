// Log-probabilities of target tokens and their gradients, some columns of the vocabulary at a time, all of it in cache.
//
// Only tokens asked for (`where`; backwards, only those with a gradient) are computed. Logits live in a buffer of one
// block alone; the backward pass makes them again.
#include <algorithm>
#include <cmath>
#include <vector>

#include "matrix.h"
#include "parallel.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Indices = ffi::Buffer<ffi::S32>;
using Result = ffi::ResultBuffer<ffi::F32>;

namespace {

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
  int64_t operand() const { return operand_size(ROWS, dim); }  // of a block of tokens
};

std::vector<int64_t> chosen(int64_t n, const bool* where, const float* a, const float* b) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; ++i)
    if (where[i] && (!a || a[i] != 0 || b[i] != 0)) out.push_back(i);
  return out;
}

ffi::Error Forward(ffi::ThreadPool pool, Floats hidden, Floats kernel, Indices targets, ffi::Buffer<ffi::PRED> where,
                   Result logps, Result lse) {
  const Shape s(hidden.dimensions()[1], kernel.dimensions()[1]);
  const int64_t total = hidden.dimensions()[0];
  const auto tokens = chosen(total, where.typed_data(), nullptr, nullptr);
  const int64_t n = tokens.size();
  static Scratch shared;
  const auto held = shared.of(n * s.stride() + count(n) * s.operand() + (2 * s.blocks() + 1) * n);
  float* states = held.get();
  float *room = states + n * s.stride(), *tops = room + count(n) * s.operand();
  float *sums = tops + s.blocks() * n, *own = sums + s.blocks() * n;
  spread(pool, hidden.typed_data(), n, s.dim, s.stride(), states, [&](int64_t i) { return tokens[i]; });
  std::vector<Operand> here(count(n));
  parallel(pool, here.size(), [&](int64_t b) {
    here[b] = left(states + b * ROWS * s.stride(), s.stride(), rows_of(n, b), s.dim, room + b * s.operand());
  });
  parallel(pool, s.blocks(), [&](int64_t block) {
    static Scratch scratch;
    const auto held = scratch.of(packed_size(s.columns, s.dim) + ROWS * s.width());
    float* columns = held.get();
    float* buffer = columns + packed_size(s.columns, s.dim);
    const int64_t size = s.size(block), first = block * s.columns;
    const Operand weights = packed(kernel.typed_data() + first, s.vocab, s.dim, size, columns);
    for (int64_t t = 0; t < n; t += ROWS) {
      const int64_t rows = rows_of(n, t / ROWS);
      multiply(here[t / ROWS], weights, rows, size, s.dim, buffer, s.width(), false);
      for (int64_t i = 0; i < rows; ++i) {
        float* row = buffer + i * s.width();
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
                    Floats lse, Floats grad, Floats grad_lse, Result in_hidden, Result in_kernel) {
  const Shape s(hidden.dimensions()[1], kernel.dimensions()[1]);
  const auto tokens = chosen(hidden.dimensions()[0], where.typed_data(), grad.typed_data(), grad_lse.typed_data());
  const int64_t n = tokens.size(), lanes = lanes_of(pool, 2, s.blocks(), n, s.wide());
  static Scratch shared;
  const auto held = shared.of(n * s.stride() + 2 * count(n) * s.operand() + lanes * n * s.wide());
  float* states = held.get();
  float *room = states + n * s.stride(), *sums = room + 2 * count(n) * s.operand();  // [lanes, n, wide]
  spread(pool, hidden.typed_data(), n, s.dim, s.stride(), states, [&](int64_t i) { return tokens[i]; });
  std::vector<Operand> here(count(n)), turned(count(n));
  parallel(pool, here.size(), [&](int64_t b) {
    const float* from = states + b * ROWS * s.stride();
    float* to = room + 2 * b * s.operand();
    here[b] = left(from, s.stride(), rows_of(n, b), s.dim, to);
    turned[b] = left_transposed(from, s.stride(), rows_of(n, b), s.dim, to + s.operand());
  });
  parallel(pool, lanes, [&](int64_t lane) {
    static Scratch scratch;
    const int64_t of_weights = packed_size(s.columns, s.dim), of_turned = packed_size(s.dim, s.columns);
    const int64_t of_inner = operand_size(ROWS, s.columns);
    const auto held = scratch.of(of_weights + of_turned + 2 * of_inner + (ROWS + s.dim) * s.width());
    float* columns = held.get();
    float *across = columns + of_weights, *by_token = across + of_turned, *by_column = by_token + of_inner;
    float *inner = by_column + of_inner, *total = inner + ROWS * s.width();
    float* own = sums + lane * n * s.wide();
    const int64_t from = lane * s.blocks() / lanes, to = (lane + 1) * s.blocks() / lanes;
    for (int64_t block = from; block < to; ++block) {
      const int64_t size = s.size(block), first = block * s.columns;
      const Operand weights = packed(kernel.typed_data() + first, s.vocab, s.dim, size, columns);
      const Operand back = packed_transposed(kernel.typed_data() + first, s.vocab, s.dim, size, across);
      for (int64_t t = 0; t < n; t += ROWS) {
        const int64_t rows = rows_of(n, t / ROWS);
        multiply(here[t / ROWS], weights, rows, size, s.dim, inner, s.width(), false);
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t token = tokens[t + i];
          const float log_all = lse.typed_data()[token], in_own = grad.typed_data()[token];
          const float factor = grad_lse.typed_data()[token] - in_own;
          float* row = inner + i * s.width();
          for (int64_t j = 0; j < padded(size); j += W) store(row + j, exponential(load(row + j) - log_all) * factor);
          std::fill(row + size, row + padded(size), 0.0f);
          const int64_t target = targets.typed_data()[token] - first;
          if (target >= 0 && target < size) row[target] += in_own;
        }
        multiply(left(inner, s.width(), rows, size, by_token), back, rows, s.dim, size, own + t * s.wide(), s.wide(),
                 block != from);
        multiply(turned[t / ROWS], right(inner, s.width(), rows, size, by_column), s.dim, size, rows, total, s.width(),
                 t != 0);
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
                                  .Ret<Floats>());                // log-sum-exp [N]

XLA_FFI_DEFINE_HANDLER_SYMBOL(prefjax_head_grads, Backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Indices>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Arg<Floats>()    // log-sum-exp
                                  .Arg<Floats>()    // gradient in the log-probs
                                  .Arg<Floats>()    // gradient in the log-sum-exp
                                  .Ret<Floats>()    // gradient in hidden
                                  .Ret<Floats>());  // gradient in the kernel
