#include "vector.h"

namespace panscope {

float dot(const float* a, const float* b, int64_t d) {
  Vec s0 = {}, s1 = {}, s2 = {}, s3 = {};
  int64_t k = 0;
  for (; k + 4 * lanes <= d; k += 4 * lanes) {
    s0 += load(a + k) * load(b + k);
    s1 += load(a + k + lanes) * load(b + k + lanes);
    s2 += load(a + k + 2 * lanes) * load(b + k + 2 * lanes);
    s3 += load(a + k + 3 * lanes) * load(b + k + 3 * lanes);
  }
  for (; k + lanes <= d; k += lanes) s0 += load(a + k) * load(b + k);
  if (k < d) s1 += load(a + k, d - k) * load(b + k, d - k);
  return sum((s0 + s1) + (s2 + s3));
}

}  // namespace panscope
