// What Python calls, through ctypes. Matrices are row-major and dense, one token or one latent a row.
#pragma once
#include <cstdint>

#define PANSCOPE_EXPORT extern "C" __attribute__((visibility("default")))

struct Kept;  // the pairs of one call of encode, until they are taken

// How encode looks for candidates; `automatic` measures which is cheapest on this batch.
enum class Screen : int32_t { automatic = 0, vnni = 1, pairs = 2, bf16 = 3, fp32 = 4 };

struct Counts {
  int64_t pairs, candidates;
};

PANSCOPE_EXPORT Kept* panscope_encode(const float* x, int64_t n_tokens, int64_t d, const float* w_enc,
                                      int64_t n_latents, const float* b_enc, const float* floor,
                                      Screen screen, Counts* counts);
PANSCOPE_EXPORT void panscope_take(Kept* kept, int32_t* token, int32_t* latent, float* z,
                                   int64_t* offsets);
PANSCOPE_EXPORT void panscope_drop(Kept* kept);

PANSCOPE_EXPORT void panscope_residual(const int32_t* latent, const float* f, const int64_t* offsets,
                                       int64_t n_tokens, const float* w_dec, int64_t d,
                                       const float* target, const int64_t* bounds, int64_t n_bounds,
                                       float* error, float* pull, double* squared);
PANSCOPE_EXPORT void panscope_decode(const int32_t* latent, const float* f, const int64_t* offsets,
                                     int64_t n_tokens, const float* w_dec, int64_t d,
                                     const int64_t* bounds, int64_t n_bounds, float* rebuilt);
PANSCOPE_EXPORT void panscope_pull(const int32_t* latent, const float* f, const int64_t* offsets,
                                   int64_t n_tokens, const float* w_dec, int64_t d,
                                   const int64_t* bounds, int64_t n_bounds, float* error,
                                   float* pull);

struct HitArrays {
  const int32_t *token, *latent, *error_row;
  const float *f, *slope;
  int64_t n;
};
struct Sources {
  const float *x, *error, *everywhere;  // everywhere may be null
  int64_t n_tokens, d_in, d_out, n_latents;
};
struct RowArrays {
  float *w_enc, *w_dec, *v_enc, *v_dec, *m_enc, *m_dec;  // m may be null: no momentum
  int32_t* seen;
  double momentum;
};
PANSCOPE_EXPORT void panscope_gradients(const HitArrays* hits, const Sources* from, float* d_w_enc,
                                        float* d_w_dec);
PANSCOPE_EXPORT void panscope_update(const HitArrays* hits, const Sources* from,
                                     const RowArrays* rows, int64_t step, double rate);

// What fired, token by token, latents ascending in each; and latent by latent, tokens ascending in each.
struct CodeArrays {
  const int64_t* offsets;  // n_tokens + 1
  const int32_t* latents;
  const float* values;
  int64_t n_tokens;
};
struct FiringArrays {
  const int64_t* starts;  // n_latents + 1
  const int32_t* tokens;
  const float* values;
  int64_t n_latents;
};
struct BestArrays {
  float* score;
  int64_t* origin;
  int32_t* group;
  int64_t k;
};
// Sort all firings.
PANSCOPE_EXPORT void panscope_by_latent(const CodeArrays* codes, int64_t width, int64_t* starts,
                                        int32_t* tokens, float* values);
// Where the firings of each of n latents begin that are at its token or after.
PANSCOPE_EXPORT void panscope_find(const FiringArrays* firings, const int64_t* latents,
                                   const int32_t* tokens, int64_t n, int64_t* found);
// The bin of each positive value among ascending positive edges, about a quarter octave apart.
PANSCOPE_EXPORT void panscope_bins(const float* values, int64_t n, const float* edges,
                                   int64_t n_edges, uint8_t* bins);
PANSCOPE_EXPORT void panscope_count(const FiringArrays* firings, const uint8_t* classes,
                                    int64_t n_classes, int64_t* counts);
// The same with a class for each token.
PANSCOPE_EXPORT void panscope_count_tokens(const FiringArrays* firings, const uint8_t* classes,
                                           int64_t n_classes, int64_t* counts);
PANSCOPE_EXPORT void panscope_sums(const FiringArrays* firings, double* total, double* square);
// Offer firings, each with its score and its token's origin and group, to the best of its latent
// and class.
PANSCOPE_EXPORT void panscope_best(const FiringArrays* firings, const float* scores,
                                   const uint8_t* classes, int64_t n_classes,
                                   const int64_t* origins, const int32_t* groups,
                                   const BestArrays* best);
// A number in (0, 1] for each firing, from its latent, its token's origin and the salt.
PANSCOPE_EXPORT void panscope_lots(const FiringArrays* firings, const int64_t* origins,
                                   int64_t salt, float* lots);
// Offer pairs of latents that fire together to the k companions of both, which are sorted, -1 and
// zeros where there are fewer: all pairs whose lower latent is in [first, end). What fires is given
// piece by piece.
PANSCOPE_EXPORT void panscope_companions(const CodeArrays* codes, int64_t n_pieces,
                                         const int64_t* n_firings, int64_t width, int64_t first,
                                         int64_t end, int64_t k, int64_t* ids, double* jaccards);
// Add each latent's values times those of k others, up to an id of -1, at the same tokens.
PANSCOPE_EXPORT void panscope_products(const FiringArrays* firings, int64_t n_tokens,
                                       const int64_t* ids, int64_t k, double* products);

// Whether the running processor can execute the library of that name: "portable", "avx2", "avx512".
PANSCOPE_EXPORT int32_t panscope_supports(const char* isa);
// The screens this library has on this processor, one bit each: 1 << Screen.
PANSCOPE_EXPORT int32_t panscope_screens();
