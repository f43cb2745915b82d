/* test_checkpoint.c - checkpoints of bmvp_nn.h: safetensors and PyTorch .pt. Files of torch.save and safetensors
   (tests/reference/checkpoint_reference.py made them), our own read back, misuse, failing allocations, a full disk.
   BMVP_TEST_KEEP=DIR leaves the written files in DIR for the check by PyTorch. */
#include "tests/support/files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

/* >>written by PyTorch and safetensors ---------------------------------------------------------------------------- */

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

static void check_release(const char *path)
{
    static const float moment[3] = { -0.175f, 0.2875f, -0.5125f };
    bmvp_ckpt *c = open_fixture(path);
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
    CHECK_HOLDS(err.message, ": tensor 'module.norm.num_batches_tracked' has 8 bytes, room was given for 4");
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

static void test_release_file(void)
{
    check_release(FIXTURE("release.pt"));
    check_release(FIXTURE("release_legacy.pt")); /* without zip: views of one storage, parameters, metadata */
}

static void test_plain_files(void)
{
    static const char *const path[6] = { FIXTURE("plain_p3.pt"),       FIXTURE("plain_p4.pt"), FIXTURE("plain_p5.pt"),
                                         FIXTURE("plain.safetensors"), FIXTURE("legacy.pt"),
                                         FIXTURE("legacy_p4.pt") };
    bmvp_ckpt *c;
    int f, k;
    for (f = 0; f < 6; f++) {
        if (!(c = open_fixture(path[f]))) continue;
        CHECK(c->n_entries == BMVP_DTYPE_COUNT && c->format == (f == 3 ? BMVP_CKPT_SAFETENSORS : BMVP_CKPT_PT));
        for (k = 0; k < BMVP_DTYPE_COUNT; k++) check_values(c, find(c, "", bmvp_dtype_name((bmvp_dtype)k)), k);
        if (f == 3) check_meta(c, "", "format", BMVP_META_STRING, "pt");
        bmvp_ckpt_close(c);
    }
    if ((c = open_fixture(FIXTURE("tensor.pt"))) != NULL) check_values(c, find(c, "", "tensor"), 5);
    bmvp_ckpt_close(c);
}


static void test_refused_files(void)
{
    char block[600];
    memset(block, 'x', sizeof block);
    opens_not(FIXTURE("evil_system.pt"), BMVP_E_FORMAT, "posix.system refused: the file wants Python to run code");
    opens_not(FIXTURE("evil_eval.pt"), BMVP_E_FORMAT, "__builtin__.eval refused: the file wants Python to run code");
    opens_not(FIXTURE("script.pt"), BMVP_E_UNSUPPORTED, "TorchScript");
    opens_not(FIXTURE("complex.pt"), BMVP_E_UNSUPPORTED,
              "torch.ComplexFloatStorage: tensors of this type are not supported");
    opens_not(place("missing.pt"), BMVP_E_IO, "cannot be opened: No such file");
    opens_not(folder, BMVP_E_IO, "");
    opens_not("tests/unit/test_checkpoint.c", BMVP_E_FORMAT, "neither a safetensors file nor a PyTorch zip file");
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
        CHECK(c->entry[i].numel == 0 || inside_data_at(c, i) % 64 == 0);
    }
    bmvp_ckpt_close(c);
    CHECK(bmvp_ckpt_writer_begin(place("misaligned.safetensors"), BMVP_CKPT_SAFETENSORS, NULL, &w, &err) == BMVP_OK);
    bmvp_ckpt_writer_add(w, NULL, "a", BMVP_DTYPE_U8, 1, one, NULL);
    bmvp_ckpt_writer_add(w, NULL, "b", BMVP_DTYPE_F32, 1, three, NULL);
    bmvp_ckpt_writer_data(w, "x", 1, NULL);
    bmvp_ckpt_writer_data(w, b, 12, NULL);
    CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK);
    if ((c = open_fixture(place("misaligned.safetensors"))) == NULL) return;
    CHECK(inside_data_at(c, find(c, "", "b")) % 4 == 0);
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

/* >>failing machines ---------------------------------------------------------------------------------------------- */

static void test_no_memory(void)
{
    static const char *const path[3] = { FIXTURE("release.pt"), FIXTURE("plain.safetensors"), "all.safetensors" };
    int64_t k;
    int f;
    for (f = 0; f < 3; f++) /* reading */
        for (k = 1; k < 3000; k++) {
            counter m;
            const bmvp_allocator a = counter_of(&m, k);
            uint64_t sum = 0;
            const bmvp_status s = read_everything(f < 2 ? path[f] : place(path[f]), &a, &sum);
            CHECK(m.live == 0);
            if (m.calls < k) { CHECK(s == BMVP_OK && k > 10); break; }
            if (!CHECK(s == BMVP_E_OOM)) break;
        }
    for (f = 0; f < 2; f++) { /* writing: the file that was there stays */
        CHECK(bmvp_file_write(place("kept"), "old", 3, NULL, NULL) == BMVP_OK);
        for (k = 1; k < 3000; k++) {
            counter m;
            const bmvp_allocator a = counter_of(&m, k);
            const int before = files_in_folder();
            bmvp_error err;
            size_t n;
            char *old;
            const bmvp_status s = write_all(place("kept"), (bmvp_ckpt_format)f, 2, 0, &a, &err);
            CHECK(m.live == 0 && files_in_folder() == before);
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


/* A limit on file size makes write fail as a full disk does. */
static void test_full_disk(void)
{
    struct rlimit before, limit;
    int f;
    rlim_t k;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    limit = before;
    limit.rlim_cur = 97;
    if (setrlimit(RLIMIT_FSIZE, &limit) || getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur != 97) {
        check_skip("this system has no limit of file size");
        return;
    }
    setrlimit(RLIMIT_FSIZE, &before);
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
    check_begin(argc, argv);
    if (!files_begin("checkpoint")) return 1;
    CHECK_RUN(test_release_file);
    CHECK_RUN(test_plain_files);
    CHECK_RUN(test_refused_files);
    CHECK_RUN(test_round_trip);
    CHECK_RUN(test_alignment);
    CHECK_RUN(test_plain_state_dict);
    CHECK_RUN(test_writer_misuse);
    CHECK_RUN(test_writer_wrong_values);
    CHECK_RUN(test_strip_clash);
    CHECK_RUN(test_no_memory);
    CHECK_RUN(test_full_disk);
    CHECK_RUN(test_places_that_fail);
    files_end(left, sizeof left / sizeof *left);
    return check_end();
}
