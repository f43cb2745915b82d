/* test_parallel_ft.c - fine-tuning on several ranks (threads, see ranks.h): 2 and 3 of them with unequal shares of
   each step equal one with the whole batch: batch statistics, a Dice of each case and of the whole batch, weighed
   classes, ignored labels, consistency, accumulation, and a run resumed with another number of ranks. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include "tests/support/rank_jobs.h"

#include <math.h>
#include <unistd.h>

enum { EDGE = 32, CUBE = EDGE * EDGE * EDGE, MODALITIES = 3, BATCH = 4, STEPS = 4 };
static const char *const names[MODALITIES] = { "flair", "t1", "t1c" };
static const int64_t grid[3] = { 36, 34, 40 };

typedef struct setup {
    const char *net, *labels; /* labels NULL: classification */
    const char *change[16];   /* name, value, .. of the configuration */
    int batch, steps, weighed, ignored; /* ignored: value 9 is, and all of item 0 but a corner has it */
    double lr;
    const char *load, *save;  /* checkpoints, or NULL */
} setup;

typedef struct job { /* one rank */
    rank_job r;
    const setup *of;
    bmvp_ft_losses loss[STEPS];
} job;

static setup setup_of(const char *net, const char *labels, int batch)
{
    setup s;
    memset(&s, 0, sizeof s);
    s.net = net;
    s.labels = labels;
    s.batch = batch;
    s.steps = STEPS;
    s.lr = 0.002; /* at ten times this rate a step moves past kinks, and rounding grows a hundredfold a step */
    return s;
}

static void change(setup *s, const char *name, const char *value)
{
    int i = 0;
    while (s->change[i]) i += 2;
    s->change[i] = name;
    s->change[i + 1] = value;
}

/* Images and labels of item i of a step, the same on every rank; item 1 lacks a modality, item 2 has the rare label
   alone. */
static void fill_item(int step, int i, float *voxels, bmvp_ft_item *item, int segment, int ignored)
{
    bmvp_rng r = bmvp_rng_make(5, 7, (uint32_t)step, (uint32_t)i);
    float *labels = voxels + MODALITIES * CUBE;
    int m, k;
    memset(item, 0, sizeof *item);
    for (m = 0; m < MODALITIES; ++m) {
        for (k = 0; k < CUBE; ++k) voxels[m * CUBE + k] = bmvp_rng_uniform(&r);
        if (!(i == 1 && m == 2)) item->image[m] = voxels + m * CUBE;
    }
    for (k = 0; k < CUBE; ++k)
        labels[k] = voxels[k] < (i == 2 ? 0.98f : 0.7f) ? 0 : i == 2 ? 4 : 1 + (float)bmvp_rng_below(&r, 2);
    for (k = ignored ? i == 0 ? 4000 : CUBE - 3000 * i : CUBE; k < CUBE; ++k) labels[k] = 9;
    item->labels = segment ? labels : NULL;
    item->class_index = i % 3;
    item->slot = (uint32_t)i;
}

static bmvp_ft *make(const setup *of, bmvp_ctx *c, bmvp_error *err)
{
    static const float weight[4] = { 0.2f, 1, 1.7f, 3 };
    bmvp_net_config net;
    bmvp_ft_config cfg;
    bmvp_labels labels;
    bmvp_ft *f;
    int i;
    (void)bmvp_net_preset(of->net, &net);
    for (i = 0; i < 4; ++i) net.dim[i] = 8 * (i + 1);
    net.depth[2] = 1;
    net.head_dim = net.width = 8;
    net.task = of->labels ? BMVP_TASK_SEGMENT : BMVP_TASK_CLASSIFY;
    net.outputs = 3;
    (void)bmvp_ft_preset("paper", net.task, net.kind, &cfg);
    cfg.crop_x = cfg.crop_y = cfg.crop_z = EDGE;
    cfg.batch = of->batch;
    cfg.update_every = 1;
    cfg.optimizer = 1;
    cfg.clip = 1;
    cfg.head_prior = 0.05; /* or the loss amplifies rounding a thousandfold at first */
    for (i = 0; of->change[i]; i += 2)
        if (bmvp_ft_set(&cfg, of->change[i], of->change[i + 1], err))
            return (bmvp_ft *)bmvp_fail(c, BMVP_E_ARG, "%s", err->message);
    if (of->labels && !bmvp_labels_builtin(of->labels, &labels))
        return (bmvp_ft *)bmvp_fail(c, BMVP_E_ARG, "no labels %s", of->labels);
    if (of->ignored && bmvp_labels_ignore(&labels, 9, err)) return (bmvp_ft *)bmvp_fail(c, BMVP_E_ARG, "labels");
    f = bmvp_ft_create(c, &net, &cfg, of->labels ? &labels : NULL, MODALITIES, names, grid);
    if (f && of->weighed) bmvp_ft_class_weights(f, weight);
    return f;
}

