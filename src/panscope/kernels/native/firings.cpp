// What fired, sorted by latent, and what is counted of it: one thread a latent, tokens in order, so
// that all results are the same for any number of threads.
#include <algorithm>
#include <cstring>
#include <vector>

#include <omp.h>

#include "abi.h"

namespace {

struct Slice {
  int64_t begin, end;
};

// The firings of a token whose latents are in [first, end); latents ascend within a token.
Slice within(const CodeArrays& codes, int64_t token, int64_t first, int64_t end) {
  const int32_t *from = codes.latents + codes.offsets[token],
                *to = codes.latents + codes.offsets[token + 1];
  from = std::lower_bound(from, to, first);
  return {from - codes.latents, std::lower_bound(from, to, end) - codes.latents};
}

// Calls visit(token, firing) for all firings of latents in [first, end); threads share the latents.
template <class Visit>
void for_all(const CodeArrays& codes, int64_t first, int64_t end, Visit visit) {
  int64_t n_ranges = omp_get_max_threads();
#pragma omp parallel for schedule(static, 1)
  for (int64_t range = 0; range < n_ranges; range++) {
    int64_t from = first + (end - first) * range / n_ranges;
    int64_t to = first + (end - first) * (range + 1) / n_ranges;
    for (int64_t token = 0; token < codes.n_tokens; token++) {
      Slice mine = within(codes, token, from, to);
      for (int64_t p = mine.begin; p < mine.end; p++) visit(token, p);
    }
  }
}

// One key's best, in order; the last has the score that an entry must exceed.
struct Best {
  float* score;
  int64_t* origin;
  int32_t* group;
  int64_t k;

  void offer(float s, int64_t o, int32_t g) {
    if (!(s > score[k - 1])) return;
    int64_t out = k - 1;  // whose place is taken: of the same group, or the last
    for (int64_t i = 0; i < k; i++)
      if (origin[i] >= 0 && group[i] == g) out = i;
    if (origin[out] >= 0 && group[out] == g && !(s > score[out])) return;
    for (; out > 0 && s > score[out - 1]; out--) {
      score[out] = score[out - 1];
      origin[out] = origin[out - 1];
      group[out] = group[out - 1];
    }
    score[out] = s;
    origin[out] = o;
    group[out] = g;
  }
};

}  // namespace

void panscope_by_latent(const CodeArrays* codes, int64_t first, int64_t end, int64_t* starts,
                        int32_t* tokens, float* values) {
  std::vector<int64_t> next(end - first, 0);
  if (tokens) std::copy_n(starts, end - first, next.data());
  auto place = [&](int64_t token, int64_t p) {
    int64_t at = next[codes->latents[p] - first]++;
    if (!tokens) return;
    tokens[at] = int32_t(token);
    values[at] = codes->values[p];
  };
  for_all(*codes, first, end, place);
  if (tokens) return;
  starts[0] = 0;
  for (int64_t i = 0; i < end - first; i++) starts[i + 1] = starts[i] + next[i];
}

void panscope_bins(const float* values, int64_t n, const float* edges, int64_t n_edges,
                   uint8_t* bins) {
  int32_t low;
  std::memcpy(&low, edges, sizeof low);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < n; i++) {
    int32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    // The bits of a float are about its logarithm, in units of 2^-23: within a bin of the place.
    int64_t bin = std::clamp<int64_t>(((int64_t(bits) - low) >> 21) + 1, 0, n_edges);
    while (bin > 0 && values[i] < edges[bin - 1]) bin--;
    while (bin < n_edges && values[i] >= edges[bin]) bin++;
    bins[i] = uint8_t(bin);
  }
}

void panscope_count(const FiringArrays* firings, const uint8_t* classes, int64_t n_classes,
                    int64_t* counts) {
#pragma omp parallel for schedule(dynamic, 64)
  for (int64_t i = 0; i < firings->n_latents; i++)
    for (int64_t at = firings->starts[i]; at < firings->starts[i + 1]; at++)
      counts[i * n_classes + classes[at]]++;
}

void panscope_sums(const FiringArrays* firings, double* total, double* square) {
#pragma omp parallel for schedule(dynamic, 64)
  for (int64_t i = 0; i < firings->n_latents; i++)
    for (int64_t at = firings->starts[i]; at < firings->starts[i + 1]; at++) {
      double value = firings->values[at];
      total[i] += value;
      square[i] += value * value;
    }
}

void panscope_best(const FiringArrays* firings, const float* scores, const uint8_t* classes,
                   int64_t n_classes, const int64_t* origins, const int32_t* groups,
                   const BestArrays* best) {
#pragma omp parallel for schedule(dynamic, 64)
  for (int64_t i = 0; i < firings->n_latents; i++)
    for (int64_t at = firings->starts[i]; at < firings->starts[i + 1]; at++) {
      int64_t key = i * n_classes + classes[at], row = key * best->k;
      Best{best->score + row, best->origin + row, best->group + row, best->k}.offer(
          scores[at], origins[firings->tokens[at]], groups[firings->tokens[at]]);
    }
}

void panscope_together(const FiringArrays* firings, const CodeArrays* codes, int64_t n_latents,
                       int32_t* counts, double* products) {
#pragma omp parallel for schedule(dynamic, 8)
  for (int64_t i = 0; i < firings->n_latents; i++) {
    int32_t* count = counts + i * n_latents;
    double* product = products + i * n_latents;
    for (int64_t at = firings->starts[i]; at < firings->starts[i + 1]; at++) {
      int64_t token = firings->tokens[at];
      double value = firings->values[at];
      for (int64_t p = codes->offsets[token]; p < codes->offsets[token + 1]; p++) {
        count[codes->latents[p]]++;
        product[codes->latents[p]] += value * codes->values[p];
      }
    }
  }
}
