/* test_method.c - the method of examples/09_own_method.c, which the library does not know: several ranks equal one, a
   run that is taken up gives the same bits, a plan, the names in its log and file, wrong use; and one with a slowly
   moving copy of the network, AMSGrad and no decay of biases */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* the lesson's implementation is build/library.o's */
#define BMVP_TENSOR_IMPLEMENTATION_ONCE
#define BMVP_NN_IMPLEMENTATION_ONCE
#define BMVP_SSL_IMPLEMENTATION_ONCE
#define main lesson
#include "examples/09_own_method.c"
#undef main
#include "tests/support/check.h"
#include "tests/support/ranks.h"
#include <unistd.h>

typedef struct job {
    member me;
    bmvp_losses loss[STEPS];
    bmvp_error err;
} job;

static mim_config config_of(void)
{
    mim_config k;
    bmvp_run_default(&k);
    k.hidden = 0.75, k.batch = CASES, k.lr = 0.02, k.optimizer = 1, k.clip = 1;
    return k;
}

static bmvp_method method_of(void)
{
    bmvp_method m;
    memset(&m, 0, sizeof m);
    m.name = "mim", m.format = "masked-image modelling 1", m.loss = mim_losses, m.fields = mim_fields;
    m.config_size = sizeof(mim_config), m.item_size = sizeof(float *), m.forward = mim_forward;
    return m;
}

static void *run_job(void *arg)
{
    job *j = (job *)arg;
    const mim_config k = config_of();
    const bmvp_method m = method_of();
    bmvp_config cfg = bmvp_config_default();
    bmvp_ctx *c;
    cfg.threads = 1;
    c = bmvp_create(&cfg, NULL);
    if (j->me.of) bmvp_set_comm(c, &j->me.table);
    mim_run(c, &m, &k, NULL, NULL, 6, j->loss);
    j->err = *bmvp_error_of(c);
    bmvp_destroy(c);
    return NULL;
}

static void test_ranks(void)
{
    static group g;
    pthread_t thread[MOST];
    job one, some[MOST];
    int i, k, size;
    memset(&one, 0, sizeof one);
    (void)run_job(&one);
    for (size = 2; size <= 3; ++size) {
        memset(some, 0, sizeof some);
        group_open(&g, size);
        for (i = 0; i < size; ++i) join(&some[i].me, &g, i, 1);
        for (i = 0; i < size; ++i) CHECK(pthread_create(&thread[i], NULL, run_job, &some[i]) == 0);
        for (i = 0; i < size; ++i) pthread_join(thread[i], NULL);
        group_close(&g);
        for (i = 0; i < size; ++i) CHECK(some[i].err.status == BMVP_OK);
        for (i = 0; i < size; ++i)
            for (k = 0; k < 6; ++k) CHECK_NEAR(some[i].loss[k].total, one.loss[k].total, 1e-5 * one.loss[k].total);
    }
    CHECK(one.loss[5].total > 0 && one.loss[5].total < one.loss[0].total);
}

static void test_taken_up(void)
{
    char file[256];
    const mim_config k = config_of();
    const bmvp_method m = method_of();
    static bmvp_losses once[STEPS], again[STEPS];
    bmvp_net_config net;
    mim_config said;
    bmvp_ssl_config other;
    int64_t step = 0, samples = 0;
    bmvp_error err;
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    snprintf(file, sizeof file, "%s/test_method.%ld.safetensors", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (long)getpid());
    mim_run(c, &m, &k, NULL, NULL, 6, once);
    mim_run(c, &m, &k, NULL, file, 3, again);
    mim_run(c, &m, &k, file, NULL, 6, again);
    CHECK(!bmvp_failed(c) && memcmp(once, again, sizeof once) == 0);
    memset(&said, 0, sizeof said);
    CHECK(bmvp_trainer_inspect(file, &m, &net, &said, &step, &samples, &err) == BMVP_OK && step == 3);
    CHECK(samples == step * said.batch);
    CHECK(said.hidden == 0.75 && said.batch == CASES && said.optimizer == 1 && strcmp(net.name, "uniformer_tiny") == 0);
    CHECK(bmvp_trainer_inspect(file, bmvp_ssl_method(), &net, &other, &step, &samples, &err) == BMVP_E_FORMAT);
    CHECK_HOLDS(err.message, "written as 'masked-image modelling 1', but this run is 'bmvp pre-training 1'");
    (void)remove(file);
    bmvp_destroy(c);
}

