/* test_step.c - bmvp_ssl.h: the three losses from their definitions, views and templates, what a step changes, ten
   steps against PyTorch in double. With TEST_CUDA the ten steps on a GPU. */
#include "tests/support/rig.h"
#include "tests/support/fixture.h"

/* >>losses
 * ------------------------------------------------------------------------------------------------------------- */

static double mean_square(const float *a, const float *b, int64_t n)
{
    double s = 0;
    int64_t i;
    for (i = 0; i < n; ++i) s += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return s / (double)n;
}

/* Symmetric InfoNCE from the features, rows of f and g being pairs. */
static double info_nce(const float *f, const float *g, int pairs, int64_t n, double tau)
{
    double logit[MAX_BATCH][MAX_BATCH], loss = 0;
    int i, j;
    for (i = 0; i < pairs; ++i)
        for (j = 0; j < pairs; ++j) {
            double fg = 0, ff = 0, gg = 0;
            int64_t k;
            for (k = 0; k < n; ++k) {
                fg += (double)f[i * n + k] * (double)g[j * n + k];
                ff += (double)f[i * n + k] * (double)f[i * n + k];
                gg += (double)g[j * n + k] * (double)g[j * n + k];
            }
            logit[i][j] = fg / sqrt(ff * gg) / tau;
        }
    for (i = 0; i < pairs; ++i) {
        double row = 0, col = 0;
        for (j = 0; j < pairs; ++j) {
            row += exp(logit[i][j]);
            col += exp(logit[j][i]);
        }
        loss += 0.5 * (log(row) - logit[i][i] + log(col) - logit[i][i]) / pairs;
    }
    return loss;
}

/* The losses from what the step reports as its reconstructions and features. */
static void test_losses_from_features(void)
{
    const double weight[3] = { 0.2, 0.5, 0.3 };
    bmvp_ssl_losses have;
    bmvp_tensor *rec = NULL;
    const bmvp_features *f;
    double md = 0, cmr = 0;
    int64_t n;
    rig r;
    int i;
    rig_config(&r, "paper");
    r.cfg.weight_cmr = 0.7;
    r.cfg.weight_md = 3;
    r.cfg.weight_cl = 0.25;
    r.cfg.temperature = 0.3;
    if (rig_begin(&r, NULL)) {
        for (i = 0; i < 3; ++i) r.item[i].weight = weight[i];
        bmvp_ssl_keep_features(r.s, 1);
        CHECK(bmvp_ssl_accumulate(r.s, r.item, 3, &have) == BMVP_OK);
        check_context(r.c);
        f = bmvp_ssl_features(r.s, &rec);
        if (CHECK(f->last && f->last->x && rec && rec->x && rec->dim[0] == 6)) {
            for (i = 0; i < 3; ++i) {
                md += weight[i] * mean_square(rec->x + i * CUBE, r.x[i], CUBE);
                cmr += weight[i] * mean_square(rec->x + (3 + i) * CUBE, r.x[i], CUBE);
            }
            n = f->last->numel / 6;
            CHECK_NEAR(have.md / md, 1, 1e-5);
            CHECK_NEAR(have.cmr / cmr, 1, 1e-5);
            CHECK_NEAR(have.cl / info_nce(f->last->x, f->last->x + 3 * n, 3, n, 0.3), 1, 1e-4);
        }
        CHECK_NEAR(have.total, 0.7 * have.cmr + 3 * have.md + 0.25 * have.cl, 1e-6 * have.total);
        CHECK(is_nan(have.grad_norm));
        CHECK(bmvp_ssl_update(r.s, 1e-3, &have) == BMVP_OK && have.grad_norm > 0 && bmvp_ssl_steps(r.s) == 1);
    }
    rig_end(&r);
}

