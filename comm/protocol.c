#include "comm/protocol.h"

#include <stddef.h>

static const char *const phase_texts[] = {
#define X(name, text) text,
    COMM_PHASE_LIST(X)
#undef X
};

const char *comm_phase_text(comm_phase phase)
{
    /* Phases come in messages: no value may lead outside the table. */
    const unsigned idx = (unsigned)phase;
    return idx < sizeof phase_texts / sizeof phase_texts[0] ? phase_texts[idx] : "unknown";
}
