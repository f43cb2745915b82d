/* test_labels.c - what label values mean: built-in definitions, own ones, masks, decisions, files */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include <stdlib.h>

static int has(const bmvp_labels *l, const char *region)
{
    int r;
    for (r = 0; r < l->n && strcmp(l->region[r], region) != 0; ++r) { }
    return r < l->n ? r : -1;
}

/* The values of a region as text, "1 4". */
static const char *values_of(const bmvp_labels *l, const char *region)
{
    static char text[1024];
    const int r = has(l, region);
    int v;
    text[0] = 0;
    for (v = 0; r >= 0 && v < BMVP_LABEL_VALUES; ++v)
        if (l->in[r][v]) snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", text[0] ? " " : "", v);
    return text;
}

static const char *known_of(const bmvp_labels *l)
{
    static char text[1024];
    int v;
    text[0] = 0;
    for (v = 0; v < BMVP_LABEL_VALUES; ++v)
        if (l->known[v]) snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", text[0] ? " " : "", v);
    return text;
}

/* Word number i of the list of names; 0: there are no more. */
static int name_at(int i, char *name, size_t size)
{
    const char *p = bmvp_labels_names();
    for (; i > 0 && *p; --i) p += strcspn(p, " ") + (p[strcspn(p, " ")] == ' ');
    snprintf(name, size, "%.*s", (int)strcspn(p, " "), p);
    return *p != 0;
}

static void test_builtin_values(void)
{
    static const struct { const char *name; int exclusive, n; const char *known, *region[3], *values[3]; } want[] = {
        { "brats2021", 0, 3, "1 2 4", { "WT", "TC", "ET" }, { "1 2 4", "1 4", "4" } },
        { "brats2023", 0, 3, "1 2 3", { "WT", "TC", "ET" }, { "1 2 3", "1 3", "3" } },
        { "msd_brats", 0, 3, "1 2 3", { "WT", "TC", "ET" }, { "1 2 3", "2 3", "3" } },
        { "mrbrains", 1, 3, "1 2 3 4 5 6 7 8 9 10", { "CSF", "GM", "WM" }, { "5 6", "1 2", "3 4" } },
        { "isles", 0, 1, "1", { "lesion", NULL, NULL }, { "1", NULL, NULL } },
        { "vs", 0, 1, "1 2", { "tumour", NULL, NULL }, { "1", NULL, NULL } },
        { "ms", 0, 1, "1", { "lesion", NULL, NULL }, { "1", NULL, NULL } },
        { "phantom", 0, 3, "1 2 3", { "WT", "TC", "ET" }, { "1 2 3", "1 3", "3" } },
    };
    enum { N = (int)(sizeof want / sizeof *want) };
    char name[32];
    bmvp_labels l;
    int i, r;
    for (i = 0; i < N; ++i) {
        if (!CHECK(name_at(i, name, sizeof name) && strcmp(name, want[i].name) == 0)) return;
        if (!CHECK(bmvp_labels_builtin(name, &l))) return;
        CHECK(strcmp(l.name, name) == 0 && l.exclusive == want[i].exclusive && l.n == want[i].n);
        CHECK(strcmp(known_of(&l), want[i].known) == 0);
        CHECK(bmvp_labels_outputs(&l) == want[i].n + want[i].exclusive);
        for (r = 0; r < want[i].n; ++r) {
            CHECK(has(&l, want[i].region[r]) == r); /* large regions come first */
            CHECK(strcmp(values_of(&l, want[i].region[r]), want[i].values[r]) == 0);
        }
    }
    CHECK(!name_at(N, name, sizeof name));
    CHECK(!bmvp_labels_builtin("brats", &l));
    CHECK(!bmvp_labels_builtin("", &l));
}

static void test_paint(void)
{
    bmvp_labels l;
    CHECK(bmvp_labels_builtin("brats2021", &l) && l.paint[0] == 2 && l.paint[1] == 1 && l.paint[2] == 4);
    CHECK(bmvp_labels_builtin("brats2023", &l) && l.paint[0] == 2 && l.paint[1] == 1 && l.paint[2] == 3);
    CHECK(bmvp_labels_builtin("msd_brats", &l) && l.paint[0] == 1 && l.paint[1] == 2 && l.paint[2] == 3);
    CHECK(bmvp_labels_builtin("phantom", &l) && l.paint[0] == 2 && l.paint[1] == 1 && l.paint[2] == 3);
    CHECK(bmvp_labels_builtin("mrbrains", &l) && l.paint[0] == 5 && l.paint[1] == 1 && l.paint[2] == 3);
}

