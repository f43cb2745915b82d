/* cli.h - command-line options of the bmvp commands: one table per command gives parsing, checks and --help

   Do this:
       int64_t steps; double lr; int preset; const char *out;
       cli_option opt[] = {
           cli_required("out", &out, "DIR", "folder to write"),
           cli_int("steps", &steps, 100, 1, 1e9, "number of steps"),
           cli_float("lr", &lr, 3e-4, 0, 1, "learning rate"),
           cli_choice("preset", &preset, 0, "paper|release|fast", "which defaults")
       };
       int code = cli_parse("pretrain", "Pre-train a network.", opt, 4, argc, argv);
       if (code >= 0) return code;                     (0 after --help, 2 after a bad option)

   Options are written `--name value` or `--name=value`; `--` ends them. The constructors store the default in the
   variable at once, so it is valid also where the user gives nothing.
   Exit codes of all commands: 0 done, 1 failed, 2 bad options. */
#ifndef CLI_H_INCLUDED
#define CLI_H_INCLUDED

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

typedef enum cli_type {
    CLI_INT,          /* int64_t */
    CLI_FLOAT,        /* double */
    CLI_STRING,       /* const char *, points into argv */
    CLI_CHOICE,       /* int: index into "a|b|c" */
    CLI_LIST,         /* uint32_t: bit i set = word i of "a|b|c" was in the comma list; 1 to 32 words */
    CLI_FLAG,         /* int: 1 when given; takes no value */
    CLI_POSITIONAL    /* const char *, an argument without dashes, filled in table order */
} cli_type;

typedef struct cli_option {   /* make it with the functions below */
    const char *name;         /* without dashes */
    cli_type type;
    void *value;
    double lo, hi;                 /* inclusive range of numbers */
    const char *words;             /* the words of a choice or list; what to call the value of a string */
    const char *help;
    int required;
    int given;                     /* set by cli_parse */
    double def;                    /* default for --help: number, index or bits */
    const char *def_text;          /* default of a string, may be NULL */
} cli_option;

cli_option cli_int(const char *name, int64_t *value, int64_t def, double lo, double hi, const char *help);
cli_option cli_float(const char *name, double *value, double def, double lo, double hi, const char *help);
cli_option cli_string(const char *name, const char **value, const char *def, const char *metavar,
                      const char *help);
cli_option cli_required(const char *name, const char **value, const char *metavar, const char *help);
cli_option cli_choice(const char *name, int *value, int def, const char *words, const char *help);
cli_option cli_list(const char *name, uint32_t *bits, uint32_t def, const char *words, const char *help);
cli_option cli_flag(const char *name, int *value, const char *help);
cli_option cli_positional(const char *name, const char **value, int required, const char *help);

/* argv[0] is the command's own name and is skipped. Returns -1 to go on, else the exit code: 0 after --help (on
   stdout), 2 after an error (message on stderr that names the option and what is possible). */
/* The value of --name in argv, NULL: not there; before anything is parsed. */
const char *cli_peek(const char *name, int argc, char **argv);
int cli_parse(const char *command, const char *summary, cli_option *opt, int n_opt, int argc, char **argv);

/* The option of this name; NULL: there is none. */
cli_option *cli_find_option(cli_option *opt, int n_opt, const char *name);
/* As if `--name text` had been given (a flag: its text is "1"), but `given` stays. text must stay, too. -1, or 2 and a
   message. */
int cli_set(const char *command, const cli_option *o, const char *text);
/* What would have to be given for the value that it has (a flag: "1" or ""; a string: itself, "" for none). */
void cli_text(const cli_option *o, char *buf, size_t size);

/* "96,96,64" to three whole numbers from 1 to 4096; 0: it is none. */
int cli_parse_size(const char *text, int64_t size[3]);

/* 1 if the user gave the option: for defaults that depend on another option. */
int cli_given(const cli_option *opt, int n_opt, const char *name);

/* The entry of "a|b|c" closest to word by edit distance, copied to buf; returns 0 if none is near enough to suggest. */
int cli_nearest(const char *word, const char *words, char *buf, int buf_size);

/* A status line on stderr: rewritten in place on a terminal, else one line every 10 seconds. Zero-initialise. */
typedef struct cli_progress {
    double started, last;          /* seconds of the monotonic clock */
    int begun, tty;
} cli_progress;

/* final 1: always shows the line and ends it; -1: on a terminal shows it at once, and the next one takes its place. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void cli_status(cli_progress *p, int final, const char *format, ...);
void cli_status_end(cli_progress *p);     /* on a terminal takes away the line that stands there */
double cli_elapsed(cli_progress *p);      /* seconds since the first call with p */

/* Prints "bmvp COMMAND: message" on stderr and returns `code`, so that `return cli_fail(...)` reads well. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
int cli_fail(int code, const char *command, const char *format, ...);

#ifdef __cplusplus
}
#endif
#endif
