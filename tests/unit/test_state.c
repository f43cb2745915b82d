/* test_state.c - bmvp_nn.h: initialisation, names and layouts of the released files, checkpoints, what a network adopts
   of another, and what is refused. */
#include "tests/support/nets.h"

/* >>init ---------------------------------------------------------------------------------------------------------- */

/* Variance that the release's initialisation gives, from the released shape alone; *limit: largest value, 0: none
   (normal), -1: the value is the constant *variance. */
static void init_of(const bmvp_state_list *l, int i, double *variance, double *limit)
{
    const bmvp_state *s = &l->item[i];
    const int64_t *d = s->torch_dim;
    const bmvp_state *w = &l->item[i > 0 ? i - 1 : 0]; /* a bias follows its weight */
    *limit = -1;
    *variance = formula_ends_with(s->name, ".weight") || formula_ends_with(s->name, "running_var");
    if (s->torch_rank == 5 && strstr(s->name, "transp_conv")) *limit = 1 / sqrt((double)(d[1] * 8));
    else if (strstr(s->name, "ms_out.")) *limit = 1 / sqrt((double)w[s->torch_rank == 5].torch_dim[1]);
    else if (s->torch_rank == 5) *variance = 2.0 / (double)(d[0] * d[2] * d[3] * d[4]), *limit = 0;
    else if (s->torch_rank == 2) *limit = 1 / sqrt((double)d[1]);
    else if (formula_ends_with(s->name, ".bias") && w->torch_rank == 2) *limit = 1 / sqrt((double)w->torch_dim[1]);
    if (*limit > 0) *variance = *limit * *limit / 3;
}

static void check_init_of(const bmvp_state_list *l, int i)
{
    const bmvp_state *s = &l->item[i];
    const double n = (double)s->t->numel;
    double variance, limit, sum = 0, square = 0, most = 0, kurtosis;
    int64_t k;
    init_of(l, i, &variance, &limit);
    for (k = 0; k < s->t->numel; ++k) {
        const double v = (double)s->t->x[k];
        sum += v;
        square += v * v;
        most = fabs(v) > most ? fabs(v) : most;
        if (limit < 0 && v != variance) break;
    }
    if (!check_report(k == s->t->numel, __FILE__, __LINE__, "%s[%lld] is %g, should be %g", s->name, (long long)k,
                      (double)s->t->x[k], variance))
        return;
    if (limit < 0) return;
    kurtosis = limit > 0 ? 1.8 : 3; /* of the two distributions */
    check_report(fabs(sum / n) <= 5 * sqrt(variance / n), __FILE__, __LINE__, "%s: mean %g of %g values, variance %g",
                 s->name, sum / n, n, variance);
    check_report(fabs(square / n / variance - 1) <= 5 * sqrt((kurtosis - 1) / n), __FILE__, __LINE__,
                 "%s: variance %g, should be %g", s->name, square / n, variance);
    if (limit > 0)
        check_report(most <= limit * (1 + 1e-6) && (n < 300 || most > 0.9 * limit), __FILE__, __LINE__,
                     "%s: largest %g, should be %g", s->name, most, limit);
    else check_report(n < 1000 || most > 2.5 * sqrt(variance), __FILE__, __LINE__, "%s: no tails", s->name);
}

static void test_initialisation(void)
{
    const bmvp_net_config net_of[6] = { preset("uniformer_small"), preset("uniformer_tiny"), preset("unet3d_tiny"),
                                        downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 5),
                                        downstream_of("unet3d_tiny", BMVP_TASK_SEGMENT, 3, 5),
                                        downstream_of("uniformer_tiny", BMVP_TASK_CLASSIFY, 3, 5) };
    int n, i;
    for (n = 0; n < 6; ++n) {
        bmvp_ctx *c = bmvp_create(NULL, NULL);
        bmvp_net_config cfg = net_of[n];
        bmvp_net *net = bmvp_net_create(c, &cfg);
        const bmvp_state_list *l;
        bmvp_net_init(net, 5);
        check_context(c);
        if (CHECK(net != NULL)) {
            l = bmvp_net_state(net);
            for (i = 0; i < l->n; ++i)
                if (l->item[i].torch_rank > 0) check_init_of(l, i);
        }
        bmvp_net_destroy(net);
        bmvp_destroy(c);
    }
}

