/* Solutions of lesson 8, with its level, cases and logits: a fourth level; levels that add input to output. */
#define main lesson
#include "08_own_network.c"
#undef main

enum { DEEP = 4, TRAINED = 20 };
typedef struct deep_unet {
    level down[DEEP], up[DEEP - 1];
    bmvp_layer halve[DEEP - 1], widen[DEEP - 1], match_down[DEEP], match_up[DEEP - 1], out;
} deep_unet;

/* 1. LEVELS alone, and a name more for the layers between levels: widths and the stride follow. A crop has to be a
   multiple of 8 voxels now. 2. Where widths differ `match`, a 1^3 convolution, makes them equal. */
static void deep_make(bmvp_net *net)
{
    static const char *const name[DEEP] = { "0", "1", "2", "3" };
    const int w = bmvp_net_option_of(&net->cfg, "features", 8);
    deep_unet *u = (deep_unet *)net->layers;
    bmvp_module *m = &net->m;
    int i;
    for (i = 0; i < DEEP; ++i) u->down[i] = make_level(m, "down", i, i ? w << i : net->cfg.in_channels, w << i);
    bmvp_enter(m, "match_down"); /* from the second on, levels keep their width: only the first needs it */
    u->match_down[0] = bmvp_make_conv(m, name[0], net->cfg.in_channels, w, 1, 1, 0, 1);
    bmvp_leave(m);
    bmvp_enter(m, "halve");
    for (i = 0; i < DEEP - 1; ++i) u->halve[i] = bmvp_make_conv(m, name[i], w << i, w << (i + 1), 2, 2, 0, 1);
    bmvp_leave(m);
    bmvp_enter(m, "widen");
    for (i = 0; i < DEEP - 1; ++i) u->widen[i] = bmvp_make_conv_transpose(m, name[i], w << (i + 1), w << i, 2, 1);
    bmvp_leave(m);
    for (i = 0; i < DEEP - 1; ++i) u->up[i] = make_level(m, "up", i, 2 * w << i, w << i);
    bmvp_enter(m, "match_up");
    for (i = 0; i < DEEP - 1; ++i) u->match_up[i] = bmvp_make_conv(m, name[i], 2 * w << i, w << i, 1, 1, 0, 1);
    bmvp_leave(m);
    u->out = bmvp_make_conv(m, "out", w, net->cfg.outputs, 1, 1, 0, 1);
}

/* match NULL: input and output have one width */
static bmvp_tensor *run_residual(bmvp_module *m, const level *l, const bmvp_layer *match, bmvp_tensor *x)
{
    return bmvp_add(m->c, run_level(m, l, x), match ? bmvp_run(m, match, x) : x);
}

static bmvp_features deep_encode(bmvp_net *net, bmvp_tensor *x)
{
    const deep_unet *u = (const deep_unet *)net->layers;
    bmvp_features f;
    int i;
    memset(&f, 0, sizeof f);
    for (i = 0; i < DEEP; ++i) {
        x = i ? bmvp_run(&net->m, &u->halve[i - 1], x) : x;
        f.map[i] = x = run_residual(&net->m, &u->down[i], i ? NULL : &u->match_down[0], x);
    }
    f.last = x;
    return f;
}

static bmvp_logits deep_segment(bmvp_net *net, bmvp_tensor *x, const bmvp_features *f, int deep)
{
    const deep_unet *u = (const deep_unet *)net->layers;
    bmvp_logits l = { NULL, NULL, NULL };
    bmvp_tensor *pair[2];
    int i = DEEP - 1 - deep;
    for (x = f->last; i-- > 0;) {
        pair[0] = bmvp_run(&net->m, &u->widen[i], x), pair[1] = f->map[i];
        x = run_residual(&net->m, &u->up[i], &u->match_up[i], bmvp_concat(net->m.c, 2, pair, 4));
    }
    l.full = bmvp_run(&net->m, &u->out, x);
    return l;
}
static int64_t deep_stride(const bmvp_net_config *k) { (void)k; return 1 << (DEEP - 1); }

