// A world of its own for a test program that starts daemons: its own processes, network (with nothing but the loopback in it), mounts,
// shared memory and /dev/shm. However the program ends, kill -9 too, the kernel ends and removes all that is in there.
#pragma once

#include <functional>

namespace midstream::test {

// Runs `body` in there and ends this process with what it gives, or 128 + the signal that ended it. Where TMPDIR is not set it leads into memory that goes
// with the rest; who sets it, or MIDSTREAM_KEEP, keeps files. Without root `body` runs outside, and what it gives is returned.
int run_enclosed(const std::function<int()>& body);

// Whether this process runs in such a world.
bool enclosed();

}  // namespace midstream::test
