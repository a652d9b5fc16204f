// encode: which pairs pass their latent's floor, and with what value.
//
// Rows are rounded and packed once. Then blocks of tokens meet ranges of latents, panel after
// panel: tiles mark candidates, and `dot` decides while the rows are in cache. Nothing of the size
// tokens x latents is ever stored.
#include <algorithm>
#include <vector>

#include <omp.h>

#include "abi.h"
#include "memory.h"
#include "screen_bf16.h"
#include "screen_fp32.h"
#include "screen_int8.h"

using namespace panscope;

namespace panscope {
namespace {

struct Problem {
  const float* x;
  int64_t n_tokens, d;
  const float* w;
  int64_t n_latents;
  const float *bias, *floor;
};

// The hits of a block of tokens and a range of latents: those of token t of the block are
// begin[t] .. begin[t + 1], latents ascending.
struct Hits {
  std::vector<int32_t> begin, latent;
  std::vector<float> z;
};

struct Candidate {
  int32_t token, latent;
};

template <class Screen>
struct Packed {
  int64_t words, n_tiles, n_panels;
  Scratch<uint32_t> tokens, panels;
  Scratch<TokenTerms> token_terms;
  Scratch<float> terms;
  LatentTerms latent_terms;

  explicit Packed(const Problem& p)
      : words(Screen::words(p.d)),
        n_tiles(ceil_div(p.n_tokens, tile_height)),
        n_panels(ceil_div(p.n_latents, panel_width)),
        tokens(scratch<uint32_t>(n_tiles * tile_height * words)),
        panels(scratch<uint32_t>(n_panels * panel_words(words))),
        token_terms(scratch<TokenTerms>(n_tiles * tile_height)),
        terms(scratch<float>(3 * n_panels * panel_width)) {
    float* each = terms.get();
    int64_t n = n_panels * panel_width;
    latent_terms = {each, each + n, each + 2 * n};
#pragma omp parallel
    {
      auto row = scratch<uint32_t>(words + 1);
#pragma omp for schedule(static) nowait
      for (int64_t i = 0; i < n_tiles; i++) pack_tile(p, i, row.get());
#pragma omp for schedule(static)
      for (int64_t i = 0; i < n_panels; i++) pack_panel(p, i, row.get());
    }
  }

  const uint32_t* tile(int64_t i) const { return tokens.get() + i * tile_height * words; }
  const uint32_t* panel(int64_t i) const { return panels.get() + i * panel_words(words); }

 private:
  void pack_tile(const Problem& p, int64_t i, uint32_t* row) {
    uint32_t* to = tokens.get() + i * tile_height * words;
    for (int r = 0; r < tile_height; r++) {
      int64_t t = i * tile_height + r;
      const float* x = p.x + std::min(t, p.n_tokens - 1) * p.d;  // the last tile repeats a token
      Rounding rounding = Screen::round_token(x, p.d, row);
      token_terms[t] = token_terms_of(rounding, x, p.d);
      for (int64_t k = 0; k < words; k++) to[k * tile_height + r] = row[k];
    }
  }
  static TokenTerms token_terms_of(const Rounding& rounding, const float* x, int64_t d) {
    return panscope::token_terms(rounding, boundable(magnitude(x, d)), d);
  }
  void pack_panel(const Problem& p, int64_t i, uint32_t* row) {
    uint32_t* to = panels.get() + i * panel_words(words);
    for (int c = 0; c < panel_width; c++) {
      int64_t j = std::min(i * panel_width + c, p.n_latents - 1);
      const float* w = p.w + j * p.d;
      Rounding rounding = Screen::round_latent(w, p.d, row, to + c);
      set_latent_terms(latent_terms, i * panel_width + c, rounding,
                       boundable(magnitude(w, p.d)), floor_of_dot(p.floor[j], p.bias[j]));
      for (int64_t k = 0; k < words; k++) to[(k + 1) * panel_width + c] = row[k];
    }
  }
};

// What one thread needs while it works: reused from job to job.
struct Desk {
  std::vector<Candidate> candidates;
  std::vector<Candidate> hits;
  std::vector<float> z;
  std::vector<int32_t> count;
  int64_t n_candidates = 0;
};

void collect(uint32_t mask, int64_t token, int64_t first_latent, std::vector<Candidate>& into) {
  for (; mask; mask &= mask - 1)
    into.push_back({int32_t(token), int32_t(first_latent + __builtin_ctz(mask))});
}

// Decide the candidates of one panel: here, and only here, is a pair's value made.
void decide(const Problem& p, Desk& desk) {
  constexpr size_t ahead = 3;
  const auto& all = desk.candidates;
  for (size_t i = 0; i < all.size(); i++) {
    if (i + ahead < all.size()) {
      prefetch(p.x + std::min<int64_t>(all[i + ahead].token, p.n_tokens - 1) * p.d, p.d);
      prefetch(p.w + std::min<int64_t>(all[i + ahead].latent, p.n_latents - 1) * p.d, p.d);
    }
    const Candidate& c = all[i];
    if (c.token >= p.n_tokens || c.latent >= p.n_latents) continue;  // padding
    float z = dot(p.x + c.token * p.d, p.w + c.latent * p.d, p.d) + p.bias[c.latent];
    if (!(z > p.floor[c.latent])) continue;
    desk.hits.push_back(c);
    desk.z.push_back(z);
  }
}

// Sort the hits by token; stable, so latents stay in ascending order.
void sort_by_token(Desk& desk, int64_t first_token, int64_t n_tokens, Hits& to) {
  to.begin.assign(n_tokens + 1, 0);
  for (const Candidate& hit : desk.hits) to.begin[hit.token - first_token + 1]++;
  for (int64_t t = 0; t < n_tokens; t++) to.begin[t + 1] += to.begin[t];
  desk.count.assign(to.begin.begin(), to.begin.end());
  to.latent.resize(desk.hits.size());
  to.z.resize(desk.hits.size());
  for (size_t i = 0; i < desk.hits.size(); i++) {
    int32_t at = desk.count[desk.hits[i].token - first_token]++;
    to.latent[at] = desk.hits[i].latent;
    to.z[at] = desk.z[i];
  }
}

}  // namespace
}  // namespace panscope

