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

/* dataset_load_as, and says what is not used. o may be NULL. */
bmvp_status data_load(dataset *d, const char *data, const dataset_options *o, const char *command, bmvp_error *err);

/* A line for each file: case, patient, class, part, role, file, with tabs between; then those that are left out, with
   the reason. */
void data_print_table(const dataset *d);

#endif
