/* report.c - result files, tables, progress lines: everything here turns numbers into text and decides nothing.
 *
 * The result file keeps the original's keys and its order (sorted, indented by four), so that what people wrote to
 * read those files goes on working; what is new stands beside them under names of its own. */
#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- outcomes ---- */

int outcome_add(struct outcome *o, const struct net_metrics *train, const struct net_metrics *judge, struct error *e) {
    if (o->epochs == o->room) {
        const int room = o->room == 0 ? 128 : 2 * o->room;
        struct net_metrics *t = mem_grow(o->train, (size_t)room * sizeof *t);
        if (t != NULL) o->train = t;
        struct net_metrics *j = mem_grow(o->judge, (size_t)room * sizeof *j);
        if (j != NULL) o->judge = j;
        if (t == NULL || j == NULL) return error_memory(e, (size_t)room * sizeof *t, "the history");
        o->room = room;
    }
    o->train[o->epochs] = *train;
    o->judge[o->epochs] = *judge;
    if (o->epochs == 0 || judge->fine_accuracy > o->judge[o->best].fine_accuracy) o->best = o->epochs;
    o->epochs++;
    return OK;
}

void outcome_free(struct outcome *o) {
    mem_free(o->train);
    mem_free(o->judge);
    memset(o, 0, sizeof *o);
}

/* ---- the result file ---- */

void report_name(char *name, size_t room, double accuracy, uint32_t id) {
    snprintf(name, room, "model_%.6f_%05x", accuracy, id & 0xfffffu);
}

/* The numbers of struct net_metrics in the original's order and names. */
struct column {
    const char *key;
    size_t offset;
};
static const struct column columns[] = {{"coarse_outputs_acc", offsetof(struct net_metrics, coarse_accuracy)},
                                        {"coarse_outputs_loss", offsetof(struct net_metrics, coarse_loss)},
                                        {"fine_outputs_acc", offsetof(struct net_metrics, fine_accuracy)},
                                        {"fine_outputs_loss", offsetof(struct net_metrics, fine_loss)},
                                        {"loss", offsetof(struct net_metrics, loss)}};
enum { N_COLUMNS = sizeof columns / sizeof *columns };

static double column_of(const struct net_metrics *m, const struct column *c) {
    double x;
    memcpy(&x, (const char *)m + c->offset, sizeof x);
    return x;
}

static void add_number(struct text *t, const char *key, double x) {
    text_add(t, "    \"%s\": ", key);
    text_add_double(t, x);
    text_add(t, ",\n");
}

static void add_string(struct text *t, const char *key, const char *s, const char *end) {
    text_add(t, "    \"%s\": ", key);
    text_add_json_string(t, s);
    text_add(t, "%s\n", end);
}

static double extreme(const struct outcome *o, const struct column *c, int largest) {
    double best = column_of(&o->judge[0], c);
    for (int i = 1; i < o->epochs; i++) {
        const double x = column_of(&o->judge[i], c);
        if (largest ? x > best : x < best) best = x;
    }
    return best;
}

static void add_history(struct text *t, const struct outcome *o) {
    text_add(t, "    \"history\": {\n");
    for (int judged = 0; judged < 2; judged++) {
        for (int c = 0; c < N_COLUMNS; c++) {
            text_add(t, "        \"%s%s\": [", judged ? "val_" : "", columns[c].key);
            for (int i = 0; i < o->epochs; i++) {
                text_add(t, i > 0 ? ", " : "");
                text_add_double(t, column_of(judged ? &o->judge[i] : &o->train[i], &columns[c]));
            }
            text_add(t, judged && c == N_COLUMNS - 1 ? "]\n" : "],\n");
        }
    }
    text_add(t, "    },\n");
}

