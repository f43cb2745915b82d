/* test_json.c - bmvp_nn.h: JSON read and written: numbers to the last bit, bad text, other locales, no memory. */
#include "tests/support/files.h"

#include <locale.h>

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

/* A number is an integer by its digits, not by the double next to it. */
static void test_json_integers(void)
{
    static const struct {
        const char *text;
        int is_int;
        int64_t i;
    } t[] = {
        { "9007199254740993.0", 1, 9007199254740993 },
        { "9007199254740993.5", 0, 0 },
        { "9007199254740993.000e0", 1, 9007199254740993 },
        { "9007199254740992.00000000000000000001", 0, 0 },
        { "-9223372036854775808.0", 1, INT64_MIN },
        { "9223372036854775807e0", 1, INT64_MAX },
        { "9223372036854775808.0", 0, 0 },
        { "92233720368547758.07e2", 1, INT64_MAX },
        { "92233720368547758.075e2", 0, 0 },
        { "1234567890123456789000e-3", 1, 1234567890123456789 },
        { "1234567890123456789001e-3", 0, 0 },
        { "0.0000000001e10", 1, 1 },
        { "0.0000000001e9", 0, 0 },
        { "0.05e-5", 0, 0 },
        { "100e-2", 1, 1 },
        { "100e-3", 0, 0 },
        { "-2.50E+1", 1, -25 },
        { "1e18", 1, 1000000000000000000 },
        { "1e19", 0, 0 },
        { "1e-400", 0, 0 }, /* its double is 0 */
        { "0e99999999999999999999", 1, 0 },
        { "-0.000e-99999999999999999999", 1, 0 },
        { "1e-99999999999999999999", 0, 0 },
    };
    size_t k;
    for (k = 0; k < sizeof t / sizeof *t; ++k) {
        bmvp_json_doc *doc;
        const bmvp_json *n;
        if (!CHECK(bmvp_json_parse(t[k].text, strlen(t[k].text), "x", NULL, &doc, NULL) == BMVP_OK)) continue;
        n = bmvp_json_root(doc);
        if (!CHECK(n->is_int == t[k].is_int && n->i == t[k].i)) printf("    %s: %lld\n", t[k].text, (long long)n->i);
        bmvp_json_free(doc);
    }
}

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
    CHECK(bmvp_json_read(folder, NULL, &doc, &err) == BMVP_E_IO); /* a folder is no regular file */
    CHECK_HOLDS(err.message, "is not a regular file");
    CHECK(bmvp_json_read("/dev/stdin", NULL, &doc, &err) != BMVP_OK);
    unlink(place("a.json"));
}


static void test_json_no_memory(void)
{
    int64_t k;
    for (k = 1; k < 100; k++) {
        counter m;
        const bmvp_allocator a = counter_of(&m, k);
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
        CHECK(m.live == 0);
        if (m.calls < k) { CHECK(s == BMVP_OK && k > 3); break; }
        if (!CHECK(s == BMVP_E_OOM)) break;
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    if (!files_begin("json")) return 1;
    CHECK_RUN(test_json_bad);
    CHECK_RUN(test_json_good);
    CHECK_RUN(test_json_writer);
    CHECK_RUN(test_json_numbers);
    CHECK_RUN(test_json_integers);
    if (check_start("%s", "test_json_locale")) test_json_locale();
    CHECK_RUN(test_json_fuzz);
    CHECK_RUN(test_json_file);
    CHECK_RUN(test_json_no_memory);
    files_end(NULL, 0);
    return check_end();
}
