/* space.c - the reader of hyperopt's Python notation and of JSON, and the printers.
 *
 * One recursive-descent reader over the bytes of a text: tokens are made as they are needed, expressions evaluate
 * at once to `struct value`s in the document's arena. With a space at hand, hp.NAME(...) makes a parameter; without
 * one it is an error. A parameter's parent is the innermost choice around it, which is entered into the list before
 * its options are read: so parents stand before children. Depth is limited, so hostile input cannot run out of
 * stack, and so is the number of parameters. Columns count bytes. Whatever is read prints as text that reads back as
 * the same tree: so integers keep to +-(2^63 - 1), and strings are UTF-8 without a 0. */
#include "space.h"

#include "script.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEPTH_LIMIT = 200,
    TEXT_LIMIT = 16 << 20,
    RANDINT_LIMIT = 1000000,
    RANGE_LIMIT = 10000,
    PARAM_LIMIT = 10000,
    NAMES_LIMIT = 1000
};

const char *const distribution_names[] = {"uniform",   "quniform",   "loguniform", "qloguniform", "normal", "qnormal",
                                          "lognormal", "qlognormal", "uniformint", "randint",     "choice", "pchoice"};
enum { N_DISTRIBUTIONS = sizeof distribution_names / sizeof *distribution_names };

const char space_seed[] =
    "space = {\n"
    "    'lr_rate_mult': hp.loguniform('lr_rate_mult', -0.5, 0.5),\n"
    "    'l2_weight_reg_mult': hp.loguniform('l2_weight_reg_mult', -1.3, 1.3),\n"
    "    'batch_size': hp.quniform('batch_size', 100, 450, 5),\n"
    "    'optimizer': hp.choice('optimizer', ['Adam', 'Nadam', 'RMSprop']),\n"
    "    'coarse_labels_weight': hp.uniform('coarse_labels_weight', 0.1, 0.7),\n"
    "    'conv_dropout_drop_proba': hp.uniform('conv_dropout_proba', 0.0, 0.35),\n"
    "    'fc_dropout_drop_proba': hp.uniform('fc_dropout_proba', 0.0, 0.6),\n"
    "    'use_BN': hp.choice('use_BN', [False, True]),\n"
    "    'first_conv': hp.choice('first_conv', [None, hp.choice('first_conv_size', [3, 4])]),\n"
    "    'residual': hp.choice('residual', [None, hp.quniform('residual_units', 1 - 0.499, 4 + 0.499, 1)]),\n"
    "    'conv_hiddn_units_mult': hp.loguniform('conv_hiddn_units_mult', -0.6, 0.6),\n"
    "    'nb_conv_pool_layers': hp.choice('nb_conv_pool_layers', [2, 3]),\n"
    "    'conv_pool_res_start_idx': hp.quniform('conv_pool_res_start_idx', 0, 2, 1),\n"
    "    'pooling_type': hp.choice('pooling_type', ['max', 'avg', 'all_conv', 'inception']),\n"
    "    'conv_kernel_size': hp.quniform('conv_kernel_size', 2, 4, 1),\n"
    "    'res_conv_kernel_size': hp.quniform('res_conv_kernel_size', 2, 4, 1),\n"
    "    'fc_units_1_mult': hp.loguniform('fc_units_1_mult', -0.6, 0.6),\n"
    "    'one_more_fc': hp.choice('one_more_fc', [None, hp.loguniform('fc_units_2_mult', -0.6, 0.6)]),\n"
    "    'activation': hp.choice('activation', ['relu', 'elu'])\n"
    "}\n";

/* ========================================= the reader ========================================= */

struct reader {
    const char *text, *file;
    size_t n, at;
    int line;
    size_t line_start;
    struct document *doc;
    struct space *space; /* NULL: a literal without hp.* */
    int param_room;
    int parent, option; /* of a parameter read now */
    size_t whole;       /* of a script: its bytes, where n ends with the statement that is read now, */
    size_t statement;   /* where that begins, */
    int names;          /* how many names have stood for what they were given, */
    unsigned checked;   /* and which words are known not to be the script's own (check_own) */
    int depth;
    int failed;
    struct error *e;
};

static int complain_at(struct reader *r, int line, int column, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static int complain_at(struct reader *r, int line, int column, const char *format, ...) {
    char what[400];
    va_list args;
    if (r->failed) return r->failed; /* the first mistake is the one to tell */
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    for (char *c = what; *c; c++) { /* a label may hold a line end, a message not */
        if ((unsigned char)*c < 32) *c = '?';
    }
    return r->failed = error_set(r->e, ERROR_USER, "%s:%d:%d: %s", r->file, line, column, what);
}
#define COMPLAIN(r, ...) complain_at(r, (r)->line, column_of(r), __VA_ARGS__)

static int column_of(const struct reader *r) { return (int)(r->at - r->line_start) + 1; }

static void *grab(struct reader *r, size_t bytes) {
    void *p = r->failed ? NULL : arena_alloc(&r->doc->arena, bytes);
    if (p == NULL && !r->failed) r->failed = error_memory(r->e, bytes, "a parsed text");
    return p;
}

/* The byte `ahead` of here, 0 behind the end. */
static char peek(const struct reader *r, size_t ahead) { return r->n - r->at > ahead ? r->text[r->at + ahead] : '\0'; }
static int at_end(const struct reader *r) { return r->at >= r->n; }

static void advance(struct reader *r) {
    if (at_end(r)) return;
    if (r->text[r->at++] == '\n') {
        r->line++;
        r->line_start = r->at;
    }
}

static void go_to(struct reader *r, const struct reader *place) {
    r->at = place->at;
    r->line = place->line;
    r->line_start = place->line_start;
    r->statement = place->statement;
    r->n = place->n;
}

/* From # to the end of the line, which stays. */
static void skip_comment(struct reader *r) {
    if (peek(r, 0) != '#') return;
    while (!at_end(r) && peek(r, 0) != '\n') advance(r);
}

/* White space, comments, continued lines. */
static void skip(struct reader *r) {
    while (!at_end(r)) {
        const char c = peek(r, 0);
        if (c == '#') {
            skip_comment(r);
        } else if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' ||
                   (c == '\\' && (peek(r, 1) == '\n' || peek(r, 1) == '\r'))) {
            advance(r);
        } else {
            return;
        }
    }
}

static int accept(struct reader *r, char c) {
    skip(r);
    if (r->failed || at_end(r) || peek(r, 0) != c) return 0;
    advance(r);
    return 1;
}

static int is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static int is_digit(char c) { return c >= '0' && c <= '9'; }
static int is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

/* Reads an identifier of at most room - 1 bytes, without skipping white space before it. */
static int read_word(struct reader *r, char *word, size_t room) {
    size_t n = 0;
    if (!is_letter(peek(r, 0))) return 0;
    while (is_letter(peek(r, n)) || is_digit(peek(r, n))) n++;
    if (n >= room) return COMPLAIN(r, "a name of %zu characters is too long", n), 0;
    memcpy(word, r->text + r->at, n);
    word[n] = '\0';
    r->at += n;
    return 1;
}

static struct value *value_new(struct reader *r, enum value_kind kind) {
    struct value *v = grab(r, sizeof *v);
    if (v == NULL) return NULL;
    v->kind = kind;
    v->line = r->line;
    v->column = column_of(r);
    return v;
}

static struct value *read_expression(struct reader *r);

/* ---- strings ---- */

static void add_utf8(struct text *t, uint32_t c) {
    char b[4];
    if (c < 0x80) {
        b[0] = (char)c;
        text_add_bytes(t, b, 1);
    } else if (c < 0x800) {
        b[0] = (char)(0xc0 | c >> 6);
        b[1] = (char)(0x80 | (c & 63));
        text_add_bytes(t, b, 2);
    } else if (c < 0x10000) {
        b[0] = (char)(0xe0 | c >> 12);
        b[1] = (char)(0x80 | (c >> 6 & 63));
        b[2] = (char)(0x80 | (c & 63));
        text_add_bytes(t, b, 3);
    } else {
        b[0] = (char)(0xf0 | c >> 18);
        b[1] = (char)(0x80 | (c >> 12 & 63));
        b[2] = (char)(0x80 | (c >> 6 & 63));
        b[3] = (char)(0x80 | (c & 63));
        text_add_bytes(t, b, 4);
    }
}

