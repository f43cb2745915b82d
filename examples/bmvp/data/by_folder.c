/* by_folder.c - layouts in which a file's folder says what it is, see layouts.h

   T1/pat1.nii.gz and FLAIR/pat1.nii.gz, also below images/, train/, or each in a folder of its case (T1/pat1/im.nii.gz,
   pat1/T1/im.nii.gz). A case is what is left of the path without the role's folder: with the file's own name where a
   folder of a role holds several files, without it where each holds one. */
#include "layouts.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* The names of time points that look like modalities when T1 and T2 are among them. */
static int is_time_point(const char *folder)
{
    return tolower((unsigned char)folder[0]) == 't' && strchr("03456789", folder[1]) && folder[1] && !folder[2];
}

int folder_role(const char *folder, role *r)
{
    const role said = role_of(folder, NULL, NULL);
    if (said.id > 0 || said.kind == ROLE_OTHER || strcmp(folder, "anat") == 0) return 0;
    *r = said;
    return 1;
}

/* Has the name a word of a role? */
static int says_itself(const char *path, const role *r)
{
    const char *name = path_base(path);
    return r->kind != ROLE_OTHER || r->variant < 0 || strncmp(r->why, "unknown modality", 16) != 0 || !*name;
}

int role_by_folder(const char *path, role *r)
{
    char part[256];
    const size_t id = r->id;
    int k = -1;
    if (says_itself(path, r)) return 0;
    for (; path_part(path, k, part, sizeof part); --k)
        if (folder_role(part, r)) {
            r->id = id;
            return 1;
        }
    return 0;
}

/* What the file's own folder says of it, where that is label or mask: masks/p1_t1.nii */
static int truth_folder(const char *path, role *r)
{
    char part[256];
    return path_part(path, -1, part, sizeof part) && folder_role(part, r) &&
           (r->kind == ROLE_LABEL || r->kind == ROLE_MASK);
}

/* predictions/t1.nii: an image that a program has made */
static int predicted_folder(const char *path)
{
    char part[256], as_path[260];
    if (!path_part(path, -1, part, sizeof part)) return 0;
    snprintf(as_path, sizeof as_path, "%s/", part);
    return tolower((unsigned char)part[0]) == 'p' && role_folder_predicted(as_path);
}

int images_elsewhere(const tree *t, const role_rules *rules)
{
    size_t i;
    role r, said;
    for (i = 0; i < t->n; ++i) {
        r = role_of(t->path[i], NULL, rules);
        if (r.kind == ROLE_IMAGE && !truth_folder(t->path[i], &said) && !predicted_folder(t->path[i])) return 1;
    }
    return 0;
}

/* Has the folder of path i a file that is a label by its own name? Then the folder is a data set of that name. */
static int labels_inside(const tree *t, size_t i, const role_rules *rules)
{
    const size_t n = (size_t)(path_base(t->path[i]) - t->path[i]);
    size_t j;
    for (j = 0; j < t->n; ++j)
        if ((size_t)(path_base(t->path[j]) - t->path[j]) == n && memcmp(t->path[j], t->path[i], n) == 0 &&
            role_of(t->path[j], NULL, rules).kind == ROLE_LABEL)
            return 1;
    return 0;
}

int holds_truth(const tree *t, size_t i, const role_rules *rules)
{
    role said;
    return truth_folder(t->path[i], &said) && !labels_inside(t, i, rules);
}

void qualify_by_folder(const char *path, int truth, role *r, place *p)
{
    role said;
    if (r->kind != ROLE_IMAGE || r->variant < 0) return;
    if (predicted_folder(path))
        snprintf(p->skip, sizeof p->skip, "its folder says that a program has predicted it");
    else if (truth && truth_folder(path, &said)) {
        said.id = r->id;
        *r = said;
    }
}

int is_by_folder(const tree *t, const role_rules *rules)
{
    char part[256];
    size_t i, by_name = 0, by_folder = 0;
    int k;
    for (i = 0; i < t->n; ++i) {
        role r = role_of(t->path[i], NULL, rules);
        by_name += r.kind == ROLE_IMAGE;
        by_folder += role_by_folder(t->path[i], &r) && r.kind == ROLE_IMAGE;
        for (k = 0; path_part(t->path[i], k, part, sizeof part); ++k)
            if (is_time_point(part)) return 0; /* T0, T1, T2 are no modalities */
    }
    return by_folder > by_name;
}

/* Does a folder of a role hold several files? Then files in such folders name their cases. */
static int files_are_cases(const tree *t, size_t i)
{
    char part[256];
    size_t n;
    role r;
    if (!path_part(t->path[i], -1, part, sizeof part) || !folder_role(part, &r)) return 0;
    for (i = 1; i < t->n; ++i) {
        n = (size_t)(path_base(t->path[i]) - t->path[i]);
        if (n != (size_t)(path_base(t->path[i - 1]) - t->path[i - 1]) || memcmp(t->path[i], t->path[i - 1], n) != 0)
            continue;
        if (path_part(t->path[i], -1, part, sizeof part) && folder_role(part, &r)) return 1;
    }
    return 0;
}