/* One step with the given weights; parts that are off must be NaN, the others as in a step with all three. */
static void check_tasks(double cmr, double md, double cl)
{
    bmvp_ssl_losses have, all;
    rig r;
    float *before;
    int i;
    rig_config(&r, "paper");
    if (!rig_begin(&r, NULL)) return;
    CHECK(bmvp_ssl_accumulate(r.s, r.item, 2, &all) == BMVP_OK);
    rig_end(&r);
    rig_config(&r, "paper");
    r.cfg.weight_cmr = cmr;
    r.cfg.weight_md = md;
    r.cfg.weight_cl = cl;
    if (!rig_begin(&r, NULL)) return;
    before = copy_state(bmvp_ssl_state(r.s));
    CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &have) == BMVP_OK);
    check_context(r.c);
    CHECK(is_nan(have.cmr) == (cmr == 0) && is_nan(have.md) == (md == 0) && is_nan(have.cl) == (cl == 0));
    if (cmr > 0 && (md > 0 || cl > 0))
        CHECK_NEAR(have.cmr / all.cmr, 1, 1e-5); /* the same views: the same batch statistics */
    if (md > 0 && (cmr > 0 || cl > 0)) CHECK_NEAR(have.md / all.md, 1, 1e-5);
    if (cl > 0) CHECK_NEAR(have.cl / all.cl, 1, 1e-5);
    CHECK_NEAR(have.total, (cmr > 0 ? cmr * have.cmr : 0) + (md > 0 ? md * have.md : 0) + (cl > 0 ? cl * have.cl : 0),
               1e-6 * have.total);
    CHECK(have.total > 0 && have.grad_norm > 0 && count_changed(bmvp_ssl_state(r.s), before) > 20);
    for (i = 0; i < 3; ++i) /* template of an item of the batch, and only with a task that reads it */
        CHECK((bmvp_optim_count(bmvp_ssl_trainer(r.s)->optim, bmvp_ssl_state(r.s)->n - 3 + i)[0] == 1) ==
              (i < 2 && (md > 0 || cl > 0)));
    free(before);
    rig_end(&r);
}

static void test_task_switches(void)
{
    check_tasks(2, 0, 0);
    check_tasks(0, 2, 0);
    check_tasks(0, 0, 2);
    check_tasks(2, 3, 0);
    check_tasks(2, 0, 3);
    check_tasks(0, 2, 3);
    check_tasks(1, 2, 3);
}

static void test_single_modality(void)
{
    bmvp_ssl_losses have, pair;
    rig r;
    int all;
    for (all = 0; all < 2; ++all) {
        rig_config(&r, "paper");
        if (!rig_begin(&r, NULL)) return;
        r.item[1].other = NULL;
        if (all) r.item[0].other = r.item[2].other = NULL;
        CHECK(bmvp_ssl_step(r.s, r.item, 3, 1e-3, &have) == BMVP_OK);
        check_context(r.c);
        CHECK(is_nan(have.cmr) == all && is_nan(have.cl) == all && have.md > 0 && have.total > 0);
        if (!all) CHECK_NEAR(have.total, have.cmr + have.md + have.cl, 1e-6 * have.total);
        else CHECK_NEAR(have.total, have.md, 1e-6 * have.total);
        rig_end(&r);
    }
    rig_config(&r, "paper"); /* two pairs among three items: contrast of these two, weighed with their share */
    r.cfg.weight_cmr = r.cfg.weight_md = 0;
    if (rig_begin(&r, NULL)) {
        r.item[1].other = NULL;
        bmvp_ssl_keep_features(r.s, 1);
        CHECK(bmvp_ssl_accumulate(r.s, r.item, 3, &pair) == BMVP_OK);
        if (CHECK(bmvp_ssl_features(r.s, NULL)->last && bmvp_ssl_features(r.s, NULL)->last->dim[0] == 5)) {
            const int64_t n = bmvp_ssl_features(r.s, NULL)->last->numel / 5;
            float *f = bmvp_ssl_features(r.s, NULL)->last->x;
            memcpy(f + n, f + 2 * n, (size_t)n * sizeof *f); /* template views of items 0 and 2 side by side */
            CHECK_NEAR(pair.cl, 2.0 / 3 * info_nce(f, f + 3 * n, 2, n, 1), 1e-5);
        }
    }
    rig_end(&r);
    rig_config(&r,
               "paper"); /* only cross-modal reconstruction, and nobody has a pair: nothing to do, nothing changes */
    r.cfg.weight_md = r.cfg.weight_cl = 0;
    if (rig_begin(&r, NULL)) {
        float *before = copy_state(bmvp_ssl_state(r.s));
        r.item[0].other = r.item[1].other = NULL;
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &have) == BMVP_OK);
        CHECK(is_nan(have.cmr) && is_nan(have.md) && is_nan(have.cl));
        CHECK(count_changed(bmvp_ssl_state(r.s), before) == 0 && bmvp_ssl_steps(r.s) == 1);
        check_context(r.c);
        free(before);
    }
    rig_end(&r);
}