/* Well-formed UTF-8: no overlong form, no surrogate, nothing above U+10FFFF. */
static int is_utf8(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        const unsigned char c = (unsigned char)s[i];
        const size_t more = c < 0x80                ? 0
                            : c >= 0xc2 && c < 0xe0 ? 1
                            : (c & 0xf0) == 0xe0    ? 2
                            : (c & 0xf8) == 0xf0    ? 3
                                                    : 9;
        uint32_t code = more == 1 ? c & 31u : more == 2 ? c & 15u : c & 7u;
        if (more > 3 || more >= n - i) return 0;
        for (size_t k = 1; k <= more; k++) {
            const unsigned char d = (unsigned char)s[i + k];
            if ((d & 0xc0) != 0x80) return 0;
            code = code << 6 | (d & 63u);
        }
        if (more == 2 && (code < 0x800 || (code >= 0xd800 && code < 0xe000))) return 0;
        if (more == 3 && (code < 0x10000 || code > 0x10ffff)) return 0;
        i += more + 1;
    }
    return 1;
}

static int read_hex(struct reader *r, int digits, uint32_t *out) {
    *out = 0;
    for (int i = 0; i < digits; i++) {
        const char c = peek(r, 0);
        if (!is_hex(c)) return COMPLAIN(r, "an escape in this string needs %d hexadecimal digits", digits);
        *out = *out << 4 | (uint32_t)(is_digit(c) ? c - '0' : (c | 32) - 'a' + 10);
        advance(r);
    }
    return OK;
}

static void read_escape(struct reader *r, struct text *t) {
    static const char from[] = "ntrbfav\\'\"/0", to[] = "\n\t\r\b\f\a\v\\'\"/";
    const char c = peek(r, 0);
    const char *known = c != '\0' ? strchr(from, c) : NULL;
    uint32_t code, low;
    if (c == '\r' && peek(r, 1) == '\n') advance(r);
    if (peek(r, 0) == '\n') {
        advance(r);
    } else if (c == 'x' || c == 'u' || c == 'U') {
        advance(r);
        if (read_hex(r, c == 'x' ? 2 : c == 'u' ? 4 : 8, &code)) return;
        if (code >= 0xd800 && code < 0xdc00 && peek(r, 0) == '\\' && peek(r, 1) == 'u') { /* JSON's pair */
            advance(r);
            advance(r);
            if (read_hex(r, 4, &low)) return;
            code = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00) : 0;
        }
        if (code == 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
            COMPLAIN(r, "an escape in this string is no character");
            return;
        }
        add_utf8(t, code);
    } else if (known != NULL && c != '0') {
        text_add_bytes(t, &to[known - from], 1);
        advance(r);
    } else {
        COMPLAIN(r, "'\\%c' is no escape that is known here", c >= 32 && c < 127 ? c : '?');
    }
}

/* One quoted string, from its quote on; raw: backslashes stay. Appends to *t. */
static void read_quoted(struct reader *r, struct text *t, int raw) {
    const char quote = peek(r, 0);
    const int line = r->line, column = column_of(r);
    const int triple = peek(r, 1) == quote && peek(r, 2) == quote;
    for (int i = 0; i < (triple ? 3 : 1); i++) advance(r);
    while (!r->failed) {
        const char c = peek(r, 0);
        if (at_end(r) || (c == '\n' && !triple)) {
            complain_at(r, line, column, "this string has no end; close it with %c", quote);
        } else if (c == quote && (!triple || (peek(r, 1) == quote && peek(r, 2) == quote))) {
            for (int i = 0; i < (triple ? 3 : 1); i++) advance(r);
            return;
        } else if (c == '\0') {
            COMPLAIN(r, "a string cannot hold a 0 byte");
        } else if (c == '\\' && !raw) {
            advance(r);
            read_escape(r, t);
        } else {
            if (c == '\\') { /* raw: what follows cannot end the string */
                text_add_bytes(t, "\\", 1);
                advance(r);
                if (at_end(r)) continue;
            }
            text_add_bytes(t, r->text + r->at, 1);
            advance(r);
        }
    }
}

/* Does a string start here? With r, u, b before it, too. */
static int string_starts(const struct reader *r) {
    const char c = peek(r, 0), d = peek(r, 1);
    return c == '\'' || c == '"' || (c != '\0' && strchr("rRuU", c) != NULL && (d == '\'' || d == '"'));
}

static struct value *read_string(struct reader *r) {
    struct value *v = value_new(r, VALUE_STRING);
    struct text t = {0};
    do { /* neighbours join */
        int raw = 0;
        if (is_letter(peek(r, 0))) {
            raw = peek(r, 0) == 'r' || peek(r, 0) == 'R';
            advance(r);
        }
        read_quoted(r, &t, raw);
        skip(r);
    } while (!r->failed && string_starts(r));
    if (t.failed && !r->failed) r->failed = error_memory(r->e, t.n, "a string");
    if (!r->failed && !is_utf8(t.s != NULL ? t.s : "", t.n)) {
        complain_at(r, v->line, v->column, "this string is not UTF-8; save the file as UTF-8");
    }
    if (!r->failed) {
        v->string = arena_string(&r->doc->arena, t.s != NULL ? t.s : "", t.n);
        if (v->string == NULL) r->failed = error_memory(r->e, t.n, "a string");
    }
    text_free(&t);
    return r->failed ? NULL : v;
}

/* ---- numbers ---- */

static struct value *value_float(struct value *v, double x) {
    v->kind = VALUE_FLOAT;
    v->integer = 0;
    v->number = x;
    return v;
}

/* -2^63 becomes a float: its digits without the sign would not read as an integer. */
static struct value *value_integer(struct value *v, int64_t i) {
    if (i == INT64_MIN) return value_float(v, -0x1p63);
    v->kind = VALUE_INT;
    v->integer = i;
    v->number = (double)i;
    return v;
}

/* One beyond 64 bits stays a float, as its digits would be read as one. */
struct value *value_cut(struct value *v) {
    if (v->kind != VALUE_FLOAT) return value_integer(v, v->integer);
    const double x = trunc(v->number);
    return fabs(x) < 0x1p63 ? value_integer(v, (int64_t)x) : value_float(v, x);
}

static struct value *read_number(struct reader *r) {
    struct value *v = value_new(r, VALUE_INT);
    char digits[400];
    size_t n = 0;
    int real = 0, base = 10;
    if (v == NULL) return NULL;
    if (peek(r, 0) == '0' && peek(r, 1) != '\0' && strchr("xXoObB", peek(r, 1)) != NULL) {
        base = peek(r, 1) == 'x' || peek(r, 1) == 'X' ? 16 : peek(r, 1) == 'o' || peek(r, 1) == 'O' ? 8 : 2;
        r->at += 2;
    }
    for (;; r->at++) {
        const char c = peek(r, 0);
        if (c == '_' && (n > 0 || base != 10) && (base == 16 ? is_hex(peek(r, 1)) : is_digit(peek(r, 1)))) continue;
        const int sign =
            (c == '+' || c == '-') && n > 0 && (digits[n - 1] == 'e' || digits[n - 1] == 'E') && base == 10;
        if (!is_digit(c) && !(base == 16 && is_hex(c)) && !sign && !(base == 10 && (c == '.' || c == 'e' || c == 'E')))
            break;
        if (base == 10 && !is_digit(c)) real = 1;
        if (n + 1 >= sizeof digits) return COMPLAIN(r, "this number has too many digits"), NULL;
        digits[n++] = c;
    }
    digits[n] = '\0';
    char *end = digits;
    errno = 0;
    if (!real) {
        const long long i = n > 0 ? strtoll(digits, &end, base) : 0;
        if (n == 0 || *end != '\0' || is_letter(peek(r, 0))) {
            return complain_at(r, v->line, v->column, "this is no number"), NULL;
        }
        if (base == 10 && digits[0] == '0' && strspn(digits, "0") < n) {
            return complain_at(r, v->line, v->column, "an integer cannot begin with 0; write 0o... for octal"), NULL;
        }
        if (errno == 0) return value_integer(v, i);
        if (base != 10)
            return complain_at(r, v->line, v->column, "this number is too large; write it in decimals"), NULL;
    }
    const double x = strtod(digits, &end); /* an integer beyond 64 bits becomes a float */
    if (*end != '\0' || is_letter(peek(r, 0))) return complain_at(r, v->line, v->column, "this is no number"), NULL;
    if (isinf(x)) return complain_at(r, v->line, v->column, "this number is too large"), NULL;
    return value_float(v, x);
}

