/* test_parallel.c - pre-training on several ranks (threads, see ranks.h): 2 and 3 of them with their shares of each
   step equal one with the whole batch, with batch norm, contrast over all pairs, templates, accumulation, and a run
   resumed with another number of ranks. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/check.h"
#include "tests/support/formula.h"
#include "tests/support/rank_jobs.h"

#include <math.h>
#include <unistd.h>

enum {
    EDGE = 32,
    CUBE = EDGE * EDGE * EDGE,
    MODALITIES = 3,
    CASES = 5,
    BATCH = 4,
    STEPS = 10,
    ITEMS = BATCH * MODALITIES
};

static const char *const names[MODALITIES] = { "t1", "t2", "dwi" };
static const int64_t grid[3] = { 36, 40, 44 };
static const bmvp_ssl_case cases[CASES] = {
    { 7, { 36, 40, 44 } }, { 7, { 33, 38, 40 } }, { 7, { 36, 30, 44 } }, { 7, { 34, 40, 36 } }, { 7, { 35, 36, 37 } },
};
static const bmvp_ssl_case poor_cases[CASES] = { /* some with one modality: no pairs */
    { 7, { 36, 40, 44 } }, { 2, { 33, 38, 40 } }, { 5, { 36, 30, 44 } }, { 1, { 34, 40, 36 } }, { 7, { 35, 36, 37 } },
};

typedef struct setup {
    bmvp_ssl_config cfg;
    const bmvp_ssl_case *cases;
    double lr;
    int steps;
    const char *load, *save; /* checkpoints, or NULL */
} setup;

typedef struct job { /* one rank */
    rank_job r;
    const setup *of;
    bmvp_ssl_losses loss[STEPS];
    int visits[CASES];
} job;

static setup setup_of(const char *preset, int batch)
{
    setup s;
    memset(&s, 0, sizeof s);
    CHECK(bmvp_ssl_preset(preset, &s.cfg));
    s.cfg.crop = EDGE;
    s.cfg.batch = batch;
    s.cfg.contrast_from_epoch = s.cfg.template_only_epochs = 0;
    s.cfg.template_x = s.cfg.template_y = s.cfg.template_z = 0;
    s.cfg.optimizer = 1;
    s.cfg.weight_cl = 0.3;
    s.cfg.clip = 1;
    s.cfg.temperature = 0.2;
    s.cases = cases;
    s.lr = 0.02;
    s.steps = STEPS;
    return s;
}

static bmvp_net_config small_net(void)
{
    static const int dim[4] = { 8, 16, 24, 32 };
    bmvp_net_config k;
    (void)bmvp_net_preset("uniformer_tiny", &k);
    memcpy(k.dim, dim, sizeof dim);
    k.depth[2] = 1;
    k.head_dim = 8;
    return k;
}

/* The crop of a case's modality, zero outside of its volume */
static void fill_crop(const bmvp_ssl_case *k, int64_t index, int modality, const int64_t at[3], float *x)
{
    const uint64_t stream = formula_stream("case", (uint64_t)(index * MODALITIES + modality));
    int64_t z, y, i;
    for (z = at[0]; z < at[0] + EDGE; ++z)
        for (y = at[1]; y < at[1] + EDGE; ++y)
            for (i = at[2]; i < at[2] + EDGE; ++i, ++x) {
                const int inside = z >= 0 && y >= 0 && i >= 0 && z < k->dim[0] && y < k->dim[1] && i < k->dim[2];
                *x = inside ? (float)formula_uniform(stream, (z * k->dim[1] + y) * k->dim[2] + i) : 0;
            }
}

/* One pass: this rank's share of n draws. */
static bmvp_status run_pass(job *j, bmvp_ssl *s, const bmvp_ssl_draw *draw, int n, float *voxels, bmvp_ssl_losses *part)
{
    bmvp_ssl_item item[BATCH];
    int i, first, count;
    count = bmvp_ssl_share(n, j->r.me.table.rank, j->r.me.table.size, &first);
    memset(item, 0, sizeof item);
    for (i = 0; i < count; ++i) {
        const bmvp_ssl_draw *d = &draw[first + i];
        const bmvp_ssl_case *k = &j->of->cases[d->index];
        float *x = voxels + 2 * i * CUBE;
        ++j->visits[d->index];
        fill_crop(k, d->index, d->modality, d->crop, x);
        if (d->other >= 0) fill_crop(k, d->index, d->other, d->crop, x + CUBE);
        item[i].x = x;
        item[i].other = d->other < 0 ? NULL : x + CUBE;
        item[i].modality = d->modality;
        item[i].slot = d->slot;
        item[i].weight = d->weight;
        bmvp_template_place(d->crop, k->dim, grid, item[i].template_start);
    }
    return bmvp_ssl_accumulate(s, item, count, part);
}