static void test_epochs_of_tasks(void)
{
    bmvp_ssl_losses have;
    rig r;
    int64_t epoch;
    rig_config(&r, "paper");
    r.cfg.contrast_from_epoch = 2;
    r.cfg.template_only_epochs = 1;
    if (rig_begin(&r, NULL)) {
        for (epoch = 0; epoch < 4; ++epoch) {
            bmvp_ssl_set_epoch(r.s, epoch);
            CHECK(bmvp_ssl_accumulate(r.s, r.item, 2, &have) == BMVP_OK);
            CHECK(is_nan(have.cl) == (epoch < 2) && !is_nan(have.cmr) && !is_nan(have.md));
            r.item[0].mask_modal = r.item[0].mask_template;
            r.item[1].mask_modal = r.item[1].mask_template;
            CHECK(bmvp_ssl_accumulate(r.s, r.item, 2, &have) == BMVP_OK);
            if (epoch < 1)
                CHECK_NEAR(have.cmr / have.md, 1, 1e-6); /* both views from the template: with equal masks the same */
            else CHECK(fabs(have.cmr / have.md - 1) > 1e-6);
            r.item[0].mask_modal = r.mask[1];
            r.item[1].mask_modal = r.mask[3];
        }
        check_context(r.c);
    }
    rig_end(&r);
}

/* >>templates
 * ------------------------------------------------------------------------------------------------------------ */

/* Gradient in the masked voxels of the crop and nowhere else; only in the templates of the batch. */
static void test_template_gradient(void)
{
    const bmvp_tensor *t;
    int64_t z, y, x, wrong = 0, zero = 0, masked = 0;
    rig r;
    int a;
    rig_config(&r, "paper");
    if (rig_begin(&r, NULL)) {
        const int64_t start[3] = { -3, 5, 20 }; /* reaches out of the grid of 36 x 40 x 44 on two sides */
        memcpy(r.item[0].template_start, start, sizeof start);
        CHECK(bmvp_ssl_accumulate(r.s, r.item, 1, NULL) == BMVP_OK);
        t = bmvp_ssl_template(r.s, 0);
        CHECK(bmvp_has_grad(t) && !bmvp_has_grad(bmvp_ssl_template(r.s, 1)) &&
              !bmvp_has_grad(bmvp_ssl_template(r.s, 2)));
        CHECK(bmvp_ssl_template(r.s, 3) == NULL && bmvp_ssl_template(r.s, -1) == NULL);
        for (z = 0; z < t->dim[0]; ++z)
            for (y = 0; y < t->dim[1]; ++y)
                for (x = 0; x < t->dim[2]; ++x) {
                    const int64_t at[3] = { z - start[0], y - start[1], x - start[2] };
                    const float g = t->g[(z * t->dim[1] + y) * t->dim[2] + x];
                    int in = 1;
                    for (a = 0; a < 3; ++a) in = in && at[a] >= 0 && at[a] < EDGE;
                    in = in && r.mask[0][(at[0] * EDGE + at[1]) * EDGE + at[2]] == 1.0f;
                    wrong += !in && g != 0.0f;
                    zero += in && g == 0.0f;
                    masked += in;
                }
        CHECK(masked > 5000 && wrong == 0 && zero * 100 < masked);
    }
    rig_end(&r);
}