static int is_number(const struct value *v) {
    return v->kind == VALUE_INT || v->kind == VALUE_FLOAT || v->kind == VALUE_BOOL;
}

static double as_number(const struct value *v) { return v->kind == VALUE_BOOL ? (double)v->integer : v->number; }

/* i ** j for j >= 0; 0 where it leaves 64 bits. */
static int integer_power(int64_t i, int64_t j, int64_t *out) {
    *out = 1;
    for (; j > 0; j >>= 1) { /* the square that the last bit would make is not needed, so it may overflow */
        if ((j & 1) && __builtin_mul_overflow(*out, i, out)) return 0;
        if (j > 1 && __builtin_mul_overflow(i, i, &i)) return 0;
    }
    return 1;
}

/* Python's a // b and a % b of floats: the remainder has b's sign, and b * (a // b) + a % b is a up to rounding. */
static double float_divide(double x, double y, double *rest) {
    *rest = fmod(x, y);
    double whole = (x - *rest) / y;
    if (*rest != 0 && (y < 0) != (*rest < 0)) {
        *rest += y;
        whole -= 1;
    }
    const double below = floor(whole);
    return whole - below > 0.5 ? below + 1 : below;
}

/* Python's arithmetic: integers stay integers under + - * // % and ** of an exponent >= 0, unless they leave 64 bits.
 */
static struct value *arithmetic(struct reader *r, const struct value *a, const char *op, const struct value *b,
                                int line, int column) {
    if (a == NULL || b == NULL || r->failed) return NULL;
    if (!is_number(a) || !is_number(b)) return complain_at(r, line, column, "'%s' works on numbers only", op), NULL;
    struct value *v = value_new(r, VALUE_FLOAT);
    if (v == NULL) return NULL;
    v->line = a->line;
    v->column = a->column;
    const double x = as_number(a), y = as_number(b);
    const int whole = a->kind != VALUE_FLOAT && b->kind != VALUE_FLOAT;
    const int64_t i = a->integer, j = b->integer;
    int64_t out = 0;
    if (y == 0 && (op[0] == '/' || op[0] == '%'))
        return complain_at(r, line, column, "a division by zero; correct the divisor"), NULL;
    if (whole) {
        int done = 0;
        if (op[0] == '+') done = !__builtin_add_overflow(i, j, &out);
        if (op[0] == '-') done = !__builtin_sub_overflow(i, j, &out);
        if (strcmp(op, "*") == 0) done = !__builtin_mul_overflow(i, j, &out);
        if (strcmp(op, "//") == 0 || op[0] == '%') { /* i is never -2^63 */
            const int64_t rest = i % j, floor_rest = rest != 0 && (rest < 0) != (j < 0) ? rest + j : rest;
            out = op[0] == '%' ? floor_rest : (i - floor_rest) / j;
            done = 1;
        }
        if (strcmp(op, "**") == 0 && j >= 0) done = integer_power(i, j, &out);
        if (done) return value_integer(v, out);
    }
    double rest = 0;
    const double quotient = y != 0 ? float_divide(x, y, &rest) : 0;
    const double z = op[0] == '+'            ? x + y
                     : op[0] == '-'          ? x - y
                     : strcmp(op, "*") == 0  ? x * y
                     : strcmp(op, "/") == 0  ? x / y
                     : strcmp(op, "//") == 0 ? quotient
                     : op[0] == '%'          ? rest
                                             : pow(x, y);
    if (!isfinite(z)) return complain_at(r, line, column, "the result of '%s' is not a finite number", op), NULL;
    return value_float(v, z);
}

/* ---- lists and dictionaries ---- */

struct items {
    struct value **items;
    const char **keys;
    int n, room;
};

static int items_add(struct reader *r, struct items *l, const char *key, struct value *v) {
    if (v == NULL || r->failed) return 0;
    if (l->n == l->room) { /* old arrays stay behind in the arena: together they are no larger than the new one */
        const int room = l->room == 0 ? 8 : 2 * l->room;
        struct value **items = grab(r, (size_t)room * sizeof *items);
        const char **keys = grab(r, (size_t)room * sizeof *keys);
        if (items == NULL || keys == NULL) return 0;
        if (l->n > 0) {
            memcpy(items, l->items, (size_t)l->n * sizeof *items);
            memcpy(keys, l->keys, (size_t)l->n * sizeof *keys);
        }
        l->items = items;
        l->keys = keys;
        l->room = room;
    }
    l->items[l->n] = v;
    l->keys[l->n++] = key;
    return 1;
}

static struct value *items_value(struct value *v, const struct items *l) {
    if (v == NULL) return NULL;
    v->n = l->n;
    v->items = l->items;
    v->keys = v->kind == VALUE_DICT ? l->keys : NULL;
    return v;
}