/* Probabilities that say what a value says lead to a value that says the same. */
static void test_there_and_back(void)
{
    char name[32];
    int i, v, r;
    for (i = 0; name_at(i, name, sizeof name); ++i) {
        bmvp_labels l;
        CHECK(bmvp_labels_builtin(name, &l));
        for (v = 0; v < BMVP_LABEL_VALUES; ++v) {
            float p[BMVP_MAX_REGIONS + 1];
            unsigned char got;
            int none = 1;
            if (v > 0 && !l.known[v]) continue;
            for (r = 0; r < l.n; ++r) {
                p[r + l.exclusive] = l.in[r][v] ? 0.9f : 0.1f;
                none = none && !l.in[r][v];
            }
            if (l.exclusive) p[0] = none ? 0.9f : 0.1f;
            got = bmvp_labels_decide(&l, p);
            CHECK(none == (got == 0));
            for (r = 0; r < l.n; ++r) CHECK(l.in[r][got] == l.in[r][v]);
        }
    }
}

static void test_decide(void)
{
    static const float edge[3] = { 0.5f, 0, 0 }, below[3] = { 0.4999999f, 0, 0 }, inner[3] = { 0.1f, 0.2f, 0.5f },
                       none[3] = { 0, 0, 0 };
    static const float nan_[3] = { NAN, NAN, NAN };
    static const float tie[4] = { 0.4f, 0.4f, 0.1f, 0.1f }, second[4] = { 0.1f, 0.2f, 0.4f, 0.3f },
                       last[4] = { 0.1f, 0.2f, 0.3f, 0.4f };
    bmvp_labels l;
    CHECK(bmvp_labels_builtin("brats2021", &l));
    CHECK(bmvp_labels_decide(&l, edge) == 2);
    CHECK(bmvp_labels_decide(&l, below) == 0);
    CHECK(bmvp_labels_decide(&l, inner) == 4); /* enhancing wins, whatever the larger regions say */
    CHECK(bmvp_labels_decide(&l, none) == 0);
    CHECK(bmvp_labels_decide(&l, nan_) == 0);
    CHECK(bmvp_labels_builtin("mrbrains", &l));
    CHECK(bmvp_labels_decide(&l, tie) == 0); /* the first of equals: background */
    CHECK(bmvp_labels_decide(&l, second) == 1);
    CHECK(bmvp_labels_decide(&l, last) == 3);
}

static void test_unknown(void)
{
    static const float good[6] = { 0, 1, 2, 4, -0.0f, 1 };
    static const float bad[9] = { 3, 5, 255, 256, 1.5f, -1, NAN, HUGE_VALF, 1e30f };
    float v[4] = { 0, 1, 0, 4 };
    bmvp_labels l;
    int i;
    CHECK(bmvp_labels_builtin("brats2021", &l));
    CHECK(bmvp_labels_unknown(&l, good, 6) == -1);
    CHECK(bmvp_labels_unknown(&l, good, 0) == -1);
    for (i = 0; i < 9; ++i) {
        v[2] = bad[i];
        CHECK(bmvp_labels_unknown(&l, v, 4) == 2);
        CHECK(bmvp_labels_unknown(&l, v, 2) == -1);
    }
    v[2] = 7;
    CHECK(bmvp_labels_builtin("mrbrains", &l) && bmvp_labels_unknown(&l, v, 4) == -1); /* known, and in no class */
}

static void test_mask(void)
{
    static const float v[7] = { 0, 1, 2, 4, 4, 0, 3 };
    static const unsigned char want[3][7] = { { 0, 1, 1, 1, 1, 0, 0 },
                                              { 0, 1, 0, 1, 1, 0, 0 },
                                              { 0, 0, 0, 1, 1, 0, 0 } };
    unsigned char mask[7];
    bmvp_labels l;
    int r;
    CHECK(bmvp_labels_builtin("brats2021", &l));
    for (r = 0; r < 3; ++r) {
        memset(mask, 9, sizeof mask);
        bmvp_labels_mask(&l, r, v, 7, mask);
        CHECK(memcmp(mask, want[r], sizeof mask) == 0);
    }
}

