/* alignment.c - see alignment.h */
#define _DEFAULT_SOURCE
#include "alignment.h"
#include "atlas.h"
#include "files.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DOUBTFUL_MM = 1 };

static int is_moved(const bmvp_prepared_images *p, int m)
{
    return p->aligned[m].matrix[15] != 0 && (m != p->reference || p->to_atlas[15] != 0);
}

void alignment_say(const char *id, const bmvp_prepared_images *p, const bmvp_preparation *how)
{
    char text[900];
    const int rigid = how->align == BMVP_ALIGN_RIGID;
    int m, n = 0;
    text[0] = 0;
    for (m = 0; m < BMVP_MODALITIES && how->align; ++m) {
        const bmvp_aligned *a = &p->aligned[m];
        if (!is_moved(p, m) || m == p->reference) continue;
        n += snprintf(text + n, sizeof text - (size_t)n, "; %s", bmvp_modality_name(m));
        if (rigid)
            n += snprintf(text + n, sizeof text - (size_t)n, " turned %.1f degrees, moved %.1f mm, loop %.2f mm",
                          a->turn, a->shift, a->loop);
    }
    if (n == 0) {
        atlas_say(id, p, how);
        return;
    }
    printf("%s: on the grid of %s%s%s\n", id, bmvp_modality_name(p->reference),
           rigid ? "" : " by the headers alone, without looking at the images", text);
    fflush(stdout);
    for (m = 0; m < BMVP_MODALITIES && rigid; ++m)
        if (is_moved(p, m) && p->aligned[m].loop > DOUBTFUL_MM)
            fprintf(stderr,
                    "\nbmvp: case '%s': %s: its loop error is %.1f mm, above %d: look whether it lies on %s\n", id,
                    bmvp_modality_name(m), p->aligned[m].loop, DOUBTFUL_MM, bmvp_modality_name(p->reference));
    atlas_say(id, p, how);
}

static void write_matrix(bmvp_jw *w, const double matrix[16])
{
    int i;
    bmvp_jw_array(w, "matrix");
    for (i = 0; i < 16; ++i) bmvp_jw_double(w, NULL, matrix[i]);
    bmvp_jw_end(w);
}

static void write_image(bmvp_jw *w, const bmvp_prepared_images *p, int m, int rigid)
{
    const bmvp_aligned *a = &p->aligned[m];
    bmvp_jw_object(w, bmvp_modality_name(m));
    write_matrix(w, a->matrix);
    bmvp_jw_double(w, "overlap", a->overlap);
    if (rigid) {
        bmvp_jw_double(w, "nmi", a->nmi);
        bmvp_jw_double(w, "turn_degrees", a->turn);
        bmvp_jw_double(w, "shift_mm", a->shift);
        bmvp_jw_double(w, "loop_mm", a->loop);
    }
    bmvp_jw_end(w);
}

/* NAME.tfm of an image that was moved; of others none is left. */
static bmvp_status write_tfm(const char *dir, const bmvp_prepared_images *p, int m, bmvp_error *err)
{
    char name[32], *path;
    bmvp_status st = BMVP_OK;
    snprintf(name, sizeof name, "%s.tfm", bmvp_modality_name(m));
    path = path_join(dir, name);
    if (!path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (is_moved(p, m)) st = bmvp_nii_matrix_write(path, p->aligned[m].matrix, err);
    else (void)unlink(path);
    free(path);
    return st;
}

bmvp_status alignment_write(const char *dir, const bmvp_prepared_images *p, const bmvp_preparation *how,
                            bmvp_error *err)
{
    char *path = path_join(dir, "transforms.json");
    bmvp_status st;
    bmvp_jw w;
    int m;
    if (!path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    bmvp_jw_init(&w, 1, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_string(&w, "register",
                   how->align == BMVP_ALIGN_RIGID ? "rigid" : how->align == BMVP_ALIGN_HEADER ? "header" : "none");
    bmvp_jw_string(&w, "reference", bmvp_modality_name(p->reference));
    bmvp_jw_string(&w, "direction", how->to ? "template mm to image mm, RAS" : "reference mm to image mm, RAS");
    atlas_write(&w, p, how);
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (p->aligned[m].matrix[15] != 0) write_image(&w, p, m, how->align == BMVP_ALIGN_RIGID);
    bmvp_jw_end(&w);
    st = bmvp_jw_finish(&w, err);
    if (!st) st = bmvp_file_write(path, w.out.data, w.out.len, NULL, err);
    for (m = 0; m < BMVP_MODALITIES && !st; ++m) st = write_tfm(dir, p, m, err);
    bmvp_jw_free(&w);
    free(path);
    return st;
}
