/* gvsl.c - GVSL (He et al., CVPR 2023): align one case with another, and restore its appearance

   Two cases are moved and bent alike; the appearance of the first, A, is spoilt: texture shuffled in windows, grey
   values bent, boxes painted over. One network sees A' and the other case B. From its coarsest maps a head tells an
   affine matrix, from its finest ones another displaces every voxel: both warp B to A; a third restores A from A'.
   Loss: 1 - local correlation of warped B and A, mean square of what was restored, smoothness of displacements.

   Paper and code: no gradient passes through the matrix in the code (YutingHe-list/GVSL), so its head stays as it was
   made: preset `release`, affine_gradient 0. One permutation serves all windows; displacements are read by a scale half
   a voxel off at the ends (motion.c). Its cases are whole scans; here crops at one place of two, in one modality. */
#include "methods.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#define GVSL_FIELDS(X) \
    X(double, shuffle_rate, 0, 1, "chance of local shuffling") \
    X(int, windows, 1, 1000000, "windows that are shuffled, of a twentieth of the crop") \
    X(double, bend_rate, 0, 1, "chance of the non-linear map of grey values") \
    X(int, boxes, 0, 1000, "boxes that are painted over, at most") \
    X(double, motion, 0, 1, "augmentation: share of turns of 20 degrees, sizes 25 %, shears 10 degrees, shifts 10 %") \
    X(double, bend, 0, 4096, "augmentation: factor of the smoothed noise that displaces voxels, at most") \
    X(int, affine_gradient, 0, 1, "1: the affine head learns (paper), 0: it does not (code)") \
    X(double, weight_align, 0, 1e6, "weight of 1 - local correlation") \
    X(double, weight_restore, 0, 1e6, "weight of the restored appearance") \
    X(double, weight_smooth, 0, 1e6, "weight of the displacements' smoothness")
struct gvsl_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) GVSL_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(gvsl_config, type, name, low, high, text)
static const bmvp_field fields[] = {
    METHOD_FIELDS(FIELD) GVSL_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END
};
typedef struct gvsl { bmvp_layer affine[4], local[4], part[4], flow, restore[3]; } gvsl; /* heads */

/* >>corruption ----------------------------------------------------------------------------------------------------- */

/* Windows of from are permuted, all alike, into x, which is a copy of it. 0: no memory. */
int gvsl_shuffle(const draws *r, int windows, const int64_t d[3], const float *from, float *x, int32_t *order)
{
    method_box b = { { 0, 0, 0 }, { d[0] / 20 + (d[0] < 20), d[1] / 20 + (d[1] < 20), d[2] / 20 + (d[2] < 20) } };
    const int64_t n = b.size[0] * b.size[1] * b.size[2];
    int64_t *start = (int64_t *)malloc(3 * (size_t)windows * sizeof *start), i;
    int a, w;
    for (a = 0; a < 3 && start; ++a)
        for (w = 0; w < windows; ++w) start[3 * w + a] = r->whole(r->user, 0, d[a] - b.size[a] - 1);
    if (start) r->order(r->user, n, order);
    for (w = 0; w < windows && start; ++w) {
        memcpy(b.start, start + 3 * w, sizeof b.start);
        for (i = 0; i < n; ++i) x[method_box_at(&b, d, i)] = from[method_box_at(&b, d, order[i])];
    }
    free(start);
    return start != NULL;
}

void gvsl_paint(const draws *r, int boxes, const int64_t d[3], float *x, float *noise)
{
    method_box b;
    int64_t n, i;
    int a;
    for (; boxes > 0 && r->uniform(r->user) < 0.95; --boxes) {
        for (a = 0; a < 3; ++a) b.size[a] = r->whole(r->user, d[a] / 10, d[a] / 5 - 1);
        for (a = 0; a < 3; ++a) b.start[a] = r->whole(r->user, 3, d[a] - b.size[a] - 4);
        n = b.size[0] * b.size[1] * b.size[2];
        r->noise(r->user, n, noise);
        for (i = 0; i < n; ++i) x[method_box_at(&b, d, i)] = noise[i];
    }
}

/* scratch: as many numbers. 0: no memory. */
int gvsl_spoil(const draws *r, const gvsl_config *k, const int64_t d[3], const float *from, float *x, float *scratch)
{
    double p[4];
    int a, ok = 1;
    if (r->uniform(r->user) < k->shuffle_rate) ok = gvsl_shuffle(r, k->windows, d, from, x, (int32_t *)(void *)scratch);
    if (r->uniform(r->user) < k->bend_rate) {
        for (a = 0; a < 4; ++a) p[a] = r->uniform(r->user);
        ok = ok && genesis_bend(p, 0, d[0] * d[1] * d[2], x, x);
    }
    gvsl_paint(r, k->boxes, d, x, scratch);
    return ok;
}

/* >>heads ---------------------------------------------------------------------------------------------------------- */

