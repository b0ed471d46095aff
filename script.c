/* script.c - the space in a Python script.
 *
 * People have their space inside the script that minimises over it, among imports, functions and prints. What tells
 * where it is, and whether something else changes it, needs no Python, only its tokens: words, operators, brackets,
 * ends of lines. Tokens make statements; of each it is asked what it may do to a name; and where all answers leave one
 * value, space.c reads that. Where they do not, there is a doubt, and nothing is read. */
#include "script.h"

#include <stdarg.h>
#include <stdio.h>
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

enum { FUNCTIONS_LIMIT = 8 };

struct statement {
    size_t begin, end;  /* its bytes in the text */
    int line;           /* where it begins, from 1 */
    size_t line_start;  /* the first byte of that line */
    size_t indent;      /* how far from the left its line begins; behind `if x: y;` one more */
    size_t name, value; /* NAME = value, NAME: type = value: how long the name is, where the value begins; else 0 */
    int draws;          /* hp. stands in it, outside strings and comments */
    int closes_nothing; /* a closing bracket in it has none to close */
    int imports, imports_all; /* it is an `import` or a `from ... import`; that ends with * */
    int global;               /* it is a `global` or `nonlocal` */
    int loops;                /* it is a `for` or `while` */
    int opens_function;       /* it is a `def` or a `class` */
    int functions;            /* how many of those it stands in; of more than 8 the first 8 count */
    size_t opened[FUNCTIONS_LIMIT], indents[FUNCTIONS_LIMIT]; /* where they begin, and how far from the left */
};

static const char *const compounds[] = {"if",   "elif", "else",   "for",     "while",
                                        "with", "try",  "except", "finally", "async"};

/* NAME = or NAME: type = , from the first token on: where the value begins, or 0. */
static size_t value_of(const char *text, size_t n, struct token t) {
    if (!is_name(text[t.at]) || IS_ONE(text, &t, compounds) || !next_token(text, n, &t)) return 0;
    if (is(text, &t, ":")) {
        while (next_token(text, n, &t) && !ends_statement(text, &t)) {
            if (is(text, &t, "=") && t.depth == 0) return t.at + t.length;
        }
        return 0;
    }
    return is(text, &t, "=") ? t.at + t.length : 0;
}

/* Moves *s, all 0 at first, to the next statement of text[n]. A statement ends with its line, unless brackets, a string
 * in three quotes or a backslash go on, or at a ';'. Those within a function are statements too: `def f():` is one, its
 * body's follow. Returns 0 behind the last. */
static int next_statement(const char *text, size_t n, struct statement *s) {
    const struct statement last = *s;
    const int marked = last.end == 0 && n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0; /* a byte order mark */
    struct token t = {.at = marked ? 3 : last.end}, first;
    int found = next_token(text, n, &t), same_line = last.end > 0;
    for (; found && ends_statement(text, &t); found = next_token(text, n, &t)) same_line &= text[t.at] == ';';
    if (!found) return 0;
    *s = (struct statement){.begin = t.at,
                            .line = last.line > 0 ? last.line : 1,
                            .line_start = marked ? 3 : last.line_start,
                            .functions = last.functions};
    for (size_t i = last.begin; i < t.at; i++) {
        if (text[i] == '\n') s->line++, s->line_start = i + 1;
    }
    first = (struct token){.at = last.begin};
    s->indent = !same_line ? t.at - s->line_start
                           : last.indent + (next_token(text, n, &first) && IS_ONE(text, &first, compounds));

    memcpy(s->opened, last.opened, sizeof s->opened);
    memcpy(s->indents, last.indents, sizeof s->indents);
    if (last.opens_function && s->functions < FUNCTIONS_LIMIT) {
        s->opened[s->functions] = last.begin;
        s->indents[s->functions++] = last.indent;
    }
    while (s->functions > 0 && !same_line && s->indent <= s->indents[s->functions - 1]) s->functions--;
    first = t;
    if (is(text, &first, "async")) (void)next_token(text, n, &first);
    s->opens_function = is(text, &first, "def") || is(text, &first, "class");
    s->loops = is(text, &first, "for") || is(text, &first, "while");
    s->imports = is(text, &t, "import") || is(text, &t, "from");
    s->global = is(text, &t, "global") || is(text, &t, "nonlocal");
    s->value = value_of(text, n, t);
    s->name = s->value > 0 ? t.length : 0;

    do {
        if (t.inner < 0) s->closes_nothing = 1;
        if (is(text, &t, "hp") && n - t.at > 2 && text[t.at + 2] == '.') s->draws = 1;
        s->imports_all = s->imports && is(text, &t, "*");
        found = next_token(text, n, &t);
    } while (found && !ends_statement(text, &t));
    s->end = found ? t.at : n;
    return 1;
}