static void test_seeds(void)
{
    const uint64_t seed[3] = { 1, 1, 2 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config cfg = preset("uniformer_tiny");
    bmvp_tensor *a, *b;
    bmvp_net *net[3];
    int i, random = 0;
    for (i = 0; i < 3; ++i) {
        net[i] = bmvp_net_create(c, &cfg);
        bmvp_net_init(net[i], seed[i]);
    }
    check_context(c);
    for (i = 0; i < bmvp_net_state(net[0])->n && !bmvp_failed(c); ++i) {
        const size_t bytes = (size_t)bmvp_net_state(net[0])->item[i].t->numel * sizeof(float);
        CHECK(memcmp(bmvp_net_state(net[0])->item[i].t->x, bmvp_net_state(net[1])->item[i].t->x, bytes) == 0);
        random += memcmp(bmvp_net_state(net[0])->item[i].t->x, bmvp_net_state(net[2])->item[i].t->x, bytes) != 0;
    }
    CHECK(random > 40);
    a = bmvp_net_state(net[0])
            ->item[find_state(bmvp_net_state(net[0]), "encoder.uniformer.blocks3.0.mlp.fc1.weight")]
            .t;
    b = bmvp_net_state(net[0])
            ->item[find_state(bmvp_net_state(net[0]), "encoder.uniformer.blocks3.1.mlp.fc1.weight")]
            .t;
    CHECK(memcmp(a->x, b->x, 64) != 0); /* equal shapes do not start equal */
    for (i = 0; i < 3; ++i) bmvp_net_destroy(net[i]);
    bmvp_destroy(c);
}

/* >>names --------------------------------------------------------------------------------------------------------- */

/* Lists of the released state dicts: name, tab, shape as Python prints it. */
static void test_names(const char *file, bmvp_net_config cfg, int entries)
{
    char path[600], line[400], shape[120];
    bmvp_ctx *c;
    const bmvp_state_list *l;
    bmvp_net *net;
    FILE *f;
    int n = 0, i = 0, a;
    if (!check_start("names of %s", file)) return;
    snprintf(path, sizeof path, "%s/checkpoints/%s", data_folder(), file);
    f = fopen(path, "r");
    if (!f) {
        check_skip("no such file below BMVP_DATA/checkpoints");
        return;
    }
    c = bmvp_create(NULL, NULL);
    net = bmvp_net_create(c, &cfg);
    l = CHECK(net != NULL) ? bmvp_net_state(net) : NULL;
    while (l && fgets(line, (int)sizeof line, f)) {
        char *tab = strchr(line, '\t');
        size_t k = 0;
        if (line[0] == '#' || !tab) continue;
        ++n;
        *tab = 0;
        if (strcmp(line, "rep_template") == 0) continue; /* belongs to the method, not to the network */
        if (!CHECK(i < l->n)) break;
        k += (size_t)snprintf(shape + k, sizeof shape - k, "(");
        for (a = 0; a < l->item[i].torch_rank; ++a)
            k += (size_t)snprintf(shape + k, sizeof shape - k, a ? ", %d" : "%d", (int)l->item[i].torch_dim[a]);
        snprintf(shape + k, sizeof shape - k, l->item[i].torch_rank == 1 ? ",)" : ")");
        check_report(strcmp(line, l->item[i].name) == 0, __FILE__, __LINE__, "entry %d is %s, should be %s", i,
                     l->item[i].name, line);
        check_report(strncmp(tab + 1, shape, strlen(shape)) == 0, __FILE__, __LINE__, "%s is %s, should be %s", line,
                     shape, tab + 1);
        if (strstr(tab + 1, "\tparam") ||
            strstr(tab + 1, "\tbuffer")) { /* carried parameters are not trained, buffers never */
            const int buffer = strstr(tab + 1, "\tbuffer") != NULL,
                      dead = cfg.task == BMVP_TASK_PRETRAIN && (strstr(line, "conv_block") || strstr(line, "proj1."));
            check_report(l->item[i].trained == (!buffer && !dead), __FILE__, __LINE__, "%s: trained is %d", line,
                         l->item[i].trained);
        }
        ++i;
    }
    CHECK(l && i == l->n && n == entries);
    fclose(f);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    check_finish();
}

static void test_presets(void)
{
    char names[600], *word, *next;
    bmvp_net_config k;
    snprintf(names, sizeof names, "%s", bmvp_net_preset_names());
    for (word = names; word && *word; word = next) {
        bmvp_ctx *c = bmvp_create(NULL, NULL);
        bmvp_net *net;
        int64_t n = 0;
        int i;
        next = strchr(word, ' ');
        if (next) *next++ = 0;
        k = preset(word);
        CHECK(strcmp(k.name, word) == 0);
        net = bmvp_net_create(c, &k);
        check_context(c);
        for (i = 0; net && i < bmvp_net_state(net)->n; ++i)
            if (bmvp_net_state(net)->item[i].trained) n += bmvp_net_state(net)->item[i].t->numel;
        if (strcmp(word, "uniformer_small") == 0)
            CHECK(n == 22038464 + 1736769); /* encoder, decoder as the release counts them */
        if (strncmp(word, "uniformer", 9) == 0) CHECK(net && bmvp_net_stride(net) == 16);
        if (strncmp(word, "unet3d", 6) == 0)
            CHECK(net && bmvp_net_stride(net) == (strncmp(word, "unet3d_gvsl", 11) == 0 ? 1 : 8));
        CHECK(net && bmvp_net_stride(net) >= 1 && bmvp_net_stride(net) == bmvp_net_stride_of(c, &k));
        bmvp_net_destroy(net);
        bmvp_destroy(c);
    }
    CHECK(!bmvp_net_preset("resnet", &k) && !bmvp_net_preset("", &k));
}

/* >>layouts ------------------------------------------------------------------------------------------------------- */

typedef struct layout_case {
    const char *name;
    bmvp_layout layout;
    int rank;
    int64_t dim[5];
    int our_rank, axis[5]; /* our axis a is released axis axis[a] */
} layout_case;

static void test_layouts(void)
{
    static const layout_case cases[] = {
        { "same", BMVP_LAYOUT_SAME, 1, { 7, 1, 1, 1, 1 }, 1, { 0, 0, 0, 0, 0 } },
        { "linear", BMVP_LAYOUT_LINEAR, 2, { 5, 3, 1, 1, 1 }, 2, { 1, 0, 0, 0, 0 } },
        { "pointwise", BMVP_LAYOUT_POINTWISE, 5, { 5, 3, 1, 1, 1 }, 2, { 1, 0, 0, 0, 0 } },
        { "conv_zxy", BMVP_LAYOUT_CONV_ZXY, 5, { 5, 2, 3, 3, 3 }, 5, { 2, 4, 3, 1, 0 } },
        { "conv_xyz", BMVP_LAYOUT_CONV_XYZ, 5, { 5, 2, 3, 3, 3 }, 5, { 4, 3, 2, 1, 0 } },
        { "depthwise", BMVP_LAYOUT_DEPTHWISE_ZXY, 5, { 5, 1, 3, 3, 3 }, 4, { 2, 4, 3, 0, 0 } },
        { "convt_xyz", BMVP_LAYOUT_CONVT_XYZ, 5, { 5, 3, 2, 2, 2 }, 5, { 0, 4, 3, 2, 1 } },
        { "volume", BMVP_LAYOUT_VOLUME, 3, { 4, 5, 6, 1, 1 }, 3, { 2, 1, 0, 0, 0 } },
    };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    float torch[300], ours[300], back[300];
    bmvp_state_list l;
    size_t k;
    memset(&l, 0, sizeof l);
    for (k = 0; k < sizeof cases / sizeof *cases; ++k) {
        const layout_case *q = &cases[k];
        const bmvp_tensor *t = bmvp_state_add(c, &l, q->name, q->layout, q->rank, q->dim, 1, BMVP_INIT_ZERO, 0);
        int64_t i, r;
        int a;
        if (!CHECK(t && t->rank == q->our_rank && t->numel <= 300)) continue;
        for (i = 0; i < t->numel; ++i) torch[i] = (float)i;
        bmvp_state_from_torch(&l.item[k], torch, ours);
        bmvp_state_to_torch(&l.item[k], ours, back);
        CHECK_SAME(q->name, back, torch, t->numel);
        for (a = 0; a < t->rank; ++a) CHECK(t->dim[a] == q->dim[q->axis[a]]);
        for (i = 0; i < t->numel; ++i) { /* our position i -> released position */
            int64_t at[5] = { 0, 0, 0, 0, 0 }, left = i, place = 0;
            for (a = t->rank - 1; a >= 0; left /= t->dim[a], --a) at[q->axis[a]] = left % t->dim[a];
            for (r = 0; r < q->rank; ++r) place = place * q->dim[r] + at[r];
            if (!check_report(ours[i] == (float)place, __FILE__, __LINE__,
                              "%s[%d] is released element %g, should be %d", q->name, (int)i, (double)ours[i],
                              (int)place))
                break;
        }
    }
    check_context(c);
    free(l.item); /* of the default allocator */
    bmvp_destroy(c);
}

/* >>checkpoints --------------------------------------------------------------------------------------------------- */

static bmvp_state_part values_of(bmvp_ctx *c, bmvp_net *net)
{
    bmvp_state_part p;
    memset(&p, 0, sizeof p);
    p.c = c;
    p.list = bmvp_net_state(net);
    return p;
}

static bmvp_status save_net(bmvp_ctx *c, bmvp_net *net, const char *path, bmvp_ckpt_format format, const char *group)
{
    bmvp_state_part p = values_of(c, net);
    bmvp_ckpt_writer *w = NULL;
    bmvp_status st = bmvp_ckpt_writer_begin(path, format, NULL, &w, NULL);
    if (!st) st = bmvp_state_declare(w, group, &p, NULL);
    if (!st) st = bmvp_state_data(w, &p, NULL);
    return st ? st : bmvp_ckpt_writer_finish(w, NULL);
}

static bmvp_status load_net(bmvp_ctx *c, bmvp_net *net, const char *path, bmvp_net_config *inferred, bmvp_error *err)
{
    bmvp_state_part p = values_of(c, net);
    const char *group = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_status st = bmvp_ckpt_open(path, NULL, &f, err);
    if (!st) st = bmvp_state_group(f, &group, err);
    if (!st && inferred) CHECK(bmvp_net_infer(f, group, inferred, err) == BMVP_OK);
    if (!st) st = bmvp_state_load(f, group, &p, err);
    bmvp_ckpt_close(f);
    return st;
}

static void check_equal_nets(bmvp_net *a, bmvp_net *b)
{
    const bmvp_state_list *p = bmvp_net_state(a), *q = bmvp_net_state(b);
    int i;
    CHECK(p->n == q->n);
    for (i = 0; i < p->n; ++i) {
        if (p->item[i].torch_rank == 0) CHECK(p->item[i].counter == q->item[i].counter);
        else CHECK_SAME(p->item[i].name, p->item[i].t->x, q->item[i].t->x, p->item[i].t->numel);
    }
}

static void check_equal_configs(const bmvp_net_config *a, const bmvp_net_config *b)
{
    CHECK(strcmp(a->kind, b->kind) == 0 && a->in_channels == b->in_channels);
    if (strcmp(a->kind, "unet3d") == 0) {
        CHECK(a->width == b->width && a->groups == b->groups);
        return;
    }
    CHECK(memcmp(a->dim, b->dim, sizeof a->dim) == 0 && memcmp(a->depth, b->depth, sizeof a->depth) == 0);
    CHECK(a->head_dim == b->head_dim && a->mlp_ratio == b->mlp_ratio);
}

/* Copies every tensor under other names, as a program that converts would. */
static void copy_checkpoint(const char *from, const char *to, bmvp_ckpt_format format, const char *prefix)
{
    bmvp_ckpt_writer *w = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_error err;
    char name[256];
    int i;
    if (!check_report(bmvp_ckpt_open(from, NULL, &f, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message)) return;
    CHECK(bmvp_ckpt_writer_begin(to, format, NULL, &w, &err) == BMVP_OK);
    for (i = 0; i < f->n_entries; ++i) {
        snprintf(name, sizeof name, "%s%s", prefix, f->entry[i].name);
        CHECK(bmvp_ckpt_writer_add(w, f->entry[i].group, name, f->entry[i].dtype, f->entry[i].rank, f->entry[i].dim,
                                   &err) == BMVP_OK);
    }
    for (i = 0; i < f->n_entries; ++i) {
        void *data = malloc((size_t)f->entry[i].bytes + 1);
        CHECK(data && bmvp_ckpt_load(f, i, data, f->entry[i].bytes, &err) == BMVP_OK);
        CHECK(bmvp_ckpt_writer_data(w, data, f->entry[i].bytes, &err) == BMVP_OK);
        free(data);
    }
    check_report(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    bmvp_ckpt_close(f);
}

static void round_trip(bmvp_net_config cfg)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config inferred;
    bmvp_net *a = fresh(c, &cfg, 11), *b = fresh(c, &cfg, 12);
    bmvp_error err;
    char st[400], pt[400], plain[400];
    int i;
    temporary(st, sizeof st, "safetensors");
    temporary(pt, sizeof pt, "pt");
    temporary(plain, sizeof plain, "plain.pt");
    if (CHECK(a && b)) {
        for (i = 0; i < bmvp_net_state(a)->n; ++i)
            if (bmvp_net_state(a)->item[i].torch_rank == 0) bmvp_net_state(a)->item[i].counter = 100 + i;
        CHECK(save_net(c, a, st, BMVP_CKPT_SAFETENSORS, "state_dict") == BMVP_OK);
        check_report(load_net(c, b, st, &inferred, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        check_equal_nets(b, a);
        check_equal_configs(&inferred, &cfg);
        copy_checkpoint(st, pt, BMVP_CKPT_PT, "module.");
        bmvp_net_init(b, 13);
        check_report(load_net(c, b, pt, &inferred, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        check_equal_nets(b, a);
        check_equal_configs(&inferred, &cfg);
        CHECK(save_net(c, a, plain, BMVP_CKPT_PT, "") == BMVP_OK); /* torch.save(model.state_dict()) */
        bmvp_net_init(b, 14);
        check_report(load_net(c, b, plain, NULL, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        check_equal_nets(b, a);
    }
    check_context(c);
    bmvp_net_destroy(a);
    bmvp_net_destroy(b);
    bmvp_destroy(c);
    remove(st);
    remove(pt);
    remove(plain);
}

static void test_round_trip_uniformer(void) { round_trip(preset("uniformer_tiny")); }
static void test_round_trip_unet3d(void) { round_trip(preset("unet3d_tiny")); }
static void test_round_trip_downstream(void)
{
    round_trip(downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 4, 3));
    round_trip(downstream_of("uniformer_tiny", BMVP_TASK_CLASSIFY, 2, 5));
    round_trip(downstream_of("unet3d_tiny", BMVP_TASK_SEGMENT, 4, 3));
    round_trip(downstream_of("unet3d_tiny", BMVP_TASK_CLASSIFY, 1, 2));
}

/* Writes a pre-trained network as the release does (.pt, names with module.) and adopts it. how: room for the entries
 * of `to`. */
static bmvp_status adopt_from(bmvp_ctx *c, bmvp_net *from, bmvp_net *to, int spread, bmvp_net_adoption *what,
                              bmvp_error *err)
{
    char st[400], pt[400];
    bmvp_ckpt *f = NULL;
    bmvp_status status;
    temporary(st, sizeof st, "safetensors");
    temporary(pt, sizeof pt, "pt");
    CHECK(save_net(c, from, st, BMVP_CKPT_SAFETENSORS, "state_dict") == BMVP_OK);
    copy_checkpoint(st, pt, BMVP_CKPT_PT, "module.");
    status = bmvp_ckpt_open(pt, NULL, &f, err);
    if (!status) status = bmvp_net_adopt(to, f, spread, what, err);
    bmvp_ckpt_close(f);
    remove(st);
    remove(pt);
    return status;
}

/* 345 of UniUnet's 355 entries, as the release's own loader reports. */
static void test_adoption_released(void)
{
    const bmvp_net_config pre = preset("uniformer_small"),
                          seg = downstream_of("uniformer_small", BMVP_TASK_SEGMENT, 4, 3);
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net *a = fresh(c, &pre, 1), *b = fresh(c, &seg, 2);
    bmvp_net_adoption what;
    bmvp_error err;
    int spread;
    for (spread = 0; spread < 2 && CHECK(a && b); ++spread) {
        memset(&what, 0, sizeof what);
        check_report(adopt_from(c, a, b, spread, &what, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        CHECK(what.n[BMVP_ADOPT_TAKEN] == 345 && what.n[BMVP_ADOPT_ADAPTED] == (spread ? 2 : 0) &&
              what.n[BMVP_ADOPT_FRESH] == (spread ? 8 : 10));
    }
    bmvp_net_destroy(a);
    bmvp_net_destroy(b);
    bmvp_destroy(c);
}

static void check_adopted(const bmvp_state_list *a, const bmvp_state_list *b, const unsigned char *how,
                          const float *before)
{
    int i, k;
    for (i = 0; i < b->n; ++i) {
        const bmvp_state *t = &b->item[i];
        char name[200];
        snprintf(name, sizeof name, "%s", t->name);
        if (find_state(a, name) < 0 && strncmp(name, "encoder.", 8) == 0)
            snprintf(name, sizeof name, "encoder.uniformer.%s", t->name + 8);
        k = find_state(a, name);
        if (t->torch_rank == 0) continue;
        if (how[i] == BMVP_ADOPT_TAKEN && CHECK(k >= 0)) CHECK_SAME(t->name, t->t->x, a->item[k].t->x, t->t->numel);
        if (how[i] == BMVP_ADOPT_FRESH) CHECK_SAME(t->name, t->t->x, before, t->t->numel);
        before += t->t->numel;
    }
}

/* Taken entries are the file's, fresh ones as they were; the sum over equal inputs of the spread stem is the old one.
 */
static void adopt_values(bmvp_net_config pre, bmvp_net_config to)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net *a = fresh(c, &pre, 1), *b = fresh(c, &to, 2);
    const bmvp_state_list *l = b ? bmvp_net_state(b) : NULL;
    bmvp_net_adoption what;
    bmvp_error err;
    int64_t n = 0, j;
    float *before, *at;
    int i;
    if (!CHECK(a && b)) return;
    memset(&what, 0, sizeof what);
    for (i = 0; i < l->n; ++i) n += l->item[i].t->numel;
    at = before = (float *)malloc((size_t)n * sizeof *before);
    what.how = (unsigned char *)calloc((size_t)(l->n > 0 ? l->n : 1), 1);
    for (i = 0; i < l->n; ++i) {
        if (l->item[i].torch_rank == 0) continue;
        memcpy(at, l->item[i].t->x, (size_t)l->item[i].t->numel * sizeof *at);
        at += l->item[i].t->numel;
    }
    check_report(adopt_from(c, a, b, 1, &what, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
    check_adopted(bmvp_net_state(a), l, what.how, before);
    for (i = 0; i < l->n; ++i)
        if (what.how[i] == BMVP_ADOPT_ADAPTED && l->item[i].torch_rank == 5) {
            const bmvp_tensor *w = l->item[i].t,
                              *one = bmvp_net_state(a)->item[0].t; /* (k, k, k, I, O): the stem comes first */
            for (j = 0; j < one->numel; ++j) {
                const int64_t o = j % w->dim[4], tap = j / w->dim[4];
                double sum = 0;
                int64_t ch;
                for (ch = 0; ch < w->dim[3]; ++ch) sum += (double)w->x[(tap * w->dim[3] + ch) * w->dim[4] + o];
                CHECK_NEAR(sum, (double)one->x[j], 1e-6);
            }
        }
    CHECK(what.n[0] + what.n[1] + what.n[2] == l->n &&
          what.n[1] == (pre.in_channels == 1 && to.in_channels > 1 ? 2 : 0));
    free(before);
    free(what.how);
    bmvp_net_destroy(a);
    bmvp_net_destroy(b);
    bmvp_destroy(c);
}

static void test_adoption_values(void)
{
    adopt_values(preset("uniformer_tiny"), downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 2));
    adopt_values(preset("uniformer_tiny"), downstream_of("uniformer_tiny", BMVP_TASK_CLASSIFY, 2, 3));
    adopt_values(preset("unet3d_tiny"), downstream_of("unet3d_tiny", BMVP_TASK_SEGMENT, 4, 1));
    adopt_values(preset("unet3d_tiny"), downstream_of("unet3d_tiny", BMVP_TASK_CLASSIFY, 1, 2));
    adopt_values(downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 2),
                 downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 5));
}

/* A spread stem that sees C times the same volume computes what the one-channel stem does. */
static void test_spread_stem(void)
{
    static const int64_t dim[5] = { 1, 32, 32, 32, 1 }, many[5] = { 1, 32, 32, 32, 3 };
    const char *const name[2] = { "uniformer_tiny", "unet3d_tiny" };
    float *x = (float *)malloc(32768 * sizeof *x), *copies = (float *)malloc(3 * 32768 * sizeof *copies);
    int i, j;
    formula_volume(0, 0, dim + 1, x);
    for (j = 0; j < 3 * 32768; ++j) copies[j] = x[j / 3];
    for (i = 0; i < 2; ++i) {
        const bmvp_net_config from_cfg = preset(name[i]), to_cfg = downstream_of(name[i], BMVP_TASK_SEGMENT, 3, 2);
        bmvp_ctx *c = bmvp_create(NULL, NULL);
        bmvp_net *from = fresh(c, &from_cfg, 3), *to = fresh(c, &to_cfg, 4);
        bmvp_features a, b;
        bmvp_error err;
        check_report(adopt_from(c, from, to, 1, NULL, &err) == BMVP_OK, __FILE__, __LINE__, "%s", err.message);
        a = bmvp_net_encode(from, bmvp_input(c, 5, dim, x), 0);
        b = bmvp_net_encode(to, bmvp_input(c, 5, many, copies), 0);
        check_context(c);
        for (j = 0; j < 4 && a.last && b.last; ++j)
            CHECK_CLOSE(name[i], b.map[j]->x, a.map[j]->x, a.map[j]->numel, 3e-5);
        bmvp_net_destroy(from);
        bmvp_net_destroy(to);
        bmvp_destroy(c);
    }
    free(x);
    free(copies);
}

static void check_not_adopted(bmvp_net_config from_cfg, bmvp_net_config to_cfg, bmvp_status status, const char *part)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net *from = fresh(c, &from_cfg, 3), *to = fresh(c, &to_cfg, 4), *before = fresh(c, &to_cfg, 4);
    bmvp_net_adoption what;
    bmvp_error err;
    memset(&what, 0, sizeof what);
    if (CHECK(from && to && before)) {
        CHECK(adopt_from(c, from, to, 1, &what, &err) == status);
        CHECK_HOLDS(err.message, part);
        CHECK(what.n[0] + what.n[1] + what.n[2] == 0);
        check_equal_nets(to, before);
    }
    check_context(c); /* a bad file is not the context's failure */
    bmvp_net_destroy(from);
    bmvp_net_destroy(to);
    bmvp_net_destroy(before);
    bmvp_destroy(c);
}

/* Refused, and nothing has changed: another kind, a width, more or fewer blocks, other inputs than one. */
static void test_adoption_refused(void)
{
    const bmvp_net_config segment = downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 3, 2),
                          unet = preset("unet3d_tiny");
    bmvp_net_config from = preset("uniformer_tiny"), wide = downstream_of("unet3d_tiny", BMVP_TASK_CLASSIFY, 1, 2);
    check_not_adopted(from, unet, BMVP_E_FORMAT, "holds a UniFormer, the network is a UNET3D");
    check_not_adopted(unet, segment, BMVP_E_FORMAT, "holds a UNET3D, the network is a UniFormer");
    wide.width = 16;
    check_not_adopted(unet, wide, BMVP_E_SHAPE,
                      "'conv1a.weight' has shape (8, 1, 3, 3, 3), but the network wants (16, 1, 3, 3, 3)");
    from.dim[1] = 48;
    check_not_adopted(from, segment, BMVP_E_SHAPE,
                      "'encoder.uniformer.patch_embed2.proj.weight' has shape (48, 16, 2, 2, 2)");
    from = preset("uniformer_tiny");
    from.depth[2] = 3;
    check_not_adopted(from, segment, BMVP_E_SHAPE, "'encoder.uniformer.blocks3.2.pos_embed.weight' has no place");
    from.depth[2] = 1;
    check_not_adopted(from, segment, BMVP_E_FORMAT, "'encoder.blocks3.1.pos_embed.weight' is missing");
    check_not_adopted(downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 2, 2), segment, BMVP_E_SHAPE,
                      "only a stem of one channel can be spread");
}

/* A network wider in the third stage: patch_embed3 is the first tensor that differs. */
/* Declares every tensor of the file in the group, its name behind the prefix; then the values, or zeros where they are
 * wrong. */
static void add_group(bmvp_ckpt_writer *w, bmvp_ckpt *f, const char *group, const char *prefix)
{
    char name[300];
    int i;
    for (i = 0; i < f->n_entries; ++i) {
        const bmvp_ckpt_entry *e = &f->entry[i];
        snprintf(name, sizeof name, "%s%s", prefix, e->name);
        bmvp_ckpt_writer_add(w, group, name, e->dtype, e->rank, e->dim, NULL);
    }
}
static void add_data(bmvp_ckpt_writer *w, bmvp_ckpt *f, int wrong)
{
    char *data;
    int i;
    for (i = 0; i < f->n_entries; ++i) {
        data = (char *)calloc((size_t)f->entry[i].bytes + 1, 1);
        if (!wrong) CHECK(bmvp_ckpt_load(f, i, data, f->entry[i].bytes, NULL) == BMVP_OK);
        bmvp_ckpt_writer_data(w, data, f->entry[i].bytes, NULL);
        free(data);
    }
}

/* The network is found where other programs put it, with what wraps its names, beside tensors that are not it. */
static void test_found_in_other_files(void)
{
    static const char *const place[][4] = { /* group, prefix, another group beside it that holds zeros, its prefix */
        { "model", "", "optimizer.state", "" },
        { "network_weights", "_orig_mod.", NULL, NULL },
        { "model_state_dict", "module._orig_mod.", "ema", "" },
        { "student", "module.", "teacher", "module." },
        { "state_dict", "model.", "model_ema", "" },       /* Lightning */
        { "", "module.model.", NULL, NULL },
        { "", "net._orig_mod.", "optimizer", "" },
        { "checkpoint.model", "", "checkpoint.optimizer", "" },
        { "averaged", "", NULL, NULL },                    /* nobody's name, but the only group */
        { "best", "backbone.module.", "optim", "backbone.module." },
    };
    static const int64_t one[1] = { 3 };
    const bmvp_net_config cfg = preset("uniformer_tiny");
    char ours[300], theirs[300];
    bmvp_net_config inferred;
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net *a = fresh(c, &cfg, 3), *b;
    bmvp_ckpt *f = NULL;
    bmvp_ckpt_writer *w;
    bmvp_error err;
    size_t i;
    int pt;
    temporary(ours, sizeof ours, "ours");
    temporary(theirs, sizeof theirs, "theirs");
    CHECK(save_net(c, a, ours, BMVP_CKPT_SAFETENSORS, "") == BMVP_OK &&
          bmvp_ckpt_open(ours, NULL, &f, &err) == BMVP_OK);
    for (i = 0; f && i < sizeof place / sizeof *place; ++i)
        for (pt = 0; pt < 2; ++pt) {
            if (bmvp_ckpt_writer_begin(theirs, pt ? BMVP_CKPT_PT : BMVP_CKPT_SAFETENSORS, NULL, &w, &err) != BMVP_OK)
                break;
            if (place[i][2]) add_group(w, f, place[i][2], place[i][3]);
            add_group(w, f, place[i][0], place[i][1]);
            bmvp_ckpt_writer_add(w, "queue", "x", BMVP_DTYPE_U8, 1, one, NULL);
            if (place[i][2]) add_data(w, f, 1);
            add_data(w, f, 0);
            bmvp_ckpt_writer_data(w, "abc", 3, NULL);
            CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK);
            b = fresh(c, &cfg, 4);
            check_report(load_net(c, b, theirs, &inferred, &err) == BMVP_OK, __FILE__, __LINE__, "%s, %s: %s",
                         place[i][0], place[i][1], err.message);
            check_equal_nets(a, b);
            check_equal_configs(&inferred, &cfg);
            bmvp_net_destroy(b);
        }
    bmvp_ckpt_close(f);
    remove(ours);
    remove(theirs);
    bmvp_net_destroy(a);
    bmvp_destroy(c);
}

/* Where nothing fits the message says what there is; a network of one's own keeps names that look like wrappers. */
static void test_not_found_is_said(void)
{
    static const int64_t dim[1] = { 250000 };
    static float data[250000];
    char path[300];
    const char *group = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_ckpt_writer *w;
    bmvp_net_config cfg;
    bmvp_error err;
    temporary(path, sizeof path, "theirs");
    CHECK(bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK);
    bmvp_ckpt_writer_add(w, "left", "w", BMVP_DTYPE_F32, 1, dim, NULL);
    bmvp_ckpt_writer_add(w, "right", "w", BMVP_DTYPE_F32, 1, dim, NULL);
    bmvp_ckpt_writer_add(w, "right", "v", BMVP_DTYPE_F32, 1, dim, NULL);
    bmvp_ckpt_writer_data(w, data, sizeof data, NULL);
    bmvp_ckpt_writer_data(w, data, sizeof data, NULL);
    bmvp_ckpt_writer_data(w, data, sizeof data, NULL);
    CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK && bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK);
    CHECK(bmvp_state_group(f, &group, &err) == BMVP_E_FORMAT);
    CHECK_HOLDS(err.message, "its tensors stand under 'left' (1, 1.0 MB), under 'right' (2, 2.0 MB)");
    CHECK(bmvp_net_infer(f, "left", &cfg, &err) == BMVP_E_FORMAT);
    CHECK_HOLDS(err.message, "under 'right' (2, 2.0 MB)");
    bmvp_ckpt_close(f);
    f = NULL;
    CHECK(bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK);
    bmvp_ckpt_writer_add(w, "state_dict", "module.net.0.weight", BMVP_DTYPE_F32, 1, dim, NULL);
    bmvp_ckpt_writer_data(w, data, sizeof data, NULL);
    CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK && bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK);
    CHECK(bmvp_state_group(f, &group, &err) == BMVP_OK && bmvp_ckpt_find(f, group, "net.0.weight") == 0);
    bmvp_ckpt_close(f);
    remove(path);
}

static void test_wrong_checkpoint(void)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config cfg = preset("uniformer_tiny"), wide = cfg, deep = cfg, unet = preset("unet3d_tiny");
    bmvp_net *from, *other, *same;
    bmvp_error err;
    char path[400];
    temporary(path, sizeof path, "safetensors");
    wide.dim[2] = 96;
    deep.depth[1] = 2;
    from = fresh(c, &cfg, 3);
    CHECK(save_net(c, from, path, BMVP_CKPT_SAFETENSORS, "state_dict") == BMVP_OK);
    other = fresh(c, &wide, 4);
    same = fresh(c, &wide, 4);
    CHECK(load_net(c, other, path, NULL, &err) == BMVP_E_SHAPE && err.status == BMVP_E_SHAPE);
    CHECK_HOLDS(err.message, "'encoder.uniformer.patch_embed3.proj.weight'");
    CHECK_HOLDS(err.message, "(64, 32, 2, 2, 2)");
    CHECK_HOLDS(err.message, "(96, 32, 2, 2, 2)");
    CHECK_HOLDS(err.message, path);
    check_equal_nets(other, same); /* nothing has changed */
    bmvp_net_destroy(other);
    bmvp_net_destroy(same);
    other = fresh(c, &deep, 4);
    CHECK(load_net(c, other, path, NULL, &err) == BMVP_E_FORMAT && err.status == BMVP_E_FORMAT);
    CHECK_HOLDS(err.message, "'encoder.uniformer.blocks2.1.pos_embed.weight' is missing");
    bmvp_net_destroy(other);
    other = fresh(c, &unet, 4);
    CHECK(load_net(c, other, path, NULL, &err) == BMVP_E_FORMAT && err.status == BMVP_E_FORMAT);
    CHECK_HOLDS(err.message, "'conv1a.weight' is missing");
    bmvp_net_destroy(other);
    bmvp_net_destroy(from);
    check_context(c); /* a bad file is not the context's failure */
    bmvp_destroy(c);
    remove(path);
}

