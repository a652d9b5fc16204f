// What encode takes and gives, and the screens it can go by.
#pragma once
#include <cstdint>
#include <vector>

#include "abi.h"
#include "slots.h"

struct Pair {
  int32_t token, latent;
};

struct Hit {
  Pair pair;
  float z;
};

// What passed in one job, in order of (token, latent). Hits of the job's i-th tile of tokens are
// begin[i] .. begin[i + 1].
struct Passed {
  std::vector<Hit> hits;
  std::vector<int32_t> begin{0};
  int64_t n_candidates = 0;
};

struct Kept {
  int64_t n_tokens = 0, n_tiles = 0, stretch_tiles = 1, n_ranges = 0;
  std::vector<Passed> jobs;  // stretch of tokens after stretch, ranges of latents ascending in each

  int64_t n_pairs() const {
    int64_t n = 0;
    for (const Passed& job : jobs) n += job.hits.size();
    return n;
  }
  int64_t n_candidates() const {
    int64_t n = 0;
    for (const Passed& job : jobs) n += job.n_candidates;
    return n;
  }

  // Visit a tile's hits, latents ascending for each token.
  template <class Visit>
  void each_of_tile(int64_t tile, Visit visit) const {
    int64_t stretch = tile / stretch_tiles, i = tile % stretch_tiles;
    for (int64_t range = 0; range < n_ranges; range++) {
      const Passed& job = jobs[stretch * n_ranges + range];
      for (int32_t at = job.begin[i]; at < job.begin[i + 1]; at++) visit(job.hits[at]);
    }
  }
};

namespace panscope {

struct Problem {
  const float* x;
  int64_t n_tokens, d;
  const float* w;
  int64_t n_latents;
  const float *bias, *floor;
};

// A screen that this library has and this processor can run.
struct Offer {
  Screen screen;
  double cycles;  // what a pair costs, times d
  Kept (*encode)(const Problem&, const Slots&);
};

// Those that can take rows of d, fastest first; never empty.
std::vector<Offer> offers(int64_t d);

// How to encode: by the screen asked for, or by the one that costs least on a sample.
struct Choice {
  Offer offer;
  Slots slots;
};
Choice choose(Screen wanted, const Problem& p);

}  // namespace panscope
