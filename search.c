/* search.c - the loop around everything: ask TPE for a point, train its network, write the result, append it to the
 * log, show it, and again.
 *
 * The log is the only state. A search that is started again reads it, gives its trials to TPE and goes on with the
 * next number; since all randomness is counted from (seed, trial), it then does what it would have done without the
 * interruption. The result file is written before the log's record: a kill between the two makes the trial run
 * again, to the same file. */
#include "search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

volatile sig_atomic_t search_stop;

/* ---- one training ---- */

struct watch {
    struct progress *progress;
    const char *doing;
    int done; /* in this pass */
};

static int watch_step(void *context, int done, int images) {
    struct watch *w = context;
    if (w->doing[0] == 't') w->progress->seen += done - w->done; /* the rate counts images trained on */
    w->done = done;
    progress_step(w->progress, done, images, w->doing);
    return search_stop != 0;
}

/* At chance again after having learned something, twice in a row. */
static int collapsed(const struct outcome *o, int classes) {
    const double chance = 1.0 / classes;
    if (o->epochs < 3 || o->judge[o->best].fine_accuracy < 3 * chance) return 0;
    return o->judge[o->epochs - 1].fine_accuracy <= 1.5 * chance &&
           o->judge[o->epochs - 2].fine_accuracy <= 1.5 * chance;
}

static int save_weights(struct net *net, const struct train_options *options, struct error *e) {
    char width[32];
    snprintf(width, sizeof width, "%.17g", options->width);
    const char *const metadata[] = {"format", "parzen weights 1", "config", options->config, "width", width, NULL};
    return net_save(net, options->weights, metadata, e);
}

static int train_epochs(struct outcome *o, struct net *net, const struct train_options *options, int classes,
                        struct progress *p, struct error *e) {
    for (int epoch = 0; epoch < options->epochs; epoch++) {
        struct net_metrics train, judge;
        struct watch watch = {.progress = p, .doing = "training"};
        int failed = net_train_epoch(net, epoch, &train, watch_step, &watch, e);
        if (failed) return failed;
        watch = (struct watch){.progress = p, .doing = "judging"};
        failed = net_judge(net, &judge, watch_step, &watch, e);
        if (failed) return failed;
        if (!isfinite(train.loss) || !isfinite(judge.loss)) {
            if (epoch == 0) return error_set(e, ERROR_TRIAL, "the loss is not a number in the first epoch");
            snprintf(o->reason, sizeof o->reason, "ended in epoch %d: the loss is not a number", epoch + 1);
            return OK;
        }
        failed = outcome_add(o, &train, &judge, e);
        if (!failed && options->weights != NULL && o->best == epoch) failed = save_weights(net, options, e);
        if (failed) return failed;
        progress_epoch(p, &train, &judge);
        if (collapsed(o, classes)) {
            snprintf(o->reason, sizeof o->reason, "ended after epoch %d: it has collapsed to chance", epoch + 1);
            return OK;
        }
    }
    return OK;
}

int search_train(struct outcome *o, const struct net_config *config, const struct train_options *options,
                 uint32_t trial, struct device *device, const struct dataset *data, const struct net_images *train,
                 const struct net_images *judge, struct progress *p, struct error *e) {
    const double started = clock_seconds();
    const struct net_options net_options = {.seed = options->seed,
                                            .trial = trial,
                                            .fine = data->fine_classes,
                                            .coarse = data->coarse_classes,
                                            .flip_test = options->flip_test};
    struct net_config c = *config;
    struct net *net;
    memset(o, 0, sizeof *o);
    config_scale(&c, options->width);
    int failed = net_build(&net, &c, &net_options, device, train, judge, e);
    if (!failed) {
        o->parameters = net_get_size(net).parameters;
        failed = train_epochs(o, net, options, data->fine_classes, p, e);
        net_free(net);
    }
    progress_clear(p);
    o->seconds = clock_seconds() - started;
    if (failed == ERROR_TRIAL || failed == ERROR_USER) { /* the latter: a shape that cannot be */
        o->status = failed;
        snprintf(o->reason, sizeof o->reason, "%.290s", e->text);
        return OK;
    }
    return failed;
}

