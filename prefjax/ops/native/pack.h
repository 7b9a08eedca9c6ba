// Copies of matrices in the order in which `product` reads them.
#pragma once

#include <algorithm>

#include "gemm.h"
#include "parallel.h"

constexpr int64_t GAP = 16;  // floats between rows, so that rows do not fall on the same lines of the cache

inline int64_t panels_of(int64_t n) { return (n + NR - 1) / NR; }
inline int64_t padded(int64_t n) { return panels_of(n) * NR; }

// w[rows, columns], rows `step` floats apart, as panels [rows, NR] of its columns, zeros behind the last
inline void pack(const float* w, int64_t step, int64_t rows, int64_t columns, float* out) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t p = 0; p < panels_of(columns); ++p) {
      float* to = out + (p * rows + r) * NR;
      const int64_t here = std::min<int64_t>(NR, columns - p * NR);
      std::copy_n(w + r * step + p * NR, here, to);
      std::fill(to + here, to + NR, 0.0f);
    }
}

// The transpose of w[rows, columns] as panels [columns, NR] of w's rows, zeros behind the last
inline void pack_transposed(const float* w, int64_t step, int64_t rows, int64_t columns, float* out) {
  constexpr int64_t side = 16;  // a square at a time, for the cache
  for (int64_t r0 = 0; r0 < padded(rows); r0 += side)
    for (int64_t c0 = 0; c0 < columns; c0 += side)
      for (int64_t r = r0; r < std::min(r0 + side, padded(rows)); ++r) {
        float* to = out + r / NR * columns * NR + r % NR;
        for (int64_t c = c0; c < std::min(c0 + side, columns); ++c) to[c * NR] = r < rows ? w[r * step + c] : 0;
      }
}

// One row of `dim` floats, zeros behind it up to `stride`
inline void widen(const float* x, int64_t dim, int64_t stride, float* out) {
  std::copy_n(x, dim, out);
  std::fill(out + dim, out + stride, 0.0f);
}

// Rows x[which(i)] of `dim` floats, `stride` apart, zeros between
template <typename Which>
void spread(xla::ffi::ThreadPool& pool, const float* x, int64_t n, int64_t dim, int64_t stride, float* out,
            const Which& which) {
  constexpr int64_t piece = 256;
  parallel(pool, (n + piece - 1) / piece, [&](int64_t p) {
    for (int64_t i = p * piece; i < std::min(n, (p + 1) * piece); ++i)
      widen(x + which(i) * dim, dim, stride, out + i * stride);
  });
}

// Lanes share a matrix's columns among them, each with its own sum [n, wide] over them: `each` to a thread, but no more
// than blocks of columns, 16, or what makes a gigabyte of sums
inline int64_t lanes_of(xla::ffi::ThreadPool& pool, int64_t each, int64_t blocks, int64_t n, int64_t wide) {
  const int64_t most = (int64_t{1} << 28) / std::max<int64_t>(1, n * wide);
  return std::max<int64_t>(1, std::min({int64_t{16}, each * pool.num_threads(), blocks, most}));
}

// out[which(i)] = the sum over lanes, in their order, of sums[lane, i]
template <typename Which>
void add_lanes(xla::ffi::ThreadPool& pool, const float* sums, int64_t lanes, int64_t n, int64_t dim, int64_t wide,
               float* out, const Which& which) {
  constexpr int64_t piece = 256;
  parallel(pool, (n + piece - 1) / piece, [&](int64_t p) {
    for (int64_t i = p * piece; i < std::min(n, (p + 1) * piece); ++i) {
      float* row = out + which(i) * dim;
      std::copy_n(sums + i * wide, dim, row);
      for (int64_t lane = 1; lane < lanes; ++lane)
        for (int64_t d = 0; d < dim; ++d) row[d] += sums[(lane * n + i) * wide + d];
    }
  });
}
