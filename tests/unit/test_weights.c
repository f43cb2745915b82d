/* test_weights.c - files of other programs: each network of the header by a state dict under its authors' names, values
   by formula (bmvp_ft_open_weights), and the encoders of self-supervised weights (bmvp_net_adopt).
   `test_weights write DIR` writes such files for tests/program/weights.sh. */
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#include "tests/support/nets.h"

/* >>files: what other programs call the tensors -------------------------------------------------------------------- */

typedef int (*naming)(const char *ours, char *out, size_t size); /* 0: it is not in the file */

static int as_ours(const char *ours, char *out, size_t size)
{
    snprintf(out, size, "%s", ours);
    return 1;
}
/* M3AE: a module around the U-Net */
static int as_m3ae(const char *ours, char *out, size_t size)
{
    snprintf(out, size, "unet.%s", ours);
    return 1;
}
/* What MONAI's SwinUNETR.load_from reads: the transformer alone */
static int as_swinvit(const char *ours, char *out, size_t size)
{
    static const char vit[] = "swinViT.", mlp[] = ".mlp.linear";
    const char *at = strstr(ours, mlp);
    if (strncmp(ours, vit, sizeof vit - 1) != 0) return 0;
    ours += sizeof vit - 1;
    if (at) snprintf(out, size, "%.*s.mlp.fc%s", (int)(at - ours), ours, at + sizeof mlp - 1);
    else snprintf(out, size, "%s", ours);
    return 1;
}
/* DAE: stages within lists of their own, and the decoder's blocks */
static int as_dae(const char *ours, char *out, size_t size)
{
    char name[BMVP_NAME_MAX], *stage;
    if (!as_swinvit(ours, name, sizeof name)) return as_ours(ours, out, size);
    stage = strncmp(name, "layers", 6) == 0 ? strstr(name, ".0.") : NULL;
    if (stage) snprintf(out, size, "encoder.%.*s.0%s", (int)(stage - name), name, stage);
    else snprintf(out, size, "encoder.%s", name);
    return 1;
}
/* Older self-supervised runs of Swin-UNETR */
static int as_swin_vit(const char *ours, char *out, size_t size)
{
    if (strncmp(ours, "swinViT.", 8) != 0) return as_ours(ours, out, size);
    snprintf(out, size, "swin_vit.%s", ours + 8);
    return 1;
}
static int as_voco(const char *ours, char *out, size_t size)
{
    snprintf(out, size, "backbone.%s", ours);
    return strncmp(ours, "decoder", 7) != 0 && strncmp(ours, "out.", 4) != 0;
}

typedef struct network {
    const char *file, *preset, *fields; /* fields: beside those of the preset */
    int64_t size[3];
    const char *group, *prefix;
    naming names;
    const char *more[2]; /* tensors that are no part of it */
} network;

#define SWIN "feature_size=3 num_heads=3 depth=1,1,1,1 window_size=3"
static const network networks[] = {
    { "uniformer", "uniformer_tiny", "", { 16, 16, 16 }, "state_dict", "module.", as_ours, { NULL, NULL } },
    { "unet3d", "unet3d_tiny", "", { 8, 16, 8 }, "state_dict", "module.", as_ours, { NULL, NULL } },
    { "m3ae", "unet3d_tiny", "deep=1", { 8, 8, 8 }, "state_dict", "module.", as_m3ae, { "limage", NULL } },
    { "unetr", "unetr_tiny", "", { 32, 32, 32 }, "", "", as_ours, { NULL, NULL } },
    { "unet3d_mg", "unet3d_mg_tiny", "", { 16, 8, 8 }, "state_dict", "module.", as_ours, { NULL, NULL } },
    { "unet3d_gvsl", "unet3d_gvsl_tiny", "", { 16, 16, 16 }, "", "", as_ours,
      { "unet_pre.unet.inc.double_conv.0.weight", "unet_pre.fc_rot.bias" } },
    { "swin_unetr", "swin_unetr_tiny", SWIN, { 64, 32, 32 }, "state_dict", "", as_ours, { NULL, NULL } },
    { "swin_vit", "swin_unetr_tiny", SWIN, { 64, 32, 32 }, "state_dict", "module.", as_swin_vit, { NULL, NULL } },
    { "dae", "swin_unetr_tiny", SWIN " dae=1", { 64, 32, 32 }, "model", "", as_dae,
      { "encoder.norm.weight", "encoder.mask_token" } }
};
enum { NETWORKS = sizeof networks / sizeof *networks };

