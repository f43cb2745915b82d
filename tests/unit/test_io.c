/* test_io.c - files of bmvp_nn.h: JSON, safetensors, PyTorch .pt. Round trips, files of torch.save and safetensors
   (tests/reference/checkpoint_reference.py made them), cut and changed files, hostile pickles, failing allocations, a
   full disk. BMVP_TEST_KEEP=DIR leaves the written files in DIR for the check by PyTorch. */
#define BMVP_IMPLEMENTATION
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIXTURE(name) "tests/fixtures/io/" name

/* >>helpers ------------------------------------------------------------------------------------------------------ */

static char folder[400]; /* where files of these tests go */

static const char *place(const char *name)
{
    static char path[2][512];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* Deterministic random numbers. */
static uint32_t dice_state = 1;
static uint32_t dice(void)
{
    dice_state ^= dice_state << 13;
    dice_state ^= dice_state >> 17;
    dice_state ^= dice_state << 5;
    return dice_state;
}

/* An allocator that fails at its k-th call and counts what is alive. */
typedef struct meter { int64_t calls, fail_at, alive; } meter;

static void *meter_alloc(size_t n, void *user)
{
    meter *m = (meter *)user;
    void *p;
    if (++m->calls == m->fail_at) return NULL;
    p = malloc(n);
    if (p) m->alive++;
    return p;
}

static void meter_free(void *p, void *user)
{
    ((meter *)user)->alive--;
    free(p);
}

static bmvp_allocator meter_of(meter *m, int64_t fail_at)
{
    bmvp_allocator a;
    a.alloc = meter_alloc;
    a.free = meter_free;
    a.user = m;
    m->calls = m->alive = 0;
    m->fail_at = fail_at;
    return a;
}

static int files_in_folder(void)
{
    DIR *d = opendir(folder);
    int n = 0;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

/* The whole file in memory (malloc), or NULL. */
static char *slurp(const char *path, size_t *n)
{
    bmvp_bytes b;
    bmvp_bytes_init(&b, NULL);
    *n = 0;
    if (bmvp_file_read(path, (size_t)1 << 30, &b, NULL)) { bmvp_bytes_free(&b); return NULL; }
    *n = b.len;
    return b.data;
}

static int64_t seed_value(int k, int64_t i, bmvp_dtype t)
{
    const int64_t v = (37 * i + 11 * k) % 101 - 50;
    return t == BMVP_DTYPE_U8 ? v + 50 : t == BMVP_DTYPE_BOOL ? (v + 100) % 2 : v;
}

/* Element i of tensor k as the Python script makes it. */
static float value(int k, int64_t i, bmvp_dtype t)
{
    const float v = (float)seed_value(k, i, t);
    return t == BMVP_DTYPE_F32 || t == BMVP_DTYPE_F64 ? v / 8 : v;
}

/* The same in the bytes of its type. Half types: values here are integers of at most 6 bits. */
static void value_bytes(int k, int64_t i, bmvp_dtype t, void *out)
{
    const float f = value(k, i, t);
    const double d = (double)f;
    const int64_t n = seed_value(k, i, t);
    uint32_t bits;
    uint16_t half;
    memcpy(&bits, &f, 4);
    half = (uint16_t)(bits >> 16);
    if (t == BMVP_DTYPE_F16 && f != 0)
        half = (uint16_t)((bits >> 16 & 0x8000u) | ((bits >> 23 & 255u) - 112u) << 10 | (bits >> 13 & 1023u));
    if (t == BMVP_DTYPE_F32) memcpy(out, &f, 4);
    else if (t == BMVP_DTYPE_F64) memcpy(out, &d, 8);
    else if (t == BMVP_DTYPE_F16 || t == BMVP_DTYPE_BF16) memcpy(out, &half, 2);
    else memcpy(out, &n, (size_t)bmvp_dtype_size(t)); /* little-endian, two's complement */
}

static int find(const bmvp_ckpt *c, const char *group, const char *name)
{
    const int i = bmvp_ckpt_find(c, group, name);
    check_report(i >= 0, __FILE__, __LINE__, "no tensor %s in group %s", name, group ? group : "(any)");
    return i;
}

/* Tensor index has the values of tensor k of the formula. */
static void check_values(bmvp_ckpt *c, int index, int k)
{
    static float got[4096], want[4096];
    const bmvp_ckpt_entry *e = index >= 0 ? &c->entry[index] : NULL;
    bmvp_error err;
    int64_t i;
    if (!e || !CHECK(e->numel > 0 && e->numel <= 4096)) return;
    for (i = 0; i < e->numel; i++) want[i] = value(k, i, e->dtype), got[i] = -1e9f;
    if (!check_report(bmvp_ckpt_load_f32(c, index, 0, e->numel, got, &err) == BMVP_OK, __FILE__, __LINE__, "%s",
                      err.message))
        return;
    CHECK_SAME(e->name, got, want, e->numel);
    for (i = 0; i < e->numel; i++) { /* one at a time: every range must give the same */
        float one = -1e9f;
        if (!CHECK(bmvp_ckpt_load_f32(c, index, i, 1, &one, &err) == BMVP_OK && one == want[i])) return;
    }
}

static void check_meta(const bmvp_ckpt *c, const char *group, const char *name, bmvp_meta_kind kind,
                       const char *value_text)
{
    const bmvp_ckpt_meta *m = bmvp_ckpt_find_meta(c, group, name);
    check_report(m && m->kind == kind && !strcmp(m->value, value_text), __FILE__, __LINE__,
                 "metadata %s.%s is %s, should be %s", group, name, m ? m->value : "missing", value_text);
}

/* >>json --------------------------------------------------------------------------------------------------------- */

static void json_fails(const char *text, size_t n, const char *part)
{
    bmvp_json_doc *doc = NULL;
    bmvp_error err;
    memset(&err, 0, sizeof err);
    if (!check_report(bmvp_json_parse(text, n, "list.json", NULL, &doc, &err) == BMVP_E_FORMAT && !doc, __FILE__,
                      __LINE__, "accepted: %s", text))
        bmvp_json_free(doc);
    CHECK_HOLDS(err.message, part);
}

static void test_json_bad(void)
{
    static const char *const bad[][2] = {
        { "", "list.json:1:1: expected a value, found the end of the text" },
        { "{", "1:2: expected a key in '\"', found the end" },
        { "[1,]", "1:4: expected a value, found ']'" },
        { "[1 2]", "1:4: expected ',' or ']', found '2'" },
        { "{\"a\":1,}", "1:8: expected a key in '\"', found '}'" },
        { "{\"a\" 1}", "1:6: expected ':' after a key, found '1'" },
        { "{a:1}", "1:2: expected a key" },
        { "{\"a\":1\n \"b\":2}", "2:2: expected ',' or '}', found '\"'" },
        { "[\n\n  tru]", "3:3: expected a value, found 't'" },
        { "[1] x", "1:5: expected nothing more after the value, found 'x'" },
        { "01", "1:2: expected nothing more" },
        { "-", "1:2: expected a digit, found the end" },
        { "1.", "expected a digit after '.'" },
        { "1e+", "expected a digit in the exponent" },
        { ".5", "1:1: expected a value, found '.'" },
        { "+1", "1:1: expected a value, found '+'" },
        { "1e999", "1:1: expected a number within double's range" },
        { "NaN", "1:1: expected a value" },
        { "\"abc", "1:5: expected '\"' at the end of a string" },
        { "\"a\tb\"", "1:3: expected \\n, \\t or \\u for a control character in a string, found byte 0x09" },
        { "\"\\x\"", "1:3: expected one of" },
        { "\"\\", "1:3: expected one of" },
        { "\"\\u12g4\"", "expected four hexadecimal digits" },
        { "\"\\u00", "expected four hexadecimal digits" },
        { "\"\\u0000\"", "expected a character other than \\u0000" },
        { "\"\\ud800\"", "expected \\u with a low surrogate" },
        { "\"\\ud800\\u0041\"", "expected \\u with a low surrogate" },
        { "\"\\udc00\"", "expected a high surrogate" },
        { "\"\xc3\xa4\xff\"", "1:3: expected UTF-8, found byte 0xff" },
        { "\"\xc0\xaf\"", "expected UTF-8" },
        { "\"\xed\xa0\x80\"", "expected UTF-8" },
        { "\"\xf4\x90\x80\x80\"", "expected UTF-8" },
        { "\"\xe2\x82\"", "expected UTF-8" },
        { "{\"a\":1,\"b\":2,\"a\":3}", "key 'a' comes twice in the object" },
        { "// c\n1", "expected a value, found '/'" },
        { "[1}", "expected ',' or ']', found '}'" },
    };
    char deep[400];
    size_t i;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) json_fails(bad[i][0], strlen(bad[i][0]), bad[i][1]);
    json_fails("1\0", 2, "1:2: expected nothing more after the value, found byte 0x00");
    memset(deep, '[', sizeof deep);
    json_fails(deep, sizeof deep, "1:65: expected fewer arrays and objects inside each other");
    memset(deep, '1', sizeof deep);
    json_fails(deep, sizeof deep, "less than 400 characters");
}

static void test_json_good(void)
{
    static const char text[] =
        "\xef\xbb\xbf {\"s\": \"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\u20AC\\ud83d\\ude00\xc3\xa4\", \"n\": [0, -0, 1.5, "
        "1e3, "
        "9223372036854775807, -9223372036854775808, 9223372036854775808, 1e-400, 1E+2, 9007199254740993], \"e\": {}, "
        "\"f\": [],\r\n\t"
        "\"t\": true, \"g\": false, \"z\": null, \"\": 1}";
    bmvp_json_doc *doc;
    bmvp_error err;
    const bmvp_json *r, *n;
    if (!CHECK(bmvp_json_parse(text, sizeof text - 1, "x", NULL, &doc, &err) == BMVP_OK)) return;
    r = bmvp_json_root(doc);
    n = bmvp_json_get(r, "n");
    CHECK(bmvp_json_count(r) == 8 && bmvp_json_count(n) == 10);
    CHECK(!strcmp(bmvp_json_string(bmvp_json_get(r, "s"), ""),
                  "a\"\\/\b\f\n\r\t\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa4"));
    CHECK(bmvp_json_get(r, "s")->i == 20);
    CHECK(bmvp_json_int(bmvp_json_at(n, 0), 9) == 0 && signbit(bmvp_json_at(n, 1)->d));
    CHECK(!bmvp_json_at(n, 2)->is_int);
    CHECK_NEAR(bmvp_json_double(bmvp_json_at(n, 2), 0), 1.5, 0);
    CHECK(bmvp_json_int(bmvp_json_at(n, 3), 0) == 1000 && bmvp_json_int(bmvp_json_at(n, 8), 0) == 100);
    CHECK(bmvp_json_int(bmvp_json_at(n, 4), 0) == INT64_MAX && bmvp_json_int(bmvp_json_at(n, 5), 0) == INT64_MIN);
    CHECK(!bmvp_json_at(n, 6)->is_int && bmvp_json_at(n, 6)->d == 9223372036854775808.0);
    CHECK(bmvp_json_at(n, 7)->d == 0 && bmvp_json_int(bmvp_json_at(n, 9), 0) == 9007199254740993);
    CHECK(!bmvp_json_at(n, 10) && !bmvp_json_at(n, -1) && !bmvp_json_at(r, 99) && !bmvp_json_get(n, "s") &&
          !bmvp_json_get(NULL, "s"));
    CHECK(bmvp_json_bool(bmvp_json_get(r, "t"), 0) == 1 && bmvp_json_bool(bmvp_json_get(r, "g"), 1) == 0);
    CHECK(bmvp_json_bool(bmvp_json_get(r, "z"), 7) == 7 && bmvp_json_get(r, "z")->type == BMVP_JSON_NULL);
    CHECK(bmvp_json_int(bmvp_json_get(r, "s"), 5) == 5 && bmvp_json_double(bmvp_json_get(r, "no"), 2.5) == 2.5);
    CHECK(bmvp_json_count(bmvp_json_get(r, "e")) == 0 && bmvp_json_count(bmvp_json_get(r, "f")) == 0);
    CHECK(bmvp_json_int(bmvp_json_get(r, ""), 0) == 1);
    bmvp_json_free(doc);
    bmvp_json_free(NULL);
}

static void test_json_writer(void)
{
    bmvp_jw w;
    bmvp_error err;
    bmvp_jw_init(&w, 0, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_string(&w, "s\n", "\"\\\x01\x7f\t\xff\xc3\xa4");
    bmvp_jw_float(&w, "f", 0.1f);
    bmvp_jw_double(&w, "d", 0.1);
    bmvp_jw_double(&w, "nan", (double)NAN);
    bmvp_jw_float(&w, "inf", -HUGE_VALF);
    bmvp_jw_int(&w, "i", INT64_MIN);
    bmvp_jw_array(&w, "a");
    bmvp_jw_bool(&w, NULL, 1);
    bmvp_jw_null(&w, NULL);
    bmvp_jw_string(&w, NULL, NULL);
    bmvp_jw_array(&w, NULL);
    bmvp_jw_end(&w);
    bmvp_jw_end(&w);
    bmvp_jw_end(&w);
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_OK);
    CHECK(
        !strcmp(w.out.data,
                "{\"s\\n\": \"\\\"\\\\\\u0001\\u007f\\t\xef\xbf\xbd\xc3\xa4\", \"f\": 0.1, \"d\": 0.1, \"nan\": null, "
                "\"inf\": null, \"i\": -9223372036854775808, \"a\": [true, null, null, []]}\n"));
    bmvp_jw_free(&w);
    bmvp_jw_init(&w, 2, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_int(&w, "a", 1);
    bmvp_jw_array(&w, "b");
    bmvp_jw_int(&w, NULL, 2);
    bmvp_jw_end(&w);
    bmvp_jw_object(&w, "c");
    bmvp_jw_end(&w);
    bmvp_jw_end(&w);
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_OK &&
          !strcmp(w.out.data, "{\n  \"a\": 1,\n  \"b\": [\n    2\n  ],\n  \"c\": {}\n}\n"));
    bmvp_jw_reset(&w); /* misuse, one kind at a time */
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_E_STATE);
    bmvp_jw_reset(&w);
    bmvp_jw_object(&w, NULL);
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_E_STATE);
    bmvp_jw_int(&w, NULL, 1);
    bmvp_jw_end(&w);
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_E_STATE);
    bmvp_jw_reset(&w);
    bmvp_jw_int(&w, NULL, 1);
    bmvp_jw_int(&w, NULL, 2);
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_E_STATE);
    bmvp_jw_reset(&w);
    bmvp_jw_end(&w);
    CHECK(bmvp_jw_finish(&w, &err) == BMVP_E_STATE);
    bmvp_jw_free(&w);
}

