/* bench_step.c - speed and memory of training and inference, of the kernels they consist of, and the ceiling of the
   machine.

   cc -std=c99 -O2 -I. tests/bench/bench_step.c -o bench_step -lm -lpthread
   bench_step [--only NAME] [--threads N] [--simd LEVEL] [--precision fp32|bf16]
              [--batch N] [--reps N] [--preset NAME] [--json] [--list] [--machine]
   cc -DBENCH_CUDA ... build/bmvp_cuda.o (make build/bench_step_cuda): also [--device cpu|cuda[:N]] and --precision tf32

   Every row is the median of --reps runs after one that is not counted. GFLOP/s counts the operations that the result
   needs, two for a multiply-add; what backward computes a second time is not counted, and what Winograd's algorithm
   saves is: dense 3^3 convolutions may pass the ceiling, and so may --precision bf16, since the ceiling is float32's.
   It is measured here too: independent multiply-adds in registers, with the same instruction set and threads. Memory is
   the largest resident size less what the process held before the row; each row of a network is a process of its own,
   so that nothing of the row before is reused. tests/bench/twin.py is the same rows in PyTorch, with the same weights
   and inputs by formula: `check` is the first loss, or the root mean square of a corner of the output, and must be
   equal on both sides; of the real step it is the loss of the fourth, and has no twin: the masks are others.

   On a GPU there are the rows of networks and the real step (bench_cuda.c has the kernels). It does not wait, so a run
   is five calls between two waits, divided by five, after five that are not counted; inputs come from the host in every
   call. A pass is recorded as the trainers do. Batches are 8 crops for inference, whose time and operations are then of
   one crop, 2 for uniunet_step as in fine-tuning, otherwise 1. Memory is what is taken of the GPU's at the end of the
   row less what was before its context, so nothing else may use that GPU; CUDA's own context, about half a GB, is in
   neither. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/formula.h"
#include "tests/bench/kernels.h"
#include "tests/bench/rows.h"
#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>
#endif

/* Others of these are for trying it out where 96^3 takes too long. */
#ifndef BENCH_CROP
#define BENCH_CROP 96
#endif
#ifndef BENCH_NET
#define BENCH_NET "uniformer_small"
#endif

enum { CROP = BENCH_CROP };

/* >>networks: operations ------------------------------------------------------------------------------------------- */

static double uniformer_gflop(const bmvp_net_config *k, int decoder)
{
    double sum = 0, side = CROP;
    int i;
    for (i = 0; i < 4; ++i) {
        const double c = k->dim[i], in = i ? k->dim[i - 1] : k->in_channels, mlp = 2.0 * k->mlp_ratio * c * c;
        double t, each;
        side /= 2;
        t = side * side * side;
        each = i < 2 ? (27 + 125) * c + 2 * c * c + mlp : 27 * c + 4 * c * c + 2 * t * c + mlp;
        sum += t * (8 * in * c + k->depth[i] * each);
    }
    if (decoder) sum += side * side * side * k->dim[3] * 4096; /* the four layers composed to one matrix */
    return 2e-9 * sum;
}

static double encoder_gflop(const bmvp_net_config *k) { return uniformer_gflop(k, 0); }
static double pretraining_gflop(const bmvp_net_config *k) { return uniformer_gflop(k, 1); }

/* The segmentation decoder: transposed convolution, two 3^3 convolutions and a shortcut at each of four scales, input
   skip, head. */
static double uniunet_gflop(const bmvp_net_config *k)
{
    double sum = 0, voxels = (double)CROP * CROP * CROP;
    const double full = voxels;
    int i;
    for (i = 0; i < 4; ++i, voxels /= 8) {
        const double in = k->dim[i], o = k->dim[i > 0 ? i - 1 : 0];
        sum += voxels * (in * o + 27 * 3 * o * o + 2 * o * o);
    }
    return uniformer_gflop(k, 0) + 2e-9 * (sum + full * k->dim[0] * (27.0 * k->in_channels + k->outputs));
}

static double unet3d_gflop(const bmvp_net_config *k)
{
    static const int convs[4] = { 4, 6, 6, 8 }; /* 3^3 of the level's width, residual blocks down and up */
    double sum = 0, voxels = (double)CROP * CROP * CROP, c = k->width;
    int i;
    for (i = 0; i < 4; ++i, voxels /= 8, c *= 2) {
        sum += voxels * 27 * c * (c * convs[i] + (i ? c / 2 : 1));
        if (i) sum += voxels * c * c / 2;
    }
    return 2e-9 * (sum + (double)CROP * CROP * CROP * k->width);
}

