/* space.h - the search space: hyperopt's Python notation read as it is pasted, drawn from, and printed.
 *
 * One reader makes one kind of tree, `struct value`, out of Python literals and JSON alike; in a space, a leaf may
 * also be a hyperparameter (hp.uniform(...), hp.choice(...)). A *point* is an array of doubles, one for each
 * parameter of the space in the order of `params` (parents before children): the drawn number; the 0-based option
 * of a choice or pchoice; the natural value of a randint; NaN where the parameter is inactive. A *configuration*
 * is the tree with each parameter replaced by its value: what the net, the result files and the user read. */
#ifndef SPACE_H
#define SPACE_H
#include "base.h"

enum value_kind {
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_DICT,
    VALUE_PARAM,
    VALUE_CUT /* scope.int(...): its one item, a number once parameters have values, without its fraction */
};

struct value {
    enum value_kind kind;
    int line, column;   /* where it stood in its text, from 1; in a configuration, where its hp.* stands */
    int64_t integer;    /* VALUE_BOOL (0 or 1), VALUE_INT; VALUE_PARAM: index into params */
    double number;      /* VALUE_INT too, as a double; VALUE_FLOAT */
    const char *string; /* VALUE_STRING, UTF-8 */
    int n;              /* LIST, TUPLE, DICT: how many items; CUT: 1 */
    struct value **items;
    const char **keys; /* DICT: n keys, in the text's order */
};

/* A parsed text that owns its tree. */
struct document {
    struct arena arena;
    struct value *root;
};

/* hyperopt's distributions. log and mu, sigma of the log kinds are in log space, as hyperopt has them. choice is a
 * uniform draw of an option, pchoice a weighted one, randint an integer in [low, high). */
enum distribution {
    DIST_UNIFORM,
    DIST_QUNIFORM,
    DIST_LOGUNIFORM,
    DIST_QLOGUNIFORM,
    DIST_NORMAL,
    DIST_QNORMAL,
    DIST_LOGNORMAL,
    DIST_QLOGNORMAL,
    DIST_UNIFORMINT,
    DIST_RANDINT,
    DIST_CHOICE,
    DIST_PCHOICE
};
extern const char *const distribution_names[]; /* "uniform", ... in the order of the enum */

struct param {
    const char *label;
    enum distribution dist;
    double low, high;       /* bounded kinds: the user's bounds (log space for the log kinds); randint: [low, high) */
    double mu, sigma;       /* normal kinds */
    double q;               /* quantised kinds (uniformint: 1), else 0 */
    int n_options;          /* choice, pchoice; randint: high - low (at most 1e6) */
    struct value **options; /* choice, pchoice */
    double *p;              /* pchoice: n_options probabilities */
    int parent, option;     /* active iff params[parent] is active and took `option`; parent -1: always active */
};

struct space {
    struct document doc;
    struct param *params;
    int n_params;
    char *text; /* the normal form: Python notation, one key a line; equal texts are equal spaces */
};

extern const char space_seed[]; /* the original's space, later version, as Python text */

/* Reads a space from n bytes of text (Python notation with hp.*, or the same in JSON is just a space with no
 * parameters). `file` names it in messages. ERROR_USER: "FILE:LINE:COLUMN: what is wrong". */
int space_parse(struct space **, const char *text, size_t n, const char *file, struct error *);
int space_read(struct space **, const char *path, struct error *); /* the same from a file of at most 16 MB */
void space_free(struct space *);

/* A draw from the prior (hyperopt pyll/stochastic.py:35-150): values[n_params], NaN for the inactive. */
void space_draw(const struct space *, struct rng *, double *values);
/* Points that show what the space can be: for params[i] as its k-th option, or at its lowest (k 0) and highest (1)
 * value, or at its median where it has no bounds, with what it needs to be active and all others as they come first.
 * i -1: all as they come first. Returns 0 when there is no k-th. */
int space_extreme(const struct space *, int i, int k, double *values);
/* Is params[i] active, given the values of its ancestors? */
int space_active(const struct space *, int i, const double *values);
/* Is each value in its parameter's domain and active exactly where its parent says so? For readers of files. */
int space_check(const struct space *, const double *values, struct error *);
/* The configuration of a point, in *doc (to be released by document_free). quniform and the like give floats,
 * uniformint, randint and what scope.int is around integers, a choice its option's own tree. */
int space_config(const struct space *, const double *values, struct document *doc, struct error *);
/* And back: the point whose configuration is this, up to what JSON does not tell apart (3 and 3.0, tuples and lists);
 * of several the first. ERROR_USER, with the place in `file`, where there is none. */
int space_point(const struct space *, const struct value *config, const char *file, double *values, struct error *);
int space_find(const struct space *, const char *label); /* index, or -1 */
int param_is_normal(const struct param *);               /* one of those that have mu and sigma */

/* Reads a literal without hp.*: Python or JSON (true, false, null, NaN, Infinity too). */
int value_parse(struct document *, const char *text, size_t n, const char *file, struct error *);
void document_free(struct document *);
const struct value *value_get(const struct value *dict, const char *key); /* NULL when absent or no dict */
struct value *value_cut(struct value *number);                            /* in place, Python's int(number) */
/* indent 0: all on one line; else that many spaces a level. Print then parse gives the same tree. */
void value_print_json(struct text *, const struct value *, int indent);
void value_print_python(struct text *, const struct value *, const struct space *params_or_null, int indent);
#endif
