/* transvw.c - TransVW (Haghighi et al., IEEE TMI 40, 2021): name a part of the body, and restore it

   First an auto-encoder learns whole scans; its code says which scans are alike. A visual word is a place in the scans
   that are most like its reference (words.h). A crop of a word is bent elastically, then its texture is shuffled in
   windows, its grey values are bent, or a box of it, or all but a box, is painted over. The network tells the word by a
   head on its coarsest map, for a while only that, then it also rebuilds the crop: mean square + .01 cross-entropy.

   Paper and code: the code (fhaghighi/TransVW) asks for the crop as it was before the elastic bending, too; it bends
   along two axes, the first by the second noise. Its softmax stands in the network, and the logarithm of that may be
   -infinity: here it is one cross-entropy of logits. It draws a word, then a crop of it, ours a scan, then one of its
   words, and words by modality; it ends each stage after 50 epochs without gain, ours are shares of the run. */
#include "words.h"
#include "views.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TRANSVW_FIELDS(X) \
    X(int, edge, 0, 1024, "edge of a word's crop in voxels, of the region `crop`; 0: five eighths of it") \
    X(int, words, 2, WORDS_MOST, "visual words") \
    X(int, nearest, 1, 1000000, "a word is of so many scans of a modality, those most like its reference") \
    X(double, apart, 0, 1024, "least distance of two words in voxels; 0: a sixth of edge") \
    X(double, code_share, 0.001, 0.9, "first the auto-encoder learns, for this share of the run's steps") \
    X(int, code_edge, 8, 256, "it sees regions resized to this edge") \
    X(int, code_width, 1, 256, "its channels; a code has 16 times as many numbers") \
    X(double, word_share, 0, 0.9, "then only words are told, for this share of the steps") \
    X(double, word_weight, 0, 1e6, "weight of telling words once crops are restored, too") \
    X(int, halve_epochs, 0, 1000000, "the rate is halved after so many epochs; 0: warm-up and half a cosine")
struct transvw_config { BMVP_RUN_MEMBERS METHOD_FIELDS(BMVP_FIELD_MEMBER) TRANSVW_FIELDS(BMVP_FIELD_MEMBER) };
#define FIELD(type, name, low, high, text) BMVP_FIELD(transvw_config, type, name, low, high, text)
static const bmvp_field fields[] = {
    METHOD_FIELDS(FIELD) TRANSVW_FIELDS(FIELD) BMVP_RUN_FIELDS(FIELD) BMVP_FIELDS_END
};
typedef struct transvw_state {
    bmvp_layer head[3];
    coder coder;
    words words;
    int64_t edge, total; /* of a word; steps of the run */
} transvw_state;

/* >>corruption ----------------------------------------------------------------------------------------------------- */

transvw_kind transvw_choice(double r)
{
    return r <= 0.25 ? TRANSVW_SHUFFLE : r <= 0.5 ? TRANSVW_BEND : r <= 0.75 ? TRANSVW_INSIDE : TRANSVW_OUTSIDE;
}

/* 0: no memory. out: not x */
static int elastic(const draws *r, const int64_t d[3], const float *x, float *out)
{
    const int64_t n = d[0] * d[1] * d[2];
    double *field = (double *)malloc(3 * (size_t)n * sizeof *field);
    int i;
    for (i = 0; i < 2 && field; ++i) {
        r->noise(r->user, n, out);
        view_field(d, out, field + i * n, field + 2 * n);
    }
    if (field) view_bend(d, field, field + n, x, out);
    free(field);
    return field != NULL;
}

/* word -> x; scratch: twice as many numbers. 0: no memory */
static int spoil(const draws *r, const int64_t d[3], const float *word, float *x, float *scratch)
{
    const int64_t n = d[0] * d[1] * d[2];
    transvw_kind kind;
    double p[4];
    int i;
    if (!elastic(r, d, word, x)) return 0;
    memcpy(scratch, x, (size_t)n * sizeof *x);
    kind = transvw_choice(r->uniform(r->user));
    if (kind == TRANSVW_SHUFFLE) genesis_shuffle(r, 5, d, scratch, x, (int32_t *)(void *)(scratch + n));
    else if (kind == TRANSVW_BEND) {
        for (i = 0; i < 4; ++i) p[i] = r->uniform(r->user);
        return genesis_bend(p, r->uniform(r->user) < 0.5, n, x, x);
    } else if (kind == TRANSVW_INSIDE) genesis_paint_inside(r, 1, 1, d, x, scratch + n);
    else genesis_paint_outside(r, 1, d, scratch, x);
    return 1;
}

/* >>heads ---------------------------------------------------------------------------------------------------------- */

void transvw_make_head(bmvp_module *m, bmvp_layer head[3], int64_t in, int n)
{
    bmvp_enter(m, "clc_out");
    head[0] = bmvp_make_conv(m, "conv1", in, 2 * in, 3, 1, 1, 1);
    head[1] = bmvp_make_batchnorm(m, "bn1", 2 * in);
    head[2] = bmvp_make_linear(m, "fc1", 2 * in, n, 1);
    bmvp_leave(m);
}