/* Multiply-adds of MONAI's residual block at v voxels: two 3^3 convolutions, and a shortcut where the width changes;
   and of a step up to v voxels that ends with one. */
static double res_macs(double v, double a, double b) { return v * (27 * (a * b + b * b) + (a != b ? a * b : 0)); }
static double up_macs(double v, double a, double b) { return v * a * b + res_macs(v, 2 * b, b); }

static double unetr_gflop(const bmvp_net_config *k)
{
    const double f = bmvp_net_option_of(k, "feature_size", 16), h = bmvp_net_option_of(k, "hidden_size", 768),
                 mlp = bmvp_net_option_of(k, "mlp_dim", 3072), v = (double)CROP * CROP * CROP, t = v / 4096;
    double sum = t * 4096 * k->in_channels * h + 12 * t * (4 * h * h + 2 * h * mlp + 2 * t * h);
    sum += res_macs(v, k->in_channels, f) + v / 512 * h * 14 * f; /* encoder1; the first steps of 2, 3 and 4 */
    sum += v / 64 * 4 * f * f + res_macs(v / 64, 2 * f, 2 * f) + v / 8 * 4 * f * f + res_macs(v / 8, 2 * f, 2 * f);
    sum += v / 64 * 16 * f * f + res_macs(v / 64, 4 * f, 4 * f);
    sum += up_macs(v / 512, h, 8 * f) + up_macs(v / 64, 8 * f, 4 * f) + up_macs(v / 8, 4 * f, 2 * f);
    return 2e-9 * (sum + up_macs(v, 2 * f, f) + v * f * k->outputs);
}

/* Windows are filled up, and what fills them takes part. */
static double swin_gflop(const bmvp_net_config *k)
{
    const double f = bmvp_net_option_of(k, "feature_size", 48), v = (double)CROP * CROP * CROP;
    double sum = v * k->in_channels * f, c = f, up = v, in = 16 * f;
    int i, side = CROP / 2;
    for (i = 0; i < 4; ++i, c *= 2, side /= 2) {
        const double n = side > 7 ? (side + 6) / 7 * 7 : side, w = side > 7 ? 7 : side,
                     t = (double)side * side * side, all = n * n * n;
        sum += 2 * (4 * all * c * c + 8 * t * c * c + 2 * all * w * w * w * c) + 2 * t * c * c;
    }
    sum += res_macs(v, k->in_channels, f) + res_macs(v / 8, f, f) + res_macs(v / 64, 2 * f, 2 * f);
    sum += res_macs(v / 512, 4 * f, 4 * f) + res_macs(v / 32768, 16 * f, 16 * f);
    for (i = 0, up = v / 4096; i < 5; ++i, up *= 8) {
        const double out = i < 4 ? in / 2 : in;
        sum += up_macs(up, in, out);
        in = out;
    }
    return 2e-9 * (sum + v * f * k->outputs);
}

/* >>networks ------------------------------------------------------------------------------------------------------- */

typedef enum work {
    ENCODE,
    FORWARD,
    STEP
} work; /* inference without and with the decoder; forward, backward and AdamW */

typedef struct net_row {
    const char *name, *preset;
    work what;
    int segment; /* four modalities, three regions, heads on three scales where it has them */
    double (*gflop)(const bmvp_net_config *k);
} net_row;

static const net_row net_rows[] = {
    { "step", BENCH_NET, STEP, 0, pretraining_gflop },
    { "inference", BENCH_NET, ENCODE, 0, encoder_gflop },
    { "unet3d_forward", "unet3d", FORWARD, 0, unet3d_gflop },
    { "unet3d_step", "unet3d", STEP, 0, unet3d_gflop },
    { "uniunet_forward", BENCH_NET, FORWARD, 1, uniunet_gflop },
    { "uniunet_step", BENCH_NET, STEP, 1, uniunet_gflop },
    { "unetr_forward", "unetr", FORWARD, 1, unetr_gflop },
    { "unetr_step", "unetr", STEP, 1, unetr_gflop },
    { "swin_unetr_forward", "swin_unetr", FORWARD, 1, swin_gflop },
    { "swin_unetr_step", "swin_unetr", STEP, 1, swin_gflop },
};

