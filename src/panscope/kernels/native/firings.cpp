// What fired, sorted by latent, and what is counted of it: one thread a latent, tokens in order, so
// that all results are the same for any number of threads.
#include <algorithm>
#include <cstring>
#include <vector>

#include <omp.h>

#include "abi.h"
#include "vector.h"

using namespace panscope;

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

void panscope_lots(const FiringArrays* firings, const int64_t* origins, int64_t salt,
                   float* lots) {
#pragma omp parallel for schedule(dynamic, 64)
  for (int64_t i = 0; i < firings->n_latents; i++)
    for (int64_t at = firings->starts[i]; at < firings->starts[i + 1]; at++) {
      uint64_t origin = origins[firings->tokens[at]];
      int64_t mixed = origin * 0x9E3779B97F4A7C1u + i * 0x5851F42D4C957F2u + salt;
      mixed = uint64_t(mixed ^ (mixed >> 31)) * 0x3F58476D1CE4E5Bu;
      mixed = uint64_t(mixed ^ (mixed >> 29)) * 0x14D049BB133111Eu;
      lots[at] = float(1 + (mixed >> 20 & 0xFFFFFF)) / 0x1000000;
    }
}

namespace {

// How often latents of higher index fire at the tokens of one latent.
struct Together {
  std::vector<int32_t> count, touched;

  explicit Together(int64_t width) : count(width, 0) {}

  void add(const FiringArrays& firings, int64_t i, int32_t latent, const CodeArrays& codes) {
    constexpr int64_t ahead = 8;  // tokens come in no order that the processor could guess
    for (int64_t at = firings.starts[i], end = firings.starts[i + 1]; at < end; at++) {
      if (at + ahead < end) expect(codes, firings.tokens[at + ahead]);
      int64_t token = firings.tokens[at];
      for (int64_t p = codes.offsets[token + 1] - 1; codes.latents[p] > latent; p--)
        if (!count[codes.latents[p]]++) touched.push_back(codes.latents[p]);
    }
  }
  void clear() {
    for (int32_t other : touched) count[other] = 0;
    touched.clear();
  }

 private:
  static void expect(const CodeArrays& codes, int64_t token) {
    int64_t from = codes.offsets[token];
    prefetch(reinterpret_cast<const float*>(codes.latents) + from, codes.offsets[token + 1] - from);
  }
};

// Each latent's companions, highest Jaccard first, the lower index of equals first: which they are
// does not depend on the order in which they are offered.
struct Companions {
  int64_t* ids;
  double* jaccards;
  int64_t k;

  void offer(int64_t latent, int64_t other, double share) {
    int64_t* id = ids + latent * k;
    double* jaccard = jaccards + latent * k;
    auto is_before = [&](int64_t at) {
      return share > jaccard[at] || (share == jaccard[at] && other < id[at]);
    };
    int64_t at = k - 1;
    if (!is_before(at)) return;
    for (; at > 0 && is_before(at - 1); at--) {
      id[at] = id[at - 1];
      jaccard[at] = jaccard[at - 1];
    }
    id[at] = other;
    jaccard[at] = share;
  }
};

}  // namespace

void panscope_companions(const FiringArrays* firings, const CodeArrays* codes, int64_t n_pieces,
                         const int64_t* n_firings, int64_t width, int64_t first, int64_t k,
                         int64_t* ids, double* jaccards) {
#pragma omp parallel
  {
    Together with(width);
    std::vector<int64_t> my_ids(width * k, -1);
    std::vector<double> my_jaccards(width * k, 0.0);
    Companions mine{my_ids.data(), my_jaccards.data(), k}, all{ids, jaccards, k};
#pragma omp for schedule(dynamic, 8) nowait
    for (int64_t i = 0; i < firings->n_latents; i++) {
      int32_t latent = int32_t(first + i);
      for (int64_t piece = 0; piece < n_pieces; piece++)
        with.add(firings[piece], i, latent, codes[piece]);
      for (int32_t other : with.touched) {
        int64_t both = with.count[other], either = n_firings[latent] + n_firings[other] - both;
        mine.offer(latent, other, double(both) / double(either));
        mine.offer(other, latent, double(both) / double(either));
      }
      with.clear();
    }
#pragma omp critical
    for (int64_t slot = 0; slot < width * k; slot++)
      if (my_ids[slot] >= 0) all.offer(slot / k, my_ids[slot], my_jaccards[slot]);
  }
}

void panscope_products(const FiringArrays* firings, int64_t n_tokens, const int64_t* ids, int64_t k,
                       double* products) {
#pragma omp parallel
  {
    std::vector<float> value(n_tokens, 0.0f);  // of one latent, token by token
#pragma omp for schedule(dynamic, 8)
    for (int64_t i = 0; i < firings->n_latents; i++) {
      int64_t begin = firings->starts[i], end = firings->starts[i + 1];
      for (int64_t at = begin; at < end; at++) value[firings->tokens[at]] = firings->values[at];
      for (int64_t slot = i * k; slot < (i + 1) * k && ids[slot] >= 0 && begin < end; slot++)
        for (int64_t at = firings->starts[ids[slot]]; at < firings->starts[ids[slot] + 1]; at++)
          products[slot] += double(value[firings->tokens[at]]) * double(firings->values[at]);
      for (int64_t at = begin; at < end; at++) value[firings->tokens[at]] = 0;
    }
  }
}
