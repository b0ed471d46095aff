/* flip_log.c - flips every bit of a log in turn and reads it: the flip must be seen (or the log refused), every trial
 * whose record ends before it kept, and none be there that was not. Also cuts the log at every byte. For logs that
 * searches have left (tests/faults). Usage: flip_log FILE; prints "N trials, N bits, N wrong". */
#include <stdio.h>
#include <string.h>

#include "checkpoint.h"

enum { MAGIC = 16 }; /* bytes before the first record; a record is 12 bytes, a payload, 4 bytes */

static uint32_t word_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int same_trial(const struct trial *a, const struct trial *b, int n_values) {
    return a->number == b->number && a->status == b->status && memcmp(&a->loss, &b->loss, sizeof a->loss) == 0 &&
           a->epochs == b->epochs && a->fine_accuracy == b->fine_accuracy && a->coarse_accuracy == b->coarse_accuracy &&
           strcmp(a->name, b->name) == 0 && strcmp(a->reason, b->reason) == 0 &&
           memcmp(a->values, b->values, (size_t)n_values * sizeof *a->values) == 0;
}

/* The trials of the first `good` bytes, which are whole records, and nothing else? */
static int is_right(const uint8_t *bytes, size_t n, const struct log *whole, const uint8_t *unhurt, size_t good,
                    int n_values) {
    struct log *log, *before;
    struct error e = {0};
    char notice[600], no_notice[600];
    size_t used, used_before;
    const int refused = log_decode(&before, unhurt, good, &used_before, no_notice, sizeof no_notice, &e) != OK;
    const int failed = log_decode(&log, bytes, n, &used, notice, sizeof notice, &e);
    int right;
    if (refused || failed) {
        right = refused && failed == ERROR_USER;
    } else {
        right = used == good && (notice[0] != '\0') == (used < n) && log_count(log) == log_count(before);
        for (int i = 0; right && i < log_count(log); i++)
            right = same_trial(log_trial(log, i), log_trial(whole, i), n_values);
    }
    if (!failed) log_close(log);
    if (!refused) log_close(before);
    return right;
}

int main(int argc, char **argv) {
    struct log *whole;
    struct error e = {0};
    char notice[600], *text;
    size_t n, used, wrong = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: flip_log FILE\n");
        return 2;
    }
    if (file_read(argv[1], 1 << 30, &text, &n, &e) != OK ||
        log_decode(&whole, (const uint8_t *)text, n, &used, notice, sizeof notice, &e) != OK || used != n) {
        fprintf(stderr, "flip_log: %s %s\n", e.text, notice);
        return 2;
    }
    uint8_t *bytes = mem_alloc(n);
    if (bytes == NULL) return 1;
    memcpy(bytes, text, n);
    struct space *space; /* a trial has as many values as its space has parameters */
    const char *space_text = log_get_header(whole)->space;
    if (space_parse(&space, space_text, strlen(space_text), "the log's space", &e) != OK) {
        fprintf(stderr, "flip_log: %s\n", e.text);
        return 2;
    }
    size_t good = 0; /* where the record that is hurt begins */
    for (size_t at = 0; at < n; at++) {
        if (at == MAGIC) good = MAGIC;
        while (at >= MAGIC && at >= good + 16 + word_at((const uint8_t *)text + good + 8))
            good += 16 + word_at((const uint8_t *)text + good + 8);
        for (int bit = 0; bit < 8; bit++) {
            bytes[at] ^= (uint8_t)(1 << bit);
            wrong += !is_right(bytes, n, whole, (const uint8_t *)text, good, space->n_params);
            bytes[at] ^= (uint8_t)(1 << bit);
        }
        wrong += !is_right(bytes, at, whole, (const uint8_t *)text, good, space->n_params);
    }
    printf("%d trials, %zu bits, %zu wrong\n", log_count(whole), 8 * n, wrong);
    space_free(space);
    log_close(whole);
    mem_free(bytes);
    mem_free(text);
    return wrong > 0;
}
