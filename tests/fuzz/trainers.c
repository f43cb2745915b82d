/* trainers.c - fuzzing of checkpoints into trainers and networks. The first byte: bit 0, fine-tuning, else
 * pre-training; bit 1, what is behind it is a safetensors file. Else it is edits of the header of a true checkpoint:
 * place (2 bytes), bytes to leave out, bytes to put in, those. */
#include "tests/fuzz/fuzz.h"

static const char *const names[2] = { "t1", "t2" };

static bmvp_ctx *context(const bmvp_allocator *a)
{
    bmvp_config k = bmvp_config_default();
    bmvp_ctx *c;
    if (a) k.allocator = *a;
    k.threads = 1;
    c = bmvp_create(&k, NULL);
    FUZZ_CHECK(c != NULL);
    return c;
}

static bmvp_net_config small(bmvp_net_task task, int in, int out)
{
    bmvp_net_config k;
    int i;
    FUZZ_CHECK(bmvp_net_preset("uniformer_tiny", &k));
    for (i = 0; i < 4; ++i) {
        k.dim[i] = i < 2 ? 2 : 4;
        k.depth[i] = 1;
    }
    k.head_dim = 2;
    k.mlp_ratio = 1;
    k.task = task;
    k.in_channels = in;
    k.outputs = out;
    strcpy(k.name, "custom");
    return k;
}

static bmvp_ssl *pretraining(bmvp_ctx *c)
{
    const bmvp_net_config n = small(BMVP_TASK_PRETRAIN, 1, 0);
    const int64_t grid[3] = { 4, 4, 4 };
    bmvp_ssl_config s;
    bmvp_ssl *made;
    FUZZ_CHECK(bmvp_ssl_preset("fast", &s));
    s.crop = 16;
    made = bmvp_ssl_create(c, &n, &s, 2, names, grid);
    FUZZ_CHECK(made != NULL);
    return made;
}

static bmvp_ft *finetuning(bmvp_ctx *c)
{
    const bmvp_net_config n = small(BMVP_TASK_SEGMENT, 2, 3);
    const int64_t grid[3] = { 4, 4, 4 };
    bmvp_ft_config s;
    bmvp_labels l;
    bmvp_ft *made;
    FUZZ_CHECK(bmvp_labels_builtin("phantom", &l));
    FUZZ_CHECK(bmvp_ft_preset("fast", BMVP_TASK_SEGMENT, "uniformer", &s));
    s.crop_x = s.crop_y = s.crop_z = 16;
    s.batch = 1;
    made = bmvp_ft_create(c, &n, &s, &l, 2, names, grid);
    FUZZ_CHECK(made != NULL);
    return made;
}

/* A true checkpoint, made once: a safetensors file */
static const fuzz_bytes *genuine(int fine)
{
    static fuzz_bytes made[2];
    if (!made[fine].n) {
        bmvp_ctx *c = context(NULL);
        bmvp_bytes b;
        bmvp_error e;
        char path[64];
        snprintf(path, sizeof path, "/tmp/bmvp_fuzz_%ld.safetensors", (long)getpid());
        if (fine) {
            bmvp_ft *f = finetuning(c);
            FUZZ_CHECK(bmvp_ft_save(f, path, 1, NULL, &e) == BMVP_OK);
            bmvp_ft_destroy(f);
        } else {
            bmvp_ssl *s = pretraining(c);
            FUZZ_CHECK(bmvp_ssl_save(s, path, NULL, &e) == BMVP_OK);
            bmvp_ssl_destroy(s);
        }
        bmvp_destroy(c);
        bmvp_bytes_init(&b, NULL);
        FUZZ_CHECK(bmvp_file_read(path, (size_t)1 << 28, &b, &e) == BMVP_OK);
        fuzz_put(&made[fine], b.data, b.len);
        bmvp_bytes_free(&b);
        unlink(path);
    }
    return &made[fine];
}

