#ifndef NN_SHAPE_INTERNAL_H
#define NN_SHAPE_INTERNAL_H

#include "nn/shape.h"

#include <stddef.h>

/* For messages: sizes that may be far too large for an integer. */

/** Product of the extents, without a limit. */
double nn_shape_product(const nn_shape *shape);
/** "37.3 TiB". */
void nn_bytes_text(double size_bytes, char *out, size_t out_size);

#endif