/* Logits; statistics of the batch, as in all norms of the code's network */
bmvp_tensor *transvw_tell(bmvp_module *m, const bmvp_layer head[3], bmvp_tensor *last)
{
    const bmvp_layer *l = &head[1];
    bmvp_tensor *y = bmvp_run(m, &head[0], last);
    y = bmvp_relu(m->c, bmvp_batchnorm(m->c, y, l->w, l->b, l->mean, l->var, 1, 0.1, l->eps));
    return bmvp_run(m, &head[2], bmvp_global_pool(m->c, y));
}

/* >>losses --------------------------------------------------------------------------------------------------------- */

typedef enum stage { STAGE_CODE, STAGE_WORDS, STAGE_ALL } stage;

/* A plan is of the stage whose U-Net has the larger maps. */
static stage stage_of(bmvp_pass *p)
{
    const transvw_config *k = (const transvw_config *)p->config;
    transvw_state *s = (transvw_state *)p->state;
    const double total = (double)s->total, step = (double)p->step, width = p->trainer->net_config.width;
    float until[2] = { 0, 0 };
    if (bmvp_is_plan(p->c))
        return pow(k->code_edge, 3) * k->code_width > pow((double)s->edge, 3) * (width + 1) ? STAGE_CODE : STAGE_ALL;
    words_stages(&s->words, 1 + floor(k->code_share * total), floor(k->word_share * total), until);
    return step < (double)until[0] ? STAGE_CODE : step < (double)until[1] ? STAGE_WORDS : STAGE_ALL;
}

static void learn_words(bmvp_pass *p, int restores)
{
    const transvw_config *k = (const transvw_config *)p->config;
    transvw_state *s = (transvw_state *)p->state;
    const method_item *item = (const method_item *)p->items;
    const int64_t e = s->edge, d[3] = { e, e, e }, n = e * e * e, dim[5] = { p->n, e, e, e, 1 };
    float *x = (float *)calloc((size_t)((2 * p->n + 2) * n), sizeof *x), *word = x + p->n * n;
    int32_t *target = (int32_t *)calloc((size_t)p->n, sizeof *target);
    bmvp_features f;
    int i, ok = x && target;
    words_meet(p, &s->words, &s->coder, k->crop, k->code_edge);
    for (i = 0; i < p->n && ok && !bmvp_is_plan(p->c) && !bmvp_failed(p->c); ++i) {
        bmvp_rng g;
        const draws r = method_draws(p, &item[i], &g);
        target[i] = words_pick(&r, &s->words, item[i].index, item[i].modality);
        words_cut(&r, k->crop, item[i].x, s->words.place[target[i]], e, word + i * n);
        ok = spoil(&r, d, word + i * n, x + i * n, word + p->n * n);
    }
    if (ok) {
        f = bmvp_net_encode(p->net, bmvp_input(p->c, 5, dim, x), 1);
        if (restores)
            bmvp_pass_loss(p, 1, BMVP_LOSS_MEAN, 1,
                           bmvp_mse(p->c, bmvp_sigmoid(p->c, bmvp_net_reconstruct(p->net, &f)),
                                    bmvp_input(p->c, 5, dim, word)));
        bmvp_pass_loss(p, 2, BMVP_LOSS_MEAN, restores ? k->word_weight : 1,
                       bmvp_cross_entropy(p->c, transvw_tell(&p->net->m, s->head, f.last), target));
    } else bmvp_fail(p->c, BMVP_E_OOM, "transvw: no memory for %d words", p->n);
    free(x), free(target);
}

static void forward(bmvp_pass *p)
{
    const transvw_config *k = (const transvw_config *)p->config;
    coder *const c = &((transvw_state *)p->state)->coder;
    const stage now = stage_of(p);
    if (!bmvp_pass_needs(p, p->n, "crop", "a larger batch")) return;
    if (now == STAGE_CODE) bmvp_pass_loss(p, 0, BMVP_LOSS_MEAN, 1, coder_loss(p, c, k->crop, k->code_edge));
    else learn_words(p, now == STAGE_ALL);
}

/* >>method --------------------------------------------------------------------------------------------------------- */

static void prepare(bmvp_trainer *t)
{
    const transvw_config *k = (const transvw_config *)t->config;
    transvw_state *s = (transvw_state *)t->state;
    const int stride = (int)bmvp_net_stride_of(t->c, &t->net_config);
    if (bmvp_failed(t->c)) return;
    s->edge = k->edge > 0 ? k->edge : k->crop * 5 / 8 / stride * stride;
    if (s->edge < 16 || s->edge % stride)
        bmvp_fail(t->c, BMVP_E_ARG, "transvw: words of %d voxels are none for %s: --set edge=%d, --crop %d or more",
                  (int)s->edge, t->net_config.name, (15 / stride + 1) * stride, (15 / stride + 1) * stride * 2);
    else if (s->edge > k->crop)
        bmvp_fail(t->c, BMVP_E_ARG, "transvw: words of %d voxels do not fit into a region of %d: --crop %d, or --set "
                  "edge=0", (int)s->edge, k->crop, (int)s->edge * 8 / 5);
    else if (k->code_edge % 8)
        bmvp_fail(t->c, BMVP_E_ARG, "transvw: code_edge %d must be a multiple of 8", k->code_edge);
}

