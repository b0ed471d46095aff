/* script.c - the statements of a Python script.
 *
 * People have their space inside the script that minimises over it, among imports, functions and prints. What tells
 * where it is, and whether something else changes it, needs no Python, only its tokens: words, operators, brackets,
 * ends of lines. What a statement holds is then read by space.c, which asks here whether a name can have another value
 * than the one that it found. */
#include "script.h"

#include <string.h>

/* ---- tokens ---- */

/* A word or number, an operator, or the end of a statement ("\n" or ";" outside brackets). Of strings and comments
 * there are none. */
struct token {
    size_t at, length;
    int depth; /* of brackets around it; a bracket has that of what it is around */
    int inner; /* of brackets open behind it; below 0 where one closed nothing */
};

static int is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (unsigned char)c >= 0x80;
}

/* Behind the string whose quote stands at `at`. One without an end ends with its line. */
static size_t skip_string(const char *text, size_t n, size_t at) {
    const char quote = text[at];
    const size_t quotes = n - at >= 3 && text[at + 1] == quote && text[at + 2] == quote ? 3 : 1;
    for (at += quotes; at < n; at++) {
        if (text[at] == '\\') {
            at += n - at >= 3 && text[at + 1] == '\r' ? 2 : 1;
        } else if (text[at] == '\n' && quotes == 1) {
            return at;
        } else if (text[at] == quote &&
                   (quotes == 1 || (n - at >= 3 && text[at + 1] == quote && text[at + 2] == quote))) {
            return at + quotes;
        }
    }
    return n;
}

static size_t operator_length(const char *text, size_t n, size_t at) {
    static const char *const operators[] = {
        "**=", "//=", "<<=", ">>=", "==", "!=", "<=", ">=", ":=", "+=", "-=", "*=", "/=", "%=", "|=", "&=", "^=", "@="};
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        const size_t length = strlen(operators[i]);
        if (n - at >= length && memcmp(text + at, operators[i], length) == 0) return length;
    }
    return 1;
}

/* The token behind *t. Returns 0 where there is none before n. */
static int next_token(const char *text, size_t n, struct token *t) {
    size_t at = t->at + t->length;
    t->depth = t->inner;
    while (at < n) {
        const char c = text[at];
        if (c == '#') {
            while (at < n && text[at] != '\n') at++;
        } else if (c == '\'' || c == '"') {
            at = skip_string(text, n, at);
        } else if (c == '\\') { /* the next line goes on */
            at += n - at >= 3 && text[at + 1] == '\r' ? 3 : 2;
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || (c == '\n' && t->depth > 0)) {
            at++;
        } else {
            break;
        }
    }
    if (at >= n) return 0;
    t->at = at;
    t->length = operator_length(text, n, at);
    if (is_name(text[at])) {
        while (t->length < n - at && is_name(text[at + t->length])) t->length++;
    }
    if (strchr("([{", text[at]) != NULL && text[at] != '\0') t->inner++;
    if (strchr(")]}", text[at]) != NULL && text[at] != '\0') t->depth = --t->inner;
    return 1;
}

static int is(const char *text, const struct token *t, const char *word) {
    return strlen(word) == t->length && memcmp(text + t->at, word, t->length) == 0;
}

static int is_one(const char *text, const struct token *t, const char *const *words, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (is(text, t, words[i])) return 1;
    }
    return 0;
}
#define IS_ONE(text, t, words) is_one(text, t, words, sizeof(words) / sizeof *(words))

static int ends_statement(const char *text, const struct token *t) {
    return t->depth <= 0 && (text[t->at] == '\n' || text[t->at] == ';');
}

/* ---- statements ---- */

