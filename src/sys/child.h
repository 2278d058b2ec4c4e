// Child processes, without a shell.
#pragma once

#include <sys/types.h>

#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

struct Exit {
  int code = 0;        // exit code, or 128 + signal
  std::string out;     // what it wrote to stdout, at most 16 MiB
  std::string err;     // and to stderr, at most 1 MiB
};

// Runs argv[0] (searched in PATH) with `input` on stdin until it ends. A child that outlives the deadline, or
// the stop request, is killed with its process group: ErrorKind::cancelled. A non-zero exit is not an error here.
// Secrets must not be in argv: they are visible to every user of the host.
Result<Exit> run_child(const std::vector<std::string>& argv, std::string_view input, Deadline deadline,
                       const std::stop_token& stop = {});

// A running child whose stdin and stdout are ours; stderr goes where ours goes. The destructor kills it.
class Child {
 public:
  static Result<Child> start(const std::vector<std::string>& argv);
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  ~Child();

  int in() const { return in_.get(); }    // write end of its stdin
  int out() const { return out_.get(); }  // read end of its stdout
  pid_t pid() const { return pid_; }
  void close_in() { in_.reset(); }  // the end of its input
  // Its exit code, or 128 + signal, once it has ended by itself. Retry when out of time: it still runs.
  Result<int> wait(Deadline deadline, const std::stop_token& stop = {});
  void kill();

 private:
  Child(pid_t pid, Fd in, Fd out) : pid_(pid), in_(std::move(in)), out_(std::move(out)) {}
  pid_t pid_ = -1;
  Fd in_;
  Fd out_;
};

}  // namespace midstream
