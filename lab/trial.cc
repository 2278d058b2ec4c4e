#include "lab/trial.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "base/text.h"
#include "lab/fabric.h"
#include "lab/provision.h"
#include "sys/file.h"
#include "sys/stream.h"

namespace midstream::lab {

namespace {

namespace fs = std::filesystem;

// Everything that the child still prints, until it closes its stdout.
Result<std::string> read_to_end(int fd, Deadline deadline) {
  std::string out;
  char buffer[65536];
  while (true) {
    CHECK_OK(wait_fd(fd, POLLIN, deadline, {}));
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno != EINTR) return errno_failure("cannot read from a child", errno);
    if (n == 0) return out;
    if (n > 0) out.append(buffer, static_cast<std::size_t>(n));
  }
}

std::size_t lines_with(const fs::path& directory, std::string_view word) {
  std::size_t count = 0;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    std::ifstream file(entry.path());
    std::string line;
    while (std::getline(file, line)) count += line.find(word) != std::string::npos ? 1 : 0;
  }
  return count;
}

}  // namespace

// The next line that it prints; nothing once it has ended.
Result<std::optional<std::string>> Command::next_line(Deadline deadline) {
  char buffer[4096];
  while (true) {
    if (const auto end = pending_.find('\n'); end != std::string::npos) {
      auto text = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return text;
    }
    CHECK_OK(wait_fd(child_.out(), POLLIN, deadline, {}));
    const ssize_t n = ::read(child_.out(), buffer, sizeof buffer);
    if (n < 0 && errno != EINTR) return errno_failure("cannot read what midstream says", errno);
    if (n == 0) return std::nullopt;
    if (n > 0) pending_.append(buffer, static_cast<std::size_t>(n));
  }
}

Result<int> Command::wait(const std::function<bool(std::string_view)>& line, Deadline deadline) {
  bool listening = true;
  while (const auto text = TRY(next_line(deadline))) {
    if (text->starts_with("exit code ")) return std::atoi(text->c_str() + 10);
    if (listening && line) listening = line(*text);
  }
  return retry("midstream ended without an exit code: it was killed");
}

Result<> Command::wait_for_line(const std::function<bool(std::string_view)>& mark, Deadline deadline) {
  while (const auto text = TRY(next_line(deadline))) {
    if (text->starts_with("exit code ")) return refused("midstream ended before it said what was waited for: " + *text);
    if (mark(*text)) return {};
  }
  return retry("midstream was killed before it said what was waited for");
}

