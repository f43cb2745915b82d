/* layouts.c - folders of data as their providers lay them out

   A layout is a row of the table at the end: a name, a function that knows it by its folders, and one that places a
   file: which case and patient it belongs to. The first row that fits is taken; the last one, case folders, fits
   always. What a file is, roles.c says; which of several files for one role is taken, collect() here.

       nnU-Net         imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json (layout_nnunet, called by lists.c)
       BIDS            sub-*, also with ses-*, anat/ dwi/ ..; derivatives/ for label maps alone (ISLES22, ABIDE and
                       ADHD-200 from OpenNeuro)
       INDI            SITE/SUBJECT/session_1/anat_1/mprage.nii.gz (ADHD-200, ABIDE-I)
       ADNI            SUBJECT/SERIES/DATE/IMAGE/ADNI_*.nii
       folders of roles   T1/CASE.nii.gz, FLAIR/CASE.nii.gz; CASE/T1/x.nii.gz (by_folder.c)
       numbers behind roles   FLAIR_001.nii.gz, T1_001.nii.gz
       by file name    files of many cases in one folder (IXI-T1/IXI002-Guys-0828-T1.nii.gz), or one case's files in
                       several (UPENN-GBM: images_structural/ID/, images_segm/)
       case folders    a folder a case, at any depth (BraTS of all years, UCSF-PDGM, MRBrainS13, VS-SEG, .hdr/.img
                       pairs) */
#define _DEFAULT_SOURCE
#include "dataset.h"
#include "files.h"
#include "layouts.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>collecting ----------------------------------------------------------------------------------------------------- */

enum { SLOTS = BMVP_MODALITIES + 1, LABEL_SLOT = BMVP_MODALITIES };

typedef struct slot { /* who has the role so far */
    int variant, space;
    char *rival;        /* another file with the same right to it */
    char *why;          /* what makes it a variant */
} slot;

typedef struct collection {
    dataset *d;
    slot (*slots)[SLOTS]; /* of each case */
    int64_t cap;
    int failed;           /* memory is short */
} collection;

static const char *slot_name(int s) { return s == LABEL_SLOT ? "the label" : bmvp_modality_name(s); }
static char **slot_file(data_case *k, int s) { return s == LABEL_SLOT ? &k->label : &k->image[s]; }

/* The case of this id, made where it is new. Files come sorted, so it is looked for from the end. */
static int64_t case_of(collection *c, const place *p)
{
    dataset *d = c->d;
    int64_t i;
    for (i = d->n - 1; i >= 0; --i)
        if (strcmp(d->item[i].id, p->id) == 0) return i;
    if (!dataset_add(d, p->id)) return -1;
    if (d->n > c->cap) {
        const int64_t cap = c->cap ? 2 * c->cap : 64;
        void *grown = realloc(c->slots, (size_t)cap * sizeof *c->slots);
        if (!grown) return -1;
        c->slots = (slot (*)[SLOTS])grown;
        c->cap = cap;
    }
    memset(c->slots[d->n - 1], 0, sizeof c->slots[0]);
    if (p->patient[0] && strcmp(p->patient, p->id) != 0) {
        d->item[d->n - 1].patient = text_copy(p->patient);
        if (!d->item[d->n - 1].patient) return -1;
    }
    return d->n - 1;
}

static void stand_back(collection *c, const char *id, const char *file, const char *why, int s)
{
    if (why && why[0]) dataset_note(c->d, id, file, "%s; another file is %s", why, slot_name(s));
    else dataset_note(c->d, id, file, "another file is %s", slot_name(s));
}