static bmvp_status run_step(job *j, bmvp_ft *f, int step, float *voxels)
{
    bmvp_ft_item item[BATCH];
    int i, first, n;
    n = bmvp_trainer_share(j->of->batch, j->r.me.table.rank, j->r.me.table.size, &first);
    for (i = 0; i < n; ++i)
        fill_item(step, first + i, voxels + i * (MODALITIES + 1) * CUBE, &item[i], j->of->labels != NULL,
                  j->of->ignored);
    return bmvp_ft_step(f, item, n, j->of->lr, &j->loss[step % STEPS]);
}

static void *run_job(void *arg)
{
    job *j = (job *)arg;
    bmvp_config k = bmvp_config_default();
    float *voxels = (float *)malloc(BATCH * (MODALITIES + 1) * CUBE * sizeof *voxels);
    bmvp_ctx *c;
    bmvp_ft *f;
    int i, n, at, taken = 0;
    k.threads = 1;
    c = bmvp_create(&k, &j->r.err);
    if (j->r.me.of) bmvp_set_comm(c, &j->r.me.table);
    f = make(j->of, c, &j->r.err);
    for (i = 0; f && i < MODALITIES && j->r.me.table.rank == 0; ++i)
        bmvp_fill(c, bmvp_ft_template(f, i), 0.3f + 0.1f * (float)i);
    if (f && j->of->load && j->r.me.table.rank == 0 && bmvp_ft_load(f, j->of->load, 1, &j->r.err))
        bmvp_fail(c, BMVP_E_IO, "%s", j->r.err.message);
    if (f) (void)bmvp_ft_broadcast(f);
    for (i = 0; f && i < MODALITIES; ++i) CHECK_NEAR(bmvp_ft_template(f, i)->x[0], 0.3 + 0.1 * i, 1e-6);
    if (f) j->r.start = read_state(c, bmvp_net_state(bmvp_ft_net(f)), &j->r.n);
    at = f ? (int)bmvp_ft_steps(f) : 0;
    for (n = j->of->steps; f && taken < n && run_step(j, f, at + taken, voxels) == BMVP_OK;) ++taken;
    if (f && j->of->save && j->r.me.table.rank == 0 && bmvp_ft_save(f, j->of->save, 1, NULL, &j->r.err))
        bmvp_fail(c, BMVP_E_IO, "%s", j->r.err.message);
    if (f) j->r.end = read_state(c, bmvp_net_state(bmvp_ft_net(f)), &j->r.n);
    j->r.err = *bmvp_error_of(c);
    bmvp_ft_destroy(f);
    bmvp_destroy(c);
    free(voxels);
    return NULL;
}

static void run_jobs(job *j, const setup *of, int size)
{
    int i;
    memset(j, 0, MOST * sizeof *j);
    for (i = 0; i < size; ++i) j[i].of = of;
    run_ranks(j, sizeof *j, size, run_job);
}

/* >>tests --------------------------------------------------------------------------------------------------- */

/* Differences as a share of how far the parameters went, in root mean squares. */
static void compare(const job *got, const job *want, int first, int steps, double loss_tol, double state_tol)
{
    int k;
    for (k = first; k < first + steps; ++k) {
        const bmvp_ft_losses *a = &got->loss[k], *b = &want->loss[k];
        CHECK(b->total == b->total);
        check_loss(a->total, b->total, loss_tol);
        check_loss(a->dice, b->dice, loss_tol);
        check_loss(a->ce, b->ce, loss_tol);
        check_loss(a->consistency, b->consistency, 10 * loss_tol);
        if (b->grad_norm == b->grad_norm) CHECK_NEAR(a->grad_norm, b->grad_norm, 10 * loss_tol * b->grad_norm);
    }
    compare_states(&got->r, &want->r, state_tol);
}

