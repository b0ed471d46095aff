/* script.h - the statements of a Python script, told by their shape alone: enough to find the space in it. */
#ifndef SCRIPT_H
#define SCRIPT_H
#include <stddef.h>

enum { FUNCTIONS_LIMIT = 8 };

struct statement {
    size_t begin, end;               /* its bytes in the text */
    int line;                        /* where it begins, from 1 */
    size_t line_start;               /* the first byte of that line */
    size_t name, value;              /* NAME = value: how long the name is, where the value begins; else 0 */
    int draws;                       /* hp. stands in it, outside strings and comments */
    int closes_nothing;              /* a closing bracket in it has none to close */
    int imports;                     /* it is an `import` or a `from ... import` */
    int opens_function;              /* it is a `def` or `class` */
    int functions;                   /* how many of them it stands in; of more than 8 the first 8 count */
    size_t indents[FUNCTIONS_LIMIT]; /* theirs */
};

/* Moves *s, all 0 at first, to the next statement of text[n]. A statement ends with its line, unless brackets, a string
 * in three quotes or a backslash go on, or at a ';'. Those within a function are statements too: `def f():` is one, its
 * body's follow. Returns 0 behind the last. */
int script_next(const char *text, size_t n, struct statement *s);
#endif
