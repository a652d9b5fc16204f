// The screen by 8-bit integers (AVX-512 VNNI): four times the fp32 tile's speed. Each row has one
// scale, its largest entry / 127, so one huge entry costs all others their precision.
#pragma once
#include "tile.h"

#if defined(__AVX512F__)
namespace panscope {

struct Int8 {
  static bool available() { return __builtin_cpu_supports("avx512vnni"); }
  static constexpr int64_t largest_d = 1 << 16;  // sums of d products < 127 * 127 fit 32 bits
  static int64_t words(int64_t d) { return ceil_div(d, 4); }

  // q = row * scale rounded to -127 .. 127, written as q + offset, padded with `offset`.
  static Rounding round_row(const float* row, int64_t d, int offset, uint32_t* to, int32_t* total) {
    float max = magnitude(row, d);
    float scale = boundable(max) && max > 0 ? 127 / max : 1;
    if (!boundable(max)) return pad(to, words(d), offset), *total = 0, Rounding{};
    float squared = 0, kept = 0, error = 0;
    int32_t added = 0;
    auto* byte = reinterpret_cast<uint8_t*>(to);
#pragma omp simd reduction(+ : squared, kept, error, added)
    for (int64_t k = 0; k < d; k++) {
      float value = row[k] * scale, q = __builtin_rintf(value), lost = value - q;
      squared += value * value;
      kept += q * q;
      error += lost * lost;
      added += int32_t(q);
      byte[k] = uint8_t(int32_t(q) + offset);
    }
    std::memset(byte + d, offset, 4 * words(d) - d);
    *total = added;
    return {scale, squared, kept, error};
  }
  static void pad(uint32_t* to, int64_t n, int offset) { std::memset(to, offset, 4 * n); }

  // vpdpbusd multiplies unsigned by signed bytes: tokens are shifted by 128, and sums start from
  // what the shift will have added.
  static Rounding round_token(const float* x, int64_t d, uint32_t* to) {
    int32_t unused;
    return round_row(x, d, 128, to, &unused);
  }
  static Rounding round_latent(const float* w, int64_t d, uint32_t* to, uint32_t* start) {
    int32_t total;
    Rounding rounding = round_row(w, d, 0, to, &total);
    *start = uint32_t(-128 * total);
    return rounding;
  }

  __attribute__((target("avx512vnni"))) static void tile(const uint32_t* tokens,
                                                         const uint32_t* panel, int64_t words,
                                                         const TokenTerms* token,
                                                         const PanelTerms& latent,
                                                         uint32_t* masks) {
    __m512i sums[tile_height][2];
    const uint32_t *a = tokens, *b = panel + panel_width;
    __m512i start_low = _mm512_loadu_si512(panel), start_high = _mm512_loadu_si512(panel + lanes);
#pragma GCC unroll 12
    for (int r = 0; r < tile_height; r++) sums[r][0] = start_low, sums[r][1] = start_high;
    for (int64_t k = 0; k < words; k++, a += tile_height, b += panel_width) {
      __m512i low = _mm512_loadu_si512(b), high = _mm512_loadu_si512(b + lanes);
#pragma GCC unroll 12
      for (int r = 0; r < tile_height; r++) {
        __m512i word = _mm512_set1_epi32(a[r]);
        // As assembly: through the intrinsic, GCC 12 copies every sum before it adds.
        asm("vpdpbusd %2, %1, %0" : "+v"(sums[r][0]) : "v"(word), "v"(low));
        asm("vpdpbusd %2, %1, %0" : "+v"(sums[r][1]) : "v"(word), "v"(high));
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < tile_height; r++)
      masks[r] = latent.candidates((Vec)_mm512_cvtepi32_ps(sums[r][0]),
                                   (Vec)_mm512_cvtepi32_ps(sums[r][1]), token[r]);
  }
};

}  // namespace panscope
#endif
