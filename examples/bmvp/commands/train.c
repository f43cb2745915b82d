/* train.c - the run loop of pretrain and finetune */
#define _DEFAULT_SOURCE
#include "train.h"
#include <stdio.h>
#include <string.h>

bmvp_status train_failed(const bmvp_ctx *c, bmvp_error *err)
{
    return bmvp_error_set(err, bmvp_error_of(c)->status, "%s", bmvp_error_of(c)->message);
}

static bmvp_run_config settings(const train_loop *t)
{
    bmvp_run_config k;
    memcpy(&k, t->trainer->config, sizeof k); /* a config begins with these */
    return k;
}

int64_t train_position(const train_loop *t, int64_t step)
{
    return t->samples / settings(t).batch + step - t->first;
}

int train_updates(const train_loop *t, int64_t step)
{
    return (step + 1 - t->first) % settings(t).update_every == 0; /* a session begins after an update */
}

int train_crosses(const train_loop *t, int64_t step, int64_t every)
{
    const int64_t now = train_position(t, step + 1);
    return train_updates(t, step) && now / every > (now - settings(t).update_every) / every;
}

double train_seconds(train_loop *t) { return t->before + cli_elapsed(&t->progress); }

int train_exit_code(const train_loop *t)
{
    return run_interrupted && t->trainer->steps < t->total ? 128 + (int)run_interrupted : CLI_DONE;
}

int train_give_up(rank_group *r, const char *command, int code, const bmvp_error *err)
{
    (void)cli_fail(code, command, "%s%s", r->prefix, err->message);
    ranks_stop(r, err->message);
    return code;
}

/* >>ranks ---------------------------------------------------------------------------------------------------------- */

bmvp_status train_set_ranks(rank_group *r, bmvp_ctx *c, const bmvp_backend *device, bmvp_error *err)
{
    const bmvp_comm *table;
    const char *over;
    if (!ranks_several(r)) return BMVP_OK;
    table = ranks_table(r, device, &over, err);
    if (!table) return err->status;
    if (ranks_lead(r)) printf("ranks    %d over %s\n", r->launch.size, over);
    fflush(stdout);
    bmvp_set_comm(c, table);
    return BMVP_OK;
}

bmvp_status train_compare_ranks(rank_group *r, const char *network, const bmvp_method *m, const void *config,
                                const bmvp_ssl_case *cases, int64_t n, int64_t total, bmvp_error *err)
{
    const char *name, *meaning;
    char text[4096], value[64];
    bmvp_status st;
    size_t at;
    int i;
    if (!ranks_several(r)) return BMVP_OK;
    at = (size_t)snprintf(text, sizeof text, "%s", network);
    for (i = 0; bmvp_field_get(m->fields, config, i, &name, &meaning, value, sizeof value); ++i)
        if (at < sizeof text) at += (size_t)snprintf(text + at, sizeof text - at, " %s=%s", name, value);
    st = ranks_same(r, "configuration", text, strlen(text), err);
    if (!st) st = ranks_same(r, "data set", cases, (size_t)n * sizeof *cases, err);
    return st ? st
              : ranks_same(r, "number of steps (--steps, --epochs, --stop-after) or --resume", &total, sizeof total,
                           err);
}

/* Samples a second of each rank while it does not wait for the others: a slow one shows. */
static bmvp_status log_ranks(train_loop *t, double seconds, bmvp_jw *w)
{
    const int size = t->ranks->launch.size;
    double own[2], all[2 * LAUNCH_MOST];
    bmvp_status st;
    int i, first;
    own[0] = (double)(t->trainer->steps - t->first) * bmvp_trainer_mine(t->trainer, settings(t).batch, &first);
    own[1] = seconds - t->ranks->waited;
    st = ranks_gather(t->ranks, own, 2, all, t->err);
    if (st) return st;
    bmvp_jw_array(w, "rank_samples_per_s");
    for (i = 0; i < size; ++i)
        bmvp_jw_float(w, NULL, (float)(all[2 * i] / (all[2 * i + 1] > 0 ? all[2 * i + 1] : 1e-9)));
    bmvp_jw_end(w);
    return BMVP_OK;
}

/* >>log ------------------------------------------------------------------------------------------------------------ */