static bmvp_status run_step(job *j, bmvp_ssl *s, float *voxels, bmvp_ssl_losses *sum)
{
    const bmvp_ssl_config *k = &j->of->cfg;
    bmvp_ssl_draw draw[ITEMS];
    bmvp_ssl_losses part;
    int64_t order[CASES];
    const int n = bmvp_ssl_sample(k, j->of->cases, CASES, MODALITIES, bmvp_ssl_steps(s), order, draw);
    bmvp_status st = BMVP_OK;
    int from, to;
    memset(sum, 0, sizeof *sum);
    for (from = 0; from < n && !st; from = to) {
        for (to = from + 1; to < n && draw[to].slot / (uint32_t)k->batch == draw[from].slot / (uint32_t)k->batch;
             ++to) {
        }
        if (to == n) bmvp_ssl_last_pass(s);
        st = run_pass(j, s, draw + from, to - from, voxels, &part);
        sum->total += part.total;
        sum->cmr += part.cmr;
        sum->md += part.md;
        sum->cl += part.cl;
    }
    return st ? st : bmvp_ssl_update(s, j->of->lr, sum);
}

static void *run_job(void *arg)
{
    job *j = (job *)arg;
    const bmvp_net_config net = small_net();
    bmvp_config k = bmvp_config_default();
    float *voxels = (float *)malloc(2 * BATCH * CUBE * sizeof *voxels);
    bmvp_ctx *c;
    bmvp_ssl *s;
    int i, step = 0;
    k.threads = 1;
    c = bmvp_create(&k, &j->r.err);
    if (j->r.me.of) bmvp_set_comm(c, &j->r.me.table);
    s = bmvp_ssl_create(c, &net, &j->of->cfg, MODALITIES, names, grid);
    for (i = 0; s && i < MODALITIES && j->r.me.table.rank == 0; ++i)
        bmvp_fill(c, bmvp_ssl_template(s, i), 0.3f + 0.1f * (float)i);
    if (s && j->of->load && j->r.me.table.rank == 0 && bmvp_ssl_load(s, j->of->load, &j->r.err))
        bmvp_fail(c, BMVP_E_IO, "%s", j->r.err.message);
    if (s) (void)bmvp_ssl_broadcast(s);
    if (s) j->r.start = read_state(c, bmvp_ssl_state(s), &j->r.n);
    while (s && step < j->of->steps && run_step(j, s, voxels, &j->loss[step]) == BMVP_OK) ++step;
    if (s && j->of->save && j->r.me.table.rank == 0 && bmvp_ssl_save(s, j->of->save, NULL, &j->r.err))
        bmvp_fail(c, BMVP_E_IO, "%s", j->r.err.message);
    if (s) j->r.end = read_state(c, bmvp_ssl_state(s), &j->r.n);
    j->r.err = *bmvp_error_of(c);
    bmvp_ssl_destroy(s);
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
    check_ranks(j, sizeof *j, size);
}

/* >>tests -------------------------------------------------------------------------------------------------------- */

/* Differences as a share of how far the parameters went, in root mean squares, from the step `first` on. */
static void compare(const job *got, const job *want, int steps, double loss_tol, double state_tol)
{
    int k;
    for (k = 0; k < steps; ++k) {
        const bmvp_ssl_losses *a = &got->loss[k], *b = &want->loss[k];
        CHECK_NEAR(a->total, b->total, loss_tol * fabs(b->total));
        check_loss(a->cmr, b->cmr, loss_tol);
        check_loss(a->md, b->md, loss_tol);
        check_loss(a->cl, b->cl, loss_tol);
        if (b->grad_norm == b->grad_norm) CHECK_NEAR(a->grad_norm, b->grad_norm, 10 * loss_tol * b->grad_norm);
    }
    compare_states(&got->r, &want->r, state_tol);
}

static void several_equal_one(const setup *of, int size, double loss_tol, double state_tol)
{
    job one[MOST], some[MOST], again[MOST];
    int i;
    run_jobs(one, of, 1);
    run_jobs(some, of, size);
    run_jobs(again, of, size);
    for (i = 0; i < size && check_all.bad == 0; ++i) {
        compare(&some[i], &one[0], of->steps, loss_tol, state_tol);
        CHECK_SAME("all ranks", some[i].r.end, some[0].r.end, some[0].r.n);
        CHECK_SAME("a second run", again[i].r.end, some[i].r.end, some[i].r.n);
    }
    release_ranks(one, sizeof *one);
    release_ranks(some, sizeof *some);
    release_ranks(again, sizeof *again);
}