// Blocks x ranges of hits. Jobs of one range are neighbours: its packed panels stay in the last
// cache while all blocks pass.
struct Kept {
  int64_t n_tokens, block_tokens, n_blocks, n_ranges;
  std::vector<Hits> jobs;

  const Hits& job(int64_t block, int64_t range) const { return jobs[range * n_blocks + block]; }
  int64_t n_pairs() const {
    int64_t n = 0;
    for (const Hits& job : jobs) n += job.z.size();
    return n;
  }
};

namespace panscope {
namespace {

// Tokens of a block: their float32 rows stay in the second cache for `decide`.
int64_t tiles_per_block(int64_t d) {
  int64_t tokens = 384 * 1024 / (4 * d);
  return std::clamp<int64_t>(tokens / tile_height, 4, 32);
}

template <class Screen>
Kept* encode_by(const Problem& p, int64_t* n_candidates) {
  Packed<Screen> packed(p);
  int64_t block_tiles = tiles_per_block(p.d), n_blocks = ceil_div(packed.n_tiles, block_tiles);
  // Ranges of at most 4 MB, and enough jobs for the threads to finish together.
  int64_t panel_bytes = 4 * panel_words(packed.words);
  int64_t n_ranges = std::max(ceil_div(packed.n_panels * panel_bytes, 4 << 20),
                              ceil_div(8 * omp_get_max_threads(), n_blocks));
  n_ranges = std::min(n_ranges, packed.n_panels);
  int64_t range_panels = ceil_div(packed.n_panels, n_ranges);
  auto* kept = new Kept{p.n_tokens, block_tiles * tile_height, n_blocks, n_ranges, {}};
  kept->jobs.resize(n_blocks * n_ranges);
  int64_t candidates = 0;
#pragma omp parallel reduction(+ : candidates)
  {
    Desk desk;
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < n_blocks * n_ranges; job++) {
      int64_t block = job % n_blocks, first_tile = block * block_tiles;
      int64_t last_tile = std::min(first_tile + block_tiles, packed.n_tiles);
      int64_t first_panel = job / n_blocks * range_panels;
      int64_t last_panel = std::min(first_panel + range_panels, packed.n_panels);
      desk.hits.clear();
      desk.z.clear();
      for (int64_t panel = first_panel; panel < last_panel; panel++) {
        PanelTerms latent(packed.latent_terms, panel * panel_width);
        desk.candidates.clear();
        for (int64_t tile = first_tile; tile < last_tile; tile++) {
          uint32_t masks[tile_height];
          const TokenTerms* token = packed.token_terms.get() + tile * tile_height;
          Screen::tile(packed.tile(tile), packed.panel(panel), packed.words, token, latent, masks);
          for (int r = 0; r < tile_height; r++)
            collect(masks[r], tile * tile_height + r, panel * panel_width, desk.candidates);
        }
        candidates += desk.candidates.size();
        decide(p, desk);
      }
      int64_t first_token = first_tile * tile_height;
      int64_t n = std::min(last_tile * tile_height, p.n_tokens) - first_token;
      sort_by_token(desk, first_token, n, kept->jobs[job]);
    }
  }
  *n_candidates = candidates;
  return kept;
}

Kept* encode_by(Screen screen, const Problem& p, int64_t* n_candidates) {
#if defined(__AVX512F__)
  if (screen == Screen::int8) return encode_by<Int8>(p, n_candidates);
  if (screen == Screen::bf16) return encode_by<Bf16>(p, n_candidates);
#endif
  return encode_by<Fp32>(p, n_candidates);
}

// Every n-th row, of at most `most` rows.
std::vector<int64_t> spread(int64_t n, int64_t most) {
  std::vector<int64_t> rows(std::min(n, most));
  for (size_t i = 0; i < rows.size(); i++) rows[i] = int64_t(i) * n / int64_t(rows.size());
  return rows;
}

std::vector<float> gather(const float* from, const std::vector<int64_t>& rows, int64_t d) {
  std::vector<float> to(rows.size() * d);
  for (size_t i = 0; i < rows.size(); i++)
    std::copy_n(from + rows[i] * d, d, to.begin() + i * d);
  return to;
}

// The share of pairs that a screen would send to `dot` in vain, from 48 tokens by 256 latents.
double wasted(Screen screen, const Problem& p) {
  auto tokens = spread(p.n_tokens, 48), latents = spread(p.n_latents, 256);
  auto x = gather(p.x, tokens, p.d), w = gather(p.w, latents, p.d);
  auto bias = gather(p.bias, latents, 1), floor = gather(p.floor, latents, 1);
  Problem sample{x.data(), int64_t(tokens.size()), p.d, w.data(), int64_t(latents.size()),
                 bias.data(), floor.data()};
  int64_t candidates = 0;
  std::unique_ptr<Kept> kept(encode_by(screen, sample, &candidates));
  return double(candidates - kept->n_pairs()) / double(tokens.size() * latents.size());
}

// `dot` costs a pair about d / 6 cycles; int8, bf16 and fp32 tiles cost it d / 64, d / 32, d / 16.
Screen cheapest(const Problem& p) {
  int32_t have = panscope_screens();
  if (have & 1 << int(Screen::int8) && p.d <= 1 << 16 && wasted(Screen::int8, p) < 0.09)
    return Screen::int8;
  if (have & 1 << int(Screen::bf16) && wasted(Screen::bf16, p) < 0.18) return Screen::bf16;
  return Screen::fp32;
}

}  // namespace
}  // namespace panscope

