/* checkpoint.c - the log of trials and the tensors of a net, as plain files.
 *
 * The log, FOLDER/trials.log, is append-only. All numbers are little-endian.
 *
 *     file    = "parzen trials 1\n" record*
 *     record  = u32 marker 0x7A52504C, u32 type, u32 length, payload[length], u32 CRC-32C of type, length and payload
 *     type 1, the search, first and once:  u64 seed, string space, string settings
 *     type 2, a trial:  u32 number, u32 status, f64 loss, f64 seconds, i64 finished (Unix), u32 epochs, f64 fine,
 *                       f64 coarse, string name, string reason, u32 n, f64 values[n] (NaN: inactive)
 *     type 3, a claim:  u32 number, u32 attempt, i64 since (Unix), string worker, u32 n, f64 values[n]
 *     type 4, a claim given back:  u32 number, u32 attempt
 *     type 5, the space of what follows:  string space
 *     string  = u32 bytes, bytes (UTF-8, no 0)
 *
 * A record of another type with a good checksum is passed over, so that a later version may add some. A record counts
 * when it lies whole and unhurt behind others that do: at the first that does not, reading ends. What follows is cut
 * off when the log is opened for writing, and kept in trials.log.cut-OFFSET.
 *
 * Writers append under a lock of the whole file, read what others have appended before they write, write a record with
 * one call, and fsync. The lock is fcntl's, of the open file (Linux) where there is such, else of the process: on NFS
 * it is the server's, which link- and O_EXCL-made lock files on old servers are not, and it goes with its holder: a
 * process that dies gives it back at once, a machine that dies when the server's lease ends. So no lock can be stale. A
 * process that is stopped while it holds the lock is waited for, not for ever.
 *
 * Tensors are a safetensors file: u64 n, n bytes of JSON {"__metadata__": {...}, NAME: {"dtype": "F32", "shape": [...],
 * "data_offsets": [begin, end]}, ...}, padded with spaces to a multiple of 8, then the data. The metadata's "crc32c" is
 * that of the data, its "metadata_crc32c" that of the other keys and values, in their order, each with a 0 behind it.
 */
#define _GNU_SOURCE
#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char log_magic[] = "parzen trials 1\n";
enum { MAGIC = 16, VERSION = 14, MARKER = 0x7A52504C, RECORD_HEAD = 12, RECORD_LEAST = 16, RECORD_MOST = 16 << 20 };
enum { CHECKSUM = 4 /* bytes at a record's end */ };
enum { RECORD_SEARCH = 1, RECORD_TRIAL, RECORD_CLAIM, RECORD_GIVE_BACK, RECORD_SPACE };

/* ==================================== bytes there and back ==================================== */

static void put(struct text *t, uint64_t x, int bytes) {
    char b[8];
    for (int i = 0; i < bytes; i++) b[i] = (char)(x >> (8 * i) & 255);
    text_add_bytes(t, b, (size_t)bytes);
}

static void put_double(struct text *t, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    put(t, bits, 8);
}

static void put_string(struct text *t, const char *s) {
    put(t, strlen(s), 4);
    text_add_bytes(t, s, strlen(s));
}

/* Reads from [at, end); what reaches behind it makes `bad`. */
struct cursor {
    const uint8_t *at, *end;
    int bad;
};

static uint64_t take(struct cursor *c, int bytes) {
    uint64_t x = 0;
    if (c->bad || c->end - c->at < bytes) {
        c->bad = 1;
        return 0;
    }
    for (int i = 0; i < bytes; i++) x |= (uint64_t)c->at[i] << (8 * i);
    c->at += bytes;
    return x;
}

