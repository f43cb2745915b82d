/* test_methods_vit.c - the methods of examples/methods on a transformer's tokens against their authors' own code
   (BMVP_DATA/golden/ssl; skipped where the files are absent) and a twin in PyTorch (tests/fixtures/methods): which
   tokens are masked, losses, what comes back, gradients of all parameters. Seed, shapes and draws are the file's. And
   the tokens of a UNETR. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include "tests/support/formula.h"
#include "tests/support/context.h"
#include "tests/support/golden_ssl.h"
#include "tests/support/golden_draws.h"
#include "tests/support/tokens.h"
#include "examples/methods/tokens.h"
#include "examples/methods/views.h"

enum { CONFIG = 64, MOST_ITEMS = 8 }; /* doubles that hold any method's config */

static void set(const method_row *m, void *config, const char *name, double value)
{
    char text[32];
    bmvp_error err;
    snprintf(text, sizeof text, "%.17g", value);
    check_report(bmvp_field_set(m->method()->fields, config, name, text, &err) == BMVP_OK, __FILE__, __LINE__, "%s",
                 err.message);
}

/* MONAI's and MIM-Med3D's names as the library's layers give them */
static const char *our_name(const char *theirs, char *ours, size_t size)
{
    static const char *const word[][2] = { { "attn.out_proj", "attn.proj" }, { "mlp.linear1", "mlp.fc1" },
                                           { "mlp.linear2", "mlp.fc2" },
                                           { "decoder_pos_emb.weight", "decoder_pos_emb" },
                                           { "base_encoder.body", "body" }, { "base_encoder.head", "projector" },
                                           { "momentum_encoder.head", "projector" } };
    size_t i;
    snprintf(ours, size, "%s", theirs);
    for (i = 0; i < sizeof word / sizeof *word; ++i) {
        const char *const at = strstr(theirs, word[i][0]);
        if (at) snprintf(ours, size, "%.*s%s%s", (int)(at - theirs), theirs, word[i][1], at + strlen(word[i][0]));
    }
    return ours;
}

/* ---- a step of the transformer that a file describes ------------------------------------------------------------- */

typedef struct vit_case {
    const golden_ssl *g;
    const bmvp_json *out;
    int edge, patch, hidden, mlp, layers, heads, width, depth, decoder_heads, decoder_mlp;
    int64_t n, tokens;
    double ratio;
} vit_case;

static int read_case(const golden_ssl *g, const char *of, vit_case *k)
{
    const bmvp_json *in = bmvp_json_get(bmvp_json_get(bmvp_json_get(bmvp_json_root(g->doc), "cases"), of), "in");
    const char *ratio = strstr(bmvp_json_string(bmvp_json_get(in, "noise"), ""), "ratio "), *decoder;
    const char *const net = bmvp_json_string(bmvp_json_get(in, "net"), "");
    memset(k, 0, sizeof *k);
    k->g = g;
    k->out = bmvp_json_get(bmvp_json_get(bmvp_json_get(bmvp_json_root(g->doc), "cases"), of), "out");
    k->ratio = ratio ? strtod(ratio + 6, NULL) : bmvp_json_double(bmvp_json_get(in, "ratio"), 0.75);
    k->n = bmvp_json_int(bmvp_json_at(bmvp_json_get(bmvp_json_get(k->out, "pred"), "shape"), 0), 0);
    decoder = strstr(net, "decoder");
    if (decoder && sscanf(decoder, "decoder %d, %d layers, %d heads, mlp %d", &k->width, &k->depth, &k->decoder_heads,
                          &k->decoder_mlp) != 4) CHECK(0);
    if (!CHECK(sscanf(net, "ViT %d^3, patch %d, hidden %d, mlp %d, %d layers, %d heads", &k->edge, &k->patch,
                      &k->hidden, &k->mlp, &k->layers, &k->heads) == 6 && k->n > 0 && k->n <= MOST_ITEMS)) return 0;
    k->tokens = (k->edge / k->patch) * (k->edge / k->patch) * (k->edge / k->patch);
    return 1;
}

typedef struct noise_rows { const float *at; } noise_rows; /* the noise of all samples, a row a call */
static void next_noise(void *user, int64_t n, float *out)
{
    noise_rows *l = (noise_rows *)user;
    memcpy(out, l->at, (size_t)n * sizeof *out);
    l->at += n;
}
static draws noise_draws(noise_rows *l, const float *noise)
{
    draws r;
    memset(&r, 0, sizeof r);
    l->at = noise;
    r.noise = next_noise, r.user = l;
    return r;
}

