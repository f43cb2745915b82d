/* golden_net.h - the numbers that the peers' own code gives for their networks (net_*.json of BMVP_DATA/golden/nets,
   whose README has the recipe; small ones in tests/fixtures/nets): names, shapes and values of the state, the input and
   the cotangents by formula, what comes out, and what differs by how much is right. After nets.h.

       golden_net g;
       if (!golden_open(&g, path)) return;              (a failed check when the file is there and cannot be read)
       k.in_channels = golden_argument(&g, "in_channels", 1) ...;
       net = bmvp_net_create(c, &k);
       golden_state(&g, c, bmvp_net_state(net));        compares names, shapes, order, parameter count; fills by formula
       x = golden_input(&g, c);                         a leaf, kept
       ... run ...
       golden_check(&g, "features", "vit.norm", c, t, GOLDEN_LAST);  values of one tensor; it must have its value
       loss = golden_loss(&g, c, loss, "logits", y, GOLDEN_FIRST);   the output checked, and its share of the loss added
       golden_loss_is(&g, c, loss);
       bmvp_backward(c, loss);
       golden_gradients(&g, c, bmvp_net_state(net), x); every gradient of the file, grad_input, statistics after
       golden_close(&g);                                prints how many numbers were compared

   Every comparison is a check of check.h; a section or name that the file lacks is a failed check. */
#ifndef BMVP_GOLDEN_NET_H
#define BMVP_GOLDEN_NET_H

#include "tests/support/nets.h"
#include <dirent.h>

/* How a tensor lies in PyTorch: (N, C, X, Y, Z), or (N, X, Y, Z, C), which tokens are as well: (N, X Y Z, C). */
typedef enum golden_order { GOLDEN_FIRST, GOLDEN_LAST, GOLDEN_AS_IT_IS } golden_order;

typedef struct golden_net {
    bmvp_json_doc *doc;
    const bmvp_json *root, *args;
    uint64_t seed, input_seed;
    int calm, chaotic, ties; /* ties: activations are calm, maxima nearly equal */
    int compared;
    double worst;            /* largest part of an allowance that was used */
    char worst_at[400], name[64];
} golden_net;

static inline double golden_number(const bmvp_json *node, const char *key, double otherwise)
{
    return bmvp_json_double(bmvp_json_get(node, key), otherwise);
}

