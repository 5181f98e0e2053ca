#ifndef CVY_FAULT_H
#define CVY_FAULT_H

#include <stdint.h>

/**
 * Named points at which tests make a process fail. The environment variable CONVOY_FAULT holds a
 * comma-separated list of
 *
 *     point[:rank=R][:step=S][:count=K][:attempt=A]=action
 *
 * action: kill, stop, exit, segv, hang, nan, flip, or an errno name (eio, enospc). A point fires
 * the K-th time (default 1) that it is passed by rank R (any) at step S (any) in launch attempt A
 * (any; the supervisor counts attempts in CONVOY_ATTEMPT). Without the variable a point costs one
 * load and a branch.
 */
typedef enum cvy_fault_action {
    CVY_FAULT_NONE,
    CVY_FAULT_NAN,  /* the caller spoils a value */
    CVY_FAULT_FLIP, /* the caller flips a bit */
    CVY_FAULT_ERRNO /* the caller fails with the errno in *out_errno */
} cvy_fault_action;

/** Read CONVOY_FAULT; call once per process, when the rank is known. Wrong text is ignored with a
 *  warning. */
void cvy_fault_open(int rank);

/** Pass a point. kill, stop, exit, segv and hang are carried out here; the others are the caller's
 *  to do. step -1: none. out_errno may be NULL. */
cvy_fault_action cvy_fault_at(const char *point, int64_t step, int *out_errno);

#endif