static double take_double(struct cursor *c) {
    const uint64_t bits = take(c, 8);
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static const char *take_string(struct cursor *c, struct arena *a, int *no_memory) {
    const size_t n = (size_t)take(c, 4);
    if (c->bad || (size_t)(c->end - c->at) < n || memchr(c->at, 0, n) != NULL) {
        c->bad = 1;
        return "";
    }
    const char *s = arena_string(a, (const char *)c->at, n);
    c->at += n;
    if (s == NULL) *no_memory = 1;
    return s != NULL ? s : "";
}

static uint32_t word_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* ========================================== the log =========================================== */

/* What is known of a number: a place of a hash table. */
struct known {
    uint32_t number;
    int used, recorded;
    int claim; /* its place among the claims; -1: none */
};

struct log {
    struct arena arena; /* all strings and values */
    char *path;
    int file, write, locked;
    int has_header;
    struct log_header header;
    int n, room, n_values; /* n_values: of every trial of this space; -1 until the first */
    struct trial *trials;
    int n_claims, claims_room; /* open ones */
    struct claim *claims;
    int n_known, known_room; /* room: a power of two, or 0 */
    struct known *known;
    uint32_t free; /* all below are recorded or claimed */
    int n_spaces;
    const char **spaces;
    size_t end;    /* of the last good record in the file */
    uint32_t last; /* that record's checksum: the file's bytes before `end` */
};

void (*log_says)(const char *line);

static void add_record(struct text *t, uint32_t type, const struct text *payload) {
    const size_t start = t->n;
    put(t, MARKER, 4);
    put(t, type, 4);
    put(t, payload->n, 4);
    text_add_bytes(t, payload->s != NULL ? payload->s : "", payload->n);
    if (!t->failed) put(t, crc32c(0, t->s + start + 4, t->n - start - 4), 4);
    if (payload->failed) t->failed = 1;
}

static int log_room(struct log *log) {
    if (log->n < log->room) return 1;
    const int room = log->room == 0 ? 64 : 2 * log->room;
    struct trial *trials = mem_grow(log->trials, (size_t)room * sizeof *trials);
    if (trials == NULL) return 0;
    log->trials = trials;
    log->room = room;
    return 1;
}

static struct known *known_place(const struct log *log, uint32_t number) {
    if (log->known_room == 0) return NULL;
    const uint32_t mask = (uint32_t)log->known_room - 1;
    uint32_t i = (number * 2654435761u) & mask;
    while (log->known[i].used && log->known[i].number != number) i = (i + 1) & mask;
    return &log->known[i];
}

static const struct known *known_find(const struct log *log, uint32_t number) {
    const struct known *k = known_place(log, number);
    return k != NULL && k->used ? k : NULL;
}

/* The place of a number, made where it has none. NULL where there is no memory. */
static struct known *known_make(struct log *log, uint32_t number) {
    if (2 * (log->n_known + 1) > log->known_room) {
        const struct log old = *log;
        const int room = log->known_room == 0 ? 64 : 2 * log->known_room;
        struct known *all = mem_zero((size_t)room, sizeof *all);
        if (all == NULL) return NULL;
        log->known = all;
        log->known_room = room;
        for (int i = 0; i < old.known_room; i++) {
            if (old.known[i].used) *known_place(log, old.known[i].number) = old.known[i];
        }
        mem_free(old.known);
    }
    struct known *k = known_place(log, number);
    if (!k->used) {
        *k = (struct known){.number = number, .used = 1, .claim = -1};
        log->n_known++;
    }
    return k;
}

static void drop_claim(struct log *log, struct known *k) {
    if (k->claim < 0) return;
    const int last = --log->n_claims;
    if (k->claim != last) { /* the last takes its place */
        log->claims[k->claim] = log->claims[last];
        known_place(log, log->claims[last].number)->claim = k->claim;
    }
    k->claim = -1;
}

/* Values at the end of a payload: u32 n, f64[n]. Returns 1, 0 where they make no sense, -1 without memory. */
static int take_values(struct log *log, struct cursor *c, const double **out, int *n) {
    const size_t values = (size_t)take(c, 4);
    if (c->bad || values != (size_t)(c->end - c->at) / 8 || (size_t)(c->end - c->at) % 8 != 0) return 0;
    if (log->n_values >= 0 && values != (size_t)log->n_values) return 0;
    double *v = arena_alloc(&log->arena, (values + 1) * sizeof *v);
    if (v == NULL) return -1;
    for (size_t i = 0; i < values; i++) v[i] = take_double(c);
    *out = v;
    *n = (int)values;
    return 1;
}

static int take_space(struct log *log, const char *space) {
    const char **spaces = mem_grow(log->spaces, ((size_t)log->n_spaces + 1) * sizeof *spaces);
    if (spaces == NULL) return -1;
    log->spaces = spaces;
    log->spaces[log->n_spaces++] = log->header.space = space;
    log->n_values = -1;
    return 1;
}

static int take_claim(struct log *log, struct cursor *c) {
    struct claim claim;
    int no_memory = 0;
    memset(&claim, 0, sizeof claim);
    claim.number = (uint32_t)take(c, 4);
    claim.attempt = (uint32_t)take(c, 4);
    claim.since = (int64_t)take(c, 8);
    claim.worker = take_string(c, &log->arena, &no_memory);
    if (no_memory) return -1;
    const int taken = take_values(log, c, &claim.values, &claim.n_values);
    if (taken <= 0) return taken;
    claim.space = log->n_spaces - 1;
    log->n_values = claim.n_values;
    struct known *k = known_make(log, claim.number);
    if (k == NULL) return -1;
    if (k->recorded) return 1; /* of a worker that came too late */
    if (k->claim < 0) {
        if (log->n_claims == log->claims_room) {
            const int room = log->claims_room == 0 ? 16 : 2 * log->claims_room;
            struct claim *claims = mem_grow(log->claims, (size_t)room * sizeof *claims);
            if (claims == NULL) return -1;
            log->claims = claims;
            log->claims_room = room;
        }
        k->claim = log->n_claims++;
    }
    log->claims[k->claim] = claim;
    return 1;
}

static int take_give_back(struct log *log, struct cursor *c) {
    const uint32_t number = (uint32_t)take(c, 4), attempt = (uint32_t)take(c, 4);
    if (c->bad || c->at != c->end) return 0;
    const struct known *k = known_find(log, number);
    if (k != NULL && k->claim >= 0 && log->claims[k->claim].attempt == attempt) log->claims[k->claim].given_back = 1;
    return 1;
}

/* Takes one good record into memory. Returns 1, 0 where its payload makes no sense, -1 where there is no memory. */
static int take_record(struct log *log, uint32_t type, const uint8_t *payload, size_t n) {
    struct cursor c = {payload, payload + n, 0};
    int no_memory = 0;
    if (type == RECORD_SEARCH) {
        if (log->has_header) return 0;
        log->header.seed = take(&c, 8);
        log->header.space = take_string(&c, &log->arena, &no_memory);
        log->header.settings = take_string(&c, &log->arena, &no_memory);
        if (no_memory) return -1;
        if (c.bad || c.at != c.end) return 0;
        if (take_space(log, log->header.space) < 0) return -1;
        return log->has_header = 1;
    }
    if (!log->has_header) return 0; /* the search comes first */
    if (type == RECORD_CLAIM) return take_claim(log, &c);
    if (type == RECORD_GIVE_BACK) return take_give_back(log, &c);
    if (type == RECORD_SPACE) {
        const char *space = take_string(&c, &log->arena, &no_memory);
        if (no_memory) return -1;
        return c.bad || c.at != c.end ? 0 : take_space(log, space);
    }
    if (type != RECORD_TRIAL) return 1;
    struct trial t;
    memset(&t, 0, sizeof t);
    t.number = (uint32_t)take(&c, 4);
    const uint64_t status = take(&c, 4);
    t.status = status == TRIAL_OK ? TRIAL_OK : TRIAL_FAILED;
    t.loss = take_double(&c);
    t.seconds = take_double(&c);
    t.finished = (int64_t)take(&c, 8);
    t.epochs = (uint32_t)take(&c, 4);
    t.fine_accuracy = take_double(&c);
    t.coarse_accuracy = take_double(&c);
    t.name = take_string(&c, &log->arena, &no_memory);
    t.reason = take_string(&c, &log->arena, &no_memory);
    if (no_memory) return -1;
    if (c.bad || status > TRIAL_FAILED) return 0;
    const int taken = take_values(log, &c, &t.values, &t.n_values);
    if (taken <= 0) return taken;
    struct known *k = known_make(log, t.number);
    if (k == NULL || !log_room(log)) return -1;
    t.space = log->n_spaces - 1;
    log->n_values = t.n_values;
    drop_claim(log, k);
    /* A number that is there twice was trained twice (two copies of a search, say): the first was told to TPE. */
    if (!k->recorded) log->trials[log->n++] = t;
    k->recorded = 1;
    return 1;
}

/* The length of the whole, unhurt record at p, or 0. */
static size_t good_record(const uint8_t *p, size_t n) {
    if (n < RECORD_LEAST || word_at(p) != MARKER) return 0;
    const uint32_t length = word_at(p + 8);
    if (length > RECORD_MOST || length > n - RECORD_LEAST) return 0;
    return crc32c(0, p + 4, 8 + (size_t)length) == word_at(p + RECORD_HEAD + length) ? RECORD_LEAST + (size_t)length
                                                                                     : 0;
}

/* Reads records from bytes[at..n). Returns OK or an error of memory; log->end stands behind the last good record. */
static int read_records(struct log *log, const uint8_t *bytes, size_t at, size_t n, struct error *e) {
    const size_t start = at;
    for (;;) {
        const size_t size = good_record(bytes + at, n - at);
        const int taken =
            size > 0 ? take_record(log, word_at(bytes + at + 4), bytes + at + RECORD_HEAD, size - RECORD_LEAST) : 0;
        if (taken < 0) return error_memory(e, size, "the log");
        if (!taken) break;
        at += size;
    }
    log->end = at;
    if (at > start) log->last = word_at(bytes + at - CHECKSUM);
    return OK;
}

/* How many trials lie unhurt behind the damage: for the notice only. */
static int count_trials(const uint8_t *bytes, size_t n) {
    int count = 0;
    for (size_t at = 0; at + RECORD_LEAST <= n;) {
        const size_t size = good_record(bytes + at, n - at);
        count += size > 0 && word_at(bytes + at + 4) == RECORD_TRIAL;
        at += size > 0 ? size : 1;
    }
    return count;
}

static struct log *log_new(struct error *e) {
    struct log *log = mem_zero(1, sizeof *log);
    if (log == NULL) {
        error_memory(e, sizeof *log, "the log");
        return NULL;
    }
    log->file = -1;
    log->n_values = -1;
    return log;
}

/* Decodes into a fresh log. */
static int decode(struct log *log, const uint8_t *bytes, size_t n, const char *name, char *notice, size_t room,
                  struct error *e) {
    if (room > 0) notice[0] = '\0';
    if (n < MAGIC || memcmp(bytes, log_magic, MAGIC) != 0) {
        if (n >= MAGIC && memcmp(bytes, log_magic, VERSION) == 0) {
            char version[8];
            const int c = bytes[VERSION];
            snprintf(version, sizeof version, c > 32 && c < 127 ? "%c" : "\\x%02x", c);
            return error_set(
                e, ERROR_USER,
                "%s: written by another version of parzen ('parzen trials %s'); use that, or give another --results",
                name, version);
        }
        return error_set(e, ERROR_USER, "%s: is not a log of parzen; give another --results", name);
    }
    const int failed = read_records(log, bytes, MAGIC, n, e);
    if (failed) return failed;
    if (!log->has_header) {
        return error_set(e, ERROR_USER,
                         "%s: its first record, the search itself, is damaged (byte %d); restore the file, or give "
                         "another --results",
                         name, MAGIC);
    }
    if (log->end < n) {
        const int lost = count_trials(bytes + log->end, n - log->end);
        if (lost > 0) {
            snprintf(notice, room,
                     "%s: damaged at byte %zu; the %d trials before it are kept, %zu bytes with %d trials behind it "
                     "are dropped",
                     name, log->end, log->n, n - log->end, lost);
        } else {
            snprintf(notice, room,
                     "%s: its last record is torn (a crash while it was written); %zu bytes from byte %zu are dropped, "
                     "all %d trials are kept",
                     name, n - log->end, log->end, log->n);
        }
    }
    return OK;
}

int log_decode(struct log **out, const uint8_t *bytes, size_t n, size_t *used, char *notice, size_t room,
               struct error *e) {
    struct log *log = log_new(e);
    *out = NULL;
    *used = 0;
    if (log == NULL) return ERROR_TRIAL;
    const int failed = decode(log, bytes, n, "trials.log", notice, room, e);
    if (failed) {
        log_close(log);
        return failed;
    }
    *used = log->end;
    *out = log;
    return OK;
}

/* ---- the file ---- */

/* One try at the lock of the whole file. Of the open file where the system knows that: such a lock holds between two
 * logs of one process, too. Returns 0, or errno. */
static int try_lock(int file, short type) {
    struct flock l = {.l_type = type, .l_whence = SEEK_SET};
#ifdef F_OFD_SETLK
    if (fcntl(file, F_OFD_SETLK, &l) == 0) return 0;
    if (errno != EINVAL) return errno; /* EINVAL: this file system has only the other kind */
#endif
    return fcntl(file, F_SETLK, &l) == 0 ? 0 : errno;
}

/* Takes or gives back the lock; waits for it, with a word after LOG_WAIT_TOLD seconds, until LOG_PATIENCE. */
static int lock(struct log *log, short type, struct error *e) {
    const double start = clock_seconds();
    int told = 0;
    for (long pause = 1000000;; pause = pause < 50000000 ? pause + pause / 2 : pause) {
        const int why = try_lock(log->file, type);
        if (why == 0) return OK;
        if (why == ENOLCK || why == ENOSYS || why == EOPNOTSUPP) {
            return error_set(e, ERROR_ENVIRONMENT,
                             "%s: this file system has no locks (%s); put --results on one that has (NFS: without the "
                             "option nolock)",
                             log->path, strerror(why));
        }
        if (why != EINTR && why != EAGAIN && why != EACCES)
            return error_set(e, ERROR_ENVIRONMENT, "%s: cannot be locked: %s", log->path, strerror(why));
        const double waited = clock_seconds() - start;
        if (waited > LOG_PATIENCE) {
            return error_set(e, ERROR_ENVIRONMENT,
                             "%s: has been locked by another process for %d seconds; is one stopped, or a server gone? "
                             "`lslocks` shows it",
                             log->path, LOG_PATIENCE);
        }
        if (waited > LOG_WAIT_TOLD && !told && log_says != NULL) {
            char line[PATH_MAX + 200];
            snprintf(line, sizeof line, "%s: is locked by another process; waiting up to %d seconds", log->path,
                     LOG_PATIENCE);
            log_says(line);
            told = 1;
        }
        const struct timespec t = {0, pause};
        nanosleep(&t, NULL);
    }
}

static void unlock(struct log *log) {
    struct error ignored; /* closing the file gives the lock back anyway */
    lock(log, F_UNLCK, &ignored);
}

/* The file's bytes from `from` on. */
static int read_file(const struct log *log, size_t from, uint8_t **bytes, size_t *n, struct error *e) {
    struct stat s;
    *bytes = NULL;
    *n = 0;
    if (fstat(log->file, &s) != 0) return error_set(e, ERROR_ENVIRONMENT, "%s: %s", log->path, strerror(errno));
    const size_t size = s.st_size > (off_t)from ? (size_t)s.st_size - from : 0;
    uint8_t *buffer = mem_alloc(size + 1);
    if (buffer == NULL) return error_memory(e, size, "the log");
    while (*n < size) {
        const ssize_t got = pread(log->file, buffer + *n, size - *n, (off_t)(from + *n));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            mem_free(buffer);
            return error_set(e, ERROR_ENVIRONMENT, "%s: cannot be read: %s", log->path, strerror(errno));
        }
        if (got == 0) break;
        *n += (size_t)got;
    }
    *bytes = buffer;
    return OK;
}

