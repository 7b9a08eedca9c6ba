// Products of float32 matrices on a processor's tiles (AMX), which multiply numbers of bfloat16 and add up in float32.
//
// A float is the sum of three bfloat16, exactly: its first, second and last eight bits. Of the nine products of such
// parts the six largest are made; the others lie below 2^-23 of the whole. A tile sums over its own depth before it adds
// to what is there, so the error of a sum is no larger than that of float32's own multiply-adds (the form XLA gives float32 on a TPU under HIGHEST;
// Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations",
// 2019, arXiv:1904.06376). Numbers below 2^-110 lose bits, as the tiles take tiny bfloat16 for zero.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace tiles {

constexpr int64_t SIDE = 16, DEPTH = 32;          // of a tile
constexpr int64_t TILE = 256, PARTS = 3 * TILE;   // floats that a tile takes up, and its three parts
constexpr int64_t STEPS = 8;                      // tiles of depth at a time

inline int64_t count(int64_t n, int64_t of) { return (n + of - 1) / of; }

// Floats that an operand takes up, and those between one tile of its side and the next
inline int64_t size(int64_t sides, int64_t depth) { return count(sides, SIDE) * count(depth, DEPTH) * PARTS; }
inline int64_t step_of(int64_t depth) { return count(depth, DEPTH) * PARTS; }

#if defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__linux__)
}  // namespace tiles

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tiles {

// Whether the system lets this process use its tiles, which are large and so not everybody's; PREFJAX_TILES=0 declines
inline bool usable() {
  constexpr long permission = 0x1023, data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  const char* wanted = std::getenv("PREFJAX_TILES");
  return !(wanted && wanted[0] == '0') && syscall(SYS_arch_prctl, permission, data) == 0;
}

// The three parts of 16 floats, each in the upper half of a word
struct Split {
  __m512i part[3];
  explicit Split(__m512 x) {
    const __m512i upper = _mm512_set1_epi32(0xFFFF0000);
    part[0] = _mm512_and_si512(_mm512_castps_si512(x), upper);
    const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(part[0]));
    part[1] = _mm512_and_si512(_mm512_castps_si512(rest), upper);
    part[2] = _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(part[1])));
  }
};

// The first `have` of 16 floats, zeros behind them
inline __m512 some(const float* x, int64_t have) {
  return have >= 16 ? _mm512_loadu_ps(x) : have > 0 ? _mm512_maskz_loadu_ps((1 << have) - 1, x) : _mm512_setzero_ps();
}

// A row of each part: 32 numbers one after another
inline void line(__m512 first, __m512 second, float* to) {
  alignas(64) static const uint16_t odd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                               33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i upper = _mm512_load_si512(odd);
  const Split a(first), b(second);
  for (int i = 0; i < 3; ++i)
    _mm512_storeu_si512(to + i * TILE, _mm512_permutex2var_epi16(a.part[i], upper, b.part[i]));
}

// A row of each part: 16 pairs of one number of each
inline void pairs(__m512 first, __m512 second, float* to) {
  const Split a(first), b(second);
  for (int i = 0; i < 3; ++i)
    _mm512_storeu_si512(to + i * TILE,
                        _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(a.part[i], 16), b.part[i]));
}

// The transpose of 16 x 16 words, in place
inline void transpose(float* tile) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(tile + 16 * i);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
      a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
    }
  for (int j = 0; j < 4; ++j) {
    const __m512i even = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88), odd = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
    const __m512i later_even = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i later_odd = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    b[j] = _mm512_shuffle_i32x4(even, later_even, 0x88), b[8 + j] = _mm512_shuffle_i32x4(even, later_even, 0xdd);
    b[4 + j] = _mm512_shuffle_i32x4(odd, later_odd, 0x88), b[12 + j] = _mm512_shuffle_i32x4(odd, later_odd, 0xdd);
  }
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(tile + 16 * i, b[i]);
}

// x[rows, columns], rows `step` floats apart, as the side of a product that has x's rows; its depth is x's columns.
// A tile on the left has a row for each side, one on the right for each two of depth
inline void by_rows(const float* x, int64_t step, int64_t rows, int64_t columns, bool right, float* out) {
  for (int64_t s = 0; s < rows; s += SIDE)
    for (int64_t d = 0; d < columns; d += DEPTH, out += PARTS) {
      for (int64_t i = 0; i < SIDE; ++i) {
        const float* row = x + (s + i) * step + d;
        const int64_t have = s + i < rows ? columns - d : 0;
        line(some(row, have), some(row + 16, have - 16), out + i * 16);
      }
      for (int part = 0; right && part < 3; ++part) transpose(out + part * TILE);
    }
}

// The same of x's columns; the depth is x's rows
inline void by_columns(const float* x, int64_t step, int64_t rows, int64_t columns, bool right, float* out) {
  for (int64_t s = 0; s < columns; s += SIDE)
    for (int64_t d = 0; d < rows; d += DEPTH, out += PARTS) {
      for (int64_t i = 0; i < DEPTH / 2; ++i) {
        const int64_t row = d + 2 * i, have = columns - s;
        const float* first = x + row * step + s;
        pairs(some(first, row < rows ? have : 0), some(first + step, row + 1 < rows ? have : 0), out + i * 16);
      }
      for (int part = 0; !right && part < 3; ++part) transpose(out + part * TILE);
    }
}

