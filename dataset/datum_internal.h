#ifndef DATASET_DATUM_INTERNAL_H
#define DATASET_DATUM_INTERNAL_H

#include "dataset/datum.h"

/**
 * What dataset_datum_parse() gives, without a look at the payload: neither hash nor float values
 * are read, so a scan of a large dataset touches the first and the last page of each record only.
 * float_data stays NULL; n_floats is right.
 */
cvy_status dataset_datum_outline(const void *bytes, size_t size_bytes, dataset_datum *out,
                                 cvy_reason *reason);

/** XXH3 of a record, for digests: its own hash field where it has one (not verified), else of all
 *  its bytes. */
uint64_t dataset_datum_digest(const void *bytes, size_t size_bytes);

#endif
