/* voco.c - volume contrast (Wu et al., CVPR 2024): say where in the body a small crop comes from

   A region of a volume is cut into 2 x 2 x 2 bases, and a few crops of their size are taken anywhere inside. Each crop
   and each base becomes a vector; the cosines of a crop with the bases should be the shares of it that overlap them.
   Bases should differ from each other. A slowly moving copy of the network, the teacher, gives the other side of each
   cosine.

   Paper and code: the code (Luffy03/VoCo) has 4 x 4 bases of a plane, resized; here they are parts of a cube and
   nothing is resized, labels are shares of volume (as in nnssl). The paper takes -log(1 - |label - cosine|) of all bases
   and has no teacher; the code takes it of bases that overlap, by their share, the square of the cosine of the others,
   and of two bases it moves only the first apart. Its teacher starts from values of its own (`teacher_copy` 0).
   Fine-tuning starts from the student. The forms of the journal version and of nnssl are not here. */
#include "methods.h"
#include <stdlib.h>
#include <string.h>

enum { GRID = 2, BASES = GRID * GRID * GRID };

#define VOCO_FIELDS(X) \
    X(int, crops, 1, 64, "crops of a region besides its 8 bases") \
    X(int, hidden, 1, 8192, "width of the projection") \
    X(int, vector, 1, 8192, "length of its vectors") \
    X(double, keep, 0, 1, "the teacher keeps this share of itself in an update") \
    X(int, teacher_copy, 0, 1, "1: the teacher starts as a copy of the student; 0: from values of its own (code)") \
    X(double, flip_rate, 0, 1, "chance of a flip, of each axis of each crop and base") \
    X(double, turn_rate, 0, 1, "chance of 1 to 3 quarter turns in the axial plane") \
    X(double, shift_rate, 0, 1, "chance of another brightness") \
    X(double, shift, 0, 1, "largest difference of it") \
    X(double, weight_overlap, 0, 1e6, "weight of the bases that a crop overlaps") \
    X(double, weight_apart, 0, 1e6, "weight of those that it does not") \
    X(double, weight_bases, 0, 1e6, "weight of the cosines between bases") \
    X(int, amsgrad, 0, 1, "1: AdamW divides by the largest square so far")
struct voco_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) VOCO_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(voco_config, type, name, low, high, text)
static const bmvp_field fields[] = {
    METHOD_FIELDS(FIELD) VOCO_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END
};

/* >>crops ---------------------------------------------------------------------------------------------------------- */

/* Shares of a box of `size` from `start` that lie in each part of a grid of such boxes, the first axis slowest */
void voco_labels(const int64_t start[3], const int64_t size[3], const int64_t grid[3], float *label)
{
    int64_t i;
    int a;
    for (i = 0; i < grid[0] * grid[1] * grid[2]; ++i) {
        const int64_t at[3] = { i / (grid[1] * grid[2]), i / grid[2] % grid[1], i % grid[2] };
        double share = 1;
        for (a = 0; a < 3; ++a) {
            const int64_t off = start[a] - at[a] * size[a], apart = off < 0 ? -off : off;
            share *= apart < size[a] ? (double)(size[a] - apart) / (double)size[a] : 0;
        }
        label[i] = (float)share;
    }
}

static void take(const float *region, int64_t edge, const int64_t start[3], int64_t e, float *out)
{
    int64_t z, y;
    for (z = 0; z < e; ++z)
        for (y = 0; y < e; ++y, out += e)
            memcpy(out, region + ((start[0] + z) * edge + start[1] + y) * edge + start[2], (size_t)e * sizeof *out);
}

/* scratch: as large as x */
static void augment(const draws *r, const voco_config *k, const int64_t d[3], float *x, float *scratch)
{
    const int64_t n = d[0] * d[1] * d[2];
    int64_t i;
    int axis;
    for (axis = 0; axis < 3; ++axis)
        if (r->uniform(r->user) < k->flip_rate) genesis_flip(x, d, axis);
    if (r->uniform(r->user) < k->turn_rate) {
        memcpy(scratch, x, (size_t)n * sizeof *x);
        swin_ssl_turn((int)r->whole(r->user, 1, 3), d, 2, 1, scratch, x);
    }
    if (r->uniform(r->user) < k->shift_rate) {
        const double by = k->shift * (2 * r->uniform(r->user) - 1);
        for (i = 0; i < n; ++i) x[i] = (float)((double)x[i] + by);
    }
}

