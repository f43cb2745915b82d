/* tree.c - the volumes below a folder, see tree.h */
#define _DEFAULT_SOURCE
#include "tree.h"
#include "files.h"
#include "roles.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int add_path(tree *t, const char *path)
{
    if (t->n == t->cap) {
        const size_t cap = t->cap ? 2 * t->cap : 256;
        char **grown = (char **)realloc(t->path, cap * sizeof *grown);
        if (!grown) return 0;
        t->path = grown;
        t->cap = cap;
    }
    t->path[t->n] = text_copy(path);
    return t->path[t->n] ? (++t->n, 1) : 0;
}

static int add_closed(tree *t, const char *path, const char *why)
{
    char **grown = (char **)realloc(t->closed, (t->n_closed + 2) * sizeof *grown);
    if (!grown) return 0;
    t->closed = grown;
    t->closed[t->n_closed] = text_copy(path);
    t->closed[t->n_closed + 1] = text_copy(why);
    t->n_closed += 2;
    return t->closed[t->n_closed - 2] && t->closed[t->n_closed - 1];
}

typedef struct walk { /* the folders that are open, so that a link back to one of them ends */
    tree *t;
    const char *root;
    struct { dev_t dev; ino_t ino; } open[TREE_DEPTH + 1];
} walk;

static bmvp_status walk_folder(walk *w, const char *below, int depth, bmvp_error *err);

static bmvp_status walk_entry(walk *w, const char *below, const char *name, int depth, bmvp_error *err)
{
    char *path = path_join(below, name), *full = path ? path_join(w->root, path) : NULL;
    bmvp_status st = full ? BMVP_OK : bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    struct stat s;
    int i, again = 0, there = full && stat(full, &s) == 0;
    if (!st && there && S_ISDIR(s.st_mode)) {
        for (i = 0; i <= depth; ++i) again |= w->open[i].dev == s.st_dev && w->open[i].ino == s.st_ino;
        if (!again && depth < TREE_DEPTH) {
            w->open[depth + 1].dev = s.st_dev;
            w->open[depth + 1].ino = s.st_ino;
            st = walk_folder(w, path, depth + 1, err);
        } else if (!again && !add_closed(w->t, path, "a folder within too many folders")) {
            st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        }
    } else if (!st && role_is_volume(name) && !add_path(w->t, path)) {
        st = bmvp_error_set(err, BMVP_E_OOM,
                            "out of memory"); /* a link to nowhere is taken: preparing it says what is wrong */
    }
    free(full);
    free(path);
    return st;
}

static bmvp_status walk_folder(walk *w, const char *below, int depth, bmvp_error *err)
{
    char *full = path_join(w->root, below);
    DIR *dir = full ? opendir(full) : NULL;
    bmvp_status st = BMVP_OK;
    struct dirent *e;
    if (!dir && depth == 0)
        st = bmvp_error_set(err, BMVP_E_IO, "%s: cannot read the folder: %s", w->root, strerror(errno));
    else if (!dir && !add_closed(w->t, below, strerror(errno)))
        st = bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    while (dir && !st && (e = readdir(dir)) != NULL)
        if (e->d_name[0] != '.') st = walk_entry(w, below, e->d_name, depth, err);
    if (dir) closedir(dir);
    free(full);
    return st;
}

bmvp_status tree_read(tree *t, const char *root, bmvp_error *err)
{
    bmvp_status st;
    struct stat s;
    walk w;
    memset(t, 0, sizeof *t);
    memset(&w, 0, sizeof w);
    w.t = t;
    w.root = root;
    if (stat(root, &s) == 0) w.open[0].dev = s.st_dev, w.open[0].ino = s.st_ino;
    st = walk_folder(&w, "", 0, err);
    if (st) tree_free(t);
    else if (t->n) qsort((void *)t->path, t->n, sizeof *t->path, by_text);
    return st;
}

void tree_free(tree *t)
{
    while (t->n > 0) free(t->path[--t->n]);
    while (t->n_closed > 0) free(t->closed[--t->n_closed]);
    free((void *)t->path);
    free((void *)t->closed);
    memset(t, 0, sizeof *t);
}

const char *tree_folder(const tree *t, size_t i, char *out, size_t size)
{
    const char *base = path_base(t->path[i]);
    const size_t n = (size_t)(base - t->path[i]);
    snprintf(out, size, "%.*s", n ? (int)n - 1 : 0, t->path[i]);
    return out;
}

const char *path_part(const char *path, int k, char *out, size_t size)
{
    const char *p, *end;
    int count = 0;
    for (p = path; *p; ++p) count += *p == '/';
    if (k < 0) k += count;
    if (k < 0 || k >= count) return NULL;
    for (p = path; k > 0; ++p) k -= *p == '/';
    end = strchr(p, '/');
    snprintf(out, size, "%.*s", (int)(end - p), p);
    return out;
}