/* What is written reads back as the same bits; text is as short as it can be. */
static void json_numbers(void)
{
    int i;
    bmvp_jw w;
    bmvp_jw_init(&w, 0, NULL);
    for (i = 0; i < 4000; i++) {
        const uint64_t bits = (uint64_t)dice() << 32 | dice();
        const uint32_t low = (uint32_t)bits;
        bmvp_json_doc *doc;
        float f, f2;
        double d, d2;
        memcpy(&d, &bits, 8);
        memcpy(&f, &low, 4);
        if (i % 2) d = (double)(int32_t)low / 1000, f = (float)d;
        if (!(fabs(d) <= 1e308) || !(fabsf(f) <= 1e38f)) continue;
        bmvp_jw_reset(&w);
        bmvp_jw_array(&w, NULL);
        bmvp_jw_double(&w, NULL, d);
        bmvp_jw_float(&w, NULL, f);
        bmvp_jw_end(&w);
        if (!CHECK(bmvp_jw_finish(&w, NULL) == BMVP_OK)) break;
        if (!CHECK(bmvp_json_parse(w.out.data, w.out.len, "x", NULL, &doc, NULL) == BMVP_OK)) break;
        d2 = bmvp_json_double(bmvp_json_at(bmvp_json_root(doc), 0), 0);
        f2 = (float)bmvp_json_double(bmvp_json_at(bmvp_json_root(doc), 1), 0);
        bmvp_json_free(doc);
        if (!CHECK(!memcmp(&d, &d2, 8) && !memcmp(&f, &f2, 4))) break;
    }
    bmvp_jw_free(&w);
}

static void test_json_numbers(void) { json_numbers(); }

static void test_json_locale(void)
{
    static const char *const with_comma[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "de_DE",
                                              "fr_FR",       "nl_NL.UTF-8", "ru_RU.UTF-8" };
    size_t i = 0;
    while (i < sizeof with_comma / sizeof *with_comma && !setlocale(LC_NUMERIC, with_comma[i])) i++;
    if (i == sizeof with_comma / sizeof *with_comma) {
        check_skip("no locale with a decimal comma is installed");
        return;
    }
    json_numbers();
    setlocale(LC_NUMERIC, "C");
    check_finish();
}

/* Every change of a valid text is either accepted or refused, and never reads outside: the sanitizers watch. */
static void test_json_fuzz(void)
{
    static const char seed[] = "{\"cases\": [{\"id\": \"p1\", \"images\": {\"t1\": \"a/t1.nii\"}, \"class\": 1.5e-3}], "
                               "\"x\": \"\\ud83d\\ude00\\n\"}";
    int i, k, fine = 0;
    for (i = 0; i < 20000; i++) {
        size_t n = sizeof seed - 1;
        char *text = (char *)malloc(n);
        bmvp_json_doc *doc;
        bmvp_error err;
        memcpy(text, seed, n);
        for (k = (int)(dice() % 4); k >= 0; k--)
            text[dice() % n] = (char)(dice() % 3 ? seed[dice() % n] : (char)dice());
        if (dice() % 8 == 0) n = dice() % n;
        if (bmvp_json_parse(text, n, "x", NULL, &doc, &err) == BMVP_OK) {
            fine++;
            bmvp_json_free(doc);
        } else if (!CHECK(err.status == BMVP_E_FORMAT)) break;
        free(text);
    }
    CHECK(fine > 100 && fine < 15000);
}