static void same_tokens(const char *what, const bmvp_json *want, const int32_t *got, int64_t n)
{
    const bmvp_json *v;
    int64_t i = 0;
    check_report(bmvp_json_count(want) == n, __FILE__, __LINE__, "%s: %d tokens, not %d", what, (int)n,
                 (int)bmvp_json_count(want));
    for (v = want ? want->first : NULL; v && i < n; v = v->next, ++i)
        check_report(bmvp_json_int(v, -1) == got[i], __FILE__, __LINE__, "%s: token %d is %d, not %d", what, (int)i,
                     (int)got[i], (int)bmvp_json_int(v, -1));
}

/* A pass of the method whose forward is given, on the file's images; losses and gradients against the file's. */
static void run_case(const vit_case *k, const method_row *row, void *config, void (*forward)(bmvp_pass *p))
{
    const bmvp_net_kind kind = tokens_vit_row(), *kinds[2] = { NULL, NULL };
    const int64_t voxels = (int64_t)k->edge * k->edge * k->edge;
    bmvp_net_config net = bmvp_net_config_default("test_vit");
    bmvp_config cfg = bmvp_config_default();
    bmvp_method m = *row->method();
    method_item item[MOST_ITEMS];
    bmvp_losses loss;
    bmvp_trainer *t;
    bmvp_ctx *c;
    float *x = (float *)malloc((size_t)(k->n * voxels) * sizeof *x);
    char text[160];
    int i;
    kinds[0] = &kind, cfg.networks = kinds, cfg.threads = 1;
    c = bmvp_create(&cfg, NULL);
    snprintf(text, sizeof text, "patch=%d hidden=%d mlp=%d layers=%d heads=%d", k->patch, k->hidden, k->mlp, k->layers,
             k->heads);
    CHECK(x && bmvp_net_config_set(&net, text, NULL) == BMVP_OK);
    memset(item, 0, sizeof item);
    if (x) golden_ssl_uniform(k->g, "image", 1, 0, k->n * voxels, x);
    for (i = 0; i < k->n; ++i) item[i].x = x + i * voxels;
    m.forward = forward;
    set(row, config, "crop", k->edge);
    set(row, config, "batch", (double)k->n);
    t = bmvp_trainer_create(c, &m, &net, config, k, 1);
    check_context(c);
    if (t) {
        golden_ssl_fill(k->g, bmvp_json_get(k->out, "grad"), c, bmvp_net_state(t->net), our_name);
        CHECK(bmvp_trainer_accumulate(t, item, (int)k->n, &loss) == BMVP_OK);
        golden_ssl_near("a step", "the loss", loss.total, bmvp_json_double(bmvp_json_get(bmvp_json_get(k->out, "loss"),
                        "value"), (double)NAN), 2e-5 * fabs(loss.total));
        golden_ssl_entries(bmvp_json_get(k->out, "grad"), c, bmvp_net_state(t->net), our_name, 1);
    }
    bmvp_trainer_destroy(t);
    bmvp_destroy(c);
    free(x);
}

static const vit_case *running; /* what the forwards below are of */

/* ---- MAE3D ------------------------------------------------------------------------------------------------------- */

static void mae3d_config_of(const method_row **row, void *config, const vit_case *k)
{
    *row = method_find("mae3d");
    CHECK(*row && (*row)->preset("release", config));
    if (!k) return;
    set(*row, config, "mask_ratio", k->ratio), set(*row, config, "decoder_width", k->width);
    set(*row, config, "decoder_depth", k->depth), set(*row, config, "decoder_heads", k->decoder_heads);
    set(*row, config, "decoder_mlp", k->decoder_mlp);
}

static void mae3d_forward(bmvp_pass *p)
{
    const mae3d_config *k = (const mae3d_config *)p->config;
    const int64_t tokens = running->tokens, m = mae3d_masked(k, tokens);
    float noise[MOST_ITEMS * 64];
    int32_t masked[MOST_ITEMS * 64], seen[MOST_ITEMS * 64];
    noise_rows l;
    const draws r = noise_draws(&l, noise);
    int i;
    if (!CHECK(tokens <= 64)) return;
    golden_ssl_uniform(running->g, "noise", 1, 0, running->n * tokens, noise);
    for (i = 0; i < p->n; ++i) CHECK(mae3d_choose(&r, k, tokens, masked + i * m, seen + i * (tokens - m)));
    golden_ssl_entry("what comes back", bmvp_json_get(running->out, "pred"), p->c, mae3d_losses(p, masked, seen), NULL,
                     0);
}

