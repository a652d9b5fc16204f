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

// Whether the running processor can execute the library of that name: "portable", "avx2", "avx512".
PANSCOPE_EXPORT int32_t panscope_supports(const char* isa);
// The screens this library has on this processor, one bit each: 1 << Screen.
PANSCOPE_EXPORT int32_t panscope_screens();