typedef struct training { /* one network with its optimizer in one context */
    const net_row *row;
    bmvp_net_config cfg;
    bmvp_ctx *c;
    bmvp_net *net;
    bmvp_optim *optim;
    float *crop, *target; /* inputs, (N, D, H, W, C) */
    int batch;            /* N */
    double check;         /* of the first run */
} training;

static int row_batch(const options *o, const net_row *row)
{
    if (o->batch) return o->batch;
    if (o->backend && row->what == ENCODE) return 8;
    return o->backend && row->segment && row->what == STEP ? 2 : 1;
}

/* Crop s is that of case s: modality m as the tests' formula gives it; region r is a ball, the same in all. */
static void crop_data(training *t, int s, float *one)
{
    const int64_t dim[3] = { CROP, CROP, CROP }, n = (int64_t)CROP * CROP * CROP, channels = t->cfg.in_channels,
                  regions = t->cfg.outputs;
    float *crop = t->crop + s * n * channels, *target = t->target + s * n * regions;
    int64_t i, k;
    for (k = 0; k < channels; ++k) {
        formula_volume(s, (int)k, dim, one);
        for (i = 0; i < n; ++i) crop[i * channels + k] = one[i];
    }
    for (i = 0; i < n; ++i)
        for (k = 0; k < regions; ++k) {
            const int64_t z = i / (CROP * CROP) - 44 * CROP / 96, y = i / CROP % CROP - 50 * CROP / 96;
            const int64_t x = i % CROP - (40 + 4 * k) * CROP / 96, r = (14 + 6 * k) * CROP / 96;
            target[i * regions + k] = x * x + y * y + z * z < r * r;
        }
}
static int training_data(training *t)
{
    const int64_t n = (int64_t)CROP * CROP * CROP;
    float *one = (float *)malloc((size_t)n * sizeof *one);
    int s;
    t->crop = (float *)malloc((size_t)(t->batch * n * t->cfg.in_channels) * sizeof *t->crop);
    t->target = (float *)malloc((size_t)(t->batch * n * t->cfg.outputs) * sizeof *t->target);
    for (s = 0; one && t->crop && t->target && s < t->batch; ++s) crop_data(t, s, one);
    free(one);
    return one && t->crop && t->target;
}

static void training_close(training *t)
{
    bmvp_net_destroy(t->net);
    bmvp_optim_destroy(t->optim);
    bmvp_destroy(t->c);
    t->net = NULL;
    t->optim = NULL;
    t->c = NULL;
}

static int training_open(const options *o, int plan, training *t)
{
    t->c = context(o, o->threads, plan);
    t->net = t->c ? bmvp_net_create(t->c, &t->cfg) : NULL;
    if (!t->net || (!plan && !formula_state(t->c, bmvp_net_state(t->net), 0))) return 0;
    if (t->row->what == STEP) {
        const bmvp_optim_config cfg = bmvp_optim_config_default(BMVP_ADAMW);
        t->optim = bmvp_optim_create(t->c, bmvp_net_state(t->net), &cfg);
    } else bmvp_set_grad(t->c, 0);
    return !bmvp_failed(t->c);
}

/* Root mean square of the corner z < D/2, y < H/3, x < W/4 of y, at least one voxel, all samples and channels. */
static double corner(bmvp_ctx *c, const bmvp_tensor *y)
{
    float *v = y ? (float *)malloc((size_t)y->numel * sizeof *v) : NULL;
    double sum = 0, n = 0;
    int64_t s, z, row, i;
    if (!v || bmvp_read(c, y, v) != BMVP_OK) {
        free(v);
        return 0;
    }
    for (s = 0; s < y->dim[0]; ++s)
        for (z = 0; z == 0 || z < y->dim[1] / 2; ++z)
            for (row = 0; row == 0 || row < y->dim[2] / 3; ++row) {
                const float *p = v + ((s * y->dim[1] + z) * y->dim[2] + row) * y->dim[3] * y->dim[4];
                for (i = 0; i < y->dim[4] || i < y->dim[3] / 4 * y->dim[4]; ++i, ++n)
                    sum += (double)p[i] * (double)p[i];
            }
    free(v);
    return sqrt(sum / n);
}