static bmvp_net_config config_for(const network *k, bmvp_net_task task, int channels)
{
    bmvp_net_config cfg = downstream_of(k->preset, task, channels, task == BMVP_TASK_CLASSIFY ? 4 : 3);
    CHECK(bmvp_net_config_set(&cfg, k->fields, NULL) == BMVP_OK);
    return cfg;
}

static bmvp_ctx *one_thread(void)
{
    const bmvp_config k = config_of(BMVP_SIMD_AUTO, 1);
    return bmvp_create(&k, NULL);
}

/* The network with values by formula; counters and indexes as they are made */
static bmvp_net *network_of(bmvp_ctx *c, const bmvp_net_config *cfg)
{
    bmvp_net *net = fresh(c, cfg, 1);
    int i;
    for (i = 0; CHECK(net != NULL) && i < bmvp_net_state(net)->n; ++i) {
        bmvp_state_list one = *bmvp_net_state(net);
        one.item += i, one.n = 1;
        if (!strstr(one.item->name, "relative_position_index")) CHECK(formula_state(c, &one, 7));
    }
    return net;
}

static void copy_tensor(bmvp_ckpt_writer *w, bmvp_ckpt *f, int i)
{
    void *x = calloc((size_t)f->entry[i].bytes + 1, 1);
    bmvp_error err;
    CHECK(x && bmvp_ckpt_load(f, i, x, f->entry[i].bytes, &err) == BMVP_OK);
    CHECK(bmvp_ckpt_writer_data(w, x, f->entry[i].bytes, &err) == BMVP_OK);
    free(x);
}

/* A file as the authors have it. without: a tensor (our name) that it lacks, or NULL */
static void write_theirs(const char *path, const network *k, bmvp_ctx *c, bmvp_net *net, const char *without)
{
    bmvp_state_part part = { NULL, NULL, NULL, 0 };
    static const int64_t three[1] = { 3 };
    static const float zeros[3] = { 0 };
    char ours[300], name[BMVP_NAME_MAX + 40], theirs[BMVP_NAME_MAX];
    bmvp_ckpt_writer *w = NULL;
    bmvp_ckpt *f = NULL;
    bmvp_error err;
    int i, pass;
    snprintf(ours, sizeof ours, "%s.ours", path);
    part.c = c, part.list = bmvp_net_state(net);
    CHECK(bmvp_ckpt_writer_begin(ours, BMVP_CKPT_SAFETENSORS, NULL, &w, &err) == BMVP_OK &&
          bmvp_state_declare(w, "", &part, &err) == BMVP_OK && bmvp_state_data(w, &part, &err) == BMVP_OK &&
          bmvp_ckpt_writer_finish(w, &err) == BMVP_OK && bmvp_ckpt_open(ours, NULL, &f, &err) == BMVP_OK);
    CHECK(bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK);
    for (pass = 0; f && pass < 2; ++pass) {
        for (i = 0; i < f->n_entries; ++i) {
            const bmvp_ckpt_entry *e = &f->entry[i];
            if ((without && strcmp(e->name, without) == 0) || !k->names(e->name, theirs, sizeof theirs)) continue;
            snprintf(name, sizeof name, "%s%s", k->prefix, theirs);
            if (pass == 0) CHECK(!bmvp_ckpt_writer_add(w, k->group, name, e->dtype, e->rank, e->dim, &err));
            else copy_tensor(w, f, i);
        }
        for (i = 0; i < 2 && k->more[i]; ++i) {
            snprintf(name, sizeof name, "%s%s", k->prefix, k->more[i]);
            if (pass == 0) CHECK(!bmvp_ckpt_writer_add(w, k->group, name, BMVP_DTYPE_F32, 1, three, &err));
            else CHECK(!bmvp_ckpt_writer_data(w, zeros, sizeof zeros, &err));
        }
    }
    bmvp_ckpt_close(f);
    CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK);
    remove(ours);
}

