/* checkpoint.h - plain binary files: the log of trials, and the tensors of a net. The formats are stated at the top
 * of checkpoint.c. */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H
#include "space.h"

/* ---- the log of trials ---- */
enum trial_status { TRIAL_OK = 0, TRIAL_FAILED = 1 };

struct trial {
    uint32_t number; /* from 0; hyperopt's tid */
    enum trial_status status;
    double loss;      /* what TPE minimises; minus the best fine accuracy; NaN in memory and on disk when failed */
    double seconds;   /* wall time it took */
    int64_t finished; /* Unix time */
    uint32_t epochs;  /* epochs trained */
    double fine_accuracy, coarse_accuracy; /* best */
    const char *name;     /* of its result file, without folder and ending: "model_0.676100_6066e"; "" when failed */
    const char *reason;   /* "" or why it failed or stopped early */
    const double *values; /* n_values doubles, NaN for the inactive */
    int n_values, space;  /* parameters of its space, and which of the log's spaces that is (log_append sets both) */
};

/* A trial that a worker has taken. The last claim of a number holds; a trial that is recorded has none. */
struct claim {
    uint32_t number, attempt; /* attempt: from 1; each worker that takes the trial over adds 1 */
    int given_back;           /* its worker has stopped and left it to the others */
    const char *worker;       /* see worker.h */
    int64_t since;            /* Unix time */
    const double *values;
    int n_values, space;
};

struct log_header {
    uint64_t seed;
    const char *space;    /* the normal form of the space: of the last, where a search went on with another */
    const char *settings; /* one line of JSON: what else must not change between runs (data, epochs, objective ...) */
};

struct log; /* opaque: an open log; its trials are in memory, in the order of their records */

/* Opens FOLDER/trials.log, creating folder and file when they are not there (then header is written to it; header
 * may be NULL to open only an existing one: a missing log is ERROR_USER). A torn or damaged tail is cut off; what was
 * cut is kept in a file beside it, and *notice (at least 300 bytes, "" when all was well) says in one line what was
 * dropped. ERROR_USER: not a log, another version, no header. With write 0 nothing on disk is changed. */
int log_open(struct log **, const char *folder, const struct log_header *header, int write, char *notice, size_t room,
             struct error *);
void log_close(struct log *);
const struct log_header *log_get_header(const struct log *);
int log_count(const struct log *);
const struct trial *log_trial(const struct log *, int i); /* valid until log_close */
/* Appends one trial: under a lock, one write, fsync; recorded when it returns OK. On an error (disk full) the file is
 * cut back to what it held. Its values are as
 * many as the log's space has parameters. */
int log_append(struct log *, const struct trial *, int n_values, struct error *);

/* ---- many workers on one log. Between log_lock and log_unlock this process alone writes; log_lock also reads what
 * others have appended; ERROR_ENVIRONMENT, and nothing is written, where the file was cut back or replaced under this
 * process. log_append and its like may be called inside (they lock by themselves where that is missing).
 */
int log_lock(struct log *, struct error *);
void log_unlock(struct log *);
/* Called with a line for people when a lock is waited for (after LOG_PATIENCE seconds it is an ERROR_ENVIRONMENT), and
 * when log_lock has cut off what a writer that died has left; NULL: nobody is told. */
extern void (*log_says)(const char *line);
enum { LOG_WAIT_TOLD = 10, LOG_PATIENCE = 120 };
int log_claims(const struct log *); /* open claims, those given back included */
struct claim log_claim(const struct log *, int i);
/* The open claim of a number; 0 where it has none. */
int log_find_claim(const struct log *, uint32_t number, struct claim *);
int log_recorded(const struct log *, uint32_t number);
uint32_t log_free(const struct log *); /* the least number that is neither recorded nor claimed */
int log_take(struct log *, const struct claim *, int n_values, struct error *);
int log_give_back(struct log *, uint32_t number, uint32_t attempt, struct error *);
/* From here on trials belong to another space. */
int log_change_space(struct log *, const char *space, struct error *);
/* log_append, between log_lock and log_unlock, of a trial that was begun in an earlier space: it is recorded as one of
 * that, and the present space stays the log's. */
int log_append_of(struct log *, const char *space, const struct trial *, int n_values, struct error *);
int log_spaces(const struct log *);
const char *log_space(const struct log *, int i);

/* Decodes a log from memory: the reader behind log_open, for tests and fuzzing. *used: bytes up to the end of the
 * last good record. */
int log_decode(struct log **, const uint8_t *bytes, size_t n, size_t *used, char *notice, size_t room, struct error *);

/* ---- tensors: the weights of a net; a safetensors file (8 bytes of header length, JSON header, raw little-endian
 * data), so that any reader of that format loads it; a CRC-32C of the data stands in its metadata ---- */
struct tensor {
    const char *name;
    int dims, shape[4];
    float *data; /* F32, row major */
};
struct tensors {
    struct arena arena;
    int n;
    struct tensor *all;
    const struct value *metadata; /* strings by name ("config": "{...}", ...); or NULL */
    float *block;                 /* the data behind all tensors */
};
/* metadata: pairs of key, value, key, value, NULL. */
int tensors_write(const char *path, const struct tensor *, int n, const char *const *metadata, struct error *);
int tensors_read(struct tensors *, const char *path, struct error *);
int tensors_decode(struct tensors *, const uint8_t *bytes, size_t n, const char *file, struct error *);
const struct tensor *tensors_find(const struct tensors *, const char *name);
/* A metadata string, or NULL. */
const char *tensors_get(const struct tensors *, const char *key);
void tensors_free(struct tensors *);
#endif