static int key_compare(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted, so that a dictionary of a million keys is no quadratic affair. */
static void check_keys(struct reader *r, const struct value *v) {
    if (v == NULL || r->failed || v->n < 2) return;
    const char **sorted = mem_alloc((size_t)v->n * sizeof *sorted);
    if (sorted == NULL) {
        r->failed = error_memory(r->e, (size_t)v->n * sizeof *sorted, "a dictionary's keys");
        return;
    }
    memcpy(sorted, v->keys, (size_t)v->n * sizeof *sorted);
    qsort(sorted, (size_t)v->n, sizeof *sorted, key_compare);
    for (int i = 1; i < v->n && !r->failed; i++) {
        if (strcmp(sorted[i - 1], sorted[i]) != 0) continue;
        int last = v->n - 1;
        while (strcmp(v->keys[last], sorted[i]) != 0) last--;
        complain_at(r, v->items[last]->line, v->items[last]->column,
                    "the key '%.100s' stands twice in this dictionary; drop one", sorted[i]);
    }
    mem_free(sorted);
}

static struct value *read_list(struct reader *r, char close, enum value_kind kind) {
    struct value *v = value_new(r, kind);
    const int line = r->line, column = column_of(r);
    struct items l = {0};
    int comma = 0;
    advance(r);
    while (!r->failed && !accept(r, close)) {
        if (at_end(r)) return complain_at(r, line, column, "this bracket is never closed; add '%c'", close), NULL;
        if (l.n > 0 && !comma) return COMPLAIN(r, "a ',' or '%c' is missing here", close), NULL;
        items_add(r, &l, NULL, read_expression(r));
        comma = accept(r, ',');
    }
    if (kind == VALUE_TUPLE && l.n == 1 && !comma) return l.items[0]; /* parentheses around an expression */
    return r->failed ? NULL : items_value(v, &l);
}

static struct value *read_dict(struct reader *r) {
    struct value *v = value_new(r, VALUE_DICT);
    const int line = r->line, column = column_of(r);
    struct items l = {0};
    int comma = 0;
    advance(r);
    while (!r->failed && !accept(r, '}')) {
        if (at_end(r)) return complain_at(r, line, column, "this bracket is never closed; add '}'"), NULL;
        if (l.n > 0 && !comma) return COMPLAIN(r, "a ',' or '}' is missing here"), NULL;
        if (!string_starts(r)) return COMPLAIN(r, "a dictionary's key must be a string in quotes"), NULL;
        const struct value *key = read_string(r);
        if (!accept(r, ':')) return COMPLAIN(r, "a ':' is missing behind the key"), NULL;
        skip(r);
        items_add(r, &l, key != NULL ? key->string : NULL, read_expression(r));
        comma = accept(r, ',');
    }
    items_value(v, &l);
    check_keys(r, v);
    return r->failed ? NULL : v;
}

/* ---- names that a script has given a value ---- */

/* To the value of a statement NAME = value, which ends the text until there is a go_to. */
static void go_to_value(struct reader *r, const struct assignment *s) {
    r->at = r->statement = s->begin;
    r->line = s->line;
    r->line_start = s->line_start;
    r->n = s->end;
    while (r->at < s->value) advance(r);
    skip(r);
}

/* To the value that a name, which stands in line and column, has in the statement read now. A script is gone through
 * anew for each: not without end. */
static void go_to_name(struct reader *r, const char *name, int line, int column) {
    struct assignment given;
    struct doubt doubt = {0};
    if (++r->names > NAMES_LIMIT || (double)r->names * (double)r->whole > 1e7) {
        complain_at(r, line, column, "names stand for values more than %d times, or in too long a script",
                    r->names - 1);
        return;
    }
    const int found = r->whole > 0 ? script_given(r->text, r->whole, r->statement, name, &given, &doubt) : 0;
    if (found < 0) {
        complain_at(r, line, column, "%s", doubt.why);
    } else if (found == 0) {
        complain_at(r, line, column, "'%s' is not known here", name);
    } else {
        go_to_value(r, &given);
    }
}

/* A script may have a `log` or a `choice` of its own: a word that is called, and means something here, must not be one
 * of these. */
static void check_own(struct reader *r, const char *word, int line, int column) {
    static const char *const others[] = {"int", "float", "dict", "range", "list",
                                         "log", "exp",   "sqrt", "log10", "log2"};
    enum { OTHERS = sizeof others / sizeof *others };
    int i = 0; /* its bit in r->checked: a distribution's, or one behind those */
    while (i < N_DISTRIBUTIONS && strcmp(word, distribution_names[i]) != 0) i++;
    while (i >= N_DISTRIBUTIONS && i < N_DISTRIBUTIONS + OTHERS && strcmp(word, others[i - N_DISTRIBUTIONS]) != 0) i++;
    if (r->whole == 0 || i == N_DISTRIBUTIONS + OTHERS || (r->checked >> i & 1) != 0) return;
    r->checked |= 1u << i;
    const int own = script_own(r->text, r->whole, word);
    if (own > 0)
        complain_at(r, line, column,
                    "'%s' is the script's own, by line %d; those known here are hyperopt's, numpy's and Python's", word,
                    own);
}

/* Back from there, where the value has been read: all of it? */
static void come_back(struct reader *r, const struct reader *from) {
    skip(r);
    if (!at_end(r)) COMPLAIN(r, "this statement holds more than a value");
    if (!r->failed) go_to(r, from);
}

/* ---- hp.* ---- */

enum { MAX_ARGUMENTS = 4 };
/* The arguments of each distribution, in hyperopt's order behind the label. */
static const char *const argument_names[N_DISTRIBUTIONS][MAX_ARGUMENTS] = {
    {"low", "high"}, {"low", "high", "q"}, {"low", "high"}, {"low", "high", "q"}, {"mu", "sigma"}, {"mu", "sigma", "q"},
    {"mu", "sigma"}, {"mu", "sigma", "q"}, {"low", "high"}, {"low", "high"},      {"options"},     {"p_options"}};

int param_is_normal(const struct param *p) { return p->dist >= DIST_NORMAL && p->dist <= DIST_QLOGNORMAL; }

static void check_bounds(struct reader *r, const struct param *p, const char *name, int line, int column) {
    const int normal = param_is_normal(p);
    if (normal) {
        if (!(p->sigma > 0)) complain_at(r, line, column, "hp.%s('%.100s'): sigma must be above 0", name, p->label);
    } else if (!(p->low < p->high)) {
        complain_at(r, line, column, "hp.%s('%.100s'): low (%g) must be below high (%g)", name, p->label, p->low,
                    p->high);
    }
    if ((p->dist == DIST_QUNIFORM || p->dist == DIST_QLOGUNIFORM || p->dist == DIST_QNORMAL ||
         p->dist == DIST_QLOGNORMAL) &&
        !(p->q > 0)) {
        complain_at(r, line, column, "hp.%s('%.100s'): q must be above 0", name, p->label);
    }
    const double reach = normal ? fabs(p->mu) + 40 * p->sigma : fmax(fabs(p->low), fabs(p->high));
    const double largest = p->dist == DIST_QLOGUNIFORM  ? exp(p->high)
                           : p->dist == DIST_QLOGNORMAL ? exp(p->mu + 10 * p->sigma)
                                                        : reach;
    if (!isfinite(2 * reach) || (p->q > 0 && !isfinite(largest / p->q))) {
        complain_at(r, line, column, "hp.%s('%.100s'): these arguments overflow; take smaller ones, or a larger q",
                    name, p->label);
    }
    if (p->dist == DIST_UNIFORMINT && reach > 1e15) {
        complain_at(r, line, column, "hp.%s('%.100s'): the bounds must lie within +-1e15", name, p->label);
    }
    const int log_scale = p->dist == DIST_LOGUNIFORM || p->dist == DIST_QLOGUNIFORM;
    if (log_scale && (p->high > 700 || p->low < -700)) {
        complain_at(r, line, column, "hp.%s('%.100s'): low and high are natural logarithms, from -700 to 700", name,
                    p->label);
    }
    if ((p->dist == DIST_LOGNORMAL || p->dist == DIST_QLOGNORMAL) && fabs(p->mu) + 10 * p->sigma > 700) {
        complain_at(r, line, column, "hp.%s('%.100s'): mu and sigma are in natural logarithms; these overflow", name,
                    p->label);
    }
}

/* For messages: a label given by name may come last. */
static const char *label_of(const struct param *p) { return p->label != NULL ? p->label : ""; }

/* Puts one numeric argument into its place in *p. */
static void set_argument(struct reader *r, struct param *p, const char *name, const struct value *v) {
    if (v == NULL || r->failed) return;
    if (!is_number(v) || v->kind == VALUE_BOOL || !isfinite(v->number)) {
        complain_at(r, v->line, v->column, "the argument %s of hp.%s('%.100s') must be a finite number", name,
                    distribution_names[p->dist], label_of(p));
        return;
    }
    const double x = v->number;
    if (p->dist == DIST_RANDINT && (v->kind != VALUE_INT || fabs(x) > 1e15)) {
        complain_at(r, v->line, v->column, "the argument %s of hp.randint('%.100s') must be an integer", name,
                    label_of(p));
    }
    if (strcmp(name, "low") == 0) p->low = x;
    if (strcmp(name, "high") == 0) p->high = x;
    if (strcmp(name, "mu") == 0) p->mu = x;
    if (strcmp(name, "sigma") == 0) p->sigma = x;
    if (strcmp(name, "q") == 0) p->q = x;
}

/* range(high), range(low, high), range(low, high, step), from behind the name: integers, as options. */
static void read_range(struct reader *r, struct items *options) {
    skip(r);
    const int line = r->line, column = column_of(r);
    if (peek(r, 0) != '(') {
        COMPLAIN(r, "a '(' is missing behind range");
        return;
    }
    const struct value *v = read_list(r, ')', VALUE_LIST);
    int64_t of[3] = {0, 0, 1}; /* low, high, step */
    if (v == NULL) return;
    for (int i = 0; i < v->n && i < 3; i++) {
        if (v->items[i]->kind != VALUE_INT || fabs(v->items[i]->number) > 1e15) {
            complain_at(r, v->items[i]->line, v->items[i]->column, "range takes integers");
        }
        of[v->n == 1 ? 1 : i] = v->items[i]->integer;
    }
    const double n = of[2] != 0 ? ceil((double)(of[1] - of[0]) / (double)of[2]) : 0;
    if (v->n < 1 || v->n > 3 || !(n >= 1 && n <= RANGE_LIMIT)) {
        complain_at(r, line, column, "range takes an end, or begin, end and step, with 1 to %d values", RANGE_LIMIT);
    }
    for (int64_t i = of[0]; !r->failed && (of[2] > 0 ? i < of[1] : i > of[1]); i += of[2]) {
        struct value *one = value_new(r, VALUE_INT);
        if (one != NULL) items_add(r, options, NULL, value_integer(one, i));
    }
}

/* The options of a choice, [option, ...], or of a pchoice, [(p, option), ...]: read here rather than as a list, so
 * that parameters inside know their parent and option. A list(...) of them, a range, or a name that has them, too. */
static void read_option_list(struct reader *r, int weighted, struct items *options, struct items *weights) {
    char word[64];
    skip(r);
    const int line = r->line, column = column_of(r);
    const char open = peek(r, 0), close = open == '[' ? ']' : ')';
    int comma = 0;
    if (!string_starts(r) && read_word(r, word, sizeof word)) {
        const struct reader back = *r;
        if (peek(r, 0) == '(') check_own(r, word, line, column);
        if (strcmp(word, "range") == 0 && !weighted) {
            read_range(r, options);
        } else if (strcmp(word, "list") == 0 && accept(r, '(')) {
            if (++r->depth > DEPTH_LIMIT) COMPLAIN(r, "this nests deeper than %d levels", DEPTH_LIMIT);
            if (!r->failed) read_option_list(r, weighted, options, weights);
            r->depth--;
            if (!accept(r, ')')) COMPLAIN(r, "a ')' is missing here");
        } else {
            go_to_name(r, word, line, column);
            if (!r->failed) read_option_list(r, weighted, options, weights);
            come_back(r, &back);
        }
        return;
    }
    if (open != '[' && open != '(') {
        COMPLAIN(r, "the options must be a list: [a, b, ...]");
        return;
    }
    advance(r);
    while (!r->failed && !accept(r, close)) {
        if (at_end(r)) complain_at(r, line, column, "this bracket is never closed; add '%c'", close);
        if (options->n > 0 && !comma) COMPLAIN(r, "a ',' or '%c' is missing here", close);
        r->option = options->n;
        char inner = '\0';
        if (weighted) {
            skip(r);
            inner = peek(r, 0) == '(' ? ')' : peek(r, 0) == '[' ? ']' : '\0';
            if (inner == '\0') COMPLAIN(r, "hp.pchoice needs pairs: [(p, option), ...]");
            advance(r);
            skip(r);
            items_add(r, weights, NULL, read_expression(r));
            if (!accept(r, ',')) COMPLAIN(r, "hp.pchoice needs pairs: [(p, option), ...]");
        }
        skip(r);
        items_add(r, options, NULL, read_expression(r));
        if (weighted) {
            accept(r, ',');
            if (!accept(r, inner)) COMPLAIN(r, "hp.pchoice needs pairs: [(p, option), ...]");
        }
        comma = accept(r, ',');
    }
    if (close == ')' && options->n == 1 && !comma)
        complain_at(r, line, column, "these parentheses are no list of one; write [...]");
}

static void read_options(struct reader *r, int index) {
    const int weighted = r->space->params[index].dist == DIST_PCHOICE, parent = r->parent, option = r->option;
    struct items options = {0}, weights = {0};
    skip(r);
    const int line = r->line, column = column_of(r);
    r->parent = index;
    read_option_list(r, weighted, &options, &weights);
    r->parent = parent;
    r->option = option;
    if (r->failed) return;
    struct param *p = &r->space->params[index];
    if (options.n == 0) {
        complain_at(r, line, column, "hp.%s('%.100s') has no options; give at least one", distribution_names[p->dist],
                    label_of(p));
        return;
    }
    p->n_options = options.n;
    p->options = options.items;
    if (!weighted) return;
    double sum = 0;
    p->p = grab(r, (size_t)options.n * sizeof *p->p);
    for (int i = 0; i < options.n && !r->failed; i++) {
        const struct value *w = weights.items[i];
        if (!is_number(w) || !(as_number(w) >= 0) || !isfinite(as_number(w))) {
            complain_at(r, w->line, w->column, "a probability must be a number from 0 to 1");
            return;
        }
        p->p[i] = as_number(w);
        sum += p->p[i];
    }
    if (!r->failed && !(fabs(sum - 1) <= 1e-6)) {
        complain_at(r, line, column, "hp.pchoice('%.100s'): the probabilities sum to %.9g; they must sum to 1",
                    label_of(p), sum);
    }
}

static int param_new(struct reader *r) {
    struct space *s = r->space;
    if (s->n_params == PARAM_LIMIT) return COMPLAIN(r, "there are more than %d parameters", PARAM_LIMIT), 0;
    if (s->n_params == r->param_room) {
        const int room = r->param_room == 0 ? 32 : 2 * r->param_room;
        struct param *params = mem_grow(s->params, (size_t)room * sizeof *params);
        if (params == NULL) {
            r->failed = error_memory(r->e, (size_t)room * sizeof *params, "the parameters");
            return 0;
        }
        s->params = params;
        r->param_room = room;
    }
    struct param *p = &s->params[s->n_params];
    memset(p, 0, sizeof *p);
    p->parent = r->parent;
    p->option = r->parent >= 0 ? r->option : 0;
    return s->n_params++;
}

/* hp.NAME( ... ), from behind the name. */
static struct value *read_param(struct reader *r, enum distribution dist, int line, int column) {
    const char *name = distribution_names[dist];
    if (r->space == NULL)
        return complain_at(r, line, column, "hp.%s: a configuration has values, not distributions", name), NULL;
    const int index = param_new(r);
    const struct value *given[MAX_ARGUMENTS] = {NULL};
    int position = -1, seen_options = 0, by_name = 0, comma = 1; /* position -1: the label */
    if (r->failed) return NULL;
    r->space->params[index].dist = dist;
    if (!accept(r, '(')) return COMPLAIN(r, "a '(' is missing behind hp.%s", name), NULL;
    const char *const *names = argument_names[dist];
    while (!r->failed && !accept(r, ')')) {
        if (at_end(r)) return complain_at(r, line, column, "the '(' of this hp.%s is never closed", name), NULL;
        if (!comma) return COMPLAIN(r, "a ',' or ')' is missing here"), NULL;
        int which = position++, named = 0;
        char word[64];
        const struct reader before = *r;
        if (!string_starts(r) && read_word(r, word, sizeof word)) { /* NAME = ..., or else an expression */
            skip(r);
            if (peek(r, 0) == '=') {
                advance(r);
                skip(r);
                by_name = named = 1;
                which = strcmp(word, "label") == 0 ? -1 : 0;
                if (which == 0 && dist == DIST_RANDINT && strcmp(word, "upper") == 0) strcpy(word, "low");
                while (which >= 0 && which < MAX_ARGUMENTS && names[which] != NULL && strcmp(names[which], word) != 0)
                    which++;
                if (which >= 0 && (which == MAX_ARGUMENTS || names[which] == NULL)) {
                    return complain_at(r, before.line, column_of(&before), "hp.%s has no argument '%s'", name, word),
                           NULL;
                }
            } else {
                go_to(r, &before);
            }
        }
        if (by_name && !named)
            return COMPLAIN(r, "hp.%s: an argument without a name behind one with a name", name), NULL;
        struct param *p = &r->space->params[index];
        if (which < 0) {
            if (!string_starts(r) || p->label != NULL)
                return COMPLAIN(r, "the first argument of hp.%s is its label, a string", name), NULL;
            const struct value *label = read_string(r);
            if (label != NULL) p->label = label->string;
        } else if (which >= MAX_ARGUMENTS || names[which] == NULL) {
            return COMPLAIN(r, "hp.%s has too many arguments", name), NULL;
        } else if (dist == DIST_CHOICE || dist == DIST_PCHOICE) {
            if (seen_options++) return COMPLAIN(r, "hp.%s has its options twice", name), NULL;
            read_options(r, index);
        } else {
            if (given[which] != NULL) return COMPLAIN(r, "hp.%s has the argument %s twice", name, names[which]), NULL;
            given[which] = read_expression(r);
            set_argument(r, &r->space->params[index], names[which], given[which]);
        }
        comma = accept(r, ',');
    }
    if (r->failed) return NULL;
    struct param *p = &r->space->params[index]; /* nested parameters may have moved the array */
    if (p->label == NULL) return complain_at(r, line, column, "hp.%s needs a label", name), NULL;
    for (int i = 0; i < r->space->n_params; i++) {
        const struct param *other = &r->space->params[i];
        if (i != index && other->label != NULL && strcmp(other->label, p->label) == 0) {
            return complain_at(r, line, column, "the label '%.100s' is used twice; give each hp.* its own", p->label),
                   NULL;
        }
    }
    if (dist == DIST_CHOICE || dist == DIST_PCHOICE) {
        if (!seen_options)
            return complain_at(r, line, column, "hp.%s('%.100s') needs a list of options", name, p->label), NULL;
    } else {
        if (dist == DIST_RANDINT && given[0] != NULL && given[1] == NULL) { /* randint(label, upper) */
            p->high = p->low;
            p->low = 0;
            given[1] = given[0];
        }
        for (int i = 0; i < MAX_ARGUMENTS && names[i] != NULL; i++) {
            if (given[i] == NULL)
                return complain_at(r, line, column, "hp.%s('%.100s') needs the argument %s", name, p->label, names[i]),
                       NULL;
        }
        check_bounds(r, p, name, line, column);
        if (dist == DIST_UNIFORMINT) p->q = 1;
        if (dist == DIST_RANDINT && !r->failed) {
            if (p->high - p->low > RANDINT_LIMIT) {
                return complain_at(r, line, column, "hp.randint('%.100s'): at most %d values; take hp.uniformint",
                                   p->label, RANDINT_LIMIT),
                       NULL;
            }
            p->n_options = (int)(p->high - p->low);
        }
    }
    struct value *v = value_new(r, VALUE_PARAM);
    if (v == NULL) return NULL;
    v->integer = index;
    v->line = line;
    v->column = column;
    return v;
}

/* ---- names, expressions ---- */

/* A name that a script has given a value. */
static struct value *read_given(struct reader *r, const char *name, int line, int column) {
    const struct reader back = *r;
    go_to_name(r, name, line, column);
    struct value *v = r->failed ? NULL : read_expression(r);
    come_back(r, &back);
    return r->failed ? NULL : v;
}

static struct value *read_function(struct reader *r, const char *name, int bare, int line, int column) {
    double (*const functions[])(double) = {log, exp, sqrt, log10, log2};
    static const char *const names[] = {"log", "exp", "sqrt", "log10", "log2"};
    size_t i = 0;
    while (i < sizeof names / sizeof *names && strcmp(names[i], name) != 0) i++;
    if (i == sizeof names / sizeof *names && bare) return read_given(r, name, line, column);
    if (i == sizeof names / sizeof *names) return complain_at(r, line, column, "'%s' is not known here", name), NULL;
    if (!accept(r, '(')) return COMPLAIN(r, "a '(' is missing behind %s", name), NULL;
    skip(r);
    const struct value *x = read_expression(r);
    if (r->failed) return NULL;
    if (!accept(r, ')')) return COMPLAIN(r, "a ')' is missing here"), NULL;
    if (!is_number(x)) return complain_at(r, line, column, "%s works on a number", name), NULL;
    const double y = functions[i](as_number(x));
    if (!isfinite(y)) return complain_at(r, line, column, "%s(%g) is not a finite number", name, as_number(x)), NULL;
    struct value *v = value_new(r, VALUE_FLOAT);
    return v != NULL ? value_float(v, y) : NULL;
}

static struct value *read_call_dict(struct reader *r) {
    struct value *v = value_new(r, VALUE_DICT);
    struct items l = {0};
    int comma = 1;
    if (!accept(r, '(')) return COMPLAIN(r, "a '(' is missing behind dict"), NULL;
    while (!r->failed && !accept(r, ')')) {
        char word[64];
        skip(r);
        if (!comma || !read_word(r, word, sizeof word) || !accept(r, '='))
            return COMPLAIN(r, "dict(...) takes name=value, ..."), NULL;
        const char *key = arena_string(&r->doc->arena, word, strlen(word));
        if (key == NULL) return r->failed = error_memory(r->e, strlen(word), "a key"), NULL;
        skip(r);
        items_add(r, &l, key, read_expression(r));
        comma = accept(r, ',');
    }
    items_value(v, &l);
    check_keys(r, v);
    return r->failed ? NULL : v;
}

/* float('inf'), float('nan'): how Python writes what JSON calls Infinity and NaN. */
static struct value *read_call_float(struct reader *r, int line, int column) {
    static const struct {
        const char *name;
        double x;
    } known[] = {{"inf", INFINITY}, {"-inf", -INFINITY}, {"nan", NAN}};
    struct value *v = value_new(r, VALUE_FLOAT);
    if (!accept(r, '(')) return COMPLAIN(r, "a '(' is missing behind float"), NULL;
    skip(r);
    const struct value *s = string_starts(r) ? read_string(r) : NULL;
    for (size_t i = 0; s != NULL && i < sizeof known / sizeof *known; i++) {
        if (strcmp(s->string, known[i].name) != 0) continue;
        if (!accept(r, ')')) return COMPLAIN(r, "a ')' is missing here"), NULL;
        return value_float(v, known[i].x);
    }
    return complain_at(r, line, column, "float takes 'inf', '-inf' or 'nan' here; write other numbers as they are"),
           NULL;
}

/* Whatever is drawn, is *v a number that int() takes? Else tells what is none. */
static int check_cut(struct reader *r, const struct value *v) {
    if (v->kind == VALUE_CUT || (is_number(v) && isfinite(v->number))) return OK;
    if (v->kind != VALUE_PARAM) {
        return complain_at(r, v->line, v->column, "int takes a number, or an hp.* all of whose values are numbers");
    }
    const struct param *p = &r->space->params[v->integer]; /* one without options draws numbers */
    for (int i = 0; p->options != NULL && i < p->n_options; i++) {
        if (check_cut(r, p->options[i])) return r->failed;
    }
    return OK;
}

/* int(...), which hyperopt calls scope.int: a number at once, a parameter when its value is known. The draw itself
 * stays as it is, for TPE and the log, as hyperopt has it. */
static struct value *read_call_int(struct reader *r, int line, int column) {
    if (!accept(r, '(')) return COMPLAIN(r, "a '(' is missing behind int"), NULL;
    skip(r);
    struct value *x = read_expression(r);
    if (r->failed) return NULL;
    if (!accept(r, ')')) return COMPLAIN(r, "a ')' is missing here"), NULL;
    if (check_cut(r, x)) return NULL;
    if (x->kind == VALUE_CUT) return x;
    if (x->kind != VALUE_PARAM) return value_cut(x);
    struct value *v = value_new(r, VALUE_CUT);
    struct items l = {0};
    if (!items_add(r, &l, NULL, x)) return NULL;
    v->line = line;
    v->column = column;
    return items_value(v, &l);
}

static struct value *read_name(struct reader *r) {
    static const struct {
        const char *name;
        enum value_kind kind;
        double x;
    } constants[] = {{"None", VALUE_NONE, 0},
                     {"null", VALUE_NONE, 0},
                     {"True", VALUE_BOOL, 1},
                     {"true", VALUE_BOOL, 1},
                     {"False", VALUE_BOOL, 0},
                     {"false", VALUE_BOOL, 0},
                     {"Infinity", VALUE_FLOAT, INFINITY},
                     {"NaN", VALUE_FLOAT, NAN},
                     {"pi", VALUE_FLOAT, 3.141592653589793},
                     {"e", VALUE_FLOAT, 2.718281828459045},
                     {"inf", VALUE_FLOAT, INFINITY},
                     {"nan", VALUE_FLOAT, NAN}};
    enum { BARE = 8 }; /* so many stand alone, the others behind np. or math. */
    const int line = r->line, column = column_of(r);
    char word[64], module[64] = "";
    struct value *v = value_new(r, VALUE_NONE);
    if (v == NULL || !read_word(r, word, sizeof word)) return NULL;
    while (peek(r, 0) == '.') { /* hp.x, np.x, hyperopt.hp.x */
        memcpy(module, word, sizeof module);
        advance(r);
        if (!read_word(r, word, sizeof word)) return COMPLAIN(r, "a name is missing behind the '.'"), NULL;
    }
    const int bare = module[0] == '\0';
    if (bare && peek(r, 0) == '(') check_own(r, word, line, column);
    if ((bare || strcmp(module, "scope") == 0) && strcmp(word, "int") == 0) return read_call_int(r, line, column);
    const int maths = strcmp(module, "np") == 0 || strcmp(module, "numpy") == 0 || strcmp(module, "math") == 0;
    if (module[0] == '\0' || strcmp(module, "hp") == 0) {
        for (int d = 0; d < N_DISTRIBUTIONS; d++) {
            if (strcmp(word, distribution_names[d]) == 0) return read_param(r, (enum distribution)d, line, column);
        }
        if (module[0] != '\0')
            return complain_at(r, line, column,
                               "hp.%s is no distribution; there are uniform, quniform, loguniform, qloguniform, "
                               "normal, qnormal, lognormal, qlognormal, uniformint, randint, choice, pchoice",
                               word),
                   NULL;
        if (strcmp(word, "dict") == 0) return read_call_dict(r);
        if (strcmp(word, "float") == 0) return read_call_float(r, line, column);
    } else if (!maths) {
        return complain_at(r, line, column, "'%s.%s' is not known here%s", module, word,
                           strcmp(module, "scope") == 0 ? "; of scope there is int" : ""),
               NULL;
    }
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (strcmp(word, constants[i].name) != 0 || (i < BARE) == (maths != 0)) continue;
        v->kind = constants[i].kind;
        v->number = constants[i].x;
        if (v->kind == VALUE_BOOL) v->integer = constants[i].x != 0;
        return v;
    }
    return read_function(r, word, bare, line, column);
}

