/* test_hostile.c - checkpoints of bmvp_nn.h that are cut, changed or made to do harm: pickles that run code, bombs,
 * headers that lie. */
#define _DEFAULT_SOURCE /* truncate */
#include "tests/support/files.h"

#include <fcntl.h>

/* >>damage -------------------------------------------------------------------------------------------------------- */

static void test_truncated(void)
{
    static const char *const path[5] = { FIXTURE("plain.safetensors"), FIXTURE("plain_p3.pt"), FIXTURE("legacy.pt"),
                                         "all.safetensors", "all.pt" };
    int f;
    for (f = 0; f < 5; f++) {
        size_t n, k;
        char *data = slurp(f < 3 ? path[f] : place(path[f]), &n);
        uint64_t sum = 0;
        int survived = 0;
        if (!CHECK(data != NULL)) continue;
        CHECK(bmvp_file_write(place("cut"), data, n, NULL, NULL) == BMVP_OK);
        CHECK(read_everything(place("cut"), NULL, &sum) == BMVP_OK);
        for (k = n; k-- > 0;) {
            if (!CHECK(truncate(place("cut"), (off_t)k) == 0)) break;
            survived += read_everything(place("cut"), NULL, &sum) == BMVP_OK;
        }
        check_report(survived == 0, __FILE__, __LINE__, "%d cut versions of %s were accepted", survived, path[f]);
        free(data);
    }
    unlink(place("cut"));
}

/* Each byte is changed in turn. PyTorch's zip files have checksums: what still opens gives the same values. */
static void test_changed_bytes(void)
{
    static const char *const path[4] = { FIXTURE("plain_p4.pt"), FIXTURE("plain.safetensors"), FIXTURE("legacy.pt"),
                                         "all.pt" };
    int f;
    for (f = 0; f < 4; f++) {
        size_t n, k;
        char *data = slurp(f < 3 ? path[f] : place(path[f]), &n);
        const int fd = open(place("bad"), O_RDWR | O_CREAT | O_TRUNC, 0666);
        uint64_t good = 0;
        int other = 0;
        if (!CHECK(data && fd >= 0 && write(fd, data, n) == (ssize_t)n)) return;
        CHECK(read_everything(place("bad"), NULL, &good) == BMVP_OK);
        for (k = 0; k < n; k++) {
            uint64_t sum = 0;
            const char c = (char)(data[k] ^ (char)(1u << dice() % 8));
            if (!CHECK(pwrite(fd, &c, 1, (off_t)k) == 1)) break;
            if (read_everything(place("bad"), NULL, &sum) == BMVP_OK && sum != good) other++;
            if (!CHECK(pwrite(fd, &data[k], 1, (off_t)k) == 1)) break;
        }
        check_report(f == 1 || f == 2 || other == 0, __FILE__, __LINE__, "%d changed versions of %s gave other values",
                     other, path[f]);
        close(fd);
        free(data);
    }
    unlink(place("bad"));
}

static void pickle_fails(const char *pickle, size_t n, bmvp_status s, const char *part)
{
    CHECK(inside_write_pickle(place("pickle.pt"), pickle, n));
    opens_not(place("pickle.pt"), s, part);
}

#define PICKLE_FAILS(text, s, part) pickle_fails(text, sizeof text - 1, s, part)
#define STORAGE "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\20tQ"
#define TENSOR "ctorch._utils\n_rebuild_tensor_v2\n" STORAGE
#define TAIL "\x89" "ccollections\nOrderedDict\n)RtR."

