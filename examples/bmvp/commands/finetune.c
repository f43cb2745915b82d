/* finetune.c - `bmvp finetune`: a pre-trained encoder becomes a segmentation or classification network (method
   section 5) */
#define _DEFAULT_SOURCE
#include "commands.h"
#include "cli.h"
#include "device.h"
#include "learnable.h"
#include "resume.h"
#include "templates.h"
#include "train.h"
#include "weights.h"
#include "data/files.h"
#include "data/validation.h"
#include "report/finetune_report.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *data, *out, *init, *network, *split, *train, *val, *modalities, *labels, *set, *device;
    int preset, task, stem, fill, class_weights, resume, simd, precision, graph, plan, allow_absent, recompute;
    int64_t crop, batch, epochs, steps, seed, threads, fraction, classes, save_every, validate_every, stop_after;
    double lr;
} options;

typedef struct session { /* what one call of the command holds */
    options o;
    rank_group ranks;
    finetune_data data;
    bmvp_ft_config cfg;
    bmvp_net_config net;
    bmvp_ft_info run; /* with --resume: what its checkpoint says */
    const bmvp_backend *device; /* NULL: the CPU */
    bmvp_ctx *c, *scan; /* scan: threads for reading labels, before the memory of a step is known */
    bmvp_ft *ft;
    finetune_loader loader;
    train_loop loop;
    char preparation[512], train_part[64];
    resume_state past;
    run_length length;
    char *list; /* --data of the run that goes on, when it is not given */
    char *kept; /* what the checkpoint keeps of the command line */
    int64_t val_steps, scored; /* scored: step + 1 of `score` */
    validation_score score;
    validation_maps maps; /* for the report */
    double best; /* validation so far, NaN: none */
    int foreign; /* --init is a state dict of another program */
    int pending; /* a validation was interrupted: the checkpoint says so, and the next session does it first */
    bmvp_error err;
} session;

#define PENDING "validation_pending" /* in the checkpoint's metadata */

/* >>configuration -------------------------------------------------------------------------------------------------- */

/* 1: the file describes its network. */
static int says_itself(const char *path)
{
    bmvp_ckpt *f = NULL;
    const int says = bmvp_ckpt_open(path, NULL, &f, NULL) == BMVP_OK && bmvp_ckpt_find_meta(f, "", "run");
    bmvp_ckpt_close(f);
    return says;
}

/* A field of fine-tuning, or one of the network that no tensor of another program's file shows */
static bmvp_status set_field(void *user, const char *name, const char *value, bmvp_error *err)
{
    session *s = (session *)user;
    char text[64];
    if (!weights_unseen(&s->net, name)) return bmvp_ft_set(&s->cfg, name, value, err);
    if (s->o.resume || (s->o.init && !s->foreign))
        return bmvp_error_set(err, BMVP_E_ARG, "--set %s=%s: the checkpoint says itself what its network is", name,
                              value);
    snprintf(text, sizeof text, "%s=%s", name, value);
    return bmvp_net_config_set(&s->net, text, err);
}

/* The network: of the run that goes on, of --init, or of --network. */
static bmvp_status choose_network(session *s, const cli_option *opt, int n_opt, const bmvp_ft_info *run)
{
    const int named = cli_given(opt, n_opt, "network");
    bmvp_ssl_info pre;
    bmvp_ft_info fine;
    if (run) {
        s->net = run->net;
        if (cli_given(opt, n_opt, "task") && run->net.task != (s->o.task ? BMVP_TASK_CLASSIFY : BMVP_TASK_SEGMENT))
            return bmvp_error_set(&s->err, BMVP_E_ARG, "%s is a run of --task %s", s->o.out,
                                  s->o.task ? "segment" : "classify");
        return named && strcmp(run->net.name, s->o.network) != 0
                   ? bmvp_error_set(&s->err, BMVP_E_ARG, "%s is a run of %s, not of %s", s->o.out, run->net.name,
                                    s->o.network)
                   : BMVP_OK;
    }
    if (!bmvp_net_preset(s->o.network, &s->net))
        return bmvp_error_set(&s->err, BMVP_E_ARG, "--network %s: there are %s", s->o.network, bmvp_net_preset_names());
    if (s->o.init) {
        bmvp_error other;
        s->foreign = !says_itself(s->o.init);
        if (bmvp_ft_inspect(s->o.init, &fine, &other) == BMVP_OK) s->net = fine.net;
        else if (bmvp_ssl_inspect(s->o.init, &pre, &s->err)) return s->err.status;
        else s->net = pre.net;
        if (named && strcmp(s->net.name, s->o.network) != 0)
            return bmvp_error_set(&s->err, BMVP_E_ARG, "%s holds a %s, but --network says %s", s->o.init, s->net.name,
                                  s->o.network);
    }
    s->net.task = s->o.task ? BMVP_TASK_CLASSIFY : BMVP_TASK_SEGMENT;
    return BMVP_OK;
}

