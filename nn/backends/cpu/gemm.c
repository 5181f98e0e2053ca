#include "nn/backends/cpu/cpu_internal.h"

#include "base/alloc.h"

#include <cblas.h>

void nn_cpu_gemm_open(void)
{
    openblas_set_num_threads(1);
}

void nn_cpu_gemm(int64_t m, int64_t n, int64_t k, nn_cpu_matrix a, nn_cpu_matrix b, float beta,
                 float *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, a.is_transposed ? CblasTrans : CblasNoTrans,
                b.is_transposed ? CblasTrans : CblasNoTrans, cvy_to_int(m), cvy_to_int(n),
                cvy_to_int(k), 1.0f, a.at, cvy_to_int(a.ld), b.at, cvy_to_int(b.ld), beta, c,
                cvy_to_int(ldc));
}

/* Extents of the products that are checked: odd, so that the kernels for remainders run too. BLAS
 * has kernels of its own for small products; k of the large one passes a block of its inner loop.
 */
enum { CHECK_M = 69, CHECK_N = 83, CHECK_K = 411, N_CHECKS = 2 };
static const int64_t check_extents[N_CHECKS][3] = {{37, 29, 53}, {CHECK_M, CHECK_N, CHECK_K}};

typedef struct gemm_check {
    float a[CHECK_M * CHECK_K], b[CHECK_K * CHECK_N];               /* (m, k), (k, n) */
    float a_turned[CHECK_K * CHECK_M], b_turned[CHECK_N * CHECK_K]; /* (k, m), (n, k) */
    float c[CHECK_M * CHECK_N], expected[CHECK_M * CHECK_N];        /* (m, n) */
} gemm_check;

static void turn(int64_t rows, int64_t cols, const float *restrict from, float *restrict to)
{
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t col = 0; col < cols; col++) to[col * rows + row] = from[row * cols + col];
    }
}

/* Values are multiples of 1/8 below 1, so no sum rounds and a right product differs by nothing. */
static void fill_check(gemm_check *check, int64_t m, int64_t n, int64_t k)
{
    for (int64_t i = 0; i < m * k; i++) check->a[i] = 0.125f * (float)(i * 7 % 15 - 7);
    for (int64_t i = 0; i < k * n; i++) check->b[i] = 0.125f * (float)(i * 5 % 13 - 6);
    turn(m, k, check->a, check->a_turned);
    turn(k, n, check->b, check->b_turned);
    for (int64_t row = 0; row < m; row++) {
        float *sums = check->expected + row * n;
        for (int64_t col = 0; col < n; col++) sums[col] = 1.0f;
        for (int64_t i = 0; i < k; i++) {
            const float factor = check->a[row * k + i];
            for (int64_t col = 0; col < n; col++) sums[col] += factor * check->b[i * n + col];
        }
    }
}

static int64_t n_wrong(nn_cpu_gemm_function gemm, gemm_check *check, const int64_t extents[3])
{
    const int64_t m = extents[0], n = extents[1], k = extents[2];
    const nn_cpu_matrix a[2] = {{check->a, k, 0}, {check->a_turned, m, 1}};
    const nn_cpu_matrix b[2] = {{check->b, n, 0}, {check->b_turned, k, 1}};
    int64_t count = 0;

    fill_check(check, m, n, k);
    for (int variant = 0; variant < 4; variant++) {
        for (int64_t i = 0; i < m * n; i++) check->c[i] = 1.0f;
        gemm(m, n, k, a[variant & 1], b[variant >> 1], 1.0f, check->c, n);
        for (int64_t i = 0; i < m * n; i++) count += check->c[i] != check->expected[i];
    }
    return count;
}

cvy_status nn_cpu_gemm_check(nn_cpu_gemm_function gemm)
{
    gemm_check *check = cvy_alloc(sizeof *check);
    int64_t count = 0;

    if (check == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "backend cpu: check of BLAS");
    for (int i = 0; i < N_CHECKS; i++) count += n_wrong(gemm, check, check_extents[i]);
    cvy_free(check);
    if (count == 0) return CVY_OK;
    return CVY_FAIL(CVY_ERR_UNAVAILABLE,
                    "backend cpu: BLAS computes wrong matrix products (%lld values, kernels for "
                    "%s): set OPENBLAS_CORETYPE=Haswell in the environment, or install another "
                    "OpenBLAS",
                    (long long)count, openblas_get_corename());
}
