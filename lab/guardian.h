// The process that holds a lab: process 1 of a pid namespace that every host's is nested in, owner of the mount
// namespace and of the bridges' network namespace. When it ends, for whatever reason, the kernel takes everything
// else down with it.
//
// It serves DIR/lab.sock (SOCK_SEQPACKET): one JSON request and one JSON answer a connection.
//   {"do":"enter","host":H}                   answer carries a pidfd of the host's process 1; H "" means the fabric
//   {"do":"powercut"|"poweroff"|"boot","host":H}
//   {"do":"link","host":H,"device":D,"up":B}
//   {"do":"hosts"}   {"do":"down"}
// An answer is {"ok":true,...} or {"ok":false,"error":{...}}.
#pragma once

#include <filesystem>

#include "base/json.h"
#include "base/result.h"
#include "lab/scenario.h"
#include "sys/fd.h"

namespace midstream::lab {

struct GuardianSpec {
  std::filesystem::path directory;  // absolute
  std::filesystem::path programs;
  std::filesystem::path cluster_old, cluster_new;  // template images
  Scenario scenario;
  // The launcher's end closes: everything ends, unless {"do":"detach"} came through it. "ready" is said through it.
  Fd lifeline;
};

// Forks the guardian and returns in the caller at once, exit code 0; the guardian itself never returns.
int run_guardian(GuardianSpec spec);

// One message with at most one descriptor. Orderly close: ErrorKind::cancelled.
Result<> send_message(int socket, const Json& message, int descriptor = -1);
struct Received {
  Json message;
  Fd descriptor;
};
Result<Received> receive_message(int socket);

}  // namespace midstream::lab
