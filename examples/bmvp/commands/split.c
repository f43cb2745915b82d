/* split.c - `bmvp split`: which cases are for training, validation and test, see data/splits.h */
#include "commands.h"
#include "cli.h"
#include "data_options.h"
#include "data/splits.h"
#include <stdio.h>
#include <stdlib.h>

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

static bmvp_status run(const char *data, const char *out, const double ratio[SPLIT_PARTS], int64_t seed, int64_t folds,
                       int by_class, bmvp_error *err)
{
    int64_t k, i, n[SPLIT_PARTS] = { 0, 0, 0 };
    dataset d;
    data_split s;
    bmvp_status st = data_load(&d, data, NULL, "split", err);
    if (st) return st;
    st = by_class ? split_make_by_class(&s, &d, ratio, (uint64_t)seed, err)
                  : split_make(&s, &d, ratio, (uint64_t)seed, err);
    if (!st && folds > 0) st = split_add_folds(&s, &d, (int)folds, err);
    if (!st) st = split_save(&s, &d, out, err);
    for (i = 0; i < d.n && !st; ++i)
        for (k = 0; k < SPLIT_PARTS; ++k) n[k] += s.part[i] == k;
    if (!st) {
        printf("%s: %lld cases to train, %lld to validate, %lld to test", out, (long long)n[0], (long long)n[1],
               (long long)n[2]);
        if (folds) printf("; %lld folds", (long long)folds);
        printf("\n");
    }
    split_free(&s);
    dataset_free(&d);
    return st;
}

int command_split(int argc, char **argv)
{
    double ratio[SPLIT_PARTS];
    const char *data, *out, *parts;
    int64_t seed, folds;
    int by_class;
    bmvp_error err;
    cli_option opt[] = {
        cli_required("data", &data, "LIST|DIR", "cases"),
        cli_required("out", &out, "FILE", "the split, a JSON file"),
        cli_string("ratio", &parts, "6:1:3", "A:B:C", "shares of training, validation and test"),
        cli_int("seed", &seed, 0, 0, 2147483647, "which split; the same for the same patients in any order"),
        cli_int("folds", &folds, 0, 0, SPLIT_MAX_FOLDS, "also cut all cases into so many folds"),
        cli_flag("stratify", &by_class, "every part holds the classes in proportion; each case needs a \"class\""),
    };
    const int code = cli_parse(
        "split",
        "Split cases by patient into training, validation and test, with nested fractions of the "
        "training cases.",
        opt, (int)(sizeof opt / sizeof *opt), argc, argv);
    if (code >= 0) return code;
    if (!parse_ratio(parts, ratio))
        return cli_fail(CLI_USAGE, "split",
                        "--ratio %s: must be three numbers with colons, the first above 0, as 6:1:3", parts);
    if (folds == 1) return cli_fail(CLI_USAGE, "split", "--folds 1: at least 2");
    if (run(data, out, ratio, seed, folds, by_class, &err)) return cli_fail(CLI_FAILED, "split", "%s", err.message);
    return CLI_DONE;
}
