/* learnable.c - what cannot be learned, see learnable.h */
#include "learnable.h"
#include <stdio.h>
#include <string.h>

/* A rate of 0, or one that never gets as high as it was told to. */
static void say_rate(const void *config, int64_t steps)
{
    bmvp_run_config k;
    memcpy(&k, config, sizeof k); /* a config begins with these */
    if (k.lr == 0 && k.lr_floor == 0) printf("rate     lr is 0: nothing moves, nothing is learned\n");
    else if (k.warmup >= steps && steps > 0)
        printf("rate     the warm-up of %d steps is not over when the run ends after %lld: lr gets to %.2e of %.2e\n",
               k.warmup, (long long)steps, k.lr * (double)steps / (double)(k.warmup + 1), k.lr);
}

/* Cases with two modalities or more: two of the three tasks compare these. */
static int64_t count_pairs(const prepared_set *p)
{
    int64_t i, n = 0;
    for (i = 0; i < p->data.n; ++i) n += (p->cases[i].modalities & (p->cases[i].modalities - 1)) != 0;
    return n;
}

/* Why the contrastive loss has nothing to compare; NULL: it has. */
static const char *no_contrast(const bmvp_ssl_config *k, int64_t pairs, int ranks, int64_t last)
{
    const int together = k->gather_negatives ? k->batch : (k->batch + ranks - 1) / ranks;
    if (pairs == 0) return "no case has two modalities";
    if (together < 2)
        return k->batch < 2 ? "it compares the cases of a step, and batch is 1"
                            : "it compares the cases of a rank (gather_negatives 0), and each has one of the batch";
    if (pairs == 1) return "it compares cases, and only one has two modalities";
    return last < k->contrast_from_epoch ? "the run ends before contrast_from_epoch" : NULL;
}

/* The share of batches that hold fewer than two of `pairs` cases: each of n cases comes once before any comes again. */
static double lonely_share(int64_t n, int64_t pairs, int batch)
{
    double none = 1, one;
    int i;
    if (batch > n) batch = (int)n;
    for (i = 0; i < batch; ++i) none *= (double)(n - pairs - i > 0 ? n - pairs - i : 0) / (double)(n - i);
    one = (double)batch * (double)pairs / (double)n;
    for (i = 0; i < batch - 1; ++i) one *= (double)(n - pairs - i > 0 ? n - pairs - i : 0) / (double)(n - 1 - i);
    return none + one;
}

/* A batch in which one case has two modalities, or none, has nothing to contrast that case with. */
static void say_lonely(const bmvp_ssl_config *k, int64_t n, int64_t pairs, int ranks)
{
    const int together = k->gather_negatives ? k->batch : (k->batch + ranks - 1) / ranks;
    const double share = lonely_share(n, pairs, together);
    if (share >= 0.05)
        printf("tasks    modality contrast (cl) has no negatives in %.0f %% of the batches: fewer than two of their %d "
               "cases have two modalities; a larger --batch helps\n",
               100 * share, together);
}

static const char *no_reconstruction(const bmvp_ssl_config *k, int64_t pairs, int64_t last)
{
    if (pairs == 0) return "no case has two modalities";
    return last < k->template_only_epochs ? "the run ends before template_only_epochs: no view shows another modality"
                                          : NULL;
}

static int say_task(const char *task, double weight, const char *why, int say)
{
    if (weight > 0 && why && say) printf("tasks    %s is not possible: %s\n", task, why);
    return weight > 0 && !why;
}

bmvp_status learnable_tasks(const prepared_set *p, const bmvp_ssl_config *cfg, int ranks, int64_t steps,
                            int64_t samples, int say, bmvp_error *err)
{
    const int64_t pairs = count_pairs(p), last = samples > 0 ? (samples - 1) / p->data.n : 0;
    int contrast, left;
    left = say_task("cross-modal reconstruction (cmr)", cfg->weight_cmr, no_reconstruction(cfg, pairs, last), say);
    left += say_task("modality-wise distillation (md)", cfg->weight_md, NULL, say);
    contrast = say_task("modality contrast (cl)", cfg->weight_cl, no_contrast(cfg, pairs, ranks, last), say);
    if (contrast && say) say_lonely(cfg, p->data.n, pairs, ranks);
    if (say && cfg->mask_ratio == 0) printf("tasks    mask_ratio is 0: nothing is hidden, to reconstruct is to copy\n");
    if (say) say_rate(cfg, steps);
    return left + contrast
               ? BMVP_OK
               : bmvp_error_set(err, BMVP_E_ARG,
                                 "nothing can be learned from %s with these settings: of the three tasks those that "
                                 "are on (weight_cmr, weight_md, weight_cl) are not possible",
                                 p->data.path);
}