int32_t panscope_screens() {
  int32_t screens = 1 << int(Screen::fp32);
#if defined(__AVX512F__)
  screens |= Int8::available() << int(Screen::int8) | Bf16::available() << int(Screen::bf16);
#endif
  return screens;
}

Kept* panscope_encode(const float* x, int64_t n_tokens, int64_t d, const float* w_enc,
                      int64_t n_latents, const float* b_enc, const float* floor, Screen screen,
                      int64_t* n_pairs) {
  Problem p{x, n_tokens, d, w_enc, n_latents, b_enc, floor};
  *n_pairs = 0;
  if (n_tokens == 0 || n_latents == 0) return new Kept{n_tokens, 1, 0, 0, {}};
  int64_t candidates;
  Kept* kept = encode_by(screen == Screen::automatic ? cheapest(p) : screen, p, &candidates);
  *n_pairs = kept->n_pairs();
  return kept;
}

void panscope_take(Kept* kept, int32_t* token, int32_t* latent, float* z, int64_t* offsets) {
  offsets[0] = 0;
  for (int64_t block = 0; block < kept->n_blocks; block++) {
    int64_t first = block * kept->block_tokens;
    int64_t last = std::min(first + kept->block_tokens, kept->n_tokens);
    for (int64_t t = first; t < last; t++) {
      offsets[t + 1] = offsets[t];
      for (int64_t range = 0; range < kept->n_ranges; range++) {
        const Hits& job = kept->job(block, range);
        offsets[t + 1] += job.begin[t - first + 1] - job.begin[t - first];
      }
    }
  }
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < kept->n_tokens; t++) {
    int64_t block = t / kept->block_tokens, at = offsets[t];
    std::fill(token + at, token + offsets[t + 1], int32_t(t));
    for (int64_t range = 0; range < kept->n_ranges; range++) {
      const Hits& job = kept->job(block, range);
      int32_t from = job.begin[t % kept->block_tokens], to = job.begin[t % kept->block_tokens + 1];
      std::copy(job.latent.begin() + from, job.latent.begin() + to, latent + at);
      std::copy(job.z.begin() + from, job.z.begin() + to, z + at);
      at += to - from;
    }
  }
  delete kept;
}
