// gradients and update: hits sorted by latent, then one visit to each touched latent's rows.
//
// Encoder and decoder take turns: each gathers rows of one matrix only (x, or the error), and at
// batch 4096 and d = 512 that is 8 MB, which the last cache holds, where both together do not.
#include <algorithm>
#include <cmath>
#include <vector>

#include <omp.h>

#include "abi.h"
#include "dot.h"
#include "memory.h"

using namespace panscope;

namespace panscope {
namespace {

// A row to gather, and its weight.
struct Entry {
  int32_t row;
  float weight;
};

// Some latent's entries; `end` is where those of all latents end.
struct Entries {
  const Entry *begin, *last, *end;
};

// Entries sorted by latent, those of one latent in the order of the hits: so sums, and with them
// all results, are the same for any number of threads.
struct ByLatent {
  Scratch<Entry> enc, dec;
  std::vector<int64_t> begin;  // latents + 1

  ByLatent(const HitArrays& hits, int64_t n_latents)
      : enc(scratch<Entry>(hits.n)), dec(scratch<Entry>(hits.n)), begin(n_latents + 1, 0) {
    int n_threads = omp_get_max_threads();
    std::vector<int32_t> next(n_threads * n_latents, 0);  // per thread, then per latent
#pragma omp parallel num_threads(n_threads)
    {
      int me = omp_get_thread_num(), team = omp_get_num_threads();
      int64_t from = hits.n * me / team, to = hits.n * (me + 1) / team;
      int32_t* mine = next.data() + me * n_latents;
      for (int64_t i = from; i < to; i++) mine[hits.latent[i]] += counts(hits, i);
#pragma omp barrier
#pragma omp single
      begin_each(next, team, n_latents);
      for (int64_t i = from; i < to; i++) {
        if (!counts(hits, i)) continue;
        int32_t at = mine[hits.latent[i]]++;
        enc[at] = {hits.token[i], hits.slope[i]};
        dec[at] = {hits.error_row[i], hits.f[i]};
      }
    }
  }

  Entries of(const Scratch<Entry>& all, int64_t j) const {
    return {all.get() + begin[j], all.get() + begin[j + 1], all.get() + begin.back()};
  }

