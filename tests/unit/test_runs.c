/* test_runs.c - bmvp_ssl.h: equal bits with any number of threads and over a resume, memory plans, allocation failures,
   what is refused, checkpoints of runs and of others. */
#include "tests/support/rig.h"

/* >>bits
 * -------------------------------------------------------------------------------------------------------------------
 */

/* Draws, crops and masks of step `step`, as a program does it. */
static void free_running_step(rig *r, int64_t total)
{
    static const bmvp_ssl_case cases[3] = { { 0x7, { 32, 32, 32 } }, { 0x3, { 32, 32, 32 } }, { 0x4, { 32, 32, 32 } } };
    const int64_t step = bmvp_ssl_steps(r->s);
    bmvp_ssl_item item[MAX_BATCH];
    bmvp_ssl_draw d[MAX_BATCH * 3];
    bmvp_ssl_losses loss;
    int64_t order[3], volume[3] = { 32, 32, 32 };
    int i, n = bmvp_ssl_sample(&r->cfg, cases, 3, 3, step, order, d);
    bmvp_ssl_set_epoch(r->s, bmvp_ssl_epoch_of(&r->cfg, 3, step));
    memset(item, 0, sizeof item);
    for (i = 0; i < n; ++i) {
        item[i].x = r->x[(d[i].index + d[i].modality) % MAX_BATCH];
        item[i].other = d[i].other >= 0 ? r->other[(d[i].index + d[i].other) % MAX_BATCH] : NULL;
        item[i].modality = d[i].modality;
        item[i].slot = d[i].slot;
        item[i].weight = d[i].weight;
        bmvp_template_place(d[i].crop, volume, rig_grid, item[i].template_start);
    }
    check_report(bmvp_ssl_step(r->s, item, n, bmvp_ssl_lr(r->s, total), &loss) == BMVP_OK, __FILE__, __LINE__,
                 "step %d: %s", (int)step, bmvp_error_of(r->c)->message);
}

static void same_with_threads(const char *preset_name, const char *net_name)
{
    bmvp_config ctx = bmvp_config_default();
    rig r[3];
    int i, k, ok = 1;
    for (i = 0; i < 3; ++i) {
        rig_config(&r[i], preset_name);
        if (net_name) CHECK(bmvp_net_preset(net_name, &r[i].net));
        if (strcmp(r[i].net.kind, "unet3d") == 0)
            r[i].cfg.crop = EDGE / 2; /* saves time: its first level has the input's size */
        ctx.threads = i + 1;
        ok = rig_begin(&r[i], &ctx) && ok;
        CHECK(bmvp_threads(r[i].c) == i + 1);
        for (k = 0; k < 3 && ok; ++k) free_running_step(&r[i], 10);
    }
    if (ok) {
        check_equal_runs(r[0].s, r[1].s, "2 threads");
        check_equal_runs(r[0].s, r[2].s, "3 threads");
    }
    for (i = 0; i < 3; ++i) rig_end(&r[i]);
}

static void test_threads_paper(void) { same_with_threads("paper", NULL); }
static void test_threads_fast(void) { same_with_threads("fast", "uniformer_tiny"); }
static void test_threads_release_unet3d(void) { same_with_threads("release", "unet3d_tiny"); }

static int same_files(const char *a, const char *b)
{
    FILE *f = fopen(a, "rb"), *g = fopen(b, "rb");
    int x = 0, y = 0;
    int64_t n = 0;
    while (f && g && x == y && x != EOF) {
        x = fgetc(f);
        y = fgetc(g);
        ++n;
    }
    if (f) fclose(f);
    if (g) fclose(g);
    return f && g && x == y && n > 1000;
}

