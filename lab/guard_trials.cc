#include "lab/guard_trials.h"

#include <fmt/format.h>
#include <signal.h>

#include <chrono>
#include <optional>

#include "sys/clock.h"

namespace midstream::lab {

namespace {

constexpr Millis kLimit{300'000};
// For 300 requests of each side: at the 200 a second that the manifest asks for, or as fast as two slow servers answer.
constexpr std::int64_t kSampleMs = 1'500;
constexpr std::int64_t kSlowSampleMs = 300 * 90 / 2;
constexpr std::int64_t kTakenOutMs = 5'000;
constexpr std::int64_t kPausedMs = 15'000;
constexpr double kFailedShare = 0.01;
constexpr Millis kStill{3'000};

// An empty mood is none.
Result<> set_mood(Trial& trial, const std::string& host, const std::string& mood) {
  const std::string script = mood.empty() ? "rm -f /etc/shop/mood.json"
                                          : "cat >/etc/shop/.mood && chmod 644 /etc/shop/.mood && mv /etc/shop/.mood /etc/shop/mood.json";
  return TRY(trial.lab().must(host, {"sh", "-c", script}, mood)), Result<>{};
}

// No file is carried over meanwhile, in either direction.
Result<> stand_still(Trial& trial) {
  const auto& s = trial.lab().scenario();
  Result<> done;
  for (const auto& host : {s.old_host, s.new_host}) TRY(trial.lab().kill(host, "midstream-agent", SIGSTOP));
  pause_for(kStill, {});
  for (const auto& host : {s.old_host, s.new_host}) {
    if (auto went_on = trial.lab().kill(host, "midstream-agent", SIGCONT); !went_on) done = std::unexpected(went_on.error());
  }
  return done;
}

class GuardTrial {
 public:
  GuardTrial(Trial& trial, Misbehaviour what, const std::function<void(std::string_view)>& say)
      : trial_(trial), what_(what), say_(say) {}

  Result<> run() {
    const auto& s = trial_.lab().scenario();
    if (what_ == Misbehaviour::slow) {
      for (const auto& host : {s.old_host, s.new_host}) CHECK_OK(set_mood(trial_, host, R"({"delay_ms": 30})"));
    }
    auto command = TRY(trial_.midstream({"run", "--yes"}));
    Result<> trouble;
    const int code = TRY(command.wait(
        [&](std::string_view line) {
          say_(line);
          if (auto done = hear(line); !done && trouble) trouble = done;
          return true;
        },
        Deadline::in(kLimit)));
    CHECK_OK(trouble);
    if (!planted_) return refused("traffic never shifted: nothing was planted");
    for (const auto& host : {s.old_host, s.new_host}) CHECK_OK(set_mood(trial_, host, ""));
    return what_ == Misbehaviour::both ? judge_pause(code) : judge_taken_back(code);
  }

 private:
  static std::int64_t now() { return std::chrono::duration_cast<Millis>(boot_now()).count(); }

  Result<> hear(std::string_view line) {
    const auto tells = [&](std::string_view part) { return line.find(part) != std::string_view::npos; };
    const bool story = line.size() > 8 && line[2] == ':' && line[5] == ':';  // the plan is printed before it
    if (!story) return {};
    if (!planted_ && tells("sends 25 % to new")) {
      planted_ = now();
      return plant();
    }
    if (tells("guard: fail")) verdict_ = line.substr(line.find("guard: fail"));
    if (tells("undone: ") && tells("sends 5 % to new")) back_ = now();
    if (what_ == Misbehaviour::both && tells("paused: the guard")) return pass_over();
    return {};
  }

  Result<> plant() {
    const auto& s = trial_.lab().scenario();
    if (what_ == Misbehaviour::slow) return set_mood(trial_, s.new_host, R"({"delay_ms": 90})");
    if (what_ == Misbehaviour::both) CHECK_OK(set_mood(trial_, s.old_host, R"({"fail_every": 20})"));
    return set_mood(trial_, s.new_host, R"({"fail_every": 20})");
  }

  // What troubled both sides ends, and the operator says that it may go on.
  Result<> pass_over() {
    if (paused_) return refused("it paused twice");
    paused_ = now();
    const auto& s = trial_.lab().scenario();
    const auto status = TRY(trial_.lab().must(s.ops, {"/opt/midstream/bin/midstream", "status", "/root/move.yaml"}));
    if (status.find("guard: both: old is as bad as new") == std::string::npos)
      return refused("status does not say that the guard blames both sides: " + status);
    for (const auto& host : {s.old_host, s.new_host}) CHECK_OK(set_mood(trial_, host, ""));
    return TRY(trial_.lab().must(s.ops, {"/opt/midstream/bin/midstream", "continue", "/root/move.yaml"})), Result<>{};
  }

  Result<> judge_taken_back(int code) {
    if (code != 4) return refused(fmt::format("`midstream run` ended with exit code {}, not 4", code));
    if (!back_ || verdict_.empty()) return refused("the guard did not take the traffic back");
    const auto took = *back_ - *planted_;
    const auto checker = TRY(trial_.judge("old", 0));
    const auto web = checker.value("clients", Json::object()).value(trial_.lab().scenario().web_service, Json::object());
    const auto requests = get_int_or(web, "requests", 0);
    const auto failed = get_int_or(web, "failed", 0);
    say_(fmt::format("{}", verdict_));
    say_(fmt::format("out of traffic {} ms after new went bad; {} of {} requests of web clients failed ({:.2f}%); checker: {}", took, failed,
                     requests, 100.0 * static_cast<double>(failed) / static_cast<double>(std::max<std::int64_t>(requests, 1)),
                     get_string_or(checker, "verdict", "?")));
    const auto sample = what_ == Misbehaviour::slow ? kSlowSampleMs : kSampleMs;
    if (took > sample + kTakenOutMs)
      return refused(fmt::format("taken out after {} ms; {} ms are for the sample and {} for the rest", took, sample, kTakenOutMs));
    if (requests < 200) return refused(fmt::format("{} requests prove nothing", requests));
    if (static_cast<double>(failed) >= kFailedShare * static_cast<double>(requests))
      return refused(fmt::format("{} of {} requests failed", failed, requests));
    if (get_string_or(checker, "verdict", "") != "pass")
      return refused("the checker does not pass: " + checker.value("details", Json::array()).dump());
    return {};
  }

  Result<> judge_pause(int code) {
    if (!paused_) return refused("it did not pause");
    if (back_ || !verdict_.empty()) return refused("new was blamed: " + verdict_);
    if (code != 0) return refused(fmt::format("after the pause `midstream run` ended with exit code {}", code));
    const auto checker = TRY(trial_.judge("new", 1));
    say_(fmt::format("paused {} ms after both went bad; the move went on when told; checker: {}", *paused_ - *planted_,
                     get_string_or(checker, "verdict", "?")));
    if (*paused_ - *planted_ > kPausedMs) return refused("it paused too late");
    if (get_string_or(checker, "verdict", "") != "pass")
      return refused("the checker does not pass: " + checker.value("details", Json::array()).dump());
    return {};
  }

  Trial& trial_;
  Misbehaviour what_;
  const std::function<void(std::string_view)>& say_;
  std::optional<std::int64_t> planted_;
  std::optional<std::int64_t> back_;
  std::optional<std::int64_t> paused_;
  std::string verdict_;
};

}  // namespace

Result<> try_guard(Trial& trial, Misbehaviour what, const std::function<void(std::string_view)>& say) {
  return GuardTrial(trial, what, say).run();
}

Result<> try_readers(Trial& trial, bool alone, const std::function<void(std::string_view)>& say) {
  const auto& s = trial.lab().scenario();
  if (alone) {
    for (const auto& host : {s.old_host, s.new_host}) CHECK_OK(set_mood(trial, host, R"({"alone": true})"));
  }
  auto command = TRY(trial.midstream({"run", "--yes"}));
  Result<> stood = refused("traffic was never on both sides");
  bool once = false;
  const int code = TRY(command.wait(
      [&](std::string_view line) {
        const bool told = line.size() > 8 && line[2] == ':' && line[5] == ':';
        if (told && !once && line.find("sends 50 %") != std::string_view::npos) once = true, stood = stand_still(trial);
        return true;
      },
      Deadline::in(kLimit)));
  CHECK_OK(stood);
  if (code != 0) return refused(fmt::format("`midstream run` ended with exit code {}", code));
  const auto checker = TRY(trial.judge("new", 1));
  const auto missed = get_int_or(checker, "missed", 0);
  const auto verdict = get_string_or(checker, "verdict", "?");
  say(fmt::format("files stood still for {} ms at half the traffic, {}: readers missed {} acknowledged files; checker: {}", kStill.count(),
                  alone ? "nobody asks the other side" : "a miss is tried on the other side", missed, verdict));
  if (alone ? verdict == "fail" && missed > 0 : verdict == "pass" && missed == 0) return {};
  return refused("that is not what must come of it: " + checker.value("details", Json::array()).dump());
}

}  // namespace midstream::lab