static void test_hostile_pickles(void)
{
    bmvp_ckpt *c;
    CHECK(inside_write_pickle(place("pickle.pt"), "\x80\2" TENSOR "K\0K\4K\4\x86K\4K\1\x86" TAIL,
                              sizeof "\x80\2" TENSOR "K\0K\4K\4\x86K\4K\1\x86" TAIL - 1));
    c = open_fixture(place("pickle.pt")); /* the frame of the tests below is right */
    CHECK(c && c->n_entries == 1 && c->entry[0].numel == 16);
    bmvp_ckpt_close(c);
    PICKLE_FAILS("\x80\2cos\nsystem\nX\2\0\0\0ls\x85R.", BMVP_E_FORMAT, "os.system refused");
    PICKLE_FAILS("\x80\4\x8c\2os\x8c\6system\x93\x8c\2ls\x85R.", BMVP_E_FORMAT, "os.system refused");
    PICKLE_FAILS("\x80\2cbuiltins\neval\nX\1\0\0\0" "1\x85R.", BMVP_E_FORMAT, "builtins.eval refused");
    PICKLE_FAILS("\x80\2cbuiltins\ngetattr\n)R.", BMVP_E_FORMAT, "builtins.getattr refused");
    PICKLE_FAILS("\x80\2ctorch.storage\n_load_from_bytes\n)R.", BMVP_E_FORMAT,
                 "torch.storage._load_from_bytes refused");
    PICKLE_FAILS("\x80\2ctorch\nload\n)R.", BMVP_E_FORMAT, "torch.load refused");
    PICKLE_FAILS("\x80\2c\x1b[31m\nx\n)R.", BMVP_E_FORMAT, "?[31m.x refused");
    PICKLE_FAILS("\x80\2(S'ls'\nios\nsystem\n.", BMVP_E_FORMAT, "0x53 is an opcode that torch.save never writes");
    PICKLE_FAILS("\x80\2)\x81.", BMVP_E_FORMAT, "takes from an empty stack");
    PICKLE_FAILS("\x80\2X\4\0\0\0text)R.", BMVP_E_FORMAT, "calls what is no function");
    PICKLE_FAILS("\x80\2ccollections\nOrderedDict\nX\1\0\0\0aR.", BMVP_E_FORMAT, "calls what is no function");
}

/* What torch.load(weights_only=True) reads beside tensors does no harm: sets in both spellings, numbers that JSON
   lacks, keys that are no text, bytes, parameters with attributes. One tensor w stands between them. */
static void test_harmless_pickles(void)
{
#define ARGUMENTS STORAGE "K\0K\4K\4\x86K\4K\1\x86\x89Nt"
    static const struct { const char *text; size_t n;
    } odd[] = {
#define ODD(text) { text, sizeof text - 1 }
        ODD("X\1\0\0\0s"
            "c__builtin__\nset\n](K\1K\2e\x85R"),
        ODD("X\1\0\0\0s"
            "cbuiltins\nset\n]\x85R"),
        ODD("X\1\0\0\0s"
            "\x8f(K\1K\2\x90"),
        ODD("X\1\0\0\0s"
            "c__builtin__\ncomplex\nK\1K\2\x86R"),
        ODD("X\1\0\0\0s"
            "c__builtin__\nbytearray\nX\1\0\0\0aX\6\0\0\0latin1\x86R"),
        ODD("NK\1"),
        ODD("\x88K\1"),
        ODD("K\1K\2\x86K\1"),
        ODD("U\1sK\1"),
        ODD("X\1\0\0\0s"
            "ctorch._utils\n_rebuild_parameter_with_state\n(ctorch._utils\n_rebuild_tensor_v2\n" ARGUMENTS "R\x89N}tR"),
        ODD("X\1\0\0\0s"
            "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n" ARGUMENTS
            "}tR"),
    };
    size_t i;
    for (i = 0; i < sizeof odd / sizeof *odd; ++i) {
        char text[600] = "\x80\2}(X\1\0\0\0w", *p = text;
        static const char w[] = "\x80\2}(X\1\0\0\0w" "ctorch._utils\n_rebuild_tensor_v2\n" ARGUMENTS "R";
        bmvp_ckpt *c;
        float x;
        memcpy(p, w, sizeof w - 1);
        p += sizeof w - 1;
        memcpy(p, odd[i].text, odd[i].n);
        p += odd[i].n;
        memcpy(p, "u.", 2);
        CHECK(inside_write_pickle(place("pickle.pt"), text, (size_t)(p + 2 - text)));
        if ((c = open_fixture(place("pickle.pt"))) == NULL) continue;
        check_report(c->n_entries == (i < 9 ? 1 : 2), __FILE__, __LINE__, "file %d has %d tensors", (int)i,
                     c->n_entries);
        CHECK(bmvp_ckpt_load_f32(c, find(c, "", "w"), 3, 1, &x, NULL) == BMVP_OK);
        bmvp_ckpt_close(c);
    }
    PICKLE_FAILS("c__builtin__\nset\nK\1\x85R.", BMVP_E_FORMAT, "makes a set of no list");
    PICKLE_FAILS("ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\nN)Nt.", BMVP_E_FORMAT,
                 "posix.system refused");
    PICKLE_FAILS("ctorch._tensor\n_rebuild_from_type_v2\n(c__builtin__\nset\nN)NtR.", BMVP_E_FORMAT,
                 "makes a tensor in an unknown way");
    PICKLE_FAILS("}(K\1\x90.", BMVP_E_FORMAT, "cannot take them");
#undef ODD
#undef ARGUMENTS
}

