#ifndef LAUNCH_STEPPER_H
#define LAUNCH_STEPPER_H

#include "base/node.h"
#include "base/status.h"
#include "launch/figures.h"
#include "launch/layer_table.h"
#include "launch/pass_split.h"
#include "nn/backend.h"
#include "nn/graph.h"
#include "nn/net.h"
#include "nn/optimizer.h"

#include <jansson.h>
#include <stdint.h>

/**
 * One net that is trained (or evaluated) on one minibatch of random images, over and over: what a
 * step costs without data loading and communication. Training is forward, backward and SGD with
 * momentum, evaluation is forward to the logits. Not collective; one thread.
 */
typedef struct launch_stepper_options {
    const char *arch; /* a known net; with model: its name in the figures */
    cvy_node *model;  /* borrowed; a job's section, with classes, instead of arch; or NULL */
    const char *backend;
    nn_shape image;  /* (c, h, w) */
    int64_t classes; /* of an arch */
    int64_t minibatch, threads;
    int is_training;
} launch_stepper_options;

typedef struct launch_stepper {
    const launch_stepper_options *options; /* borrowed */
    nn_backend *backend;
    nn_graph *graph;
    nn_net *net;
    nn_optimizer *optimizer;
    float *weights, *grads, *state[NN_OPTIMIZER_MAX_STATES]; /* flat, backend memory */
    float *images;                                           /* (n, c, h, w) host */
    int32_t *labels;                                         /* (n) host */
    int64_t step;                                            /* made so far */
    double loss;     /* mean of the last training step's minibatch */
    double update_s; /* spent in updates so far */

    /* Of the profile: since when, and until then. */
    launch_pass_split *split; /* NULL: not training, or no profile */
    int64_t profile_step;
    double profile_update_s;
} launch_stepper;

/** The shape of "3x224x224"; CVY_ERR_USAGE (quiet) for anything else. */
cvy_status launch_image_parse(const char *text, nn_shape *out);
/** 1000 for images of 64 pixels and more, as published for the large nets, else 10. */
int64_t launch_default_classes(const nn_shape *image);
/** What is lacking of an arch: the image as published, the default classes. An unknown name is
 * told, with the nearest, when the net is built. */
void launch_stepper_complete(launch_stepper_options *options);

/** Fills *out, which stays the caller's; close it even after a failure. options: borrowed until
 *  then. */
cvy_status launch_stepper_open(const launch_stepper_options *options, launch_stepper *out);
void launch_stepper_close(launch_stepper *s);

/** One step; CVY_ERR_NUMERIC when its loss is not finite. */
cvy_status launch_stepper_step(launch_stepper *s);

typedef struct launch_step_figures {
    int64_t n_steps;
    launch_spread time_s;
    int64_t multiply_adds;  /* of one step, as direct convolutions: launch_multiply_adds() */
    int64_t peak_rss_bytes; /* of the process so far */
    char weights_xxh3[17];  /* equal for equal bits */
} launch_step_figures;

/** Time n >= 1 steps. */
cvy_status launch_stepper_measure(launch_stepper *s, int64_t n, launch_step_figures *out);

/** As an object of its own; NULL: no memory. */
json_t *launch_stepper_json(const launch_stepper *s, const launch_step_figures *figures);

/** From the next step on tell where the time goes; call once. */
cvy_status launch_stepper_start_profile(launch_stepper *s);

/** The table of the steps since launch_stepper_start_profile, whose mean is step_s; free it before
 *  the stepper is closed. */
cvy_status launch_stepper_table(const launch_stepper *s, double step_s, launch_table *out);

#endif