static void test_two(void)
{
    const setup s = setup_of("fast", 2);
    several_equal_one(&s, 2, 1e-5, 2e-5);
}
static void test_three_unequal_accumulating(void)
{
    setup s = setup_of("paper", 4);
    s.cfg.update_every = 2;
    several_equal_one(&s, 3, 1e-5, 2e-5);
}
static void test_cases_without_pairs(void)
{
    setup s = setup_of("fast", 3);
    s.cases = poor_cases;
    s.cfg.recompute = 1;
    several_equal_one(&s, 3, 1e-5, 2e-5);
    s.cfg.weight_md = 0; /* a rank without pairs has no loss of its own */
    several_equal_one(&s, 3, 1e-5, 2e-5);
}
static void test_release_minmax(void)
{
    setup s = setup_of("release", 3);
    s.cfg.gather_negatives = 1;
    several_equal_one(&s, 2, 3e-5, 2e-5);
}
static void test_all_modalities(void)
{
    setup s = setup_of("fast", 2);
    s.cfg.all_modalities = 1;
    several_equal_one(&s, 2, 1e-5, 2e-5);
}
static void test_adamw(void)
{
    setup s = setup_of("fast", 2);
    s.cfg.optimizer = 0;
    s.lr = 1e-3;
    several_equal_one(&s, 2, 1e-5, 1e-3);
}

/* Four steps on two ranks, six more on three: the ten of one. */
static void test_resume_with_other_ranks(void)
{
    char file[256];
    setup s = setup_of("fast", 3);
    job one[MOST], some[MOST];
    snprintf(file, sizeof file, "%s/test_parallel.%ld.safetensors", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (long)getpid());
    run_jobs(one, &s, 1);
    s.steps = 4;
    s.save = file;
    run_jobs(some, &s, 2);
    release_ranks(some, sizeof *some);
    s.steps = STEPS - 4;
    s.save = NULL;
    s.load = file;
    run_jobs(some, &s, 3);
    memmove(one[0].loss, one[0].loss + 4, (size_t)s.steps * sizeof *one[0].loss);
    compare(&some[2], &one[0], s.steps, 1e-5, 2e-5);
    (void)remove(file);
    release_ranks(one, sizeof *one);
    release_ranks(some, sizeof *some);
}

/* Every case once in an epoch, over all ranks. */
static void test_epoch(void)
{
    setup s = setup_of("fast", 4);
    job j[MOST];
    int size, i, r;
    s.steps = CASES; /* four epochs: 20 cases */
    for (size = 1; size <= 3; ++size) {
        run_jobs(j, &s, size);
        for (i = 0; i < CASES; ++i) {
            int visits = 0;
            for (r = 0; r < size; ++r) visits += j[r].visits[i];
            CHECK(visits == 4);
        }
        release_ranks(j, sizeof *j);
    }
}

static void test_shares(void)
{
    int n, size, rank, first, next;
    for (n = 0; n < 9; ++n)
        for (size = 1; size < 5; ++size) {
            for (rank = 0, next = 0; rank < size; ++rank) {
                const int count = bmvp_ssl_share(n, rank, size, &first);
                CHECK(first == next && count - n / size >= 0 && count - n / size <= 1);
                next += count;
            }
            CHECK(next == n);
        }
}

static void refused(const setup *s, int size, const char *words)
{
    job j[MOST];
    int i;
    memset(j, 0, sizeof j);
    for (i = 0; i < size; ++i) j[i].of = s;
    run_ranks(j, sizeof *j, size, run_job);
    for (i = 0; i < size; ++i) {
        CHECK(j[i].r.err.status == BMVP_E_ARG);
        CHECK_HOLDS(j[i].r.err.message, words);
    }
    release_ranks(j, sizeof *j);
}

static void test_refused(void)
{
    setup s = setup_of("fast", 2);
    refused(&s, 3, "batch 2 is the number of cases of a step over all ranks, of which there are 3");
    s = setup_of("fast", 3);
    s.cases = poor_cases;
    s.cfg.weight_md = s.cfg.weight_cl = 0;
    refused(&s, 3, "has no view in this pass of 3 crops");
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_two);
    CHECK_RUN(test_three_unequal_accumulating);
    CHECK_RUN(test_cases_without_pairs);
    CHECK_RUN(test_release_minmax);
    CHECK_RUN(test_all_modalities);
    CHECK_RUN(test_adamw);
    CHECK_RUN(test_resume_with_other_ranks);
    CHECK_RUN(test_epoch);
    CHECK_RUN(test_shares);
    CHECK_RUN(test_refused);
    return check_end();
}
