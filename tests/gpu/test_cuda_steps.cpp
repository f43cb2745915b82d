/* test_cuda_steps.cpp - training on the GPU that tests/gpu/cuda_shim.h plays against the CPU: the optimizers;
   pre-training and fine-tuning of the tiny networks, and their checkpoints; bfloat16; steps as graphs, and what may go
   wrong while one is recorded; plans. */
#define BMVP_IMPLEMENTATION
#define BMVP_NO_SIMD /* the plain loops are the definition */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "on_shim.h"
#include <string>

/* ---- optimizers -------------------------------------------------------------------------------------------------- */

static floats optimise(const bmvp_backend *b, bmvp_optim_kind kind, double *norm)
{
    static const int64_t dim[3][3] = { { 3, 5, 2 }, { 20, 10, 101 }, { 1, 1, 1 } };
    bmvp_ctx *c = context(b);
    bmvp_optim_config k = bmvp_optim_config_default(kind);
    bmvp_rng r = bmvp_rng_make(11, 0, 0, 0);
    bmvp_state_list list;
    floats all;
    bmvp_optim *o;
    memset(&list, 0, sizeof list);
    for (int i = 0; i < 3; ++i) {
        const char *name = i == 0 ? "a" : i == 1 ? "b" : "c";
        bmvp_tensor *t = bmvp_state_add(c, &list, name, BMVP_LAYOUT_VOLUME, 3, dim[i], 1, BMVP_INIT_ZERO, 0);
        bmvp_write(c, t, random_floats(t->numel, &r).data());
    }
    o = bmvp_optim_create(c, &list, &k);
    for (int step = 0; step < 4; ++step) {
        bmvp_step_begin(c);
        for (int i = 0; i < 3 - step % 2; ++i) { /* the last has a gradient every other step */
            bmvp_tensor *t = list.item[i].t, *x = bmvp_input(c, t->rank, t->dim, random_floats(t->numel, &r).data());
            bmvp_backward(c, bmvp_mse(c, t, x));
        }
        *norm = bmvp_optim_grad_norm(o);
        bmvp_optim_step(o, 1e-2, 0.7);
        bmvp_optim_zero_grad(o);
    }
    for (int i = 0; i < 3; ++i) {
        const floats v = value_of(c, list.item[i].t);
        all.insert(all.end(), v.begin(), v.end());
    }
    check_context(c);
    bmvp_optim_destroy(o);
    bmvpi_free(c, list.item);
    bmvp_destroy(c);
    return all;
}
static void test_optimizers(void)
{
    const bmvp_backend *b = gpu();
    for (int kind = 0; kind < 3; ++kind) {
        double want = 0, got = 0;
        const floats w = optimise(NULL, (bmvp_optim_kind)kind, &want), g = optimise(b, (bmvp_optim_kind)kind, &got);
        CHECK_CLOSE("parameters", g.data(), w.data(), (int64_t)w.size(), 1e-6);
        CHECK_NEAR(got / want, 1, 1e-6);
    }
    bmvp_cuda_release(b);
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

static const char *const modalities[2] = { "flair", "t1" };

static bmvp_ssl *tiny_run(bmvp_ctx *c, const char *network)
{
    static const int64_t grid[3] = { 20, 18, 22 };
    bmvp_net_config net;
    bmvp_ssl_config cfg;
    bmvp_ssl *s;
    CHECK(bmvp_net_preset(network, &net) && bmvp_ssl_preset("release", &cfg));
    cfg.crop = 16;
    cfg.batch = 2;
    cfg.update_every = 1;
    cfg.mask_patch = 4;
    cfg.template_only_epochs = 0;
    cfg.template_eps = 0.1;
    cfg.template_x = cfg.template_y = cfg.template_z = 0;
    s = bmvp_ssl_create(c, &net, &cfg, 2, modalities, grid);
    check_context(c);
    for (int m = 0; s && m < 2; ++m) { /* all voxels of a new template tie for its minimum */
        bmvp_rng r = bmvp_rng_make(21, (uint32_t)m, 0, 0);
        bmvp_write(c, bmvp_ssl_template(s, m), random_floats(bmvp_ssl_template(s, m)->numel, &r).data());
    }
    return s;
}
static bmvp_status tiny_step_begin(bmvp_ssl *s, uint32_t step, bmvp_ssl_losses *out, int spoil = 0)
{
    bmvp_rng r = bmvp_rng_make(9, 0, step, 0);
    floats v[4];
    bmvp_ssl_item item[2];
    memset(item, 0, sizeof item);
    for (floats &f : v) f = random_floats(16 * 16 * 16, &r);
    if (spoil) v[0][77] = (float)NAN;
    for (int i = 0; i < 2; ++i) {
        item[i].x = v[2 * i].data();
        item[i].other = v[2 * i + 1].data();
        item[i].modality = i;
        item[i].slot = (uint32_t)i;
        item[i].template_start[0] = 1 - i;
        item[i].template_start[2] = 8 * i; /* partly outside */
    }
    return bmvp_ssl_step(s, item, 2, 1e-3, out);
}
static bmvp_ssl_losses tiny_step(bmvp_ssl *s, uint32_t step)
{
    bmvp_ssl_losses out;
    memset(&out, 0, sizeof out);
    (void)tiny_step_begin(s, step, &out);
    return out;
}

#if defined(__SANITIZE_ADDRESS__)
enum { STEPS = 1, NETWORKS = 1 }; /* several times slower, and every kernel was met on its own */
#else
enum { STEPS = 10, NETWORKS = 2 };
#endif

/* Ten steps give the CPU's losses; a checkpoint written by either is read by the other. */
static void test_pretraining(void)
{
    static const char *const networks[] = { "uniformer_tiny", "unet3d_tiny" };
    const bmvp_backend *b = gpu();
    for (int n = 0; n < NETWORKS; ++n) {
        const char *network = networks[n];
        bmvp_ctx *c[2] = { context(NULL), context(b) };
        bmvp_ssl *s[2] = { tiny_run(c[0], network), tiny_run(c[1], network) };
        const int steps = n == 0 ? (int)STEPS : 2;
        bmvp_ssl_losses last[2];
        char path[64];
        bmvp_error err;
        snprintf(path, sizeof path, "/tmp/test_cuda_steps.%ld.safetensors", (long)getpid());
        for (int i = 0; i < steps; ++i) {
            const bmvp_ssl_losses want = tiny_step(s[0], (uint32_t)i), got = tiny_step(s[1], (uint32_t)i);
            CHECK_NEAR(got.total / want.total, 1, 1e-4);
            CHECK_NEAR(got.cmr / want.cmr, 1, 1e-4);
            CHECK_NEAR(got.md / want.md, 1, 1e-4);
            CHECK_NEAR(got.cl / want.cl, 1, 1e-4);
            CHECK_NEAR(got.grad_norm / want.grad_norm, 1, 1e-4);
        }
        memset(&err, 0, sizeof err);
        for (int from = 0; from < 2; ++from) {
            check_report(!bmvp_ssl_save(s[from], path, NULL, &err), __FILE__, __LINE__, "%s", err.message);
            check_report(!bmvp_ssl_load(s[1 - from], path, &err), __FILE__, __LINE__, "%s", err.message);
            for (int k = 0; k < 2; ++k) last[k] = tiny_step(s[k], 20);
            CHECK_NEAR(last[1].total / last[0].total, 1, 1e-5);
        }
        for (int k = 0; k < 2; ++k) {
            check_context(c[k]);
            bmvp_ssl_destroy(s[k]);
            bmvp_destroy(c[k]);
        }
        (void)remove(path);
    }
    bmvp_cuda_release(b);
    CHECK(shim.memory.empty());
}

/* In bfloat16 with tensors of bfloat16: close to float32, two runs give the same bits, and a step needs what the plan
   says. */
static void half_run(const bmvp_backend *b, const char *network, uint64_t seed, int steps, bmvp_ssl_losses *loss)
{
    static const int64_t grid[3] = { 20, 18, 22 };
    bmvp_ctx *c = context(b, b ? BMVP_BF16 : BMVP_FP32);
    bmvp_ssl *s = tiny_run(c, network);
    bmvp_memory m;
    bmvp_error err;
    memset(&err, 0, sizeof err);
    check_report(!bmvp_ssl_plan(&c->cfg, bmvp_net_config_of(bmvp_ssl_net(s)), bmvp_ssl_config_of(s), 2, modalities,
                                grid, &m, &err),
                 __FILE__, __LINE__, "%s", err.message);
    CHECK(bmvp_reserve(c, m.step_peak) == BMVP_OK);
    shim_seed(seed);
    for (int i = 0; i < steps; ++i) loss[i] = tiny_step(s, (uint32_t)i);
    CHECK(c->n_chunks == 1 && bmvp_memory_of(c).step_peak == m.step_peak);
    check_context(c);
    bmvp_ssl_destroy(s);
    bmvp_destroy(c);
}
static void test_half_pretraining(void)
{
    const bmvp_backend *b = gpu_half(64);
    for (int n = 0; n < NETWORKS; ++n) {
        const char *network = n == 0 ? "uniformer_tiny" : "unet3d_tiny";
        const double tol = n == 0 ? 2e-3 : 2.5e-2; /* the second's norms of a voxel or two make losses of thousands */
        const int steps = n == 0 ? 2 : 1; /* of the GPU */
        bmvp_ssl_losses want[1], got[2][2];
        memset(want, 0, sizeof want);
        memset(got, 0, sizeof got);
        half_run(NULL, network, 1, 1, want);
        for (int k = 0; k < 2; ++k) half_run(b, network, 1 + (uint64_t)k, steps, got[k]);
        CHECK_NEAR(got[0][0].total / want[0].total, 1, tol);
        CHECK_NEAR(got[0][0].cmr / want[0].cmr, 1, tol);
        CHECK_NEAR(got[0][0].md / want[0].md, 1, tol);
        /* the first's over 16 seeds: 0.2 % rms, the norm 3 % */
        CHECK_NEAR(got[0][0].cl / want[0].cl, 1, n == 0 ? 8e-3 : tol);
        CHECK_NEAR(got[0][0].grad_norm / want[0].grad_norm, 1, 5e-2);
        CHECK(memcmp(got[0], got[1], sizeof got[0]) == 0);
    }
    bmvp_cuda_release(b);
    CHECK(shim.memory.empty());
}

static void append(floats *to, const bmvp_ssl_losses &l)
{
    to->insert(to->end(), { (float)l.total, (float)l.cmr, (float)l.md, (float)l.cl, (float)l.grad_norm });
}

/* Steps as graphs give the bits of steps call by call, and after the first ones, which make their memory, every step
   with its update is one graph. With an update every second step there are two kinds, each with its own. A program
   that reads the losses of the step before while the next one goes on (ahead) gets the same, and the host never waits
   for all of the stream. */
static void test_graph_of_a_step(int every)
{
    const int steps = 8, kinds = every, first = 4;
    floats loss[3], last[3];
    for (int run = 0; run < 3; ++run) {
        const int graph = run > 0, ahead = run > 1, launches = shim.graph_launches, graphs = shim.graphs,
                  updates = shim.updates;
        const bmvp_backend *b = gpu();
        bmvp_ctx *c = context(b);
        bmvp_ssl_losses l;
        bmvp_ssl *s;
        int waits = 0;
        c->cfg.graph = graph;
        s = tiny_run(c, "uniformer_tiny");
        s->cfg->update_every = every;
        for (int i = 0; i < steps; ++i) {
            if (i == first) waits = shim.waits;
            CHECK(!tiny_step_begin(s, (uint32_t)i, ahead ? NULL : &l));
            if (ahead && i > 0) CHECK(!bmvp_ssl_losses_of(s, i - 1, &l));
            if (!ahead || i > 0) append(&loss[run], l);
        }
        CHECK(!ahead || shim.waits == waits);
        if (ahead) CHECK(!bmvp_ssl_losses_of(s, steps - 1, &l));
        if (ahead) append(&loss[run], l);
        CHECK(bmvp_ssl_losses_of(s, steps - 2, &l) == BMVP_OK && (float)l.total == loss[run][5 * (size_t)(steps - 2)]);
        CHECK(graph || shim.graph_launches == launches);
        CHECK(!graph || (shim.graph_launches - launches >= steps - first && shim.graphs - graphs == kinds));
        CHECK(!graph || shim.updates - updates == shim.graph_launches - launches - kinds);
        last[run].resize((size_t)bmvp_ssl_template(s, 1)->numel);
        bmvp_read(c, bmvp_ssl_template(s, 1), last[run].data());
        check_context(c);
        CHECK(bmvp_ssl_losses_of(s, steps, &l) == BMVP_E_ARG);
        bmvp_ssl_destroy(s);
        bmvp_destroy(c);
        bmvp_cuda_release(b);
    }
    for (int run = 1; run < 3; ++run) {
        CHECK(loss[0].size() == loss[run].size() &&
              memcmp(loss[0].data(), loss[run].data(), loss[0].size() * sizeof(float)) == 0);
        CHECK(memcmp(last[0].data(), last[run].data(), last[0].size() * sizeof(float)) == 0);
    }
}
static void test_graphs(void)
{
    test_graph_of_a_step(1);
    test_graph_of_a_step(2);
}

/* A step that is not finite, seen only after the next one has been given to the device: nothing has moved, and a
   checkpoint is refused. */
static void test_late_losses(void)
{
    const bmvp_backend *b = gpu();
    bmvp_ctx *c = context(b);
    bmvp_ssl *s = tiny_run(c, "uniformer_tiny");
    floats before((size_t)bmvp_ssl_template(s, 1)->numel), after(before.size());
    bmvp_ssl_losses l;
    bmvp_error err;
    for (int i = 0; i < 3; ++i) CHECK(!tiny_step_begin(s, (uint32_t)i, NULL));
    bmvp_read(c, bmvp_ssl_template(s, 1), before.data());
    CHECK(!tiny_step_begin(s, 3, NULL, 1));
    CHECK(!tiny_step_begin(s, 4, NULL));
    CHECK(!bmvp_ssl_losses_of(s, 2, &l) && l.total > 0 && l.grad_norm > 0);
    CHECK(bmvp_ssl_save(s, "/tmp/test_cuda_steps.never", NULL, &err) == BMVP_E_STATE);
    CHECK_HOLDS(err.message, "the loss is nan at step 3");
    bmvp_clear_error(c);
    bmvp_read(c, bmvp_ssl_template(s, 1), after.data());
    CHECK(memcmp(before.data(), after.data(), before.size() * sizeof(float)) == 0);
    l = tiny_step(s, 5);
    CHECK(l.total > 0 && l.grad_norm > 0);
    bmvp_read(c, bmvp_ssl_template(s, 1), after.data());
    CHECK(memcmp(before.data(), after.data(), before.size() * sizeof(float)) != 0);
    check_context(c);
    bmvp_ssl_destroy(s);
    bmvp_destroy(c);
    bmvp_cuda_release(b);
    CHECK(shim.memory.empty());
}

/* y = factor x, recorded. With `spoil` something waits meanwhile that may not; with `read` the step is cut in two. */
static float recorded_scale(bmvp_ctx *c, const bmvp_tensor *x, double factor, int spoil, int read)
{
    bmvp_tensor *y;
    float v;
    bmvp_step_begin(c);
    bmvp_capture_begin(c);
    y = bmvp_scale(c, (bmvp_tensor *)(uintptr_t)x, factor, 0);
    if (spoil) (void)cudaStreamSynchronize(NULL);
    if (read) CHECK_NEAR(bmvp_scalar(c, y), factor, 0);
    y = bmvp_scale(c, y, factor, 0);
    bmvp_capture_end(c);
    CHECK(!shim.recording);
    v = bmvp_scalar(c, y);
    return v;
}
/* A step that is recorded: what `build` makes of x */
typedef std::function<const bmvp_tensor *(bmvp_ctx *, bmvp_tensor *)> recipe;
static float recorded_step(bmvp_ctx *c, bmvp_tensor *x, const recipe &build)
{
    const bmvp_tensor *y;
    bmvp_step_begin(c);
    bmvp_capture_begin(c);
    y = build(c, x);
    bmvp_capture_end(c);
    return bmvp_scalar(c, y);
}
static bmvp_tensor *scaled(bmvp_ctx *c, bmvp_tensor *x, int times)
{
    for (int i = 0; i < times; ++i) x = bmvp_scale(c, x, 2, 0);
    return x;
}
static bmvp_tensor *one_parameter(bmvp_ctx *c, int64_t n)
{
    bmvp_tensor *x = bmvp_param(c, "x", 1, &n);
    bmvp_fill(c, x, 1);
    bmvp_reserve(c, 1 << 16);
    for (int i = 0; i < 2; ++i) (void)recorded_step(c, x, [](bmvp_ctx *k, bmvp_tensor *t) { return scaled(k, t, 1); });
    return x;
}

/* Each kind of step keeps its graph: of two with as many nodes in another order, of 16 kinds, and of more the ones that
   were used last. */
static void test_kinds_of_graphs(void)
{
    const bmvp_backend *b = gpu();
    bmvp_ctx *c = context(b);
    bmvp_tensor *x = one_parameter(c, 4);
    const recipe kind[2] = { [](bmvp_ctx *k, bmvp_tensor *t) { return bmvp_gelu(k, bmvp_relu(k, t)); },
                             [](bmvp_ctx *k, bmvp_tensor *t) { return bmvp_relu(k, bmvp_gelu(k, t)); } };
    int made;
    const auto run = [&](int times) { /* 1: its graph was there */
        const int graphs = shim.graphs, updates = shim.updates;
        CHECK_NEAR(recorded_step(c, x, [=](bmvp_ctx *k, bmvp_tensor *t) { return scaled(k, t, times); }),
                   ldexp(1, times), 0);
        CHECK(shim.graphs - graphs + shim.updates - updates == 1);
        return shim.graphs == graphs;
    };
    made = shim.graphs;
    for (int i = 0; i < 6; ++i) (void)recorded_step(c, x, kind[i % 2]);
    CHECK(shim.graphs - made == 2); /* one of them by arguments alone, were kinds known by their number of nodes */
    for (int i = 1; i <= 16; ++i) (void)run(i);
    for (int i = 1; i <= 16; ++i) CHECK(run(i));
    CHECK(run(1) && !run(17) && run(1) && run(3) && !run(2) && run(17));
    check_context(c);
    bmvp_destroy(c);
    bmvp_cuda_release(b);
}

/* Uploads of a recorded step of more than the pinned memory is made for: it grows, and the step is one graph again. Of
   more than it grows to: the step is cut, which the log says once. */
static void keep_line(void *user, const char *line)
{
    std::string *said = (std::string *)user;
    if (strstr(line, "is cut")) *said += line;
}
static void test_large_uploads(void)
{
    const int64_t piece = 1 << 16; /* floats: the shim's pinned memory is made for one of them */
    const floats v((size_t)piece, 3.0f);
    for (int pieces : { 3, 20 }) {
        const bmvp_backend *b = gpu();
        bmvp_config k = bmvp_config_default();
        std::string said;
        k.backend = b;
        k.log = keep_line;
        k.log_user = &said;
        bmvp_ctx *c = bmvp_create(&k, NULL);
        bmvp_tensor *x = one_parameter(c, 1);
        bmvp_step_begin(c);
        bmvp_reserve(c, (pieces + 2) * piece * (int64_t)sizeof(float));
        for (int step = 0; step < 5; ++step) {
            const int launches = shim.graph_launches;
            const float y = recorded_step(c, x, [&](bmvp_ctx *m, bmvp_tensor *t) {
                bmvp_tensor *sum = scaled(m, t, 1);
                for (int i = 0; i < pieces; ++i)
                    sum = bmvp_add(m, bmvp_mean(m, bmvp_input(m, 1, &piece, v.data())), sum);
                return sum;
            });
            CHECK_NEAR(y, 2 + 3 * pieces, 0);
            if (step == 4 && pieces == 3) /* of each piece a copy, two kernels of its mean, and its sum */
                CHECK(shim.graph_launches - launches == 1 && shim.graph_nodes == 1 + 4 * pieces);
        }
        CHECK((pieces == 20) == (said.find("its uploads do not fit") != std::string::npos));
        CHECK(said.find("is cut") == said.rfind("is cut"));
        check_context(c);
        bmvp_destroy(c);
        bmvp_cuda_release(b);
    }
}

/* A failure of another context of the same backend, or memory that it asks for, does not lose the step. */
static void test_capture_of_another(void)
{
    const bmvp_backend *b = gpu();
    bmvp_ctx *c = context(b), *other = context(b);
    const int64_t n = 100;
    const bmvp_tensor *p = bmvp_param(other, "p", 1, &n);
    bmvp_tensor *x = one_parameter(c, 4);
    const float y = recorded_step(c, x, [=](bmvp_ctx *k, bmvp_tensor *t) {
        t = scaled(k, t, 3);
        CHECK(shim.recording && p);
        bmvp_fail(other, BMVP_E_ARG, "it failed before");
        bmvp_destroy(other);
        CHECK(!shim.recording);
        return scaled(k, t, 1);
    });
    CHECK_NEAR(y, 16, 0);
    check_context(c);
    bmvp_destroy(c);
    bmvp_cuda_release(b);
}

/* In a step that is recorded at first sight kernels are launched for the first time and cuBLAS is called, the host's
   program uses the default stream, and the context may end in the middle. */
static void once_kernel(float *y) { if (threadIdx.x == 0) *y = 5; }
static void test_what_a_capture_allows(void)
{
    const bmvp_backend *b = gpu();
    bmvp_ctx *c = context(b);
    bmvp_tensor *x = one_parameter(c, 16);
    const int64_t square[3] = { 1, 4, 4 };
    float *y;
    cudaMalloc((void **)&y, 64);
    const recipe products = [&](bmvp_ctx *k, bmvp_tensor *t) {
        t = bmvp_reshape(k, t, 3, square);
        BMVPI_LAUNCH(once_kernel, dim3(1), dim3(32), 0, NULL, y);
        return scaled(k, bmvp_matmul(k, t, t, 0, 0), 1);
    };
    shim.loaded.clear();
    shim.no_algorithm = 1;
    for (int i = 0; i < 3; ++i) {
        const int graphs = shim.graphs, updates = shim.updates, launches = shim.graph_launches;
        CHECK_NEAR(recorded_step(c, x, products), 8, 0);
        /* a copy (the shape), the product and its scale: none of them memory that comes or goes */
        CHECK(shim.graph_launches - launches == 1 && shim.graph_nodes == 3);
        CHECK(shim.graphs - graphs == (i == 0) && shim.updates - updates == (i > 0));
    }
    shim.no_algorithm = 0;
    check_context(c);
    bmvp_destroy(c);
    cudaFree(y);
    c = context(b);
    bmvp_capture_begin(c); /* the first step is not recorded, the second is */
    bmvp_capture_end(c);
    bmvp_capture_begin(c);
    CHECK(shim.recording);
    bmvp_destroy(c); /* in the middle of its step */
    CHECK(!shim.recording);
    bmvp_cuda_release(b);
    CHECK(shim.memory.empty());
}

static void test_errors_while_recording(void)
{
    const bmvp_backend *b = gpu();
    bmvp_ctx *c = context(b);
    const int64_t d[1] = { 1 };
    bmvp_tensor *x = bmvp_param(c, "x", 1, d);
    const int launches = shim.graph_launches;
    bmvp_fill(c, x, 1);
    for (int i = 0; i < 4; ++i) CHECK_NEAR(recorded_scale(c, x, i, 0, i == 3), i * i, 0);
    CHECK(shim.graph_launches - launches >= 2);
    CHECK(recorded_scale(c, x, 2, 1, 0) != 4); /* NaN */
    CHECK_HOLDS(bmvp_error_of(c)->message, "recording of a step: operation failed");
    bmvp_clear_error(c);
    bmvp_capture_begin(c);
    bmvp_attention(c, leaf(c, { 1, 4, 3 * 130 }), 1, 1);
    bmvp_capture_end(c);
    CHECK(!shim.recording && bmvp_error_of(c)->status == BMVP_E_UNSUPPORTED);
    bmvp_clear_error(c);
    CHECK_NEAR(recorded_scale(c, x, 5, 0, 0), 25, 0);
    shim.late_error = cudaErrorIllegalAddress;
    (void)recorded_scale(c, x, 5, 0, 0);
    CHECK_HOLDS(bmvp_error_of(c)->message, "illegal memory access");
    bmvp_destroy(c);
    bmvp_cuda_release(b);
}

/* A plan asks for no device memory. */
static void test_plan(void)
{
    static const int64_t grid[3] = { 20, 18, 22 };
    const bmvp_backend *b = gpu();
    bmvp_config k = bmvp_config_default();
    bmvp_net_config net;
    bmvp_ssl_config cfg;
    bmvp_memory m;
    bmvp_error err;
    const int64_t launches = shim.launches;
    CHECK(bmvp_net_preset("uniformer_tiny", &net) && bmvp_ssl_preset("release", &cfg));
    cfg.crop = 32;
    cfg.batch = 2;
    k.backend = b;
    memset(&err, 0, sizeof err);
    check_report(!bmvp_ssl_plan(&k, &net, &cfg, 2, modalities, grid, &m, &err), __FILE__, __LINE__, "%s", err.message);
    CHECK(m.step_peak > 1000000 && m.persistent > 100000);
    CHECK(shim.launches == launches && shim.memory.size() == 1); /* the backend's workspace of products */
    bmvp_cuda_release(b);
}

/* Two steps of fine-tuning, segmentation with deep supervision and copies filled by templates. */
static void test_finetuning(void)
{
    static const int64_t grid[3] = { 20, 18, 22 };
    const bmvp_backend *b = gpu();
    double loss[2][2];
    for (int k = 0; k < 2; ++k) {
        bmvp_ctx *c = context(k ? b : NULL);
        bmvp_rng r = bmvp_rng_make(31, 0, 0, 0);
        bmvp_net_config net;
        bmvp_ft_config cfg;
        bmvp_labels labels;
        bmvp_ft_item item;
        bmvp_ft_losses out;
        floats image[2], class_index(4096);
        bmvp_ft *f;
        CHECK(bmvp_net_preset("uniformer_tiny", &net) && bmvp_labels_builtin("phantom", &labels));
        net.task = BMVP_TASK_SEGMENT;
        CHECK(bmvp_ft_preset("paper", net.task, net.kind, &cfg));
        cfg.crop_x = cfg.crop_y = cfg.crop_z = 16;
        cfg.batch = cfg.update_every = 1;
        f = bmvp_ft_create(c, &net, &cfg, &labels, 2, modalities, grid);
        check_context(c);
        for (int m = 0; f && m < 2; ++m) {
            const floats v = random_floats(bmvp_ft_template(f, m)->numel, &r);
            memcpy(bmvp_ft_template(f, m)->x, v.data(), v.size() * sizeof(float));
        }
        memset(&item, 0, sizeof item);
        for (int m = 0; m < 2; ++m) image[m] = random_floats(4096, &r), item.image[m] = image[m].data();
        for (size_t i = 0; i < class_index.size(); ++i)
            class_index[i] = (float)(image[0][i] > 0.6f ? 1 + (int)(i % 3) : 0);
        item.labels = class_index.data();
        for (int step = 0; f && step < 2; ++step) {
            CHECK(!bmvp_ft_step(f, &item, 1, 1e-3, &out));
            loss[k][step] = out.total;
        }
        check_context(c);
        bmvp_ft_destroy(f);
        bmvp_destroy(c);
    }
    for (int step = 0; step < 2; ++step) CHECK_NEAR(loss[1][step] / loss[0][step], 1, 1e-4);
    bmvp_cuda_release(b);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_optimizers);
    CHECK_RUN(test_plan);
    CHECK_RUN(test_pretraining);
    CHECK_RUN(test_half_pretraining);
    if (NETWORKS > 1) CHECK_RUN(test_finetuning);
    CHECK_RUN(test_graphs);
    CHECK_RUN(test_late_losses);
    CHECK_RUN(test_errors_while_recording);
    CHECK_RUN(test_kinds_of_graphs);
    CHECK_RUN(test_large_uploads);
    CHECK_RUN(test_capture_of_another);
    CHECK_RUN(test_what_a_capture_allows);
    return check_end();
}
