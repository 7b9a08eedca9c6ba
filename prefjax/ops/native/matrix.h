// Matrix products on the unit of the processor that makes them fastest: its tiles (`tiles.h`), or else its vectors
// (`gemm.h`). A matrix is made an operand once and then multiplied as often as one likes.
#pragma once

#include "pack.h"
#include "tiles.h"

#if defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__linux__)
inline const bool TILES = tiles::usable();
#else
constexpr bool TILES = false;
#endif
extern "C" __attribute__((used)) inline int prefjax_tiles() { return TILES; }
inline const int64_t ROWS = TILES ? 128 : 8 * MR;  // tokens of a block

// Blocks of n tokens, and the tokens of one
inline int64_t count(int64_t n) { return (n + ROWS - 1) / ROWS; }
inline int64_t rows_of(int64_t n, int64_t block) { return std::min(ROWS, n - block * ROWS); }

// One of the two sides of a product. For tiles: those of 16 rows or columns are `side` floats from those of the next.
// For vectors: numbers on the left are `side` and `depth` floats apart; on the right, panels of NR columns and rows are
struct Operand {
  const float* at;
  int64_t side, depth;
};

// Floats of room that matrices on the right with so many columns and rows take up, and other operands: those that are
// used once are left where they are, if vectors will do
inline int64_t packed_size(int64_t columns, int64_t depth) {
  return TILES ? tiles::size(columns, depth) : padded(columns) * depth;
}
inline int64_t operand_size(int64_t sides, int64_t depth) { return TILES ? tiles::size(sides, depth) : 0; }

// What stands packed in `room`
inline Operand packed(const float* room, int64_t depth) {
  return TILES ? Operand{room, tiles::step_of(depth), 0} : Operand{room, depth * NR, NR};
}

// In what follows x is [rows, columns], rows `step` floats apart

// x on the right, for many products
inline Operand packed(const float* x, int64_t step, int64_t rows, int64_t columns, float* room) {
  if (TILES) tiles::by_columns(x, step, rows, columns, true, room);
  else pack(x, step, rows, columns, room);
  return packed(room, rows);
}

// The transpose of x on the right, for many products
inline Operand packed_transposed(const float* x, int64_t step, int64_t rows, int64_t columns, float* room) {
  if (TILES) tiles::by_rows(x, step, rows, columns, true, room);
  else pack_transposed(x, step, rows, columns, room);
  return packed(room, columns);
}

// x on the right; vectors read it where it is, zeros behind its columns up to a multiple of NR
inline Operand right(const float* x, int64_t step, int64_t rows, int64_t columns, float* room) {
  if (!TILES) return {x, NR, step};
  return tiles::by_columns(x, step, rows, columns, true, room), Operand{room, tiles::step_of(rows), 0};
}

// x on the left
inline Operand left(const float* x, int64_t step, int64_t rows, int64_t columns, float* room) {
  if (!TILES) return {x, step, 1};
  return tiles::by_rows(x, step, rows, columns, false, room), Operand{room, tiles::step_of(columns), 0};
}

// The transpose of x on the left
inline Operand left_transposed(const float* x, int64_t step, int64_t rows, int64_t columns, float* room) {
  if (!TILES) return {x, 1, step};
  return tiles::by_columns(x, step, rows, columns, false, room), Operand{room, tiles::step_of(rows), 0};
}

// C[m, n] (+)= A B over `depth`, with room in C for padded(n) columns; its rows are `width` floats apart
inline void multiply(const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t depth, float* c, int64_t width,
                     bool add) {
  if (TILES) tiles::product(a.at, a.side, b.at, b.side, m, n, depth, c, width, add);
  else product(a.at, a.side, a.depth, b.at, b.side, b.depth, m, panels_of(n), depth, c, width, add);
}
