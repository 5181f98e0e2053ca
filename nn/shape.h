#ifndef NN_SHAPE_H
#define NN_SHAPE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define NN_MAX_DIMS 5

/** Extents of a tensor, slowest dimension first. Of an activation dim[0] is the minibatch n:
 *  (n, c), (n, c, w), (n, c, h, w) or (n, c, d, h, w). */
typedef struct nn_shape {
    int n_dims;
    int64_t dim[NN_MAX_DIMS];
} nn_shape;

nn_shape nn_shape_of(int n_dims, const int64_t *dim);
/** Elements; -1 when a dimension is < 1 or the product passes 2^40. */
int64_t nn_shape_n_elems(const nn_shape *shape);
int nn_shape_equal(const nn_shape *a, const nn_shape *b);
/** "(64, 3, 32, 32)"; out is cut to fit. */
void nn_shape_text(const nn_shape *shape, char *out, size_t out_size);

#endif
