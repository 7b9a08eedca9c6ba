// All layers of a Llama, x + attention(norm x) and then x + mlp(norm x), with their gradients: a block of tokens at a
// time between one attention and the next, so that norms, rotations and sums are made on what is in cache.
//
// Padding is left out: it has zeros, and its gradient is zero. So are, after the attention of the last layer, tokens
// that are not asked for and, backwards, those without a gradient.
#include "layers.h"

#include <memory>
#include <utility>

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Flags = ffi::Buffer<ffi::PRED>;
using Result = ffi::ResultBuffer<ffi::F32>;

namespace {

using layers::Shape;
using layers::Tokens;
using layers::Weights;

struct Inputs {
  Floats norm, q, k, v, o, mlp_norm, gate, up, down;  // each [layers, ...]
  Floats cos, sin;                                    // [rows or 1, length, pairs]
  Flags mask, real, where;                            // [rows or 1, length, length], [rows, length] twice

  Weights at(const Shape& s, int64_t l) const {
    const int64_t a = s.dim * s.queries(), b = s.dim * s.keys(), c = s.dim * s.inner;
    return {norm.typed_data() + l * s.dim, q.typed_data() + l * a, k.typed_data() + l * b, v.typed_data() + l * b,
            o.typed_data() + l * a, mlp_norm.typed_data() + l * s.dim,
            {gate.typed_data() + l * c, up.typed_data() + l * c, down.typed_data() + l * c}};
  }
  Tokens tokens(const Shape& s) const {
    return {s.all(), [&](int64_t i) { return real.typed_data()[i]; }};
  }
  Tokens asked(const Shape& s) const {
    return {s.all(), [&](int64_t i) { return real.typed_data()[i] && where.typed_data()[i]; }};
  }
  // Runs of keys for queries of `tokens` alone
  std::vector<attention::Runs> visible(ffi::ThreadPool& pool, const attention::Shape& s, const Tokens& tokens) const {
    const auto asked = std::make_unique<bool[]>(s.masks * s.queries);
    for (const int64_t token : tokens.at) asked[s.masks == 1 ? token % s.queries : token] = true;
    return attention::visible(pool, s, mask.typed_data(), asked.get());
  }
  int64_t angles(const Shape& s, int64_t token) const {  // where those of a token stand
    return (cos.dimensions()[0] == 1 ? token % s.length : token) * s.turned;
  }
};

Shape shape_of(const Floats& x, const Inputs& in, int64_t heads, int64_t groups, float eps, float scale, float offset) {
  auto d = x.dimensions();
  const auto q = in.q.dimensions();
  return {d[0], d[1], d[2], heads, groups, q[2] / heads, in.gate.dimensions()[2], q[0], in.cos.dimensions()[2],
          eps, scale, offset};
}

// What the forward pass keeps of a layer beside its input; without room for it, one layer's at a time
struct Kept {
  float *mid, *q, *k, *v, *mixed, *lse, *products;
};

// The projections and the MLP, and the norms' factors
struct Packed {
  float *q, *k, *v, *o, *inner, *norm, *mlp_norm;
  static int64_t size(const Shape& s, const mlp::Shape& m) {
    return packed_size(s.queries(), s.dim) + 2 * packed_size(s.keys(), s.dim) + packed_size(s.dim, s.queries()) +
           m.blocks() * m.packed() + 2 * s.wide();
  }
  Packed(const Shape& s, const mlp::Shape& m, float* room) {
    q = room, k = q + packed_size(s.queries(), s.dim), v = k + packed_size(s.keys(), s.dim);
    o = v + packed_size(s.keys(), s.dim), inner = o + packed_size(s.dim, s.queries());
    norm = inner + m.blocks() * m.packed(), mlp_norm = norm + s.wide();
  }
  void fill(ffi::ThreadPool& pool, const Shape& s, const mlp::Shape& m, const Weights& w) {
    parallel(pool, m.blocks() + 3, [&](int64_t piece) {
      if (piece >= 3) return mlp::pack_block(m, w.inner, piece - 3, inner);
      if (piece == 0) packed(w.q, s.queries(), s.dim, s.queries(), q);
      if (piece == 1) packed(w.o, s.dim, s.queries(), s.dim, o);
      if (piece != 2) return;
      packed(w.k, s.keys(), s.dim, s.keys(), k);
      packed(w.v, s.keys(), s.dim, s.keys(), v);
      layers::factors(s, w.norm, norm);
      layers::factors(s, w.mlp_norm, mlp_norm);
    });
  }
};

void zero(float* x, const bool* real, int64_t n, int64_t size) {
  for (int64_t i = 0; i < n; ++i)
    if (!real[i]) std::fill_n(x + i * size, size, 0.0f);
}

// Norm, projections and rotation of one block of tokens
void project(const Shape& s, const Inputs& in, const Tokens& tokens, const Packed& ready, const float* x,
             int64_t block, const Kept& to) {
  static Scratch scratch;
  const int64_t width_q = padded(s.queries()) + GAP, width_k = padded(s.keys()) + GAP;
  const auto held = scratch.of(s.operand() + ROWS * (s.stride() + width_q + 2 * width_k));
  float* room = held.get();
  float *states = room + s.operand(), *q = states + ROWS * s.stride(), *k = q + ROWS * width_q, *v = k + ROWS * width_k;
  const int64_t first = tokens.first(block), rows = tokens.first(block + 1) - first;
  for (int64_t i = 0; i < rows; ++i) {
    float* row = states + i * s.stride();
    widen(x + tokens.at[first + i] * s.dim, s.dim, s.stride(), row);
    layers::norm(s, row, ready.norm, row);
  }
  const Operand here = left(states, s.stride(), rows, s.dim, room);
  multiply(here, packed(ready.q, s.dim), rows, s.queries(), s.dim, q, width_q, false);
  multiply(here, packed(ready.k, s.dim), rows, s.keys(), s.dim, k, width_k, false);
  multiply(here, packed(ready.v, s.dim), rows, s.keys(), s.dim, v, width_k, false);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t token = tokens.at[first + i], at = in.angles(s, token);
    layers::rotate(s, s.heads, in.cos.typed_data() + at, in.sin.typed_data() + at, 1, q + i * width_q);
    layers::rotate(s, s.groups, in.cos.typed_data() + at, in.sin.typed_data() + at, 1, k + i * width_k);
    std::copy_n(q + i * width_q, s.queries(), to.q + token * s.queries());
    std::copy_n(k + i * width_k, s.keys(), to.k + token * s.keys());
    std::copy_n(v + i * width_k, s.keys(), to.v + token * s.keys());
  }
}

