/* tree.h - the volumes below a folder: their paths relative to it, sorted */
#ifndef TREE_H_INCLUDED
#define TREE_H_INCLUDED

#include <stddef.h>
#include "bmvp_tensor.h"

typedef struct tree {
    char **path;
    size_t n, cap;
    char **closed; /* folders that were not looked into, each followed by the reason */
    size_t n_closed;
} tree;

enum { TREE_DEPTH = 12, TREE_TEXT = 1024 };

/* Files that role_is_volume takes, hidden ones left out; links to folders are followed, not in circles. Folders that
   cannot be read, or are deeper than TREE_DEPTH, are `closed`. */
bmvp_status tree_read(tree *t, const char *root, bmvp_error *err);
void tree_free(tree *t);
/* The folder of path i, "" at the top: into out. */
const char *tree_folder(const tree *t, size_t i, char *out, size_t size);
/* Part k (from 0) of a path's folders, into out; NULL: it has fewer. k < 0: from the last. */
const char *path_part(const char *path, int k, char *out, size_t size);

#endif