int search_device(struct device **device, const char *which, int threads, char *notice, size_t room, struct error *e) {
    notice[0] = '\0';
    if (strcmp(which, "cpu") != 0) {
#ifdef PARZEN_CUDA
        struct error why;
        const int failed = device_cuda(device, 0, 0, &why);
        if (!failed) return OK;
        const char *reason = why.text;
#else
        const char *reason = "this parzen was built without CUDA";
#endif
        if (strcmp(which, "cuda") == 0) return error_set(e, ERROR_ENVIRONMENT, "no CUDA device: %s", reason);
        snprintf(notice, room, "device: CPU (no CUDA device: %s)", reason);
    }
    return device_cpu(device, threads, NULL, e);
}

/* ---- the search ---- */

struct search {
    const struct search_options *options;
    struct space *space;
    struct log *log;
    struct tpe *tpe;
    struct dataset data;
    struct device *device;
    struct net_images train, judge;
    double *values;
    double started;
};

static double loss_for_tpe(const struct trial *t) { return t->status == TRIAL_OK ? t->loss : INFINITY; }

/* What a resumed search must have in common with the one it resumes, besides space and seed. */
static void add_settings(struct text *t, const struct search *s) {
    const struct search_options *o = s->options;
    text_add(t, "{\"data\": ");
    text_add_json_string(t, s->data.name);
    text_add(t,
             ", \"images\": %d, \"objective\": \"%s\", \"judged_on\": %d, \"epochs\": %d, \"width\": ", s->data.train.n,
             o->data.objective == OBJECTIVE_TEST ? "test" : "validation", s->data.judge.n, o->train.epochs);
    text_add_double(t, o->train.width);
    text_add(t, ", \"flip_test\": %s}", o->train.flip_test ? "true" : "false");
}

/* Opens or begins the log; the seed is settled here. */
static int open_log(struct search *s, uint64_t *seed, struct error *e) {
    const struct search_options *o = s->options;
    char notice[400];
    struct text settings = {0};
    add_settings(&settings, s);
    const struct log_header header = {.seed = *seed, .space = s->space->text, .settings = settings.s};
    int failed = settings.failed ? error_memory(e, settings.n, "the settings")
                                 : log_open(&s->log, o->results, &header, 1, notice, sizeof notice, e);
    if (!failed && notice[0]) fprintf(o->to, "%s\n", notice);
    if (!failed) {
        const struct log_header *was = log_get_header(s->log);
        if (strcmp(was->space, header.space) != 0) {
            failed = error_set(e, ERROR_USER,
                               "%s/trials.log: holds a search of another space; give another --results, or the space "
                               "it was begun with",
                               o->results);
        } else if (strcmp(was->settings, header.settings) != 0) {
            failed = error_set(
                e, ERROR_USER,
                "%s/trials.log: holds a search with other settings, %s, not %s; give those, or another --results",
                o->results, was->settings, header.settings);
        } else if (o->seed_given && was->seed != *seed) {
            failed = error_set(e, ERROR_USER,
                               "%s/trials.log: holds a search with --seed %llu; leave --seed out to resume it, or give "
                               "another --results",
                               o->results, (unsigned long long)was->seed);
        }
        *seed = was->seed;
    }
    text_free(&settings);
    return failed;
}

/* The log's seed, where there is a log: the data's split is drawn from it before the log is opened for writing. */
static uint64_t seed_of(const struct search_options *o) {
    struct log *log;
    char notice[400];
    uint64_t seed = o->train.seed;
    if (!o->seed_given && log_open(&log, o->results, NULL, 0, notice, sizeof notice, NULL) == OK) {
        seed = log_get_header(log)->seed;
        log_close(log);
    }
    return seed;
}

static int name_taken(const struct search *s, const char *name) {
    for (int i = 0; i < log_count(s->log); i++) {
        if (strcmp(log_trial(s->log, i)->name, name) == 0) return 1;
    }
    return 0;
}

