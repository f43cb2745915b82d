/* test_methods.c - the pre-training methods of examples/methods against their authors' own code: corruptions with the
   authors' draws (BMVP_DATA/golden/ssl; skipped where the files are absent). Seed, shapes and draws are the file's. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include "tests/support/formula.h"
#include "tests/support/context.h"
#include "tests/support/golden_ssl.h"
#include "tests/support/golden_draws.h"

enum { MOST = 65536 }; /* voxels of a volume here */
typedef struct volumes { float from[MOST], x[MOST], scratch[MOST], all[3 * MOST]; } volumes;

static void shape_of(const bmvp_json *sample, int first, int64_t d[3])
{
    const bmvp_json *shape = bmvp_json_get(sample, "shape");
    int a;
    for (a = 0; a < 3; ++a) d[a] = bmvp_json_int(bmvp_json_at(shape, first + a), 0);
    CHECK(d[0] * d[1] * d[2] > 0 && d[0] * d[1] * d[2] <= MOST);
}

/* ---- Models Genesis ---------------------------------------------------------------------------------------------- */

/* The windows are listed, so the draws are made of the list. */
typedef struct window_list { const bmvp_json *row; int at; golden_draws draws; } window_list;
static int64_t listed(void *user, int64_t low, int64_t high)
{
    window_list *l = (window_list *)user;
    const int64_t v = bmvp_json_int(bmvp_json_at(l->row, l->at++), -1);
    CHECK(v >= low && v <= high);
    if (l->at == 6) l->at = 0, l->row = l->row->next;
    return v;
}
static void listed_order(void *user, int64_t n, int32_t *out)
{
    golden_draws_order(&((window_list *)user)->draws, n, out);
}

static void genesis_windows(const golden_ssl *g, volumes *v)
{
    const bmvp_json *list = golden_ssl_in(g, "local_shuffle", "blocks_size3_start3"),
                    *y = golden_ssl_out(g, "local_shuffle", "y"), *k;
    window_list l;
    int64_t d[3];
    int n = 0;
    draws r = golden_draws_of(&l.draws, g, NULL, "local.shuffle", "none");
    r.user = &l, r.whole = listed, r.order = listed_order;
    l.row = list ? list->first : NULL, l.at = 0;
    for (k = l.row; k; k = k->next) ++n;
    shape_of(y, 0, d);
    golden_ssl_uniform(g, "image", 1, 0, d[0] * d[1] * d[2], v->from);
    memcpy(v->x, v->from, sizeof v->x);
    genesis_shuffle(&r, n, d, v->from, v->x, (int32_t *)v->scratch);
    golden_ssl_within("shuffled", y, v->x, d[0] * d[1] * d[2], 1e-6);
}

static void genesis_paint(const golden_ssl *g, volumes *v, int inside)
{
    const char *const name = inside ? "in_painting" : "out_painting";
    const bmvp_json *y = golden_ssl_out(g, name, "y");
    golden_draws l;
    int64_t d[3];
    const draws r = golden_draws_of(&l, g, golden_ssl_in(g, name, "draws"), "none",
                                    inside ? "in_painting.noise" : "out_painting.noise");
    shape_of(y, 0, d);
    golden_ssl_uniform(g, "image2", 1, 0, d[0] * d[1] * d[2], v->from);
    memcpy(v->x, v->from, sizeof v->x);
    if (inside) genesis_paint_inside(&r, d, v->x, v->scratch);
    else genesis_paint_outside(&r, d, v->from, v->x);
    golden_ssl_within(name, y, v->x, d[0] * d[1] * d[2], 1e-6);
    CHECK(!l.wrong && !l.value);
}

/* The whole chain: flips, windows, curve, painting of a batch, every draw in the authors' order. */
static void genesis_chain(const golden_ssl *g, volumes *v)
{
    const bmvp_json *given = golden_ssl_out(g, "pair", "x"), *order;
    const method_row *m = method_find("genesis");
    double config[64];
    golden_draws l;
    int64_t d[3], n, i, count;
    bmvp_error err;
    const draws r = golden_draws_of(&l, g, golden_ssl_in(g, "pair", "draws"), "pair.shuffle", "pair.noise");
    float *x = v->all;
    float *const y = (float *)malloc(3 * MOST * sizeof *y);
    CHECK(y && m->preset("release", config));
    CHECK(bmvp_field_set(m->method()->fields, config, "windows", "40", &err) == BMVP_OK);
    shape_of(given, 2, d);
    count = bmvp_json_int(bmvp_json_at(bmvp_json_get(given, "shape"), 0), 0);
    n = d[0] * d[1] * d[2];
    order = l.value, l.value = order->next, ++l.call; /* which volumes: the first draw */
    for (i = 0; i < count && y && count * n <= 3 * MOST; ++i) {
        float *const all = (float *)malloc((size_t)(3 * n) * sizeof *all);
        if (!CHECK(all != NULL)) break;
        golden_ssl_uniform(g, "images", 1, 0, 3 * n, all);
        memcpy(y + i * n, all + bmvp_json_int(bmvp_json_at(order, (int)i), 0) * n, (size_t)n * sizeof *y);
        free(all);
        CHECK(genesis_pair(&r, (const genesis_config *)(void *)config, d, y + i * n, x + i * n, v->scratch));
    }
    golden_ssl_within("target", golden_ssl_out(g, "pair", "y"), y, count * n, 1e-6);
    golden_ssl_within("given", given, x, count * n, 1e-6);
    CHECK(!l.wrong && !l.value);
    free(y);
}

static void test_genesis(volumes *v)
{
    golden_ssl g;
    if (!check_start("models_genesis") || !golden_ssl_open(&g, "models_genesis.json")) return;
    genesis_windows(&g, v);
    genesis_paint(&g, v, 1);
    genesis_paint(&g, v, 0);
    genesis_chain(&g, v);
    bmvp_json_free(g.doc);
    check_finish();
}

int main(int argc, char **argv)
{
    volumes *v = (volumes *)calloc(1, sizeof *v);
    check_begin(argc, argv);
    if (v) test_genesis(v);
    free(v);
    return check_end();
}
