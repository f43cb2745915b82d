/* json.c - fuzzing of JSON: what is read, written and read again is the same tree; definitions of labels and
 * networks are taken from it. */
#include "tests/fuzz/fuzz.h"

static void write_node(const bmvp_json *n, bmvp_jw *w, int depth)
{
    const bmvp_json *m;
    int64_t members = 0;
    FUZZ_CHECK(depth <= BMVP_JSON_MAX_DEPTH + 1);
    switch (n->type) {
    case BMVP_JSON_NULL: bmvp_jw_null(w, n->key); return;
    case BMVP_JSON_BOOL: bmvp_jw_bool(w, n->key, (int)n->i); return;
    case BMVP_JSON_NUMBER:
        if (n->is_int && n->i) bmvp_jw_int(w, n->key, n->i);
        else bmvp_jw_double(w, n->key, n->d);
        return;
    case BMVP_JSON_STRING:
        FUZZ_CHECK((int64_t)strlen(n->str) == n->i);
        bmvp_jw_string(w, n->key, n->str);
        return;
    default: break;
    }
    if (n->type == BMVP_JSON_ARRAY) bmvp_jw_array(w, n->key);
    else bmvp_jw_object(w, n->key);
    for (m = n->first; m; m = m->next, ++members) {
        FUZZ_CHECK((m->key != NULL) == (n->type == BMVP_JSON_OBJECT));
        write_node(m, w, depth + 1);
    }
    FUZZ_CHECK(members == n->i);
    bmvp_jw_end(w);
}

static int same(const bmvp_json *a, const bmvp_json *b)
{
    const bmvp_json *x = a->first, *y = b->first;
    if (a->type != b->type || (a->key != NULL) != (b->key != NULL) || (a->key && strcmp(a->key, b->key))) return 0;
    if (a->type == BMVP_JSON_NUMBER) return !(a->d < b->d) && !(a->d > b->d);
    if (a->i != b->i || (a->type == BMVP_JSON_STRING && strcmp(a->str, b->str))) return 0;
    if (a->type != BMVP_JSON_ARRAY && a->type != BMVP_JSON_OBJECT) return 1;
    for (; x && y; x = x->next, y = y->next)
        if (!same(x, y)) return 0;
    return !x && !y;
}

static void use_labels(const bmvp_json *root)
{
    static const float values[8] = { 0, 1, 2, 3, 255, 256, -1, 1.5f };
    float p[BMVP_MAX_REGIONS + 1];
    unsigned char mask[8];
    bmvp_labels l;
    bmvp_error e;
    int i;
    if (bmvp_labels_read(root, &l, &e)) return;
    FUZZ_CHECK(l.n >= 1 && l.n <= BMVP_MAX_REGIONS);
    (void)bmvp_labels_unknown(&l, values, 8);
    for (i = 0; i < l.n; ++i) bmvp_labels_mask(&l, i, values, 8, mask);
    for (i = 0; i <= BMVP_MAX_REGIONS; ++i) p[i] = (float)(i % 3) / 2;
    (void)bmvp_labels_decide(&l, p);
}

int FUZZ_ONE(const uint8_t *data, size_t n)
{
    bmvp_json_doc *doc = NULL, *back = NULL;
    bmvp_net_config net;
    fuzz_memory m;
    bmvp_allocator a = fuzz_begin(&m, n);
    char *text = (char *)malloc(n + !n); /* exactly n: no 0 behind them */
    bmvp_error e;
    bmvp_status s;
    bmvp_jw w;
    if (n) memcpy(text, data, n);
    s = bmvp_json_parse(text, n, "x", &a, &doc, &e);
    if (s) fuzz_refused(s, &e);
    else {
        bmvp_jw_init(&w, n & 3, NULL);
        write_node(bmvp_json_root(doc), &w, 0);
        FUZZ_CHECK(bmvp_jw_finish(&w, &e) == BMVP_OK);
        FUZZ_CHECK(bmvp_json_parse(w.out.data, w.out.len, "y", &a, &back, &e) == BMVP_OK);
        FUZZ_CHECK(same(bmvp_json_root(doc), bmvp_json_root(back)));
        use_labels(bmvp_json_root(doc));
        (void)bmvp_net_config_read(bmvp_json_root(doc), &net, &e);
        bmvp_jw_free(&w);
        bmvp_json_free(back);
    }
    bmvp_json_free(doc);
    free(text);
    fuzz_end(&m);
    return 0;
}
