/* device.h - where a test computes: on the CPU; built with TEST_CUDA on GPU 0, which may be the one that
   tests/gpu/cuda_shim.h plays. After bmvp_tensor.h and check.h. */
#ifndef BMVP_TEST_DEVICE_H
#define BMVP_TEST_DEVICE_H

#include <stdlib.h>

#ifdef TEST_CUDA
enum { DEVICE_IS_GPU = 1 };
#else
enum { DEVICE_IS_GPU = 0 };
#endif

static const bmvp_backend *device_backend; /* NULL: the CPU */

/* Before the first context. 0: there is no GPU, which is reported. */
static inline int device_open(void)
{
#ifdef TEST_CUDA
    bmvp_error err;
    device_backend = bmvp_cuda_backend(0, &err);
    if (device_backend) return 1;
    (void)check_start("GPU");
    if (err.status == BMVP_E_UNSUPPORTED) check_skip(err.message);
    else check_report(0, __FILE__, __LINE__, "%s", err.message), check_finish();
    return 0;
#else
    return 1;
#endif
}
static inline void device_close(void)
{
#ifdef TEST_CUDA
    bmvp_cuda_release(device_backend);
#endif
}

static inline bmvp_ctx *device_context(void)
{
    bmvp_config k = bmvp_config_default();
    k.backend = device_backend;
    return bmvp_create(&k, NULL);
}

/* Values of a tensor, or with `grad` its gradient, on the host; free them. NULL: it has none. */
static inline float *device_copy(bmvp_ctx *c, const bmvp_tensor *t, int grad)
{
    float *x = t && (grad ? bmvp_has_grad(t) : t->x != NULL) ? (float *)malloc((size_t)t->numel * sizeof *x) : NULL;
    if (x && (grad ? bmvp_read_grad(c, t, x) : bmvp_read(c, t, x)) == BMVP_OK) return x;
    free(x);
    return NULL;
}

#endif /* BMVP_TEST_DEVICE_H */