static void test_json_file(void)
{
    bmvp_json_doc *doc;
    bmvp_error err;
    CHECK(bmvp_file_write(place("a.json"), "[1,\n 2,\n x]", 11, NULL, &err) == BMVP_OK);
    CHECK(bmvp_json_read(place("a.json"), NULL, &doc, &err) == BMVP_E_FORMAT && !doc);
    CHECK_HOLDS(err.message, "a.json:3:2: expected a value, found 'x'");
    CHECK(bmvp_file_write(place("a.json"), "[1,\n 2]", 7, NULL, &err) == BMVP_OK);
    CHECK(bmvp_json_read(place("a.json"), NULL, &doc, &err) == BMVP_OK && bmvp_json_count(bmvp_json_root(doc)) == 2);
    bmvp_json_free(doc);
    CHECK(bmvp_json_read(place("missing.json"), NULL, &doc, &err) == BMVP_E_IO);
    CHECK_HOLDS(err.message, "missing.json: cannot be opened: No such file");
    CHECK(bmvp_json_read(folder, NULL, &doc, &err) == BMVP_E_IO);
    CHECK(bmvp_json_read("/dev/stdin", NULL, &doc, &err) != BMVP_OK);
    unlink(place("a.json"));
}

/* >>written by PyTorch and safetensors ---------------------------------------------------------------------------- */