static const resume_option kept_options[] = { { "train", 1 },      { "fraction", 1 },       { "val", 1 },
                                              { "class-weights", 1 }, { "modalities", 0 },  { "labels", 0 },
                                              { "classes", 0 },    { "allow-absent", 0 },   { "validate-every", 0 },
                                              { "precision", 0 },  { NULL, 0 } };

/* What the run was started with. */
static bmvp_status look_back(session *s, const char *path, cli_option *opt, int n_opt)
{
    const options *o = &s->o;
    bmvp_ckpt *f = NULL;
    bmvp_status st = bmvp_ft_inspect(path, &s->run, &s->err);
    if (!st) st = bmvp_ckpt_open(path, NULL, &f, &s->err);
    if (!st) s->pending = bmvp_ckpt_find_meta(f, "", PENDING) != NULL;
    bmvp_ckpt_close(f);
    if (!st) st = resume_options(&s->past, "finetune", o->out, path, kept_options, opt, n_opt, &s->err);
    if (!st && o->init && ranks_lead(&s->ranks))
        printf("init     %s is not read: the weights are those of %s\n", o->init, path);
    return st;
}

/* Options given on the command line win over the preset (or, with --resume, over the stored run). */
static bmvp_status configure(session *s, cli_option *opt, int n_opt)
{
    static const char *const presets[] = { "paper", "release", "fast" };
    const options *o = &s->o;
    char *path = run_file(o->out, "checkpoint.safetensors");
    const int exists = path && file_exists(path);
    bmvp_status st = BMVP_OK;
    s->best = NAN;
    if (!o->data && !o->resume)
        st = bmvp_error_set(&s->err, BMVP_E_ARG, "--data is required (prepared cases: what `bmvp prepare` wrote)");
    else if (o->resume && !exists)
        st = bmvp_error_set(&s->err, BMVP_E_IO, "%s: nothing to resume; leave out --resume to start a run",
                            path ? path : o->out);
    else if (!o->resume && exists && !o->plan)
        st = bmvp_error_set(&s->err, BMVP_E_ARG,
                            "%s already holds a run: --resume goes on with it, another --out starts a new one", o->out);
    if (!st && o->resume) st = look_back(s, path, opt, n_opt);
    free(path);
    if (!st) st = choose_network(s, opt, n_opt, o->resume ? &s->run : NULL);
    if (st) return st;
    (void)bmvp_ft_preset(presets[o->preset], s->net.task, s->net.kind, &s->cfg);
    if (o->resume && !cli_given(opt, n_opt, "preset")) s->cfg = s->run.cfg;
    if (o->resume) s->best = s->run.best;
    if (cli_given(opt, n_opt, "crop")) s->cfg.crop_x = s->cfg.crop_y = s->cfg.crop_z = (int)o->crop;
    if (cli_given(opt, n_opt, "batch")) s->cfg.batch = (int)o->batch;
    if (cli_given(opt, n_opt, "epochs")) s->cfg.epochs = (int)o->epochs;
    if (cli_given(opt, n_opt, "lr")) s->cfg.lr = o->lr;
    if (cli_given(opt, n_opt, "seed")) s->cfg.seed = (int)o->seed;
    if (cli_given(opt, n_opt, "fill")) s->cfg.fill = o->fill;
    if (o->recompute) s->cfg.recompute = 1;
    st = run_apply_settings(s, set_field, o->set, &s->err);
    if (!st && o->resume) resume_settings(&s->past, bmvp_ft_method()->fields, &s->run.cfg, &s->cfg);
    if (!st && !o->init && !o->resume && s->cfg.fill == 0 && s->cfg.copies)
        st = bmvp_error_set(
            &s->err, BMVP_E_ARG,
            "without --init there are no templates: --fill zero drops modalities instead, --set copies=0 "
            "trains on the cases as they are");
    if (!st && o->resume && s->cfg.fill == 0 && s->cfg.copies && s->run.grid[0] == 0)
        st = bmvp_error_set(&s->err, BMVP_E_ARG, "%s was started without templates: --fill zero", o->out);
    return st;
}

