// lab-clients: users of the shop and of its database, who keep a ledger of what they asked for and were told.
#include <poll.h>
#include <sys/signalfd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <thread>

#include "base/json.h"
#include "base/text.h"
#include "lab/workload/lanes.h"
#include "lab/workload/mail_lanes.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream::lab {
namespace {

struct ClientOptions {
  std::string web;
  std::string db;
  std::string mail;
  double mail_rate = 12;
  std::string ledger;
  std::string name = "c";
  std::string stop_file;
  double rate = 60;
  int lanes = 2;
  LaneOptions lane;
};

using Lanes = std::vector<std::unique_ptr<Lane>>;

// `web` and `db` are resolvers of their own, so that one service's slow lookup does not hold up the other.
Result<Lanes> make_lanes(const ClientOptions& options, Ledger& ledger, Resolver& web, Resolver& db, Showcase& showcase) {
  Lanes lanes;
  auto next = options.lane;
  const auto each = [&](auto make) {
    for (int i = 0; i < options.lanes; ++i) {
      lanes.push_back(make());
      ++next.number;
    }
  };
  const int kinds = (options.web.empty() ? 0 : 2) + (options.db.empty() ? 0 : 1);
  if (kinds == 0) return refused("there is nothing to do", "give --web, --db, or both");
  next.interval =
      std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * kinds * options.lanes / options.rate));
  if (!options.web.empty()) {
    const auto url = TRY(parse_http_url(options.web));
    each([&] { return std::make_unique<OrderLane>(ledger, next, web, url); });
    each([&] { return std::make_unique<FileLane>(ledger, next, web, url, showcase); });
  }
  if (!options.db.empty()) {
    const auto host = TRY(conninfo_host(options.db));
    each([&] { return std::make_unique<DatabaseLane>(ledger, next, db, options.db, host); });
  }
  return lanes;
}

// Senders, a mail program for each mailbox, and one that looks by POP3, beside the others and at a pace of their own.
Result<> add_mail_lanes(Lanes& lanes, const ClientOptions& options, Ledger& ledger, const MailWorld& world) {
  if (world.users.empty()) return refused("--mail: there are no users");
  auto next = options.lane;
  next.number = static_cast<int>(lanes.size());
  const auto add = [&]<class Made>(std::unique_ptr<Made> lane) {
    lanes.push_back(std::move(lane));
    ++next.number;
  };
  next.interval = std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * (4.0 + static_cast<double>(world.users.size())) / options.mail_rate));
  for (int i = 0; i < 2; ++i) add(std::make_unique<SendLane>(ledger, next, world, false));
  add(std::make_unique<SendLane>(ledger, next, world, true));
  add(std::make_unique<PopLane>(ledger, next, world));
  for (const auto& user : world.users) add(std::make_unique<MailboxLane>(ledger, next, world, user));
  return {};
}

Result<MailWorld> make_mail_world(const ClientOptions& options, Resolver& mx, Resolver& imap) {
  auto places = TRY(parse_mail_places(options.mail));
  auto users = TRY(read_mail_users(places.users_file));
  return MailWorld{std::move(places), std::move(users), TRY(make_tls_context()), mx, imap};
}

// Until a signal, the stop file, or a lane's error.
void wait_for_end(const ClientOptions& options, int signals, const std::atomic<bool>& broken) {
  while (!broken) {
    pollfd polled{signals, POLLIN, 0};
    if (::poll(&polled, 1, 100) > 0) return;
    if (!options.stop_file.empty() && std::filesystem::exists(options.stop_file)) return;
  }
}

Result<> summarise_to(const ClientOptions& options, const Ledger& ledger) {
  const auto records = TRY(parse_ledger(TRY(read_file(ledger.path(), 1u << 30))));
  const Json summary{
      {"schema", "midstream.lab-clients/1"},
      {"ledger", ledger.path().string()},
      {"prefix", ledger.prefix()},
      {"seconds", records.empty() ? 0 : (records.back().boot_ns - records.front().boot_ns) / 1000000000},
      {"services", to_json(summarise(records))}};
  CHECK_OK(write_file_durably(std::filesystem::path(options.ledger) / "summary.json", summary.dump(2) + "\n",
                              0644));
  std::cout << summary.dump() << std::endl;
  return {};
}

Result<> run_clients(const ClientOptions& options, int signals) {
  if (!is_plain_name(options.name))
    return refused("--name is not a plain name", "use up to 40 of [a-z0-9_-], a letter first");
  const auto ledger = TRY(Ledger::open(options.ledger, options.name));
  Resolver web;
  Resolver db;
  Resolver mx;
  Resolver imap;
  std::optional<MailWorld> world;
  if (!options.mail.empty()) world.emplace(TRY(make_mail_world(options, mx, imap)));
  Showcase showcase;
  auto lanes = TRY(make_lanes(options, *ledger, web, db, showcase));
  if (world) CHECK_OK(add_mail_lanes(lanes, options, *ledger, *world));
  log_info("clients", "{} users, {} operations a second, ledger {}", lanes.size(), options.rate,
           ledger->path().string());
  std::atomic<bool> broken{false};
  {
    std::vector<std::jthread> threads;
    for (const auto& lane : lanes) {
      threads.emplace_back([&](const std::stop_token& stop) {
        if (auto ran = lane->run(stop); !ran) {
          log_line(LogLevel::error, "clients", ran.error().text());
          broken = true;
        }
      });
    }
    wait_for_end(options, signals, broken);
    for (auto& thread : threads) thread.request_stop();
  }
  if (broken)
    return refused("the ledger broke off", "see the lines above; what was written until then is good");
  Record end;
  end.type = RecordType::end;
  CHECK_OK(ledger->sync(TRY(ledger->append(end))));
  return summarise_to(options, *ledger);
}

}  // namespace
}  // namespace midstream::lab

int main(int argc, char** argv) {
  using namespace midstream;
  using namespace midstream::lab;
  ClientOptions options;
  CLI::App app("Users of the shop and of its database, with a ledger.", "lab-clients");
  app.add_option("--web", options.web, "http://NAME[:PORT] of the shop");
  app.add_option("--db", options.db, "libpq connection string of the database, without a password");
  app.add_option("--mail", options.mail, "mx=NAME imap=NAME sink=DOMAIN users=FILE");
  app.add_option("--mail-rate", options.mail_rate, "operations on mail a second, of all its users together")
      ->check(CLI::Range(0.1, 1000.0));
  app.add_option("--ledger", options.ledger, "directory; each run adds a file")->required();
  app.add_option("--name", options.name, "what keys and file names of these clients begin with");
  app.add_option("--rate", options.rate, "operations a second, of all users together")
      ->check(CLI::Range(0.1, 10000.0));
  app.add_option("--lanes", options.lanes, "users of each kind")->check(CLI::Range(1, 64));
  app.add_option("--visit", options.lane.visit, "operations on one connection")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--replace", options.lane.replace_percent, "percent of uploads that replace a file")
      ->check(CLI::Range(0, 100));
  app.add_option("--static", options.lane.statics, "path below /static/ to read; may be given again");
  app.add_option("--stop-file", options.stop_file, "ends when this file appears, as on SIGTERM");
  CLI11_PARSE(app, argc, argv);

  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigaddset(&mask, SIGINT);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  const Fd signals(::signalfd(-1, &mask, SFD_CLOEXEC));
  if (auto ran = run_clients(options, signals.get()); !ran) {
    log_line(LogLevel::error, "clients", ran.error().text());
    return 1;
  }
  return 0;
}
