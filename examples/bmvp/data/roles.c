/* roles.c - what a file is, told by its name, see roles.h */
#include "roles.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* >>words ---------------------------------------------------------------------------------------------------------- */

typedef enum meaning {
    UNKNOWN, NUMBER, IMAGE, CONTRAST, NATIVE, LABEL, MASK, BRAIN, TUMOUR, AUTOMATIC, PREDICTED, PLAIN,
    VARIANT, SPACE, FOREIGN
} meaning;

enum { FLAIR, T1, T1C, T2, MRA, PD, DWI, ADC }; /* as bmvp_modality_name counts */

/* The table of words, a blank around each. Names of modalities that bmvp_modality_find knows need no row. value:
   modality of IMAGE, grid of SPACE, rank of LABEL and VARIANT among its like; PREDICTED 1: a folder of that name holds
   predictions; FOREIGN 1: a map of numbers, also beside a word of a label; 2: of a tissue; 4: of nobody, unless all
   files of the folder have the word. */
static const struct {
    meaning means;
    int value;
    const char *words;
} table[] = {
    { IMAGE, T1, " mprage mpr rage spgr fspgr bravo t1pre t1weighted " },
    { IMAGE, T1C, " t1post t1wce cet1 cet1w t1kmw t1wc t1wgd t1gad gdt1 t1contrast t1+c t1+gd t1+ce t1km t1+ " },
    { IMAGE, T2, " t2weighted " },
    { IMAGE, FLAIR, " t2wflair flairw " },
    { IMAGE, MRA, " tof angio mrangio " },
    { IMAGE, DWI, " trace tracew b1000 " },
    { IMAGE, ADC, " adcmap " },
    { IMAGE, PD, " protondensity " },
    { CONTRAST, 0, " ce gd gad gado gadolinium contrast post postcontrast postgad enhanced km " },
    { NATIVE, 0, " pre precontrast native noncontrast " },
    { LABEL, 0,
      " seg segm segmentation segmentations dseg label labels labelmap labelmaps msk gt truth groundtruth annotation "
      "annotations labelsfortraining ot " },
    { LABEL, 1, " labelsfortesting " },
    { MASK, 0, " mask roi masks rois " },
    { MASK, 1, " brainmask roit1 " },
    { BRAIN, 0,
      " brain bet parenchyma skull head hdbet foreground fg face deface defacing intracranial icv "
      "cerebrum hemisphere hemispheres ventricle ventricles ribbon " },
    { TUMOUR, 0, " tumor tumour lesion lesions wmh infarct stroke metastases whole manual consensus expert " },
    { AUTOMATIC, 0, " automated approx synthetic synth synthesized generated fake " },
    { PREDICTED, 0,
      " auto automatic predictor output outputs result results estimate estimated ensemble ensembled "
      "pseudo pseudolabel pseudolabels pseudoseg argmax thresholded binarized postprocessed postproc "
      "model cnn unet nnunet nnunetv2 nnu unetr swinunetr segresnet monai bmvp deepmedic aseg aparc "
      "totalsegmentator hdglio bratstoolkit lstai lpa lga " },
    { PREDICTED, 1,
      " pred preds predict predicts predicted prediction predictions inference inferred inferences "
      "synthseg fastsurfer freesurfer fmriprep smriprep samseg " },
    { PLAIN, 0,
      " image img scan volume mri mr final gradwarp b1 correction n3 scaled accelerated weighted 3d ax "
      "axial sag sagittal cor coronal tra transversal tse fse fs fatsat cube vista spc anon " },
    { VARIANT, 2,
      " bias n4 biascorr corrected reg registered coreg coregistered warped resampled resliced mni "
      "norm normalized normalised preproc preprocessed processed denoised smoothed zscore zscored bfc "
      "gfc t88 cropped 1mm 2mm iso orig original raw repeat r " },
    { VARIANT, 1, " defaced masked stripped skullstripped unstripped " },
    { VARIANT, 0, " anat " },
    { SPACE, 1, " reft1 " },
    { SPACE, 2, " reft2 " },
    { FOREIGN, 0,
      " asl swi bold rest func fmri epi dti hardi perf dsc dce cbf cbv rcbv mtt tmax t2star t2starw "
      "star t1map t2map t1rho unit1 fieldmap phasediff magnitude1 magnitude2 sbref t1ir stir "
      "warp warpfield displacement deformation jacobian biasfield phase exp eadc ct cta ctp pet mrv " },
    { FOREIGN, 2, " gm wm csf " },
    { FOREIGN, 4, " atlas template mni152 icbm icbm152 colin27 sri24 " },
    { FOREIGN, 1,
      " probseg diff difference subtraction std residual prob probability probabilities softmax logits "
      "uncertainty probs probmap probabilitymap heatmap confidence entropy variance var sdf sdm "
      "distance distancemap edt error errors overlap overlay " },
};

