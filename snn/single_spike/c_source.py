"""The C code of ``compiled``; ``REAL`` stands for the type of the values."""

SOURCE = """\
#include <math.h>
#include <stdint.h>

enum { BATCH, CHANNELS, HEIGHT, WIDTH, ROWS, COLUMNS, DOWN, RIGHT, ABOVE, BEFORE, OUT_HEIGHT,
       OUT_WIDTH, NEURONS, KNOTS, SLOPE_KNOTS };
typedef struct { REAL at, jump, bend; } Knot;

/* The output rows, or columns, whose window holds an input place: lo <= place < hi. */
static inline void range(int64_t at, int64_t pad, int64_t window, int64_t stride, int64_t count,
                         int64_t *lo, int64_t *hi) {
    const int64_t first = at + pad - window + stride;
    *lo = first > 0 ? first / stride : 0;
    *hi = (at + pad) / stride + 1;
    if (*hi > count) *hi = count;
}

/* Let the membranes v of one place pass the threshold at `now`; return how many did. */
static int64_t fire(int64_t neurons, REAL threshold, REAL earliest, REAL now, REAL *restrict v,
                    const REAL *restrict s, REAL *restrict fired, REAL *restrict slopes) {
    int64_t count = 0;
    for (int64_t j = 0; j < neurons; ++j)
        if (v[j] >= threshold) {
            const REAL back = s[j] > 0 && now > earliest ? (v[j] - threshold) / s[j] : 0;
            fired[j] = now - back > earliest ? now - back : earliest;
            slopes[j] = s[j];
            v[j] = -INFINITY;
            ++count;
        }
    return count;
}

/* Let the membranes of one place grow from `before` to `now`; return how many fired. Jumps are
   looked at only here, once all that came at `before` has jumped. */
static inline int64_t grow(int64_t neurons, int jumps, REAL threshold, REAL before, REAL now,
                           REAL *restrict v, const REAL *restrict s, REAL *restrict fired,
                           REAL *restrict slopes) {
    const REAL length = now - before;
    int64_t count = 0;
    int any = 0;
    if (!(length > 0)) return 0;
    if (jumps) {
        for (int64_t j = 0; j < neurons; ++j) any |= v[j] >= threshold;
        if (any) count = fire(neurons, threshold, before, before, v, s, fired, slopes);
        any = 0;
    }
    for (int64_t j = 0; j < neurons; ++j) {
        v[j] += s[j] * length;
        any |= v[j] >= threshold;
    }
    return any ? count + fire(neurons, threshold, before, now, v, s, fired, slopes) : count;
}

static inline void add(int64_t neurons, REAL by, const REAL *restrict w, REAL *restrict sum) {
    for (int64_t j = 0; j < neurons; ++j) sum[j] += w[j] * by;
}

static void image(const int64_t *n, REAL threshold, REAL horizon, const Knot *knots,
                  const REAL *restrict order, const int64_t *restrict places,
                  const REAL *restrict rows, REAL *restrict fired, REAL *restrict slopes,
                  REAL *restrict v, REAL *restrict scratch, int64_t *restrict left) {
    const int64_t neurons = n[NEURONS], out = n[OUT_HEIGHT] * n[OUT_WIDTH];
    const int64_t inputs = n[CHANNELS] * n[HEIGHT] * n[WIDTH];
    REAL *s = scratch, *last = scratch + out * neurons;
    int64_t next[n[KNOTS]];
    int jumps = 0;
    for (int64_t k = 0; k < n[KNOTS]; ++k) {
        next[k] = 0;
        jumps |= knots[k].jump != 0;
    }
    for (int64_t i = 0; i < out * neurons; ++i) {
        fired[i] = horizon;
        slopes[i] = v[i] = s[i] = 0;
    }
    for (int64_t p = 0; p < out; ++p) {
        last[p] = 0;
        left[p] = neurons;
    }
    for (;;) {
        /* Each knot follows the same spikes, later by its delay: the next event is one of a few. */
        int64_t k = 0;
        REAL now = horizon;
        for (int64_t m = 0; m < n[KNOTS]; ++m)
            if (next[m] < inputs && order[next[m]] + knots[m].at < now
                && order[next[m]] < horizon) {
                now = order[next[m]] + knots[m].at;
                k = m;
            }
        if (!(now < horizon)) break;
        const int64_t input = places[next[k]++], place = input / n[CHANNELS];
        const int64_t channel = input % n[CHANNELS], y = place / n[WIDTH], x = place % n[WIDTH];
        int64_t top, bottom, begin, end;
        range(y, n[ABOVE], n[ROWS], n[DOWN], n[OUT_HEIGHT], &top, &bottom);
        range(x, n[BEFORE], n[COLUMNS], n[RIGHT], n[OUT_WIDTH], &begin, &end);
        for (int64_t a = top; a < bottom; ++a)
            for (int64_t b = begin; b < end; ++b) {
                const int64_t p = a * n[OUT_WIDTH] + b, at = p * neurons;
                if (!left[p]) continue;
                const int64_t r = y + n[ABOVE] - a * n[DOWN], c = x + n[BEFORE] - b * n[RIGHT];
                const REAL *w = rows + ((channel * n[ROWS] + r) * n[COLUMNS] + c) * neurons;
                left[p] -= grow(neurons, jumps, threshold, last[p], now, v + at, s + at,
                                fired + at, slopes + at);
                last[p] = now;
                if (knots[k].bend != 0) add(neurons, knots[k].bend, w, s + at);
                if (knots[k].jump != 0) add(neurons, knots[k].jump, w, v + at);
            }
    }
    for (int64_t p = 0; p < out; ++p) {
        const int64_t at = p * neurons;
        if (left[p])
            grow(neurons, jumps, threshold, last[p], horizon, v + at, s + at, fired + at,
                 slopes + at);
    }
    /* The horizon itself is too late: silent there, and as near to firing as can be. */
    for (int64_t i = 0; i < out * neurons; ++i)
        if (fired[i] >= horizon && v[i] == -INFINITY) v[i] = threshold;
}

void cross(const int64_t *n, int threads, const REAL *bounds, const Knot *knots,
           const REAL *order, const int64_t *places, const REAL *rows, REAL *fired, REAL *slopes,
           REAL *membranes, REAL *scratch, int64_t *left) {
    const int64_t inputs = n[CHANNELS] * n[HEIGHT] * n[WIDTH];
    const int64_t out = n[OUT_HEIGHT] * n[OUT_WIDTH];
    const int64_t size = out * n[NEURONS], chunk = (n[BATCH] + threads - 1) / threads;
#pragma omp parallel for num_threads(threads) schedule(static, 1) if(threads > 1)
    for (int t = 0; t < threads; ++t)
        for (int64_t b = t * chunk; b < (t + 1) * chunk && b < n[BATCH]; ++b)
            image(n, bounds[0], bounds[1], knots, order + b * inputs, places + b * inputs, rows,
                  fired + b * size, slopes + b * size, membranes + b * size,
                  scratch + t * (size + out), left + t * out);
}

static inline void to_weights(int64_t neurons, Knot knot, REAL then, const REAL *restrict fired,
                              const REAL *restrict share, REAL *restrict sum) {
    for (int64_t j = 0; j < neurons; ++j) {
        const REAL since = fired[j] - then - knot.at;
        sum[j] += since >= 0 ? share[j] * (knot.jump + knot.bend * since) : 0;
    }
}

static inline void to_time(int64_t neurons, Knot knot, REAL then, const REAL *restrict fired,
                           const REAL *restrict share, const REAL *restrict w,
                           REAL *restrict sum) {
    for (int64_t j = 0; j < neurons; ++j)
        sum[j] += fired[j] - then - knot.at >= 0 ? share[j] * w[j] * knot.jump : 0;
}

static void back_image(const int64_t *n, REAL horizon, const Knot *knots,
                       const REAL *restrict times, const REAL *restrict rows,
                       const REAL *restrict fired, const REAL *restrict weight_share,
                       const REAL *restrict time_share, REAL *restrict sums,
                       REAL *restrict passed, REAL *restrict scratch) {
    const int64_t neurons = n[NEURONS], inputs = n[CHANNELS] * n[HEIGHT] * n[WIDTH];
    for (int64_t input = 0; input < inputs; ++input) {
        if (!(times[input] < horizon)) continue;
        const int64_t place = input / n[CHANNELS], channel = input % n[CHANNELS];
        const int64_t y = place / n[WIDTH], x = place % n[WIDTH];
        int64_t top, bottom, begin, end;
        range(y, n[ABOVE], n[ROWS], n[DOWN], n[OUT_HEIGHT], &top, &bottom);
        range(x, n[BEFORE], n[COLUMNS], n[RIGHT], n[OUT_WIDTH], &begin, &end);
        for (int64_t j = 0; j < neurons; ++j) scratch[j] = 0;
        for (int64_t a = top; a < bottom; ++a)
            for (int64_t b = begin; b < end; ++b) {
                const int64_t at = (a * n[OUT_WIDTH] + b) * neurons;
                const int64_t r = y + n[ABOVE] - a * n[DOWN], c = x + n[BEFORE] - b * n[RIGHT];
                const int64_t row = ((channel * n[ROWS] + r) * n[COLUMNS] + c) * neurons;
                for (int64_t k = 0; k < n[KNOTS]; ++k)
                    to_weights(neurons, knots[k], times[input], fired + at, weight_share + at,
                               sums + row);
                if (!passed) continue;
                for (int64_t k = n[KNOTS]; k < n[KNOTS] + n[SLOPE_KNOTS]; ++k)
                    to_time(neurons, knots[k], times[input], fired + at, time_share + at,
                            rows + row, scratch);
            }
        if (passed)
            for (int64_t j = 0; j < neurons; ++j) passed[input] += scratch[j];
    }
}

void credit(const int64_t *n, int threads, const REAL *bounds, const Knot *knots,
            const REAL *times, const REAL *rows, const REAL *fired, const REAL *weight_share,
            const REAL *time_share, REAL *sums, REAL *passed, REAL *scratch) {
    const int64_t inputs = n[CHANNELS] * n[HEIGHT] * n[WIDTH];
    const int64_t size = n[OUT_HEIGHT] * n[OUT_WIDTH] * n[NEURONS];
    const int64_t weights = n[CHANNELS] * n[ROWS] * n[COLUMNS] * n[NEURONS];
    const int64_t chunk = (n[BATCH] + threads - 1) / threads;
#pragma omp parallel for num_threads(threads) schedule(static, 1) if(threads > 1)
    for (int t = 0; t < threads; ++t)
        for (int64_t b = t * chunk; b < (t + 1) * chunk && b < n[BATCH]; ++b)
            back_image(n, bounds[0], knots, times + b * inputs, rows, fired + b * size,
                       weight_share + b * size, time_share + b * size, sums + t * weights,
                       passed ? passed + b * inputs : 0, scratch + t * n[NEURONS]);
}
"""
