// Masked attention and its gradients, a block of queries at a time, all of it in cache.
//
// A panel of NR keys that no query of a block may see is skipped. The forward pass keeps the log-sum-exp of each query,
// from which the backward pass makes the weights again (Dao et al., FlashAttention, 2022, arXiv:2205.14135).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "gemm.h"
#include "pack.h"
#include "parallel.h"

namespace attention {

constexpr int64_t ROWS = 4 * MR;  // queries of a block
constexpr float HIDDEN = -1e30f;

struct Shape {
  int64_t batch, groups, heads, queries, keys, dim, masks;  // `heads` of queries to a group, which shares keys
  int64_t blocks() const { return (queries + ROWS - 1) / ROWS; }
  int64_t panels() const { return panels_of(keys); }
  int64_t padded() const { return ::padded(dim); }  // dim, as columns of a product
  int64_t width() const { return panels() * NR; }
  int64_t of_keys() const { return groups * dim; }  // floats of a token, keys or values
  int64_t of_queries() const { return heads * of_keys(); }
};

struct Run { int64_t first, count; };  // panels of keys, one after another
using Runs = std::vector<Run>;

// For each mask and block of queries, the runs of panels in which some query sees some key; `asked` [masks, queries]
// says which queries count, all of them if it is null
inline std::vector<Runs> visible(xla::ffi::ThreadPool& pool, const Shape& s, const bool* mask,
                                 const bool* asked = nullptr) {
  std::vector<Runs> out(s.masks * s.blocks());
  parallel(pool, s.masks * s.blocks(), [&](int64_t i) {
    const int64_t first = i % s.blocks() * ROWS, last = std::min(first + ROWS, s.queries);
    const bool* rows = mask + i / s.blocks() * s.queries * s.keys;
    for (int64_t p = 0; p < s.panels(); ++p) {
      const int64_t from = p * NR, size = std::min<int64_t>(NR, s.keys - from);
      bool seen = false;
      for (int64_t q = first; q < last && !seen; ++q)
        seen = (!asked || asked[i / s.blocks() * s.queries + q]) && std::memchr(rows + q * s.keys + from, 1, size);
      if (!seen) continue;
      if (!out[i].empty() && out[i].back().first + out[i].back().count == p) ++out[i].back().count;
      else out[i].push_back({p, 1});
    }
  });
  return out;
}

// x [n, dim], rows `step` apart, as rows of `padded` floats, zeros behind them, times a factor
inline void widen(const float* x, int64_t step, int64_t n, int64_t dim, int64_t padded, float factor, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t d = 0; d < dim; ++d) out[i * padded + d] = x[i * step + d] * factor;
    for (int64_t d = dim; d < padded; ++d) out[i * padded + d] = 0;
  }
}

// Rows of the mask of one block; nothing is seen behind the last key
inline void mask_rows(const Shape& s, const bool* mask, int64_t rows, uint8_t* out) {
  for (int64_t q = 0; q < rows; ++q, mask += s.keys, out += s.width()) {
    std::copy_n(mask, s.keys, out);
    std::fill(out + s.keys, out + s.width(), 0);
  }
}

// work(panels shown, rows, where they stand in [items, heads, T] and in [batch, T, all heads, dim]) for every block of
// queries and head of an item, a row of the batch and its group of heads; the block's mask is in `see`
template <typename Work>
void each_block(const Shape& s, const std::vector<Runs>& runs, const bool* mask, int64_t item, uint8_t* see,
                const Work& work) {
  const int64_t row = item / s.groups, which = s.masks == 1 ? 0 : row;
  for (int64_t b = 0; b < s.blocks(); ++b) {
    const int64_t first = b * ROWS, rows = std::min(ROWS, s.queries - first);
    mask_rows(s, mask + (which * s.queries + first) * s.keys, rows, see);
    for (int64_t h = 0; h < s.heads; ++h)
      work(runs[which * s.blocks() + b], rows, (item * s.heads + h) * s.queries + first,
           (row * s.queries + first) * s.of_queries() + (item % s.groups * s.heads + h) * s.dim);
  }
}

