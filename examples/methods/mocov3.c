/* mocov3.c - MoCo v3 (Chen, Xie and He, ICCV 2021): two views of a crop know each other among those of other crops

   Two random views of each crop pass the encoder, a projector and a predictor; a slowly moving copy of encoder and
   projector makes keys of them. The query of one view must be closest to the key of the other view, among the keys of
   all crops of the step: cross-entropy of cosines over a temperature T, both ways, times 2 T.

   Paper and code: there is no 3-D release; this is facebookresearch/moco-v3 carried over, `paper` is `release`. Its
   patch embedding is frozen at its random start and its positions are fixed, as there; the feature is the mean of
   UNETR's tokens, which have no class token and no biases of q, k and v. Views in 3-D are ours: a sub-cube resized to
   the crop, brightness and contrast, blur, bright voxels inverted, a left-right flip; those of `fast` differ less, as
   by the others no view tells its crop in a few hundred steps of eight. A step of B crops has B - 1 negatives. The
   copy moves behind the update by the share of the step that comes, which is the code's order. */
#include "tokens.h"
#include "views.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOCOV3_FIELDS(X) \
    X(double, temperature, 0.001, 100, "T, by which cosines are divided") \
    X(double, momentum, 0, 1, "share of the slow copy that stays in a step, at the beginning") \
    X(int, momentum_rises, 0, 1, "1: it rises to 1 at the end, by half a cosine") \
    X(int, head_width, 1, 65536, "hidden channels of projector and predictor") \
    X(int, head_out, 1, 65536, "channels of queries and keys") \
    X(int, frozen_embedding, 0, 1, "1: the patch embedding stays at its random start") \
    X(int, sincos, 0, 1, "positions are 0: learned, 1: fixed sines and cosines") \
    X(double, scale_low, 0.001, 1, "smallest share of the crop's volume that a view shows") \
    X(double, jitter, 0, 1, "largest change of brightness and of contrast, as a share") \
    X(double, jitter_rate, 0, 1, "chance of it") \
    X(double, blur_first, 0, 1, "chance of blurring the first view") \
    X(double, blur_second, 0, 1, ".. the second") \
    X(double, solarize_second, 0, 1, "chance of solarizing the second view") \
    X(double, flip_rate, 0, 1, "chance of a flip of left and right") \
    X(int, warmup_epochs, 0, 1000000, "of `epochs`: linear warm-up, then half a cosine; 0: warmup counts, in steps")
struct mocov3_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) MOCOV3_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(mocov3_config, type, name, low, high, text)
static const bmvp_field fields[] = { METHOD_FIELDS(FIELD) MOCOV3_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END };

/* >>views ---------------------------------------------------------------------------------------------------------- */

static double between(const draws *r, double low, double high) { return low + (high - low) * r->uniform(r->user); }

void mocov3_view(const draws *r, const mocov3_config *k, int second, int64_t edge, const float *crop, float *view,
                 float *scratch)
{
    const int64_t size = (int64_t)floor((double)edge * cbrt(between(r, k->scale_low, 1)) + 0.5);
    int64_t at[3];
    double light;
    int a;
    for (a = 0; a < 3; ++a) at[a] = r->whole(r->user, 0, edge - size);
    view_resize(edge, at, size, crop, view);
    if (r->uniform(r->user) < k->jitter_rate) {
        light = between(r, 1 - k->jitter, 1 + k->jitter);
        view_jitter(edge, light, between(r, 1 - k->jitter, 1 + k->jitter), view);
    }
    if (r->uniform(r->user) < (second ? k->blur_second : k->blur_first))
        view_blur(edge, between(r, 0.1, 2), view, scratch);
    if (r->uniform(r->user) < (second ? k->solarize_second : 0)) view_solarize(edge, view);
    if (r->uniform(r->user) < k->flip_rate) view_flip(edge, view);
}

/* >>heads ---------------------------------------------------------------------------------------------------------- */

typedef struct head { bmvp_layer linear[3], norm[3]; int n; } head; /* batch norm behind each, ReLU between */
typedef struct mocov3_state {
    bmvp_net *slow;
    head projector, predictor, slow_projector;
    int64_t total; /* steps of the run, once the rate was asked for */
} mocov3_state;

static head make_head(bmvp_module *m, const char *name, int n, int64_t in, int64_t width, int64_t out)
{
    head h;
    char at[8];
    int i;
    memset(&h, 0, sizeof h);
    bmvp_enter(m, "%s", name);
    for (h.n = n, i = 0; i < n; ++i) {
        const int64_t to = i < n - 1 ? width : out;
        snprintf(at, sizeof at, "%d", 3 * i);
        h.linear[i] = bmvp_make_linear(m, at, i ? width : in, to, 0);
        snprintf(at, sizeof at, "%d", 3 * i + 1);
        h.norm[i] = i < n - 1 ? bmvp_make_batchnorm(m, at, to) : bmvp_make_batchnorm_plain(m, at, to);
    }
    bmvp_leave(m);
    return h;
}