int report_result(struct text *t, const struct outcome *o, const struct value *config, const char *name,
                  struct error *e) {
    const struct net_metrics *end = &o->judge[o->epochs - 1];
    text_add(t, "{\n");
    add_number(t, "coarse_best_accuracy", extreme(o, &columns[0], 1));
    add_number(t, "coarse_best_loss", extreme(o, &columns[1], 0));
    add_number(t, "coarse_end_accuracy", end->coarse_accuracy);
    add_number(t, "coarse_end_loss", end->coarse_loss);
    add_number(t, "fine_best_accuracy", o->judge[o->best].fine_accuracy);
    add_number(t, "fine_best_loss", extreme(o, &columns[3], 0));
    add_number(t, "fine_end_accuracy", end->fine_accuracy);
    add_number(t, "fine_end_loss", end->fine_loss);
    add_history(t, o);
    add_number(t, "loss", -o->judge[o->best].fine_accuracy);
    add_string(t, "model_name", name, ",");
    add_string(t, "note", o->reason, ",");
    text_add(t, "    \"parameters\": %zu,\n", o->parameters);
    add_number(t, "real_loss", end->loss);
    add_number(t, "seconds", round(o->seconds * 1000) / 1000);
    text_add(t, "    \"space\": ");
    value_print_json(t, config, 0);
    text_add(t, ",\n");
    add_string(t, "status", "ok", "");
    text_add(t, "}\n");
    return t->failed ? error_memory(e, t->n, "a result file") : OK;
}

/* ---- tables ---- */

int report_best(const struct log *log) {
    int best = -1;
    for (int i = 0; i < log_count(log); i++) {
        const struct trial *t = log_trial(log, i);
        if (t->status != TRIAL_OK || isnan(t->loss)) continue;
        if (best < 0 || t->loss < log_trial(log, best)->loss) best = i;
    }
    return best;
}

/* Failed trials first, then by loss from bad to good, the earlier of equals later: the best is the last row. */
static int by_merit(const void *a, const void *b) {
    const struct trial *x = *(const struct trial *const *)a, *y = *(const struct trial *const *)b;
    const int fx = x->status != TRIAL_OK, fy = y->status != TRIAL_OK;
    if (fx != fy) return fy - fx;
    if (!fx && x->loss != y->loss) return x->loss > y->loss ? -1 : 1;
    return x->number > y->number ? -1 : x->number < y->number;
}

/* Who is at a trial, and since when; or that nobody is. */
static void list_claim(FILE *to, const struct claim *c, struct watchers *watchers) {
    char spent[24];
    fprintf(to, "%5u  %6s  %6s  %6s  ", c->number + 1, "-", "-", "-");
    if (c->given_back || (watchers != NULL && !watchers_alive(watchers, c->worker))) {
        fprintf(to, "%8s  running no more: %s\n", "-",
                c->given_back ? "waits for a worker" : "its worker is gone; the next one goes on with it");
        return;
    }
    const double seconds = (double)((int64_t)time(NULL) - c->since);
    fprintf(to, "%8s  running, taken by %s\n", seconds >= 0 ? report_time(seconds, spent, sizeof spent) : "-",
            c->worker);
}

void report_list(FILE *to, const struct log *log, struct watchers *watchers) {
    const struct log_header *search = log_get_header(log);
    const int n = log_count(log);
    const struct trial **rows = mem_alloc(((size_t)n + 1) * sizeof *rows);
    char time[24];
    if (rows == NULL) return;
    for (int i = 0; i < n; i++) rows[i] = log_trial(log, i);
    qsort(rows, (size_t)n, sizeof *rows, by_merit);
    fprintf(to, "seed %llu, %s\n", (unsigned long long)search->seed, search->settings);
    fprintf(to, "trial    fine  coarse  epochs      time  result\n");
    for (int i = 0; i < log_claims(log); i++) {
        const struct claim c = log_claim(log, i);
        list_claim(to, &c, watchers);
    }
    for (int i = 0; i < n; i++) {
        const struct trial *t = rows[i];
        report_time(t->seconds, time, sizeof time);
        if (t->status == TRIAL_OK) {
            fprintf(to, "%5u  %6.4f  %6.4f  %6u  %8s  %s%s%s%s\n", t->number + 1, t->fine_accuracy, t->coarse_accuracy,
                    t->epochs, time, t->name, t->reason[0] ? "  (" : "", t->reason, t->reason[0] ? ")" : "");
        } else {
            fprintf(to, "%5u  %6s  %6s  %6u  %8s  failed: %s\n", t->number + 1, "-", "-", t->epochs, time, t->reason);
        }
    }
    mem_free(rows);
}

