#include "nn/params.h"

#include "base/rng.h"

#include <math.h>

static void fill(float *out, int64_t n, float value)
{
    for (int64_t i = 0; i < n; i++) out[i] = value;
}

static void fill_normal(cvy_rng *rng, float *out, int64_t n, double deviation)
{
    for (int64_t i = 0; i < n; i++) out[i] = (float)(deviation * (double)cvy_rng_normal(rng));
}

static void fill_uniform(cvy_rng *rng, float *out, int64_t n, double bound)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = (float)(bound * (2.0 * (double)cvy_rng_float(rng) - 1.0));
    }
}

static cvy_status init_entry(const nn_param *param, cvy_rng *rng, float *out)
{
    const nn_param_decl *decl = &param->decl;
    const int64_t n = param->n_elems;
    const double fan_in = (double)(decl->fan_in > 0 ? decl->fan_in : 1);
    const double fan_out = (double)(decl->fan_out > 0 ? decl->fan_out : 1);

    switch (decl->init) {
    case NN_INIT_ZERO:
        fill(out, n, 0.0f);
        return CVY_OK;
    case NN_INIT_ONE:
        fill(out, n, 1.0f);
        return CVY_OK;
    case NN_INIT_HE_FAN_OUT:
        fill_normal(rng, out, n, sqrt(2.0 / fan_out));
        return CVY_OK;
    case NN_INIT_HE_FAN_IN:
        fill_normal(rng, out, n, sqrt(2.0 / fan_in));
        return CVY_OK;
    case NN_INIT_UNIFORM_FAN_IN:
        fill_uniform(rng, out, n, 1.0 / sqrt(fan_in));
        return CVY_OK;
    case NN_INIT_XAVIER:
        fill_uniform(rng, out, n, sqrt(6.0 / (fan_in + fan_out)));
        return CVY_OK;
    case NN_INIT_NORMAL:
        fill_normal(rng, out, n, decl->init_arg);
        return CVY_OK;
    }
    return CVY_FAIL(CVY_ERR_INTERNAL, "parameter %s: unknown initialisation %d", param->name,
                    (int)decl->init);
}

cvy_status nn_params_init(const nn_params *params, uint64_t seed, float *out_weights)
{
    fill(out_weights, params->n_elems, 0.0f); /* the gaps between entries too */
    for (int i = 0; i < params->n; i++) {
        cvy_rng rng = cvy_rng_open(seed, CVY_RNG_INIT, (uint64_t)i, 0);
        const nn_param *param = &params->entry[i];
        CVY_RETURN_IF_ERR(init_entry(param, &rng, out_weights + param->offset));
    }
    return CVY_OK;
}
