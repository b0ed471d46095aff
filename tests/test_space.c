/* test_space.c - the notation, its errors and where they are told, points and configurations, the printed forms'
 * way back, and each distribution's draws against its law. */
#include "../space.h"

#include <stdlib.h>

#include "../config.h"

#include "check.h"

/* The original's first space, as its users paste it. */
static const char first_seed[] =
    "space = {\n"
    "    'lr_rate_mult': hp.loguniform('lr_rate_mult', -0.5, 0.5),\n"
    "    'l2_weight_reg_mult': hp.loguniform('l2_weight_reg_mult', -1.3, 1.3),\n"
    "    'batch_size': hp.quniform('batch_size', 100, 700, 5),\n"
    "    'optimizer': hp.choice('optimizer', ['Adam', 'Nadam', 'RMSprop']),\n"
    "    'coarse_labels_weight': hp.uniform('coarse_labels_weight', 0.01, 0.8),\n"
    "    'conv_dropout_drop_proba': hp.uniform('conv_dropout_proba', 0.0, 0.35),\n"
    "    'fc_dropout_drop_proba': hp.uniform('fc_dropout_proba', 0.0, 0.6),\n"
    "    'use_BN': hp.choice('use_BN', [False, True]),\n"
    "    'first_conv': hp.choice('first_conv', [None, hp.choice('first_conv_size', [3, 4])]),\n"
    "    'residual': hp.choice('residual', [None, hp.quniform('residual_units', 1 - 0.499, 4 + 0.499, 1)]),\n"
    "    'conv_hiddn_units_mult': hp.loguniform('conv_hiddn_units_mult', -0.6, 0.6),\n"
    "    'nb_conv_pool_layers': hp.choice('nb_conv_pool_layers', [2, 3]),\n"
    "    'pooling_type': hp.choice('pooling_type', ['max', 'avg', 'all_conv', 'inception']),\n"
    "    'conv_kernel_size': hp.choice('conv_kernel_size', [2, 3]),\n"
    "    'fc_units_1_mult': hp.loguniform('fc_units_1_mult', -0.6, 0.6),\n"
    "    'one_more_fc': hp.choice('one_more_fc', [None, hp.loguniform('fc_units_2_mult', -0.6, 0.6)]),\n"
    "    'activation': hp.choice('activation', ['relu', 'elu'])\n"
    "}\n";

/* Every distribution, every way to write its arguments, nesting of all kinds. */
static const char whole[] =
    "import numpy as np  # (what a user's file begins with\n"
    "from hyperopt import (hp,\n"
    "                      fmin)\n"
    "my_space = {\n"
    "    'a': hp.uniform('a', -1, 1), \"b\": hyperopt.hp.quniform(label='b', low=0, high=10, q=2.5),\n"
    "    'c': loguniform('c', np.log(1e-3), high=np.log(10)), 'd': hp.qloguniform(q=3, high=5, low=0, label='d'),\n"
    "    'e': hp.normal('e', 1, 2), 'f': hp.qnormal('f', mu=-1, sigma=4, q=0.5), # comment } ] )\n"
    "    'g': hp.lognormal('g', 0, .5), 'h': hp.qlognormal('h', 1, 0.75, 1),\n"
    "    'i': hp.uniformint('i', -2, 3), 'j': hp.randint('j', 6), 'k': randint('k', -3, 4),\n"
    "    'l': hp.randint('l', upper=3), 'l2': hp.randint('l2', low=2, high=9),\n"
    "    'm': hp.choice('m', [\n"
    "        {'kind': 'x', 'deep': hp.choice('deep', (1, [hp.uniform('deeper', 0, 1), 'it\\'s'], ()))},\n"
    "        ('y', hp.pchoice('n', [(0.25, None), [0.5, hp.normal('o', 0, 1)], (.25, {'z': True,},),])),\n"
    "        dict(kind='w', size=2 ** 5, u=hp.pchoice('p', p_options=[(1, 'only')])),\n"
    "    ]),\n"
    "    's': scope.int(hp.qnormal('s', 2, 9, 1.5)), 't': hp.choice('t', [int(hp.choice('u', [2.5, True, -1])), "
    "'x']),\n"
    "    'q': hp.choice(label='q', options=[-1, 0.5]), 'r': [1, 2.0, 'caf\\u00e9', r'\\d', None, True, (3,)],\n"
    "}\n";

/* What people have around a space. */
static const char script[] =
    "#!/usr/bin/env python\n"
    "\"\"\"It's a script: space = hp.choice( in its\nspace = hp.normal('no', 0, 1)\ntitle.\"\"\"\n"
    "from hyperopt import (hp,  # )\n    tpe)\nimport math; import os\n"
    "__author__ = ('me, '\n    'you')\n"
    "low, high = 1, 2\nWIDTH = 2 ** 3 \\\n    - 1  # seven\nSIZES = list(range(100, 121, 10)); x = 1\n"
    "rate = hp.loguniform('rate', -WIDTH, WIDTH)\n"
    "WIDTHS = [(0.25, WIDTH), (0.75, {'more': hp.uniform('more', 0, WIDTH / 2)})]\n"
    "def objective(space):\n    WIDTH = space['x']\n    space['y'] = \"'}\"\n    return -WIDTH\n"
    "if True:\n    space = {\n"
    "        'rate': rate, 'size': hp.choice('size', SIZES), 'width': hp.pchoice('width', WIDTHS),\n"
    "        'down': hp.choice('down', range(3, 0, -1)), 'same': [WIDTH, WIDTH]\n"
    "    }\n    other = {'a': hp.normal('other', 0, 1)}\n"
    "best = fmin(objective, space=space, algo=tpe.suggest)\nprint(best['x'], f'{best}')\n";

static struct value *parse_literal(struct document *doc, const char *text) {
    struct error e = {0};
    CHECK(value_parse(doc, text, strlen(text), "t", &e) == OK, "%s: %s", text, e.text);
    return doc->root;
}

static struct space *parse_space(const char *text) {
    struct error e = {0};
    struct space *s = NULL;
    CHECK(space_parse(&s, text, strlen(text), "t", &e) == OK, "%.60s: %s", text, e.text);
    return s;
}

static int same_number(double a, double b) { return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)); }

/* The same tree? `loose`: after JSON, which has no tuples. */
static int same_value(const struct value *a, const struct value *b, int loose) {
    const enum value_kind kind = loose && a->kind == VALUE_TUPLE ? VALUE_LIST : a->kind;
    if (kind != b->kind || a->n != b->n) return 0;
    if (!same_number(a->number, b->number) || a->integer != b->integer) return 0;
    if (a->kind == VALUE_STRING && strcmp(a->string, b->string) != 0) return 0;
    for (int i = 0; i < a->n; i++) {
        if (a->kind == VALUE_DICT && strcmp(a->keys[i], b->keys[i]) != 0) return 0;
        if (!same_value(a->items[i], b->items[i], loose)) return 0;
    }
    return 1;
}

static int same_space(const struct space *a, const struct space *b) {
    if (a->n_params != b->n_params || !same_value(a->doc.root, b->doc.root, 0)) return 0;
    for (int i = 0; i < a->n_params; i++) {
        const struct param *p = &a->params[i], *q = &b->params[i];
        if (strcmp(p->label, q->label) != 0 || p->dist != q->dist || p->parent != q->parent || p->option != q->option)
            return 0;
        if (!same_number(p->low, q->low) || !same_number(p->high, q->high) || !same_number(p->mu, q->mu)) return 0;
        if (!same_number(p->sigma, q->sigma) || !same_number(p->q, q->q) || p->n_options != q->n_options) return 0;
        if ((p->options == NULL) != (q->options == NULL) || (p->p == NULL) != (q->p == NULL)) return 0;
        for (int k = 0; p->options != NULL && k < p->n_options; k++) {
            if (!same_value(p->options[k], q->options[k], 0)) return 0;
            if (p->p != NULL && !same_number(p->p[k], q->p[k])) return 0;
        }
    }
    return 1;
}

/* ======== literals ======== */

