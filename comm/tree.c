#include "comm/tree_internal.h"

#include "base/status.h"
#include "comm/reduce.h"

void comm_replica_range(int64_t n_replicas, int n_workers, int w, int64_t *first, int64_t *n)
{
    const int64_t each = n_replicas / n_workers, n_larger = n_replicas % n_workers;

    *first = w * each + (w < n_larger ? w : n_larger);
    *n = each + (w < n_larger);
}

comm_tree_stack comm_tree_open(int64_t n_replicas)
{
    CVY_ASSERT(n_replicas >= 1 && n_replicas <= COMM_TREE_MAX_REPLICAS);
    return (comm_tree_stack){.n_replicas = n_replicas};
}

int comm_tree_push(comm_tree_stack *stack, comm_tree_node node)
{
    int n_taken = 0;

    while (node.n < stack->n_replicas) {
        const int64_t idx = node.first >> node.level;
        if (idx % 2 == 0) {
            /* A left child: it is its parent too when nothing is to its right. */
            if ((idx + 1) << node.level < stack->n_replicas) break;
            node.level++;
            continue;
        }
        if (stack->n == 0) break;
        const comm_tree_node *left = &stack->node[stack->n - 1];
        if (left->level != node.level || left->first >> left->level != idx - 1) break;
        node.first = left->first;
        node.n += left->n;
        node.level++;
        stack->n--;
        n_taken++;
    }
    CVY_ASSERT(stack->n < COMM_TREE_MAX_DEPTH);
    stack->node[stack->n++] = node;
    return n_taken;
}

int comm_tree_push_replica(comm_tree_stack *stack, int64_t replica)
{
    return comm_tree_push(stack, (comm_tree_node){.first = replica, .n = 1, .level = 0});
}