// Tiles 0 to 3 hold a square of C, 4 and 5 the left side of its upper and lower half, 6 and 7 the right side
inline void configure(int64_t upper, int64_t lower) {
  struct alignas(64) {
    uint8_t palette = 1, rest[15] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } all;
  const int64_t rows[] = {upper, upper, lower, lower, upper, lower, DEPTH / 2, DEPTH / 2};
  for (int i = 0; i < 8; ++i) all.bytes[i] = 64, all.rows[i] = std::max<int64_t>(1, rows[i]);
  _tile_loadconfig(&all);
}

// As assembler, for GCC leaves out a function that does nothing but _mm_prefetch
inline void prefetch(const float* line) { asm volatile("prefetcht0 %0" : : "m"(*line)); }

// C (+)= left right over some tiles of depth; C has two tiles of rows if it is `tall`, and of columns if `wide`
template <bool tall, bool wide>
inline void square(const float* left, int64_t left_step, const float* right, int64_t right_step, int64_t steps,
                   float* c, int64_t width, bool add) {
  const int64_t row = width * sizeof(float);
  if (add) {
    _tile_loadd(0, c, row);
    if (wide) _tile_loadd(1, c + SIDE, row);
    if (tall) _tile_loadd(2, c + SIDE * width, row);
    if (tall && wide) _tile_loadd(3, c + SIDE * width + SIDE, row);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const auto load_left = [&](int part) {
    _tile_loadd(4, left + part * TILE, 64);
    if (tall) _tile_loadd(5, left + left_step + part * TILE, 64);
  };
  const auto load_right = [&](int part) {
    _tile_loadd(6, right + part * TILE, 64);
    if (wide) _tile_loadd(7, right + right_step + part * TILE, 64);
  };
  const auto multiply = [] {
    _tile_dpbf16ps(0, 4, 6);
    if (wide) _tile_dpbf16ps(1, 4, 7);
    if (tall) _tile_dpbf16ps(2, 5, 6);
    if (tall && wide) _tile_dpbf16ps(3, 5, 7);
  };
  // The next step's tiles, which the processor does not fetch by itself: two at each of six places, its buffers are few
  const auto fetch = [&](int part, bool second) {
    const float *a = left + PARTS + part * TILE + second * left_step;
    const float *b = right + PARTS + part * TILE + second * right_step;
    for (int64_t i = 0; i < TILE; i += 16) {
      if (tall || !second) prefetch(a + i);
      if (wide || !second) prefetch(b + i);
    }
  };
  for (int64_t k = 0; k < steps; ++k, left += PARTS, right += PARTS) {  // in the order of fewest loads
    load_left(0), load_right(2), fetch(0, false), multiply();
    load_right(1), fetch(1, false), multiply();
    load_left(1), fetch(2, false), multiply();
    load_right(0), fetch(0, true), multiply();
    load_left(2), fetch(1, true), multiply();
    load_left(0), fetch(2, true), multiply();
  }
  _tile_stored(0, c, row);
  if (wide) _tile_stored(1, c + SIDE, row);
  if (tall) _tile_stored(2, c + SIDE * width, row);
  if (tall && wide) _tile_stored(3, c + SIDE * width + SIDE, row);
}

// C[m, n] (+)= A B over `depth`, with room in C for a multiple of 16 columns; its rows are `width` floats apart
inline void product(const float* a, int64_t a_step, const float* b, int64_t b_step, int64_t m, int64_t n, int64_t depth,
                    float* c, int64_t width, bool add) {
  const int64_t all = count(depth, DEPTH), even = m / (2 * SIDE) * (2 * SIDE);
  const auto rows = [&](int64_t from, int64_t to) {
    if (from == to) return;
    configure(std::min(SIDE, to - from), std::min(SIDE, to - from - SIDE));
    for (int64_t k = 0; k < all; k += STEPS)
      for (int64_t j = 0; j < n; j += 2 * SIDE)
        for (int64_t i = from; i < to; i += 2 * SIDE) {
          const bool tall = i + SIDE < to, wide = j + SIDE < n;
          (tall ? wide ? square<true, true> : square<true, false> : wide ? square<false, true> : square<false, false>)(
              a + i / SIDE * a_step + k * PARTS, a_step, b + j / SIDE * b_step + k * PARTS, b_step,
              std::min(STEPS, all - k), c + i * width + j, width, add || k);
        }
  };
  rows(0, even);
  rows(even, m);
  _tile_release();
}

#else

constexpr bool usable() { return false; }
void by_rows(const float*, int64_t, int64_t, int64_t, bool, float*);
void by_columns(const float*, int64_t, int64_t, int64_t, bool, float*);
void product(const float*, int64_t, const float*, int64_t, int64_t, int64_t, int64_t, float*, int64_t, bool);

#endif

}  // namespace tiles