static void print_configuration(const session *s)
{
    const bmvp_labels *l = &s->data.all.data.labels;
    const char *name, *meaning;
    char value[64];
    int i;
    printf("network  %s, %s%s%s\n", s->net.name, s->data.segment ? "segmentation" : "classification",
           s->o.resume ? " that goes on in " : s->o.init ? " from " : " from scratch",
           s->o.resume ? s->o.out : s->o.init ? s->o.init : "");
    printf("data     %s: %lld cases to train, %lld to validate, modalities", s->data.all.data.path,
           (long long)s->data.n_train, (long long)s->data.n_val);
    for (i = 0; i < s->data.all.n_modalities; ++i) printf(" %s", s->data.all.names[i]);
    if (s->data.split.how[0]) printf("\nsplit    as the data set has it: %s", s->data.split.how);
    printf("\n%s %s:", s->data.segment ? "labels  " : "classes ", s->data.segment ? l->name : "cases");
    for (i = 0; s->data.segment && i < l->n; ++i)
        printf(" %s (%lld voxels)", l->region[i], (long long)s->data.voxels[i + l->exclusive]);
    if (s->data.segment && l->ignore)
        printf("; value %d is ignored (%lld voxels): left out of loss and figures", l->ignore,
               (long long)s->data.ignored);
    for (i = 0; !s->data.segment && i < s->data.classes; ++i)
        printf(" %d (%lld cases)", i, (long long)s->data.voxels[i]);
    printf("\npreset   %s\n", s->cfg.preset);
    for (i = 0; bmvp_ft_field(&s->cfg, i, &name, &meaning, value, sizeof value); ++i)
        printf("  %-22s %-10s %s\n", name, value, meaning);
    learnable_labels(&s->data, &s->cfg, s->length.total);
}

/* >>start ---------------------------------------------------------------------------------------------------------- */

static void print_adoption(session *s, const bmvp_net_adoption *a)
{
    static const char *const word[3] = { "taken", "adapted", "fresh" };
    const bmvp_state_list *l = bmvp_net_state(bmvp_ft_net(s->ft));
    int i, k, shown = 0;
    printf("weights  %s: %d tensors taken, %d adapted, %d fresh\n", s->o.init, a->n[0], a->n[1], a->n[2]);
    if (s->foreign) weights_print_unseen(&s->net);
    for (k = 1; k < 3; ++k)
        for (i = 0; i < l->n && a->how; ++i)
            if (a->how[i] == k && shown++ < 24) printf("  %-8s %s\n", word[k], l->item[i].name);
    if (shown > 24) printf("  and %d more\n", shown - 24);
}

static bmvp_status init_weights(session *s)
{
    bmvp_net_adoption a;
    bmvp_status st;
    memset(&a, 0, sizeof a);
    a.how = (unsigned char *)calloc((size_t)bmvp_net_state(bmvp_ft_net(s->ft))->n, 1);
    st = bmvp_ft_init(s->ft, s->o.init, s->o.stem == 0, &a, &s->err);
    if (!st) run_say_group_of(s->o.init);
    if (!st) print_adoption(s, &a);
    free(a.how);
    return st;
}

/* Inverse frequencies with mean 1 over what occurs. */
static void balance_classes(session *s)
{
    float weight[BMVP_MAX_REGIONS + 1];
    const int n = s->data.segment ? s->data.all.data.labels.n + 1 : s->data.classes;
    double sum = 0;
    int i, used = 0;
    for (i = 0; i < n; ++i) {
        weight[i] = s->data.voxels[i] > 0 ? (float)(1.0 / (double)s->data.voxels[i]) : 0.0f;
        sum += (double)weight[i];
        used += s->data.voxels[i] > 0;
    }
    for (i = 0; i < n; ++i) weight[i] = (float)((double)weight[i] * used / sum);
    bmvp_ft_class_weights(s->ft, weight);
    if (!ranks_lead(&s->ranks)) return;
    printf("weights of the classes:");
    for (i = 0; i < n; ++i) printf(" %g", (double)weight[i]);
    printf("\n");
}