static void test_config_as_json(void)
{
    static const char *const text[2] = {
        "in_channels=2 dim=8,16,48,96 depth=1,2,3,4 head_dim=24 mlp_ratio=3 outputs=5 deep_supervision=1",
        "in_channels=3 width=24 groups=4 outputs=3 levels=-5 base=7"
    };
    bmvp_net_config from[2], back;
    bmvp_json_doc *doc = NULL;
    bmvp_error err;
    bmvp_jw w;
    int i;
    for (i = 0; i < 2; ++i) {
        from[i] = bmvp_net_config_default(i ? "elsewhere" : "uniformer");
        from[i].task = i ? BMVP_TASK_CLASSIFY : BMVP_TASK_SEGMENT;
        CHECK(bmvp_net_config_set(&from[i], text[i], &err) == BMVP_OK);
        bmvp_jw_init(&w, 0, NULL);
        bmvp_jw_object(&w, NULL);
        bmvp_net_config_write(&w, "network", &from[i]);
        bmvp_jw_end(&w);
        CHECK(bmvp_jw_finish(&w, &err) == BMVP_OK);
        if (CHECK(bmvp_json_parse(w.out.data, w.out.len, "config", NULL, &doc, &err) == BMVP_OK)) {
            CHECK(bmvp_net_config_read(bmvp_json_get(bmvp_json_root(doc), "network"), &back, &err) == BMVP_OK);
            CHECK(strcmp(back.name, from[i].name) == 0);
            check_equal_configs(&back, &from[i]);
            CHECK(bmvp_net_option_of(&back, "levels", 1) == (i ? -5 : 1) &&
                  bmvp_net_option_of(&back, "base", 2) == (i ? 7 : 2));
            CHECK(back.task == from[i].task && back.outputs == from[i].outputs &&
                  back.deep_supervision == from[i].deep_supervision);
            CHECK(bmvp_net_config_read(bmvp_json_get(bmvp_json_root(doc), "net"), &back, &err) == BMVP_E_FORMAT);
        }
        bmvp_json_free(doc);
        bmvp_jw_free(&w);
    }
}