static bmvp_ckpt *open_fixture(const char *path)
{
    bmvp_ckpt *c;
    bmvp_error err;
    return check_report(bmvp_ckpt_open(path, NULL, &c, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message) ? c
                                                                                                                : NULL;
}

static void check_release_meta(const bmvp_ckpt *c)
{
    check_meta(c, "", "current_epoch", BMVP_META_INT, "7");
    check_meta(c, "", "val_best", BMVP_META_FLOAT, "0.8125");
    check_meta(c, "", "loss", BMVP_META_FLOAT, "inf");
    check_meta(c, "", "note", BMVP_META_STRING, "Gr\xc3\xb6\xc3\x9f" "e");
    check_meta(c, "", "big", BMVP_META_INT, "1099511627776");
    check_meta(c, "", "done", BMVP_META_BOOL, "false");
    check_meta(c, "", "nothing", BMVP_META_NONE, "null");
    check_meta(c, "", "history", BMVP_META_JSON, "[0.5, 0.25]");
    check_meta(c, "steps.milestones", "7", BMVP_META_INT, "1");
    CHECK_HOLDS(bmvp_ckpt_find_meta(c, "optimizer", "param_groups")->value, "\"betas\": [0.9, 0.999]");
}

static void test_release_file(void)
{
    static const float moment[3] = { -0.175f, 0.2875f, -0.5125f };
    bmvp_ckpt *c = open_fixture(FIXTURE("release.pt"));
    static const struct { const char *name; int64_t d0, d1, first, s0, s1; } views[4] = {
        { "module.transposed", 6, 4, 0, 1, 6 }, { "module.rows", 2, 6, 6, 6, 1 }, { "module.column", 4, 2, 2, 6, 2 },
        { "module.expanded", 3, 6, 0, 0, 1 } };
    float got[24], want[24];
    int64_t n, v, i, j, big = 0;
    bmvp_error err;
    if (!c) return;
    CHECK(c->format == BMVP_CKPT_PT);
    check_release_meta(c);
    check_values(c, find(c, "state_dict", "module.plain"), 0);
    check_values(c, find(c, "state_dict", "module.base"), 1);
    check_values(c, find(c, "", "parameter"), 2);
    check_values(c, find(c, "pair", "0"), 3);
    check_values(c, find(c, "pair", "1"), 4);
    for (v = 0; v < BMVP_DTYPE_COUNT; v++) {
        char name[40];
        snprintf(name, sizeof name, "module.%s", bmvp_dtype_name((bmvp_dtype)v));
        i = find(c, "state_dict", name);
        if (i < 0) continue;
        CHECK(c->entry[i].dtype == (bmvp_dtype)v && c->entry[i].dim[0] == 3 && c->entry[i].dim[1] == 5 &&
              c->entry[i].rank == 2);
        check_values(c, (int)i, 10 + (int)v);
    }
    for (v = 0; v < 4; v++) {
        const int index = find(c, "state_dict", views[v].name);
        for (n = i = 0; i < views[v].d0; i++)
            for (j = 0; j < views[v].d1; j++)
                want[n++] = value(1, views[v].first + i * views[v].s0 + j * views[v].s1, BMVP_DTYPE_F32);
        if (index < 0 || !CHECK(c->entry[index].numel == n)) continue;
        CHECK(bmvp_ckpt_load(c, index, got, n * 4, &err) == BMVP_OK);
        CHECK_SAME(views[v].name, got, want, n);
        for (i = 0; i < n; i++) {
            CHECK(bmvp_ckpt_load_f32(c, index, i, n - i < 3 ? n - i : 3, got, &err) == BMVP_OK);
            CHECK_SAME(views[v].name, got, want + i, n - i < 3 ? n - i : 3);
        }
    }
    i = find(c, "state_dict", "module.norm.num_batches_tracked");
    CHECK(c->entry[i].rank == 0 && c->entry[i].dtype == BMVP_DTYPE_I64);
    CHECK(bmvp_ckpt_load(c, (int)i, &big, 8, &err) == BMVP_OK && big == 12345678901);
    CHECK(bmvp_ckpt_load(c, (int)i, &big, 4, &err) == BMVP_E_SHAPE);
    CHECK_HOLDS(err.message, "release.pt: tensor 'module.norm.num_batches_tracked' has 8 bytes, room was given for 4");
    CHECK(bmvp_ckpt_load(c, -1, &big, 8, &err) == BMVP_E_ARG &&
          bmvp_ckpt_load_f32(c, c->n_entries, 0, 1, got, &err) == BMVP_E_ARG);
    CHECK(bmvp_ckpt_load_f32(c, 0, 4, 3, got, &err) == BMVP_E_SHAPE &&
          bmvp_ckpt_load_f32(c, 0, -1, 1, got, &err) == BMVP_E_SHAPE);
    i = find(c, "state_dict", "module.empty");
    CHECK(c->entry[i].numel == 0 && c->entry[i].dim[1] == 3 && bmvp_ckpt_load(c, (int)i, NULL, 0, &err) == BMVP_OK);
    CHECK(bmvp_ckpt_load_f32(c, find(c, "optimizer.state.0", "exp_avg"), 0, 3, got, &err) == BMVP_OK);
    CHECK_CLOSE("exp_avg", got, moment, 3, 1e-6);
    CHECK(bmvp_ckpt_find(c, NULL, "exp_avg_sq") >= 0 && bmvp_ckpt_find(c, "", "exp_avg_sq") < 0);
    CHECK(bmvp_ckpt_strip(c, "state_dict", "module.", &err) == BMVP_OK &&
          bmvp_ckpt_find(c, "state_dict", "module.plain") < 0);
    check_values(c, find(c, "state_dict", "plain"), 0);
    bmvp_ckpt_close(c);
}

static void test_plain_files(void)
{
    static const char *const path[4] = { FIXTURE("plain_p3.pt"), FIXTURE("plain_p4.pt"), FIXTURE("plain_p5.pt"),
                                         FIXTURE("plain.safetensors") };
    bmvp_ckpt *c;
    int f, k;
    for (f = 0; f < 4; f++) {
        if (!(c = open_fixture(path[f]))) continue;
        CHECK(c->n_entries == BMVP_DTYPE_COUNT && c->format == (f == 3 ? BMVP_CKPT_SAFETENSORS : BMVP_CKPT_PT));
        for (k = 0; k < BMVP_DTYPE_COUNT; k++) check_values(c, find(c, "", bmvp_dtype_name((bmvp_dtype)k)), k);
        if (f == 3) check_meta(c, "", "format", BMVP_META_STRING, "pt");
        bmvp_ckpt_close(c);
    }
    if ((c = open_fixture(FIXTURE("tensor.pt"))) != NULL) check_values(c, find(c, "", "tensor"), 5);
    bmvp_ckpt_close(c);
}

static void opens_not(const char *path, bmvp_status s, const char *part)
{
    bmvp_ckpt *c = NULL;
    bmvp_error err;
    memset(&err, 0, sizeof err);
    check_report(bmvp_ckpt_open(path, NULL, &c, &err) == s && !c, __FILE__, __LINE__, "%s: %s", path, err.message);
    CHECK_HOLDS(err.message, part);
    CHECK_HOLDS(err.message, path);
    bmvp_ckpt_close(c);
    CHECK(bmvp_ckpt_open(path, NULL, &c, NULL) == s);
    bmvp_ckpt_close(c);
}

static void test_refused_files(void)
{
    char block[600];
    memset(block, 'x', sizeof block);
    opens_not(FIXTURE("evil_system.pt"), BMVP_E_FORMAT, "posix.system refused: the file wants Python to run code");
    opens_not(FIXTURE("evil_eval.pt"), BMVP_E_FORMAT, "__builtin__.eval refused: the file wants Python to run code");
    opens_not(FIXTURE("legacy.pt"), BMVP_E_UNSUPPORTED, "torch.save(torch.load(f), f)");
    opens_not(FIXTURE("script.pt"), BMVP_E_UNSUPPORTED, "TorchScript");
    opens_not(FIXTURE("complex.pt"), BMVP_E_UNSUPPORTED,
              "torch.ComplexFloatStorage: tensors of this type are not supported");
    opens_not(place("missing.pt"), BMVP_E_IO, "cannot be opened: No such file");
    opens_not(folder, BMVP_E_IO, "");
    opens_not("tests/unit/test_io.c", BMVP_E_FORMAT, "neither a safetensors file nor a PyTorch zip file");
    bmvp_file_write(place("empty"), "", 0, NULL, NULL);
    opens_not(place("empty"), BMVP_E_FORMAT, "neither a safetensors file nor a PyTorch zip file");
    bmvp_file_write(place("empty"), "\x1f\x8b\x08zzzzzzzz", 11, NULL, NULL);
    opens_not(place("empty"), BMVP_E_UNSUPPORTED, "gzip");
    memcpy(block + 257, "ustar", 5);
    bmvp_file_write(place("empty"), block, sizeof block, NULL, NULL);
    opens_not(place("empty"), BMVP_E_UNSUPPORTED, "tar archive");
    bmvp_file_write(place("empty"), "PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 22, NULL, NULL);
    opens_not(place("empty"), BMVP_E_FORMAT, "without data.pkl");
    unlink(place("empty"));
}

/* >>our own files ------------------------------------------------------------------------------------------------- */

static bmvp_status fetch_values(void *user, int index, int64_t offset, void *dst, size_t bytes)
{
    const bmvp_ckpt_entry *e = &((const bmvp_ckpt_entry *)user)[index];
    const int64_t size = bmvp_dtype_size(e->dtype);
    int64_t i;
    for (i = 0; i < (int64_t)bytes / size; i++)
        value_bytes(e->record, offset / size + i, e->dtype, (char *)dst + i * size);
    return BMVP_OK;
}

/* Everything at once: all dtypes, groups, a scalar, an empty tensor, metadata of all kinds. how 0: whole tensors, 1: a
   few bytes at a time, 2: fetched. Only the first failure is looked at. */
static bmvp_status write_all(const char *path, bmvp_ckpt_format format, int how, int zip64, const bmvp_allocator *a,
                             bmvp_error *err)
{
    static const int64_t dim[3] = { 2, 3, 5 }, seven[1] = { 7 }, empty[2] = { 0, 4 }, three_two[2] = { 3, 2 };
    bmvp_ckpt_entry list[16];
    char data[8 * 30], name[40];
    bmvp_ckpt_writer *w;
    int n = 0, k;
    bmvp_status s = bmvp_ckpt_writer_begin(path, format, a, &w, err);
    if (s) return s;
    if (zip64) w->zip64_from = 1;
    memset(list, 0, sizeof list);
    for (k = 0; k < BMVP_DTYPE_COUNT; k++) {
        snprintf(name, sizeof name, "module.enc.%s", bmvp_dtype_name((bmvp_dtype)k));
        bmvp_ckpt_writer_add(w, "state_dict", name, (bmvp_dtype)k, 3, dim, NULL);
        list[n].dtype = (bmvp_dtype)k, list[n].numel = 30, list[n++].record = k;
    }
    bmvp_ckpt_writer_add(w, "state_dict", "module.count", BMVP_DTYPE_I64, 0, NULL, NULL);
    list[n].dtype = BMVP_DTYPE_I64, list[n].numel = 1, list[n++].record = -1;
    bmvp_ckpt_writer_add(w, "state_dict", "module.empty", BMVP_DTYPE_F32, 2, empty, NULL);
    bmvp_ckpt_writer_add(w, "", "top", BMVP_DTYPE_F32, 1, seven, NULL);
    bmvp_ckpt_writer_add(w, "optimizer.state.0", "exp_avg", BMVP_DTYPE_F32, 2, three_two, NULL);
    bmvp_ckpt_writer_add(w, "optimizer.state.0", "exp_avg_sq", BMVP_DTYPE_F32, 2, three_two, NULL);
    n++; /* the empty tensor has no data */
    list[n].dtype = BMVP_DTYPE_F32, list[n].numel = 7, list[n++].record = 20;
    list[n].dtype = BMVP_DTYPE_F32, list[n].numel = 6, list[n++].record = 21;
    list[n].dtype = BMVP_DTYPE_F32, list[n].numel = 6, list[n++].record = 24;
    bmvp_ckpt_writer_meta_float(w, "optimizer.state.0", "step", 3, NULL);
    bmvp_ckpt_writer_meta(
        w, "optimizer", "param_groups", BMVP_META_JSON,
        "[{\"lr\": 0.25, \"betas\": [0.9, 0.999], \"eps\": 1e-08, "
        "\"weight_decay\": 0.01, \"amsgrad\": false, \"foreach\": null, \"maximize\": false, \"capturable\": false, "
        "\"differentiable\": false, \"fused\": null, \"params\": [0]}]",
        NULL);
    bmvp_ckpt_writer_meta_int(w, "", "current_epoch", 7, NULL);
    bmvp_ckpt_writer_meta_float(w, "", "val_best", 0.1, NULL);
    bmvp_ckpt_writer_meta(w, "", "note", BMVP_META_STRING, "Gr\xc3\xb6\xc3\x9f" "e", NULL);
    bmvp_ckpt_writer_meta_int(w, "", "big", (int64_t)1 << 40, NULL);
    bmvp_ckpt_writer_meta_float(w, "", "worst", -HUGE_VAL, NULL);
    bmvp_ckpt_writer_meta(w, "", "flag", BMVP_META_BOOL, "true", NULL);
    bmvp_ckpt_writer_meta(w, NULL, "nothing", BMVP_META_NONE, "null", NULL);
    for (k = 0; k < n; k++) {
        const int64_t size = bmvp_dtype_size(list[k].dtype), bytes = size * list[k].numel;
        int64_t i;
        if (bytes == 0) continue;
        for (i = 0; i < list[k].numel; i++) value_bytes(list[k].record, i, list[k].dtype, data + i * size);
        if (list[k].record < 0) { const int64_t v = 42; memcpy(data, &v, 8); }
        if (how == 2 && list[k].record >= 0) bmvp_ckpt_writer_fetch(w, fetch_values, list, NULL);
        else if (how != 1) bmvp_ckpt_writer_data(w, data, bytes, NULL);
        else for (i = 0; i < bytes; i += 7) bmvp_ckpt_writer_data(w, data + i, bytes - i < 7 ? bytes - i : 7, NULL);
    }
    return bmvp_ckpt_writer_finish(w, err);
}

static void check_all_file(const char *path)
{
    bmvp_ckpt *c = open_fixture(path);
    bmvp_error err;
    int64_t count = 0;
    int k;
    char name[40];
    if (!c) return;
    CHECK(c->n_entries == 15 && c->n_meta == 9);
    for (k = 0; k < BMVP_DTYPE_COUNT; k++) {
        snprintf(name, sizeof name, "module.enc.%s", bmvp_dtype_name((bmvp_dtype)k));
        check_values(c, find(c, "state_dict", name), k);
    }
    check_values(c, find(c, "", "top"), 20);
    check_values(c, find(c, "optimizer.state.0", "exp_avg"), 21);
    check_values(c, find(c, "optimizer.state.0", "exp_avg_sq"), 24);
    check_meta(c, "optimizer.state.0", "step", BMVP_META_FLOAT, "3");
    CHECK(bmvp_ckpt_load(c, find(c, "state_dict", "module.count"), &count, 8, &err) == BMVP_OK && count == 42);
    CHECK(c->entry[find(c, "state_dict", "module.empty")].dim[1] == 4);
    check_meta(c, "", "current_epoch", BMVP_META_INT, "7");
    check_meta(c, "", "val_best", BMVP_META_FLOAT, "0.1");
    check_meta(c, "", "note", BMVP_META_STRING, "Gr\xc3\xb6\xc3\x9f" "e");
    check_meta(c, "", "big", BMVP_META_INT, "1099511627776");
    check_meta(c, "", "worst", BMVP_META_FLOAT, "-inf");
    check_meta(c, "", "flag", BMVP_META_BOOL, "true");
    check_meta(c, "", "nothing", BMVP_META_NONE, "null");
    CHECK(bmvp_ckpt_find_meta(c, "optimizer", "param_groups") &&
          bmvp_ckpt_find_meta(c, "optimizer", "param_groups")->kind == BMVP_META_JSON);
    CHECK_HOLDS(bmvp_ckpt_find_meta(c, "optimizer", "param_groups")->value, "\"params\": [0]");
    bmvp_ckpt_close(c);
}

static void test_round_trip(void)
{
    static const char *const name[2] = { "all.safetensors", "all.pt" };
    bmvp_error err;
    int f, how;
    size_t n, first_n = 0;
    for (f = 0; f < 2; f++) {
        char *first = NULL, *again;
        for (how = 0; how < 3; how++) {
            check_report(write_all(place(name[f]), (bmvp_ckpt_format)f, how, 0, NULL, &err) == BMVP_OK, __FILE__,
                         __LINE__, "%s", err.message);
            check_all_file(place(name[f]));
            again = slurp(place(name[f]), &n);
            if (!first) first = again, first_n = n;
            else {
                CHECK(n == first_n && again &&
                      !memcmp(first, again, n)); /* the way of handing data over leaves no trace */
                free(again);
            }
        }
        free(first);
    }
    check_report(write_all(place("zip64.pt"), BMVP_CKPT_PT, 0, 1, NULL, &err) == BMVP_OK, __FILE__, __LINE__, "%s",
                 err.message);
    check_all_file(place("zip64.pt"));
}

/* Data of PyTorch files lie at multiples of 64, of safetensors at multiples of the element. */
static void test_alignment(void)
{
    bmvp_ckpt *c = open_fixture(place("all.pt"));
    static const int64_t one[1] = { 1 }, three[1] = { 3 };
    static const float b[3] = { -4.875f, -0.25f, 4.375f };
    bmvp_ckpt_writer *w;
    bmvp_error err;
    float got[8];
    int i;
    for (i = 0; c && i < c->n_entries; i++) {
        if (c->entry[i].dtype != BMVP_DTYPE_F32 || c->entry[i].numel > 8) continue;
        CHECK(bmvp_ckpt_load_f32(c, i, 0, c->entry[i].numel, got, NULL) == BMVP_OK);
        CHECK(c->entry[i].numel == 0 || c->file->record[c->entry[i].record].at % 64 == 0);
    }
    bmvp_ckpt_close(c);
    CHECK(bmvp_ckpt_writer_begin(place("misaligned.safetensors"), BMVP_CKPT_SAFETENSORS, NULL, &w, &err) == BMVP_OK);
    bmvp_ckpt_writer_add(w, NULL, "a", BMVP_DTYPE_U8, 1, one, NULL);
    bmvp_ckpt_writer_add(w, NULL, "b", BMVP_DTYPE_F32, 1, three, NULL);
    bmvp_ckpt_writer_data(w, "x", 1, NULL);
    bmvp_ckpt_writer_data(w, b, 12, NULL);
    CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK);
    if ((c = open_fixture(place("misaligned.safetensors"))) == NULL) return;
    CHECK(c->file->record[c->entry[find(c, "", "b")].record].at % 4 == 0);
    check_values(c, find(c, "", "b"), 1);
    bmvp_ckpt_close(c);
}

/* A plain state_dict for load_state_dict of PyTorch's BatchNorm1d(4). */
static void test_plain_state_dict(void)
{
    static const char *const name[4] = { "weight", "bias", "running_mean", "running_var" };
    static const int64_t four[1] = { 4 };
    bmvp_ckpt_writer *w;
    bmvp_error err;
    bmvp_ckpt *c;
    int k;
    int64_t i, count = 3;
    CHECK(bmvp_ckpt_writer_begin(place("norm.pt"), BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK);
    for (k = 0; k < 4; k++) bmvp_ckpt_writer_add(w, "", name[k], BMVP_DTYPE_F32, 1, four, NULL);
    bmvp_ckpt_writer_add(w, "", "num_batches_tracked", BMVP_DTYPE_I64, 0, NULL, NULL);
    for (k = 0; k < 4; k++) {
        float v[4];
        for (i = 0; i < 4; i++) v[i] = value(k == 3 ? 2 : k, i, BMVP_DTYPE_F32);
        bmvp_ckpt_writer_data(w, v, 16, NULL);
    }
    bmvp_ckpt_writer_data(w, &count, 8, NULL);
    CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK);
    if ((c = open_fixture(place("norm.pt"))) == NULL) return;
    check_values(c, find(c, "", "running_var"), 2);
    bmvp_ckpt_close(c);
}

/* A writer is begun, told one thing, and must fail with this message, leaving nothing behind. */
static bmvp_ckpt_writer *begin(bmvp_ckpt_format format)
{
    bmvp_ckpt_writer *w;
    bmvp_error err;
    return check_report(bmvp_ckpt_writer_begin(place("wrong"), format, NULL, &w, &err) == BMVP_OK, __FILE__, __LINE__,
                        "%s", err.message)
               ? w
               : NULL;
}

static void ends(bmvp_ckpt_writer *w, bmvp_status s, const char *part)
{
    const int before = files_in_folder();
    bmvp_error err;
    memset(&err, 0, sizeof err);
    CHECK(bmvp_ckpt_writer_finish(w, &err) == s);
    CHECK_HOLDS(err.message, part);
    CHECK(files_in_folder() == before - 1);
}

static bmvp_status fetch_nothing(void *user, int index, int64_t offset, void *dst, size_t bytes)
{
    (void)user, (void)index, (void)offset, (void)dst, (void)bytes;
    return BMVP_E_CANCELLED;
}

static void test_writer_misuse(void)
{
    static const int64_t two[1] = { 2 };
    const float v[2] = { 1, 2 };
    int f;
    for (f = 0; f < 2; f++) {
        const bmvp_ckpt_format format = (bmvp_ckpt_format)f;
        bmvp_ckpt_writer *w = begin(format);
        CHECK(bmvp_ckpt_writer_add(w, "g", "a", BMVP_DTYPE_F32, 1, two, NULL) == BMVP_OK);
        ends(w, BMVP_E_STATE, "wrong: data are missing of tensor 'a'");
        w = begin(format);
        bmvp_ckpt_writer_add(w, "g", "a", BMVP_DTYPE_F32, 1, two, NULL);
        bmvp_ckpt_writer_data(w, v, 4, NULL);
        ends(w, BMVP_E_STATE, "data are missing of tensor 'a'");
        w = begin(format);
        bmvp_ckpt_writer_add(w, "g", "a", BMVP_DTYPE_F32, 1, two, NULL);
        CHECK(bmvp_ckpt_writer_data(w, v, 12, NULL) == BMVP_E_ARG);
        ends(w, BMVP_E_ARG, "data reach over the end of tensor 'a'");
        w = begin(format);
        CHECK(bmvp_ckpt_writer_data(w, v, 4, NULL) == BMVP_E_STATE);
        ends(w, BMVP_E_STATE, "more data than the tensors declared");
        w = begin(format);
        bmvp_ckpt_writer_add(w, "g", "a", BMVP_DTYPE_F32, 1, two, NULL);
        bmvp_ckpt_writer_data(w, v, 8, NULL);
        CHECK(bmvp_ckpt_writer_add(w, "g", "b", BMVP_DTYPE_F32, 1, two, NULL) == BMVP_E_STATE);
        ends(w, BMVP_E_STATE, "must be declared before the first data, not 'b'");
        w = begin(format);
        bmvp_ckpt_writer_add(w, "g", "a", BMVP_DTYPE_F32, 1, two, NULL);
        bmvp_ckpt_writer_add(w, "g", "a", BMVP_DTYPE_F32, 1, two, NULL);
        ends(w, BMVP_E_ARG, "two tensors or values have the name 'g.a'");
        w = begin(format);
        bmvp_ckpt_writer_add(w, "g.h.i", "a", BMVP_DTYPE_F32, 1, two, NULL);
        bmvp_ckpt_writer_meta_int(w, "g", "h", 1, NULL);
        ends(w, BMVP_E_ARG, "has the name of a part of group 'g.h.i'");
    }
}

static void test_writer_wrong_values(void)
{
    static const int64_t two[1] = { 2 }, negative[2] = { 2, -1 };
    static const int64_t huge[3] = { (int64_t)1 << 31, (int64_t)1 << 31, 4 };
    int f;
    for (f = 0; f < 2; f++) {
        const bmvp_ckpt_format format = (bmvp_ckpt_format)f;
        bmvp_ckpt_writer *w = begin(format);
        CHECK(bmvp_ckpt_writer_add(w, "g", "a", BMVP_DTYPE_F32, 2, negative, NULL) == BMVP_E_ARG);
        ends(w, BMVP_E_ARG, "impossible shape of tensor 'a'");
        w = begin(format);
        CHECK(bmvp_ckpt_writer_add(w, "g", "a", BMVP_DTYPE_F64, 3, huge, NULL) == BMVP_E_ARG);
        ends(w, BMVP_E_ARG, "impossible shape");
        w = begin(format);
        CHECK(bmvp_ckpt_writer_add(w, "g", "", BMVP_DTYPE_F32, 1, two, NULL) == BMVP_E_ARG);
        ends(w, BMVP_E_ARG, "empty name");
        w = begin(format);
        CHECK(bmvp_ckpt_writer_add(w, "g..h", "a", BMVP_DTYPE_F32, 1, two, NULL) == BMVP_E_ARG);
        ends(w, BMVP_E_ARG, "group with an empty part: 'g..h'");
        w = begin(format);
        CHECK(bmvp_ckpt_writer_add(w, "", "a\xff", BMVP_DTYPE_F32, 1, two, NULL) == BMVP_E_ARG);
        ends(w, BMVP_E_ARG, "not UTF-8");
        w = begin(format);
        CHECK(bmvp_ckpt_writer_meta(w, "", "m", BMVP_META_INT, "1.5", NULL) == BMVP_E_ARG);
        ends(w, BMVP_E_ARG, "not a value of its kind: metadata 'm'");
        w = begin(format);
        CHECK(bmvp_ckpt_writer_meta(w, "", "m", BMVP_META_JSON, "[1,", NULL) == BMVP_E_FORMAT);
        ends(w, BMVP_E_FORMAT, "expected a value");
        w = begin(format);
        bmvp_ckpt_writer_add(w, "", "a", BMVP_DTYPE_F32, 1, two, NULL);
        CHECK(bmvp_ckpt_writer_fetch(w, fetch_nothing, NULL, NULL) == BMVP_E_CANCELLED);
        ends(w, BMVP_E_CANCELLED, "values could not be fetched of tensor 'a'");
        w = begin(format);
        bmvp_ckpt_writer_abort(w);
    }
    {
        bmvp_ckpt_writer *w = begin(BMVP_CKPT_SAFETENSORS);
        bmvp_ckpt_writer_add(w, "", "__metadata__", BMVP_DTYPE_F32, 1, two, NULL);
        ends(w, BMVP_E_ARG, "keep for themselves the name '__metadata__'");
    }
    bmvp_ckpt_writer_abort(NULL);
    CHECK(access(place("wrong"), F_OK) != 0);
}

static void test_strip_clash(void)
{
    static const int64_t one[1] = { 1 };
    bmvp_ckpt_writer *w;
    bmvp_ckpt *c;
    bmvp_error err;
    CHECK(bmvp_ckpt_writer_begin(place("clash.pt"), BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK);
    bmvp_ckpt_writer_add(w, "s", "module.a", BMVP_DTYPE_U8, 1, one, NULL);
    bmvp_ckpt_writer_add(w, "s", "a", BMVP_DTYPE_U8, 1, one, NULL);
    bmvp_ckpt_writer_data(w, "x", 1, NULL);
    bmvp_ckpt_writer_data(w, "y", 1, NULL);
    CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK);
    if (!(c = open_fixture(place("clash.pt")))) return;
    CHECK(bmvp_ckpt_strip(c, "s", "module.", &err) == BMVP_E_FORMAT && bmvp_ckpt_find(c, "s", "module.a") == 0);
    CHECK_HOLDS(err.message, "two tensors have the name 's.a'");
    CHECK(bmvp_ckpt_strip(c, "t", "module.", &err) == BMVP_OK && bmvp_ckpt_find(c, "s", "module.a") == 0);
    bmvp_ckpt_close(c);
    unlink(place("clash.pt"));
}

/* >>damage -------------------------------------------------------------------------------------------------------- */

/* Opens and loads everything; returns the status of the first failure. sum: of the bytes loaded. */
static bmvp_status read_everything(const char *path, const bmvp_allocator *a, uint64_t *sum)
{
    bmvp_ckpt *c;
    bmvp_error err;
    bmvp_status s = bmvp_ckpt_open(path, a, &c, &err);
    int i;
    if (s) {
        CHECK(err.status == s && strlen(err.message) > strlen(path));
        return s;
    }
    for (i = 0; i < c->n_entries && !s; i++) {
        const bmvp_ckpt_entry *e = &c->entry[i];
        unsigned char *raw;
        int64_t k;
        float one;
        if (e->bytes > 1 << 20) continue;
        raw = (unsigned char *)malloc((size_t)e->bytes + 1);
        s = bmvp_ckpt_load(c, i, raw, e->bytes, &err);
        for (k = 0; k < e->bytes && !s; k++) *sum = *sum * 31 + raw[k];
        free(raw);
        if (!s && e->numel) s = bmvp_ckpt_load_f32(c, i, e->numel - 1, 1, &one, &err);
    }
    bmvp_ckpt_close(c);
    return s;
}

static void test_truncated(void)
{
    static const char *const path[4] = { FIXTURE("plain.safetensors"), FIXTURE("plain_p3.pt"), "all.safetensors",
                                         "all.pt" };
    int f;
    for (f = 0; f < 4; f++) {
        size_t n, k;
        char *data = slurp(f < 2 ? path[f] : place(path[f]), &n);
        uint64_t sum = 0;
        int survived = 0;
        if (!CHECK(data != NULL)) continue;
        CHECK(bmvp_file_write(place("cut"), data, n, NULL, NULL) == BMVP_OK);
        CHECK(read_everything(place("cut"), NULL, &sum) == BMVP_OK);
        for (k = n; k-- > 0;) {
            if (!CHECK(truncate(place("cut"), (off_t)k) == 0)) break;
            survived += read_everything(place("cut"), NULL, &sum) == BMVP_OK;
        }
        check_report(survived == 0, __FILE__, __LINE__, "%d cut versions of %s were accepted", survived, path[f]);
        free(data);
    }
    unlink(place("cut"));
}

/* Each byte is changed in turn. PyTorch files have checksums: what still opens gives the same values. */
static void test_changed_bytes(void)
{
    static const char *const path[3] = { FIXTURE("plain_p4.pt"), FIXTURE("plain.safetensors"), "all.pt" };
    int f;
    for (f = 0; f < 3; f++) {
        size_t n, k;
        char *data = slurp(f < 2 ? path[f] : place(path[f]), &n);
        const int fd = open(place("bad"), O_RDWR | O_CREAT | O_TRUNC, 0666);
        uint64_t good = 0;
        int other = 0;
        if (!CHECK(data && fd >= 0 && write(fd, data, n) == (ssize_t)n)) return;
        CHECK(read_everything(place("bad"), NULL, &good) == BMVP_OK);
        for (k = 0; k < n; k++) {
            uint64_t sum = 0;
            const char c = (char)(data[k] ^ (char)(1u << dice() % 8));
            if (!CHECK(pwrite(fd, &c, 1, (off_t)k) == 1)) break;
            if (read_everything(place("bad"), NULL, &sum) == BMVP_OK && sum != good) other++;
            if (!CHECK(pwrite(fd, &data[k], 1, (off_t)k) == 1)) break;
        }
        check_report(f == 1 || other == 0, __FILE__, __LINE__, "%d changed versions of %s gave other values", other,
                     path[f]);
        close(fd);
        free(data);
    }
    unlink(place("bad"));
}

/* A zip file as torch.save makes it around this pickle, with one storage of 64 bytes under data/0. */
static void write_pickle(const char *path, const void *pickle, size_t n)
{
    bmvp_ckpt_writer *w;
    char storage[64];
    bmvp_error err;
    memset(storage, 1, sizeof storage);
    if (!CHECK(bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK)) return;
    w->started = 1; /* the pickle comes from here, not from declarations */
    bmvpi_cw_record(w, "archive/data.pkl", pickle, n);
    bmvpi_cw_record(w, "archive/data/0", storage, sizeof storage);
    bmvpi_cw_directory(w);
    CHECK(w->kept.status == BMVP_OK && rename(w->out.tmp, path) == 0); /* not finish: thousands of syncs take minutes */
    bmvp_ckpt_writer_abort(w);
}

static void pickle_fails(const char *pickle, size_t n, bmvp_status s, const char *part)
{
    write_pickle(place("pickle.pt"), pickle, n);
    opens_not(place("pickle.pt"), s, part);
}

#define PICKLE_FAILS(text, s, part) pickle_fails(text, sizeof text - 1, s, part)
#define STORAGE "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\20tQ"
#define TENSOR "ctorch._utils\n_rebuild_tensor_v2\n" STORAGE
#define TAIL "\x89" "ccollections\nOrderedDict\n)RtR."

static void test_hostile_pickles(void)
{
    bmvp_ckpt *c;
    write_pickle(place("pickle.pt"), "\x80\2" TENSOR "K\0K\4K\4\x86K\4K\1\x86" TAIL,
                 sizeof "\x80\2" TENSOR "K\0K\4K\4\x86K\4K\1\x86" TAIL - 1);
    c = open_fixture(place("pickle.pt")); /* the frame of the tests below is right */
    CHECK(c && c->n_entries == 1 && c->entry[0].numel == 16);
    bmvp_ckpt_close(c);
    PICKLE_FAILS("\x80\2cos\nsystem\nX\2\0\0\0ls\x85R.", BMVP_E_FORMAT, "os.system refused");
    PICKLE_FAILS("\x80\4\x8c\2os\x8c\6system\x93\x8c\2ls\x85R.", BMVP_E_FORMAT, "os.system refused");
    PICKLE_FAILS("\x80\2cbuiltins\neval\nX\1\0\0\0" "1\x85R.", BMVP_E_FORMAT, "builtins.eval refused");
    PICKLE_FAILS("\x80\2cbuiltins\ngetattr\n)R.", BMVP_E_FORMAT, "builtins.getattr refused");
    PICKLE_FAILS("\x80\2ctorch.storage\n_load_from_bytes\n)R.", BMVP_E_FORMAT,
                 "torch.storage._load_from_bytes refused");
    PICKLE_FAILS("\x80\2ctorch\nload\n)R.", BMVP_E_FORMAT, "torch.load refused");
    PICKLE_FAILS("\x80\2c\x1b[31m\nx\n)R.", BMVP_E_FORMAT, "?[31m.x refused");
    PICKLE_FAILS("\x80\2(S'ls'\nios\nsystem\n.", BMVP_E_FORMAT, "0x53 is an opcode that torch.save never writes");
    PICKLE_FAILS("\x80\2)\x81.", BMVP_E_FORMAT, "takes from an empty stack");
    PICKLE_FAILS("\x80\2X\4\0\0\0text)R.", BMVP_E_FORMAT, "calls what is no function");
    PICKLE_FAILS("\x80\2ccollections\nOrderedDict\nX\1\0\0\0aR.", BMVP_E_FORMAT, "calls what is no function");
}

static void test_broken_pickles(void)
{
    PICKLE_FAILS("\x80\6N.", BMVP_E_FORMAT, "protocol above 5");
    PICKLE_FAILS("\x80\2", BMVP_E_FORMAT, "ends in the middle");
    PICKLE_FAILS("", BMVP_E_FORMAT, "ends in the middle");
    PICKLE_FAILS(".", BMVP_E_FORMAT, "takes from an empty stack");
    PICKLE_FAILS("(.", BMVP_E_FORMAT, "takes from an empty stack");
    PICKLE_FAILS("X\xff\xff\xff\xff" "a.", BMVP_E_FORMAT, "ends in the middle");
    PICKLE_FAILS("\x8d\xff\xff\xff\xff\xff\xff\xff\xff" "a.", BMVP_E_FORMAT, "ends in the middle");
    PICKLE_FAILS("X\1\0\0\0\xff.", BMVP_E_FORMAT, "not UTF-8");
    PICKLE_FAILS("Nr\xff\xff\xff\xff.", BMVP_E_FORMAT, "under a number too high");
    PICKLE_FAILS("q\0.", BMVP_E_FORMAT, "remembers nothing");
    PICKLE_FAILS("h\0.", BMVP_E_FORMAT, "never remembered");
    PICKLE_FAILS("Nq\2h\1.", BMVP_E_FORMAT, "never remembered");
    PICKLE_FAILS("NNs.", BMVP_E_FORMAT, "adds to nothing");
    PICKLE_FAILS("]NNs.", BMVP_E_FORMAT, "cannot take them");
    PICKLE_FAILS("}(Nu.", BMVP_E_FORMAT, "cannot take them");
    PICKLE_FAILS("N\x87.", BMVP_E_FORMAT, "takes from an empty stack");
    PICKLE_FAILS("t.", BMVP_E_FORMAT, "misses a mark");
    PICKLE_FAILS("(e.", BMVP_E_FORMAT, "adds to nothing");
    PICKLE_FAILS("N}b.", BMVP_E_FORMAT, "state of an unknown object");
    PICKLE_FAILS("}(N" TENSOR "K\0K\4K\4\x86K\4K\1\x86\x89NtRu.", BMVP_E_UNSUPPORTED,
                 "dict key that is neither text nor a whole number");
    PICKLE_FAILS(TENSOR "K\0K\4K\5\x86K\5K\1\x86" TAIL, BMVP_E_FORMAT, "reaches out of its storage");
    PICKLE_FAILS(TENSOR "K\1K\4K\4\x86K\4K\1\x86" TAIL, BMVP_E_FORMAT, "reaches out of its storage");
    PICKLE_FAILS(TENSOR "J\xff\xff\xff\xffK\4\x85K\1\x85" TAIL, BMVP_E_FORMAT, "impossible strides");
    PICKLE_FAILS(TENSOR "K\0K\2\x85J\xff\xff\xff\xff\x85" TAIL, BMVP_E_FORMAT, "impossible strides");
    PICKLE_FAILS(TENSOR "K\0J\xff\xff\xff\xff\x85K\1\x85" TAIL, BMVP_E_FORMAT, "impossible size");
    PICKLE_FAILS(TENSOR "K\0(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft(K\0K\0K\0t" TAIL, BMVP_E_FORMAT,
                 "impossible size");
    PICKLE_FAILS(TENSOR "K\0K\2\x85\x8a\10\xff\xff\xff\xff\xff\xff\xff\x7f\x85" TAIL, BMVP_E_FORMAT,
                 "reaches out of its storage");
    PICKLE_FAILS(TENSOR "K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t(K\1K\1K\1K\1K\1K\1K\1K\1K\1t" TAIL, BMVP_E_UNSUPPORTED,
                 "more than 8 dimensions");
    PICKLE_FAILS(TENSOR "K\0K\4\x85K\1K\1\x86" TAIL, BMVP_E_FORMAT, "in an unknown way");
    PICKLE_FAILS("((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                 "1X\3\0\0\0cpuK\20tQ.",
                 BMVP_E_FORMAT, "archive/data/1 is missing");
    PICKLE_FAILS("((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                 "0X\3\0\0\0cpuK\21tQ.",
                 BMVP_E_FORMAT, "another size than data.pkl says");
    PICKLE_FAILS("X\1\0\0\0" "0Q.", BMVP_E_FORMAT, "in an unknown way");
    unlink(place("pickle.pt"));
}

static void test_pickle_bombs(void)
{
    char deep[5000];
    size_t i, n;
    /* nested too deep; the same list a billion times; a list in itself */
    for (n = 0; n < 4000; n++) deep[n] = ']';
    for (; n < 4999; n++) deep[n] = 'a';
    deep[n] = '.';
    memmove(deep + 1000, deep + 4000, 1000);
    pickle_fails(deep, 2000, BMVP_E_FORMAT, "nested too deep or shared too often");
    for (n = 0, deep[n++] = ']'; n < 160; n += 5) { /* q i, h i, h i, tuple2 ... */
        const char step[5] = { 'q', (char)(n / 5), 'h', (char)(n / 5), (char)0x86 };
        memcpy(deep + n, step, 5);
    }
    deep[n++] = '.';
    pickle_fails(deep, n, BMVP_E_FORMAT, "nested too deep or shared too often");
    PICKLE_FAILS("]q\0h\0a.", BMVP_E_FORMAT, "nested too deep or shared too often");
    PICKLE_FAILS("}q\0X\1\0\0\0ah\0s.", BMVP_E_FORMAT, "nested too deep or shared too often");
    for (i = n = 0; i < 1200; i++) deep[n++] = '(';
    deep[n++] = '.';
    pickle_fails(deep, n, BMVP_E_FORMAT, "takes from an empty stack");
    unlink(place("pickle.pt"));
}

/* The real pickle with bytes changed, checksums right: the unpickler itself meets the damage. */
static void test_pickle_fuzz(void)
{
    size_t n;
    char *file = slurp(FIXTURE("release.pt"), &n), *pickle;
    const char *start = NULL, *end = NULL;
    size_t k, m;
    int i, fine = 0, refused = 0;
    for (k = 0; file && k + 9 < n && !start; k++)
        if (!memcmp(file + k, "\x80\2}q", 4)) start = file + k;
    for (; file && k + 4 < n && !end; k++)
        if (!memcmp(file + k, "u.PK", 4)) end = file + k + 2;
    if (!CHECK(start && end)) { free(file); return; }
    m = (size_t)(end - start);
    pickle = (char *)malloc(m);
    for (i = 0; i < 6000; i++) {
        uint64_t sum = 0;
        bmvp_status s;
        int changes = (int)(dice() % 3);
        memcpy(pickle, start, m);
        for (; changes >= 0; changes--) {
            k = dice() % m;
            if (dice() % 2) pickle[k] = (char)dice();
            else memmove(pickle + k, start + dice() % m / 2, dice() % 2 ? 1 : (m - k < 4 ? m - k : 4));
        }
        write_pickle(place("fuzz.pt"), pickle, dice() % 8 ? m : dice() % m);
        s = read_everything(place("fuzz.pt"), NULL, &sum);
        fine += s == BMVP_OK;
        refused += s == BMVP_E_FORMAT || s == BMVP_E_UNSUPPORTED;
    }
    CHECK(fine + refused == 6000 && refused > 1000);
    free(pickle);
    free(file);
    unlink(place("fuzz.pt"));
}

static void header_fails(const char *header, int64_t data, bmvp_status s, const char *part)
{
    char file[2000];
    const size_t n = strlen(header);
    memset(file, 0, sizeof file);
    bmvpi_le_put(file, 8, n);
    memcpy(file + 8, header, n);
    bmvp_file_write(place("st"), file, 8 + n + (size_t)data, NULL, NULL);
    opens_not(place("st"), s, part);
}

static void test_hostile_safetensors(void)
{
    char file[64];
    bmvp_status s;
    bmvp_ckpt *c;
    header_fails("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, BMVP_E_UNSUPPORTED,
                 "'a' has the dtype 'F8_E4M3'");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, BMVP_E_FORMAT,
                 "not of its size");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, BMVP_E_FORMAT,
                 "a hole comes before it");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, BMVP_E_FORMAT,
                 "4 bytes after the last tensor");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":["
                 "1],\"data_offsets\":[0,4]}}",
                 4, BMVP_E_FORMAT, "overlaps another one");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":["
                 "1],\"data_offsets\":[4,8]}}",
                 8, BMVP_E_FORMAT, "key 'a' comes twice");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, BMVP_E_FORMAT,
                 "data_offsets outside");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, BMVP_E_FORMAT,
                 "impossible shape");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,4]}}", 4,
                 BMVP_E_FORMAT, "impossible shape");
    header_fails(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4611686018427387904,4611686018427387904],\"data_offsets\":[0,0]}}", 0,
        BMVP_E_FORMAT, "impossible shape");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, BMVP_E_FORMAT,
                 "impossible shape");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
                 BMVP_E_UNSUPPORTED, "more than 8 dimensions");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, BMVP_E_FORMAT, "lacks shape or data_offsets");
    header_fails("{\"a\":1}", 4, BMVP_E_UNSUPPORTED, "'a' has the dtype ''");
    header_fails("{\"__metadata__\":{\"a\":1}}", 0, BMVP_E_FORMAT, "__metadata__ holds more than strings");
    header_fails("{\"__metadata__\":{\"bmvp\":\"{\"}}", 0, BMVP_E_FORMAT, "expected a key");
    header_fails("{\"a\":", 4, BMVP_E_FORMAT, "header:1:6: expected a value");
    header_fails("{} {}", 4, BMVP_E_FORMAT, "expected nothing more");
    memset(file, ' ', sizeof file);
    file[8] = '{', file[9] = '}';
    bmvpi_le_put(file, 8, (uint64_t)INT64_MAX);
    bmvp_file_write(place("st"), file, sizeof file, NULL, NULL);
    opens_not(place("st"), BMVP_E_FORMAT, "shorter than its header says");
    bmvpi_le_put(file, 8, sizeof file - 8);
    bmvp_file_write(place("st"), file, sizeof file, NULL, NULL);
    s = bmvp_ckpt_open(place("st"), NULL, &c, NULL);
    CHECK(s == BMVP_OK && c->n_entries == 0);
    bmvp_ckpt_close(c);
    unlink(place("st"));
}

