/* replay.c - the harnesses on files that are there: the fixtures, and what was found (`make test`; `make fuzz`
 * looks for more). replay HARNESS FILE... */
#include "tests/support/check.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int fuzz_checkpoint(const uint8_t *data, size_t n);
int fuzz_json(const uint8_t *data, size_t n);
int fuzz_nifti(const uint8_t *data, size_t n);
int fuzz_lists(const uint8_t *data, size_t n);
int fuzz_meet(const uint8_t *data, size_t n);
int fuzz_texts(const uint8_t *data, size_t n);
int fuzz_trainers(const uint8_t *data, size_t n);

static const struct {
    const char *name;
    int (*one)(const uint8_t *data, size_t n);
    int mode; /* the first byte says what the others are */
} harness[] = {
    { "checkpoint", fuzz_checkpoint, 1 },
    { "json", fuzz_json, 0 },
    { "nifti", fuzz_nifti, 1 },
    { "lists", fuzz_lists, 0 },
    { "meet", fuzz_meet, 1 },
    { "texts", fuzz_texts, 1 },
    { "trainers", fuzz_trainers, 1 },
};
enum { HARNESSES = sizeof harness / sizeof *harness };

/* The file, behind a first byte for those that have one. */
static void replay(int k, const char *path)
{
    enum { MOST = 1 << 22 };
    FILE *f = fopen(path, "rb");
    uint8_t *data = (uint8_t *)malloc(MOST);
    size_t n;
    int mode;
    if (!CHECK(f && data)) { free(data); return; }
    n = fread(data + 1, 1, MOST - 1, f);
    fclose(f);
    for (mode = 0; mode < (harness[k].mode ? 4 : 1); ++mode) {
        data[0] = (uint8_t)mode;
        CHECK(harness[k].one(data + !harness[k].mode, n + (size_t)harness[k].mode) == 0);
    }
    free(data);
}

static int which, files;
static char **file;
static void test_replay(void)
{
    int i;
    for (i = 0; i < files; ++i) replay(which, file[i]);
}

int main(int argc, char **argv)
{
    check_begin(1, argv);
    for (which = 0; which < HARNESSES && (argc < 3 || strcmp(argv[1], harness[which].name) != 0); ++which) { }
    if (which == HARNESSES) return 2;
    file = argv + 2;
    files = argc - 2;
    CHECK_RUN(test_replay);
    return check_end();
}