/* Gives the file its role in its case, or notes why not. */
static void collect(collection *c, const char *path, const role *r, const place *p)
{
    const int s = r->kind == ROLE_LABEL ? LABEL_SLOT : r->modality;
    char **has, *file;
    slot *t;
    int64_t i;
    file = path_join(c->d->path, path);
    if (file && (p->skip[0] || (r->kind != ROLE_IMAGE && r->kind != ROLE_LABEL))) {
        dataset_note(c->d, p->id, file, "%s", p->skip[0] ? p->skip : r->why);
        free(file);
        return;
    }
    i = file ? case_of(c, p) : -1;
    if (i < 0) {
        free(file);
        c->failed = 1;
        return;
    }
    t = &c->slots[i][s];
    has = slot_file(&c->d->item[i], s);
    if (*has && r->variant == t->variant && !p->first_wins) {
        free(t->rival);
        t->rival = file;
        return;
    }
    if (*has && r->variant >= t->variant) {
        stand_back(c, p->id, file, r->variant > t->variant ? r->why : "a second one", s);
        free(file);
        return;
    }
    if (*has) stand_back(c, p->id, *has, t->why, s);
    if (t->rival) stand_back(c, p->id, t->rival, t->why, s);
    free(*has);
    free(t->rival);
    free(t->why);
    *has = file;
    t->variant = r->variant;
    t->space = r->space;
    t->rival = NULL;
    t->why = text_copy(r->why);
}

/* Images made on the grid of T2 do not go with those on the grid of T1. */
static void one_space(collection *c, int64_t i)
{
    data_case *k = &c->d->item[i];
    int s, first = 0, second = 0;
    for (s = 0; s < SLOTS; ++s) {
        if (!*slot_file(k, s)) continue;
        first |= c->slots[i][s].space == 1;
        second |= c->slots[i][s].space == 2;
    }
    for (s = 0; s < SLOTS && first && second; ++s) {
        char **file = slot_file(k, s);
        if (!*file || c->slots[i][s].space != 2) continue;
        dataset_note(c->d, k->id, *file, "it lies on the grid of T2, the other files of its case on that of T1");
        free(*file);
        *file = NULL;
    }
}

/* 1: case i can be used; else it is dropped. */
static int settle_case(collection *c, int64_t i)
{
    data_case *k = &c->d->item[i];
    char why[900];
    int s, m;
    one_space(c, i);
    for (s = 0; s < SLOTS; ++s) {
        const slot *t = &c->slots[i][s];
        if (!t->rival) continue;
        snprintf(why, sizeof why, "two candidates for %s: %.360s and %.360s; say which with --as, or in a list",
                 slot_name(s), *slot_file(k, s), t->rival);
        dataset_drop(c->d, i, why);
        return 0;
    }
    for (m = 0; m < BMVP_MODALITIES && !k->image[m]; ++m) { }
    if (m < BMVP_MODALITIES) return 1;
    snprintf(why, sizeof why, "it has no image%s%.360s", k->label ? ", only the label " : "", k->label ? k->label : "");
    dataset_drop(c->d, i, why);
    return 0;
}

static bmvp_status settle(collection *c, bmvp_error *err)
{
    int64_t i, n = c->d->n;
    int s;
    for (i = n - 1; i >= 0; --i) {
        for (s = 0; s < SLOTS; ++s) free(c->slots[i][s].why);
        (void)settle_case(c, i);
        for (s = 0; s < SLOTS; ++s) free(c->slots[i][s].rival);
    }
    free(c->slots);
    return c->failed ? bmvp_error_set(err, BMVP_E_OOM, "out of memory") : BMVP_OK;
}

/* >>BIDS ----------------------------------------------------------------------------------------------------------- */

/* "sub-01" of an entity in a name or folder: into out with its separator; 0: there is none. */
static int entity(const char *text, const char *key, char *out, size_t size)
{
    const char *p = strncmp(text, key, strlen(key)) == 0 ? text : NULL, *q;
    char inner[16];
    snprintf(inner, sizeof inner, "_%s", key);
    if (!p && (q = strstr(text, inner)) != NULL) p = q + 1;
    if (!p) return 0;
    snprintf(out, size, "%.*s", (int)strcspn(p, "_./"), p);
    return 1;
}

static int find_entity(const char *path, const char *key, char *out, size_t size)
{
    char part[256];
    int k;
    if (entity(path_base(path), key, out, size)) return 1;
    for (k = 0; path_part(path, k, part, sizeof part); ++k)
        if (entity(part, key, out, size)) return 1;
    return 0;
}

static int is_bids(const tree *t, const role_rules *rules)
{
    char part[256];
    size_t i;
    int k;
    (void)rules;
    for (i = 0; i < t->n; ++i)
        for (k = 0; path_part(t->path[i], k, part, sizeof part); ++k)
            if (strncmp(part, "sub-", 4) == 0 && part[4]) return 1;
    return 0;
}

