// Screening: deciding with cheap arithmetic which pairs *might* pass their floor.
//
// A screen multiplies rounded rows and bounds what rounding took away. With x = x' + ex and
// w = w' + ew (primes: rounded), Cauchy and Schwarz give
//
//     x.w  <=  x'.w' + |ex| |w| + |x'| |ew|
//
// and a pair whose right side does not exceed the latent's floor cannot pass it. The few others are
// candidates: `dot` computes them anew, so the screen decides the speed and never the result.
//
// The comparison runs in the rounded rows' own units (rows are divided by their scale), rearranged
// so that the product stands alone:
//
//     candidate unless  x'.w'  <=  latent.floor * token.scale - latent.norm * token.error
//                                                             - latent.error * token.norm
//
// A comparison with NaN makes a candidate. Rows that cannot be bounded (inf, NaN, or so large or
// small that squares leave float32) get an infinite error: all their pairs become candidates.
#pragma once
#include <cmath>
#include <cstdint>

namespace panscope {

// Per token. `error` includes what float32 arithmetic itself may lose (see slack).
struct TokenTerms {
  float scale, error, norm;
};

// Per latent, as arrays: a tile reads `lanes` neighbours at once.
struct LatentTerms {
  float *floor, *norm, *error;
};

// What a screen says about a row it has rounded.
struct Rounding {
  bool boundable;
  float scale;          // the row was multiplied by this before it was rounded
  float squared;        // |row * scale|^2
  float squared_kept;   // |rounded|^2
  float squared_error;  // |row * scale - rounded|^2
};

// Within these, squares and products of two rows stay far from overflow and from denormals.
constexpr float smallest = 0x1p-40f, largest = 0x1p40f;
inline bool boundable(float magnitude) {
  return magnitude == 0 || (magnitude >= smallest && magnitude <= largest);
}

// Largest magnitude in a row; NaN if there is an inf or a NaN in it.
inline float magnitude(const float* row, int64_t d) {
  float max = 0, poison = 0;
#pragma omp simd reduction(max : max) reduction(+ : poison)
  for (int64_t k = 0; k < d; k++) {
    float a = std::fabs(row[k]);
    max = a > max ? a : max;
    poison += row[k] * 0;  // 0, or NaN for inf and NaN
  }
  return max + poison;
}

// Each product of d terms is off by at most d/2 ulps of |x||w| however it is summed; there are two
// (the screen's and dot's), and the bound's own arithmetic and conversions add a few more.
inline float slack(int64_t d) { return float(2 * d + 32) * 0x1p-24f; }

// Sums of d <= 2^17 squares in float32, 4 lanes or more, are good to 2^-9.
constexpr float rounded_up = 1.002f;

// Added to norms and errors, so that rows of zeros still have a bound (2^-120) above what a scaled
// floor can lose to underflow.
constexpr float above_zero = 0x1p-60f;

inline TokenTerms token_terms(const Rounding& r, int64_t d) {
  if (!r.boundable) return {1, INFINITY, 0};
  float lost = std::sqrt(r.squared_error) + slack(d) * std::sqrt(r.squared);
  return {r.scale, lost * rounded_up + above_zero, std::sqrt(r.squared_kept) * rounded_up};
}

inline void set_latent_terms(LatentTerms to, int64_t j, const Rounding& r, float floor) {
  to.floor[j] = r.boundable ? floor * r.scale : 0;
  to.norm[j] = r.boundable ? std::sqrt(r.squared) * rounded_up + above_zero : INFINITY;
  to.error[j] = r.boundable ? std::sqrt(r.squared_error) * rounded_up : 0;
}

// z > floor in float32, with z = dot + bias rounded, implies dot > floor - bias in real numbers,
// because rounding is monotone and floor is a float32: so this, rounded down, is a floor for dot.
inline float floor_of_dot(float floor, float bias) {
  float low = float(double(floor) - double(bias));
  return std::nextafter(low, -INFINITY);
}

}  // namespace panscope
