/* voco.c - volume contrast (Wu et al., CVPR 2024): say where in the head a small crop comes from

   The middle of a volume is cut into a grid of bases, and crops of their size are taken anywhere inside. Each becomes a
   vector; a crop's cosines with the bases should be the shares of it that overlap them, and bases should differ.
   Paper and code: the paper (preset `paper`, with the bases of a cube that nnssl has for MRI) takes -log(1 - |share -
   cosine|) of all bases, which are held, and cosines between bases. The code (Luffy03/VoCo, preset `release`) has 4 x 4
   bases of a plane as deep as one; it weighs bases by their share and squares the cosines of the others (as nnssl:
   `slow` 0, `form` 0); a slow copy of the network, random at first, is the other side of each cosine; between bases it
   squares, too, and moves the first of two. Its successor, Large-Scale-Medical, has logarithms there (`form` 2).
   The region is what is brighter than 0.3, ours the middle. Fine-tuning starts from the network, not from its copy. */
#include "bases.h"
#include <stdlib.h>
#include <string.h>

#define VOCO_FIELDS(X) \
    X(int, bases, 2, 8, "bases along an axis") \
    X(int, flat, 0, 1, "1: bases lie in a plane of x and y, 0: along z, too") \
    X(int, cut, 0, 256, "the region is resized so that a base has this edge in voxels; 0: it stays as it is") \
    X(int, edge, 0, 256, "bases and crops are resized to this edge for the network; 0: they stay as they are") \
    X(int, crops, 1, 64, "crops of a region besides its bases") \
    X(int, hidden, 1, 8192, "width of the projection") \
    X(int, vector, 1, 8192, "length of its vectors") \
    X(int, slow, 0, 1, "1: a slow copy gives the other side of each cosine (code)") \
    X(int, form, 0, 2, "bases 0: by shares, the others squared; 1: all alike (paper); 2: the others by logarithm") \
    X(double, keep, 0, 1, "the slow copy keeps this share of itself in an update") \
    X(double, flip_rate, 0, 1, "chance of a flip, of each axis of each crop and base") \
    X(double, turn_rate, 0, 1, "chance of 1 to 3 quarter turns in the axial plane") \
    X(double, shift_rate, 0, 1, "chance of another brightness") \
    X(double, shift, 0, 1, "largest difference of it")
struct voco_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) VOCO_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(voco_config, type, name, low, high, text)
static const bmvp_field fields[] = { METHOD_FIELDS(FIELD) VOCO_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END };

static bases division(const voco_config *k) { return bases_of(k->crop, k->bases, k->flat, k->cut, k->edge); }
static int is_swin(const bmvp_net_config *k) { return strcmp(k->kind, "swin_unetr") == 0; }

/* >>heads ---------------------------------------------------------------------------------------------------------- */

void voco_make_head(bmvp_module *m, bmvp_layer head[3], int64_t in, int64_t hidden, int64_t out)
{
    bmvp_enter(m, "proj_head");
    head[0] = bmvp_make_linear(m, "layer1.0", in, hidden, 1);
    head[1] = bmvp_make_linear(m, "layer2.0", hidden, hidden, 1);
    head[2] = bmvp_make_linear(m, "layer3.0", hidden, out, 1);
    bmvp_leave(m);
}

/* Linear, batch norm without parameters over all bases and crops of the step, ReLU; twice; linear */
bmvp_tensor *voco_project(bmvp_module *m, const bmvp_layer head[3], bmvp_tensor *x)
{
    int i;
    for (i = 0; i < 2; ++i)
        x = bmvp_relu(m->c, bmvp_batchnorm(m->c, bmvp_run(m, &head[i], x), NULL, NULL, NULL, NULL, 1, 0.1, 1e-5));
    return bmvp_run(m, &head[2], x);
}

/* Averages of Swin-UNETR's five encoder maps side by side, of other networks of the last map */
bmvp_tensor *voco_features(bmvp_net *net, bmvp_tensor *x, int training)
{
    const bmvp_features f = bmvp_net_encode(net, x, training);
    bmvp_tensor *part[5];
    int i;
    for (i = 0; i < 5 && is_swin(&net->cfg); ++i) part[i] = bmvp_global_pool(net->m.c, f.skip[1 + i]);
    return i ? bmvp_concat(net->m.c, 5, part, 1) : bmvp_global_pool(net->m.c, f.last);
}