static int below(const char *path, const char *folder)
{
    char part[256];
    int k;
    for (k = 0; path_part(path, k, part, sizeof part); ++k)
        if (strcmp(part, folder) == 0) return 1;
    return 0;
}

static void place_bids(const tree *t, size_t i, role *r, place *p)
{
    char sub[200], ses[200];
    if (!find_entity(t->path[i], "sub-", sub, sizeof sub)) {
        snprintf(p->skip, sizeof p->skip, "it belongs to no subject: no sub- in its path");
        return;
    }
    snprintf(p->patient, sizeof p->patient, "%s", sub);
    if (find_entity(t->path[i], "ses-", ses, sizeof ses)) snprintf(p->id, sizeof p->id, "%s_%s", sub, ses);
    else snprintf(p->id, sizeof p->id, "%s", sub);
    if (below(t->path[i], "sourcedata"))
        snprintf(p->skip, sizeof p->skip, "sourcedata/ holds what the set was made from");
    else if (below(t->path[i], "derivatives") && r->kind != ROLE_LABEL)
        snprintf(p->skip, sizeof p->skip, "of derivatives/ only label maps are taken");
    else if (below(t->path[i], "derivatives") && r->variant >= 0)
        r->variant = 0; /* of two pipelines' maps none is the better one */
}

/* >>INDI, ADNI ----------------------------------------------------------------------------------------------------- */

/* Which part of the path is session_N; -1: none. */
static int session_part(const char *path, int *number)
{
    char part[256];
    int k;
    for (k = 0; path_part(path, k, part, sizeof part); ++k)
        if (strncmp(part, "session_", 8) == 0 && isdigit((unsigned char)part[8])) {
            *number = atoi(part + 8);
            return k;
        }
    return -1;
}

static int is_indi(const tree *t, const role_rules *rules)
{
    size_t i;
    int number;
    (void)rules;
    for (i = 0; i < t->n; ++i)
        if (session_part(t->path[i], &number) > 0) return 1;
    return 0;
}

static void place_indi(const tree *t, size_t i, role *r, place *p)
{
    char scan[256];
    int number = 1;
    const int k = session_part(t->path[i], &number);
    if (k < 1 || !path_part(t->path[i], k - 1, p->patient, sizeof p->patient)) {
        snprintf(p->skip, sizeof p->skip, "it belongs to no subject: no session_ in its path");
        return;
    }
    if (number > 1) snprintf(p->id, sizeof p->id, "%.480s_session_%d", p->patient, number);
    else snprintf(p->id, sizeof p->id, "%s", p->patient);
    if (path_part(t->path[i], k + 1, scan, sizeof scan) && strncmp(scan, "anat_", 5) == 0 && r->variant >= 0)
        r->variant += atoi(scan + 5) - 1; /* anat_2: a second scan */
}

static int subject_part(const char *path)
{
    char part[256];
    int k, n;
    for (k = 0; path_part(path, k, part, sizeof part); ++k) {
        for (n = 0; n < 3 && isdigit((unsigned char)part[n]); ++n) { }
        if (n == 3 && strncmp(part + 3, "_S_", 3) == 0 && strlen(part) == 10 && strspn(part + 6, "0123456789") == 4)
            return k;
    }
    return -1;
}

static int is_adni(const tree *t, const role_rules *rules)
{
    size_t i;
    (void)rules;
    for (i = 0; i < t->n; ++i)
        if (subject_part(t->path[i]) >= 0) return 1;
    return 0;
}

/* A case is a subject's visit: the series of one day. The series' folder says what it is, the file's name has numbers
   after it. */
static void place_adni(const tree *t, size_t i, role *r, place *p)
{
    const int k = subject_part(t->path[i]);
    char series[256], date[256];
    if (k < 0 || !path_part(t->path[i], k, p->patient, sizeof p->patient)) {
        snprintf(p->skip, sizeof p->skip, "it belongs to no subject: no folder as 002_S_0295 in its path");
        return;
    }
    if (r->variant >= 0 && path_part(t->path[i], k + 1, series, sizeof series)) *r = role_of(series, NULL, NULL);
    if (path_part(t->path[i], k + 2, date, sizeof date))
        snprintf(p->id, sizeof p->id, "%.480s_%.10s", p->patient, date);
    else snprintf(p->id, sizeof p->id, "%s", p->patient);
    p->first_wins = 1;
}

