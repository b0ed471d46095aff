/* search.c - the loop around everything: take a trial, train its network, write the result, append it to the log, show
 * it, and again; alone or with any number of other workers on the same folder.
 *
 * The log is the only state, and all agreement between workers is in it. Under its lock a worker reads what is new,
 * takes the trial of a worker that has died or given it back, or else asks TPE for the next number's point, and writes
 * a claim. It records a trial only while the claim is still its own. All randomness is counted from (seed, trial), so
 * whoever trains a trial, and however often it is interrupted, it comes out the same: as it goes it leaves a state
 * file, from which the next worker goes on. The result file is written before the log's record: a kill between the two
 * makes the trial's end run again, to the same file.
 *
 * Workers of one process (--jobs) are threads that share the space and the data, which nobody changes any more; each
 * has its own log, TPE and device. --workers forks before anything but those two is opened. */
#define _GNU_SOURCE
#include "search.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "worker.h"

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

/* ---- its state ---- */

static uint64_t bits_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

enum { HISTORY_NUMBERS = 10 };
static void history_numbers(const struct outcome *o, int epoch, double *x[HISTORY_NUMBERS]) {
    struct net_metrics *m[2] = {&o->train[epoch], &o->judge[epoch]};
    for (int i = 0; i < 2; i++) {
        double *all[5] = {&m[i]->loss, &m[i]->fine_loss, &m[i]->coarse_loss, &m[i]->fine_accuracy,
                          &m[i]->coarse_accuracy};
        memcpy(x + 5 * i, all, sizeof all);
    }
}

/* Writes the training's state: the net's, and what has been measured so far, in hexadecimal: bit for bit. */
static int save_state(const struct outcome *o, struct net *net, const struct train_options *options, uint32_t trial,
                      double seconds, struct error *e) {
    struct text done = {0}, whose = {0};
    double *x[HISTORY_NUMBERS];
    text_add(&whose, "%llu %u %.17g", (unsigned long long)options->seed, trial, options->width);
    text_add(&done, "%d %d %016llx", o->epochs, o->best, (unsigned long long)bits_of(seconds));
    for (int i = 0; i < o->epochs; i++) {
        history_numbers(o, i, x);
        for (int k = 0; k < HISTORY_NUMBERS; k++) text_add(&done, " %016llx", (unsigned long long)bits_of(*x[k]));
    }
    const char *const metadata[] = {"format",  "parzen state 1", "config", options->config, "search", whose.s,
                                    "history", done.s,           NULL};
    const int failed = whose.failed || done.failed ? error_memory(e, done.n, "a state")
                                                   : net_save_state(net, options->state, metadata, e);
    text_free(&whose);
    text_free(&done);
    return failed;
}

/* Reads the history into o. Returns 0 where it makes no sense. */
static int read_history(struct outcome *o, const char *text, double *seconds, struct error *e) {
    const struct net_metrics none = {0};
    char *end;
    const long epochs = strtol(text, &end, 10), best = strtol(end, &end, 10);
    *seconds = double_of(strtoull(end, &end, 16));
    if (epochs < 1 || epochs > 1000000 || best < 0 || best >= epochs || !(*seconds >= 0)) return 0;
    for (int i = 0; i < (int)epochs; i++) {
        double *x[HISTORY_NUMBERS];
        if (*end != ' ' || outcome_add(o, &none, &none, e) != OK) return 0;
        history_numbers(o, i, x);
        for (int k = 0; k < HISTORY_NUMBERS; k++) *x[k] = double_of(strtoull(end, &end, 16));
    }
    o->best = (int)best;
    return *end == '\0';
}

/* Goes on from the state, where there is one that fits; *seconds: what was spent on it. A state is a convenience: one
 * that is damaged is told of and passed over. */
static int load_state(struct outcome *o, struct net *net, const struct train_options *options, uint32_t trial,
                      double *seconds, struct progress *p, struct error *e) {
    struct tensors file = {0};
    struct text whose = {0};
    struct error why = {0};
    *seconds = 0;
    if (options->state == NULL || access(options->state, F_OK) != 0) return OK;
    int failed = net_load_state(net, options->state, &file, &why);
    text_add(&whose, "%llu %u %.17g", (unsigned long long)options->seed, trial, options->width);
    if (!failed) {
        const char *config = tensors_get(&file, "config"), *search = tensors_get(&file, "search"),
                   *history = tensors_get(&file, "history");
        if (config == NULL || search == NULL || history == NULL || whose.failed ||
            strcmp(config, options->config) != 0 || strcmp(search, whose.s) != 0) {
            failed = error_set(&why, ERROR_USER, "%s: is the state of another trial", options->state);
        } else if (!read_history(o, history, seconds, &why) || o->epochs > options->epochs) {
            failed = error_set(&why, ERROR_USER, "%s: its history is damaged", options->state);
        }
    }
    tensors_free(&file);
    text_free(&whose);
    if (!failed && !p->quiet) fprintf(p->to, "trial %u goes on behind epoch %d\n", trial + 1, o->epochs);
    if (failed == ERROR_USER || failed == ERROR_TRIAL) { /* the latter: no memory to read it */
        outcome_free(o);
        memset(o, 0, sizeof *o);
        *seconds = 0;
        fprintf(p->to, "%s; trial %u begins anew\n", why.text, trial + 1);
        return NET_STOPPED; /* the net may be half changed: it must be built again */
    }
    if (failed && e != NULL) *e = why;
    return failed;
}

/* ---- its epochs ---- */