enum { MAX_WORDS = 48, WORD = 48 };

typedef struct word {
    char text[WORD]; /* lower case */
    size_t from, to; /* characters of the name */
    meaning means;
    int value, shared;
} word;

/* Is the word one of those in the text, each of which has a blank before and after it? */
static int has_word(const char *words, const char *text)
{
    char padded[WORD + 2];
    snprintf(padded, sizeof padded, " %s ", text);
    return words && strstr(words, padded) != NULL;
}

static meaning look_up(const char *text, int *value)
{
    size_t i;
    *value = bmvp_modality_find(text);
    if (*value >= 0) return IMAGE;
    for (i = 0; i < sizeof table / sizeof *table; ++i)
        if (has_word(table[i].words, text)) {
            *value = table[i].value;
            return table[i].means;
        }
    *value = 0;
    return text[strspn(text, "0123456789")] == 0 ? NUMBER : UNKNOWN;
}

/* The words of name[0 .. n). */
static int split_words(const char *name, size_t n, const char *shared, word *w)
{
    size_t i = 0, k;
    int count = 0;
    while (i < n && count < MAX_WORDS) {
        word *v = &w[count];
        while (i < n && strchr("_-. ", name[i])) ++i;
        if (i >= n) break;
        v->from = i;
        for (k = 0; i < n && !strchr("_-. ", name[i]); ++i)
            if (k + 1 < sizeof v->text) v->text[k++] = (char)tolower((unsigned char)name[i]);
        v->text[k] = 0;
        v->to = i;
        v->means = look_up(v->text, &v->value);
        v->shared = has_word(shared, v->text);
        ++count;
    }
    return count;
}

/* >>names of files ------------------------------------------------------------------------------------------------- */