/* Does the name stand in the statement, and not as somebody's attribute? */
static int mentions(const char *text, const struct statement *s, const char *name) {
    struct token t = {.at = s->begin};
    for (int attribute = 0; next_token(text, s->end, &t); attribute = is(text, &t, ".")) {
        if (!attribute && is(text, &t, name)) return 1;
    }
    return 0;
}

/* Does a function that the statement stands in have the name in its first line, as an argument? */
static int is_argument(const char *text, size_t n, const struct statement *s, const char *name) {
    struct statement f = {0};
    for (int i = 0; i < s->functions; i++) {
        while (f.begin != s->opened[i] || f.end == 0) {
            if (!next_statement(text, n, &f)) return 0;
        }
        if (mentions(text, &f, name)) return 1;
    }
    return 0;
}

/* What is called of a name, behind its subscripts, and changes it. */
static int calls_change(const char *text, size_t end, struct token t) {
    static const char *const changes[] = {"append", "extend", "insert",  "remove", "pop",       "popitem",
                                          "update", "clear",  "reverse", "sort",   "setdefault"};
    enum { DEEP = 100 }; /* nobody has that; to look on from each would take long */
    if (t.depth > DEEP) return 1;
    int more = next_token(text, end, &t);
    while (more && is(text, &t, "[")) {
        const int depth = t.depth;
        do more = next_token(text, end, &t);
        while (more && !(is(text, &t, "]") && t.depth == depth));
        if (more) more = next_token(text, end, &t);
    }
    return more && is(text, &t, ".") && next_token(text, end, &t) && IS_ONE(text, &t, changes);
}

/* May the statement give the name a value (`n = 1`, `m, n = 1, 2`, `n: int = 1`, `for n in x`, `import n`, `global n`,
 * `f(n := 1)`) or change the one that it has (`n += 1`, `n[0] = 1`, `n.append(1)`, `del n`)? Rather once too often than
 * not. */
enum writes { WRITES_NOT, WRITES_NAME, WRITES_INTO };
static enum writes writes_name(const char *text, const struct statement *s, const char *name) {
    static const char *const compares[] = {"==", "!=", "<=", ">=", ":="};
    static const char *const binds[] = {"global", "nonlocal", "import", "from"};
    static const char *const names_next[] = {"as", "def", "class"};
    struct token t = {.at = s->begin}, first, after;
    size_t targets = s->begin, equals = s->begin; /* what is left of the last `=`, and behind the `:` of an `if` */
    int attribute = 0, is_next = 0, before_in, compound, tuple;
    if (s->imports_all) return WRITES_NAME;
    if (!next_token(text, s->end, &t)) return WRITES_NOT;
    first = t;
    compound = IS_ONE(text, &first, compounds);
    tuple = is(text, &first, "(") || is(text, &first, "[");
    do {
        if (compound && t.depth == 0 && is(text, &t, ":") && targets == s->begin) targets = t.at;
        if (t.depth == 0 && text[t.at + t.length - 1] == '=' && !IS_ONE(text, &t, compares)) equals = t.at;
    } while (next_token(text, s->end, &t));
    t = first;
    if (is(text, &t, "async")) (void)next_token(text, s->end, &t);
    before_in = is(text, &t, "for");
    for (t = first;;) {
        if (!attribute && is(text, &t, name)) {
            after = t;
            const int more = next_token(text, s->end, &after);
            if (is_next || before_in || IS_ONE(text, &first, binds) || (more && is(text, &after, ":=")))
                return WRITES_NAME;
            if (is(text, &first, "del") || calls_change(text, s->end, t)) return WRITES_INTO;
            if ((t.depth == 0 || tuple) && t.at >= targets && t.at < equals)
                return more && after.length == 1 && strchr("=,:)]", text[after.at]) != NULL ? WRITES_NAME : WRITES_INTO;
            if (more && is(text, &after, ":") && t.at == s->begin) return WRITES_NAME;
        }
        if (s->opens_function && is(text, &t, "(")) return WRITES_NOT; /* behind it all is the function's own */
        attribute = is(text, &t, ".");
        is_next = IS_ONE(text, &t, names_next);
        before_in = before_in && !is(text, &t, "in");
        if (!next_token(text, s->end, &t)) return WRITES_NOT;
    }
}