static void create(bmvp_trainer *t)
{
    const transvw_config *k = (const transvw_config *)t->config;
    const method_setup *u = (const method_setup *)t->setup;
    transvw_state *s = (transvw_state *)t->state;
    words *w = &s->words;
    const double apart = k->apart > 0 ? k->apart : (double)s->edge / 6;
    bmvp_rng g = bmvp_rng_make((uint64_t)k->seed, METHOD_STREAM + 1, 0, 0);
    const draws r = draws_of(&g);
    transvw_make_head(&t->net->m, s->head, bmvp_net_channels_of(t->c, &t->net_config), k->words);
    coder_make(&s->coder, t->c, bmvp_net_state(t->net), k->code_width);
    w->n = k->words, w->nearest = k->nearest, w->width = 16 * k->code_width;
    w->cases = u->cases, w->modalities = u->n_modalities;
    words_begin(w, t->c, &r);
    if (bmvp_failed(t->c)) return;
    bmvp_trainer_keep(t, "words", w->host, &w->list);
    if (!words_places(&r, k->crop, s->edge, apart, k->words, w->place))
        bmvp_fail(t->c, BMVP_E_ARG, "transvw: a region of %d has no room for %d words of %d voxels, %g apart: --set "
                  "words=, apart= or edge=, or a larger --crop", k->crop, k->words, (int)s->edge, apart);
}
static void start(bmvp_trainer *t) { words_start(&((transvw_state *)t->state)->words); }
static void destroy(bmvp_trainer *t) { words_free(&((transvw_state *)t->state)->words, t->c); }

static double rate(const bmvp_trainer *t, int64_t total)
{
    const transvw_config *k = (const transvw_config *)t->config;
    ((transvw_state *)t->state)->total = total;
    return method_halved(t, total, k->lr, k->halve_epochs);
}

static const bmvp_method *method(void)
{
    static const char *const loss[] = { "code", "restore", "word", NULL };
    static bmvp_method m;
    m.name = "transvw", m.format = "bmvp transvw 1", m.loss = loss, m.fields = fields, m.forward = forward;
    m.config_size = sizeof(transvw_config), m.state_size = sizeof(transvw_state), m.item_size = sizeof(method_item);
    m.prepare = prepare, m.create = create, m.start = start, m.destroy = destroy, m.rate = rate;
    return &m;
}

static int preset(const char *name, void *config)
{
    transvw_config *k = (transvw_config *)config;
    const method_preset_kind kind = method_preset(name, config, sizeof *k);
    const int fast = kind == METHOD_FAST;
    if (kind == METHOD_UNKNOWN) return 0;
    k->crop = fast ? 64 : 160, k->edge = fast ? 0 : 96, k->words = fast ? 8 : 44, k->nearest = 200;
    k->apart = fast ? 0 : 16, k->code_edge = fast ? 32 : 64, k->code_width = fast ? 4 : 32;
    k->code_share = k->word_share = fast ? 0.1 : 0.2, k->word_weight = 0.01, k->halve_epochs = fast ? 0 : 40;
    k->optimizer = BMVP_ADAM, k->lr = 1e-3, k->weight_decay = 0, k->batch = fast ? 2 : 64, k->warmup = fast ? 10 : 0;
    return 1;
}

/* The first word, spoilt and restored, as large as the region */
static bmvp_status look(bmvp_trainer *t, const method_item *item, float *seen, float *back)
{
    const transvw_state *s = (const transvw_state *)t->state;
    const int64_t crop = ((const transvw_config *)t->config)->crop, to[3] = { crop, crop, crop };
    const int64_t d[3] = { s->edge, s->edge, s->edge }, n = s->edge * s->edge * s->edge, corner[3] = { 0, 0, 0 };
    bmvp_rng g = bmvp_rng_make((uint64_t)((const transvw_config *)t->config)->seed, METHOD_STREAM, 0, item->slot);
    const draws r = draws_of(&g);
    float *x = (float *)malloc(4 * (size_t)n * sizeof *x);
    bmvp_status st = BMVP_E_OOM;
    if (x) words_cut(&r, crop, item->x, s->words.place[0], s->edge, x);
    if (x && spoil(&r, d, x, x + n, x + 2 * n)) st = method_look(t, (int)s->edge, x + n, 1, x);
    else bmvp_fail(t->c, st, "transvw: no memory for a look at a word");
    if (!st) view_cut(d, x + n, corner, d, to, seen), view_cut(d, x, corner, d, to, back);
    free(x);
    return st;
}

const method_row method_transvw = { "transvw", "TransVW", "Haghighi et al., IEEE TMI 40, 2021", "unet3d_mg",
                                    "unet3d_mg_tiny", method, preset, look, METHOD_MIDDLE, "a word, rebuilt" };