static void make_double(bmvp_module *m, const char *name, int64_t in, int64_t out, bmvp_layer l[4])
{
    static const char *const part[4] = { "0", "1", "3", "4" };
    int i;
    bmvp_enter(m, "%s.double_conv", name);
    for (i = 0; i < 4; ++i)
        l[i] = i % 2 ? bmvp_make_groupnorm(m, part[i], out, out >= 8 ? (int)out / 8 : 1)
                     : bmvp_make_conv(m, part[i], i ? out : in, out, 3, 1, 1, 1);
    bmvp_leave(m);
}

static bmvp_tensor *run_double(bmvp_module *m, const bmvp_layer l[4], bmvp_tensor *a, bmvp_tensor *b)
{
    bmvp_tensor *x[2];
    int i;
    x[0] = a, x[1] = b;
    a = bmvp_concat(m->c, 2, x, 4);
    for (i = 0; i < 4; i += 2) a = bmvp_leaky_relu(m->c, bmvp_run(m, l + i + 1, bmvp_run(m, l + i, a)), 0.2);
    return a;
}

/* The heads, and the network's convolutions as the code starts them. */
static void create(bmvp_trainer *t)
{
    static const char *const name[4] = { "fc_rot", "fc_scl", "fc_trans", "fc_shear" };
    const int64_t w = t->net_config.width;
    bmvp_state_list *l = bmvp_net_state(t->net);
    bmvp_module *m = &t->net->m;
    gvsl *g = (gvsl *)t->state;
    int i;
    for (i = 0; i < l->n; ++i)
        if (l->item[i].torch_rank == 5)
            bmvp_init_as(m, l->item[i].t, BMVP_INIT_NORMAL, sqrt(2 / (27.0 * (double)l->item[i].torch_dim[1])));
    make_double(m, "f_conv", 32 * w, 8 * w, g->affine);
    make_double(m, "sp_conv", 2 * w, w / 2, g->local);
    g->restore[0] = bmvp_make_conv(m, "res_conv.0", w, w / 2, 3, 1, 1, 1);
    g->restore[1] = bmvp_make_groupnorm(m, "res_conv.1", w / 2, 4);
    g->restore[2] = bmvp_make_conv(m, "res_conv.3", w / 2, 1, 1, 1, 0, 1);
    g->flow = bmvp_make_conv(m, "out_flow", w / 2, 3, 3, 1, 1, 1);
    for (i = 0; i < 4; ++i) g->part[i] = bmvp_make_linear(m, name[i], 8 * w, i < 3 ? 3 : 6, 1);
}

/* Turns, sizes, shifts and shears of b to a, from their coarsest maps. */
static bmvp_tensor *affine_head(bmvp_module *m, const gvsl *g, bmvp_tensor *b, bmvp_tensor *a)
{
    const double pi = acos(-1.0), factor[4] = { pi / 9, 0.25, 1, pi / 18 };
    bmvp_tensor *x = bmvp_global_pool(m->c, run_double(m, g->affine, b, a)), *part[4];
    int i;
    for (i = 0; i < 4; ++i) {
        part[i] = bmvp_run(m, &g->part[i], x);
        if (i != 2) part[i] = bmvp_scale(m->c, bmvp_clamp(m->c, part[i], -1, 1), factor[i], i == 1);
    }
    return motion_matrix(m->c, part[0], part[1], part[2], part[3]);
}

/* >>method --------------------------------------------------------------------------------------------------------- */

/* A' and B as seen (2, D, H, W, 1) -> A as restored; moved: how B comes to A, or NULL. */
bmvp_tensor *gvsl_run(bmvp_trainer *t, bmvp_tensor *seen, bmvp_tensor *a, gvsl_moved *moved)
{
    const gvsl *g = (const gvsl *)t->state;
    bmvp_module *m = &t->net->m;
    const bmvp_features f = bmvp_net_encode(t->net, seen, moved != NULL);
    bmvp_tensor *fine[2], *coarse[2], *y;
    int i, on = 1;
    for (i = 0; i < 2; ++i) {
        fine[i] = bmvp_slice(m->c, f.skip[5], 0, i, 1);
        coarse[i] = bmvp_slice(m->c, f.last, 0, i, 1);
    }
    if (moved) {
        if (!((const gvsl_config *)t->config)->affine_gradient) on = bmvp_set_grad(m->c, 0);
        moved->mat = affine_head(m, g, coarse[1], coarse[0]);
        (void)bmvp_set_grad(m->c, on);
        y = run_double(m, g->local, motion_affine(m->c, fine[1], moved->mat), fine[0]);
        moved->flow = bmvp_run(m, &g->flow, y);
        y = motion_affine(m->c, bmvp_slice(m->c, seen, 0, 1, 1), moved->mat);
        moved->warped = motion_warp(m->c, y, moved->flow);
        moved->align = motion_correlation(m->c, moved->warped, a);
        moved->smooth = motion_smoothness(m->c, moved->flow);
    }
    y = bmvp_run(m, &g->restore[1], bmvp_run(m, &g->restore[0], fine[0]));
    return bmvp_run(m, &g->restore[2], bmvp_leaky_relu(m->c, y, 0.2));
}

