/* cli.c - see cli.h */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L    /* isatty, clock_gettime */
#endif
#include "cli.h"
#include "data/files.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* >>options -------------------------------------------------------------------------------------------------------- */

static cli_option cli_make(const char *name, cli_type type, void *value, const char *help)
{
    cli_option o;
    memset(&o, 0, sizeof o);
    o.name = name;
    o.type = type;
    o.value = value;
    o.help = help;
    return o;
}

cli_option cli_int(const char *name, int64_t *value, int64_t def, double lo, double hi, const char *help)
{
    cli_option o = cli_make(name, CLI_INT, value, help);
    o.lo = lo;
    o.hi = hi;
    o.def = (double)def;
    *value = def;
    return o;
}

cli_option cli_float(const char *name, double *value, double def, double lo, double hi, const char *help)
{
    cli_option o = cli_make(name, CLI_FLOAT, value, help);
    o.lo = lo;
    o.hi = hi;
    o.def = def;
    *value = def;
    return o;
}

cli_option cli_string(const char *name, const char **value, const char *def, const char *metavar,
                      const char *help)
{
    cli_option o = cli_make(name, CLI_STRING, (void *)value, help);
    o.words = metavar;
    o.def_text = def;
    *value = def;
    return o;
}

cli_option cli_required(const char *name, const char **value, const char *metavar, const char *help)
{
    cli_option o = cli_string(name, value, NULL, metavar, help);
    o.required = 1;
    return o;
}

cli_option cli_choice(const char *name, int *value, int def, const char *words, const char *help)
{
    cli_option o = cli_make(name, CLI_CHOICE, value, help);
    o.words = words;
    o.def = def;
    *value = def;
    return o;
}

cli_option cli_list(const char *name, uint32_t *bits, uint32_t def, const char *words, const char *help)
{
    cli_option o = cli_make(name, CLI_LIST, bits, help);
    o.words = words;
    o.def = def;
    *bits = def;
    return o;
}

cli_option cli_flag(const char *name, int *value, const char *help)
{
    cli_option o = cli_make(name, CLI_FLAG, value, help);
    *value = 0;
    return o;
}

cli_option cli_positional(const char *name, const char **value, int required, const char *help)
{
    cli_option o = cli_make(name, CLI_POSITIONAL, (void *)value, help);
    o.required = required;
    *value = NULL;
    return o;
}

int cli_parse_size(const char *text, int64_t size[3])
{
    char *end;
    int a;
    for (a = 0; a < 3; ++a, text = end + 1) {
        size[a] = strtoll(text, &end, 10);
        if (end == text || size[a] < 1 || size[a] > 4096 || *end != (a < 2 ? ',' : 0)) return 0;
    }
    return 1;
}

int cli_given(const cli_option *opt, int n_opt, const char *name)
{
    int i;
    for (i = 0; i < n_opt; i++)
        if (strcmp(opt[i].name, name) == 0) return opt[i].given;
    return 0;
}

/* >>words ---------------------------------------------------------------------------------------------------------- */

/* Next word of "a|b|c" (separators `sep`): start and length; returns where to go on, NULL at the end. */
static const char *cli_word(const char *s, char sep, const char **start, size_t *length)
{
    const char *end;
    if (!s) return NULL;
    end = strchr(s, sep);
    *start = s;
    *length = end ? (size_t)(end - s) : strlen(s);
    return end ? end + 1 : s + *length;
}

/* Index of `word` (length n) in "a|b|c", -1 if it is not there. */
static int cli_find(const char *words, const char *word, size_t n)
{
    const char *start = NULL;
    size_t len = 0;
    int i;
    for (i = 0; words && *words; i++) {
        words = cli_word(words, '|', &start, &len);
        if (len == n && memcmp(start, word, n) == 0) return i;
    }
    return -1;
}

enum { CLI_MAX_WORD = 48 };

static int cli_min(int a, int b) { return a < b ? a : b; }

