/* classes.c - classes from a table: --classes FILE --id-column NAME --class-column NAME; see dataset.h

   The file is a CSV or TSV with a line of column names (participants.tsv of BIDS, ADNI's and ABIDE's tables); the
   separator is the one that the first line has most of. A line belongs to the cases whose id or patient its id column
   names; upper and lower case, zeros before numbers and "sub-" do not count: 50642 is sub-0050642, UCSF-PDGM-004 is
   UCSF-PDGM-0004. Values that are the whole numbers 0, 1 .. are the classes; others get numbers in their order (numbers
   by size, text by letters), are said, and are kept as "class_names". */
#include "dataset.h"
#include "files.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLUMNS = 512, MAX_CLASSES = 64, KEY = 256 };

typedef struct table {
    bmvp_bytes text;
    char separator;
    char **column;  /* names */
    int columns;
    char *at;       /* the next line */
} table;

/* Cuts the line at t->at into fields, in place; quotes are taken off. Returns how many, 0 at the end of the file. */
static int next_line(table *t, char **field, int most)
{
    char *p = t->at, *to;
    int n = 0, quoted, more = 1;
    while (p && (*p == '\n' || *p == '\r')) ++p;
    if (!p || !*p) return 0;
    while (more) {
        while (*p == ' ') ++p;
        to = p;
        if (n < most) field[n++] = p;
        for (quoted = 0; *p && (quoted || (*p != t->separator && *p != '\n' && *p != '\r')); ++p) {
            if (*p == '"' && quoted && p[1] == '"') *to++ = *p++;
            else if (*p == '"') quoted = !quoted;
            else *to++ = *p;
        }
        more = *p == t->separator;
        t->at = *p ? p + 1 : p;
        while (n > 0 && to > field[n - 1] && to[-1] == ' ') --to; /* "NYU " of ADHD-200's tables */
        *to = 0;
        p = t->at;
    }
    return n;
}

static char most_of(const char *line)
{
    static const char candidate[] = { ',', '\t', ';' };
    size_t i, best = 0, count, most = 0;
    const char *p;
    int quoted;
    for (i = 0; i < sizeof candidate; ++i) {
        for (p = line, count = 0, quoted = 0; *p && *p != '\n' && *p != '\r'; ++p) {
            quoted ^= *p == '"';
            count += !quoted && *p == candidate[i];
        }
        if (count > most) most = count, best = i;
    }
    return candidate[best];
}

static bmvp_status open_table(table *t, const char *path, char **column, bmvp_error *err)
{
    bmvp_status st;
    memset(t, 0, sizeof *t);
    bmvp_bytes_init(&t->text, NULL);
    st = bmvp_file_read(path, (size_t)1 << 28, &t->text, err);
    if (st) return st;
    t->at = t->text.data;
    if (t->text.len >= 3 && memcmp(t->at, "\xef\xbb\xbf", 3) == 0) t->at += 3;
    t->separator = most_of(t->at ? t->at : "");
    t->column = column;
    t->columns = next_line(t, column, MAX_COLUMNS);
    return t->columns ? BMVP_OK : bmvp_error_set(err, BMVP_E_FORMAT, "%s: no line of column names", path);
}

static int find_column(const table *t, const char *name)
{
    int i;
    for (i = 0; i < t->columns && strcmp(t->column[i], name) != 0; ++i) { }
    return i < t->columns ? i : -1;
}

/* The column of ids where none is named: BIDS's, ABIDE's (SITE_ID stands before it), ADHD-200's, ADNI's, else the
   first. */
static int usual_ids(const table *t)
{
    static const char *const name[] = { "participant_id", "SUB_ID", "ScanDir ID", "Subject" };
    size_t i;
    for (i = 0; i < sizeof name / sizeof *name; ++i)
        if (find_column(t, name[i]) >= 0) return find_column(t, name[i]);
    return 0;
}

static bmvp_status one_column(const table *t, const char *path, int found, bmvp_error *err)
{
    int i;
    for (i = found + 1; i < t->columns; ++i)
        if (strcmp(t->column[i], t->column[found]) == 0)
            return bmvp_error_set(err, BMVP_E_FORMAT, "%s: columns %d and %d are both called '%s': which one is meant?",
                                  path, found + 1, i + 1, t->column[found]);
    return BMVP_OK;
}