/* As 0.1 wrote it: numbers that the kind does not use, no options. */
static void test_config_of_0_1(void)
{
    static const char
        text[] = "{\"name\":\"uniformer_tiny\",\"kind\":\"uniformer\",\"in_channels\":4,\"dim\":[16,32,64,128],"
                 "\"depth\":[1,1,2,1],\"head_dim\":16,\"mlp_ratio\":4,\"width\":32,\"groups\":8,\"task\":\"segment\","
                 "\"outputs\":3,\"deep_supervision\":1}";
    bmvp_net_config want = downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 4, 3), k;
    bmvp_json_doc *doc = NULL;
    bmvp_error err;
    if (!CHECK(bmvp_json_parse(text, sizeof text - 1, "config", NULL, &doc, &err) == BMVP_OK)) return;
    CHECK(bmvp_net_config_read(bmvp_json_root(doc), &k, &err) == BMVP_OK);
    check_equal_configs(&k, &want);
    CHECK(strcmp(k.name, want.name) == 0 && k.task == want.task && k.outputs == 3 && k.deep_supervision == 1);
    bmvp_json_free(doc);
}

/* Written before there were tasks; of a task that there is not. */
static void test_config_without_task(void)
{
    static const char *const text[2] = { "{\"kind\": \"unet3d\"}", "{\"kind\": \"unet3d\", \"task\": \"dream\"}" };
    bmvp_net_config k;
    bmvp_json_doc *doc = NULL;
    bmvp_error err;
    int i;
    for (i = 0; i < 2; ++i) {
        if (!CHECK(bmvp_json_parse(text[i], strlen(text[i]), "config", NULL, &doc, &err) == BMVP_OK)) continue;
        CHECK(bmvp_net_config_read(bmvp_json_root(doc), &k, &err) == (i ? BMVP_E_FORMAT : BMVP_OK));
        if (i) CHECK_HOLDS(err.message, "task 'dream'");
        else CHECK(k.task == BMVP_TASK_PRETRAIN && k.deep_supervision == 0);
        bmvp_json_free(doc);
    }
}