static void test_broken_pickles(void)
{
    PICKLE_FAILS("\x80\6N.", BMVP_E_FORMAT, "protocol above 5");
    PICKLE_FAILS("\x80\2", BMVP_E_FORMAT, "ends in the middle");
    PICKLE_FAILS("", BMVP_E_FORMAT, "ends in the middle");
    PICKLE_FAILS(".", BMVP_E_FORMAT, "takes from an empty stack");
    PICKLE_FAILS("(.", BMVP_E_FORMAT, "takes from an empty stack");
    PICKLE_FAILS("X\xff\xff\xff\xff" "a.", BMVP_E_FORMAT, "ends in the middle");
    PICKLE_FAILS("\x8d\xff\xff\xff\xff\xff\xff\xff\xff" "a.", BMVP_E_FORMAT, "ends in the middle");
    PICKLE_FAILS("X\1\0\0\0\xff.", BMVP_E_FORMAT, "not UTF-8");
    PICKLE_FAILS("Nr\xff\xff\xff\xff.", BMVP_E_FORMAT, "under a number too high");
    PICKLE_FAILS("q\0.", BMVP_E_FORMAT, "remembers nothing");
    PICKLE_FAILS("h\0.", BMVP_E_FORMAT, "never remembered");
    PICKLE_FAILS("Nq\2h\1.", BMVP_E_FORMAT, "never remembered");
    PICKLE_FAILS("NNs.", BMVP_E_FORMAT, "adds to nothing");
    PICKLE_FAILS("]NNs.", BMVP_E_FORMAT, "cannot take them");
    PICKLE_FAILS("}(Nu.", BMVP_E_FORMAT, "cannot take them");
    PICKLE_FAILS("N\x87.", BMVP_E_FORMAT, "takes from an empty stack");
    PICKLE_FAILS("t.", BMVP_E_FORMAT, "misses a mark");
    PICKLE_FAILS("(e.", BMVP_E_FORMAT, "adds to nothing");
    PICKLE_FAILS("N}b.", BMVP_E_FORMAT, "state of an unknown object");
    PICKLE_FAILS(TENSOR "K\0K\4K\5\x86K\5K\1\x86" TAIL, BMVP_E_FORMAT, "reaches out of its storage");
    PICKLE_FAILS(TENSOR "K\1K\4K\4\x86K\4K\1\x86" TAIL, BMVP_E_FORMAT, "reaches out of its storage");
    PICKLE_FAILS(TENSOR "J\xff\xff\xff\xffK\4\x85K\1\x85" TAIL, BMVP_E_FORMAT, "impossible strides");
    PICKLE_FAILS(TENSOR "K\0K\2\x85J\xff\xff\xff\xff\x85" TAIL, BMVP_E_FORMAT, "impossible strides");
    PICKLE_FAILS(TENSOR "K\0J\xff\xff\xff\xff\x85K\1\x85" TAIL, BMVP_E_FORMAT, "impossible size");
    PICKLE_FAILS(TENSOR "K\0(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft(K\0K\0K\0t" TAIL, BMVP_E_FORMAT,
                 "impossible size");
    PICKLE_FAILS(TENSOR "K\0K\2\x85\x8a\10\xff\xff\xff\xff\xff\xff\xff\x7f\x85" TAIL, BMVP_E_FORMAT,
                 "reaches out of its storage");
    PICKLE_FAILS(TENSOR "K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t(K\1K\1K\1K\1K\1K\1K\1K\1K\1t" TAIL, BMVP_E_UNSUPPORTED,
                 "more than 8 dimensions");
    PICKLE_FAILS(TENSOR "K\0K\4\x85K\1K\1\x86" TAIL, BMVP_E_FORMAT, "in an unknown way");
    PICKLE_FAILS("((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                 "1X\3\0\0\0cpuK\20tQ.",
                 BMVP_E_FORMAT, "archive/data/1 is missing");
    PICKLE_FAILS("((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                 "0X\3\0\0\0cpuK\21tQ.",
                 BMVP_E_FORMAT, "another size than data.pkl says");
    PICKLE_FAILS("X\1\0\0\0" "0Q.", BMVP_E_FORMAT, "in an unknown way");
    unlink(place("pickle.pt"));
}

