/* weights.c - see weights.h */
#include "weights.h"
#include "data/files.h"
#include "data/labels.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>what is said --------------------------------------------------------------------------------------------------- */

/* Word i of a list with commas; 0: there are no more. */
static int word(const char *list, int i, char *out, size_t size)
{
    for (; i > 0 && list; --i) {
        list = strchr(list, ',');
        list += list != NULL;
    }
    if (!list || !*list) return 0;
    snprintf(out, size, "%.*s", (int)strcspn(list, ","), list);
    return 1;
}

/* The regions as the outputs of a network usually are: classes by value, regions as they are written. */
static void usual_order(weights_said *s, const bmvp_json *labels)
{
    const bmvp_json *m;
    int n = 0, k, v;
    for (v = 1; v < BMVP_LABEL_VALUES && s->labels.exclusive; ++v)
        for (k = 0; k < s->labels.n; ++k)
            if (s->labels.paint[k] == v && n < BMVP_MAX_REGIONS) s->w.outputs[n++] = s->labels.region[k];
    for (m = labels && !s->labels.exclusive ? labels->first : NULL; m; m = m->next)
        for (k = 0; k < s->labels.n; ++k)
            if (n < BMVP_MAX_REGIONS &&
                strcmp(s->labels.region[k], m->type == BMVP_JSON_STRING ? m->str : m->key) == 0)
                s->w.outputs[n++] = s->labels.region[k];
}

/* text: the name of a definition, a file that has one, or the definition itself. */
static bmvp_status parse_labels(const char *text, weights_said *s, bmvp_error *err)
{
    bmvp_json_doc *doc = NULL;
    const bmvp_json *root, *labels;
    bmvp_error e;
    bmvp_status st;
    s->w.labels = &s->labels;
    if (bmvp_labels_builtin(text, &s->labels)) return BMVP_OK;
    if (*text == '{') st = bmvp_json_parse(text, strlen(text), "--labels", NULL, &doc, err);
    else if (file_exists(text)) st = bmvp_json_read(text, NULL, &doc, err);
    else
        return bmvp_error_set(err, BMVP_E_ARG,
                              "--labels %s: neither a file nor a definition; there are %s, or {\"NAME\": [VALUES], ..}",
                              text, bmvp_labels_names());
    if (st) return st;
    root = bmvp_json_root(doc);
    labels = bmvp_json_get(root, "labels") ? bmvp_json_get(root, "labels") : root;
    st = labels_parse(labels, bmvp_json_string(bmvp_json_get(root, "labels_kind"), NULL),
                      *text == '{' ? "--labels" : text, &s->labels, &e);
    if (st) bmvp_error_set(err, st, "%s", e.message);
    else usual_order(s, labels->type == BMVP_JSON_OBJECT ? labels : NULL);
    bmvp_json_free(doc);
    return st;
}

static bmvp_status parse_outputs(const char *text, weights_said *s, bmvp_error *err)
{
    int i;
    char more[8];
    for (i = 0; i < BMVP_MAX_REGIONS; ++i) s->w.outputs[i] = NULL;
    for (i = 0; i < BMVP_MAX_REGIONS && word(text, i, s->outputs[i], sizeof s->outputs[i]); ++i)
        s->w.outputs[i] = s->outputs[i];
    if (s->w.labels && i == s->labels.n && !word(text, i, more, sizeof more)) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_ARG, "--outputs %s: name each of the %d regions of --labels once", text,
                          s->w.labels ? s->labels.n : 0);
}

static bmvp_status parse_preparation(const weights_options *o, bmvp_preparation *p, bmvp_error *err)
{
    *p = bmvp_preparation_default();
    p->spacing = o->spacing;
    p->centre_crop = o->box == 1;
    p->whole = o->box == 2;
    p->intensity = (bmvp_intensity)o->intensity;
    if (p->intensity == BMVP_INTENSITY_RANGE) p->range_low = o->low, p->range_high = o->high;
    else p->percentile_low = o->low, p->percentile_high = o->high;
    if (strlen(o->axes) != 3)
        return bmvp_error_set(err, BMVP_E_ARG, "--axes %s: must be three letters, as RAS", o->axes);
    if (strcmp(o->axes, "RAS") != 0) memcpy(p->axes, o->axes, 4);
    return bmvp_preparation_check(p, err);
}