/* >>errors -------------------------------------------------------------------------------------------------------- */

static void check_refused(const bmvp_net_config *cfg, const char *part)
{
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    CHECK(bmvp_net_create(c, cfg) == NULL && bmvp_error_of(c)->status == BMVP_E_ARG);
    CHECK_HOLDS(bmvp_error_of(c)->message, part);
    bmvp_destroy(c);
}

static void test_bad_configs(void)
{
    bmvp_net_config k = preset("uniformer_tiny");
    k.head_dim = 24;
    check_refused(&k, "head size 24");
    k = preset("uniformer_tiny");
    k.depth[2] = 0;
    check_refused(&k, "depths 1/1/0/1");
    k.depth[2] = 65;
    check_refused(&k, "1 to 64");
    k = preset("uniformer_tiny");
    k.dim[1] = -8;
    check_refused(&k, "dims 16/-8/64/128");
    k = preset("unet3d_tiny");
    k.groups = 3;
    check_refused(&k, "multiple of 3 groups");
    k = preset("unet3d_tiny");
    k.groups = 0;
    check_refused(&k, "0 groups");
    k = downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 4, 0);
    check_refused(&k, "1 to 4096 outputs, not 0");
    k = downstream_of("unet3d_tiny", BMVP_TASK_CLASSIFY, 4, 5000);
    check_refused(&k, "not 5000");
}