/* Writes at the end of the good part, fsyncs; on failure the file is what it was. */
static int append_bytes(struct log *log, const char *bytes, size_t n, struct error *e) {
    size_t done = 0;
    int why = 0;
    while (done < n && why == 0) {
        const ssize_t put_now = pwrite(log->file, bytes + done, n - done, (off_t)(log->end + done));
        if (put_now > 0) {
            done += (size_t)put_now;
        } else if (put_now < 0 && errno != EINTR) {
            why = errno;
        } else if (put_now == 0) {
            why = ENOSPC;
        }
    }
    if (why == 0 && fsync(log->file) != 0) why = errno;
    if (why != 0) {
        if (ftruncate(log->file, (off_t)log->end) != 0) {
            return error_set(e, ERROR_ENVIRONMENT, "%s: cannot be written: %s (nor cut back: the next start does that)",
                             log->path, strerror(why));
        }
        return error_set(e, ERROR_ENVIRONMENT, "%s: cannot be written: %s; nothing recorded is lost", log->path,
                         strerror(why));
    }
    log->end += n;
    return OK;
}

/* Keeps the n bytes behind the good part in a file of its own, then cuts them off. */
static int cut_tail(struct log *log, const uint8_t *tail, size_t n, char *notice, size_t room, struct error *e) {
    char path[PATH_MAX];
    struct stat s;
    int i = 0;
    do {
        snprintf(path, sizeof path, i == 0 ? "%s.cut-%zu" : "%s.cut-%zu.%d", log->path, log->end, i);
    } while (stat(path, &s) == 0 && ++i < 10000);
    const int failed = file_write(path, tail, n, e);
    if (failed) return failed;
    if (ftruncate(log->file, (off_t)log->end) != 0 || fsync(log->file) != 0) {
        return error_set(e, ERROR_ENVIRONMENT, "%s: cannot be cut: %s", log->path, strerror(errno));
    }
    const size_t used = strlen(notice);
    if (used < room) snprintf(notice + used, room - used, " (kept in %s)", path);
    return OK;
}