/* >>failing machines ---------------------------------------------------------------------------------------------- */

static void test_no_memory(void)
{
    static const char *const path[3] = { FIXTURE("release.pt"), FIXTURE("plain.safetensors"), "all.safetensors" };
    int64_t k;
    int f;
    for (f = 0; f < 3; f++) /* reading */
        for (k = 1; k < 3000; k++) {
            meter m;
            const bmvp_allocator a = meter_of(&m, k);
            uint64_t sum = 0;
            const bmvp_status s = read_everything(f < 2 ? path[f] : place(path[f]), &a, &sum);
            CHECK(m.alive == 0);
            if (m.calls < k) { CHECK(s == BMVP_OK && k > 10); break; }
            if (!CHECK(s == BMVP_E_OOM)) break;
        }
    for (f = 0; f < 2; f++) { /* writing: the file that was there stays */
        CHECK(bmvp_file_write(place("kept"), "old", 3, NULL, NULL) == BMVP_OK);
        for (k = 1; k < 3000; k++) {
            meter m;
            const bmvp_allocator a = meter_of(&m, k);
            const int before = files_in_folder();
            bmvp_error err;
            size_t n;
            char *old;
            const bmvp_status s = write_all(place("kept"), (bmvp_ckpt_format)f, 2, 0, &a, &err);
            CHECK(m.alive == 0 && files_in_folder() == before);
            if (m.calls < k) { CHECK(s == BMVP_OK && k > 10); break; }
            old = slurp(place("kept"), &n);
            CHECK(n == 3 && old && !memcmp(old, "old", 3));
            free(old);
            if (!CHECK(s == BMVP_E_OOM)) break;
        }
        check_all_file(place("kept"));
    }
    unlink(place("kept"));
}

