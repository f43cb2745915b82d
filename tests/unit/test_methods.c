/* test_methods.c - the pre-training methods of examples/methods against their authors' own code: corruptions with the
   authors' draws (BMVP_DATA/golden/ssl; skipped where the files are absent). Seed, shapes and draws are the file's. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include "tests/support/fixture.h"
#include "tests/support/formula.h"
#include "tests/support/context.h"
#include "tests/support/golden_ssl.h"
#include "tests/support/golden_draws.h"
#include "examples/methods/views.h"
#include "examples/methods/words.h"

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
    if (inside) genesis_paint_inside(&r, 0, 5, d, v->x, v->scratch);
    else genesis_paint_outside(&r, 5, d, v->from, v->x);
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

/* ---- TransVW ----------------------------------------------------------------------------------------------------- */

static void transvw_elastic(const golden_ssl *g, const char *of)
{
    const bmvp_json *y = golden_ssl_out(g, of, "y");
    int64_t d[3] = { 0, 0, 0 }, n, i;
    double *field;
    float *x, *out;
    char name[40];
    int a;
    for (a = 0; a < 3; ++a) d[a] = bmvp_json_int(bmvp_json_at(bmvp_json_get(y, "shape"), a), 0);
    n = d[0] * d[1] * d[2];
    x = (float *)malloc(2 * (size_t)n * sizeof *x + 1), field = (double *)malloc(3 * (size_t)n * sizeof *field + 1);
    if (CHECK(n > 0 && x && field)) {
        for (a = 0, out = x + n; a < 2; ++a) {
            snprintf(name, sizeof name, "%s.d%d", of, a + 1);
            golden_ssl_uniform(g, name, 1, 0, n, out);
            view_field(d, out, field + a * n, field + 2 * n);
        }
        for (i = 0; i < n; ++i) out[i] = (float)field[i];
        golden_ssl_within("dx", golden_ssl_out(g, of, "dx"), out, n, 1e-6);
        snprintf(name, sizeof name, "image.%s", of);
        golden_ssl_uniform(g, name, 1, 0, n, x);
        view_bend(d, field, field + n, x, out);
        golden_ssl_within("bent", y, out, n, 1e-6);
    }
    free(x), free(field);
}

static void transvw_tables(const golden_ssl *g)
{
    static const char *const name[4] = { "shuffle", "nonlinear", "in-paint", "out-paint" };
    const bmvp_json *r = golden_ssl_out(g, "choice", "r"), *what = golden_ssl_out(g, "choice", "perturbation");
    const bmvp_json *order = golden_ssl_out(g, "nearest", "order");
    float x[12 * 16];
    int32_t ours[12];
    int i;
    for (i = 0; i < bmvp_json_count(r); ++i)
        CHECK(strcmp(name[transvw_choice(bmvp_json_double(bmvp_json_at(r, i), 0))],
                     bmvp_json_string(bmvp_json_at(what, i), "")) == 0);
    golden_ssl_uniform(g, "features", 1, 0, 12 * 16, x);
    CHECK(words_nearest(12, 16, x, bmvp_json_int(bmvp_json_at(order, 0), 0), ours));
    for (i = 0; i < 12; ++i) CHECK(ours[i] == bmvp_json_int(bmvp_json_at(order, i), -1));
}

static void test_transvw(const golden_ssl *g)
{
    transvw_elastic(g, "elastic");
    if (WHOLE_STEPS && golden_ssl_has(g, "elastic_96")) transvw_elastic(g, "elastic_96");
    transvw_tables(g);
}

/* Which scans are of which words: those nearest to its reference, and each of one at least; where words lie */
static void test_words(void)
{
    enum { CASES = 6, WIDTH = 2 };
    static const float code[CASES] = { 0, 1, 2.5f, 20, 21.5f, 40 };
    const bmvp_config config = config_of(BMVP_SIMD_PLAIN, 1);
    bmvp_ctx *c = bmvp_create(&config, NULL);
    bmvp_rng g = bmvp_rng_make(3, 0, 0, 0);
    const draws r = draws_of(&g);
    float row[CASES * (1 + WIDTH)];
    int i, w, at, own = 0;
    words k;
    memset(&k, 0, sizeof k);
    k.n = 3, k.nearest = 2, k.cases = CASES, k.modalities = 1, k.width = WIDTH;
    words_begin(&k, c, &r);
    for (i = 0; i < CASES; ++i) {
        const float given[1 + WIDTH] = { (float)i, code[i], -code[i] };
        memcpy(row + i * (1 + WIDTH), given, sizeof given);
    }
    CHECK(words_note(&k, CASES, row));
    for (w = 0; w < k.n; ++w) { /* the reference, and who is nearest to it */
        const int ref = k.order[w];
        for (i = 0, at = -1; i < CASES; ++i)
            if (i != ref && (at < 0 || fabs(code[i] - code[ref]) < fabs(code[at] - code[ref]))) at = i;
        CHECK(k.of[ref] >> w & 1u && k.of[at] >> w & 1u);
        for (i = 0; i < CASES; ++i) /* no more, but those that are of none otherwise */
            CHECK(i == ref || i == at || !(k.of[i] >> w & 1u) || k.of[i] == (uint64_t)1 << w);
    }
    for (i = 0; i < CASES; ++i) {
        w = words_pick(&r, &k, i, 0);
        CHECK(k.of[i] != 0 && w < k.n && (k.of[i] >> w & 1u));
        for (w = 0; w < k.n; ++w) own += (int)(k.of[i] >> w & 1u);
    }
    CHECK(own >= 6 && own <= 6 + CASES);
    CHECK(words_places(&r, 64, 40, 6, 8, k.place) && !words_places(&r, 64, 40, 30, 8, k.place + 8));
    for (i = 0; i < 8; ++i) { /* their crops lie within, and apart */
        for (w = 0; w < 3; ++w) CHECK(k.place[i][w] >= 20 && k.place[i][w] <= 44);
        for (at = 0; at < i; ++at)
            CHECK(pow((double)(k.place[i][0] - k.place[at][0]), 2) + pow((double)(k.place[i][1] - k.place[at][1]), 2) +
                      pow((double)(k.place[i][2] - k.place[at][2]), 2) >=
                  36);
    }
    words_free(&k, c);
    bmvp_destroy(c);
}

/* The fixture, then the authors' file */
static void test_transvw_files(void)
{
    golden_ssl g;
    if (check_start("transvw of the fixtures") && golden_ssl_open_at(&g, TEST_FIXTURES "/methods/transvw.json")) {
        test_transvw(&g);
        bmvp_json_free(g.doc);
        check_finish();
    }
    if (check_start("transvw") && golden_ssl_open(&g, "transvw.json")) {
        test_transvw(&g);
        bmvp_json_free(g.doc);
        check_finish();
    }
}

int main(int argc, char **argv)
{
    volumes *v = (volumes *)calloc(1, sizeof *v);
    check_begin(argc, argv);
    if (v) test_genesis(v);
    free(v);
    test_transvw_files();
    CHECK_RUN(test_words);
    return check_end();
}
