// A whole production environment in network namespaces, for as long as a Lab holds it.
//
//              wan 203.0.113.0/24              pub 192.0.2.0/26, 198.51.100.0/28
//   out --------+-------- ns1, ns2               +---- old  (PostgreSQL, shop, mail, relay)
//               |                                |
//               +------------ edge --------------+---- new  (the same, empty)
//                       router, HAProxy
//   mgmt 10.77.0.0/24 joins all of them and ops, the operator's host.
//
// A guardian process holds it (guardian.h). It ends with the Lab that made it, however that ends, unless the lab was
// detached; then it stays until somebody calls down.
#pragma once

#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "lab/scenario.h"
#include "sys/child.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream::lab {

struct LabSpec {
  std::string scenario = "demo";
  bool fast = false;
  std::filesystem::path directory;  // images, logs and the guardian's socket; made, and emptied of an earlier lab
  std::filesystem::path programs;   // the directory that midstream-lab, midstream, midstream-agent ... are in
  std::function<void(std::string_view)> tell;  // a line for a person, where something takes longer; may be empty
  bool mail = false;  // as Scenario::mail
  bool seeded = false;  // as Scenario::seeded
};

// Thread-safe but for up, open and destruction. Errors: refused where an operator must change something, retry where
// the lab is not (any longer) there.
class Lab {
 public:
  // Returns when every daemon answers. Needs root and the packages of packages.txt; both are checked first.
  static Result<Lab> up(const LabSpec& spec, Deadline deadline, const std::stop_token& stop = {});
  // A lab that runs already; closing this handle does not end it.
  static Result<Lab> open(const std::filesystem::path& directory, const std::filesystem::path& programs);

  const Scenario& scenario() const { return scenario_; }
  const std::filesystem::path& directory() const { return directory_; }
  // Seen as /lab by out and ops.
  std::filesystem::path shared() const { return directory_ / "shared"; }

  // Runs argv[0] (searched in PATH) as root on `host`, or in the bridges' network namespace for host "fabric" (on the
  // machine's own files: for captures). Deadline and stop as for run_child.
  Result<Exit> exec(const std::string& host, const std::vector<std::string>& argv, std::string_view input,
                    Deadline deadline, const std::stop_token& stop = {}) const;
  // The same, going on in the background with its stdin and stdout at our end; killed with the handle.
  Result<Child> spawn(const std::string& host, const std::vector<std::string>& argv) const;
  // As exec; a non-zero exit code is an error that quotes stderr.
  Result<std::string> must(const std::string& host, const std::vector<std::string>& argv, std::string_view input = "",
                           Millis span = Millis(20'000)) const;

  // Faults. Each is done when the call returns.
  Result<> powercut(const std::string& host);  // what was not synced is lost; the host boots again
  Result<> poweroff(const std::string& host);  // in order: services stopped, file system synced
  Result<> boot(const std::string& host);
  Result<> set_link(const std::string& host, const std::string& device, bool up);
  // Sends `signal` to every process of the host whose name (comm) is `name`; returns how many there were.
  Result<int> kill(const std::string& host, const std::string& name, int signal);
  // Fills the host's disk up to `left` bytes, or frees it again.
  Result<> fill(const std::string& host, std::uint64_t left);
  Result<> unfill(const std::string& host);

  // Waits until `host` is back: network up, sshd answering.
  Result<> await_host(const std::string& host, Deadline deadline, const std::stop_token& stop = {}) const;

  // The lab outlives this process from here on.
  Result<> detach();
  // Ends it and returns when nothing of it is left: no process, mount, loop device or network namespace.
  Result<> down();

  Lab(Lab&&) noexcept = default;
  Lab& operator=(Lab&&) noexcept = default;
  ~Lab() = default;

 private:
  Lab() = default;
  Result<Json> ask(const Json& request) const;
  std::vector<std::string> enter_argv(const std::string& host, const std::vector<std::string>& argv) const;
  Result<> launch(const LabSpec& spec, const std::filesystem::path& cluster_old,
                  const std::filesystem::path& cluster_new, Deadline deadline, const std::stop_token& stop);
  Result<> await_ready(Deadline deadline, const std::stop_token& stop) const;

  std::filesystem::path directory_;
  std::filesystem::path programs_;
  Scenario scenario_;
  Fd lifeline_;
};

// One request to the guardian in `directory`; `descriptor` takes what came with the answer.
Result<Json> ask_guardian(const std::filesystem::path& directory, const Json& request, Fd* descriptor = nullptr);

}  // namespace midstream::lab
