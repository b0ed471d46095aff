/* base.h - what every room needs and none owns: errors, memory, text, counted random numbers, whole files.
 *
 * Errors: a function that can fail returns 0 or the kind of its failure and fills *e with one line that says what,
 * where and what to do. Nothing here prints or exits. Memory: every allocation of the program goes through mem_*,
 * so that the tests can make each one fail in turn. Random numbers are counted, not streamed (see philox.h). */
#ifndef BASE_H
#define BASE_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* The kinds of failure. ERROR_ENVIRONMENT and ERROR_USER are the program's exit statuses for them. */
enum { OK = 0, ERROR_ENVIRONMENT = 1, ERROR_USER = 2, ERROR_TRIAL = 3 /* this trial only: out of memory, NaN */ };

struct error {
    int kind;
    char text[1000];
};

/* Fills *e (which may be NULL) and returns kind, so that `return error_set(e, ERROR_USER, ...)` is the way out.
 * Control bytes in what it is given, a newline in a file's name, are shown as \xNN: a message is one line. */
int error_set(struct error *e, int kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same for memory that could not be had: ERROR_TRIAL, "out of memory: N bytes for WHAT". */
int error_memory(struct error *e, size_t bytes, const char *what);

/* malloc, calloc, realloc, free. NULL when there is none, or when the test hook says so. */
void *mem_alloc(size_t bytes);
void *mem_zero(size_t count, size_t bytes);
void *mem_grow(void *p, size_t bytes);
void *mem_aligned(size_t bytes); /* on a 64-byte boundary, not cleared; released by mem_free */
char *mem_string(const char *s); /* strdup */
void mem_free(void *p);
/* Test hook: the n-th allocation from now fails, once (1 is the next); 0 turns it off. */
extern long mem_fail_after;

/* Memory that is released all at once: for trees that a parser makes. */
struct arena {
    struct arena_block *blocks;
};
void *arena_alloc(struct arena *, size_t bytes); /* zeroed, 16-byte aligned; NULL when there is none */
char *arena_string(struct arena *, const char *s, size_t n);
void arena_free(struct arena *);

/* A string that grows. A failed allocation sets `failed` and makes the later calls do nothing: check it once, at
 * the end. `s` is always a string, "" at first. Zero-initialise; release with text_free. */
struct text {
    char *s;
    size_t n, room;
    int failed;
};
void text_add(struct text *, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_add_bytes(struct text *, const char *s, size_t n);
/* The shortest decimal that reads back as x, as Python's repr writes it ("1.0", "0.1", "1e-07"); inf and nan as
 * "Infinity", "-Infinity", "NaN" (what Python's json writes and reads). */
void text_add_double(struct text *, double x);
/* s as a JSON string, with its quotes. */
void text_add_json_string(struct text *, const char *s);
void text_free(struct text *);

/* A stream of draws out of the counted generator: draw i of (seed, trial, purpose) is always the same number. */
enum rng_purpose {
    RNG_SUGGEST = 1,
    RNG_INIT,
    RNG_SHUFFLE,
    RNG_FLIP,
    RNG_SPLIT,
    RNG_SYNTHETIC,
    RNG_NAME,
    RNG_DROPOUT = 1000
};
struct rng {
    uint32_t key[2], counter[4], word[4];
    int left;
};
void rng_key(uint64_t seed, uint32_t trial, uint32_t purpose, uint32_t key[2]);
struct rng rng_make(uint64_t seed, uint32_t trial, uint32_t purpose);
uint32_t rng_bits(struct rng *);
double rng_uniform(struct rng *);                        /* [0, 1), 53 bits */
double rng_normal(struct rng *);                         /* mean 0, deviation 1; Box and Muller, two uniforms a draw */
uint32_t rng_below(struct rng *, uint32_t n);            /* 0 .. n-1, without bias */
void rng_shuffle(struct rng *, uint32_t *x, uint32_t n); /* Fisher and Yates */

/* Reads a whole file, with a 0 byte behind it. ERROR_USER when it is missing, or larger than `most` bytes. */
int file_read(const char *path, size_t most, char **bytes, size_t *n, struct error *e);
/* Writes a whole file or none: a temporary file beside it, fsync, rename, fsync of the folder. */
int file_write(const char *path, const void *bytes, size_t n, struct error *e);
/* Makes a folder and its parents; no error where it is there. */
int folder_make(const char *path, struct error *e);
double clock_seconds(void);                                 /* monotonic */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n); /* Castagnoli; start with 0 */
#endif
