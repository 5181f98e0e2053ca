#include "nn/shape.h"

#include "nn/shape_internal.h"

#include <stdio.h>

static const int64_t max_elems = (int64_t)1 << 40;

nn_shape nn_shape_of(int n_dims, const int64_t *dim)
{
    nn_shape shape = {.n_dims = n_dims};

    CVY_ASSERT(n_dims >= 0 && n_dims <= NN_MAX_DIMS);
    for (int i = 0; i < n_dims; i++) shape.dim[i] = dim[i];
    return shape;
}

int64_t nn_shape_n_elems(const nn_shape *shape)
{
    int64_t n = 1;

    if (shape->n_dims < 0 || shape->n_dims > NN_MAX_DIMS) return -1;
    for (int i = 0; i < shape->n_dims; i++) {
        if (shape->dim[i] < 1 || shape->dim[i] > max_elems / n) return -1;
        n *= shape->dim[i];
    }
    return n;
}

int nn_shape_equal(const nn_shape *a, const nn_shape *b)
{
    if (a->n_dims != b->n_dims) return 0;
    for (int i = 0; i < a->n_dims; i++) {
        if (a->dim[i] != b->dim[i]) return 0;
    }
    return 1;
}

/* Append to a text that is cut at out_size; gives its new length. */
static size_t append(char *out, size_t out_size, size_t at, const char *separator, int64_t value)
{
    if (at >= out_size) return at;

    const int n = snprintf(out + at, out_size - at, "%s%lld", separator, (long long)value);
    return n > 0 ? at + (size_t)n : at;
}

void nn_shape_text(const nn_shape *shape, char *out, size_t out_size)
{
    size_t at = 1;

    if (out_size == 0) return;
    snprintf(out, out_size, "(");
    for (int i = 0; i < shape->n_dims; i++) {
        at = append(out, out_size, at, i > 0 ? ", " : "", shape->dim[i]);
    }
    if (at < out_size) snprintf(out + at, out_size - at, ")");
}

double nn_shape_product(const nn_shape *shape)
{
    double product = 1.0;

    for (int i = 0; i < shape->n_dims; i++) product *= (double)shape->dim[i];
    return product;
}

void nn_bytes_text(double size_bytes, char *out, size_t out_size)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    int unit = 0;

    for (; size_bytes >= 1024.0 && unit < 6; unit++) size_bytes /= 1024.0;
    snprintf(out, out_size, unit == 0 ? "%.0f %s" : "%.3g %s", size_bytes, units[unit]);
}
