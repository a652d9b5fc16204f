// The screen for processors without small dot products: float32 tiles, rounded rows = rows. What it
// must allow for is only that a tile adds in another order than `dot`.
#pragma once
#include "tile.h"

namespace panscope {

struct Fp32 {
  // Rows of a panel that one visit of a tile reads: 24 KB, so that they stay in the first cache
  // while the tiles of a block pass over them. Sums wait in memory between visits.
  static constexpr int64_t visit = 24 * 1024 / (4 * panel_width);

  static int64_t words(int64_t d) { return d; }

  static Rounding round_row(const float* row, int64_t d, uint32_t* to) {
    float squared = 0;
#pragma omp simd reduction(+ : squared)
    for (int64_t k = 0; k < d; k++) squared += row[k] * row[k];
    std::memcpy(to, row, d * sizeof(float));
    return {1, squared, squared, 0};
  }
  static Rounding round_token(const float* x, int64_t d, uint32_t* to) { return round_row(x, d, to); }
  static Rounding round_latent(const float* w, int64_t d, uint32_t* to, uint32_t* start) {
    *start = 0;
    return round_row(w, d, to);
  }

  static void tile(const uint32_t* tokens, const uint32_t* panel, int64_t words,
                   const TokenTerms* token, const PanelTerms& latent, uint32_t* masks) {
    Vec sums[tile_height][2];
    auto* a = reinterpret_cast<const float*>(tokens);
    auto* b = reinterpret_cast<const float*>(panel);
#pragma GCC unroll 12
    for (int r = 0; r < tile_height; r++) sums[r][0] = sums[r][1] = Vec{};
    b += panel_width;
    for (int64_t k = 0; k < words; k++, a += tile_height, b += panel_width) {
      Vec low = load(b), high = load(b + lanes);
#pragma GCC unroll 12
      for (int r = 0; r < tile_height; r++) {
        sums[r][0] += all(a[r]) * low;
        sums[r][1] += all(a[r]) * high;
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < tile_height; r++)
      masks[r] = latent.candidates(sums[r][0], sums[r][1], token[r]);
  }
};

}  // namespace panscope