int script_next(const char *text, size_t n, struct statement *s) {
    const struct statement last = *s;
    const int marked = last.end == 0 && n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0; /* a byte order mark */
    struct token t = {.at = marked ? 3 : last.end};
    int found = next_token(text, n, &t);
    while (found && ends_statement(text, &t)) found = next_token(text, n, &t);
    if (!found) return 0;
    *s = (struct statement){.begin = t.at,
                            .line = last.line > 0 ? last.line : 1,
                            .line_start = marked ? 3 : last.line_start,
                            .functions = last.functions};
    for (size_t i = last.begin; i < t.at; i++) {
        if (text[i] == '\n') s->line++, s->line_start = i + 1;
    }

    memcpy(s->opened, last.opened, sizeof s->opened);
    memcpy(s->indents, last.indents, sizeof s->indents);
    if (last.opens_function && s->functions < FUNCTIONS_LIMIT) {
        s->opened[s->functions] = last.begin;
        s->indents[s->functions++] = last.begin - last.line_start;
    }
    while (s->functions > 0 && t.at - s->line_start <= s->indents[s->functions - 1]) s->functions--;
    s->opens_function = is(text, &t, "def") || is(text, &t, "async") || is(text, &t, "class");
    s->imports = is(text, &t, "import") || is(text, &t, "from");
    s->global = is(text, &t, "global");
    struct token equals = t;
    if (is_name(text[t.at]) && next_token(text, n, &equals) && is(text, &equals, "=")) {
        s->name = t.length;
        s->value = equals.at + equals.length;
    }

    do {
        if (t.inner < 0) s->closes_nothing = 1;
        if (is(text, &t, "hp") && n - t.at > 2 && text[t.at + 2] == '.') s->draws = 1;
        s->end = t.at + t.length;
        found = next_token(text, n, &t);
    } while (found && !ends_statement(text, &t));
    if (!found) t.at = n;
    s->end = t.at;
    return 1;
}

int script_mentions(const char *text, const struct statement *s, const char *name) {
    struct token t = {.at = s->begin};
    for (int attribute = 0; next_token(text, s->end, &t); attribute = is(text, &t, ".")) {
        if (!attribute && is(text, &t, name)) return 1;
    }
    return 0;
}

/* What is called of a name, behind its subscripts, and changes it. */
static int calls_change(const char *text, size_t end, struct token t) {
    static const char *const changes[] = {"append", "extend", "insert",  "remove", "pop",       "popitem",
                                          "update", "clear",  "reverse", "sort",   "setdefault"};
    int more = next_token(text, end, &t);
    while (more && is(text, &t, "[")) {
        const int depth = t.depth;
        do more = next_token(text, end, &t);
        while (more && !(is(text, &t, "]") && t.depth == depth));
        if (more) more = next_token(text, end, &t);
    }
    return more && is(text, &t, ".") && next_token(text, end, &t) && IS_ONE(text, &t, changes);
}

int script_writes(const char *text, const struct statement *s, const char *name) {
    static const char *const compares[] = {"==", "!=", "<=", ">=", ":="};
    static const char *const binds[] = {"del", "global", "nonlocal", "import", "from"};
    static const char *const names_next[] = {"as", "def", "class"};
    struct token t = {.at = s->begin}, first, after;
    size_t equals = s->begin; /* the last assignment's */
    int attribute = 0, as = 0, before_in;
    while (next_token(text, s->end, &t)) {
        if (t.depth == 0 && text[t.at + t.length - 1] == '=' && !IS_ONE(text, &t, compares)) equals = t.at;
    }
    t = (struct token){.at = s->begin};
    if (!next_token(text, s->end, &t)) return 0;
    first = t;
    before_in = is(text, &first, "for") || is(text, &first, "async");
    do {
        if (!attribute && is(text, &t, name)) {
            after = t;
            const int more = next_token(text, s->end, &after);
            if ((t.depth == 0 && t.at < equals) || as || before_in || IS_ONE(text, &first, binds) ||
                calls_change(text, s->end, t))
                return 1;
            if (more && (is(text, &after, ":=") || (is(text, &after, ":") && t.at == s->begin))) return 1;
        }
        attribute = is(text, &t, ".");
        as = IS_ONE(text, &t, names_next);
        before_in = before_in && !is(text, &t, "in");
    } while (next_token(text, s->end, &t));
    return 0;
}

int script_within(const struct statement *a, const struct statement *b) {
    return a->functions <= b->functions && memcmp(a->opened, b->opened, (size_t)a->functions * sizeof *a->opened) == 0;
}

int script_same_scope(const struct statement *a, const struct statement *b) {
    return a->functions == b->functions && script_within(a, b);
}