/* Soft Dice over all scales, as the paper's fine-tuning. */
static bmvp_tensor *segment_loss(training *t, bmvp_tensor *x, const bmvp_features *f)
{
    const int64_t dim[5] = { t->batch, CROP, CROP, CROP, t->cfg.outputs };
    const bmvp_logits l = bmvp_net_segment(t->net, x, f, 1);
    bmvp_tensor *target = bmvp_input(t->c, 5, dim, t->target), *scale[3], *sum = NULL;
    int i;
    scale[0] = l.full;
    scale[1] = l.half;
    scale[2] = l.quarter;
    for (i = 0; i < 3 && scale[i]; ++i) {
        bmvp_tensor *dice = bmvp_soft_dice(t->c, bmvp_sigmoid(t->c, scale[i]), target, 0, 1e-5);
        sum = sum ? bmvp_add(t->c, sum, dice) : dice;
    }
    return sum;
}

static void training_update(training *t)
{
    bmvp_optim_step(t->optim, 1e-4, 1);
    bmvp_optim_zero_grad(t->optim);
}

static void training_run(training *t)
{
    const int64_t dim[5] = { t->batch, CROP, CROP, CROP, t->cfg.in_channels };
    const int learn = t->row->what == STEP;
    bmvp_features f;
    bmvp_tensor *x, *y;
    bmvp_step_begin(t->c);
    bmvp_capture_begin(t->c);
    x = bmvp_input(t->c, 5, dim, t->crop);
    f = bmvp_net_encode(t->net, x, learn);
    if (t->row->what == ENCODE) y = f.last;
    else if (!t->row->segment) y = bmvp_net_reconstruct(t->net, &f);
    else y = learn ? segment_loss(t, x, &f) : bmvp_net_segment(t->net, x, &f, 0).full;
    if (learn && !t->row->segment) y = bmvp_mse(t->c, y, x);
    if (learn) {
        bmvp_keep(y);
        bmvp_backward(t->c, y);
        training_update(t);
    }
    bmvp_capture_end(t->c);
    if (t->check == 0 && !bmvp_is_plan(t->c)) t->check = learn && y ? (double)bmvp_scalar(t->c, y) : corner(t->c, y);
}

static void net_memory(training *t, result *r)
{
    const bmvp_memory m = bmvp_memory_of(t->c);
    bmvp_state_list *l = bmvp_net_state(t->net);
    double values = 0;
    int i;
    for (i = 0; i < l->n; ++i) {
        if (l->item[i].torch_rank == 0) continue;
        values += (double)l->item[i].t->numel * 4e-6;
    }
    r->weights_mb = values;
    r->plan_mb = (double)(m.persistent + m.step_peak) * 1e-6;
}

/* The dry run says how large the step's block must be. */
static int net_plan(const options *o, training *t, result *r, int64_t *bytes)
{
    int i, ok = training_open(o, 1, t);
    for (i = 0; ok && i < 2; ++i) training_run(t);
    ok = ok && !bmvp_failed(t->c);
    if (ok) {
        net_memory(t, r);
        *bytes = bmvp_memory_of(t->c).step_peak;
    }
    return ok;
}

static double net_gflop(const training *t)
{
    const double once = t->row->gflop(&t->cfg);
    return t->row->what == STEP ? 3 * once * t->batch : t->row->what == ENCODE ? once : once * t->batch;
}

/* The runs of a row; the time of inference is of one crop. */
static void network_runs(const options *o, training *t, result *r)
{
    const int n = calls(o), crops = t->row->what == ENCODE ? t->batch : 1;
    int i, j;
    for (i = -1; i < o->reps && !bmvp_failed(t->c); ++i) {
        const double start = start_of(t->c);
        for (j = 0; j < n; ++j) training_run(t);
        (void)bmvp_sync(t->c);
        if (i >= 0) r->second[r->n++] = (now() - start) / (n * crops);
    }
    r->gflop = net_gflop(t);
    r->check = t->check;
    r->batch = t->batch;
}

static void row_config(const net_row *row, bmvp_net_config *k)
{
    int64_t size[3];
    char text[32];
    bmvp_net_preset(row->preset, k);
    k->outputs = 3;
    if (row->segment) {
        k->in_channels = 4;
        k->task = BMVP_TASK_SEGMENT;
        k->deep_supervision = bmvp_net_kind_find(NULL, k->kind)->deep;
    }
    if (!bmvp_net_only_size(NULL, k, size)) return;
    snprintf(text, sizeof text, "img_size=%d", (int)CROP);
    (void)bmvp_net_config_set(k, text, NULL);
}

