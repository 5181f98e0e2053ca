#ifndef COMM_TREE_INTERNAL_H
#define COMM_TREE_INTERNAL_H

#include <stdint.h>

/*
 * The canonical tree over replicas 0..R-1 (reduce.h) as a stack of its nodes, left to right: a node
 * that is pushed becomes its parent with the node below it for as long as that is its left sibling.
 * Nodes must be pushed in order, without gaps.
 */
#define COMM_TREE_MAX_DEPTH    64
#define COMM_TREE_MAX_REPLICAS ((int64_t)1 << 30)

typedef struct comm_tree_node {
    int64_t first, n; /* replicas [first, first + n) */
    int level;        /* node(level, first >> level) */
} comm_tree_node;

typedef struct comm_tree_stack {
    int64_t n_replicas;
    int n;
    comm_tree_node node[COMM_TREE_MAX_DEPTH];
} comm_tree_stack;

comm_tree_stack comm_tree_open(int64_t n_replicas);
/** Push a node; returns how many nodes under it, from the top, it took in, one after the other. */
int comm_tree_push(comm_tree_stack *stack, comm_tree_node node);
int comm_tree_push_replica(comm_tree_stack *stack, int64_t replica);

#endif
