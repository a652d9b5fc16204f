// Vec: as many floats as one register of this instruction set holds. The same source is compiled
// once per instruction set (see CMakeLists.txt); only a few lines below differ between them.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace panscope {

#if defined(__AVX512F__)
constexpr int lanes = 16, registers = 32;
#elif defined(__AVX2__)
constexpr int lanes = 8, registers = 16;
#elif defined(__aarch64__)
constexpr int lanes = 4, registers = 32;
#else
constexpr int lanes = 4, registers = 16;
#endif

typedef float Vec __attribute__((vector_size(4 * lanes)));
typedef float UnalignedVec __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const UnalignedVec*>(from); }
inline void store(float* to, Vec v) { *reinterpret_cast<UnalignedVec*>(to) = v; }
inline Vec all(float value) { return value - Vec{}; }

// The first n < lanes floats, zeros behind them; and the way back.
inline Vec load(const float* from, int64_t n) {
  Vec v = {};
  std::memcpy(&v, from, n * sizeof(float));
  return v;
}
inline void store(float* to, Vec v, int64_t n) { std::memcpy(to, &v, n * sizeof(float)); }

// Ask for the first n floats ahead of use, into the second cache: the first is too small to wait in
// (gathers ran 10 to 25 % faster so than with prefetches into the first, or none). Rows come in no
// order that the processor could guess.
inline void prefetch(const float* from, int64_t n) {
  for (int64_t k = 0; k < n; k += 16) __builtin_prefetch(from + k, 0, 2);
  asm volatile("");  // GCC drops calls of functions that do nothing but prefetch
}

// Always in the same order: halves are added until one lane is left.
inline float sum(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

// Bit i is set unless value[i] <= limit[i]; so also where either is NaN.
inline uint32_t not_at_most(Vec value, Vec limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)value, (__m512)limit, _CMP_NLE_UQ);
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)value, (__m256)limit, _CMP_NLE_UQ));
#elif defined(__x86_64__)
  return _mm_movemask_ps(_mm_cmpnle_ps((__m128)value, (__m128)limit));
#else
  uint32_t bits = 0;
  for (int i = 0; i < lanes; i++) bits |= uint32_t(!(value[i] <= limit[i])) << i;
  return bits;
#endif
}

}  // namespace panscope
