/* script.h - the space in a Python script, and the values of the names in it, found by the shape of its statements. */
#ifndef SCRIPT_H
#define SCRIPT_H
#include <stddef.h>

/* A statement NAME = value. */
struct assignment {
    size_t begin, value, end; /* bytes in the text: where it begins, where its value does, where both end */
    int line;                 /* where it begins, from 1 */
    size_t line_start;        /* the first byte of that line */
};

/* What cannot be read for sure: where, and why. */
struct doubt {
    int line, column;
    char why[200];
};

/* The statement that makes the space: what is called `space` and has hp.* in it, rather than a dictionary of that name,
 * rather than what has hp.* in it under another name. 1: *found; 0: there is none; -1: *doubt. What the script may do
 * to it besides is a doubt. */
int script_space(const char *text, size_t n, struct assignment *found, struct doubt *doubt);

/* The statement that gives a name the value that it has in the statement that begins at `use`: the only one, in the
 * same function or in one around it or in none, and surely. 1, 0 and -1 as above. What Python would make of it by its
 * conditions and changes is a doubt. */
int script_given(const char *text, size_t n, size_t use, const char *name, struct assignment *given,
                 struct doubt *doubt);

/* Does the script give the name another meaning than Python, hyperopt or numpy? Returns the line; 0: it does not. */
int script_own(const char *text, size_t n, const char *name);
#endif