static void test_json_no_memory(void)
{
    int64_t k;
    for (k = 1; k < 100; k++) {
        meter m;
        const bmvp_allocator a = meter_of(&m, k);
        bmvp_json_doc *doc;
        static const char text[] = "{\"a\": [1, \"x\", {}], \"b\": 2}";
        bmvp_status s = bmvp_json_parse(text, sizeof text - 1, "x", &a, &doc, NULL);
        bmvp_jw w;
        if (s == BMVP_OK) {
            bmvp_json_free(doc);
            bmvp_jw_init(&w, 0, &a);
            bmvp_jw_string(&w, NULL, "text");
            s = bmvp_jw_finish(&w, NULL);
            bmvp_jw_free(&w);
        }
        CHECK(m.alive == 0);
        if (m.calls < k) { CHECK(s == BMVP_OK && k > 3); break; }
        if (!CHECK(s == BMVP_E_OOM)) break;
    }
}

/* A limit on file size makes write fail as a full disk does. */
static void test_full_disk(void)
{
    struct rlimit before, limit;
    int f;
    rlim_t k;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    for (f = 0; f < 2; f++) {
        const int there = files_in_folder();
        CHECK(bmvp_file_write(place("kept"), "old", 3, NULL, NULL) == BMVP_OK);
        for (k = 0; k < 200000; k += 97) {
            bmvp_error err;
            bmvp_status s;
            size_t n;
            char *old;
            limit = before;
            limit.rlim_cur = k;
            setrlimit(RLIMIT_FSIZE, &limit);
            s = write_all(place("kept"), (bmvp_ckpt_format)f, 0, 0, NULL, &err);
            setrlimit(RLIMIT_FSIZE, &before);
            CHECK(files_in_folder() == there + 1);
            if (s == BMVP_OK) break;
            old = slurp(place("kept"), &n);
            CHECK(n == 3 && old && !memcmp(old, "old", 3));
            free(old);
            if (!CHECK(s == BMVP_E_IO)) break;
            CHECK_HOLDS(err.message, "kept: cannot be written: File too large (free some space");
        }
        CHECK(k > 1000 && k < 200000);
        check_all_file(place("kept"));
        unlink(place("kept"));
    }
    signal(SIGXFSZ, SIG_DFL);
}

