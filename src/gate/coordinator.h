// What is asked of a gate as a whole: the list of its sessions, a hold, and the switch of a database from one server to the
// other (docs/formats/gate.md). It also asks the titles who owns each database, at the start and all along: where the word that
// ends a switch does not come, they say how it ended. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "base/json.h"
#include "gate/metrics.h"
#include "gate/titles.h"
#include "gate/worker.h"

namespace midstream::gate {

class Coordinator {
 public:
  using Workers = std::vector<std::unique_ptr<Worker>>;
  // `stop_listening`: closes the door for good.
  Coordinator(Shared& shared, const Workers& workers, std::function<void()> stop_listening);

  // One request of the control socket.
  Result<Json> respond(const Json& request, const std::stop_token& stop);
  // Everything that the gate has counted. Waits for the workers, never for a switch.
  std::vector<Family> metrics() const;
  // Looks at the titles until stopped.
  void watch(const std::stop_token& stop);

 private:
  struct State {
    std::size_t to = 0;
    bool kept = false;
    std::uint64_t turn = 0;  // grows with whatever may make a title that was read before it worthless
    bool given_up = false;  // the switch comes to nothing: a title opens it
    Failed why = Failed::withdrawn;  // where it comes to nothing
    std::chrono::nanoseconds kept_at{0};
    std::unique_ptr<Titles> titles;  // of the thread that watches
    std::unique_ptr<Titles> asked;   // of whoever has the lock
    std::string told;  // the last words about it in the log
  };
  struct Asked {
    std::string database;
    State* state = nullptr;
    std::size_t to = 0;
  };
  Result<Asked> switch_of(const Json& request);
  Result<Json> prepare(const Json& request, const std::stop_token& stop);
  Result<Json> readiness(const Json& request);
  Result<Json> close(const Json& request, const std::stop_token& stop);
  Result<Json> keep(const Json& request);
  Result<Json> over(const Json& request, const std::stop_token& stop);
  Result<Json> open(const Json& request, const std::stop_token& stop);
  struct Hold {
    bool held = false;     // by any worker
    bool in_time = true;  // by all of them
  };
  Result<Json> retire(const Json& request, const std::stop_token& stop);
  Json ready_now(const Asked& asked, Hold& hold);
  Json go_over(const std::string& database, State& state, const std::stop_token& stop);
  void open_all(const std::string& database, State& state, Failed why);
  Switches::Key key(const std::string& database, const State& state) const { return {database, shared_.servers[state.to].config.label}; }
  void look(const std::string& database, State& state, const std::stop_token& stop);
  void found(const std::string& database, State& state, const Titles::Found& titles, const std::stop_token& stop);
  Shared& shared_;
  const Workers& workers_;
  const std::function<void()> stop_listening_;
  const std::int64_t began_ms_;
  Switches switches_;
  std::mutex mutex_;
  std::map<std::string, State> states_;
};

}  // namespace midstream::gate