/* Each network has the decoder of its task. */
static void test_wrong_task(void)
{
    static const int64_t dim[5] = { 1, 16, 16, 16, 1 };
    const bmvp_net_config k[2] = { preset("uniformer_tiny"), downstream_of("uniformer_tiny", BMVP_TASK_SEGMENT, 1, 2) };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net *net[2];
    bmvp_features f;
    bmvp_tensor *x;
    net[0] = fresh(c, &k[0], 1);
    net[1] = fresh(c, &k[1], 1);
    x = bmvp_input(c, 5, dim, NULL);
    bmvp_fill(c, x, 0.5f);
    f = bmvp_net_encode(net[0], x, 0);
    CHECK(bmvp_net_segment(net[0], x, &f, 0).full == NULL && bmvp_error_of(c)->status == BMVP_E_STATE);
    CHECK_HOLDS(bmvp_error_of(c)->message, "not a segmentation network");
    bmvp_clear_error(c);
    CHECK(bmvp_net_classify(net[0], &f) == NULL && bmvp_error_of(c)->status == BMVP_E_STATE);
    bmvp_clear_error(c);
    f = bmvp_net_encode(net[1], x, 0);
    CHECK(bmvp_net_reconstruct(net[1], &f) == NULL && bmvp_error_of(c)->status == BMVP_E_STATE);
    bmvp_net_destroy(net[0]);
    bmvp_net_destroy(net[1]);
    bmvp_destroy(c);
}

