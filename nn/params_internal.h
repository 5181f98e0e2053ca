#ifndef NN_PARAMS_INTERNAL_H
#define NN_PARAMS_INTERNAL_H

#include "nn/params.h"

/* Building the table: reserve once, append in the order of the layers, end with the tail. */

/** Room for n entries; the table is empty and zeroed before. */
cvy_status nn_params_reserve(nn_params *params, int n);
/** layer_name is copied; the shape of decl was checked. */
cvy_status nn_params_append(nn_params *params, const char *layer_name, int layer_idx,
                            const nn_param_decl *decl);
cvy_status nn_params_append_tail(nn_params *params);
/** Free what the table holds and empty it. */
void nn_params_clear(nn_params *params);

#endif
