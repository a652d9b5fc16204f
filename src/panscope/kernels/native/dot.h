// The one float32 product that all results are made of. Its sums run in one fixed order, however
// many rows are multiplied at once, so that a pair's value does not depend on how it was found.
#pragma once
#include "vector.h"

namespace panscope {

constexpr int rows_at_once = registers / 8;  // with four running sums each, half the registers

// out[i] = a . rows[i]
void dots(const float* a, const float* const* rows, int n, int64_t d, float* out);

inline float dot(const float* a, const float* b, int64_t d) {
  float value;
  dots(a, &b, 1, d, &value);
  return value;
}

}  // namespace panscope
