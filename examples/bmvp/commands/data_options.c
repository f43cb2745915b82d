/* data_options.c - see data_options.h */
#include "data_options.h"
#include "data/files.h"
#include <stdio.h>
#include <string.h>

bmvp_status data_load(dataset *d, const char *data, const dataset_options *o, const char *command, bmvp_error *err)
{
    const bmvp_status st = dataset_load_as(d, data, o, err);
    dataset_say(d, command);
    if (st) dataset_free(d);
    return st;
}

int register_set(bmvp_preparation *how, int align, int reference, int search)
{
    if (!align && (reference || search))
        return cli_fail(CLI_USAGE, "prepare",
                        "--reference and --search say how to register: --register header or rigid");
    how->align = (bmvp_alignment)align;
    how->search_all = search;
    if (reference) snprintf(how->reference, sizeof how->reference, "%s", bmvp_modality_name(reference - 1));
    return -1;
}

int atlas_options_set(bmvp_preparation *how, const atlas_options *o, const cli_option *opt, int n)
{
    static const char *const words[4] = { "template-brain", "to", "strip", "strip-margin" };
    static const bmvp_atlas_space spaces[3] = { BMVP_TO_RIGID, BMVP_TO_AFFINE, BMVP_TO_REFERENCE };
    int k;
    for (k = 0; k < 4 && !o->file; ++k)
        if (cli_given(opt, n, words[k]))
            return cli_fail(CLI_USAGE, "prepare", "--%s is done by a template head: --template FILE, or auto",
                            words[k]);
    if (!o->file) return -1;
    how->to = spaces[o->to];
    if (!how->strip && !how->to)
        return cli_fail(CLI_USAGE, "prepare", "--template --to reference does nothing without --strip");
    if (!how->strip && cli_given(opt, n, "strip-margin"))
        return cli_fail(CLI_USAGE, "prepare", "--strip-margin is of --strip");
    if (how->strip && !o->brain && strcmp(o->file, "auto") != 0)
        return cli_fail(CLI_USAGE, "prepare", "--strip needs the template's brain: --template-brain FILE");
    return -1;
}

static void print_file(const data_case *k, const char *as, const char *file, int64_t channel)
{
    char shown[1024];
    snprintf(shown, sizeof shown, "%s", file);
    (void)text_clean(shown, '?');
    printf("%s\t%s\t", k->id, data_patient(k));
    if (k->class_index >= 0) printf("%lld", (long long)k->class_index);
    printf("\t%s", data_part_name[k->part]);
    if (k->fold >= 0) printf("%sfold:%lld", k->part ? " " : "", (long long)k->fold);
    printf("\t%s\t%s", as, shown);
    if (channel >= 0) printf(" [channel %lld]", (long long)channel);
    printf("\n");
}

void data_print_table(const dataset *d)
{
    int64_t i;
    int m;
    printf("case\tpatient\tclass\tpart\trole\tfile\n");
    for (i = 0; i < d->n; ++i) {
        const data_case *k = &d->item[i];
        for (m = 0; m < BMVP_MODALITIES; ++m)
            if (k->image[m]) print_file(k, bmvp_modality_name(m), k->image[m], k->channel[m]);
        if (k->label) print_file(k, "label", k->label, -1);
    }
    for (i = 0; i < d->n_notes; ++i)
        printf("%s\t\t\t\t%s\t%s%s%s\n", d->note[i].id ? d->note[i].id : "",
               d->note[i].used ? "doubtful" : "left out",
               d->note[i].file ? d->note[i].file : "", d->note[i].file ? ": " : "",
               d->note[i].why ? d->note[i].why : "");
}