/* Levenshtein distance, one row kept. */
static int cli_distance(const char *a, size_t na, const char *b, size_t nb)
{
    int row[CLI_MAX_WORD + 1];
    size_t i, j;
    if (na > CLI_MAX_WORD || nb > CLI_MAX_WORD) return 1000;
    for (j = 0; j <= nb; j++) row[j] = (int)j;
    for (i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (j = 1; j <= nb; j++) {
            int up = row[j];
            row[j] = cli_min(cli_min(up, row[j - 1]) + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = up;
        }
    }
    return row[nb];
}

int cli_nearest(const char *word, const char *words, char *buf, int buf_size)
{
    size_t n = strlen(word), len = 0;
    int best = 1000, d;
    const char *start = NULL;
    while (words && *words) {
        words = cli_word(words, '|', &start, &len);
        d = cli_distance(word, n, start, len);
        /* "--modal" means "--modalities": a prefix is as good as one typing error */
        if (n >= 2 && n < len && memcmp(word, start, n) == 0) d = 1;
        if (d < best && d <= 1 + (int)len / 3 && (int)len < buf_size) {
            best = d;
            memcpy(buf, start, len);
            buf[len] = 0;
        }
    }
    return best < 1000;
}

/* >>help ----------------------------------------------------------------------------------------------------------- */

/* What may be written for an option: used by --help and by every error message. */
static void cli_possible(FILE *f, const cli_option *o)
{
    switch (o->type) {
    case CLI_INT: fprintf(f, "integer from %.0f to %.0f", o->lo, o->hi); break;
    case CLI_FLOAT: fprintf(f, "number from %g to %g", o->lo, o->hi); break;
    case CLI_CHOICE: fprintf(f, "one of %s", o->words); break;
    case CLI_LIST: fprintf(f, "comma list of %s", o->words); break;
    default: break;
    }
}

static void cli_default(FILE *f, const cli_option *o)
{
    const char *words = o->words, *start = NULL, *comma = "";
    size_t len = 0;
    int i;
    if (o->required) fputs("required", f);
    else if (o->type == CLI_INT) fprintf(f, "default %.0f", o->def);
    else if (o->type == CLI_FLOAT) fprintf(f, "default %g", o->def);
    else if (o->type == CLI_STRING && o->def_text) fprintf(f, "default %s", o->def_text);
    else if (o->type == CLI_CHOICE || o->type == CLI_LIST) {
        uint32_t bits = o->type == CLI_LIST ? (uint32_t)o->def : (uint32_t)1 << (int)o->def;
        fputs("default ", f);
        for (i = 0; words && *words; i++) {
            words = cli_word(words, '|', &start, &len);
            if (!(bits >> i & 1)) continue;
            fprintf(f, "%s%.*s", comma, (int)len, start);
            comma = ",";
        }
    }
}

static int cli_has_default(const cli_option *o)
{
    return o->required || o->type == CLI_INT || o->type == CLI_FLOAT || o->type == CLI_CHOICE ||
           o->type == CLI_LIST || (o->type == CLI_STRING && o->def_text);
}

static void cli_help(const char *command, const char *summary, const cli_option *opt, int n_opt)
{
    int i;
    printf("usage: bmvp %s", command);
    for (i = 0; i < n_opt; i++)
        if (opt[i].type == CLI_POSITIONAL) printf(opt[i].required ? " %s" : " [%s]", opt[i].name);
        else if (opt[i].required) printf(" --%s %s", opt[i].name, opt[i].words);
    printf(" [options]\n\n%s\n\n", summary);
    for (i = 0; i < n_opt; i++) {
        const cli_option *o = &opt[i];
        const char *metavar = o->type == CLI_STRING ? o->words : o->type == CLI_INT ? "N"
                            : o->type == CLI_FLOAT ? "X" : o->type == CLI_CHOICE ? "NAME" : "A,B,..";
        char left[64];
        if (o->type == CLI_POSITIONAL) snprintf(left, sizeof left, "%s", o->name);
        else if (o->type == CLI_FLAG) snprintf(left, sizeof left, "--%s", o->name);
        else snprintf(left, sizeof left, "--%s %s", o->name, metavar);
        printf("  %-22s %s", left, o->help);
        if (cli_has_default(o)) {
            if (o->type == CLI_STRING || o->type == CLI_POSITIONAL) fputs(" (", stdout);
            else {
                printf("\n  %22s (", "");
                cli_possible(stdout, o);
                fputs("; ", stdout);
            }
            cli_default(stdout, o);
            fputs(")", stdout);
        }
        fputs("\n", stdout);
    }
    printf("  %-22s %s\n", "--help", "this text");
}

/* >>parse ---------------------------------------------------------------------------------------------------------- */

static int cli_reject(const char *command, const cli_option *o, const char *text)
{
    fprintf(stderr, "bmvp %s: --%s %s is not possible; possible: ", command, o->name, text);
    cli_possible(stderr, o);
    fputs("\n", stderr);
    return CLI_USAGE;
}

static int cli_number(const char *command, const cli_option *o, const char *text)
{
    char *end = NULL;
    double v;
    errno = 0;
    if (o->type == CLI_INT) {
        long long n = strtoll(text, &end, 10);
        v = (double)n;
        if (end == text || *end || errno || !(v >= o->lo && v <= o->hi)) return cli_reject(command, o, text);
        *(int64_t *)o->value = (int64_t)n;
    } else {
        v = strtod(text, &end);
        if (end == text || *end || !(v >= o->lo && v <= o->hi)) return cli_reject(command, o, text);
        *(double *)o->value = v;
    }
    return -1;
}

static int cli_store(const char *command, const cli_option *o, const char *text)
{
    const char *rest = text, *start = NULL;
    size_t len = 0;
    uint32_t bits = 0;
    int i;
    if (o->type == CLI_INT || o->type == CLI_FLOAT) return cli_number(command, o, text);
    if (o->type == CLI_STRING || o->type == CLI_POSITIONAL) {
        if (!*text) return cli_fail(CLI_USAGE, command, "--%s must not be empty", o->name);
        *(const char **)o->value = text;
        return -1;
    }
    if (o->type == CLI_CHOICE) {
        i = cli_find(o->words, text, strlen(text));
        if (i < 0) return cli_reject(command, o, text);
        *(int *)o->value = i;
        return -1;
    }
    while (rest && *rest) {
        rest = cli_word(rest, ',', &start, &len);
        i = cli_find(o->words, start, len);
        if (i < 0) return cli_reject(command, o, text);
        bits |= (uint32_t)1 << i;
    }
    if (!bits) return cli_reject(command, o, text);
    *(uint32_t *)o->value = bits;
    return -1;
}

static cli_option *cli_lookup(cli_option *opt, int n_opt, const char *name, size_t n)
{
    int i;
    for (i = 0; i < n_opt; i++)
        if (opt[i].type != CLI_POSITIONAL && strlen(opt[i].name) == n && memcmp(opt[i].name, name, n) == 0)
            return &opt[i];
    return NULL;
}

cli_option *cli_find_option(cli_option *opt, int n_opt, const char *name)
{
    return cli_lookup(opt, n_opt, name, strlen(name));
}

int cli_set(const char *command, const cli_option *o, const char *text)
{
    if (o->type != CLI_FLAG) return cli_store(command, o, text);
    *(int *)o->value = strcmp(text, "1") == 0;
    return -1;
}

void cli_text(const cli_option *o, char *buf, size_t size)
{
    const char *words = o->words, *start = "";
    size_t len = 0;
    int i;
    if (o->type == CLI_INT) snprintf(buf, size, "%lld", (long long)*(const int64_t *)o->value);
    else if (o->type == CLI_FLOAT) snprintf(buf, size, "%.17g", *(const double *)o->value);
    else if (o->type == CLI_FLAG) snprintf(buf, size, "%s", *(const int *)o->value ? "1" : "");
    else if (o->type == CLI_CHOICE) {
        for (i = 0; i <= *(const int *)o->value; i++) words = cli_word(words, '|', &start, &len);
        snprintf(buf, size, "%.*s", (int)len, start);
    } else snprintf(buf, size, "%s", *(const char *const *)o->value ? *(const char *const *)o->value : "");
}

static int cli_unknown(const char *command, const cli_option *opt, int n_opt, const char *arg, size_t n)
{
    char words[2048] = "help", word[CLI_MAX_WORD + 1], near[CLI_MAX_WORD + 1];
    size_t used = 4;
    int i;
    for (i = 0; i < n_opt; i++) {
        size_t len = strlen(opt[i].name);
        if (opt[i].type == CLI_POSITIONAL || used + len + 2 > sizeof words) continue;
        words[used] = '|';
        memcpy(words + used + 1, opt[i].name, len + 1);
        used += len + 1;
    }
    snprintf(word, sizeof word, "%.*s", (int)n, arg);
    if (cli_nearest(word, words, near, (int)sizeof near))
        return cli_fail(CLI_USAGE, command, "unknown option --%s; did you mean --%s?", word, near);
    return cli_fail(CLI_USAGE, command, "unknown option --%s; `bmvp %s --help` lists all", word, command);
}

static int cli_place(const char *command, cli_option *opt, int n_opt, const char *arg)
{
    int i;
    for (i = 0; i < n_opt; i++) {
        if (opt[i].type != CLI_POSITIONAL || opt[i].given) continue;
        opt[i].given = 1;
        return cli_store(command, &opt[i], arg);
    }
    return cli_fail(CLI_USAGE, command, "unexpected argument `%s`; `bmvp %s --help` lists all", arg, command);
}

const char *cli_peek(const char *name, int argc, char **argv)
{
    const size_t n = strlen(name);
    int i;
    for (i = 1; i < argc; ++i) {
        if (strncmp(argv[i], "--", 2) != 0 || strncmp(argv[i] + 2, name, n) != 0) continue;
        if (argv[i][2 + n] == '=') return argv[i] + 3 + n;
        if (argv[i][2 + n] == 0) return i + 1 < argc ? argv[i + 1] : NULL;
    }
    return NULL;
}

int cli_parse(const char *command, const char *summary, cli_option *opt, int n_opt, int argc, char **argv)
{
    int i, code, only_places = 0;
    for (i = 1; i < argc; i++) {
        const char *arg = argv[i], *equals;
        size_t n;
        cli_option *o;
        if (only_places || strncmp(arg, "--", 2) != 0) {
            if (!only_places && strcmp(arg, "-h") == 0) arg = "--help";
            else {
                if ((code = cli_place(command, opt, n_opt, arg)) >= 0) return code;
                continue;
            }
        }
        if (!arg[2]) {
            only_places = 1;
            continue;
        }
        if (strcmp(arg, "--help") == 0) {
            cli_help(command, summary, opt, n_opt);
            return CLI_DONE;
        }
        equals = strchr(arg, '=');
        n = equals ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
        o = cli_lookup(opt, n_opt, arg + 2, n);
        if (!o) return cli_unknown(command, opt, n_opt, arg + 2, n);
        o->given = 1;
        if (o->type == CLI_FLAG) {
            if (equals) return cli_fail(CLI_USAGE, command, "--%s takes no value", o->name);
            *(int *)o->value = 1;
            continue;
        }
        if (!equals && i + 1 >= argc) return cli_fail(CLI_USAGE, command, "--%s needs a value", o->name);
        if ((code = cli_store(command, o, equals ? equals + 1 : argv[++i])) >= 0) return code;
    }
    for (i = 0; i < n_opt; i++)
        if (opt[i].required && !opt[i].given)
            return cli_fail(CLI_USAGE, command, "%s%s is required (%s); `bmvp %s --help` lists all",
                            opt[i].type == CLI_POSITIONAL ? "" : "--", opt[i].name, opt[i].help, command);
    return -1;
}

/* >>messages ------------------------------------------------------------------------------------------------------- */

static double cli_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void cli_begin(cli_progress *p)
{
    if (p->begun) return;
    p->begun = 1;
    p->started = p->last = cli_now();
    p->tty = isatty(2);
}

double cli_elapsed(cli_progress *p)
{
    cli_begin(p);
    return cli_now() - p->started;
}

void cli_status(cli_progress *p, int final, const char *format, ...)
{
    double now = cli_now(), every;
    va_list args;
    cli_begin(p);
    every = p->tty ? 0.1 : 10.0;
    if (final <= 0 && now - p->last < every && !(final < 0 && p->tty)) return;
    p->last = now;
    if (p->tty) fputs("\r", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    if (p->tty) fputs("\033[K", stderr);
    if (final > 0 || !p->tty) fputs("\n", stderr);
    fflush(stderr);
}

void cli_status_end(cli_progress *p)
{
    if (p->begun && p->tty) fputs("\r\033[K", stderr);
}

int cli_fail(int code, const char *command, const char *format, ...)
{
    char text[4096];
    va_list args;
    va_start(args, format);
    text_say(text, sizeof text, format, args);
    va_end(args);
    /* whoever fails says why, unless there was no memory to say it with */
    fprintf(stderr, "bmvp %s: %s\n", command, *text ? text : "out of memory");
    return code;
}