/* Both masked views and both values of a template, from their definition; then that looking changes nothing. */
static void test_views(void)
{
    bmvp_ssl_preview look;
    float *view[2], *rec[2], *before;
    int64_t z, y, x;
    rig r;
    int minmax, i;
    for (minmax = 0; minmax < 2; ++minmax) {
        rig_config(&r, "paper");
        r.cfg.template_value = minmax;
        r.cfg.template_eps = 0.5;
        if (!rig_begin(&r, NULL)) return;
        for (i = 0; i < 2; ++i) {
            view[i] = floats(CUBE);
            rec[i] = floats(CUBE);
        }
        look.view_modal = view[0];
        look.view_template = view[1];
        look.rec_modal = rec[0];
        look.rec_template = rec[1];
        r.item[1].template_start[0] = 20;
        r.item[1].template_start[1] = -7;
        before = copy_state(bmvp_ssl_state(r.s));
        CHECK(bmvp_ssl_look(r.s, &r.item[1], &look) == BMVP_OK);
        check_context(r.c);
        {
            const bmvp_tensor *t = bmvp_ssl_template(r.s, 1);
            double low = 1e9, high = -1e9;
            int64_t wrong = 0;
            for (x = 0; x < t->numel; ++x) {
                low = (double)t->x[x] < low ? (double)t->x[x] : low;
                high = (double)t->x[x] > high ? (double)t->x[x] : high;
            }
            for (z = 0; z < EDGE; ++z)
                for (y = 0; y < EDGE; ++y)
                    for (x = 0; x < EDGE; ++x) {
                        const int64_t at = (z * EDGE + y) * EDGE + x, tz = z + 20, ty = y - 7, tx = x + 3;
                        const int in = tz < t->dim[0] && ty >= 0 && ty < t->dim[1] && tx < t->dim[2];
                        double fill = in ? (double)t->x[(tz * t->dim[1] + ty) * t->dim[2] + tx] : 0;
                        if (minmax && in) fill = (fill - low) / (high - low + 0.5);
                        if (r.mask[2][at] == 0.0f) fill = (double)r.x[1][at];
                        wrong += !(fabs((double)view[1][at] - fill) <= 1e-6);
                        wrong += view[0][at] != (r.mask[3][at] == 1.0f ? r.other[1][at] : r.x[1][at]);
                    }
            CHECK(wrong == 0);
        }
        CHECK(mean_square(rec[0], rec[1], CUBE) > 0 && mean_square(rec[0], r.x[1], CUBE) < 1e3);
        CHECK(count_changed(bmvp_ssl_state(r.s), before) == 0 && bmvp_ssl_steps(r.s) == 0);
        memset(&look, 0, sizeof look);
        CHECK(bmvp_ssl_look(r.s, &r.item[1], &look) == BMVP_OK); /* nothing wanted */
        for (i = 0; i < 2; ++i) {
            free(view[i]);
            free(rec[i]);
        }
        free(before);
        rig_end(&r);
    }
}

/* The share of a view that is filled, found by a crop of zeros and a filler of ones. */
static double drawn_mask(rig *r, uint32_t slot, int modal, float *view)
{
    bmvp_ssl_preview look;
    bmvp_ssl_item item = r->item[0];
    memset(&look, 0, sizeof look);
    item.mask_template = item.mask_modal = NULL;
    item.x = r->x[2];
    item.other = r->x[3];
    item.slot = slot;
    memset(item.template_start, 0, sizeof item.template_start);
    if (modal) look.view_modal = view;
    else look.view_template = view;
    CHECK(bmvp_ssl_look(r->s, &item, &look) == BMVP_OK);
    return (double)count_ones(view, CUBE) / CUBE;
}

/* Masks nobody gave: drawn with the ratio of the settings, of one kind or the other, anew for each view, item and step.
 */
static void test_drawn_masks(void)
{
    float *view[5];
    rig r;
    int form, i, j;
    for (form = 0; form < 2; ++form) {
        rig_config(&r, "paper");
        r.cfg.mask_form = form;
        r.cfg.mask_ratio = 0.75;
        if (!rig_begin(&r, NULL)) return;
        bmvp_fill(r.c, bmvp_ssl_template(r.s, 0), 1);
        for (i = 0; i < CUBE; ++i) r.x[2][i] = 0, r.x[3][i] = 1;
        for (i = 0; i < 5; ++i) view[i] = floats(CUBE);
        for (i = 0; i < 4; ++i) { /* slots 0 and 1, template and modal view */
            const double share = drawn_mask(&r, (uint32_t)(i / 2), i % 2, view[i]);
            const int64_t dim[3] = { EDGE, EDGE, EDGE };
            if (form == BMVP_MASK_BLOCKS) CHECK(share == 0.75 && kept_blocks(view[i], dim, 8) == 16);
            else CHECK(share >= 0.75 && share < 0.75 + 512.0 / CUBE && kept_blocks(view[i], dim, 8) == -1);
        }
        (void)drawn_mask(&r, 0, 0, view[4]);
        CHECK(memcmp(view[0], view[4], CUBE * sizeof(float)) == 0); /* the same in the same step */
        CHECK(bmvp_ssl_step(r.s, r.item, 1, 0, NULL) == BMVP_OK);
        bmvp_fill(r.c, bmvp_ssl_template(r.s, 0), 1);
        (void)drawn_mask(&r, 0, 0, view[4]);
        for (i = 0; i < 5; ++i)
            for (j = 0; j < i; ++j) CHECK(memcmp(view[i], view[j], CUBE * sizeof(float)) != 0);
        check_context(r.c);
        for (i = 0; i < 5; ++i) free(view[i]);
        rig_end(&r);
    }
}

/* Losses of a step are those of its passes together, whether or not they were asked for at once; a loaded run takes its
   steps again. */