static struct value *read_atom(struct reader *r) {
    skip(r);
    const char c = peek(r, 0);
    if (string_starts(r)) return read_string(r);
    if (is_digit(c) || (c == '.' && is_digit(peek(r, 1)))) return read_number(r);
    if (c == '[') return read_list(r, ']', VALUE_LIST);
    if (c == '(') return read_list(r, ')', VALUE_TUPLE);
    if (c == '{') return read_dict(r);
    if (is_letter(c)) return read_name(r);
    if (at_end(r)) return COMPLAIN(r, "the text ends where a value is expected"), NULL;
    if (c > 32 && c < 127) return COMPLAIN(r, "'%c' where a value is expected", c), NULL;
    return COMPLAIN(r, "byte 0x%02x where a value is expected", (unsigned)(unsigned char)c), NULL;
}

static struct value *read_unary(struct reader *r);

/* atom ** unary: binds tighter than a sign on its left, and to the right. */
static struct value *read_power(struct reader *r) {
    struct value *a = read_atom(r);
    skip(r);
    if (!r->failed && peek(r, 0) == '*' && peek(r, 1) == '*') {
        const int line = r->line, column = column_of(r);
        r->at += 2;
        if (++r->depth > DEPTH_LIMIT) return COMPLAIN(r, "this nests deeper than %d levels", DEPTH_LIMIT), NULL;
        const struct value *b = read_unary(r);
        r->depth--;
        return arithmetic(r, a, "**", b, line, column);
    }
    return a;
}