 private:
  static bool counts(const HitArrays& hits, int64_t i) {
    return hits.f[i] != 0 || hits.slope[i] != 0;
  }
  void begin_each(std::vector<int32_t>& next, int team, int64_t n_latents) {
    int32_t total = 0;
    for (int64_t j = 0; j < n_latents; j++) {
      begin[j] = total;
      for (int t = 0; t < team; t++) {
        int32_t count = next[t * n_latents + j];
        next[t * n_latents + j] = total;
        total += count;
      }
    }
    begin[n_latents] = total;
  }
};

constexpr int wide = registers / 2;  // sums held in registers

// to[k ..] = sum of weight * row[k ..], `width` registers; of the last one only `n` lanes.
template <int width>
void gather(const Entries& entries, const float* rows, int64_t d, int64_t k, int64_t n, float* to) {
  constexpr int64_t ahead = 16;
  Vec sums[width] = {};
  for (const Entry* e = entries.begin; e < entries.last; e++) {
    if (e + ahead < entries.end) prefetch(rows + e[ahead].row * d + k, width * lanes);
    const float* row = rows + e->row * d + k;
#pragma GCC unroll 16
    for (int u = 0; u < width; u++)
      sums[u] += all(e->weight) * (n == lanes ? load(row + u * lanes) : load(row, n));
  }
#pragma GCC unroll 16
  for (int u = 0; u < width; u++)
    n == lanes ? store(to + k + u * lanes, sums[u]) : store(to + k, sums[u], n);
}

void gather(const Entries& entries, const float* rows, int64_t d, float* to) {
  int64_t k = 0;
  for (; k + wide * lanes <= d; k += wide * lanes) gather<wide>(entries, rows, d, k, lanes, to);
  for (; k + 2 * lanes <= d; k += 2 * lanes) gather<2>(entries, rows, d, k, lanes, to);
  for (; k + lanes <= d; k += lanes) gather<1>(entries, rows, d, k, lanes, to);
  if (k < d) gather<1>(entries, rows, d, k, d - k, to);
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

// Give each touched latent's two gradients to the sink, which may change them: all sink.enc(latent,
// gradient) before all sink.dec(latent, gradient).
template <class Sink>
void visit(const HitArrays& hits, const Sources& from, Sink sink) {
  ByLatent sorted(hits, from.n_latents);
  std::vector<float> x_sum;
  if (from.everywhere) x_sum = sum_of_tokens(from);
  auto everywhere = [&](int64_t j) { return from.everywhere ? from.everywhere[j] : 0.0f; };
  auto is_touched = [&](int64_t j) {
    return sorted.begin[j] < sorted.begin[j + 1] || everywhere(j) != 0;
  };
#pragma omp parallel
  {
    auto gradient = scratch<float>(std::max(from.d_in, from.d_out));
#pragma omp for schedule(dynamic, 32)
    for (int64_t j = 0; j < from.n_latents; j++) {
      if (!is_touched(j)) continue;
      sink.expect_enc(std::min(j + 2, from.n_latents - 1));
      gather(sorted.of(sorted.enc, j), from.x, from.d_in, gradient.get());
      if (float share = everywhere(j); share != 0)
        for (int64_t k = 0; k < from.d_in; k++) gradient[k] += share * x_sum[k];
      sink.enc(j, gradient.get());
    }
#pragma omp for schedule(dynamic, 32)
    for (int64_t j = 0; j < from.n_latents; j++) {
      if (!is_touched(j)) continue;
      sink.expect_dec(std::min(j + 2, from.n_latents - 1));
      gather(sorted.of(sorted.dec, j), from.error, from.d_out, gradient.get());
      sink.dec(j, gradient.get());
    }
  }
}

// Gradients as they are, into matrices of zeros.
struct Write {
  float *d_w_enc, *d_w_dec;
  int64_t d_in, d_out;

  void expect_enc(int64_t) const {}
  void expect_dec(int64_t) const {}
  void enc(int64_t j, const float* gradient) const {
    std::copy_n(gradient, d_in, d_w_enc + j * d_in);
  }
  void dec(int64_t j, const float* gradient) const {
    std::copy_n(gradient, d_out, d_w_dec + j * d_out);
  }
};

// Adam on touched rows; decoder rows of norm 1 stay so. Without momentum the gradient is its own
// mean, and no array of means is read.
struct Step {
  RowArrays rows;
  int64_t d_in, d_out;
  int64_t step;
  float rate, correction;  // over 1 - momentum^step; 1 / sqrt(1 - beta2^step)
  static constexpr double beta2 = 0.999;
  static constexpr float epsilon = 1e-8f;

  void expect_enc(int64_t j) const { expect(rows.w_enc, rows.v_enc, rows.m_enc, j, d_in); }
  void expect_dec(int64_t j) const { expect(rows.w_dec, rows.v_dec, rows.m_dec, j, d_out); }
  void enc(int64_t j, const float* gradient) const {
    move(rows.w_enc, rows.v_enc, rows.m_enc, j, gradient, d_in);
  }
  void dec(int64_t j, float* gradient) const {
    float* w = rows.w_dec + j * d_out;
    take_off_component(gradient, w, d_out);
    move(rows.w_dec, rows.v_dec, rows.m_dec, j, gradient, d_out);
    normalise(w, d_out);
    rows.seen[j] = int32_t(step);
  }

 private:
  // Of a row longer than 2 KB the processor fetches the rest unasked.
  static void expect(const float* w, const float* v, const float* m, int64_t j, int64_t d) {
    for (const float* row : {w, v, m})
      if (row) prefetch(row + j * d, std::min<int64_t>(d, 512));
  }

  // Most touched rows were touched in the step before; pow costs 50 ns.
  float decay(double beta, int64_t j) const {
    int64_t steps = step - rows.seen[j];
    return float(steps == 1 ? beta : std::pow(beta, steps));
  }

  void move(float* w, float* v, float* m, int64_t j, const float* g, int64_t d) const {
    w += j * d;
    v += j * d;
    float old = decay(beta2, j);
    if (m)
      adam(w, v, g, d, old, Mean{m + j * d, decay(rows.momentum, j), float(1 - rows.momentum)});
    else
      adam(w, v, g, d, old, Itself{});
  }

  // What a row moves along: the gradient's decaying mean, or the gradient.
  struct Mean {
    float* m;
    float old, fresh;
    float operator()(int64_t k, float g) const { return m[k] = m[k] * old + fresh * g; }
  };
  struct Itself {
    float operator()(int64_t, float g) const { return g; }
  };

  template <class Along>
  void adam(float* w, float* v, const float* g, int64_t d, float old, Along along) const {
    constexpr float fresh = float(1 - beta2);
#pragma omp simd
    for (int64_t k = 0; k < d; k++) {
      v[k] = v[k] * old + fresh * (g[k] * g[k]);
      w[k] -= rate * along(k, g[k]) / (std::sqrt(v[k]) * correction + epsilon);
    }
  }
  static void take_off_component(float* g, const float* w, int64_t d) {
    float along = dot(g, w, d);
#pragma omp simd
    for (int64_t k = 0; k < d; k++) g[k] -= along * w[k];
  }
  static void normalise(float* w, int64_t d) {
    float norm = std::sqrt(dot(w, w, d));
    if (!(norm > 0)) return;
    float scale = 1 / norm;
#pragma omp simd
    for (int64_t k = 0; k < d; k++) w[k] *= scale;
  }
};

}  // namespace
}  // namespace panscope

void panscope_gradients(const HitArrays* hits, const Sources* from, float* d_w_enc,
                        float* d_w_dec) {
  visit(*hits, *from, Write{d_w_enc, d_w_dec, from->d_in, from->d_out});
}

void panscope_update(const HitArrays* hits, const Sources* from, const RowArrays* rows,
                     int64_t step, double rate) {
  float correction = float(1 / std::sqrt(1 - std::pow(Step::beta2, step)));
  rate /= 1 - std::pow(rows->momentum, step);  // of 0 by itself: by 1
  visit(*hits, *from, Step{*rows, from->d_in, from->d_out, step, float(rate), correction});
}