static inline int golden_open(golden_net *g, const char *path)
{
    const bmvp_json *flips;
    bmvp_error err;
    memset(g, 0, sizeof *g);
    if (!check_report(bmvp_json_read(path, NULL, &g->doc, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message))
        return 0;
    g->root = bmvp_json_root(g->doc);
    g->args = bmvp_json_get(g->root, "arguments");
    g->seed = (uint64_t)bmvp_json_int(bmvp_json_get(g->root, "seed"), 0);
    g->input_seed = (uint64_t)bmvp_json_int(bmvp_json_get(g->root, "input_seed"), 0);
    g->calm = bmvp_json_bool(bmvp_json_get(g->root, "calm"), 0);
    flips = bmvp_json_get(g->root, "flips");
    g->chaotic = bmvp_json_count(flips) > 0 && !g->calm && !bmvp_json_get(g->root, "kink_margin");
    g->ties = g->calm && bmvp_json_int(bmvp_json_at(bmvp_json_get(flips, "MaxPool3d"), 0), 0) > 0;
    snprintf(g->name, sizeof g->name, "%s", bmvp_json_string(bmvp_json_get(g->root, "name"), "?"));
    return 1;
}
static inline void golden_close(golden_net *g)
{
    printf("%s: %d numbers, worst %.1f%% of the allowance (%s)\n", g->name, g->compared, 100 * g->worst, g->worst_at);
    CHECK(g->compared > 0);
    bmvp_json_free(g->doc);
}

/* Calls fn with each net_<prefix>*.json of BMVP_DATA/golden/nets, as a test of its own; without one, a skipped test. */
static inline void golden_each(const char *prefix, void (*fn)(const char *path))
{
    char folder[400], start[80], path[700];
    struct dirent *e;
    int n = 0;
    DIR *d;
    snprintf(folder, sizeof folder, "%s/golden/nets", data_folder());
    snprintf(start, sizeof start, "net_%s", prefix);
    d = opendir(folder);
    while (d && (e = readdir(d)) != NULL) {
        if (strncmp(e->d_name, start, strlen(start)) != 0 || !formula_ends_with(e->d_name, ".json")) continue;
        ++n;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (!check_start("%s", e->d_name)) continue;
        fn(path);
        check_finish();
    }
    if (d) closedir(d);
    if (n == 0 && check_start("%s*", start)) check_skip("no such files below BMVP_DATA/golden/nets");
}

/* A whole number or a truth value of the network's arguments */
static inline int golden_argument(const golden_net *g, const char *name, int otherwise)
{
    const bmvp_json *v = bmvp_json_get(g->args, name);
    return v && v->type == BMVP_JSON_BOOL ? bmvp_json_bool(v, otherwise) : (int)bmvp_json_int(v, otherwise);
}

/* >>state --------------------------------------------------------------------------------------------------------- */

/* Is there a tensor `name` with `end` in place of its last word, of rank 1? */
static inline int golden_beside_norm(const bmvp_state_list *l, const char *name)
{
    char weight[BMVP_NAME_MAX];
    const size_t n = strlen(name) - strlen("bias");
    int i;
    snprintf(weight, sizeof weight, "%.*sweight", (int)n, name);
    i = find_state(l, weight);
    return i >= 0 && l->item[i].torch_rank == 1;
}

/* Entry i by the recipe, in PyTorch's order */
static inline void golden_values(const golden_net *g, const bmvp_state_list *l, int i, float *out)
{
    const bmvp_state *s = &l->item[i];
    const uint64_t stream = formula_stream(s->name, g->seed);
    const int calm = g->calm && formula_ends_with(s->name, ".bias") && golden_beside_norm(l, s->name);
    const int table = formula_ends_with(s->name, "relative_position_bias_table");
    int64_t k;
    if (!calm && !table) {
        formula_values(s, g->seed, out);
        return;
    }
    for (k = 0; k < s->t->numel; ++k) {
        const double u = formula_uniform(stream, k);
        out[k] = (float)(table ? 2 * u - 1 : 0.1 * (2 * u - 1) + (u < 0.5 ? -4 : 4));
    }
}

/* Names, order, shapes and the norms of what the formula gives; then the state has these values. all 0: the file may
   list more between them (parts of it that are not ours). */
static inline void golden_state_of(golden_net *g, bmvp_ctx *c, bmvp_state_list *l, int all)
{
    const bmvp_json *entry = bmvp_json_get(g->root, "state");
    int64_t parameters = 0, k, most = 1;
    float *buf;
    int i, a, filled = 0;
    if (!CHECK(entry != NULL)) return;
    if (all) CHECK(entry->i == l->n);
    for (i = 0; i < l->n; ++i) most = l->item[i].t->numel > most ? l->item[i].t->numel : most;
    buf = (float *)malloc((size_t)most * 2 * sizeof *buf);
    for (entry = entry->first, i = 0; buf && entry && i < l->n; entry = entry->next, ++i) {
        const bmvp_state *s = &l->item[i];
        const bmvp_json *shape, *norm;
        const char *name;
        double square = 0;
        int same;
        while (!all && entry->next && strcmp(bmvp_json_string(bmvp_json_at(entry, 0), "?"), s->name) != 0)
            entry = entry->next;
        shape = bmvp_json_at(entry, 1), norm = bmvp_json_at(entry, 2);
        name = bmvp_json_string(bmvp_json_at(entry, 0), "?");
        same = strcmp(name, s->name) == 0 && bmvp_json_count(shape) == s->torch_rank;
        for (a = 0; same && a < s->torch_rank; ++a)
            same = bmvp_json_int(bmvp_json_at(shape, a), -1) == s->torch_dim[a];
        if (!check_report(same, __FILE__, __LINE__, "entry %d is %s, should be %s, of the file's shape", i,
                          s->name, name))
            break;
        ++filled;
        if (s->torch_rank == 0) continue;
        if (!strstr(s->name, ".running_") && !strstr(s->name, ".relative_position_index")) parameters += s->t->numel;
        golden_values(g, l, i, buf);
        for (k = 0; k < s->t->numel; ++k) square += (double)buf[k] * (double)buf[k];
        if (norm && norm->type == BMVP_JSON_NUMBER)
            check_report(fabs(sqrt(square) - norm->d) <= 1e-6 * norm->d + 1e-30, __FILE__, __LINE__,
                         "%s by formula has norm %.9g, should be %.9g", s->name, sqrt(square), norm->d);
        bmvp_state_from_torch(s, buf, buf + most);
        bmvp_write(c, s->t, buf + most);
    }
    free(buf);
    CHECK(filled == l->n);
    if (all)
        check_report((double)parameters == golden_number(g->root, "parameters", -1), __FILE__, __LINE__,
                     "%lld parameters, should be %.0f", (long long)parameters,
                     golden_number(g->root, "parameters", -1));
}
static inline void golden_state(golden_net *g, bmvp_ctx *c, bmvp_state_list *l) { golden_state_of(g, c, l, 1); }

/* >>order --------------------------------------------------------------------------------------------------------- */

/* ours (N, D, H, W, C) to PyTorch's order (to 1), or back */
static inline void golden_turn(const int64_t d[5], golden_order order, const float *from, float *to, int to_torch)
{
    int64_t b, z, y, x, ch, ours = 0;
    for (b = 0; b < d[0]; ++b)
        for (z = 0; z < d[1]; ++z)
            for (y = 0; y < d[2]; ++y)
                for (x = 0; x < d[3]; ++x)
                    for (ch = 0; ch < d[4]; ++ch, ++ours) {
                        const int64_t place = (x * d[2] + y) * d[1] + z, voxels = d[1] * d[2] * d[3];
                        const int64_t torch = order == GOLDEN_AS_IT_IS ? ours
                                              : order == GOLDEN_FIRST  ? (b * d[4] + ch) * voxels + place
                                                                       : (b * voxels + place) * d[4] + ch;
                        if (to_torch) to[torch] = from[ours];
                        else to[ours] = from[torch];
                    }
}

/* Value of t, or with `grad` its gradient, in PyTorch's order; free it. NULL: it has none. Tensors of other ranks than
   5 are as they are. */
static inline float *golden_read(bmvp_ctx *c, const bmvp_tensor *t, int grad, golden_order order)
{
    float *ours = t ? device_copy(c, t, grad) : NULL, *torch;
    if (!ours || t->rank != 5 || order == GOLDEN_AS_IT_IS) return ours;
    torch = (float *)malloc((size_t)t->numel * sizeof *torch);
    if (CHECK(torch != NULL)) golden_turn(t->dim, order, ours, torch, 1);
    free(ours);
    return torch;
}

static inline bmvp_tensor *golden_input(golden_net *g, bmvp_ctx *c)
{
    const bmvp_json *shape = bmvp_json_get(g->root, "input_shape");
    const uint64_t stream = formula_stream("input", g->input_seed);
    int64_t n[5], d[5], i = 0, b, m, x, y, z;
    bmvp_tensor *t = NULL;
    float *torch, *ours;
    int a;
    for (a = 0; a < 5; ++a) n[a] = bmvp_json_int(bmvp_json_at(shape, a), 1);
    d[0] = n[0], d[1] = n[4], d[2] = n[3], d[3] = n[2], d[4] = n[1];
    torch = (float *)malloc((size_t)(n[0] * n[1] * n[2] * n[3] * n[4]) * 2 * sizeof *torch);
    if (!CHECK(torch != NULL)) return NULL;
    ours = torch + n[0] * n[1] * n[2] * n[3] * n[4];
    for (b = 0; b < n[0]; ++b)
        for (m = 0; m < n[1]; ++m)
            for (x = 0; x < n[2]; ++x)
                for (y = 0; y < n[3]; ++y)
                    for (z = 0; z < n[4]; ++z, ++i)
                        torch[i] = (float)(0.5 + 0.25 * sin(0.11 * (double)x + 0.7 * (double)m + 1.3 * (double)b) +
                                           0.25 * cos(0.13 * (double)y - 0.05 * (double)z + 0.4 * (double)m) +
                                           0.2 * (2 * formula_uniform(stream, i) - 1));
    golden_turn(d, GOLDEN_FIRST, torch, ours, 0);
    t = bmvp_keep(bmvp_leaf(c, 5, d, ours));
    free(torch);
    return t;
}

/* >>samples ------------------------------------------------------------------------------------------------------- */

static inline void golden_note(golden_net *g, double difference, double allowed, const char *what, const char *part)
{
    const double used = difference == 0 ? 0 : allowed > 0 && difference == difference ? difference / allowed : HUGE_VAL;
    ++g->compared;
    if (!(used <= g->worst)) {
        g->worst = used;
        snprintf(g->worst_at, sizeof g->worst_at, "%s, %s", what, part);
    }
    check_report(used <= 1, __FILE__, __LINE__, "%s: %s is off by %.3g, %.0f%% of the allowance", what, part,
                 difference, 100 * used);
}

static inline double golden_most(double a, double b) { return a > b ? a : b; }

/* x, n numbers in PyTorch's order, against sample `name` of `section`. Outputs, features and gradients of smooth
   networks: 10 times what float32 runs of PyTorch came to, and at least 2e-5 (gradients 2e-4) of the rms. Gradients of
   networks with kinks: as README.md says, by L2. */
static inline void golden_sample(golden_net *g, const char *section, const char *name, const float *x, int64_t n)
{
    const bmvp_json *s = bmvp_json_get(g->root, section), *e32, *esum, *i, *v;
    const int gradient = strncmp(section, "grad", 4) == 0, chaos = gradient && g->chaotic;
    double floor_l2 = chaos ? 3e-2 : !gradient ? 2e-5 : g->ties ? 1e-4 : 2e-4;
    const double floor_one = gradient && g->ties ? 5e-3 : floor_l2;
    double rms, l2, el2, eone, dot = 0, square = 0, off = 0, count = 0;
    char stream[260], what[260];
    uint64_t u;
    int64_t k;
    if (name) s = bmvp_json_get(s, name);
    snprintf(what, sizeof what, "%s%s%s", section, name ? " " : "", name ? name : "");
    if (!check_report(s && x, __FILE__, __LINE__, "%s: %s", what, s ? "no values" : "not in the file")) return;
    l2 = golden_number(s, "l2", 0), rms = l2 / sqrt((double)n);
    snprintf(stream, sizeof stream, "dot.%s%s%s", !strcmp(section, "outputs") ? "output"
             : !strcmp(section, "features") ? "feature" : section, name ? "." : "", name ? name : "");
    e32 = bmvp_json_get(s, "e32"), esum = bmvp_json_get(s, "esum");
    if (formula_ends_with(what, "up_conv.bias")) floor_l2 = golden_most(floor_l2, 3e-3);
    el2 = golden_most(10 * bmvp_json_double(bmvp_json_at(e32, 0), 0), floor_l2);
    eone = golden_most(10 * bmvp_json_double(bmvp_json_at(e32, 1), 0), golden_most(floor_one, floor_l2));
    i = bmvp_json_get(s, "index"), v = bmvp_json_get(s, "value");
    if (bmvp_json_bool(bmvp_json_get(s, "zero"), 0)) {
        for (k = 0; k < n; ++k) off = golden_most(off, fabs((double)x[k]));
        golden_note(g, off, 10 * golden_number(s, "abs32", 0), what, "a gradient of zero");
        return;
    }
    for (i = i ? i->first : NULL, v = v ? v->first : NULL; i && v; i = i->next, v = v->next, ++count) {
        const double d = i->i < n ? (double)x[i->i] - v->d : (double)NAN;
        off += d * d;
        if (!chaos) golden_note(g, fabs(d), eone * rms, what, "a value");
    }
    if (chaos && count > 0) golden_note(g, sqrt(off / count), eone * rms, what, "values by L2");
    u = formula_stream(stream, g->seed);
    for (k = 0; k < n; ++k) {
        dot += (double)x[k] * (2 * formula_uniform(u, k) - 1);
        square += (double)x[k] * (double)x[k];
    }
    golden_note(g, fabs(dot - golden_number(s, "dot", (double)NAN)),
                l2 * golden_most(el2, 10 * bmvp_json_double(bmvp_json_at(esum, 0), 0)), what, "the weighed sum");
    golden_note(g, fabs(sqrt(square) - l2), l2 * golden_most(el2, 10 * bmvp_json_double(bmvp_json_at(esum, 1), 0)),
                what, "the norm");
}

static inline void golden_check(golden_net *g, const char *section, const char *name, bmvp_ctx *c,
                                const bmvp_tensor *t, golden_order order)
{
    float *x = golden_read(c, t, 0, order);
    golden_sample(g, section, name, x, t ? t->numel : 0);
    free(x);
}

/* Checks output `name`; loss (NULL at first) + the sum of y times its cotangent */
static inline bmvp_tensor *golden_loss(golden_net *g, bmvp_ctx *c, bmvp_tensor *loss, const char *name, bmvp_tensor *y,
                                       golden_order order)
{
    char stream[100];
    float *w, *ours;
    int64_t i;
    if (!CHECK(y != NULL)) return loss;
    golden_check(g, "outputs", name, c, y, order);
    w = (float *)malloc((size_t)y->numel * 2 * sizeof *w);
    if (!CHECK(w != NULL)) return loss;
    snprintf(stream, sizeof stream, "cotangent.%s", name);
    for (i = 0; i < y->numel; ++i) w[i] = (float)(2 * formula_uniform(formula_stream(stream, g->seed), i) - 1);
    ours = w;
    if (y->rank == 5 && order != GOLDEN_AS_IT_IS) golden_turn(y->dim, order, w, ours = w + y->numel, 0);
    y = bmvp_sum(c, bmvp_mul(c, y, bmvp_input(c, y->rank, y->dim, ours)));
    free(w);
    return loss ? bmvp_add(c, loss, y) : y;
}

/* 10 times what float32 runs of PyTorch were off, and at least 2e-5 of the outputs' norms. */
static inline void golden_loss_is(golden_net *g, bmvp_ctx *c, const bmvp_tensor *loss)
{
    const bmvp_json *outputs = bmvp_json_get(g->root, "outputs"), *o, *v = bmvp_json_get(g->root, "loss32");
    const double want = golden_number(g->root, "loss", (double)NAN);
    double allowed = 0;
    for (o = outputs ? outputs->first : NULL; o; o = o->next) allowed += 2e-5 * golden_number(o, "l2", 0);
    for (v = v ? v->first : NULL; v; v = v->next) allowed = golden_most(allowed, 10 * fabs(v->d - want));
    golden_note(g, fabs((double)bmvp_scalar(c, loss) - want), allowed, "loss", "a value");
}

/* Gradients of all parameters, and of x if it is given: those that the file lacks have none. Statistics
   as they are after the pass. */
static inline void golden_gradients(golden_net *g, bmvp_ctx *c, const bmvp_state_list *l, const bmvp_tensor *x)
{
    const bmvp_json *grad = bmvp_json_get(g->root, "grad"), *after = bmvp_json_get(g->root, "after");
    const int64_t want = bmvp_json_count(grad) + bmvp_json_count(after);
    int64_t seen = 0;
    float *ours, *torch;
    int i;
    for (i = 0; i < l->n; ++i) {
        const bmvp_state *s = &l->item[i];
        const int statistic = strstr(s->name, ".running_") != NULL;
        if (s->torch_rank == 0) continue;
        if (!bmvp_json_get(statistic ? after : grad, s->name)) {
            check_report(statistic || !bmvp_has_grad(s->t), __FILE__, __LINE__, "%s should have no gradient", s->name);
            continue;
        }
        ++seen;
        ours = device_copy(c, s->t, !statistic);
        torch = (float *)malloc((size_t)s->t->numel * sizeof *torch);
        if (ours && torch) bmvp_state_to_torch(s, ours, torch);
        golden_sample(g, statistic ? "after" : "grad", s->name, ours ? torch : NULL, s->t->numel);
        free(ours);
        free(torch);
    }
    CHECK(seen == want);
    if (!x) return;
    ours = golden_read(c, x, 1, GOLDEN_FIRST);
    golden_sample(g, "grad_input", NULL, ours, x->numel);
    free(ours);
}

#endif /* BMVP_GOLDEN_NET_H */