/* A, A' and B as channels of one volume. */
static bmvp_tensor *triple(bmvp_ctx *c, const gvsl_config *k, const method_item *item, const draws *r)
{
    const int64_t e = k->crop, d[3] = { e, e, e }, n = e * e * e, dim[5] = { 1, e, e, e, 1 };
    float *x = (float *)malloc(2 * (size_t)n * sizeof *x);
    bmvp_tensor *part[3];
    if (x && item->x) memcpy(x, item->x, (size_t)n * sizeof *x);
    if (!x || (item->x && !gvsl_spoil(r, k, d, item->x, x, x + n)))
        bmvp_fail(c, BMVP_E_OOM, "gvsl: no memory for a crop");
    part[0] = bmvp_input(c, 5, dim, item->x), part[1] = bmvp_input(c, 5, dim, x);
    part[2] = bmvp_input(c, 5, dim, item->other);
    free(x);
    return bmvp_concat(c, 3, part, 4);
}

static void forward(bmvp_pass *p)
{
    const gvsl_config *k = (const gvsl_config *)p->config;
    const method_item *item = (const method_item *)p->items;
    bmvp_tensor *sum[3] = { NULL, NULL, NULL }, *loss[3], *x, *part[3];
    const double weight[3] = { k->weight_align, k->weight_restore, k->weight_smooth };
    gvsl_moved moved;
    int i, j, on;
    for (i = 0; i < p->n && !bmvp_failed(p->c); ++i) {
        bmvp_rng g;
        const draws r = method_draws(p, &item[i], &g);
        on = bmvp_set_grad(p->c, 0);
        x = motion_augment(p->c, &r, k->motion, k->bend, k->crop, triple(p->c, k, &item[i], &r));
        for (j = 0; j < 3; ++j) part[j] = bmvp_slice(p->c, x, 4, j, 1);
        x = bmvp_concat(p->c, 2, part + 1, 0);
        (void)bmvp_set_grad(p->c, on);
        loss[1] = bmvp_mse(p->c, gvsl_run(p->trainer, x, part[0], &moved), part[0]);
        loss[0] = moved.align, loss[2] = moved.smooth;
        for (j = 0; j < 3; ++j) sum[j] = i ? bmvp_add(p->c, sum[j], loss[j]) : loss[j];
    }
    for (j = 0; j < 3; ++j) bmvp_pass_loss(p, j, BMVP_LOSS_MEAN, weight[j], bmvp_scale(p->c, sum[j], 1.0 / p->n, 0));
}

static void prepare(bmvp_trainer *t)
{
    const method_setup *u = (const method_setup *)t->setup;
    if (u->cases < 2)
        bmvp_fail(t->c, BMVP_E_ARG, "gvsl aligns two cases, but there is one: prepare more, or take another --method");
    else if (strcmp(t->net_config.kind, "unet3d_gvsl") != 0)
        bmvp_fail(t->c, BMVP_E_ARG, "gvsl needs --network unet3d_gvsl or unet3d_gvsl_tiny, not %s", t->net_config.name);
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "align", "restore", "smooth", NULL };
    static bmvp_method m;
    m.name = "gvsl", m.format = "bmvp gvsl 1", m.loss = loss, m.fields = fields;
    m.config_size = sizeof(gvsl_config), m.state_size = sizeof(gvsl), m.item_size = sizeof(method_item);
    m.prepare = prepare, m.create = create, m.forward = forward;
    return &m;
}

static int preset(const char *name, void *config)
{
    gvsl_config *k = (gvsl_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST, release = kind == METHOD_RELEASE;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 48 : 96, k->batch = 1, k->epochs = 1000, k->affine_gradient = !release;
    k->optimizer = BMVP_ADAM, k->lr = k->lr_floor = fast ? 1e-3 : 1e-4, k->weight_decay = 0;
    k->shuffle_rate = 0.8, k->windows = 5000, k->bend_rate = 0.9, k->boxes = 30;
    k->motion = 1, k->bend = 512, k->weight_align = k->weight_restore = k->weight_smooth = 1;
    return 1;
}

/* A without motion, and A as it was restored. */
static bmvp_status look(bmvp_trainer *t, const method_item *item, float *seen, float *back)
{
    bmvp_rng g = bmvp_rng_make((uint64_t)((const gvsl_config *)t->config)->seed, METHOD_STREAM, 0, item->slot);
    const draws r = draws_of(&g);
    const int was = method_look_begin(t);
    bmvp_tensor *x = triple(t->c, (const gvsl_config *)t->config, item, &r), *part[2];
    part[0] = bmvp_slice(t->c, x, 4, 1, 1), part[1] = bmvp_slice(t->c, x, 4, 2, 1);
    x = gvsl_run(t, bmvp_concat(t->c, 2, part, 0), NULL, NULL);
    return method_look_end(t, was, part[0], x, 0, seen, back);
}

const method_row method_gvsl = { "gvsl", "GVSL", "He et al., CVPR 2023", "unet3d_gvsl", "unet3d_gvsl_tiny",
                                 method, preset, look, METHOD_CASE, NULL };
