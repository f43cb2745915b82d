/* cuda_blas.h - what of cuBLAS and cuBLASLt bmvp_cuda.cu calls, as plain loops on the CPU: the end of cuda_shim.h,
   which gives it streams and memory. Sums are of double; operands are rounded as the tensor cores take them. cuBLASLt
   refuses what the library refuses: other types, shapes that do not fit, memory less aligned than promised, results
   that overlap what is read; asked questions are counted, and it can be told to have no algorithm. */
#ifndef CUDA_BLAS_H_INCLUDED
#define CUDA_BLAS_H_INCLUDED

#include "cuda_shim.h"

/* ---- cuBLAS ------------------------------------------------------------------------------------------------------ */

typedef int cublasStatus_t;
/* Without a workspace of its own the library makes one at each launch that is recorded. */
struct shim_blas { cudaStream_t stream; void *workspace; size_t bytes; };
typedef shim_blas *cublasHandle_t;
enum { CUBLAS_STATUS_SUCCESS = 0 };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasMath_t { CUBLAS_DEFAULT_MATH };
inline cublasStatus_t cublasCreate(cublasHandle_t *h) { *h = new shim_blas{ nullptr, nullptr, 0 }; return 0; }
inline cublasStatus_t cublasDestroy(cublasHandle_t h) { delete h; return 0; }
inline cublasStatus_t cublasSetStream(cublasHandle_t h, cudaStream_t s)
{
    *h = shim_blas{ s, nullptr, 0 }; /* takes the workspace away, as the library does */
    s->computes = 1;
    return 0;
}
inline cublasStatus_t cublasSetWorkspace(cublasHandle_t h, void *space, size_t bytes)
{
    if ((uintptr_t)space % 256 || !shim_is_device(space, bytes)) return 7;
    h->workspace = space;
    h->bytes = bytes;
    return 0;
}
inline cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return 0; }
inline const char *cublasGetStatusString(cublasStatus_t) { return "CUBLAS_STATUS_INVALID_VALUE"; }

enum cudaDataType_t { CUDA_R_32F, CUDA_R_16BF };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_32F_FAST_16BF };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT };

struct shim_matrix { /* column-major */
    void *x;
    cudaDataType_t type;
    int64_t ld;
    float get(int64_t i, int64_t j) const
    {
        return type == CUDA_R_16BF ? shim_float((uint32_t)((const uint16_t *)x)[i + j * ld] << 16)
                                   : ((const float *)x)[i + j * ld];
    }
    void set(int64_t i, int64_t j, float v) const
    {
        if (type == CUDA_R_16BF) ((uint16_t *)x)[i + j * ld] = (uint16_t)shim_bf16(v);
        else ((float *)x)[i + j * ld] = v;
    }
    shim_matrix moved(int64_t n) const { return { (char *)x + n * (type == CUDA_R_16BF ? 2 : 4), type, ld }; }
};

/* rows x columns as the tensor cores take them: rounded, but for the plain products of float32 and of bfloat16 */
inline std::vector<float> shim_taken(const shim_matrix &x, int rows, int columns, cublasComputeType_t compute)
{
    std::vector<float> y((size_t)rows * (size_t)columns);
    for (int j = 0; j < columns; ++j)
        for (int i = 0; i < rows; ++i) {
            float v = x.get(i, j);
            if (compute == CUBLAS_COMPUTE_32F_FAST_TF32) v = shim_float(round_tf32(v));
            else if (compute == CUBLAS_COMPUTE_32F_FAST_16BF) v = shim_float(shim_bf16(v) << 16);
            y[(size_t)j * (size_t)rows + (size_t)i] = v;
        }
    return y;
}

/* D = alpha op(A) op(B) + beta C + bias (m numbers or none), column-major, as cuBLAS: C is not read when beta is 0, D
   is rounded once. */