static void several_equal_one(const setup *of, int size)
{
    job one[MOST], some[MOST], again[MOST];
    int i;
    run_jobs(one, of, 1);
    run_jobs(some, of, size);
    run_jobs(again, of, size);
    check_ranks(one, sizeof *one, 1);
    check_ranks(some, sizeof *some, size);
    for (i = 0; i < size; ++i) {
        compare(&some[i], &one[0], 0, of->steps, 2e-5, 1e-4);
        CHECK_SAME("all ranks", some[i].r.end, some[0].r.end, some[0].r.n);
        CHECK_SAME("a second run", again[i].r.end, some[i].r.end, some[i].r.n);
    }
    release_ranks(one, sizeof *one);
    release_ranks(some, sizeof *some);
    release_ranks(again, sizeof *again);
}

static void test_regions(void)
{
    const setup s = setup_of("uniformer_tiny", "brats2021", 2);
    several_equal_one(&s, 2);
}
static void test_unequal_shares(void)
{
    setup s = setup_of("uniformer_tiny", "brats2021", 4);
    change(&s, "ce_weight", "0.5");
    change(&s, "recompute", "1");
    several_equal_one(&s, 3);
}
static void test_batch_dice(void)
{
    setup s = setup_of("uniformer_tiny", "brats2021", 3);
    change(&s, "dice_batch", "1");
    change(&s, "dice_squared", "1");
    change(&s, "dice_smooth", "1");
    change(&s, "copy_weight", "0.5");
    change(&s, "consistency_on", "1");
    change(&s, "ce_weight", "0.3");
    several_equal_one(&s, 2);
    several_equal_one(&s, 3);
}
static void test_classes_weighed(void)
{
    setup s = setup_of("unet3d_tiny", "mrbrains", 3);
    s.weighed = 1;
    change(&s, "dice_batch", "1");
    change(&s, "ce_weight", "1");
    several_equal_one(&s, 2);
}
static void test_ignored(void)
{
    setup s = setup_of("unet3d_tiny", "mrbrains", 3);
    s.ignored = s.weighed = 1;
    change(&s, "dice_smooth", "1");
    change(&s, "ce_weight", "1");
    several_equal_one(&s, 2);
    s = setup_of("unet3d_tiny", "brats2021", 3);
    s.ignored = 1;
    change(&s, "dice_batch", "1");
    change(&s, "ce_weight", "0.3");
    several_equal_one(&s, 3);
}
static void test_classification(void)
{
    setup s = setup_of("uniformer_tiny", NULL, 4);
    s.weighed = 1;
    several_equal_one(&s, 3);
}
static void test_accumulation(void)
{
    setup s = setup_of("unet3d_tiny", "brats2021", 3);
    change(&s, "update_every", "2");
    change(&s, "copies", "0");
    several_equal_one(&s, 2);
}

/* Half of the steps on two ranks, the rest on three: those of one. */
static void test_resume_with_other_ranks(void)
{
    char file[256];
    setup s = setup_of("uniformer_tiny", "brats2021", 3);
    job one[MOST], some[MOST];
    snprintf(file, sizeof file, "%s/test_parallel_ft.%ld.safetensors", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (long)getpid());
    run_jobs(one, &s, 1);
    s.steps = STEPS / 2;
    s.save = file;
    run_jobs(some, &s, 2);
    check_ranks(some, sizeof *some, 2);
    release_ranks(some, sizeof *some);
    s.steps = STEPS - STEPS / 2;
    s.save = NULL;
    s.load = file;
    run_jobs(some, &s, 3);
    check_ranks(some, sizeof *some, 3);
    compare(&some[2], &one[0], STEPS / 2, s.steps, 2e-5, 1e-4);
    (void)remove(file);
    release_ranks(one, sizeof *one);
    release_ranks(some, sizeof *some);
}

static void test_refused(void)
{
    const setup s = setup_of("uniformer_tiny", "brats2021", 2);
    job j[MOST];
    int i;
    run_jobs(j, &s, 3);
    for (i = 0; i < 3; ++i) CHECK(j[i].r.err.status == BMVP_E_ARG);
    for (i = 0; i < 3; ++i)
        CHECK_HOLDS(j[i].r.err.message,
                    "batch 2 is the number of cases of a step over all ranks, of which there are 3");
    release_ranks(j, sizeof *j);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_regions);
    CHECK_RUN(test_unequal_shares);
    CHECK_RUN(test_batch_dice);
    CHECK_RUN(test_classes_weighed);
    CHECK_RUN(test_ignored);
    CHECK_RUN(test_classification);
    CHECK_RUN(test_accumulation);
    CHECK_RUN(test_resume_with_other_ranks);
    CHECK_RUN(test_refused);
    return check_end();
}
