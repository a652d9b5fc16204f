// Which screen to go by, measured on a sample of the batch: 48 tokens by 256 latents, about 0.1 % of
// a training batch.
#include <algorithm>
#include <stdexcept>

#include "encode.h"

namespace panscope {
namespace {

// A candidate costs `dot` about this many cycles, times d.
constexpr double dot_cycles = 1.0 / 6;

// At most `most` of n, evenly spread.
std::vector<int64_t> spread(int64_t n, int64_t most) {
  std::vector<int64_t> rows(std::min(n, most));
  for (size_t i = 0; i < rows.size(); i++) rows[i] = int64_t(i) * n / int64_t(rows.size());
  return rows;
}

std::vector<float> gather(const float* from, const std::vector<int64_t>& rows, int64_t d) {
  std::vector<float> to(rows.size() * d);
  for (size_t i = 0; i < rows.size(); i++) std::copy_n(from + rows[i] * d, d, to.begin() + i * d);
  return to;
}

struct Sample {
  std::vector<float> x, w, bias, floor;
  Problem problem;

  explicit Sample(const Problem& p) {
    auto tokens = spread(p.n_tokens, 48), latents = spread(p.n_latents, 256);
    x = gather(p.x, tokens, p.d);
    w = gather(p.w, latents, p.d);
    bias = gather(p.bias, latents, 1);
    floor = gather(p.floor, latents, 1);
    problem = {x.data(),    int64_t(tokens.size()), p.d, w.data(), int64_t(latents.size()),
               bias.data(), floor.data()};
  }

  // The share of pairs that a screen sends to `dot` in vain.
  double wasted(const Offer& offer, const Slots& slots) const {
    Kept kept = offer.encode(problem, slots);
    double n_pairs = double(problem.n_tokens) * double(problem.n_latents);
    return double(kept.n_candidates() - kept.n_pairs()) / n_pairs;
  }
};

Offer cheapest(const std::vector<Offer>& all, const Sample& sample, const Slots& slots) {
  Offer best = all.back();  // fp32 wastes next to nothing
  double least = best.cycles;
  for (const Offer& offer : all) {
    if (offer.cycles >= least) break;
    double cost = offer.cycles + dot_cycles * sample.wasted(offer, slots);
    if (cost < least) best = offer, least = cost;
  }
  return best;
}

}  // namespace

Choice choose(Screen wanted, const Problem& p) {
  std::vector<Offer> all = offers(p.d);
  Sample sample(p);
  Slots slots = slots_for(sample.x.data(), sample.problem.n_tokens, p.d);
  for (const Offer& offer : all)
    if (offer.screen == wanted) return {offer, slots};
  return {cheapest(all, sample, slots), slots};
}

}  // namespace panscope