inline void shim_gemm(int ta, int tb, int m, int n, int k, float alpha, const shim_matrix &a, const shim_matrix &b,
                      float beta, const shim_matrix &c, const shim_matrix &d, const shim_matrix &bias,
                      cublasComputeType_t compute)
{
    const std::vector<float> u = shim_taken(a, ta ? k : m, ta ? m : k, compute),
                             v = shim_taken(b, tb ? n : k, tb ? k : n, compute);
    const size_t lda = (size_t)(ta ? k : m), ldb = (size_t)(tb ? n : k);
    std::vector<double> sum((size_t)m);
    for (size_t j = 0; j < (size_t)n; ++j) {
        for (size_t i = 0; i < (size_t)m; ++i) sum[i] = 0;
        for (size_t l = 0; l < (size_t)k && !ta; ++l) {
            const double w = (double)(tb ? v[j + l * ldb] : v[l + j * ldb]);
            for (size_t i = 0; i < (size_t)m; ++i) sum[i] += w * (double)u[i + l * lda];
        }
        for (size_t i = 0; i < (size_t)m && ta; ++i)
            for (size_t l = 0; l < (size_t)k; ++l)
                sum[i] += (double)u[l + i * lda] * (double)(tb ? v[j + l * ldb] : v[l + j * ldb]);
        for (int i = 0; i < m; ++i) {
            const float to = alpha * (float)sum[(size_t)i] + (beta == 0 ? 0 : beta * c.get(i, (int64_t)j));
            d.set(i, (int64_t)j, to + (bias.x ? bias.get(i, 0) : 0));
        }
    }
}
/* Types that cuBLAS multiplies, with sums in float32 */
inline int shim_gemm_takes(cudaDataType_t a, cudaDataType_t b, cudaDataType_t c, cublasComputeType_t compute)
{
    return a == b && (a == CUDA_R_32F ? c == CUDA_R_32F : compute == CUBLAS_COMPUTE_32F);
}
inline cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m,
                                                 int n, int k, const void *alpha, const void *a, cudaDataType_t a_type,
                                                 int lda, long long sa, const void *b, cudaDataType_t b_type, int ldb,
                                                 long long sb, const void *beta, void *c, cudaDataType_t c_type,
                                                 int ldc, long long sc, int batch, cublasComputeType_t compute,
                                                 cublasGemmAlgo_t)
{
    const float by = *(const float *)alpha, keep = *(const float *)beta;
    const shim_matrix u = { (void *)(uintptr_t)a, a_type, lda }, v = { (void *)(uintptr_t)b, b_type, ldb },
                      w = { c, c_type, ldc };
    if (m < 0 || n < 0 || k < 0 || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m || batch < 0) return 7;
    if (!shim_gemm_takes(a_type, b_type, c_type, compute)) return 15;
    if (shim_foreign(h->stream)) return 13;
    if (!h->workspace && shim.recording) shim_give(h->stream, "memory", [] {});
    shim_give(h->stream, "kernel", [=] {
        for (int i = 0; i < batch; ++i)
            shim_gemm(ta != CUBLAS_OP_N, tb != CUBLAS_OP_N, m, n, k, by, u.moved(i * sa), v.moved(i * sb), keep,
                      w.moved(i * sc), w.moved(i * sc), shim_matrix{ nullptr, c_type, m }, compute);
    });
    return 0;
}

/* ---- cuBLASLt ------------------------------------------------------------------------------------------------ */

typedef struct shim_lt *cublasLtHandle_t;
enum cublasLtEpilogue_t { CUBLASLT_EPILOGUE_DEFAULT = 1, CUBLASLT_EPILOGUE_BIAS = 4 };
enum cublasLtMatmulDescAttributes_t {
    CUBLASLT_MATMUL_DESC_TRANSA,
    CUBLASLT_MATMUL_DESC_TRANSB,
    CUBLASLT_MATMUL_DESC_EPILOGUE,
    CUBLASLT_MATMUL_DESC_BIAS_POINTER
};
enum cublasLtMatmulPreferenceAttributes_t {
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
    CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
};
enum { CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2 };
struct shim_lt_op {
    cublasComputeType_t compute;
    cublasOperation_t transpose[2];
    cublasLtEpilogue_t epilogue;
    const void *bias; /* of the result's type */
};
typedef shim_lt_op *cublasLtMatmulDesc_t;
struct shim_lt_layout { int rows, columns, ld; cudaDataType_t type; };
typedef shim_lt_layout *cublasLtMatrixLayout_t;
struct shim_lt_preference { uint32_t align[4] = { 256, 256, 256, 256 }; uint64_t workspace = 0; };
typedef shim_lt_preference *cublasLtMatmulPreference_t;
struct cublasLtMatmulAlgo_t { uint32_t align[4]; uint64_t workspace; }; /* what it was promised */
struct cublasLtMatmulHeuristicResult_t { cublasLtMatmulAlgo_t algo; cublasStatus_t state; };