static bmvp_tensor *run_head(bmvp_module *m, const head *h, bmvp_tensor *x)
{
    int i;
    for (i = 0; i < h->n; ++i) {
        if (i) x = bmvp_relu(m->c, x);
        x = bmvp_run(m, &h->norm[i], bmvp_run(m, &h->linear[i], x));
    }
    return x;
}

static void create(bmvp_trainer *t)
{
    const mocov3_config *k = (const mocov3_config *)t->config;
    const int64_t channels = tokens_of(t).channels;
    mocov3_state *s = (mocov3_state *)t->state;
    if (k->sincos) tokens_freeze(bmvp_net_state(t->net), bmvp_net_positions(t->net));
    if (k->frozen_embedding) tokens_freeze_embedding(t);
    s->projector = make_head(&t->net->m, "projector", 3, channels, k->head_width, k->head_out);
    s->predictor = make_head(&t->net->m, "predictor", 2, k->head_out, k->head_width, k->head_out);
    s->slow = bmvp_net_create(t->c, &t->net_config);
    if (!s->slow) return;
    s->slow_projector = make_head(&s->slow->m, "projector", 3, channels, k->head_width, k->head_out);
    bmvp_trainer_keep(t, "momentum_encoder", t->c, bmvp_net_state(s->slow));
}

bmvp_state_list *mocov3_slow(bmvp_trainer *t) { return bmvp_net_state(((mocov3_state *)t->state)->slow); }

static void move_slowly(bmvp_trainer *t, double keep)
{
    bmvp_state_list front = *bmvp_net_state(t->net); /* without the predictor, which comes last */
    front.n = mocov3_slow(t)->n;
    bmvp_state_average(t->c, mocov3_slow(t), &front, keep);
}

static void start(bmvp_trainer *t)
{
    if (((const mocov3_config *)t->config)->sincos) tokens_fix_positions(t, NULL);
    move_slowly(t, 0);
}

double mocov3_momentum(double first, double epochs, double e)
{
    return 1 - (1 - first) * (1 + cos(3.14159265358979323846 * e / epochs)) / 2;
}

static void after_update(bmvp_trainer *t)
{
    const mocov3_config *k = (const mocov3_config *)t->config;
    const int64_t total = k->momentum_rises ? ((mocov3_state *)t->state)->total : 0;
    move_slowly(t, total > 0 ? mocov3_momentum(k->momentum, k->epochs, tokens_epoch(t, total)) : k->momentum);
}

/* >>loss ----------------------------------------------------------------------------------------------------------- */

static bmvp_tensor *project(bmvp_net *net, const head *h, bmvp_tensor *x)
{
    bmvp_tensor *y = bmvp_add_tokens(&net->m, bmvp_net_embed(net, x, 1), bmvp_net_positions(net));
    return run_head(&net->m, h, bmvp_global_pool(net->m.c, bmvp_net_blocks(net, y, 1)));
}

bmvp_tensor *mocov3_contrast(bmvp_ctx *c, bmvp_tensor *query, bmvp_tensor *key, int64_t first, double temperature)
{
    const int64_t n = query ? query->dim[0] : 0;
    int32_t *own = (int32_t *)malloc((size_t)(n + 1) * sizeof *own);
    bmvp_tensor *y = bmvp_matmul(c, bmvp_l2_normalize(c, query, 1e-12), bmvp_l2_normalize(c, key, 1e-12), 0, 1);
    int64_t i;
    if (!own) return (bmvp_tensor *)bmvp_fail(c, BMVP_E_OOM, "mocov3: no memory for %d queries", (int)n);
    for (i = 0; i < n; ++i) own[i] = (int32_t)(first + i);
    y = bmvp_scale(c, bmvp_cross_entropy(c, bmvp_scale(c, y, 1 / temperature, 0), own), 2 * temperature, 0);
    free(own);
    return y;
}

