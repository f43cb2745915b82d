/* lists.c - fuzzing of lists of cases, as the program reads them: what is read, saved and read again has the
 * same cases and labels. */
#include "tests/fuzz/fuzz.h"
#include "examples/bmvp/data/dataset.h"

int FUZZ_ONE(const uint8_t *data, size_t n)
{
    static char saved[64];
    dataset d, back;
    bmvp_error e;
    int64_t i;
    const double began = fuzz_now();
    const char *path = fuzz_file(data, n);
    if (!saved[0]) snprintf(saved, sizeof saved, "/tmp/bmvp_fuzz_%ld.json", (long)getpid());
    memset(&e, 0, sizeof e);
    fuzz_counted_begin(n);
    if (dataset_load(&d, path, &e)) {
        fuzz_refused(e.status, &e);
        dataset_free(&d);
        fuzz_counted_end();
        return 0;
    }
    FUZZ_CHECK(d.n > 0);
    for (i = 0; i < d.n; ++i) FUZZ_CHECK(d.item[i].id[0] && !strchr(d.item[i].id, '/'));
    if (d.n < 50 && dataset_save(&d, saved, &e) == BMVP_OK) {
        FUZZ_CHECK(dataset_load(&back, saved, &e) == BMVP_OK);
        FUZZ_CHECK(back.n == d.n && back.modalities == d.modalities && back.has_labels == d.has_labels);
        for (i = 0; i < d.n; ++i) FUZZ_CHECK(strcmp(back.item[i].id, d.item[i].id) == 0);
        dataset_free(&back);
        unlink(saved);
    }
    dataset_free(&d);
    fuzz_counted_end();
    FUZZ_CHECK(fuzz_now() - began <= 2 + 1e-6 * (double)n);
    return 0;
}