static void test_own(void)
{
    static const int wt[3] = { 10, 20, 40 }, tc[2] = { 10, 40 }, et[1] = { 40 }, odd[2] = { 77, 78 };
    bmvp_error err;
    bmvp_labels l;
    memset(&l, 0, sizeof l);
    CHECK(bmvp_labels_add(&l, "ET", et, 1, &err) == BMVP_OK); /* given from small to large */
    CHECK(bmvp_labels_add(&l, "odd", odd, 2, &err) == BMVP_OK);
    CHECK(bmvp_labels_add(&l, "TC", tc, 2, &err) == BMVP_OK);
    CHECK(bmvp_labels_add(&l, "WT", wt, 3, &err) == BMVP_OK);
    CHECK(bmvp_labels_finish(&l, &err) == BMVP_OK);
    CHECK(has(&l, "WT") == 0 && has(&l, "odd") == 1 && has(&l, "TC") == 2 &&
          has(&l, "ET") == 3); /* equal sizes as they were given */
    CHECK(l.paint[0] == 20 && l.paint[1] == 77 && l.paint[2] == 10 && l.paint[3] == 40);
    CHECK(strcmp(known_of(&l), "10 20 40 77 78") == 0);
    CHECK(strcmp(values_of(&l, "WT"), "10 20 40") == 0 && strcmp(values_of(&l, "odd"), "77 78") == 0);
}