// What comes after attention, of one block of tokens: its projection, and the MLP
void finish(const Shape& s, const mlp::Shape& m, const Tokens& tokens, const Packed& ready, const float* x,
            int64_t block, const Kept& kept, float* out) {
  static Scratch scratch;
  const int64_t width = padded(s.queries()) + GAP;
  const auto held = scratch.of(s.operand() + ROWS * (s.stride() + width + 2 * s.wide()));
  float* room = held.get();
  float *states = room + s.operand(), *mixed = states + ROWS * s.stride(), *mid = mixed + ROWS * width;
  float* found = mid + ROWS * s.wide();
  const int64_t first = tokens.first(block), rows = tokens.first(block + 1) - first;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t token = tokens.at[first + i];
    widen(kept.mixed + token * s.queries(), s.queries(), width, mixed + i * width);
    widen(x + token * s.dim, s.dim, s.wide(), mid + i * s.wide());
  }
  multiply(left(mixed, width, rows, s.queries(), room), packed(ready.o, s.queries()), rows, s.dim, s.queries(), mid,
           s.wide(), true);
  for (int64_t i = 0; i < rows; ++i) {
    layers::norm(s, mid + i * s.wide(), ready.mlp_norm, states + i * s.stride());
    if (kept.mid) std::copy_n(mid + i * s.wide(), s.dim, kept.mid + tokens.at[first + i] * s.dim);
  }
  mlp::forward(m, ready.inner, states, first, rows, found, kept.products);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t d = 0; d < s.dim; ++d)
      out[tokens.at[first + i] * s.dim + d] = mid[i * s.wide() + d] + found[i * s.wide() + d];
}