/* Any signs, then a power. A loop: "-1" must not need more depth than the 1 - 2 that it was printed for. */
static struct value *read_unary(struct reader *r) {
    int signs = 0, minus = 0;
    skip(r);
    const int line = r->line, column = column_of(r);
    for (char c = peek(r, 0); c == '-' || c == '+'; c = peek(r, 0)) {
        signs = 1;
        minus ^= c == '-';
        advance(r);
        skip(r);
    }
    struct value *x = read_power(r);
    if (r->failed || !signs) return x;
    if (!is_number(x)) return complain_at(r, line, column, "a sign stands before numbers only"), NULL;
    struct value *v = value_new(r, VALUE_INT);
    if (v == NULL) return NULL;
    v->line = line;
    v->column = column;
    if (x->kind == VALUE_FLOAT) return value_float(v, minus ? -x->number : x->number); /* not 0 - x: -0.0 */
    return value_integer(v, minus ? -x->integer : x->integer);
}

static struct value *read_product(struct reader *r) {
    struct value *a = read_unary(r);
    for (skip(r); !r->failed; skip(r)) {
        const int line = r->line, column = column_of(r);
        const char c = peek(r, 0);
        const char *op = c == '*' ? "*" : c == '%' ? "%" : c == '/' ? (peek(r, 1) == '/' ? "//" : "/") : NULL;
        if (op == NULL) break;
        r->at += strlen(op);
        a = arithmetic(r, a, op, read_unary(r), line, column);
    }
    return a;
}