static void test_losses_of_steps(void)
{
    bmvp_ssl_losses part[2], all, again;
    char path[256];
    bmvp_error err;
    rig r;
    int i;
    rig_config(&r, "fast");
    if (!rig_begin(&r, NULL)) return;
    memset(&err, 0, sizeof err);
    temporary(path, sizeof path, "losses");
    CHECK(bmvp_ssl_losses_of(r.s, 0, &all) == BMVP_E_ARG);
    bmvp_clear_error(r.c);
    for (i = 0; i < 2; ++i) CHECK(bmvp_ssl_accumulate(r.s, &r.item[i], 1, &part[i]) == BMVP_OK);
    CHECK(bmvp_ssl_update(r.s, 1e-3, &part[1]) == BMVP_OK && bmvp_ssl_losses_of(r.s, 0, &all) == BMVP_OK);
    CHECK(all.total == part[0].total + part[1].total && all.md == part[0].md + part[1].md &&
          all.grad_norm == part[1].grad_norm);
    check_report(!bmvp_ssl_save(r.s, path, NULL, &err), __FILE__, __LINE__, "%s", err.message);
    for (i = 0; i < 2; ++i) {
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, i ? &again : NULL) == BMVP_OK &&
              bmvp_ssl_losses_of(r.s, 1, i ? &again : &all) == BMVP_OK);
        CHECK(bmvp_ssl_load(r.s, path, &err) == BMVP_OK);
        CHECK(bmvp_ssl_losses_of(r.s, 1, &part[0]) == BMVP_E_ARG);
        bmvp_clear_error(r.c);
    }
    CHECK(all.total > 0 && again.total == all.total && again.grad_norm == all.grad_norm);
    remove(path);
    rig_end(&r);
}

/* A step after looking is the same step. */
static void test_look_leaves_no_trace(void)
{
    bmvp_ssl_preview look;
    bmvp_ssl_losses la, lb;
    float *rec = floats(CUBE);
    rig a, b;
    rig_config(&a, "fast");
    rig_config(&b, "fast");
    memset(&look, 0, sizeof look);
    look.rec_template = rec;
    if (rig_begin(&a, NULL) && rig_begin(&b, NULL)) {
        CHECK(bmvp_ssl_look(b.s, &b.item[0], &look) == BMVP_OK);
        CHECK(bmvp_ssl_step(a.s, a.item, 2, 1e-3, &la) == BMVP_OK &&
              bmvp_ssl_step(b.s, b.item, 2, 1e-3, &lb) == BMVP_OK);
        CHECK(la.total == lb.total);
        check_equal_runs(a.s, b.s, "after looking");
    }
    rig_end(&a);
    rig_end(&b);
    free(rec);
}

/* >>steps
 * ---------------------------------------------------------------------------------------------------------------- */

/* The exact mean over a case's modalities: gradient of the step = mean of the gradients of single passes. */
static void test_all_modalities_is_the_mean(void)
{
    bmvp_ssl_losses one, sum[2];
    const bmvp_state_list *l;
    float *mean = NULL;
    int64_t n, k;
    double total = 0;
    rig r;
    int i, m;
    for (m = 0; m < 3; ++m) { /* two single passes, then both with half the weight */
        rig_config(&r, "paper");
        if (!rig_begin(&r, NULL)) return;
        l = bmvp_ssl_state(r.s);
        for (i = 0, n = 0; i < l->n; ++i) n += l->item[i].t->numel;
        if (!mean) mean = floats(n);
        r.item[2].modality = 1; /* items 0, 1 are one modality of two cases, 2, 3 the other */
        if (m < 2) CHECK(bmvp_ssl_accumulate(r.s, &r.item[2 * m], 2, &one) == BMVP_OK);
        for (i = 0; i < 4 && m == 2; ++i) r.item[i].weight = 0.25;
        for (i = 0; i < 2 && m == 2; ++i) CHECK(bmvp_ssl_accumulate(r.s, &r.item[2 * i], 2, &sum[i]) == BMVP_OK);
        check_context(r.c);
        if (m < 2) total += one.total / 2;
        for (i = 0, n = 0; i < l->n; n += l->item[i].t->numel, ++i)
            if (bmvp_has_grad(l->item[i].t)) {
                if (m < 2)
                    for (k = 0; k < l->item[i].t->numel; ++k) mean[n + k] += 0.5f * l->item[i].t->g[k];
                else if (strcmp(l->item[i].name, zero_gradient) != 0)
                    CHECK_CLOSE(l->item[i].name, l->item[i].t->g, mean + n, l->item[i].t->numel, 1e-4);
            }
        rig_end(&r);
    }
    CHECK_NEAR(sum[0].total + sum[1].total, total, 1e-6 * total);
    free(mean);
}