static void create(bmvp_trainer *t)
{
    const voco_config *k = (const voco_config *)t->config;
    voco_state *s = (voco_state *)t->state;
    int64_t in = bmvp_net_channels_of(t->c, &t->net_config);
    if (is_swin(&t->net_config)) in = in / 16 * 24;
    voco_make_head(&t->net->m, s->head, in, k->hidden, k->vector);
    s->slow = k->slow ? bmvp_net_create(t->c, &t->net_config) : NULL;
    if (!s->slow) return;
    voco_make_head(&s->slow->m, s->slow_head, in, k->hidden, k->vector);
    bmvp_trainer_keep(t, "teacher", t->c, bmvp_net_state(s->slow));
}

/* In each step the copy moves before it is asked, in the first one, too. */
static void after_update(bmvp_trainer *t)
{
    const voco_config *k = (const voco_config *)t->config;
    bmvp_net *const slow = ((voco_state *)t->state)->slow;
    if (slow) bmvp_state_average(t->c, bmvp_net_state(slow), bmvp_net_state(t->net), k->keep);
}
static void start(bmvp_trainer *t)
{
    bmvp_net *const slow = ((voco_state *)t->state)->slow;
    if (slow) bmvp_net_init(slow, (uint64_t)((const voco_config *)t->config)->seed + 1);
    after_update(t);
}
static void destroy(bmvp_trainer *t) { bmvp_net_destroy(((voco_state *)t->state)->slow); }

/* >>losses --------------------------------------------------------------------------------------------------------- */

static bmvp_tensor *weighed(bmvp_ctx *c, bmvp_tensor *x, const float *weight, double scale)
{
    return x ? bmvp_scale(c, bmvp_sum(c, bmvp_mul(c, x, bmvp_input(c, x->rank, x->dim, weight))), scale, 0) : NULL;
}
static bmvp_tensor *cosines(bmvp_ctx *c, bmvp_tensor *a, bmvp_tensor *b)
{
    return bmvp_relu(c, bmvp_matmul(c, bmvp_l2_normalize(c, a, 1e-8), bmvp_l2_normalize(c, b, 1e-8), 0, 1));
}
static bmvp_tensor *agreement(bmvp_ctx *c, bmvp_tensor *cosine, const float *label) /* log(1 - |share - cosine|) */
{
    bmvp_tensor *y = cosine ? bmvp_sub(c, cosine, bmvp_input(c, 2, cosine->dim, label)) : NULL;
    return bmvp_natural_log(c, bmvp_scale(c, bmvp_abs(c, y), -1, 1 + 1e-6));
}

/* Of a case: vectors of crops and bases, of the network [0] and of the slow copy [1] (or NULL); labels (crops, bases).
   loss: of bases that overlap (VOCO_ALIKE: of all), of the others, between bases. Returns cosines (crops, bases). */
bmvp_tensor *voco_losses(bmvp_ctx *c, voco_form form, bmvp_tensor *const crop[2], bmvp_tensor *const base[2],
                         const float *label, bmvp_tensor *loss[3])
{
    const int64_t rows = crop[0] ? crop[0]->dim[0] : 0, n = base[0] ? base[0]->dim[0] : 0;
    float *apart = (float *)calloc((size_t)(rows * n + n * n + 1), sizeof *apart), *first = apart + rows * n;
    const int was = bmvp_set_grad(c, 0);
    bmvp_tensor *held = bmvp_scale(c, base[0], 1, 0), *cosine = NULL, *y;
    double sum = 1e-6, others = 1e-6, pairs = (double)(n * (n - 1) / 2);
    int64_t i;
    (void)bmvp_set_grad(c, was), memset(loss, 0, 3 * sizeof *loss);
    for (i = 0; i < rows * n && apart; ++i) sum += (double)label[i], others += (double)(apart[i] = label[i] == 0);
    for (i = 0; i < n * n && apart; ++i) first[i] = i / n < i % n;
    if (apart) {
        cosine = cosines(c, crop[0], base[1] ? base[1] : held);
        if (base[1]) cosine = bmvp_scale(c, bmvp_add(c, cosine, cosines(c, crop[1], base[0])), 0.5, 0);
        y = agreement(c, cosine, label);
        if (form == VOCO_LOGS) loss[1] = weighed(c, y, apart, -1 / others);
        if (form == VOCO_SQUARES) loss[1] = weighed(c, bmvp_mul(c, cosine, cosine), apart, 1 / others);
        loss[0] = form == VOCO_ALIKE ? bmvp_scale(c, bmvp_mean(c, y), -1, 0) : weighed(c, y, label, -1 / sum);
        y = cosines(c, base[0], base[1] ? held : base[0]);
        loss[2] = weighed(c, base[1] ? bmvp_mul(c, y, y) : y, first, 1 / pairs);
    } else bmvp_fail(c, BMVP_E_OOM, "voco: no memory for labels");
    free(apart);
    return cosine;
}

