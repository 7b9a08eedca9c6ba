// down(silu(gate x) * up x) and its gradients, some columns of the wide layer at a time, all of it in cache.
//
// The forward pass keeps the products gate x and up x if asked to; the backward pass makes again what lies between.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "gemm.h"
#include "pack.h"
#include "parallel.h"

namespace mlp {

constexpr int64_t ROWS = 8 * MR;  // tokens of a block

struct Shape {
  int64_t tokens, dim, inner, room, columns;  // `columns` of the wide layer to a block: at most 256 KiB of each matrix
  Shape(int64_t tokens, int64_t dim, int64_t inner, int64_t room)
      : tokens(tokens), dim(dim), inner(inner), room(room), columns(128) {
    while (columns > 2 * NR && columns * dim > 65536) columns /= 2;  // a divisor of 128, as `kept` has to know
  }
  int64_t blocks() const { return (inner + columns - 1) / columns; }
  int64_t size(int64_t block) const { return std::min(columns, inner - block * columns); }
  int64_t wide() const { return padded(dim); }
  int64_t stride() const { return wide() + GAP; }  // of a token
  int64_t width() const { return columns + GAP; }  // of a token in the wide layer
  int64_t matrix() const { return columns * wide(); }
  // Kept products stand as [blocks, 2, room, columns], gate's before up's, in room for that many tokens
  int64_t kept_size() const { return blocks() * 2 * room * columns; }
  int64_t kept(int64_t block, int64_t token) const { return (block * 2 * room + token) * columns; }
};

struct Weights { const float *gate, *up, *down; };  // [dim, inner] twice, [inner, dim]

inline vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-larger(x, all(-87.0f)))); }

// All weights as `forward` reads them, blocks() * 3 * matrix() floats; piece `block` of blocks()
inline void pack_block(const Shape& s, const Weights& w, int64_t block, float* packed) {
  const int64_t size = s.size(block), first = block * s.columns;
  float* to = packed + 3 * block * s.matrix();
  pack(w.gate + first, s.inner, s.dim, size, to);
  pack(w.up + first, s.inner, s.dim, size, to + s.matrix());
  pack(w.down + first * s.dim, s.dim, size, s.dim, to + 2 * s.matrix());
}

// out [rows, wide] of tokens first .. first + rows - 1, whose states [rows, stride] are x; `kept` may be null
inline void forward(const Shape& s, const float* packed, const float* x, int64_t first, int64_t rows, float* out,
                    float* kept) {
  static thread_local Scratch scratch;
  float* hidden = scratch.of(3 * ROWS * s.width());
  float *g = hidden + ROWS * s.width(), *u = g + ROWS * s.width();
  int64_t width = s.width();
  for (int64_t block = 0; block < s.blocks(); ++block) {
    const int64_t size = s.size(block), panels = panels_of(size);
    const float* weights = packed + 3 * block * s.matrix();
    if (kept) {
      g = kept + s.kept(block, first), u = g + s.room * s.columns;
      width = s.columns;
    }
    product(x, s.stride(), 1, weights, s.dim * NR, NR, rows, panels, s.dim, g, width, false);
    product(x, s.stride(), 1, weights + s.matrix(), s.dim * NR, NR, rows, panels, s.dim, u, width, false);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < size; j += W) {
        const vec a = load(g + i * width + j);
        store(hidden + i * s.width() + j, a * sigmoid(a) * load(u + i * width + j));
      }
    product(hidden, s.width(), 1, weights + 2 * s.matrix(), size * NR, NR, rows, s.wide() / NR, size, out, s.wide(),
            block != 0);
  }
}

inline std::vector<int64_t> same_places(int64_t n) {
  std::vector<int64_t> out(n);
  std::iota(out.begin(), out.end(), 0);
  return out;
}

inline int64_t lanes_of(xla::ffi::ThreadPool& pool, const Shape& s) {
  return ::lanes_of(pool, 1, s.blocks(), s.tokens, s.wide());
}

