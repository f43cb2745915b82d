/* prepared.c - a prepared data set, see prepared.h */
#include "prepared.h"
#include "bmvp_nifti.h"
#include "files.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int prepared_is_whole(const char *path)
{
    bmvp_nii_image header;
    struct stat s;
    int whole;
    if (stat(path, &s) != 0 || bmvp_nii_read_header(&header, path, NULL, NULL)) return 0;
    whole = (int64_t)s.st_size >= header.vox_offset + header.data_bytes;
    bmvp_nii_image_free(&header);
    return whole;
}

/* Grid of one case; every modality must have it. */
static bmvp_status load_grid(prepared_set *p, int64_t i, bmvp_error *err)
{
    const data_case *k = &p->data.item[i];
    const char *first = NULL;
    bmvp_status st = BMVP_OK;
    bmvp_error e;
    bmvp_nii_file f;
    int m, a;
    for (m = 0; m < p->n_modalities && !st; ++m) {
        const char *path = k->image[p->known[m]];
        if (!path) continue;
        p->cases[i].modalities |= 1u << m;
        if (bmvp_nii_open(&f, path, NULL, &e) != BMVP_OK) {
            st = bmvp_error_set(err, e.status, "%s (case '%s'; training reads what `bmvp prepare` writes)", e.message,
                                k->id);
            break;
        }
        for (a = 0; a < 3; ++a) {
            const int64_t n = f.image.dim[2 - a];
            if (!first) p->cases[i].dim[a] = n;
            else if (p->cases[i].dim[a] != n && !st)
                st = bmvp_error_set(err, BMVP_E_SHAPE,
                                    "case '%s': %s and %s are on different grids (%lld and %lld voxels along %c)",
                                    k->id, first, path, (long long)p->cases[i].dim[a], (long long)n, "zyx"[a]);
        }
        first = path;
        bmvp_nii_close(&f);
    }
    for (a = 0; a < 3 && !st; ++a)
        if (p->cases[i].dim[a] > p->grid[a]) p->grid[a] = p->cases[i].dim[a];
    return st;
}

bmvp_status prepared_load(prepared_set *p, const char *list_or_dir, bmvp_error *err)
{
    bmvp_status st;
    int64_t i;
    int m;
    memset(p, 0, sizeof *p);
    st = dataset_load(&p->data, list_or_dir, err);
    if (st) return st;
    for (m = 0; m < BMVP_MODALITIES; ++m)
        if (p->data.modalities >> m & 1u) {
            p->known[p->n_modalities] = m;
            p->names[p->n_modalities++] = bmvp_modality_name(m);
        }
    p->cases = (bmvp_ssl_case *)calloc((size_t)p->data.n, sizeof *p->cases);
    if (!p->cases) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (i = 0; i < p->data.n && !st; ++i) st = load_grid(p, i, err);
    if (st) prepared_free(p);
    return st;
}

void prepared_free(prepared_set *p)
{
    free(p->cases);
    dataset_free(&p->data);
    memset(p, 0, sizeof *p);
}

static bmvp_status read_box(const char *path, const int64_t start[3], const int64_t size[3], const int64_t grid[3],
                            float *dst, bmvp_error *err)
{
    bmvp_nii_file f;
    bmvp_nii_box box;
    bmvp_status st;
    int a, same = 1;
    for (a = 0; a < 3; ++a) {
        box.start[a] = start[2 - a];
        box.end[a] = start[2 - a] + size[2 - a];
    }
    if ((st = bmvp_nii_open(&f, path, NULL, err)) != BMVP_OK) return st;
    for (a = 0; a < 3; ++a) same = same && f.image.dim[a] == grid[2 - a];
    st = same ? bmvp_nii_read_box(dst, &f, &box, 0, err) : BMVP_OK;
    if (!same)
        st = bmvp_error_set(
            err, BMVP_E_SHAPE,
            "%s has %lldx%lldx%lld voxels, the images of its case %lldx%lldx%lld: both must lie on one grid", path,
            (long long)f.image.dim[0], (long long)f.image.dim[1], (long long)f.image.dim[2], (long long)grid[2],
            (long long)grid[1], (long long)grid[0]);
    bmvp_nii_close(&f);
    return st;
}

bmvp_status prepared_crop(const prepared_set *p, int64_t i, int m, const int64_t start[3], const int64_t size[3],
                          float *dst, bmvp_error *err)
{
    return read_box(p->data.item[i].image[p->known[m]], start, size, p->cases[i].dim, dst, err);
}

bmvp_status prepared_label(const prepared_set *p, int64_t i, const int64_t start[3], const int64_t size[3], float *dst,
                           bmvp_error *err)
{
    const data_case *k = &p->data.item[i];
    if (!k->label) return bmvp_error_set(err, BMVP_E_ARG, "case '%s' has no label", k->id);
    return read_box(k->label, start, size, p->cases[i].dim, dst, err);
}

bmvp_status prepared_settings(const prepared_set *p, char *text, size_t size, bmvp_error *err)
{
    const char *list = p->data.path, *slash = strrchr(list, '/');
    char dir[1024], *path;
    bmvp_status st = BMVP_OK;
    bmvp_bytes content;
    text[0] = 0;
    bmvp_bytes_init(&content, NULL);
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - list) : 1, slash ? list : ".");
    path = path_join(dir, "prepare.json");
    if (!path) st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    else if (file_exists(path)) st = bmvp_file_read(path, (size_t)1 << 20, &content, err);
    if (!st && content.len >= size)
        st = bmvp_error_set(err, BMVP_E_FORMAT, "%s: longer than what `bmvp prepare` writes", path);
    else if (!st && content.data) memcpy(text, content.data, content.len), text[content.len] = 0;
    bmvp_bytes_free(&content);
    free(path);
    return st;
}
