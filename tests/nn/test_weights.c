#include "tests/support/test_support.h"

#include "base/alloc.h"
#include "base/file.h"
#include "nn/graph.h"
#include "nn/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LIMIT_BYTES = 1 << 24, MAX_ENTRIES = 16 };

static const char *const state_names[] = {"momentum_buffer"};

/* conv1.weight (4, 3, 3, 3), bn1.{weight,bias,running_mean,running_var} (4), fc.{weight,bias}. */
static nn_graph *make_graph(void)
{
    const nn_shape image = {.n_dims = 3, .dim = {3, 8, 8}};
    nn_graph *g = NULL;

    assert_ok(nn_graph_create(2, &image, &g));
    nn_value x = nn_add(g, "conv2d", "conv1", 0, "{out: 4, kernel: 3, bias: false}");
    x = nn_add(g, "batchnorm2d", "bn1", x, "{}");
    x = nn_add(g, "avgpool2d", "pool", x, "{global: true}");
    x = nn_add(g, "flatten", "flatten", x, "{}");
    x = nn_add(g, "dense", "fc", x, "{out: 5}");
    nn_add(g, "softmax_xent", "loss", x, "{}");
    assert_ok(nn_graph_finish(g));
    return g;
}

static float *make_array(const nn_params *params, float first)
{
    float *array = cvy_alloc_zero((size_t)params->n_elems, sizeof *array);

    assert_non_null(array);
    for (int i = 0; i < params->n - 1; i++) { /* gaps and tail stay 0 */
        const nn_param *param = &params->entry[i];
        for (int64_t j = 0; j < param->n_elems; j++) {
            array[param->offset + j] = first + (float)(param->offset + j);
        }
    }
    return array;
}

static cvy_safetensors *open_file(const char *path)
{
    cvy_safetensors *file = NULL;
    cvy_reason reason = {.text = ""};

    if (cvy_safetensors_open(path, LIMIT_BYTES, &file, &reason) != CVY_OK) {
        fail_msg("%s: %s", path, reason.text);
    }
    return file;
}

static char *path_in_folder(char out[256])
{
    snprintf(out, 256, "%s/model.safetensors", test_folder());
    return out;
}

static void saved_weights_load_back_bit_for_bit(void **state)
{
    char path[256];
    nn_graph *graph = make_graph();
    const nn_params *params = nn_graph_params(graph);
    float *weights = make_array(params, 0.1f), *loaded = make_array(params, 7.0f);
    uint64_t size_bytes = 0, hash = 0, file_bytes = 0, file_hash = 0;

    (void)state;
    loaded[params->tail_offset] = 3.0f; /* must be zeroed */
    assert_ok(nn_weights_save(path_in_folder(path), params, weights, 12, &size_bytes, &hash));
    assert_ok(cvy_file_hash(path, &file_bytes, &file_hash, NULL));
    assert_true(size_bytes == file_bytes && hash == file_hash);
    cvy_safetensors *file = open_file(path);
    assert_ok(nn_weights_load(file, path, params, 0, loaded));
    assert_memory_equal(weights, loaded, (size_t)params->n_elems * sizeof(float));
    cvy_safetensors_close(&file);
    cvy_free(weights);
    cvy_free(loaded);
    nn_graph_destroy(&graph);
}

static void files_have_torchvision_names_shapes_and_counters(void **state)
{
    static const struct {
        const char *name;
        cvy_dtype dtype;
        int n_dims;
        int64_t first_dim;
    } expected[] = {
        {"bn1.num_batches_tracked", CVY_I64, 0, 0},
        {"conv1.weight", CVY_F32, 4, 4},
        {"bn1.weight", CVY_F32, 1, 4},
        {"bn1.bias", CVY_F32, 1, 4},
        {"bn1.running_mean", CVY_F32, 1, 4},
        {"bn1.running_var", CVY_F32, 1, 4},
        {"fc.weight", CVY_F32, 2, 5},
        {"fc.bias", CVY_F32, 1, 5},
    };
    const int n = sizeof expected / sizeof expected[0];
    char path[256];
    nn_graph *graph = make_graph();
    float *weights = make_array(nn_graph_params(graph), 0.0f);

    (void)state;
    assert_ok(
        nn_weights_save(path_in_folder(path), nn_graph_params(graph), weights, 12, NULL, NULL));
    cvy_safetensors *file = open_file(path);
    assert_int_equal(cvy_safetensors_n(file), n);
    for (int i = 0; i < n; i++) {
        const cvy_tensor_entry *entry = cvy_safetensors_find(file, expected[i].name);
        if (entry == NULL) fail_msg("%s is missing", expected[i].name);
        assert_int_equal(entry->dtype, expected[i].dtype);
        assert_int_equal(entry->n_dims, expected[i].n_dims);
        if (entry->n_dims > 0) assert_int_equal(entry->dim[0], expected[i].first_dim);
    }
    int64_t n_updates = 0;
    memcpy(&n_updates, cvy_safetensors_find(file, "bn1.num_batches_tracked")->data,
           sizeof n_updates);
    assert_int_equal(n_updates, 12);
    cvy_safetensors_close(&file);
    cvy_free(weights);
    nn_graph_destroy(&graph);
}