/* >>predict: a network is found, read, and gives what it gave ------------------------------------------------------ */

/* What is said of a file: its row, t1 and flair, three regions (labels NULL: it classifies). */
static bmvp_ft_weights told(const network *k, const bmvp_labels *l)
{
    const bmvp_net_config cfg = preset(k->preset);
    bmvp_ft_weights w = bmvp_ft_weights_default();
    int i;
    w.network = bmvp_net_kind_find(NULL, cfg.kind)->name;
    w.n_modalities = 2;
    w.names[0] = "t1", w.names[1] = "flair";
    w.labels = l;
    for (i = 0; i < 3; ++i) w.window[i] = k->size[2 - i];
    return w;
}

static void regions(bmvp_labels *l)
{
    static const int value[3] = { 1, 4, 17 };
    static const char *const name[3] = { "a", "b", "c" };
    int r;
    memset(l, 0, sizeof *l);
    for (r = 0; r < 3; ++r) CHECK(!bmvp_labels_add(l, name[r], &value[r], 1, NULL));
    CHECK(!bmvp_labels_finish(l, NULL));
}

static void same_state(bmvp_net *a, bmvp_net *b)
{
    const bmvp_state_list *l = bmvp_net_state(a), *m = bmvp_net_state(b);
    int i;
    if (!check_report(l->n == m->n, __FILE__, __LINE__, "%d tensors, not %d", m->n, l->n)) return;
    for (i = 0; i < l->n; ++i) {
        CHECK(strcmp(l->item[i].name, m->item[i].name) == 0 && l->item[i].t->numel == m->item[i].t->numel);
        CHECK_SAME(l->item[i].name, m->item[i].t->x, l->item[i].t->x, l->item[i].t->numel);
    }
}

/* f, opened from a file, gives what the network behind the file gives. */
static void same_answer(const network *k, bmvp_ctx *c, bmvp_net *net, bmvp_ft *f)
{
    const int64_t dim[5] = { 1, k->size[0], k->size[1], k->size[2], 2 }, n = dim[1] * dim[2] * dim[3];
    float *x = (float *)malloc((size_t)n * 2 * sizeof *x);
    bmvp_tensor *in, *y, *z;
    bmvp_features m;
    int64_t i;
    if (!CHECK(x != NULL)) return;
    for (i = 0; i < 2 * n; ++i) x[i] = (float)formula_uniform(formula_stream("x", 7), i);
    (void)bmvp_set_grad(c, 0);
    in = bmvp_input(c, 5, dim, x);
    m = bmvp_net_encode(net, in, 0);
    y = bmvp_net_config_of(net)->task == BMVP_TASK_CLASSIFY ? bmvp_softmax(c, bmvp_net_classify(net, &m))
                                                           : bmvp_sigmoid(c, bmvp_net_segment(net, in, &m, 0).full);
    z = bmvp_ft_predict(f, in);
    check_context(c);
    if (CHECK(y && z && y->numel == z->numel)) CHECK_SAME(k->file, z->x, y->x, y->numel);
    free(x);
}

static void test_read_back(const network *k, bmvp_net_task task)
{
    bmvp_ctx *c = one_thread();
    const bmvp_net_config cfg = config_for(k, task, 2);
    bmvp_net *net = network_of(c, &cfg);
    bmvp_ft_weights w;
    bmvp_ft_info info;
    bmvp_labels l;
    char path[300];
    bmvp_error err;
    bmvp_ft *f;
    regions(&l);
    temporary(path, sizeof path, "pt");
    write_theirs(path, k, c, net, NULL);
    w = told(k, task == BMVP_TASK_CLASSIFY ? NULL : &l);
    w.fields = strcmp(k->preset, "unetr_tiny") == 0 ? "num_heads=3" : NULL; /* the others' are assumed rightly */
    f = bmvp_ft_open_weights(c, path, &w, &info, &err);
    if (check_report(f != NULL, __FILE__, __LINE__, "%s", err.message)) {
        same_state(net, bmvp_ft_net(f));
        CHECK(strcmp(info.net.kind, cfg.kind) == 0 && info.net.outputs == cfg.outputs && info.net.in_channels == 2);
        CHECK(info.n_left == (k->more[0] != NULL) + (k->more[1] != NULL));
        CHECK(!k->more[0] || strstr(info.left, k->more[0]));
        same_answer(k, c, net, f);
        bmvp_ft_destroy(f);
    }
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    remove(path);
}