void mocov3_losses(bmvp_pass *p, bmvp_tensor *first, bmvp_tensor *second)
{
    const mocov3_config *k = (const mocov3_config *)p->config;
    const mocov3_state *s = (const mocov3_state *)p->state;
    bmvp_tensor *view[2] = { first, second }, *query[2], *key[2];
    int64_t at = 0;
    int i, was;
    for (i = 0; i < 2; ++i) query[i] = run_head(&p->net->m, &s->predictor, project(p->net, &s->projector, view[i]));
    was = bmvp_set_grad(p->c, 0);
    for (i = 0; i < 2; ++i)
        key[i] = bmvp_pass_rows(p, project(s->slow, &s->slow_projector, view[i]), k->head_out, &at);
    (void)bmvp_set_grad(p->c, was);
    bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1,
                   bmvp_add(p->c, mocov3_contrast(p->c, query[0], key[1], at, k->temperature),
                            mocov3_contrast(p->c, query[1], key[0], at, k->temperature)));
}

/* >>method --------------------------------------------------------------------------------------------------------- */

static void prepare(bmvp_trainer *t)
{
    const mocov3_config *k = (const mocov3_config *)t->config;
    const method_setup *u = (const method_setup *)t->setup;
    const int plan = bmvp_is_plan(t->c), batch = k->batch * (plan && u ? u->ranks : 1);
    tokens_prepare(t);
    if (bmvp_failed(t->c)) return;
    if (batch < 2)
        bmvp_fail(t->c, BMVP_E_ARG, "mocov3: a batch of one crop has nothing to be told from; take --batch 2 or more");
    else if (k->sincos && tokens_of(t).channels % 6)
        bmvp_fail(t->c, BMVP_E_ARG, "mocov3: sincos needs tokens of a multiple of 6 channels; or --set sincos=0");
    else if (batch < 8 && u && !plan)
        fprintf(stderr, "mocov3: batch norms over %d crops are noise; take --batch 8 or more\n", batch);
}

static void destroy(bmvp_trainer *t) { bmvp_net_destroy(((mocov3_state *)t->state)->slow); }

static void forward(bmvp_pass *p)
{
    const mocov3_config *k = (const mocov3_config *)p->config;
    const method_item *item = (const method_item *)p->items;
    const int64_t e = k->crop, n = e * e * e, dim[5] = { p->n, e, e, e, 1 };
    float *x = (float *)calloc((size_t)((2 * p->n + 1) * n), sizeof *x);
    int i;
    for (i = 0; i < p->n && x && !bmvp_is_plan(p->c); ++i) {
        bmvp_rng g;
        const draws r = method_draws(p, &item[i], &g);
        mocov3_view(&r, k, 0, e, item[i].x, x + i * n, x + 2 * p->n * n);
        mocov3_view(&r, k, 1, e, item[i].x, x + (p->n + i) * n, x + 2 * p->n * n);
    }
    if (x) mocov3_losses(p, bmvp_input(p->c, 5, dim, x), bmvp_input(p->c, 5, dim, x + p->n * n));
    else bmvp_fail(p->c, BMVP_E_OOM, "mocov3: no memory for the views of %d crops", p->n);
    free(x);
}

static double rate(const bmvp_trainer *t, int64_t total)
{
    const mocov3_config *k = (const mocov3_config *)t->config;
    ((mocov3_state *)t->state)->total = total;
    return tokens_run_rate(t, total, k->warmup_epochs, 0);
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "contrast", NULL };
    static bmvp_method m;
    m.name = "mocov3", m.format = "bmvp mocov3 1", m.loss = loss, m.fields = fields, m.after_update = after_update;
    m.config_size = sizeof(mocov3_config), m.state_size = sizeof(mocov3_state), m.item_size = sizeof(method_item);
    m.prepare = prepare, m.create = create, m.start = start, m.destroy = destroy, m.forward = forward, m.rate = rate;
    return &m;
}

static int preset(const char *name, void *config)
{
    mocov3_config *k = (mocov3_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : 96, k->batch = fast ? 8 : 32, k->epochs = fast ? 100 : 300, k->weight_decay = 0.1;
    k->temperature = 0.2, k->momentum = fast ? 0.9 : 0.99, k->momentum_rises = k->frozen_embedding = k->sincos = 1;
    k->head_width = fast ? 128 : 4096, k->head_out = fast ? 32 : 256, k->jitter = 0.4;
    k->scale_low = fast ? 0.8 : 0.2, k->jitter_rate = fast ? 0.2 : 0.8, k->blur_first = fast ? 0.1 : 1;
    k->blur_second = 0.1, k->solarize_second = fast ? 0 : 0.2, k->flip_rate = fast ? 0 : 0.5;
    k->warmup_epochs = fast ? 0 : 40, k->warmup = fast ? 10 : 0, k->lr = fast ? 2e-3 : 1.5e-4 * k->batch / 256;
    return 1;
}

const method_row method_mocov3 = { "mocov3", "MoCo v3", "Chen, Xie and He, ICCV 2021",
                                   "unetr", "unetr_tiny", method, preset, NULL, METHOD_CROP, NULL };
