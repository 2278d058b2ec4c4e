// Process 1 of a lab host.
//
// Brings the addresses up (ifup -a) and supervises /etc/service: every directory there with an executable `run`, and
// without a file `down`, is kept running, started again after 100 ms, doubling to 1 s; a directory that is removed
// (or put down) is stopped. A service is its whole process tree: what is left of it when its main process has ended
// is killed, before it is started again. `stop-signal` in the directory names the signal that asks it to end (TERM by
// default; 10 s later comes KILL). stdout and stderr go to /var/log/NAME.log, the main process's id to
// /run/service/NAME.pid, which is there as long as the service is looked after, and a moment before it is started.
#pragma once

namespace midstream::lab {

// Runs until SIGTERM (services are stopped, last started first, then the host ends). Returns the exit code.
int run_init();

}  // namespace midstream::lab