ffi::Error Forward(ffi::ThreadPool pool, Floats x, Floats norm, Floats q, Floats k, Floats v, Floats o, Floats mlp_norm,
                   Floats gate, Floats up, Floats down, Floats cos, Floats sin, Flags mask, Flags real,
                   Flags where, Result out, Result xs, Result mids, Result qs, Result ks, Result vs, Result mixed,
                   Result lses, Result products, int64_t heads, int64_t groups, float eps, float scale, float offset) {
  const Inputs in{norm, q, k, v, o, mlp_norm, gate, up, down, cos, sin, mask, real, where};
  const Shape s = shape_of(x, in, heads, groups, eps, scale, offset);
  const Tokens tokens = in.tokens(s), asked = in.asked(s);
  const mlp::Shape m(tokens.count(), s.dim, s.inner, s.all()), of_asked(asked.count(), s.dim, s.inner, s.all());
  const auto mixing = s.mixing(mask.dimensions()[0]);
  const auto runs = in.visible(pool, mixing, tokens), last_runs = in.visible(pool, mixing, asked);
  const bool keep = mids->element_count() > 0;
  const int64_t n = s.all();
  static Scratch shared;
  const auto held = shared.of(Packed::size(s, m) + (keep ? 0 : n * (2 * s.queries() + 2 * s.keys() + s.heads)));
  float* room = held.get();
  Packed ready(s, m, room);
  room += Packed::size(s, m);
  for (int64_t l = 0; l < s.layers; ++l) {
    Kept here{};
    if (keep) {
      here = {mids->typed_data() + l * n * s.dim, qs->typed_data() + l * n * s.queries(),
              ks->typed_data() + l * n * s.keys(), vs->typed_data() + l * n * s.keys(),
              mixed->typed_data() + l * n * s.queries(), lses->typed_data() + l * n * s.heads,
              products->typed_data() + l * m.kept_size()};
    } else {
      here.q = room, here.mixed = here.q + n * s.queries(), here.k = here.mixed + n * s.queries();
      here.v = here.k + n * s.keys(), here.lse = here.v + n * s.keys();
    }
    const bool last = l == s.layers - 1;
    const float* from = l == 0 ? x.typed_data() : keep ? xs->typed_data() + (l - 1) * n * s.dim : out->typed_data();
    float* to = last || !keep ? out->typed_data() : xs->typed_data() + l * n * s.dim;
    ready.fill(pool, s, m, in.at(s, l));
    parallel(pool, tokens.blocks(), [&](int64_t block) { project(s, in, tokens, ready, from, block, here); });
    zero(here.q, real.typed_data(), n, s.queries());
    zero(here.k, real.typed_data(), n, s.keys());
    zero(here.v, real.typed_data(), n, s.keys());
    attention::attend(pool, mixing, last ? last_runs : runs, mask.typed_data(), s.scale, here.q, here.k, here.v,
                      here.mixed, here.lse);
    const Tokens& wanted = last ? asked : tokens;
    parallel(pool, wanted.blocks(), [&](int64_t block) {
      finish(s, last ? of_asked : m, wanted, ready, from, block, here, to);
    });
  }
  zero(out->typed_data(), real.typed_data(), n, s.dim);
  zero(out->typed_data(), where.typed_data(), n, s.dim);
  return ffi::Error::Success();
}

// Sums over tokens of the gradients in a layer's weights outside the MLP, one set to a lane
struct Sums {
  float *q, *k, *v, *o, *norm, *mlp_norm;
  static int64_t size(const Shape& s) {
    return s.dim * (padded(s.queries()) + 2 * padded(s.keys())) + s.queries() * s.wide() + 2 * s.wide();
  }
  Sums(const Shape& s, float* room) {
    q = room, k = q + s.dim * padded(s.queries()), v = k + s.dim * padded(s.keys());
    o = v + s.dim * padded(s.keys()), norm = o + s.queries() * s.wide(), mlp_norm = norm + s.wide();
  }
};