static bmvp_status plan_memory(session *s, bmvp_config *k, const int64_t grid[3])
{
    const bmvp_labels *l = s->data.segment ? &s->data.all.data.labels : NULL;
    const int size = s->ranks.launch.size;
    bmvp_ft_config share = s->cfg; /* of several ranks: what the one with the largest share needs */
    bmvp_memory m;
    bmvp_status st;
    share.batch = (share.batch + size - 1) / size;
    st = bmvp_ft_plan(k, &s->net, &share, l, s->data.all.n_modalities, s->data.all.names, grid, 1, &m, &s->err);
    if (st) return st;
    if (ranks_lead(&s->ranks))
        run_print_memory(&m, finetune_loader_bytes(&s->data, &share), validation_bytes(&s->data, &s->cfg));
    if (s->o.plan) return BMVP_OK;
    s->c = bmvp_create(k, &s->err);
    if (!s->c) return BMVP_E_OOM;
    st = bmvp_reserve(s->c, m.step_peak);
    return st ? bmvp_error_set(&s->err, st,
                               "%s (the step needs %.2f GB: a smaller --batch, --crop or --network, or --set copies=0)",
                               bmvp_error_of(s->c)->message, (double)m.step_peak / 1e9)
              : BMVP_OK;
}

/* Grid of the templates: of the run that goes on or of --init; 0: there are none. Templates that do not fit are an
   error only where one could be looked at; else missing modalities are zeros from here on. */
static bmvp_status template_grid(session *s, int64_t grid[3])
{
    char why[400];
    bmvp_status st;
    memcpy(grid, s->run.grid, sizeof s->run.grid);
    if (s->o.resume || !s->o.init || s->cfg.fill != 0) return BMVP_OK;
    st = templates_look(s->o.init, &s->data, s->preparation, grid, why, sizeof why, &s->err);
    if (st || !why[0]) return st;
    if (templates_used(&s->data, &s->cfg))
        return bmvp_error_set(&s->err, BMVP_E_ARG,
                              "%s: --fill zero drops modalities instead, --set copies=0 trains on the cases as they "
                              "are", why);
    if (ranks_lead(&s->ranks)) printf("fill     by zeros (--fill zero), which no case here needs: %s\n", why);
    memset(grid, 0, 3 * sizeof *grid);
    s->cfg.fill = 1;
    return BMVP_OK;
}

static bmvp_status save_split(session *s)
{
    char *path = run_file(s->o.out, "split.json");
    const bmvp_status st = path ? split_save(&s->data.split, &s->data.all.data, path, &s->err)
                                : bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    free(path);
    return st;
}

/* Rank 0, or the only one: the weights it starts from, the folder, the log. */
static bmvp_status start_lead(session *s)
{
    char *checkpoint = run_file(s->o.out, "checkpoint.safetensors");
    bmvp_status st = BMVP_OK;
    if (s->o.resume) st = bmvp_ft_load(s->ft, checkpoint, 1, &s->err);
    else if (s->o.init) st = init_weights(s);
    free(checkpoint);
    if (!st) st = run_open(s->o.out, s->o.resume, &s->err); /* only now: what does not fit leaves no folder */
    if (!st) st = resume_cases(&s->past, s->c, s->o.out, &s->data.all.data, s->o.data, s->o.resume, &s->err);
    if (!st) st = save_split(s);
    if (!st) resume_say(&s->past);
    return st ? st : run_log(s->o.out, bmvp_ft_steps(s->ft), &s->loop.log, &s->loop.before, &s->err);
}

static bmvp_status start(session *s, const int64_t grid[3])
{
    const bmvp_labels *l = s->data.segment ? &s->data.all.data.labels : NULL;
    const int lead = ranks_lead(&s->ranks);
    bmvp_status st = BMVP_OK;
    read_start at;
    if (train_set_ranks(&s->ranks, s->c, s->device, &s->err)) return s->err.status;
    if (lead) device_print(s->c);
    s->ft = bmvp_ft_create(s->c, &s->net, &s->cfg, l, s->data.all.n_modalities, s->data.all.names, grid);
    if (!s->ft) return train_failed(s->c, &s->err);
    if (s->o.class_weights) balance_classes(s);
    if (lead) st = start_lead(s);
    if (!st && bmvp_ft_broadcast(s->ft)) st = train_failed(s->c, &s->err);
    if (st) return st;
    at.step = bmvp_ft_steps(s->ft);
    at.samples = bmvp_ft_trainer(s->ft)->samples;
    return finetune_loader_start(&s->loader, &s->data, &s->cfg, s->ranks.launch.rank, s->ranks.launch.size, grid, at,
                                 &s->err);
}

/* >>steps ---------------------------------------------------------------------------------------------------------- */

/* A device is only given the step. */
static bmvp_status one_step(void *user, int64_t step, double lr)
{
    session *s = (session *)user;
    const finetune_batch *b = finetune_loader_get(&s->loader, step, &s->err);
    if (!b) return s->err.status;
    return bmvp_ft_step(s->ft, b->item, b->n, lr, NULL) ? train_failed(s->c, &s->err) : BMVP_OK;
}

