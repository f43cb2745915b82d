/* overlay.c - label maps over images, see overlay.h */
#include "overlay.h"
#include <stdlib.h>
#include <string.h>

static const report_colour region_colour[REGION_COLOURS] = {
    { "", { 66, 166, 90 } },   { "", { 235, 170, 40 } }, { "", { 225, 65, 60 } },  { "", { 70, 130, 225 } },
    { "", { 160, 90, 200 } },  { "", { 40, 190, 190 } }, { "", { 230, 120, 180 } }, { "", { 150, 150, 60 } },
};

int region_legend(const bmvp_labels *l, report_colour legend[REGION_COLOURS])
{
    const int n = l->n < REGION_COLOURS ? l->n : REGION_COLOURS;
    int i;
    memcpy(legend, region_colour, sizeof region_colour);
    for (i = 0; i < n; ++i) {
        const char *name = l->region[i];
        legend[i].name = strcmp(name, "WT") == 0   ? "WT: whole tumour"
                         : strcmp(name, "TC") == 0 ? "TC: its core"
                         : strcmp(name, "ET") == 0 ? "ET: what takes up contrast agent"
                                                   : name;
    }
    return n;
}

void region_numbers(const bmvp_labels *l, unsigned char *v, int64_t n)
{
    unsigned char number[BMVP_LABEL_VALUES];
    int64_t i;
    int k, r;
    memset(number, 0, sizeof number);
    for (k = 0; k < BMVP_LABEL_VALUES; ++k)
        for (r = 0; r < l->n; ++r)
            if (l->in[r][k]) number[k] = (unsigned char)(r % REGION_COLOURS + 1);
    for (i = 0; i < n; ++i) v[i] = number[v[i]];
}

/* The axial plane with most labelled voxels. */
static int64_t fullest_plane(const unsigned char *v, const int64_t dim[3])
{
    const int64_t area = dim[1] * dim[2];
    int64_t z, i, most = 0, at = dim[0] / 2;
    for (z = 0; z < dim[0]; ++z) {
        int64_t n = 0;
        for (i = 0; i < area; ++i) n += v[z * area + i] != 0;
        if (n > most) most = n, at = z;
    }
    return at;
}

bmvp_status overlay_row(const float *image, const unsigned char *truth, const unsigned char *predicted,
                        const int64_t dim[3], report_picture row[3], overlay_memory *m)
{
    const int64_t n = dim[0] * dim[1] * dim[2], z = fullest_plane(truth, dim);
    int64_t pixels, i;
    int width, height, k;
    float *volume = (float *)malloc((size_t)n * sizeof *volume);
    pixels = report_slice(image, dim, REPORT_AXIAL, z, NULL, &width, &height);
    m->grey = (float *)malloc((size_t)pixels * sizeof *m->grey + 1);
    m->label = (unsigned char *)malloc((size_t)pixels + 1);
    m->rgb = (unsigned char *)malloc((size_t)(6 * pixels) + 1);
    m->slice = (float *)malloc((size_t)pixels * sizeof *m->slice + 1);
    if (!volume || pixels <= 0 || !m->grey || !m->label || !m->rgb || !m->slice) {
        free(volume);
        return BMVP_E_OOM;
    }
    (void)report_slice(image, dim, REPORT_AXIAL, z, m->grey, &width, &height);
    for (k = 0; k < 3; ++k) {
        memset(&row[k], 0, sizeof row[k]);
        row[k].width = width;
        row[k].height = height;
        row[k].hi = 1;
        if (k == 0) {
            row[k].grey = m->grey;
            continue;
        }
        for (i = 0; i < n; ++i) volume[i] = (float)(k == 1 ? truth : predicted)[i];
        (void)report_slice(volume, dim, REPORT_AXIAL, z, m->slice, &width, &height);
        for (i = 0; i < pixels; ++i) m->label[i] = (unsigned char)m->slice[i];
        report_overlay(m->grey, m->label, pixels, 0, 1, region_colour, REGION_COLOURS, 0.55,
                       m->rgb + (k - 1) * 3 * pixels);
        row[k].rgb = m->rgb + (k - 1) * 3 * pixels;
    }
    free(volume);
    return BMVP_OK;
}

void overlay_free(overlay_memory *m)
{
    free(m->grey);
    free(m->slice);
    free(m->label);
    free(m->rgb);
    memset(m, 0, sizeof *m);
}
