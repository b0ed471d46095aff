/* config.c - reads a configuration: every key that the network knows, with its type and its range. What is missing,
 * unknown or out of range is told with its place in the text; the first mistake is the one that is told. */
#include "config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct reader {
    const struct value *dict;
    const char *file;
    struct error *e;
    int failed;
};

static void complain(struct reader *r, const struct value *at, const char *key, const char *what) {
    if (!r->failed) {
        r->failed = error_set(r->e, ERROR_USER, "%s:%d:%d: '%s' %s", r->file, at->line, at->column, key, what);
    }
}

static const struct value *need(struct reader *r, const char *key) {
    const struct value *v = value_get(r->dict, key);
    if (v == NULL) complain(r, r->dict, key, "is missing from the configuration");
    return v;
}

static double number_in(struct reader *r, const char *key, const struct value *v, double low, double high) {
    char what[120];
    int used;
    if (v == NULL) return low;
    if (v->kind == VALUE_INT || v->kind == VALUE_FLOAT) {
        if (v->number >= low && v->number <= high) return v->number;
    }
    used = snprintf(what, sizeof what, "must be a number from %g to %g", low, high);
    if (v->kind == VALUE_INT || v->kind == VALUE_FLOAT)
        snprintf(what + used, sizeof what - (size_t)used, ", not %g", v->number);
    complain(r, v, key, what);
    return low;
}

static double number(struct reader *r, const char *key, double low, double high) {
    return number_in(r, key, need(r, key), low, high);
}

/* A number or None; None is 0. */
static double number_or_none(struct reader *r, const char *key, double low, double high) {
    const struct value *v = need(r, key);
    return v == NULL || v->kind == VALUE_NONE ? 0 : number_in(r, key, v, low, high);
}

static double number_or(struct reader *r, const char *key, double low, double high, double absent) {
    const struct value *v = value_get(r->dict, key);
    return v == NULL ? absent : number_in(r, key, v, low, high);
}

static int one_of(struct reader *r, const char *key, const struct value *v, const char *const *names, int n) {
    char what[160];
    if (v == NULL) return 0;
    if (v->kind == VALUE_STRING) {
        for (int i = 0; i < n; i++) {
            if (strcmp(v->string, names[i]) == 0) return i;
        }
    }
    int used = snprintf(what, sizeof what, "must be one of");
    for (int i = 0; i < n; i++) {
        used += snprintf(what + used, sizeof what - (size_t)used, "%s '%s'", i > 0 ? "," : "", names[i]);
    }
    complain(r, v, key, what);
    return 0;
}