static void test_bad_inputs(void)
{
    static const int64_t odd[5] = { 1, 32, 24, 32, 1 }, channels[5] = { 1, 32, 32, 32, 2 };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config k = preset("uniformer_tiny");
    bmvp_net *net = bmvp_net_create(c, &k);
    bmvp_features f = bmvp_net_encode(net, bmvp_input(c, 5, odd, NULL), 1);
    CHECK(f.last == NULL && bmvp_net_reconstruct(net, &f) == NULL);
    CHECK(bmvp_error_of(c)->status == BMVP_E_SHAPE);
    CHECK_HOLDS(bmvp_error_of(c)->message, "multiples of 16");
    CHECK_HOLDS(bmvp_error_of(c)->message, "24");
    bmvp_clear_error(c);
    bmvp_step_begin(c);
    f = bmvp_net_encode(net, bmvp_input(c, 5, channels, NULL), 1);
    CHECK(f.last == NULL && bmvp_error_of(c)->status == BMVP_E_SHAPE);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    CHECK_RUN(test_initialisation);
    CHECK_RUN(test_seeds);
    test_names("state_dict_pretrain.txt", preset("uniformer_small"), 352);
    test_names("state_dict_pretrain_unet3d.txt", preset("unet3d"), 113);
    test_names("state_dict_unified.txt", downstream_of("uniformer_small", BMVP_TASK_SEGMENT, 4, 3), 355);
    CHECK_RUN(test_presets);
    CHECK_RUN(test_layouts);
    CHECK_RUN(test_round_trip_uniformer);
    CHECK_RUN(test_round_trip_unet3d);
    CHECK_RUN(test_round_trip_downstream);
    CHECK_RUN(test_adoption_released);
    CHECK_RUN(test_adoption_values);
    CHECK_RUN(test_spread_stem);
    CHECK_RUN(test_adoption_refused);
    CHECK_RUN(test_found_in_other_files);
    CHECK_RUN(test_not_found_is_said);
    CHECK_RUN(test_wrong_checkpoint);
    CHECK_RUN(test_config_as_json);
    CHECK_RUN(test_config_of_0_1);
    CHECK_RUN(test_config_without_task);
    CHECK_RUN(test_bad_configs);
    CHECK_RUN(test_wrong_task);
    CHECK_RUN(test_bad_inputs);
    return check_end();
}