static void mae3d_masks(const golden_ssl *g, int original)
{
    const char *const of = original ? "masking_mae" : "masking_mim_med3d";
    const bmvp_json *a = golden_ssl_out(g, of, original ? "keep" : "masked"), *b;
    const method_row *row;
    double config[CONFIG];
    float noise[MOST_ITEMS * 64];
    int32_t masked[64], seen[64];
    noise_rows l;
    const draws r = noise_draws(&l, noise);
    int64_t tokens, m, i, k;
    mae3d_config_of(&row, config, NULL);
    set(row, config, "keep_smallest", original);
    b = golden_ssl_out(g, of, original ? "mask" : "visible");
    tokens = original ? bmvp_json_count(b->first) : bmvp_json_count(a->first) + bmvp_json_count(b->first);
    if (!CHECK(tokens <= 64 && bmvp_json_count(a) <= MOST_ITEMS)) return;
    golden_ssl_uniform(g, "noise", 1, 0, bmvp_json_count(a) * tokens, noise);
    for (i = 0; i < bmvp_json_count(a); ++i) {
        CHECK(mae3d_choose(&r, (const mae3d_config *)(void *)config, tokens, masked, seen));
        m = mae3d_masked((const mae3d_config *)(void *)config, tokens);
        if (!original) same_tokens("seen", bmvp_json_at(b, i), seen, tokens - m);
        if (original) same_tokens("kept", bmvp_json_at(a, i), seen, tokens - m);
        else same_tokens("masked", bmvp_json_at(a, i), masked, m);
        for (k = 0; k < m && original; ++k) CHECK(bmvp_json_int(bmvp_json_at(bmvp_json_at(b, i), masked[k]), 0) == 1);
    }
}

/* Patches of a volume with channels: rows and back. The file's image is channels first. */
static void mae3d_patches(const golden_ssl *g)
{
    enum { C = 2, D = 4, H = 6, W = 4 };
    static const int64_t d[4] = { D, H, W, C }, p[3] = { 2, 2, 2 };
    float image[C * D * H * W], rows[C * D * H * W], back[C * D * H * W];
    int32_t index[D * H * W / 8];
    int i;
    for (i = 0; i < C * D * H * W; ++i) image[i] = (float)(i % C * D * H * W + i / C);
    for (i = 0; i < D * H * W / 8; ++i) index[i] = i;
    tokens_fetch(d, p, D * H * W / 8, index, image, rows);
    golden_ssl_check("patches", golden_ssl_out(g, "patchify", "patches"), rows, C * D * H * W);
    tokens_place(d, p, D * H * W / 8, index, rows, back);
    CHECK(memcmp(image, back, sizeof back) == 0);
}

/* The original's loss, of normalised patches and of plain ones */
static void mae3d_pixels(const golden_ssl *g, int normalised)
{
    enum { ROWS = 12, VOXELS = 24 };
    int64_t d[2] = { ROWS, VOXELS };
    const method_row *row;
    double config[CONFIG];
    float patch[ROWS * VOXELS], x[ROWS * VOXELS], mask[ROWS], want[ROWS * VOXELS], y;
    int32_t removed[ROWS];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *pred, *loss;
    int i, n = 0;
    mae3d_config_of(&row, config, NULL);
    set(row, config, "squared", 1);
    golden_ssl_uniform(g, "patches", 1, 0, ROWS * VOXELS, patch);
    golden_ssl_uniform(g, "pred", 2, -1, ROWS * VOXELS, x);
    golden_ssl_uniform(g, "mask", 1, 0, ROWS, mask);
    if (normalised) mae3d_normalise(ROWS, VOXELS, patch);
    if (normalised) golden_ssl_check("normalised", golden_ssl_out(g, "loss_norm_pix", "target_normalised"), patch,
                                     ROWS * VOXELS);
    for (i = 0; i < ROWS; ++i)
        if (mask[i] < 0.75f) memcpy(want + n * VOXELS, patch + i * VOXELS, sizeof y * VOXELS), removed[n++] = i;
    bmvp_step_begin(c);
    pred = bmvp_keep(bmvp_leaf(c, 2, d, x));
    d[0] = n;
    loss = mae3d_loss(c, (const mae3d_config *)(void *)config, bmvp_gather_rows(c, pred, n, removed),
                      bmvp_input(c, 2, d, want));
    CHECK(bmvp_read(c, bmvp_keep(loss), &y) == BMVP_OK);
    golden_ssl_check("loss", golden_ssl_out(g, "loss_norm_pix", normalised ? "loss" : "loss_plain"), &y, 1);
    bmvp_backward(c, loss);
    golden_ssl_tensor(g, "loss_norm_pix", normalised ? "grad_pred" : "grad_pred_plain", c, pred, 1);
    bmvp_destroy(c);
}

static void mae3d_positions(const golden_ssl *g)
{
    static const int64_t grid[3] = { 2, 3, 4 };
    float x[24 * 12];
    tokens_sincos(grid, 12, x);
    golden_ssl_check("sines and cosines", golden_ssl_out(g, "sincos3d", "position"), x, 24 * 12);
}