/* Whether a state is to be written, `since` seconds after the last one, which took `took` seconds. By time, all
 * states together take 2 % of a trial's at the most: each epoch where epochs last, every few seconds where a GPU makes
 * several a second. */
static int state_is_due(const struct train_options *options, int epochs, double since, double took) {
    if (options->state == NULL || options->checkpoint_every == 0 || epochs >= options->epochs) return 0;
    if (options->checkpoint_every > 0) return epochs % options->checkpoint_every == 0;
    return since >= 50 * took;
}

static int train_epochs(struct outcome *o, struct net *net, const struct train_options *options, uint32_t trial,
                        double started, int classes, struct progress *p, struct error *e) {
    double saved = clock_seconds(), took = 0.02; /* the first by time: after a second */
    int saves = 1;
    for (int epoch = o->epochs;; epoch++) {
        struct net_metrics train, judge;
        struct watch watch = {.progress = p, .doing = "training"};
        if (epoch > 0 && collapsed(o, classes)) {
            snprintf(o->reason, sizeof o->reason, "ended after epoch %d: it has collapsed to chance", epoch);
            return OK;
        }
        if (epoch >= options->epochs) return OK;
        int failed = net_train_epoch(net, epoch, &train, watch_step, &watch, e);
        if (failed) return failed;
        watch = (struct watch){.progress = p, .doing = "judging"};
        failed = net_judge(net, &judge, watch_step, &watch, e);
        if (failed) return failed;
        if (!isfinite(train.loss) || !isfinite(judge.loss)) {
            o->diverged = 1;
            if (epoch == 0) return error_set(e, ERROR_TRIAL, "the loss is not a number in the first epoch");
            snprintf(o->reason, sizeof o->reason, "ended in epoch %d: the loss is not a number", epoch + 1);
            return OK;
        }
        failed = outcome_add(o, &train, &judge, e);
        if (!failed && options->weights != NULL && o->best == epoch) failed = save_weights(net, options, e);
        if (failed) return failed;
        progress_epoch(p, &train, &judge);
        const double now = clock_seconds();
        if (saves && state_is_due(options, epoch + 1, now - saved, took)) {
            struct error why;
            failed = save_state(o, net, options, trial, now - started, &why);
            if (failed) { /* the trial is worth more than its state */
                progress_clear(p);
                fprintf(p->to, "%s; trial %u goes on without a state\n", why.text, trial + 1);
                saves = 0;
            }
            saved = clock_seconds();
            took = saved - now;
        }
    }
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
    struct net *net = NULL;
    double before = 0; /* seconds that went into the state */
    memset(o, 0, sizeof *o);
    config_scale(&c, options->width);
    int failed = net_build(&net, &c, &net_options, device, train, judge, e);
    if (!failed) failed = load_state(o, net, options, trial, &before, p, e);
    if (failed == NET_STOPPED) {
        net_free(net);
        failed = net_build(&net, &c, &net_options, device, train, judge, e);
    }
    if (!failed) {
        o->parameters = net_get_size(net).parameters;
        p->epoch = o->epochs;
        failed = train_epochs(o, net, options, trial, started - before, data->fine_classes, p, e);
    }
    net_free(net);
    progress_clear(p);
    o->seconds = clock_seconds() - started + before;
    if (failed == ERROR_TRIAL || failed == ERROR_USER) { /* the latter: a shape that cannot be */
        o->status = failed;
        snprintf(o->reason, sizeof o->reason, "%.290s", e->text);
        return OK;
    }
    return failed;
}

int search_device(struct device **device, const char *which, int gpu, int fp32, int threads, char *notice, size_t room,
                  struct error *e) {
    notice[0] = '\0';
    if (strcmp(which, "cpu") != 0) {
#ifdef PARZEN_CUDA
        struct error why;
        unsigned without = 0;
        const int gpus = device_cuda_count();
        int failed = device_cuda_without(&without, getenv("PARZEN_WITHOUT"), e);
        if (failed) return failed;
        failed = device_cuda(device, gpus > 0 ? gpu % gpus : 0, fp32, without, &why);
        if (!failed) return OK;
        const char *reason = why.text;
#else
        (void)gpu;
        (void)fp32;
        const char *reason = "this parzen was built without CUDA";
#endif
        if (strcmp(which, "cuda") == 0) return error_set(e, ERROR_ENVIRONMENT, "no CUDA device: %s", reason);
        snprintf(notice, room, "device: CPU (no CUDA device: %s)", reason);
    }
    return device_cpu(device, threads, NULL, e);
}

/* ---- the search ---- */

/* What the workers of a process share: nothing of it changes once they run. */
struct shared {
    const struct search_options *options;
    struct space *space;
    double *first; /* points to try before TPE is asked, n_first of them */
    int n_first;
    struct dataset data;
    uint64_t seed;
    double started;
    int alone; /* one worker: its progress may be shown in place */
};

struct search {
    const struct shared *shared;
    const struct search_options *options;
    const struct space *space;
    int index; /* of this worker on this machine */
    struct log *log;
    struct tpe *tpe;
    int told; /* trials of the log that TPE has, or has been spared */
    struct device *device;
    struct net_images train, judge;
    struct worker *worker;
    struct watchers *watchers;
    double *values, *mapped, *plain; /* room for a point each */
    char *tried;                     /* n_first: which of them the log has, as trials */
    struct space **old;              /* the log's spaces before the last, as far as they were needed */
    int n_old;
    int failed;
    struct error error;
};

/* A trial that this worker has taken; its point is search.values. */
struct task {
    uint32_t number, attempt;
};