static void bench_network(bench *b, const net_row *row)
{
    training t;
    result r;
    int64_t block = 0;
    memset(&r, 0, sizeof r);
    memset(&t, 0, sizeof t);
    t.row = row;
    t.batch = row_batch(&b->opt, row);
    row_config(row, &t.cfg);
    if (training_data(&t) && net_plan(&b->opt, &t, &r, &block)) {
        double before;
        training_close(&t);
        before = memory_before(&b->opt);
        if (training_open(&b->opt, 0, &t) && bmvp_reserve(t.c, block) == BMVP_OK) network_runs(&b->opt, &t, &r);
        r.peak_mb = memory_since(&b->opt, before);
    }
    if (!broken(b, row->name, t.c)) report(b, row->name, &r);
    training_close(&t);
    free(t.crop);
    free(t.target);
}

/* >>the real step: three cases, two views each, all losses, templates of eight modalities -------------------------- */

enum { CASES = 3, VALUES = CROP * CROP * CROP };

static float *real_items(bmvp_ssl_item *item)
{
    const int64_t dim[3] = { CROP, CROP, CROP };
    float *volume = (float *)malloc(2 * CASES * VALUES * sizeof *volume);
    int i;
    memset(item, 0, CASES * sizeof *item);
    for (i = 0; volume && i < CASES; ++i) {
        item[i].x = volume + 2 * i * VALUES;
        item[i].other = volume + (2 * i + 1) * VALUES;
        formula_volume(i, 1, dim, volume + 2 * i * VALUES);
        formula_volume(i, 3, dim, volume + (2 * i + 1) * VALUES);
        item[i].modality = i;
        item[i].template_start[0] = 20 + i;
        item[i].template_start[1] = item[i].template_start[2] = 70 - i;
        item[i].slot = (uint32_t)i;
    }
    return volume;
}

/* Three steps that are not counted meet the templates of all modalities, so that each has its gradient: what the plan
   counts. On a device then those that record what is timed. A run ends with its last losses on the host. */
static void real_run(bench *b, bmvp_ctx *c, bmvp_ssl *ssl, bmvp_ssl_item *item, result *r)
{
    const int n = calls(&b->opt);
    int64_t step = 0;
    bmvp_ssl_losses loss;
    int i, j, first = b->opt.backend != NULL;
    memset(&loss, 0, sizeof loss);
    for (i = 0; i < 3; ++i, ++step) {
        for (j = 0; j < CASES; ++j) item[j].modality = (j + CASES * (i + 1)) % BMVP_MODALITIES;
        (void)bmvp_ssl_step(ssl, item, CASES, 1e-4, NULL);
    }
    for (j = 0; j < CASES; ++j) item[j].modality = j;
    for (i = -first; i < b->opt.reps && !bmvp_failed(c); ++i) {
        const double start = start_of(c);
        for (j = 0; j < n; ++j, ++step) (void)bmvp_ssl_step(ssl, item, CASES, 1e-4, NULL);
        (void)bmvp_ssl_losses_of(ssl, step - 1, &loss);
        (void)bmvp_sync(c);
        if (i >= 0) r->second[r->n++] = (now() - start) / n;
        if (i == -first && bmvp_ssl_losses_of(ssl, 3, &loss) == BMVP_OK) r->check = loss.total;
    }
}