static struct value *read_expression(struct reader *r) {
    if (++r->depth > DEPTH_LIMIT) return COMPLAIN(r, "this nests deeper than %d levels", DEPTH_LIMIT), NULL;
    struct value *a = read_product(r);
    for (skip(r); !r->failed; skip(r)) {
        const int line = r->line, column = column_of(r);
        const char *op = peek(r, 0) == '+' ? "+" : peek(r, 0) == '-' ? "-" : NULL;
        if (op == NULL) break;
        advance(r);
        a = arithmetic(r, a, op, read_product(r), line, column);
    }
    r->depth--;
    return r->failed ? NULL : a;
}

/* Imports, and NAME = before the value. */
static void skip_preamble(struct reader *r) {
    for (skip(r); !r->failed; skip(r)) {
        const struct reader before = *r;
        char word[64];
        if (string_starts(r) || !is_letter(peek(r, 0)) || !read_word(r, word, sizeof word)) return;
        if (strcmp(word, "import") == 0 || strcmp(word, "from") == 0) {
            int brackets = 0; /* from x import (a, b) may go over lines; a comment's brackets count for nothing */
            while (!at_end(r)) {
                skip_comment(r);
                if (brackets <= 0 && (peek(r, 0) == '\n' || peek(r, 0) == ';')) break;
                brackets += (peek(r, 0) == '(') - (peek(r, 0) == ')');
                advance(r);
            }
            accept(r, ';');
            continue;
        }
        skip(r);
        if (peek(r, 0) == '=' && peek(r, 1) != '=') {
            advance(r);
            return;
        }
        go_to(r, &before);
        return;
    }
}