bmvp_status weights_parse(const weights_options *o, weights_said *out, bmvp_error *err)
{
    bmvp_ft_weights *w = &out->w;
    bmvp_status st;
    char *comma, more[8];
    int i;
    memset(out, 0, sizeof *out);
    *w = bmvp_ft_weights_default();
    w->network = o->network;
    if (o->set && strlen(o->set) >= sizeof out->fields)
        return bmvp_error_set(err, BMVP_E_ARG, "--set: more than %d letters", (int)sizeof out->fields - 1);
    snprintf(out->fields, sizeof out->fields, "%s", o->set ? o->set : "");
    for (comma = out->fields; (comma = strchr(comma, ',')) != NULL;) *comma = ' ';
    w->fields = out->fields;
    for (i = 0; i < BMVP_MODALITIES && word(o->modalities, i, out->names[i], sizeof out->names[i]); ++i)
        w->names[w->n_modalities++] = out->names[i];
    if (word(o->modalities, BMVP_MODALITIES, more, sizeof more))
        return bmvp_error_set(err, BMVP_E_ARG, "--modalities %s: more than %d", o->modalities, (int)BMVP_MODALITIES);
    if (o->window && !cli_parse_size(o->window, w->window))
        return bmvp_error_set(err, BMVP_E_ARG, "--window %s: must be three whole numbers, as 96,96,96", o->window);
    w->probabilities = o->average;
    st = parse_preparation(o, &w->preparation, err);
    if (!st && o->labels) st = parse_labels(o->labels, out, err);
    if (!st && o->outputs) st = parse_outputs(o->outputs, out, err);
    return st;
}

const char *weights_given(const cli_option *opt, int n_opt)
{
    static const char *const name[] = { "set",  "modalities", "labels", "outputs", "spacing", "axes",
                                        "box",  "intensity",  "low",    "high",    "average" };
    size_t i;
    for (i = 0; i < sizeof name / sizeof *name; ++i)
        if (cli_given(opt, n_opt, name[i])) return name[i];
    return NULL;
}

/* >>what is printed ------------------------------------------------------------------------------------------------ */

static void print_number(const bmvp_json *v)
{
    const bmvp_json *m;
    if (v->type == BMVP_JSON_NUMBER) printf("%lld", (long long)v->i);
    for (m = v->type == BMVP_JSON_ARRAY ? v->first : NULL; m; m = m->next)
        printf("%lld%s", (long long)m->i, m->next ? "," : "");
}

static int has_word(const char *list, const char *name)
{
    const size_t n = strlen(name);
    for (; list && *list; list += strcspn(list, " "), list += *list == ' ')
        if (strncmp(list, name, n) == 0 && (list[n] == ' ' || list[n] == '=' || !list[n])) return 1;
    return 0;
}

/* The network's own numbers: those that its tensors show or that were said, or those that are assumed. */
static void print_fields(const bmvp_net_kind *kind, const bmvp_json *net, const char *said, int assumed)
{
    const char *p = kind->fields;
    char name[32];
    for (; p && *p; p += strcspn(p, " "), p += *p == ' ') {
        const bmvp_json *v;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(p, " "), p);
        v = bmvp_json_get(net, name) ? bmvp_json_get(net, name) : bmvp_json_get(bmvp_json_get(net, "options"), name);
        if (!v || (has_word(kind->unseen, name) && !has_word(said, name)) != assumed) continue;
        printf(assumed ? "  --set %s=" : ", %s ", name);
        print_number(v);
    }
}

static void print_outputs(const bmvp_ft_info *info, const weights_said *said)
{
    const bmvp_labels *l = &info->labels;
    int k;
    if (l->exclusive) printf("outputs  0 background");
    else printf("outputs ");
    for (k = 0; k < l->n; ++k)
        printf("%s%d %s", k || l->exclusive ? ", " : " ", k + 1,
               said->w.outputs[0] ? said->w.outputs[k] : l->region[k]);
    if (l->n) printf(" (%s)\n", l->exclusive ? "classes: softmax" : "regions: sigmoid");
    else printf(" %d classes of cases\n", info->net.outputs);
}

