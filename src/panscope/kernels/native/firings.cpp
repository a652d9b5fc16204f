// What fired, sorted by latent, and what is counted of it. All results are the same for any number
// of threads: sums have one thread a latent, tokens in order; the rest is sorted or counted.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include <omp.h>

#include "abi.h"

namespace {

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

// Stretches of tokens are shared by threads, and each latent's firings lie stretch after stretch.
void panscope_by_latent(const CodeArrays* codes, int64_t width, int64_t* starts, int32_t* tokens,
                        float* values) {
  int64_t n_parts = omp_get_max_threads();
  auto token_of = [&](int64_t part) { return codes->n_tokens * part / n_parts; };
  std::vector<std::vector<int64_t>> next(n_parts, std::vector<int64_t>(width, 0));
#pragma omp parallel for schedule(static, 1)
  for (int64_t part = 0; part < n_parts; part++) {
    int64_t* mine = next[part].data();
    int64_t end = codes->offsets[token_of(part + 1)];
    for (int64_t p = codes->offsets[token_of(part)]; p < end; p++) mine[codes->latents[p]]++;
  }
  int64_t placed = 0;
  for (int64_t i = 0; i < width; i++) {
    starts[i] = placed;
    for (auto& of_part : next) placed += std::exchange(of_part[i], placed);
  }
  starts[width] = placed;
#pragma omp parallel for schedule(static, 1)
  for (int64_t part = 0; part < n_parts; part++) {
    int64_t* mine = next[part].data();
    for (int64_t token = token_of(part); token < token_of(part + 1); token++)
      for (int64_t p = codes->offsets[token]; p < codes->offsets[token + 1]; p++) {
        int64_t at = mine[codes->latents[p]]++;
        tokens[at] = int32_t(token);
        values[at] = codes->values[p];
      }
  }
}

void panscope_find(const FiringArrays* firings, const int64_t* latents, const int32_t* tokens,
                   int64_t n, int64_t* found) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < n; i++) {
    const int32_t *from = firings->tokens + firings->starts[latents[i]],
                  *to = firings->tokens + firings->starts[latents[i] + 1];
    found[i] = std::lower_bound(from, to, tokens[i]) - firings->tokens;
  }
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

