#include "slots.h"

#include <algorithm>
#include <cmath>

namespace panscope {
namespace {

std::vector<float> ranges_of(const float* x, int64_t n_tokens, int64_t d) {
  std::vector<float> range(d, 0.0f);
  for (int64_t t = 0; t < n_tokens; t++)
    for (int64_t k = 0; k < d; k++) {
      float a = std::fabs(x[t * d + k]);
      if (a < INFINITY) range[k] = std::max(range[k], a);
    }
  return range;
}

int64_t extra_slots(float range, float span) { return int64_t(std::ceil(range / span)) - 1; }

int64_t extra_slots(const std::vector<float>& ranges, float span) {
  int64_t n = 0;
  for (float range : ranges) n += std::max<int64_t>(extra_slots(range, span), 0);
  return n;
}

}  // namespace

Slots slots_for(const float* x, int64_t n_tokens, int64_t d) {
  Slots slots{d, {}};
  std::vector<float> ranges = ranges_of(x, n_tokens, d);
  float span = d ? *std::max_element(ranges.begin(), ranges.end()) : 0;
  if (!(span > 0)) return slots;
  float least = span;
  while (extra_slots(ranges, least / 1.25f) <= d / 16) least /= 1.25f;
  if (least > span / 2) return slots;
  for (int64_t k = 0; k < d; k++)
    for (int64_t n = extra_slots(ranges[k], least); n > 0; n--) slots.extra.push_back(int32_t(k));
  return slots;
}

}  // namespace panscope
