// The screen for processors without small dot products: float32 tiles, rounded rows = rows. What it
// must allow for is only that a tile adds in another order than `dot`.
#pragma once
#include "slots.h"

namespace panscope {

struct Fp32 {
  static bool available() { return true; }
  static constexpr double cycles = 1.0 / 16;  // of a pair of rows, times d

  static int64_t words(const Slots& slots) { return slots.d; }

  static Rounding round_row(const float* row, int64_t d, uint32_t* to) {
    float squared = 0;
#pragma omp simd reduction(+ : squared)
    for (int64_t k = 0; k < d; k++) squared += row[k] * row[k];
    std::memcpy(to, row, d * sizeof(float));
    return {boundable(magnitude(row, d)), 1, squared, squared, 0};
  }
  static Rounding round_token(const float* x, const Slots& slots, uint32_t* to) {
    return round_row(x, slots.d, to);
  }
  static Rounding round_latent(const float* w, const Slots& slots, uint32_t* to, uint32_t* start) {
    *start = 0;
    return round_row(w, slots.d, to);
  }

  // Not inlined: among other code the compiler would run out of registers.
  __attribute__((noinline)) static void tile(const uint32_t* tokens, const uint32_t* panel, int64_t words,
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