inline cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) { *h = nullptr; return 0; }
inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return 0; }
inline cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *op, cublasComputeType_t compute, cudaDataType_t)
{
    *op = new shim_lt_op{ compute, { CUBLAS_OP_N, CUBLAS_OP_N }, CUBLASLT_EPILOGUE_DEFAULT, nullptr };
    return 0;
}
inline cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t op) { delete op; return 0; }
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t which,
                                                     const void *v, size_t n)
{
    void *to[] = { &op->transpose[0], &op->transpose[1], &op->epilogue, &op->bias };
    const size_t size[] = { sizeof op->transpose[0], sizeof op->transpose[1], sizeof op->epilogue, sizeof op->bias };
    if (n != size[which]) return 7;
    memcpy(to[which], v, n);
    return 0;
}
inline cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *m, cudaDataType_t type, uint64_t rows,
                                                 uint64_t columns, int64_t ld)
{
    *m = new shim_lt_layout{ (int)rows, (int)columns, (int)ld, type };
    return 0;
}
inline cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t m) { delete m; return 0; }
inline cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *w)
{
    *w = new shim_lt_preference;
    return 0;
}
inline cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t w) { delete w; return 0; }
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t w,
                                                           cublasLtMatmulPreferenceAttributes_t which, const void *v,
                                                           size_t n)
{
    if (n != (which == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4)) return 7;
    if (which == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) memcpy(&w->workspace, v, n);
    else if (which >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
        memcpy(&w->align[which - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], v, n);
    return 0;
}
inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t op,
                                                     cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                     cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t,
                                                     cublasLtMatmulPreference_t w, int,
                                                     cublasLtMatmulHeuristicResult_t *first, int *found)
{
    ++shim.heuristics;
    *found = !shim.no_algorithm;
    memcpy(first->algo.align, w->align, sizeof w->align);
    first->algo.workspace = w->workspace;
    first->state = 0;
    if (!shim_gemm_takes(a->type, b->type, c->type, op->compute)) return 15;
    return shim.no_algorithm || (op->epilogue == CUBLASLT_EPILOGUE_BIAS && !op->bias) ? 15 : 0;
}
inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t op, const void *alpha, const void *a,
                                     cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb,
                                     const void *beta, const void *c, cublasLtMatrixLayout_t lc, void *d,
                                     cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t *algo, void *space,
                                     size_t bytes, cudaStream_t s)
{
    const void *at[4] = { a, b, c, d };
    const int ta = op->transpose[0] != CUBLAS_OP_N, tb = op->transpose[1] != CUBLAS_OP_N;
    const int m = ld->rows, n = ld->columns, k = ta ? la->rows : la->columns;
    const float by = *(const float *)alpha, keep = *(const float *)beta;
    const cublasComputeType_t compute = op->compute;
    const shim_matrix u = { (void *)(uintptr_t)a, la->type, la->ld }, v = { (void *)(uintptr_t)b, lb->type, lb->ld };
    const shim_matrix from = { (void *)(uintptr_t)c, lc->type, lc->ld }, to = { d, ld->type, ld->ld };
    const shim_matrix bias = { op->epilogue == CUBLASLT_EPILOGUE_BIAS ? (void *)(uintptr_t)op->bias : nullptr, ld->type,
                               m };
    const size_t size = ((size_t)ld->ld * (size_t)(n - 1) + (size_t)m) * (ld->type == CUDA_R_16BF ? 2 : 4);
    for (int i = 0; i < 4; ++i) if ((uintptr_t)at[i] % algo->align[i]) return 7;
    if (bytes < algo->workspace || !shim_is_device(space, bytes) ||
        !shim_gemm_takes(la->type, lb->type, ld->type, compute))
        return 7;
    if ((ta ? la->columns : la->rows) != m || k != (tb ? lb->columns : lb->rows) || (tb ? lb->rows : lb->columns) != n)
        return 7;
    if (lc->type != ld->type || lc->ld != ld->ld || lc->rows != m || lc->columns != n) return 7;
    if (c != d && (const char *)c < (char *)d + size && (char *)d < (const char *)c + size) return 7; /* overlap */
    if (shim_foreign(s)) return 13;
    shim_give(s, "kernel", [=] { shim_gemm(ta, tb, m, n, k, by, u, v, keep, from, to, bias, compute); });
    return 0;
}

#endif /* CUDA_BLAS_H_INCLUDED */