/* The lesson's method with a teacher, which nobody asks but which must be there again after a break */
typedef struct taught { bmvp_net *teacher; } taught;
static void taught_create(bmvp_trainer *t)
{
    bmvp_net *net = ((taught *)t->state)->teacher = bmvp_net_create(t->c, &t->net_config);
    bmvp_state_decay_matrices(bmvp_net_state(t->net));
    if (net) bmvp_trainer_keep(t, "teacher", t->c, bmvp_net_state(net));
}
static void taught_average(bmvp_trainer *t, double keep)
{
    bmvp_state_average(t->c, bmvp_net_state(((taught *)t->state)->teacher), bmvp_net_state(t->net), keep);
}
static void taught_start(bmvp_trainer *t) { taught_average(t, 0); }
static void taught_update(bmvp_trainer *t) { taught_average(t, 0.9); }
static void taught_destroy(bmvp_trainer *t) { bmvp_net_destroy(((taught *)t->state)->teacher); }
static void taught_optimizer(const bmvp_trainer *t, bmvp_optim_config *k)
{
    (void)t;
    k->amsgrad = 1;
}
static bmvp_trainer *taught_make(bmvp_ctx *c, int amsgrad)
{
    bmvp_method m;
    bmvp_net_config net;
    mim_config k = config_of();
    memset(&m, 0, sizeof m);
    k.optimizer = 0;
    k.weight_decay = 0.01;
    m.name = "taught", m.format = "taught 1", m.loss = mim_losses, m.fields = mim_fields;
    m.config_size = sizeof k, m.item_size = sizeof(float *), m.state_size = sizeof(taught), m.forward = mim_forward;
    m.create = taught_create, m.start = taught_start, m.after_update = taught_update, m.destroy = taught_destroy;
    if (amsgrad) m.optimizer = taught_optimizer;
    CHECK(bmvp_net_preset("uniformer_tiny", &net));
    return bmvp_trainer_create(c, &m, &net, &k, NULL, 1);
}
static void taught_steps(bmvp_trainer *t, int64_t to)
{
    static float volume[CASES][VOXELS];
    const float *item[CASES];
    int i;
    for (i = 0; i < CASES * VOXELS; ++i) volume[i / VOXELS][i % VOXELS] = (float)(i / VOXELS + i / 8 % 2) * 0.2f;
    for (i = 0; i < CASES; ++i) item[i] = volume[i];
    while (t && t->steps < to && bmvp_trainer_step(t, item, CASES, bmvp_trainer_lr(t, 4), NULL) == BMVP_OK) {}
}
static void test_teacher(void)
{
    char file[256];
    bmvp_error err;
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_trainer *once = taught_make(c, 1), *first = taught_make(c, 1), *again = taught_make(c, 1), *plain;
    int i, w, apart = 0;
    snprintf(file, sizeof file, "%s/test_teacher.%ld.safetensors", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (long)getpid());
    taught_steps(once, 2);
    taught_steps(first, 1);
    if (CHECK(once && first && again && bmvp_trainer_save(first, file, 1, NULL, NULL) == BMVP_OK)) {
        CHECK(bmvp_trainer_load(again, file, 1, &err) == BMVP_OK);
        taught_steps(again, 2);
    }
    for (i = 0; !bmvp_failed(c) && i < bmvp_net_state(once->net)->n; ++i) {
        const bmvp_state *s = &bmvp_net_state(((taught *)once->state)->teacher)->item[i];
        const bmvp_state *r = &bmvp_net_state(((taught *)again->state)->teacher)->item[i];
        if (s->torch_rank == 0) continue;
        CHECK_SAME(s->name, s->t->x, r->t->x, s->t->numel);
        apart += memcmp(s->t->x, bmvp_net_state(once->net)->item[i].t->x, (size_t)s->t->numel * sizeof(float)) != 0;
        for (w = 0; w < BMVP_MOMENTS && s->trained; ++w)
            CHECK_SAME(s->name, bmvp_optim_moment(once->optim, i, w)->x, bmvp_optim_moment(again->optim, i, w)->x,
                       s->t->numel);
    }
    CHECK(apart > 10);
    plain = taught_make(c, 0);
    if (CHECK(plain != NULL)) CHECK(bmvp_trainer_load(plain, file, 1, &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "written with amsgrad, but this run is without it");
    bmvp_trainer_destroy(once);
    bmvp_trainer_destroy(first);
    bmvp_trainer_destroy(again);
    bmvp_trainer_destroy(plain);
    (void)remove(file);
    bmvp_destroy(c);
}

static void test_fields(void)
{
    mim_config k = config_of();
    bmvp_error err;
    CHECK(bmvp_field_set(mim_fields, &k, "hidden", "0.5", &err) == BMVP_OK && k.hidden == 0.5);
    CHECK(bmvp_field_set(mim_fields, &k, "batch", "2", &err) == BMVP_OK && k.batch == 2);
    CHECK(bmvp_field_set(mim_fields, &k, "hidden", "2", &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "hidden = '2': must be a number (double) from 0.01 to 0.99");
    CHECK(bmvp_field_set(mim_fields, &k, "hiden", "0.5", &err) == BMVP_E_ARG);
    CHECK_HOLDS(err.message, "there is no setting 'hiden'; there are: hidden batch");
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_ranks);
    CHECK_RUN(test_taken_up);
    CHECK_RUN(test_teacher);
    CHECK_RUN(test_fields);
    return check_end();
}