// out[r, :columns] = the sum of the first lanes' rows, `width` apart
void reduce(const std::vector<Sums>& sums, int64_t lanes, float* Sums::*of, int64_t width, int64_t r, int64_t columns,
            float* out) {
  std::copy_n(sums[0].*of + r * width, columns, out + r * columns);
  for (int64_t lane = 1; lane < lanes; ++lane)
    for (int64_t c = 0; c < columns; ++c) out[r * columns + c] += (sums[lane].*of)[r * width + c];
}

// Transposes of the projections
struct Back {
  float *q, *k, *v, *o;
  static int64_t size(const Shape& s) {
    return packed_size(s.dim, s.queries()) + 2 * packed_size(s.dim, s.keys()) + packed_size(s.queries(), s.dim);
  }
  Back(const Shape& s, float* room) {
    q = room, k = q + packed_size(s.dim, s.queries()), v = k + packed_size(s.dim, s.keys());
    o = v + packed_size(s.dim, s.keys());
  }
  void fill(ffi::ThreadPool& pool, const Shape& s, const Weights& w) {
    parallel(pool, 4, [&](int64_t piece) {
      if (piece == 0) packed_transposed(w.q, s.queries(), s.dim, s.queries(), q);
      if (piece == 1) packed_transposed(w.o, s.dim, s.queries(), s.dim, o);
      if (piece == 2) packed_transposed(w.k, s.keys(), s.dim, s.keys(), k);
      if (piece == 3) packed_transposed(w.v, s.keys(), s.dim, s.keys(), v);
    });
  }
};

// Back from the MLP's sums [lanes, tokens, wide] to what attention gave, of one block: `grads` [tokens, stride] becomes
// the gradient in the residual stream between the two parts, in_mixed that in what attention gave
void to_attention(const Shape& s, const Tokens& tokens, const Back& back, const Kept& kept, const float* factor,
                  const float* of_mlp, int64_t mlp_lanes, int64_t block, float* grads, float* in_mixed, bool add,
                  const Sums& sums) {
  static Scratch scratch;
  const int64_t width = padded(s.queries()) + GAP;
  const auto held = scratch.of(2 * s.operand() + ROWS * 2 * width + 2 * s.wide());
  float* room = held.get();
  float *other = room + s.operand(), *mixed = other + s.operand();
  float *found = mixed + ROWS * width, *mid = found + ROWS * width, *grad = mid + s.wide();
  const int64_t first = tokens.first(block), rows = tokens.first(block + 1) - first, n = tokens.count();
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t token = tokens.at[first + i];
    widen(kept.mid + token * s.dim, s.dim, s.wide(), mid);
    std::copy_n(of_mlp + (first + i) * s.wide(), s.wide(), grad);
    for (int64_t lane = 1; lane < mlp_lanes; ++lane)
      for (int64_t d = 0; d < s.wide(); ++d) grad[d] += of_mlp[(lane * n + first + i) * s.wide() + d];
    layers::norm_grads(s, mid, factor, grad, grads + (first + i) * s.stride(), sums.mlp_norm);
    widen(kept.mixed + token * s.queries(), s.queries(), width, mixed + i * width);
  }
  const float* here = grads + first * s.stride();
  multiply(left(here, s.stride(), rows, s.dim, room), packed(back.o, s.dim), rows, s.queries(), s.dim, found, width,
           false);
  for (int64_t i = 0; i < rows; ++i)
    std::copy_n(found + i * width, s.queries(), in_mixed + tokens.at[first + i] * s.queries());
  multiply(left_transposed(mixed, width, rows, s.queries(), room), right(here, s.stride(), rows, s.dim, other),
           s.queries(), s.dim, rows, sums.o, s.wide(), add);
}