static void test_places_that_fail(void)
{
    bmvp_error err;
    bmvp_ckpt_writer *w;
    char target[600];
    const int before = files_in_folder();
    CHECK(bmvp_ckpt_writer_begin(place("no/such/folder.pt"), BMVP_CKPT_PT, NULL, &w, &err) == BMVP_E_IO && !w);
    CHECK_HOLDS(err.message, "no/such/folder.pt: cannot be written: No such file or directory");
    snprintf(target, sizeof target, "%s", place("is_folder"));
    CHECK(mkdir(target, 0777) == 0);
    CHECK(bmvp_file_write(target, "x", 1, NULL, &err) == BMVP_E_IO);
    CHECK_HOLDS(err.message, "is_folder: cannot be replaced: Is a directory");
    CHECK(rmdir(target) == 0 && files_in_folder() == before);
    snprintf(target, sizeof target, "%s.tmp.%ld", place("stale"), (long)getpid()); /* left by a killed process */
    CHECK(bmvp_file_write(target, "rubbish", 7, NULL, &err) == BMVP_OK);
    CHECK(bmvp_file_write(place("stale"), "x", 1, NULL, &err) == BMVP_OK && access(target, F_OK) != 0);
    unlink(place("stale"));
    CHECK(files_in_folder() == before);
}