/* ---- progress ---- */

const char *report_time(double seconds, char *buffer, size_t room) {
    const long s = lround(seconds);
    if (seconds < 9.95) {
        snprintf(buffer, room, "%.1fs", seconds > 0 ? seconds : 0.0);
    } else if (s < 60) {
        snprintf(buffer, room, "%lds", s);
    } else if (s < 3600) {
        snprintf(buffer, room, "%ldm %02lds", s / 60, s % 60);
    } else {
        snprintf(buffer, room, "%ldh %02ldm", s / 3600, s / 60 % 60);
    }
    return buffer;
}

void progress_begin(struct progress *p, FILE *to, int quiet, int trial, int trials, int epochs) {
    memset(p, 0, sizeof *p);
    p->to = to;
    p->quiet = quiet;
    p->terminal = isatty(fileno(to));
    p->trial = trial;
    p->trials = trials;
    p->epochs = epochs;
    p->started = p->epoch_started = clock_seconds();
    p->last = p->started;
    p->loss = (double)NAN;
}

static void print_line(struct progress *p, int done, int images, const char *doing) {
    const double now = clock_seconds(), spent = now - p->started;
    char left[24], head[64] = "";
    /* Judging an epoch is about a tenth of its work. */
    const double done_part = images > 0 ? (double)done / images : 0;
    const double in_epoch = doing[0] == 't' ? 0.9 * done_part : 0.9 + 0.1 * done_part;
    const double part = (p->epoch + in_epoch) / (p->epochs > 0 ? p->epochs : 1);
    if (p->trial > 0) {
        if (p->trials > 0) {
            snprintf(head, sizeof head, "trial %d/%d  ", p->trial, p->trials);
        } else {
            snprintf(head, sizeof head, "trial %d  ", p->trial);
        }
    }
    fprintf(p->to, "%s%sepoch %d/%d  %s %d/%d", p->terminal ? "\r" : "", head, p->epoch + (p->epoch < p->epochs),
            p->epochs, doing, done, images);
    if (!isnan(p->loss)) fprintf(p->to, "  loss %.3f  fine %.4f  coarse %.4f", p->loss, p->fine, p->coarse);
    const double rate = spent > 0 ? (double)p->seen / spent : 0;
    fprintf(p->to, "  %.0f images/s", rate);
    if (part > 0.005) fprintf(p->to, "  %s left", report_time(spent / part - spent, left, sizeof left));
    fprintf(p->to, p->terminal ? "\x1b[K" : "\n");
    fflush(p->to);
    p->last = now;
}

void progress_step(struct progress *p, int done, int images, const char *doing) {
    /* A terminal is refreshed ten times a second at most, a file or a pipe gets a line every half minute. */
    if (p->quiet || clock_seconds() - p->last < (p->terminal ? 0.1 : 30)) return;
    print_line(p, done, images, doing);
}

void progress_epoch(struct progress *p, const struct net_metrics *train, const struct net_metrics *judge) {
    p->epoch++;
    p->loss = train->loss;
    p->fine = judge->fine_accuracy;
    p->coarse = judge->coarse_accuracy;
    if (p->each_epoch && !p->quiet) {
        char time[24];
        const double now = clock_seconds();
        progress_clear(p);
        fprintf(p->to,
                "epoch %d/%d  training: loss %.4f  fine %.4f  |  judged: loss %.4f  fine %.4f  coarse %.4f  |  %s\n",
                p->epoch, p->epochs, train->loss, train->fine_accuracy, judge->loss, judge->fine_accuracy,
                judge->coarse_accuracy, report_time(now - p->epoch_started, time, sizeof time));
        fflush(p->to);
        p->epoch_started = p->last = now;
    }
}

void progress_clear(struct progress *p) {
    if (!p->quiet && p->terminal) {
        fprintf(p->to, "\r\x1b[K");
        fflush(p->to);
    }
}
