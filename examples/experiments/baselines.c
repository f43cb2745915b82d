/* baselines.c - the table of the pre-training methods: Dice (HD95) of each region with its spread, the difference to
   the same network from scratch run by run and case by case, and what pre-training took

   RESULTS as page.c has it, with the network as x: "from scratch" and the methods' names are the arms. COSTS has one
   line for each method: arm <tab> network <tab> steps <tab> batch <tab> seconds <tab> MB; its first line is how <tab>
   steps|seconds <tab> once|each <tab> cases <tab> share. A method that did not run is arm <tab> - <tab> why. */
#include "results.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 6, WHY = 200 };
typedef struct cost {
    char arm[TEXT], network[TEXT], why[WHY];
    double steps, batch, seconds, mb;
} cost;
typedef struct costs {
    cost item[MAX_NAMES];
    int n;
    char equal[16], each[16], pool[TEXT], share[16];
} costs;

/* Words of a line with tabs; returns how many. */
static int words(char *line, char *word[COLUMNS])
{
    int n = 0;
    line[strcspn(line, "\n")] = 0;
    while (line && n < COLUMNS) {
        word[n++] = line;
        line = strchr(line, '\t');
        if (line) *line++ = 0;
    }
    return n;
}

static bmvp_status read_costs(costs *c, const char *path, bmvp_error *err)
{
    char line[1024], *word[COLUMNS];
    FILE *f = fopen(path, "r");
    int n;
    if (!f) return bmvp_error_set(err, BMVP_E_IO, "%s: cannot be read", path);
    memset(c, 0, sizeof *c);
    while (fgets(line, (int)sizeof line, f) && c->n < MAX_NAMES) {
        cost *k = &c->item[c->n];
        n = words(line, word);
        if (n == 5 && strcmp(word[0], "how") == 0) {
            snprintf(c->equal, sizeof c->equal, "%s", word[1]);
            snprintf(c->each, sizeof c->each, "%s", word[2]);
            snprintf(c->pool, sizeof c->pool, "%s", word[3]);
            snprintf(c->share, sizeof c->share, "%s", word[4]);
        } else if (n == 3 || n == COLUMNS) {
            snprintf(k->arm, sizeof k->arm, "%s", word[0]);
            snprintf(k->network, sizeof k->network, "%s", word[1]);
            if (n == 3) snprintf(k->why, sizeof k->why, "%s", word[2]);
            else {
                k->steps = strtod(word[2], NULL), k->batch = strtod(word[3], NULL);
                k->seconds = strtod(word[4], NULL), k->mb = strtod(word[5], NULL);
            }
            ++c->n;
        }
    }
    fclose(f);
    return c->equal[0] ? BMVP_OK : bmvp_error_set(err, BMVP_E_FORMAT, "%s: its first line does not say how", path);
}

/* Arm at network x: Dice and HD95 of a region, or (-1) of their mean. */
static void figures(const results *r, int arm, int x, int region, char *buf, size_t size)
{
    const spread dice = cell(r, arm, x, region);
    double v[MAX_ROWS];
    spread hd;
    int i, n = 0;
    for (i = 0; i < r->n; ++i)
        if (r->item[i].arm == arm && r->item[i].x == x)
            v[n++] = region < 0 ? r->item[i].hd95 : r->item[i].region_hd95[region];
    hd = spread_of(v, n);
    spread_text(dice, buf, size);
    if (hd.n) snprintf(buf + strlen(buf), size - strlen(buf), " (%.1f)", hd.mean);
}

/* .. minus the same network from scratch, with the interval of the bootstrap. */
static bmvp_status against_scratch(const results *r, int scratch, int arm, int x, char *buf, size_t size,
                                   bmvp_error *err)
{
    paired d = { 0, 0, 0, 0, 0 };
    bmvp_status st = arm == scratch ? BMVP_OK : difference(r, scratch, arm, x, DICE, &d, err);
    paired_text(d, buf, size);
    return st;
}

static const cost *cost_of(const costs *c, const char *arm, const char *network)
{
    int i;
    for (i = 0; i < c->n; ++i)
        if (strcmp(c->item[i].arm, arm) == 0 && strcmp(c->item[i].network, network) == 0) return &c->item[i];
    return NULL;
}

