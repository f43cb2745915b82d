/* resume.h - a run that goes on as it was started: what its checkpoint and its folder keep of the command line, where
   it stands and ends, and what is other now

   The checkpoint's "options" is a JSON object: the options of the command that say what is learned (their text as it
   would be given), "samples", where the run ends, and "by": "steps" or "epochs", what it was told by. RUN/cases.json
   (ledger.h) says which files its cases were. "trained" is for people: what made the checkpoint, from what and on what,
   without folders, so that it can be given away. Checkpoints of 0.1 have a line of options instead, or none. */
#ifndef RESUME_H_INCLUDED
#define RESUME_H_INCLUDED

#include "cli.h"
#include "data/prepared.h"

typedef struct resume_option { /* of a table; the last one has no name */
    const char *name;
    int fixed;                 /* 1: a run that goes on has it as it was; 0: it may be changed, which is said */
} resume_option;

typedef struct resume_state {
    bmvp_json_doc *doc;        /* values of restored options point into it */
    int64_t planned;           /* samples when the run ends, as it was started; 0: not known */
    int by_steps;              /* planned was told by --steps */
    char preparation[512];     /* prepare.json of its cases; "": not known */
    char trained[1024];        /* the checkpoint's "trained" */
    char text[8192];           /* what is other than before, a line each */
} resume_state;

/* Options of the table that are not given take the values of the run. BMVP_E_ARG naming one that is fixed and given
   otherwise. run: what to call it. */
bmvp_status resume_options(resume_state *r, const char *command, const char *run, const char *checkpoint,
                           const resume_option *table, cli_option *opt, int n_opt, bmvp_error *err);
/* Adds the fields of a method's config that are other than they were. */
void resume_settings(resume_state *r, const bmvp_field *fields, const void *was, const void *now);
/* Adds how the cases differ from those in RUN/cases.json, and keeps these as they are now. resume 0: only keeps them.
   c: threads. data: what the user named. */
bmvp_status resume_cases(resume_state *r, bmvp_ctx *c, const char *out, const dataset *d, const char *data, int resume,
                         bmvp_error *err);
/* BMVP_E_STATE naming both sides: the modalities, in their order, and the settings of `bmvp prepare` (now:
   prepare.json, "" where there is none) must be those of the run, since its weights and templates mean them. */
bmvp_status resume_modalities(const char *run, const prepared_set *p, int n, const char *const *names,
                              bmvp_error *err);
bmvp_status resume_preparation(const resume_state *r, const char *run, const char *data, const char *now,
                               bmvp_error *err);
/* The data that a run was started with, malloc; NULL and err: its folder does not say. */
char *resume_data(const char *out, bmvp_error *err);
void resume_say(const resume_state *r); /* prints what was added */
void resume_free(resume_state *r);

/* Fills r->trained; the text is of several words. from: file of the first weights, NULL: none, or those of the run that
   goes on. data: a list. validated: cases for validation, -1: there is no such thing. */
bmvp_status resume_trained(resume_state *r, const char *command, const char *from, const char *data, int64_t cases,
                           int64_t validated, bmvp_error *err);
/* What to keep as "options" in the checkpoint; malloc, NULL: out of memory. */
char *resume_keep(const resume_option *table, cli_option *opt, int n_opt, int64_t samples, int by_steps);

/* >>length --------------------------------------------------------------------------------------------------------- */

typedef struct run_length {
    int64_t step, seen;        /* steps and samples taken already */
    int64_t samples;           /* taken when the run ends */
    int64_t total;             /* steps then: the last update is complete */
    int by_steps;
} run_length;

/* Where the run ends: after --steps steps (0: not given), else where it was planned to end when that was told by steps
   and --epochs is not given now, else after `epochs` passes over n cases. config: a method's. step, seen: where it
   stands. Adds to r when the end is another than planned. */
run_length resume_length(resume_state *r, const void *config, int64_t steps, int epochs_given, int64_t n,
                         int64_t step, int64_t seen);

#endif
