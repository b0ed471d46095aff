/* script.h - the statements of a Python script, told by their shape alone: enough to find the space in it, and to see
 * what may change a name's value. */
#ifndef SCRIPT_H
#define SCRIPT_H
#include <stddef.h>

enum { FUNCTIONS_LIMIT = 8 };

struct statement {
    size_t begin, end;  /* its bytes in the text */
    int line;           /* where it begins, from 1 */
    size_t line_start;  /* the first byte of that line */
    size_t name, value; /* NAME = value: how long the name is, where the value begins; else 0 */
    int draws;          /* hp. stands in it, outside strings and comments */
    int closes_nothing; /* a closing bracket in it has none to close */
    int imports;        /* it is an `import` or a `from ... import` */
    int global;         /* it is a `global` */
    int opens_function; /* it is a `def` or a `class` */
    int functions;      /* how many of those it stands in; of more than 8 the first 8 count */
    size_t opened[FUNCTIONS_LIMIT], indents[FUNCTIONS_LIMIT]; /* where they begin, and how far from the left */
};

/* Moves *s, all 0 at first, to the next statement of text[n]. A statement ends with its line, unless brackets, a string
 * in three quotes or a backslash go on, or at a ';'. Those within a function are statements too: `def f():` is one, its
 * body's follow. Returns 0 behind the last. */
int script_next(const char *text, size_t n, struct statement *s);

/* Does the name stand in the statement, outside strings and comments, and not as somebody's attribute? */
int script_mentions(const char *text, const struct statement *s, const char *name);
/* May the statement give the name a value, or change the one that it has? Rather once too often than not: `n = 1`,
 * `m, n = 1, 2`, `n += 1`, `n: int = 1`, `n[0] = 1`, `n.append(1)`, `for n in x`, `del n`, `import n`, `global n`,
 * `f(n := 1)`. */
int script_writes(const char *text, const struct statement *s, const char *name);
/* Do a and b stand in the same function, or both in none? Does b stand in all the functions that a stands in? */
int script_same_scope(const struct statement *a, const struct statement *b);
int script_within(const struct statement *a, const struct statement *b);
#endif