static bmvp_status save(session *s, const char *name, int train)
{
    char *path = run_file(s->o.out, name), best[32];
    const char *extra[11] = { "preparation", s->preparation, "best",    best, "options", s->kept,
                              "trained",     s->past.trained, NULL };
    bmvp_status st;
    snprintf(best, sizeof best, "%.17g", s->best);
    if (s->pending) extra[8] = PENDING, extra[9] = "yes";
    st = path ? bmvp_ft_save(s->ft, path, train, extra, &s->err) : bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    free(path);
    return st;
}

static bmvp_status save_all(void *user) { return save((session *)user, "checkpoint.safetensors", 1); }

static void say_score(session *s)
{
    const bmvp_labels *l = &s->data.all.data.labels;
    char text[BMVP_MAX_REGIONS * (BMVP_LABEL_NAME + 8)] = "";
    size_t at = 0;
    int i;
    for (i = 0; s->data.segment && i < l->n && at < sizeof text; ++i) {
        const double dice = s->score.region[i];
        at += (size_t)snprintf(text + at, sizeof text - at, dice == dice ? "  %s %.3f" : "  %s in no case",
                               l->region[i], dice);
    }
    if (!s->data.segment) snprintf(text, sizeof text, "  AUC %.3f  accuracy %.3f", s->score.auc, s->score.accuracy);
    cli_status(&s->loop.progress, 1, "step %lld/%lld  validation: %s %.4f%s", (long long)s->scored,
               (long long)s->length.total, s->data.segment ? "Dice" : "score", s->score.mean, text);
}

/* Validates; a better network than any before goes to best.safetensors. One that a signal interrupts is kept for the
   session that goes on. */
static bmvp_status validate(void *user, int64_t step)
{
    session *s = (session *)user;
    bmvp_status st;
    train_tell(&s->loop, "validation");
    st = validation_run(s->ft, &s->data, &s->score, &s->maps, &s->err);
    train_tell(&s->loop, NULL);
    s->pending = st == BMVP_E_CANCELLED && run_interrupted;
    if (s->pending) bmvp_clear_error(s->c);
    if (s->pending) return BMVP_OK;
    s->scored = step + 1;
    if (st) return st;
    say_score(s);
    if (!(s->score.mean > s->best || s->best != s->best)) return BMVP_OK;
    s->best = s->score.mean;
    return save(s, "best.safetensors", 0);
}

static void write_score(bmvp_jw *w, const session *s, const validation_score *v)
{
    const bmvp_labels *l = &s->data.all.data.labels;
    char name[BMVP_LABEL_NAME + 16];
    int i;
    bmvp_jw_double(w, s->data.segment ? "val_dice" : "val_score", v->mean);
    for (i = 0; s->data.segment && i < l->n; ++i) {
        snprintf(name, sizeof name, "val_dice_%s", l->region[i]);
        bmvp_jw_double(w, name, v->region[i]);
    }
    if (s->data.segment) return;
    bmvp_jw_double(w, "val_auc", v->auc);
    bmvp_jw_double(w, "val_accuracy", v->accuracy);
}

static void columns(void *user, int64_t step, bmvp_jw *w, char *words, size_t size)
{
    session *s = (session *)user;
    if (s->scored == step + 1) write_score(w, s, &s->score);
    if (s->best == s->best) snprintf(words, size, "  best %s %.4f", s->data.segment ? "Dice" : "score", s->best);
}

static int validation_is_due(const void *user, int64_t step)
{
    const session *s = (const session *)user;
    return s->data.n_val > 0 && (train_crosses(&s->loop, step, s->val_steps) || step + 1 == s->length.total);
}