static void mae3d_rates(const golden_ssl *g)
{
    const double lr = bmvp_json_double(golden_ssl_in(g, "schedule", "lr"), 0),
                 floor_ = bmvp_json_double(golden_ssl_in(g, "schedule", "eta_min"), 0),
                 warmup = bmvp_json_double(golden_ssl_in(g, "schedule", "warmup_epochs"), 0),
                 epochs = bmvp_json_double(golden_ssl_in(g, "schedule", "max_epochs"), 0);
    const bmvp_json *v = golden_ssl_out(g, "schedule", "lr");
    int e = 0;
    for (v = v ? v->first : NULL; v; v = v->next, ++e)
        golden_ssl_near("rate", "of an epoch", tokens_rate(lr, floor_, warmup, epochs, e + 0.5, 1),
                        bmvp_json_double(v, (double)NAN), 1e-9 * lr);
    CHECK(e > 0);
}

static void test_mae3d(const golden_ssl *g)
{
    const method_row *row;
    double config[CONFIG];
    vit_case k;
    if (golden_ssl_has(g, "patchify")) mae3d_patches(g);
    if (golden_ssl_has(g, "masking_mim_med3d")) mae3d_masks(g, 0);
    if (golden_ssl_has(g, "masking_mae")) mae3d_masks(g, 1);
    if (golden_ssl_has(g, "loss_norm_pix")) mae3d_pixels(g, 0), mae3d_pixels(g, 1);
    if (golden_ssl_has(g, "sincos3d")) mae3d_positions(g);
    if (golden_ssl_has(g, "schedule")) mae3d_rates(g);
    if (!CHECK(golden_ssl_has(g, "step_mim_med3d")) || !read_case(g, "step_mim_med3d", &k)) return;
    running = &k;
    mae3d_config_of(&row, config, &k);
    run_case(&k, row, config, mae3d_forward);
}

/* ---- SimMIM ------------------------------------------------------------------------------------------------------ */

static void simmim_forward(bmvp_pass *p)
{
    const int64_t tokens = running->tokens, m = (int64_t)((double)tokens * running->ratio);
    const bmvp_json *want = bmvp_json_get(running->out, "masked");
    float noise[MOST_ITEMS * 64];
    int32_t masked[(MOST_ITEMS + 1) * 64];
    noise_rows l;
    const draws r = noise_draws(&l, noise);
    int i;
    if (!CHECK(tokens <= 64)) return;
    golden_ssl_uniform(running->g, "noise", 1, 0, running->n * tokens, noise);
    for (i = 0; i < p->n; ++i) {
        CHECK(simmim_largest(&r, tokens, masked + i * m));
        if (want) same_tokens("masked", bmvp_json_at(want, i), masked + i * m, m);
    }
    golden_ssl_entry("what comes back", bmvp_json_get(running->out, "pred"), p->c, simmim_losses(p, masked), NULL, 0);
}

/* Blocks by a permutation: 2-D masks are one token thick. */
static void simmim_masks(const golden_ssl *g, const char *of)
{
    const bmvp_json *k = golden_ssl_in(g, of, "config"), *shape = golden_ssl_out(g, of, "shape"),
                    *model = bmvp_json_get(k, "model_patch_size"), *one = golden_ssl_out(g, of, "ones");
    const int64_t block = bmvp_json_int(bmvp_json_get(k, "mask_patch_size"), 0) /
                          bmvp_json_int(model->type == BMVP_JSON_ARRAY ? model->first : model, 1);
    int64_t grid[3] = { 1, 1, 1 }, size[3] = { 1, 1, 1 }, rank = bmvp_json_count(shape), n = 1, i;
    int32_t mask[512];
    char name[64];
    golden_draws l;
    draws r;
    snprintf(name, sizeof name, "perm.%s", of);
    r = golden_draws_of(&l, g, NULL, name, "none");
    l.bare = 1;
    for (i = 0; i < rank; ++i) {
        grid[3 - rank + i] = bmvp_json_int(bmvp_json_at(shape, i), 0);
        size[3 - rank + i] = block;
    }
    for (i = 0; i < 3; ++i) n *= grid[i];
    if (!CHECK(n > 0 && n <= 512)) return;
    CHECK(simmim_blocks(&r, bmvp_json_double(bmvp_json_get(k, "mask_ratio"), 0), grid, size, mask));
    for (one = one->first, i = 0; i < n; ++i) {
        const int is = one && bmvp_json_int(one, -1) == i;
        check_report(mask[i] == is, __FILE__, __LINE__, "%s: token %d is %d", of, (int)i, (int)mask[i]);
        if (is) one = one->next;
    }
    CHECK(!one);
}