/* >>by file name --------------------------------------------------------------------------------------------------- */

static int is_upenn(const tree *t)
{
    size_t i;
    for (i = 0; i < t->n; ++i)
        if (below(t->path[i], "images_structural") || below(t->path[i], "images_structural_unstripped")) return 1;
    return 0;
}

/* Whether image r at path i is of another case than the image of its modality before it; id: of the folder's images so
   far. */
static int another_case(const tree *t, size_t i, const role *r, char id[BMVP_MODALITIES][256])
{
    const char *name = path_base(t->path[i]);
    char *last = id[r->modality];
    int another;
    if (r->id == 0 || r->id >= 256) return 0;
    another = last[0] && (strlen(last) != r->id || strncmp(last, name, r->id) != 0);
    snprintf(last, 256, "%.*s", (int)r->id, name);
    return another;
}

/* Most images lie in folders that have the same modality of two cases: each file names its case. */
static int is_flat(const tree *t, const role_rules *rules)
{
    char last[TREE_TEXT] = "/", now[TREE_TEXT], id[BMVP_MODALITIES][256];
    size_t i, here = 0, flat_here = 0, images = 0, flat = 0;
    for (i = 0; i < t->n; ++i) {
        const role r = role_of(t->path[i], NULL, rules);
        if (strcmp(tree_folder(t, i, now, sizeof now), last) != 0) {
            memset(id, 0, sizeof id);
            flat += flat_here ? here : 0;
            here = flat_here = 0;
        }
        snprintf(last, sizeof last, "%s", now);
        if (r.kind != ROLE_IMAGE) continue;
        ++images, ++here;
        flat_here |= (size_t)another_case(t, i, &r, id);
    }
    flat += flat_here ? here : 0;
    return 2 * flat > images;
}

static int is_by_name(const tree *t, const role_rules *rules) { return is_upenn(t) || is_flat(t, rules); }

static void place_by_name(const tree *t, size_t i, role *r, place *p)
{
    role said = *r;
    if (role_by_folder(t->path[i], &said) && said.kind != ROLE_IMAGE) *r = said; /* labels/CASE beside images/CASE_t1 */
    if (r->id > 0 && r->id < sizeof p->id) snprintf(p->id, sizeof p->id, "%.*s", (int)r->id, path_base(t->path[i]));
    else if (!path_part(t->path[i], -1, p->id, sizeof p->id)) snprintf(p->id, sizeof p->id, "case");
}

/* >>case folders --------------------------------------------------------------------------------------------------- */

static int is_anything(const tree *t, const role_rules *rules)
{
    (void)t, (void)rules;
    return 1;
}

static int is_word(const char *const *words, const char *folder)
{
    char low[32];
    size_t i;
    for (i = 0; i < sizeof low - 1 && folder[i]; ++i) low[i] = (char)tolower((unsigned char)folder[i]);
    low[i] = 0;
    if (strncmp(low, "vsd.", 4) == 0) return 1; /* BraTS 2013 to 2015: a folder for each image */
    for (; *words; ++words)
        if (strcmp(low, *words) == 0) return 1;
    return 0;
}

/* A folder of one patient's images once more: on another grid, or as they were before */
static int is_copy(const char *folder)
{
    static const char *const copy[] = {
        "native", "native_space", "mni", "mni152", "mni_space", "standard", "backup", "backups", "bak", "old", "new",
        "copy", "registered", "coregistered", "resampled", "warped", "normalized", "normalised", "original", "stripped",
        "skullstripped", "skull_stripped", "unstripped", "defaced", "n4", "bias_corrected", NULL
    };
    return is_word(copy, folder);
}

int is_inner(const char *folder)
{
    static const char *const inner[] = { "anat",  "dwi",    "perf",       "func",  "mri",    "nii", "nifti",
                                         "image", "images", "img",        "label", "labels", "seg", "segmentation",
                                         "mask",  "masks",  "structural", "scans", "raw",
                                         "orig",  "pre",    "processed",  "preprocessed",
                                         "fsl_seg", "mprage", "subj_111", "t88_111" /* OASIS */, NULL };
    return is_word(inner, folder) || is_copy(folder);
}