// Back through the projections, of one block: `grads` becomes the gradient in the layer's input
void to_input(const Shape& s, const Inputs& in, const Tokens& tokens, const Back& back, const float* x,
              const float* factor, const Kept& inner, int64_t block, float* grads, bool add, const Sums& sums) {
  static Scratch scratch;
  const int64_t width_q = padded(s.queries()) + GAP, width_k = padded(s.keys()) + GAP;
  const auto held = scratch.of(2 * s.operand() + ROWS * (3 * s.stride() + width_q + 2 * width_k));
  float* room = held.get();
  float *other = room + s.operand(), *own = other + s.operand();
  float *states = own + ROWS * s.stride(), *found = states + ROWS * s.stride(), *q = found + ROWS * s.stride();
  float *k = q + ROWS * width_q, *v = k + ROWS * width_k;
  const int64_t first = tokens.first(block), rows = tokens.first(block + 1) - first;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t token = tokens.at[first + i], at = in.angles(s, token);
    widen(x + token * s.dim, s.dim, s.stride(), own + i * s.stride());
    layers::norm(s, own + i * s.stride(), factor, states + i * s.stride());
    widen(inner.q + token * s.queries(), s.queries(), width_q, q + i * width_q);
    widen(inner.k + token * s.keys(), s.keys(), width_k, k + i * width_k);
    widen(inner.v + token * s.keys(), s.keys(), width_k, v + i * width_k);
    layers::rotate(s, s.heads, in.cos.typed_data() + at, in.sin.typed_data() + at, -1, q + i * width_q);
    layers::rotate(s, s.groups, in.cos.typed_data() + at, in.sin.typed_data() + at, -1, k + i * width_k);
  }
  const auto add_to_found = [&](const float* x, int64_t width, int64_t size, const float* weights) {
    multiply(left(x, width, rows, size, room), packed(weights, size), rows, s.dim, size, found, s.stride(), x != q);
  };
  add_to_found(q, width_q, s.queries(), back.q);
  add_to_found(k, width_k, s.keys(), back.k);
  add_to_found(v, width_k, s.keys(), back.v);
  for (int64_t i = 0; i < rows; ++i)
    layers::norm_grads(s, own + i * s.stride(), factor, found + i * s.stride(), grads + (first + i) * s.stride(),
                       sums.norm);
  const Operand turned = left_transposed(states, s.stride(), rows, s.dim, room);
  const auto add_to = [&](float* total, const float* x, int64_t width, int64_t size) {
    multiply(turned, right(x, width, rows, size, other), s.dim, size, rows, total, padded(size), add);
  };
  add_to(sums.q, q, width_q, s.queries());
  add_to(sums.k, k, width_k, s.keys());
  add_to(sums.v, v, width_k, s.keys());
}