static bmvp_status add_row(const results *r, const costs *c, table *t, int scratch, int arm, int x, bmvp_error *err)
{
    const cost *k = cost_of(c, r->arm[arm], r->x[x]);
    const int i = t->rows++, n = r->regions;
    const size_t size = sizeof t->text[0][0];
    bmvp_status st;
    int g;
    snprintf(t->text[i][0], size, "%s", r->arm[arm]);
    snprintf(t->text[i][1], size, "%s", r->x[x]);
    for (g = 0; g < n; ++g) figures(r, arm, x, g, t->text[i][2 + g], size);
    figures(r, arm, x, -1, t->text[i][2 + n], size);
    st = against_scratch(r, scratch, arm, x, t->text[i][3 + n], size, err);
    if (!k) {
        for (g = 4; g < 7; ++g) snprintf(t->text[i][g + n], size, "-");
        return st;
    }
    snprintf(t->text[i][4 + n], size, "%.0f x %.0f", k->steps, k->batch);
    snprintf(t->text[i][5 + n], size, "%.0f", k->seconds);
    snprintf(t->text[i][6 + n], size, "%.0f", k->mb);
    return st;
}

static bmvp_status make_table(const results *r, const costs *c, table *t, bmvp_error *err)
{
    static const char *const last[5] = { "mean", "minus scratch [95 %]", "steps x crops", "seconds", "MB" };
    bmvp_status st = BMVP_OK;
    int scratch = 0, x, a, i;
    memset(t, 0, sizeof *t);
    while (scratch < r->arms && strcmp(r->arm[scratch], "from scratch") != 0) ++scratch;
    if (r->regions + 7 > MAX_NAMES + 2)
        return bmvp_error_set(err, BMVP_E_ARG, "%d regions are too many for a table", r->regions);
    t->head[0] = "pre-training";
    t->head[1] = "network";
    for (i = 0; i < r->regions; ++i) t->head[2 + i] = r->region[i];
    for (i = 0; i < 5; ++i) t->head[2 + r->regions + i] = last[i];
    t->cols = r->regions + 7;
    for (x = 0; x < r->xs && !st; ++x) {
        if (scratch < r->arms && cell(r, scratch, x, -1).n && t->rows < 40)
            st = add_row(r, c, t, scratch, scratch, x, err);
        for (a = 0; a < r->arms && !st; ++a)
            if (a != scratch && cell(r, a, x, -1).n && t->rows < 40) st = add_row(r, c, t, scratch, a, x, err);
    }
    return st;
}

/* What the table shows, and what it does not. */
static void say(report_page *page, const char *text)
{
    printf("%s\n", text);
    (void)report_note(page, text);
}
static void show_limits(report_page *page, const costs *c)
{
    const int once = strcmp(c->each, "each") != 0;
    char text[400];
    int i;
    snprintf(text, sizeof text,
             "Shown: which pre-training on %s helps this fine-tuning (%s per cent of the labels), with equal %s for "
             "all and each method's preset fast. Dice and, in brackets, HD95 in mm of the test cases; \302\261: "
             "standard deviation over seeds.",
             c->pool, c->share, c->equal);
    say(page, text);
    say(page, "Not shown: the table of the BrainMVP paper. There the methods had networks of full size and weeks, "
              "those for MRI were trained on its data and, as we read it, the others are their authors' weights; here "
              "all see the same crops, and that alone makes them comparable. What pays only with size and time is "
              "missing.");
    say(page, "Networks differ between methods: a row is compared with its own network from scratch, not with the row "
              "of another network.");
    snprintf(text, sizeof text,
             "Intervals: bootstrap over runs and test cases of the differences, run by run and case by case%s. One "
             "that contains zero: no difference seen.",
             once ? "; pre-training ran once for each method, so that they are those of fine-tuning alone"
                  : ", each with a pre-training of its own");
    say(page, text);
    for (i = 0; i < c->n; ++i) {
        if (!c->item[i].why[0]) continue;
        snprintf(text, sizeof text, "Left out: %s: %s", c->item[i].arm, c->item[i].why);
        say(page, text);
    }
}

bmvp_status show_baselines(const char *results_file, const char *costs_file, const char *out, bmvp_error *err)
{
    static results r;
    static costs c;
    static table t;
    report_page page;
    bmvp_status st = read_results(&r, results_file, err);
    if (!st) st = read_costs(&c, costs_file, err);
    if (!st) st = make_table(&r, &c, &t, err);
    free_results(&r);
    if (st) return st;
    if (report_open(&page, out, "Pre-training methods side by side", "baselines", "Baselines") != BMVP_OK)
        return bmvp_error_set(err, page.error.status, "%s", page.error.message);
    (void)report_section(&page, "Baselines", "The same fine-tuning after each method of the paper's tables.");
    show_table(&page, &t, "Test Dice (HD95 in mm) after fine-tuning");
    printf("\n");
    show_limits(&page, &c);
    return report_close(&page) == BMVP_OK ? BMVP_OK : bmvp_error_set(err, page.error.status, "%s", page.error.message);
}