static void test_pickle_bombs(void)
{
    char deep[5000];
    size_t i, n;
    /* nested too deep; the same list a billion times; a list in itself */
    for (n = 0; n < 4000; n++) deep[n] = ']';
    for (; n < 4999; n++) deep[n] = 'a';
    deep[n] = '.';
    memmove(deep + 1000, deep + 4000, 1000);
    pickle_fails(deep, 2000, BMVP_E_FORMAT, "nested too deep or shared too often");
    for (n = 0, deep[n++] = ']'; n < 160; n += 5) { /* q i, h i, h i, tuple2 ... */
        const char step[5] = { 'q', (char)(n / 5), 'h', (char)(n / 5), (char)0x86 };
        memcpy(deep + n, step, 5);
    }
    deep[n++] = '.';
    pickle_fails(deep, n, BMVP_E_FORMAT, "nested too deep or shared too often");
    PICKLE_FAILS("]q\0h\0a.", BMVP_E_FORMAT, "nested too deep or shared too often");
    PICKLE_FAILS("}q\0X\1\0\0\0ah\0s.", BMVP_E_FORMAT, "nested too deep or shared too often");
    for (i = n = 0; i < 1200; i++) deep[n++] = '(';
    deep[n++] = '.';
    pickle_fails(deep, n, BMVP_E_FORMAT, "takes from an empty stack");
    unlink(place("pickle.pt"));
}

/* Few bytes that stand for many: a dict of 10000 tensors, 100 times; one number as a tensor of 4 TB; but a few repeated
   numbers are what expand makes. */
static void test_pickle_sharing(void)
{
    static const char w[] = "\x80\2}(X\1\0\0\0q}(X\4\0\0\0name" TENSOR "K\0K\4\x85K\1\x85" TAIL;
    enum { INNER = 10000, OUTER = 100 };
    char *text = (char *)malloc(sizeof w + (INNER + OUTER) * 12 + 16), *p = text + sizeof w - 2; /* without the '.' */
    int i;
    memcpy(text, w, sizeof w);
    memcpy(p, "q\2", 2), p += 2;
    for (i = 0; i < INNER + OUTER; ++i) {
        if (i == INNER) memcpy(p, "uq\3", 3), p += 3;
        p += sprintf(p, "X\4%c%c%c%04x", 0, 0, 0, (unsigned)i);
        memcpy(p, i < INNER ? "h\2" : "h\3", 2), p += 2;
    }
    memcpy(p, "u.", 2);
    pickle_fails(text, (size_t)(p + 2 - text), BMVP_E_FORMAT, "more than fits in 16 times its size");
    free(text);
    PICKLE_FAILS(TENSOR "K\0\x8a\6\0\0\0\0\0\1\x85K\0\x85" TAIL, BMVP_E_UNSUPPORTED, "repeats a smaller storage");
    CHECK(inside_write_pickle(place("pickle.pt"), TENSOR "K\0M\0\1\x85K\0\x85" TAIL,
                              sizeof TENSOR "K\0M\0\1\x85K\0\x85" TAIL - 1));
    bmvp_ckpt_close(open_fixture(place("pickle.pt")));
    unlink(place("pickle.pt"));
}

