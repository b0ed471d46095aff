/* base.c - errors, memory, text, counted random numbers, whole files: what every room needs and none owns.
 *
 * Every allocation goes through may_fail, which is where the tests make one fail. A `struct text` that could not
 * grow stays the string it was and remembers it, so that a writer checks once, at its end. */
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "philox.h"

/* ---- errors ---- */

/* A message is one line whatever the names in it are: a control byte is shown as \xNN. */
static void add_shown(char *to, size_t room, const char *from) {
    size_t n = 0;
    for (; *from; from++) {
        const unsigned char c = (unsigned char)*from;
        const size_t width = c < 32 || c == 127 ? 4 : 1;
        if (n + width >= room) break;
        if (width == 4) {
            snprintf(to + n, 5, "\\x%02x", c);
        } else {
            to[n] = *from;
        }
        n += width;
    }
    to[n] = '\0';
}

int error_set(struct error *e, int kind, const char *format, ...) {
    if (e != NULL) {
        char text[sizeof e->text];
        va_list args;
        e->kind = kind;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        add_shown(e->text, sizeof e->text, text);
    }
    return kind;
}

int error_memory(struct error *e, size_t bytes, const char *what) {
    return error_set(e, ERROR_TRIAL, "out of memory: %zu bytes for %s", bytes, what);
}

/* ---- memory ---- */

long mem_fail_after;

static int may_fail(void) { return mem_fail_after > 0 && --mem_fail_after == 0; }

void *mem_alloc(size_t bytes) { return may_fail() ? NULL : malloc(bytes > 0 ? bytes : 1); }

void *mem_zero(size_t count, size_t bytes) {
    if (may_fail() || (bytes > 0 && count > SIZE_MAX / bytes)) return NULL;
    return calloc(count > 0 ? count : 1, bytes > 0 ? bytes : 1);
}

void *mem_grow(void *p, size_t bytes) { return may_fail() ? NULL : realloc(p, bytes > 0 ? bytes : 1); }

void *mem_aligned(size_t bytes) {
    void *p = NULL;
    return may_fail() || posix_memalign(&p, 64, bytes > 0 ? bytes : 1) != 0 ? NULL : p;
}

char *mem_string(const char *s) {
    const size_t n = strlen(s) + 1;
    char *copy = mem_alloc(n);
    return copy == NULL ? NULL : memcpy(copy, s, n);
}

void mem_free(void *p) { free(p); }

struct arena_block {
    struct arena_block *next;
    size_t used, room;
    /* `room` bytes follow, at ARENA_HEAD */
};
enum { ARENA_HEAD = 32, ARENA_BLOCK = 16384 };

void *arena_alloc(struct arena *a, size_t bytes) {
    struct arena_block *b = a->blocks;
    if (may_fail() || bytes > SIZE_MAX / 2) return NULL; /* each piece can fail in a test, not only each block */
    bytes = (bytes + 15) / 16 * 16;
    if (b == NULL || b->room - b->used < bytes) {
        const size_t room = bytes > ARENA_BLOCK ? bytes : ARENA_BLOCK;
        b = mem_zero(1, ARENA_HEAD + room);
        if (b == NULL) return NULL;
        b->room = room;
        b->next = a->blocks;
        a->blocks = b;
    }
    void *p = (char *)b + ARENA_HEAD + b->used;
    b->used += bytes;
    return p;
}

char *arena_string(struct arena *a, const char *s, size_t n) {
    char *copy = arena_alloc(a, n + 1);
    if (copy != NULL) memcpy(copy, s, n);
    return copy;
}

void arena_free(struct arena *a) {
    while (a->blocks != NULL) {
        struct arena_block *next = a->blocks->next;
        mem_free(a->blocks);
        a->blocks = next;
    }
}

/* ---- text ---- */

/* Makes room for `more` bytes and the 0 behind them. */
static int text_room(struct text *t, size_t more) {
    if (t->failed) return 0;
    if (t->room - t->n > more && t->s != NULL) return 1;
    const size_t room = (t->n + more + 1) * 2 + 62;
    char *s = mem_grow(t->s, room);
    if (s == NULL) {
        t->failed = 1;
        return 0;
    }
    if (t->s == NULL) s[0] = '\0';
    t->s = s;
    t->room = room;
    return 1;
}

