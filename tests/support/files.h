/* files.h - the files that tests of checkpoints make and break: a folder of theirs, tensors by formula
   (tests/reference/checkpoint_reference.py has the same), one file with everything in it, and that a file is
   refused. */
#ifndef BMVP_TEST_FILES_H
#define BMVP_TEST_FILES_H

#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "tests/support/check.h"
#include "tests/support/context.h"
#include "tests/support/inside.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#define FIXTURE(name) "tests/fixtures/io/" name

static char folder[400]; /* where files of these tests go */

static inline const char *place(const char *name)
{
    static char path[2][512];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* Deterministic random numbers. */
static uint32_t dice_state = 1;
static inline uint32_t dice(void)
{
    dice_state ^= dice_state << 13;
    dice_state ^= dice_state >> 17;
    dice_state ^= dice_state << 5;
    return dice_state;
}

/* An allocator that fails at its k-th call and counts what is alive. */

static inline int files_in_folder(void)
{
    DIR *d = opendir(folder);
    int n = 0;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

/* The whole file in memory (malloc), or NULL. */
static inline char *slurp(const char *path, size_t *n)
{
    bmvp_bytes b;
    bmvp_bytes_init(&b, NULL);
    *n = 0;
    if (bmvp_file_read(path, (size_t)1 << 30, &b, NULL)) { bmvp_bytes_free(&b); return NULL; }
    *n = b.len;
    return b.data;
}

static inline int64_t seed_value(int k, int64_t i, bmvp_dtype t)
{
    const int64_t v = (37 * i + 11 * k) % 101 - 50;
    return t == BMVP_DTYPE_U8 ? v + 50 : t == BMVP_DTYPE_BOOL ? (v + 100) % 2 : v;
}

/* Element i of tensor k as the Python script makes it. */
static inline float value(int k, int64_t i, bmvp_dtype t)
{
    const float v = (float)seed_value(k, i, t);
    return t == BMVP_DTYPE_F32 || t == BMVP_DTYPE_F64 ? v / 8 : v;
}

/* The same in the bytes of its type. Half types: values here are integers of at most 6 bits. */
static inline void value_bytes(int k, int64_t i, bmvp_dtype t, void *out)
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
    else { /* the low bytes, in the machine's order */
        const uint64_t low = (uint64_t)n << (64 - 8 * bmvp_dtype_size(t));
        const int one = 1;
        char first;
        memcpy(&first, &one, 1);
        memcpy(out, first ? (const void *)&n : (const void *)&low, (size_t)bmvp_dtype_size(t));
    }
}

static inline int find(const bmvp_ckpt *c, const char *group, const char *name)
{
    const int i = bmvp_ckpt_find(c, group, name);
    check_report(i >= 0, __FILE__, __LINE__, "no tensor %s in group %s", name, group ? group : "(any)");
    return i;
}

/* Tensor index has the values of tensor k of the formula. */
static inline void check_values(bmvp_ckpt *c, int index, int k)
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

static inline void check_meta(const bmvp_ckpt *c, const char *group, const char *name, bmvp_meta_kind kind,
                       const char *value_text)
{
    const bmvp_ckpt_meta *m = bmvp_ckpt_find_meta(c, group, name);
    check_report(m && m->kind == kind && !strcmp(m->value, value_text), __FILE__, __LINE__,
                 "metadata %s.%s is %s, should be %s", group, name, m ? m->value : "missing", value_text);
}

static inline void opens_not(const char *path, bmvp_status s, const char *part)
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

static inline bmvp_status fetch_values(void *user, int index, int64_t offset, void *dst, size_t bytes)
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
static inline bmvp_status write_all(const char *path, bmvp_ckpt_format format, int how, int zip64,
                                    const bmvp_allocator *a, bmvp_error *err)
{
    static const int64_t dim[3] = { 2, 3, 5 }, seven[1] = { 7 }, empty[2] = { 0, 4 }, three_two[2] = { 3, 2 };
    bmvp_ckpt_entry list[16];
    char data[8 * 30], name[40];
    bmvp_ckpt_writer *w;
    int n = 0, k;
    bmvp_status s = bmvp_ckpt_writer_begin(path, format, a, &w, err);
    if (s) return s;
    if (zip64) inside_zip64_from(w, 1);
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

static inline bmvp_ckpt *open_fixture(const char *path)
{
    bmvp_ckpt *c;
    bmvp_error err;
    return check_report(bmvp_ckpt_open(path, NULL, &c, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message) ? c
                                                                                                                : NULL;
}

/* Opens and loads everything; returns the status of the first failure. sum: of the bytes loaded. */
static inline bmvp_status read_everything(const char *path, const bmvp_allocator *a, uint64_t *sum)
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

/* Makes the folder, build/<name>_work or where the files are to be kept. 0: it cannot be made, which is said. */
static inline int files_begin(const char *name)
{
    const char *keep = getenv("BMVP_TEST_KEEP");
    if (!keep) mkdir("build", 0777);
    if (keep) snprintf(folder, sizeof folder, "%s", keep);
    else snprintf(folder, sizeof folder, "build/%s_work", name);
    if (mkdir(folder, 0777) == 0 || errno == EEXIST) return 1;
    printf("%s: %s\n0 passed, 1 failed, 0 skipped\n", folder, strerror(errno));
    return 0;
}

/* Removes the files that tests left for later ones, and the folder; where files are kept all stays. */
static inline void files_end(const char *const *left, size_t n)
{
    size_t i;
    if (getenv("BMVP_TEST_KEEP")) return;
    for (i = 0; i < n; i++) unlink(place(left[i]));
    rmdir(folder);
}

#endif /* BMVP_TEST_FILES_H */