static double loss_for_tpe(const struct trial *t) { return t->status == TRIAL_OK ? t->loss : INFINITY; }

/* What a resumed search must have in common with the one it resumes, besides space and seed. */
static void add_settings(struct text *t, const struct shared *s) {
    const struct search_options *o = s->options;
    text_add(t, "{\"data\": ");
    text_add_json_string(t, s->data.name);
    text_add(t,
             ", \"images\": %d, \"objective\": \"%s\", \"judged_on\": %d, \"epochs\": %d, \"width\": ", s->data.train.n,
             o->data.objective == OBJECTIVE_TEST ? "test" : "validation", s->data.judge.n, o->train.epochs);
    text_add_double(t, o->train.width);
    text_add(t, ", \"flip_test\": %s}", o->train.flip_test ? "true" : "false");
}

/* Nothing is recorded, and nobody is at a trial; one that was given back may have a state. */
static int is_idle_and_empty(const struct log *log) {
    int taken = 0;
    for (int i = 0; i < log_claims(log); i++) taken += !log_claim(log, i).given_back;
    return log_count(log) + taken == 0;
}

/* Opens or begins the log, and checks that it is of this search; the seed is settled here. */
static int open_log(struct shared *s, struct log **log, int first, struct error *e) {
    const struct search_options *o = s->options;
    char notice[400];
    struct text settings = {0};
    add_settings(&settings, s);
    const struct log_header header = {.seed = s->seed, .space = s->space->text, .settings = settings.s};
    int failed = settings.failed ? error_memory(e, settings.n, "the settings")
                                 : log_open(log, o->results, &header, 1, notice, sizeof notice, e);
    if (!failed && notice[0]) fprintf(o->to, "%s\n", notice);
    if (!failed && first) {
        const struct log_header *was = log_get_header(*log);
        if (strcmp(was->settings, header.settings) != 0) {
            failed = error_set(
                e, ERROR_USER,
                "%s/trials.log: holds a search with other settings, %s, not %s; give those, or another --results%s",
                o->results, was->settings, header.settings,
                is_idle_and_empty(*log) ? ", or delete that one: none of its trials has ended" : "");
        } else if (o->seed_given && was->seed != s->seed) {
            failed = error_set(e, ERROR_USER,
                               "%s/trials.log: holds a search with --seed %llu; leave --seed out to resume it, or give "
                               "another --results",
                               o->results, (unsigned long long)was->seed);
        } else if (strcmp(was->space, header.space) != 0 && o->new_space) {
            failed = log_change_space(*log, header.space, e);
        } else if (strcmp(was->space, header.space) != 0) {
            failed = error_set(e, ERROR_USER,
                               "%s/trials.log: holds a search of another space; give that, or another --results, or "
                               "--continue-with-new-space to go on with this one",
                               o->results);
        }
        s->seed = was->seed;
    }
    text_free(&settings);
    return failed;
}

/* The log's seed, where there is a log: the data's split is drawn from it before the log is opened for writing. */
static int seed_of(const struct search_options *o, uint64_t *seed, struct error *e) {
    struct log *log = NULL;
    char notice[400];
    *seed = o->train.seed;
    if (o->seed_given) return OK;
    const int failed = log_open(&log, o->results, NULL, 0, notice, sizeof notice, e);
    if (failed)
        return failed == ERROR_USER ? OK : failed; /* no log yet, or none of ours: that is told when it is opened */
    *seed = log_get_header(log)->seed;
    log_close(log);
    return OK;
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
    struct text line = {0}; /* printed at once: other workers print, too */
    if (o->quiet) return;
    text_add(&line, "trial %u", t->number + 1);
    if (o->trials > 0) text_add(&line, "/%d", o->trials);
    report_time(t->seconds, time, sizeof time);
    if (t->status == TRIAL_OK) {
        text_add(&line, "  fine %.4f  coarse %.4f  %u epochs  %s  %s", t->fine_accuracy, t->coarse_accuracy, t->epochs,
                 time, t->name);
        if (t->reason[0]) text_add(&line, "  (%s)", t->reason);
    } else {
        text_add(&line, "  failed after %s: %s", time, t->reason);
    }
    if (best >= 0) {
        const struct trial *b = log_trial(s->log, best);
        text_add(&line, "  |  best so far: %.4f (trial %u)", b->fine_accuracy, b->number + 1);
    }
    text_add(&line, "\n");
    if (line.s != NULL) fputs(line.s, o->to);
    fflush(o->to);
    text_free(&line);
}

/* ---- points of other spaces ---- */

/* An option of a choice as text, by which it is found in another space. */
static int same_option(const struct value *a, const struct space *of_a, const struct value *b,
                       const struct space *of_b) {
    struct text x = {0}, y = {0};
    value_print_python(&x, a, of_a, 0);
    value_print_python(&y, b, of_b, 0);
    const int same = !x.failed && !y.failed && strcmp(x.s, y.s) == 0;
    text_free(&x);
    text_free(&y);
    return same;
}

/* The point `values` of an older space as one of the present one, by labels, in s->mapped. Returns 0 where it is none:
 * a label is new, a value out of its range, an option gone. */
