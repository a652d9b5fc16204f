// encode: which pairs pass their latent's floor, and with what value.
//
// A job takes a range of latents and a stretch of tokens. Its latents' rows, packed and in float32,
// stay in the second cache while the tokens stream past, tile after tile: the screen marks
// candidates, `dot` decides them. Nothing of the size tokens x latents is ever stored, and weights
// are read from memory once a stretch.
#include <algorithm>
#include <vector>

#include <omp.h>

#include "dot.h"
#include "encode.h"
#include "memory.h"
#include "screen_bf16.h"
#include "screen_fp32.h"
#include "screen_int8.h"

using namespace panscope;

namespace panscope {
namespace {

// How the work is cut. Jobs of one stretch follow one another, so that its tokens stay in the last
// cache, shared by all threads.
struct Plan {
  int64_t n_tiles, n_panels, stretch_tiles, range_panels;

  Plan(const Problem& p, int64_t packed_row_bytes)
      : n_tiles(ceil_div(p.n_tokens, tile_height)), n_panels(ceil_div(p.n_latents, panel_width)) {
    constexpr int64_t second_cache = 640 << 10, last_cache = 12 << 20, jobs_per_thread = 8;
    int64_t row = 4 * p.d + packed_row_bytes, enough = jobs_per_thread * omp_get_max_threads();
    int64_t stretches = std::max(ceil_div(p.n_tokens * row, last_cache), ceil_div(enough, n_panels));
    stretch_tiles = ceil_div(n_tiles, std::min(stretches, n_tiles));
    int64_t most = std::max<int64_t>(n_panels * n_stretches() / enough, 1);
    range_panels = std::clamp<int64_t>(second_cache / (panel_width * row), 1, most);
  }
  int64_t n_stretches() const { return ceil_div(n_tiles, stretch_tiles); }
  int64_t n_ranges() const { return ceil_div(n_panels, range_panels); }
};

// All tokens, rounded and laid out in tiles.
template <class Screen>
struct Tokens {
  const Slots& slots;
  int64_t words;
  Scratch<uint32_t> packed;
  Scratch<TokenTerms> terms;

  Tokens(int64_t n_tiles, const Slots& slots)
      : slots(slots),
        words(Screen::words(slots)),
        packed(scratch<uint32_t>(n_tiles * tile_height * words)),
        terms(scratch<TokenTerms>(n_tiles * tile_height)) {}

  const uint32_t* tile(int64_t i) const { return packed.get() + i * tile_height * words; }

  void pack_tile(const Problem& p, int64_t i, uint32_t* row) {
    uint32_t* to = packed.get() + i * tile_height * words;
    for (int r = 0; r < tile_height; r++) {
      int64_t t = i * tile_height + r;
      const float* x = p.x + std::min(t, p.n_tokens - 1) * p.d;  // the last tile repeats a token
      Rounding rounding = Screen::round_token(x, slots, row);
      terms[t] = token_terms(rounding, p.d);
      for (int64_t k = 0; k < words; k++) to[k * tile_height + r] = row[k];
    }
  }
};

// One thread's work on one job after another.
template <class Screen>
class Worker {
 public:
  Worker(const Problem& p, const Plan& plan, const Tokens<Screen>& tokens)
      : p(p),
        plan(plan),
        tokens(tokens),
        panels(scratch<uint32_t>(plan.range_panels * panel_words(tokens.words))),
        row(scratch<uint32_t>(tokens.words)),
        terms(scratch<float>(3 * plan.range_panels * panel_width)),
        masks(plan.range_panels * tile_height),
        candidates(scratch<Pair>(masks.size() * panel_width)) {
    int64_t n = plan.range_panels * panel_width;
    latent_terms = {terms.get(), terms.get() + n, terms.get() + 2 * n};
  }

  void run(int64_t stretch, int64_t range, Passed& passed) {
    first_panel = range * plan.range_panels;
    n_panels = std::min(plan.range_panels, plan.n_panels - first_panel);
    for (int64_t i = 0; i < n_panels; i++) pack_panel(i);
    int64_t first = stretch * plan.stretch_tiles;
    int64_t last = std::min(first + plan.stretch_tiles, plan.n_tiles);
    for (int64_t tile = first; tile < last; tile++) {
      screen(tile);
      if (tile > first) decide(passed);  // the tile before: its tokens have arrived by now
      collect(tile);
      passed.n_candidates += n_candidates;
    }
    decide(passed);
  }

 private:
  void pack_panel(int64_t i) {
    uint32_t* to = panels.get() + i * panel_words(tokens.words);
    for (int c = 0; c < panel_width; c++) {
      int64_t j = std::min((first_panel + i) * panel_width + c, p.n_latents - 1);
      Rounding rounding = Screen::round_latent(p.w + j * p.d, tokens.slots, row.get(), to + c);
      set_latent_terms(latent_terms, i * panel_width + c, rounding,
                       floor_of_dot(p.floor[j], p.bias[j]));
      for (int64_t k = 0; k < tokens.words; k++) to[(k + 1) * panel_width + c] = row[k];
    }
  }

  void screen(int64_t tile) {
    for (int64_t i = 0; i < n_panels; i++)
      Screen::tile(tokens.tile(tile), panels.get() + i * panel_words(tokens.words), tokens.words,
                   tokens.terms.get() + tile * tile_height, {latent_terms, i * panel_width},
                   masks.data() + i * tile_height);
  }

