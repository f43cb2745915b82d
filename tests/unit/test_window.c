/* test_window.c - sliding windows against MONAI 1.4.0, and what they promise of order, memory, flips and errors */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include "tests/support/fixture.h"

typedef struct job {
    bmvp_ctx *c;
    bmvp_window w;
    int64_t dim[3];
    int channels, outputs;
    const float *x; /* dim voxels of channels */
    float *y;       /* dim voxels of outputs */
    int64_t next, reads, fail_read, fail_plane;
    int flat;       /* the predictor does not see places */
} job;

/* size voxels from start, zero outside */
static bmvp_status read_window(void *user, const int64_t start[3], float *dst)
{
    job *j = (job *)user;
    const int64_t *r = j->w.roi;
    int64_t i;
    int k;
    if (++j->reads == j->fail_read) return BMVP_E_IO;
    for (i = 0; i < r[0] * r[1] * r[2]; ++i) {
        const int64_t z = start[0] + i / (r[1] * r[2]), y = start[1] + i / r[2] % r[1], x = start[2] + i % r[2];
        const int in = z >= 0 && z < j->dim[0] && y >= 0 && y < j->dim[1] && x >= 0 && x < j->dim[2];
        for (k = 0; k < j->channels; ++k)
            dst[i * j->channels + k] = in ? j->x[((z * j->dim[1] + y) * j->dim[2] + x) * j->channels + k] : 0.0f;
    }
    return BMVP_OK;
}

static bmvp_tensor *predict(void *user, bmvp_tensor *x)
{
    job *j = (job *)user;
    const int64_t dim[5] = { x->dim[0], x->dim[1], x->dim[2], x->dim[3], j->outputs },
                  voxels = x->dim[1] * x->dim[2] * x->dim[3];
    bmvp_tensor *y = bmvp_input(j->c, 5, dim, NULL);
    int64_t i;
    int k;
    for (i = 0; y && i < x->dim[0] * voxels; ++i) {
        const int64_t v = i % voxels;
        const double ramp = 0.01 * (double)(v / (x->dim[2] * x->dim[3]) + 2 * (v / x->dim[3] % x->dim[2]) +
                                            3 * (v % x->dim[3]));
        for (k = 0; k < j->outputs; ++k)
            y->x[i * j->outputs + k] = (float)((double)x->x[i * j->channels + k % j->channels] * (1 + k / 4.0) +
                                               (j->flat ? 0 : ramp * (k + 1)));
    }
    return y;
}

static bmvp_status take(void *user, int64_t z0, int64_t planes, const float *values)
{
    job *j = (job *)user;
    const int64_t area = j->dim[1] * j->dim[2] * j->outputs;
    CHECK(z0 == j->next); /* in order, each once */
    j->next = z0 + planes;
    if (j->fail_plane && j->next == j->fail_plane) return BMVP_E_CANCELLED;
    memcpy(j->y + z0 * area, values, (size_t)(planes * area) * sizeof *values);
    return BMVP_OK;
}

static bmvp_status slide(job *j)
{
    bmvp_window_calls calls;
    calls.read = read_window;
    calls.predict = predict;
    calls.planes = take;
    calls.user = j;
    j->next = j->reads = 0;
    return bmvp_sliding_window(j->c, &j->w, j->dim, j->channels, j->outputs, &calls);
}

static void test_case(bmvp_ckpt *f, const char *name)
{
    fixture_tensor x = fixture_load(f, "%s.x", name), y = fixture_load(f, "%s.y", name);
    int64_t v[3];
    job j;
    int batch;
    if (!check_start("window %s", name)) return;
    memset(&j, 0, sizeof j);
    j.c = bmvp_create(NULL, NULL);
    if (CHECK(x.x && y.x && j.c && fixture_numbers(fixture_text(f, "%s.roi", name), v, 3) == 3)) {
        memcpy(j.w.roi, v, sizeof v);
        j.w.overlap = strtod(fixture_text(f, "%s.overlap", name), NULL);
        j.w.gaussian = fixture_text(f, "%s.gaussian", name)[0] == '1';
        memcpy(j.dim, x.dim, sizeof j.dim);
        j.channels = (int)x.dim[3];
        j.outputs = (int)y.dim[3];
        j.x = x.x;
        j.y = (float *)calloc((size_t)y.numel, sizeof(float));
        for (batch = 1; batch <= 5; batch += 2) {
            memset(j.y, 0, (size_t)y.numel * sizeof(float));
            j.w.batch = batch;
            CHECK(slide(&j) == BMVP_OK);
            CHECK(j.next == j.dim[0]);
            CHECK_CLOSE("y", j.y, y.x, y.numel, 1e-6);
        }
        free(j.y);
    }
    bmvp_destroy(j.c);
    free(x.x);
    free(y.x);
    check_finish();
}