/* Each prints as Python 3's repr of the same expression: so the kind is right, too. */
static void test_expressions(void) {
    static const char *const cases[][2] = {
        {"0", "0"},
        {"7", "7"},
        {"-7", "-7"},
        {"+7", "7"},
        {"--7", "7"},
        {"-+-7", "7"},
        {"1_000_000", "1000000"},
        {"0x1F", "31"},
        {"0xdead_BEEF", "3735928559"},
        {"0o17", "15"},
        {"0b1011", "11"},
        {"00", "0"},
        {"1.", "1.0"},
        {"1.5", "1.5"},
        {".5", "0.5"},
        {"1e3", "1000.0"},
        {"1E-3", "0.001"},
        {"1.5e+2", "150.0"},
        {"1_0.2_5", "10.25"},
        {"5e-324", "5e-324"},
        {"1 - 0.499", "0.501"},
        {"4 + 0.499", "4.499"},
        {"1 + 2 * 3", "7"},
        {"(1 + 2) * 3", "9"},
        {"2 ** 10", "1024"},
        {"2 ** 3 ** 2", "512"},
        {"-2 ** 2", "-4"},
        {"(-2) ** 2", "4"},
        {"2 ** -1", "0.5"},
        {"2 ** -2 ** 2", "0.0625"},
        {"(-1) ** 1000001", "-1"},
        {"0 ** 0", "1"},
        {"2 ** 62", "4611686018427387904"},
        {"2 ** 0.5", "1.4142135623730951"},
        {"4 ** 2.0", "16.0"},
        {"3 ** 39", "4052555153018976267"},
        {"7 / 2", "3.5"},
        {"6 / 2", "3.0"},
        {"7 // 2", "3"},
        {"-7 // 2", "-4"},
        {"7 // -2", "-4"},
        {"7 % 3", "1"},
        {"-7 % 3", "2"},
        {"7 % -3", "-2"},
        {"-7 % -3", "-1"},
        {"7.5 // 2", "3.0"},
        {"-7.5 // 2", "-4.0"},
        {"7.5 % 2", "1.5"},
        {"-7.5 % 2", "0.5"},
        {"7.5 % -2", "-0.5"},
        {"1 % 0.1", "0.09999999999999995"},
        {"1 // 0.1", "9.0"},
        {"0.3 % 0.1", "0.09999999999999998"},
        {"1e17 % 3.0", "1.0"},
        {"-1e-20 % 3", "3.0"},
        {"10 - 3 - 2", "5"},
        {"100 / 10 / 2", "5.0"},
        {"2 * 3 % 4", "2"},
        {"-3 ** 2 // 2", "-5"},
        {"True + 1", "2"},
        {"-True", "-1"},
        {"+False", "0"},
        {"True * 2.5", "2.5"},
        {"9223372036854775807", "9223372036854775807"},
        {"9223372036854775806 + 1", "9223372036854775807"},
        {"1 + -1", "0"},
        {"1 - -1", "2"},
        {"3 * -2", "-6"},
        {"0.1 + 0.2", "0.30000000000000004"},
        {"1e16", "1e+16"},
        {"123456789012345678", "123456789012345678"},
        {"1.0", "1.0"},
        {"-0.0", "-0.0"},
        {"0 * -1.0", "-0.0"},
        {"np.log(2)", "0.6931471805599453"},
        {"math.log(10)", "2.302585092994046"},
        {"numpy.exp(1.5)", "4.4816890703380645"},
        {"math.exp(-1)", "0.36787944117144233"},
        {"math.sqrt(2)", "1.4142135623730951"},
        {"np.log(0.001) / 2", "-3.4538776394910684"},
        {"math.pi", "3.141592653589793"},
        {"np.pi * 2", "6.283185307179586"},
        {"math.e", "2.718281828459045"},
        {"np.log10(1000)", "3.0"},
        {"math.log2(8)", "3.0"},
        {"(5)", "5"},
        {"((5))", "5"},
        {"()", "()"},
        {"(5,)", "(5,)"},
        {"(1, 2)", "(1, 2)"},
        {"[]", "[]"},
        {"[1, 2.0, None]", "[1, 2.0, None]"},
        {"[1, (2, [3,],),]", "[1, (2, [3])]"},
        {"{}", "{}"},
        {"True", "True"},
        {"False", "False"},
        {"None", "None"},
        {"9223372036854775807 + 1", "9.223372036854776e+18"}, /* beyond 64 bits: a float here, where Python goes on */
        {"-9223372036854775807 - 1", "-9.223372036854776e+18"},
        {"2 ** 64", "1.8446744073709552e+19"},
        {"3037000500 * 3037000500", "9.22337203700025e+18"},
        {"0x7fffffffffffffff", "9223372036854775807"},
        {"float('inf')", "float('inf')"},
        {"-Infinity", "float('-inf')"},
        {"[np.nan, NaN, float('nan')]", "[float('nan'), float('nan'), float('nan')]"},
        {"math.inf", "float('inf')"},
        {"null", "None"},
        {"[true, false]", "[True, False]"},
        {"# a comment\n x = \\\n 1 # another\n", "1"},
        {"\xef\xbb\xbf{}", "{}"},
        {"dict(a=1, b=dict(), c=[2],)", "{'a': 1, 'b': {}, 'c': [2]}"},
        {"{'a': 1, 'b': (2,),}", "{'a': 1, 'b': (2,)}"},
        {"import os\nimport numpy as np; NAME = 1;", "1"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct document doc = {0};
        struct text t = {0};
        const struct value *v = parse_literal(&doc, cases[i][0]);
        if (v == NULL) continue;
        value_print_python(&t, v, NULL, 0);
        CHECK(strcmp(t.s, cases[i][1]) == 0, "%s is %s, not %s", cases[i][0], t.s, cases[i][1]);
        text_free(&t);
        document_free(&doc);
    }
}

static void test_strings(void) {
    static const char *const cases[][2] = {
        {"''", ""},
        {"\"it's\"", "it's"},
        {"'say \"hi\"'", "say \"hi\""},
        {"'a\\'b\\\\c\\n\\t\\r\\x41\\u00e9\\U0001F600\\/'", "a'b\\c\n\t\rA\xc3\xa9\xf0\x9f\x98\x80/"},
        {"\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80"},
        {"'''a\n'b'' c'''", "a\n'b'' c"},
        {"\"\"\"\"q\" \"\"\"", "\"q\" "},
        {"\"\"\"\"\"\"", ""},
        {"'a' \"b\"\n  # joined\n 'c'", "abc"},
        {"('a'\n 'b')", "ab"},
        {"r'\\d\\'", NULL},
        {"r'\\d\\'x'", "\\d\\'x"},
        {"R\"\\n\" u'\\x41'", "\\nA"},
        {"'long \\\nline'", "long line"},
        {"'\xe2\x82\xac'", "\xe2\x82\xac"},
        {"'\\ud83d'", NULL}, /* half a pair */
        {"'\\ud83d\\u0041'", NULL},
        {"'\\ude00'", NULL},
        {"'\\u0000'", NULL},
        {"'\\x4'", NULL},
        {"'\\q'", NULL},
        {"'\\U00110000'", NULL},
        {"'\xff'", NULL},
        {"'\xff\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80'", NULL},
        {"'\xc3'", NULL},
        {"'\xc0\x80'", NULL}, /* overlong */
        {"'\xed\xa0\x80'", NULL},
        {"'\xf4\x90\x80\x80'", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct document doc = {0};
        struct error e = {0};
        const int failed = value_parse(&doc, cases[i][0], strlen(cases[i][0]), "t", &e);
        if (cases[i][1] == NULL) {
            CHECK(failed == ERROR_USER && strncmp(e.text, "t:1:", 4) == 0, "case %zu: %s", i, e.text);
        } else {
            CHECK(!failed && doc.root->kind == VALUE_STRING && strcmp(doc.root->string, cases[i][1]) == 0,
                  "case %zu: %s", i, e.text);
        }
        document_free(&doc);
    }
    struct document doc = {0};
    struct error e = {0};
    CHECK(value_parse(&doc, "'a\0b'", 5, "t", &e) == ERROR_USER, "a 0 byte in a string");
    CHECK(value_parse(&doc, "1\0", 2, "t", &e) == ERROR_USER, "a 0 byte behind the value");
    CHECK(value_parse(&doc, "[1, 2]", 3, "t", &e) == ERROR_USER, "n bytes, not a terminated string");
    CHECK(value_parse(&doc, "12", 1, "t", &e) == OK && doc.root->integer == 1);
    document_free(&doc);
}

static void test_get(void) {
    struct document doc = {0};
    const struct value *v = parse_literal(&doc, "{'a': 1, 'b': {'c': [True]}}");
    CHECK(value_get(v, "a") != NULL && value_get(v, "a")->integer == 1);
    CHECK(value_get(value_get(v, "b"), "c")->items[0]->kind == VALUE_BOOL);
    CHECK(value_get(v, "c") == NULL && value_get(NULL, "a") == NULL && value_get(value_get(v, "a"), "a") == NULL);
    CHECK(value_get(v, "b")->line == 1 && value_get(v, "b")->column == 15, "column %d", value_get(v, "b")->column);
    struct text t = {0};
    value_print_json(&t, v, 2);
    CHECK(strcmp(t.s, "{\n  \"a\": 1,\n  \"b\": {\n    \"c\": [true]\n  }\n}") == 0, "%s", t.s);
    text_free(&t);
    document_free(&doc);
}

/* ======== spaces ======== */

static void test_seeds(void) {
    struct space *first = parse_space(first_seed), *later = parse_space(space_seed);
    if (first == NULL || later == NULL) return;
    CHECK(first->n_params == 20 && first->doc.root->n == 17, "%d", first->n_params);
    CHECK(later->n_params == 22 && later->doc.root->n == 19, "%d", later->n_params);
    const struct param *p = &later->params[space_find(later, "residual_units")];
    CHECK(p->dist == DIST_QUNIFORM && p->low == 1 - 0.499 && p->high == 4 + 0.499 && p->q == 1);
    CHECK(p->option == 1 && strcmp(later->params[p->parent].label, "residual") == 0);
    p = &later->params[space_find(later, "batch_size")];
    CHECK(p->low == 100 && p->high == 450 && p->q == 5);
    p = &first->params[space_find(first, "batch_size")];
    CHECK(p->low == 100 && p->high == 700 && p->q == 5);
    /* the key and the label may differ */
    const struct value *v = value_get(later->doc.root, "conv_dropout_drop_proba");
    CHECK(v->kind == VALUE_PARAM && v->integer == space_find(later, "conv_dropout_proba"));
    CHECK(space_find(later, "conv_dropout_drop_proba") == -1);
    p = &later->params[space_find(later, "pooling_type")];
    CHECK(p->dist == DIST_CHOICE && p->n_options == 4 && strcmp(p->options[3]->string, "inception") == 0);
    for (int i = 0; i < later->n_params; i++) CHECK(later->params[i].parent < i, "parents stand before children");
    CHECK(!same_space(first, later));
    space_free(first);
    space_free(later);
    space_free(NULL);
}

static void test_whole(void) {
    struct space *s = parse_space(whole);
    if (s == NULL) return;
    static const struct {
        const char *label;
        enum distribution dist;
        double x, y, q; /* low, high or mu, sigma */
        int n_options;
        const char *parent;
        int option;
    } want[] = {{"a", DIST_UNIFORM, -1, 1, 0, 0, NULL, 0},
                {"b", DIST_QUNIFORM, 0, 10, 2.5, 0, NULL, 0},
                {"c", DIST_LOGUNIFORM, -6.907755278982137, 2.302585092994046, 0, 0, NULL, 0},
                {"d", DIST_QLOGUNIFORM, 0, 5, 3, 0, NULL, 0},
                {"e", DIST_NORMAL, 1, 2, 0, 0, NULL, 0},
                {"f", DIST_QNORMAL, -1, 4, 0.5, 0, NULL, 0},
                {"g", DIST_LOGNORMAL, 0, 0.5, 0, 0, NULL, 0},
                {"h", DIST_QLOGNORMAL, 1, 0.75, 1, 0, NULL, 0},
                {"i", DIST_UNIFORMINT, -2, 3, 1, 0, NULL, 0},
                {"j", DIST_RANDINT, 0, 6, 0, 6, NULL, 0},
                {"k", DIST_RANDINT, -3, 4, 0, 7, NULL, 0},
                {"l", DIST_RANDINT, 0, 3, 0, 3, NULL, 0},
                {"l2", DIST_RANDINT, 2, 9, 0, 7, NULL, 0},
                {"m", DIST_CHOICE, 0, 0, 0, 3, NULL, 0},
                {"deep", DIST_CHOICE, 0, 0, 0, 3, "m", 0},
                {"deeper", DIST_UNIFORM, 0, 1, 0, 0, "deep", 1},
                {"n", DIST_PCHOICE, 0, 0, 0, 3, "m", 1},
                {"o", DIST_NORMAL, 0, 1, 0, 0, "n", 1},
                {"p", DIST_PCHOICE, 0, 0, 0, 1, "m", 2},
                {"s", DIST_QNORMAL, 2, 9, 1.5, 0, NULL, 0},
                {"t", DIST_CHOICE, 0, 0, 0, 2, NULL, 0},
                {"u", DIST_CHOICE, 0, 0, 0, 3, "t", 0},
                {"q", DIST_CHOICE, 0, 0, 0, 2, NULL, 0}};
    CHECK(s->n_params == sizeof want / sizeof *want, "%d", s->n_params);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const int k = space_find(s, want[i].label);
        CHECK(k == (int)i, "%s", want[i].label);
        if (k < 0) continue;
        const struct param *p = &s->params[k];
        const int normal = p->dist >= DIST_NORMAL && p->dist <= DIST_QLOGNORMAL;
        CHECK(p->dist == want[i].dist && p->q == want[i].q && p->n_options == want[i].n_options, "%s", p->label);
        CHECK(check_close(normal ? p->mu : p->low, want[i].x, 1e-15), "%s", p->label);
        CHECK(check_close(normal ? p->sigma : p->high, want[i].y, 1e-15), "%s", p->label);
        CHECK(p->parent == (want[i].parent != NULL ? space_find(s, want[i].parent) : -1), "%s", p->label);
        CHECK(p->option == want[i].option, "%s", p->label);
    }
    const struct param *n = &s->params[space_find(s, "n")];
    CHECK(n->p[0] == 0.25 && n->p[1] == 0.5 && n->p[2] == 0.25 && n->options[0]->kind == VALUE_NONE);
    space_free(s);
}

static void test_errors(void) {
    static const struct {
        const char *text, *at, *what;
    } cases[] = {
        {"", "1:1", "the text ends"},
        {"# nothing\n", "2:1", "the text ends"},
        {"space =", "1:8", "the text ends"},
        {"{'a': hp.uniform('x', 0, 1),\n 'b': hp.normal('x', 0, 1)}", "2:7", "label 'x' is used twice"},
        {"hp.choice('x', [hp.uniform('x', 0, 1)])", "1:17", "label 'x' is used twice"},
        {"hp.unifrom('x', 0, 1)", "1:1", "hp.unifrom is no distribution"},
        {"hp.uniform('x', 1, 1)", "1:1", "low (1) must be below high (1)"},
        {"hp.uniform('x', 2, 1)", "1:1", "low (2) must be below high (1)"},
        {"hp.randint('x', 0)", "1:1", "must be below"},
        {"hp.randint('x', 5, 5)", "1:1", "must be below"},
        {"hp.randint('x', 2.5)", "1:17", "must be an integer"},
        {"hp.randint('x', 2000000)", "1:1", "at most 1000000"},
        {"hp.uniformint('x', 3, 2)", "1:1", "must be below"},
        {"hp.uniformint('x', 0, 1e18)", "1:1", "1e15"},
        {"hp.normal('x', 0, 0)", "1:1", "sigma must be above 0"},
        {"hp.lognormal('x', 0, -1)", "1:1", "sigma must be above 0"},
        {"hp.quniform('x', 0, 1, 0)", "1:1", "q must be above 0"},
        {"hp.qnormal('x', 0, 1, -2)", "1:1", "q must be above 0"},
        {"hp.uniform('x', 0, Infinity)", "1:20", "must be a finite number"},
        {"hp.uniform('x', NaN, 1)", "1:17", "must be a finite number"},
        {"hp.uniform('x', 0, 1e999)", "1:20", "too large"},
        {"hp.uniform('x', -1e308, 1e308)", "1:1", "overflow"},
        {"hp.quniform('x', 0, 1e300, 1e-300)", "1:1", "overflow"},
        {"hp.loguniform('x', 1, 1000)", "1:1", "natural logarithms"},
        {"hp.lognormal('x', 0, 100)", "1:1", "natural logarithms"},
        {"hp.uniform('x', 0, True)", "1:20", "must be a finite number"},
        {"hp.uniform('x', 0, 'y')", "1:20", "must be a finite number"},
        {"hp.uniform('x', 0, hp.uniform('y', 0, 1))", "1:20", "must be a finite number"},
        {"hp.pchoice('x', [(0.5, 1), (0.4, 2)])", "1:17", "sum to 0.9"},
        {"hp.pchoice('x', [(0.5, 1), (0.50001, 2)])", "1:17", "sum to 1.00001"},
        {"hp.pchoice('x', [(1.5, 1), (-0.5, 2)])", "1:29", "from 0 to 1"},
        {"hp.pchoice('x', [1, 2])", "1:18", "pairs"},
        {"hp.pchoice('x', [(1, 2, 3)])", "1:25", "pairs"},
        {"hp.pchoice('x', [(1)])", "1:20", "pairs"},
        {"hp.choice('x', [])", "1:16", "no options"},
        {"hp.pchoice('x', [])", "1:17", "no options"},
        {"hp.choice('x', 3)", "1:16", "must be a list"},
        {"hp.choice('x')", "1:1", "list of options"},
        {"hp.choice('x', [1], [2])", "1:21", "too many"},
        {"hp.choice('x', options=[1], options=[2])", "1:37", "twice"},
        {"hp.uniform('x', 0)", "1:1", "needs the argument high"},
        {"hp.uniform()", "1:1", "needs a label"},
        {"hp.uniform(0, 1)", "1:12", "label"},
        {"hp.uniform('x', 0, 1, 2)", "1:23", "too many"},
        {"hp.uniform('x', 0, 1, low=0)", "1:27", "the argument low twice"},
        {"hp.uniform('x', low=0, 1)", "1:24", "behind one with a name"},
        {"hp.uniform('x', 0, 1, q=1)", "1:23", "no argument 'q'"},
        {"hp.uniform('x', 'y', label='z')", "1:17", "finite number"},
        {"hp.uniform('x', 0, 1, label='z')", "1:29", "label"},
        {"hp.uniform", "1:11", "'(' is missing"},
        {"hp.uniform('x', 0, 1", "1:1", "never closed"},
        {"hp.uniform('x' 0, 1)", "1:16", "','"},
        {"{'a': 1, 'b': 2, 'a': 3}", "1:23", "the key 'a' stands twice"},
        {"dict(a=1, a=2)", "1:13", "the key 'a' stands twice"},
        {"{1: 2}", "1:2", "string in quotes"},
        {"{'a' 1}", "1:6", "':' is missing"},
        {"{'a': 1 'b': 2}", "1:9", "','"},
        {"{'a': 1", "1:1", "never closed"},
        {"[1,\n [2, 3", "2:2", "never closed"},
        {"[1 2]", "1:4", "','"},
        {"[1, 2}", "1:6", "','"},
        {"(1, 2]", "1:6", "','"},
        {"[,]", "1:2", "a value is expected"},
        {"{} {}", "1:4", "more text behind"},
        {"1, 2", "1:2", "more text behind"},
        {"'abc", "1:1", "has no end"},
        {"'abc\n'", "1:1", "has no end"},
        {"1 / 0", "1:3", "division by zero"},
        {"1 // 0", "1:3", "division by zero"},
        {"1.5 % 0.0", "1:5", "division by zero"},
        {"0 ** -1", "1:3", "not a finite number"},
        {"(-8) ** 0.5", "1:6", "not a finite number"},
        {"1e308 * 10", "1:7", "not a finite number"},
        {"'a' + 1", "1:5", "numbers only"},
        {"-'a'", "1:1", "numbers only"},
        {"2 * hp.uniform('x', 0, 1)", "1:3", "numbers only"},
        {"np.log(0)", "1:1", "not a finite number"},
        {"np.log('a')", "1:1", "works on a number"},
        {"np.sin(1)", "1:1", "'sin' is not known"},
        {"os.system('x')", "1:1", "'os.system' is not known"},
        {"scope.float(hp.quniform('x', 1, 8, 1))", "1:1", "of scope there is int"},
        {"[int('3')]", "1:6", "int takes a number"},
        {"int(hp.choice('x', [1, hp.choice('y', [2, None])]))", "1:43", "int takes a number"},
        {"scope.int(Infinity)", "1:11", "int takes a number"},
        {"int[2]", "1:4", "'(' is missing"},
        {"int(2, 3)", "1:6", "')' is missing"},
        {"2 * int(hp.uniform('x', 0, 1))", "1:3", "numbers only"},
        {"undefined", "1:1", "'undefined' is not known"},
        {"float('1')", "1:1", "float takes"},
        {"012", "1:1", "cannot begin with 0"},
        {"0x", "1:1", "no number"},
        {"0b12", "1:1", "no number"},
        {"1__0", "1:1", "no number"},
        {"1e", "1:1", "no number"},
        {"12ab", "1:1", "no number"},
        {"0xfffffffffffffffff", "1:1", "too large"},
        {"\n\n   $", "3:4", "'$'"},
        {"\xe2\x82\xac", "1:1", "byte 0xe2"},
        {"{'a\\nb': hp.normal('x\\ny', 0, 0)}", "1:10", "'x?y'"},
        {"hp.choice('x', range())", "1:21", "range takes an end"},
        {"hp.choice('x', range(3, 3))", "1:21", "with 1 to 10000 values"},
        {"hp.choice('x', range(1, 9, 0))", "1:21", "with 1 to 10000 values"},
        {"hp.choice('x', range(10001))", "1:21", "with 1 to 10000 values"},
        {"hp.choice('x', range(1, 2, 3, 4))", "1:21", "range takes an end"},
        {"hp.choice('x', range(2.0))", "1:22", "range takes integers"},
        {"hp.choice('x', range)", "1:21", "'(' is missing"},
        {"hp.choice('x', list(range(3))", "1:1", "never closed"},
        {"hp.pchoice('x', range(3))", "1:17", "'range' is not known"},
        {"hp.choice('x', sizes)", "1:16", "'sizes' is not known"},
        /* scripts */
        {"space = hp.normal('x', low, 1)\nlow = 0\n", "1:24", "'low' is not known"},
        {"low = low\nspace = hp.normal('x', low, 1)\n", "1:7", "'low' is not known"},
        {"def f():\n  low = 0\nspace = hp.normal('x', low, 1)\n", "3:24", "'low' is not known"},
        {"low = 'a'\nspace = hp.normal('x', low, 1)\n", "1:7", "must be a finite number"},
        {"low = 1, 2\nspace = hp.normal('x', low, 1)\n", "1:8", "more than a value"},
        {"a = hp.normal('x', 0, 1)\nb = 1\nc = {'a': hp.normal('y', 0, 1)}\n", "3:1", "so may line 1"},
        {"space = hp.normal('x', 0, 1)\nspace = hp.normal('x', 0, 2)\n", "2:1", "so may line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nspace['b'] = 3\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nspace.update({'b': 3})\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}, 2\nprint(3)\n", "1:36", "more text behind"},
        {"space = {'a': hp.normal('x', 0, 1)}\n, 'b': 2}\n", "2:1", "never opened"},
        {"space = {'a': hp.normal('x', 0, 1)\n\nprint(')')\n", "3:1", "','"},
        {"print('hp.x')  # a = hp.y\nother = {'a': b}\n", "1:1", "'print' is not known"},
        {"import os\nclass A:\n  f(1)\n  self.space = hp.a\n", "4:3", "no `space = ...`"},
        {"import os\nhp.normal('x', 0, 1)\nprint(1)\n", "3:1", "more text behind"},
        {"space = {'a': hp.normal('x', 0, 1)}\nspace = {k: v for k, v in space.items()}\n", "2:1",
         "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nspace |= {'b': 1}\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\ndel space['a']\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nb = space.pop('a')\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nif b: space['a'] = 1\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nfor k in 'b': space[k] = 1\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nfor space in b: f()\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nspace['a']['b'].append(1)\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nspace: dict = space\n", "2:1", "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\ndef f():\n  global space\n  space = 1\n", "3:3",
         "may change the space of line 1"},
        {"space = {'a': hp.normal('x', 0, 1)}\nfmin(f, dict(space, b=hp.normal('b', 0, 1)))\n", "2:1", "draws, too"},
        {"p = {'a': hp.normal('x', 0, 1)}\nfmin(f, {'b': hp.normal('b', 0, 1)})\n", "2:1", "draws, too"},
        {"p = {'a': hp.normal('x', 0, 1)}\nspace = p.copy()\n", "2:1", "call that one `space`"},
        {"p = {'a': {'b': hp.normal('x', 0, 1)}}\nspace = p['a']\n", "2:1", "call that one `space`"},
        {"N = 3\nif b:\n  N = 4\nspace = hp.normal('x', N, 1)\n", "4:24", "depends on line 3"},
        {"N = 3\nif b: N = 4\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nM, N = 2, 4\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nfor N in b: pass\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nN: int = 4\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nf(N := 4)\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nfrom b import N\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nimport b as N\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nN += 1\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nN[0] = 1\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nN.append(1)\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\ndef N(): pass\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nwith b as N: pass\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\ndef f():\n  global N\n  N = 4\nspace = hp.normal('x', N, 1)\n", "5:24", "depends on line 3"},
        {"if b:\n  N = 4\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\ndef f(N):\n  space = hp.normal('x', N, 1)\nN = 4\n", "3:26", "an argument of the function"},
        {"hp.choice('x', ([1, 2]))", "1:16", "no list of one"},
        {"N = hp.normal('x', 0, 1)\nspace = {'a': N, 'b': (1,\n 2})\n", "3:3", "','"},
        {"space = {'a': hp.normal('x', 0, 1)}\ndef f():\n  space['a'] = 1\n", "3:3", "may change the space of line 1"},
        {"def f():\n  space = {'a': hp.normal('x', 0, 1)}\n  return space\nspace = f()\ndel space['a']\n", "5:1",
         "may change the space of line 2"},
        {"if b:\n  space = f()\nelse:\n  space = {'a': hp.normal('x', 0, 1)}\n", "4:3", "hangs on line 2"},
        {"try:\n  from b import space\nexcept ImportError:\n  space = {'a': hp.normal('x', 0, 1)}\n", "4:3",
         "hangs on line 2"},
        {"space = {'a': hp.normal('x', 0, 1)}\np = {**space, 'b': hp.normal('b', 0, 1)}\n", "2:1", "draws, too"},
        {"space = {'a': hp.normal('x', 0, 1)}\np = {**space, 'b': 1}\n", "2:1", "may be another space"},
        {"space = {'a': hp.normal('x', 0, 1)}\np = dict(space, b=1)\n", "2:1", "may be another space"},
        {"space = {'a': hp.normal('x', 0, 1)}\np = space.copy()\n", "2:1", "may be another space"},
        {"def log(x): return x\nspace = hp.normal('x', log(2), 1)\n", "2:24", "is the script's own, by line 1"},
        {"range = xrange\nspace = hp.choice('x', range(3))\n", "2:24", "is the script's own, by line 1"},
        {"tau = 0.5\nspace = hp.normal('x', math.tau, 1)\n", "2:24", "'tau' is not known"},
        {"N = 3\n(N, M) = (1, 5)\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\nfrom b import *\nspace = hp.normal('x', N, 1)\n", "3:24", "depends on line 2"},
        {"N = 3\ndef f():\n  N.append(1)\nspace = hp.normal('x', N, 1)\n", "4:24", "depends on line 3"},
        {"N = 3\nfor i in b:\n  space = hp.normal('x', N, 1)\n  N = b[i]\n", "3:26", "depends on line 4"},
        {"def f():\n  N = 3\n  def g():\n    nonlocal N\n  space = hp.normal('x', N, 1)\n", "5:26",
         "depends on line 4"},
        {"if b: pass; N = 3\nspace = hp.normal('x', N, 1)\n", "2:24", "depends on line 1"},
        {"N = 3\nfor i in b:\n  pass\nif b:\n  space = hp.normal('x', M, 1)\n  M = 4\n", "5:26", "'M' is not known"},
        {"def f():\n  space = hp.normal('x', N, 1)\nif b:\n  N = 4\n", "2:26", "depends on line 4"},
        {"space = {'a': hp.normal('x', 0, 1)}\n# b\r'b'\n", "1:1", "CR alone"},
        {"space = {'a': hp.normal('x', 0, 1)}\np = space\np['a'] = 1\n", "2:1",
         "line 3 may change the space of line 1"},
        {"a = hp.normal('x', 0, 1)\nspace = {'a': a, 'b': b}\n", "2:23", "'b' is not known"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error e = {0};
        struct space *s = NULL;
        char where[40];
        snprintf(where, sizeof where, "f.py:%s: ", cases[i].at);
        const int failed = space_parse(&s, cases[i].text, strlen(cases[i].text), "f.py", &e);
        CHECK(failed == ERROR_USER && e.kind == ERROR_USER && s == NULL, "%s is accepted", cases[i].text);
        CHECK(strncmp(e.text, where, strlen(where)) == 0, "%s: not at %s: %s", cases[i].text, cases[i].at, e.text);
        CHECK(strstr(e.text, cases[i].what) != NULL, "%s: not '%s': %s", cases[i].text, cases[i].what, e.text);
        CHECK(strchr(e.text, '\n') == NULL, "one line");
        space_free(s);
    }
    struct document doc = {0};
    struct error e = {0};
    CHECK(value_parse(&doc, "{'a': hp.uniform('x', 0, 1)}", 28, "c", &e) == ERROR_USER, "no space here");
    CHECK(strncmp(e.text, "c:1:7: ", 7) == 0 && doc.root == NULL, "%s", e.text);
    struct space *s = NULL;
    CHECK(space_read(&s, "/nonexistent/space.py", &e) == ERROR_USER && s == NULL, "%s", e.text);
    CHECK(space_parse(&s, "$", 1, "f", NULL) == ERROR_USER, "nobody listens");
}

/* A script around a space: what stands before it and behind it is passed over, names above it stand for their values.
 */
static void test_scripts(void) {
    static const char plain[] =
        "{'rate': hp.loguniform('rate', -7, 7), 'size': hp.choice('size', [100, 110, 120]),\n"
        " 'width': hp.pchoice('width', [(0.25, 7), (0.75, {'more': hp.uniform('more', 0, 3.5)})]),\n"
        " 'down': hp.choice('down', [3, 2, 1]), 'same': [7, 7]}";
    struct text crlf = {0}, marked = {0}, seed = {0}, many = {0};
    for (const char *c = script; *c; c++) text_add(&crlf, *c == '\n' ? "\r\n" : "%c", *c);
    text_add(&marked, "\xef\xbb\xbf%s", strstr(script, "WIDTH = 2"));
    text_add(&seed, "import os\n%s\nprint(space)\n", space_seed);
    const char *const scripts[][2] = {
        {script, plain},
        {crlf.s, plain},
        {marked.s, plain},
        {seed.s, space_seed},
        /* somebody else's `space` */
        {"def f():\n  space = {'a': hp.normal('x', 0, 1)}\n  return space\ndef g(space):\n  space['a'] = 1\n",
         "{'a': hp.normal('x', 0, 1)}"},
        {"p = {'a': hp.normal('x', 0, 1)}\nspace = p  # so\nfmin(f, space=space)\n", "{'a': hp.normal('x', 0, 1)}"},
        {"low = hp.normal('x', 0, 1)\nspace = dict(a=low)\nlow = 2\n", "{'a': hp.normal('x', 0, 1)}"},
        /* names of functions around, of later lines; of the block that it stands in */
        {"def f():\n  k = 1\n  def g():\n    k = 2\n  def h(m):\n    space = [hp.normal('x', k, n), m2]\nm2 = 4\nn = "
         "3\n"
         "def i():\n  n = 5\n",
         "[hp.normal('x', 1, 3), 4]"},
        {"if __name__ == '__main__':\n  n = 3; f(n=4)\n  space = hp.normal('x', 0, n)\n  if n == 4:\n    n = 5\n",
         "hp.normal('x', 0, 3)"},
        /* what reads it, or has its name elsewhere, is no change of it */
        {"from b import *\nlow: int = 3\nspace: dict = {'a': hp.normal('x', 0, low)}\nprint(space['a'], "
         "len(space.items()))\n"
         "for k, v in space.items(): d[k] = v\nif 'a' in space: d = 1\nbest = fmin(f, space=space)\n"
         "best = space_eval(space, best)\nasync def objective(space): space['a'] = 2\nx = [space for space in b]\n",
         "{'a': hp.normal('x', 0, 3)}"},
        {"low = 0; high = 1\nsearch = {'a': hp.normal('x', low, high)}\ndef objective(space):\n"
         "  space['a'] = int(space['a'])\n  low = 4\n  return 0\n",
         "{'a': hp.normal('x', 0, 1)}"},
        {"def f():\n  global space\n  space = {'a': hp.normal('x', 0, 1)}\n", "{'a': hp.normal('x', 0, 1)}"},
        {"space = None\nspace = {'a': hp.normal('x', 0, 1)}\nother = space\n", "{'a': hp.normal('x', 0, 1)}"},
        {"n = 3\nb.n = 4\ndef f(): b = 1; n = 5\nspace = hp.normal('x', 0, n)\n", "hp.normal('x', 0, 3)"},
        {"for i in b:\n  pass\nn = 3\nspace = hp.normal('x', 0, n)\nn = 4\n", "hp.normal('x', 0, 3)"},
        {"ns = [3]\ndef f(ns):\n  ns.append(4)\nspace = hp.choice('x', ns)\n", "hp.choice('x', [3])"},
        /* where a value ends */
        {"n = 5\n-1\nk = 'a'\n'b'\nspace = [hp.normal('x', 0, n), k]\n*m, l = 1, 2\n", "[hp.normal('x', 0, 5), 'a']"},
        {"k = 'a\\\r\n['\r\nspace = [hp.normal('x', 0, 1), k]\r\n", "[hp.normal('x', 0, 1), 'a[']"}};
    for (int i = 0; i < (int)(sizeof scripts / sizeof *scripts); i++) {
        struct space *a = parse_space(scripts[i][0]), *b = parse_space(scripts[i][1]);
        CHECK(a != NULL && b != NULL && same_space(a, b) && strcmp(a->text, b->text) == 0, "script %d: %s", i,
              a != NULL ? a->text : "refused");
        space_free(a);
        space_free(b);
    }
    /* Names that stand for names: each doubles what it stands for. */
    text_add(&many, "a0 = [1]\n");
    for (int i = 1; i < 40; i++) text_add(&many, "a%d = [a%d, a%d]\n", i, i - 1, i - 1);
    text_add(&many, "space = [hp.normal('x', 0, 1), a39]\n");
    struct error e = {0};
    struct space *s = NULL;
    CHECK(space_parse(&s, many.s, many.n, "t", &e) == ERROR_USER && strstr(e.text, "more than 1000 times") != NULL,
          "%s", e.text);
    text_free(&crlf);
    text_free(&marked);
    text_free(&seed);
    text_free(&many);
}

/* `before` and `after` n times around `middle`; the result in *t. */
static void nest(struct text *t, const char *before, const char *middle, const char *after, int n) {
    for (int i = 0; i < n; i++) text_add(t, "%s", before);
    text_add(t, "%s", middle);
    for (int i = 0; i < n; i++) text_add(t, "%s", after);
}

static void test_depth(void) {
    static const char *const ways[][3] = {{"[", "1", "]"},
                                          {"(", "1", ")"},
                                          {"{'a': ", "1", "}"},
                                          {"2 ** ", "1", ""},
                                          {"dict(a=", "1", ")"},
                                          {"np.exp(", "1", ")"},
                                          {"1 ** -(", "1", ")"},
                                          {"[(", "1", ",)]"},
                                          {"hp.choice('x', [", "1", "])"},
                                          {"hp.pchoice('x', [(", "1", "])"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct text t = {0};
        struct error e = {0};
        struct space *s = NULL;
        nest(&t, ways[i][0], ways[i][1], ways[i][2], 100000);
        CHECK(!t.failed && space_parse(&s, t.s, t.n, "f", &e) == ERROR_USER, "%s", ways[i][0]);
        CHECK(strstr(e.text, "deeper than 200 levels") != NULL || i == 5, "%s: %s", ways[i][0], e.text);
        text_free(&t);
    }
    static const char *const fine[] = {"-", "+"}; /* a loop, so no depth */
    for (int i = 0; i < 2; i++) {
        struct text t = {0};
        struct document doc = {0};
        nest(&t, fine[i], "1", "", 100000);
        const struct value *v = parse_literal(&doc, t.s);
        CHECK(v != NULL && v->integer == 1);
        document_free(&doc);
        text_free(&t);
    }
    struct text t = {0}, printed = {0};
    struct document doc = {0}, again = {0};
    nest(&t, "[", "0 - 1", "]", 199); /* as deep as it may be, and so it prints */
    const struct value *v = parse_literal(&doc, t.s);
    value_print_python(&printed, v, NULL, 0);
    const struct value *w = parse_literal(&again, printed.s);
    CHECK(v != NULL && w != NULL && same_value(v, w, 0));
    text_free(&t);
    text_free(&printed);
    document_free(&doc);
    document_free(&again);

    nest(&t, "", "[", "", 1); /* many parameters: an error, not an afternoon */
    for (int i = 0; i < 20000; i++) text_add(&t, "hp.uniform('x%d', 0, 1),", i);
    text_add(&t, "]");
    struct space *s = NULL;
    struct error e = {0};
    CHECK(space_parse(&s, t.s, t.n, "f", &e) == ERROR_USER && strstr(e.text, "10000 parameters") != NULL, "%s", e.text);
    text_free(&t);
}

/* ======== there and back ======== */

/* The point of a configuration v has the same configuration. */
static void check_point(const struct space *s, const struct value *v, const struct document *config) {
    double *back = mem_alloc(((size_t)s->n_params + 1) * sizeof *back);
    struct document again = {0};
    struct error e = {0};
    CHECK(space_point(s, v, "t", back, &e) == OK, "%s", e.text);
    CHECK(space_config(s, back, &again, &e) == OK && same_value(config->root, again.root, 0), "%s", e.text);
    document_free(&again);
    mem_free(back);
}

static void check_config(const struct space *s, const double *values) {
    struct document config = {0}, again = {0};
    struct error e = {0};
    CHECK(space_config(s, values, &config, &e) == OK, "%s", e.text);
    if (config.root == NULL) return;
    for (int indent = 0; indent <= 4; indent += 4) {
        for (int json = 0; json < 2; json++) {
            struct text t = {0};
            if (json) {
                value_print_json(&t, config.root, indent);
            } else {
                value_print_python(&t, config.root, NULL, indent);
            }
            const struct value *v = parse_literal(&again, t.s);
            CHECK(v != NULL && same_value(config.root, v, json), "%s", t.s);
            check_point(s, v, &config);
            document_free(&again);
            text_free(&t);
        }
    }
    document_free(&config);
}

/* What is no configuration of a space says why. */
static void test_no_point(void) {
    static const char text[] =
        "{'a': hp.quniform('a', 0, 10, 5), 'b': hp.choice('b', [None, {'c': hp.uniform('c', 1, 2)}, 'x', True]),\n"
        " 'd': scope.int(hp.quniform('d', 1, 9, 2.5)), 'e': [1, 2.5], 'f': int(hp.uniform('f', -1.5, 0.5)),\n"
        " 'g': hp.choice('g', [hp.uniform('g1', 0, 1), hp.uniform('g2', 2, 3)])}";
    static const struct {
        const char *text, *what;
    } cases[] = {
        {"{'a': 5, 'b': None, 'd': 7, 'e': [1, 2.5], 'f': -1, 'g': 2.5}", NULL},
        {"{'g': 0.5, 'f': 0, 'a': 5.0, 'b': {'c': 1.5}, 'd': 2, 'e': (1.0, 2.5)}", NULL},
        {"{'a': 5, 'b': True, 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", NULL},
        {"{'a': 4, 'b': None, 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "t:1:7: the space has no such 'a'"},
        {"{'a': 20, 'b': None, 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "t:1:7: the space has no such 'a'"},
        {"{'a': '5', 'b': None, 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "t:1:7: the space has no such 'a'"},
        {"{'a': 5, 'b': False, 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "the space has no such 'b'"},
        {"{'a': 5, 'b': 1, 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "the space has no such 'b'"},
        {"{'a': 5, 'b': {'c': 3}, 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "the space has no such 'b'"},
        {"{'a': 5, 'b': {'c': 1.5, 'd': 1}, 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "the space has no such 'b'"},
        {"{'a': 5, 'b': 'y', 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "the space has no such 'b'"},
        {"{'a': 5, 'b': 'x', 'd': 3, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "the space has no such 'd'"},
        {"{'a': 5, 'b': 'x', 'd': 2.5, 'e': [1, 2.5], 'f': 0, 'g': 0.5}", "the space has no such 'd'"},
        {"{'a': 5, 'b': 'x', 'd': 5, 'e': [1], 'f': 0, 'g': 0.5}", "the space has no such 'e'"},
        {"{'a': 5, 'b': 'x', 'd': 5, 'e': 1, 'f': 0, 'g': 0.5}", "the space has no such 'e'"},
        {"{'a': 5, 'b': 'x', 'd': 5, 'e': [1, 2.5], 'f': 1, 'g': 0.5}", "the space has no such 'f'"},
        {"{'a': 5, 'b': 'x', 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 1.5}", "the space has no such 'g'"},
        {"{'a': 5, 'b': 'x', 'd': 5, 'e': [1, 2.5], 'f': 0}", "t: 'g' is missing; the space has it"},
        {"{'a': 5, 'b': 'x', 'd': 5, 'e': [1, 2.5], 'f': 0, 'g': 0.5, 'h': 1}", "t:1:66: 'h' is not in the space"},
        {"[5]", "t:1:1: this is no configuration"}};
    struct space *s = parse_space(text);
    double values[8];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct document doc = {0}, config = {0};
        struct error e = {0};
        const int failed = space_point(s, parse_literal(&doc, cases[i].text), "t", values, &e);
        if (cases[i].what == NULL) {
            CHECK(failed == OK && space_config(s, values, &config, &e) == OK, "%s: %s", cases[i].text, e.text);
            for (int k = 0; config.root != NULL && k < config.root->n; k++) {
                const struct value *v = config.root->items[k], *want = value_get(doc.root, config.root->keys[k]);
                CHECK(v->number == want->number || v->n > 0, "%s: %s", cases[i].text, config.root->keys[k]);
            }
        } else {
            CHECK(failed == ERROR_USER && strstr(e.text, cases[i].what) != NULL, "%s: not '%s': %s", cases[i].text,
                  cases[i].what, e.text);
        }
        document_free(&config);
        document_free(&doc);
    }
    space_free(s);
    /* An option that fits in part leaves nothing behind. */
    s = parse_space(
        "{'a': hp.choice('a', [{'b': hp.uniform('b', 0, 1), 'c': 1}, {'b': hp.uniform('d', 0, 1), 'c': 2}])}");
    struct document doc = {0};
    struct error e = {0};
    CHECK(space_point(s, parse_literal(&doc, "{'a': {'b': 0.5, 'c': 2}}"), "t", values, &e) == OK, "%s", e.text);
    CHECK(values[0] == 1 && isnan(values[1]) && values[2] == 0.5, "%g %g %g", values[0], values[1], values[2]);
    document_free(&doc);
    space_free(s);
}

static void test_round_trips(void) {
    static const char *const texts[] = {
        first_seed,
        space_seed,
        whole,
        "{}",
        "[]",
        "hp.choice('x', [1, 2])",
        "[-9223372036854775807 - 1, 1e-320, -0.0, float('inf'), -1, ('a',), ((),)]",
        "{'k\\'\\\\\\n\\x01\\x7f\xc3\xa9': hp.uniform('l\\'\\\\\\n\\x01\xc3\xa9', 0, 1)}",
        "{\"json\": [null, true, -1.5e3, {\"a\": \"\\u20ac\"}]}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct space *s = parse_space(texts[i]);
        if (s == NULL) continue;
        struct space *again = parse_space(s->text);
        CHECK(again != NULL && same_space(s, again), "%s", s->text);
        CHECK(again != NULL && strcmp(s->text, again->text) == 0, "the normal form of the normal form");
        struct rng rng = rng_make(3, (uint32_t)i, RNG_SUGGEST);
        double *values = mem_zero((size_t)s->n_params + 1, sizeof *values);
        for (int k = 0; k < 50; k++) {
            struct error e = {0};
            space_draw(s, &rng, values);
            CHECK(space_check(s, values, &e) == OK, "%s", e.text);
            check_config(s, values);
        }
        for (int k = -1; k < s->n_params; k++) {
            struct error e = {0};
            int points = 0;
            for (; space_extreme(s, k, points, values); points++) {
                CHECK(space_check(s, values, &e) == OK && (k < 0 || !isnan(values[k])), "%s", e.text);
            }
            const struct param *p = &s->params[k < 0 ? 0 : k];
            CHECK(points == (k < 0 || p->sigma > 0 ? 1 : p->options != NULL ? p->n_options : 2), "%d", points);
        }
        mem_free(values);
        space_free(again);
        space_free(s);
    }
}

static void test_configs(void) {
    struct space *s = parse_space(
        "{'c': hp.choice('c', [None, {'u': hp.uniformint('u', -5, 5), 'r': hp.randint('r', 2, 5)}, 'x']),"
        " 'q': hp.quniform('q', 0, 4, 1), 'l': hp.loguniform('l', -30, 0), 'p': hp.pchoice('p', [(0.5, 7), (0.5, "
        "8)])}");
    struct error e = {0};
    struct document doc = {0};
    struct text t = {0};
    if (s == NULL) return;
    const double none = (double)NAN;
    double v[] = {1, -0.0, 4, 3, 0.5, 1}; /* c, u, r, q, l, p */
    CHECK(space_active(s, 0, v) && space_active(s, 1, v) && space_active(s, 2, v) && space_active(s, 3, v));
    CHECK(space_config(s, v, &doc, &e) == OK, "%s", e.text);
    value_print_python(&t, doc.root, NULL, 0);
    CHECK(strcmp(t.s, "{'c': {'u': 0, 'r': 4}, 'q': 3.0, 'l': 0.5, 'p': 8}") == 0, "%s", t.s);
    CHECK(!signbit(value_get(value_get(doc.root, "c"), "u")->number));
    text_free(&t);
    const double other[] = {0, none, none, 0, 1, 0};
    struct document second = {0};
    CHECK(space_config(s, other, &second, &e) == OK, "%s", e.text);
    CHECK(!space_active(s, 1, other));
    struct document kept = doc; /* a configuration outlives its space */
    space_free(s);
    value_print_json(&t, kept.root, 0);
    value_print_json(&t, second.root, 0);
    CHECK(strcmp(t.s,
                 "{\"c\": {\"u\": 0, \"r\": 4}, \"q\": 3.0, \"l\": 0.5, \"p\": 8}"
                 "{\"c\": null, \"q\": 0.0, \"l\": 1.0, \"p\": 7}") == 0,
          "%s", t.s);
    text_free(&t);
    document_free(&kept);
    document_free(&second);

    s = parse_space(
        "{'c': hp.choice('c', [None, {'u': hp.uniformint('u', -5, 5), 'r': hp.randint('r', 2, 5)}, 'x']),"
        " 'q': hp.quniform('q', 0, 4, 1), 'l': hp.loguniform('l', -30, 0), 'p': hp.pchoice('p', [(0.5, 7), (0.5, "
        "8)])}");
    if (s == NULL) return;
    static const struct {
        int i;
        double x;
    } bad[] = {
        {0, 3},      {0, -1}, {0, 0.5}, {0, (double)NAN}, {1, (double)NAN}, {1, 0.5},        {1, 6},
        {2, 5},      {2, 1},  {2, 2.5}, {3, 0.25},        {3, 5},           {3, -1},         {3, (double)INFINITY},
        {4, -1e-10}, {4, 0},  {4, 1.1}, {4, 1e-14},       {5, 2},           {5, (double)NAN}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        double w[6];
        memcpy(w, v, sizeof w);
        w[bad[i].i] = bad[i].x;
        CHECK(space_check(s, w, &e) == ERROR_USER, "%s = %g is accepted", s->params[bad[i].i].label, bad[i].x);
        CHECK(space_config(s, w, &doc, &e) == ERROR_USER && doc.root == NULL);
    }
    const double stray[] = {0, 1, none, 0, 1, 0}; /* a value where the choice leaves it out */
    CHECK(space_check(s, stray, &e) == ERROR_USER && strstr(e.text, "'u'") != NULL, "%s", e.text);
    space_free(s);
}

/* hyperopt's scope.int: the value is cut, towards 0; the draw is not. */
static void test_cuts(void) {
    struct space *s = parse_space(
        "{'b': scope.int(hp.quniform('b', 100, 450, 5)), 'u': int(hp.uniform('u', -3, 3)), 'l': pyll.scope.int(2.9),"
        " 'c': hyperopt.pyll.scope.int(hp.choice('c', [7.5, hp.loguniform('d', 0, 99), 2])), 'i': int(int(-1.5))}");
    if (s == NULL) return;
    static const struct {
        double values[4]; /* b, u, c, d */
        const char *config;
    } cases[] = {{{105, -2.9, 0, (double)NAN}, "{'b': 105, 'u': -2, 'l': 2, 'c': 7, 'i': -1}"},
                 {{450, -0.5, 1, 3.5}, "{'b': 450, 'u': 0, 'l': 2, 'c': 3, 'i': -1}"},
                 {{100, 2.5, 1, 1e20}, "{'b': 100, 'u': 2, 'l': 2, 'c': 1e+20, 'i': -1}"},
                 {{100, 3, 2, (double)NAN}, "{'b': 100, 'u': 3, 'l': 2, 'c': 2, 'i': -1}"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct document doc;
        struct error e = {0};
        struct text t = {0};
        CHECK(space_config(s, cases[i].values, &doc, &e) == OK, "%s", e.text);
        value_print_python(&t, doc.root, NULL, 0);
        CHECK(strcmp(t.s, cases[i].config) == 0, "%s", t.s);
        text_free(&t);
        document_free(&doc);
    }
    CHECK(strstr(s->text, "'b': scope.int(hp.quniform('b', 100.0, 450.0, 5.0))") != NULL, "%s", s->text);
    space_free(s);
}

/* ======== spaces of networks ======== */

/* The built-in space with another value for a key: is it refused before anything is drawn, and where? */
static void test_network_spaces(void) {
    static const struct {
        const char *key, *value, *what; /* NULL: nothing is wrong */
    } cases[] = {
        {"batch_size", "hp.quniform('x', 100, 450, 5)", NULL},
        {"batch_size", "hp.quniform('x', 0, 450, 5)", "f:1:16: 'batch_size' must be a number from 1 to 100000, not 0"},
        {"batch_size", "scope.int(hp.uniform('x', 0.5, 9))", "f:1:26: 'batch_size' must be"},
        {"conv_kernel_size", "hp.quniform('x', 2, 9, 1)",
         "f:1:22: 'conv_kernel_size' must be a number from 1 to 4, not 9"},
        {"conv_kernel_size", "hp.quniform('x', 0.5, 4.5, 1)", NULL}, /* 0 is the rounded bound, but never drawn */
        {"conv_kernel_size", "hp.uniformint('x', 1, 5)", "f:1:22: 'conv_kernel_size' must be"},
        {"conv_kernel_size", "hp.randint('x', 1, 5)", NULL},
        {"conv_kernel_size", "hp.randint('x', 5)", "f:1:22: 'conv_kernel_size' must be a number from 1 to 4, not 0"},
        {"conv_kernel_size", "hp.randint('x', 1, 6)", "not 5"},
        {"nb_conv_pool_layers", "hp.choice('x', [2, 3, 6])",
         "f:1:47: 'nb_conv_pool_layers' must be a number from 1 to 5, not 6"},
        {"nb_conv_pool_layers", "hp.pchoice('x', [(.5, 2), (.5, 6)])", "f:1:56: 'nb_conv_pool_layers' must be"},
        {"optimizer", "hp.choice('x', ['Adam', 'SGD'])", "f:1:39: 'optimizer' must be one of"},
        {"first_conv", "hp.choice('x', [None, hp.choice('y', [3, hp.uniform('z', 1, 7)])])",
         "f:1:57: 'first_conv' must be a number from 1 to 4, not 7"},
        {"fc_units_1_mult", "hp.loguniform('x', np.log(0.001), np.log(100))", NULL}, /* whatever exp(log()) rounds to */
        {"fc_units_1_mult", "hp.loguniform('x', np.log(0.0009), np.log(100))", "f:1:21: 'fc_units_1_mult' must be"},
        {"fc_units_1_mult", "hp.qloguniform('x', 0, np.log(105), 1)", "not 105"},
        {"conv_dropout_drop_proba", "hp.uniform('x', 0, 1)", "must be a number from 0 to 0.999, not 1"},
        {"lr_rate_mult", "hp.lognormal('x', 0, 5)", NULL}, /* the tails are not held against it */
        {"lr_rate_mult", "hp.normal('x', 1, 9)", NULL},
        {"lr_rate_mult", "hp.normal('x', -1, 9)", "not -1"},
        {"lr_rate_mult", "'fast'", "f:1:18: 'lr_rate_mult' must be a number from 0 to 1e+06"},
        {"use_BN", "hp.randint('x', 2)", NULL},
        {"use_BN", "hp.randint('x', 3)", "f:1:12: 'use_BN' must be True or False"},
        {"learning_rate", "hp.uniform('x', 0, 1)", "f:1:19: 'learning_rate' is not a key"},
    };
    struct error e = {0};
    struct space *seed = parse_space(space_seed), *s;
    CHECK(config_check_space(seed, "f", &e) == OK, "%s", e.text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text t = {0};
        text_add(&t, "{'%s': %s", cases[i].key, cases[i].value);
        for (int k = 0; k < seed->doc.root->n; k++) {
            if (strcmp(seed->doc.root->keys[k], cases[i].key) == 0) continue;
            text_add(&t, ",\n'%s': ", seed->doc.root->keys[k]);
            value_print_python(&t, seed->doc.root->items[k], seed, 0);
        }
        text_add(&t, "}");
        s = parse_space(t.s);
        if (s == NULL) continue;
        e.text[0] = '\0';
        const int failed = config_check_space(s, "f", &e);
        CHECK(failed == (cases[i].what != NULL ? ERROR_USER : OK), "%s: %s", cases[i].value, e.text);
        CHECK(strstr(e.text, cases[i].what != NULL ? cases[i].what : "") != NULL, "%s: %s", cases[i].value, e.text);
        space_free(s);
        text_free(&t);
    }
    space_free(seed);
    s = parse_space("hp.choice('whole', [\n {'lr_rate_mult': 1}])");
    CHECK(config_check_space(s, "f", &e) == ERROR_USER && strstr(e.text, "f:2:2: 'l2_weight") == e.text, "%s", e.text);
    space_free(s);
    s = parse_space("[]");
    CHECK(config_check_space(s, "f", &e) == ERROR_USER && strstr(e.text, "f:1:1: ") == e.text, "%s", e.text);
    space_free(s);
}

/* ======== draws ======== */

static double phi(double z) { return 0.5 * erfc(-z / sqrt(2)); }

/* The distribution function of the underlying draw, before it is rounded. */
static double law(const struct param *p, double x) {
    switch (p->dist) {
        case DIST_UNIFORM:
        case DIST_QUNIFORM:
        case DIST_UNIFORMINT: return fmin(1, fmax(0, (x - p->low) / (p->high - p->low)));
        case DIST_LOGUNIFORM:
        case DIST_QLOGUNIFORM: return x <= 0 ? 0 : fmin(1, fmax(0, (log(x) - p->low) / (p->high - p->low)));
        case DIST_NORMAL:
        case DIST_QNORMAL: return phi((x - p->mu) / p->sigma);
        case DIST_LOGNORMAL:
        case DIST_QLOGNORMAL: return x <= 0 ? 0 : phi((log(x) - p->mu) / p->sigma);
        case DIST_RANDINT: return fmin(1, fmax(0, floor(x - p->low + 1) / p->n_options));
        case DIST_CHOICE: return fmin(1, fmax(0, floor(x + 1) / p->n_options));
        case DIST_PCHOICE: {
            double sum = 0;
            for (int i = 0; i < p->n_options && i <= x; i++) sum += p->p[i];
            return sum;
        }
    }
    return (double)NAN;
}

/* Chi-square over bins: a value each for the discrete, twenty of equal mass for the others. Bins that expect fewer
 * than five draws are joined with their neighbours. */
static void check_draws(const char *text, double mean, double deviation) {
    enum { N = 40000 };
    struct space *s = parse_space(text);
    if (s == NULL) return;
    const struct param *p = &s->params[0];
    const double step = p->q > 0 ? p->q : p->dist >= DIST_RANDINT ? 1 : 0;
    struct rng rng = rng_make(11, 0, RNG_SUGGEST);
    double *x = mem_zero(N, sizeof *x), sum = 0;
    int off_grid = 0, outside = 0;
    struct error e = {0};
    for (int i = 0; i < N; i++) {
        space_draw(s, &rng, &x[i]);
        sum += x[i];
        outside += space_check(s, &x[i], &e) != OK;
        if (p->q > 0) off_grid += nearbyint(x[i] / p->q) * p->q != x[i];
    }
    CHECK(fabs(sum / N - mean) < 5 * deviation / sqrt(N), "%s: mean %g, not %g", text, sum / N, mean);
    enum { BINS = 2400 };
    int counts[BINS] = {0};
    const int bins = step > 0 ? BINS : 20;
    const double low = step > 0 ? -BINS / 4 * step : 0;
    for (int i = 0; i < N; i++) {
        const double at = step > 0 ? nearbyint((x[i] - low) / step) : floor(law(p, x[i]) * bins);
        outside += at < 0 || at > bins;
        counts[(int)fmax(0, fmin(at, bins - 1))]++;
    }
    CHECK(outside == 0 && off_grid == 0, "%s: %d, %d", text, outside, off_grid);
    double chi2 = 0, before = 0, expected = 0;
    int degrees = -1, seen = 0;
    for (int b = 0; b < bins; b++) {
        const double value = low + b * step; /* rounded from a step's half below it to a half above */
        const double upto = step > 0 ? law(p, p->q > 0 ? value + step / 2 : value) : (b + 1.0) / bins;
        expected += N * (upto - before);
        seen += counts[b];
        before = upto;
        if (expected < 5) continue;
        chi2 += (seen - expected) * (seen - expected) / expected;
        seen = 0;
        expected = 0;
        degrees++;
    }
    CHECK(seen < 20 && before > 0.999, "%s: %d draws lie beyond the bins", text, seen);
    /* Wilson and Hilferty: chi-square of `degrees` to the third of a power is nearly normal; 4 deviations. */
    const double d = degrees;
    CHECK(degrees >= 1 && (cbrt(chi2 / d) - (1 - 2 / (9 * d))) / sqrt(2 / (9 * d)) < 4, "%s: chi2 %g of %d degrees",
          text, chi2, degrees);
    mem_free(x);
    space_free(s);
}

static void test_draws(void) {
    check_draws("hp.uniform('x', -2, 5)", 1.5, 2.03);
    check_draws("hp.quniform('x', 100, 450, 5)", 275, 101.1);
    check_draws("hp.quniform('x', 0, 3, 1)", 1.5, 0.92); /* half the mass at each end */
    check_draws("hp.quniform('x', 0.501, 4.499, 1)", 2.5, 1.12);
    check_draws("hp.loguniform('x', -1.3, 1.3)", (exp(1.3) - exp(-1.3)) / 2.6, 0.96);
    check_draws("hp.qloguniform('x', 0, 4, 2)", 13.4, 14.1);
    check_draws("hp.normal('x', 3, 2)", 3, 2);
    check_draws("hp.qnormal('x', -1, 4, 0.5)", -1, 4);
    check_draws("hp.lognormal('x', 1, 0.5)", exp(1.125), 1.65);
    check_draws("hp.qlognormal('x', 1, 0.75, 1)", exp(1.28125), 3.2);
    check_draws("hp.uniformint('x', -2, 3)", 0.5, 1.5);
    check_draws("hp.randint('x', 6)", 2.5, 1.71);
    check_draws("hp.randint('x', -3, 4)", 0, 2);
    check_draws("hp.choice('x', ['a', 'b', 'c'])", 1, 0.82);
    check_draws("hp.pchoice('x', [(0.1, 'a'), (0, 'never'), (0.6, 'b'), (0.3, 'c')])", 2.1, 0.95);

    /* a child is drawn exactly where its choice took it */
    struct space *s = parse_space(whole);
    if (s == NULL) return;
    struct rng rng = rng_make(5, 0, RNG_SUGGEST), same = rng_make(5, 0, RNG_SUGGEST);
    const int deep = space_find(s, "deep"), m = space_find(s, "m"), deeper = space_find(s, "deeper");
    int drawn = 0, wrong = 0;
    for (int i = 0; i < 9000; i++) {
        double v[64], w[64];
        space_draw(s, &rng, v);
        space_draw(s, &same, w);
        wrong += memcmp(v, w, (size_t)s->n_params * sizeof *v) != 0;
        wrong += (v[m] == 0) != !isnan(v[deep]) || (v[deep] == 1) != !isnan(v[deeper]);
        drawn += !isnan(v[deeper]);
    }
    CHECK(wrong == 0 && abs(drawn - 1000) < 150, "%d, %d", wrong, drawn);
    space_free(s);
}

/* Each allocation of a parse, a configuration and its printing fails in turn: an error, no crash, no leak. */
static void test_no_memory(void) {
    long i = 1;
    for (; i < 10000; i++) {
        struct error e = {0};
        struct space *s = NULL;
        struct document doc = {0};
        struct text t = {0};
        struct rng rng = rng_make(1, 1, RNG_SUGGEST);
        double v[64];
        mem_fail_after = i;
        int failed = space_parse(&s, whole, sizeof whole - 1, "t", &e);
        if (!failed) {
            space_draw(s, &rng, v);
            failed = space_config(s, v, &doc, &e);
        }
        if (!failed) {
            value_print_json(&t, doc.root, 2);
            if (t.failed) failed = error_memory(&e, t.n, "text");
        }
        const int reached = mem_fail_after == 0;
        mem_fail_after = 0;
        CHECK(failed == (reached ? ERROR_TRIAL : OK), "allocation %ld: %d %s", i, failed, e.text);
        CHECK(!failed || strstr(e.text, "out of memory") != NULL, "%s", e.text);
        text_free(&t);
        document_free(&doc);
        space_free(s);
        if (!reached) break;
    }
    CHECK(i > 10 && i < 10000, "%ld allocations", i);
}

/* What any bytes may do: be refused, or print as text that reads back. Seeded damage to the texts above; the fuzz
 * target goes on from here. */
static void test_damage(void) {
    static const char *const texts[] = {space_seed, whole, script};
    static const char bytes[] = "()[]{}'\",:=*/-+.#\\ \n0195eExhp_\x80\xff";
    struct rng rng = rng_make(9, 0, RNG_SUGGEST);
    int accepted = 0, wrong = 0;
    for (int k = 0; k < 4500; k++) {
        const char *from = texts[k % 3];
        const size_t n = strlen(from);
        char *copy = mem_string(from);
        for (uint32_t changes = 1 + rng_below(&rng, 3); changes > 0; changes--) {
            copy[rng_below(&rng, (uint32_t)n)] = bytes[rng_below(&rng, sizeof bytes)];
        }
        struct space *s = NULL, *again = NULL;
        struct error e = {0};
        if (space_parse(&s, copy, n, "t", &e) == OK) {
            accepted++;
            wrong += space_parse(&again, s->text, strlen(s->text), "again", &e) != OK || !same_space(s, again);
        } else {
            wrong += e.kind != ERROR_USER || strncmp(e.text, "t:", 2) != 0;
        }
        space_free(s);
        space_free(again);
        mem_free(copy);
    }
    CHECK(wrong == 0 && accepted > 375 && accepted < 4125, "%d wrong, %d accepted", wrong, accepted);
}

int main(void) {
    test_expressions();
    test_strings();
    test_get();
    test_seeds();
    test_whole();
    test_errors();
    test_scripts();
    test_depth();
    test_round_trips();
    test_no_point();
    test_configs();
    test_cuts();
    test_network_spaces();
    test_draws();
    test_no_memory();
    test_damage();
    return check_done();
}