/* A file that lacks a tensor is refused, and that says which: the tensor, one that lost its place with it, or what a
   network is known by. */
static void test_missing(const network *k)
{
    bmvp_ctx *c = one_thread();
    const bmvp_net_config cfg = config_for(k, BMVP_TASK_SEGMENT, 2);
    bmvp_net *net = network_of(c, &cfg);
    bmvp_ft_weights w;
    bmvp_ft_info info;
    bmvp_labels l;
    char path[300];
    int i, tried = 0, named = 0;
    regions(&l);
    w = told(k, &l);
    temporary(path, sizeof path, "pt");
    for (i = 0; i < bmvp_net_state(net)->n; i += 1 + bmvp_net_state(net)->n / 9) {
        const bmvp_state *s = &bmvp_net_state(net)->item[i];
        bmvp_error err;
        if (s->carried || strstr(s->name, "s_out.")) continue; /* of no use, or of training alone */
        write_theirs(path, k, c, net, s->name);
        ++tried;
        bmvp_clear_error(c);
        if (!check_report(!bmvp_ft_open_weights(c, path, &w, &info, &err), __FILE__, __LINE__, "%s: opens without %s",
                          k->file, s->name))
            continue;
        named += strstr(err.message, s->name) != NULL;
        check_report(strstr(err.message, "tensor '") || strstr(err.message, "none of the networks"), __FILE__, __LINE__,
                     "%s without %s: %s", k->file, s->name, err.message);
    }
    check_report(tried > 4 && 3 * named >= 2 * tried, __FILE__, __LINE__, "%s: %d of %d were named", k->file, named,
                 tried);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
    remove(path);
}

/* >>start of a fine-tuning: the encoders of self-supervised weights ------------------------------------------------ */

/* A pre-trained file of one channel and a network of two: how many tensors are taken and adapted; all with the values
   of the file. */
static void test_adopted(const network *k)
{
    bmvp_ctx *c = one_thread();
    bmvp_net_config pre = config_for(k, BMVP_TASK_PRETRAIN, 1), cfg = config_for(k, BMVP_TASK_SEGMENT, 2);
    bmvp_net *from = network_of(c, &pre), *to = fresh(c, &cfg, 2);
    const bmvp_state_list *l = bmvp_net_state(to);
    bmvp_net_adoption what;
    bmvp_ckpt *f = NULL;
    char path[300], name[BMVP_NAME_MAX];
    bmvp_error err;
    int i, at, wanted = 0;
    temporary(path, sizeof path, "pt");
    memset(&what, 0, sizeof what);
    what.how = (unsigned char *)calloc((size_t)l->n, 1);
    write_theirs(path, k, c, from, NULL);
    CHECK(bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK);
    if (check_report(f && bmvp_net_adopt(to, f, BMVP_ADOPT_SPREAD, &what, &err) == BMVP_OK, __FILE__, __LINE__,
                     "%s: %s", k->file, err.message))
        for (i = 0; i < l->n; ++i) {
            at = find_state(bmvp_net_state(from), l->item[i].name);
            if (at < 0 || !k->names(l->item[i].name, name, sizeof name)) CHECK(what.how[i] == BMVP_ADOPT_FRESH);
            else if (bmvp_net_in_part(to, l->item[i].name, BMVP_PART_ENCODER)) ++wanted;
            if (what.how[i] == BMVP_ADOPT_TAKEN)
                CHECK_SAME(l->item[i].name, l->item[i].t->x, bmvp_net_state(from)->item[at].t->x, l->item[i].t->numel);
        }
    check_report(what.n[0] + what.n[1] >= wanted && wanted > 30 && what.n[1] >= 1, __FILE__, __LINE__,
                 "%s: %d taken, %d adapted, of %d", k->file, what.n[0], what.n[1], wanted);
    free(what.how);
    bmvp_ckpt_close(f);
    bmvp_net_destroy(from), bmvp_net_destroy(to);
    bmvp_destroy(c);
    remove(path);
}

