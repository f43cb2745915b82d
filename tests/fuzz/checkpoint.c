/* checkpoint.c - fuzzing of checkpoint files. The first byte: 0, the rest is the file; 1, it is data.pkl, and a
 * zip file with right CRCs and a few storages is made around it; 2, it is the header of a safetensors file, its
 * length put right, with 4096 bytes of data; any other is a part of the file. Everything that opens is read as
 * a program reads it. */
#include "tests/fuzz/fuzz.h"

typedef struct zip {
    fuzz_bytes file, directory;
    int count;
} zip;

static void add_record(zip *z, const char *name, const uint8_t *p, size_t n)
{
    const uint32_t crc = fuzz_crc(p, n);
    const size_t at = z->file.n;
    int part;
    for (part = 0; part < 2; ++part) { /* local header and directory say the same */
        fuzz_bytes *b = part ? &z->directory : &z->file;
        fuzz_number(b, part ? 0x02014b50 : 0x04034b50, 4);
        if (part) fuzz_number(b, 20, 2);
        fuzz_number(b, 20, 2);
        fuzz_number(b, 0, 8);
        fuzz_number(b, crc, 4);
        fuzz_number(b, n, 4);
        fuzz_number(b, n, 4);
        fuzz_number(b, strlen(name), 2);
        fuzz_number(b, 0, 2);
        if (part) fuzz_number(b, 0, 8), fuzz_number(b, 0, 2), fuzz_number(b, at, 4);
        fuzz_put(b, name, strlen(name));
        if (!part) fuzz_put(b, p, n);
    }
    ++z->count;
}

static void make_zip(fuzz_bytes *out, const uint8_t *pickle, size_t n)
{
    static uint8_t values[4096];
    zip z;
    size_t at;
    memset(&z, 0, sizeof z);
    add_record(&z, "a/data.pkl", pickle, n);
    add_record(&z, "a/data/0", values, 64);
    add_record(&z, "a/data/1", values, 24);
    add_record(&z, "a/data/2", values, sizeof values);
    add_record(&z, "a/version", (const uint8_t *)"3\n", 2);
    at = z.file.n;
    fuzz_put(&z.file, z.directory.data, z.directory.n);
    fuzz_number(&z.file, 0x06054b50, 4);
    fuzz_number(&z.file, 0, 4);
    fuzz_number(&z.file, (uint64_t)z.count, 2);
    fuzz_number(&z.file, (uint64_t)z.count, 2);
    fuzz_number(&z.file, z.directory.n, 4);
    fuzz_number(&z.file, at, 4);
    fuzz_number(&z.file, 0, 2);
    free(z.directory.data);
    *out = z.file;
}

static void read_entry(bmvp_ckpt *f, int i)
{
    const bmvp_ckpt_entry *t = &f->entry[i];
    bmvp_error e;
    char *bytes;
    float *v;
    FUZZ_CHECK(bmvp_ckpt_find(f, t->group, t->name) >= 0 && t->numel >= 0 && t->bytes >= 0);
    if (t->numel > 100000) return;
    bytes = (char *)malloc((size_t)t->bytes + 1);
    v = (float *)malloc(((size_t)t->numel + 1) * sizeof *v);
    bytes[t->bytes] = 77;
    (void)bmvp_ckpt_load(f, i, bytes, t->bytes, &e);
    FUZZ_CHECK(bytes[t->bytes] == 77);
    (void)bmvp_ckpt_load_f32(f, i, 0, t->numel, v, &e);
    if (t->numel > 3) (void)bmvp_ckpt_load_f32(f, i, t->numel / 3, t->numel - t->numel / 3, v, &e);
    free(bytes);
    free(v);
}

static void read_all(bmvp_ckpt *f)
{
    bmvp_net_config net;
    const char *group;
    bmvp_error e;
    int i;
    for (i = 0; i < f->n_entries && i < 2000; ++i) read_entry(f, i);
    for (i = 0; i < f->n_meta && i < 2000; ++i)
        FUZZ_CHECK(bmvp_ckpt_find_meta(f, f->meta[i].group, f->meta[i].name) != NULL);
    if (bmvp_state_group(f, &group, &e) == BMVP_OK) (void)bmvp_net_infer(f, group, &net, &e);
}

int FUZZ_ONE(const uint8_t *data, size_t n)
{
    static uint8_t values[4096];
    fuzz_bytes file;
    fuzz_memory m;
    bmvp_allocator a;
    bmvp_ckpt *f = NULL;
    bmvp_ssl_info pre;
    bmvp_ft_info fine;
    bmvp_error e;
    bmvp_status s;
    const char *path;
    if (n < 1) return 0;
    memset(&file, 0, sizeof file);
    if (data[0] == 1) make_zip(&file, data + 1, n - 1);
    else if (data[0] == 2) {
        fuzz_number(&file, n - 1, 8);
        fuzz_put(&file, data + 1, n - 1);
        fuzz_put(&file, values, sizeof values);
    } else fuzz_put(&file, data + (data[0] == 0), n - (data[0] == 0));
    path = fuzz_file(file.data, file.n);
    a = fuzz_begin(&m, file.n);
    s = bmvp_ckpt_open(path, &a, &f, &e);
    if (s) {
        fuzz_refused(s, &e);
        FUZZ_CHECK(f == NULL);
    } else {
        read_all(f);
        bmvp_ckpt_close(f);
        (void)bmvp_ssl_inspect(path, &pre, &e);
        (void)bmvp_ft_inspect(path, &fine, &e);
    }
    fuzz_end(&m);
    free(file.data);
    return 0;
}
