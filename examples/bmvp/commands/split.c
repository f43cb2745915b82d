/* split.c - `bmvp split`: which cases are for training, validation and test, see data/splits.h */
#include "commands.h"
#include "cli.h"
#include "data/files.h"
#include "data_options.h"
#include "data/splits.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int parse_ratio(const char *text, double ratio[SPLIT_PARTS])
{
    char *end;
    int k;
    for (k = 0; k < SPLIT_PARTS; ++k) {
        ratio[k] = strtod(text, &end);
        if (end == text || !(ratio[k] >= 0) || !(ratio[k] < 1e9) || *end != (k < 2 ? ':' : 0)) return 0;
        text = end + 1;
    }
    return ratio[0] > 0;
}

typedef struct options {
    const char *data, *out, *parts;
    dataset_options files;
    double ratio[SPLIT_PARTS];
    int64_t seed, folds;
    int by_class, anew; /* anew: what the data set brings is not wanted */
} options;

static bmvp_status make(data_split *s, const dataset *d, const options *o, bmvp_error *err)
{
    const uint64_t seed = (uint64_t)o->seed;
    bmvp_status st = o->by_class ? split_make_by_class(s, d, o->ratio, seed, err)
                     : o->anew   ? split_make(s, d, o->ratio, seed, err)
                                 : split_take(s, d, o->ratio, seed, err);
    if (st || o->folds == 0) return st;
    if (s->how[0]) snprintf(s->how + strlen(s->how), sizeof s->how - strlen(s->how), "; folds: drawn");
    return split_add_folds(s, d, (int)o->folds, err);
}

static bmvp_status run(const options *o, bmvp_error *err)
{
    int64_t k, i, n[SPLIT_PARTS] = { 0, 0, 0 };
    dataset d;
    data_split s;
    bmvp_status st = data_load(&d, o->data, &o->files, "split", err);
    if (st) return st;
    st = make(&s, &d, o, err);
    if (!st) st = file_may_replace(o->out, "train", err);
    if (!st) st = split_save(&s, &d, o->out, err);
    for (i = 0; i < d.n && !st; ++i)
        for (k = 0; k < SPLIT_PARTS; ++k) n[k] += s.part[i] == k;
    if (!st) {
        printf("%s: %lld cases to train, %lld to validate, %lld to test", o->out, (long long)n[0], (long long)n[1],
               (long long)n[2]);
        if (s.folds) printf("; %d folds", s.folds);
        if (n[0] + n[1] + n[2] < d.n) printf("; %lld not used", (long long)(d.n - n[0] - n[1] - n[2]));
        if (s.how[0]) printf("\nas the data set has it: %s (--seed N draws all anew)", s.how);
        printf("\n");
    }
    split_free(&s);
    dataset_free(&d);
    return st;
}

int command_split(int argc, char **argv)
{
    options o;
    bmvp_error err;
    cli_option opt[] = {
        cli_required("data", &o.data, "LIST|DIR", "cases"),
        DATA_OPTIONS(o.files),
        cli_required("out", &o.out, "FILE", "the split, a JSON file"),
        cli_string("ratio", &o.parts, "6:1:3", "A:B:C",
                   "shares of training, validation and test, drawn anew where the data set brings parts"),
        cli_int("seed", &o.seed, 0, 0, 2147483647,
                "which split, drawn anew; the same for the same patients in any order"),
        cli_int("folds", &o.folds, 0, 0, SPLIT_MAX_FOLDS, "also cut all cases into so many folds"),
        cli_flag("stratify", &o.by_class,
                 "every part holds the classes in proportion, drawn anew; each case needs a \"class\""),
    };
    const int n_opt = (int)(sizeof opt / sizeof *opt);
    const int code = cli_parse(
        "split",
        "Split cases by patient into training, validation and test, with nested fractions of the "
        "training cases; parts and folds that the data set brings are kept.",
        opt, n_opt, argc, argv);
    if (code >= 0) return code;
    if (!parse_ratio(o.parts, o.ratio))
        return cli_fail(CLI_USAGE, "split",
                        "--ratio %s: must be three numbers with colons, the first above 0, as 6:1:3", o.parts);
    if (o.folds == 1) return cli_fail(CLI_USAGE, "split", "--folds 1: at least 2");
    o.anew = cli_given(opt, n_opt, "seed") || cli_given(opt, n_opt, "ratio");
    if (run(&o, &err)) return cli_fail(CLI_FAILED, "split", "%s", err.message);
    return CLI_DONE;
}