template <typename Each>
void columns(const Runs& runs, const Each& each) {
  for (const Run& run : runs)
    for (int64_t j = run.first * NR; j < (run.first + run.count) * NR; j += W) each(j);
}

inline ints seen(const uint8_t* mask) {
  return __builtin_convertvector(*reinterpret_cast<const bytes*>(mask), ints) != 0;
}

// out[rows, width] = a[rows, dim] b^T in the visible panels; b as `pack_transposed` makes it
inline void against_keys(const Shape& s, const float* a, int64_t a_width, const float* b, int64_t rows,
                         const Runs& runs, float* out) {
  for (const Run& run : runs)
    product(a, a_width, 1, b + run.first * s.dim * NR, s.dim * NR, NR, rows, run.count, s.dim, out + run.first * NR,
            s.width(), false);
}

// out[rows, padded] = weights[rows, width] x over the visible panels; x [width, padded]
inline void weighted(const Shape& s, const float* weights, const float* x, int64_t rows, const Runs& runs, float* out) {
  if (runs.empty()) std::fill(out, out + rows * s.padded(), 0.0f);
  bool add = false;
  for (const Run& run : runs) {
    product(weights + run.first * NR, s.width(), 1, x + run.first * NR * s.padded(), NR, s.padded(), rows,
            s.padded() / NR, run.count * NR, out, s.padded(), add);
    add = true;
  }
}

// total[width, padded] += weights^T x over the visible panels; x [rows, padded]
inline void to_keys(const Shape& s, const float* weights, const float* x, int64_t rows, const Runs& runs,
                    float* total) {
  for (const Run& run : runs)
    product(weights + run.first * NR, 1, s.width(), x, NR, s.padded(), run.count * NR, s.padded() / NR, rows,
            total + run.first * NR * s.padded(), s.padded(), true);
}

// out = softmax(scale q k^T, masked) v, and each query's log-sum-exp [batch, groups, heads, T]
inline void attend(xla::ffi::ThreadPool& pool, const Shape& s, const std::vector<Runs>& runs, const bool* mask,
                   float scale, const float* q, const float* k, const float* v, float* out, float* lse) {
  parallel(pool, s.batch * s.groups, [&](int64_t item) {
    static Scratch scratch;
    const auto held = scratch.of(2 * s.width() * s.padded() + 2 * ROWS * (s.width() + s.padded()));
    float* keys = held.get();
    float* values = keys + s.width() * s.padded();
    float* queries = values + s.width() * s.padded();
    float* found = queries + ROWS * s.padded();
    float* weights = found + ROWS * s.padded();
    uint8_t* see = reinterpret_cast<uint8_t*>(weights + ROWS * s.width());
    const int64_t own = item / s.groups * s.keys * s.of_keys() + item % s.groups * s.dim;
    pack_transposed(k + own, s.of_keys(), s.keys, s.dim, keys);
    widen(v + own, s.of_keys(), s.keys, s.dim, s.padded(), 1, values);
    std::fill(values + s.keys * s.padded(), values + s.width() * s.padded(), 0.0f);
    each_block(s, runs, mask, item, see, [&](const Runs& shown, int64_t rows, int64_t at, int64_t head) {
      widen(q + head, s.of_queries(), rows, s.dim, s.padded(), scale, queries);
      against_keys(s, queries, s.padded(), keys, rows, shown, weights);
      float totals[ROWS];
      for (int64_t i = 0; i < rows; ++i) {
        float* of_query = weights + i * s.width();
        const uint8_t* may = see + i * s.width();
        vec most = all(HIDDEN), total{};
        columns(shown, [&](int64_t j) {
          vec logits = seen(may + j) ? load(of_query + j) : all(HIDDEN);
          most = larger(logits, most);
        });
        const float top = largest(most);
        columns(shown, [&](int64_t j) {
          vec weight = seen(may + j) ? exponential(load(of_query + j) - top) : vec{};
          store(of_query + j, weight);
          total += weight;
        });
        totals[i] = sum(total);
        lse[at + i] = top + std::log(totals[i]);
      }
      weighted(s, weights, values, rows, shown, found);
      for (int64_t i = 0; i < rows; ++i) {
        const float share = totals[i] == 0 ? 0 : 1 / totals[i];
        for (int64_t d = 0; d < s.dim; ++d)
          out[head + i * s.of_queries() + d] = found[i * s.padded() + d] * share;
      }
    });
  });
}