static int map_point(const struct search *s, const struct space *old, const double *values) {
    const struct space *now = s->space;
    for (int i = 0; i < now->n_params; i++) {
        const struct param *p = &now->params[i];
        s->mapped[i] = (double)NAN;
        if (!space_active(now, i, s->mapped)) continue;
        const int from = space_find(old, p->label);
        if (from < 0 || isnan(values[from])) return 0;
        const struct param *q = &old->params[from];
        const int choice = p->dist == DIST_CHOICE || p->dist == DIST_PCHOICE;
        if (choice != (q->dist == DIST_CHOICE || q->dist == DIST_PCHOICE)) return 0;
        s->mapped[i] = values[from];
        if (choice) {
            const int option = (int)values[from];
            int k = 0;
            while (k < p->n_options && !same_option(p->options[k], now, q->options[option], old)) k++;
            if (k == p->n_options) return 0;
            s->mapped[i] = k;
        }
    }
    return space_check(now, s->mapped, NULL) == OK;
}

/* The point of a trial or claim in the present space: its own values, or s->mapped; NULL where it has none. */
static int present_point(struct search *s, const double *values, int n_values, int space, const double **out,
                         struct error *e) {
    *out = NULL;
    if (strcmp(log_space(s->log, space), s->space->text) == 0) {
        if (n_values != s->space->n_params)
            return error_set(e, ERROR_USER, "%s/trials.log: its trials have %d values, its space %d",
                             s->options->results, n_values, s->space->n_params);
        *out = values;
        return OK;
    }
    if (s->n_old <= space) {
        struct space **old = mem_grow(s->old, ((size_t)space + 1) * sizeof *old);
        if (old == NULL) return error_memory(e, sizeof *old, "an older space");
        s->old = old;
        while (s->n_old <= space) s->old[s->n_old++] = NULL;
    }
    if (s->old[space] == NULL) {
        const char *text = log_space(s->log, space);
        const int failed = space_parse(&s->old[space], text, strlen(text), "an older space of the log", e);
        if (failed) return failed;
    }
    const struct space *old = s->old[space];
    if (n_values == old->n_params && space_check(old, values, NULL) == OK && map_point(s, old, values))
        *out = s->mapped;
    return OK;
}

/* ---- points to try first ---- */

/* Are these the values of the first'th point? */
static int same_point(const struct search *s, const double *values, int first) {
    const int n = s->space->n_params;
    const double *point = s->shared->first + (size_t)first * (size_t)n;
    for (int i = 0; i < n; i++) {
        if (values[i] != point[i] && !(isnan(values[i]) && isnan(point[i]))) return 0;
    }
    return 1;
}

/* A point, or of several with one configuration the one that space_point takes: in s->plain. */
static const double *plain_point(struct search *s, const double *values) {
    struct document doc;
    if (s->shared->n_first == 0 || space_config(s->space, values, &doc, NULL) != OK) return values;
    const int failed = space_point(s->space, doc.root, "", s->plain, NULL);
    document_free(&doc);
    return failed ? values : s->plain;
}

/* One file more: its point behind the others. */
static int add_first(struct shared *s, const char *file, struct error *e) {
    const size_t n = (size_t)s->space->n_params;
    struct document doc;
    struct net_config config;
    const struct value *dict;
    int failed = config_file(file, &doc, &dict, &config, e);
    double *first = failed ? NULL : mem_grow(s->first, ((size_t)s->n_first + 1) * (n + 1) * sizeof *first);
    if (!failed && first == NULL) failed = error_memory(e, n, "the configurations to try first");
    if (first != NULL) s->first = first;
    if (!failed) failed = space_point(s->space, dict, file, s->first + (size_t)s->n_first * n, e);
    s->n_first += !failed;
    document_free(&doc);
    return failed;
}

static int is_json(const struct dirent *file) {
    const size_t n = strlen(file->d_name);
    return n > 5 && strcmp(file->d_name + n - 5, ".json") == 0;
}

/* --first: a file, or the result files of a folder, which their names sort by accuracy. Of a folder those that are no
 * configurations of the space are left out, and counted. */
static int read_first(struct shared *s, struct error *e) {
    const struct search_options *o = s->options;
    struct stat about;
    struct dirent **files;
    struct error why = {0};
    if (stat(o->first, &about) != 0 || !S_ISDIR(about.st_mode)) return add_first(s, o->first, e);
    const int n = scandir(o->first, &files, is_json, alphasort);
    if (n < 0) return error_set(e, ERROR_ENVIRONMENT, "%s: cannot be read: %s", o->first, strerror(errno));
    int failed = n > 0 ? OK : error_set(e, ERROR_USER, "%s: holds no result files, *.json", o->first);
    for (int i = n - 1; i >= 0; i--) {
        struct text file = {0};
        struct error one = {0};
        text_add(&file, "%s/%s", o->first, files[i]->d_name);
        if (!failed) failed = file.failed ? error_memory(&one, file.n, "a file's name") : add_first(s, file.s, &one);
        if (failed == ERROR_USER && one.text[0]) {
            if (!why.text[0]) why = one;
            failed = OK;
        } else if (one.text[0]) {
            *e = one;
        }
        text_free(&file);
        free(files[i]);
    }
    free(files);
    if (!failed && s->n_first == 0) return error_set(e, ERROR_USER, "%s", why.text);
    if (!failed && !o->quiet && s->n_first < n)
        fprintf(o->to, "%d of the %d files in %s are no configurations of the space and left out; the first: %s\n",
                n - s->n_first, n, o->first, why.text);
    return failed;
}

/* A point that is to be tried first and is neither recorded nor under way; NULL: none is left. */
static int next_first(struct search *s, const double **out, struct error *e) {
    const struct shared *shared = s->shared;
    *out = NULL;
    for (int i = 0; i < shared->n_first; i++) {
        const double *values;
        int taken = s->tried[i];
        for (int k = 0; k < log_claims(s->log) && !taken; k++) {
            const struct claim c = log_claim(s->log, k);
            const int failed = present_point(s, c.values, c.n_values, c.space, &values, e);
            if (failed) return failed;
            taken = values != NULL && same_point(s, plain_point(s, values), i);
        }
        if (taken) continue;
        *out = shared->first + (size_t)i * (size_t)s->space->n_params;
        return OK;
    }
    return OK;
}

