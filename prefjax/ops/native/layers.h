// Parts of a layer: sizes, weights, RMSNorm and rotation of a token, and the list of real tokens cut in blocks.
#pragma once

#include <cmath>
#include <vector>

#include "attention.h"
#include "mlp.h"

namespace layers {

struct Shape {
  int64_t rows, length, dim, heads, groups, head, inner, layers, turned;  // `turned`: rotated pairs of a head
  float eps, scale, offset;  // of the norms, on the logits, added to the norms' factors
  int64_t all() const { return rows * length; }
  int64_t wide() const { return padded(dim); }
  int64_t stride() const { return wide() + GAP; }
  int64_t queries() const { return heads * head; }
  int64_t keys() const { return groups * head; }
  int64_t operand() const { return operand_size(ROWS, std::max({dim, queries(), keys()})); }  // of a block of tokens
  attention::Shape mixing(int64_t masks) const { return {rows, groups, heads / groups, length, length, head, masks}; }
};

// Of one layer: [dim], [dim, queries], [dim, keys] twice, [queries, dim], [dim], and the MLP's
struct Weights {
  const float *norm, *q, *k, *v, *o, *mlp_norm;
  mlp::Weights inner;
};

// Some of all tokens, in blocks of about equal size
struct Tokens {
  std::vector<int64_t> at;
  template <typename Which>
  Tokens(int64_t n, const Which& which) {
    for (int64_t i = 0; i < n; ++i)
      if (which(i)) at.push_back(i);
  }
  // The place among these of each of `some`, which are among them
  std::vector<int64_t> places(const Tokens& some) const {
    std::vector<int64_t> out(some.at.size());
    for (size_t i = 0, j = 0; i < out.size(); out[i++] = j)
      while (at[j] != some.at[i]) ++j;
    return out;
  }
  int64_t count() const { return at.size(); }
  int64_t blocks() const { return ::count(count()); }
  int64_t first(int64_t block) const { return block * count() / std::max<int64_t>(1, blocks()); }
};

inline float dot(const float* a, const float* b, int64_t wide) {
  vec total{};
  for (int64_t j = 0; j < wide; j += W) total += load(a + j) * load(b + j);
  return sum(total);
}

// Factors of a norm, zeros behind them
inline void factors(const Shape& s, const float* scale, float* out) {
  for (int64_t d = 0; d < s.dim; ++d) out[d] = s.offset + scale[d];
  std::fill(out + s.dim, out + s.wide(), 0.0f);
}

inline float inverse_rms(const Shape& s, const float* x) { return 1 / std::sqrt(dot(x, x, s.wide()) / s.dim + s.eps); }

// out = factor x / rms(x), both rows of wide() floats; x may be out
inline void norm(const Shape& s, const float* x, const float* factor, float* out) {
  const float inverse = inverse_rms(s, x);
  for (int64_t j = 0; j < s.wide(); j += W) store(out + j, load(x + j) * inverse * load(factor + j));
}

// in_x += the gradient in x, in_factor += that in the factors, given `grad`, that in what came out
inline void norm_grads(const Shape& s, const float* x, const float* factor, const float* grad, float* in_x,
                       float* in_factor) {
  const float inverse = inverse_rms(s, x);
  vec total{};
  for (int64_t j = 0; j < s.wide(); j += W) total += load(x + j) * load(factor + j) * load(grad + j);
  const float along = sum(total) * inverse * inverse * inverse / s.dim;
  for (int64_t j = 0; j < s.wide(); j += W) {
    const vec own = load(x + j), back = load(grad + j);
    store(in_x + j, load(in_x + j) + load(factor + j) * back * inverse - own * along);
    store(in_factor + j, load(in_factor + j) + back * own * inverse);
  }
}

// Rotates the first pairs of every head of a token by its angles, `sign` -1 for back
inline void rotate(const Shape& s, int64_t heads, const float* cos, const float* sin, float sign, float* x) {
  for (int64_t h = 0; h < heads; ++h, x += s.head)
    for (int64_t j = 0; j < s.turned; ++j) {
      const float a = x[j], b = x[s.turned + j], turn = sign * sin[j];
      x[j] = a * cos[j] - b * turn;
      x[s.turned + j] = b * cos[j] + a * turn;
    }
}

}  // namespace layers
