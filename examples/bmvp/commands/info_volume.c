/* info_volume.c - header and voxels of a volume for `bmvp info` */
#include "info_volume.h"
#include <string.h>

enum { DISTINCT = 32 };

/* Sorts x into the values seen so far, at most DISTINCT and one more; returns how many there are. */
static int insert(float *seen, int n, float x)
{
    int lo = 0, hi = n;
    while (lo < hi) {
        const int mid = (lo + hi) / 2;
        if (seen[mid] < x) lo = mid + 1;
        else hi = mid;
    }
    if (n > DISTINCT || (lo < n && seen[lo] == x)) return n;
    memmove(seen + lo + 1, seen + lo, (size_t)(n - lo) * sizeof *seen);
    seen[lo] = x;
    return n + 1;
}

/* Of n finite numbers */
static void describe_numbers(bmvp_jw *w, const float *x, int64_t n)
{
    static const double q[3] = { 1, 50, 99 };
    float p[3], seen[DISTINCT + 2], low = x[0], high = x[0];
    int64_t zeros = 0, i;
    int distinct = 0, k;
    for (i = 0; i < n; ++i) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
        zeros += x[i] == 0;
        if (i == 0 || x[i] != x[i - 1]) distinct = insert(seen, distinct, x[i]);
    }
    bmvp_jw_double(w, "min", low);
    bmvp_jw_double(w, "max", high);
    if (bmvp_nii_percentiles(p, q, 3, x, n, NULL, NULL) == BMVP_OK) {
        bmvp_jw_array(w, "percentiles_1_50_99");
        for (k = 0; k < 3; ++k) bmvp_jw_double(w, NULL, p[k]);
        bmvp_jw_end(w);
    }
    bmvp_jw_double(w, "zeros_percent", 100.0 * (double)zeros / (double)n);
    if (distinct > DISTINCT) {
        bmvp_jw_string(w, "distinct_values", "more than 32");
        return;
    }
    bmvp_jw_array(w, "distinct_values"); /* few: a label map, most likely */
    for (k = 0; k < distinct; ++k) bmvp_jw_double(w, NULL, seen[k]);
    bmvp_jw_end(w);
}

static void describe_values(bmvp_jw *w, const char *path, const bmvp_nii_image *m)
{
    bmvp_nii_load how = { 0 };
    bmvp_nii_volume v;
    bmvp_error err;
    int64_t n, i, finite = 0;
    how.first = 1;
    how.keep_affine = 1;
    if (bmvp_nii_read_volume(&v, path, &how, NULL, &err) != BMVP_OK) {
        bmvp_jw_string(w, "voxels", err.message);
        return;
    }
    n = v.dim[0] * v.dim[1] * v.dim[2];
    bmvp_jw_object(w, "voxels");
    bmvp_jw_int(w, "number", n);
    if (m->n_voxels > n) bmvp_jw_int(w, "first_of_volumes", m->n_voxels / n);
    bmvp_jw_int(w, "nan", v.n_nan);
    bmvp_jw_int(w, "inf", v.n_inf);
    for (i = 0; i < n; ++i)
        if (v.data[i] - v.data[i] == 0) v.data[finite++] = v.data[i];
    if (finite > 0) describe_numbers(w, v.data, finite);
    bmvp_jw_end(w);
    bmvp_nii_volume_free(&v);
}

void info_volume(bmvp_jw *w, const char *path, const bmvp_nii_image *m)
{
    static const char *const source[] = { "", "sform", "qform", "none (both codes 0)",
                                          "qform (the sform is singular or does not fit the voxel size)" };
    double affine[16];
    char codes[4];
    const int from = (int)bmvp_nii_rectify_affine(affine, m);
    int i;
    bmvp_jw_string(w, "kind", "volume");
    bmvp_jw_string(w, "path", path);
    bmvp_jw_string(w, "format", m->version == 2 ? "NIfTI-2" : m->version == 1 ? "NIfTI-1" : "ANALYZE 7.5");
    bmvp_jw_bool(w, "gzip", m->is_gzip);
    bmvp_jw_bool(w, "swapped_bytes", m->is_swapped);
    bmvp_jw_string(w, "datatype", bmvp_nii_datatype_text(m->datatype));
    bmvp_jw_array(w, "dim");
    for (i = 0; i < m->ndim; ++i) bmvp_jw_int(w, NULL, m->dim[i]);
    bmvp_jw_end(w);
    bmvp_jw_array(w, "voxel_size");
    for (i = 1; i <= 3; ++i) bmvp_jw_double(w, NULL, m->pixdim[i]);
    bmvp_jw_end(w);
    bmvp_jw_double(w, "scl_slope", m->scl_slope);
    bmvp_jw_double(w, "scl_inter", m->scl_inter);
    bmvp_jw_int(w, "qform_code", m->qform_code);
    bmvp_jw_int(w, "sform_code", m->sform_code);
    if (m->qform_code > 0 && m->sform_code > 0) bmvp_jw_double(w, "qform_to_sform_mm", bmvp_nii_forms_apart(m));
    bmvp_jw_string(w, "affine_from", source[from >= 1 && from <= 4 ? from : 0]);
    bmvp_jw_array(w, "affine");
    for (i = 0; i < 12; ++i) bmvp_jw_double(w, NULL, affine[i]);
    bmvp_jw_end(w);
    bmvp_nii_axcodes(codes, affine);
    bmvp_jw_string(w, "axes", codes);
    bmvp_jw_int(w, "extensions", m->n_extensions);
    if (m->n_extensions) bmvp_jw_array(w, "extension_codes");
    for (i = 0; i < m->n_extensions; ++i) bmvp_jw_int(w, NULL, m->extensions[i].code);
    if (m->n_extensions) bmvp_jw_end(w);
    if (m->descrip[0]) bmvp_jw_string(w, "descrip", m->descrip);
    describe_values(w, path, m);
}