/* Microsoft's loss: images (2, 3, 16, 16), a mask of 4 x 4 tokens each; and what its PixelShuffle does */
static void simmim_microsoft(const golden_ssl *g)
{
    enum { N = 2, C = 3, E = 16, ALL = N * C * E * E };
    static const int64_t d[4] = { 1, 8, 8, 1 }, p[3] = { 1, 4, 4 };
    static const int32_t place[4] = { 0, 1, 2, 3 };
    int64_t dim[2] = { ALL, 1 };
    float image[ALL], back[ALL], mask[N * E], want[ALL], z[48 * 4], row[4 * 16], shuffled[3 * 64], y;
    int32_t index[ALL];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *x, *loss;
    int i, k, n = 0;
    golden_ssl_uniform(g, "image2d", 1, 0, ALL, image);
    golden_ssl_uniform(g, "rec2d", 1, 0, ALL, back);
    golden_ssl_uniform(g, "mask2d", 1, 0, N * E, mask);
    for (i = 0; i < ALL; ++i)
        if (mask[i / (C * E * E) * 16 + i / E % E / 4 * 4 + i % E / 4] < 0.6f) want[n] = image[i], index[n++] = i;
    bmvp_step_begin(c);
    x = bmvp_keep(bmvp_leaf(c, 2, dim, back));
    dim[0] = n;
    loss = simmim_loss(c, bmvp_gather_rows(c, x, n, index), bmvp_input(c, 2, dim, want), (double)n / C, 1);
    CHECK(bmvp_read(c, bmvp_keep(loss), &y) == BMVP_OK);
    golden_ssl_check("loss", golden_ssl_out(g, "loss_microsoft", "loss"), &y, 1);
    bmvp_backward(c, loss);
    golden_ssl_tensor(g, "loss_microsoft", "grad_rec", c, x, 1);
    golden_ssl_uniform(g, "z", 1, 0, 48 * 4, z);
    for (k = 0; k < C; ++k) { /* a channel's 16 values of a token are its patch */
        for (i = 0; i < 64; ++i) row[i] = z[(k * 16 + i % 16) * 4 + i / 16];
        tokens_place(d, p, 4, place, row, shuffled + k * 64);
    }
    golden_ssl_check("pixels", golden_ssl_out(g, "loss_microsoft", "pixel_shuffle"), shuffled, 3 * 64);
    bmvp_destroy(c);
}

static void simmim_token(const golden_ssl *g)
{
    static const int32_t mask[10] = { 1, 0, 1, 1, 0, 0, 0, 1, 0, 1 };
    const int64_t d[3] = { 2, 5, 4 };
    float x[40], one[4], cot[40];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *tokens, *token, *y;
    golden_ssl_uniform(g, "tokens", 2, -1, 40, x);
    golden_ssl_uniform(g, "mask_token", 2, -1, 4, one);
    golden_ssl_uniform(g, "cot", 2, -1, 40, cot);
    bmvp_step_begin(c);
    tokens = bmvp_keep(bmvp_leaf(c, 3, d, x)), token = bmvp_keep(bmvp_leaf(c, 1, d + 2, one));
    y = bmvp_keep(bmvp_where_rows(c, tokens, token, mask));
    bmvp_backward(c, bmvp_sum(c, bmvp_mul(c, y, bmvp_input(c, 3, d, cot))));
    golden_ssl_tensor(g, "mask_token", "y", c, y, 0);
    golden_ssl_tensor(g, "mask_token", "grad_tokens", c, tokens, 1);
    golden_ssl_tensor(g, "mask_token", "grad_mask_token", c, token, 1);
    bmvp_destroy(c);
}

static void test_simmim(const golden_ssl *g)
{
    static const char *const mask[] = { "mask_2d", "mask_3d", "mask_3d_96" };
    const method_row *row = method_find("simmim");
    double config[CONFIG];
    vit_case k;
    int i;
    for (i = 0; i < 3; ++i)
        if (golden_ssl_has(g, mask[i])) simmim_masks(g, mask[i]);
    if (golden_ssl_has(g, "loss_microsoft")) simmim_microsoft(g);
    if (golden_ssl_has(g, "mask_token")) simmim_token(g);
    if (!CHECK(golden_ssl_has(g, "step_mim_med3d")) || !read_case(g, "step_mim_med3d", &k)) return;
    running = &k;
    CHECK(row && row->preset("release", config));
    set(row, config, "mask_ratio", k.ratio);
    run_case(&k, row, config, simmim_forward);
}

/* ---- MoCo v3 ----------------------------------------------------------------------------------------------------- */

/* Rows of the file's networks: the width of matrix `name`'s axis */
static int width_of(const bmvp_json *grad, const char *name, int axis)
{
    return (int)bmvp_json_int(bmvp_json_at(bmvp_json_get(bmvp_json_get(grad, name), "shape"), axis), 0);
}

