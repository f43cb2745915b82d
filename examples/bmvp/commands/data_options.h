/* data_options.h - what commands that read data as they are share: options, loading with its notes, the table of
   cases */
#ifndef DATA_OPTIONS_H_INCLUDED
#define DATA_OPTIONS_H_INCLUDED

#include "cli.h"
#include "data/dataset.h"

/* Rows of a command's table of options, into a dataset_options. */
#define DATA_OPTIONS(o) \
    cli_string("as", &(o).as, NULL, "NAME=PATTERN,..", \
               "what files are where their names do not say it: NAME a modality, label or none"), \
    cli_string("root", &(o).root, NULL, "DIR", "where the paths of a list begin; none: its own folder"), \
    cli_string("classes", &(o).classes, NULL, "FILE", \
               "CSV or TSV with the classes of the cases; none: participants.tsv of the data"), \
    cli_string("id-column", &(o).id_column, NULL, "NAME", \
               "of the table: whose line it is; none: participant_id, SUB_ID, ScanDir ID, Subject, or the first"), \
    cli_string("class-column", &(o).class_column, NULL, "NAME", "of the table: the class")

/* Rows of a command that brings the images of a case to one grid: what it may be, and where the numbers go. */
#define REGISTER_OPTIONS(words, how, keep) \
    cli_choice("register", how, 0, words, \
               "images of a case onto one grid: none: they must lie on it; header: by their affines alone; rigid: by " \
               "mutual information; (predict) checkpoint: as the training cases were"), \
    cli_flag("keep-doubtful", keep, "keep cases whose registration misses by more than 3 mm around a loop")
#define REFERENCE_OPTIONS(reference, words, search) \
    cli_choice("reference", reference, 0, words, \
               "of --register: whose grid; auto, and where a case lacks it: the smallest voxels"), \
    cli_choice("search", search, 0, "small|all", \
               "of --register rigid: 20 degrees about the header and the centres, or all turns of a cube")
/* Into the preparation; -1, or an exit code with its message. */
int register_set(bmvp_preparation *how, int align, int reference, int search);

typedef struct atlas_options {
    const char *file, *brain;
    int to; /* 0 rigid, 1 affine, 2 reference */
} atlas_options;
/* Rows of the files of a template head; and of what is done with it. */
#define ATLAS_OPTIONS(o) \
    cli_string("template", &(o).file, NULL, "FILE|auto", \
               "a template head with its skull; auto: Colin27 of Debian's mricron-data"), \
    cli_string("template-brain", &(o).brain, NULL, "FILE", \
               "its brain: above 0 on the same grid; none: with auto, mricron-data's")
#define STRIP_OPTIONS(o, how) \
    cli_choice("to", &(o).to, 0, "rigid|affine|reference", \
               "of --template: cases come onto its grid, turned and shifted; scaled and sheared, too; or stay"), \
    cli_flag("strip", &(how).strip, "take away what is not brain, by the template; the mask is brain_mask.nii.gz"), \
    cli_float("strip-margin", &(how).strip_margin, 0, -20, 20, "mm that are left around the brain")
/* The same of a template, but for its name. n, opt: the command's table. */
int atlas_options_set(bmvp_preparation *how, const atlas_options *o, const cli_option *opt, int n);

/* dataset_load_as, and says what is not used. o may be NULL. */
bmvp_status data_load(dataset *d, const char *data, const dataset_options *o, const char *command, bmvp_error *err);

/* A line for each file: case, patient, class, part, role, file, with tabs between; then those that are left out, with
   the reason. */
void data_print_table(const dataset *d);

#endif