int config_read(struct net_config *c, const struct value *v, const char *file, struct error *e) {
    static const char *const keys[] = {"lr_rate_mult",
                                       "l2_weight_reg_mult",
                                       "batch_size",
                                       "optimizer",
                                       "coarse_labels_weight",
                                       "conv_dropout_drop_proba",
                                       "fc_dropout_drop_proba",
                                       "use_BN",
                                       "first_conv",
                                       "residual",
                                       "conv_hiddn_units_mult",
                                       "nb_conv_pool_layers",
                                       "pooling_type",
                                       "conv_kernel_size",
                                       "fc_units_1_mult",
                                       "one_more_fc",
                                       "activation",
                                       "conv_pool_res_start_idx",
                                       "res_conv_kernel_size",
                                       "head"};
    static const char *const optimizers[] = {"Adam", "Nadam", "RMSprop"};
    static const char *const poolings[] = {"max", "avg", "all_conv", "inception"};
    static const char *const activations[] = {"relu", "elu"};
    static const char *const heads[] = {"sigmoid", "softmax"};
    const double most = 1e6;
    if (v->kind == VALUE_DICT && value_get(v, "space") != NULL) v = value_get(v, "space");
    if (v->kind != VALUE_DICT) {
        return error_set(e, ERROR_USER, "%s:%d:%d: a configuration is a dictionary {'lr_rate_mult': ..., ...}", file,
                         v->line, v->column);
    }
    struct reader r = {.dict = v, .file = file, .e = e};
    for (int i = 0; i < v->n; i++) {
        size_t k = 0;
        while (k < sizeof keys / sizeof *keys && strcmp(keys[k], v->keys[i]) != 0) k++;
        if (k == sizeof keys / sizeof *keys) {
            complain(&r, v->items[i], v->keys[i], "is not a key that the network knows; see 'The space' in README.md");
        }
    }
    memset(c, 0, sizeof *c);
    c->lr_rate_mult = number(&r, "lr_rate_mult", 0, most);
    c->l2_weight_reg_mult = number(&r, "l2_weight_reg_mult", 0, most);
    c->batch_size = (int)number(&r, "batch_size", 1, 100000);
    c->optimizer = (enum optimiser)one_of(&r, "optimizer", need(&r, "optimizer"), optimizers, 3);
    c->coarse_labels_weight = number(&r, "coarse_labels_weight", 0, most);
    c->conv_dropout = number(&r, "conv_dropout_drop_proba", 0, 0.999);
    c->fc_dropout = number(&r, "fc_dropout_drop_proba", 0, 0.999);
    c->conv_hiddn_units_mult = number(&r, "conv_hiddn_units_mult", 0.025, 100);
    c->nb_conv_pool_layers = (int)round(number(&r, "nb_conv_pool_layers", 1, CONFIG_BLOCKS_MOST));
    c->pooling = (enum pooling)one_of(&r, "pooling_type", need(&r, "pooling_type"), poolings, 4);
    c->conv_kernel = (int)round(number(&r, "conv_kernel_size", 1, 4));
    c->fc_units_1_mult = number(&r, "fc_units_1_mult", 0.001, 100);
    c->one_more_fc = number_or_none(&r, "one_more_fc", 0.0014, 100);
    c->first_conv = (int)round(number_or_none(&r, "first_conv", 1, 4));
    c->residual = (int)round(number_or_none(&r, "residual", 0.501, 32));
    c->activation = one_of(&r, "activation", need(&r, "activation"), activations, 2) == 0 ? ACT_RELU : ACT_ELU;
    c->residual_start = (int)round(number_or(&r, "conv_pool_res_start_idx", 0, 100, 0));
    c->res_kernel = (int)round(number_or(&r, "res_conv_kernel_size", 1, 4, 3));
    c->softmax = one_of(&r, "head", value_get(v, "head"), heads, 2);
    const struct value *bn = need(&r, "use_BN");
    if (bn != NULL) {
        if (bn->kind == VALUE_BOOL || (bn->kind == VALUE_INT && (bn->integer == 0 || bn->integer == 1))) {
            c->use_bn = bn->integer != 0;
        } else {
            complain(&r, bn, "use_BN", "must be True or False");
        }
    }
    return r.failed;
}

int config_file(const char *path, struct document *doc, const struct value **dict, struct net_config *config,
                struct error *e) {
    char *text;
    size_t n;
    memset(doc, 0, sizeof *doc);
    int failed = file_read(path, 64u << 20, &text, &n, e);
    if (failed) return failed;
    failed = value_parse(doc, text, n, path, e);
    mem_free(text);
    if (failed) return failed;
    *dict = value_get(doc->root, "space") != NULL ? value_get(doc->root, "space") : doc->root;
    return config_read(config, *dict, path, e);
}

int config_check_space(const struct space *s, const char *file, struct error *e) {
    double *values = mem_zero((size_t)s->n_params + 1, sizeof *values);
    int failed = values == NULL ? error_memory(e, sizeof *values, "a point") : OK;
    for (int i = -1; i < s->n_params && !failed; i++) {
        for (int k = 0; !failed && space_extreme(s, i, k, values); k++) {
            struct document doc;
            struct net_config c;
            failed = space_config(s, values, &doc, e);
            if (!failed) failed = config_read(&c, doc.root, file, e);
            document_free(&doc);
        }
    }
    mem_free(values);
    return failed;
}

void config_scale(struct net_config *c, double width) {
    c->conv_hiddn_units_mult = fmax(c->conv_hiddn_units_mult * width, 1.001 / 40);
    c->fc_units_1_mult = fmax(c->fc_units_1_mult * width, 1.001 / 1000);
    if (c->one_more_fc > 0) c->one_more_fc = fmax(c->one_more_fc * width, 1.001 / 750);
}