ffi::Error Backward(ffi::ThreadPool pool, Floats x, Floats norm, Floats q, Floats k, Floats v, Floats o,
                    Floats mlp_norm, Floats gate, Floats up, Floats down, Floats cos, Floats sin, Flags mask,
                    Flags real, Flags where, Floats xs, Floats mids, Floats qs, Floats ks, Floats vs, Floats mixed,
                    Floats lses, Floats products, Floats grad, Result in_x, Result in_norm, Result in_q, Result in_k,
                    Result in_v, Result in_o, Result in_mlp_norm, Result in_gate, Result in_up, Result in_down,
                    int64_t heads, int64_t groups, float eps, float scale, float offset) {
  const Inputs in{norm, q, k, v, o, mlp_norm, gate, up, down, cos, sin, mask, real, where};
  const Shape s = shape_of(x, in, heads, groups, eps, scale, offset);
  const Tokens tokens = in.tokens(s), asked = in.asked(s);
  // After its attention the last layer has gradients in these tokens alone
  const Tokens late(s.all(), [&](int64_t i) {
    const float* row = grad.typed_data() + i * s.dim;
    return real.typed_data()[i] && where.typed_data()[i] &&
           std::any_of(row, row + s.dim, [](float g) { return g != 0; });
  });
  const auto mixing = s.mixing(mask.dimensions()[0]);
  const auto runs = in.visible(pool, mixing, tokens), last_runs = in.visible(pool, mixing, late);
  const int64_t n = s.all(), some = tokens.count(), blocks = tokens.blocks();
  const mlp::Shape m(some, s.dim, s.inner, n);
  const int64_t mlp_lanes = mlp::lanes_of(pool, m);
  const int64_t fit = std::max<int64_t>(pool.num_threads(), (int64_t{1} << 25) / Sums::size(s));  // in 128 MB
  const int64_t most = std::max<int64_t>(1, std::min<int64_t>({16, 2 * pool.num_threads(), blocks, fit}));
  static Scratch shared;
  const auto held = shared.of(some * (3 * s.stride() + mlp_lanes * s.wide()) + n * (2 * s.queries() + 2 * s.keys()) +
                          most * Sums::size(s) + Back::size(s) + 2 * s.wide());
  float* room = held.get();
  const auto take = [&](int64_t floats) { return std::exchange(room, room + floats); };
  float *grads = take(some * s.stride()), *late_grads = take(some * s.stride()), *states = take(some * s.stride());
  float *of_mlp = take(mlp_lanes * some * s.wide()), *in_mixed = take(n * s.queries());
  Kept inner{};
  inner.q = take(n * s.queries()), inner.k = take(n * s.keys()), inner.v = take(n * s.keys());
  std::vector<Sums> sums;
  for (int64_t lane = 0; lane < most; ++lane) sums.emplace_back(s, take(Sums::size(s)));
  Back back(s, take(Back::size(s)));
  float *factor = take(s.wide()), *mlp_factor = take(s.wide());
  std::fill_n(in_x->typed_data(), n * s.dim, 0.0f);
  if (!late.count()) {
    for (Result* to : {&in_norm, &in_q, &in_k, &in_v, &in_o, &in_mlp_norm, &in_gate, &in_up, &in_down})
      std::fill_n((*to)->typed_data(), (*to)->element_count(), 0.0f);
    return ffi::Error::Success();
  }
  std::fill_n(in_mixed, n * s.queries(), 0.0f);
  spread(pool, grad.typed_data(), late.count(), s.dim, s.stride(), late_grads, [&](int64_t i) { return late.at[i]; });
  // Blocks of tokens in order, a share of them to each lane; how many lanes that were
  const auto each_lane = [&](const Tokens& tokens, const auto& work) {
    const int64_t blocks = tokens.blocks(), lanes = std::min(most, blocks);
    parallel(pool, lanes, [&](int64_t lane) {
      const int64_t from = lane * blocks / lanes, to = (lane + 1) * blocks / lanes;
      for (int64_t block = from; block < to; ++block) work(block, block != from, sums[lane]);
    });
    return lanes;
  };
  const auto same = mlp::same_places(some), late_places = asked.places(late), late_among = tokens.places(late);
  for (int64_t l = s.layers - 1; l >= 0; --l) {
    const Weights w = in.at(s, l);
    const bool last = l == s.layers - 1;
    const float* from = l == 0 ? x.typed_data() : xs.typed_data() + (l - 1) * n * s.dim;
    const Kept kept{mids.typed_data() + l * n * s.dim, qs.typed_data() + l * n * s.queries(),
                    ks.typed_data() + l * n * s.keys(), vs.typed_data() + l * n * s.keys(),
                    mixed.typed_data() + l * n * s.queries(), lses.typed_data() + l * n * s.heads,
                    products.typed_data() + l * m.kept_size()};
    layers::factors(s, w.norm, factor);
    layers::factors(s, w.mlp_norm, mlp_factor);
    for (const Sums& own : sums) std::fill_n(own.norm, 2 * s.wide(), 0.0f);
    back.fill(pool, s, w);
    const Tokens& here = last ? late : tokens;
    float* of_here = last ? late_grads : grads;
    parallel(pool, here.blocks(), [&](int64_t block) {
      for (int64_t i = here.first(block); i < here.first(block + 1); ++i) {
        float* row = states + i * s.stride();
        widen(kept.mid + here.at[i] * s.dim, s.dim, s.stride(), row);
        layers::norm(s, row, mlp_factor, row);
      }
    });
    mlp::backward(pool, {here.count(), s.dim, s.inner, n}, w.inner, states, of_here, kept.products,
                  last ? late_places : same, mlp_lanes, of_mlp, in_gate->typed_data() + l * s.dim * s.inner,
                  in_up->typed_data() + l * s.dim * s.inner, in_down->typed_data() + l * s.dim * s.inner);
    const int64_t lanes_o = each_lane(here, [&](int64_t block, bool add, const Sums& own) {
      to_attention(s, here, back, kept, mlp_factor, of_mlp, mlp_lanes, block, of_here, in_mixed, add, own);
    });
    if (last) {
      std::fill_n(grads, some * s.stride(), 0.0f);
      for (int64_t i = 0; i < late.count(); ++i)
        std::copy_n(late_grads + i * s.stride(), s.stride(), grads + late_among[i] * s.stride());
    }
    attention::attend_grads(pool, mixing, last ? last_runs : runs, mask.typed_data(), s.scale, kept.q, kept.k, kept.v,
                            kept.mixed, kept.lse, in_mixed, inner.q, inner.k, inner.v);
    const int64_t lanes = each_lane(tokens, [&](int64_t block, bool add, const Sums& own) {
      to_input(s, in, tokens, back, from, factor, inner, block, grads, add, own);
    });
    float *to_q = in_q->typed_data() + l * s.dim * s.queries(), *to_k = in_k->typed_data() + l * s.dim * s.keys();
    float *to_v = in_v->typed_data() + l * s.dim * s.keys(), *to_o = in_o->typed_data() + l * s.dim * s.queries();
    parallel(pool, s.dim, [&](int64_t d) {
      reduce(sums, lanes, &Sums::q, padded(s.queries()), d, s.queries(), to_q);
      reduce(sums, lanes, &Sums::k, padded(s.keys()), d, s.keys(), to_k);
      reduce(sums, lanes, &Sums::v, padded(s.keys()), d, s.keys(), to_v);
    });
    parallel(pool, s.queries(), [&](int64_t c) { reduce(sums, lanes_o, &Sums::o, s.wide(), c, s.dim, to_o); });
    reduce(sums, lanes, &Sums::norm, s.wide(), 0, s.dim, in_norm->typed_data() + l * s.dim);
    reduce(sums, lanes_o, &Sums::mlp_norm, s.wide(), 0, s.dim, in_mlp_norm->typed_data() + l * s.dim);
  }
  for (int64_t i = 0; i < some; ++i)
    std::copy_n(grads + i * s.stride(), s.dim, in_x->typed_data() + tokens.at[i] * s.dim);
  return ffi::Error::Success();
}

