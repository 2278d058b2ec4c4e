#include "lab/vanish.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "base/text.h"
#include "sys/stream.h"

namespace midstream::lab {

namespace {

namespace fs = std::filesystem;

constexpr Millis kLease{10'000};
// The lease ends, its keeper looks (it does so every half second), clients try again, HAProxy's check sees the owner.
constexpr Millis kSlack{2'500};
constexpr Millis kMomentLimit{150'000};
constexpr Millis kMoveLimit{300'000};

struct Moment {
  std::string_view name;
  std::string_view mark;  // a line of the story that holds this has been told ...
  Role host;              // ... then this shell text, on this host, ends as soon as the moment is there
  std::string_view until;
  Millis lease = kLease;
};

constexpr std::string_view kTitleOf = "f=/var/lib/midstream/*/addresses/*.title; ";
constexpr std::string_view kUnitTitleOf = "f=/var/lib/midstream/*/hosts/*.unit-title; ";

// In the order in which a move comes by them; each strike is followed by a `run` that goes on.
std::vector<Moment> moments() {
  const std::string lease = "f=/var/lib/midstream/*/postgres/*.lease; until [ -e \"$(echo $f)\" ]; do :; done";
  static const std::string closing = lease;
  static const std::string yielded = lease + "; while [ -e \"$(echo $f)\" ]; do :; done";
  static const auto holding = [](std::string_view of, const char* state) {
    return fmt::format("{}until grep -qs '\"{}\"' $f; do :; done", of, state);
  };
  static const std::string unit_yielding = holding(kUnitTitleOf, "yielding");
  static const std::string unit_gone = holding(kUnitTitleOf, "yielded");
  static const std::string yielding = holding(kTitleOf, "yielding");
  static const std::string gone = holding(kTitleOf, "yielded");
  static const std::string taken = holding(kTitleOf, "owner");
  constexpr Millis handover{15'000};  // docs/decisions/0006-address-titles.md
  return {
      {"half the traffic on each side", "sends 50 %", Role::edge, "true"},
      {"old's servers draining", "drains ", Role::edge, "true"},
      {"the database closing on old", "agents adopt it", Role::old_side, closing},
      {"the database yielded by old", "agents adopt it", Role::old_side, yielded},
      {"the singleton ending on old", "agents adopt it", Role::old_side, unit_yielding, handover},
      {"the singleton yielded by old", "agents adopt it", Role::old_side, unit_gone, handover},
      {"the addresses yielding on old", "agents adopt it", Role::old_side, yielding, handover},
      {"the addresses yielded by old", "agents adopt it", Role::old_side, gone, handover},
      {"the addresses taken by new", "agents adopt it", Role::new_side, taken, handover},
  };
}

// The same of mail: a user who waits, a user and a queue that are between two homes, SMTP that is deferred.
std::vector<Moment> moments_of_mail() {
  static const auto until = [](std::string_view files, std::string_view what) {
    return fmt::format("until grep -qs '{}' {}; do :; done", what, files);
  };
  constexpr std::string_view users = "/var/lib/midstream/*/mail/titles/*.json";
  constexpr std::string_view queue = "/var/lib/midstream/*/mail/queue/queue.json";
  const auto state = [](std::string_view name) { return fmt::format("\"state\":\"{}\"", name); };
  static const std::string resting = until(queue, "\"taking\":true");
  static const std::string user_yielding = until(users, state("yielding"));
  static const std::string user_gone = until(users, state("yielded"));
  static const std::string deferring = until(queue, "\"deferring_ms\":[1-9].*\"taking\":false");
  static const std::string queue_yielding = until(queue, state("yielding"));
  static const std::string queue_gone = until(queue, state("yielded"));
  return {
      {"Postfix resting on old", "asked: run", Role::old_side, resting},
      {"mail users yielding on old", "agents adopt it", Role::old_side, user_yielding},
      {"mail users yielded by old", "agents adopt it", Role::old_side, user_gone},
      {"SMTP deferred on old", "agents adopt it", Role::old_side, deferring},
      {"the queue yielding on old", "agents adopt it", Role::old_side, queue_yielding},
      {"the queue yielded by old", "agents adopt it", Role::old_side, queue_gone},
  };
}

fs::path ledger_of(const Trial& trial) {
  fs::path newest;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(trial.lab().shared() / "ledger", ignored)) {
    if (entry.path().extension() == ".jsonl" && entry.path() > newest) newest = entry.path();
  }
  return newest;
}

// What the clients have noted from `offset` on.
std::vector<Json> noted(const Trial& trial, std::uint64_t offset) {
  std::ifstream file(ledger_of(trial));
  file.seekg(static_cast<std::streamoff>(offset));
  std::vector<Json> records;
  std::string line;
  if (offset > 0) std::getline(file, line);  // may begin in the middle of one
  while (std::getline(file, line)) {
    if (auto record = parse_json(line)) records.push_back(std::move(*record));
  }
  return records;
}

std::uint64_t ledger_size(const Trial& trial) {
  std::error_code ignored;
  return fs::file_size(ledger_of(trial), ignored);
}

class Striker {
 public:
  Striker(Trial& trial, Blow blow, const std::function<void(std::string_view)>& tell)
      : trial_(trial), blow_(blow), tell_(tell) {}

  Result<> strike(const Moment& moment) {
    auto command = TRY(trial_.midstream({"run", "--yes"}));
    Result<> struck = refused(fmt::format("{}: the moment never came", moment.name));
    std::jthread watcher;
    const auto ended = command.wait(
        [&](std::string_view line) {
          tell_(line);
          // A line of the story begins with its time; the plan, which is printed first, has the same words.
          const bool told = !line.empty() && std::isdigit(static_cast<unsigned char>(line[0])) != 0;
          if (told && !watcher.joinable() && line.find(moment.mark) != std::string_view::npos) {
            watcher = std::jthread([&] { struck = strike_when(moment); });
          }
          return true;
        },
        Deadline::in(kMomentLimit));
    if (watcher.joinable()) watcher.join();
    if (!struck) return struck;
    if (ended && *ended != 137)
      return refused(fmt::format("{}: `midstream run` ended with {} and was not killed", moment.name, *ended));
    return await_service(moment);
  }

 private:
  const Scenario& scenario() { return trial_.lab().scenario(); }

  // The moment is seen by a process on the very host, so that the blow falls within a few milliseconds.
  Result<> strike_when(const Moment& moment) {
    const auto& lab = trial_.lab();
    const auto text = fmt::format("{}; pkill -9 -x midstream-agent; echo struck", moment.until);
    auto watch = TRY(lab.spawn(scenario().host(moment.host), {"sh", "-c", text}));
    CHECK_OK(wait_fd(watch.out(), POLLIN, Deadline::in(kMomentLimit), {}));
    char answer[16];
    if (::read(watch.out(), answer, sizeof answer) <= 0)
      return refused(fmt::format("{}: could not be watched for", moment.name));
    {
      std::vector<std::jthread> all;
      for (const auto& host : scenario().hosts()) {
        all.emplace_back([&lab, name = host.name] {
          for (const auto* program : {"midstream", "midstream-agent"}) {
            if (auto killed = lab.exec(name, {"pkill", "-9", "-x", program}, "", Deadline::in(Millis(10'000))); !killed)
              return;
          }
        });
      }
    }
    struck_at_ = boot_now();
    offset_ = ledger_size(trial_);
    if (blow_ == Blow::cut_old) return trial_.lab().powercut(scenario().old_host);
    if (blow_ == Blow::cut_new) return trial_.lab().powercut(scenario().new_host);
    return {};
  }

  // Kinds of operation that were begun since the blow and acknowledged, and the users of mail who have read any.
  std::set<std::string> served_since() const {
    std::set<std::string> served;
    for (const auto& record : noted(trial_, offset_)) {
      if (get_string_or(record, "t", "") != "acknowledged") continue;
      if (get_int_or(record, "started_ns", 0) <= struck_at_.count()) continue;
      const auto kind = get_string_or(record, "kind", "");
      served.insert(kind);
      if (kind == "mail-read" || kind == "flag" || kind == "move" || kind == "expunge")
        served.insert(get_string_or(record, "user", ""));
    }
    return served;
  }

  std::vector<std::string> wanted() {
    std::vector<std::string> all{"db-order", "order", "upload", "file-read"};
    const auto& s = scenario();
    if (!s.mail) return all;
    all.insert(all.end(), {"deliver", "submit", "pop-read"});
    for (const auto& user : s.mail_users) all.push_back(fmt::format("{}@{}", user, s.mail_domain));
    return all;
  }

  // Whether what must never run twice runs at all.
  bool singleton_runs() {
    const auto runs_on = [&](const std::string& host) {
      const auto found = trial_.lab().exec(host, {"pgrep", "-x", "lab-worker"}, "", Deadline::in(Millis(5'000)));
      return found && found->code == 0;
    };
    return runs_on(scenario().old_host) || runs_on(scenario().new_host);
  }

  // Whether an address of the subnet that moves answers, from outside.
  bool answers() {
    const auto probe =
        trial_.lab().exec(scenario().out, {"timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/192.0.2.10/80"}, "",
                          Deadline::in(Millis(5'000)));
    return probe && probe->code == 0;
  }

  Result<> await_service(const Moment& moment) {
    // A host that was cut is away until it has booted; what it alone serves is back when it is.
    const auto boot = blow_ == Blow::kill ? Millis(0) : Millis(8'000);
    const auto limit = moment.lease + kSlack + boot;
    std::string missing;
    while (boot_now() - struck_at_ < limit) {
      const auto served = served_since();
      missing.clear();
      for (const auto& one : wanted()) {
        if (!served.contains(one)) missing += fmt::format(" {}", one);
      }
      if (!answers()) missing += " 192.0.2.10";
      if (!singleton_runs()) missing += " " + scenario().unit;
      if (missing.empty()) break;
      pause_for(Millis(50), {});
    }
    const auto took = std::chrono::duration_cast<Millis>(boot_now() - struck_at_).count();
    if (!missing.empty())
      return refused(fmt::format("{}: users are not served again after {} ms:{}", moment.name, took, missing));
    tell_(fmt::format("== {}: all of midstream killed; users were served again within {} ms", moment.name, took));
    return {};
  }

  Trial& trial_;
  Blow blow_;
  const std::function<void(std::string_view)>& tell_;
  std::chrono::nanoseconds struck_at_{0};
  std::uint64_t offset_ = 0;
};

// Runs the move until a line of its story holds `mark`, and kills the controller there.
Result<> run_until(Trial& trial, std::string_view mark, const std::function<void(std::string_view)>& tell) {
  auto command = TRY(trial.midstream({"run", "--yes"}));
  Result<> killed = refused(fmt::format("no line held '{}'", mark));
  const auto ended = command.wait(
      [&](std::string_view line) {
        tell(line);
        const bool told = !line.empty() && std::isdigit(static_cast<unsigned char>(line[0])) != 0;
        if (killed || !told || line.find(mark) == std::string_view::npos) return true;
        const auto count = trial.lab().kill(trial.lab().scenario().ops, "midstream", SIGKILL);
        killed = count ? Result<>() : std::unexpected(count.error());
        return true;
      },
      Deadline::in(kMomentLimit));
  if (killed && ended && *ended != 137)
    return refused(fmt::format("`midstream run` ended with {} and was not killed", *ended));
  return killed;
}

// The share of the web's requests that new answered in `away`, in percent; refused where one was not answered.
Result<int> share_of_new(const Trial& trial, Millis away) {
  const auto begin = ledger_size(trial);
  pause_for(away, {});
  std::map<std::string, int> answered;
  int all = 0;
  for (const auto& record : noted(trial, begin)) {
    const auto type = get_string_or(record, "t", "");
    if (type == "failed" || type == "unknown") return refused("a request was not answered: " + record.dump());
    const auto host = get_string_or(record, "host", "");
    if (type != "acknowledged" || host.empty()) continue;
    ++answered[host];
    ++all;
  }
  if (all < 100) return refused(fmt::format("only {} requests were answered", all));
  return answered[trial.lab().scenario().new_host] * 100 / all;
}

}  // namespace

Result<> leave_alone(Trial& trial, Millis away, const std::function<void(std::string_view)>& tell) {
  struct Stay {
    std::string_view mark;
    int least;  // percent on new
    int most;
  };
  // Connections are kept for a visit, so half the weight is half the requests only about.
  for (const auto& stay : {Stay{"sends 50 %", 35, 65}, Stay{"hands ", 100, 100}}) {
    CHECK_OK(run_until(trial, stay.mark, tell));
    pause_for(Millis(2'000), {});
    const auto half = away / 2;
    const int first = TRY(share_of_new(trial, half));
    const int second = TRY(share_of_new(trial, away - half));
    tell(fmt::format("== no controller for {} s: {} % and then {} % of the requests answered by new",
                     away.count() / 1000, first, second));
    if (std::min(first, second) < stay.least || std::max(first, second) > stay.most) {
      return refused(fmt::format("the split of the traffic did not stay between {} % and {} %", stay.least, stay.most));
    }
  }
  const int code = TRY(trial.run({"run", "--yes"}, kMoveLimit));
  return code == 0 ? Result<>() : refused(fmt::format("the last `midstream run` ended with exit code {}", code));
}

Result<> strike_at_each_moment(Trial& trial, Blow blow, const std::function<void(std::string_view)>& tell) {
  Striker striker(trial, blow, tell);
  const bool of_mail = trial.lab().scenario().mail;
  for (const auto& moment : of_mail ? moments_of_mail() : moments()) CHECK_OK(striker.strike(moment));
  const int code = TRY(trial.run({"run", "--yes"}, kMoveLimit));
  return code == 0 ? Result<>() : refused(fmt::format("the last `midstream run` ended with exit code {}", code));
}

}  // namespace midstream::lab
