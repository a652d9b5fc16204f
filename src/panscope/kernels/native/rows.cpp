// residual: token by token, decode the pairs, compare with the target, pull on each pair. decode and
// pull are its halves, for decoders of which this process has a part.
#include <algorithm>
#include <vector>

#include "abi.h"
#include "dot.h"

using namespace panscope;

namespace panscope {
namespace {

// One token's pairs, and where they lie.
struct Token {
  const int32_t* latent;
  const float* f;
  int64_t n, n_next;  // and of how many the next token has, right behind them
  const float* w_dec;
  int64_t d;
  const float* target;
  const int64_t* ends;  // per prefix: how many pairs lie below its bound
  int64_t n_prefixes;
  float* const* error;  // per prefix: the row to write
  float scale;          // 2 / tokens
};

// Decode `width` registers of dimensions from k on, prefix after prefix, and leave
// scale * (rebuilt - target) of each. `n` is lanes, or fewer in the last register.
template <int width>
void decode(const Token& t, int64_t k, int64_t n, double* squared) {
  Vec sums[width], goal[width];
#pragma GCC unroll 16
  for (int u = 0; u < width; u++) {
    sums[u] = Vec{};
    goal[u] = n == lanes ? load(t.target + k + u * lanes) : load(t.target + k, n);
  }
  int64_t i = 0;
  for (int64_t p = 0; p < t.n_prefixes; p++) {
    for (; i < t.ends[p]; i++) {
      if (i < t.n_next) prefetch(t.w_dec + t.latent[t.n + i] * t.d + k, width * lanes);
      if (t.f[i] == 0) continue;
      const float* w = t.w_dec + t.latent[i] * t.d + k;
      Vec f = all(t.f[i]);
#pragma GCC unroll 16
      for (int u = 0; u < width; u++) sums[u] += f * (n == lanes ? load(w + u * lanes) : load(w, n));
    }
    Vec square = {};
#pragma GCC unroll 16
    for (int u = 0; u < width; u++) {
      Vec error = sums[u] - goal[u];
      square += error * error;
      if (n == lanes)
        store(t.error[p] + k + u * lanes, error * all(t.scale));
      else
        store(t.error[p] + k, error * all(t.scale), n);
    }
    squared[p] += sum(square);
  }
}

constexpr int wide = registers / 2;  // sums held in registers; the target waits in cache

void decode(const Token& t, double* squared) {
  int64_t k = 0;
  for (; k + wide * lanes <= t.d; k += wide * lanes) decode<wide>(t, k, lanes, squared);
  for (; k + 2 * lanes <= t.d; k += 2 * lanes) decode<2>(t, k, lanes, squared);
  for (; k + lanes <= t.d; k += lanes) decode<1>(t, k, lanes, squared);
  if (k < t.d) decode<1>(t, k, t.d - k, squared);
}

// error[p] becomes the sum over prefixes p and later: what latents of segment p see.
void add_later_prefixes(const Token& t) {
  for (int64_t p = t.n_prefixes - 2; p >= 0; p--)
    for (int64_t k = 0; k < t.d; k++) t.error[p][k] += t.error[p + 1][k];
}

void pull_on_pairs(const Token& t, float* pull) {
  int64_t i = 0;
  for (int64_t p = 0; p < t.n_prefixes; p++)
    while (i < t.ends[p]) {
      const float* rows[rows_at_once];
      int n = int(std::min<int64_t>(rows_at_once, t.ends[p] - i));
      for (int r = 0; r < n; r++) rows[r] = t.w_dec + t.latent[i + r] * t.d;
      dots(t.error[p], rows, n, t.d, pull + i);
      i += n;
    }
}

// The pairs of all tokens, and the decoder rows they name.
struct Batch {
  const int32_t* latent;
  const float* f;
  const int64_t* offsets;
  int64_t n_tokens;
  const float* w_dec;
  int64_t d;
  const int64_t* bounds;
  int64_t n_bounds;
};

// Call visit(token, i) for each token; target and error are those of token 0, and where a row of
// target is followed by the next one's.
template <class Visit>
void visit_tokens(const Batch& b, const float* target, int64_t target_step, float* error,
                  float scale, const Visit& visit) {
#pragma omp parallel
  {
    std::vector<int64_t> ends(b.n_bounds);
    std::vector<float*> rows(b.n_bounds);
#pragma omp for schedule(dynamic, 16)
    for (int64_t i = 0; i < b.n_tokens; i++) {
      int64_t first = b.offsets[i], n = b.offsets[i + 1] - first, end = 0;
      int64_t n_next = i + 1 < b.n_tokens ? b.offsets[i + 2] - b.offsets[i + 1] : 0;
      for (int64_t p = 0; p < b.n_bounds; p++) {
        while (end < n && b.latent[first + end] < b.bounds[p]) end++;
        ends[p] = end;
        rows[p] = error + (p * b.n_tokens + i) * b.d;
      }
      visit(Token{b.latent + first, b.f + first, n, n_next, b.w_dec, b.d, target + i * target_step,
                  ends.data(), b.n_bounds, rows.data(), scale},
            i);
    }
  }
}

}  // namespace
}  // namespace panscope

void panscope_residual(const int32_t* latent, const float* f, const int64_t* offsets,
                       int64_t n_tokens, const float* w_dec, int64_t d, const float* target,
                       const int64_t* bounds, int64_t n_bounds, float* error, float* pull,
                       double* squared) {
  Batch batch{latent, f, offsets, n_tokens, w_dec, d, bounds, n_bounds};
  // Per token, and added up in order at the end: the same for any number of threads.
  std::vector<double> each(n_tokens * n_bounds, 0.0);
  visit_tokens(batch, target, d, error, 2.0f / float(n_tokens), [&](const Token& t, int64_t i) {
    decode(t, each.data() + i * n_bounds);
    add_later_prefixes(t);
    pull_on_pairs(t, pull + offsets[i]);
  });
  for (int64_t p = 0; p < n_bounds; p++) {
    squared[p] = 0;
    for (int64_t i = 0; i < n_tokens; i++) squared[p] += each[i * n_bounds + p];
  }
}

void panscope_decode(const int32_t* latent, const float* f, const int64_t* offsets,
                     int64_t n_tokens, const float* w_dec, int64_t d, const int64_t* bounds,
                     int64_t n_bounds, float* rebuilt) {
  Batch batch{latent, f, offsets, n_tokens, w_dec, d, bounds, n_bounds};
  std::vector<float> nothing(d, 0.0f);
  visit_tokens(batch, nothing.data(), 0, rebuilt, 1.0f, [&](const Token& t, int64_t) {
    std::vector<double> squared(n_bounds, 0.0);
    decode(t, squared.data());
  });
}

void panscope_pull(const int32_t* latent, const float* f, const int64_t* offsets, int64_t n_tokens,
                   const float* w_dec, int64_t d, const int64_t* bounds, int64_t n_bounds,
                   float* error, float* pull) {
  Batch batch{latent, f, offsets, n_tokens, w_dec, d, bounds, n_bounds};
  visit_tokens(batch, nullptr, 0, error, 1.0f,
               [&](const Token& t, int64_t i) { pull_on_pairs(t, pull + offsets[i]); });
}