static void test_accumulation(void)
{
    bmvp_ssl_losses loss;
    bmvp_error err;
    char path[400];
    float *before, *middle;
    rig r, once;
    int i;
    temporary(path, sizeof path, "pending");
    rig_config(&r, "paper");
    r.cfg.update_every = 2;
    r.cfg.optimizer = 1;
    r.cfg.weight_decay = 0;
    rig_config(&once, "paper");
    once.cfg.optimizer = 1;
    once.cfg.weight_decay = 0;
    if (rig_begin(&r, NULL) && rig_begin(&once, NULL)) {
        const bmvp_state_list *l = bmvp_ssl_state(r.s), *m = bmvp_ssl_state(once.s);
        before = copy_state(l);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 0.01, &loss) == BMVP_OK && is_nan(loss.grad_norm));
        CHECK(count_changed(l, before) == 0 && bmvp_ssl_steps(r.s) == 1);
        CHECK(bmvp_ssl_save(r.s, path, NULL, &err) == BMVP_E_STATE); /* gradients would be lost */
        CHECK_HOLDS(err.message, "update_every 2");
        CHECK(access(path, F_OK) != 0);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 0.01, &loss) == BMVP_OK && loss.grad_norm > 0);
        CHECK(count_changed(l, before) > 20 && bmvp_ssl_steps(r.s) == 2);
        CHECK(bmvp_ssl_step(once.s, once.item, 2, 0.02, &loss) == BMVP_OK); /* the sum of two equal gradients */
        middle = copy_state(m);
        for (i = 0; i < l->n; ++i)
            if (l->item[i].trained)
                CHECK_CLOSE(l->item[i].name, l->item[i].t->x, m->item[i].t->x, l->item[i].t->numel, 1e-5);
        check_context(r.c);
        free(before);
        free(middle);
    }
    rig_end(&r);
    rig_end(&once);
}

static void test_clipping(void)
{
    bmvp_ssl_losses loss;
    double square = 0;
    int64_t n = 0, k;
    rig r;
    int i;
    rig_config(&r, "paper");
    r.cfg.optimizer = 1;
    r.cfg.weight_decay = 0;
    r.cfg.template_lr_scale = 1;
    r.cfg.clip = 0.01;
    if (rig_begin(&r, NULL)) {
        const bmvp_state_list *l = bmvp_ssl_state(r.s);
        float *before = copy_state(l);
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1, &loss) == BMVP_OK && loss.grad_norm > 0.01);
        for (i = 0; i < l->n; n += l->item[i].t->numel, ++i)
            for (k = 0; l->item[i].trained && k < l->item[i].t->numel; ++k) {
                const double d = (double)l->item[i].t->x[k] - (double)before[n + k];
                square += d * d;
            }
        CHECK_NEAR(sqrt(square), 0.01, 1e-4);
        free(before);
    }
    rig_end(&r);
}

/* In `release` the optimizer sees zeros for templates that were not in the batch: they decay. */
static void test_template_update_all(void)
{
    bmvp_ssl_losses loss;
    rig r;
    int all;
    for (all = 0; all < 2; ++all) {
        rig_config(&r, "paper");
        r.cfg.template_update_all = all;
        r.cfg.weight_decay = 0.5;
        if (rig_begin(&r, NULL)) {
            const float was = bmvp_ssl_template(r.s, 2)->x[7];
            CHECK(bmvp_ssl_step(r.s, r.item, 2, 0.1, &loss) == BMVP_OK);
            CHECK_NEAR((double)bmvp_ssl_template(r.s, 2)->x[7], (double)was * (all ? 0.95 : 1), 1e-7);
        }
        rig_end(&r);
    }
}

/* A step that cannot be used says so and leaves the parameters alone. */
static void test_not_finite(void)
{
    bmvp_ssl_losses loss;
    rig r;
    rig_config(&r, "paper");
    if (rig_begin(&r, NULL)) {
        float *before = copy_state(bmvp_ssl_state(r.s));
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 0, &loss) == BMVP_OK);
        r.x[1][77] = (float)NAN;
        CHECK(bmvp_ssl_step(r.s, r.item, 2, 1e-3, &loss) == BMVP_E_STATE);
        CHECK_HOLDS(bmvp_error_of(r.c)->message, "step 1");
        CHECK(count_changed(bmvp_ssl_state(r.s), before) == 0);
        free(before);
    }
    rig_end(&r);
}