// A binding cannot be moved, so each is made where it is returned
template <int n, typename Binding>
auto arguments(Binding binding) {
  if constexpr (n == 1) return std::move(binding).template Arg<Floats>();
  else return arguments<n - 1>(std::move(binding).template Arg<Floats>());
}

template <int n, typename Binding>
auto results(Binding binding) {
  if constexpr (n == 1) return std::move(binding).template Ret<Floats>();
  else return results<n - 1>(std::move(binding).template Ret<Floats>());
}

// x [rows, length, dim], nine weights [layers, ...], angles, mask, real tokens, those asked for; see Inputs
auto inputs() {
  return arguments<12>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()).Arg<Flags>().Arg<Flags>().Arg<Flags>();
}

template <typename Binding>
auto facts(Binding binding) {
  return std::move(binding)
      .template Attr<int64_t>("heads")
      .template Attr<int64_t>("groups")
      .template Attr<float>("eps")
      .template Attr<float>("scale")
      .template Attr<float>("offset");
}

}  // namespace

// Gives what comes out, the inputs of all layers but the first, and what Kept has, or [0] each
XLA_FFI_DEFINE_HANDLER_SYMBOL(prefjax_layers, Forward, facts(results<9>(inputs())));

// Takes also what was kept and the gradient in what came out; gives those in x and the weights
XLA_FFI_DEFINE_HANDLER_SYMBOL(prefjax_layers_grads, Backward, facts(results<10>(arguments<9>(inputs()))));
