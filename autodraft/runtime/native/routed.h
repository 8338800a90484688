#ifndef AUTODRAFT_ROUTED_H
#define AUTODRAFT_ROUTED_H
#include "blocks.h"

/* Instead of all sub-layers: each row along its own route. The streams of all rows are left in the workspace's x, behind
 * a barrier. */
void walk_routes(const Call *c, int thread, Private *mine);

#endif