/* The right tensors of the small net, to be spoiled by a test. */
typedef struct tensor_set {
    nn_graph *graph;
    const nn_params *params;
    float *weights, *loaded;
    int n;
    cvy_tensor_entry entries[MAX_ENTRIES];
    char path[256];
} tensor_set;

static void open_set(tensor_set *set)
{
    *set = (tensor_set){.graph = make_graph()};
    set->params = nn_graph_params(set->graph);
    set->weights = make_array(set->params, 0.0f);
    set->loaded = make_array(set->params, 0.0f);
    path_in_folder(set->path);
    for (int i = 0; i < set->params->n - 1; i++) {
        const nn_param *param = &set->params->entry[i];
        cvy_tensor_entry *entry = &set->entries[set->n++];
        *entry = (cvy_tensor_entry){.name = param->name,
                                    .dtype = CVY_F32,
                                    .n_dims = param->decl.shape.n_dims,
                                    .data = set->weights + param->offset};
        for (int j = 0; j < entry->n_dims; j++) entry->dim[j] = param->decl.shape.dim[j];
    }
}

static cvy_tensor_entry *entry_of(tensor_set *set, const char *name)
{
    for (int i = 0; i < set->n; i++) {
        if (strcmp(set->entries[i].name, name) == 0) return &set->entries[i];
    }
    fail_msg("no %s", name);
    return NULL;
}

static cvy_status write_and_load(tensor_set *set, int allow_nonfinite)
{
    assert_ok(cvy_safetensors_write(set->path, set->entries, set->n, NULL, 0, NULL, NULL));
    cvy_safetensors *file = open_file(set->path);
    const cvy_status status = nn_weights_load(file, set->path, set->params, allow_nonfinite,
                                              set->loaded);
    cvy_safetensors_close(&file);
    return status;
}

static void close_set(tensor_set *set)
{
    cvy_free(set->weights);
    cvy_free(set->loaded);
    nn_graph_destroy(&set->graph);
}

static void files_without_counters_load(void **state)
{
    tensor_set set;

    (void)state;
    open_set(&set);
    assert_ok(write_and_load(&set, 0));
    assert_memory_equal(set.weights, set.loaded, (size_t)set.params->n_elems * sizeof(float));
    close_set(&set);
}

static void missing_extra_and_reshaped_tensors_are_listed(void **state)
{
    tensor_set set;

    (void)state;
    open_set(&set);
    entry_of(&set, "fc.bias")->name = "head.bias";
    entry_of(&set, "conv1.weight")->dim[0] = 2;
    entry_of(&set, "conv1.weight")->dim[1] = 6;
    test_log_expect("model.safetensors: not the weights of this model, 3 tensors differ");
    test_log_expect("; missing fc.bias");
    test_log_expect("; extra head.bias");
    test_log_expect("; conv1.weight is F32 (2, 6, 3, 3), expected F32 (4, 3, 3, 3)");
    assert_status(write_and_load(&set, 0), CVY_ERR_BAD_DATA);
    close_set(&set);
}

static void tensors_of_integers_are_refused(void **state)
{
    tensor_set set;

    (void)state;
    open_set(&set);
    entry_of(&set, "bn1.bias")->dtype = CVY_I32;
    test_log_expect("1 tensor differs; bn1.bias is I32 (4), expected F32 (4)");
    assert_status(write_and_load(&set, 0), CVY_ERR_BAD_DATA);
    close_set(&set);
}

static void only_ten_differences_are_listed(void **state)
{
    static const char *const names[] = {"x0", "x1", "x2", "x3", "x4", "x5", "x6"};
    tensor_set set;

    (void)state;
    open_set(&set);
    for (int i = 0; i < 7; i++) set.entries[i].name = names[i]; /* 7 missing, 7 extra */
    test_log_expect("14 tensors differ; missing conv1.weight");
    test_log_expect("; extra x2; and more");
    assert_status(write_and_load(&set, 0), CVY_ERR_BAD_DATA);
    assert_false(test_log_saw("x3"));
    close_set(&set);
}