static const network encoders[] = {
    { "swinvit", "swin_unetr_tiny", SWIN, { 64, 32, 32 }, "state_dict", "module.", as_swinvit,
      { "norm.weight", "mask_token" } },
    { "swin_vit", "swin_unetr_tiny", SWIN, { 64, 32, 32 }, "state_dict", "module.", as_swin_vit,
      { "rotation_head.weight", "contrastive_head.bias" } },
    { "voco", "swin_unetr_tiny", SWIN " use_v2=1", { 64, 32, 32 }, "state_dict", "module.", as_voco,
      { "student.0.weight", "teacher.0.weight" } },
    { "dae", "swin_unetr_tiny", SWIN " dae=1", { 64, 32, 32 }, "model", "", as_dae,
      { "encoder.norm.weight", "encoder.mask_token" } },
    { "m3ae", "unet3d_tiny", "", { 8, 8, 8 }, "state_dict", "module.", as_m3ae, { "limage", NULL } }
};

/* A network of the program's own keeps names that another program has for one of ours. */
static void test_own_names_stay(void)
{
    static const int64_t three[1] = { 3 };
    static const float zeros[3] = { 0 };
    const char *group = NULL;
    bmvp_ckpt_writer *w = NULL;
    bmvp_ckpt *f = NULL;
    char path[300];
    bmvp_error err;
    temporary(path, sizeof path, "pt");
    CHECK(bmvp_ckpt_writer_begin(path, BMVP_CKPT_PT, NULL, &w, &err) == BMVP_OK &&
          bmvp_ckpt_writer_add(w, "state_dict", "patch_embed.proj.weight", BMVP_DTYPE_F32, 1, three, &err) == BMVP_OK &&
          bmvp_ckpt_writer_data(w, zeros, sizeof zeros, &err) == BMVP_OK &&
          bmvp_ckpt_writer_finish(w, &err) == BMVP_OK && bmvp_ckpt_open(path, NULL, &f, &err) == BMVP_OK);
    CHECK(f && bmvp_state_group(f, &group, &err) == BMVP_OK &&
          bmvp_ckpt_find(f, "state_dict", "patch_embed.proj.weight") == 0);
    bmvp_ckpt_close(f);
    remove(path);
}

/* >>main ----------------------------------------------------------------------------------------------------------- */

static int write_all(const char *folder)
{
    bmvp_ctx *c = one_thread();
    char path[700];
    int i;
    for (i = 0; i <= NETWORKS; ++i) {
        const network *k = i < NETWORKS ? &networks[i] : &encoders[0];
        const bmvp_net_config cfg = config_for(k, BMVP_TASK_SEGMENT, i < NETWORKS ? 2 : 1);
        bmvp_net *net = network_of(c, &cfg);
        snprintf(path, sizeof path, "%s/%s.pt", folder, k->file);
        write_theirs(path, k, c, net, NULL);
        bmvp_net_destroy(net);
    }
    bmvp_destroy(c);
    return check_end();
}

int main(int argc, char **argv)
{
    size_t i;
    if (argc == 3 && strcmp(argv[1], "write") == 0) return write_all(argv[2]);
    check_begin(argc, argv);
    for (i = 0; i < NETWORKS; ++i) {
        if (!check_start("%s", networks[i].file)) continue;
        test_read_back(&networks[i], BMVP_TASK_SEGMENT);
        if (networks[i].names == as_ours) test_read_back(&networks[i], BMVP_TASK_CLASSIFY);
        if (networks[i].names == as_ours) test_missing(&networks[i]);
        check_finish();
    }
    for (i = 0; i < sizeof encoders / sizeof *encoders; ++i) {
        if (!check_start("start from %s", encoders[i].file)) continue;
        test_adopted(&encoders[i]);
        check_finish();
    }
    CHECK_RUN(test_own_names_stay);
    return check_end();
}
