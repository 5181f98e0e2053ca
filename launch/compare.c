#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "launch/rank_internal.h"

#include <stdio.h>
#include <string.h>

/* What must be the same on every rank, as hashes: a rank started with another job or another build
 * would else hang the others, or train something else. */
typedef struct identity {
    uint64_t program; /* of the executable's bytes */
    uint64_t arguments;
    uint64_t version;
} identity;

static cvy_status find_identity(const launch_rank *r, identity *out)
{
    cvy_reason reason = {""};
    uint64_t size_bytes = 0;
    cvy_hasher *hasher = cvy_hasher_open();

    if (hasher == NULL) return CVY_FAIL(CVY_ERR_NO_MEMORY, "hash of the arguments");
    for (int i = 0; i < r->options->argc; i++)
        cvy_hasher_add(hasher, r->options->argv[i], strlen(r->options->argv[i]) + 1);
    out->arguments = cvy_hasher_value(hasher);
    cvy_hasher_close(&hasher);
    out->version = cvy_hash64(CONVOY_VERSION, strlen(CONVOY_VERSION));
    const cvy_status status = cvy_file_hash("/proc/self/exe", &size_bytes, &out->program, &reason);
    return status == CVY_OK ? CVY_OK : CVY_FAIL(status, "the program's file: %s", reason.text);
}

static cvy_status compare(const launch_rank *r, const identity *all)
{
    for (int rank = 1; rank < comm_size(r->world); rank++) {
        const char *field = NULL;
        if (all[rank].version != all[0].version)
            field = "version of convoy";
        else if (all[rank].program != all[0].program)
            field = "build of convoy";
        else if (all[rank].arguments != all[0].arguments)
            field = "command line";
        if (field == NULL) continue;
        return CVY_FAIL(CVY_ERR_CONFIG,
                        "rank %d on %s has another %s than rank 0 on %s: start all ranks with the "
                        "same program and arguments",
                        rank, comm_host(r->world, rank), field, comm_host(r->world, 0));
    }
    return CVY_OK;
}

cvy_status launch_compare_ranks(const launch_rank *r, cvy_deadline deadline)
{
    identity mine = {0}, *all = NULL;
    cvy_status status = find_identity(r, &mine);

    if (comm_rank(r->world) == 0) {
        all = cvy_alloc_zero((size_t)comm_size(r->world), sizeof *all);
        if (all == NULL) status = CVY_FAIL(CVY_ERR_NO_MEMORY, "identities of all ranks");
    }
    CVY_GOTO_IF_ERR(done, status, comm_agree(r->world, status, deadline));
    CVY_GOTO_IF_ERR(done, status, comm_gather(r->world, &mine, sizeof mine, 0, all, deadline));
    if (all != NULL) status = compare(r, all);
    status = comm_agree(r->world, status, deadline);

done:
    cvy_free(all);
    return status;
}