/* How many folders stand above the case's; -1: there is none. */
static int above_case(const char *path)
{
    char part[256];
    int k = 0;
    while (path_part(path, k, part, sizeof part)) ++k;
    while (k > 1 && path_part(path, k - 1, part, sizeof part) && is_inner(part)) --k;
    return k - 1;
}

/* The path to the case's folder, which has so many above it, but for those of copies: mni/p1 and native/p1 are one
   case, not two that a split may tear apart. */
static void id_without_copies(const char *path, int above, char *out, size_t size)
{
    static const char *const stage[] = { "raw", "processed", "preprocessed", NULL };
    char part[256];
    size_t used = 0;
    int k;
    out[0] = 0;
    for (k = 0; k <= above && used < size && path_part(path, k, part, sizeof part); ++k)
        if (k == above || !(is_copy(part) || is_word(stage, part)))
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? "/" : "", part);
}

/* The case's folder as it stands in the tree; shorten_ids makes the id of it. */
static void place_folder(const tree *t, size_t i, role *r, place *p)
{
    const int above = above_case(t->path[i]);
    char inner[256];
    if (path_part(t->path[i], -1, inner, sizeof inner) && r->variant >= 0 &&
        (strcmp(inner, "pre") == 0 || strstr(inner, "processed"))) {
        r->variant += 2; /* beside orig/, raw/ */
        if (!r->why[0]) snprintf(r->why, sizeof r->why, "'%.40s' marks it as made from another file", inner);
    }
    if (above >= 0) id_without_copies(t->path[i], above, p->id, sizeof p->id);
}

/* >>the table ------------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    int (*fits)(const tree *t, const role_rules *rules);
    void (*place)(const tree *t, size_t i, role *r, place *p);
} layout[] = {
    { "BIDS", is_bids, place_bids },
    { "INDI", is_indi, place_indi },
    { "ADNI", is_adni, place_adni },
    { "nnU-Net without dataset.json", is_bare_nnunet, place_bare_nnunet },
    { "numbers behind roles", is_numbered, place_numbered },
    { "folders of roles", is_by_folder, place_by_folder },
    { "by file name", is_by_name, place_by_name },
    { "case folders", is_anything, place_folder },
};

/* The words that the names in path i's folder have in common. */
static void folder_words(const tree *t, size_t i, char *out, size_t size)
{
    char folder[TREE_TEXT], other[TREE_TEXT];
    const char **name = (const char **)malloc((t->n + 1) * sizeof *name);
    size_t j, n = 0;
    out[0] = 0;
    if (!name) return;
    tree_folder(t, i, folder, sizeof folder);
    for (j = i; j < t->n; ++j) { /* sorted: a folder's files follow one another, but for those of its own folders */
        if (strncmp(t->path[j], folder, strlen(folder)) != 0) break;
        if (strcmp(tree_folder(t, j, other, sizeof other), folder) == 0 && role_is_nifti(t->path[j]))
            name[n++] = path_base(t->path[j]);
    }
    role_shared(name, n, out, size);
    free((void *)name);
}

/* The name of the folder of data itself: the id of a case that lies in it. */
static void own_name(const char *path, char *out, size_t size)
{
    size_t n = strlen(path), from;
    while (n > 1 && path[n - 1] == '/') --n;
    for (from = n; from > 0 && path[from - 1] != '/'; --from) { }
    snprintf(out, size, "%.*s", (int)(n - from), path + from);
    if (out[0] == 0 || out[0] == '.') snprintf(out, size, "case");
}

/* train, val or test by a word in a folder's name */
static data_part part_by_folder(const char *path)
{
    char part[256];
    int k;
    size_t i;
    for (k = 0; path_part(path, k, part, sizeof part); ++k) {
        for (i = 0; part[i]; ++i) part[i] = (char)tolower((unsigned char)part[i]);
        if (strstr(part, "train") || strcmp(part, "imagestr") == 0) return PART_TRAIN;
        if (strstr(part, "valid") || strcmp(part, "val") == 0 || strcmp(part, "imagesval") == 0) return PART_VAL;
        if (strncmp(part, "test", 4) == 0 || strcmp(part, "imagests") == 0 || strstr(part, "_test")) return PART_TEST;
    }
    return PART_NONE;
}