typedef struct linear_body { bmvp_layer body; bmvp_tensor *position; } linear_body;
static int64_t body_stride(const bmvp_net_config *k) { return k->in_channels > 0; }
static int64_t body_channels(const bmvp_net_config *k) { return bmvp_net_option_of(k, "out", 1); }
static void body_make(bmvp_net *net)
{
    const int64_t one[3] = { 1, 1, 1 };
    linear_body *b = (linear_body *)net->layers;
    b->body = bmvp_make_linear(&net->m, "body", net->cfg.in_channels, body_channels(&net->cfg), 1);
    net->m.carried = 1;
    b->position = bmvp_make_tokens(&net->m, "position", one, body_channels(&net->cfg));
    net->m.carried = 0;
}
static bmvp_tensor *body_embed(bmvp_net *net, bmvp_tensor *x)
{
    return bmvp_run(&net->m, &((linear_body *)net->layers)->body, x);
}
static bmvp_tensor *body_positions(const bmvp_net *net) { return ((linear_body *)net->layers)->position; }
static bmvp_tensor *body_blocks(bmvp_net *net, bmvp_tensor *x, int norm) { return net && norm ? x : NULL; }

enum { MOST_VIEW = 1024 };
static struct { float x[2][MOST_VIEW]; int64_t dim[5]; } views;
static void moco_forward(bmvp_pass *p)
{
    mocov3_losses(p, bmvp_input(p->c, 5, views.dim, views.x[0]), bmvp_input(p->c, 5, views.dim, views.x[1]));
}

static const char *slow_name(const char *theirs, char *ours, size_t size)
{
    char whole[BMVP_NAME_MAX];
    const char *const at = strncmp(theirs, "momentum_encoder.", 17) == 0 ? theirs + 17 : theirs;
    snprintf(whole, sizeof whole, "base_encoder.%s", at);
    return our_name(whole, ours, size);
}

static void moco_step(const golden_ssl *g, bmvp_trainer *t, const bmvp_json *step)
{
    static const float none[1] = { 0 };
    const bmvp_json *e = bmvp_json_get(step, "statistics");
    bmvp_state_list *own = bmvp_net_state(t->net), *slow = mocov3_slow(t);
    method_item item[MOST_VIEW];
    bmvp_losses loss;
    float total;
    int i;
    memset(item, 0, sizeof item);
    for (i = 0; i < (int)views.dim[0]; ++i) item[i].x = none;
    CHECK(g && bmvp_trainer_accumulate(t, item, (int)views.dim[0], &loss) == BMVP_OK);
    total = (float)loss.total;
    golden_ssl_check("loss", bmvp_json_get(step, "loss"), &total, 1);
    golden_ssl_entries(bmvp_json_get(step, "grad"), t->c, own, our_name, 1);
    golden_ssl_entries(bmvp_json_get(step, "momentum_encoder"), t->c, slow, slow_name, 0);
    for (e = e ? e->first : NULL; e; e = e->next) {
        const int is_slow = strncmp(e->key, "momentum", 8) == 0;
        const bmvp_state *s = golden_ssl_find(is_slow ? slow : own, e->key, is_slow ? slow_name : our_name);
        if (s) golden_ssl_entry(e->key, e, t->c, s->t, s, 0);
    }
}