/* The real pickle with bytes changed, checksums right: the unpickler itself meets the damage. */
static void test_pickle_fuzz(void)
{
    size_t n;
    char *file = slurp(FIXTURE("release.pt"), &n), *pickle;
    const char *start = NULL, *end = NULL;
    size_t k, m;
    int i, fine = 0, refused = 0;
    for (k = 0; file && k + 9 < n && !start; k++)
        if (!memcmp(file + k, "\x80\2}q", 4)) start = file + k;
    for (; file && k + 4 < n && !end; k++)
        if (!memcmp(file + k, "u.PK", 4)) end = file + k + 2;
    if (!CHECK(start && end)) { free(file); return; }
    m = (size_t)(end - start);
    pickle = (char *)malloc(m);
    for (i = 0; i < 6000; i++) {
        uint64_t sum = 0;
        bmvp_status s;
        int changes = (int)(dice() % 3);
        memcpy(pickle, start, m);
        for (; changes >= 0; changes--) {
            k = dice() % m;
            if (dice() % 2) pickle[k] = (char)dice();
            else memmove(pickle + k, start + dice() % m / 2, dice() % 2 ? 1 : (m - k < 4 ? m - k : 4));
        }
        CHECK(inside_write_pickle(place("fuzz.pt"), pickle, dice() % 8 ? m : dice() % m));
        s = read_everything(place("fuzz.pt"), NULL, &sum);
        fine += s == BMVP_OK;
        refused += s == BMVP_E_FORMAT || s == BMVP_E_UNSUPPORTED;
    }
    CHECK(fine + refused == 6000 && refused > 1000);
    free(pickle);
    free(file);
    unlink(place("fuzz.pt"));
}

/* The length of a safetensors header, little-endian. */
static void put_length(char *file, uint64_t n)
{
    int i;
    for (i = 0; i < 8; ++i) file[i] = (char)(n >> 8 * i & 255);
}

static void header_fails(const char *header, int64_t data, bmvp_status s, const char *part)
{
    char file[2000];
    const size_t n = strlen(header);
    memset(file, 0, sizeof file);
    put_length(file, n);
    memcpy(file + 8, header, n);
    bmvp_file_write(place("st"), file, 8 + n + (size_t)data, NULL, NULL);
    opens_not(place("st"), s, part);
}