/* A region's bases, then its crops, each of (edge / 2)^3 voxels; labels of the crops. scratch: one of them. */
static void cut(const draws *r, const voco_config *k, const float *region, float *out, float *label, float *scratch)
{
    const int64_t e = k->crop / GRID, d[3] = { e, e, e }, grid[3] = { GRID, GRID, GRID };
    int64_t start[3];
    int i, a;
    for (i = 0; i < BASES + k->crops; ++i, out += e * e * e) {
        for (a = 0; a < 3; ++a)
            start[a] = i < BASES ? (i >> (2 - a) & 1) * e : r->whole(r->user, 0, k->crop - e);
        take(region, k->crop, start, e, out);
        augment(r, k, d, out, scratch);
        if (i >= BASES) voco_labels(start, d, grid, label + (i - BASES) * BASES);
    }
}

/* >>heads ---------------------------------------------------------------------------------------------------------- */

void voco_make_head(bmvp_module *m, bmvp_layer head[3], int64_t in, int64_t hidden, int64_t out)
{
    bmvp_enter(m, "proj_head");
    head[0] = bmvp_make_linear(m, "layer1.0", in, hidden, 1);
    head[1] = bmvp_make_linear(m, "layer2.0", hidden, hidden, 1);
    head[2] = bmvp_make_linear(m, "layer3.0", hidden, out, 1);
    bmvp_leave(m);
}

/* Linear, batch norm without parameters over all crops of the step, ReLU; twice; linear */
bmvp_tensor *voco_project(bmvp_module *m, const bmvp_layer head[3], bmvp_tensor *x)
{
    int i;
    for (i = 0; i < 2; ++i) {
        x = bmvp_batchnorm(m->c, bmvp_run(m, &head[i], x), NULL, NULL, NULL, NULL, 1, 0.1, 1e-5);
        x = bmvp_relu(m->c, x);
    }
    return bmvp_run(m, &head[2], x);
}

/* Averages of Swin-UNETR's five encoder maps side by side, of other networks of the last map */
bmvp_tensor *voco_features(bmvp_net *net, bmvp_tensor *x, int training)
{
    const bmvp_features f = bmvp_net_encode(net, x, training);
    bmvp_tensor *part[5];
    int i;
    if (!f.skip[5] || strcmp(net->cfg.kind, "swin_unetr") != 0) return bmvp_global_pool(net->m.c, f.last);
    for (i = 0; i < 5; ++i) part[i] = bmvp_global_pool(net->m.c, f.skip[1 + i]);
    return bmvp_concat(net->m.c, 5, part, 1);
}

static void create(bmvp_trainer *t)
{
    const voco_config *k = (const voco_config *)t->config;
    voco_state *s = (voco_state *)t->state;
    const int64_t last = bmvp_net_channels_of(t->c, &t->net_config);
    const int64_t in = strcmp(t->net_config.kind, "swin_unetr") == 0 ? last / 16 * 24 : last;
    s->teacher = bmvp_net_create(t->c, &t->net_config);
    if (!s->teacher) return;
    voco_make_head(&t->net->m, s->head, in, k->hidden, k->vector);
    voco_make_head(&s->teacher->m, s->teacher_head, in, k->hidden, k->vector);
    bmvp_trainer_keep(t, "teacher", t->c, bmvp_net_state(s->teacher));
}

/* In each step the teacher moves before it is asked, in the first one, too. */
static void move_teacher(bmvp_trainer *t, double keep)
{
    bmvp_state_average(t->c, bmvp_net_state(((voco_state *)t->state)->teacher), bmvp_net_state(t->net), keep);
}
static void after_update(bmvp_trainer *t) { move_teacher(t, ((const voco_config *)t->config)->keep); }
static void start(bmvp_trainer *t)
{
    const voco_config *k = (const voco_config *)t->config;
    bmvp_net_init(((voco_state *)t->state)->teacher, (uint64_t)k->seed + 1);
    move_teacher(t, k->teacher_copy ? 0 : k->keep);
}
static void destroy(bmvp_trainer *t) { bmvp_net_destroy(((voco_state *)t->state)->teacher); }