static void moco_steps(const golden_ssl *g)
{
    static const bmvp_net_tokens tokens = { body_embed, body_positions, body_blocks };
    const bmvp_json *in = golden_ssl_in(g, "step", "views"), *step = golden_ssl_out(g, "step", "steps"), *grad;
    const char *size = strchr(bmvp_json_string(in, ""), '(');
    const method_row *row = method_find("mocov3");
    bmvp_net_config net = bmvp_net_config_default("test_linear");
    bmvp_config cfg = bmvp_config_default();
    bmvp_net_kind kind;
    const bmvp_net_kind *kinds[2] = { NULL, NULL };
    bmvp_method m = *row->method();
    double config[CONFIG];
    bmvp_trainer *t;
    bmvp_ctx *c;
    char text[64];
    int rows = 0, i;
    memset(&kind, 0, sizeof kind);
    kind.name = "test_linear", kind.fields = "out", kind.size = sizeof(linear_body), kind.stride = body_stride;
    kind.channels = body_channels, kind.make = body_make, kind.tokens = &tokens;
    kinds[0] = &kind, cfg.networks = kinds, cfg.threads = 1;
    step = step ? step->first : NULL, grad = bmvp_json_get(step, "grad");
    net.in_channels = width_of(grad, "base_encoder.body.weight", 1);
    snprintf(text, sizeof text, "out=%d", width_of(grad, "base_encoder.body.weight", 0));
    CHECK(bmvp_net_config_set(&net, text, NULL) == BMVP_OK && row->preset("release", config));
    if (!CHECK(size && sscanf(size, "(%d,", &rows) == 1 && rows * net.in_channels <= MOST_VIEW)) return;
    set(row, config, "head_width", width_of(grad, "base_encoder.head.0.weight", 0));
    set(row, config, "head_out", width_of(grad, "base_encoder.head.6.weight", 0));
    set(row, config, "temperature", bmvp_json_double(golden_ssl_in(g, "step", "T"), 0));
    set(row, config, "momentum", bmvp_json_double(golden_ssl_in(g, "step", "m"), 0));
    set(row, config, "momentum_rises", 0), set(row, config, "sincos", 0), set(row, config, "frozen_embedding", 0);
    set(row, config, "optimizer", BMVP_SGD), set(row, config, "beta1", 0), set(row, config, "weight_decay", 0);
    set(row, config, "batch", rows);
    views.dim[0] = rows, views.dim[1] = views.dim[2] = views.dim[3] = 1, views.dim[4] = net.in_channels;
    golden_ssl_uniform(g, "view1", 2, -1, rows * net.in_channels, views.x[0]);
    golden_ssl_uniform(g, "view2", 2, -1, rows * net.in_channels, views.x[1]);
    m.prepare = NULL, m.forward = moco_forward; /* the file's rows are no crops */
    c = bmvp_create(&cfg, NULL);
    t = bmvp_trainer_create(c, &m, &net, config, NULL, 1);
    check_context(c);
    if (t) golden_ssl_fill(g, grad, c, bmvp_net_state(t->net), our_name), m.start(t);
    for (i = 0; t && step; step = step->next, ++i) {
        moco_step(g, t, step);
        CHECK(bmvp_trainer_update(t, 0.1, NULL) == BMVP_OK);
    }
    CHECK(i > 0);
    bmvp_trainer_destroy(t);
    bmvp_destroy(c);
}

/* first < 0: all rows; else those from there on are this rank's */
static void moco_contrast(const golden_ssl *g, int first)
{
    const char *const name = first < 0 ? "loss" : "loss_rank1_of_2",
               *const grad = first < 0 ? "grad_q" : "grad_q_rank1";
    const bmvp_json *whole = bmvp_json_get(golden_ssl_out(g, "contrastive_loss", "grad_q"), "shape");
    const int64_t all = bmvp_json_int(bmvp_json_at(whole, 0), 0), d = bmvp_json_int(bmvp_json_at(whole, 1), 0),
                  from = first < 0 ? 0 : first;
    const char *t_ = strstr(bmvp_json_string(bmvp_json_get(bmvp_json_get(bmvp_json_get(bmvp_json_root(g->doc), "cases"),
                                                                        "contrastive_loss"), "in"), ""), "T = ");
    float q[MOST_VIEW], k[MOST_VIEW], y;
    int64_t dim[2];
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_tensor *x, *loss;
    if (!CHECK(t_ && all * d > 0 && all * d <= MOST_VIEW)) return;
    golden_ssl_uniform(g, "q", 2, -1, all * d, q);
    golden_ssl_uniform(g, "k", 2, -1, all * d, k);
    dim[0] = all - from, dim[1] = d;
    bmvp_step_begin(c);
    x = bmvp_keep(bmvp_leaf(c, 2, dim, q + from * d));
    dim[0] = all;
    loss = mocov3_contrast(c, x, bmvp_input(c, 2, dim, k), from, strtod(t_ + 4, NULL));
    CHECK(bmvp_read(c, bmvp_keep(loss), &y) == BMVP_OK);
    golden_ssl_check("contrast", golden_ssl_out(g, "contrastive_loss", name), &y, 1);
    bmvp_backward(c, loss);
    golden_ssl_tensor(g, "contrastive_loss", grad, c, x, 1);
    bmvp_destroy(c);
}

static void moco_schedules(const golden_ssl *g)
{
    const bmvp_json *e = golden_ssl_in(g, "schedules", "epoch"), *lr = golden_ssl_out(g, "schedules", "lr"),
                    *m = golden_ssl_out(g, "schedules", "m");
    const double rate = bmvp_json_double(golden_ssl_in(g, "schedules", "lr"), 0),
                 warmup = bmvp_json_double(golden_ssl_in(g, "schedules", "warmup_epochs"), 0),
                 epochs = bmvp_json_double(golden_ssl_in(g, "schedules", "epochs"), 0),
                 m0 = bmvp_json_double(golden_ssl_in(g, "schedules", "moco_m"), 0);
    for (e = e->first, lr = lr->first, m = m->first; e && lr && m; e = e->next, lr = lr->next, m = m->next) {
        const double at = bmvp_json_double(e, 0);
        golden_ssl_near("rate", "of an epoch", tokens_rate(rate, 0, warmup, epochs, at, 0), bmvp_json_double(lr, NAN),
                        1e-9 * rate);
        golden_ssl_near("momentum", "of an epoch", mocov3_momentum(m0, epochs, at), bmvp_json_double(m, NAN), 1e-12);
    }
    CHECK(!e);
}