/* ---- a worker takes a trial ---- */

/* Gives TPE the trials that are new in the log. */
static int tell(struct search *s, struct error *e) {
    int failed = OK;
    for (; !failed && s->told < log_count(s->log); s->told++) {
        const struct trial *t = log_trial(s->log, s->told);
        const double *values;
        failed = present_point(s, t->values, t->n_values, t->space, &values, e);
        if (!failed && values != NULL) failed = tpe_add(s->tpe, loss_for_tpe(t), values, e);
        const double *plain = !failed && values != NULL ? plain_point(s, values) : NULL;
        for (int i = 0; i < s->shared->n_first && plain != NULL; i++) s->tried[i] |= (char)same_point(s, plain, i);
    }
    return failed;
}

/* The next point for a number: one that is to be tried first, or else TPE's. Trials under way count for that as the
 * options say. */
static int suggest(struct search *s, uint32_t number, struct error *e) {
    struct rng rng = rng_make(s->shared->seed, number, RNG_SUGGEST);
    const int kept = tpe_count(s->tpe);
    const double *first;
    int failed = next_first(s, &first, e);
    if (failed) return failed;
    if (first != NULL) {
        memcpy(s->values, first, (size_t)s->space->n_params * sizeof *first);
        return OK;
    }
    for (int i = 0; i < log_claims(s->log) && !failed && s->options->running == RUNNING_LIAR; i++) {
        const struct claim c = log_claim(s->log, i);
        const double *values;
        if (c.number == number) continue;
        failed = present_point(s, c.values, c.n_values, c.space, &values, e);
        if (!failed && values != NULL) failed = tpe_add(s->tpe, INFINITY, values, e);
    }
    if (!failed) failed = tpe_suggest(s->tpe, &rng, s->values, e);
    tpe_rewind(s->tpe, kept);
    return failed;
}

enum { TAKE_TRIAL, TAKE_WAIT, TAKE_END };

/* Someone may have gone on with another space while this worker was at its trial (--continue-with-new-space): its
 * points are none of that space. */
static int space_changed(const struct search *s) { return strcmp(log_get_header(s->log)->space, s->space->text) != 0; }

/* Under the lock: whose trial can be taken? *found: 1 where there is a dead worker's, or one given back (the one with
 * the least number); *running: how many others are under way. */
static struct claim orphan(struct search *s, int *found, int *running) {
    struct claim least = {0};
    *found = *running = 0;
    for (int i = 0; i < log_claims(s->log); i++) {
        const struct claim c = log_claim(s->log, i);
        if (s->options->trials > 0 && c.number >= (uint32_t)s->options->trials) continue;
        if (!c.given_back && watchers_alive(s->watchers, c.worker)) {
            *running += 1;
        } else if (!*found || c.number < least.number) {
            least = c;
            *found = 1;
        }
    }
    return least;
}

static int take_locked(struct search *s, struct task *t, int *what, struct error *e) {
    const struct search_options *o = s->options;
    int found, running, have_point = 0;
    if (space_changed(s)) {
        return error_set(e, ERROR_USER,
                         "%s/trials.log: the search has gone on in another space (--continue-with-new-space); start "
                         "this worker again with that",
                         o->results);
    }
    int failed = tell(s, e);
    if (failed) return failed;
    const struct claim c = orphan(s, &found, &running);
    *t = (struct task){.number = log_free(s->log), .attempt = 1};
    if (found) {
        const double *values;
        *t = (struct task){.number = c.number, .attempt = c.attempt + 1};
        failed = present_point(s, c.values, c.n_values, c.space, &values, e);
        if (!failed && values != NULL) {
            memcpy(s->values, values, (size_t)s->space->n_params * sizeof *values);
            have_point = 1;
        }
        if (!failed && !c.given_back && !o->quiet)
            fprintf(o->to, "trial %u is taken over from a worker that has died (%s)\n", c.number + 1, c.worker);
    } else if (o->trials > 0 && t->number >= (uint32_t)o->trials) {
        *what = running > 0 ? TAKE_WAIT : TAKE_END;
        return OK;
    }
    if (!failed && !have_point) failed = suggest(s, t->number, e);
    const struct claim mine = {.number = t->number,
                               .attempt = t->attempt,
                               .worker = worker_name(s->worker),
                               .since = (int64_t)time(NULL),
                               .values = s->values};
    if (!failed) failed = log_take(s->log, &mine, s->space->n_params, e);
    if (!failed && found && !c.given_back) watchers_bury(s->watchers, c.worker);
    *what = TAKE_TRIAL;
    return failed;
}

static int take(struct search *s, struct task *t, int *what, struct error *e) {
    int failed = log_lock(s->log, e);
    if (failed) return failed;
    failed = take_locked(s, t, what, e);
    log_unlock(s->log);
    return failed;
}

/* ---- and records it ---- */

/* Is the trial still this worker's? It may have been stopped for so long that it was held dead. Where the claim is not
 * in the log at all (damage was cut off), nobody else has it. */
static int still_mine(const struct search *s, const struct task *t) {
    struct claim c;
    if (log_recorded(s->log, t->number)) return 0;
    if (!log_find_claim(s->log, t->number, &c)) return 1;
    return c.attempt == t->attempt && strcmp(c.worker, worker_name(s->worker)) == 0;
}