// Gradients in q, k and v, given `grad`, that in what came out
inline void attend_grads(xla::ffi::ThreadPool& pool, const Shape& s, const std::vector<Runs>& runs, const bool* mask,
                         float scale, const float* q, const float* k, const float* v, const float* out,
                         const float* lse, const float* grad, float* in_q, float* in_k, float* in_v) {
  parallel(pool, s.batch * s.groups, [&](int64_t item) {
    static Scratch scratch;
    const int64_t of_keys = s.width() * s.padded();
    const auto held = scratch.of(5 * of_keys + 3 * ROWS * (s.width() + s.padded()));
    float* keys = held.get();
    float *values = keys + of_keys, *rows_of_keys = values + of_keys, *to_k = rows_of_keys + of_keys;
    float *to_v = to_k + of_keys, *queries = to_v + of_keys, *grads = queries + ROWS * s.padded();
    float *found = grads + ROWS * s.padded(), *weights = found + ROWS * s.padded();
    float* inner = weights + ROWS * s.width();
    uint8_t* see = reinterpret_cast<uint8_t*>(inner + ROWS * s.width());
    const int64_t own = item / s.groups * s.keys * s.of_keys() + item % s.groups * s.dim;
    pack_transposed(k + own, s.of_keys(), s.keys, s.dim, keys);
    pack_transposed(v + own, s.of_keys(), s.keys, s.dim, values);
    widen(k + own, s.of_keys(), s.keys, s.dim, s.padded(), scale, rows_of_keys);
    std::fill(rows_of_keys + s.keys * s.padded(), rows_of_keys + of_keys, 0.0f);
    std::fill(to_k, to_k + 2 * of_keys, 0.0f);
    each_block(s, runs, mask, item, see, [&](const Runs& shown, int64_t rows, int64_t at, int64_t head) {
      widen(q + head, s.of_queries(), rows, s.dim, s.padded(), scale, queries);
      widen(grad + head, s.of_queries(), rows, s.dim, s.padded(), 1, grads);
      against_keys(s, queries, s.padded(), keys, rows, shown, weights);
      against_keys(s, grads, s.padded(), values, rows, shown, inner);
      for (int64_t i = 0; i < rows; ++i) {
        const float log_total = lse[at + i];
        float delta = 0;
        for (int64_t d = 0; d < s.dim; ++d)
          delta += grads[i * s.padded() + d] * out[head + i * s.of_queries() + d];
        float *of_query = weights + i * s.width(), *into = inner + i * s.width();
        const uint8_t* may = see + i * s.width();
        columns(shown, [&](int64_t j) {
          vec weight = seen(may + j) ? exponential(load(of_query + j) - log_total) : vec{};
          store(of_query + j, weight);
          store(into + j, seen(may + j) ? weight * (load(into + j) - delta) : vec{});
        });
      }
      weighted(s, inner, rows_of_keys, rows, shown, found);
      for (int64_t i = 0; i < rows; ++i)
        std::copy_n(found + i * s.padded(), s.dim, in_q + head + i * s.of_queries());
      to_keys(s, inner, queries, rows, shown, to_k);
      to_keys(s, weights, grads, rows, shown, to_v);
    });
    for (int64_t j = 0; j < s.keys; ++j) {
      std::copy_n(to_k + j * s.padded(), s.dim, in_k + own + j * s.of_keys());
      std::copy_n(to_v + j * s.padded(), s.dim, in_v + own + j * s.of_keys());
    }
  });
}

}  // namespace attention