void text_add_bytes(struct text *t, const char *s, size_t n) {
    if (!text_room(t, n)) return;
    memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = '\0';
}

void text_add(struct text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) {
        t->failed = 1;
        return;
    }
    if (!text_room(t, (size_t)n)) return;
    va_start(args, format);
    vsnprintf(t->s + t->n, (size_t)n + 1, format, args);
    va_end(args);
    t->n += (size_t)n;
}

void text_add_double(struct text *t, double x) {
    char digits[40];
    int exponent, precision = 0;
    if (isnan(x) || isinf(x)) {
        text_add(t, "%s", isnan(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity");
        return;
    }
    do {
        snprintf(digits, sizeof digits, "%.*e", precision, x);
    } while (strtod(digits, NULL) != x && ++precision < 17);
    exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        char *e = strchr(digits, 'e'); /* Python writes at least two digits of exponent, as C does */
        *e = '\0';
        text_add(t, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
    } else {
        const int decimals = precision > exponent ? precision - exponent : 0;
        text_add(t, "%.*f", decimals > 0 ? decimals : 1, x);
    }
}

void text_add_json_string(struct text *t, const char *s) {
    text_add_bytes(t, "\"", 1);
    for (; *s; s++) {
        const unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') {
            text_add(t, "\\%c", c);
        } else if (c == '\n') {
            text_add(t, "\\n");
        } else if (c == '\t') {
            text_add(t, "\\t");
        } else if (c < 32 || c == 127) {
            text_add(t, "\\u%04x", c);
        } else {
            text_add_bytes(t, s, 1);
        }
    }
    text_add_bytes(t, "\"", 1);
}

void text_free(struct text *t) {
    mem_free(t->s);
    memset(t, 0, sizeof *t);
}

/* ---- random numbers ---- */

void rng_key(uint64_t seed, uint32_t trial, uint32_t purpose, uint32_t key[2]) {
    const uint32_t of_seed[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, counter[4] = {trial, purpose, 0, 0};
    uint32_t out[4];
    philox(of_seed, counter, out);
    key[0] = out[0];
    key[1] = out[1];
}

struct rng rng_make(uint64_t seed, uint32_t trial, uint32_t purpose) {
    struct rng r = {.left = 0};
    rng_key(seed, trial, purpose, r.key);
    return r;
}

uint32_t rng_bits(struct rng *r) {
    if (r->left == 0) {
        philox(r->key, r->counter, r->word);
        if (++r->counter[0] == 0) r->counter[1]++;
        r->left = 4;
    }
    return r->word[4 - r->left--];
}

double rng_uniform(struct rng *r) {
    const uint64_t high = rng_bits(r) >> 5, low = rng_bits(r) >> 6; /* 27 and 26 bits */
    return (double)(high << 26 | low) * 0x1p-53;
}

double rng_normal(struct rng *r) {
    const double u = 1 - rng_uniform(r), v = rng_uniform(r); /* u > 0 */
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

uint32_t rng_below(struct rng *r, uint32_t n) {
    /* The 2^32 % n smallest words would favour the small results: they are drawn again. */
    const uint32_t unfair = n > 0 ? (uint32_t)-n % n : 0;
    uint32_t x;
    do {
        x = rng_bits(r);
    } while (x < unfair);
    return n > 0 ? x % n : 0;
}

void rng_shuffle(struct rng *r, uint32_t *x, uint32_t n) {
    for (uint32_t i = n; i > 1; i--) {
        const uint32_t k = rng_below(r, i), t = x[k];
        x[k] = x[i - 1];
        x[i - 1] = t;
    }
}

/* ---- files ---- */

int file_read(const char *path, size_t most, char **bytes, size_t *n, struct error *e) {
    struct stat s;
    char *buffer = NULL;
    int failed = OK;
    *bytes = NULL;
    *n = 0;
    const int f = open(path, O_RDONLY | O_CLOEXEC);
    if (f < 0) return error_set(e, ERROR_USER, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(f, &s) != 0) {
        failed = error_set(e, ERROR_ENVIRONMENT, "%s: %s", path, strerror(errno));
    } else if (S_ISDIR(s.st_mode)) {
        failed = error_set(e, ERROR_USER, "%s: is a folder; a file is needed", path);
    }
    size_t room = 0, used = 0;
    while (!failed) { /* not by st_size: the path may be a pipe, and the file may grow */
        if (room - used < 2) {
            room = room == 0 ? (s.st_size > 0 && (size_t)s.st_size < most ? (size_t)s.st_size + 2 : 4096) : 2 * room;
            char *bigger = mem_grow(buffer, room);
            if (bigger == NULL) {
                failed = error_memory(e, room, path);
                break;
            }
            buffer = bigger;
        }
        const ssize_t got = read(f, buffer + used, room - used - 1);
        if (got == 0) break;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            failed = error_set(e, ERROR_ENVIRONMENT, "%s: cannot be read: %s", path, strerror(errno));
            break;
        }
        used += (size_t)got;
        if (used > most) failed = error_set(e, ERROR_USER, "%s: is larger than %zu bytes", path, most);
    }
    close(f);
    if (failed) {
        mem_free(buffer);
        return failed;
    }
    buffer[used] = '\0';
    *bytes = buffer;
    *n = used;
    return OK;
}

/* fsync of the folder that holds path: then the name in it is on disk too. */
static int sync_folder_of(const char *path, struct error *e) {
    char *folder = mem_string(path);
    if (folder == NULL) return error_memory(e, strlen(path), "a path");
    char *slash = strrchr(folder, '/');
    if (slash != NULL) slash[slash == folder] = '\0';
    const int f = open(slash != NULL ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = OK;
    if (f < 0 || (fsync(f) != 0 && errno != EINVAL)) { /* EINVAL: a file system that has no such thing */
        failed = error_set(e, ERROR_ENVIRONMENT, "%s: its folder cannot be written: %s", path, strerror(errno));
    }
    if (f >= 0) close(f);
    mem_free(folder);
    return failed;
}

static int write_all(int f, const char *bytes, size_t n) {
    while (n > 0) {
        const ssize_t done = write(f, bytes, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return 0;
        bytes += done;
        n -= (size_t)done;
    }
    return 1;
}

int file_write(const char *path, const void *bytes, size_t n, struct error *e) {
    struct text temporary = {0};
    struct timespec now; /* two machines may write the same file under the same pid */
    clock_gettime(CLOCK_REALTIME, &now);
    text_add(&temporary, "%s.tmp.%ld.%09ld", path, (long)getpid(), now.tv_nsec);
    if (temporary.failed) {
        text_free(&temporary);
        return error_memory(e, strlen(path), "a path");
    }
    int failed = OK;
    const int f = open(temporary.s, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f < 0) {
        failed = error_set(e, ERROR_ENVIRONMENT, "%s: cannot be written: %s", temporary.s, strerror(errno));
    } else {
        const int written = write_all(f, bytes, n) && fsync(f) == 0;
        const int why = errno, closed = close(f) == 0;
        if (!written || !closed || rename(temporary.s, path) != 0) {
            failed =
                error_set(e, ERROR_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(written ? errno : why));
            unlink(temporary.s);
        } else {
            failed = sync_folder_of(path, e);
        }
    }
    text_free(&temporary);
    return failed;
}

int folder_make(const char *path, struct error *e) {
    struct stat s;
    char *p = mem_string(path);
    if (p == NULL) return error_memory(e, strlen(path), "a path");
    int failed = OK;
    for (char *at = p + 1; !failed; at++) {
        const char was = *at;
        if (was != '/' && was != '\0') continue;
        *at = '\0';
        if (mkdir(p, 0777) != 0 && errno != EEXIST) {
            failed = error_set(e, ERROR_ENVIRONMENT, "%s: the folder cannot be made: %s", p, strerror(errno));
        }
        *at = was;
        if (was == '\0') break;
    }
    if (!failed && (stat(path, &s) != 0 || !S_ISDIR(s.st_mode))) {
        failed = error_set(e, ERROR_USER, "%s: is not a folder", path);
    }
    mem_free(p);
    return failed;
}

double clock_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint32_t crc32c(uint32_t crc, const void *bytes, size_t n) {
    /* Bit-reflected polynomial 0x1EDC6F41, four bits at a time: the table is 16 words and needs no set-up. */
    static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
                                       0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                       0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    const unsigned char *p = bytes;
    crc = ~crc;
    for (; n > 0; n--, p++) {
        crc ^= *p;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}
