#ifndef NN_WEIGHTS_H
#define NN_WEIGHTS_H

#include "base/safetensors.h"
#include "base/status.h"
#include "nn/params.h"

#include <stdint.h>

/**
 * Weights as safetensors under torchvision's names: float32, KCRS filters, running statistics, and
 * the int64 scalar NAME.num_batches_tracked beside each running_mean (PyTorch's strict loading
 * wants it; it holds the number of updates made).
 */

/** Write the flat buffer (host memory, without tail). n_updates: for num_batches_tracked. */
cvy_status nn_weights_save(const char *path, const nn_params *params, const float *weights,
                           int64_t n_updates, uint64_t *out_size_bytes, uint64_t *out_hash);

/**
 * Fill the flat buffer from a file. Every parameter must be there with its shape and in a float
 * dtype (F16, BF16 and F64 are converted), and nothing else but *.num_batches_tracked; else
 * CVY_ERR_BAD_DATA, one logged line that lists up to 10 missing, extra and reshaped tensors.
 * Non-finite values are CVY_ERR_NUMERIC unless allow_nonfinite. On failure out_weights is
 * unspecified.
 */
cvy_status nn_weights_load(const cvy_safetensors *file, const char *path, const nn_params *params,
                           int allow_nonfinite, float *out_weights);

/** Optimizer states: NAME.STATE per trainable parameter (momentum_buffer), the same rules.
 *  states: [n_states] flat buffers. */
cvy_status nn_states_save(const char *path, const nn_params *params, int n_states,
                          const char *const *state_names, float *const *states,
                          uint64_t *out_size_bytes, uint64_t *out_hash);
cvy_status nn_states_load(const cvy_safetensors *file, const char *path, const nn_params *params,
                          int n_states, const char *const *state_names, int allow_nonfinite,
                          float *const *out_states);

#endif
