/* data.h - datasets on disk (or drawn by rule) become images and labels in memory, split for training and judging. */
#ifndef DATA_H
#define DATA_H
#include "base.h"

struct images {
    int n, h, w, c;         /* 32 x 32 x 3 */
    uint8_t *pixels;        /* [n][h][w][c] */
    uint8_t *fine, *coarse; /* [n]; coarse is all 0 where the dataset has one kind of label */
};

struct dataset {
    char name[32];                    /* "cifar-100", "cifar-10", "synthetic" */
    int fine_classes, coarse_classes; /* 100 and 20; cifar-10: 10 and 0 (one head) */
    const char *const *fine_names;    /* NULL when not known */
    struct images train;              /* what a trial trains on */
    struct images judge; /* what the objective is measured on: held out of the training files, or the test files */
    struct images test;  /* the test files */
};

enum data_objective { OBJECTIVE_VALIDATION, OBJECTIVE_TEST };

struct data_options {
    const char *where; /* a folder, or "synthetic" */
    enum data_objective objective;
    int validation; /* images held out of the training files; -1: 5,000, or a quarter of `images` if fewer */
    int images;     /* train on so many (drawn from what is not held out, the same share of each class); 0: all */
    uint64_t seed;  /* of the hold-out and of the subset: same seed, same images */
};

/* Reads cifar-100-binary (train.bin, test.bin), cifar-10-batches-bin (data_batch_1..5.bin, test_batch.bin), found
 * in `where` or in a folder of that name inside it, or draws "synthetic". Hold-out and subset are stratified by the
 * fine label. With OBJECTIVE_TEST, judge is the test set and nothing is held out. ERROR_USER names the file that is
 * missing, has a wrong size, or holds a label out of range, with the byte offset, and says what to do. */
int data_open(struct dataset *, const struct data_options *, struct error *);
void data_close(struct dataset *);

/* One file of records for tests and fuzzing: bytes[n] of `labels` label bytes and 3,072 pixel bytes (three planes) a
 * record become images. fine_limit, coarse_limit: labels at or above are an error. */
int data_decode(struct images *, const uint8_t *bytes, size_t n, int labels, int fine_limit, int coarse_limit,
                const char *file, struct error *);
#endif
