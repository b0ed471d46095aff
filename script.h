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

/* Moves *s, all 0 at first, to the next statement of text[n]. A statement ends with its line, unless brackets, a string
 * in three quotes or a backslash go on, or at a ';'. Those within a function are statements too: `def f():` is one, its
 * body's follow. Returns 0 behind the last. */
int script_next(const char *text, size_t n, struct statement *s);

/* What cannot be read for sure: where, and why. */
struct doubt {
    int line, column;
    char why[200];
};

/* The statement that makes the space: what is called `space` and has hp.* in it, rather than a dictionary of that name,
 * rather than what has hp.* in it under another name. 1: *found; 0: there is none; -1: *doubt. What the script may do
 * to it besides is a doubt. */
int script_space(const char *text, size_t n, struct statement *found, struct doubt *doubt);

/* The statement that gives a name the value that it has in the statement that begins at `use`: the only one, in the
 * same function or in one around it or in none, and surely. 1, 0 and -1 as above. What Python would make of it by its
 * conditions and changes is a doubt; doubt->line is then the statement's that it hangs on. */
int script_given(const char *text, size_t n, size_t use, const char *name, struct statement *given,
                 struct doubt *doubt);

/* Does the script give the name another meaning than Python, hyperopt or numpy? Returns the line; 0: it does not. */
int script_own(const char *text, size_t n, const char *name);
#endif