/* Goes to the value that is the space of a script, and returns 1; 0 where there is none. */
static int find_space(struct reader *r) {
    struct assignment found;
    struct doubt doubt = {0};
    const int which = script_space(r->text, r->n, &found, &doubt);
    if (which < 0) complain_at(r, doubt.line, doubt.column, "%s", doubt.why);
    if (which <= 0) return 0;
    r->whole = r->n;
    go_to_value(r, &found);
    return 1;
}

static int read_text(struct reader *r) {
    if (r->n >= 3 && memcmp(r->text, "\xef\xbb\xbf", 3) == 0) r->at = r->line_start = 3; /* a byte order mark */
    if (r->space == NULL || !find_space(r)) skip_preamble(r);
    r->doc->root = read_expression(r);
    skip(r);
    if (accept(r, ';')) skip(r);
    if (!r->failed && !at_end(r)) COMPLAIN(r, "there is more text behind the value; a file holds one");
    return r->failed;
}

int value_parse(struct document *doc, const char *text, size_t n, const char *file, struct error *e) {
    struct reader r = {.text = text, .n = n, .file = file, .line = 1, .doc = doc, .parent = -1, .e = e};
    memset(doc, 0, sizeof *doc);
    if (n > TEXT_LIMIT * 4u) return error_set(e, ERROR_USER, "%s: is larger than %d bytes", file, TEXT_LIMIT * 4);
    if (read_text(&r)) {
        document_free(doc);
        return r.failed;
    }
    return OK;
}

void document_free(struct document *doc) {
    arena_free(&doc->arena);
    doc->root = NULL;
}

int space_parse(struct space **out, const char *text, size_t n, const char *file, struct error *e) {
    struct space *s = mem_zero(1, sizeof *s);
    struct text normal = {0};
    *out = NULL;
    if (s == NULL) return error_memory(e, sizeof *s, "a space");
    struct reader r = {.text = text, .n = n, .file = file, .line = 1, .doc = &s->doc, .space = s, .parent = -1, .e = e};
    if (n > TEXT_LIMIT) r.failed = error_set(e, ERROR_USER, "%s: is larger than %d bytes", file, TEXT_LIMIT);
    if (!r.failed) read_text(&r);
    if (!r.failed) {
        value_print_python(&normal, s->doc.root, s, 4);
        s->text = normal.s;
        if (normal.failed) r.failed = error_memory(e, normal.n, "a space's text");
    }
    if (r.failed) {
        if (s->text == NULL) text_free(&normal);
        space_free(s);
        return r.failed;
    }
    *out = s;
    return OK;
}

int space_read(struct space **out, const char *path, struct error *e) {
    char *text;
    size_t n;
    *out = NULL;
    int failed = file_read(path, TEXT_LIMIT, &text, &n, e);
    if (failed) return failed;
    failed = space_parse(out, text, n, path, e);
    mem_free(text);
    return failed;
}

void space_free(struct space *s) {
    if (s == NULL) return;
    document_free(&s->doc);
    mem_free(s->params);
    mem_free(s->text);
    mem_free(s);
}

const struct value *value_get(const struct value *dict, const char *key) {
    if (dict == NULL || dict->kind != VALUE_DICT) return NULL;
    for (int i = 0; i < dict->n; i++) {
        if (strcmp(dict->keys[i], key) == 0) return dict->items[i];
    }
    return NULL;
}

/* ========================================== printing ========================================== */

struct printer {
    struct text *t;
    const struct space *space;
    int python, indent;
};

static void print_value(const struct printer *p, const struct value *v, int level);

/* A new line at `level`, or nothing (`flat` then) when all stands on one line. */
static void new_line(const struct printer *p, int level, const char *flat) {
    if (p->indent == 0) {
        text_add(p->t, "%s", flat);
    } else {
        text_add(p->t, "\n%*s", level * p->indent, "");
    }
}

static void print_string(const struct printer *p, const char *s) {
    if (!p->python) {
        text_add_json_string(p->t, s);
        return;
    }
    text_add_bytes(p->t, "'", 1);
    for (; *s; s++) {
        const unsigned char c = (unsigned char)*s;
        if (c == '\'' || c == '\\') {
            text_add(p->t, "\\%c", c);
        } else if (c == '\n') {
            text_add(p->t, "\\n");
        } else if (c < 32 || c == 127) {
            text_add(p->t, "\\x%02x", c);
        } else {
            text_add_bytes(p->t, s, 1);
        }
    }
    text_add_bytes(p->t, "'", 1);
}

static void print_float(const struct printer *p, double x) {
    if (p->python && !isfinite(x)) {
        text_add(p->t, "float('%s')", isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
    } else {
        text_add_double(p->t, x);
    }
}

static void print_param(const struct printer *p, const struct param *q, int level) {
    const struct printer flat = {p->t, p->space, 1, 0};
    text_add(p->t, "hp.%s(", distribution_names[q->dist]);
    print_string(&flat, q->label);
    if (q->dist == DIST_CHOICE || q->dist == DIST_PCHOICE) {
        text_add(p->t, ", [");
        for (int i = 0; i < q->n_options; i++) {
            if (i > 0) text_add(p->t, ", ");
            if (q->p != NULL) {
                text_add(p->t, "(");
                text_add_double(p->t, q->p[i]);
                text_add(p->t, ", ");
            }
            print_value(&flat, q->options[i], level + 1);
            if (q->p != NULL) text_add(p->t, ")");
        }
        text_add(p->t, "])");
        return;
    }
    const int normal = param_is_normal(q);
    const double arguments[] = {normal ? q->mu : q->low, normal ? q->sigma : q->high};
    for (int i = 0; i < 2; i++) {
        if (q->dist == DIST_RANDINT) {
            text_add(p->t, ", %.0f", arguments[i]);
        } else {
            text_add(p->t, ", ");
            text_add_double(p->t, arguments[i]);
        }
    }
    if (q->q > 0 && q->dist != DIST_UNIFORMINT) {
        text_add(p->t, ", ");
        text_add_double(p->t, q->q);
    }
    text_add(p->t, ")");
}

static void print_value(const struct printer *p, const struct value *v, int level) {
    struct text *t = p->t;
    switch (v->kind) {
        case VALUE_NONE: text_add(t, p->python ? "None" : "null"); break;
        case VALUE_BOOL:
            text_add(t, "%s", v->integer ? (p->python ? "True" : "true") : (p->python ? "False" : "false"));
            break;
        case VALUE_INT: text_add(t, "%lld", (long long)v->integer); break;
        case VALUE_FLOAT: print_float(p, v->number); break;
        case VALUE_STRING: print_string(p, v->string); break;
        case VALUE_LIST:
        case VALUE_TUPLE: {
            const int tuple = p->python && v->kind == VALUE_TUPLE;
            text_add(t, tuple ? "(" : "[");
            for (int i = 0; i < v->n; i++) {
                if (i > 0) text_add(t, ", ");
                print_value(p, v->items[i], level + 1);
            }
            text_add(t, tuple ? (v->n == 1 ? ",)" : ")") : "]");
            break;
        }
        case VALUE_DICT:
            text_add(t, "{");
            for (int i = 0; i < v->n; i++) {
                if (i > 0) text_add(t, ",");
                new_line(p, level + 1, i > 0 ? " " : "");
                print_string(p, v->keys[i]);
                text_add(t, ": ");
                print_value(p, v->items[i], level + 1);
            }
            if (v->n > 0) new_line(p, level, "");
            text_add(t, "}");
            break;
        case VALUE_PARAM:
            if (p->space != NULL) print_param(p, &p->space->params[v->integer], level);
            break;
        case VALUE_CUT:
            text_add(t, "scope.int(");
            print_value(p, v->items[0], level);
            text_add(t, ")");
            break;
    }
}

void value_print_json(struct text *t, const struct value *v, int indent) {
    const struct printer p = {t, NULL, 0, indent};
    print_value(&p, v, 0);
}

void value_print_python(struct text *t, const struct value *v, const struct space *space, int indent) {
    const struct printer p = {t, space, 1, indent};
    print_value(&p, v, 0);
}