static bmvp_status no_column(const table *t, const char *path, const char *option, const char *name, bmvp_error *err)
{
    char list[400] = "";
    size_t used = 0;
    int i;
    for (i = 0; i < t->columns && used + 1 < sizeof list; ++i)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s'%s'", i ? " " : "", t->column[i]);
    return bmvp_error_set(err, BMVP_E_ARG, "%s: %s '%s': there is no such column; there are %s", path, option, name,
                          list);
}

/* What of a name counts when two are compared. */
static void plain_key(const char *text, char out[KEY])
{
    size_t n = 0;
    if (strncmp(text, "sub-", 4) == 0) text += 4;
    while (*text && n + 1 < KEY) {
        if (isdigit((unsigned char)*text)) {
            while (text[0] == '0' && isdigit((unsigned char)text[1])) ++text;
            while (isdigit((unsigned char)*text) && n + 1 < KEY) out[n++] = *text++;
        } else if (isspace((unsigned char)*text)) ++text;
        else out[n++] = (char)tolower((unsigned char)*text++);
    }
    out[n] = 0;
}

typedef struct values { /* the different values of the class column */
    char *text[MAX_CLASSES];
    int n;
} values;

static int is_number(const char *text, double *v)
{
    char *end;
    *v = strtod(text, &end);
    return end != text && *end == 0;
}

static int by_value(const void *a, const void *b)
{
    const char *p = *(char *const *)a, *q = *(char *const *)b;
    double x, y;
    if (is_number(p, &x) && is_number(q, &y)) return (x > y) - (x < y);
    return strcmp(p, q);
}

static int same_letters(const char *a, const char *b)
{
    for (; *a && tolower((unsigned char)*a) == tolower((unsigned char)*b); ++a, ++b) { }
    return *a == *b;
}

/* Nothing said: no class, no value of it. ABIDE has -9999, ADHD-200 pending and withheld. */
static int is_missing(const char *text)
{
    static const char *const nothing[] = { "", "n/a", "na", "nan", "null", "#n/a", "-9999", "pending", "withheld" };
    size_t i;
    for (i = 0; i < sizeof nothing / sizeof *nothing; ++i)
        if (same_letters(text, nothing[i])) return 1;
    return 0;
}

/* 1 and 1.0 are one value. */
static int same_value(const char *a, const char *b)
{
    double x, y;
    return strcmp(a, b) == 0 || (is_number(a, &x) && is_number(b, &y) && !(x < y || x > y));
}

static bmvp_status add_value(values *v, char *text, const char *path, bmvp_error *err)
{
    int i;
    for (i = 0; i < v->n && !same_value(v->text[i], text); ++i) { }
    if (i < v->n) return BMVP_OK;
    if (v->n == MAX_CLASSES)
        return bmvp_error_set(err, BMVP_E_ARG,
                              "%s: more than %d different values in the class column; is it the right one?", path,
                              MAX_CLASSES);
    v->text[v->n++] = text;
    return BMVP_OK;
}

/* 1: the values are 0 .. n - 1 themselves. */
static int are_classes(const values *v)
{
    double x;
    int i;
    for (i = 0; i < v->n; ++i)
        if (!is_number(v->text[i], &x) || x != (double)i) return 0;
    return 1;
}

typedef struct row { char *id, *value; } row;

/* Is the id of a row a case's or patient's, letter by letter? */
static int is_exact(const data_case *k, const row *r)
{
    return strcmp(k->id, r->id) == 0 || strcmp(data_patient(k), r->id) == 0;
}

/* The cases of a row get class number k; returns how many. A row with the very id of one is about no other that is
   only alike (007 and 7). */
static int64_t give_class(dataset *d, const row *r, int64_t k, bmvp_error *err, bmvp_status *st)
{
    char key[KEY], id[KEY], patient[KEY];
    int64_t i, n = 0;
    int exact = 0;
    plain_key(r->id, key);
    for (i = 0; i < d->n && !exact; ++i) exact = is_exact(&d->item[i], r);
    for (i = 0; i < d->n && key[0]; ++i) {
        plain_key(d->item[i].id, id);
        plain_key(data_patient(&d->item[i]), patient);
        if (exact ? !is_exact(&d->item[i], r) : strcmp(key, id) != 0 && strcmp(key, patient) != 0) continue;
        ++n;
        if (d->item[i].class_index >= 0 && d->item[i].class_index != k)
            *st = bmvp_error_set(err, BMVP_E_FORMAT, "case '%s' has two classes: %lld, and '%s' in the line of '%s'",
                                 d->item[i].id, (long long)d->item[i].class_index, r->value, r->id);
        d->item[i].class_index = k;
    }
    return n;
}