/* Folders for training and testing: told where the set has at least two of them. */
static void find_parts(dataset *d, const char *root)
{
    const size_t skip = strlen(root);
    int64_t i;
    int m, seen[4] = { 0, 0, 0, 0 };
    for (i = 0; i < d->n; ++i) {
        data_case *k = &d->item[i];
        for (m = 0; m < BMVP_MODALITIES && !k->image[m]; ++m) { }
        k->part = part_by_folder(k->image[m] + (strlen(k->image[m]) > skip ? skip : 0));
        seen[k->part] = 1;
    }
    if (seen[PART_TRAIN] + seen[PART_VAL] + seen[PART_TEST] > 1 && !seen[PART_NONE]) return;
    for (i = 0; i < d->n; ++i) d->item[i].part = PART_NONE;
}

/* Folders that were not looked into; cases may be missing for it. */
static void note_closed(dataset *d, const tree *t)
{
    size_t i;
    for (i = 0; i < t->n_closed; i += 2) {
        char *path = path_join(d->path, t->closed[i]);
        if (path) dataset_note(d, NULL, path, "cannot be looked into: %s", t->closed[i + 1]);
        free(path);
    }
}

/* The other half of a .hdr, .img pair. */
static int second_of_pair(const tree *t, size_t i)
{
    const char *p = t->path[i];
    const size_t n = strlen(p);
    char hdr[TREE_TEXT];
    size_t j;
    if (n < 4 || n >= sizeof hdr || role_stem(p) != n - 4 || tolower((unsigned char)p[n - 3]) != 'i' ||
        tolower((unsigned char)p[n - 1]) != 'g')
        return 0;
    for (j = i; j-- > 0 && strncmp(t->path[j], p, n - 4) == 0; )
        if (strlen(t->path[j]) == n && tolower((unsigned char)t->path[j][n - 3]) == 'h') return 1;
    return 0;
}

typedef struct folder_facts { /* of the folder whose files are taken */
    char shared[2048];       /* words that all of its names have */
    int truth;               /* holds_truth */
} folder_facts;

/* elsewhere: images_elsewhere */
static void take_file(collection *c, const tree *t, size_t i, size_t row, int elsewhere, const folder_facts *in,
                      const role_rules *rules)
{
    role r = role_of(t->path[i], in->shared, rules);
    place p;
    if (second_of_pair(t, i)) return;
    memset(&p, 0, sizeof p);
    own_name(c->d->path, p.id, sizeof p.id);
    layout[row].place(t, i, &r, &p);
    if (elsewhere) qualify_by_folder(t->path[i], in->truth, &r, &p);
    if (r.kind == ROLE_LABEL && r.variant >= 0 && role_folder_predicted(t->path[i]))
        snprintf(p.skip, sizeof p.skip, "its folder says that a program has predicted it: no label");
    if (!role_is_nifti(t->path[i]))
        snprintf(p.skip, sizeof p.skip, "not a format that is read: .nii, .nii.gz and .hdr with .img are");
    collect(c, t->path[i], &r, &p);
}

bmvp_status layout_load(dataset *d, const role_rules *rules, bmvp_error *err)
{
    char last[TREE_TEXT] = "/", now[TREE_TEXT];
    folder_facts in = { "", 0 };
    collection c;
    size_t i, row = 0;
    bmvp_status st;
    int elsewhere;
    tree t;
    st = tree_read(&t, d->path, err);
    if (st) return st;
    memset(&c, 0, sizeof c);
    c.d = d;
    while (!layout[row].fits(&t, rules)) ++row;
    d->layout = layout[row].name;
    elsewhere = images_elsewhere(&t, rules);
    for (i = 0; i < t.n && !c.failed; ++i) {
        if (strcmp(tree_folder(&t, i, now, sizeof now), last) != 0) {
            folder_words(&t, i, in.shared, sizeof in.shared);
            in.truth = elsewhere && holds_truth(&t, i, rules);
        }
        snprintf(last, sizeof last, "%s", now);
        take_file(&c, &t, i, row, elsewhere, &in, rules);
    }
    note_closed(d, &t);
    tree_free(&t);
    st = settle(&c, err);
    if (!st && (layout[row].place == place_folder || layout[row].place == place_by_folder))
        st = dataset_shorten_ids(d, err);
    if (!st) find_parts(d, d->path);
    return st;
}