static int begin_log(struct log *log, const struct log_header *header, struct error *e) {
    struct text payload = {0}, file = {0};
    put(&payload, header->seed, 8);
    put_string(&payload, header->space);
    put_string(&payload, header->settings);
    text_add_bytes(&file, log_magic, MAGIC);
    add_record(&file, RECORD_SEARCH, &payload);
    log->end = 0;
    int failed = file.failed ? error_memory(e, file.n, "the log's beginning") : append_bytes(log, file.s, file.n, e);
    if (!failed) failed = read_records(log, (const uint8_t *)file.s, MAGIC, file.n, e);
    text_free(&payload);
    text_free(&file);
    return failed;
}

/* fsync of the folder: the new file's name is on disk, too. */
static int sync_folder(const char *folder, struct error *e) {
    const int f = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int good = f >= 0 && (fsync(f) == 0 || errno == EINVAL);
    const int why = errno;
    if (f >= 0) close(f);
    return good ? OK : error_set(e, ERROR_ENVIRONMENT, "%s: cannot be written: %s", folder, strerror(why));
}

/* A file that ends inside its first record is a search that was killed while it began, and holds nothing. */
static int never_begun(const uint8_t *bytes, size_t n) {
    if (memcmp(bytes, log_magic, n < MAGIC ? n : MAGIC) != 0) return 0;
    if (n < MAGIC + RECORD_HEAD) return 1;
    return n - MAGIC - RECORD_HEAD < (size_t)word_at(bytes + MAGIC + 8) + 4 && count_trials(bytes, n) == 0;
}

