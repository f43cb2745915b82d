/* list.c - `bmvp list`: a data list of what is in a folder, to be looked at and edited */
#include "commands.h"
#include "data_options.h"
#include "data/files.h"
#include <stdio.h>
#include <string.h>

int command_list(int argc, char **argv)
{
    const char *data, *out;
    dataset_options o;
    bmvp_error err;
    bmvp_status st;
    dataset d;
    cli_option opt[] = {
        cli_required("data", &data, "DIR|LIST", "a data set in any layout that is known, or a list"),
        cli_string("out", &out, NULL, "FILE", "the list to write; none: the table of cases and files"),
        DATA_OPTIONS(o),
    };
    const int code = cli_parse("list", "Say which files make which cases: as a table, or as a data list to be edited.",
                               opt, (int)(sizeof opt / sizeof *opt), argc, argv);
    if (code >= 0) return code;
    if (data_load(&d, data, &o, "list", &err)) return cli_fail(CLI_FAILED, "list", "%s", err.message);
    if (out && file_exists(out)) /* an edited draft is work */
        st = bmvp_error_set(&err, BMVP_E_ARG, "%s: is there already; remove it, or choose another --out", out);
    else st = out ? dataset_save(&d, out, &err) : BMVP_OK;
    if (!st && out)
        printf("%s: %lld cases (%s), %lld left out; %lld files or keys not used\n", out, (long long)d.n, d.layout,
               (long long)d.n_dropped, (long long)d.n_unused);
    else if (!st) data_print_table(&d);
    dataset_free(&d);
    return st ? cli_fail(CLI_FAILED, "list", "%s", err.message) : CLI_DONE;
}
