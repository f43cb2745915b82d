/* texts.c - fuzzing of small texts. The first byte: 0, the matrix of a transform; 1, a table of classes of three cases;
 * 2, what label values mean, in JSON; 3, the same with regions. */
#include "tests/fuzz/fuzz.h"
#include "examples/bmvp/data/dataset.h"
#include "examples/bmvp/data/labels.h"
#include <math.h>

/* What is read is written and read again: the same. */
static void matrix(const char *path)
{
    static char name[64];
    double m[16], back[16];
    bmvp_error e;
    bmvp_status s = bmvp_nii_matrix_read(m, path, &e);
    int i;
    if (s) {
        fuzz_refused(s, &e);
        return;
    }
    for (i = 0; i < 16; ++i) FUZZ_CHECK(isfinite(m[i]));
    if (!name[0]) snprintf(name, sizeof name, "/tmp/bmvp_fuzz_%ld.mat", (long)getpid());
    FUZZ_CHECK(bmvp_nii_matrix_write(name, m, &e) == BMVP_OK && bmvp_nii_matrix_read(back, name, &e) == BMVP_OK);
    for (i = 0; i < 16; ++i) FUZZ_CHECK(fabs(back[i] - m[i]) <= 1e-12 * fabs(m[i]));
    unlink(name);
}

static void table(const char *path)
{
    static const char *const id[3] = { "sub-01", "2", "a_0003" };
    dataset_options o;
    dataset d;
    bmvp_error e;
    bmvp_status s = BMVP_OK;
    int i;
    memset(&d, 0, sizeof d);
    memset(&o, 0, sizeof o);
    d.path = (char *)calloc(1, 2);
    for (i = 0; i < 3; ++i) {
        data_case *k = dataset_add(&d, id[i]);
        FUZZ_CHECK(d.path && k);
        k->class_index = -1;
    }
    o.classes = path;
    o.class_column = "dx";
    s = classes_load(&d, &o, &e);
    if (s) fuzz_refused(s, &e);
    else for (i = 0; i < d.n; ++i) FUZZ_CHECK(d.item[i].class_index >= -1);
    dataset_free(&d);
}

static void labels(const uint8_t *p, size_t n, const char *kind)
{
    float values[6] = { 0, 1, 2, 4, 255, -3 };
    bmvp_json_doc *doc = NULL;
    bmvp_labels l, to;
    fuzz_memory m;
    bmvp_allocator a = fuzz_begin(&m, n);
    bmvp_error e;
    bmvp_status s = bmvp_json_parse((const char *)p, n, "x", &a, &doc, &e);
    if (!s) s = labels_parse(bmvp_json_root(doc), kind, "x", &l, &e);
    if (s) fuzz_refused(s, &e);
    else {
        FUZZ_CHECK(l.n >= 1 && l.n <= BMVP_MAX_REGIONS && bmvp_labels_builtin("brats2021", &to));
        (void)bmvp_labels_unknown(&l, values, 6);
        s = labels_translate(&l, &to, values, 6, "x", &e);
        if (s) fuzz_refused(s, &e);
    }
    bmvp_json_free(doc);
    fuzz_end(&m);
}

int FUZZ_ONE(const uint8_t *data, size_t n)
{
    const double began = fuzz_now();
    if (n < 1) return 0;
    fuzz_counted_begin(n);
    switch (data[0] & 3) {
    case 0: matrix(fuzz_file(data + 1, n - 1)); break;
    case 1: table(fuzz_file(data + 1, n - 1)); break;
    default: labels(data + 1, n - 1, data[0] & 1 ? "regions" : NULL); break;
    }
    fuzz_counted_end();
    FUZZ_CHECK(fuzz_now() - began <= 2 + 1e-6 * (double)n);
    return 0;
}
