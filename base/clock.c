#include "base/clock.h"

#include "base/status.h"

#include <errno.h>
#include <math.h>
#include <time.h>

/* These clocks exist on every system convoy runs on: a failure is a bug. */
static struct timespec read_clock(clockid_t clock_id)
{
    struct timespec now;
    const int rc = clock_gettime(clock_id, &now);

    CVY_ASSERT(rc == 0);
    return now;
}

double cvy_clock_now_s(void)
{
    const struct timespec now = read_clock(CLOCK_MONOTONIC);

    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void cvy_clock_sleep_s(double seconds)
{
    if (!(seconds > 0.0)) return;
    if (seconds > 1e9) seconds = 1e9; /* 30 years; keeps time_t in range */
    struct timespec end = read_clock(CLOCK_MONOTONIC);
    const double whole_s = floor(seconds);
    end.tv_sec += (time_t)whole_s;
    end.tv_nsec += (long)(1e9 * (seconds - whole_s));
    if (end.tv_nsec >= 1000000000L) {
        end.tv_nsec -= 1000000000L;
        end.tv_sec++;
    }
    /* To an absolute end, so that a signal neither shortens nor lengthens the sleep. */
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR) continue;
}

/* Leading zeros to n_digits; the printf family would answer to the locale and costs more. */
static char *put_decimals(char *out, int value, int n_digits)
{
    for (int i = n_digits - 1; i >= 0; i--) {
        out[i] = (char)('0' + value % 10);
        value /= 10;
    }
    return out + n_digits;
}

void cvy_clock_wall_text(char out[32])
{
    const struct timespec now = read_clock(CLOCK_REALTIME);
    struct tm utc;
    const struct tm *converted = gmtime_r(&now.tv_sec, &utc);

    CVY_ASSERT(converted != NULL);
    char *c = put_decimals(out, utc.tm_year + 1900, 4);
    *c++ = '-';
    c = put_decimals(c, utc.tm_mon + 1, 2);
    *c++ = '-';
    c = put_decimals(c, utc.tm_mday, 2);
    *c++ = 'T';
    c = put_decimals(c, utc.tm_hour, 2);
    *c++ = ':';
    c = put_decimals(c, utc.tm_min, 2);
    *c++ = ':';
    c = put_decimals(c, utc.tm_sec, 2);
    *c++ = '.';
    c = put_decimals(c, (int)(now.tv_nsec / 1000000L), 3);
    *c++ = 'Z';
    *c = '\0';
}

cvy_deadline cvy_deadline_in_s(double seconds)
{
    return (cvy_deadline){.at_s = cvy_clock_now_s() + seconds};
}

int cvy_deadline_is_past(cvy_deadline deadline)
{
    return cvy_clock_now_s() >= deadline.at_s;
}

double cvy_deadline_left_s(cvy_deadline deadline)
{
    return deadline.at_s - cvy_clock_now_s();
}
