// The screen by 8-bit integers. Each row has one scale, its largest entry / 127, so one huge entry
// costs all others their precision.
//
// Processors with VNNI multiply four bytes and add to a 32-bit sum in one instruction: four times
// the speed of fp32 tiles. Others with AVX2 need three (multiply bytes and add pairs in 16 bits,
// add pairs of those in 32, add to the sum), which is still about twice the speed.
#pragma once
#include <algorithm>

#include "slots.h"

#if defined(__AVX2__)
namespace panscope {

#if defined(__AVX512F__)
typedef __m512i Ints;
inline Ints broadcast(uint32_t word) { return _mm512_set1_epi32(word); }
inline Ints pairs(Ints u, Ints s) { return _mm512_maddubs_epi16(u, s); }
inline Ints add_pairs(Ints v) { return _mm512_madd_epi16(v, _mm512_set1_epi16(1)); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Vec to_floats(Ints v) { return (Vec)_mm512_cvtepi32_ps(v); }
#else
typedef __m256i Ints;
inline Ints broadcast(uint32_t word) { return _mm256_set1_epi32(word); }
inline Ints pairs(Ints u, Ints s) { return _mm256_maddubs_epi16(u, s); }
inline Ints add_pairs(Ints v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }
inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Vec to_floats(Ints v) { return (Vec)_mm256_cvtepi32_ps(v); }
#endif

inline Ints load_ints(const uint32_t* from) {
  Ints v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// The rounding that both kinds share: q = row * scale, as bytes q + offset. Padding is `offset`.
struct Int8 {
  static constexpr int64_t largest_d = 1 << 16;  // of more products the sums leave 32 bits

  static int64_t words(const Slots& slots) { return ceil_div(slots.n(), 4); }

  // The products take tokens as unsigned bytes, so these are shifted. A value too large for one
  // slot fills it and goes on in the next.
  template <int levels, int offset>
  static Rounding round_token(const float* x, const Slots& slots, uint32_t* to) {
    auto* byte = reinterpret_cast<uint8_t*>(to);
    float scale = float(levels) / reach(x, slots);
    int32_t unused;
    Rounding rounding = round_row<levels, offset>(x, slots.d, scale, byte, &unused);
    int32_t left = 0;
    for (size_t i = 0; i < slots.extra.size(); i++) {
      int32_t k = slots.extra[i];
      bool first = i == 0 || slots.extra[i - 1] != k;
      if (first) left = rounding.boundable ? int32_t(__builtin_rintf(x[k] * scale)) : 0;
      if (first) left -= std::clamp(left, -levels, levels);
      int32_t part = std::clamp(left, -levels, levels);
      byte[slots.d + i] = uint8_t(part + offset);
      left -= part;
    }
    pad(byte, slots, offset);
    return rounding;
  }

  // Sums start from what the tokens' shift will have added.
  template <int offset>
  static Rounding round_latent(const float* w, const Slots& slots, uint32_t* to, uint32_t* start) {
    auto* byte = reinterpret_cast<uint8_t*>(to);
    int32_t total;
    Rounding rounding = round_row<127, 0>(w, slots.d, 127 / magnitude(w, slots.d), byte, &total);
    for (size_t i = 0; i < slots.extra.size(); i++) {
      byte[slots.d + i] = byte[slots.extra[i]];
      total += int8_t(byte[slots.d + i]);
    }
    pad(byte, slots, 0);
    *start = uint32_t(-offset * total);
    return rounding;
  }

 private:
  // The largest magnitude that a slot must hold.
  static float reach(const float* x, const Slots& slots) {
    float all = magnitude(x, slots.d);
    if (slots.extra.empty() || !(all <= largest)) return all;
    std::vector<float> shared(x, x + slots.d);
    for (size_t i = 0, n = 1; i < slots.extra.size(); i += n, n = 1) {
      int32_t k = slots.extra[i];
      while (i + n < slots.extra.size() && slots.extra[i + n] == k) n++;
      shared[k] = x[k] / float(n + 1);
    }
    return magnitude(shared.data(), slots.d);
  }

  template <int levels, int offset>
  static Rounding round_row(const float* row, int64_t d, float scale, uint8_t* byte,
                            int32_t* total) {
    *total = 0;
    bool usable = scale >= levels / largest && scale <= levels / smallest;
    if (scale == INFINITY) usable = magnitude(row, d) == 0, scale = 1;  // zeros, or denormals
    if (!usable) {
      std::memset(byte, offset, d);
      return {false, 1, 0, 0, 0};
    }
    float squared = 0, kept = 0, error = 0;
    int32_t added = 0;
#pragma omp simd reduction(+ : squared, kept, error, added)
    for (int64_t k = 0; k < d; k++) {
      float value = row[k] * scale, q = __builtin_rintf(value), lost = value - q;
      squared += value * value;
      kept += q * q;
      error += lost * lost;
      int32_t held = std::min(std::max(int32_t(q), -levels), levels);
      added += held;
      byte[k] = uint8_t(held + offset);
    }
    *total = added;
    return {true, scale, squared, kept, error};
  }

  static void pad(uint8_t* byte, const Slots& slots, int offset) {
    std::memset(byte + slots.n(), offset, 4 * words(slots) - slots.n());
  }
};

// By pairs. Tokens have 63 levels each way: a pair of products stays below 2 * 127 * 127 < 2^15,
// where 127 levels would overflow 16 bits.
struct Int8Pairs : Int8 {
  static bool available() { return true; }
  static constexpr double cycles = 1.0 / 32;  // of a pair of rows, times d

  static Rounding round_token(const float* x, const Slots& slots, uint32_t* to) {
    return Int8::round_token<63, 64>(x, slots, to);
  }
  static Rounding round_latent(const float* w, const Slots& slots, uint32_t* to, uint32_t* start) {
    return Int8::round_latent<64>(w, slots, to, start);
  }

  __attribute__((noinline)) static void tile(const uint32_t* tokens, const uint32_t* panel,
                                             int64_t words, const TokenTerms* token,
                                             const PanelTerms& latent, uint32_t* masks) {
    Ints sums[tile_height][2];
    const uint32_t *a = tokens, *b = panel + panel_width;
#pragma GCC unroll 12
    for (int r = 0; r < tile_height; r++)
      for (int h = 0; h < 2; h++) sums[r][h] = load_ints(panel + h * lanes);
    for (int64_t k = 0; k < words; k++, a += tile_height, b += panel_width)
#pragma GCC unroll 12
      for (int r = 0; r < tile_height; r++) {
        Ints word = broadcast(a[r]);
        for (int h = 0; h < 2; h++)
          sums[r][h] = add(sums[r][h], add_pairs(pairs(word, load_ints(b + h * lanes))));
      }
#pragma GCC unroll 12
    for (int r = 0; r < tile_height; r++)
      masks[r] = latent.candidates(to_floats(sums[r][0]), to_floats(sums[r][1]), token[r]);
  }
};

#if defined(__AVX512F__)
struct Int8Vnni : Int8 {
  static bool available() { return __builtin_cpu_supports("avx512vnni"); }
  static constexpr double cycles = 1.0 / 64;

  static Rounding round_token(const float* x, const Slots& slots, uint32_t* to) {
    return Int8::round_token<127, 128>(x, slots, to);
  }
  static Rounding round_latent(const float* w, const Slots& slots, uint32_t* to, uint32_t* start) {
    return Int8::round_latent<128>(w, slots, to, start);
  }

  __attribute__((noinline, target("avx512vnni"))) static void tile(const uint32_t* tokens,
                                                                   const uint32_t* panel,
                                                                   int64_t words,
                                                                   const TokenTerms* token,
                                                                   const PanelTerms& latent,
                                                                   uint32_t* masks) {
    Ints sums[tile_height][2];
    const uint32_t *a = tokens, *b = panel + panel_width;
#pragma GCC unroll 12
    for (int r = 0; r < tile_height; r++)
      for (int h = 0; h < 2; h++) sums[r][h] = load_ints(panel + h * lanes);
    for (int64_t k = 0; k < words; k++, a += tile_height, b += panel_width) {
      Ints low = load_ints(b), high = load_ints(b + lanes);
#pragma GCC unroll 12
      for (int r = 0; r < tile_height; r++) {
        Ints word = broadcast(a[r]);
        // As assembly: through the intrinsic, GCC 12 copies every sum before it adds.
        asm("vpdpbusd %2, %1, %0" : "+v"(sums[r][0]) : "v"(word), "v"(low));
        asm("vpdpbusd %2, %1, %0" : "+v"(sums[r][1]) : "v"(word), "v"(high));
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < tile_height; r++)
      masks[r] = latent.candidates(to_floats(sums[r][0]), to_floats(sums[r][1]), token[r]);
  }
};
#endif

}  // namespace panscope
#endif
