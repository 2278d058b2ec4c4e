#include "lab/trials.h"

#include "lab/bad_input.h"
#include "lab/mail_trial.h"
#include "lab/operator_trial.h"
#include "lab/remains.h"
#include "lab/vanish.h"
#include "lab/guard_trials.h"
#include "lab/trial_tools.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "base/text.h"
#include "sys/file.h"

namespace midstream::lab {

namespace {

constexpr Millis kMoveLimit{420'000};

class Runner : public TrialTools {
 public:
  using TrialTools::TrialTools;

  // Runs the move and calls `strike` once, when a line that holds `mark` is told; then lets it end.
  Result<> run_and_strike(Trial& trial, const std::string& mark, const std::function<Result<>(Trial&)>& strike) {
    auto command = TRY(trial.midstream({"run", "--yes"}));
    bool struck = false;
    Result<> blow;
    const int code = TRY(command.wait(
        [&](std::string_view line) {
          spec_.tell(line);
          if (!struck && line.find(mark) != std::string_view::npos) {
            struck = true;
            blow = strike(trial);
          }
          return true;
        },
        Deadline::in(kMoveLimit)));
    CHECK_OK(blow);
    if (!struck) return refused(fmt::format("no line held '{}': the fault was never planted", mark));
    if (code == 0) return {};
    return refused(fmt::format("`midstream run` ended with exit code {}", code));
  }

  // ---- trials
  // kill -9 of the controller at random moments, each time run again.
  Result<> kill_controller() {
    auto trial = TRY(begin());
    int kills = 0;
    while (kills < 20) {
      auto command = TRY(trial.midstream({"run", "--yes"}));
      auto ended = command.wait([&](std::string_view line) { return spec_.tell(line), true; }, Deadline::in(moment(150, 2'500)));
      if (ended && *ended == 0) break;
      if (ended) return refused(fmt::format("`midstream run` ended with exit code {}", *ended));
      TRY(trial.lab().kill(spec_scenario(trial).ops, "midstream", SIGKILL));
      ++kills;
    }
    CHECK_OK(say(fmt::format("the controller was killed {} times", kills)));
    CHECK_OK(succeed(trial, {"run", "--yes"}));
    CHECK_OK(judged(trial, "new", 1));
    return trial.end();
  }

  // Each agent killed three times at random moments of one run.
  Result<> kill_agents() {
    auto trial = TRY(begin());
    const auto& s = spec_scenario(trial);
    std::vector<std::string> victims;
    for (int i = 0; i < 3; ++i) victims.insert(victims.end(), {s.edge, s.old_host, s.new_host, s.out});
    std::ranges::shuffle(victims, random_);
    Result<> blow;
    std::atomic<bool> begun = false;  // hosts have been looked over
    const auto hit = [&](const std::string& host) {
      if (auto killed = trial.lab().kill(host, "midstream-agent", SIGKILL); !killed) blow = std::unexpected(killed.error());
    };
    std::jthread killer([&](const std::stop_token& stop) {
      // Once while hosts are looked over; more in a row there, and it may rightly say that they cannot be asked.
      if (!pause_for(moment(500, 1'500), stop)) return;
      hit(victims.back());
      while (!begun)
        if (!pause_for(Millis(20), stop)) return;
      for (const auto& host : victims) {
        if (!pause_for(moment(500, 2'500), stop)) return;
        hit(host);
      }
    });
    auto command = TRY(trial.midstream({"run", "--yes"}));
    const auto code = command.wait(
        [&](std::string_view line) {
          spec_.tell(line);
          begun = begun || line.find(", plan ") != std::string_view::npos;
          return true;
        },
        Deadline::in(kMoveLimit));
    killer.request_stop();
    killer.join();
    CHECK_OK(blow);
    if (TRY(code) != 0) return refused(fmt::format("`midstream run` ended with exit code {}", *code));
    CHECK_OK(judged(trial, "new", 1));
    return trial.end();
  }

  Result<> power_cut(bool of_old) {
    auto trial = TRY(begin());
    const auto host = of_old ? spec_scenario(trial).old_host : spec_scenario(trial).new_host;
    CHECK_OK(run_and_strike(trial, "reached: ", [&](Trial& t) { return t.lab().powercut(host); }));
    CHECK_OK(judged(trial, "new", 1));
    return trial.end();
  }

  // Once new has what must never run twice, old loses power: it does not come up there, with its agent or without.
  Result<> power_cut_after_switch() {
    auto trial = TRY(begin());
    const auto& s = spec_scenario(trial);
    CHECK_OK(succeed(trial, {"run", "--yes", "--until", "switch"}));
    for (const bool with_agent : {false, true}) {
      if (!with_agent) TRY(trial.lab().must(s.old_host, {"sh", "-c", "for d in /etc/service/midstream-agent-*; do touch $d/down; done; sync"}));
      CHECK_OK(trial.lab().powercut(s.old_host));
      CHECK_OK(trial.lab().await_host(s.old_host, Deadline::in(Millis(30'000))));
      pause_for(Millis(2'000), {});
      const auto seen = TRY(trial.lab().exec(s.old_host, {"sh", "-c", fmt::format("[ -e /run/service/{}.pid ] || pgrep -x lab-worker", s.unit)}, "",
                                             Deadline::in(Millis(10'000))));
      if (seen.code == 0) return refused(fmt::format("{} came up on {} after a power cut", s.unit, s.old_host));
      TRY(trial.lab().must(s.old_host, {"sh", "-c", "rm -f /etc/service/midstream-agent-*/down"}));
    }
    CHECK_OK(say(fmt::format("{} stayed down on {} over two power cuts", s.unit, s.old_host)));
    CHECK_OK(succeed(trial, {"run", "--yes"}));
    CHECK_OK(judged(trial, "new", 1));
    return trial.end();
  }

  // The checker's own trial: somebody starts it on both sides, and the checker says so.
  Result<> singleton_on_both() {
    auto trial = TRY(begin());
    const auto& s = spec_scenario(trial);
    TRY(trial.lab().must(s.new_host, {"rm", fmt::format("/etc/service/{}/down", s.unit)}));
    pause_for(Millis(3'000), {});
    TRY(trial.lab().must(s.new_host, {"touch", fmt::format("/etc/service/{}/down", s.unit)}));
    const auto checker = TRY(trial.judge("old", 0));
    const auto overlap = get_int_or(checker.value("singletons", Json::object()), "overlaps_ms", 0);
    if (get_string_or(checker, "verdict", "") != "fail" || overlap < 1'000)
      return refused(fmt::format("started on both sides, and the checker says {}", checker.dump()));
    CHECK_OK(say(fmt::format("started on both sides: the checker fails with an overlap of {} ms", overlap)));
    return trial.end();
  }

  // Forward, back, forward.
  Result<> to_and_fro() {
    auto trial = TRY(begin());
    CHECK_OK(succeed(trial, {"run", "--yes"}));
    CHECK_OK(succeed(trial, {"rollback"}));
    CHECK_OK(succeed(trial, {"run", "--yes"}));
    CHECK_OK(succeed(trial, {"finish", "--yes"}));
    CHECK_OK(judged(trial, "new", 3));
    return trial.end();
  }

  // All of midstream killed at each held, fenced or drained moment; with `blow` a power cut on top.
  Result<> vanish(Blow blow) {
    auto trial = TRY(begin());
    CHECK_OK(strike_at_each_moment(trial, blow, spec_.tell));
    CHECK_OK(judged(trial, "new", 1));
    return trial.end();
  }

  Result<> vanish_with_mail() {
    spec_.mail = true;
    return vanish(Blow::kill);
  }

  // No controller for five minutes, twice.
  Result<> away() {
    auto trial = TRY(begin());
    CHECK_OK(leave_alone(trial, Millis(300'000), spec_.tell));
    CHECK_OK(judged(trial, "new", 1));
    return trial.end();
  }

  Result<> bad_input() {
    auto lab = TRY(Lab::up({spec_.scenario, spec_.fast, spec_.directory, spec_.programs, spec_.tell}, Deadline::in(Millis(120'000))));
    CHECK_OK(try_bad_input(lab, [this](std::string_view line) { spec_.tell(line); }));
    return lab.down();
  }

  Result<> at_the_operators_word() {
    auto trial = TRY(begin());
    CHECK_OK(try_operator(trial, [this](std::string_view line) { spec_.tell(line); }));
    CHECK_OK(judged(trial, "old", 2));
    return trial.end();
  }

  Result<> guard(Misbehaviour what) {
    auto trial = TRY(begin());
    CHECK_OK(try_guard(trial, what, [this](std::string_view line) { spec_.tell(line); }));
    return trial.end();
  }

  Result<> readers(bool alone) {
    auto trial = TRY(begin());
    CHECK_OK(try_readers(trial, alone, [this](std::string_view line) { spec_.tell(line); }));
    return trial.end();
  }

  // After a whole move, every secret of the run is looked for wherever it must not be.
  Result<> secrets() {
    auto trial = TRY(begin());
    CHECK_OK(succeed(trial, {"run", "--yes"}));
    CHECK_OK(search_secrets(trial));
    CHECK_OK(judged(trial, "new", 1));
    return trial.end();
  }

  // Mail is used and its daemons die, with no move at all.
  Result<> mail_at_rest() {
    spec_.mail = true;
    auto trial = TRY(begin());
    CHECK_OK(try_mail_at_rest(trial, [this](std::string_view line) { (void)say(line); }));
    return trial.end();
  }

  // What becomes of old: shut down by finish, or cut off afterwards. When it is there again it owns no address and lets
  // nobody write.
  Result<> old_afterwards(bool stopped) {
    auto trial = TRY(begin());
    const auto& s = spec_scenario(trial);
    if (stopped) TRY(trial.lab().must(s.ops, {"sed", "-i", "s/after: { old: fenced }/after: { old: stopped }/", "/root/move.yaml"}));
    CHECK_OK(succeed(trial, {"run", "--yes"}));
    CHECK_OK(succeed(trial, {"finish", "--yes"}));
    if (stopped) {
      const auto deadline = Deadline::in(Millis(60'000));
      const auto up = [&] {
        const auto tried = trial.lab().exec(s.old_host, {"true"}, "", Deadline::in(Millis(10'000)));
        return tried && tried->code == 0;
      };
      while (up()) {
        if (deadline.expired()) return refused("old is still up a minute after finish");
        pause_for(Millis(100), {});
      }
      CHECK_OK(say("old was shut down"));
      CHECK_OK(trial.lab().boot(s.old_host));
    } else {
      CHECK_OK(trial.lab().powercut(s.old_host));
    }
    CHECK_OK(trial.lab().await_host(s.old_host, Deadline::in(Millis(60'000))));
    const auto addresses = TRY(trial.lab().must(s.old_host, {"ip", "-o", "addr"}));
    for (const auto& address : old_addresses()) {
      if (addresses.find(" " + address + "/") != std::string::npos) return refused(fmt::format("old has {} again", address));
    }
    TRY(trial.lab().must(s.old_host, {"sh", "-c", "n=0; until setpriv --reuid=postgres --regid=postgres --init-groups psql -XAtqc 'select 1' postgres >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 300 ] || exit 9; sleep 0.1; done"}, "", Millis(60'000)));
    for (const auto& attempt : {fmt::format("setpriv --reuid=postgres --regid=postgres --init-groups psql -XAtqc 'create table came_back (n int)' {}", s.database),
                                fmt::format("touch {}/came-back", s.tree), fmt::format("mkdir {}/uploads/came-back", s.tree)}) {
      const auto tried = TRY(trial.lab().exec(s.old_host, {"sh", "-c", attempt}, "", Deadline::in(Millis(30'000))));
      if (tried.code == 0) return refused(fmt::format("old lets somebody write again: {}", attempt));
    }
    CHECK_OK(say("old is back without addresses, and refuses every write"));
    CHECK_OK(judged(trial, "new", 1));
    return trial.end();
  }

  // What is on the hosts after the end, against what was there before and what the manifest asks. `back`: the move is
  // taken back first. `plant`: something is left on old, to see that it is found.
  Result<> clean(bool back, bool plant) {
    auto trial = TRY(begin());
    const auto before = TRY(look_at_hosts(trial.lab()));
    CHECK_OK(succeed(trial, {"run", "--yes"}));
    if (back) CHECK_OK(succeed(trial, {"rollback"}));
    CHECK_OK(succeed(trial, {"finish", "--yes"}));
    if (plant) TRY(trial.lab().must(spec_scenario(trial).old_host, {"mkdir", "-p", "/var/lib/midstream/planted"}));
    const auto differs = differences(before, TRY(look_at_hosts(trial.lab())));
    const std::string side = back ? "old" : "new";
    const auto judgement = judge_remains(differs, what_the_manifest_asks(spec_scenario(trial), side));
    if (plant && judgement) return refused("what was left on old was not found");
    if (!plant) CHECK_OK(judgement);
    CHECK_OK(say(fmt::format("{} differences, each asked for by the manifest{}", differs.size(), plant ? ", but for what was planted" : "")));
    CHECK_OK(judged(trial, side, back ? 2 : 1));
    return trial.end();
  }

 private:
  static const Scenario& spec_scenario(Trial& trial) { return trial.lab().scenario(); }

  // What must be found nowhere: TSIG key, passwords of the run, and the agents' private keys.
  Result<std::map<std::string, std::string>> known_secrets(Trial& trial) {
    const auto& s = spec_scenario(trial);
    std::map<std::string, std::string> secrets;
    const auto key = TRY(trial.lab().must(s.edge, {"cat", "/etc/midstream/tsig.key"}));
    const auto quote = key.find("secret \"");
    if (quote == std::string::npos) return refused("the TSIG key's file has no secret");
    secrets["TSIG key"] = key.substr(quote + 8, key.find('"', quote + 8) - quote - 8);
    for (const auto& file : {"/etc/midstream/probe.pgpass", "/etc/midstream/clients.pgpass"}) {
      const auto line = split(trim(TRY(trial.lab().must(s.out, {"cat", file}))), ':');
      secrets[file] = line.back();
    }
    secrets["password of the probe of mail"] = split(trim(TRY(trial.lab().must(s.out, {"cat", "/etc/midstream/probe.mail"}))), ' ').back();
    for (const auto& host : {s.old_host, s.new_host}) {
      const auto found = TRY(trial.lab().must(host, {"sh", "-c", "find /var/lib -xdev \\( -name '*pgpass*' -o -name '*.pass' \\) -type f -exec cat {} +; true"}));
      int count = 0;
      for (const auto& line : split(found, '\n')) {
        if (line.find(':') != std::string::npos) secrets[fmt::format("password {} made on {}", ++count, host)] = line.substr(line.rfind(':') + 1);
      }
      if (count == 0) return refused(fmt::format("no replication password was found on {}: the search would prove nothing", host));
      const auto pem = TRY(trial.lab().must(host, {"sh", "-c", "cat /var/lib/midstream/*/key.pem"}));
      secrets["agent key of " + host] = split(pem, '\n').at(1);
    }
    return secrets;
  }

  Result<> search_secrets(Trial& trial) {
    const auto secrets = TRY(known_secrets(trial));
    std::string patterns;
    for (const auto& [what, secret] : secrets) {
      if (secret.size() < 8) return refused(fmt::format("{} is too short to be looked for", what));
      patterns += secret + "\n";
    }
    const auto& s = spec_scenario(trial);
    for (const auto& host : {s.edge, s.old_host, s.new_host, s.out, s.ops}) {
      const auto hits = TRY(trial.lab().exec(
          host,
          {"sh", "-c",
           "cat >/tmp/patterns; { grep -rlF -f /tmp/patterns /var/log /var/lib/postgresql/15/main/log /root/.local 2>/dev/null; "
           "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>/dev/null | grep -qF -f /tmp/patterns && echo $f; done; "
           "find /var/lib/midstream -type f ! -name 'key.pem' ! -path '*/postgres/*.json' ! -name '*pgpass*' ! -name '*.pass' -exec grep -lF -f /tmp/patterns {} + 2>/dev/null; "
           "find /var/lib/midstream -type f -perm /077 ! -name midstream-agent -print; "
           "/opt/midstream/bin/midstream report --json /root/move.yaml 2>/dev/null | grep -qF -f /tmp/patterns && echo report; }; rm -f /tmp/patterns; true"},
          patterns, Deadline::in(Millis(60'000))));
      for (const auto& hit : split(trim(hits.out), '\n')) {
        if (!hit.empty()) return refused(fmt::format("a secret stands in {} on {}, or others may read it", hit, host));
      }
    }
    return say(fmt::format("{} secrets were looked for in logs, process lists, journal, state and report of 5 hosts: none found", secrets.size()));
  }
};

using Body = Result<> (*)(Runner&);

const std::vector<std::pair<std::string, Body>>& trials() {
  static const std::vector<std::pair<std::string, Body>> all{
      {"kill-controller", [](Runner& r) { return r.kill_controller(); }},
      {"kill-agents", [](Runner& r) { return r.kill_agents(); }},
      {"power-cut-old", [](Runner& r) { return r.power_cut(true); }},
      {"power-cut-new", [](Runner& r) { return r.power_cut(false); }},
      {"rollback-copy", [](Runner& r) { return roll_back_from(r, "copy"); }},
      {"rollback-follow", [](Runner& r) { return roll_back_from(r, "follow"); }},
      {"rollback-shift", [](Runner& r) { return roll_back_from(r, "shift"); }},
      {"rollback-switch", [](Runner& r) { return roll_back_from(r, "switch"); }},
      {"rollback-soak", [](Runner& r) { return roll_back_from(r, "soak"); }},
      {"rollback-addresses", [](Runner& r) { return roll_back_from(r, "addresses"); }},
      {"rollback-home", [](Runner& r) { return roll_back_from(r, "home"); }},
      {"ten-switches", [](Runner& r) { return ten_switches(r); }},
      {"new-is-lost", [](Runner& r) { return new_is_lost(r); }},
      {"adopt", [](Runner& r) { return adopt_trial(r, "reached: "); }},
      {"adopt-late", [](Runner& r) { return adopt_trial(r, "sessions_cut"); }},
      {"two-controllers", [](Runner& r) { return two_controllers_trial(r); }},
      {"to-and-fro", [](Runner& r) { return r.to_and_fro(); }},
      {"power-cut-after-switch", [](Runner& r) { return r.power_cut_after_switch(); }},
      {"singleton-on-both", [](Runner& r) { return r.singleton_on_both(); }},
      {"vanish", [](Runner& r) { return r.vanish(Blow::kill); }},
      {"vanish-mail", [](Runner& r) { return r.vanish_with_mail(); }},
      {"vanish-cut-old", [](Runner& r) { return r.vanish(Blow::cut_old); }},
      {"vanish-cut-new", [](Runner& r) { return r.vanish(Blow::cut_new); }},
      {"away", [](Runner& r) { return r.away(); }},
      {"guard-errors", [](Runner& r) { return r.guard(Misbehaviour::errors); }},
      {"guard-slow", [](Runner& r) { return r.guard(Misbehaviour::slow); }},
      {"guard-both", [](Runner& r) { return r.guard(Misbehaviour::both); }},
      {"readers", [](Runner& r) { return r.readers(false); }},
      {"readers-miss", [](Runner& r) { return r.readers(true); }},
      {"bad-input", [](Runner& r) { return r.bad_input(); }},
      {"operator", [](Runner& r) { return r.at_the_operators_word(); }},
      {"old-stopped", [](Runner& r) { return r.old_afterwards(true); }},
      {"old-fenced", [](Runner& r) { return r.old_afterwards(false); }},
      {"clean", [](Runner& r) { return r.clean(false, false); }},
      {"clean-back", [](Runner& r) { return r.clean(true, false); }},
      {"clean-planted", [](Runner& r) { return r.clean(true, true); }},
      {"secrets", [](Runner& r) { return r.secrets(); }},
      {"mail-at-rest", [](Runner& r) { return r.mail_at_rest(); }},
  };
  return all;
}

}  // namespace

std::vector<std::string> trial_names() {
  std::vector<std::string> names;
  for (const auto& [name, body] : trials()) names.push_back(name);
  return names;
}

int run_trial(const std::string& name, TrialSpec spec, std::uint64_t seed) {
  for (const auto& [known, body] : trials()) {
    if (known != name) continue;
    fmt::print("trial: {} with seed {}\n", name, seed);
    Runner runner(std::move(spec), seed);
    const auto ended = body(runner);
    fmt::print("trial: {}: {}\n", name, ended ? "pass" : ended.error().text());
    return ended ? 0 : 1;
  }
  fmt::print(stderr, "midstream-lab: there is no trial '{}'; there are: {}\n", name, join(trial_names(), ", "));
  return 64;
}

}  // namespace midstream::lab
