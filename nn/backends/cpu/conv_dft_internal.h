#ifndef NN_BACKENDS_CPU_CONV_DFT_INTERNAL_H
#define NN_BACKENDS_CPU_CONV_DFT_INTERNAL_H

#include "nn/backends/cpu/conv_tile_internal.h"
#include "nn/backends/cpu/layout_internal.h"

/**
 * Convolutions through discrete Fourier transforms, for one size: 5x5 taps on planes of 14x14
 * pixels, padding included, of few channels (LeNet-5's second convolution).
 *
 * A correlation of 14 with 5 pixels has 10 outputs, so one of period 14 has the same: with X, W and
 * Y the transforms of x, of the filter and of y, both filled up with zeros,
 *
 *     Y[k] = sum over c of X[c] conj(W[k,c]),   dX[c] = sum over k of dY[k] W[k,c],
 *     dW[k,c] = sum over images of X[c] conj(dY[k])
 *
 * number by number: 388 real products a plane in place of 2500. The transforms of real planes are
 * real arithmetic throughout:
 *
 * 14 = 2 7, and as 2 and 7 have no common factor their transforms nest without further factors
 * (Good 1958, Thomas 1963). Along a line, with w = exp(2 pi i / 7),
 *
 *     X[2m] = sum of (x[j] + x[j + 7]) w^(jm),   X[2m + 7] = sum of (-1)^j (x[j] - x[j + 7]) w^(jm)
 *
 * so a plane becomes four parts of 7x7, (sum or difference of rows, of columns), which are
 * transformed by themselves. Of a line of 7 real numbers only X[0], which is real, and X[1] to X[3]
 * are kept: the others are their conjugates. A part thus has one real number and 24 complex ones,
 * 49 slots in all: the real one, then real and imaginary parts in turns.
 *
 * Inverse transforms take the numbers kept as they are. Where their conjugates count as well, all
 * but the real one, they must be twice as large: see NN_DFT_SCALE.
 */
enum {
    NN_DFT_SIDE = 14,
    NN_DFT_HALF = 7,
    NN_DFT_TAPS = 5,
    NN_DFT_OUTPUTS = 10,
    NN_DFT_PARTS = 4,
    NN_DFT_PART_SLOTS = NN_DFT_HALF * NN_DFT_HALF,
    NN_DFT_SLOTS = NN_DFT_PARTS * NN_DFT_PART_SLOTS
};

/** Of slots before an inverse transform; of each part's first, the real one, half as much. */
#define NN_DFT_SCALE (2.0f / (NN_DFT_SIDE * NN_DFT_SIDE))

/** Where vectors lie: floats from one row of pixels, from one pixel, and from one slot to the next.
 */
typedef struct nn_dft_pitch {
    int64_t row, pixel, slot;
} nn_dft_pitch;

/** Each lane by itself: the transform of 14x14 pixels, of 10x10 and of 5x5, the rest being 0. */
void nn_dft_of_window(const float *pixels, nn_dft_pitch pitch, float *slots);
void nn_dft_of_outputs(const float *pixels, nn_dft_pitch pitch, float *slots);
void nn_dft_of_taps(const float *pixels, nn_dft_pitch pitch, float *slots);

/** The reverse, of which only the first 14x14, 10x10 and 5x5 pixels are written. */
void nn_dft_to_window(const float *slots, nn_dft_pitch pitch, float *pixels);
void nn_dft_to_outputs(const float *slots, nn_dft_pitch pitch, float *pixels);
void nn_dft_to_taps(const float *slots, nn_dft_pitch pitch, float *pixels);

/* --- The convolution -------------------------------------------------------------------------- */

enum {
    NN_DFT_CHANNELS = NN_CPU_BLOCKED_FROM - 1, /* of x, at most */
    NN_DFT_LEAST_CHANNELS = 3,                 /* of fewer there are not many products to save */
    NN_DFT_FILTER_FLOATS = 64 * 1024,          /* transformed, at most: every thread has its own */
    NN_DFT_IMAGES = 8 /* that a chunk of the forward pass and of the filter's gradient takes */
};

int nn_conv_dft_fits(const nn_conv2d_geom *geom);

/** The transforms of a chunk's images of x: (slot, image, c), nn_dft_x_pitch() floats a slot. The
 *  window is scratch of NN_DFT_WINDOW_FLOATS. */
enum { NN_DFT_WINDOW_FLOATS = (NN_DFT_SIDE * NN_DFT_SIDE + NN_CPU_BLOCK) * NN_CPU_BLOCK };
int64_t nn_dft_x_pitch(const nn_conv2d_geom *geom);
void nn_dft_of_planes(const nn_conv2d_geom *geom, const float *x, nn_cpu_span images, float *window,
                      float *spectra);

/** Forward; only the bias of the epilogue is added. */
int64_t nn_conv_dft_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_dft_forward(nn_backend *backend, const nn_conv2d_geom *geom, const float *x,
                               const float *filter, const nn_conv_epilogue *epilogue, float *y,
                               float *workspace);

/** The gradient of x. */
int64_t nn_conv_dft_data_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_dft_backward_data(nn_backend *backend, const nn_conv2d_geom *geom,
                                     const float *dy, const float *filter, float *dx,
                                     int accumulate, float *workspace);

/** The gradients of the filter and the bias (or NULL). */
int64_t nn_conv_dft_filter_floats(nn_backend *backend, const nn_conv2d_geom *geom);
cvy_status nn_conv_dft_backward_filter(nn_backend *backend, const nn_conv2d_geom *geom,
                                       const float *x, const float *dy, float *dfilter,
                                       float *dbias, float *workspace);

/** The filter's transforms, scaled for inverse ones: (block of k, slot, c, 16). Every thread makes
 *  its own, which costs less than to fetch them from another core's cache: the first of its chunks
 *  finds `own` not ready, and makes it so. nn_dft_filter_floats(), each. */
int64_t nn_dft_filter_floats(const nn_conv2d_geom *geom);
void nn_dft_filters_clear(const nn_conv2d_geom *geom, int n_threads, int64_t pitch, float *first);
void nn_dft_filter_make(const nn_conv2d_geom *geom, const float *filter, float *own);

#endif
