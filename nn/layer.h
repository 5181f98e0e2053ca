#ifndef NN_LAYER_H
#define NN_LAYER_H

#include "base/config.h"
#include "nn/backend.h"
#include "nn/params.h"
#include "nn/shape.h"

#include <stddef.h>
#include <stdint.h>

/**
 * What a layer type is: one file in nn/layers/ and one line of nn/layers/registry.c.
 *
 * A layer has attributes (read by its table from a YAML mapping), one or more inputs, one output,
 * parameters, and kernels called through the backend's table. It holds no state: everything it
 * touches comes in the call.
 */
#define NN_LAYER_MAX_PARAMS 8
#define NN_LAYER_MAX_INPUTS 16

/** What backward reads besides dy; what is not needed may be overwritten after forward.
 * NN_NEEDS_DX: it must be given a place for dx[0] even where nobody reads it. */
enum { NN_NEEDS_X = 1, NN_NEEDS_Y = 2, NN_NEEDS_DX = 4 };

/** Filled when the net is shaped. */
typedef struct nn_layer_plan {
    nn_shape out; /* with the planned minibatch */
    int n_params;
    nn_param_decl params[NN_LAYER_MAX_PARAMS];
    size_t saved_bytes;    /* kept from forward to backward: masks, batch statistics */
    int saved_per_output;  /* and so many 4-byte numbers for each element of y, laid out as y */
    unsigned needs;        /* NN_NEEDS_... in backward */
    int can_run_in_place;  /* y may be the memory of x[0] (and dx[0] that of dy) */
    int is_loss;           /* fills the outcome; y is (n) per-sample losses */
    int64_t multiply_adds; /* of forward, whole minibatch; 0 for elementwise work */
} nn_layer_plan;

/** Per-sample results of a loss layer, host memory, n of each. */
typedef struct nn_outcome {
    float *loss;
    int32_t *predicted;
    int32_t *rank; /* 0: top-1 correct; < 5: top-5 correct */
    float *confidence;
} nn_outcome;

/** That a normalisation runs as a chain in one sweep: y = norm(x) + residual, max(., 0) if is_relu.
 *  y and dy of the call are then those of the chain's end; y may lie where x or residual does. */
typedef struct nn_layer_tail {
    int is_relu;
    int is_again; /* forward: y once more, for the backward pass; nothing else is written */
    const float *residual; /* forward; NULL: none */
    float *dy;             /* backward: dy of the call, whose contents may be lost */
    float *dresidual;      /* backward; NULL: none, or not wanted */
    int accumulate;        /* to dresidual */
} nn_layer_tail;

/** One call of forward or backward; all borrowed. Shapes have dim[0] = the images of this call. */
typedef struct nn_layer_call {
    nn_backend *backend;
    const void *attrs;
    const nn_layer_plan *plan;
    int layer_idx;
    int is_training;
    uint64_t seed, step, replica;

    int n_inputs;
    const nn_shape *in_shape; /* [n_inputs] */
    const nn_shape *out_shape;
    const float *const *x;      /* [n_inputs]; in backward NULL unless NN_NEEDS_X */
    float *y;                   /* in backward NULL unless NN_NEEDS_Y */
    const float *dy;            /* backward; NULL for a loss layer */
    float *const *dx;           /* backward; NULL entries: not wanted */
    const int *accumulate;      /* backward, [n_inputs] */
    const float *const *params; /* [n_params] */
    float *const *dparams;      /* backward: overwritten. Of a statistic: written in forward */
    void *saved;
    void *workspace;
    const nn_layer_tail *tail;     /* for NN_ROLE_NORM; NULL: none */
    const nn_conv_tail *conv_tail; /* for NN_ROLE_CONV, evaluation; NULL: none */

    const int32_t *labels; /* loss layers */
    const nn_outcome *outcome;
    float loss_scale; /* backward of a loss layer: d total / d sample loss */
} nn_layer_call;

/** What fuse.c may join. NN_ROLE_CONV takes a tail where the backend has conv2d_tail_forward,
 *  NN_ROLE_NORM where it has norm_chain_...; ADD is x[0] + x[1] + ...; RELU max(x[0], 0). */
typedef enum nn_layer_role {
    NN_ROLE_NONE,
    NN_ROLE_CONV,
    NN_ROLE_NORM,
    NN_ROLE_ADD,
    NN_ROLE_RELU
} nn_layer_role;

typedef struct nn_layer_ops {
    const char *name;              /* "conv2d": the spelling in job files */
    const char *help;              /* one line */
    const cvy_config_table *attrs; /* struct of attributes; NULL: none */
    int min_inputs, max_inputs;
    nn_layer_role role;

    /** Check attributes against input shapes, fill the plan. Failures are logged as CVY_ERR_CONFIG
     *  by nn_graph with the layer's name: give the reason here. */
    cvy_status (*shape)(const void *attrs, const nn_shape *in, int n_inputs, nn_layer_plan *plan,
                        cvy_reason *reason);
    /** Scratch of forward and backward, whichever is more; NULL: none. */
    size_t (*workspace_bytes)(nn_backend *backend, const void *attrs, const nn_shape *in,
                              int n_inputs, const nn_layer_plan *plan);
    cvy_status (*forward)(const nn_layer_call *call);
    cvy_status (*backward)(const nn_layer_call *call);
    /** NN_ROLE_NORM: what the layer does in evaluation, by the parameters of the call. */
    void (*describe_norm)(const nn_layer_call *call, nn_conv_tail *out);
} nn_layer_ops;

int nn_layer_count(void);
const nn_layer_ops *nn_layer_at(int idx);
const nn_layer_ops *nn_layer_find(const char *name); /* NULL: none; quiet */
const char *nn_layer_nearest(const char *name);      /* nearest registered name, or NULL */

#endif
