// down(silu(gate x) * up x) and its gradients, some columns of the wide layer at a time, all of it in cache.
//
// The forward pass keeps the products gate x and up x if asked to; the backward pass makes again what lies between.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "matrix.h"
#include "parallel.h"

namespace mlp {

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
  int64_t into() const { return packed_size(columns, dim); }  // floats of a block of gate or up
  int64_t out_of() const { return packed_size(dim, columns); }  // and of down
  int64_t packed() const { return 2 * into() + out_of(); }
  int64_t operand() const { return operand_size(ROWS, dim); }  // of a block of tokens
  int64_t inner_operand() const { return operand_size(ROWS, columns); }
  // Kept products stand as [blocks, 2, room, columns], gate's before up's, in room for that many tokens
  int64_t kept_size() const { return blocks() * 2 * room * columns; }
  int64_t kept(int64_t block, int64_t token) const { return (block * 2 * room + token) * columns; }
};

struct Weights { const float *gate, *up, *down; };  // [dim, inner] twice, [inner, dim]

inline vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-larger(x, all(-87.0f)))); }

// All weights as `forward` reads them, blocks() * packed() floats; piece `block` of blocks()
inline void pack_block(const Shape& s, const Weights& w, int64_t block, float* packed) {
  const int64_t size = s.size(block), first = block * s.columns;
  float* to = packed + block * s.packed();
  ::packed(w.gate + first, s.inner, s.dim, size, to);
  ::packed(w.up + first, s.inner, s.dim, size, to + s.into());
  ::packed(w.down + first * s.dim, s.dim, size, s.dim, to + 2 * s.into());
}

// out [rows, wide] of tokens first .. first + rows - 1, whose states [rows, stride] are x; `kept` may be null
inline void forward(const Shape& s, const float* packed, const float* x, int64_t first, int64_t rows, float* out,
                    float* kept) {
  static Scratch scratch;
  const auto held = scratch.of(s.operand() + s.inner_operand() + 3 * ROWS * s.width());
  float* room = held.get();
  float *inner_room = room + s.operand(), *hidden = inner_room + s.inner_operand();
  float *g = hidden + ROWS * s.width(), *u = g + ROWS * s.width();
  int64_t width = s.width();
  const Operand states = left(x, s.stride(), rows, s.dim, room);
  for (int64_t block = 0; block < s.blocks(); ++block) {
    const int64_t size = s.size(block);
    const float *gate = packed + block * s.packed(), *up = gate + s.into(), *down = up + s.into();
    if (kept) {
      g = kept + s.kept(block, first), u = g + s.room * s.columns;
      width = s.columns;
    }
    multiply(states, ::packed(gate, s.dim), rows, size, s.dim, g, width, false);
    multiply(states, ::packed(up, s.dim), rows, size, s.dim, u, width, false);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < size; j += W) {
        const vec a = load(g + i * width + j);
        store(hidden + i * s.width() + j, a * sigmoid(a) * load(u + i * width + j));
      }
    multiply(left(hidden, s.width(), rows, size, inner_room), ::packed(down, size), rows, s.dim, size, out, s.wide(),
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
  struct Block { Operand states, grads, grads_right; };  // of tokens: the states are transposed
  std::vector<Block> of(count(n));
  static Scratch shared;
  const auto held = shared.of(of.size() * 3 * s.operand());
  float* rooms = held.get();
  parallel(pool, of.size(), [&](int64_t b) {
    const int64_t at = b * ROWS * s.stride(), rows = rows_of(n, b);
    float* room = rooms + 3 * b * s.operand();
    of[b].states = left_transposed(states + at, s.stride(), rows, s.dim, room);
    of[b].grads = left(grads + at, s.stride(), rows, s.dim, room + s.operand());
    of[b].grads_right = right(grads + at, s.stride(), rows, s.dim, room + 2 * s.operand());
  });
  parallel(pool, lanes, [&](int64_t lane) {
    static Scratch scratch;
    const int64_t part = ROWS * s.width(), total = s.dim * s.width();
    const auto held = scratch.of(s.into() + 2 * s.out_of() + s.inner_operand() + 3 * part + 2 * total +
                                  s.columns * s.stride());
    float* to_hidden = held.get();
    float *out_of_gate = to_hidden + s.into(), *out_of_up = out_of_gate + s.out_of();
    float* room = out_of_up + s.out_of();
    float *a = room + s.inner_operand(), *g = a + part, *u = g + part;
    float *to_gate = u + part, *to_up = to_gate + total, *to_down = to_up + total;
    float* own = sums + lane * n * s.wide();
    const int64_t from = lane * s.blocks() / lanes, to = (lane + 1) * s.blocks() / lanes;
    for (int64_t block = from; block < to; ++block) {
      const int64_t size = s.size(block), first = block * s.columns;
      const Operand of_gate = packed_transposed(w.gate + first, s.inner, s.dim, size, out_of_gate);
      const Operand of_up = packed_transposed(w.up + first, s.inner, s.dim, size, out_of_up);
      const Operand of_down = packed_transposed(w.down + first * s.dim, s.dim, size, s.dim, to_hidden);
      for (int64_t t = 0; t < n; t += ROWS) {
        const int64_t rows = rows_of(n, t / ROWS);
        const Block& here = of[t / ROWS];
        multiply(here.grads, of_down, rows, size, s.dim, a, s.width(), false);
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
        const int64_t width = s.width();
        multiply(left(g, width, rows, size, room), of_gate, rows, s.dim, size, sum, s.wide(), block != from);
        multiply(left(u, width, rows, size, room), of_up, rows, s.dim, size, sum, s.wide(), true);
        multiply(here.states, right(g, width, rows, size, room), s.dim, size, rows, to_gate, width, t != 0);
        multiply(here.states, right(u, width, rows, size, room), s.dim, size, rows, to_up, width, t != 0);
        multiply(left_transposed(a, width, rows, size, room), here.grads_right, size, s.dim, rows, to_down, s.stride(),
                 t != 0);
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
