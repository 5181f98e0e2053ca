#include "nn/backends/cpu/pool2d_pairs_internal.h"

#include "nn/backends/cpu/simd_internal.h"

int nn_cpu_maxpool_pairs_fits(const nn_pool2d_geom *geom)
{
    return geom->r == 2 && geom->s == 2 && geom->stride_h == 2 && geom->stride_w == 2 &&
           geom->pad_h == 0 && geom->pad_w == 0 && 2 * geom->p <= geom->h && 2 * geom->q <= geom->w;
}

/* Places 0, 2, 4, ... */
static nn_mask even_places(void)
{
    nn_mask places = {0};

    for (int i = 0; i < NN_VEC_LANES; i++) places[i] = 2 * i;
    return places;
}

static int32_t lanes_at(const nn_pool2d_geom *geom, int64_t q)
{
    return (int32_t)nn_cpu_least(NN_VEC_LANES, geom->q - q);
}

void nn_cpu_maxpool_pairs_forward(const nn_pool2d_geom *geom, const float *x, float *y,
                                  int32_t *argmax)
{
    const nn_mask evens = even_places();
    const int32_t w = (int32_t)geom->w;

    for (int64_t p = 0; p < geom->p; p++) {
        for (int64_t q = 0; q < geom->q; q += NN_VEC_LANES) {
            const int32_t n = lanes_at(geom, q), at = (int32_t)(2 * p * w + 2 * q);
            const nn_vec_pair top = nn_vec_load_pairs(x + at, n);
            const nn_vec_pair low = nn_vec_load_pairs(x + at + w, n);
            nn_vec_max best = {top.even, evens + at};
            best = nn_vec_greater(best, top.odd, evens + (at + 1));
            best = nn_vec_greater(best, low.even, evens + (at + w));
            best = nn_vec_greater(best, low.odd, evens + (at + w + 1));
            float *const places = (float *)(void *)(argmax + p * geom->q + q);
            if (n == NN_VEC_LANES) {
                nn_vec_store(y + p * geom->q + q, best.value);
                nn_vec_store(places, (nn_vec)best.place);
            } else {
                nn_vec_store_part(y + p * geom->q + q, best.value, n);
                nn_vec_store_part(places, (nn_vec)best.place, n);
            }
        }
    }
}

/* One row of each window: even elements where the maximum is at `place`, odd ones next to it. */
static void spread(nn_vec dy, nn_mask chosen, nn_mask place, int n, float *dx, int accumulate)
{
    nn_vec_pair share = {nn_vec_where(chosen == place, dy), nn_vec_where(chosen == place + 1, dy)};

    if (accumulate) {
        const nn_vec_pair before = nn_vec_load_pairs(dx, n);
        share.even += before.even;
        share.odd += before.odd;
    }
    nn_vec_store_pairs(dx, share, n);
}

static void clear(float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = 0.0f;
}

void nn_cpu_maxpool_pairs_backward(const nn_pool2d_geom *geom, const float *dy,
                                   const int32_t *argmax, float *dx, int accumulate)
{
    const nn_mask evens = even_places();
    const int64_t w = geom->w;

    for (int64_t p = 0; p < geom->p; p++) {
        float *const row = dx + 2 * p * w;
        for (int64_t q = 0; q < geom->q; q += NN_VEC_LANES) {
            const int32_t n = lanes_at(geom, q), at = (int32_t)(2 * (p * w + q));
            const int is_whole = n == NN_VEC_LANES;
            const float *const places = (const float *)(const void *)(argmax + p * geom->q + q);
            const float *const from = dy + p * geom->q + q;
            const nn_vec d = is_whole ? nn_vec_load(from) : nn_vec_load_part(from, n);
            const nn_mask chosen = (nn_mask)(is_whole ? nn_vec_load(places)
                                                      : nn_vec_load_part(places, n));
            spread(d, chosen, evens + at, n, row + 2 * q, accumulate);
            spread(d, chosen, evens + (at + (int32_t)w), n, row + w + 2 * q, accumulate);
        }
        if (accumulate) continue;
        clear(row + 2 * geom->q, w - 2 * geom->q); /* what no window reaches */
        clear(row + w + 2 * geom->q, w - 2 * geom->q);
    }
    if (!accumulate) clear(dx + 2 * geom->p * w, (geom->h - 2 * geom->p) * w);
}
