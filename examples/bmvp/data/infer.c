/* infer.c - a fine-tuned network over a whole prepared case, see infer.h */
#include "infer.h"
#include <stdlib.h>
#include <string.h>

typedef struct infer {
    bmvp_ft *f;
    const infer_input *k;
    int64_t size[3];
    float *crop; /* one crop of each modality */
    bmvp_status (*planes)(void *user, int64_t z0, int64_t n, const float *values);
    void *user;
} infer;

/* size voxels from `start`, zero outside of the volume. */
static void copy_crop(const float *from, const int64_t dim[3], const int64_t start[3], const int64_t size[3], float *to)
{
    const int64_t x0 = start[2] < 0 ? -start[2] : 0, x1 = start[2] + size[2] > dim[2] ? dim[2] - start[2] : size[2];
    int64_t z, y;
    memset(to, 0, (size_t)(size[0] * size[1] * size[2]) * sizeof *to);
    for (z = 0; z < size[0]; ++z)
        for (y = 0; y < size[1]; ++y) {
            const int64_t a = z + start[0], b = y + start[1];
            if (a < 0 || a >= dim[0] || b < 0 || b >= dim[1] || x1 <= x0) continue;
            memcpy(to + (z * size[1] + y) * size[2] + x0, from + (a * dim[1] + b) * dim[2] + start[2] + x0, (size_t)(x1 - x0) * sizeof *to);
        }
}

static bmvp_status read_window(void *user, const int64_t start[3], float *dst)
{
    infer *s = (infer *)user;
    const int64_t n = s->size[0] * s->size[1] * s->size[2];
    const float *image[BMVP_MODALITIES] = { NULL };
    const bmvp_tensor *t = bmvp_ft_template(s->f, 0);
    int64_t at[3] = { 0, 0, 0 };
    int m;
    for (m = 0; m < bmvp_net_config_of(bmvp_ft_net(s->f))->in_channels; ++m) {
        if (!s->k->image[m]) continue;
        copy_crop(s->k->image[m], s->k->dim, start, s->size, s->crop + m * n);
        image[m] = s->crop + m * n;
    }
    if (t) bmvp_template_place(start, s->k->dim, t->dim, at);
    bmvp_ft_input(s->f, image, at, s->size, dst);
    return BMVP_OK;
}

static bmvp_tensor *predict_windows(void *user, bmvp_tensor *x) { return bmvp_ft_predict(((infer *)user)->f, x); }

static bmvp_status give_planes(void *user, int64_t z0, int64_t n, const float *values)
{
    infer *s = (infer *)user;
    return s->planes(s->user, z0, n, values);
}

static bmvp_status infer_begin(infer *s, bmvp_ft *f, const infer_input *k, const int64_t size[3], bmvp_error *err)
{
    const int channels = bmvp_net_config_of(bmvp_ft_net(f))->in_channels;
    memset(s, 0, sizeof *s);
    s->f = f;
    s->k = k;
    memcpy(s->size, size, sizeof s->size);
    s->crop = (float *)malloc((size_t)(size[0] * size[1] * size[2] * channels) * sizeof *s->crop);
    return s->crop ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory for a window");
}

bmvp_status infer_segment(bmvp_ctx *c, bmvp_ft *f, const infer_input *k, const bmvp_window *w,
                          bmvp_status (*planes)(void *user, int64_t z0, int64_t n, const float *values), void *user, bmvp_error *err)
{
    const bmvp_net_config *net = bmvp_net_config_of(bmvp_ft_net(f));
    bmvp_window_calls calls;
    bmvp_status st;
    infer s;
    st = infer_begin(&s, f, k, w->roi, err);
    if (st) return st;
    s.planes = planes;
    s.user = user;
    calls.read = read_window;
    calls.predict = predict_windows;
    calls.planes = give_planes;
    calls.user = &s;
    st = bmvp_sliding_window(c, w, k->dim, net->in_channels, net->outputs, &calls);
    if (st && bmvp_failed(c)) bmvp_error_set(err, st, "%s", bmvp_error_of(c)->message);
    else if (st) bmvp_error_set(err, st, "prediction failed: %s", bmvp_status_text(st));
    free(s.crop);
    return st;
}

bmvp_status infer_classify(bmvp_ctx *c, bmvp_ft *f, const infer_input *k, float *probability, bmvp_error *err)
{
    const bmvp_ft_config *cfg = bmvp_ft_config_of(f);
    const int64_t size[3] = { cfg->crop_z, cfg->crop_y, cfg->crop_x };
    const int64_t dim[5] = { 1, size[0], size[1], size[2], bmvp_net_config_of(bmvp_ft_net(f))->in_channels };
    const int was = bmvp_set_grad(c, 0);
    int64_t start[3];
    bmvp_tensor *y = NULL;
    bmvp_status st;
    float *x;
    infer s;
    int a;
    for (a = 0; a < 3; ++a) {
        const int64_t room = k->dim[a] - size[a];
        start[a] = room >= 0 ? room / 2 : -(-room / 2);
    }
    st = infer_begin(&s, f, k, size, err);
    x = st ? NULL : (float *)malloc((size_t)(dim[1] * dim[2] * dim[3] * dim[4]) * sizeof *x);
    if (!st && !x) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory for a crop");
    if (!st) {
        (void)read_window(&s, start, x);
        bmvp_step_begin(c);
        y = bmvp_ft_predict(f, bmvp_input(c, 5, dim, x));
        st = y ? bmvp_read(c, y, probability) : bmvp_error_of(c)->status;
        if (st) bmvp_error_set(err, st, "%s", bmvp_error_of(c)->message);
        bmvp_step_begin(c);
    }
    free(x);
    free(s.crop);
    (void)bmvp_set_grad(c, was);
    return st;
}