/* Views: a sub-cube resized, a blur; and that a view is one of the crop's, in range, and follows its draws. */
static void moco_views(const golden_ssl *g)
{
    enum { E = 12, ALL = E * E * E };
    static float crop[ALL], view[ALL], scratch[ALL];
    const bmvp_json *at = golden_ssl_in(g, "views", "start");
    int64_t start[3];
    int i;
    golden_ssl_uniform(g, "crop", 1, 0, ALL, crop);
    for (i = 0; i < 3; ++i) start[i] = bmvp_json_int(bmvp_json_at(at, i), 0);
    view_resize(E, start, bmvp_json_int(golden_ssl_in(g, "views", "size"), 0), crop, view);
    golden_ssl_check("resized", golden_ssl_out(g, "views", "resized"), view, ALL);
    view_blur(E, bmvp_json_double(golden_ssl_in(g, "views", "sigma"), 0), view, scratch);
    golden_ssl_check("blurred", golden_ssl_out(g, "views", "blurred"), view, ALL);
    view_jitter(E, 1.3, 0.8, view);
    golden_ssl_check("jittered", golden_ssl_out(g, "views", "jittered"), view, ALL);
    view_solarize(E, view);
    view_flip(E, view);
    golden_ssl_check("solarized and flipped", golden_ssl_out(g, "views", "flipped"), view, ALL);
}

static void test_mocov3(const golden_ssl *g)
{
    if (golden_ssl_has(g, "contrastive_loss")) moco_contrast(g, -1), moco_contrast(g, 2);
    if (golden_ssl_has(g, "schedules")) moco_schedules(g);
    if (golden_ssl_has(g, "views")) moco_views(g);
    if (CHECK(golden_ssl_has(g, "step"))) moco_steps(g);
}

/* ---- the tokens of a UNETR --------------------------------------------------------------------------------------- */

static void test_tokens(void)
{
    const int64_t dim[5] = { 1, 32, 32, 32, 1 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config k;
    bmvp_net *net, *plain;
    bmvp_features f;
    bmvp_tensor *x, *y;
    float a[8 * 48], b[8 * 48], *image = (float *)malloc(32768 * sizeof *image);
    CHECK(image && bmvp_net_preset("unetr_tiny", &k));
    k.task = BMVP_TASK_ENCODE;
    net = bmvp_net_create(c, &k);
    bmvp_net_init(net, 5);
    bmvp_set_grad(c, 0);
    if (image) formula_volume(0, 0, dim + 1, image);
    x = bmvp_input(c, 5, dim, image);
    f = bmvp_net_encode(net, x, 0);
    y = bmvp_add_tokens(&net->m, bmvp_net_embed(net, x, 0), bmvp_net_positions(net));
    y = bmvp_net_blocks(net, y, 1);
    CHECK(f.last && y && bmvp_read(c, f.last, a) == BMVP_OK && bmvp_read(c, y, b) == BMVP_OK);
    CHECK(memcmp(a, b, sizeof a) == 0);
    CHECK(!bmvp_net_blocks(net, x, 0));
    CHECK_HOLDS(bmvp_error_of(c)->message, "must be (N, ..., 48)");
    bmvp_clear_error(c);
    CHECK(bmvp_net_preset("unet3d_tiny", &k));
    plain = bmvp_net_create(c, &k);
    CHECK(!bmvp_net_embed(plain, x, 0));
    CHECK_HOLDS(bmvp_error_of(c)->message, "no tokens to mask or replace; networks that have them: unetr unetr_tiny");
    bmvp_net_destroy(plain);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    free(image);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static void test_file(const char *name, void (*test)(const golden_ssl *g))
{
    char path[256];
    golden_ssl g;
    snprintf(path, sizeof path, "tests/fixtures/methods/%s.json", name);
    if (check_start("%s", name) && golden_ssl_open_at(&g, path)) {
        test(&g);
        bmvp_json_free(g.doc);
        check_finish();
    }
    snprintf(path, sizeof path, "%s.json", name);
    if (check_start("%s: the authors' code", name) && golden_ssl_open(&g, path)) {
        test(&g);
        bmvp_json_free(g.doc);
        check_finish();
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_tokens);
    test_file("mae3d", test_mae3d);
    test_file("simmim", test_simmim);
    test_file("mocov3", test_mocov3);
    return check_end();
}