/* >>losses --------------------------------------------------------------------------------------------------------- */

static bmvp_tensor *weighed(bmvp_ctx *c, bmvp_tensor *x, const float *weight, double scale)
{
    return x ? bmvp_scale(c, bmvp_sum(c, bmvp_mul(c, x, bmvp_input(c, x->rank, x->dim, weight))), scale, 0) : NULL;
}

static bmvp_tensor *cosines(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    return bmvp_relu(c, bmvp_matmul(c, bmvp_l2_normalize(c, a, 1e-8), bmvp_l2_normalize(c, b, 1e-8), 0, 1));
}

/* Of a case: vectors of crops and bases, of the student [0] and, without gradient, of the teacher [1]; labels (crops,
   bases). loss: of the bases that overlap, of the others, between bases. */
void voco_losses(bmvp_ctx *c, bmvp_tensor *const crop[2], bmvp_tensor *const base[2], const float *label,
                 bmvp_tensor *loss[3])
{
    const int64_t rows = crop[0] ? crop[0]->dim[0] : 0, n = base[0] ? base[0]->dim[0] : 0, dim[2] = { rows, n };
    const double pairs = (double)(n * (n - 1) / 2);
    float *weight = (float *)calloc((size_t)(rows * n + n * n + 1), sizeof *weight), *lower = weight + rows * n;
    double sum = 1e-6, others = 1e-6;
    bmvp_tensor *y, *held;
    int64_t i;
    int was;
    if (!weight || !n) {
        if (!weight) bmvp_fail(c, BMVP_E_OOM, "voco: no memory for labels");
        free(weight);
        return;
    }
    for (i = 0; i < rows * n; ++i) sum += (double)label[i], others += weight[i] = label[i] == 0;
    for (i = 0; i < n * n; ++i) lower[i] = i / n < i % n;
    y = bmvp_scale(c, bmvp_add(c, cosines(c, crop[0], base[1]), cosines(c, crop[1], base[0])), 0.5, 0);
    loss[1] = weighed(c, bmvp_mul(c, y, y), weight, 1 / others);
    y = bmvp_abs(c, bmvp_sub(c, y, bmvp_input(c, 2, dim, label)));
    loss[0] = weighed(c, bmvp_natural_log(c, bmvp_scale(c, y, -1, 1 + 1e-6)), label, -1 / sum);
    was = bmvp_set_grad(c, 0);
    held = bmvp_scale(c, base[0], 1, 0); /* the second base of a pair is not moved */
    (void)bmvp_set_grad(c, was);
    y = cosines(c, base[0], held);
    loss[2] = weighed(c, bmvp_mul(c, y, y), lower, 1 / pairs);
    free(weight);
}

static void of_cases(bmvp_pass *p, bmvp_tensor *const v[2], const float *label)
{
    const voco_config *k = (const voco_config *)p->config;
    const double weight[3] = { k->weight_overlap, k->weight_apart, k->weight_bases };
    bmvp_tensor *crop[2], *base[2], *sum[3] = { NULL, NULL, NULL }, *loss[3] = { NULL, NULL, NULL };
    int i, j;
    for (i = 0; i < p->n; ++i) {
        const int64_t at = (int64_t)i * (BASES + k->crops);
        for (j = 0; j < 2; ++j) {
            base[j] = bmvp_slice(p->c, v[j], 0, at, BASES);
            crop[j] = bmvp_slice(p->c, v[j], 0, at + BASES, k->crops);
        }
        voco_losses(p->c, crop, base, label + (int64_t)i * k->crops * BASES, loss);
        for (j = 0; j < 3; ++j) sum[j] = sum[j] ? bmvp_add(p->c, sum[j], loss[j]) : loss[j];
    }
    for (j = 0; j < 3; ++j)
        bmvp_pass_loss(p, j, BMVP_LOSS_MEAN, weight[j], bmvp_scale(p->c, sum[j], 1.0 / p->n, 0));
}

