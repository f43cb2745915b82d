/* templates.c - see templates.h */
#include "templates.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static double spacing_of(const char *preparation)
{
    bmvp_json_doc *doc = NULL;
    double mm = NAN;
    if (preparation && *preparation &&
        bmvp_json_parse(preparation, strlen(preparation), "preparation", NULL, &doc, NULL) == BMVP_OK)
        mm = bmvp_json_double(bmvp_json_get(bmvp_json_root(doc), "spacing"), NAN);
    bmvp_json_free(doc);
    return mm;
}

static int one_lacks(const prepared_set *p, const int64_t *from, int64_t n)
{
    const uint32_t all = ((uint32_t)1 << p->n_modalities) - 1;
    int64_t j;
    for (j = 0; j < n; ++j)
        if (p->cases[from[j]].modalities != all) return 1;
    return 0;
}

int templates_used(const finetune_data *d, const bmvp_ft_config *cfg)
{
    return cfg->copies || one_lacks(&d->all, d->train, d->n_train) || one_lacks(&d->all, d->val, d->n_val);
}

bmvp_status templates_look(const char *init, const finetune_data *d, const char *preparation, int64_t grid[3],
                           char *why, size_t size, bmvp_error *err)
{
    const char *const *names = NULL;
    const bmvp_ckpt_meta *m;
    bmvp_ckpt *f = NULL;
    bmvp_ft_info fine;
    bmvp_ssl_info pre;
    bmvp_error other;
    bmvp_status st = BMVP_OK;
    double theirs, ours = spacing_of(preparation);
    int n = 0, i, k;
    why[0] = 0;
    if (bmvp_ft_inspect(init, &fine, &other) == BMVP_OK)
        names = fine.names, n = fine.n_modalities, memcpy(grid, fine.grid, sizeof fine.grid);
    else if ((st = bmvp_ssl_inspect(init, &pre, err)) == BMVP_OK)
        names = pre.names, n = pre.n_modalities, memcpy(grid, pre.grid, sizeof pre.grid);
    if (!st) st = bmvp_ckpt_open(init, NULL, &f, err);
    if (st) return st;
    m = bmvp_ckpt_find_meta(f, "", "preparation");
    theirs = spacing_of(m ? m->value : NULL);
    bmvp_ckpt_close(f);
    if (grid[0] == 0) snprintf(why, size, "%s holds no templates", init);
    else if (fabs(theirs - ours) > 1e-6)
        snprintf(why, size, "%s was trained on voxels of %g mm, %s has %g mm: its templates do not fit (`bmvp prepare "
                 "--spacing %g` makes data that they fit)", init, theirs, d->all.data.path, ours, theirs);
    for (i = 0; i < d->all.n_modalities && !why[0]; ++i) {
        for (k = 0; k < n && strcmp(names[k], d->all.names[i]) != 0; ++k) { }
        if (k == n) snprintf(why, size, "%s has no template of %s", init, d->all.names[i]);
    }
    return BMVP_OK;
}