static bmvp_status log_step(train_loop *t, int64_t step)
{
    const double seconds = cli_elapsed(&t->progress), lr = t->lr[step % 2];
    const int batch = settings(t).batch, lead = ranks_lead(t->ranks);
    const double rate = (double)((step + 1 - t->first) * batch) / (seconds > 0 ? seconds : 1e-9);
    const int64_t seen = t->samples + (step - t->first) * batch, epoch = seen / t->cases;
    char words[128] = "";
    bmvp_losses l;
    bmvp_status st = BMVP_OK;
    bmvp_jw w;
    if (bmvp_trainer_losses_of(t->trainer, step, &l)) return train_failed(t->trainer->c, t->err);
    bmvp_jw_init(&w, 0, NULL);
    bmvp_jw_object(&w, NULL);
    bmvp_jw_int(&w, "step", step + 1);
    bmvp_jw_int(&w, "epoch", epoch);
    bmvp_jw_int(&w, "samples", seen + batch);
    (void)bmvp_trainer_log(t->trainer, step, &w);
    bmvp_jw_double(&w, "lr", lr);
    bmvp_jw_float(&w, "samples_per_s", (float)rate);
    bmvp_jw_float(&w, "seconds", (float)(t->before + seconds));
    bmvp_jw_float(&w, "peak_memory_mb", (float)run_peak_memory_mb());
    if (ranks_several(t->ranks)) st = log_ranks(t, seconds, &w);
    if (t->columns) t->columns(t->user, step, &w, words, sizeof words);
    bmvp_jw_end(&w);
    if (!st && lead) st = run_log_line(t->log, t->out, &w, t->err);
    bmvp_jw_free(&w);
    if (st || !lead) return st;
    cli_status(&t->progress, step + 1 == t->total,
               "step %lld/%lld  epoch %lld  loss %.4f%s  lr %.2e  %.2f samples/s  %.0f s left  %.0f MB",
               (long long)step + 1, (long long)t->total, (long long)epoch, l.total, words, lr, rate,
               (double)(t->total - step - 1) * batch / rate, run_peak_memory_mb());
    return st;
}

void train_tell(train_loop *t, const char *what)
{
    t->doing = what;
    t->case_of = 0;
    if (!what) cli_status_end(&t->progress);
    else if (ranks_lead(t->ranks))
        cli_status(&t->progress, -1, "step %lld/%lld  %s", (long long)t->trainer->steps, (long long)t->total, what);
}

int train_progress(void *user, const char *what, int64_t done, int64_t of)
{
    train_loop *t = (train_loop *)user;
    char text[96] = "";
    if (!t->doing) return 0;
    if (strcmp(what, "cases") == 0) t->case_now = done + 1, t->case_of = of;
    else snprintf(text, sizeof text, ", %lld of %lld %s", (long long)done, (long long)of, what);
    if (t->case_of)
        cli_status(&t->progress, 0, "step %lld/%lld  %s: case %lld of %lld%s", (long long)t->trainer->steps,
                   (long long)t->total, t->doing, (long long)t->case_now, (long long)t->case_of, text);
    else cli_status(&t->progress, 0, "step %lld/%lld  %s%s", (long long)t->trainer->steps, (long long)t->total,
                    t->doing, text);
    return run_interrupted != 0;
}

/* >>loop ----------------------------------------------------------------------------------------------------------- */

/* An interrupt waits for the next update: gradients that are only half summed up are in no checkpoint. One rank's is
   that of all. */
static bmvp_status stop_now(train_loop *t, int64_t step, int *interrupted)
{
    *interrupted = run_interrupted != 0 && train_updates(t, step - 1);
    return ranks_several(t->ranks) ? ranks_any(t->ranks, interrupted, t->err) : BMVP_OK;
}

static int save_is_due(train_loop *t, int64_t step)
{
    const int every = settings(t).update_every;
    if (!train_updates(t, step)) return 0;
    if (t->save_every > 0) return (step + 1) / t->save_every > (step + 1 - every) / t->save_every;
    return cli_elapsed(&t->progress) - t->saved > 600;
}

/* A step, its line of the log, and what is due after it. A device does a step while the log of the one before is
   written and while the next is prepared, unless something is due that reads what it has made. Ranks are not ahead:
   their losses are sums over all. */
static bmvp_status one_step(train_loop *t, int64_t step, int64_t *logged)
{
    const int lead = ranks_lead(t->ranks), reads = t->reads && t->reads(t->user, step), saves = save_is_due(t, step);
    const int ahead = t->ahead && !ranks_several(t->ranks) && !reads && !saves;
    bmvp_status st;
    t->lr[step % 2] = bmvp_trainer_lr(t->trainer, train_position(t, t->total));
    st = t->step(t->user, step, t->lr[step % 2]);
    while (!st && *logged < step) st = log_step(t, (*logged)++);
    if (!st && reads && lead && t->before_log) st = t->before_log(t->user, step);
    if (!st && !ahead) st = log_step(t, (*logged)++);
    if (!st && saves && lead) {
        train_tell(t, "writing the checkpoint");
        st = t->save(t->user);
        train_tell(t, NULL);
        t->saved = cli_elapsed(&t->progress);
    }
    if (!st && reads && lead && t->after_log) st = t->after_log(t->user, step);
    return st;
}

bmvp_status train_run(train_loop *t)
{
    const int64_t stop = t->stop_after > 0 && t->first + t->stop_after < t->total ? t->first + t->stop_after : t->total;
    bmvp_status st = BMVP_OK;
    int64_t step, logged = t->first;
    int interrupted = 0;
    t->samples = t->trainer->samples;
    t->saved = cli_elapsed(&t->progress);
    t->ranks->waited = 0;
    for (step = t->first; step < t->total && (step < stop || !train_updates(t, step - 1)) && !st; ++step) {
        st = stop_now(t, step, &interrupted);
        if (st || interrupted) break;
        st = one_step(t, step, &logged);
    }
    while (!st && logged < step) st = log_step(t, logged++);
    return st;
}
