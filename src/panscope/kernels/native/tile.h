// The register tile that all screens share: `tile_height` tokens by `panel_width` latents.
//
// Rows are packed into 32-bit words of one float, two bf16 or four int8. The tokens of a tile lie
// word by word (word 0 of every token, word 1 of every token, ...), so do the latents of a panel; a
// step of a tile's loop broadcasts each token's word against two registers of latents. A panel
// begins with the values its sums start from: 0, or what cancels an offset.
#pragma once
#include "screen.h"
#include "vector.h"

namespace panscope {

// 24 (or 12) sums, two registers of latents and a broadcast word: as much as fits without spilling.
constexpr int tile_height = registers == 32 ? 12 : 6;
constexpr int panel_width = 2 * lanes;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Words of one packed panel: its starting values, then its rows.
inline int64_t panel_words(int64_t row_words) { return (row_words + 1) * panel_width; }

// The three terms of a panel's latents, in registers.
struct PanelTerms {
  Vec floor[2], norm[2], error[2];

  PanelTerms(const LatentTerms& all, int64_t first) {
    for (int h = 0; h < 2; h++) {
      floor[h] = load(all.floor + first + h * lanes);
      norm[h] = load(all.norm + first + h * lanes);
      error[h] = load(all.error + first + h * lanes);
    }
  }

  // One bit per latent of the panel; see screen.h.
  uint32_t candidates(Vec low, Vec high, const TokenTerms& token) const {
    return half(low, 0, token) | half(high, 1, token) << lanes;
  }

 private:
  uint32_t half(Vec product, int h, const TokenTerms& token) const {
    Vec limit = floor[h] * all(token.scale) - error[h] * all(token.norm) - norm[h] * all(token.error);
    return not_at_most(product, limit);
  }
};

}  // namespace panscope