  // List the marked pairs in order, and send for their tokens.
  void collect(int64_t tile) {
    n_candidates = 0;
    int64_t n_rows = std::min<int64_t>(tile_height, p.n_tokens - tile * tile_height);
    for (int64_t r = 0; r < n_rows; r++) {
      int64_t before = n_candidates;
      for (int64_t i = 0; i < n_panels; i++) {
        int64_t j = (first_panel + i) * panel_width;
        for (uint32_t mask = masks[i * tile_height + r] & real(j); mask; mask &= mask - 1)
          candidates[n_candidates++] = {int32_t(tile * tile_height + r),
                                        int32_t(j + __builtin_ctz(mask))};
      }
      if (n_candidates > before) prefetch(p.x + (tile * tile_height + r) * p.d, p.d);
    }
  }

  // The latents of a panel that are not padding.
  uint32_t real(int64_t first) const {
    int64_t n = p.n_latents - first;
    return n >= 32 ? ~0u : (1u << n) - 1;
  }

  // Here, and only here, is a pair's value made.
  void decide(Passed& passed) {
    for (int64_t i = 0, n; i < n_candidates; i += n) {
      const float* rows[rows_at_once];
      float z[rows_at_once];
      int64_t t = candidates[i].token;
      for (n = 0; n < rows_at_once && i + n < n_candidates && candidates[i + n].token == t; n++)
        rows[n] = p.w + candidates[i + n].latent * p.d;
      dots(p.x + t * p.d, rows, int(n), p.d, z);
      for (int64_t r = 0; r < n; r++) {
        int64_t j = candidates[i + r].latent;
        z[r] += p.bias[j];
        if (z[r] > p.floor[j]) passed.hits.push_back({candidates[i + r], z[r]});
      }
    }
    passed.begin.push_back(int32_t(passed.hits.size()));
  }

  const Problem& p;
  const Plan& plan;
  const Tokens<Screen>& tokens;
  Scratch<uint32_t> panels, row;
  Scratch<float> terms;
  LatentTerms latent_terms;
  std::vector<uint32_t> masks;
  Scratch<Pair> candidates;
  int64_t n_candidates = 0, first_panel = 0, n_panels = 0;
};

template <class Screen>
Kept encode_by(const Problem& p, const Slots& slots) {
  Plan plan(p, 4 * Screen::words(slots));
  Tokens<Screen> tokens(plan.n_tiles, slots);
  Kept kept{p.n_tokens, plan.n_tiles, plan.stretch_tiles, plan.n_ranges(), {}};
  kept.jobs.resize(plan.n_stretches() * plan.n_ranges());
#pragma omp parallel if (p.n_tokens * p.n_latents > 1 << 16)
  {
    auto row = scratch<uint32_t>(tokens.words);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < plan.n_tiles; i++) tokens.pack_tile(p, i, row.get());
    Worker<Screen> worker(p, plan, tokens);
#pragma omp for schedule(dynamic, 1)
    for (size_t job = 0; job < kept.jobs.size(); job++)
      worker.run(job / kept.n_ranges, job % kept.n_ranges, kept.jobs[job]);
  }
  return kept;
}

template <class Screen>
void offer(::Screen name, std::vector<Offer>& to) {
  if (Screen::available()) to.push_back({name, Screen::cycles, encode_by<Screen>});
}

}  // namespace

std::vector<Offer> offers([[maybe_unused]] int64_t d) {
  std::vector<Offer> all;
#if defined(__AVX512F__)
  if (d <= Int8::largest_d) offer<Int8Vnni>(Screen::vnni, all);
#endif
#if defined(__AVX2__)
  if (d <= Int8::largest_d) offer<Int8Pairs>(Screen::pairs, all);
#endif
#if defined(__AVX512F__)
  offer<Bf16>(Screen::bf16, all);
#endif
  offer<Fp32>(Screen::fp32, all);
  return all;
}

}  // namespace panscope

int32_t panscope_screens() {
  int32_t screens = 0;
  for (const Offer& offer : offers(1)) screens |= 1 << int(offer.screen);
  return screens;
}

Kept* panscope_encode(const float* x, int64_t n_tokens, int64_t d, const float* w_enc,
                      int64_t n_latents, const float* b_enc, const float* floor, Screen screen,
                      Counts* counts) {
  Problem p{x, n_tokens, d, w_enc, n_latents, b_enc, floor};
  *counts = {0, 0};
  if (n_tokens == 0 || n_latents == 0) return new Kept{n_tokens, 0, 1, 0, {}};
  Choice choice = choose(screen, p);
  auto* kept = new Kept(choice.offer.encode(p, choice.slots));
  *counts = {kept->n_pairs(), kept->n_candidates()};
  return kept;
}

void panscope_take(Kept* kept, int32_t* token, int32_t* latent, float* z, int64_t* offsets) {
  std::fill_n(offsets, kept->n_tokens + 1, 0);
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t tile = 0; tile < kept->n_tiles; tile++)
      kept->each_of_tile(tile, [&](const Hit& hit) { offsets[hit.pair.token + 1]++; });
#pragma omp single
    for (int64_t t = 0; t < kept->n_tokens; t++) offsets[t + 1] += offsets[t];
#pragma omp for schedule(static)
    for (int64_t tile = 0; tile < kept->n_tiles; tile++) {
      int64_t first = tile * tile_height;
      int64_t n = std::min<int64_t>(tile_height, kept->n_tokens - first);
      int64_t next[tile_height];
      std::copy_n(offsets + first, n, next);
      kept->each_of_tile(tile, [&](const Hit& hit) {
        int64_t at = next[hit.pair.token - first]++;
        token[at] = hit.pair.token;
        latent[at] = hit.pair.latent;
        z[at] = hit.z;
      });
    }
  }
  delete kept;
}

void panscope_drop(Kept* kept) { delete kept; }