static void values_that_are_not_finite_are_refused_unless_allowed(void **state)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    static const char *const shown[] = {"bn1.running_var has inf at element 2",
                                        "bn1.running_var has -inf at element 2",
                                        "bn1.running_var has nan at element 2"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        tensor_set set;
        open_set(&set);
        const int64_t at = nn_params_find(set.params, "bn1.running_var")->offset + 2;
        set.weights[at] = bad[i];
        test_log_expect(shown[i]);
        assert_status(write_and_load(&set, 0), CVY_ERR_NUMERIC);
        path_in_folder(set.path);
        assert_ok(write_and_load(&set, 1));
        assert_memory_equal(&set.loaded[at], &bad[i], sizeof(float));
        close_set(&set);
    }
}

static void half_bfloat_and_double_are_converted(void **state)
{
    static const uint16_t halves[4] = {0x3C00, 0xC100, 0x0001, 0x7BFF};  /* 1, -2.5, 2^-24, 65504 */
    static const uint16_t bfloats[4] = {0x3F80, 0xC020, 0x0080, 0x4040}; /* 1, -2.5, 2^-126, 3 */
    static const double doubles[4] = {1.0, -2.5, 0.1, 1e30};
    static const double expected[3][4] = {
        {1.0, -2.5, 0x1p-24, 65504.0}, {1.0, -2.5, 0x1p-126, 3.0}, {1.0, -2.5, 0.1, 1e30}};
    static const char *const names[] = {"bn1.weight", "bn1.bias", "bn1.running_mean"};
    tensor_set set;

    (void)state;
    open_set(&set);
    entry_of(&set, names[0])->dtype = CVY_F16;
    entry_of(&set, names[0])->data = halves;
    entry_of(&set, names[1])->dtype = CVY_BF16;
    entry_of(&set, names[1])->data = bfloats;
    entry_of(&set, names[2])->dtype = CVY_F64;
    entry_of(&set, names[2])->data = doubles;
    /* Doubles first: tensors lie at multiples of their width. */
    const cvy_tensor_entry first = set.entries[0];
    cvy_tensor_entry *wide = entry_of(&set, names[2]);
    set.entries[0] = *wide;
    *wide = first;
    assert_ok(write_and_load(&set, 0));
    for (int i = 0; i < 3; i++) {
        const float *got = set.loaded + nn_params_find(set.params, names[i])->offset;
        for (int j = 0; j < 4; j++) assert_true(got[j] == (float)expected[i][j]);
    }
    close_set(&set);
}

static void half_infinity_and_nan_are_seen(void **state)
{
    static const uint16_t bad[2][4] = {{0, 0x7C00, 0, 0}, {0, 0xFE00, 0, 0}};

    (void)state;
    test_log_expect("bn1.weight has inf at element 1");
    test_log_expect("nan at element 1");
    for (int i = 0; i < 2; i++) {
        tensor_set set;
        open_set(&set);
        entry_of(&set, "bn1.weight")->dtype = CVY_F16;
        entry_of(&set, "bn1.weight")->data = bad[i];
        assert_status(write_and_load(&set, 0), CVY_ERR_NUMERIC);
        close_set(&set);
    }
}

static void states_are_those_of_trained_parameters_and_load_back(void **state)
{
    char path[256];
    nn_graph *graph = make_graph();
    const nn_params *params = nn_graph_params(graph);
    float *saved = make_array(params, 0.5f), *loaded = make_array(params, 9.0f);
    uint64_t size_bytes = 0, hash = 0;

    (void)state;
    assert_ok(
        nn_states_save(path_in_folder(path), params, 1, state_names, &saved, &size_bytes, &hash));
    assert_true(size_bytes > 0 && hash != 0);
    cvy_safetensors *file = open_file(path);
    assert_int_equal(cvy_safetensors_n(file), 5);
    assert_non_null(cvy_safetensors_find(file, "conv1.weight.momentum_buffer"));
    assert_null(cvy_safetensors_find(file, "bn1.running_mean.momentum_buffer"));
    assert_ok(nn_states_load(file, path, params, 1, state_names, 0, &loaded));
    for (int i = 0; i < params->n; i++) {
        const nn_param *param = &params->entry[i];
        const int is_trained = param->decl.kind != NN_PARAM_RUNNING &&
                               param->decl.kind != NN_PARAM_TAIL;
        for (int64_t j = param->offset; j < param->offset + param->n_elems; j++) {
            assert_true(loaded[j] == (is_trained ? saved[j] : 0.0f));
        }
    }
    cvy_safetensors_close(&file);
    cvy_free(saved);
    cvy_free(loaded);
    nn_graph_destroy(&graph);
}