static void forward(bmvp_pass *p)
{
    const voco_config *k = (const voco_config *)p->config;
    const method_item *item = (const method_item *)p->items;
    const int64_t e = k->crop / GRID, n = e * e * e, per = BASES + k->crops, labels = (int64_t)p->n * k->crops * BASES;
    const int64_t dim[5] = { p->n * per, e, e, e, 1 };
    voco_state *s = (voco_state *)p->state;
    float *x, *label;
    bmvp_tensor *in, *v[2];
    int i, was;
    if (!bmvp_pass_needs(p, p->n, "region", "a larger batch")) return;
    x = (float *)calloc((size_t)((p->n * per + 1) * n + labels), sizeof *x), label = x ? x + (p->n * per + 1) * n : NULL;
    if (!x) {
        bmvp_fail(p->c, BMVP_E_OOM, "voco: no memory for the crops of %d regions", p->n);
        return;
    }
    for (i = 0; i < p->n && !bmvp_is_plan(p->c); ++i) {
        bmvp_rng g = bmvp_pass_rng(p, METHOD_STREAM, item[i].slot);
        const draws r = draws_of(&g);
        cut(&r, k, item[i].x, x + i * per * n, label + (int64_t)i * k->crops * BASES, x + p->n * per * n);
    }
    in = bmvp_input(p->c, 5, dim, x);
    v[0] = voco_project(&p->net->m, s->head, voco_features(p->net, in, 1));
    was = bmvp_set_grad(p->c, 0);
    v[1] = voco_project(&s->teacher->m, s->teacher_head, voco_features(s->teacher, in, 1));
    (void)bmvp_set_grad(p->c, was);
    of_cases(p, v, label);
    free(x);
}

/* >>method --------------------------------------------------------------------------------------------------------- */

static void prepare(bmvp_trainer *t)
{
    const voco_config *k = (const voco_config *)t->config;
    const int64_t stride = bmvp_net_stride_of(t->c, &t->net_config);
    if (strcmp(t->net_config.kind, "swin_unetr") == 0)
        (void)bmvp_net_config_set(&t->net_config, "use_v2=1 parts=1", NULL);
    if (bmvp_net_channels_of(t->c, &t->net_config) < 1)
        bmvp_fail(t->c, BMVP_E_ARG, "voco: %s says nothing of its last map: take --network swin_unetr",
                  t->net_config.name);
    else if (k->crop % (GRID * stride))
        bmvp_fail(t->c, BMVP_E_ARG, "voco: bases of half a crop of %d are no multiple of %d, as %s wants them: a --crop "
                  "of a multiple of %d", k->crop, (int)stride, t->net_config.name, (int)(GRID * stride));
}

static void optimizer(const bmvp_trainer *t, bmvp_optim_config *k)
{
    k->amsgrad = ((const voco_config *)t->config)->amsgrad;
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "overlap", "apart", "bases", NULL };
    static bmvp_method m;
    m.name = "voco", m.format = "bmvp voco 1", m.loss = loss, m.fields = fields;
    m.config_size = sizeof(voco_config), m.state_size = sizeof(voco_state), m.item_size = sizeof(method_item);
    m.prepare = prepare, m.create = create, m.start = start, m.destroy = destroy, m.forward = forward;
    m.after_update = after_update, m.optimizer = optimizer;
    return &m;
}

static int preset(const char *name, void *config)
{
    voco_config *k = (voco_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : 128, k->batch = 2, k->weight_decay = 0.01, k->amsgrad = 1;
    k->lr = fast ? 1e-3 : 1e-4, k->warmup = fast ? 10 : 5000;
    k->crops = 4, k->hidden = k->vector = fast ? 128 : 2048, k->keep = 0.9, k->teacher_copy = kind != METHOD_RELEASE;
    k->flip_rate = k->turn_rate = 0.2, k->shift_rate = k->shift = 0.1;
    k->weight_overlap = k->weight_apart = k->weight_bases = 1;
    return 1;
}

const method_row method_voco = { "voco", "volume contrast", "Wu et al., CVPR 2024", "swin_unetr", "swin_unetr_tiny",
                                 method, preset, NULL };
