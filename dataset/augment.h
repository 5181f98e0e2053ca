#ifndef DATASET_AUGMENT_H
#define DATASET_AUGMENT_H

#include "base/job.h"
#include "base/node.h"
#include "base/status.h"
#include "dataset/datum.h"
#include "dataset/image.h"
#include "dataset/store.h"

#include <stdint.h>
#include <stdio.h>

/**
 * From a record to what the net eats: decode, the listed steps, normalise, (c, h, w) float32.
 *
 * Steps, one file-local table line each, in the order given: pad_crop: P (zero-pad by P, crop at a
 * random place back to the size), flip: p (mirror with probability p), resize: S (shorter side) or
 * [h, w], center_crop: S, random_crop: S, random_resized_crop: {size, scale, ratio} (Szegedy et al.
 * 2015). Every draw comes from the stream CVY_RNG_AUGMENT of (seed, epoch, position), so a sample's
 * pixels depend on its place alone. Raw uint8 records are scaled to [0, 1]; float records are taken
 * as they are. Normalise: (v - mean) / deviation per channel.
 *
 * The output size must be the same for every record: by a fixed record size or by the last
 * size-giving step; otherwise CVY_ERR_CONFIG says which step to add.
 */
typedef struct dataset_pipeline dataset_pipeline;

/**
 * @param list   the job's augment list; NULL: none.
 * @param input  the job's data section: channel order, mean, deviation (empty: the manifest's, or
 *               ImageNet's 0.485 0.456 0.406 / 0.229 0.224 0.225 for 3 channels, 0.5/0.5 else, said
 * at info level), max_pixels.
 * @param info   of the dataset; borrowed during the call.
 */
cvy_status dataset_pipeline_create(const cvy_node *list, const cvy_job_input *input,
                                   const dataset_info *info, dataset_pipeline **out);
void dataset_pipeline_destroy(dataset_pipeline **pipeline);
void dataset_pipeline_shape(const dataset_pipeline *pipeline, int64_t *out_channels,
                            int64_t *out_height, int64_t *out_width);
/** The per-channel mean and deviation in use, arrays of out_channels. */
void dataset_pipeline_stats(const dataset_pipeline *pipeline, const double **out_mean,
                            const double **out_deviation);

/** Scratch of one thread. */
typedef struct dataset_scratch dataset_scratch;
cvy_status dataset_scratch_create(dataset_scratch **out);
void dataset_scratch_destroy(dataset_scratch **scratch);

/** Which sample: its random numbers. */
typedef struct dataset_sample_key {
    uint64_t seed;
    int64_t epoch, position;
} dataset_sample_key;

/** Fill (c, h, w) floats. A record that cannot be decoded or has another size is CVY_ERR_BAD_DATA
 *  with a reason, not logged. */
cvy_status dataset_pipeline_apply(const dataset_pipeline *pipeline, const dataset_datum *datum,
                                  const dataset_sample_key *key, dataset_scratch *scratch,
                                  float *out, cvy_reason *reason);

/** A line for each step and its arguments, as `convoy help job` shows them. */
void dataset_pipeline_print_help(FILE *out);

/** The record as a picture for people, decoded but not augmented. */
cvy_status dataset_datum_to_image(const dataset_datum *datum, int channel_order, int64_t max_pixels,
                                  dataset_image *out, cvy_reason *reason);

#endif