static void test_refused(void)
{
    static const int one[1] = { 1 }, two[2] = { 2, 3 }, again[2] = { 3, 2 }, zero[1] = { 0 }, large[2] = { 9, 256 };
    char name[16], many[BMVP_LABEL_NAME + 1];
    bmvp_labels l, before;
    bmvp_error err;
    int i;
    memset(&l, 0, sizeof l);
    CHECK(bmvp_labels_finish(&l, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "no regions");
    CHECK(bmvp_labels_add(&l, "a", one, 1, &err) == BMVP_OK);
    before = l;
    CHECK(bmvp_labels_add(&l, "a", two, 2, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "'a' is there twice");
    CHECK(bmvp_labels_add(&l, "b", zero, 1, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "value 0 of 'b'");
    CHECK(bmvp_labels_add(&l, "b", large, 2, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "value 256 of 'b'");
    CHECK(bmvp_labels_add(&l, "b", one, 0, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "'b' has no values");
    CHECK(bmvp_labels_add(&l, "", one, 1, &err) == BMVP_E_ARG);
    memset(many, 'x', sizeof many - 1);
    many[sizeof many - 1] = 0;
    CHECK(bmvp_labels_add(&l, many, one, 1, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "1 to 95");
    CHECK(bmvp_labels_add(&l, "b", large, 2, NULL) == BMVP_E_ARG); /* nobody listens */
    CHECK(memcmp(&l, &before, sizeof l) == 0);                     /* a refused region leaves no trace */
    l.exclusive = 1;
    CHECK(bmvp_labels_add(&l, "b", one, 1, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "both classes 'a' and 'b'");
    l.exclusive = 0;
    CHECK(bmvp_labels_add(&l, "b", two, 2, &err) == BMVP_OK);
    CHECK(bmvp_labels_add(&l, "c", again, 2, &err) == BMVP_OK);
    CHECK(bmvp_labels_finish(&l, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "'b' and 'c' are the same values");
    for (i = l.n; i < BMVP_MAX_REGIONS; ++i) {
        snprintf(name, sizeof name, "r%d", i);
        CHECK(bmvp_labels_add(&l, name, one, 1, &err) == BMVP_OK);
    }
    CHECK(bmvp_labels_add(&l, "more", one, 1, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "more than 16");
}

/* Everything that is said survives the file. */
static void check_survives(const bmvp_labels *l)
{
    bmvp_json_doc *doc = NULL;
    bmvp_labels back;
    bmvp_error err;
    bmvp_jw w;
    bmvp_jw_init(&w, 0, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_labels_write(&w, "labels", l);
    bmvp_jw_end(&w);
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_OK);
    CHECK(bmvp_json_parse(w.out.data, w.out.len, "labels", NULL, &doc, &err) == BMVP_OK);
    memset(&back, 1, sizeof back);
    CHECK(bmvp_labels_read(bmvp_json_get(bmvp_json_root(doc), "labels"), &back, &err) == BMVP_OK);
    CHECK(memcmp(l, &back, sizeof back) == 0);
    bmvp_json_free(doc);
    bmvp_jw_free(&w);
}

/* A value nobody judged: known, in no region, taken out of what is compared, and kept in files. */
static void test_ignore(void)
{
    static const float truth[5] = { 0, 1, 9, 4, 9 };
    unsigned char mask[5] = { 1, 1, 1, 1, 1 };
    bmvp_labels l;
    bmvp_error err;
    CHECK(bmvp_labels_builtin("brats2021", &l) && bmvp_labels_unknown(&l, truth, 5) == 2);
    bmvp_labels_judged(&l, truth, 5, mask);
    CHECK(mask[2] == 1);
    CHECK(bmvp_labels_ignore(&l, 0, &err) == BMVP_E_ARG && bmvp_labels_ignore(&l, 256, &err) == BMVP_E_ARG);
    CHECK(bmvp_labels_ignore(&l, 4, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "value 4 is to be ignored and belongs to 'WT'");
    CHECK(bmvp_labels_ignore(&l, 9, &err) == BMVP_OK && bmvp_labels_unknown(&l, truth, 5) == -1);
    bmvp_labels_judged(&l, truth, 5, mask);
    CHECK(mask[0] == 1 && mask[1] == 1 && mask[2] == 0 && mask[3] == 1 && mask[4] == 0);
    bmvp_labels_mask(&l, 0, truth, 5, mask);
    CHECK(mask[0] == 0 && mask[1] == 1 && mask[2] == 0 && mask[3] == 1 && mask[4] == 0);
    check_survives(&l);
}

static void test_file(void)
{
    char name[32];
    bmvp_labels l;
    int i;
    for (i = 0; name_at(i, name, sizeof name); ++i)
        if (CHECK(bmvp_labels_builtin(name, &l))) check_survives(&l);
}

static void test_bad_file(void)
{
    static const struct { const char *text, *says; } bad[] = {
        { "{}", "no regions" },
        { "{\"regions\": {\"a\": []}}", "'a' has no values" },
        { "{\"regions\": {\"a\": [1, \"x\"]}}", "value -1" },
        { "{\"regions\": {\"a\": [4294967297]}}", "outside of 1" },
        { "{\"regions\": {\"a\": [-5]}}", "outside of 1" },
        { "{\"regions\": {\"a\": [5]}, \"ignore\": 5}", "belongs to 'a'" },
        { "{\"regions\": {\"a\": [5]}, \"ignore\": \"b\"}", "value to ignore" },
        { "{\"kind\": \"classes\", \"regions\": {\"a\": [1], \"b\": [1]}}", "both classes" },
        { "{\"regions\": [[1, 2], [4]]}", "\"regions\" must be an object" },
        { "{\"regions\": {\"a\": 5}}", "region 'a' must be an array" },
        { "{\"name\": 3, \"regions\": {\"a\": [5]}}", "\"name\" must be a text" },
        { "{\"kind\": \"sets\", \"regions\": {\"a\": [5]}}", "must be regions or classes" },
        { "{\"known\": 7, \"regions\": {\"a\": [5]}}", "\"known\" must be an array" },
        { "[{\"regions\": {}}]", "no regions" },
    };
    int i;
    for (i = 0; i < (int)(sizeof bad / sizeof *bad); ++i) {
        bmvp_json_doc *doc = NULL;
        bmvp_labels l;
        bmvp_error err;
        CHECK(bmvp_json_parse(bad[i].text, strlen(bad[i].text), "labels", NULL, &doc, &err) == BMVP_OK);
        CHECK(bmvp_labels_read(bmvp_json_root(doc), &l, &err) != BMVP_OK);
        CHECK_HOLDS(err.message, bad[i].says);
        bmvp_json_free(doc);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_builtin_values);
    CHECK_RUN(test_paint);
    CHECK_RUN(test_there_and_back);
    CHECK_RUN(test_decide);
    CHECK_RUN(test_unknown);
    CHECK_RUN(test_mask);
    CHECK_RUN(test_own);
    CHECK_RUN(test_refused);
    CHECK_RUN(test_ignore);
    CHECK_RUN(test_file);
    CHECK_RUN(test_bad_file);
    return check_end();
}