static int open_locked(struct log *log, const char *folder, const struct log_header *header, char *notice, size_t room,
                       struct error *e) {
    uint8_t *bytes = NULL;
    size_t n = 0;
    int failed = read_file(log, 0, &bytes, &n, e);
    if (!failed && log->write && header != NULL && never_begun(bytes, n)) {
        failed = begin_log(log, header, e);
        if (!failed) failed = sync_folder(folder, e);
    } else if (!failed) {
        failed = decode(log, bytes, n, log->path, notice, room, e);
        if (!failed && log->end < n && log->write)
            failed = cut_tail(log, bytes + log->end, n - log->end, notice, room, e);
    }
    mem_free(bytes);
    return failed;
}

int log_open(struct log **out, const char *folder, const struct log_header *header, int write, char *notice,
             size_t room, struct error *e) {
    struct text path = {0};
    struct log *log = log_new(e);
    *out = NULL;
    if (room > 0) notice[0] = '\0';
    if (log == NULL) return ERROR_TRIAL;
    text_add(&path, "%s/trials.log", folder);
    log->path = path.s;
    log->write = write;
    int failed = path.failed ? error_memory(e, strlen(folder), "a path") : OK;
    if (!failed && write && header != NULL) failed = folder_make(folder, e);
    if (!failed) {
        log->file =
            open(log->path, write ? O_RDWR | (header != NULL ? O_CREAT : 0) | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0666);
        if (log->file < 0 && errno == ENOENT) {
            failed = error_set(e, ERROR_USER, "%s: there is no search here; parzen search --results %s begins one",
                               log->path, folder);
        } else if (log->file < 0 && errno == ENOTDIR) {
            failed = error_set(e, ERROR_USER, "%s: is not a folder", folder);
        } else if (log->file < 0) {
            failed = error_set(e, ERROR_ENVIRONMENT, "%s: cannot be opened: %s", log->path, strerror(errno));
        }
    }
    if (!failed) failed = lock(log, write ? F_WRLCK : F_RDLCK, e);
    if (!failed) {
        failed = open_locked(log, folder, header, notice, room, e);
        unlock(log);
    }
    if (failed) {
        log_close(log);
        return failed;
    }
    *out = log;
    return OK;
}

void log_close(struct log *log) {
    if (log == NULL) return;
    if (log->file >= 0) close(log->file);
    arena_free(&log->arena);
    mem_free(log->trials);
    mem_free(log->claims);
    mem_free(log->known);
    mem_free(log->spaces);
    mem_free(log->path);
    mem_free(log);
}

const struct log_header *log_get_header(const struct log *log) { return &log->header; }
int log_count(const struct log *log) { return log->n; }
const struct trial *log_trial(const struct log *log, int i) { return &log->trials[i]; }

