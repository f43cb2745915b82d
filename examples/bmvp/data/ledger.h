/* ledger.h - OUT/sources.json: which files the prepared cases of a folder were made from; RUN/cases.json: which
   prepared cases a run was trained on

   {"program": "0.2.0", "data": "/where/it/is", "cases": {"c0": {"t1": {"path", "bytes", "modified", "hash"}, "label":
   {..}, "class": 1, "said": hash}}}

   sources.json is written before the cases are, and what does not fit it is removed first: so it is true of the files
   that are there, also after a run that was killed. cases.json of earlier versions is a list of ids; such entries have
   no files. "class" is null where a case has none, and absent where it was not kept. "said" is a hash of what a list
   says of the files and prepared ones depend on: which volume of a file it is, what values of a label map mean. */
#ifndef LEDGER_H_INCLUDED
#define LEDGER_H_INCLUDED

#include "dataset.h"
#include "source.h"

enum { LEDGER_FILES = BMVP_MODALITIES + 1 }; /* images by modality, then the label */

enum { LEDGER_NO_CLASS = -1, LEDGER_CLASS_UNKNOWN = -2 };

typedef struct ledger_entry {
    char *id;
    int64_t class_index;            /* of the list, or one of the two above */
    uint64_t said;                  /* 0: was not kept */
    int starved;                    /* there was no memory to read its files: ledger_save refuses */
    data_source file[LEDGER_FILES]; /* path NULL: none */
} ledger_entry;

typedef struct ledger {
    char *data;
    ledger_entry *item;
    int64_t n;
} ledger;

/* File `name` of folder dir. A folder without one: nothing in it. */
bmvp_status ledger_load(ledger *l, const char *dir, const char *name, bmvp_error *err);
bmvp_status ledger_save(const ledger *l, const char *dir, const char *name, bmvp_error *err);
void ledger_free(ledger *l);
ledger_entry *ledger_find(const ledger *l, const char *id);

/* An entry for each case of d, without its files; ledger_read_case reads those of case i (any thread). data: what the
   user named. */
bmvp_status ledger_begin(ledger *l, const dataset *d, const char *data, bmvp_error *err);
void ledger_read_case(ledger *l, const dataset *d, int64_t i);
/* The same files, by content .. */
int ledger_same_files(const ledger_entry *a, const ledger_entry *b);
/* .. of which the list says the same, class and part aside. */
int ledger_same(const ledger_entry *a, const ledger_entry *b);
/* What is other in b, as "t2 is new, label has other content, volumes or label values mean something else,
   class 1 (was 0)"; "" when nothing is, or when a has no files. */
void ledger_difference(const ledger_entry *a, const ledger_entry *b, char *text, size_t size);

#endif
