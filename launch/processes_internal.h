#ifndef LAUNCH_PROCESSES_INTERNAL_H
#define LAUNCH_PROCESSES_INTERNAL_H

#include <sys/types.h>

/** Living processes below this one, read from /proc; zombies count as gone. */

#define LAUNCH_MAX_PROCESSES 4096

/** Direct children of pid that live; -1 when /proc cannot be read. */
int launch_count_children(pid_t pid);

/** Send a signal to all descendants of this process, deepest generation included, except the
 *  process itself. Returns how many got it. */
int launch_signal_descendants(int number);

/** Reap what died and was inherited. */
void launch_reap(void);

#endif