Result<Trial> Trial::begin(const TrialSpec& spec) {
  LabSpec lab_spec{spec.scenario, spec.fast, spec.directory, spec.programs, spec.tell, spec.mail, spec.seeded};
  Trial trial(spec, TRY(Lab::up(lab_spec, Deadline::in(Millis(120'000)))));
  if (spec.far.count() > 0) CHECK_OK(trial.move_away());
  CHECK_OK(trial.start_witness());
  CHECK_OK(trial.start_clients());
  CHECK_OK(trial.await_clients(Deadline::in(Millis(30'000))));
  return trial;
}

Result<> Trial::move_away() {
  const auto hosts = lab_.scenario().hosts();
  const auto ops = static_cast<std::size_t>(std::ranges::find(hosts, Role::ops, &HostPlan::role) - hosts.begin());
  const auto& port = hosts[ops].ports[0];
  relay_ = TRY(lab_.spawn("fabric", {(spec_.programs / "midstream-lab").string(), "relay", bridge_end(ops, port.device), "br-" + port.network,
                                     std::to_string(spec_.far.count() / 2)}));
  const auto deadline = Deadline::in(Millis(10'000));
  CHECK_OK(wait_fd(relay_->out(), POLLIN, deadline, {}));
  char said[16];
  if (::read(relay_->out(), said, sizeof said) <= 0) return refused("the relay before the operator's host did not start", "see what it says above");
  return {};
}

Result<> Trial::start_witness() {
  const auto file = lab_.directory() / "witness.log";
  std::error_code ignored;
  fs::remove(file, ignored);
  std::vector<std::string> argv{(spec_.programs / "lab-witness").string(), "--out", file.string(), "--iface", "br-pub", "--from", "192.0.2.62"};
  // Asked for all along: an owner that nobody talks to would stay unseen.
  for (const auto& address : old_addresses()) argv.insert(argv.end(), {"--ask", address});
  witness_ = TRY(lab_.spawn("fabric", argv));
  const auto deadline = Deadline::in(Millis(10'000));
  while (!fs::exists(file) || fs::file_size(file) == 0) {
    if (deadline.expired()) return refused("the witness does not write", "see what lab-witness says");
    pause_for(Millis(20), {});
  }
  return {};
}

Result<> Trial::start_clients() {
  const auto& s = lab_.scenario();
  const auto host_of = [](const std::string& name) { return name.substr(0, name.size() - 1); };
  CHECK_OK(make_directories(lab_.shared() / "ledger", 0755));
  std::vector<std::string> argv{"lab-clients", "--web", "http://" + host_of(s.web_name), "--db",
                                    fmt::format("host={} port=5432 dbname={} user={} passfile=/etc/midstream/clients.pgpass", host_of(s.db_name),
                                                s.database, s.app_role),
                                    "--ledger", "/lab/ledger", "--rate", fmt::format("{}", spec_.rate), "--stop-file", "/lab/stop"};
  if (s.mail) {
    argv.insert(argv.end(), {"--mail", fmt::format("mx={} imap={} sink={} users=/etc/midstream/mail.users", host_of(s.mx_name), host_of(s.imap_name), host_of(s.sink_domain))});
  }
  clients_ = TRY(lab_.spawn(s.out, argv));
  return {};
}

Result<> Trial::await_clients(Deadline deadline) {
  while (lines_with(lab_.shared() / "ledger", "acknowledged") < 20) {
    if (deadline.expired()) return refused("the clients are not served: the lab is up, but no operation was acknowledged", "look at the ledger in the lab's shared directory");
    pause_for(Millis(50), {});
  }
  return {};
}

Result<Command> Trial::midstream(const std::vector<std::string>& arguments) {
  // One shell, so that both outputs come in order and the exit code travels with them.
  std::string line = "/opt/midstream/bin/midstream";
  for (const auto& argument : arguments) line += " '" + argument + "'";
  line += " /root/move.yaml 2>&1; echo exit code $?";
  return Command(TRY(lab_.spawn(lab_.scenario().ops, {"sh", "-c", line})));
}

Result<int> Trial::run(const std::vector<std::string>& arguments, Millis span) {
  auto command = TRY(midstream(arguments));
  return command.wait(
      [&](std::string_view line) {
        if (spec_.tell) spec_.tell(line);
        return true;
      },
      Deadline::in(span));
}

Result<std::string> Trial::collect(const std::string& host, const std::vector<std::string>& argv, const std::string& name) {
  const auto text = TRY(lab_.must(host, argv, "", Millis(120'000)));
  const auto path = lab_.directory() / name;
  CHECK_OK(write_file_durably(path, text, 0644));
  return path.string();
}

// The checker asks nobody's leave: a fenced side is read by a server of its own on the same data, with its own
// pg_hba.conf and no replication, after the host's server was stopped in order.
Result<> Trial::open_for_reading(const std::string& host) {
  const auto script = fmt::format(
      "set -e; touch /etc/service/postgresql/down; bin=/usr/lib/postgresql/15/bin; data=/var/lib/postgresql/15/main\n"
      "n=0; while [ -e $data/postmaster.pid ]; do n=$((n+1)); [ $n -lt 600 ] || exit 9; sleep 0.05; done\n"
      "rm -rf /tmp/checker; mkdir -m 700 /tmp/checker; echo 'local all all trust' >/tmp/checker/hba; chown -R postgres: /tmp/checker\n"
      "setpriv --reuid=postgres --regid=postgres --init-groups $bin/pg_ctl -s -w -t 60 -D $data -l /tmp/checker/log -o \"-c "
      "config_file=/etc/postgresql/15/main/postgresql.conf -c hba_file=/tmp/checker/hba -c unix_socket_directories=/tmp/checker "
      "-c listen_addresses= -c max_logical_replication_workers=0\" start\n"
      "psql -h /tmp/checker -U postgres -XAtqc \"UPDATE pg_database SET datallowconn = true WHERE datname = '{}'\" postgres",
      lab_.scenario().database);
  TRY(lab_.must(host, {"sh", "-c", script}, "", Millis(90'000)));
  return {};
}

Result<> Trial::await_queues(Deadline deadline) {
  const auto& s = lab_.scenario();
  for (const auto& host : {s.old_host, s.new_host}) {
    // A side whose Postfix is stopped has its queue still, as files.
    const std::string empty = "[ -z \"$(find /var/spool/postfix/incoming /var/spool/postfix/active /var/spool/postfix/deferred /var/spool/postfix/maildrop -type f | head -1)\" ]";
    while (TRY(lab_.exec(host, {"sh", "-c", empty}, "", Deadline::in(Millis(10'000)))).code != 0) {
      if (deadline.expired()) return {};  // the checker says what has not arrived
      pause_for(Millis(200), {});
    }
  }
  return {};
}

Result<> Trial::collect_mail(const std::string& final_side, std::vector<std::string>& argv) {
  const auto& s = lab_.scenario();
  CHECK_OK(await_queues(Deadline::in(Millis(20'000))));
  const auto mail = TRY(collect(final_side == "new" ? s.new_host : s.old_host, {"/opt/midstream/bin/lab-check", "collect-mail", "--dir", "/var/vmail/" + s.mail_domain},
                                final_side + "-mail.json"));
  argv.insert(argv.end(), {"--mail", mail, "--mail-source", std::string(kMailAddress)});
  const auto book = lab_.shared() / "sink" / "book.jsonl";
  if (fs::exists(book)) argv.insert(argv.end(), {"--sink", book.string()});
  return {};
}

Result<Json> Trial::judge(const std::string& final_side, int handovers) {
  const auto& s = lab_.scenario();
  std::ofstream(lab_.shared() / "stop").put('\n');
  const auto summary = TRY(read_to_end(clients_->out(), Deadline::in(Millis(60'000))));
  ::kill(witness_->pid(), SIGTERM);
  TRY(read_to_end(witness_->out(), Deadline::in(Millis(10'000))));
  const auto conninfo = fmt::format("host=/tmp/checker dbname={} user=postgres", s.database);
  const auto tool = std::string("/opt/midstream/bin/lab-check");
  std::vector<std::string> argv{(spec_.programs / "lab-check").string(), "judge", "--ledger", (lab_.shared() / "ledger").string(), "--witness",
                                (lab_.directory() / "witness.log").string(), "--final", final_side, "--handovers", std::to_string(handovers)};
  for (const auto& [side, host] : {std::pair<std::string, std::string>{"old", s.old_host}, {"new", s.new_host}}) {
    CHECK_OK(open_for_reading(host));
    const auto database = collect(host, {"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", tool, "collect-db", "--conninfo", conninfo}, side + "-db.json");
    // A database that the rollback has removed again holds nothing.
    if (database) {
      argv.insert(argv.end(), {"--" + side + "-db", *database});
    } else if (side == final_side) {
      return std::unexpected(database.error());
    }
    argv.insert(argv.end(), {"--" + side + "-runs", TRY(collect(host, {"sh", "-c", "cat " + worker_log(s) + " 2>/dev/null; true"}, side + "-runs.jsonl"))});
    const auto files = collect(host, {tool, "collect-files", "--dir", s.tree}, side + "-files.json");
    if (files) {
      argv.insert(argv.end(), {"--" + side + "-files", *files});
    } else if (side == final_side) {
      return std::unexpected(files.error());
    }
  }
  if (s.mail) CHECK_OK(collect_mail(final_side, argv));
  judging_ = argv;
  const auto judged = TRY(run_child(argv, "", Deadline::in(Millis(120'000))));
  if (judged.out.empty()) return refused("the checker could not judge: " + judged.err);
  auto checker = TRY(parse_json(judged.out));
  const auto figures = parse_json(summary).value_or(Json::object());
  checker["clients"] = figures.value("services", figures);
  return checker;
}

Result<Json> Trial::judge_again(const std::string& option, const std::string& content) {
  auto argv = judging_;
  const auto at = std::ranges::find(argv, option);
  if (at == argv.end()) return refused(fmt::format("{} was not judged", option));
  const auto file = lab_.directory() / "again.json";
  CHECK_OK(write_file_durably(file, content, 0644));
  *std::next(at) = file.string();
  return parse_json(TRY(run_child(argv, "", Deadline::in(Millis(120'000)))).out);
}

Result<Json> Trial::report(const Json& checker, const fs::path& directory) {
  CHECK_OK(make_directories(directory, 0755));
  auto report = TRY(parse_json(TRY(lab_.must(lab_.scenario().ops, {"/opt/midstream/bin/midstream", "report", "--json", "/root/move.yaml"}))));
  report["checker"] = checker;
  report["clients"] = checker.value("clients", Json::object());
  const auto markdown = TRY(lab_.must(lab_.scenario().ops, {"/opt/midstream/bin/midstream", "report", "/root/move.yaml"}));
  CHECK_OK(write_file_durably(directory / "report.json", report.dump(2) + "\n", 0644));
  CHECK_OK(write_file_durably(directory / "report.md", markdown, 0644));
  return report;
}

namespace {

std::int64_t number(const Json& object, std::string_view key) { return get_int_or(object, key, 0); }

void print_table(const Json& report) {
  fmt::print("\n{:<10} {:>9} {:>7} {:>14} {:>20} {:>11}\n", "service", "requests", "failed", "longest pause", "downtime", "budget");
  for (const auto& one : report["services"]) {
    const auto down = one.value("downtime_ms", Json::object());
    fmt::print("{:<10} {:>9} {:>7} {:>11} ms {:>17} ms {:>8} ms\n", get_string_or(one, "name", ""), number(one, "requests"), number(one, "failed"),
               number(one, "longest_pause_ms"), fmt::format("{}..{}", number(down, "lower"), number(down, "upper")), number(one, "budget_ms"));
  }
  for (const auto& [kind, one] : report["clients"].items()) {
    if (!one.is_object()) continue;
    fmt::print("{:<10} {:>9} {:>7} {:>11} ms   as {} clients felt it\n", kind, number(one, "requests"), number(one, "failed"), number(one, "longest_pause_ms"), kind);
  }
  std::vector<std::int64_t> blackouts;
  for (const auto& one : report["addresses"]) blackouts.push_back(number(one, "blackout_ms"));
  std::ranges::sort(blackouts);
  if (!blackouts.empty()) {
    fmt::print("{} addresses: blackout median {} ms, worst {} ms\n", blackouts.size(), blackouts[blackouts.size() / 2], blackouts.back());
  }
  const auto& checker = report["checker"];
  const auto acknowledged = checker.value("acknowledged", Json::object());
  fmt::print("checker: {}; {} rows and {} files acknowledged, {} lost, {} doubled, two owners {} ms, two writers {} ms\n", get_string_or(checker, "verdict", ""),
             number(acknowledged, "rows"), number(acknowledged, "files"), number(checker, "lost"), number(checker, "doubled"), number(checker, "two_owners_ms"),
             number(checker, "two_writers_ms"));
  const auto singletons = checker.value("singletons", Json::object());
  fmt::print("singleton: {} runs by {} processes, at the same time {} ms\n", number(singletons, "runs"), number(singletons, "instances"), number(singletons, "overlaps_ms"));
  if (checker.contains("mail")) {
    const auto& mail = checker["mail"];
    fmt::print("mail: {} messages and {} changes of flags and folders acknowledged, {} lost, {} doubled, {} UIDs changed, {} refused, {} from another address\n",
               number(acknowledged, "messages"), number(acknowledged, "flags"), number(mail, "lost"), number(mail, "doubled"), number(mail, "violations"),
               number(mail, "refused"), number(mail, "wrong_source"));
  }
  std::fflush(stdout);
}

Result<int> demo(const TrialSpec& spec, const fs::path& report_directory, bool roll_back) {
  auto trial = TRY(Trial::begin(spec));
  const auto began = boot_now();
  int code = TRY(trial.run({"run", "--yes"}, Millis(600'000)));
  if (code == 0) code = TRY(trial.run(roll_back ? std::vector<std::string>{"rollback"} : std::vector<std::string>{"finish", "--yes"}, Millis(120'000)));
  const auto took = std::chrono::duration_cast<Millis>(boot_now() - began);
  if (code != 0) fmt::print("midstream ended with exit code {}\n", code);
  const auto checker = TRY(trial.judge(roll_back ? "old" : "new", roll_back ? 2 : 1));
  const auto report = TRY(trial.report(checker, report_directory));
  print_table(report);
  fmt::print("the move took {:.1f} s; the report is in {}\n", static_cast<double>(took.count()) / 1000.0, report_directory.string());
  for (const auto& one : checker.value("details", Json::array())) fmt::print("  {}\n", one.is_string() ? one.get<std::string>() : one.dump());
  CHECK_OK(trial.end());
  if (code != 0) return code;
  return get_string_or(checker, "verdict", "") == "pass" ? 0 : 1;
}

}  // namespace

int run_demo(const TrialSpec& spec, const fs::path& report_directory, bool roll_back) {
  const auto code = demo(spec, report_directory, roll_back);
  if (code) return *code;
  fmt::print(stderr, "midstream-lab: {}\n", code.error().text());
  return 1;
}

}  // namespace midstream::lab
