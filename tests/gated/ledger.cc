#include "tests/gated/ledger.h"

#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>

#include "base/text.h"
#include "sys/clock.h"
#include "sys/stream.h"

namespace midstream {

namespace {

constexpr std::int64_t kSpan = 1'000'000'000;  // keys of one client

struct Finish {
  void operator()(PGconn* connection) const { PQfinish(connection); }
};
using Connection = std::unique_ptr<PGconn, Finish>;

Connection connect(int port) {
  const auto info = fmt::format("host=127.0.0.1 port={} user=client dbname=shop password=client-password sslmode=disable connect_timeout=2 application_name=ledger", port);
  Connection made(PQconnectdb(info.c_str()));
  if (PQstatus(made.get()) != CONNECTION_OK) made.reset();
  return made;
}

enum class Told { confirmed, refused, unknown };

// False: no answer, and who waits for it ends.
bool answered(PGconn* connection, const std::stop_token& stop) {
  while (PQisBusy(connection) == 1) {
    if (stop.stop_requested()) return false;
    (void)wait_fd(PQsocket(connection), POLLIN, Deadline::in(Millis(200)), {});
    if (PQconsumeInput(connection) == 0) return true;
  }
  return true;
}

Told order(PGconn* connection, std::int64_t key, const std::stop_token& stop) {
  const auto sql = fmt::format("BEGIN; INSERT INTO public.orders (key, customer, body) VALUES ({0}, {0} % 500 + 1, 'order'); UPDATE public.stock SET sold = sold + 1 WHERE item = {0} % 5 + 1; COMMIT", key);
  if (PQsendQuery(connection, sql.c_str()) != 1) return Told::unknown;
  bool good = true, committed = false;
  for (;;) {
    if (!answered(connection, stop)) return Told::unknown;
    const std::unique_ptr<PGresult, decltype(&PQclear)> result(PQgetResult(connection), &PQclear);
    if (!result) break;
    good = good && PQresultStatus(result.get()) == PGRES_COMMAND_OK;
    committed = committed || std::string_view(PQcmdStatus(result.get())) == "COMMIT";
  }
  // Only a lost connection leaves open whether it was committed.
  if (PQstatus(connection) != CONNECTION_OK) return committed ? Told::confirmed : Told::unknown;
  return good && committed ? Told::confirmed : Told::refused;
}

}  // namespace

Ledger::Ledger(const std::vector<int>& ports) {
  for (const int port : ports) {
    all_.push_back(std::make_unique<One>());
    all_.back()->port = port;
    all_.back()->first = static_cast<std::int64_t>(all_.size()) * kSpan;
  }
  for (const auto& one : all_) threads_.emplace_back([&one = *one](const std::stop_token& stop) { run(one, stop); });
}

void Ledger::run(One& one, const std::stop_token& stop) {
  Connection connection;
  auto last = boot_now();
  for (auto key = one.first; !stop.stop_requested(); pause_for(Millis(10), {})) {
    if (!connection) connection = connect(one.port);
    if (!connection) continue;
    ++key;
    const auto told = order(connection.get(), key, stop);
    const std::lock_guard lock(one.mutex);
    if (told == Told::unknown) one.unknown.insert(key);
    if (told != Told::confirmed) {
      connection.reset();
      continue;
    }
    one.confirmed.insert(key);
    ++one.commits;
    const auto now = boot_now();
    one.longest_ms = std::max<std::int64_t>(one.longest_ms, std::chrono::duration_cast<Millis>(now - last).count());
    last = now;
  }
}

bool Ledger::wait_more(int port, int commits, int within_ms) {
  const auto deadline = Deadline::in(Millis(within_ms));
  std::vector<std::pair<const One*, std::int64_t>> wanted;
  for (const auto& one : all_)
    if (one->port == port) wanted.emplace_back(one.get(), one->commits + commits);
  for (const auto& [one, count] : wanted)
    for (; one->commits < count; pause_for(Millis(5), {}))
      if (deadline.expired()) return false;
  return true;
}

void Ledger::end() {
  for (auto& thread : threads_) thread.request_stop();
  threads_.clear();
}

std::string Ledger::audit(postgres::test::Server& server) const {
  const auto parsed = parse_json(server.sql("shop", "SELECT coalesce(jsonb_agg(key), '[]') FROM orders", true));
  if (!parsed) return "cannot read orders: " + parsed.error().text();
  std::set<std::int64_t> there;
  for (const auto& key : *parsed)
    if (!there.insert(key.get<std::int64_t>()).second) return fmt::format("order {} is there twice", key.dump());
  std::set<std::int64_t> may_be;
  for (const auto& one : all_) {
    const std::lock_guard lock(one->mutex);
    for (const auto key : one->confirmed)
      if (!there.contains(key)) return fmt::format("confirmed order {} is lost", key);
    may_be.insert(one->confirmed.begin(), one->confirmed.end());
    may_be.insert(one->unknown.begin(), one->unknown.end());
  }
  for (const auto key : there)
    if (!may_be.contains(key)) return fmt::format("order {} was refused, but is there", key);
  const auto sold = server.sql("shop", "SELECT sum(sold) FROM stock", true);
  return sold == std::to_string(there.size()) ? "" : fmt::format("{} orders, but {} sold", there.size(), sold);
}

std::size_t Ledger::confirmed() const {
  std::size_t sum = 0;
  for (const auto& one : all_) sum += static_cast<std::size_t>(one->commits);
  return sum;
}

std::int64_t Ledger::longest_ms(int port) const {
  std::int64_t longest = 0;
  for (const auto& one : all_)
    if (one->port == port) longest = std::max(longest, one->longest_ms.load());
  return longest;
}

}  // namespace midstream
