/* 08_own_network.c - lesson 8: a network of your own: a U-Net of layers, its row, and what comes with them

   What you learn: layers are made by name, as PyTorch's modules are; a row in a table makes a network of them that
   the library trains, saves and reads like its own. The U-Net finds balls in noise, is saved and read back.
   Run:  cc -O2 -I. examples/08_own_network.c -o 08_own_network -lm -lpthread && ./08_own_network (2 s; compiling: 15 s)
   You see, numbers within 15 % or 0.03 (tests: the best level, AVX2, C's vectors; `make course-levels`: plain, 15 s):
   | step  0  Dice loss 0.92
   | step 59  Dice loss 0.09
   | read back: the same logits
   Exercises:
   1. Give the net a fourth level. What follows from LEVELS by itself? Hint: unet_stride(), and what a crop must be.
   2. Let a level add its input to its output (a residual block). Hint: where widths differ a 1^3 convolution helps.
   In the headers: bmvp_nn.h >>layers, >>networks. Twin: pytorch/08_own_network.py, from START.pt on (argument). */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include <stdio.h>
#include <string.h>

enum { EDGE = 16, VOXELS = EDGE * EDGE * EDGE, STEPS = 60, LEVELS = 3 };

/* >>network: a level is two convolutions with norms; down by strided ones, up by transposed ones beside the skips */
typedef struct level { bmvp_layer conv1, norm1, conv2, norm2; } level;
typedef struct unet {
    level down[LEVELS], up[LEVELS - 1];
    bmvp_layer halve[LEVELS - 1], widen[LEVELS - 1], out;
} unet;
static level make_level(bmvp_module *m, const char *name, int number, int in, int out)
{
    level l;
    bmvp_enter(m, "%s.%d", name, number);
    l.conv1 = bmvp_make_conv(m, "conv1", in, out, 3, 1, 1, 1);
    l.norm1 = bmvp_make_groupnorm(m, "norm1", out, 4);
    l.conv2 = bmvp_make_conv(m, "conv2", out, out, 3, 1, 1, 1);
    l.norm2 = bmvp_make_groupnorm(m, "norm2", out, 4);
    bmvp_leave(m);
    return l;
}
static bmvp_tensor *run_level(bmvp_module *m, const level *l, bmvp_tensor *x)
{
    x = bmvp_relu(m->c, bmvp_run(m, &l->norm1, bmvp_run(m, &l->conv1, x)));
    return bmvp_relu(m->c, bmvp_run(m, &l->norm2, bmvp_run(m, &l->conv2, x)));
}
static void unet_make(bmvp_net *net) /* in the order of the twin's modules */
{
    static const char *const name[LEVELS] = { "0", "1", "2" };
    const int w = bmvp_net_option_of(&net->cfg, "features", 8);
    unet *u = (unet *)net->layers;
    bmvp_module *m = &net->m;
    int i;
    for (i = 0; i < LEVELS; ++i) u->down[i] = make_level(m, "down", i, i ? w << i : net->cfg.in_channels, w << i);
    bmvp_enter(m, "halve");
    for (i = 0; i < LEVELS - 1; ++i) u->halve[i] = bmvp_make_conv(m, name[i], w << i, w << (i + 1), 2, 2, 0, 1);
    bmvp_leave(m);
    bmvp_enter(m, "widen");
    for (i = 0; i < LEVELS - 1; ++i) u->widen[i] = bmvp_make_conv_transpose(m, name[i], w << (i + 1), w << i, 2, 1);
    bmvp_leave(m);
    for (i = 0; i < LEVELS - 1; ++i) u->up[i] = make_level(m, "up", i, 2 * w << i, w << i);
    u->out = bmvp_make_conv(m, "out", w, net->cfg.outputs, 1, 1, 0, 1);
}
static bmvp_features unet_encode(bmvp_net *net, bmvp_tensor *x)
{
    const unet *u = (const unet *)net->layers;
    bmvp_features f;
    int i;
    memset(&f, 0, sizeof f);
    for (i = 0; i < LEVELS; ++i)
        f.map[i] = x = run_level(&net->m, &u->down[i], i ? bmvp_run(&net->m, &u->halve[i - 1], x) : x);
    f.last = x;
    return f;
}
static bmvp_logits unet_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep)
{
    const unet *u = (const unet *)net->layers;
    bmvp_logits l = { NULL, NULL, NULL };
    bmvp_tensor *pair[2];
    int i = LEVELS - 1 - deep; /* 0: the row has no coarser heads */
    for (x = f->last; i-- > 0;) {
        pair[0] = bmvp_run(&net->m, &u->widen[i], x), pair[1] = f->map[i];
        x = run_level(&net->m, &u->up[i], bmvp_concat(net->m.c, 2, pair, 4));
    }
    l.full = bmvp_run(&net->m, &u->out, x);
    return l;
}
static int64_t unet_stride(const bmvp_net_config *k) { (void)k; return 1 << (LEVELS - 1); }

/* >>row: what training, files and prediction ask about it */
static bmvp_net_kind unet_row(void)
{
    bmvp_net_kind k;
    memset(&k, 0, sizeof k);
    k.name = "my_unet", k.fields = "features";
    k.size = sizeof(unet), k.stride = unet_stride;
    k.make = unet_make, k.encode = unet_encode, k.segment = unet_segment;
    k.part[BMVP_PART_ENCODER] = "down. halve.";
    k.part[BMVP_PART_STEM] = "down.0.conv1.", k.part[BMVP_PART_HEAD] = "out.";
    return k;
}

