// gradients and update: hits sorted by latent, then one visit to each touched latent's rows.
#include <algorithm>
#include <cmath>
#include <vector>

#include <omp.h>

#include "abi.h"
#include "memory.h"
#include "vector.h"

using namespace panscope;

namespace panscope {
namespace {

struct Entry {
  int32_t error_row, token;
  float f, slope;
};

// Entries sorted by latent, those of one latent in the order of the hits: so sums, and with them
// all results, are the same for any number of threads.
struct ByLatent {
  Scratch<Entry> entries;
  std::vector<int64_t> begin;  // latents + 1

  ByLatent(const HitArrays& hits, int64_t n_latents)
      : entries(scratch<Entry>(hits.n)), begin(n_latents + 1, 0) {
    int n_threads = omp_get_max_threads();
    std::vector<int64_t> next(n_threads * n_latents, 0);  // per thread, then per latent
#pragma omp parallel num_threads(n_threads)
    {
      int me = omp_get_thread_num(), team = omp_get_num_threads();
      int64_t from = hits.n * me / team, to = hits.n * (me + 1) / team;
      int64_t* mine = next.data() + me * n_latents;
      for (int64_t i = from; i < to; i++) mine[hits.latent[i]] += counts(hits, i);
#pragma omp barrier
#pragma omp single
      begin_each(next, team, n_latents);
      for (int64_t i = from; i < to; i++)
        if (counts(hits, i))
          entries[mine[hits.latent[i]]++] = {hits.error_row[i], hits.token[i], hits.f[i],
                                             hits.slope[i]};
    }
  }

 private:
  static bool counts(const HitArrays& hits, int64_t i) {
    return hits.f[i] != 0 || hits.slope[i] != 0;
  }
  void begin_each(std::vector<int64_t>& next, int team, int64_t n_latents) {
    int64_t total = 0;
    for (int64_t j = 0; j < n_latents; j++) {
      begin[j] = total;
      for (int t = 0; t < team; t++) {
        int64_t count = next[t * n_latents + j];
        next[t * n_latents + j] = total;
        total += count;
      }
    }
    begin[n_latents] = total;
  }
};

constexpr int wide = registers / 2;
constexpr int64_t ahead = 12;

// to = sum of weight * row over a latent's entries, `width` registers of dimensions from k on.
template <int width, class Row, class Weight>
void gather(const Entry* entries, int64_t n, const Entry* end, Row row, Weight weight, int64_t k, int64_t rest,
            float* to) {
  Vec sums[width];
#pragma GCC unroll 16
  for (int u = 0; u < width; u++) sums[u] = Vec{};
  for (int64_t i = 0; i < n; i++) {
    if (entries + i + ahead < end) prefetch(row(entries[i + ahead]) + k, width * lanes);
    const float* from = row(entries[i]) + k;
    Vec w = all(weight(entries[i]));
#pragma GCC unroll 16
    for (int u = 0; u < width; u++)
      sums[u] += w * (rest == lanes ? load(from + u * lanes) : load(from, rest));
  }
#pragma GCC unroll 16
  for (int u = 0; u < width; u++)
    rest == lanes ? store(to + k + u * lanes, sums[u]) : store(to + k, sums[u], rest);
}

template <class Row, class Weight>
void gather(const Entry* entries, int64_t n, const Entry* end, Row row, Weight weight, int64_t d, float* to) {
  int64_t k = 0;
  for (; k + wide * lanes <= d; k += wide * lanes)
    gather<wide>(entries, n, end, row, weight, k, lanes, to);
  for (; k + 2 * lanes <= d; k += 2 * lanes) gather<2>(entries, n, end, row, weight, k, lanes, to);
  for (; k + lanes <= d; k += lanes) gather<1>(entries, n, end, row, weight, k, lanes, to);
  if (k < d) gather<1>(entries, n, end, row, weight, k, d - k, to);
}

// The sum of all tokens, in the order of tokens; threads share the dimensions.
std::vector<float> sum_of_tokens(const Sources& from) {
  std::vector<float> sum(from.d_in, 0.0f);
#pragma omp parallel for schedule(static)
  for (int64_t k = 0; k < from.d_in; k += 16) {
    int64_t n = std::min<int64_t>(16, from.d_in - k);
    for (int64_t t = 0; t < from.n_tokens; t++)
      for (int64_t i = 0; i < n; i++) sum[k + i] += from.x[t * from.d_in + k + i];
  }
  return sum;
}

// Visit every touched latent with its two gradients: sink(latent, d_w_enc, d_w_dec). The sink may
// change them; untouched latents are passed to skip(latent).
template <class Sink, class Skip>
void visit(const HitArrays& hits, const Sources& from, Sink sink, Skip skip) {
  ByLatent sorted(hits, from.n_latents);
  std::vector<float> x_sum;
  if (from.everywhere) x_sum = sum_of_tokens(from);
#pragma omp parallel
  {
    auto d_enc = scratch<float>(from.d_in), d_dec = scratch<float>(from.d_out);
#pragma omp for schedule(dynamic, 32)
    for (int64_t j = 0; j < from.n_latents; j++) {
      float everywhere = from.everywhere ? from.everywhere[j] : 0;
      const Entry* end = sorted.entries.get() + sorted.begin.back();
      const Entry* entries = sorted.entries.get() + sorted.begin[j];
      int64_t n = sorted.begin[j + 1] - sorted.begin[j];
      if (n == 0 && everywhere == 0) {
        skip(j);
        continue;
      }
      gather(
          entries, n, end, [&](const Entry& e) { return from.error + e.error_row * from.d_out; },
          [](const Entry& e) { return e.f; }, from.d_out, d_dec.get());
      gather(
          entries, n, end, [&](const Entry& e) { return from.x + e.token * from.d_in; },
          [](const Entry& e) { return e.slope; }, from.d_in, d_enc.get());
      if (everywhere != 0)
        for (int64_t k = 0; k < from.d_in; k++) d_enc[k] += everywhere * x_sum[k];
      sink(j, d_enc.get(), d_dec.get());
    }
  }
}

// Adam with beta1 = 0 (the gradient is its own first moment), one row.
struct Adam {
  float rate, decay, fresh, correction;  // fresh = 1 - beta2, correction = 1 / sqrt(1 - beta2^step)
  static constexpr float epsilon = 1e-8f;