static int record_locked(struct search *s, const struct task *task, const struct outcome *o, const struct value *config,
                         int *mine, struct error *e) {
    struct trial t = {.number = task->number,
                      .loss = (double)NAN,
                      .seconds = o->seconds,
                      .finished = (int64_t)time(NULL),
                      .name = "",
                      .epochs = (uint32_t)o->epochs,
                      .reason = o->reason,
                      .values = s->values};
    char name[64] = "";
    int failed = OK;
    *mine = still_mine(s, task);
    if (!*mine) return OK;
    if (o->status == OK) {
        struct rng rng = rng_make(s->shared->seed, task->number, RNG_NAME);
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
    if (failed) return failed;
    return space_changed(s) ? log_append_of(s->log, s->space->text, &t, s->space->n_params, e)
                            : log_append(s->log, &t, s->space->n_params, e);
}

/* A recorded trial needs no state any more, nor what a kill has left of one that was being written. */
static void remove_state(const struct search *s, const char *state) {
    struct text pattern = {0};
    glob_t left;
    if (unlink(state) != 0 && errno != ENOENT)
        fprintf(s->options->to, "%s: cannot be removed: %s\n", state, strerror(errno));
    text_add(&pattern, "%s.tmp.*", state);
    if (!pattern.failed && glob(pattern.s, GLOB_NOSORT, NULL, &left) == 0) {
        for (size_t i = 0; i < left.gl_pathc; i++) (void)unlink(left.gl_pathv[i]);
        globfree(&left);
    }
    text_free(&pattern);
}

static int record(struct search *s, const struct task *task, const struct outcome *o, const struct value *config,
                  const char *state, struct error *e) {
    int mine = 0, failed = log_lock(s->log, e);
    if (failed) return failed;
    failed = record_locked(s, task, o, config, &mine, e);
    const int recorded = log_recorded(s->log, task->number);
    log_unlock(s->log);
    if (!failed && recorded) remove_state(s, state);
    if (!failed && !mine && !s->options->quiet)
        fprintf(s->options->to, "another worker has taken trial %u over; this one's result is dropped\n",
                task->number + 1);
    for (int i = log_count(s->log) - 1; i >= 0 && !failed && mine; i--) {
        if (log_trial(s->log, i)->number != task->number) continue;
        show_trial(s, log_trial(s->log, i));
        break;
    }
    return failed;
}

/* Trials of a process (--jobs) share a memory: one that finds none is tried again alone, for it may be the others that
 * have it. Held for reading by those who train beside each other; who waits to be alone goes before their next trials,
 * where the C library knows that order. */
#ifdef PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP
static pthread_rwlock_t together = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
#else
static pthread_rwlock_t together = PTHREAD_RWLOCK_INITIALIZER;
#endif

static int train_task(struct search *s, uint32_t number, const struct net_config *config,
                      const struct train_options *train, struct outcome *o, struct error *e) {
    const struct search_options *options = s->options;
    int failed = OK;
    for (int alone = options->jobs == 1; alone < 2; alone++) {
        struct progress progress;
        progress_begin(&progress, options->to, options->quiet || !s->shared->alone, (int)number + 1, options->trials,
                       train->epochs);
        (void)(alone ? pthread_rwlock_wrlock(&together) : pthread_rwlock_rdlock(&together));
        failed =
            search_train(o, config, train, number, s->device, &s->shared->data, &s->train, &s->judge, &progress, e);
        pthread_rwlock_unlock(&together);
        if (failed || o->status != ERROR_TRIAL || o->diverged || alone) break;
        outcome_free(o);
    }
    return failed;
}

static int run_task(struct search *s, const struct task *task, struct error *e) {
    const struct search_options *o = s->options;
    struct document doc = {0};
    struct net_config config;
    struct outcome outcome = {0};
    struct text line = {0}, state = {0};
    struct train_options train = o->train;
    int failed = space_config(s->space, s->values, &doc, e);
    if (!failed && config_read(&config, doc.root, o->space != NULL ? o->space : "the space", e)) {
        outcome.status = ERROR_USER; /* out of the tail of a distribution without bounds: this trial's fault */
        snprintf(outcome.reason, sizeof outcome.reason, "%.290s", e->text);
    }
    if (!failed) {
        value_print_json(&line, doc.root, 0);
        text_add(&state, "%s/trial-%u.state", o->results, task->number + 1);
        if (line.failed || state.failed) failed = error_memory(e, line.n, "a trial");
    }
    if (!failed && outcome.status == OK) {
        train.seed = s->shared->seed;
        train.config = line.s;
        train.state = state.s;
        failed = train_task(s, task->number, &config, &train, &outcome, e);
    }
    if (!failed) failed = record(s, task, &outcome, doc.root, state.s, e);
    if (failed) { /* somebody else may go on with it at once */
        struct error ignored;
        (void)log_give_back(s->log, task->number, task->attempt, &ignored);
    }
    outcome_free(&outcome);
    document_free(&doc);
    text_free(&line);
    text_free(&state);
    return failed;
}

/* ---- a worker ---- */

static int worker_begin(struct search *s, struct error *e) {
    const struct search_options *o = s->options;
    const int many = o->workers * o->jobs, n = s->space->n_params;
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const int threads = o->threads > 0 || many == 1 ? o->threads : cores > many ? (int)(cores / many) : 1;
    char notice[400];
    struct shared shared = *s->shared;
    int failed = open_log(&shared, &s->log, 0, e);
    if (!failed) failed = tpe_open(&s->tpe, s->space, &o->tpe, e);
    if (!failed) {
        s->values = mem_zero(3 * ((size_t)n + 1), sizeof *s->values);
        s->tried = mem_zero((size_t)s->shared->n_first + 1, 1);
        if (s->values == NULL || s->tried == NULL)
            failed = error_memory(e, sizeof *s->values, "a point");
        else
            s->mapped = s->values + n + 1, s->plain = s->mapped + n + 1;
    }
    if (!failed) failed = watchers_open(&s->watchers, o->results, e);
    if (!failed) failed = worker_open(&s->worker, o->results, s->index, o->heartbeat, e);
    if (!failed)
        failed = search_device(&s->device, o->device, s->index / o->jobs, o->fp32, threads, notice, sizeof notice, e);
    if (!failed && !o->quiet && s->index == 0) {
        if (notice[0]) fprintf(o->to, "%s\n", notice);
        fprintf(o->to, "space: %d hyperparameters%s; seed %llu; %s%s; results in %s/\n", n,
                o->tpe.joint ? ", whole points" : "", (unsigned long long)shared.seed, many > 1 ? "each worker: " : "",
                s->device->about, o->results);
        if (log_count(s->log) > 0) fprintf(o->to, "resuming: %d trials are recorded\n", log_count(s->log));
        fflush(o->to);
    }
    if (!failed) failed = net_images_load(&s->train, &s->shared->data.train, s->device, e);
    if (!failed) failed = net_images_load(&s->judge, &s->shared->data.judge, s->device, e);
    if (!failed) failed = tell(s, e);
    if (!failed) tpe_sort(s->tpe);
    if (!failed && !o->quiet && s->index == 0 && tpe_count(s->tpe) < log_count(s->log) && log_spaces(s->log) > 1)
        fprintf(o->to, "the space has changed: %d of the %d recorded trials have a place in it and count for TPE\n",
                tpe_count(s->tpe), log_count(s->log));
    return failed == ERROR_TRIAL ? ERROR_ENVIRONMENT : failed; /* no memory here is no trial's fault */
}

static void worker_end(struct search *s) {
    if (s->device != NULL) {
        net_images_unload(&s->train, s->device);
        net_images_unload(&s->judge, s->device);
        s->device->close(s->device);
    }
    for (int i = 0; i < s->n_old; i++) {
        if (s->old[i] != NULL) space_free(s->old[i]);
    }
    mem_free(s->old);
    mem_free(s->values);
    mem_free(s->tried);
    if (s->tpe != NULL) tpe_close(s->tpe);
    worker_close(s->worker);
    watchers_close(s->watchers);
    if (s->log != NULL) log_close(s->log);
}

/* Takes and trains trials until there are no more. */
static void *work(void *context) {
    struct search *s = context;
    const struct search_options *o = s->options;
    struct error *e = &s->error;
    int failed = worker_begin(s, e), told = 0;
    while (!failed && !search_stop) {
        struct task task;
        int what = TAKE_END;
        if (o->seconds > 0 && clock_seconds() - s->shared->started >= o->seconds) break;
        failed = take(s, &task, &what, e);
        if (failed || what == TAKE_END) break;
        if (what == TAKE_TRIAL) {
            failed = run_task(s, &task, e);
            continue;
        }
        if (!told && !o->quiet) {
            fprintf(o->to, "waiting: the last trials are with other workers\n");
            fflush(o->to);
        }
        told = 1;
        const struct timespec pause = {0, 100000000};
        nanosleep(&pause, NULL);
    }
    if (!failed && search_stop) failed = NET_STOPPED;
    s->failed = failed;
    worker_end(s);
    return NULL;
}

/* The workers of this process, `first` and on. The first error that is one. */
static int run_jobs(const struct shared *shared, int first, struct error *e) {
    const int jobs = shared->options->jobs;
    struct search *all = mem_zero((size_t)jobs, sizeof *all);
    pthread_t *threads = mem_zero((size_t)jobs, sizeof *threads);
    int failed = all == NULL || threads == NULL ? error_memory(e, (size_t)jobs * sizeof *all, "the workers") : OK;
    int started = 0;
    for (int i = 0; i < jobs && !failed; i++) {
        all[i] = (struct search){
            .shared = shared, .options = shared->options, .space = shared->space, .index = first + i, .log = NULL};
        if (jobs == 1) {
            work(&all[i]);
        } else {
            const int why = pthread_create(&threads[i], NULL, work, &all[i]);
            if (why != 0) failed = error_set(e, ERROR_ENVIRONMENT, "no thread for a worker: %s", strerror(why));
            if (why != 0) search_stop = SIGTERM;
        }
        started += !failed;
    }
    for (int i = 0; i < started; i++) {
        if (jobs > 1) pthread_join(threads[i], NULL);
        if (all[i].failed && (!failed || failed == NET_STOPPED)) {
            failed = all[i].failed;
            *e = all[i].error;
        }
    }
    mem_free(all);
    mem_free(threads);
    return failed;
}

/* --workers: a process each. This one only waits, passes signals on, and returns the worst of their ends. */
static int run_workers(const struct shared *shared, struct error *e) {
    const struct search_options *o = shared->options;
    pid_t *pids = mem_zero((size_t)o->workers, sizeof *pids);
    int failed = pids == NULL ? error_memory(e, (size_t)o->workers * sizeof *pids, "the workers") : OK;
    int passed_on = 0, bad = 0, signalled = 0;
    fflush(NULL);
    for (int i = 0; i < o->workers && !failed; i++) {
        pids[i] = fork();
        if (pids[i] < 0) {
            failed = error_set(e, ERROR_ENVIRONMENT, "worker %d cannot be started: %s", i + 1, strerror(errno));
            search_stop = SIGTERM; /* those that were are told to end */
        } else if (pids[i] == 0) {
            struct error mine = {0};
            signal(SIGINT, SIG_IGN); /* of the terminal: the parent passes it on as SIGTERM */
            signal(SIGHUP, SIG_IGN);
            const int status = run_jobs(shared, i * o->jobs, &mine);
            if (status != OK && status != NET_STOPPED) fprintf(stderr, "parzen: worker %d: %s\n", i + 1, mine.text);
            fflush(NULL);
            _exit(status == NET_STOPPED ? 128 + (int)search_stop : status);
        }
    }
    for (int left = o->workers; left > 0 && pids != NULL;) {
        int status;
        if (search_stop && !passed_on) {
            for (int i = 0; i < o->workers; i++) {
                if (pids[i] > 0) kill(pids[i], SIGTERM);
            }
            passed_on = 1;
        }
        const pid_t ended = waitpid(-1, &status, WNOHANG); /* blocked, it would miss a signal that came just before */
        if (ended < 0 && errno != EINTR) break;
        if (ended <= 0) {
            const struct timespec pause = {0, 50000000};
            nanosleep(&pause, NULL);
            continue;
        }
        left--;
        for (int i = 0; i < o->workers; i++) {
            if (pids[i] == ended) pids[i] = 0;
        }
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
        const int by = WIFSIGNALED(status)         ? WTERMSIG(status)
                       : WEXITSTATUS(status) > 128 ? WEXITSTATUS(status) - 128
                                                   : 0;
        if (by != 0 && search_stop) { /* as it was told to, if not at once */
            if (!failed) failed = NET_STOPPED;
            continue;
        }
        bad++;
        signalled += by != 0;
        if (!failed || failed == NET_STOPPED) {
            failed = by != 0
                         ? error_set(e, ERROR_ENVIRONMENT, "a worker was ended by signal %d; the others went on", by)
                         : error_set(e, WEXITSTATUS(status), "a worker has failed, see above; the others went on");
        }
    }
    if (bad == o->workers)
        failed = error_set(e, failed,
                           signalled == bad ? "all %d workers were ended by signals; the same command goes on"
                                            : "all %d workers have failed, see above",
                           bad);
    mem_free(pids);
    return failed;
}

static void say(const char *line) { fprintf(stderr, "%s\n", line); }

static int shared_open(struct shared *s, struct log **log, struct error *e) {
    const struct search_options *o = s->options;
    struct data_options data = o->data;
    int failed = o->space != NULL ? space_read(&s->space, o->space, e)
                                  : space_parse(&s->space, space_seed, strlen(space_seed), "the built-in space", e);
    if (!failed) failed = config_check_space(s->space, o->space != NULL ? o->space : "the built-in space", e);
    if (!failed && o->first != NULL) failed = read_first(s, e);
    if (failed) return failed == ERROR_TRIAL ? ERROR_ENVIRONMENT : failed;
    log_says = say;
    failed = seed_of(o, &s->seed, e);
    data.seed = s->seed;
    if (!failed) failed = data_open(&s->data, &data, e);
    if (!failed) failed = open_log(s, log, 1, e);
    return failed;
}

static void show_start(const struct shared *s) {
    const struct search_options *o = s->options;
    if (o->quiet) return;
    fprintf(o->to, "%s: %d images to train on, %d to judge on (%s), %d fine and %d coarse classes\n", s->data.name,
            s->data.train.n, s->data.judge.n,
            o->data.objective == OBJECTIVE_TEST ? "the test set, as the original did" : "held out",
            s->data.fine_classes, s->data.coarse_classes);
    if (s->n_first == 1) fprintf(o->to, "%s comes first, unless it has been tried\n", o->first);
    if (s->n_first > 1)
        fprintf(o->to, "%d configurations of %s come first, but for those that have been tried\n", s->n_first,
                o->first);
    if (s->data.coarse_classes == 0) fprintf(o->to, "one kind of label: one head; coarse_labels_weight is ignored\n");
    fflush(o->to);
}

static void show_end(const struct search_options *o, int failed) {
    struct log *log;
    char notice[400];
    if (o->quiet || log_open(&log, o->results, NULL, 0, notice, sizeof notice, NULL) != OK) return;
    const int best = report_best(log);
    if (failed == NET_STOPPED) fprintf(o->to, "stopped; the same command goes on with what was under way\n");
    fprintf(o->to, "%d trials in %s/", log_count(log), o->results);
    if (best >= 0)
        fprintf(o->to, "; the best: fine %.4f, %s.txt.json", log_trial(log, best)->fine_accuracy,
                log_trial(log, best)->name);
    fprintf(o->to, "\n");
    log_close(log);
}

int search_run(const struct search_options *o, struct error *e) {
    struct shared s = {.options = o, .started = clock_seconds(), .alone = o->workers == 1 && o->jobs == 1};
    struct log *log = NULL;
    int failed = shared_open(&s, &log, e);
    if (log != NULL) log_close(log);
    if (!failed) show_start(&s);
    if (!failed) failed = o->workers > 1 ? run_workers(&s, e) : run_jobs(&s, 0, e);
    if (!failed || failed == NET_STOPPED) show_end(o, failed);
    data_close(&s.data);
    mem_free(s.first);
    if (s.space != NULL) space_free(s.space);
    return failed;
}