/* 20 steps = 10 steps, file, another context, 10 steps; bit for bit, and so are the files written at the end. */
static void resume(const char *preset_name, const char *net_name, int optimizer)
{
    char half[400], end[2][400];
    bmvp_error err;
    rig r[3];
    int i, k;
    temporary(half, sizeof half, "half");
    temporary(end[0], sizeof end[0], "end0");
    temporary(end[1], sizeof end[1], "end1");
    memset(&err, 0, sizeof err);
    for (i = 0; i < 3; ++i) {
        rig_config(&r[i], preset_name);
        if (net_name) CHECK(bmvp_net_preset(net_name, &r[i].net));
        if (strcmp(r[i].net.kind, "unet3d") == 0)
            r[i].cfg.crop = EDGE / 2; /* saves time: its first level has the input's size */
        r[i].cfg.optimizer = optimizer;
        r[i].cfg.warmup = 3;
        r[i].cfg.lr = 1e-3;
        r[i].cfg.clip = 1;
        if (!rig_begin(&r[i], NULL)) return;
    }
    for (k = 0; k < 20; ++k) free_running_step(&r[0], 20);
    for (k = 0; k < 10; ++k) free_running_step(&r[1], 20);
    check_report(bmvp_ssl_save(r[1].s, half, NULL, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    free_running_step(&r[2], 20); /* whatever was there before is replaced */
    check_report(bmvp_ssl_load(r[2].s, half, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    check_equal_runs(r[1].s, r[2].s, "after loading");
    CHECK(bmvp_ssl_steps(r[2].s) == 10 && bmvp_ssl_trainer(r[2].s)->epoch == bmvp_ssl_trainer(r[1].s)->epoch);
    for (k = 0; k < 10; ++k) free_running_step(&r[2], 20);
    check_equal_runs(r[0].s, r[2].s, "resumed");
    for (i = 0; i < 2; ++i) CHECK(bmvp_ssl_save(r[2 * i].s, end[i], NULL, &err) == BMVP_OK);
    CHECK(same_files(end[0], end[1]) && !same_files(end[0], half));
    for (i = 0; i < 3; ++i) rig_end(&r[i]);
    remove(half);
    remove(end[0]);
    remove(end[1]);
}

static void test_resume_fast(void) { resume("fast", NULL, 0); }
static void test_resume_release(void) { resume("release", "uniformer_tiny", 0); }
static void test_resume_sgd_unet3d(void) { resume("paper", "unet3d_tiny", 1); }

/* >>memory
 * -------------------------------------------------------------------------------------------------------------------
 */

static void test_plan(void)
{
    static const char *const net[3] = { "uniformer_tiny", "unet3d_tiny", "uniformer_tiny" };
    static const char *const preset_name[3] = { "paper", "release", "fast" };
    bmvp_memory plan, real;
    bmvp_error err;
    rig r;
    int i;
    for (i = 0; i < 3; ++i) {
        rig_config(&r, preset_name[i]);
        CHECK(bmvp_net_preset(net[i], &r.net));
        r.net.plain_decoder = i == 2;
        memset(&err, 0, sizeof err);
        check_report(bmvp_ssl_plan(NULL, &r.net, &r.cfg, 3, rig_names, rig_grid, &plan, &err) == BMVP_OK, __FILE__,
                     __LINE__, "%s", err.message);
        if (rig_begin(&r, NULL)) {
            CHECK(bmvp_reserve(r.c, plan.step_peak) == BMVP_OK);
            free_running_step(&r, 10);
            CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, NULL) == BMVP_OK);
            real = bmvp_memory_of(r.c);
            check_report(real.step_peak == plan.step_peak && real.persistent == plan.persistent, __FILE__, __LINE__,
                         "%s %s: planned %lld + %lld bytes, used %lld + %lld", preset_name[i], net[i],
                         (long long)plan.persistent, (long long)plan.step_peak, (long long)real.persistent,
                         (long long)real.step_peak);
        }
        rig_end(&r);
    }
    rig_config(&r, "paper");
    r.cfg.crop = 40;
    CHECK(bmvp_ssl_plan(NULL, &r.net, &r.cfg, 3, rig_names, rig_grid, &plan, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "crop 40");
}

/* Creation, two steps, file written and read; call number fail_at of the allocator fails. Returns the status. */
static bmvp_status short_of_memory(const rig *like, counter *n, int64_t fail_at, const char *path)
{
    bmvp_config ctx = bmvp_config_default();
    bmvp_ssl_losses loss;
    bmvp_status st = BMVP_OK;
    bmvp_error err;
    bmvp_ctx *c;
    bmvp_ssl *s;
    int k;
    ctx.allocator = counter_of(n, fail_at);
    ctx.threads = 1;
    memset(&err, 0, sizeof err);
    c = bmvp_create(&ctx, &err);
    if (!c) return err.status;
    s = bmvp_ssl_create(c, &like->net, &like->cfg, 3, rig_names, rig_grid);
    if (!s) st = bmvp_error_of(c)->status;
    for (k = 0; k < 2 && !st; ++k) {
        st = bmvp_ssl_step(s, like->item, 2, 1e-3, &loss);
        CHECK(st == bmvp_error_of(c)->status);
    }
    if (!st) st = bmvp_ssl_save(s, path, NULL, &err);
    if (!st) st = bmvp_ssl_load(s, path, &err);
    bmvp_ssl_destroy(s);
    bmvp_destroy(c);
    return st;
}

static void test_allocation_failures(void)
{
    char path[400];
    counter n;
    int64_t calls, k;
    rig r;
    temporary(path, sizeof path, "oom");
    rig_config(&r, "release");
    if (rig_begin(&r, NULL)) {
        CHECK(short_of_memory(&r, &n, 0, path) == BMVP_OK && n.live == 0);
        calls = n.calls;
        CHECK(calls > 100);
        for (k = 1; k <= calls; k += k < 20 || k > calls - 20 ? 1 : 1 + calls / 60) {
            const bmvp_status st = short_of_memory(&r, &n, k, path);
            check_report(st == BMVP_E_OOM, __FILE__, __LINE__, "call %d of %d: status '%s'", (int)k, (int)calls,
                         bmvp_status_text(st));
            check_report(n.live == 0, __FILE__, __LINE__, "call %d of %d: %d blocks leaked", (int)k, (int)calls,
                         (int)n.live);
        }
    }
    rig_end(&r);
    remove(path);
}

/* >>refused
 * ------------------------------------------------------------------------------------------------------------------ */

static void check_refused(const bmvp_net_config *net, const bmvp_ssl_config *cfg, int n, const char *const *names,
                          const char *part)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    CHECK(bmvp_ssl_create(c, net, cfg, n, names, rig_grid) == NULL && bmvp_error_of(c)->status == BMVP_E_ARG);
    CHECK_HOLDS(bmvp_error_of(c)->message, part);
    bmvp_destroy(c);
}

static void test_refused(void)
{
    static const char *const twice[2] = { "t1", "T1n" }, *const order[2] = { "t2", "t1" },
                             *const unknown[2] = { "t1", "seg" };
    rig r;
    rig_config(&r, "paper");
    check_refused(&r.net, &r.cfg, 2, twice, "twice");
    check_refused(&r.net, &r.cfg, 2, order, "'t1'");
    check_refused(&r.net, &r.cfg, 2, unknown, "'seg'");
    check_refused(&r.net, &r.cfg, 0, unknown, "not 0");
    check_refused(&r.net, &r.cfg, 9, rig_names, "not 9");
    r.cfg.crop = 40;
    check_refused(&r.net, &r.cfg, 3, rig_names, "multiple of 16");
    r.cfg.crop = EDGE;
    r.cfg.weight_cmr = r.cfg.weight_md = r.cfg.weight_cl = 0;
    check_refused(&r.net, &r.cfg, 3, rig_names, "all three tasks are off");
    rig_config(&r, "paper");
    r.net.head_dim = 7;
    check_refused(&r.net, &r.cfg, 3, rig_names, "head size 7");
}

static void test_bad_items(void)
{
    bmvp_ssl_losses loss;
    rig r;
    rig_config(&r, "paper");
    if (rig_begin(&r, NULL)) {
        r.item[1].modality = 3;
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &loss) == BMVP_E_ARG);
        CHECK_HOLDS(bmvp_error_of(r.c)->message, "modality 3");
        CHECK(bmvp_ssl_update(r.s, 1e-3, &loss) == BMVP_E_ARG); /* stays until cleared */
        bmvp_clear_error(r.c);
        r.item[1].modality = 1;
        CHECK(bmvp_ssl_step(r.s, r.item, 0, 1e-3, &loss) == BMVP_E_ARG);
        bmvp_clear_error(r.c);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &loss) == BMVP_OK && loss.total > 0);
    }
    rig_end(&r);
}