int main(int argc, char **argv)
{
    static const char *const left[] = { "all.pt", "all.safetensors", "zip64.pt", "misaligned.safetensors", "norm.pt" };
    const char *keep = getenv("BMVP_TEST_KEEP");
    size_t i;
    check_begin(argc, argv);
    if (!keep) mkdir("build", 0777);
    snprintf(folder, sizeof folder, "%s", keep ? keep : "build/io_work");
    if (mkdir(folder, 0777) && errno != EEXIST) {
        printf("%s: %s\n0 passed, 1 failed, 0 skipped\n", folder, strerror(errno));
        return 1;
    }
    CHECK_RUN(test_json_bad);
    CHECK_RUN(test_json_good);
    CHECK_RUN(test_json_writer);
    CHECK_RUN(test_json_numbers);
    if (check_start("%s", "test_json_locale")) test_json_locale();
    CHECK_RUN(test_json_fuzz);
    CHECK_RUN(test_json_file);
    CHECK_RUN(test_json_no_memory);
    CHECK_RUN(test_release_file);
    CHECK_RUN(test_plain_files);
    CHECK_RUN(test_refused_files);
    CHECK_RUN(test_round_trip);
    CHECK_RUN(test_alignment);
    CHECK_RUN(test_plain_state_dict);
    CHECK_RUN(test_writer_misuse);
    CHECK_RUN(test_writer_wrong_values);
    CHECK_RUN(test_strip_clash);
    CHECK_RUN(test_truncated);
    CHECK_RUN(test_changed_bytes);
    CHECK_RUN(test_hostile_pickles);
    CHECK_RUN(test_broken_pickles);
    CHECK_RUN(test_pickle_bombs);
    CHECK_RUN(test_pickle_fuzz);
    CHECK_RUN(test_hostile_safetensors);
    CHECK_RUN(test_no_memory);
    CHECK_RUN(test_full_disk);
    CHECK_RUN(test_places_that_fail);
    for (i = 0; i < sizeof left / sizeof *left && !keep; i++) unlink(place(left[i]));
    rmdir(folder); /* stays where files were kept */
    return check_end();
}