/* Does b stand in all the functions that a stands in? */
static int is_within(const struct statement *a, const struct statement *b) {
    return a->functions <= b->functions && memcmp(a->opened, b->opened, (size_t)a->functions * sizeof *a->opened) == 0;
}

/* Do they stand in the same function, or both in none? */
static int same_scope(const struct statement *a, const struct statement *b) {
    return a->functions == b->functions && is_within(a, b);
}

/* ---- names ---- */

static int assigns(const char *text, const struct statement *s, const char *name) {
    return s->name == strlen(name) && memcmp(text + s->begin, name, s->name) == 0;
}

static int doubt_it(struct doubt *d, const struct statement *s, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int doubt_it(struct doubt *d, const struct statement *s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(d->why, sizeof d->why, format, args);
    va_end(args);
    d->line = s->line;
    d->column = (int)(s->begin - s->line_start) + 1;
    return -1;
}

static struct assignment assignment_of(const struct statement *s) {
    return (struct assignment){
        .begin = s->begin, .value = s->value, .end = s->end, .line = s->line, .line_start = s->line_start};
}

int script_given(const char *text, size_t n, size_t at, const char *name, struct assignment *out, struct doubt *doubt) {
    struct statement s = {0}, use = {0}, loop = {0}, other = {0}, given = {0};
    int writes = 0, unsure = 0;
    while (use.end == 0 && next_statement(text, n, &s)) {
        if (s.begin == at) use = s;
    }
    s = (struct statement){0};
    while (use.end > 0 && next_statement(text, n, &s)) {
        const int behind = s.begin >= use.begin, within = is_within(&s, &use);
        if (given.end > 0 && s.begin <= use.begin && s.indent < given.indent) unsure = 1;  /* its block has ended */
        if (s.begin <= use.begin && loop.end > 0 && s.indent <= loop.indent) loop.end = 0; /* and the loop */
        if (!behind && s.loops && same_scope(&s, &use)) loop = s;
        if (s.imports_all && given.end == 0) continue;
        const enum writes how = writes_name(text, &s, name);
        if (how == WRITES_NOT || s.begin == use.begin) continue;
        if (within ? behind && same_scope(&s, &use) && loop.end == 0
                   : !s.global && (how != WRITES_INTO || is_argument(text, n, &s, name)))
            continue;
        if (writes++ == 0 && assigns(text, &s, name)) given = s;
        if (writes > 1 || given.end == 0) other = s;
    }
    if (use.end > 0 && is_argument(text, n, &use, name))
        return doubt_it(doubt, &use, "'%.60s' is an argument of the function here; write its value instead", name);
    if (writes == 0) return 0;
    if (given.begin > use.begin && given.indent > 0) unsure = 1;
    if (other.end == 0) other = given;
    if (writes > 1 || given.end == 0 || unsure)
        return doubt_it(doubt, &use, "what '%.60s' is depends on line %d; write its value here", name, other.line);
    *out = assignment_of(&given);
    return 1;
}

int script_own(const char *text, size_t n, const char *name) {
    struct statement s = {0};
    while (next_statement(text, n, &s)) {
        if (!s.imports && writes_name(text, &s, name) != WRITES_NOT) return s.line;
    }
    return 0;
}

/* ---- the space ---- */

/* May a statement be the one that makes the space? */
static int space_rank(const char *text, const struct statement *s) {
    const int named = assigns(text, s, "space");
    struct token t = {.at = s->value};
    if (s->name == 0) return 0;
    if (s->draws) return named ? 3 : 1;
    return named && next_token(text, s->end, &t) && (is(text, &t, "{") || is(text, &t, "dict")) ? 2 : 0;
}

/* Is what a statement assigns just this name? */
static int assigns_name(const char *text, const struct statement *s, const char *name) {
    struct token t = {.at = s->value};
    return s->name > 0 && next_token(text, s->end, &t) && is(text, &t, name) && !next_token(text, s->end, &t);
}

/* Is what a statement assigns made of a name: a dictionary with it, or a copy? */
static int copies(const char *text, const struct statement *s, const char *name) {
    static const char *const beginnings[] = {"{", "dict", "copy", "deepcopy"};
    struct token t = {.at = s->value}, after;
    if (s->name == 0 || !mentions(text, s, name) || !next_token(text, s->end, &t)) return 0;
    after = t;
    return IS_ONE(text, &t, beginnings) ||
           (is(text, &t, name) && next_token(text, s->end, &after) && is(text, &after, "."));
}

/* Is what one statement makes another name of the same changed under that name? The line, or 0. */
static int changed_as(const char *text, size_t n, const struct statement *alias) {
    struct statement s = {0};
    char name[64] = "";
    if (alias->name >= sizeof name) return alias->line;
    memcpy(name, text + alias->begin, alias->name);
    while (next_statement(text, n, &s)) {
        if (writes_name(text, &s, name) == WRITES_INTO && !is_argument(text, n, &s, name)) return s.line;
    }
    return 0;
}

/* What in the rest of a script may make the space another one than `found`? */
static int check_space(const char *text, size_t n, const struct statement *found, int rank, struct doubt *doubt) {
    struct statement s = {0};
    char name[64] = "";
    int before = 0, shallower = 0;
    if (found->name >= sizeof name) return doubt_it(doubt, found, "this name is too long; call it `space`");
    memcpy(name, text + found->begin, found->name);
    for (size_t i = 0; i < n; i++) { /* Python ends a line, and so a comment, there */
        if (text[i] == '\r' && (i + 1 == n || text[i + 1] != '\n'))
            return doubt_it(doubt, found, "lines end with CR alone in this file; save it with line feeds");
    }
    while (next_statement(text, n, &s)) {
        const int behind = s.begin > found->begin, same = same_scope(&s, found);
        if (s.begin == found->begin) continue;
        const enum writes how = writes_name(text, &s, name);
        const int it = same || ((how != WRITES_NOT || mentions(text, &s, name)) && !is_argument(text, n, &s, name));
        shallower |= same && s.indent < found->indent;
        if (how != WRITES_NOT && same && !behind && !s.imports_all && !s.global) before = s.line;
        if (s.closes_nothing) return doubt_it(doubt, &s, "a bracket is closed here that was never opened");
        if ((same && behind && how != WRITES_NOT) || (!same && it && (s.global || how == WRITES_INTO)))
            return doubt_it(doubt, &s, "this may change the space of line %d; write it into that", found->line);
        if (s.draws && !s.imports &&
            ((rank == 1 && space_rank(text, &s) == 0) || (behind && it && mentions(text, &s, name))))
            return doubt_it(doubt, &s, "this draws, too, and not in the space of line %d; write it into that",
                            found->line);
        if (it && behind && !assigns(text, &s, "space") && copies(text, &s, name))
            return doubt_it(doubt, &s, "this may be another space, made of that of line %d; write it into that",
                            found->line);
        const int changed = it && assigns_name(text, &s, name) ? changed_as(text, n, &s) : 0;
        if (changed > 0)
            return doubt_it(doubt, &s, "line %d may change the space of line %d under this name; write it into that",
                            changed, found->line);
        if (rank == 1 && !s.imports_all && writes_name(text, &s, "space") != WRITES_NOT &&
            !assigns_name(text, &s, name) && !is_argument(text, n, &s, "space"))
            return doubt_it(doubt, &s, "this makes a `space`, and line %d may be it; call that one `space`",
                            found->line);
    }
    if (before > 0 && shallower)
        return doubt_it(doubt, found, "whether this is the space hangs on line %d; leave one", before);
    return 1;
}

int script_space(const char *text, size_t n, struct assignment *out, struct doubt *doubt) {
    struct statement s = {0}, found = {0}, last = {0}, nameless = {0};
    int best = 1, candidates = 0, others = 0;
    while (next_statement(text, n, &s)) {
        const int rank = space_rank(text, &s);
        if (rank >= best) {
            candidates = rank > best ? 1 : candidates + 1;
            if (candidates == 1) found = s;
            best = rank;
            last = s;
        }
        if (s.draws && others > 0 && nameless.end == 0) nameless = s;
        others += !s.imports;
    }
    *out = assignment_of(&found);
    if (candidates == 1) return check_space(text, n, &found, best, doubt);
    if (candidates > 1)
        return doubt_it(doubt, &last,
                        "this may be the space, and so may line %d; call the right one, and no other, `space`",
                        found.line);
    return nameless.end == 0 ? 0
                             : doubt_it(doubt, &nameless, "hp.* stands here, but no `space = ...`; write the space so");
}