/* >>nnU-Net -------------------------------------------------------------------------------------------------------- */

typedef struct channels { /* what CASE_0000, CASE_0001 .. are */
    int n, modality[64];
} channels;

static bmvp_status read_channels(channels *c, const bmvp_json *names, const dataset *d, bmvp_error *err)
{
    const bmvp_json *m;
    memset(c, 0, sizeof *c);
    for (m = names ? names->first : NULL; m && c->n < 64; m = m->next) {
        const char *text = bmvp_json_string(m, "");
        if (atoi(m->key ? m->key : "-1") != c->n)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: channels must be numbered 0, 1 ..: found '%s'", d->path,
                                  m->key ? m->key : "");
        c->modality[c->n++] = role_modality(text);
    }
    return BMVP_OK;
}

static void nnunet_file(collection *c, const tree *t, size_t i, const channels *ch, const bmvp_json *names,
                        const role_rules *rules)
{
    const char *name = path_base(t->path[i]);
    char folder[256], key[16];
    size_t n = role_stem(name);
    role r = role_of(t->path[i], NULL, rules);
    const int ruled = r.variant < 0;
    int label, channel = -1;
    place p;
    memset(&p, 0, sizeof p);
    if (!path_part(t->path[i], -1, folder, sizeof folder)) folder[0] = 0;
    label = is_nnunet_labels(folder);
    if (!label && strncmp(folder, "images", 6) == 0) channel = channel_of(name, &n);
    snprintf(p.id, sizeof p.id, "%.*s", (int)n, name);
    if (!ruled && label) r.kind = ROLE_LABEL, r.variant = 0;
    else if (!ruled && channel >= 0 && channel < ch->n && ch->modality[channel] >= 0) {
        r.kind = ROLE_IMAGE, r.modality = ch->modality[channel], r.variant = 0;
    } else if (!ruled) {
        r.kind = ROLE_OTHER;
        snprintf(key, sizeof key, "%d", channel);
        if (channel < 0) snprintf(r.why, sizeof r.why, "neither imagesTr/CASE_0000 nor labelsTr/CASE");
        else snprintf(r.why, sizeof r.why, "channel %d, '%.40s', is no modality that is known", channel,
                      bmvp_json_string(bmvp_json_get(names, key), "not in dataset.json"));
    }
    collect(c, t->path[i], &r, &p);
}

bmvp_status layout_nnunet(dataset *d, const char *dir, const bmvp_json *root, const role_rules *rules, bmvp_error *err)
{
    const bmvp_json *names = bmvp_json_get(root, "channel_names");
    char *list = d->path;
    channels ch;
    collection c;
    bmvp_status st;
    int64_t i;
    size_t f;
    tree t;
    int m;
    if (!names) names = bmvp_json_get(root, "modality");
    st = read_channels(&ch, names, d, err);
    if (!st) st = tree_read(&t, dir[0] ? dir : ".", err);
    if (st) return st;
    memset(&c, 0, sizeof c);
    c.d = d;
    d->layout = "nnU-Net";
    d->path = text_copy(dir[0] ? dir : ".");
    for (f = 0; f < t.n && !c.failed && d->path; ++f) nnunet_file(&c, &t, f, &ch, names, rules);
    if (d->path) note_closed(d, &t);
    free(d->path);
    d->path = list;
    tree_free(&t);
    st = settle(&c, err);
    for (i = 0; i < d->n && !st; ++i) {
        data_case *k = &d->item[i];
        for (m = 0; m < BMVP_MODALITIES && !k->image[m]; ++m) { }
        k->part = strstr(k->image[m], "imagesTr/")   ? PART_TRAIN
                  : strstr(k->image[m], "imagesTs/") ? PART_TEST
                                                     : PART_NONE;
    }
    return st;
}