static int write_result(struct search *s, const struct outcome *o, const struct value *config, const char *name,
                        struct error *e) {
    struct text json = {0}, path = {0};
    text_add(&path, "%s/%s.txt.json", s->options->results, name);
    int failed = report_result(&json, o, config, name, e);
    if (!failed && path.failed) failed = error_memory(e, path.n, "a file's name");
    if (!failed) failed = file_write(path.s, json.s, json.n, e);
    text_free(&json);
    text_free(&path);
    return failed;
}

static void show_trial(const struct search *s, const struct trial *t) {
    const struct search_options *o = s->options;
    const int best = report_best(s->log);
    char time[24];
    if (o->quiet) return;
    fprintf(o->to, "trial %u", t->number + 1);
    if (o->trials > 0) fprintf(o->to, "/%d", o->trials);
    report_time(t->seconds, time, sizeof time);
    if (t->status == TRIAL_OK) {
        fprintf(o->to, "  fine %.4f  coarse %.4f  %u epochs  %s  %s", t->fine_accuracy, t->coarse_accuracy, t->epochs,
                time, t->name);
        if (t->reason[0]) fprintf(o->to, "  (%s)", t->reason);
    } else {
        fprintf(o->to, "  failed after %s: %s", time, t->reason);
    }
    if (best >= 0) {
        const struct trial *b = log_trial(s->log, best);
        fprintf(o->to, "  |  best so far: %.4f (trial %u)", b->fine_accuracy, b->number + 1);
    }
    fprintf(o->to, "\n");
    fflush(o->to);
}

static int record(struct search *s, uint32_t number, uint64_t seed, const struct outcome *o, const struct value *config,
                  struct error *e) {
    struct trial t = {.number = number,
                      .loss = (double)NAN,
                      .seconds = o->seconds,
                      .finished = (int64_t)time(NULL),
                      .name = "",
                      .epochs = (uint32_t)o->epochs,
                      .reason = o->reason,
                      .values = s->values};
    char name[64] = "";
    int failed = OK;
    if (o->status == OK) {
        struct rng rng = rng_make(seed, number, RNG_NAME);
        t.fine_accuracy = o->judge[o->best].fine_accuracy;
        t.coarse_accuracy = o->judge[o->best].coarse_accuracy;
        t.loss = -t.fine_accuracy;
        do {
            report_name(name, sizeof name, t.fine_accuracy, rng_bits(&rng));
        } while (name_taken(s, name));
        t.name = name;
        failed = write_result(s, o, config, name, e);
    } else {
        t.status = TRIAL_FAILED;
    }
    if (!failed) failed = log_append(s->log, &t, s->space->n_params, e);
    if (!failed) failed = tpe_add(s->tpe, loss_for_tpe(&t), s->values, e);
    if (!failed) show_trial(s, &t);
    return failed;
}

static int one_trial(struct search *s, uint32_t number, uint64_t seed, struct error *e) {
    const struct search_options *o = s->options;
    struct rng rng = rng_make(seed, number, RNG_SUGGEST);
    struct document doc = {0};
    struct net_config config;
    struct outcome outcome = {0};
    struct progress progress;
    struct train_options train = o->train;
    train.seed = seed;
    int failed = tpe_suggest(s->tpe, &rng, s->values, e);
    if (!failed) failed = space_config(s->space, s->values, &doc, e);
    if (!failed) failed = config_read(&config, doc.root, o->space != NULL ? o->space : "the space", e);
    if (!failed) {
        progress_begin(&progress, o->to, o->quiet, (int)number + 1, o->trials, train.epochs);
        failed =
            search_train(&outcome, &config, &train, number, s->device, &s->data, &s->train, &s->judge, &progress, e);
    }
    if (!failed) failed = record(s, number, seed, &outcome, doc.root, e);
    outcome_free(&outcome);
    document_free(&doc);
    return failed;
}