static void bench_real(bench *b, const char *row, int recompute)
{
    const int64_t grid[3] = { 155, 240, 240 };
    const char *names[BMVP_MODALITIES];
    bmvp_ssl_item item[CASES];
    bmvp_ssl_config cfg;
    bmvp_net_config net;
    bmvp_config ctx = bmvp_config_default();
    bmvp_memory m;
    bmvp_error err;
    bmvp_ctx *c = NULL;
    bmvp_ssl *ssl = NULL;
    float *volume = real_items(item);
    result r;
    int i;
    memset(&r, 0, sizeof r);
    memset(&err, 0, sizeof err);
    for (i = 0; i < BMVP_MODALITIES; ++i) names[i] = bmvp_modality_name(i);
    bmvp_net_preset(BENCH_NET, &net);
    bmvp_ssl_preset(b->opt.preset, &cfg);
    cfg.contrast_from_epoch = 0; /* all tasks at work, an update in every step */
    cfg.update_every = 1;
    cfg.crop = CROP;
    cfg.recompute = recompute;
    ctx.threads = b->opt.threads;
    ctx.simd = b->opt.simd;
    ctx.precision = b->opt.precision;
    ctx.backend = b->opt.backend;
    if (volume && bmvp_ssl_plan(&ctx, &net, &cfg, BMVP_MODALITIES, names, grid, &m, &err) == BMVP_OK) {
        const double before = memory_before(&b->opt);
        c = bmvp_create(&ctx, &err);
        if (c) bmvp_reserve(c, m.step_peak);
        ssl = c ? bmvp_ssl_create(c, &net, &cfg, BMVP_MODALITIES, names, grid) : NULL;
        if (ssl) real_run(b, c, ssl, item, &r);
        r.peak_mb = memory_since(&b->opt, before);
        r.batch = CASES;
        r.plan_mb = (double)(m.persistent + m.step_peak) * 1e-6;
        r.gflop = 2 * CASES * 3 * uniformer_gflop(&net, 1);
    }
    if (err.status) fprintf(stderr, "bench_step: %s: %s\n", row, err.message);
    if (!broken(b, row, c) && r.n > 0) report(b, row, &r);
    bmvp_ssl_destroy(ssl);
    bmvp_destroy(c);
    free(volume);
}

/* >>main ----------------------------------------------------------------------------------------------------------- */

static int parse(int argc, char **argv, options *o)
{
    static const char *const level[] = { "plain", "vector", "avx2", "avx512" };
    int i, j;
    memset(o, 0, sizeof *o);
    o->preset = "paper";
    o->reps = 7;
    o->simd = BMVP_SIMD_AUTO;
    for (i = 1; i < argc; ++i) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(a, "--json") == 0) o->json = 1;
        else if (strcmp(a, "--list") == 0) o->list = 1;
        else if (strcmp(a, "--machine") == 0) o->machine = 1;
        else if (strcmp(a, "--only") == 0 && *v) o->only = argv[++i];
        else if (strcmp(a, "--preset") == 0 && *v) o->preset = argv[++i];
        else if (strcmp(a, "--threads") == 0) o->threads = atoi(argv[++i < argc ? i : 0]);
        else if (strcmp(a, "--batch") == 0) o->batch = atoi(argv[++i < argc ? i : 0]);
        else if (strcmp(a, "--device") == 0 && *v) o->device = argv[++i];
        else if (strcmp(a, "--reps") == 0) o->reps = atoi(argv[++i < argc ? i : 0]);
        else if (strcmp(a, "--simd") == 0) {
            for (j = 0; j < 4 && strcmp(v, level[j]) != 0; ++j) {}
            if (j == 4) return 0;
            o->simd = (bmvp_simd)j;
            ++i;
        } else if (strcmp(a, "--precision") == 0) {
            for (j = BMVP_FP32; j <= BMVP_TF32 && strcmp(v, bmvp_precision_text((bmvp_precision)j)) != 0; ++j) {}
            if (j > BMVP_TF32) return 0;
            o->precision = (bmvp_precision)j;
            ++i;
        } else return 0;
    }
    return o->reps >= 1 && o->reps <= MAX_REPS && o->threads >= 0 && o->batch >= 0 && o->batch <= 64;
}