static void weights_in_the_place_of_states_are_refused(void **state)
{
    tensor_set set;

    (void)state;
    open_set(&set);
    assert_ok(cvy_safetensors_write(set.path, set.entries, set.n, NULL, 0, NULL, NULL));
    cvy_safetensors *file = open_file(set.path);
    test_log_expect("not the optimizer state of this model, 12 tensors differ; missing "
                    "conv1.weight.momentum_buffer");
    assert_status(nn_states_load(file, set.path, set.params, 1, state_names, 0, &set.loaded),
                  CVY_ERR_BAD_DATA);
    cvy_safetensors_close(&file);
    close_set(&set);
}

static void existing_files_are_not_overwritten(void **state)
{
    tensor_set set;

    (void)state;
    open_set(&set);
    assert_ok(nn_weights_save(set.path, set.params, set.weights, 0, NULL, NULL));
    test_log_expect("model.safetensors");
    assert_int_not_equal(nn_weights_save(set.path, set.params, set.weights, 0, NULL, NULL), CVY_OK);
    close_set(&set);
}

/* Which of the four calls a failing allocation hits. */
static cvy_status save_and_load_all(tensor_set *set, const char *folder)
{
    char model[300], states[300];
    cvy_safetensors *file = NULL;
    cvy_status status;

    snprintf(model, sizeof model, "%s/m", folder);
    snprintf(states, sizeof states, "%s/s", folder);
    CVY_RETURN_IF_ERR(nn_weights_save(model, set->params, set->weights, 1, NULL, NULL));
    CVY_RETURN_IF_ERR(
        nn_states_save(states, set->params, 1, state_names, &set->weights, NULL, NULL));
    CVY_RETURN_IF_ERR(cvy_safetensors_open(model, LIMIT_BYTES, &file, NULL));
    status = nn_weights_load(file, model, set->params, 0, set->loaded);
    cvy_safetensors_close(&file);
    CVY_RETURN_IF_ERR(status);
    CVY_RETURN_IF_ERR(cvy_safetensors_open(states, LIMIT_BYTES, &file, NULL));
    status = nn_states_load(file, states, set->params, 1, state_names, 0, &set->loaded);
    cvy_safetensors_close(&file);
    return status;
}

static void saving_and_loading_without_memory_report_it_and_leak_nothing(void **state)
{
    cvy_status status = CVY_ERR_NO_MEMORY;
    cvy_alloc_counts before, after;
    tensor_set set;

    (void)state;
    open_set(&set);
    test_log_expect(": "); /* whoever misses the memory says so */
    cvy_alloc_count(&before);
    for (int64_t k = 0; status != CVY_OK; k++) {
        const char *folder = test_folder();
        assert_true(k < 1000);
        cvy_alloc_fail_at(k);
        status = save_and_load_all(&set, folder);
        cvy_alloc_fail_at(-1);
        if (status != CVY_OK) assert_status(status, CVY_ERR_NO_MEMORY);
        cvy_alloc_count(&after);
        assert_int_equal(after.n_live, before.n_live);
    }
    close_set(&set);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cvy_unit_test(saved_weights_load_back_bit_for_bit),
        cvy_unit_test(files_have_torchvision_names_shapes_and_counters),
        cvy_unit_test(files_without_counters_load),
        cvy_unit_test(missing_extra_and_reshaped_tensors_are_listed),
        cvy_unit_test(tensors_of_integers_are_refused),
        cvy_unit_test(only_ten_differences_are_listed),
        cvy_unit_test(values_that_are_not_finite_are_refused_unless_allowed),
        cvy_unit_test(half_bfloat_and_double_are_converted),
        cvy_unit_test(half_infinity_and_nan_are_seen),
        cvy_unit_test(states_are_those_of_trained_parameters_and_load_back),
        cvy_unit_test(weights_in_the_place_of_states_are_refused),
        cvy_unit_test(existing_files_are_not_overwritten),
        cvy_unit_test(saving_and_loading_without_memory_report_it_and_leak_nothing),
    };
    return cmocka_run_group_tests(tests, test_log_open, test_log_close);
}
