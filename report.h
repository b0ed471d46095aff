/* report.h - what people read: result files, tables, and the lines that show a search at work. */
#ifndef REPORT_H
#define REPORT_H
#include <stdio.h>

#include "checkpoint.h"
#include "net.h"
#include "worker.h"

/* What became of one training. Arrays have `epochs` entries. */
struct outcome {
    int status; /* OK; or ERROR_TRIAL, or ERROR_USER for an impossible network: `reason` says why, nothing else counts
                 */
    int epochs, room;
    struct net_metrics *train, *judge;
    int best; /* the epoch of the best fine accuracy on the judge images, from 0; the first of equals */
    double seconds;
    size_t parameters;
    char reason[300]; /* also where a training that counts was ended early; else "" */
    int diverged;     /* it failed for a loss that is not a number, not for want of memory */
};
int outcome_add(struct outcome *, const struct net_metrics *train, const struct net_metrics *judge, struct error *);
void outcome_free(struct outcome *);

/* model_<accuracy, six decimals>_<five hex digits>: sorting by name puts the best last. */
void report_name(char *name, size_t room, double accuracy, uint32_t id);
/* The result of a trial as JSON, with the original's keys (SEED.md, "What it reports"), which its readers load. */
int report_result(struct text *, const struct outcome *, const struct value *config, const char *name, struct error *);
/* What the search is, and a table of the log's trials: those that somebody is at, those that failed, the best last.
 * watchers: of the log's folder; or NULL, and nobody is held dead. */
void report_list(FILE *, const struct log *, struct watchers *);
/* The index of the log's best trial, the first of equals; -1 where none is OK. */
int report_best(const struct log *);

/* "1h 02m", "3m 05s", "42s", "0.8s". */
const char *report_time(double seconds, char *buffer, size_t room);

/* Progress. On a terminal a line is rewritten in place; elsewhere a plain line is printed now and then. */
struct progress {
    FILE *to;
    int quiet, terminal;
    int each_epoch;    /* every epoch leaves a line */
    int trial, trials; /* trials 0: no end, or (train) no count */
    int epoch, epochs;
    double started, epoch_started, last;
    long long seen;            /* images trained on since started, for the rate */
    double loss, fine, coarse; /* of the last judged epoch; loss NaN at first */
};
void progress_begin(struct progress *, FILE *, int quiet, int trial, int trials, int epochs);
void progress_step(struct progress *, int done, int images, const char *doing);
void progress_epoch(struct progress *, const struct net_metrics *train, const struct net_metrics *judge);
void progress_clear(struct progress *); /* takes the moving line away */
#endif