/* >>checkpoints
 * --------------------------------------------------------------------------------------------------------------- */

static void check_load_fails(const rig *from, const char *path, const char *change, const char *part)
{
    static const char *const two[2] = { "t1", "t2" };
    bmvp_net_config net = from->net;
    bmvp_ssl_config cfg = from->cfg;
    int64_t grid[3] = { 36, 40, 44 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_error err;
    bmvp_ssl *s;
    int n = 3;
    if (strcmp(change, "network") == 0) net.dim[1] = 24;
    if (strcmp(change, "kind") == 0) CHECK(bmvp_net_preset("unet3d_tiny", &net));
    if (strcmp(change, "grid") == 0) grid[0] = 35;
    if (strcmp(change, "modalities") == 0) n = 2;
    s = bmvp_ssl_create(c, &net, &cfg, n, n == 2 ? two : rig_names, grid);
    memset(&err, 0, sizeof err);
    if (CHECK(s != NULL)) {
        float *before = copy_state(bmvp_ssl_state(s));
        CHECK(bmvp_ssl_load(s, path, &err) != BMVP_OK);
        CHECK_HOLDS(err.message, part);
        CHECK_HOLDS(err.message, path);
        CHECK(count_changed(bmvp_ssl_state(s), before) == 0);
        free(before);
    }
    bmvp_ssl_destroy(s);
    bmvp_destroy(c);
}

static void test_other_checkpoints(void)
{
    char path[400];
    bmvp_error err;
    rig r;
    temporary(path, sizeof path, "other");
    rig_config(&r, "paper");
    if (rig_begin(&r, NULL)) {
        CHECK(bmvp_ssl_save(r.s, path, NULL, &err) == BMVP_OK);
        check_load_fails(&r, path, "network",
                         "'encoder.uniformer.patch_embed2.proj.weight' has shape (16, 8, 2, 2, 2)");
        check_load_fails(&r, path, "kind", "'conv1a.weight' is missing");
        check_load_fails(&r, path, "grid", "'rep_template' has shape (3, 44, 40, 36)");
        check_load_fails(&r, path, "modalities", "'rep_template'");
        remove(path);
        check_load_fails(&r, path, "nothing", "");
    }
    rig_end(&r);
}

static void test_inspect_ours(void)
{
    static const char *const extra[] = { "note", "hello", NULL };
    char path[400];
    const char *name, *meaning;
    char have[64], want[64];
    bmvp_ssl_info info;
    bmvp_error err;
    bmvp_ckpt *f = NULL;
    rig r;
    int i;
    temporary(path, sizeof path, "inspect");
    rig_config(&r, "fast");
    r.cfg.mask_ratio = 0.62;
    r.cfg.seed = 2147483647;
    if (rig_begin(&r, NULL)) {
        for (i = 0; i < 3; ++i) CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, NULL) == BMVP_OK);
        CHECK(bmvp_ssl_save(r.s, path, extra, &err) == BMVP_OK);
        check_report(bmvp_ssl_inspect(path, &info, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        CHECK(info.step == 3 && info.n_modalities == 3 && memcmp(info.grid, rig_grid, sizeof rig_grid) == 0);
        for (i = 0; i < 3; ++i) CHECK(info.names[i] && strcmp(info.names[i], rig_names[i]) == 0);
        CHECK(memcmp(info.net.dim, r.net.dim, sizeof r.net.dim) == 0 &&
              memcmp(info.net.depth, r.net.depth, sizeof r.net.depth) == 0);
        CHECK(info.net.head_dim == 8 && strcmp(info.net.kind, "uniformer") == 0 &&
              strcmp(info.cfg.preset, "fast") == 0);
        for (i = 0; bmvp_ssl_field(&r.cfg, i, &name, &meaning, want, sizeof want); ++i) {
            (void)bmvp_ssl_field(&info.cfg, i, &name, &meaning, have, sizeof have);
            check_report(strcmp(have, want) == 0, __FILE__, __LINE__, "%s is %s, should be %s", name, have, want);
        }
        if (CHECK(bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK)) {
            const bmvp_ckpt_meta *note = bmvp_ckpt_find_meta(f, "", "note");
            CHECK(note && strcmp(note->value, "hello") == 0);
            CHECK(bmvp_ckpt_find(f, "state_dict", "rep_template") >= 0 &&
                  bmvp_ckpt_find(f, "exp_avg_sq", "rep_template") >= 0);
        }
        bmvp_ckpt_close(f);
    }
    rig_end(&r);
    remove(path);
}

/* The released layout: .pt, group state_dict, names with "module.", further entries beside. */
static void write_released(bmvp_ckpt *from, const char *path)
{
    bmvp_ckpt_writer *w = NULL;
    bmvp_error err;
    char name[256];
    int i;
    CHECK(bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK);
    CHECK(bmvp_ckpt_writer_meta_int(w, "", "current_epoch", 17, &err) == BMVP_OK);
    for (i = 0; i < from->n_entries; ++i) {
        if (strcmp(from->entry[i].group, "state_dict") != 0) continue;
        snprintf(name, sizeof name, "module.%s", from->entry[i].name);
        CHECK(bmvp_ckpt_writer_add(w, "state_dict", name, from->entry[i].dtype, from->entry[i].rank, from->entry[i].dim,
                                   &err) == BMVP_OK);
    }
    for (i = 0; i < from->n_entries; ++i) {
        void *data = malloc((size_t)from->entry[i].bytes + 1);
        if (strcmp(from->entry[i].group, "state_dict") == 0) {
            CHECK(data && bmvp_ckpt_load(from, i, data, from->entry[i].bytes, &err) == BMVP_OK);
            CHECK(bmvp_ckpt_writer_data(w, data, from->entry[i].bytes, &err) == BMVP_OK);
        }
        free(data);
    }
    check_report(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
}

static void test_inspect_released(void)
{
    char ours[400], theirs[400];
    bmvp_ssl_info info;
    bmvp_error err;
    bmvp_ckpt *f = NULL;
    rig r, fresh;
    int i;
    temporary(ours, sizeof ours, "ours");
    temporary(theirs, sizeof theirs, "pt");
    rig_config(&r, "release");
    rig_config(&fresh, "release");
    fresh.cfg.seed = 5;
    if (rig_begin(&r, NULL) && rig_begin(&fresh, NULL)) {
        const bmvp_state_list *a = bmvp_ssl_state(r.s), *b = bmvp_ssl_state(fresh.s);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, NULL) == BMVP_OK);
        CHECK(bmvp_ssl_save(r.s, ours, NULL, &err) == BMVP_OK && bmvp_ckpt_open(ours, NULL, &f, &err) == BMVP_OK);
        write_released(f, theirs);
        check_report(bmvp_ssl_inspect(theirs, &info, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        CHECK(info.step == 0 && info.n_modalities == 3 && memcmp(info.grid, rig_grid, sizeof rig_grid) == 0);
        for (i = 0; i < 3; ++i) CHECK(info.names[i] && strcmp(info.names[i], bmvp_modality_name(i)) == 0);
        CHECK(memcmp(info.net.dim, r.net.dim, sizeof r.net.dim) == 0 &&
              memcmp(info.net.depth, r.net.depth, sizeof r.net.depth) == 0);
        CHECK(info.net.head_dim == 8 && info.net.mlp_ratio == 4 && info.net.in_channels == 1);
        CHECK(strcmp(info.cfg.preset, "release") == 0 && info.cfg.template_x == 44 && info.cfg.template_y == 40 &&
              info.cfg.template_z == 36);
        check_report(bmvp_ssl_load(fresh.s, theirs, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        for (i = 0; i < a->n; ++i) {
            CHECK(a->item[i].counter == b->item[i].counter);
            if (a->item[i].torch_rank > 0)
                CHECK_SAME(a->item[i].name, b->item[i].t->x, a->item[i].t->x, a->item[i].t->numel);
        }
        CHECK(bmvp_ssl_steps(fresh.s) == 0);
        bmvp_ckpt_close(f);
    }
    rig_end(&r);
    rig_end(&fresh);
    CHECK(bmvp_ssl_inspect("/nonexistent/file", &info, &err) == BMVP_E_IO);
    CHECK_HOLDS(err.message, "/nonexistent/file");
    remove(ours);
    remove(theirs);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_threads_paper);
    CHECK_RUN(test_threads_fast);
    CHECK_RUN(test_threads_release_unet3d);
    CHECK_RUN(test_resume_fast);
    CHECK_RUN(test_resume_release);
    CHECK_RUN(test_resume_sgd_unet3d);
    CHECK_RUN(test_plan);
    CHECK_RUN(test_allocation_failures);
    CHECK_RUN(test_refused);
    CHECK_RUN(test_bad_items);
    CHECK_RUN(test_other_checkpoints);
    CHECK_RUN(test_inspect_ours);
    CHECK_RUN(test_inspect_released);
    return check_end();
}
