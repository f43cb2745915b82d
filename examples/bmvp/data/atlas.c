/* atlas.c - see atlas.h */
#include "atlas.h"
#include "files.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const places[] = { "/usr/share/mricron/templates", "/usr/local/share/mricron/templates" };
static const char *const colin_head = "ch2.nii.gz", *const colin_brain = "ch2bet.nii.gz"; /* with and without skull */

static bmvp_status read_file(bmvp_nii_volume *v, const char *path, bmvp_error *err)
{
    bmvp_image image;
    memset(&image, 0, sizeof image);
    image.path = path;
    return bmvp_image_read(v, &image, NULL, err);
}

/* The folder that has both files of Colin27; NULL: none. */
static const char *find_colin(void)
{
    size_t i;
    for (i = 0; i < sizeof places / sizeof *places; ++i) {
        char *head = path_join(places[i], colin_head), *brain = path_join(places[i], colin_brain);
        const int there = head && brain && file_exists(head) && file_exists(brain);
        free(head);
        free(brain);
        if (there) return places[i];
    }
    return NULL;
}

/* Colin27's brain was cut out along its grey matter: values fall over the next 2 mm and are lowest from there on. That
   rim is the fluid about a brain, which brain masks have: without it they are too small, most where the case is T1,
   too, and follows the cut. */
static bmvp_status add_rim(bmvp_nii_volume *brain, bmvp_error *err)
{
    const int64_t n = brain->dim[0] * brain->dim[1] * brain->dim[2];
    bmvp_nii_volume away;
    int64_t i;
    bmvp_status st = bmvp_nii_distance(&away, brain, err);
    if (st) return st;
    for (i = 0; i < n; ++i) brain->data[i] = away.data[i] < 2;
    bmvp_nii_volume_free(&away);
    return st;
}

/* rim: the brain lacks it. */
static bmvp_status load(atlas *a, const char *file, const char *brain, int rim, bmvp_error *err)
{
    bmvp_status st = read_file(&a->head, file, err);
    if (!st && brain) st = read_file(&a->brain, brain, err);
    if (!st && rim) st = add_rim(&a->brain, err);
    return st ? st : bmvp_atlas_set(&a->is, file, &a->head, brain ? &a->brain : NULL, err);
}

static bmvp_status load_colin(atlas *a, const char *brain, bmvp_error *err)
{
    const char *dir = find_colin();
    char *head, *of;
    bmvp_status st;
    if (!dir)
        return bmvp_error_set(err, BMVP_E_IO,
                              "--template auto: no %s and %s below %s: apt-get install mricron-data (Debian, Ubuntu), "
                              "or name a head and its brain: --template FILE --template-brain FILE",
                              colin_head, colin_brain, places[0]);
    head = path_join(dir, colin_head);
    of = brain ? text_copy(brain) : path_join(dir, colin_brain);
    st = head && of ? load(a, head, of, !brain, err) : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    free(head);
    free(of);
    return st;
}

bmvp_status atlas_load(atlas *a, const char *file, const char *brain, bmvp_error *err)
{
    bmvp_status st;
    memset(a, 0, sizeof *a);
    st = strcmp(file, "auto") == 0 ? load_colin(a, brain, err) : load(a, file, brain, 0, err);
    if (st) atlas_free(a);
    return st;
}

void atlas_free(atlas *a)
{
    bmvp_nii_volume_free(&a->head);
    bmvp_nii_volume_free(&a->brain);
    memset(a, 0, sizeof *a);
}

void atlas_warn(const char *id, const bmvp_nii_brain_report *report)
{
    char text[400];
    if (report->litres > 0 && bmvp_nii_brain_doubts(report, text, sizeof text))
        fprintf(stderr, "\nbmvp: case '%s': look at its brain mask: %s\n", id, text);
}

void atlas_say(const char *id, const bmvp_prepared_images *p, const bmvp_preparation *how)
{
    if (!how->atlas[0]) return;
    printf("%s:", id);
    if (how->to)
        printf(" %s brought to the template, NMI %.3f%s", bmvp_modality_name(p->reference), p->atlas_nmi,
               how->strip ? ";" : "");
    if (how->strip && p->stripped) printf(" without head already: left as it is");
    else if (how->strip) printf(" brain of %.2f litres", p->brain_report.litres);
    printf("\n");
    fflush(stdout);
    if (how->strip) atlas_warn(id, &p->brain_report);
}

static void write_numbers(bmvp_jw *w, const char *key, const double *v, int n)
{
    int i;
    bmvp_jw_array(w, key);
    for (i = 0; i < n; ++i) bmvp_jw_double(w, NULL, v[i]);
    bmvp_jw_end(w);
}

static void write_brain(bmvp_jw *w, const bmvp_prepared_images *p)
{
    const bmvp_nii_brain_report *r = &p->brain_report;
    char text[400];
    bmvp_jw_object(w, "brain");
    bmvp_jw_bool(w, "stripped_before", p->stripped);
    if (!p->stripped) {
        (void)bmvp_nii_brain_doubts(r, text, sizeof text);
        bmvp_jw_double(w, "nmi", r->nmi);
        write_numbers(w, "stretch", r->stretch, 3);
        bmvp_jw_double(w, "litres", r->litres);
        bmvp_jw_double(w, "edge", r->edge);
        bmvp_jw_double(w, "kept", r->kept);
        bmvp_jw_double(w, "against", r->against);
        bmvp_jw_string(w, "doubtful", text);
    }
    bmvp_jw_end(w);
}

void atlas_write(bmvp_jw *w, const bmvp_prepared_images *p, const bmvp_preparation *how)
{
    if (how->to) {
        bmvp_jw_object(w, "template");
        bmvp_jw_string(w, "name", how->atlas);
        bmvp_jw_string(w, "direction", "template mm to reference mm, RAS");
        write_numbers(w, "matrix", p->to_atlas, 16);
        bmvp_jw_double(w, "nmi", p->atlas_nmi);
        bmvp_jw_end(w);
    }
    if (how->strip) write_brain(w, p);
}