static void test_hostile_safetensors(void)
{
    char file[64];
    bmvp_status s;
    bmvp_ckpt *c;
    header_fails("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, BMVP_E_UNSUPPORTED,
                 "'a' has the dtype 'F8_E4M3'");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, BMVP_E_FORMAT,
                 "not of its size");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, BMVP_E_FORMAT,
                 "a hole comes before it");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, BMVP_E_FORMAT,
                 "4 bytes after the last tensor");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":["
                 "1],\"data_offsets\":[0,4]}}",
                 4, BMVP_E_FORMAT, "overlaps another one");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":["
                 "1],\"data_offsets\":[4,8]}}",
                 8, BMVP_E_FORMAT, "key 'a' comes twice");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, BMVP_E_FORMAT,
                 "data_offsets outside");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, BMVP_E_FORMAT,
                 "impossible shape");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,4]}}", 4,
                 BMVP_E_FORMAT, "impossible shape");
    header_fails(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4611686018427387904,4611686018427387904],\"data_offsets\":[0,0]}}", 0,
        BMVP_E_FORMAT, "impossible shape");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, BMVP_E_FORMAT,
                 "impossible shape");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
                 BMVP_E_UNSUPPORTED, "more than 8 dimensions");
    header_fails("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, BMVP_E_FORMAT, "lacks shape or data_offsets");
    header_fails("{\"a\":1}", 4, BMVP_E_UNSUPPORTED, "'a' has the dtype ''");
    header_fails("{\"__metadata__\":{\"a\":1}}", 0, BMVP_E_FORMAT, "__metadata__ holds more than strings");
    header_fails("{\"__metadata__\":{\"bmvp\":\"{\"}}", 0, BMVP_E_FORMAT, "expected a key");
    header_fails("{\"a\":", 4, BMVP_E_FORMAT, "header:1:6: expected a value");
    header_fails("{} {}", 4, BMVP_E_FORMAT, "expected nothing more");
    memset(file, ' ', sizeof file);
    file[8] = '{', file[9] = '}';
    put_length(file, (uint64_t)INT64_MAX);
    bmvp_file_write(place("st"), file, sizeof file, NULL, NULL);
    opens_not(place("st"), BMVP_E_FORMAT, "shorter than its header says");
    put_length(file, sizeof file - 8);
    bmvp_file_write(place("st"), file, sizeof file, NULL, NULL);
    s = bmvp_ckpt_open(place("st"), NULL, &c, NULL);
    CHECK(s == BMVP_OK && c->n_entries == 0);
    bmvp_ckpt_close(c);
    unlink(place("st"));
}

/* >>networks ------------------------------------------------------------------------------------------------------ */

/* A file with two stems, one of a channel, by which the network is known, and one of 64 under the name that the network
   looks for first: its values do not fit, and must not be read. */
static void test_two_stems(void)
{
    static const char *const stem = "encoder.uniformer.patch_embed1.proj.weight";
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config k;
    bmvp_net *net;
    const bmvp_state_list *l;
    bmvp_ckpt_writer *w;
    bmvp_ckpt *f = NULL;
    bmvp_error err;
    char *zeros = (char *)calloc(1, 1 << 22), name[200];
    int64_t dim[8];
    int i, pass, at = 0;
    CHECK(zeros && bmvp_net_preset("uniformer_tiny", &k));
    k.in_channels = 4;
    net = bmvp_net_create(c, &k);
    l = bmvp_net_state(net);
    while (strcmp(l->item[at].name, stem) != 0) ++at;
    CHECK(bmvp_ckpt_writer_begin(place("stems"), BMVP_CKPT_SAFETENSORS, NULL, &w, &err) == BMVP_OK);
    for (pass = 0; pass < 2; ++pass) /* names and shapes, then data */
        for (i = -1; i < l->n; ++i) {
            const bmvp_state *s = &l->item[i < 0 ? at : i];
            const int other = i >= 0 && strncmp(s->name, "encoder.uniformer.", 18) == 0;
            int64_t n = 4;
            int a;
            for (a = 0; a < s->torch_rank; ++a) n *= dim[a] = s->torch_dim[a];
            if (strcmp(s->name, stem) == 0) n = n / 4 * (dim[1] = i < 0 ? 64 : 1);
            snprintf(name, sizeof name, "%s%s", other ? "encoder." : "", other ? s->name + 18 : s->name);
            if (pass == 0) bmvp_ckpt_writer_add(w, "state_dict", name, BMVP_DTYPE_F32, s->torch_rank, dim, NULL);
            else CHECK(n <= 1 << 22 && bmvp_ckpt_writer_data(w, zeros, n, NULL) == BMVP_OK);
        }
    CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK && bmvp_ckpt_open(place("stems"), NULL, &f, &err) == BMVP_OK);
    if (f) {
        CHECK(bmvp_net_adopt(net, f, 1, NULL, &err) == BMVP_E_SHAPE);
        CHECK_HOLDS(err.message, "patch_embed1.proj.weight");
    }
    bmvp_ckpt_close(f);
    unlink(place("stems"));
    free(zeros);
    bmvp_net_destroy(net);
    bmvp_destroy(c);
}