static void add_trial(struct text *p, const struct trial *t, int n_values) {
    put(p, t->number, 4);
    put(p, (uint64_t)t->status, 4);
    put_double(p, t->loss);
    put_double(p, t->seconds);
    put(p, (uint64_t)t->finished, 8);
    put(p, t->epochs, 4);
    put_double(p, t->fine_accuracy);
    put_double(p, t->coarse_accuracy);
    put_string(p, t->name);
    put_string(p, t->reason);
    put(p, (uint64_t)n_values, 4);
    for (int i = 0; i < n_values; i++) put_double(p, t->values[i]);
}

int log_claims(const struct log *log) { return log->n_claims; }
struct claim log_claim(const struct log *log, int i) {
    return log->claims[i];
}
int log_spaces(const struct log *log) { return log->n_spaces; }
const char *log_space(const struct log *log, int i) { return log->spaces[i]; }

int log_find_claim(const struct log *log, uint32_t number, struct claim *out) {
    const struct known *k = known_find(log, number);
    if (k == NULL || k->claim < 0) return 0;
    *out = log->claims[k->claim];
    return 1;
}

int log_recorded(const struct log *log, uint32_t number) {
    const struct known *k = known_find(log, number);
    return k != NULL && k->recorded;
}

uint32_t log_free(const struct log *log) {
    uint32_t number = log->free;
    while (number < UINT32_MAX && known_find(log, number) != NULL) number++;
    return number;
}

/* Is the file still the one that was read, with the last record where it was? A newcomer that has found damage in it
 * has cut it back; someone may have put another in its place. Writing at the old end would then destroy what is there.
 * bytes: the file's, from that record's checksum on. */
static int check_file(const struct log *log, const uint8_t *bytes, size_t n, struct error *e) {
    struct stat open_one, named;
    if (n >= CHECKSUM && word_at(bytes) == log->last && fstat(log->file, &open_one) == 0 &&
        stat(log->path, &named) == 0 && open_one.st_ino == named.st_ino && open_one.st_dev == named.st_dev)
        return OK;
    return error_set(e, ERROR_ENVIRONMENT,
                     "%s: was cut back or replaced while this process worked on it (damage that another one found?); "
                     "nothing more is written to it; the same command goes on with what it holds now",
                     log->path);
}

/* What a writer that died has left half written. */
static int cut_torn(struct log *log, const uint8_t *tail, size_t n, struct error *e) {
    char line[2 * PATH_MAX + 200];
    snprintf(line, sizeof line,
             "%s: what stands behind byte %zu is torn or damaged; %zu bytes with %d trials are dropped", log->path,
             log->end, n, count_trials(tail, n));
    const int failed = cut_tail(log, tail, n, line, sizeof line, e);
    if (!failed && log_says != NULL) log_says(line);
    return failed;
}

int log_lock(struct log *log, struct error *e) {
    uint8_t *bytes = NULL;
    size_t n = 0;
    if (!log->write) return error_set(e, ERROR_ENVIRONMENT, "%s: is open for reading only", log->path);
    int failed = lock(log, F_WRLCK, e);
    if (failed) return failed;
    const size_t from = log->end - CHECKSUM;
    failed = read_file(log, from, &bytes, &n, e); /* what others have appended */
    if (!failed) failed = check_file(log, bytes, n, e);
    if (!failed) {
        failed = read_records(log, bytes, CHECKSUM, n, e);
        if (!failed) log->end += from;
    }
    if (!failed && from + n > log->end) failed = cut_torn(log, bytes + (log->end - from), from + n - log->end, e);
    mem_free(bytes);
    if (failed) {
        unlock(log);
        return failed == ERROR_TRIAL ? ERROR_ENVIRONMENT : failed;
    }
    log->free = log_free(log);
    log->locked = 1;
    return OK;
}

void log_unlock(struct log *log) {
    if (log->locked) unlock(log);
    log->locked = 0;
}

/* Appends records, under the lock and with one write; they are taken into memory as if they had been read. */
static int append_records(struct log *log, const struct text *records, struct error *e) {
    const int was_locked = log->locked;
    int failed = records->failed ? error_memory(e, records->n, "a record") : OK;
    if (!failed && !was_locked) failed = log_lock(log, e);
    if (!failed) {
        const size_t end = log->end;
        failed = append_bytes(log, records->s, records->n, e);
        if (!failed) {
            failed = read_records(log, (const uint8_t *)records->s, 0, records->n, e);
            log->end = failed ? end : end + records->n; /* what there is no memory for now is read again later */
        }
        if (!was_locked) log_unlock(log);
    }
    return failed == ERROR_TRIAL ? ERROR_ENVIRONMENT
                                 : failed; /* a trial that cannot be recorded must not be passed over */
}

static int append_record(struct log *log, uint32_t type, const struct text *payload, struct error *e) {
    struct text record = {0};
    add_record(&record, type, payload);
    const int failed = append_records(log, &record, e);
    text_free(&record);
    return failed;
}

static int check_values(const struct log *log, int n_values, struct error *e) {
    if (log->n_values < 0 || n_values == log->n_values) return OK;
    return error_set(e, ERROR_USER, "%s: its trials have %d values, not %d", log->path, log->n_values, n_values);
}

int log_append(struct log *log, const struct trial *t, int n_values, struct error *e) {
    struct text payload = {0};
    int failed = check_values(log, n_values, e);
    add_trial(&payload, t, n_values);
    if (!failed) failed = append_record(log, RECORD_TRIAL, &payload, e);
    text_free(&payload);
    return failed;
}

