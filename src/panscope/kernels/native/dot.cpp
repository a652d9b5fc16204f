#include "dot.h"

namespace panscope {
namespace {

template <int n>
void dots(const float* a, const float* const* rows, int64_t d, float* out) {
  Vec sums[n][4] = {};
  int64_t k = 0;
  for (; k + 4 * lanes <= d; k += 4 * lanes)
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) {
      Vec v = load(a + k + u * lanes);
#pragma GCC unroll 4
      for (int i = 0; i < n; i++) sums[i][u] += v * load(rows[i] + k + u * lanes);
    }
  for (; k + lanes <= d; k += lanes)
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) sums[i][0] += load(a + k) * load(rows[i] + k);
  if (k < d)
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) sums[i][1] += load(a + k, d - k) * load(rows[i] + k, d - k);
#pragma GCC unroll 4
  for (int i = 0; i < n; i++) out[i] = sum((sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]));
}

}  // namespace

void dots(const float* a, const float* const* rows, int n, int64_t d, float* out) {
  for (; n > 0; n -= rows_at_once, rows += rows_at_once, out += rows_at_once) {
    if (n == 1) dots<1>(a, rows, d, out);
    if (n == 2 || (n > 2 && rows_at_once == 2)) dots<2>(a, rows, d, out);
    if (n == 3 && rows_at_once > 2) dots<3>(a, rows, d, out);
    if (n > 3 && rows_at_once > 2) dots<4>(a, rows, d, out);
  }
}

}  // namespace panscope