static void test_schedule_of_run(void)
{
    bmvp_ssl_losses loss;
    rig r;
    rig_config(&r, "fast");
    r.cfg.lr = 0.01;
    r.cfg.warmup = 1;
    r.cfg.lr_floor = 1e-3;
    if (rig_begin(&r, NULL)) {
        CHECK_NEAR(bmvp_ssl_lr(r.s, 11), 0.005, 1e-12);
        CHECK(bmvp_ssl_step(r.s, r.item, 1, 0, &loss) == BMVP_OK);
        CHECK_NEAR(bmvp_ssl_lr(r.s, 11), 0.01, 1e-12);
        CHECK(bmvp_ssl_step(r.s, r.item, 1, 0, &loss) == BMVP_OK);
        CHECK_NEAR(bmvp_ssl_lr(r.s, 11), 0.001 + 0.009 * 0.5 * (1 + cos(3.14159265358979 / 10)), 1e-9);
        bmvp_ssl_config_of(r.s)->half_period = 1;
        CHECK_NEAR(bmvp_ssl_lr(r.s, 11), 0.001 + 0.009 * 0.5 * (1 + cos(3.14159265358979 / 5)), 1e-9);
    }
    rig_end(&r);
}

/* >>fixture: ten steps of the whole method against PyTorch in double
 * ------------------------------------------------------- */

enum { FIXTURE_STEPS = 10 };

static void check_fixture_tensor(bmvp_ckpt *f, const char *kind, const bmvp_state *s, const float *ours, double tol,
                                 double floor)
{
    char name[200];
    const char *text;
    fixture_tensor want;
    float *torch = floats(s->t->numel);
    double square = 0, rms, worst = 0;
    int64_t step, i, n = 0;
    snprintf(name, sizeof name, "%s.%s", kind, s->stacked ? "template" : s->name);
    text = fixture_text(f, "%s.step", name);
    want = fixture_load(f, "%s", name);
    step = text ? strtoll(text, NULL, 10) : 1;
    if (s->stacked) memcpy(torch, ours, (size_t)s->t->numel * sizeof *torch); /* stored in our order */
    else bmvp_state_to_torch(s, ours, torch);
    if (check_report(want.x && text, __FILE__, __LINE__, "%s is missing", name)) {
        for (i = 0; i < want.numel; ++i) square += (double)want.x[i] * (double)want.x[i];
        rms = sqrt(square / (double)want.numel);
        for (i = 0; i < s->t->numel; i += step, ++n) {
            const double used = fabs((double)torch[i] - (double)want.x[n]) / (tol * rms + floor);
            worst = used <= worst ? worst : used == used ? used : HUGE_VAL;
        }
        check_report(worst <= 1 && n == want.numel, __FILE__, __LINE__, "%s: %.0f%% of the allowance", name,
                     100 * worst);
        if (worst <= 1 && worst > check_all.most_used) {
            check_all.most_used = worst;
            snprintf(check_all.most_used_by, sizeof check_all.most_used_by, "%s", name);
        }
    }
    free(torch);
    free(want.x);
}

static void check_fixture_gradients(bmvp_ckpt *f, const rig *r)
{
    const bmvp_state_list *l = bmvp_ssl_state(r->s);
    float *g;
    int i, n = 0;
    for (i = 0; i < l->n; ++i) {
        const bmvp_state *e = &l->item[i];
        if (strcmp(e->name, "encoder.uniformer.patch_embed1.proj.weight") != 0 &&
            strcmp(e->name, "decoder.out_1.conv.conv.weight") != 0 &&
            strcmp(e->name, "encoder.uniformer.blocks3.0.attn.qkv.weight") != 0 && !(e->stacked && e->part == 1))
            continue;
        g = device_copy(r->c, e->t, 1);
        if (CHECK(g != NULL)) check_fixture_tensor(f, "grad", e, g, 1e-3, 0);
        free(g);
        ++n;
    }
    CHECK(n == 4);
}

/* AdamW turns the rounding noise of a zero gradient into whole steps: ten steps of 3e-4 are allowed where that is so.
 */