/* Options that were not given, with what stands in for them. */
static void print_assumed(const bmvp_ft_info *info, const weights_said *said, const cli_option *opt, int n_opt)
{
    static const char *const name[] = { "spacing", "axes", "box", "intensity", "low", "high" };
    const int scaled = said->w.preparation.intensity == BMVP_INTENSITY_PERCENTILES ||
                       said->w.preparation.intensity == BMVP_INTENSITY_RANGE;
    char text[64];
    size_t i;
    for (i = 0; i < sizeof name / sizeof *name - (scaled ? 0 : 2); ++i) {
        int k = 0;
        while (k < n_opt && strcmp(opt[k].name, name[i]) != 0) ++k;
        if (k == n_opt || opt[k].given) continue;
        cli_text(&opt[k], text, sizeof text);
        printf("  --%s %s", name[i], text);
    }
    if (info->labels.n && !cli_given(opt, n_opt, "average")) printf("  --average logits");
    if (!cli_given(opt, n_opt, "window"))
        printf("  --window %d,%d,%d", info->cfg.crop_x, info->cfg.crop_y, info->cfg.crop_z);
    if (info->labels.n && !cli_given(opt, n_opt, "outputs")) printf("  --outputs as above");
}

/* The network's description as files have it; free doc. */
static const bmvp_json *description_of(const bmvp_net_config *net, bmvp_json_doc **doc)
{
    const bmvp_json *root = NULL;
    bmvp_jw w;
    *doc = NULL;
    bmvp_jw_init(&w, 0, NULL);
    bmvp_net_config_write(&w, NULL, net);
    if (bmvp_jw_finish(&w, NULL) == BMVP_OK && !bmvp_json_parse(w.out.data, w.out.len, net->name, NULL, doc, NULL))
        root = bmvp_json_root(*doc);
    bmvp_jw_free(&w);
    return root;
}

int weights_unseen(const bmvp_net_config *net, const char *name)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(NULL, net->kind);
    return kind && has_word(kind->unseen, name);
}

void weights_print_unseen(const bmvp_net_config *net)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(NULL, net->kind);
    bmvp_json_doc *doc;
    const bmvp_json *root = description_of(net, &doc);
    if (root && kind && kind->unseen) {
        printf("its tensors do not show");
        print_fields(kind, root, NULL, 1);
        printf("\n");
    }
    bmvp_json_free(doc);
}

void weights_print(const char *path, const bmvp_ctx *c, const bmvp_ft_info *info, const weights_said *said,
                   const cli_option *opt, int n_opt)
{
    const bmvp_net_kind *kind = bmvp_net_kind_find(c, info->net.kind);
    bmvp_json_doc *doc;
    const bmvp_json *net = description_of(&info->net, &doc);
    int m;
    printf("network  %s: %s, %d channels to %d outputs", path, kind->title ? kind->title : kind->name,
           info->net.in_channels, info->net.outputs);
    if (net) print_fields(kind, net, said->fields, 0);
    printf("\nchannels");
    for (m = 0; m < info->n_modalities; ++m) printf("%s %d %s", m ? "," : "", m + 1, info->names[m]);
    printf("\n");
    print_outputs(info, said);
    printf("assumed");
    if (net) print_fields(kind, net, said->fields, 1);
    print_assumed(info, said, opt, n_opt);
    printf("  zeros for missing modalities\n");
    if (info->labels.n && info->net.in_channels == 1 && info->net.outputs == 1)
        printf("         that it segments: one channel in and one out may also be a network that rebuilds images\n");
    if (info->n_left) say(stdout, "left out %d tensors of the file: %s\n", info->n_left, info->left);
    bmvp_json_free(doc);
}

void weights_write(bmvp_jw *w, const bmvp_ft_info *info, const bmvp_preparation *how)
{
    int m;
    bmvp_net_config_write(w, "network", &info->net);
    bmvp_jw_array(w, "modalities");
    for (m = 0; m < info->n_modalities; ++m) bmvp_jw_string(w, NULL, info->names[m]);
    bmvp_jw_end(w);
    bmvp_jw_array(w, "window");
    bmvp_jw_int(w, NULL, info->cfg.crop_x);
    bmvp_jw_int(w, NULL, info->cfg.crop_y);
    bmvp_jw_int(w, NULL, info->cfg.crop_z);
    bmvp_jw_end(w);
    bmvp_preparation_write(w, "preparation", how);
}