/* a ball somewhere in noise, of numbers from 0 to 1 that the twin in PyTorch draws, too */
static float draw(uint32_t *r) { return (float)((*r = *r * 1664525u + 1013904223u) >> 8) / 16777216; }
static void make_case(uint32_t number, float *image, float *label)
{
    uint32_t r = number * 2654435761u;
    float at[3], radius = 3 + 2 * draw(&r);
    int i;
    for (i = 0; i < 3; ++i) at[i] = 5 + (EDGE - 10) * draw(&r);
    for (i = 0; i < VOXELS; ++i) {
        const float z = (float)(i / EDGE / EDGE) - at[0], y = (float)(i / EDGE % EDGE) - at[1],
                    x = (float)(i % EDGE) - at[2];
        label[i] = z * z + y * y + x * x < radius * radius;
        image[i] = 0.8f * label[i] + draw(&r) - 0.5f;
    }
}

static bmvp_tensor *logits_of(bmvp_net *net, const float *image, int training)
{
    const int64_t dim[5] = { 1, EDGE, EDGE, EDGE, 1 };
    bmvp_tensor *x = bmvp_input(net->m.c, 5, dim, image);
    const bmvp_features f = bmvp_net_encode(net, x, training);
    return bmvp_net_segment(net, x, &f, 0).full;
}

/* What it makes of a case that it does not see in training */
static void try_it(bmvp_net *net, float *image, float *logits)
{
    make_case(1000, image, logits);
    bmvp_step_begin(net->m.c);
    (void)bmvp_read(net->m.c, logits_of(net, image, 0), logits);
}

/* >>files: the state as group "state_dict", and one case with its logits to compare with */
static bmvp_status save(bmvp_net *net, const char *path, float *logits, bmvp_error *err)
{
    static float image[VOXELS];
    static const int64_t dim[3] = { EDGE, EDGE, EDGE };
    bmvp_state_part part = { NULL, NULL, NULL, 0 };
    bmvp_ckpt_writer *w;
    try_it(net, image, logits);
    if (bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, err)) return err->status;
    part.c = net->m.c, part.list = bmvp_net_state(net);
    (void)bmvp_state_declare(w, "state_dict", &part, err);
    (void)bmvp_ckpt_writer_add(w, "example", "input", BMVP_DTYPE_F32, 3, dim, err);
    (void)bmvp_ckpt_writer_add(w, "example", "logits", BMVP_DTYPE_F32, 3, dim, err);
    (void)bmvp_state_data(w, &part, err);
    (void)bmvp_ckpt_writer_data(w, image, sizeof image, err);
    (void)bmvp_ckpt_writer_data(w, logits, sizeof image, err);
    return bmvp_ckpt_writer_finish(w, err); /* the first failure */
}
static bmvp_status load(bmvp_net *net, const char *path, bmvp_error *err)
{
    bmvp_state_part part = { NULL, NULL, NULL, 0 };
    bmvp_ckpt *f;
    if (bmvp_ckpt_open(path, NULL, &f, err)) return err->status;
    part.c = net->m.c, part.list = bmvp_net_state(net);
    (void)bmvp_state_load(f, "state_dict", &part, err);
    bmvp_ckpt_close(f);
    return err->status;
}

int main(int argc, char **argv)
{
    static float image[VOXELS], label[VOXELS], before[VOXELS], after[VOXELS];
    const int64_t dim[5] = { 1, EDGE, EDGE, EDGE, 1 };
    const bmvp_net_kind row = unet_row(), *rows[2] = { NULL, NULL };
    bmvp_config cfg = bmvp_config_default();
    bmvp_net_config k = bmvp_net_config_default("my_unet");
    bmvp_optim_config adam = bmvp_optim_config_default(BMVP_ADAMW);
    bmvp_error err = { BMVP_OK, "" };
    bmvp_net *net, *again;
    bmvp_optim *optim;
    bmvp_ctx *c;
    int step, same;
    rows[0] = &row, cfg.networks = rows;
    c = bmvp_create(&cfg, NULL);
    k.task = BMVP_TASK_SEGMENT, (void)bmvp_net_config_set(&k, "outputs=1 features=8", NULL);
    net = bmvp_net_create(c, &k), again = bmvp_net_create(c, &k);
    bmvp_net_init(net, 1);
    if (net && argc > 1) (void)save(net, argv[1], before, &err);
    optim = bmvp_optim_create(c, net ? bmvp_net_state(net) : NULL, &adam);
    for (step = 0; step < STEPS && !err.status && !bmvp_failed(c); ++step) {
        bmvp_tensor *y, *t, *dice;
        make_case((uint32_t)step, image, label);
        bmvp_step_begin(c);
        y = logits_of(net, image, 1), t = bmvp_input(c, 5, dim, label);
        dice = bmvp_soft_dice(c, bmvp_sigmoid(c, y), t, 0, 1e-5);
        bmvp_backward(c, bmvp_add(c, dice, bmvp_bce_logits(c, y, t)));
        bmvp_optim_step(optim, 1e-2, 1), bmvp_optim_zero_grad(optim);
        if (step % 10 == 0 || step == STEPS - 1) printf("step %2d  Dice loss %.4f\n", step, bmvp_scalar(c, dice));
    }
    if (!bmvp_failed(c) && !err.status && !save(net, "own_network.pt", before, &err) &&
        !load(again, "own_network.pt", &err))
        try_it(again, image, after);
    same = !err.status && memcmp(before, after, sizeof before) == 0;
    if (bmvp_failed(c) || err.status) printf("%s\n", err.status ? err.message : bmvp_error_of(c)->message);
    else printf("read back: %s logits\n", same ? "the same" : "OTHER");
    bmvp_optim_destroy(optim), bmvp_net_destroy(net), bmvp_net_destroy(again);
    bmvp_destroy(c);
    return !same;
}