/* Of the pass's regions, each with n bases and then its crops: their vectors [0], and those of the slow copy [1] */
static void of_regions(bmvp_pass *p, bmvp_tensor *const v[2], const float *label, int64_t n)
{
    const voco_config *k = (const voco_config *)p->config;
    bmvp_tensor *crop[2] = { NULL, NULL }, *base[2] = { NULL, NULL }, *sum[3] = { NULL, NULL, NULL }, *loss[3];
    int i, j;
    for (i = 0; i < p->n; ++i) {
        for (j = 0; j < 2 && v[j]; ++j) {
            base[j] = bmvp_slice(p->c, v[j], 0, i * (n + k->crops), n);
            crop[j] = bmvp_slice(p->c, v[j], 0, i * (n + k->crops) + n, k->crops);
        }
        (void)voco_losses(p->c, (voco_form)k->form, crop, base, label + i * k->crops * n, loss);
        for (j = 0; j < 3; ++j) sum[j] = i ? bmvp_add(p->c, sum[j], loss[j]) : loss[j];
    }
    for (j = 0; j < 3; ++j) bmvp_pass_loss(p, j, BMVP_LOSS_MEAN, 1, bmvp_scale(p->c, sum[j], 1.0 / p->n, 0));
}

static void forward(bmvp_pass *p)
{
    const voco_config *k = (const voco_config *)p->config;
    const method_item *item = (const method_item *)p->items;
    const voco_state *s = (const voco_state *)p->state;
    const bases b = division(k);
    const int64_t rows = b.n + k->crops, each = rows * b.voxels, labels = k->crops * b.n;
    const int64_t dim[5] = { p->n * rows, b.seen[0], b.seen[1], b.seen[2], 1 };
    float *x = (float *)calloc((size_t)(p->n * (each + labels) + 1), sizeof *x), *const label = x + p->n * each;
    bmvp_tensor *in, *v[2] = { NULL, NULL };
    int i, was, ok = x != NULL;
    for (i = 0; i < p->n && ok && !bmvp_is_plan(p->c); ++i) {
        bmvp_rng g;
        const draws r = method_draws(p, &item[i], &g);
        ok = bases_cut(&r, &b, item[i].x, k->crops, x + i * each, label + i * labels, NULL) &&
             bases_change(&r, &b, k->flip_rate, k->turn_rate, k->shift_rate, k->shift, rows, x + i * each);
    }
    if (!ok) bmvp_fail(p->c, BMVP_E_OOM, "voco: no memory for the crops of %d regions", p->n);
    else if (bmvp_pass_needs(p, p->n, "region", "a larger batch")) {
        in = bmvp_input(p->c, 5, dim, x);
        v[0] = voco_project(&p->net->m, s->head, voco_features(p->net, in, 1));
        was = bmvp_set_grad(p->c, 0);
        if (s->slow) v[1] = voco_project(&s->slow->m, s->slow_head, voco_features(s->slow, in, 1));
        (void)bmvp_set_grad(p->c, was);
        of_regions(p, v, label, b.n);
    }
    free(x);
}

/* >>method --------------------------------------------------------------------------------------------------------- */