/* Weights and statistics of a run that diverged are refused by the tensor's name, wherever the number is and whoever
   reads them. */
static void test_diverged(void)
{
    static const struct { const char *name, *told; double value; } bad[4] = {
        { "weight", "nan: the run that wrote it", 0 }, { "bias", "holds -inf: the run", -HUGE_VAL },
        { "running_mean", "holds inf: the run", HUGE_VAL }, { "running_var", "holds -1: the run", -1 } };
    bmvp_ctx *c = bmvp_create(NULL, NULL);
    bmvp_net_config k;
    bmvp_state_part part;
    bmvp_error err;
    bmvp_net *net;
    int i, e = 0;
    memset(&part, 0, sizeof part);
    CHECK(bmvp_net_preset("uniformer_tiny", &k));
    net = bmvp_net_create(c, &k);
    bmvp_net_init(net, 3);
    part.c = c, part.list = bmvp_net_state(net);
    for (i = 0; i < 4; ++i) {
        const bmvp_state *s;
        bmvp_ckpt_writer *w;
        bmvp_ckpt *f = NULL;
        float *x, was;
        while (e < part.list->n && !strstr(part.list->item[e].name, bad[i].name)) ++e;
        if (!CHECK(e < part.list->n)) break;
        s = &part.list->item[e];
        x = &s->t->x[i ? s->t->numel - 1 : 0], was = *x;
        *x = (float)(i ? bad[i].value : HUGE_VAL - HUGE_VAL);
        CHECK(bmvp_ckpt_writer_begin(place("st"), BMVP_CKPT_SAFETENSORS, NULL, &w, &err) == BMVP_OK);
        CHECK(!bmvp_state_declare(w, "state_dict", &part, &err) && !bmvp_state_data(w, &part, &err));
        CHECK(bmvp_ckpt_writer_finish(w, &err) == BMVP_OK && bmvp_ckpt_open(place("st"), NULL, &f, &err) == BMVP_OK);
        CHECK(bmvp_state_load(f, "state_dict", &part, &err) == BMVP_E_FORMAT);
        CHECK_HOLDS(err.message, s->name);
        CHECK_HOLDS(err.message, bad[i].told);
        memset(err.message, 0, sizeof err.message);
        CHECK(bmvp_net_adopt(net, f, 1, NULL, &err) == BMVP_E_FORMAT);
        CHECK_HOLDS(err.message, "has diverged");
        bmvp_ckpt_close(f);
        *x = was;
    }
    unlink(place("st"));
    bmvp_net_destroy(net);
    bmvp_destroy(c);
}

int main(int argc, char **argv)
{
    static const char *const left[] = { "all.pt", "all.safetensors" };
    bmvp_error err;
    check_begin(argc, argv);
    if (!files_begin("hostile")) return 1;
    write_all(place("all.safetensors"), BMVP_CKPT_SAFETENSORS, 0, 0, NULL, &err);
    write_all(place("all.pt"), BMVP_CKPT_PT, 0, 0, NULL, &err);
    CHECK_RUN(test_truncated);
    CHECK_RUN(test_changed_bytes);
    CHECK_RUN(test_hostile_pickles);
    CHECK_RUN(test_harmless_pickles);
    CHECK_RUN(test_broken_pickles);
    CHECK_RUN(test_pickle_bombs);
    CHECK_RUN(test_pickle_sharing);
    CHECK_RUN(test_pickle_fuzz);
    CHECK_RUN(test_hostile_safetensors);
    CHECK_RUN(test_two_stems);
    CHECK_RUN(test_diverged);
    files_end(left, sizeof left / sizeof *left);
    return check_end();
}