int log_append_of(struct log *log, const char *space, const struct trial *t, int n_values, struct error *e) {
    struct text trial = {0}, before = {0}, after = {0}, records = {0};
    add_trial(&trial, t, n_values);
    put_string(&before, space);
    put_string(&after, log->header.space);
    add_record(&records, RECORD_SPACE, &before);
    add_record(&records, RECORD_TRIAL, &trial);
    add_record(&records, RECORD_SPACE, &after);
    const int failed = append_records(log, &records, e);
    text_free(&trial);
    text_free(&before);
    text_free(&after);
    text_free(&records);
    return failed;
}

int log_take(struct log *log, const struct claim *c, int n_values, struct error *e) {
    struct text p = {0};
    int failed = check_values(log, n_values, e);
    put(&p, c->number, 4);
    put(&p, c->attempt, 4);
    put(&p, (uint64_t)c->since, 8);
    put_string(&p, c->worker);
    put(&p, (uint64_t)n_values, 4);
    for (int i = 0; i < n_values; i++) put_double(&p, c->values[i]);
    if (!failed) failed = append_record(log, RECORD_CLAIM, &p, e);
    text_free(&p);
    return failed;
}

int log_give_back(struct log *log, uint32_t number, uint32_t attempt, struct error *e) {
    struct text p = {0};
    put(&p, number, 4);
    put(&p, attempt, 4);
    const int failed = append_record(log, RECORD_GIVE_BACK, &p, e);
    text_free(&p);
    return failed;
}

int log_change_space(struct log *log, const char *space, struct error *e) {
    struct text p = {0};
    put_string(&p, space);
    const int failed = append_record(log, RECORD_SPACE, &p, e);
    text_free(&p);
    return failed;
}

/* ========================================== tensors =========================================== */

enum { HEADER_MOST = 8 << 20 };

static size_t tensor_floats(const struct tensor *t) {
    size_t n = 1;
    for (int i = 0; i < t->dims; i++) n *= (size_t)t->shape[i];
    return n;
}

int tensors_write(const char *path, const struct tensor *all, int n, const char *const *metadata, struct error *e) {
    struct text file = {0}, header = {0};
    size_t offset = 0;
    uint32_t crc = 0;
    for (int i = 0; i < n; i++) crc = crc32c(crc, all[i].data, tensor_floats(&all[i]) * sizeof(float));
    text_add(&header, "{\"__metadata__\":{\"crc32c\":\"%08x\"", crc);
    crc = 0;
    for (const char *const *m = metadata; *m != NULL; m++) crc = crc32c(crc, *m, strlen(*m) + 1);
    text_add(&header, ",\"metadata_crc32c\":\"%08x\"", crc);
    for (; *metadata != NULL; metadata += 2) {
        text_add(&header, ",");
        text_add_json_string(&header, metadata[0]);
        text_add(&header, ":");
        text_add_json_string(&header, metadata[1]);
    }
    text_add(&header, "}");
    for (int i = 0; i < n; i++) {
        const size_t bytes = tensor_floats(&all[i]) * sizeof(float);
        text_add(&header, ",");
        text_add_json_string(&header, all[i].name);
        text_add(&header, ":{\"dtype\":\"F32\",\"shape\":[");
        for (int k = 0; k < all[i].dims; k++) text_add(&header, k > 0 ? ",%d" : "%d", all[i].shape[k]);
        text_add(&header, "],\"data_offsets\":[%zu,%zu]}", offset, offset + bytes);
        offset += bytes;
    }
    text_add(&header, "}");
    while (header.n % 8 != 0 && !header.failed) text_add(&header, " ");
    put(&file, header.n, 8);
    text_add_bytes(&file, header.s != NULL ? header.s : "", header.n);
    for (int i = 0; i < n; i++)
        text_add_bytes(&file, (const char *)all[i].data, tensor_floats(&all[i]) * sizeof(float));
    const int failed =
        header.failed || file.failed ? error_memory(e, offset, "a weights file") : file_write(path, file.s, file.n, e);
    text_free(&header);
    text_free(&file);
    return failed;
}

static int tensor_complain(struct error *e, const char *file, const char *name, const char *what) {
    return error_set(e, ERROR_USER, "%s: tensor '%.60s' %s; the file is damaged, or not of parzen", file, name, what);
}

/* One entry of the header; offsets must go on where the last ended. */
static int read_tensor(struct tensor *t, const char *name, const struct value *v, size_t *offset, size_t bytes,
                       const char *file, struct error *e) {
    const struct value *dtype = value_get(v, "dtype"), *shape = value_get(v, "shape"),
                       *offsets = value_get(v, "data_offsets");
    size_t floats = 1;
    t->name = name;
    if (dtype == NULL || dtype->kind != VALUE_STRING || strcmp(dtype->string, "F32") != 0)
        return tensor_complain(e, file, name, "has another type than F32");
    if (shape == NULL || shape->kind != VALUE_LIST || shape->n > 4)
        return tensor_complain(e, file, name, "has no shape of at most four dimensions");
    t->dims = shape->n;
    for (int i = 0; i < shape->n; i++) {
        const struct value *s = shape->items[i];
        if (s->kind != VALUE_INT || s->integer < 0 || s->integer > INT_MAX)
            return tensor_complain(e, file, name, "has an impossible shape");
        t->shape[i] = (int)s->integer;
        if (s->integer > 0 && floats > bytes / (size_t)s->integer)
            return tensor_complain(e, file, name, "is larger than the file");
        floats *= (size_t)s->integer;
    }
    if (offsets == NULL || offsets->kind != VALUE_LIST || offsets->n != 2 || offsets->items[0]->kind != VALUE_INT ||
        offsets->items[1]->kind != VALUE_INT || offsets->items[0]->integer != (int64_t)*offset ||
        offsets->items[1]->integer != (int64_t)(*offset + floats * sizeof(float)) ||
        *offset + floats * sizeof(float) > bytes) {
        return tensor_complain(e, file, name, "does not lie where it should");
    }
    *offset += floats * sizeof(float);
    return OK;
}