/* A validation that the session before was interrupted in, as a line of its own. */
static bmvp_status catch_up(session *s)
{
    const int64_t step = bmvp_ft_steps(s->ft);
    bmvp_status st = validate(s, step - 1);
    bmvp_jw w;
    if (st || s->pending) return st;
    bmvp_jw_init(&w, 0, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_int(&w, "step", step);
    write_score(&w, s, &s->score);
    bmvp_jw_end(&w);
    st = run_log_line(s->loop.log, s->o.out, &w, &s->err);
    bmvp_jw_free(&w);
    return st ? st : save_all(s);
}

static bmvp_status train(session *s)
{
    train_loop *t = &s->loop;
    bmvp_status st = BMVP_OK;
    t->command = "finetune";
    t->out = s->o.out;
    t->ranks = &s->ranks;
    t->trainer = bmvp_ft_trainer(s->ft);
    t->first = bmvp_ft_steps(s->ft);
    t->total = s->length.total;
    t->stop_after = s->o.stop_after;
    t->cases = s->data.n_train;
    t->save_every = s->o.save_every;
    t->ahead = s->device != NULL;
    t->err = &s->err;
    t->user = s;
    t->step = one_step;
    t->reads = validation_is_due;
    t->before_log = validate;
    t->columns = columns;
    t->save = save_all;
    if (s->pending && ranks_lead(&s->ranks)) st = catch_up(s);
    return st ? st : train_run(t);
}

static int give_up(session *s, int code) { return train_give_up(&s->ranks, "finetune", code, &s->err); }

static int finish(session *s)
{
    const int64_t done = bmvp_ft_steps(s->ft);
    bmvp_status st = BMVP_OK;
    if (!ranks_lead(&s->ranks)) return train_exit_code(&s->loop);
    train_tell(&s->loop, "writing the checkpoint");
    if (s->loop.trainer->since == 0 && done > s->loop.first) st = save(s, "checkpoint.safetensors", 1);
    /* nothing to choose by: the last one */
    if (!st && done == s->length.total && s->data.n_val == 0) st = save(s, "best.safetensors", 0);
    train_tell(&s->loop, "writing report.html");
    if (!st)
        st = finetune_report(s->ft, &s->data, &s->maps, s->o.out, s->length.total, train_seconds(&s->loop), &s->err);
    train_tell(&s->loop, NULL);
    if (st == BMVP_E_CANCELLED && run_interrupted) fprintf(stderr, "report.html is not made anew: interrupted\n");
    else if (st) return give_up(s, CLI_FAILED);
    if (done < s->length.total || s->pending) {
        printf("stopped after step %lld of %lld; go on with: bmvp finetune --out %s --resume\n", (long long)done,
               (long long)s->length.total, s->o.out);
        return s->pending ? 128 + (int)run_interrupted : train_exit_code(&s->loop);
    }
    if (s->data.n_val > 0) printf("best validation %s %.4f\n", s->data.segment ? "Dice" : "score", s->best);
    printf("done: %s/best.safetensors (for predict), %s/checkpoint.safetensors, %s/report.html, %s/log.jsonl\n",
           s->o.out, s->o.out, s->o.out, s->o.out);
    return CLI_DONE;
}

/* A run that goes on needs the modalities, in their order, and the labels it was started with: its weights mean
   them. */
static bmvp_status check_run(session *s)
{
    const bmvp_labels *ours = &s->data.all.data.labels, *theirs = &s->run.labels;
    int i, same;
    if (resume_modalities(s->o.out, &s->data.all, s->run.n_modalities, s->run.names, &s->err)) return s->err.status;
    if (!s->data.segment)
        return s->data.classes == s->run.net.outputs
                   ? BMVP_OK
                   : bmvp_error_set(&s->err, BMVP_E_ARG,
                                    "%s was started with %d classes, now there are %d: --classes %d, or another --out",
                                    s->o.out, s->run.net.outputs, s->data.classes, s->run.net.outputs);
    same = ours->n == theirs->n && ours->exclusive == theirs->exclusive && ours->ignore == theirs->ignore;
    for (i = 0; i < ours->n && same; ++i)
        same = strcmp(ours->region[i], theirs->region[i]) == 0 &&
               memcmp(ours->in[i], theirs->in[i], sizeof ours->in[i]) == 0;
    return same ? BMVP_OK
                : bmvp_error_set(
                      &s->err, BMVP_E_ARG,
                      "%s was started with other labels ('%s') than those of %s ('%s'): the same labels, or another "
                      "--out",
                      s->o.out, theirs->name, s->data.all.data.path, ours->name);
}

/* A split that is given again must have every case where the run has it. */
static bmvp_status check_split(session *s, const char *stored)
{
    const dataset *d = &s->data.all.data;
    data_split was;
    bmvp_status st = split_load(&was, d, stored, &s->err);
    int64_t i;
    for (i = 0; i < d->n && !st; ++i)
        if (was.part[i] != s->data.split.part[i] || was.fraction[i] != s->data.split.fraction[i] ||
            was.fold[i] != s->data.split.fold[i])
            st = bmvp_error_set(&s->err, BMVP_E_ARG,
                                "%s was started with another split than %s (case '%s'): leave out --split, or choose "
                                "another --out",
                                s->o.out, s->o.split, d->item[i].id);
    split_free(&was);
    return st;
}

/* Cases, split and labels; with --resume the split of the run. */
static bmvp_status load_data(session *s)
{
    char *stored;
    finetune_source from;
    bmvp_status st;
    if (!s->o.data && !(s->o.data = s->list = resume_data(s->o.out, &s->err))) return BMVP_E_ARG;
    stored = run_file(s->o.out, "split.json");
    memset(&from, 0, sizeof from);
    from.data = s->o.data;
    from.split = s->o.split ? s->o.split : s->o.resume ? stored : NULL;
    from.train = s->train_part;
    from.val = s->o.val;
    from.modalities = s->o.modalities;
    from.labels = s->o.labels;
    from.segment = s->net.task == BMVP_TASK_SEGMENT;
    from.allow_absent = s->o.allow_absent;
    from.classes = s->o.classes;
    from.seed = (uint64_t)s->cfg.seed;
    if (s->o.fraction < 100)
        snprintf(s->train_part, sizeof s->train_part, "%s:%lld", s->o.train, (long long)s->o.fraction);
    else snprintf(s->train_part, sizeof s->train_part, "%s", s->o.train);
    st = finetune_data_load(&s->data, s->scan, &from, &s->err);
    if (!st && ranks_lead(&s->ranks)) dataset_say(&s->data.all.data, "finetune");
    if (!st && s->o.resume && s->o.split) st = check_split(s, stored);
    free(stored);
    if (!st) st = prepared_settings(&s->data.all, s->preparation, sizeof s->preparation, &s->err);
    if (!st && s->o.resume) st = check_run(s);
    if (!st && s->o.resume)
        st = resume_preparation(&s->past, s->o.out, s->data.all.data.path, s->preparation, &s->err);
    if (!st && s->o.class_weights && s->data.segment && !s->data.all.data.labels.exclusive)
        st = bmvp_error_set(&s->err, BMVP_E_ARG,
                            "--class-weights balanced needs labels that are classes; these are overlapping regions");
    return st;
}

static int run(session *s, cli_option *opt, int n_opt)
{
    bmvp_config k = bmvp_config_default();
    int64_t grid[3];
    bmvp_status st = s->o.plan ? ranks_look(&s->ranks, &s->err) : ranks_open(&s->ranks, &s->err);
    run_ignore_closed_output();
    if (!st) st = configure(s, opt, n_opt);
    if (!st) st = device_open(s->o.device, s->ranks.launch.local_rank, &s->device, &s->err);
    if (st == BMVP_E_ARG) return give_up(s, CLI_USAGE);
    k.threads = s->o.threads > 0 ? (int)s->o.threads : ranks_threads(&s->ranks);
    k.simd = (bmvp_simd)(s->o.simd - 1);
    s->scan = st ? NULL : bmvp_create(&k, &s->err);
    if (!st && !s->scan) st = BMVP_E_OOM;
    if (!st) st = load_data(s);
    if (!st) st = template_grid(s, grid);
    if (st) return give_up(s, CLI_FAILED);
    if (!s->data.segment) s->net.outputs = s->data.classes;
    s->length = resume_length(&s->past, &s->cfg, s->o.steps, cli_given(opt, n_opt, "epochs"), s->data.n_train,
                              s->run.step, s->run.samples);
    s->kept = resume_keep(kept_options, opt, n_opt, s->length.samples, s->length.by_steps);
    if (!s->kept) (void)bmvp_error_set(&s->err, BMVP_E_OOM, "out of memory");
    if (!s->kept || resume_trained(&s->past, "finetune", s->o.init, s->data.all.data.path, s->data.n_train,
                                   s->data.n_val, &s->err))
        return give_up(s, CLI_FAILED);
    s->val_steps =
        s->o.validate_every > 0 ? s->o.validate_every : (int64_t)s->cfg.validate_every * s->data.n_train / s->cfg.batch;
    s->val_steps =
        s->val_steps < s->cfg.update_every ? s->cfg.update_every : s->val_steps - s->val_steps % s->cfg.update_every;
    if (!s->o.plan && train_compare_ranks(&s->ranks, s->net.name, bmvp_ft_method(), &s->cfg, s->data.cases,
                                          s->data.n_train, s->length.total, &s->err))
        return give_up(s, CLI_USAGE);
    if (ranks_lead(&s->ranks)) print_configuration(s);
    k.backend = s->device;
    k.precision = (bmvp_precision)s->o.precision;
    k.graph = s->o.graph;
    k.progress = train_progress; /* validation and pictures take long */
    k.progress_user = &s->loop;
    st = plan_memory(s, &k, grid);
    if (st == BMVP_E_ARG) return give_up(s, CLI_USAGE);
    if (s->o.plan && !st) return CLI_DONE;
    if (!st) st = start(s, grid);
    run_catch_signals();
    if (!st) st = train(s);
    return st ? give_up(s, CLI_FAILED) : finish(s);
}

/* What the command line says, and the run. */
static int parse_and_run(session *s, int argc, char **argv)
{
    options *o = &s->o;
    char networks[512];
    cli_option opt[] = {
        cli_string("data", &o->data, NULL, "DIR|LIST",
                   "prepared cases with labels or classes: what `bmvp prepare` wrote (required; with --resume: those "
                   "of the run)"),
        cli_required("out", &o->out, "RUN", "folder of the run: log, checkpoints, split, report"),
        cli_string("init", &o->init, NULL, "FILE",
                   "pre-training checkpoint (.safetensors or .pt, ours or released); none: from scratch"),
        cli_choice("stem", &o->stem, 0, "spread|fresh",
                   "its one-channel stem: repeated over the modalities, or left fresh"),
        cli_choice("task", &o->task, 0, "segment|classify", "what is learned"),
        cli_choice("preset", &o->preset, 0, "paper|release|fast", "which defaults; every field is printed at start"),
        cli_string("network", &o->network, "uniformer_small", "NAME", networks),
        cli_string("split", &o->split, NULL, "FILE",
                   "from `bmvp split`, or nnU-Net's; none: what the data set brings, else 6:1:3 by patient, by --seed"),
        cli_string("train", &o->train, "train", "PART", "cases to train on: train, val, test, all, fold:K, not-fold:K"),
        cli_string("val", &o->val, "val", "PART", "cases that choose the best checkpoint"),
        cli_int("fraction", &o->fraction, 100, 20, 100, "per cent of the training cases: 20, 40, 60, 80 or 100"),
        cli_string("modalities", &o->modalities, NULL, "A,B,..", "only these; none: all of the list"),
        cli_string("labels", &o->labels, NULL, "NAME",
                   "built-in definition instead of the list's: brats2021, brats2023, msd_brats .."),
        cli_int("classes", &o->classes, 0, 0, 17, "classification: number of classes; 0: as many as the list has"),
        cli_choice("class-weights", &o->class_weights, 0, "none|balanced",
                   "cross-entropy weights of classes: alike or by 1 / frequency"),
        cli_choice("fill", &o->fill, 0, "template|zero", "what stands for a missing modality"),
        cli_flag("allow-absent", &o->allow_absent, "go on when a region or class does not occur in training"),
        cli_int("crop", &o->crop, 96, 8, 1024, "edge of a cubic crop, a multiple of 16 (UNET3D: 8)"),
        cli_int("batch", &o->batch, 3, 1, 256, "cases in a step, of all ranks together"),
        cli_int("epochs", &o->epochs, 500, 1, 1e9, "passes over the training cases"),
        cli_int("steps", &o->steps, 0, 0, 1e12, "length of the run in steps instead of epochs"),
        cli_float("lr", &o->lr, 3e-4, 0, 10, "highest learning rate"),
        cli_int("seed", &o->seed, 0, 0, 2147483647, "of every random number, and of the split"),
        cli_int("validate-every", &o->validate_every, 0, 0, 1e12,
                "steps between validations; 0: by the field of that name, in epochs"),
        TRAIN_OPTIONS(*o),
    };
    const int n_opt = (int)(sizeof opt / sizeof *opt);
    int code;
    snprintf(networks, sizeof networks, "%s; with --init that of the checkpoint", bmvp_net_preset_names());
    code = cli_parse("finetune", "Fine-tune a pre-trained network for segmentation or classification.", opt, n_opt,
                     argc, argv);
    return code < 0 ? run(s, opt, n_opt) : code;
}

int command_finetune(int argc, char **argv)
{
    session *s = (session *)calloc(1, sizeof *s);
    int code;
    if (!s) return cli_fail(CLI_FAILED, "finetune", "out of memory");
    code = parse_and_run(s, argc, argv);
    finetune_loader_stop(&s->loader);
    if (s->loop.log) fclose(s->loop.log);
    bmvp_ft_destroy(s->ft);
    bmvp_destroy(s->c);
    bmvp_destroy(s->scan);
    ranks_close(&s->ranks);
    device_close(s->device);
    finetune_data_free(&s->data);
    validation_maps_free(&s->maps);
    resume_free(&s->past);
    free(s->list);
    free(s->kept);
    free(s);
    return code;
}