static int open_all(struct search *s, uint64_t *seed, struct error *e) {
    const struct search_options *o = s->options;
    struct data_options data = o->data;
    char notice[400];
    int failed = o->space != NULL ? space_read(&s->space, o->space, e)
                                  : space_parse(&s->space, space_seed, strlen(space_seed), "the built-in space", e);
    if (failed) return failed;
    *seed = seed_of(o);
    data.seed = *seed;
    failed = data_open(&s->data, &data, e);
    if (!failed) failed = open_log(s, seed, e);
    if (!failed) failed = tpe_open(&s->tpe, s->space, &o->tpe, e);
    for (int i = 0; !failed && i < log_count(s->log); i++) {
        const struct trial *t = log_trial(s->log, i);
        failed = tpe_add(s->tpe, loss_for_tpe(t), t->values, e);
    }
    if (!failed) {
        s->values = mem_zero((size_t)s->space->n_params + 1, sizeof *s->values);
        if (s->values == NULL) failed = error_memory(e, sizeof *s->values, "a point");
    }
    if (!failed) failed = search_device(&s->device, o->device, o->threads, notice, sizeof notice, e);
    if (!failed && !o->quiet && notice[0]) fprintf(o->to, "%s\n", notice);
    if (!failed) failed = net_images_load(&s->train, &s->data.train, s->device, e);
    if (!failed) failed = net_images_load(&s->judge, &s->data.judge, s->device, e);
    return failed == ERROR_TRIAL ? ERROR_ENVIRONMENT : failed; /* no memory here is no trial's fault */
}

static void close_all(struct search *s) {
    if (s->device != NULL) {
        net_images_unload(&s->train, s->device);
        net_images_unload(&s->judge, s->device);
        s->device->close(s->device);
    }
    mem_free(s->values);
    if (s->tpe != NULL) tpe_close(s->tpe);
    if (s->log != NULL) log_close(s->log);
    data_close(&s->data);
    if (s->space != NULL) space_free(s->space);
}

static void show_start(const struct search *s, uint64_t seed) {
    const struct search_options *o = s->options;
    if (o->quiet) return;
    fprintf(o->to, "%s: %d images to train on, %d to judge on (%s), %d fine and %d coarse classes\n", s->data.name,
            s->data.train.n, s->data.judge.n,
            o->data.objective == OBJECTIVE_TEST ? "the test set, as the original did" : "held out",
            s->data.fine_classes, s->data.coarse_classes);
    if (s->data.coarse_classes == 0) fprintf(o->to, "one kind of label: one head; coarse_labels_weight is ignored\n");
    fprintf(o->to, "space: %d hyperparameters; seed %llu; %s; results in %s/\n", s->space->n_params,
            (unsigned long long)seed, s->device->about, o->results);
    if (log_count(s->log) > 0) fprintf(o->to, "resuming: %d trials are recorded\n", log_count(s->log));
    fflush(o->to);
}

int search_run(const struct search_options *o, struct error *e) {
    struct search s = {.options = o, .started = clock_seconds()};
    uint64_t seed = 0;
    int failed = open_all(&s, &seed, e);
    if (!failed) show_start(&s, seed);
    while (!failed && !search_stop) {
        const int count = log_count(s.log);
        if (o->trials > 0 && count >= o->trials) break;
        if (o->seconds > 0 && clock_seconds() - s.started >= o->seconds) break;
        /* Numbers are handed out in order, so the next one is behind the last record's. */
        const uint32_t number = count == 0 ? 0 : log_trial(s.log, count - 1)->number + 1;
        failed = one_trial(&s, number, seed, e);
    }
    if (!failed && search_stop) failed = NET_STOPPED;
    if (s.log != NULL && !o->quiet && (!failed || failed == NET_STOPPED)) {
        const int best = report_best(s.log);
        if (failed == NET_STOPPED) fprintf(o->to, "stopped: the trial under way is not recorded\n");
        fprintf(o->to, "%d trials in %s/", log_count(s.log), o->results);
        if (best >= 0)
            fprintf(o->to, "; the best: fine %.4f, %s.txt.json", log_trial(s.log, best)->fine_accuracy,
                    log_trial(s.log, best)->name);
        fprintf(o->to, "\n");
    }
    close_all(&s);
    return failed;
}