void place_by_folder(const tree *t, size_t i, role *r, place *p)
{
    const char *path = t->path[i], *name = path_base(path);
    const size_t stem = r->id > 0 ? r->id : role_stem(name);
    char part[256], key[TREE_TEXT] = "";
    size_t used = 0;
    role said;
    int k;
    (void)role_by_folder(path, r);
    for (k = 0; path_part(path, k, part, sizeof part) && used < sizeof key; ++k)
        if (!folder_role(part, &said) && !is_inner(part))
            used += (size_t)snprintf(key + used, sizeof key - used, "%s%s", used ? "/" : "", part);
    if ((used == 0 || files_are_cases(t, i)) && used < sizeof key)
        snprintf(key + used, sizeof key - used, "%s%.*s", used ? "/" : "", (int)stem, name);
    snprintf(p->id, sizeof p->id, "%.*s", (int)sizeof p->id - 1, key);
}

/* >>numbers behind roles ------------------------------------------------------------------------------------------- */

/* Each file is a role and its case's number, as FLAIR_001: all in one folder, or each in a folder of its role
   (FLAIR/FLAIR_001); and some role has several. Elsewhere such numbers are scans of one case. */
int is_numbered(const tree *t, const role_rules *rules)
{
    char first[TREE_TEXT] = "", now[TREE_TEXT], part[256];
    int seen[BMVP_MODALITIES] = { 0 }, several = 0;
    size_t i;
    for (i = 0; i < t->n; ++i) {
        const role r = role_of(t->path[i], NULL, rules);
        role said;
        if (r.kind != ROLE_IMAGE && r.kind != ROLE_LABEL) continue;
        if (r.variant < 0 || r.tail == 0) return 0;
        if (r.kind == ROLE_IMAGE) several |= seen[r.modality]++ > 0;
        if (path_part(t->path[i], -1, part, sizeof part) && folder_role(part, &said)) continue;
        (void)tree_folder(t, i, now, sizeof now);
        if (first[0] && strcmp(first, now) != 0) return 0;
        snprintf(first, sizeof first, "%s", now);
    }
    return several;
}

void place_numbered(const tree *t, size_t i, role *r, place *p)
{
    const char *name = path_base(t->path[i]);
    if (r->tail > 0) snprintf(p->id, sizeof p->id, "%.*s", (int)(role_stem(name) - r->tail), name + r->tail);
}

/* >>nnU-Net without its description -------------------------------------------------------------------------------- */

int channel_of(const char *name, size_t *n)
{
    const size_t stem = role_stem(name);
    size_t i;
    if (stem < 6 || name[stem - 5] != '_') return -1;
    for (i = stem - 4; i < stem; ++i)
        if (!isdigit((unsigned char)name[i])) return -1;
    *n = stem - 5;
    return (name[stem - 4] - '0') * 1000 + (name[stem - 3] - '0') * 100 + (name[stem - 2] - '0') * 10 + name[stem - 1] -
           '0';
}

int is_nnunet_labels(const char *folder)
{
    char tail[264];
    if (strncmp(folder, "labels", 6) != 0) return 0;
    snprintf(tail, sizeof tail, " %s ", folder + 6);
    return strstr("  Tr Ts Va Val ", tail) != NULL;
}

int is_bare_nnunet(const tree *t, const role_rules *rules)
{
    char part[256];
    size_t i;
    (void)rules;
    for (i = 0; i < t->n; ++i)
        if (path_part(t->path[i], -1, part, sizeof part) && strcmp(part, "imagesTr") == 0) return 1;
    return 0;
}

void place_bare_nnunet(const tree *t, size_t i, role *r, place *p)
{
    const char *name = path_base(t->path[i]);
    size_t n = r->id > 0 ? r->id : role_stem(name);
    char folder[256] = "";
    int channel;
    (void)path_part(t->path[i], -1, folder, sizeof folder);
    channel = strncmp(folder, "images", 6) == 0 ? channel_of(name, &n) : -1;
    if (is_nnunet_labels(folder) && r->variant >= 0) r->kind = ROLE_LABEL, r->variant = 0;
    else if (r->kind == ROLE_OTHER && r->variant >= 0 && channel >= 0)
        snprintf(r->why, sizeof r->why, "channel %d, and no dataset.json that says what it is: --as t1=*_%04d.nii*",
                 channel, channel);
    else if (r->kind == ROLE_OTHER && r->variant >= 0 && strncmp(folder, "images", 6) == 0)
        snprintf(r->why, sizeof r->why, "there is no dataset.json that says what it is: --as \"t1=%.40s/*\"", folder);
    snprintf(p->id, sizeof p->id, "%.*s", (int)n, name);
}
