/* search.h - the loop: ask TPE, train, record, show; many workers on one search; and one training alone, which the loop
 * and `parzen train` share. */
#ifndef SEARCH_H
#define SEARCH_H
#include <signal.h>

#include "data.h"
#include "report.h"
#include "tpe.h"

enum { CHECKPOINT_BY_TIME = -1 }; /* as often as 2 % of a trial's time allows */

/* What a training needs besides its configuration. */
struct train_options {
    int epochs;
    double width; /* every layer's width is multiplied by it: 1, or less for a quick look at a space */
    uint64_t seed;
    int flip_test;
    const char *weights;  /* the weights of the best epoch go there; or NULL */
    const char *config;   /* one line of JSON, kept in the weights file and in states */
    const char *state;    /* the training's state goes there after epochs, and is gone on from; or NULL */
    int checkpoint_every; /* after so many epochs; 0: never; CHECKPOINT_BY_TIME */
};

enum running { RUNNING_IGNORE, RUNNING_LIAR };

struct search_options {
    struct data_options data;
    const char *space;   /* a file; NULL: the seed's own space */
    const char *first;   /* a configuration, or a folder of result files, to try first; or NULL */
    const char *results; /* a folder */
    int trials;          /* so many in all; 0: no end */
    double seconds;      /* no trial is begun after that; 0: no end */
    int seed_given;      /* a search goes on with the seed in its log; another one given is an error */
    struct train_options train;
    struct tpe_options tpe;
    const char *device; /* "auto", "cpu", "cuda" */
    int fp32;           /* CUDA: compute in fp32 */
    int threads;
    int workers, jobs;    /* processes on this machine; trials at once in each */
    double heartbeat;     /* seconds (worker.h) */
    enum running running; /* what TPE makes of trials under way: nothing, or losses as bad as can be */
    int new_space;        /* a log that was begun with another space is gone on with */
    int quiet;
    FILE *to; /* where progress goes */
};

/* Set by the signal handler: the number of the signal that asks for a clean end. */
extern volatile sig_atomic_t search_stop;

/* Runs or resumes a search. OK at its end; NET_STOPPED when search_stop ended it (what is recorded stays). */
int search_run(const struct search_options *, struct error *);

/* "auto": CUDA, or else the CPU with a line in *notice that says why. gpu: which, modulo those that there are. */
int search_device(struct device **, const char *which, int gpu, int fp32, int threads, char *notice, size_t room,
                  struct error *);

/* Trains one configuration and judges it after each epoch. ERROR_TRIAL (no memory, not a number in the first epoch)
 * and ERROR_USER (a network that cannot be built) are the outcome's status and not an error; a later collapse or NaN
 * ends the training with its best so far kept. */
int search_train(struct outcome *, const struct net_config *, const struct train_options *, uint32_t trial,
                 struct device *, const struct dataset *, const struct net_images *train,
                 const struct net_images *judge, struct progress *, struct error *);
#endif
