/* script.c - the statements of a Python script.
 *
 * People have their space inside the script that minimises over it, among imports, functions and prints. What tells
 * where it is needs no Python: strings, comments, brackets and ends of lines. What the statement holds is then read by
 * space.c. */
#include "script.h"

#include <string.h>

static int is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* Behind the string whose quote stands at `at`. One without an end ends with its line. */
static size_t skip_string(const char *text, size_t n, size_t at) {
    const char quote = text[at];
    const size_t quotes = n - at >= 3 && text[at + 1] == quote && text[at + 2] == quote ? 3 : 1;
    for (at += quotes; at < n; at++) {
        if (text[at] == '\\') {
            at++;
        } else if (text[at] == '\n' && quotes == 1) {
            return at;
        } else if (text[at] == quote &&
                   (quotes == 1 || (n - at >= 3 && text[at + 1] == quote && text[at + 2] == quote))) {
            return at + quotes;
        }
    }
    return n;
}

static size_t skip_comment(const char *text, size_t n, size_t at) {
    while (at < n && text[at] != '\n') at++;
    return at;
}

static int begins(const char *text, size_t n, size_t at, const char *word) {
    const size_t length = strlen(word);
    return n - at > length && memcmp(text + at, word, length) == 0 && !is_name(text[at + length]);
}

/* Before the first statement, and between two. */
static size_t skip_between(const char *text, size_t n, size_t at) {
    while (at < n) {
        if (text[at] == '#') {
            at = skip_comment(text, n, at);
        } else if (strchr(" \t\r\n\f;\\", text[at]) != NULL && text[at] != '\0') {
            at++;
        } else {
            break;
        }
    }
    return at;
}

int script_next(const char *text, size_t n, struct statement *s) {
    const struct statement last = *s;
    const int marked = last.end == 0 && n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0; /* a byte order mark */
    size_t at = skip_between(text, n, marked ? 3 : last.end);
    *s = (struct statement){.begin = at,
                            .end = at,
                            .line = last.line > 0 ? last.line : 1,
                            .line_start = marked ? 3 : last.line_start,
                            .functions = last.functions};
    if (at == n) return 0;
    for (size_t i = last.begin; i < at; i++) {
        if (text[i] == '\n') s->line++, s->line_start = i + 1;
    }

    memcpy(s->indents, last.indents, sizeof s->indents);
    if (last.opens_function && s->functions < FUNCTIONS_LIMIT)
        s->indents[s->functions++] = last.begin - last.line_start;
    while (s->functions > 0 && at - s->line_start <= s->indents[s->functions - 1]) s->functions--;
    s->opens_function = begins(text, n, at, "def") || begins(text, n, at, "async") || begins(text, n, at, "class");
    s->imports = begins(text, n, at, "import") || begins(text, n, at, "from");

    size_t value = at;
    while (value < n && is_name(text[value])) value++;
    const size_t name = value - at;
    while (value < n && (text[value] == ' ' || text[value] == '\t')) value++;
    if (name > 0 && n - value >= 2 && text[value] == '=' && text[value + 1] != '=') {
        s->name = name;
        s->value = value + 1;
    }

    int depth = 0;
    while (at < n && (depth > 0 || (text[at] != '\n' && text[at] != ';'))) {
        const char c = text[at];
        if (c == '#') {
            at = skip_comment(text, n, at);
        } else if (c == '\'' || c == '"') {
            at = skip_string(text, n, at);
        } else if (c == '\\' && n - at >= 2) { /* the next line goes on */
            at += text[at + 1] == '\r' && n - at >= 3 ? 3 : 2;
        } else {
            if (c == '(' || c == '[' || c == '{') depth++;
            if ((c == ')' || c == ']' || c == '}') && --depth < 0) s->closes_nothing = 1;
            if (begins(text, n, at, "hp") && text[at + 2] == '.' && at > 0 && !is_name(text[at - 1])) s->draws = 1;
            at++;
        }
    }
    s->end = at;
    return 1;
}