static void check_fixture_end(bmvp_ckpt *f, const rig *r)
{
    const bmvp_state_list *l = bmvp_ssl_state(r->s);
    float *x;
    int i, n = 0;
    for (i = 0; i < l->n; ++i) {
        const bmvp_state *e = &l->item[i];
        const int noise = formula_ends_with(e->name, "qkv.bias") || strcmp(e->name, zero_gradient) == 0;
        if ((e->stacked && e->part != 1) || e->torch_rank == 0 || strstr(e->name, "conv_block") ||
            strstr(e->name, "proj1."))
            continue;
        x = device_copy(r->c, e->t, 0);
        if (CHECK(x != NULL))
            check_fixture_tensor(f, "after", e, x, e->trained ? 1e-4 : 1e-3,
                                 !e->trained ? 0
                                 : noise     ? 10 * 3e-4 * 1.1
                                             : 3e-5);
        free(x);
        ++n;
    }
    CHECK(n == 109);
}

static void test_ten_steps(void)
{
    static const char *const names[2] = { "flair", "t1" };
    bmvp_ckpt *f = fixture_open("nets/pretrain_tiny.safetensors");
    const int64_t dim[3] = { EDGE, EDGE, EDGE };
    int64_t whole[3], start[2][3], grid[3];
    fixture_tensor curve;
    bmvp_ssl_losses have;
    rig r;
    int i, step;
    if (!f) return;
    rig_config(&r, "release");
    r.net.depth[2] = 2;
    CHECK(fixture_numbers(fixture_text(f, "template"), whole, 3) == 3); /* X, Y, Z */
    CHECK(fixture_numbers(fixture_text(f, "start0"), start[0], 3) == 3 &&
          fixture_numbers(fixture_text(f, "start1"), start[1], 3) == 3);
    for (i = 0; i < 3; ++i) grid[i] = whole[2 - i];
    curve = fixture_load(f, "losses");
    if (!CHECK(curve.x && curve.numel == 4 * FIXTURE_STEPS) || !rig_begin(&r, NULL)) return;
    bmvp_ssl_destroy(r.s);
    r.s = bmvp_ssl_create(r.c, &r.net, &r.cfg, 2, names, grid);
    if (CHECK(r.s && formula_state(r.c, bmvp_ssl_state(r.s), 0))) {
        for (i = 0; i < 2; ++i) {
            int a;
            formula_volume(i, 1, dim, r.x[i]);
            CHECK(formula_mask(i, 0, EDGE, r.mask[2 * i]) && formula_mask(2 + i, 0, EDGE, r.mask[2 * i + 1]));
            r.item[i].modality = 1;
            for (a = 0; a < 3; ++a) r.item[i].template_start[a] = start[i][2 - a];
        }
        for (step = 0; step < FIXTURE_STEPS; ++step) {
            const float *want = curve.x + 4 * step;
            if (!CHECK(bmvp_ssl_accumulate(r.s, r.item, 2, &have) == BMVP_OK)) break;
            if (step == 0) check_fixture_gradients(f, &r);
            CHECK_NEAR(have.md / (double)want[0], 1, step ? 1e-4 : 1e-5);
            CHECK_NEAR(have.cmr / (double)want[1], 1, step ? 1e-4 : 1e-5);
            CHECK_NEAR(have.cl / (double)want[2], 1, step ? 1e-4 : 1e-5);
            CHECK_NEAR(have.total / (double)want[3], 1, step ? 1e-4 : 1e-5);
            CHECK(bmvp_ssl_update(r.s, 3e-4, &have) == BMVP_OK);
        }
        check_context(r.c);
        check_fixture_end(f, &r);
    }
    free(curve.x);
    rig_end(&r);
    bmvp_ckpt_close(f);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    if (!device_open()) return check_end();
    CHECK_RUN(test_ten_steps);
    if (DEVICE_IS_GPU) {
        device_close();
        return check_end();
    }
    CHECK_RUN(test_losses_from_features);
    CHECK_RUN(test_task_switches);
    CHECK_RUN(test_single_modality);
    CHECK_RUN(test_epochs_of_tasks);
    CHECK_RUN(test_template_gradient);
    CHECK_RUN(test_views);
    CHECK_RUN(test_drawn_masks);
    CHECK_RUN(test_losses_of_steps);
    CHECK_RUN(test_look_leaves_no_trace);
    CHECK_RUN(test_all_modalities_is_the_mean);
    CHECK_RUN(test_accumulation);
    CHECK_RUN(test_clipping);
    CHECK_RUN(test_template_update_all);
    CHECK_RUN(test_not_finite);
    CHECK_RUN(test_schedule_of_run);
    return check_end();
}