static void prepare(bmvp_trainer *t)
{
    const voco_config *k = (const voco_config *)t->config;
    const int seen = (int)division(k).seen[0], stride = (int)bmvp_net_stride_of(t->c, &t->net_config);
    const int least = is_swin(&t->net_config) ? 2 * stride : stride; /* its last map is normalised over the crop */
    t->net_config.task = BMVP_TASK_ENCODE;
    if (is_swin(&t->net_config)) (void)bmvp_net_config_set(&t->net_config, "use_v2=1 encoders=1", NULL);
    if (!k->cut && k->crop % k->bases)
        bmvp_fail(t->c, BMVP_E_ARG, "voco: crop %d is not %d bases: --crop %d", k->crop, k->bases, k->bases * least);
    else if (stride < 1 || seen < least || seen % stride)
        bmvp_fail(t->c, BMVP_E_ARG, "voco: bases of %d voxels are none for %s: --crop %d, or --set edge=%d", seen,
                  t->net_config.name, least * k->bases, least);
}

static void optimizer(const bmvp_trainer *t, bmvp_optim_config *k) { (void)t, k->amsgrad = 1; }

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "overlap", "apart", "bases", NULL };
    static bmvp_method m;
    m.name = "voco", m.format = "bmvp voco 1", m.loss = loss, m.fields = fields, m.config_size = sizeof(voco_config);
    m.optimizer = optimizer, m.state_size = sizeof(voco_state), m.item_size = sizeof(method_item), m.destroy = destroy;
    m.prepare = prepare, m.create = create, m.start = start, m.after_update = after_update, m.forward = forward;
    return &m;
}

static int preset(const char *name, void *config)
{
    voco_config *k = (voco_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST, release = kind == METHOD_RELEASE;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : release ? 160 : 128, k->batch = fast ? 1 : 2, k->weight_decay = 0.01, k->keep = 0.9;
    k->bases = release ? 4 : 2, k->flat = release || fast, k->cut = release ? 96 : 0;
    k->edge = fast || release ? 64 : 0, k->crops = release || fast ? 2 : 4, k->hidden = k->vector = fast ? 128 : 2048;
    k->slow = kind != METHOD_PAPER, k->form = k->slow ? VOCO_SQUARES : VOCO_ALIKE, k->flip_rate = k->turn_rate = 0.2;
    k->shift_rate = k->shift = 0.1, k->lr = fast ? 1e-3 : 1e-4, k->warmup = fast ? 10 : 5000;
    return 1;
}

/* The region with a crop of it brighter than the rest, and with its bases as bright as their cosines with the crop */
static bmvp_status look(bmvp_trainer *t, const method_item *item, float *seen, float *back)
{
    const voco_config *k = (const voco_config *)t->config;
    const bases b = division(k);
    const int64_t dim[5] = { b.n + 1, b.seen[0], b.seen[1], b.seen[2], 1 };
    const int was = method_look_begin(t);
    bmvp_rng g = bmvp_rng_make((uint64_t)k->seed, METHOD_STREAM, 0, item->slot);
    const draws r = draws_of(&g);
    float *x = (float *)malloc((size_t)(dim[0] * b.voxels + 2 * b.n) * sizeof *x), *cosine = x + dim[0] * b.voxels;
    bmvp_tensor *y;
    int64_t at[3];
    if (x && bases_cut(&r, &b, item->x, 1, x, cosine + b.n, at)) {
        y = voco_features(t->net, bmvp_input(t->c, 5, dim, x), 0);
        y = voco_project(&t->net->m, ((voco_state *)t->state)->head, y);
        y = cosines(t->c, bmvp_slice(t->c, y, 0, b.n, 1), bmvp_slice(t->c, y, 0, 0, b.n));
        if (bmvp_read(t->c, y, cosine) == BMVP_OK) bases_show(&b, item->x, at, cosine, seen, back);
    } else bmvp_fail(t->c, BMVP_E_OOM, "voco: no memory for a look at a crop");
    free(x);
    return method_look_end(t, was, NULL, NULL, 0, NULL, NULL);
}

const method_row method_voco = { "voco", "volume contrast", "Wu et al., CVPR 2024", "swin_unetr", "swin_unetr_tiny",
                                 method, preset, look, METHOD_MIDDLE, "cosines with the crop" };