/* >>fine-tuning ---------------------------------------------------------------------------------------------------- */

static int is_among(const int64_t *index, int64_t n, int64_t i)
{
    int64_t j;
    for (j = 0; j < n && index[j] != i; ++j) { }
    return j < n;
}

static int trains_on(const finetune_data *d, int64_t i) { return is_among(d->train, d->n_train, i); }

/* In a part or fold of the split, or taken anyway (--train all) */
static int is_used(const finetune_data *d, int64_t i)
{
    return d->split.part[i] >= 0 || d->split.fold[i] >= 0 || trains_on(d, i) || is_among(d->val, d->n_val, i);
}

/* Regions that no case for validation has: the best weights are chosen without them. */
static void say_absent(const finetune_data *d)
{
    const bmvp_labels *l = &d->all.data.labels;
    int r, there = 0;
    for (r = 0; r < l->n; ++r) there += d->val_voxels[r + l->exclusive] > 0;
    if (!there)
        printf("validate no voxel of any region in the cases to validate: there is no Dice, best.safetensors will hold "
               "the last weights\n");
    for (r = 0; there && r < l->n; ++r)
        if (d->val_voxels[r + l->exclusive] == 0)
            printf("validate no voxel of '%s' in the cases to validate: the best weights are chosen without it\n",
                   l->region[r]);
}

/* Cases of the list that no part of the split holds: new ones, where a run goes on. The first few are named. */
static void say_unused(const finetune_data *d)
{
    enum { NAMED = 5 };
    int64_t i, n = 0;
    for (i = 0; i < d->all.data.n; ++i) n += !is_used(d, i);
    if (!n) return;
    printf("split    %lld cases are in no part of it and not used:", (long long)n);
    for (i = n = 0; i < d->all.data.n; ++i)
        if (!is_used(d, i) && n++ < NAMED) printf(" %s", d->all.data.item[i].id);
    printf("%s\n", n > NAMED ? " .." : "");
}

static void say_validation(const finetune_data *d)
{
    int64_t j, seen = 0, same = 0;
    int k;
    if (!d->n_val) {
        printf("validate no case to validate: best.safetensors will hold the last weights\n");
        return;
    }
    for (j = 0; j < d->n_val; ++j) {
        seen += trains_on(d, d->val[j]);
        same += d->all.data.item[d->val[j]].class_index == d->all.data.item[d->val[0]].class_index;
    }
    if (seen)
        printf("validate %lld of %lld cases are trained on, too: the best weights are chosen by what was seen\n",
               (long long)seen, (long long)d->n_val);
    if (d->segment) say_absent(d);
    for (k = 0; k < d->classes && same < d->n_val; ++k)
        if (d->val_voxels[k] == 0) printf("validate no case to validate is of class %d\n", k);
    if (!d->segment && same == d->n_val)
        printf("validate all cases are of class %lld: there is no AUC to choose the best weights by\n",
               (long long)d->all.data.item[d->val[0]].class_index);
}

void learnable_labels(const finetune_data *d, const bmvp_ft_config *cfg, int64_t steps)
{
    const bmvp_labels *l = &d->all.data.labels;
    int r;
    for (r = 0; d->segment && r < l->n; ++r)
        if (d->voxels[r + l->exclusive] == 0)
            printf("labels   '%s' cannot be learned: no voxel of it in the training cases\n", l->region[r]);
    for (r = 0; !d->segment && r < d->classes; ++r)
        if (d->voxels[r] == 0) printf("classes  %d cannot be learned: no training case is of it\n", r);
    say_unused(d);
    say_validation(d);
    say_rate(cfg, steps);
}