void panscope_count_tokens(const FiringArrays* firings, const uint8_t* classes, int64_t n_classes,
                           int64_t* counts) {
#pragma omp parallel for schedule(dynamic, 64)
  for (int64_t i = 0; i < firings->n_latents; i++)
    for (int64_t at = firings->starts[i]; at < firings->starts[i + 1]; at++)
      counts[i * n_classes + classes[firings->tokens[at]]]++;
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

// A firing of a block of latents: its place in its piece, and where what fires at its token ends.
struct Entry {
  int32_t place, end;
};

// The firings of latents in [first, end), block after block of 2^shift latents, and in a block piece
// after piece of the text, tokens in order.
struct Blocks {
  int64_t first, shift, n_blocks, n_pieces;
  std::vector<int64_t> starts;  // of each piece of each block
  std::vector<Entry> entries;

  Blocks(const CodeArrays* codes, int64_t n_pieces, int64_t first, int64_t end, int64_t shift)
      : first(first), shift(shift), n_blocks(((end - first - 1) >> shift) + 1), n_pieces(n_pieces),
        starts(n_blocks * n_pieces + 1, 0) {
    std::vector<std::vector<int64_t>> next(n_pieces, std::vector<int64_t>(n_blocks, 0));
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t piece = 0; piece < n_pieces; piece++)
      for_all(codes[piece], end, [&](int64_t block, Entry) { next[piece][block]++; });
    for (int64_t i = 0; i < n_blocks * n_pieces; i++) {
      int64_t& of_piece = next[i % n_pieces][i / n_pieces];
      starts[i + 1] = starts[i] + std::exchange(of_piece, starts[i]);
    }
    entries.resize(starts.back());
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t piece = 0; piece < n_pieces; piece++)
      for_all(codes[piece], end,
              [&](int64_t block, Entry entry) { entries[next[piece][block]++] = entry; });
  }

  template <class Visit>
  void for_all(const CodeArrays& codes, int64_t end, Visit visit) const {
    for (int64_t token = 0; token < codes.n_tokens; token++) {
      const int32_t *from = codes.latents + codes.offsets[token],
                    *to = codes.latents + codes.offsets[token + 1];
      for (const int32_t* at = std::lower_bound(from, to, first); at < to && *at < end; at++)
        visit((*at - first) >> shift, {int32_t(at - codes.latents), int32_t(to - codes.latents)});
    }
  }

  int64_t rows() const { return int64_t(1) << shift; }

  // Count, for each latent of a block in a row of its own, which of higher index fire with it.
  void count(const CodeArrays* codes, int64_t block, int64_t width, int32_t* counts) const {
    int64_t lowest = first + (block << shift);
    for (int64_t piece = 0; piece < n_pieces; piece++) {
      const int32_t* latents = codes[piece].latents;
      const int64_t* range = starts.data() + block * n_pieces + piece;
      for (int64_t i = range[0]; i < range[1]; i++) {
        int32_t* row = counts + (latents[entries[i].place] - lowest) * width;
        for (int32_t at = entries[i].place + 1; at < entries[i].end; at++) row[latents[at]]++;
      }
    }
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

// Pairs are counted token by token, into the rows of a block of latents that stay in the cache: a
// latent after the other, each at its own tokens, took five times as long.
void panscope_companions(const CodeArrays* codes, int64_t n_pieces, const int64_t* n_firings,
                         int64_t width, int64_t first, int64_t end, int64_t k, int64_t* ids,
                         double* jaccards) {
  constexpr int64_t in_cache = 1 << 19;  // counts, of 4 bytes: half and twice as many are slower
  int64_t fair = (end - first) / (4 * omp_get_max_threads()) + 1, shift = 0;
  while ((int64_t(2) << shift) <= std::min(in_cache / width, fair)) shift++;
  Blocks blocks(codes, n_pieces, first, end, shift);
#pragma omp parallel
  {
    std::vector<int32_t> counts(blocks.rows() * width, 0);
    std::vector<int64_t> my_ids(width * k, -1);
    std::vector<double> my_jaccards(width * k, 0.0);
    Companions mine{my_ids.data(), my_jaccards.data(), k}, all{ids, jaccards, k};
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t block = 0; block < blocks.n_blocks; block++) {
      blocks.count(codes, block, width, counts.data());
      int64_t lowest = first + (block << shift);
      for (int64_t latent = lowest; latent < std::min(lowest + blocks.rows(), end); latent++) {
        int32_t* row = counts.data() + (latent - lowest) * width;
        for (int64_t other = latent + 1; other < width; other++) {
          int64_t both = std::exchange(row[other], 0);
          if (!both) continue;
          double either = double(n_firings[latent] + n_firings[other] - both);
          mine.offer(latent, other, double(both) / either);
          mine.offer(other, latent, double(both) / either);
        }
      }
    }
#pragma omp critical
    for (int64_t slot = 0; slot < width * k; slot++)
      if (my_ids[slot] >= 0) all.offer(slot / k, my_ids[slot], my_jaccards[slot]);
  }
}

// Of two latents the values of the one that fires more are laid out by token, and looked up where
// the other fires: all products of one that is laid out follow one another.
void panscope_products(const FiringArrays* firings, int64_t n_tokens, const int64_t* ids, int64_t k,
                       double* products) {
  int64_t n_latents = firings->n_latents;
  const int64_t* starts = firings->starts;
  auto n_of = [&](int64_t i) { return starts[i + 1] - starts[i]; };
  auto more = [&](int64_t slot) { return n_of(ids[slot]) > n_of(slot / k) ? ids[slot] : slot / k; };
  std::vector<int64_t> begins(n_latents + 1, 0), slots(n_latents * k);
  for (int64_t slot = 0; slot < n_latents * k; slot++)
    if (ids[slot] >= 0) begins[more(slot) + 1]++;
  std::partial_sum(begins.begin(), begins.end(), begins.begin());
  std::vector<int64_t> next(begins);
  for (int64_t slot = 0; slot < n_latents * k; slot++)
    if (ids[slot] >= 0) slots[next[more(slot)]++] = slot;
#pragma omp parallel
  {
    std::vector<float> value(n_tokens, 0.0f);  // of one latent, token by token
#pragma omp for schedule(dynamic, 8)
    for (int64_t i = 0; i < n_latents; i++) {
      if (begins[i] == begins[i + 1]) continue;
      for (int64_t at = starts[i]; at < starts[i + 1]; at++)
        value[firings->tokens[at]] = firings->values[at];
      for (int64_t n = begins[i]; n < begins[i + 1]; n++) {
        int64_t slot = slots[n], other = ids[slot] == i ? slot / k : ids[slot];
        double sum = products[slot];
        for (int64_t at = starts[other]; at < starts[other + 1]; at++)
          sum += double(value[firings->tokens[at]]) * double(firings->values[at]);
        products[slot] = sum;
      }
      for (int64_t at = starts[i]; at < starts[i + 1]; at++) value[firings->tokens[at]] = 0;
    }
  }
}