int tensors_decode(struct tensors *out, const uint8_t *bytes, size_t n, const char *file, struct error *e) {
    struct cursor c = {bytes, bytes + n, 0};
    struct document doc;
    struct text metadata = {0};
    memset(out, 0, sizeof *out);
    const uint64_t length = take(&c, 8);
    if (c.bad || length > HEADER_MOST || length > n - 8)
        return error_set(e, ERROR_USER, "%s: is no weights file (its header's length makes no sense)", file);
    int failed = value_parse(&doc, (const char *)bytes + 8, (size_t)length, file, e);
    if (failed) return failed;
    const uint8_t *data = bytes + 8 + length;
    const size_t size = n - 8 - (size_t)length;
    const struct value *meta = value_get(doc.root, "__metadata__");
    size_t offset = 0;
    if (doc.root->kind != VALUE_DICT)
        failed = error_set(e, ERROR_USER, "%s: is no weights file (its header is no dictionary)", file);
    if (!failed) {
        out->arena = doc.arena; /* the names live there */
        doc.arena.blocks = NULL;
        out->all = mem_zero((size_t)doc.root->n + 1, sizeof *out->all);
        out->block = mem_alloc(size + 1);
        if (out->all == NULL || out->block == NULL) failed = error_memory(e, size, "the tensors");
    }
    for (int i = 0; !failed && i < doc.root->n; i++) {
        if (strcmp(doc.root->keys[i], "__metadata__") == 0) continue;
        const size_t at = offset;
        failed = read_tensor(&out->all[out->n], doc.root->keys[i], doc.root->items[i], &offset, size, file, e);
        if (!failed) out->all[out->n++].data = out->block + at / sizeof(float);
    }
    if (!failed && offset != size)
        failed = error_set(e, ERROR_USER, "%s: is torn, or has bytes too many: its tensors need %zu, it has %zu", file,
                           offset, size);
    const struct value *crc = value_get(meta, "crc32c");
    if (!failed && crc != NULL &&
        (crc->kind != VALUE_STRING || strtoul(crc->string, NULL, 16) != crc32c(0, data, size))) {
        failed = error_set(e, ERROR_USER, "%s: is damaged: the checksum of its data does not match", file);
    }
    const struct value *meta_crc = value_get(meta, "metadata_crc32c");
    if (!failed && meta_crc != NULL) {
        uint32_t sum = 0;
        for (int i = 0; i < meta->n; i++) {
            if (strcmp(meta->keys[i], "crc32c") == 0 || strcmp(meta->keys[i], "metadata_crc32c") == 0) continue;
            const char *text = meta->items[i]->kind == VALUE_STRING ? meta->items[i]->string : "";
            sum = crc32c(sum, meta->keys[i], strlen(meta->keys[i]) + 1);
            sum = crc32c(sum, text, strlen(text) + 1);
        }
        if (meta_crc->kind != VALUE_STRING || strtoul(meta_crc->string, NULL, 16) != sum)
            failed = error_set(e, ERROR_USER, "%s: is damaged: the checksum of its metadata does not match", file);
    }
    if (!failed) {
        memcpy(out->block, data, size);
        for (int i = 0; meta != NULL && meta->kind == VALUE_DICT && i < meta->n; i++) {
            if (meta->items[i]->kind != VALUE_STRING)
                failed = error_set(e, ERROR_USER, "%s: its metadata must be strings", file);
        }
        out->metadata = meta;
    }
    text_free(&metadata);
    document_free(&doc);
    if (failed) tensors_free(out);
    return failed;
}

int tensors_read(struct tensors *out, const char *path, struct error *e) {
    char *bytes;
    size_t n;
    memset(out, 0, sizeof *out);
    int failed = file_read(path, (size_t)8 << 30, &bytes, &n, e);
    if (failed) return failed;
    failed = tensors_decode(out, (const uint8_t *)bytes, n, path, e);
    mem_free(bytes);
    return failed;
}

const struct tensor *tensors_find(const struct tensors *t, const char *name) {
    for (int i = 0; i < t->n; i++) {
        if (strcmp(t->all[i].name, name) == 0) return &t->all[i];
    }
    return NULL;
}

const char *tensors_get(const struct tensors *t, const char *key) {
    const struct value *v = value_get(t->metadata, key);
    return v != NULL && v->kind == VALUE_STRING ? v->string : NULL;
}

void tensors_free(struct tensors *t) {
    arena_free(&t->arena);
    mem_free(t->all);
    mem_free(t->block);
    memset(t, 0, sizeof *t);
}