/* A level whose last norm gives 0 adds nothing: its input comes through bit for bit. And the fourth level's map has an
   eighth of the edge. */
static int as_it_should_be(bmvp_net *net, const float *image)
{
    static float in[2 * VOXELS], out[2 * VOXELS]; /* the second level: (EDGE / 2)^3 voxels of 16 channels */
    const int64_t dim[5] = { 1, EDGE, EDGE, EDGE, 1 };
    const deep_unet *u = (const deep_unet *)net->layers;
    bmvp_ctx *c = net->m.c;
    bmvp_features f;
    bmvp_fill(c, u->down[1].norm2.w, 0), bmvp_fill(c, u->down[1].norm2.b, 0);
    bmvp_step_begin(c);
    f = bmvp_net_encode(net, bmvp_input(c, 5, dim, image), 0);
    (void)bmvp_read(c, bmvp_run(&net->m, &u->halve[0], f.map[0]), in);
    (void)bmvp_read(c, f.map[1], out);
    return !bmvp_failed(c) && memcmp(in, out, (size_t)f.map[1]->numel * sizeof *in) == 0 &&
           f.last->dim[1] == EDGE / 8 && f.last->dim[4] == f.map[0]->dim[4] << 3;
}

int main(void)
{
    static float image[VOXELS], label[VOXELS];
    const int64_t dim[5] = { 1, EDGE, EDGE, EDGE, 1 };
    bmvp_net_kind row = unet_row();
    const bmvp_net_kind *rows[2] = { NULL, NULL };
    bmvp_config cfg = bmvp_config_default();
    bmvp_net_config k = bmvp_net_config_default("my_deep_unet");
    bmvp_optim_config adam = bmvp_optim_config_default(BMVP_ADAMW);
    double first = 0, last = 0;
    bmvp_optim *optim;
    bmvp_net *net;
    bmvp_ctx *c;
    int step, bad;
    row.name = "my_deep_unet", row.size = sizeof(deep_unet), row.stride = deep_stride;
    row.make = deep_make, row.encode = deep_encode, row.segment = deep_segment;
    row.part[BMVP_PART_ENCODER] = "down. halve. match_down.";
    rows[0] = &row, cfg.networks = rows;
    c = bmvp_create(&cfg, NULL);
    if (!c) return 1;
    k.task = BMVP_TASK_SEGMENT, (void)bmvp_net_config_set(&k, "outputs=1 features=8", NULL);
    net = bmvp_net_create(c, &k);
    if (net) bmvp_net_init(net, 1);
    optim = net ? bmvp_optim_create(c, bmvp_net_state(net), &adam) : NULL;
    for (step = 0; step < TRAINED && optim && !bmvp_failed(c); ++step) {
        bmvp_tensor *y, *t, *dice;
        make_case((uint32_t)step, image, label);
        bmvp_step_begin(c);
        y = logits_of(net, image, 1), t = bmvp_input(c, 5, dim, label);
        dice = bmvp_soft_dice(c, bmvp_sigmoid(c, y), t, 0, 1e-5);
        bmvp_backward(c, bmvp_add(c, dice, bmvp_bce_logits(c, y, t)));
        bmvp_optim_step(optim, 1e-2, 1), bmvp_optim_zero_grad(optim);
        last = (double)bmvp_scalar(c, dice);
        if (!step) first = last;
    }
    printf("four levels, residual: stride %d, Dice loss %.3f, after %d steps %.3f\n", (int)deep_stride(&k), first,
           TRAINED, last);
    bad = bmvp_failed(c) || !net || !(last < 0.8 * first) || !as_it_should_be(net, image);
    if (bmvp_failed(c)) printf("%s\n", bmvp_error_of(c)->message);
    bmvp_optim_destroy(optim), bmvp_net_destroy(net), bmvp_destroy(c);
    return bad;
}