/* A job over a ramp; y is to be freed. */
static job ramp_job(int64_t d, bmvp_ctx *c, float **x)
{
    job j;
    int64_t i;
    memset(&j, 0, sizeof j);
    j.c = c;
    j.dim[0] = d, j.dim[1] = 7, j.dim[2] = 9;
    j.channels = j.outputs = 1;
    j.w.roi[0] = 4, j.w.roi[1] = 5, j.w.roi[2] = 6;
    j.w.overlap = 0.5;
    j.w.batch = 2;
    *x = (float *)malloc((size_t)(d * 63) * sizeof **x);
    for (i = 0; i < d * 63; ++i) (*x)[i] = (float)(i % 17);
    j.x = *x;
    j.y = (float *)calloc((size_t)(d * 63), sizeof(float));
    return j;
}

/* What does not see places gives back the volume; so it does with every flip. What sees them is averaged over its
   mirror images. */
static void test_mirror(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    float *x;
    job j = ramp_job(6, c, &x);
    int64_t i;
    j.flat = 1;
    j.w.mirror = 7;
    CHECK(slide(&j) == BMVP_OK);
    CHECK_CLOSE("y", j.y, x, 6 * 63, 1e-6);
    j.flat = 0;
    j.w.roi[0] = 6, j.w.roi[1] = 7,
    j.w.roi[2] = 9; /* one window: the ramp's mean over its flips is that of its middle */
    CHECK(slide(&j) == BMVP_OK);
    for (i = 0; i < 6 * 63; ++i) CHECK_NEAR((double)j.y[i], (double)x[i] + 0.01 * (2.5 + 2 * 3 + 3 * 4), 1e-5);
    j.w.mirror = 1; /* along x only */
    CHECK(slide(&j) == BMVP_OK);
    for (i = 0; i < 6 * 63; ++i)
        CHECK_NEAR((double)j.y[i], (double)x[i] + 0.01 * ((double)(i / 63) + 2 * (double)(i / 9 % 7) + 3 * 4), 1e-5);
    free(x);
    free(j.y);
    bmvp_destroy(c);
}

typedef struct meter { size_t live, peak; } meter;
static void *meter_alloc(size_t n, void *user)
{
    meter *m = (meter *)user;
    size_t *p = (size_t *)malloc(n + 64);
    if (!p) return NULL;
    *p = n;
    m->live += n;
    if (m->live > m->peak) m->peak = m->live;
    return (char *)p + 64;
}
static void meter_free(void *p, void *user)
{
    size_t *q = (size_t *)(void *)((char *)p - 64);
    ((meter *)user)->live -= *q;
    free(q);
}

static void test_memory(void)
{
    size_t peak[2];
    int k;
    for (k = 0; k < 2; ++k) {
        bmvp_config cfg = bmvp_config_default();
        meter m = { 0, 0 };
        float *x;
        job j;
        cfg.allocator.alloc = meter_alloc;
        cfg.allocator.free = meter_free;
        cfg.allocator.user = &m;
        cfg.threads = 1;
        j = ramp_job(k ? 400 : 8, bmvp_create(&cfg, NULL), &x);
        CHECK(slide(&j) == BMVP_OK);
        peak[k] = m.peak;
        bmvp_destroy(j.c);
        CHECK(m.live == 0);
        free(x);
        free(j.y);
    }
    CHECK(peak[1] == peak[0]); /* fifty times the volume */
}

static void test_errors(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    float *x;
    job j = ramp_job(9, c, &x), bad;
    j.fail_read = 3;
    CHECK(slide(&j) == BMVP_E_IO);
    j.fail_read = 0;
    j.fail_plane = 2;
    CHECK(slide(&j) == BMVP_E_CANCELLED);
    j.fail_plane = 0;
    CHECK(!bmvp_failed(c) && slide(&j) == BMVP_OK);
    bad = j;
    bad.w.overlap = 1;
    CHECK(slide(&bad) == BMVP_E_ARG);
    CHECK_HOLDS(bmvp_error_of(c)->message, "overlap");
    bmvp_clear_error(c);
    bad = j;
    bad.w.roi[1] = 0;
    CHECK(slide(&bad) == BMVP_E_ARG);
    free(x);
    free(j.y);
    bmvp_destroy(c);
}

int main(int argc, char **argv)
{
    bmvp_ckpt *f;
    char name[64];
    const char *p;
    check_begin(argc, argv);
    f = fixture_open("window/window.safetensors");
    for (p = f ? fixture_text(f, "cases") : NULL; p && *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] == ',')) {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(p, ","), p);
        test_case(f, name);
    }
    bmvp_ckpt_close(f);
    CHECK_RUN(test_mirror);
    CHECK_RUN(test_memory);
    CHECK_RUN(test_errors);
    return check_end();
}