static void edit(fuzz_bytes *out, const fuzz_bytes *from, const uint8_t *p, size_t n)
{
    fuzz_bytes head;
    size_t length = 0;
    int i;
    memset(&head, 0, sizeof head);
    for (i = 7; i >= 0; --i) length = length << 8 | from->data[i];
    fuzz_put(&head, from->data + 8, length);
    while (n >= 4 && head.n > 0) {
        const size_t at = ((size_t)p[0] << 8 | p[1]) % head.n, rest = head.n - at, less = p[2] < rest ? p[2] : rest;
        const size_t more = p[3] < n - 4 ? p[3] : n - 4;
        fuzz_bytes next;
        memset(&next, 0, sizeof next);
        fuzz_put(&next, head.data, at);
        fuzz_put(&next, p + 4, more);
        fuzz_put(&next, head.data + at + less, rest - less);
        free(head.data);
        head = next;
        p += 4 + more;
        n -= 4 + more;
    }
    fuzz_number(out, head.n, 8);
    fuzz_put(out, head.data, head.n);
    fuzz_put(out, from->data + 8 + length, from->n - 8 - length);
    free(head.data);
}

static void into_trainers(const char *path, const bmvp_allocator *a)
{
    bmvp_ctx *c = context(a);
    bmvp_ft_info info;
    bmvp_error e;
    bmvp_ssl *s;
    bmvp_ft *f = bmvp_ft_open(c, path, &info, &e);
    bmvp_status st;
    if (f) bmvp_ft_destroy(f);
    else fuzz_refused(e.status, &e);
    s = pretraining(c);
    if ((st = bmvp_ssl_load(s, path, &e)) != BMVP_OK) fuzz_refused(st, &e);
    bmvp_ssl_destroy(s);
    f = finetuning(c);
    if ((st = bmvp_ft_load(f, path, 1, &e)) != BMVP_OK) {
        fuzz_refused(st, &e);
        st = bmvp_ft_init(f, path, 1, NULL, &e);
        if (st) fuzz_refused(st, &e);
    }
    bmvp_ft_destroy(f);
    bmvp_destroy(c);
}

static void into_networks(bmvp_ckpt *k, const bmvp_allocator *a)
{
    static const bmvp_net_task task[3] = { BMVP_TASK_PRETRAIN, BMVP_TASK_SEGMENT, BMVP_TASK_CLASSIFY };
    unsigned char how[1024];
    bmvp_net_adoption what;
    bmvp_error e;
    int i;
    for (i = 0; i < 3; ++i) {
        const bmvp_net_config n = small(task[i], 2 + (i > 0), 2);
        bmvp_ctx *c = context(a);
        bmvp_net *net = bmvp_net_create(c, &n);
        bmvp_status s;
        FUZZ_CHECK(net && bmvp_net_state(net)->n <= 1024);
        what.how = how;
        if ((s = bmvp_net_adopt(net, k, i & 1, &what, &e)) != BMVP_OK) fuzz_refused(s, &e);
        bmvp_net_destroy(net);
        bmvp_destroy(c);
    }
}

int FUZZ_ONE(const uint8_t *data, size_t n)
{
    fuzz_bytes file;
    fuzz_memory m;
    bmvp_allocator a;
    bmvp_ckpt *k = NULL;
    bmvp_error e;
    const char *path;
    if (n < 1) return 0;
    memset(&file, 0, sizeof file);
    if (data[0] & 2) fuzz_put(&file, data + 1, n - 1);
    else edit(&file, genuine(data[0] & 1), data + 1, n - 1);
    path = fuzz_file(file.data, file.n);
    a = fuzz_begin(&m, file.n);
    if (bmvp_ckpt_open(path, &a, &k, &e) == BMVP_OK) {
        into_networks(k, &a);
        bmvp_ckpt_close(k);
        into_trainers(path, &a);
    }
    fuzz_end(&m);
    free(file.data);
    return 0;
}