static const char *compiler_text(void)
{
#if defined(__clang__)
    return __VERSION__; /* names the compiler itself */
#elif defined(__VERSION__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}

#ifdef BENCH_CUDA
static void machine_gpu(const bench *b)
{
    char text[512];
    gpu_text(text, sizeof text);
    printf(b->opt.json ? "{\"gpu\":\"%s\",\"compiler\":\"%s\"}\n" : "%s, compiler %s\n\n", text, compiler_text());
    fflush(stdout);
}
#endif

static void machine(bench *b)
{
    char line[256], *model = NULL;
    FILE *f = fopen("/proc/cpuinfo", "r");
    bmvp_ctx *c = context(&b->opt, b->opt.threads, 0);
    double one;
    while (f && !model && fgets(line, (int)sizeof line, f))
        if (strncmp(line, "model name", 10) == 0) model = strchr(line, ':');
    if (f) fclose(f);
    if (model) {
        model += 2;
        model[strcspn(model, "\n\"\\")] = 0;
    }
    if (!c) return;
    one = ceiling(&b->opt, 1);
    b->opt.threads = bmvp_threads(c);
    b->ceiling = b->opt.threads > 1 ? ceiling(&b->opt, b->opt.threads) : one;
    printf(b->opt.json ? "{\"cpu\":\"%s\",\"threads\":%d,\"simd\":\"%s\",\"compiler\":\"%s\",\"ceiling_1\":%.1f,"
                         "\"ceiling\":%.1f}\n"
                       : "%s, %d threads, %s, compiler %s\n"
                         "multiply-add ceiling: %.0f GFLOP/s with 1 thread, %.0f with all\n\n",
           model ? model : "unknown processor", b->opt.threads, bmvp_simd_text(bmvp_simd_level(c)), compiler_text(),
           one, b->ceiling);
    fflush(stdout);
    bmvp_destroy(c);
}

enum { NETS = sizeof net_rows / sizeof *net_rows, KERNELS = sizeof kernels / sizeof *kernels, LARGE = NETS + 2 };

/* Rows of whole networks: passes, then the real step, as it is and with checkpointed blocks. */
static const char *large_name(int i) { return i < NETS ? net_rows[i].name : i == NETS ? "real" : "real_checkpoint"; }

static void bench_large(bench *b, int i)
{
    if (i < NETS) bench_network(b, &net_rows[i]);
    else bench_real(b, large_name(i), i > NETS);
}

/* Row i in a process of its own where there are such: its memory is then its own too. Not with a device: CUDA does not
   survive a fork, and a row's memory there ends with its context. */
static void bench_alone(bench *b, int i)
{
    if (!wanted(b, large_name(i))) return;
    heading(b);
#if defined(__unix__) || defined(__APPLE__)
    if (!b->opt.backend) {
        int status = 0;
        pid_t child;
        fflush(stdout);
        child = fork();
        if (child == 0) {
            ++b->rows; /* the heading is printed */
            bench_large(b, i);
            fflush(stdout);
            _exit(b->failed);
        }
        if (child > 0 && waitpid(child, &status, 0) == child) {
            ++b->rows;
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) b->failed = 1;
            if (WIFSIGNALED(status)) fprintf(stderr, "bench_step: ended by signal %d\n", WTERMSIG(status));
            return;
        }
    }
#endif
    bench_large(b, i);
}

static void list(const options *o)
{
    int i;
    for (i = 0; i < LARGE; ++i) printf("%s\n", large_name(i));
    for (i = 0; i < KERNELS && !o->device; ++i) printf("%s_forward\n%s_backward\n", kernels[i].name, kernels[i].name);
}

int main(int argc, char **argv)
{
    bmvp_ssl_config any;
    bench b;
    int i;
    memset(&b, 0, sizeof b);
    if (!parse(argc, argv, &b.opt) || !bmvp_ssl_preset(b.opt.preset, &any)) {
        fprintf(stderr,
                "usage: bench_step [--only ROW] [--threads N] [--simd plain|vector|avx2|avx512] [--reps 1..%d]\n"
                "                  [--precision fp32|bf16|tf32] [--device cpu|cuda[:N]] [--batch 1..64]\n"
                "                  [--preset paper|release|fast] [--json] [--list] [--machine]\n",
                MAX_REPS);
        return 2;
    }
    if (b.opt.list) return list(&b.opt), 0;
    if (b.opt.device && !device_open(b.opt.device, &b.opt)) return 2;
#ifdef BENCH_CUDA
    if (b.opt.backend) machine_gpu(&b);
#endif
    if (!b.opt.backend) machine(&b);
    for (i = 0; i < LARGE && !b.opt.machine; ++i) bench_alone(&b, i);
    for (i = 0; i < KERNELS && !b.opt.machine && !b.opt.backend; ++i) bench_kernel(&b, &kernels[i]);
    if (b.opt.backend) device_close(&b.opt);
    if (b.opt.machine) return 0;
    if (!b.rows && !b.failed) fprintf(stderr, "bench_step: no row is named '%s'; --list prints them\n", b.opt.only);
    return b.failed || !b.rows;
}
