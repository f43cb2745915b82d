/* run.h - what pretrain and finetune share: the folder of a run, its log, its signals

   A run's folder holds  checkpoint.safetensors  everything to go on
                         log.jsonl               one JSON object a step
                         report.html             the page to look at
                         cases.json              the files of its cases (data/ledger.h)
   and of pre-training   snapshots.safetensors   the templates' middle slices as they grew
   of fine-tuning        best.safetensors        the weights with the best validation, for `bmvp predict`
                         split.json              which cases were for what */
#ifndef RUN_H_INCLUDED
#define RUN_H_INCLUDED

#include <signal.h>
#include <stdio.h>
#include "bmvp_tensor.h"
#include "bmvp_nn.h"

/* >>memory --------------------------------------------------------------------------------------------------------- */

/* Prints what a run will need: its plan, `ahead` bytes of crops read ahead, the program as it stands, and the most of
   what is needed for a while: saving, or `passing` bytes. */
void run_print_memory(const bmvp_memory *plan, double ahead, double passing);

/* >>checkpoints ---------------------------------------------------------------------------------------------------- */

/* Where a file holds several networks (student and teacher, weights and their average) prints which one is taken, and
   which are not. taken: of bmvp_state_group. */
void run_say_group(const bmvp_ckpt *f, const char *taken);
/* The same of a file; one that cannot be read is for others to complain about. */
void run_say_group_of(const char *path);

/* >>the folder and the session ------------------------------------------------------------------------------------- */

extern volatile sig_atomic_t run_interrupted; /* the signal that asked to stop, or 0 */
void run_catch_signals(void);                 /* Ctrl-C and TERM set it; a second one ends the program at once */
void run_ignore_closed_output(void);          /* a run that is piped into `head` trains on */

char *run_file(const char *out, const char *name); /* OUT/name, malloc */
/* Makes the folder, takes it for this process (folder_take) and removes the files of a session that was killed while it
   wrote them. BMVP_E_STATE: a new run (resume 0) would overwrite a file there that is no run's. */
bmvp_status run_open(const char *out, int resume, bmvp_error *err);
/* Opens OUT/log.jsonl for appending, without the lines after step `first` (killed after the last checkpoint) and a torn
   last line. seconds: what its last line says. */
bmvp_status run_log(const char *out, int64_t first, FILE **log, double *seconds, bmvp_error *err);
/* Appends the finished line. */
bmvp_status run_log_line(FILE *log, const char *out, bmvp_jw *w, bmvp_error *err);
double run_peak_memory_mb(void); /* the process's largest resident size so far, in 10^6 bytes */
/* Applies "a=1,b=2" with set(cfg, name, value). */
bmvp_status run_apply_settings(void *cfg,
                               bmvp_status (*set)(void *cfg, const char *name, const char *value, bmvp_error *err),
                               const char *text, bmvp_error *err);

#endif