static bmvp_status name_classes(dataset *d, const values *v, const char *column, bmvp_error *err)
{
    int i;
    if (are_classes(v)) return BMVP_OK;
    for (i = 0; i < d->n_class_names; ++i) free(d->class_name[i]);
    free(d->class_name);
    d->n_class_names = 0;
    d->class_name = (char **)calloc((size_t)v->n, sizeof *d->class_name);
    if (!d->class_name) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    for (i = 0; i < v->n; ++i) {
        d->class_name[i] = text_copy(v->text[i]);
        if (!d->class_name[i]) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
        d->n_class_names = i + 1;
        (void)text_clean(d->class_name[i], '_');
        say(stderr, "class %d: %s '%s'\n", i, column, v->text[i]);
    }
    return BMVP_OK;
}

static bmvp_status apply_rows(dataset *d, const row *rows, int64_t n, const values *v, const char *path,
                              bmvp_error *err)
{
    bmvp_status st = BMVP_OK;
    int64_t i, found = 0;
    int k;
    for (i = 0; i < d->n; ++i) d->item[i].class_index = -1;
    for (i = 0; i < n && !st; ++i) {
        for (k = 0; k < v->n && !same_value(v->text[k], rows[i].value); ++k) { }
        if (k < v->n) found += give_class(d, &rows[i], k, err, &st);
    }
    if (!st && found == 0)
        st = bmvp_error_set(
            err, BMVP_E_ARG,
            "%s: no line is about a case of %s; the ids there are as '%s', here as '%s': is it the right "
            "--id-column?",
            path, d->path, n ? rows[0].id : "", d->item[0].id);
    for (i = 0; i < d->n && !st; ++i)
        if (d->item[i].class_index < 0)
            dataset_note(d, d->item[i].id, NULL, "kept, without a class: %s has no value for it", path);
    return st;
}

/* Rows that have a class; values: the different ones. */
static bmvp_status read_rows(table *t, int id, int class_index, const char *path, row **rows, int64_t *n, values *v,
                             bmvp_error *err)
{
    char *field[MAX_COLUMNS];
    int64_t cap = 0;
    bmvp_status st = BMVP_OK;
    int fields;
    while (!st && (fields = next_line(t, field, MAX_COLUMNS)) > 0) {
        if (fields <= id || fields <= class_index || is_missing(field[class_index])) continue;
        if (*n == cap) {
            row *grown = (row *)realloc(*rows, (size_t)(cap = cap ? 2 * cap : 256) * sizeof *grown);
            if (!grown) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
            *rows = grown;
        }
        (*rows)[*n].id = field[id];
        (*rows)[(*n)++].value = field[class_index];
        st = add_value(v, field[class_index], path, err);
    }
    return st;
}

bmvp_status classes_load(dataset *d, const dataset_options *o, bmvp_error *err)
{
    char *dir = o->classes ? NULL : strstr(d->path, ".json") ? folder_of(d->path) : text_copy(d->path);
    char *own = dir ? path_join(dir, "participants.tsv") : NULL, *column[MAX_COLUMNS];
    const char *path = o->classes ? o->classes : own;
    row *rows = NULL;
    int64_t n = 0;
    bmvp_status st;
    values v;
    table t;
    int id, class_index;
    memset(&v, 0, sizeof v);
    free(dir);
    if (!o->class_column)
        return bmvp_error_set(err, BMVP_E_ARG, "--classes %s: which column is the class? Name it with --class-column",
                              path ? path : "");
    if (!path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    st = open_table(&t, path, column, err);
    id = st ? -1 : o->id_column ? find_column(&t, o->id_column) : usual_ids(&t);
    class_index = st ? -1 : find_column(&t, o->class_column);
    if (!st && id < 0) st = no_column(&t, path, "--id-column", o->id_column, err);
    if (!st && class_index < 0) st = no_column(&t, path, "--class-column", o->class_column, err);
    if (!st) st = one_column(&t, path, id, err);
    if (!st) st = one_column(&t, path, class_index, err);
    if (!st) st = read_rows(&t, id, class_index, path, &rows, &n, &v, err);
    if (!st && v.n) qsort((void *)v.text, (size_t)v.n, sizeof *v.text, by_value);
    if (!st) st = apply_rows(d, rows, n, &v, path, err);
    if (!st) st = name_classes(d, &v, o->class_column, err);
    free(rows);
    bmvp_bytes_free(&t.text);
    free(own);
    return st;
}