// Gradients in the weights, and in the states as sums [lanes, tokens, wide] to be added up; states and grads (those in
// what came out) are [tokens, stride]; `places` says which token of the forward pass each was
inline void backward(xla::ffi::ThreadPool& pool, const Shape& s, const Weights& w, const float* states,
                     const float* grads, const float* kept, const std::vector<int64_t>& places, int64_t lanes,
                     float* sums, float* in_gate, float* in_up, float* in_down) {
  const int64_t n = s.tokens;
  parallel(pool, lanes, [&](int64_t lane) {
    static thread_local Scratch scratch;
    const int64_t part = ROWS * s.width(), total = s.dim * s.width();
    float* of_gate = scratch.of(3 * s.matrix() + 3 * part + 2 * total + s.columns * s.stride());
    float *of_up = of_gate + s.matrix(), *of_down = of_up + s.matrix();
    float *a = of_down + s.matrix(), *g = a + part, *u = g + part;
    float *to_gate = u + part, *to_up = to_gate + total, *to_down = to_up + total;
    float* own = sums + lane * n * s.wide();
    const int64_t from = lane * s.blocks() / lanes, to = (lane + 1) * s.blocks() / lanes;
    for (int64_t block = from; block < to; ++block) {
      const int64_t size = s.size(block), first = block * s.columns, panels = panels_of(size);
      pack_transposed(w.gate + first, s.inner, s.dim, size, of_gate);
      pack_transposed(w.up + first, s.inner, s.dim, size, of_up);
      pack_transposed(w.down + first * s.dim, s.dim, size, s.dim, of_down);
      for (int64_t t = 0; t < n; t += ROWS) {
        const int64_t rows = std::min(ROWS, n - t);
        const float *here = states + t * s.stride(), *in_out = grads + t * s.stride();
        product(in_out, s.stride(), 1, of_down, s.dim * NR, NR, rows, panels, s.dim, a, s.width(), false);
        for (int64_t i = 0; i < rows; ++i) {
          float *row = a + i * s.width(), *of_g = g + i * s.width(), *of_u = u + i * s.width();
          const float *gated = kept + s.kept(block, places[t + i]), *upped = gated + s.room * s.columns;
          for (int64_t j = 0; j < size; j += W) {
            const vec in_a = load(row + j), left = load(gated + j), right = load(upped + j), share = sigmoid(left);
            const vec silu = left * share;
            store(row + j, silu * right);
            store(of_g + j, in_a * right * (share + silu * (1.0f - share)));
            store(of_u + j, in_a * silu);
          }
          for (float* buffer : {row, of_g, of_u}) std::fill(buffer + size, buffer + padded(size), 0.0f);
        }
        float* sum = own + t * s.wide();
        product(g, s.width(), 1, of_gate, size * NR, NR, rows, s.wide() / NR, size, sum, s.wide(), block != from);
        product(u, s.width(), 1, of_up, size * NR, NR, rows, s.wide() / NR, size, sum, s.wide(), true);
        product(here, 1, s.stride(), g, NR, s.width(), s.dim, panels, rows, to_gate, s.width(), t != 0);
        product(here, 1, s.stride(), u, NR, s.width(), s.dim, panels, rows, to_up, s.width(), t != 0);
        product(a, 1, s.width(), in_out, NR, s.stride(), size, s.wide() / NR, rows, to_down, s.stride(), t != 0);
      }
      for (int64_t d = 0; d < s.dim; ++d) {
        std::copy_n(to_gate + d * s.width(), size, in_gate + d * s.inner + first);
        std::copy_n(to_up + d * s.width(), size, in_up + d * s.inner + first);
      }
      for (int64_t c = 0; c < size; ++c) std::copy_n(to_down + c * s.stride(), s.dim, in_down + (first + c) * s.dim);
    }
  });
}

}  // namespace mlp
