// Slots: where a row's dimensions lie when it is packed into bytes.
//
// One scale a row must span its largest entry, and in a residual stream a few dimensions are ten or
// a hundred times larger than the rest, in every token: of those others almost nothing would be
// left. Such a dimension gets several slots. A token's value is spread over them, a latent's is
// repeated, so the sum of the products is the same and the scale fits the ordinary dimensions.
#pragma once
#include <cstdint>
#include <vector>

#include "tile.h"

namespace panscope {

struct Slots {
  int64_t d;
  std::vector<int32_t> extra;  // dimensions, ascending, one item for each slot after the first

  int64_t n() const { return d + int64_t(extra.size()); }
};

// As many slots as the tokens' ranges call for, up to d / 16 more than d, if that at least halves
// what one scale must span. `x` is a sample of tokens: any answer is right, a good one is fast.
Slots slots_for(const float* x, int64_t n_tokens, int64_t d);

}  // namespace panscope