static int ends_in(const char *name, size_t n, const char *end)
{
    const size_t k = strlen(end);
    size_t i;
    if (n < k) return 0;
    for (i = 0; i < k; ++i)
        if (tolower((unsigned char)name[n - k + i]) != end[i]) return 0;
    return 1;
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

size_t role_stem(const char *name)
{
    static const char *const end[] = { ".nii.gz", ".nii", ".hdr", ".img" };
    const size_t n = strlen(name);
    size_t i;
    for (i = 0; i < sizeof end / sizeof *end; ++i)
        if (ends_in(name, n, end[i])) return n - strlen(end[i]);
    return n;
}

int role_is_nifti(const char *name) { return role_stem(name) < strlen(name); }

int role_is_volume(const char *name)
{
    static const char *const other[] = { ".nii.zst", ".nii.bz2", ".nii.xz", ".nii.zip", ".mgz",    ".mgh",    ".nrrd",
                                         ".nhdr",    ".mha",     ".mhd",    ".mnc",     ".dcm",    ".head",   ".img.gz",
                                         ".hdr.gz",  ".npy",     ".npz",    ".h5",      ".ima",    ".par" };
    size_t i;
    for (i = 0; i < sizeof other / sizeof *other; ++i)
        if (ends_in(name, strlen(name), other[i])) return 1;
    return role_is_nifti(name);
}

void role_shared(const char *const *names, size_t n, char *out, size_t size)
{
    word first[MAX_WORDS], w[MAX_WORDS];
    size_t i, used = 0;
    int k, j, count, words;
    out[0] = 0;
    if (n < 2) return;
    count = split_words(names[0], role_stem(names[0]), NULL, first);
    for (i = 1; i < n; ++i) {
        words = split_words(names[i], role_stem(names[i]), NULL, w);
        for (k = 0; k < count; ++k) {
            for (j = 0; j < words && strcmp(first[k].text, w[j].text) != 0; ++j) { }
            if (j == words) first[k].shared = -1;
        }
    }
    for (k = 0; k < count && used + WORD + 2 < size; ++k)
        if (first[k].shared >= 0) used += (size_t)snprintf(out + used, size - used, " %s ", first[k].text);
}

/* >>deciding ------------------------------------------------------------------------------------------------------- */

typedef struct reading { /* what the words of a name add up to */
    int modality, modalities, contrast, native, label, mask, brain, tumour, automatic, variant, space, foreign;
    int map; /* bits of FOREIGN's values */
    const word *odd, *variant_word, *foreign_word, *image_word, *mask_word;
    const word *drawn;     /* a word of lesions or programs that not every file of the folder has */
    const word *predicted; /* what says that a program has predicted it */
} reading;

static void read_word(reading *r, const word *w)
{
    switch (w->means) {
    case IMAGE:
        r->modalities |= 1 << w->value;
        if (!r->image_word) r->image_word = w;
        break;
    case CONTRAST: r->contrast = 1; break;
    case NATIVE: r->native = 1; break;
    case LABEL: r->label = 1, r->variant += w->value; break;
    case MASK: r->mask = 1, r->brain |= w->value, r->mask_word = w; break;
    case BRAIN: r->brain = 1; break;
    case PREDICTED: /* before the role it may be the name that all files of the case begin with */
        if (!w->shared || r->label || r->mask) r->predicted = w;
        if (!w->shared && (w->value || r->modalities)) r->drawn = w;
        break;
    case TUMOUR:
    case AUTOMATIC:
        r->tumour |= w->means == TUMOUR;
        r->automatic |= w->means == AUTOMATIC;
        if (!w->shared) r->drawn = w;
        break;
    case VARIANT: r->variant += w->value, r->variant_word = w; break;
    case SPACE: r->space = w->value; break;
    case FOREIGN:
        if (w->value == 4 && w->shared) break;
        r->foreign = 1, r->map |= w->value, r->foreign_word = w;
        break;
    case UNKNOWN:
        if (!w->shared && !r->odd) r->odd = w;
        break;
    case NUMBER:
    case PLAIN: break;
    }
}

/* One modality out of those that were named: T2 FLAIR is FLAIR, T1 with contrast is t1c. -1: several. */
static int one_modality(const reading *r)
{
    int bits = r->modalities, m;
    if (bits & 1 << FLAIR) bits &= ~(1 << T2);
    if (bits == (1 << T1 | 1 << T1C)) bits = 1 << T1C;
    for (m = 0; m < BMVP_MODALITIES && bits != 1 << m; ++m) { }
    if (m == BMVP_MODALITIES) return -1;
    return m == T1 && r->contrast && !r->native ? T1C : m;
}

static void decide(role *o, const reading *r)
{
    const int m = r->modalities ? one_modality(r) : -1;
    o->space = r->space;
    o->variant = r->variant + (r->space == 2 ? 4 : 0);
    if (r->variant_word)
        snprintf(o->why, sizeof o->why, "'%s' marks it as made from another file", r->variant_word->text);
    if (r->predicted && (r->label || r->mask || (r->tumour && !r->modalities))) {
        snprintf(o->why, sizeof o->why, "'%.40s' says that a program has predicted it: no label", r->predicted->text);
    } else if (r->map & 1 && (r->label || r->mask)) {
        snprintf(o->why, sizeof o->why, "'%.40s' says that it holds numbers, no labels", r->foreign_word->text);
    } else if (r->foreign && !r->label && !r->mask) {
        snprintf(o->why, sizeof o->why, "'%s' is no modality of ours", r->foreign_word->text);
    } else if (r->label && r->map & 2 && !r->tumour) {
        o->kind = ROLE_MASK;
        snprintf(o->why, sizeof o->why, "a map of a tissue, not the label");
    } else if ((r->label || r->mask) && r->brain && !r->tumour) {
        o->kind = ROLE_MASK;
        snprintf(o->why, sizeof o->why, "a mask of the brain, not the label");
    } else if (r->mask && !r->label && (r->modalities || r->foreign) && !r->tumour) {
        o->kind = ROLE_MASK;
        snprintf(o->why, sizeof o->why, "a mask of an image, not the label");
    } else if ((r->label || r->mask || (r->tumour && !r->modalities)) && !r->odd) {
        o->kind = ROLE_LABEL;
        o->variant += (r->label ? 0 : r->mask && !r->tumour ? 2 : 1) + (r->automatic ? 4 : 0);
        if (r->automatic) snprintf(o->why, sizeof o->why, "a segmentation that a program made");
        else if (!r->label) snprintf(o->why, sizeof o->why, "a mask, beside a label of that name");
    } else if (r->modalities && r->drawn) {
        snprintf(o->why, sizeof o->why, "an image or a map of it? It says '%.40s' beside '%.40s'", r->drawn->text,
                 r->image_word->text);
    } else if (r->odd) {
        snprintf(o->why, sizeof o->why, "'%.40s' is no word that is known after '%.40s'", r->odd->text,
                 r->image_word ? r->image_word->text : "the role");
    } else if (r->modalities && m < 0) {
        snprintf(o->why, sizeof o->why, "names more than one modality");
    } else if (m >= 0) {
        o->kind = ROLE_IMAGE;
        o->modality = m;
        if (m != T1 && m != T1C && r->contrast) o->variant += 1;
        if (r->brain) o->variant += 1;
    } else snprintf(o->why, sizeof o->why, "unknown modality: no word of its name is a role");
}

static int starts_role(const word *w)
{
    return w->means == IMAGE || w->means == LABEL || w->means == MASK || w->means == FOREIGN;
}

static int qualifies(const word *w) { return w->means >= CONTRAST && w->means <= VARIANT && w->means != PLAIN; }

/* Words from the first that is a role, with what qualifies it before. from: where they begin. */
static int role_words(const word *w, int n, reading *r, size_t *from)
{
    int first = 0, k;
    while (first < n && !starts_role(&w[first])) ++first;
    if (first == n) { /* no role: a lone 'lesion', 'anat' at the end */
        if (n == 0 || (w[n - 1].means != TUMOUR && strcmp(w[n - 1].text, "anat") != 0)) return 0;
        first = n - 1;
    }
    while (first > 0 && qualifies(&w[first - 1])) --first;
    for (k = first; k < n; ++k) {
        read_word(r, &w[k]);
        if (w[k].means == NUMBER && k > 0 && strcmp(w[k - 1].text, "mpr") == 0)
            r->variant += atoi(w[k].text) % 100; /* OASIS: mpr-1, mpr-2: the first is taken */
    }
    if (!r->modalities && !r->label && !r->mask && !r->tumour && !r->foreign && strcmp(w[n - 1].text, "anat") == 0)
        r->modalities = 1 << T1; /* INDI's structural scans */
    *from = w[first].from;
    return 1;
}

/* What the value of an entity means by itself: brain of desc-brain, lesion of label-lesion. */
static meaning entity_value(const char *text, size_t n)
{
    char low[WORD];
    size_t i;
    int value;
    if (n >= sizeof low) return UNKNOWN;
    for (i = 0; i < n; ++i) low[i] = (char)tolower((unsigned char)text[i]);
    low[n] = 0;
    return look_up(low, &value);
}

static const word predicted_entity = { "desc", 0, 0, PREDICTED, 0, 0 };

/* BIDS: entities key-value between underscores, then the suffix. What entities say is added to the reading. */
static size_t read_entities(const char *name, size_t n, reading *r, size_t *id)
{
    size_t at = 0;
    while (at < n) {
        size_t end = at, key;
        while (end < n && name[end] != '_') ++end;
        for (key = at; key < end && name[key] != '-'; ++key) { }
        if (key == end || !isalpha((unsigned char)name[at])) break;
        if (strncmp(name + at, "sub-", 4) == 0 || strncmp(name + at, "ses-", 4) == 0) *id = end;
        else if (strncmp(name + at, "ce-", 3) == 0) r->contrast = strncmp(name + key + 1, "none", 4) != 0;
        else if (strncmp(name + at, "run-", 4) == 0 || strncmp(name + at, "echo-", 5) == 0)
            r->variant += 1 + abs(atoi(name + key + 1)) % 100; /* the first one is taken */
        else if (strncmp(name + at, "space-", 6) == 0) r->variant += 2;
        else if (strncmp(name + at, "desc-", 5) == 0 || strncmp(name + at, "label-", 6) == 0) {
            const meaning m = entity_value(name + key + 1, end - key - 1);
            r->brain |= m == BRAIN;
            r->tumour |= m == TUMOUR;
            r->predicted = m == PREDICTED ? &predicted_entity : r->predicted;
            r->variant += m == TUMOUR ? 0 : 2;
        }
        else r->variant += 1; /* acq- rec- part- ..: one of several */
        at = end + (end < n);
    }
    return at;
}

int role_folder_predicted(const char *path)
{
    word w[MAX_WORDS];
    const char *end;
    int n;
    for (; (end = strchr(path, '/')) != NULL; path = end + 1)
        for (n = split_words(path, (size_t)(end - path), NULL, w); n-- > 0;)
            if (w[n].means == PREDICTED && w[n].value) return 1;
    return 0;
}

static int pattern_fits(const char *p, const char *text)
{
    for (; *p; ++p, ++text) {
        if (*p == '*') {
            while (p[1] == '*') ++p;
            for (;; ++text) {
                if (pattern_fits(p + 1, text)) return 1;
                if (!*text) return 0;
            }
        }
        if (!*text || (*p != '?' && tolower((unsigned char)*p) != tolower((unsigned char)*text))) return 0;
    }
    return !*text;
}

/* So many characters of the name the * at a pattern's start stands for: the case, by --as "t1=*_a.nii*". 0: none. */
static size_t star_fits(const char *p, const char *name)
{
    size_t n = 0;
    if (p[0] != '*' || p[1] == 0 || p[1] == '.' || strchr(p, '/')) return 0;
    while (name[n] && !pattern_fits(p + 1, name + n)) ++n;
    while (n > 0 && strchr("_-. ", name[n - 1])) --n;
    return n;
}

static int by_rule(role *o, const char *path, const role_rules *rules)
{
    size_t n;
    int i;
    for (i = 0; rules && i < rules->n; ++i) {
        const char *p = rules->rule[i].pattern;
        if (!pattern_fits(p, strchr(p, '/') ? path : path_base(path))) continue;
        o->kind = rules->rule[i].kind;
        o->modality = rules->rule[i].modality;
        o->variant = -1;
        n = star_fits(p, path_base(path));
        if (n > 0) o->id = n;
        snprintf(o->why, sizeof o->why, "left out by --as");
        return 1;
    }
    return 0;
}

role role_of(const char *path, const char *shared, const role_rules *rules)
{
    const char *name = path_base(path);
    size_t n = role_stem(name), at = 0, from = 0;
    word w[MAX_WORDS];
    reading r;
    role o;
    int count;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    if (strncmp(name, "sub-", 4) == 0) at = read_entities(name, n, &r, &o.id);
    count = split_words(name + at, n - at, shared, w);
    if (role_words(w, count, &r, &from)) {
        if (at == 0) o.id = from;
        while (o.id > 0 && strchr("_-. ", name[o.id - 1])) --o.id;
        if (at == 0 && from == 0 && w[count - 1].means == NUMBER && strlen(w[count - 1].text) > 2)
            o.tail = w[count - 1].from;
        decide(&o, &r);
    } else {
        while (count > 1 && w[count - 1].shared) --count; /* CASE_0000 in a folder where all names end so */
        if (at == 0) o.id = count > 0 ? w[count - 1].to : n;
        snprintf(o.why, sizeof o.why, "unknown modality: no word of its name is a role");
    }
    (void)by_rule(&o, path, rules);
    return o;
}

int role_modality(const char *text)
{
    word w[MAX_WORDS];
    reading r;
    role o;
    size_t from;
    memset(&r, 0, sizeof r);
    memset(&o, 0, sizeof o);
    if (role_words(w, split_words(text, strlen(text), NULL, w), &r, &from)) decide(&o, &r);
    return o.kind == ROLE_IMAGE ? o.modality : -1;
}

/* >>what the user says --------------------------------------------------------------------------------------------- */

bmvp_status role_rules_read(role_rules *r, const char *text, bmvp_error *err)
{
    char *p, *next;
    memset(r, 0, sizeof *r);
    if (!text) return BMVP_OK;
    if (strlen(text) >= sizeof r->text)
        return bmvp_error_set(err, BMVP_E_ARG, "--as: longer than %d characters", (int)sizeof r->text - 1);
    snprintf(r->text, sizeof r->text, "%s", text);
    for (p = r->text; p && *p; p = next) {
        char *equals = strchr(p, '=');
        next = strchr(p, ',');
        if (next) *next++ = 0;
        if (!equals || equals[1] == 0 || r->n == ROLE_RULES)
            return bmvp_error_set(err, BMVP_E_ARG, "--as %s: must be NAME=PATTERN, several with commas (at most %d)", p,
                                  ROLE_RULES);
        *equals = 0;
        r->rule[r->n].pattern = equals + 1;
        r->rule[r->n].modality = bmvp_modality_find(p);
        if (r->rule[r->n].modality >= 0) r->rule[r->n].kind = ROLE_IMAGE;
        else if (strcmp(p, "label") == 0) r->rule[r->n].kind = ROLE_LABEL;
        else if (strcmp(p, "none") != 0)
            return bmvp_error_set(
                err, BMVP_E_ARG,
                "--as %s=%s: '%s' is neither a modality (flair t1 t1c t2 mra pd dwi adc) nor label nor none", p,
                equals + 1, p);
        ++r->n;
    }
    return BMVP_OK;
}

const char *role_modality_words(char *text, size_t size, char between)
{
    size_t used = 0;
    int m;
    text[0] = 0;
    for (m = 0; m < BMVP_MODALITIES && used < size; ++m)
        used += (size_t)snprintf(text + used, size - used, "%s%.*s", bmvp_modality_name(m), m + 1 < BMVP_MODALITIES,
                                 &between);
    return text;
}

/* >>patients ------------------------------------------------------------------------------------------------------- */

static int digits(const char *p, int n)
{
    int i;
    for (i = 0; i < n; ++i)
        if (!isdigit((unsigned char)p[i])) return 0;
    return 1;
}

/* A session's word at p: ses-02, ses02, tp1, tp-2, visit3, timepoint_1, FU016d, followup; so long, 0: none. */
static size_t session_word(const char *p)
{
    static const char *const start[] = { "ses", "session", "tp", "timepoint", "visit", "fu", "followup", "baseline" };
    size_t i, n, best = 0;
    for (i = 0; i < sizeof start / sizeof *start; ++i) {
        for (n = 0; start[i][n] && tolower((unsigned char)p[n]) == start[i][n]; ++n) { }
        if (start[i][n]) continue;
        if (strchr("-_", p[n]) && p[n] && isdigit((unsigned char)p[n + 1])) ++n;
        while (isdigit((unsigned char)p[n])) ++n;
        if (i == 5 && p[n] == 'd') ++n; /* FU016d: days */
        if (p[n] == 0 || strchr("-_.", p[n])) best = n > best ? n : best;
        if (i == 0 && p[3] == '-') best = strlen(p); /* ses-M12 */
    }
    return best;
}

size_t role_patient(const char *id)
{
    const size_t all = strlen(id),
                 n = all > 6 && strcmp(id + all - 6, "_nifti") == 0 ? all - 6 : all; /* UCSF-PDGM's folders */
    size_t i;
    for (i = 1; i + 1 < n; ++i)
        if (strchr("_-", id[i]) && session_word(id + i + 1) > 0) return i;
    if (n < all) return n;
    if (n > 10 && strncmp(id, "BraTS-", 6) == 0 && id[n - 4] == '-' && digits(id + n - 3, 3) &&
        isdigit((unsigned char)id[n - 5]))
        return n - 4;
    if (n > 12 && strncmp(id, "UPENN-GBM-", 10) == 0 && id[n - 3] == '_' && digits(id + n - 2, 2)) return n - 3;
    if (strncmp(id, "Brats1", 6) == 0 && n > 9 && id[n - 2] == '_' && isdigit((unsigned char)id[n - 1])) return n - 2;
    if (n > 10 && digits(id, 3) && strncmp(id + 3, "_S_", 3) == 0 && digits(id + 6, 4)) return 10;
    return 0;
}

/* A date at p, to the end: 20070219, 2007-02-19, 2007_02_19 */
static int is_date(const char *p)
{
    const size_t n = strlen(p);
    if ((strncmp(p, "19", 2) != 0 && strncmp(p, "20", 2) != 0) || !digits(p, 4)) return 0;
    if (n == 8) return digits(p + 4, 4);
    return n == 10 && p[4] == p[7] && strchr("-_.", p[4]) && digits(p + 5, 2) && digits(p + 8, 2);
}

/* A visit's word at p, to the end: with a number behind it (month-12) or before (12mo), or one that needs none. */
static int is_visit(const char *p)
{
    static const char numbered[] =
        " v visit tp ses m mo mon month months t w wk week weeks y yr year years d day days scan mr mri time ";
    static const char alone[] = " pre post preop postop intraop bl baseline initial recurrence sc screening admission "
                                "discharge acute subacute chronic first second third last final backup copy bak ";
    char low[WORD];
    const size_t before = strspn(p, "0123456789");
    size_t n = 0;
    p += before;
    for (; isalpha((unsigned char)p[n]) && n < sizeof low - 1; ++n) low[n] = (char)tolower((unsigned char)p[n]);
    low[n] = 0;
    if (n == 0) return 0;
    if (p[n] == 0) return has_word(before ? numbered : alone, low);
    p += n + (strchr("-_.", p[n]) != NULL);
    return !before && isdigit((unsigned char)*p) && p[strspn(p, "0123456789-_.")] == 0 && has_word(numbered, low);
}

/* One of few: Y.1, 007_2; a number of more digits, or one behind a name without any, counts patients. */
static int is_count(const char *id, size_t n, int number)
{
    const char *p = id + n + 1;
    const size_t k = strlen(p);
    return k > 0 && k <= 2 && digits(p, (int)k) && (id[n] == '.' || number);
}

size_t role_patient_maybe(const char *id, int *sign)
{
    const size_t n = strlen(id);
    size_t i;
    int number = 0;
    for (i = 0; i + 1 < n; ++i) {
        if (i > 0 && isdigit((unsigned char)id[i]) && isalpha((unsigned char)id[i + 1]) && is_visit(id + i + 1)) {
            *sign = 2; /* P01V1 */
            return i + 1;
        }
        if (i > 0 && strchr("_-. ", id[i])) {
            *sign = is_date(id + i + 1)    ? 4
                    : is_visit(id + i + 1) ? 2 + (number != 0)
                                           : is_count(id, i, number);
            if (*sign) return i;
        }
        number |= isdigit((unsigned char)id[i]) != 0;
    }
    *sign = 0;
    return 0;
}