  void row(float* w, float* v, const float* g, int64_t d) const {
#pragma omp simd
    for (int64_t k = 0; k < d; k++) {
      v[k] = v[k] * decay + fresh * (g[k] * g[k]);
      w[k] -= rate * g[k] / (std::sqrt(v[k]) * correction + epsilon);
    }
  }
};

void take_off_component(float* g, const float* w, int64_t d) {
  float along = dot(g, w, d);
#pragma omp simd
  for (int64_t k = 0; k < d; k++) g[k] -= along * w[k];
}

void normalise(float* w, int64_t d) {
  float norm = std::sqrt(dot(w, w, d));
  if (!(norm > 0)) return;
  float scale = 1 / norm;
#pragma omp simd
  for (int64_t k = 0; k < d; k++) w[k] *= scale;
}

}  // namespace
}  // namespace panscope

void panscope_gradients(const HitArrays* hits, const Sources* from, float* d_w_enc,
                        float* d_w_dec) {
  int64_t d_in = from->d_in, d_out = from->d_out;
  auto write = [=](int64_t j, const float* d_enc, const float* d_dec) {
    std::copy_n(d_enc, d_in, d_w_enc + j * d_in);
    std::copy_n(d_dec, d_out, d_w_dec + j * d_out);
  };
  auto clear = [=](int64_t j) {
    std::fill_n(d_w_enc + j * d_in, d_in, 0.0f);
    std::fill_n(d_w_dec + j * d_out, d_out, 0.0f);
  };
  visit(*hits, *from, write, clear);
}

void panscope_update(const HitArrays* hits, const Sources* from, const RowArrays* rows,
                     int64_t step, double rate) {
  constexpr double beta2 = 0.999;
  int64_t d_in = from->d_in, d_out = from->d_out;
  Adam adam{float(rate), 0, float(1 - beta2), float(1 / std::sqrt(1 - std::pow(beta2, step)))};
  RowArrays r = *rows;
  auto update = [=](int64_t j, float* d_enc, float* d_dec) mutable {
    float *w_enc = r.w_enc + j * d_in, *w_dec = r.w_dec + j * d_out;
    adam.decay = float(std::pow(beta2, step - r.seen[j]));
    r.seen[j] = int32_t(step);
    take_off_component(d_dec, w_dec, d_out);
    adam.row(w_dec, r.v_dec + j * d_out, d_dec, d_out);
    normalise(w_dec, d_out);
    adam.row(w_enc, r.v_enc + j * d_in, d_enc, d_in);
  };
  visit(*hits, *from, update, [](int64_t) {});
}
