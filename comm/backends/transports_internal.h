#ifndef COMM_BACKENDS_TRANSPORTS_INTERNAL_H
#define COMM_BACKENDS_TRANSPORTS_INTERNAL_H

#include "comm/comm_internal.h"

extern const comm_ops comm_transport_mpi;
extern const comm_ops comm_transport_self;

#endif
