#ifndef COORDINATOR_STATE_INTERNAL_H
#define COORDINATOR_STATE_INTERNAL_H

#include "coordinator/checkpoints.h"

#include <stddef.h>

/** state.json of a checkpoint: its text and back. */

#define COORDINATOR_STATE_FILE     "state.json"
#define COORDINATOR_MODEL_FILE     "model.safetensors"
#define COORDINATOR_OPTIMIZER_FILE "optimizer.safetensors"

/** More than any state.json has: refused before anything is allocated for it. */
#define COORDINATOR_STATE_LIMIT_BYTES ((size_t)64 << 10)

/** Steps beyond this are absurd: 2^48 at a microsecond each are nine years. */
#define COORDINATOR_MAX_STEP ((int64_t)1 << 48)

/** Are all values such as a run can reach? CVY_ERR_BAD_DATA with a reason. Quiet. */
cvy_status coordinator_state_check(const coordinator_state *state, cvy_reason *reason);

/**
 * The text of state.json: a JSON object with sorted keys and "self_hash", the XXH3 (16 hexadecimal
 * digits) of the same object without that member, dumped the same way. cvy_free() it.
 */
cvy_status coordinator_state_to_text(const coordinator_state *state, char **out);

/**
 * Read such a text. Beyond the self-hash the text must be byte for byte what to_text() writes, so a
 * flipped bit is found even where it would not change the meaning ("1e5", "1E5"). Quiet.
 *
 * @return CVY_ERR_BAD_DATA with a reason: no JSON, another format, a newer version, a member that
 * is missing or of another type, a wrong hash, an absurd value; CVY_ERR_NO_MEMORY.
 */
cvy_status coordinator_state_from_text(const char *text, size_t size_bytes, coordinator_state *out,
                                       cvy_reason *reason);

/** Equal in every field? */
int coordinator_state_equal(const coordinator_state *a, const coordinator_state *b);

#endif
