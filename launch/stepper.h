#ifndef BENCH_STEPPER_H
#define BENCH_STEPPER_H

#include "base/status.h"
#include "nn/backend.h"
#include "nn/graph.h"
#include "nn/net.h"
#include "nn/optimizer.h"

#include <jansson.h>
#include <stdint.h>

/**
 * One net that is trained (or evaluated) on one minibatch of random images, over and over: what a
 * step costs without data loading and communication.
 */
typedef struct stepper_options {
    const char *arch, *backend;
    nn_shape image; /* (c, h, w) */
    int64_t classes, minibatch, threads;
    int is_training; /* forward, backward and SGD with momentum; else forward to the logits */
} stepper_options;

typedef struct stepper {
    const stepper_options *options; /* borrowed */
    nn_backend *backend;
    nn_graph *graph;
    nn_net *net;
    nn_optimizer *optimizer;
    float *weights, *grads, *state[NN_OPTIMIZER_MAX_STATES]; /* flat, backend memory */
    float *images;                                           /* (n, c, h, w) host */
    int32_t *labels;                                         /* (n) host */
    int64_t step;                                            /* made so far */
    double loss; /* mean of the last training step's minibatch */
} stepper;

/** Fills *out, which stays the caller's; close it even after a failure. options: borrowed until
 *  then. */
cvy_status stepper_open(const stepper_options *options, stepper *out);
void stepper_close(stepper *s);

/** One step; CVY_ERR_NUMERIC when its loss is not finite. */
cvy_status stepper_step(stepper *s);

/** Multiply-adds of one step: the forward pass, and in training the gradients of filters and of
 *  inputs, except of inputs that are the images. */
int64_t stepper_multiply_adds(const stepper *s);

/** Time n steps; a bench_measure. */
cvy_status stepper_measure(void *arg, int64_t n, json_t **out);

#endif
